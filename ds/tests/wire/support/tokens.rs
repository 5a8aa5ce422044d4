//! The issuer of the tests: blind RSA as the reference implementation does it (RFC 9578 §6).

use std::sync::LazyLock;

use blind_rsa_signatures::{Deterministic, KeyPair, PSS, Sha384, reexports::rand};
use ds::tokens::IssuerKeys;
use http::HeaderValue;
use privacypass::auth::authenticate::TokenChallenge;
use privacypass::auth::authorize::build_authorization_header;
use privacypass::public_tokens::{TokenRequest, TokenResponse};
use privacypass::{Deserialize as _, Serialize as _, TokenType};

use super::{DOMAIN, ISSUER};

type IssuerKeyPair = KeyPair<Sha384, PSS, Deterministic>;

static KEY: LazyLock<IssuerKeyPair> =
    LazyLock::new(|| KeyPair::generate(&mut rand::rng(), 2048).unwrap());
static STRANGER: LazyLock<IssuerKeyPair> =
    LazyLock::new(|| KeyPair::generate(&mut rand::rng(), 2048).unwrap());

pub fn accepted_keys() -> IssuerKeys {
    IssuerKeys::from_directory_keys([KEY.pk.to_spki().unwrap()]).unwrap()
}

/// Those of another issuer.
pub fn keys_of_a_stranger() -> IssuerKeys {
    IssuerKeys::from_directory_keys([STRANGER.pk.to_spki().unwrap()]).unwrap()
}

fn issue(key: &IssuerKeyPair, origin: &str) -> HeaderValue {
    let challenge = TokenChallenge::new(TokenType::Public, ISSUER, None, &[origin.to_owned()]);
    let (request, state) = TokenRequest::new(&mut rand::rng(), key.pk.clone(), &challenge).unwrap();
    let request = request.tls_serialize_detached().unwrap();
    let signature = key.sk.blind_sign(&request[3..]).unwrap();
    let token = TokenResponse::tls_deserialize_exact(&signature.0)
        .unwrap()
        .issue_token(&state)
        .unwrap();
    let (_, value) = build_authorization_header(&token).unwrap();
    HeaderValue::from_bytes(value.as_bytes()).unwrap()
}

/// A token that is taken.
pub fn mint() -> HeaderValue {
    issue(&KEY, DOMAIN)
}

/// A token of an issuer that nobody here knows.
pub fn of_a_stranger() -> HeaderValue {
    issue(&STRANGER, DOMAIN)
}

/// A token of our issuer for another service.
pub fn for_another_origin() -> HeaderValue {
    issue(&KEY, "elsewhere.example")
}
