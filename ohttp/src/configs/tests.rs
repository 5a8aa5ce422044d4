#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const X_WING: u16 = 0x647a;
const X25519: u16 = 0x0020;
const P256: u16 = 0x0010;

fn config(id: u8, kem: u16, suites: &[[u8; 4]]) -> Vec<u8> {
    let mut config = vec![id];
    config.extend(kem.to_be_bytes());
    config.extend(vec![9; Kem::from_id(kem).map_or(32, Kem::public_key_len)]);
    config.extend(u16::try_from(suites.len() * 4).unwrap().to_be_bytes());
    config.extend(suites.concat());
    [
        &u16::try_from(config.len()).unwrap().to_be_bytes()[..],
        &config,
    ]
    .concat()
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
fn configurations_with_our_suite_are_taken_in_order_and_others_do_not_disturb() {
    let unknown = [0x00, 0x77, 0x00, 0x78];
    let list = [
        config(1, P256, &[SUITE]),
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
    assert_eq!(usable(&config(1, P256, &[SUITE])), Ok(Vec::new()));
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
fn a_list_with_more_keys_than_a_rotation_needs_is_refused_whole() {
    let keys: Vec<_> = (0..200).map(|number| (number, number)).collect();
    assert_eq!(
        usable(&list(&keys[..6])).map(|configs| configs.len()),
        Ok(6)
    );
    assert_eq!(usable(&list(&keys[..7])), Err(Unusable::TooMany));
    assert_eq!(usable(&list(&keys)), Err(Unusable::TooMany));
    // Those that are not ours count too.
    let foreign = config(1, P256, &[SUITE]).repeat(7);
    assert_eq!(usable(&foreign), Err(Unusable::TooMany));
}

proptest! {
    #[test]
    fn no_list_makes_the_choice_panic(list: Vec<u8>) {
        let _ = usable(&list);
    }
}
