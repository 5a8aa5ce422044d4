//! The example in the appendix of draft-ietf-ohai-chunked-ohttp-08, in both directions.
#![allow(clippy::unwrap_used)]

use hpke_rs::hpke_types::{KemAlgorithm, TwoStageKdfAlgorithm};
use hpke_rs_crypto::HpkeCrypto;
use zeroize::Zeroizing;

use crate::chunked::{RequestDecoder, RequestEncoder, ResponseDecoder, ResponseEncoder};
use crate::engine::{AwsLc, hpke};
use crate::kem::PrivateKey;
use crate::response_key;
use crate::session::{Kind, ResponseSecret, Session};
use crate::suite::Header;
use crate::{Aead, Kem, Key};

const PRIVATE_KEY: &str = "1c190d72acdbe4dbc69e680503bb781a932c70a12c8f3754434c67d8640d8698";
const PUBLIC_KEY: &str = "668eb21aace159803974a4c67f08b4152d29bed10735fd08f98ccdd6fe095708";
const REQUEST: &str = "00034745540568747470730b6578616d706c652e636f6d012f";
const EPHEMERAL_KEY: &str = "b26d565f3f875ed480d1abced3d665159650c99174fd0b124ac4bda0c64ae324";
const ENCAPSULATED_KEY: &str = "8811eb457e100811c40a0aa71340a1b81d804bb986f736f2f566a7199761a032";
const INFO: &str = "6d6573736167652f6268747470206368756e6b6564207265717565737400010020\
                    00010001";
const ENCAPSULATED_REQUEST: &str = "01002000010001\
    8811eb457e100811c40a0aa71340a1b81d804bb986f736f2f566a7199761a032\
    1c2ad24942d4d692563012f2980c8fef437a336b9b2fc938ef77a5834f\
    1d2e33d8fd25577afe31bd1c79d094f76b6250ae6549b473ecd950501311\
    001c6c1395d0ef7c1022297966307b8a7f";
const RESPONSE: &str = "0140c8";
const SECRET: &str = "1d4484834ae36102a6ac42a5523454d9";
const RESPONSE_NONCE: &str = "bcce7f4cb921309ba5d62edf1769ef09";
const RESPONSE_KEY: &str = "8209f78f2a1610d80c7125009b00aff0";
const BASE_NONCE: &str = "fead854635d2d5527d64f546";
const ENCAPSULATED_RESPONSE: &str = "bcce7f4cb921309ba5d62edf1769ef09\
    1179bf1cc87fa0e2c02de4546945aa3d1e48\
    12b348b5bd4c594c16b6170b07b475845d1f32\
    00ed9d8a796617a5b27265f4d73247f639";

const HEADER: Header = Header {
    key_id: 1,
    kem: Kem::X25519,
    aead: Aead::Aes128Gcm,
};

fn hex(text: &str) -> Vec<u8> {
    basis::hex::decode(text).unwrap()
}

fn secret() -> ResponseSecret {
    let secret = Zeroizing::new(hex(SECRET));
    ResponseSecret::new(Aead::Aes128Gcm, secret, hex(ENCAPSULATED_KEY))
}

/// `Encap` with the ephemeral key of the example (RFC 9180 §4.1).
fn shared_secret() -> Vec<u8> {
    let (kem, kdf) = (KemAlgorithm::DhKem25519, TwoStageKdfAlgorithm::HkdfSha256);
    let dh = AwsLc::dh(kem, &hex(PUBLIC_KEY), &hex(EPHEMERAL_KEY)).unwrap();
    let suite = b"KEM\x00\x20";
    let ikm = [b"HPKE-v1", &suite[..], b"eae_prk", &dh].concat();
    let prk = AwsLc::kdf_extract(kdf, b"", &ikm).unwrap();
    let context = [hex(ENCAPSULATED_KEY), hex(PUBLIC_KEY)].concat();
    let info = [b"\x00\x20HPKE-v1", &suite[..], b"shared_secret", &context].concat();
    AwsLc::kdf_expand(kdf, &prk, &info, 32).unwrap()
}

#[test]
fn a_client_makes_the_request_of_the_example() {
    assert_eq!(Kind::Chunked.info(HEADER), hex(INFO));
    let context = hpke(HEADER.kem, HEADER.aead)
        .unwrap()
        .key_schedule(&shared_secret(), &hex(INFO), &[], &[])
        .unwrap();
    let session = Session::new(Kind::Chunked, HEADER, hex(ENCAPSULATED_KEY), context);
    let mut encoder = RequestEncoder::of(session);
    let (request, mut out) = (hex(REQUEST), Vec::new());
    encoder.push(&request[..12], &mut out).unwrap();
    encoder.push(&request[12..], &mut out).unwrap();
    let mut response = encoder.finish(b"", &mut out).unwrap();
    assert_eq!(out, hex(ENCAPSULATED_REQUEST));
    // And reads the response of the example with what it exported.
    let mut opened = Vec::new();
    let encapsulated = hex(ENCAPSULATED_RESPONSE);
    response.push(&encapsulated, &mut opened).unwrap();
    response.finish(&mut opened).unwrap();
    assert_eq!(opened, hex(RESPONSE));
}

#[test]
fn a_gateway_opens_the_request_of_the_example() {
    let private = hex(PRIVATE_KEY).try_into().unwrap();
    let private = PrivateKey::of_curve(Kem::X25519, &private).unwrap();
    assert_eq!(private.public(), hex(PUBLIC_KEY));
    let key = Key::new(1, private).unwrap();
    let mut decoder = RequestDecoder::new(&key);
    let mut out = Vec::new();
    decoder.push(&hex(ENCAPSULATED_REQUEST), &mut out).unwrap();
    let opened = decoder.finish(&mut out).unwrap();
    assert_eq!(out, hex(REQUEST));
    assert_eq!(
        (opened.key_id, opened.encapsulated_key),
        (1, hex(ENCAPSULATED_KEY))
    );
}

#[test]
fn a_gateway_makes_the_response_of_the_example() {
    let nonce = hex(RESPONSE_NONCE);
    let enc = hex(ENCAPSULATED_KEY);
    let (key, base) = response_key::derive(Aead::Aes128Gcm, &hex(SECRET), &enc, &nonce).unwrap();
    assert_eq!(
        (&*key, &base[..]),
        (&hex(RESPONSE_KEY), &hex(BASE_NONCE)[..])
    );
    let mut encoder = ResponseEncoder::with_nonce(&secret(), nonce).unwrap();
    let (response, mut out) = (hex(RESPONSE), Vec::new());
    encoder.push(&response[..1], &mut out).unwrap();
    encoder.push(&response[1..], &mut out).unwrap();
    encoder.finish(b"", &mut out).unwrap();
    assert_eq!(out, hex(ENCAPSULATED_RESPONSE));
}

#[test]
fn a_client_opens_the_response_of_the_example() {
    let mut decoder = ResponseDecoder::new(secret());
    let mut out = Vec::new();
    for byte in hex(ENCAPSULATED_RESPONSE) {
        decoder.push(&[byte], &mut out).unwrap();
    }
    decoder.finish(&mut out).unwrap();
    assert_eq!(out, hex(RESPONSE));
}
