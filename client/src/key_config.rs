//! Choosing from a list of OHTTP key configurations (RFC 9458 §3).
//!
//! The library takes the last entry, fails whole on an algorithm that it does not know, and panics
//! when nothing is supported; so the list is read here, and the library gets one configuration with
//! the one suite that every gateway has to offer.

/// X-Wing, a hybrid of X25519 and ML-KEM-768: what is recorded today stays closed to a quantum
/// computer.
const X_WING: u16 = 0x647a;
/// DHKEM(X25519, HKDF-SHA256).
const X25519: u16 = 0x0020;
/// HKDF-SHA256 with AES-128-GCM.
const SUITE: [u8; 4] = [0x00, 0x01, 0x00, 0x01];

/// The length of a KEM's public key, if we have that KEM.
fn public_key_len(kem: u16) -> Option<usize> {
    match kem {
        X_WING => Some(1216),
        X25519 => Some(32),
        _ => None,
    }
}

/// Configurations that a list may have: two generations, of three KEMs each. Whoever shows all its
/// clients two hundred keys can have each of them use one that nobody else uses.
const MAX_CONFIGS: usize = 6;

/// A list is not used. It is discarded whole (RFC 9458 §3.2): whoever made use of a part of it
/// would be known by which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It is not encoded as it must be.
    Malformed,
    /// It has more keys than a rotation needs.
    TooMany,
}

/// The encodings of the configurations that have our suite, reduced to it: those with X-Wing first,
/// otherwise in their order. Configurations with other algorithms are passed over.
pub(crate) fn usable(mut list: &[u8]) -> Result<Vec<Vec<u8>>, Unusable> {
    let mut configs = Vec::new();
    let mut listed = 0;
    while !list.is_empty() {
        let (length, rest) = list.split_first_chunk::<2>().ok_or(Unusable::Malformed)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (config, next) = rest.split_at_checked(length).ok_or(Unusable::Malformed)?;
        listed += 1;
        if listed > MAX_CONFIGS {
            return Err(Unusable::TooMany);
        }
        configs.extend(reduce(config)?);
        list = next;
    }
    configs.sort_by_key(|config| !is_x_wing(config));
    Ok(configs)
}

fn is_x_wing(config: &[u8]) -> bool {
    config.get(1..3) == Some(&X_WING.to_be_bytes())
}

/// Whose answer to the question what the gateway's key configurations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyView {
    /// A mirror that is reached without the relay.
    Mirror,
    /// The gateway itself, asked through the relay under the key that the relay showed.
    Gateway,
}

impl std::fmt::Display for KeyView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mirror => "an independent mirror",
            Self::Gateway => "the gateway itself",
        })
    }
}

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

/// `None`: not ours. How long the key of a KEM is that we don't have is not known, so that nothing
/// else of its configuration can be.
fn reduce(config: &[u8]) -> Result<Option<Vec<u8>>, Unusable> {
    let (_, rest) = config.split_first().ok_or(Unusable::Malformed)?;
    let (kem, _) = rest.split_first_chunk::<2>().ok_or(Unusable::Malformed)?;
    let Some(public_key_len) = public_key_len(u16::from_be_bytes(*kem)) else {
        return Ok(None);
    };
    let (key, rest) = config
        .split_at_checked(1 + 2 + public_key_len)
        .ok_or(Unusable::Malformed)?;
    let (length, suites) = rest.split_first_chunk::<2>().ok_or(Unusable::Malformed)?;
    let is_whole = usize::from(u16::from_be_bytes(*length)) == suites.len();
    if !is_whole || suites.is_empty() || !suites.len().is_multiple_of(4) {
        return Err(Unusable::Malformed);
    }
    let has_ours = suites.chunks_exact(4).any(|suite| suite == SUITE);
    Ok(has_ours.then(|| [key, &[0, 4], &SUITE].concat()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(id: u8, kem: u16, suites: &[[u8; 4]]) -> Vec<u8> {
        let mut config = vec![id];
        config.extend(kem.to_be_bytes());
        config.extend(vec![9; public_key_len(kem).unwrap_or(32)]);
        config.extend(u16::try_from(suites.len() * 4).unwrap().to_be_bytes());
        config.extend(suites.concat());
        [
            &u16::try_from(config.len()).unwrap().to_be_bytes()[..],
            &config,
        ]
        .concat()
    }

    #[test]
    fn configurations_with_our_suite_are_taken_in_order_and_others_do_not_disturb() {
        let unknown = [0x00, 0x77, 0x00, 0x78];
        let list = [
            config(1, 0x0010, &[SUITE]),
            config(2, X25519, &[unknown]),
            config(3, X25519, &[unknown, SUITE]),
            config(4, X25519, &[SUITE]),
        ]
        .concat();
        let found = usable(&list).unwrap();
        let ids: Vec<_> = found.iter().map(|config| config.first()).collect();
        assert_eq!(ids, [Some(&3), Some(&4)]);
        let first = found.first().unwrap();
        assert!(ohttp::ClientRequest::from_encoded_config(first).is_ok());
    }

    #[test]
    fn of_a_list_that_is_wrong_anywhere_nothing_is_used() {
        assert_eq!(usable(&[]), Ok(Vec::new()));
        assert_eq!(usable(&config(1, 0x0010, &[SUITE])), Ok(Vec::new()));
        let first = config(1, X25519, &[SUITE]);
        let whole = [first.clone(), config(2, X25519, &[SUITE])].concat();
        for length in 1..whole.len() {
            let part = usable(whole.get(..length).unwrap());
            assert_eq!(part.is_ok(), length == first.len(), "{length}");
        }
        let wrong = |bytes: &[u8]| {
            let entry = [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
            assert_eq!(
                usable(&[first.clone(), entry].concat()),
                Err(Unusable::Malformed)
            );
        };
        wrong(&[]);
        wrong(&[1, 0]);
        wrong(&[&[1, 0, 0x20][..], &[9; 31]].concat());
        // No suites, half of one, and more than it says.
        for suites in [&[0, 0][..], &[0, 2, 0, 1], &[0, 4, 0, 1, 0, 1, 0]] {
            wrong(&[&[1, 0, 0x20][..], &[9; 32], suites].concat());
        }
    }

    fn list(keys: &[(u8, u8)]) -> Vec<u8> {
        let configs = keys.iter().map(|(id, key)| {
            let mut config = config(*id, X25519, &[SUITE]);
            config.splice(5..5 + 32, [*key; 32]);
            config
        });
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
    fn x_wing_is_preferred_wherever_it_stands_in_the_list() {
        let list = [
            config(4, X25519, &[SUITE]),
            config(3, X_WING, &[SUITE]),
            config(2, X25519, &[SUITE]),
            config(1, X_WING, &[SUITE]),
        ];
        let ids: Vec<_> = usable(&list.concat())
            .unwrap()
            .iter()
            .map(|config| *config.first().unwrap())
            .collect();
        assert_eq!(ids, [3, 1, 4, 2]);
    }

    #[test]
    fn a_relay_that_holds_x_wing_back_is_noticed_when_the_gateway_is_asked() {
        let classic = config(2, X25519, &[SUITE]);
        let both = [config(1, X_WING, &[SUITE]), classic.clone()].concat();
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
    fn a_list_with_more_keys_than_a_rotation_needs_is_refused_whole() {
        let keys: Vec<_> = (0..200).map(|number| (number, number)).collect();
        assert_eq!(
            usable(&list(&keys[..6])).map(|configs| configs.len()),
            Ok(6)
        );
        assert_eq!(usable(&list(&keys[..7])), Err(Unusable::TooMany));
        assert_eq!(usable(&list(&keys)), Err(Unusable::TooMany));
        // Those that are not ours count too.
        let foreign = config(1, 0x0010, &[SUITE]).repeat(7);
        assert_eq!(usable(&foreign), Err(Unusable::TooMany));
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

    proptest! {
        #[test]
        fn no_list_makes_the_choice_panic(list: Vec<u8>) {
            let _ = usable(&list);
        }
    }
}
