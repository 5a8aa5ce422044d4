#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, encode};
use serde_json::json;
use service::MovedClock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::attestation::KeyError;

const NOW: u64 = 1_800_000_000;

/// One key of an account service, as it signs and as it is shown.
struct Signer {
    algorithm: Algorithm,
    signing: EncodingKey,
    pem: String,
    jwk: Value,
    raw: Vec<u8>,
}

fn pem(spki: &[u8]) -> String {
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(spki)
    )
}

impl Signer {
    fn ed25519() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let raw = pair.public_key().as_ref().to_vec();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Self {
            algorithm: Algorithm::EdDSA,
            signing: EncodingKey::from_ed_der(pkcs8.as_ref()),
            pem: pem(spki.as_ref()),
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(&raw)}),
            raw,
        }
    }

    fn p256() -> Self {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        let raw = pair.public_key().as_ref().to_vec();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Self {
            algorithm: Algorithm::ES256,
            signing: EncodingKey::from_ec_der(pkcs8.as_ref()),
            pem: pem(spki.as_ref()),
            jwk: json!({
                "kty": "EC", "crv": "P-256",
                "x": URL_SAFE_NO_PAD.encode(&raw[1..33]), "y": URL_SAFE_NO_PAD.encode(&raw[33..]),
            }),
            raw,
        }
    }

    fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // The library wants PKCS#1, which PKCS#8 ends with.
        let at = pkcs8.as_ref().len() - pkcs8_content(pkcs8.as_ref()).len();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let modulus = pair
            .public_key()
            .modulus()
            .big_endian_without_leading_zero();
        Self {
            algorithm: Algorithm::RS256,
            signing: EncodingKey::from_rsa_der(&pkcs8.as_ref()[at..]),
            pem: pem(spki.as_ref()),
            jwk: json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB"}),
            raw: spki.as_ref().to_vec(),
        }
    }

    fn all() -> [Self; 3] {
        [Self::ed25519(), Self::p256(), Self::rsa()]
    }

    fn token(&self, claims: &Value) -> String {
        encode(&Header::new(self.algorithm), claims, &self.signing).unwrap()
    }

    fn token_with_kid(&self, kid: &str) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(kid.to_owned());
        encode(&header, &claims(), &self.signing).unwrap()
    }

    fn jwk_with_kid(&self, kid: &str) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = kid.into();
        jwk
    }
}

/// What follows version, algorithm and the header of the octet string.
fn pkcs8_content(pkcs8: &[u8]) -> &[u8] {
    &pkcs8[4 + 3 + 15 + 4..]
}

fn settings(keys: &[String]) -> AccountSettings {
    AccountSettings {
        issuer: "iss".into(),
        audience: "aud".into(),
        keys: keys.to_vec(),
        ..AccountSettings::default()
    }
}

fn attester(settings: &AccountSettings) -> JwtAttester {
    JwtAttester::new(settings, MovedClock::at(NOW * 1000)).unwrap()
}

fn with_keys(keys: &[&str]) -> JwtAttester {
    let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
    attester(&settings(&keys))
}

fn claims() -> Value {
    json!({ "sub": "alice", "iss": "iss", "aud": "aud", "exp": NOW + 600 })
}

fn alice() -> Account {
    Account::new("alice".into(), None).unwrap()
}

#[tokio::test]
async fn a_token_of_each_algorithm_names_its_account_by_a_static_key_and_by_a_document() {
    let directory = tempfile::tempdir().unwrap();
    for signer in Signer::all() {
        let token = signer.token(&claims());
        let by_pem = with_keys(&[&signer.pem]);
        assert_eq!(by_pem.attest(&token, NOW).await, Ok(alice()));

        let path = directory.path().join("jwks.json");
        std::fs::write(&path, json!({"keys": [signer.jwk]}).to_string()).unwrap();
        let mut settings = settings(&[]);
        settings.jwks_file = Some(path);
        let by_document = attester(&settings);
        by_document.refresh().await;
        assert_eq!(by_document.attest(&token, NOW).await, Ok(alice()));
    }
}

#[tokio::test]
async fn a_key_verifies_tokens_of_its_own_algorithm_only() {
    let signers = Signer::all();
    for key in &signers {
        let attester = with_keys(&[&key.pem]);
        for other in &signers {
            let accepted = attester.attest(&other.token(&claims()), NOW).await.is_ok();
            assert_eq!(accepted, key.algorithm == other.algorithm);
        }
        // The public key as an HMAC secret, in each form in which somebody may have it.
        for secret in [
            key.raw.as_slice(),
            key.pem.as_bytes(),
            key.pem.trim().as_bytes(),
        ] {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let secret = EncodingKey::from_secret(secret);
                let confused = encode(&Header::new(algorithm), &claims(), &secret).unwrap();
                assert_eq!(
                    attester.attest(&confused, NOW).await,
                    Err(AttestationError::Invalid)
                );
            }
        }
        // A signature that is right under another header.
        let token = key.token(&claims());
        let (_, rest) = token.split_once('.').unwrap();
        for algorithm in ["none", "PS256", "RS512", "ES384", "HS256"] {
            let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm}).to_string());
            assert!(
                attester
                    .attest(&format!("{header}.{rest}"), NOW)
                    .await
                    .is_err()
            );
        }
    }
}

#[tokio::test]
async fn rsa_with_other_paddings_and_hashes_is_refused() {
    let signer = Signer::rsa();
    let attester = with_keys(&[&signer.pem]);
    for algorithm in [Algorithm::PS256, Algorithm::RS384, Algorithm::RS512] {
        let token = encode(&Header::new(algorithm), &claims(), &signer.signing).unwrap();
        assert_eq!(
            attester.attest(&token, NOW).await,
            Err(AttestationError::Invalid)
        );
    }
}

#[tokio::test]
async fn several_keys_are_believed_while_one_replaces_the_other() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let attester = with_keys(&[&URL_SAFE_NO_PAD.encode(&old.raw), &new.pem]);
    for signer in [&old, &new] {
        assert!(attester.attest(&signer.token(&claims()), NOW).await.is_ok());
    }
    let stranger = Signer::ed25519().token(&claims());
    assert_eq!(
        attester.attest(&stranger, NOW).await,
        Err(AttestationError::Invalid)
    );
}

#[tokio::test]
async fn an_account_token_ends_when_it_says() {
    let signer = Signer::ed25519();
    let attester = with_keys(&[&signer.pem]);
    let token = signer.token(&claims());
    assert!(attester.attest(&token, NOW + 659).await.is_ok());
    assert_eq!(
        attester.attest(&token, NOW + 660).await,
        Err(AttestationError::Expired)
    );
    let mut early = claims();
    early["nbf"] = json!(NOW + 61);
    let token = signer.token(&early);
    assert_eq!(
        attester.attest(&token, NOW).await,
        Err(AttestationError::Invalid)
    );
    assert!(attester.attest(&token, NOW + 1).await.is_ok());
    let mut settings = settings(std::slice::from_ref(&signer.pem));
    settings.clock_skew_seconds = 0;
    let strict = self::attester(&settings);
    assert_eq!(
        strict.attest(&signer.token(&claims()), NOW + 600).await,
        Err(AttestationError::Expired)
    );
}

#[tokio::test]
async fn each_claim_is_needed_and_must_be_ours() {
    let signer = Signer::ed25519();
    let attester = with_keys(&[&signer.pem]);
    for claim in ["sub", "iss", "aud", "exp"] {
        let mut missing = claims();
        missing.as_object_mut().unwrap().remove(claim);
        let mut other = claims();
        other[claim] = json!("");
        let mut wrong_type = claims();
        wrong_type[claim] = json!({});
        for wrong in [missing, other, wrong_type] {
            let refused = attester.attest(&signer.token(&wrong), NOW).await;
            assert_eq!(refused, Err(AttestationError::Invalid), "{wrong}");
        }
    }
    let mut odd = claims();
    odd["nbf"] = json!("tomorrow");
    assert!(attester.attest(&signer.token(&odd), NOW).await.is_err());
}

#[tokio::test]
async fn the_plan_is_the_claim_that_the_settings_name() {
    let signer = Signer::ed25519();
    let mut settings = settings(std::slice::from_ref(&signer.pem));
    settings.plan_claim = "tier".into();
    let attester = attester(&settings);
    let mut with_plan = claims();
    with_plan["tier"] = json!("gold");
    with_plan["plan"] = json!("other");
    let account = attester
        .attest(&signer.token(&with_plan), NOW)
        .await
        .unwrap();
    assert_eq!(account.plan(), Some("gold"));
    let account = attester
        .attest(&signer.token(&claims()), NOW)
        .await
        .unwrap();
    assert_eq!(account.plan(), None);
}

#[tokio::test]
async fn a_critical_extension_or_no_token_at_all_is_refused() {
    let signer = Signer::ed25519();
    let attester = with_keys(&[&signer.pem]);
    let mut header = Header::new(Algorithm::EdDSA);
    header.crit = Some(vec!["exp".into()]);
    let critical = encode(&header, &claims(), &signer.signing).unwrap();
    for token in [critical, String::new(), "a.b".into(), "..".into()] {
        assert_eq!(
            attester.attest(&token, NOW).await,
            Err(AttestationError::Invalid)
        );
    }
}

/// A key set behind a URL, which counts how often it is asked for.
struct KeyServer {
    url: String,
    document: Arc<RwLock<String>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(keys: &[Value]) -> Self {
        let document = Arc::new(RwLock::new(json!({ "keys": keys }).to_string()));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shown, counted) = (Arc::clone(&document), Arc::clone(&asked));
        let answer = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let document = shown.read().unwrap().clone();
            async move { document }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let router = Router::new().route("/jwks", get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            document,
            asked,
        }
    }

    fn show(&self, document: &str) {
        document.clone_into(&mut self.document.write().unwrap());
    }

    fn show_keys(&self, keys: &[Value]) {
        self.show(&json!({ "keys": keys }).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn an_unknown_key_id_is_looked_up_at_most_once_per_interval() {
    let (old, new) = (Signer::ed25519(), Signer::p256());
    let server = KeyServer::start(&[old.jwk_with_kid("old")]).await;
    let clock = MovedClock::at(NOW * 1000);
    let mut settings = settings(&[]);
    settings.jwks_url = Some(server.url.clone());
    let attester = Arc::new(JwtAttester::new(&settings, clock.clone()).unwrap());

    // Nothing was fetched yet: the first token makes it known.
    assert_eq!(
        attester.attest(&old.token_with_kid("old"), NOW).await,
        Ok(alice())
    );
    assert_eq!(server.asked(), 1);

    server.show_keys(&[old.jwk_with_kid("old"), new.jwk_with_kid("new")]);
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (attester, token) = (
            Arc::clone(&attester),
            old.token_with_kid(&format!("made up {number}")),
        );
        flood.spawn(async move { attester.attest(&token, NOW).await });
    }
    for refused in flood.join_all().await {
        assert_eq!(refused, Err(AttestationError::Invalid));
    }
    assert_eq!(server.asked(), 1, "the interval is not over");
    clock.advance(30_000);
    assert_eq!(
        attester.attest(&new.token_with_kid("new"), NOW).await,
        Ok(alice())
    );
    assert_eq!(server.asked(), 2);

    // A key that is taken away is believed no more from the next scheduled look on.
    server.show_keys(&[new.jwk_with_kid("new")]);
    attester.refresh().await;
    assert_eq!(
        attester.attest(&old.token_with_kid("old"), NOW).await,
        Err(AttestationError::Invalid)
    );
}

#[tokio::test]
async fn a_look_for_an_unknown_key_id_that_takes_longer_than_the_interval_is_one_look_for_all_who_wait()
 {
    let clock = MovedClock::at(NOW * 1000);
    let asked = Arc::new(AtomicUsize::new(0));
    let answer = {
        let (clock, asked) = (clock.clone(), Arc::clone(&asked));
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            clock.advance(10_000);
            async { "no document" }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(&[]);
    settings.jwks_url = Some(format!("http://{}/", listener.local_addr().unwrap()));
    settings.jwks_retry_seconds = 1;
    let router = Router::new().route("/", get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let attester = Arc::new(JwtAttester::new(&settings, clock).unwrap());
    let signer = Signer::ed25519();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (attester, token) = (Arc::clone(&attester), signer.token_with_kid("new"));
        waiting.spawn(async move { attester.attest(&token, NOW).await });
    }
    for refused in waiting.join_all().await {
        assert_eq!(refused, Err(AttestationError::Unavailable));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_was_verified_is_remembered_by_the_whole_token_and_forgotten_with_the_set_of_keys() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let server = KeyServer::start(&[old.jwk_with_kid("old")]).await;
    let mut settings = settings(&[]);
    settings.jwks_url = Some(server.url.clone());
    let attester = attester(&settings);
    attester.refresh().await;
    let token = old.token_with_kid("old");
    let remembered = |token: &str| {
        let digest = TokenDigest::of(token);
        attester.keys().verified.find(digest).is_some()
    };
    assert_eq!(attester.attest(&token, NOW).await, Ok(alice()));
    assert!(remembered(&token));
    assert_eq!(attester.attest(&token, NOW).await, Ok(alice()));
    // The signature of another token under the same claims.
    let (claims, _) = token.rsplit_once('.').unwrap();
    let other = old.token_with_kid("other");
    let forged = format!("{claims}.{}", other.rsplit_once('.').unwrap().1);
    assert!(attester.attest(&forged, NOW).await.is_err());
    assert!(!remembered(&forged), "what is refused is not remembered");
    attester.refresh().await;
    assert!(remembered(&token), "the set is the same");
    server.show_keys(&[old.jwk_with_kid("old"), new.jwk_with_kid("new")]);
    attester.refresh().await;
    assert!(!remembered(&token));
    assert_eq!(attester.attest(&token, NOW).await, Ok(alice()));
    server.show_keys(&[new.jwk_with_kid("new")]);
    attester.refresh().await;
    assert!(attester.attest(&token, NOW).await.is_err());
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_says_and_its_times_are_looked_at_each_time() {
    let signer = Signer::ed25519();
    let attester = with_keys(&[&signer.pem]);
    let mut limited = claims();
    limited["nbf"] = json!(NOW);
    let token = signer.token(&limited);
    assert_eq!(attester.attest(&token, NOW).await, Ok(alice()));
    assert_eq!(
        attester.attest(&token, NOW + 660).await,
        Err(AttestationError::Expired)
    );
    // A clock that was set back.
    assert_eq!(
        attester.attest(&token, NOW - 61).await,
        Err(AttestationError::Invalid)
    );
    assert_eq!(attester.attest(&token, NOW + 659).await, Ok(alice()));
}

#[tokio::test]
async fn a_new_key_id_is_looked_up_also_beside_a_static_key_of_the_same_kind() {
    let (fixed, new) = (Signer::ed25519(), Signer::ed25519());
    let server = KeyServer::start(&[Signer::ed25519().jwk_with_kid("old")]).await;
    let mut settings = settings(std::slice::from_ref(&fixed.pem));
    settings.jwks_url = Some(server.url.clone());
    let attester = attester(&settings);
    attester.refresh().await;
    server.show_keys(&[new.jwk_with_kid("new")]);
    assert_eq!(
        attester.attest(&new.token_with_kid("new"), NOW).await,
        Ok(alice())
    );
    assert_eq!(
        attester.attest(&fixed.token(&claims()), NOW).await,
        Ok(alice())
    );
}

#[tokio::test]
async fn a_document_that_cannot_be_had_changes_nothing() {
    let signer = Signer::ed25519();
    let server = KeyServer::start(&[signer.jwk_with_kid("k")]).await;
    let mut settings = settings(&[]);
    settings.jwks_url = Some(server.url.clone());
    let attester = attester(&settings);
    attester.refresh().await;
    for document in ["no json", "{}", &"x".repeat(600 * 1024)] {
        server.show(document);
        attester.refresh().await;
        let token = signer.token_with_kid("k");
        assert_eq!(attester.attest(&token, NOW).await, Ok(alice()));
    }
}

#[tokio::test]
async fn before_the_first_document_nobody_is_told_that_his_token_is_bad() {
    let mut settings = settings(&[]);
    settings.jwks_file = Some("/nonexistent/jwks.json".into());
    let attester = attester(&settings);
    let token = Signer::ed25519().token(&claims());
    assert_eq!(
        attester.attest(&token, NOW).await,
        Err(AttestationError::Unavailable)
    );
}

#[tokio::test]
async fn a_file_is_read_again_when_it_has_changed() {
    let (old, new) = (Signer::ed25519(), Signer::ed25519());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    let write = |signer: &Signer| {
        std::fs::write(&path, json!({ "keys": [signer.jwk] }).to_string()).unwrap();
    };
    write(&old);
    let mut settings = settings(&[]);
    settings.jwks_file = Some(path.clone());
    let attester = attester(&settings);
    attester.refresh().await;
    assert!(attester.attest(&old.token(&claims()), NOW).await.is_ok());
    write(&new);
    attester.refresh().await;
    assert!(attester.attest(&new.token(&claims()), NOW).await.is_ok());
    assert!(attester.attest(&old.token(&claims()), NOW).await.is_err());
}

#[test]
fn settings_without_a_key_or_with_a_bad_one_are_refused_at_start() {
    let refused =
        |settings: &AccountSettings| JwtAttester::new(settings, MovedClock::at(0)).err().unwrap();
    assert_eq!(refused(&settings(&[])), AccountSettingsError::NoKey);
    assert_eq!(
        refused(&settings(&["AAAA".into()])),
        AccountSettingsError::Key(KeyError::Unsupported)
    );
    let mut nameless = settings(&[STANDARD.encode([9; 32])]);
    nameless.audience.clear();
    assert_eq!(refused(&nameless), AccountSettingsError::EmptyName);
    let mut url = settings(&[]);
    url.jwks_url = Some("file:///etc/passwd".into());
    assert_eq!(refused(&url), AccountSettingsError::Url);
    url.jwks_file = Some("jwks.json".into());
    assert_eq!(refused(&url), AccountSettingsError::TwoDocuments);
}

mod claims_that_nobody_wrote {
    use proptest::prelude::*;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            Just(json!([1])),
        ]
    }

    proptest! {
        #[test]
        fn are_an_account_only_with_a_name_and_a_time_to_come(
            sub in any_json(), exp in any_json(), nbf in any_json(), plan in any_json(),
        ) {
            let attester = with_keys(&[&STANDARD.encode([9; 32])]);
            let claims = json!({"sub": sub, "exp": exp, "nbf": nbf, "plan": plan});
            let account = claims::read(claims.as_object().unwrap(), "plan")
                .map_err(AttestationError::from)
                .and_then(|claimed| attester.account_of(&claimed, NOW));
            if account.is_ok() {
                prop_assert!(sub.as_str().is_some_and(|sub| !sub.is_empty()));
                prop_assert!(exp.as_f64().unwrap() > (NOW - 60) as f64);
            }
        }

        #[test]
        fn no_token_makes_the_reader_panic(token in ".*", parts: [Vec<u8>; 3]) {
            let attester = with_keys(&[&STANDARD.encode([9; 32])]);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let encoded = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            for token in [token, encoded] {
                prop_assert!(runtime.block_on(attester.attest(&token, NOW)).is_err());
            }
        }
    }
}
