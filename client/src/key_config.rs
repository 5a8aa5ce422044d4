//! Choosing from a list of OHTTP key configurations (RFC 9458 §3).
//!
//! The library takes the last entry, fails whole on an algorithm that it does not know, and panics
//! when nothing is supported; so the list is read here, and the library gets one configuration with
//! the one suite that every gateway has to offer.

/// X-Wing, a hybrid of X25519 and ML-KEM-768: what is recorded today stays closed to a quantum computer.
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

/// The encodings of the configurations that have our suite, reduced to it: those with X-Wing first, otherwise
/// in their order. Of a list that breaks off, what stands before that.
pub(crate) fn usable(mut list: &[u8]) -> Vec<Vec<u8>> {
    let mut configs = Vec::new();
    while let Some((length, rest)) = list.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((config, next)) = rest.split_at_checked(length) else {
            break;
        };
        configs.extend(reduce(config));
        list = next;
    }
    configs.sort_by_key(|config| !is_x_wing(config));
    configs
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

/// Keeps what another view has too. A view may have more or fewer than the relay (keys rotate, and caches
/// hold them for a while), so what counts is that one is in all of them.
pub(crate) fn agree(
    candidates: &mut Vec<Vec<u8>>,
    other: &[u8],
    view: KeyView,
) -> Result<(), KeyView> {
    let other = usable(other);
    candidates.retain(|config| other.contains(config));
    // The gateway offers X-Wing in every list or in none: who shows less holds it back.
    let has_x_wing = |configs: &[Vec<u8>]| configs.first().is_some_and(|config| is_x_wing(config));
    let downgraded = view == KeyView::Gateway && has_x_wing(&other) && !has_x_wing(candidates);
    if candidates.is_empty() || downgraded {
        return Err(view);
    }
    Ok(())
}

fn reduce(config: &[u8]) -> Option<Vec<u8>> {
    let kem = u16::from_be_bytes(config.get(1..3)?.try_into().ok()?);
    let (key, rest) = config.split_at_checked(1 + 2 + public_key_len(kem)?)?;
    let (length, suites) = rest.split_first_chunk::<2>()?;
    if usize::from(u16::from_be_bytes(*length)) != suites.len() {
        return None;
    }
    suites
        .chunks_exact(4)
        .any(|suite| suite == SUITE)
        .then(|| [key, &[0, 4], &SUITE].concat())
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
        let found = usable(&list);
        let ids: Vec<_> = found.iter().map(|config| config.first()).collect();
        assert_eq!(ids, [Some(&3), Some(&4)]);
        let first = found.first().unwrap();
        assert!(ohttp::ClientRequest::from_encoded_config(first).is_ok());
    }

    #[test]
    fn a_list_without_our_suite_or_a_truncated_one_gives_nothing() {
        assert!(usable(&[]).is_empty());
        assert!(usable(&config(1, 0x0010, &[SUITE])).is_empty());
        let whole = config(1, X25519, &[SUITE]);
        for length in 0..whole.len() {
            assert!(usable(whole.get(..length).unwrap()).is_empty());
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
            let mut candidates = usable(relay);
            agree(&mut candidates, other, KeyView::Mirror).map(|()| candidates)
        };
        for (relay, other, agreed) in [
            (&both, &both, &both),
            (&old, &both, &old),
            (&both, &old, &old),
            (&both, &new, &new),
        ] {
            assert_eq!(left(relay, other).unwrap(), usable(agreed));
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
            let mut candidates = usable(relay);
            agree(&mut candidates, other, view).map(|()| candidates.len())
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
    fn another_key_under_the_same_id_is_another_configuration() {
        let mut candidates = usable(&list(&[(1, 9)]));
        let gateway = list(&[(1, 7), (2, 9)]);
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
