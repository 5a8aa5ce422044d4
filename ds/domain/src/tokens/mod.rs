//! Redemption of Privacy Pass tokens (RFC 9577, token type 0x0002 of RFC 9578 §6).
//!
//! What arrives is a [`PresentedToken`]; what passed every check is a [`VerifiedToken`], and only
//! that one gives a [`Spend`], without which the store spends nothing. This service holds *public*
//! issuer keys: it can tell that a token is genuine and unspent, not who got it, and it cannot make
//! one.

pub mod authorization;
pub mod challenge;
pub mod verify;

pub use authorization::{AuthorizationError, PresentedToken};
pub use challenge::{Challenge, ChallengeError};
pub use verify::{IdentifiedToken, IssuerKeyError, IssuerKeys, TokenError, VerifiedToken};

/// Blind RSA, 2048 bits: publicly verifiable (RFC 9578 §8.2.2).
pub const TOKEN_TYPE: u16 = 0x0002;

/// A verified token on its way to the spent-set.
///
/// ```
/// use ds_domain::tokens::{IdentifiedToken, IssuerKeys, Spend, TokenError};
///
/// fn spend(token: IdentifiedToken, keys: &IssuerKeys) -> Result<Spend, TokenError> {
///     keys.verify(token).map(|token| Spend::of(&token))
/// }
/// ```
///
/// One that its issuer has perhaps not signed buys nothing:
///
/// ```compile_fail
/// use ds_domain::tokens::{IdentifiedToken, IssuerKeys, Spend, TokenError};
///
/// fn spend(token: IdentifiedToken, keys: &IssuerKeys) -> Result<Spend, TokenError> {
///     Ok(Spend::of(&token))
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Spend {
    issuer_key_id: [u8; 32],
    nonce_digest: [u8; 32],
}

impl std::fmt::Debug for Spend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spend(..)")
    }
}

impl Spend {
    /// Takes the identifying digests of a verified token.
    #[must_use]
    pub fn of(token: &VerifiedToken) -> Self {
        Self {
            issuer_key_id: *token.issuer_key_id(),
            nonce_digest: *token.nonce_digest(),
        }
    }

    /// SHA-256 of the issuer key's SPKI: the partition of the spent-set.
    #[must_use]
    pub fn issuer_key_id(&self) -> &[u8; 32] {
        &self.issuer_key_id
    }

    /// Digest of issuer key and nonce: what the spent-set keeps.
    #[must_use]
    pub fn nonce_digest(&self) -> &[u8; 32] {
        &self.nonce_digest
    }
}
