//! Against the RFC's own example, and against another implementation in both directions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use ohttp::hpke::{Aead as OtherAead, Kdf, Kem as OtherKem};
use ohttp::{ClientRequest, KeyConfig, Server, SymmetricSuite};
use proptest::prelude::*;

use super::*;
use crate::kem::PrivateKey;
use crate::{Header, Kem, Key, KeyError, configs};

/// RFC 9458 Appendix A.
mod example {
    pub(super) const PRIVATE: &str =
        "3c168975674b2fa8e465970b79c8dcf09f1c741626480bd4c6162fc5b6a98e1a";
    pub(super) const CONFIG: &str = "01002031e1f05a740102115220e9af918f738674aec95f54db6e04eb705aae8e79815500080001000100010003";
    pub(super) const REQUEST: &str = "00034745540568747470730b6578616d706c652e636f6d012f";
    pub(super) const ENCAPSULATED_REQUEST: &str = "010020000100014b28f881333e7c164ffc499ad9796f877f4e1051ee6d31bad19dec96c208b4726374e469135906992e1268c594d2a10c695d858c40a026e7965e7d86b83dd440b2c0185204b4d63525";
    pub(super) const SECRET: &str = "62d87a6ba569ee81014c2641f52bea36";
    pub(super) const RESPONSE_NONCE: &str = "c789e7151fcba46158ca84b04464910d";
    pub(super) const RESPONSE: &str = "0140c8";
    pub(super) const ENCAPSULATED_RESPONSE: &str =
        "c789e7151fcba46158ca84b04464910d86f9013e404feea014e7be4a441f234f857fbd";
}

fn hex(text: &str) -> Vec<u8> {
    basis::hex::decode(text).unwrap()
}

#[test]
fn the_example_of_rfc_9458_is_opened_and_answered_to_the_byte() {
    let private = hex(example::PRIVATE).try_into().unwrap();
    let key = Key::new(1, PrivateKey::of_curve(Kem::X25519, &private).unwrap()).unwrap();
    assert_eq!(key.config(), hex(example::CONFIG));
    let opened = open(&key, &hex(example::ENCAPSULATED_REQUEST)).unwrap();
    assert_eq!(opened.request, hex(example::REQUEST));
    assert_eq!(*opened.response.0.secret, hex(example::SECRET));
    let sealed = opened
        .response
        .seal_with(hex(example::RESPONSE_NONCE), &hex(example::RESPONSE));
    assert_eq!(sealed.unwrap(), hex(example::ENCAPSULATED_RESPONSE));
}

#[test]
fn requests_of_other_implementations_are_opened_and_answered_under_their_clients_secrets() {
    let recorded = include_str!("../../tests/vectors/other_clients.json");
    let recorded: serde_json::Value = serde_json::from_str(recorded).unwrap();
    let mut kems = std::collections::BTreeSet::new();
    for request in recorded["requests"].as_array().unwrap() {
        if request["chunked"] == true {
            continue;
        }
        let bytes = |member: &str| hex(request[member].as_str().unwrap());
        let kem = match request["kem"].as_str() {
            Some("x-wing") => Kem::XWing,
            Some("x25519") => Kem::X25519,
            _ => Kem::P256,
        };
        let id = request["key_id"].as_u64().unwrap().try_into().unwrap();
        let key = Key::derive(id, kem, &bytes("seed")).unwrap();
        let opened = open(&key, &bytes("request")).unwrap();
        assert_eq!(opened.request, bytes("plaintext"), "{request}");
        assert_eq!(*opened.response.0.secret, bytes("secret"), "{request}");
        kems.insert(kem);
    }
    assert_eq!(kems.len(), 3);
}

const SUITES: [SymmetricSuite; 2] = [
    SymmetricSuite::new(Kdf::HkdfSha256, OtherAead::Aes128Gcm),
    SymmetricSuite::new(Kdf::HkdfSha256, OtherAead::ChaCha20Poly1305),
];

fn other(id: u8, kem: Kem, suites: &[SymmetricSuite], seed: &[u8]) -> KeyConfig {
    let kem = match kem {
        Kem::XWing => OtherKem::XWing,
        Kem::X25519 => OtherKem::X25519Sha256,
        Kem::P256 => OtherKem::P256Sha256,
    };
    KeyConfig::derive(id, kem, suites.to_vec(), seed).unwrap()
}

fn kems() -> impl Strategy<Value = Kem> {
    prop_oneof![Just(Kem::XWing), Just(Kem::X25519), Just(Kem::P256)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_seed_gives_the_configuration_that_another_implementation_derives(
        id: u8, kem in kems(), seed: [u8; 32],
    ) {
        let ours = Key::derive(id, kem, &seed).unwrap();
        prop_assert_eq!(ours.config(), other(id, kem, &SUITES, &seed).encode().unwrap());
    }

    #[test]
    fn a_request_opens_to_the_same_here_and_there_and_its_client_reads_our_response(
        id: u8,
        kem in kems(),
        suite in 0usize..2,
        seed: [u8; 32],
        request in proptest::collection::vec(any::<u8>(), 1..300),
        response in proptest::collection::vec(any::<u8>(), 1..300),
    ) {
        let config = other(id, kem, &SUITES[suite..=suite], &seed);
        let client = ClientRequest::from_encoded_config(&config.encode().unwrap()).unwrap();
        let (encapsulated, answer) = client.encapsulate(&request).unwrap();
        let there = Server::new(config).unwrap().decapsulate(&encapsulated).unwrap().0;
        let opened = open(&Key::derive(id, kem, &seed).unwrap(), &encapsulated).unwrap();
        prop_assert_eq!(&opened.request, &request);
        prop_assert_eq!(there, request);
        let sealed = opened.response.seal(&response).unwrap();
        prop_assert_eq!(answer.decapsulate(&sealed).unwrap(), response);
    }

    #[test]
    fn our_request_opens_to_the_same_here_and_there_and_we_read_both_responses(
        id: u8,
        kem in kems(),
        suite in 0usize..2,
        seed: [u8; 32],
        request in proptest::collection::vec(any::<u8>(), 1..300),
        response in proptest::collection::vec(any::<u8>(), 1..300),
    ) {
        let key = Key::derive(id, kem, &seed).unwrap();
        let server = Server::new(other(id, kem, &SUITES[suite..=suite], &seed)).unwrap();
        let (encapsulated, answer) = seal(key.public(), Aead::ALL[suite], &request).unwrap();
        let (there, sealer) = server.decapsulate(&encapsulated).unwrap();
        prop_assert_eq!(&there, &request);
        prop_assert_eq!(answer.open(&sealer.encapsulate(&response).unwrap()).unwrap(), &response[..]);

        let (encapsulated, answer) = seal(key.public(), Aead::ALL[suite], &request).unwrap();
        let opened = open(&key, &encapsulated).unwrap();
        prop_assert_eq!(opened.request, request);
        prop_assert_eq!(answer.open(&opened.response.seal(&response).unwrap()).unwrap(), response);
    }

    #[test]
    fn a_response_that_was_changed_or_shortened_or_is_anothers_is_not_opened(
        at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index,
    ) {
        let key = Key::derive(7, Kem::X25519, &[5; 32]).unwrap();
        let exchange = || {
            let (encapsulated, answer) = seal(key.public(), Aead::Aes128Gcm, b"request").unwrap();
            let sealer = open(&key, &encapsulated).unwrap().response;
            (answer, sealer.seal(b"response").unwrap())
        };
        let (answer, mut changed) = exchange();
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        prop_assert_eq!(answer.open(&changed), Err(OpenError::CannotOpen));
        let (answer, sealed) = exchange();
        prop_assert!(answer.open(&sealed[..cut.index(sealed.len())]).is_err());
        prop_assert_eq!(exchange().0.open(&sealed), Err(OpenError::CannotOpen));
    }

    #[test]
    fn a_changed_or_shortened_request_is_not_opened(
        kem in kems(), at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index,
    ) {
        let key = Key::derive(7, kem, &[5; 32]).unwrap();
        let client = ClientRequest::from_encoded_config(key.config()).unwrap();
        let (encapsulated, _) = client.encapsulate(b"request").unwrap();
        let mut changed = encapsulated.clone();
        changed[at.index(encapsulated.len())] ^= 1 << bit;
        prop_assert!(open(&key, &changed).is_err());
        prop_assert!(open(&key, &encapsulated[..cut.index(encapsulated.len())]).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(
        kem in kems(),
        aead in 0u8..5,
        whole_header: bool,
        rest in proptest::collection::vec(any::<u8>(), 0..1400),
    ) {
        let key = Key::derive(7, kem, &[5; 32]).unwrap();
        let mut bytes = Vec::new();
        if whole_header {
            bytes.push(7);
            bytes.extend(kem.id().to_be_bytes());
            bytes.extend([0, 1, 0, aead]);
        }
        bytes.extend(rest);
        prop_assert!(open(&key, &bytes).is_err());
    }
}

#[test]
fn a_point_of_small_order_or_of_no_curve_is_refused() {
    for kem in [Kem::X25519, Kem::XWing, Kem::P256] {
        let key = Key::derive(7, kem, &[5; 32]).unwrap();
        let aead = Aead::Aes128Gcm;
        let header = Header {
            key_id: 7,
            kem,
            aead,
        }
        .encode();
        let request = [&header[..], &vec![0; kem.encapsulated_key_len() + 100]].concat();
        assert_eq!(open(&key, &request).err(), Some(OpenError::CannotOpen));
    }
}

#[test]
fn a_short_seed_is_refused() {
    assert_eq!(
        Key::derive(1, Kem::X25519, &[0; 31]).err(),
        Some(KeyError::ShortSeed)
    );
}

#[test]
fn a_key_says_nothing_of_itself_in_debug_output_but_its_id_and_kem() {
    let key = Key::derive(1, Kem::XWing, &[1; 32]).unwrap();
    assert_eq!(format!("{key:?}"), "Key { id: 1, kem: XWing, .. }");
}

#[test]
fn a_configuration_is_sealed_to_as_it_comes_out_of_a_list() {
    for kem in [Kem::X25519, Kem::XWing] {
        let key = Key::derive(7, kem, &[5; 32]).unwrap();
        let list = configs::list([key.config()]);
        let usable = configs::usable(&list).unwrap();
        let public = PublicKey::of_config(&usable[0]).unwrap();
        assert_eq!(&public, key.public());
    }
    let p256 = Key::derive(7, Kem::P256, &[5; 32]).unwrap();
    assert_eq!(PublicKey::of_config(p256.config()), None);
    assert_eq!(PublicKey::of_config(&[]), None);
}
