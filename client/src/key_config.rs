//! Choosing from a list of OHTTP key configurations (RFC 9458 §3).
//!
//! The library takes the last entry, fails whole on an algorithm that it does not know, and panics
//! when nothing is supported; so the list is read here, and the library gets one configuration with
//! the one suite that every gateway has to offer.

/// DHKEM(X25519, HKDF-SHA256).
const KEM: u16 = 0x0020;
/// HKDF-SHA256 with AES-128-GCM.
const SUITE: [u8; 4] = [0x00, 0x01, 0x00, 0x01];
const PUBLIC_KEY: usize = 32;

/// The encoding of the first configuration that has our suite, reduced to it.
pub(crate) fn choose(mut list: &[u8]) -> Option<Vec<u8>> {
    while let Some((length, rest)) = list.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (config, next) = rest.split_at_checked(length)?;
        if let Some(chosen) = reduce(config) {
            return Some(chosen);
        }
        list = next;
    }
    None
}

fn reduce(config: &[u8]) -> Option<Vec<u8>> {
    let (key, rest) = config.split_at_checked(1 + 2 + PUBLIC_KEY)?;
    if key.get(1..3)? != KEM.to_be_bytes() {
        return None;
    }
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
        config.extend([9; PUBLIC_KEY]);
        config.extend(u16::try_from(suites.len() * 4).unwrap().to_be_bytes());
        config.extend(suites.concat());
        [
            &u16::try_from(config.len()).unwrap().to_be_bytes()[..],
            &config,
        ]
        .concat()
    }

    #[test]
    fn the_first_configuration_with_our_suite_is_taken_and_others_do_not_disturb() {
        let unknown = [0x00, 0x77, 0x00, 0x78];
        let list = [
            config(1, 0x0010, &[SUITE]),
            config(2, KEM, &[unknown]),
            config(3, KEM, &[unknown, SUITE]),
            config(4, KEM, &[SUITE]),
        ]
        .concat();
        let chosen = choose(&list).unwrap();
        assert_eq!(chosen.first(), Some(&3));
        assert!(ohttp::ClientRequest::from_encoded_config(&chosen).is_ok());
    }

    #[test]
    fn a_list_without_our_suite_or_a_truncated_one_gives_nothing() {
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&config(1, 0x0010, &[SUITE])), None);
        let whole = config(1, KEM, &[SUITE]);
        for length in 0..whole.len() {
            assert_eq!(choose(whole.get(..length).unwrap()), None);
        }
    }

    proptest! {
        #[test]
        fn no_list_makes_the_choice_panic(list: Vec<u8>) {
            let _ = choose(&list);
        }
    }
}
