//! Redemption of Privacy Pass tokens (RFC 9577, token type 0x0002 of RFC 9578 §6), and the soft
//! allowances that a token can refill.
//!
//! What arrives is a [`PresentedToken`]; what passed every check is a [`VerifiedToken`], and only
//! that one can be handed to the store. This service holds *public* issuer keys: it can tell that a
//! token is genuine and unspent, not who got it, and it cannot make one.
//!
//! Order of work: [`authorization::parse`] → [`IssuerKeys::verify`] → the store spends the
//! [`VerifiedToken`] in the same transition as the effect that it pays for. Nothing is written for a
//! token that does not verify.

pub mod allowance;
pub mod authorization;
pub mod challenge;
pub mod retired;
pub mod verify;

pub use allowance::{AllowanceLimits, Allowances, Empty};
pub use authorization::{AuthorizationError, PresentedToken};
pub use challenge::{Challenge, ChallengeError};
pub use retired::RetiredKeys;
pub use verify::{IssuerKeyError, IssuerKeys, TokenError, VerifiedToken};

/// Blind RSA, 2048 bits: publicly verifiable (RFC 9578 §8.2.2).
pub const TOKEN_TYPE: u16 = 0x0002;
