//! Holding the gateway's key configurations against others' views of them.

use oblivious::configs::is_x_wing;

use crate::key_view::KeyView;

/// Keeps what another view has too. A view may have more or fewer than the others (keys rotate, and
/// caches hold them for a while), so what counts is that one is in all of them. The gateway is
/// asked last and chooses nothing: the first one is in its list, or none is used.
pub(crate) fn agree(
    candidates: &mut Vec<Vec<u8>>,
    other: &[Vec<u8>],
    view: KeyView,
) -> Result<(), KeyView> {
    match view {
        KeyView::Mirror => candidates.retain(|config| other.contains(config)),
        KeyView::Gateway
            if candidates
                .first()
                .is_some_and(|first| !other.contains(first)) =>
        {
            candidates.clear();
        }
        KeyView::Gateway => {}
    }
    // The gateway offers X-Wing in every list or in none: who shows less holds it back.
    let has_x_wing = |configs: &[Vec<u8>]| configs.first().is_some_and(|config| is_x_wing(config));
    let downgraded = view == KeyView::Gateway && has_x_wing(other) && !has_x_wing(candidates);
    if candidates.is_empty() || downgraded {
        return Err(view);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oblivious::Kem;
    use oblivious::configs::usable;

    use super::*;

    const SUITE: [u8; 4] = [0x00, 0x01, 0x00, 0x01];

    fn config(id: u8, kem: Kem, key: u8) -> Vec<u8> {
        let mut config = vec![id];
        config.extend(kem.id().to_be_bytes());
        config.extend(vec![key; kem.public_key_len()]);
        config.extend([0, 4]);
        config.extend(SUITE);
        oblivious::configs::list([&config[..]])
    }

    fn list(keys: &[(u8, u8)]) -> Vec<u8> {
        let configs = keys.iter().map(|(id, key)| config(*id, Kem::X25519, *key));
        configs.flatten().collect()
    }

    #[test]
    fn views_agree_on_a_key_that_is_in_all_of_them_also_amid_a_rotation() {
        let (old, both, new) = (list(&[(1, 7)]), list(&[(2, 8), (1, 7)]), list(&[(2, 8)]));
        let left = |relay: &[u8], other: &[u8]| {
            let mut candidates = usable(relay).unwrap();
            let other = usable(other).unwrap();
            agree(&mut candidates, &other, KeyView::Mirror).map(|()| candidates)
        };
        for (relay, other, agreed) in [
            (&both, &both, &both),
            (&old, &both, &old),
            (&both, &old, &old),
            (&both, &new, &new),
        ] {
            assert_eq!(left(relay, other).unwrap(), usable(agreed).unwrap());
        }
        assert_eq!(left(&old, &new), Err(KeyView::Mirror));
    }

    #[test]
    fn a_relay_that_holds_x_wing_back_is_noticed_when_the_gateway_is_asked() {
        let classic = config(2, Kem::X25519, 9);
        let both = [config(1, Kem::XWing, 9), classic.clone()].concat();
        let left = |relay: &[u8], other: &[u8], view| {
            let mut candidates = usable(relay).unwrap();
            let other = usable(other).unwrap();
            agree(&mut candidates, &other, view).map(|()| candidates.len())
        };
        assert_eq!(
            left(&classic, &both, KeyView::Gateway),
            Err(KeyView::Gateway)
        );
        assert_eq!(left(&both, &both, KeyView::Gateway), Ok(2));
        // A gateway without it, and a mirror that is behind.
        assert_eq!(left(&classic, &classic, KeyView::Gateway), Ok(1));
        assert_eq!(left(&both, &classic, KeyView::Mirror), Ok(1));
    }

    #[test]
    fn the_gateway_cannot_choose_for_one_client_among_the_keys_that_all_are_shown() {
        let shown = list(&[(1, 7), (2, 8), (3, 9)]);
        for chosen in [2, 3] {
            let mut candidates = usable(&shown).unwrap();
            let own = usable(&list(&[(chosen, chosen + 6)])).unwrap();
            assert_eq!(
                agree(&mut candidates, &own, KeyView::Gateway),
                Err(KeyView::Gateway)
            );
        }
    }

    #[test]
    fn another_key_under_the_same_id_is_another_configuration() {
        let mut candidates = usable(&list(&[(1, 9)])).unwrap();
        let gateway = usable(&list(&[(1, 7), (2, 9)])).unwrap();
        assert_eq!(
            agree(&mut candidates, &gateway, KeyView::Gateway),
            Err(KeyView::Gateway)
        );
    }
}
