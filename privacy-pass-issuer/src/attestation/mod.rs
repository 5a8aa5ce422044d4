//! The attester's side (RFC 9576 §3.3): who asks. Account tokens are presented as
//! `Authorization: Bearer TOKEN` (RFC 6750).

mod claims;
mod development;
mod jwk;
mod jwks;
mod jwt;
mod verified;

use std::time::Duration;

use async_trait::async_trait;

pub use development::DevelopmentAttester;
pub use jwk::{KeyError, VerificationKey};
pub use jwt::JwtAttester;

use crate::accounts::Account;

/// Longest account token that is looked at.
pub(crate) const MAX_TOKEN_LENGTH: usize = 4096;

/// The `[accounts]` table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountSettingsError {
    #[error("`accounts` names no key: `keys`, `jwks_file` or `jwks_url`")]
    NoKey,
    #[error("`accounts.jwks_file` and `accounts.jwks_url` exclude each other")]
    TwoDocuments,
    #[error("an entry of `accounts.keys`: {0}")]
    Key(#[from] KeyError),
    #[error("`accounts.issuer` and `accounts.audience` must not be empty")]
    EmptyName,
    #[error("`accounts.jwks_url` is not an http or https URL")]
    Url,
    #[error("the HTTP client for `accounts.jwks_url` cannot be set up: {0}")]
    Client(String),
    #[error("`accounts.development_tokens` needs `accounts.development = true`")]
    NotDevelopment,
    #[error("`accounts.development_tokens` is for a listener on loopback only")]
    DevelopmentInPublic,
    #[error("`accounts.development` takes `development_tokens` and nothing else")]
    MixedDevelopment,
    #[error("`accounts.development_tokens` has an empty or too long token or account")]
    DevelopmentToken,
}

/// Why a request is not attributed to any account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    #[error("no account token")]
    Missing,
    #[error("the account token is not valid")]
    Invalid,
    #[error("the account token has expired")]
    Expired,
    /// Ours, not the client's.
    #[error("the keys that account tokens are verified with are not there yet")]
    Unavailable,
}

/// Tells whom an account token is of.
#[async_trait]
pub trait Attester: Send + Sync + 'static {
    /// The account that `token` vouches for at `now_unix_s`.
    async fn attest(&self, token: &str, now_unix_s: u64) -> Result<Account, AttestationError>;

    /// How often [`Attester::refresh`] is to be called, if at all.
    fn refresh_every(&self) -> Option<Duration> {
        None
    }

    /// Looks whether what it decides by has changed.
    async fn refresh(&self) {}
}
