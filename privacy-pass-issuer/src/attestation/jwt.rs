//! Account tokens as JWT (RFC 7519) under keys from the configuration file or a JWK set.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation};
use serde_json::{Map, Value};
use service::SharedClock;
use service::logging::Chain;
use tokio::sync::Mutex;

use super::claims::{self, Claimed, ClaimsError};
use super::jwk::VerificationKey;
use super::jwks::JwksSource;
use super::verified::{TokenDigest, VerifiedTokens};
use super::{AccountSettingsError, AttestationError, Attester};
use crate::accounts::Account;
use crate::config::AccountSettings;

/// Verifies account tokens signed with EdDSA, ES256 or RS256.
pub struct JwtAttester {
    issuer: String,
    audience: String,
    plan_claim: String,
    /// How far the clocks of the account service and the issuer may disagree, in seconds.
    clock_skew: f64,
    static_keys: Vec<Arc<VerificationKey>>,
    document: Option<Document>,
    keys: RwLock<Arc<Keys>>,
}

/// The keys at one time, what they were read from, and what has been verified with them.
#[derive(Default)]
struct Keys {
    keys: Vec<Arc<VerificationKey>>,
    document: Option<Vec<u8>>,
    verified: VerifiedTokens,
}

struct Document {
    source: JwksSource,
    clock: SharedClock,
    /// Between two reloads that unknown key ids cause.
    retry_ms: u64,
    /// When the last such reload was, in milliseconds since 1970. Held during a reload.
    last_retry_ms: Mutex<Option<u64>>,
}

impl JwtAttester {
    pub fn new(
        settings: &AccountSettings,
        clock: SharedClock,
    ) -> Result<Self, AccountSettingsError> {
        if settings.issuer.is_empty() || settings.audience.is_empty() {
            return Err(AccountSettingsError::EmptyName);
        }
        let source = JwksSource::new(settings)?;
        if settings.keys.is_empty() && source.is_none() {
            return Err(AccountSettingsError::NoKey);
        }
        let static_keys = settings
            .keys
            .iter()
            .map(|key| Ok(Arc::new(VerificationKey::from_text(key)?)))
            .collect::<Result<Vec<_>, AccountSettingsError>>()?;
        Ok(Self {
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            plan_claim: settings.plan_claim.clone(),
            clock_skew: f64::from(settings.clock_skew_seconds),
            keys: RwLock::new(Arc::new(Keys {
                keys: static_keys.clone(),
                ..Keys::default()
            })),
            static_keys,
            document: source.map(|source| Document {
                source,
                clock,
                retry_ms: settings.jwks_retry_seconds.saturating_mul(1000),
                last_retry_ms: Mutex::new(None),
            }),
        })
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the document; keeps what was known when it cannot be had or is none.
    async fn reload(&self, document: &Document) {
        let fetched = match document.source.fetch().await {
            Ok(fetched) => fetched,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the key set of account tokens was not refreshed");
                metrics::counter!("issuer_jwks_refreshes_total", "result" => "failed").increment(1);
                return;
            }
        };
        if self.keys().document.as_ref() == Some(&fetched) {
            return;
        }
        match VerificationKey::from_jwks(&fetched) {
            Ok(from_document) => {
                let mut keys = self.static_keys.clone();
                keys.extend(from_document.into_iter().map(Arc::new));
                let next = Keys {
                    keys,
                    document: Some(fetched),
                    verified: VerifiedTokens::default(),
                };
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
                metrics::counter!("issuer_jwks_refreshes_total", "result" => "changed")
                    .increment(1);
            }
            Err(error) => {
                tracing::warn!(%error, "the key set of account tokens was not taken");
                metrics::counter!("issuer_jwks_refreshes_total", "result" => "failed").increment(1);
            }
        }
    }

    /// A token names a key that is not there: looks for it, at most once per interval, whoever
    /// asks. `None`: there is nothing newer than `seen`.
    async fn newer_keys(&self, seen: &Arc<Keys>) -> Option<Arc<Keys>> {
        let document = self.document.as_ref()?;
        let mut last = document.last_retry_ms.lock().await;
        let newer = self.keys();
        if !Arc::ptr_eq(&newer, seen) {
            return Some(newer);
        }
        let now = document.clock.now_unix_ms();
        if last.is_some_and(|last| now.abs_diff(last) < document.retry_ms) {
            return None;
        }
        // Before, for a caller who goes away meanwhile; and by the time after it, which may be
        // long: whoever waited for the same answer does not ask again.
        *last = Some(now);
        self.reload(document).await;
        *last = Some(document.clock.now_unix_ms());
        let newer = self.keys();
        (!Arc::ptr_eq(&newer, seen)).then_some(newer)
    }

    /// The claims of a token that one of `keys` has signed. `None`: none of them can have.
    fn signed_claims(
        &self,
        keys: &Keys,
        header: &Header,
        token: &str,
    ) -> Option<Result<Map<String, Value>, AttestationError>> {
        let mut candidates = keys
            .keys
            .iter()
            .filter(|key| key.may_have_signed(header.alg, header.kid.as_deref()))
            .peekable();
        candidates.peek()?;
        for key in candidates {
            let mut validation = Validation::new(key.algorithm());
            validation.set_issuer(&[&self.issuer]);
            validation.set_audience(&[&self.audience]);
            validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
            // The library would ask the system clock; times are checked with ours.
            validation.validate_exp = false;
            validation.validate_nbf = false;
            match jsonwebtoken::decode(token, key.decoding_key(), &validation) {
                Ok(decoded) => return Some(Ok(decoded.claims)),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(_) => break,
            }
        }
        Some(Err(AttestationError::Invalid))
    }

    fn account_of(&self, claimed: &Claimed, now_unix_s: u64) -> Result<Account, AttestationError> {
        claimed.check_times(self.clock_skew, now_unix_s)?;
        Account::new(claimed.name.clone(), claimed.plan.clone()).ok_or(AttestationError::Invalid)
    }

    /// The keys that have signed the token, with what it claims.
    async fn verify(
        &self,
        keys: Arc<Keys>,
        token: &str,
    ) -> Result<(Arc<Keys>, Claimed), AttestationError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| AttestationError::Invalid)?;
        // RFC 7515 §4.1.11: whoever does not understand a critical extension must refuse.
        if header.crit.is_some() {
            return Err(AttestationError::Invalid);
        }
        // A key without an id may have signed anything, but a token that names a key we don't know
        // is one of that key.
        let names_unknown_key = header
            .kid
            .as_deref()
            .is_some_and(|kid| !keys.keys.iter().any(|key| key.has_id(kid)));
        let (keys, claims) = match self.signed_claims(&keys, &header, token) {
            Some(Ok(claims)) => (keys, claims),
            Some(Err(error)) if !names_unknown_key => return Err(error),
            _ => match self.newer_keys(&keys).await {
                Some(newer) => {
                    let claims = self.signed_claims(&newer, &header, token);
                    (newer, claims.ok_or(AttestationError::Invalid)??)
                }
                None if self.keys().keys.is_empty() => return Err(AttestationError::Unavailable),
                None => return Err(AttestationError::Invalid),
            },
        };
        Ok((keys, claims::read(&claims, &self.plan_claim)?))
    }
}

impl From<ClaimsError> for AttestationError {
    fn from(error: ClaimsError) -> Self {
        match error {
            ClaimsError::Invalid => Self::Invalid,
            ClaimsError::Expired => Self::Expired,
        }
    }
}

#[async_trait]
impl Attester for JwtAttester {
    async fn attest(&self, token: &str, now_unix_s: u64) -> Result<Account, AttestationError> {
        let (keys, digest) = (self.keys(), TokenDigest::of(token));
        if let Some(claimed) = keys.verified.find(digest) {
            return self.account_of(&claimed, now_unix_s);
        }
        let (keys, claimed) = self.verify(keys, token).await?;
        let account = self.account_of(&claimed, now_unix_s)?;
        keys.verified.keep(digest, Arc::new(claimed));
        Ok(account)
    }

    fn refresh_every(&self) -> Option<Duration> {
        Some(self.document.as_ref()?.source.every())
    }

    async fn refresh(&self) {
        if let Some(document) = &self.document {
            self.reload(document).await;
        }
    }
}

#[cfg(test)]
mod tests;
