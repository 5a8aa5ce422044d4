//! The attester's side: who asks (an account token), and what is kept of that (keyed hashes only).

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use crate::config::AccountSettings;
use crate::store::reports::{AccountTag, ReportId, ReporterTag};
use crate::store::{AccountOfDay, Day, RequestDigest};

/// Longest account token that is looked at.
const MAX_TOKEN_LENGTH: usize = 4096;
/// Longest account name.
const MAX_ACCOUNT_LENGTH: usize = 255;
/// How far the clocks of the account service and the issuer may disagree, in seconds.
const CLOCK_LEEWAY: f64 = 60.0;
/// SubjectPublicKeyInfo of Ed25519 up to the 32 bytes of the key (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Proof that an account service which we believe vouches for this account now. Neither printed nor
/// stored: see [`AccountHasher`].
#[derive(PartialEq, Eq)]
pub struct Account(String);

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(_) = self;
        f.write_str("Account(…)")
    }
}

/// The `[accounts]` table cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountSettingsError {
    #[error("`accounts.keys` names no key")]
    NoKey,
    #[error("an entry of `accounts.keys` is not an Ed25519 public key in base64 or PEM")]
    UnsupportedKey,
    #[error("`accounts.issuer` and `accounts.audience` must not be empty")]
    EmptyName,
}

/// Why a request is not attributed to any account: always the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountTokenError {
    #[error("no account token")]
    Missing,
    #[error("the account token is not valid")]
    Invalid,
    #[error("the account token has expired")]
    Expired,
}

/// Verifies `Authorization: Bearer <JWT>` (RFC 6750, RFC 7519), EdDSA only.
pub struct AccountVerifier {
    keys: Vec<DecodingKey>,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
}

impl AccountVerifier {
    pub fn new(settings: &AccountSettings) -> Result<Self, AccountSettingsError> {
        if settings.issuer.is_empty() || settings.audience.is_empty() {
            return Err(AccountSettingsError::EmptyName);
        }
        if settings.keys.is_empty() {
            return Err(AccountSettingsError::NoKey);
        }
        let keys = settings
            .keys
            .iter()
            .map(|key| Ok(DecodingKey::from_ed_der(&ed25519_public_key(key)?)))
            .collect::<Result<_, AccountSettingsError>>()?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // The library would ask the system clock; times are checked below with ours.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Ok(Self { keys, validation })
    }

    /// The account that the request's one account token names, at `now_unix_s`.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        now_unix_s: u64,
    ) -> Result<Account, AccountTokenError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(AccountTokenError::Missing)?;
        if values.next().is_some() || value.len() > MAX_TOKEN_LENGTH {
            return Err(AccountTokenError::Invalid);
        }
        let (scheme, token) = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .ok_or(AccountTokenError::Invalid)?;
        if !scheme.eq_ignore_ascii_case("Bearer") {
            return Err(AccountTokenError::Missing);
        }
        self.verify(token.trim_matches(' '), now_unix_s)
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "seconds since 1970 are exact in an f64"
    )]
    fn verify(&self, token: &str, now_unix_s: u64) -> Result<Account, AccountTokenError> {
        let claims = self.signed_claims(token)?;
        let now = now_unix_s as f64;
        if claims
            .nbf
            .is_some_and(|not_before| not_before > now + CLOCK_LEEWAY)
        {
            return Err(AccountTokenError::Invalid);
        }
        if claims.exp <= now - CLOCK_LEEWAY {
            return Err(AccountTokenError::Expired);
        }
        if claims.sub.is_empty() || claims.sub.len() > MAX_ACCOUNT_LENGTH {
            return Err(AccountTokenError::Invalid);
        }
        Ok(Account(claims.sub))
    }

    fn signed_claims(&self, token: &str) -> Result<Claims, AccountTokenError> {
        for key in &self.keys {
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                // RFC 7515 §4.1.11: whoever does not understand a critical extension must refuse.
                Ok(decoded) if decoded.header.crit.is_some() => break,
                Ok(decoded) => return Ok(decoded.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(_) => break,
            }
        }
        Err(AccountTokenError::Invalid)
    }
}

/// Reads 32 raw bytes in base64, or a PEM `PUBLIC KEY`.
fn ed25519_public_key(text: &str) -> Result<[u8; 32], AccountSettingsError> {
    let unsupported = |_| AccountSettingsError::UnsupportedKey;
    let text = text.trim();
    let Some(pem) = text.strip_prefix("-----BEGIN PUBLIC KEY-----") else {
        return STANDARD
            .decode(text)
            .or_else(|_| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')))
            .map_err(|_| AccountSettingsError::UnsupportedKey)?
            .try_into()
            .map_err(unsupported);
    };
    let body: String = pem
        .strip_suffix("-----END PUBLIC KEY-----")
        .ok_or(AccountSettingsError::UnsupportedKey)?
        .split_ascii_whitespace()
        .collect();
    let spki = STANDARD
        .decode(body)
        .map_err(|_| AccountSettingsError::UnsupportedKey)?;
    spki.strip_prefix(&ED25519_SPKI_PREFIX)
        .and_then(|key| key.try_into().ok())
        .ok_or(AccountSettingsError::UnsupportedKey)
}

/// What accounts can ask for beside tokens, each with an allowance of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Certificates,
    Reports,
}

impl Service {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Certificates => b"certificates",
            Self::Reports => b"reports",
        }
    }
}

/// Turns what identifies somebody into what the store keeps: HMAC-SHA-256 under a key that lies
/// outside the database, so that a snapshot of it names no account, not even to somebody who can
/// guess the names. The day is part of the hash: rows of two days do not show whose they are.
pub struct AccountHasher(hmac::Key);

impl AccountHasher {
    /// Bytes of the key.
    pub const KEY_LENGTH: usize = 32;

    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    #[must_use]
    pub fn account_of_day(&self, account: &Account, day: Day) -> AccountOfDay {
        AccountOfDay(self.hash(&[
            b"account of day",
            &day.0.to_be_bytes(),
            account.0.as_bytes(),
        ]))
    }

    /// A digest of one account's token request; two accounts never share one.
    #[must_use]
    pub fn request(&self, account: &Account, request: &[u8; 259]) -> RequestDigest {
        RequestDigest(self.hash(&[b"token request", request, account.0.as_bytes()]))
    }

    /// What an account handle hides, and reports are kept under: the same on every day.
    #[must_use]
    pub fn tag(&self, account: &Account) -> AccountTag {
        AccountTag(self.hash(&[b"reported account", account.0.as_bytes()]))
    }

    /// Who reports whom.
    #[must_use]
    pub fn reporter(&self, reported: &AccountTag, reporter: &Account) -> ReporterTag {
        ReporterTag(self.hash(&[b"reporter", &reported.0, reporter.0.as_bytes()]))
    }

    /// As [`AccountHasher::account_of_day`], for what an account asks of `service` beside tokens.
    #[must_use]
    pub fn other_of_day(&self, service: Service, account: &Account, day: Day) -> AccountOfDay {
        AccountOfDay(self.hash(&[
            service.label(),
            b" of day",
            &day.0.to_be_bytes(),
            account.0.as_bytes(),
        ]))
    }

    /// A digest of one account's request to `service`.
    #[must_use]
    pub fn other_request(
        &self,
        service: Service,
        account: &Account,
        digest: &[u8; 32],
    ) -> RequestDigest {
        RequestDigest(self.hash(&[service.label(), b" request", digest, account.0.as_bytes()]))
    }

    /// The name of a report, from the digest of its evidence.
    #[must_use]
    pub fn report_id(&self, evidence: &[u8; 32]) -> ReportId {
        let hash = self.hash(&[b"evidence", evidence]);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        ReportId(id)
    }

    /// All parts but the last have a length fixed by the first, so the input is unambiguous.
    fn hash(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use http::HeaderValue;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    struct AccountService {
        signing: EncodingKey,
        public: Vec<u8>,
    }

    impl AccountService {
        fn new() -> Self {
            let pkcs8 =
                Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
            let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
            Self {
                signing: EncodingKey::from_ed_der(pkcs8.as_ref()),
                public: pair.public_key().as_ref().to_vec(),
            }
        }

        fn token(&self, claims: &Value) -> String {
            encode(&Header::new(Algorithm::EdDSA), claims, &self.signing).unwrap()
        }

        fn verifier(&self) -> AccountVerifier {
            AccountVerifier::new(&settings(&[STANDARD.encode(&self.public)])).unwrap()
        }
    }

    fn settings(keys: &[String]) -> AccountSettings {
        AccountSettings {
            issuer: "iss".into(),
            audience: "aud".into(),
            keys: keys.to_vec(),
        }
    }

    fn claims() -> Value {
        json!({ "sub": "alice", "iss": "iss", "aud": "aud", "exp": NOW + 600 })
    }

    fn bearer(token: &str) -> HeaderMap {
        let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        HeaderMap::from_iter([(AUTHORIZATION, value)])
    }

    #[test]
    fn a_signed_account_token_names_its_account() {
        let service = AccountService::new();
        let token = service.token(&claims());
        let account = service
            .verifier()
            .authenticate(&bearer(&token), NOW)
            .unwrap();
        assert_eq!(account.0, "alice");
        assert_eq!(format!("{account:?}"), "Account(…)");
    }

    #[test]
    fn several_keys_are_believed_while_one_replaces_the_other() {
        let (old, new) = (AccountService::new(), AccountService::new());
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode([&ED25519_SPKI_PREFIX[..], &new.public].concat())
        );
        let verifier =
            AccountVerifier::new(&settings(&[URL_SAFE_NO_PAD.encode(&old.public), pem])).unwrap();
        for service in [&old, &new] {
            assert!(
                verifier
                    .authenticate(&bearer(&service.token(&claims())), NOW)
                    .is_ok()
            );
        }
        let stranger = AccountService::new().token(&claims());
        assert_eq!(
            verifier.authenticate(&bearer(&stranger), NOW),
            Err(AccountTokenError::Invalid)
        );
    }

    #[test]
    fn an_account_token_ends_when_it_says() {
        let service = AccountService::new();
        let (verifier, headers) = (service.verifier(), bearer(&service.token(&claims())));
        assert!(verifier.authenticate(&headers, NOW + 659).is_ok());
        assert_eq!(
            verifier.authenticate(&headers, NOW + 660),
            Err(AccountTokenError::Expired)
        );
        let mut early = claims();
        early["nbf"] = json!(NOW + 61);
        let headers = bearer(&service.token(&early));
        assert_eq!(
            verifier.authenticate(&headers, NOW),
            Err(AccountTokenError::Invalid)
        );
        assert!(verifier.authenticate(&headers, NOW + 1).is_ok());
    }

    #[test]
    fn each_claim_is_needed_and_must_be_ours() {
        let service = AccountService::new();
        for claim in ["sub", "iss", "aud", "exp"] {
            let mut missing = claims();
            missing.as_object_mut().unwrap().remove(claim);
            let mut other = claims();
            other[claim] = json!("");
            for wrong in [missing, other] {
                let refused = service
                    .verifier()
                    .authenticate(&bearer(&service.token(&wrong)), NOW);
                assert_eq!(refused, Err(AccountTokenError::Invalid), "{wrong}");
            }
        }
    }

    #[test]
    fn another_algorithm_or_a_critical_extension_is_refused() {
        let service = AccountService::new();
        let hmac = EncodingKey::from_secret(&service.public);
        let confused = encode(&Header::new(Algorithm::HS256), &claims(), &hmac).unwrap();
        let none = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
            URL_SAFE_NO_PAD.encode(claims().to_string())
        );
        let mut header = Header::new(Algorithm::EdDSA);
        header.crit = Some(vec!["exp".into()]);
        let critical = encode(&header, &claims(), &service.signing).unwrap();
        for token in [confused, none, critical, String::new(), "a.b".into()] {
            assert_eq!(
                service.verifier().authenticate(&bearer(&token), NOW),
                Err(AccountTokenError::Invalid)
            );
        }
    }

    #[test]
    fn without_exactly_one_bearer_token_there_is_no_account() {
        let service = AccountService::new();
        let verifier = service.verifier();
        assert_eq!(
            verifier.authenticate(&HeaderMap::new(), NOW),
            Err(AccountTokenError::Missing)
        );
        let other = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Basic QTpC"))]);
        assert_eq!(
            verifier.authenticate(&other, NOW),
            Err(AccountTokenError::Missing)
        );
        let mut twice = bearer(&service.token(&claims()));
        twice.append(AUTHORIZATION, twice[AUTHORIZATION].clone());
        assert_eq!(
            verifier.authenticate(&twice, NOW),
            Err(AccountTokenError::Invalid)
        );
        let long = bearer(&"x".repeat(MAX_TOKEN_LENGTH));
        assert_eq!(
            verifier.authenticate(&long, NOW),
            Err(AccountTokenError::Invalid)
        );
    }

    #[test]
    fn keys_that_are_none_are_refused_at_start() {
        for key in [
            "",
            "AAAA",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            "!",
        ] {
            let refused = AccountVerifier::new(&settings(&[key.to_owned()]));
            assert_eq!(
                refused.err(),
                Some(AccountSettingsError::UnsupportedKey),
                "{key}"
            );
        }
        let none = AccountVerifier::new(&settings(&[]));
        assert_eq!(none.err(), Some(AccountSettingsError::NoKey));
    }

    #[test]
    fn hashes_differ_by_account_day_request_and_key() {
        let (alice, bob) = (Account("alice".into()), Account("bob".into()));
        let hasher = AccountHasher::new(&[1; 32]);
        let hash = hasher.account_of_day(&alice, Day(7));
        assert_eq!(hash, hasher.account_of_day(&alice, Day(7)));
        assert_ne!(hash, hasher.account_of_day(&alice, Day(8)));
        assert_ne!(hash, hasher.account_of_day(&bob, Day(7)));
        assert_ne!(
            hash,
            AccountHasher::new(&[2; 32]).account_of_day(&alice, Day(7))
        );
        assert_ne!(
            hasher.request(&alice, &[0; 259]),
            hasher.request(&bob, &[0; 259])
        );
        assert_ne!(
            hasher.request(&alice, &[0; 259]),
            hasher.request(&alice, &[1; 259])
        );
    }
}
