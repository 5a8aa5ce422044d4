//! The vectors of RFC 9578 Appendix B.2 (type 0x0002). Those of RFC 9474 are for a key of 4096
//! bits, which no token key of this type can be.

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use privacy_pass_issuer::token_keys::TokenKey;
use privacy_pass_issuer::token_request::{TokenRequest, batch_from_bytes, batch_response};
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::generic_tokens::GenericBatchTokenResponse;
use privacypass::public_tokens::PublicToken;
use privacypass::{Deserialize as _, Serialize as _};
use serde_json::Value;

struct Vectors {
    key: TokenKey,
    public_key: Vec<u8>,
    vectors: Vec<Value>,
}

fn unhex(value: &Value) -> Vec<u8> {
    service::hex::decode(value.as_str().unwrap()).unwrap()
}

fn vectors() -> Vectors {
    let mut document: Value = serde_json::from_str(include_str!("rfc9578.json")).unwrap();
    let pem = document["private_key_pem"].as_str().unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    Vectors {
        key: TokenKey::from_pkcs8(&STANDARD.decode(body).unwrap(), 0).unwrap(),
        public_key: unhex(&document["public_key"]),
        vectors: std::mem::take(document["vectors"].as_array_mut().unwrap()),
    }
}

#[test]
fn requests_and_answers_are_those_of_the_standard() {
    let Vectors {
        key,
        public_key,
        vectors,
    } = vectors();
    assert_eq!(key.spki(), public_key);
    assert_eq!(vectors.len(), 2);
    for vector in &vectors {
        let request = TokenRequest::from_bytes(&unhex(&vector["token_request"])).unwrap();
        assert_eq!(request.truncated_token_key_id(), key.truncated_id());
        assert!(key.accepts(&request));
        let response = key.blind_sign(&request).unwrap();
        assert_eq!(response.as_slice(), unhex(&vector["token_response"]));
    }
}

#[test]
fn tokens_are_those_of_the_standard() {
    let Vectors { key, vectors, .. } = vectors();
    for vector in &vectors {
        let bytes = unhex(&vector["token"]);
        let token = PublicToken::tls_deserialize_exact(&bytes).unwrap();
        assert_eq!(token.nonce().to_vec(), unhex(&vector["nonce"]));
        assert_eq!(token.token_key_id(), key.id());
        let challenge = unhex(&vector["token_challenge"]);
        let challenge = TokenChallenge::deserialize(challenge.as_slice()).unwrap();
        assert_eq!(*token.challenge_digest(), challenge.digest().unwrap());
        let (input, authenticator) = bytes.split_at(bytes.len() - 256);
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key.spki())
            .verify(input, authenticator)
            .unwrap();
    }
}

#[test]
fn the_vectors_in_one_batch_have_the_same_answers() {
    let Vectors { key, vectors, .. } = vectors();
    let requests: Vec<u8> = vectors
        .iter()
        .flat_map(|vector| unhex(&vector["token_request"]))
        .collect();
    // 518 bytes, in a length of two bytes.
    let body = [&[0x42, 0x06][..], &requests].concat();
    let batch = batch_from_bytes(&body, 2).unwrap();
    let signatures: Vec<_> = batch
        .iter()
        .map(|request| key.blind_sign(request).unwrap())
        .collect();
    let response = batch_response(&signatures);
    let read = GenericBatchTokenResponse::tls_deserialize_exact(&response).unwrap();
    for (element, vector) in read.token_responses.iter().zip(&vectors) {
        let element = element.tls_serialize_detached().unwrap();
        let expected = [vec![1, 0, 2], unhex(&vector["token_response"])].concat();
        assert_eq!(element, expected);
    }
}
