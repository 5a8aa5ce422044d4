//! Redemption of Privacy Pass tokens (RFC 9577, token type 0x0002 of RFC 9578 §6), and the soft
//! allowances that a token can refill.
//!
//! What arrives is a [`PresentedToken`]; what passed every check is a [`VerifiedToken`], and only
//! that one can be handed to the store. This service holds *public* issuer keys: it can tell that a
//! token is genuine and unspent, not who got it, and it cannot make one.
//!
//! Order of work:
//!
//! 1. envelope, timestamp, and the recorded result: a repeated request costs nothing more;
//! 2. [`admission::Offered`]: no more tokens than the operation may cost; whether one is spent, which a read
//!    tells; only then [`IssuerKeys::verify`];
//! 3. [`InFlight::hold`]: a token is in one request at a time. Whoever has to wait gives up its place;
//! 4. what is cheap (body, price, bounds, the request's signature): a refusal here costs no token;
//! 5. where the work is dear (a tree), the work; a refusal after it spends the token and is recorded;
//! 6. the store spends the [`VerifiedToken`] in the same transition as the effect that it pays for. A fetch
//!    pays before its work and holds no token.

pub mod admission;
pub mod allowance;
pub mod in_flight;
pub mod retired;

pub use admission::Offered;
pub use allowance::{AllowanceLimits, Allowances, Empty};
pub use ds_domain::tokens::{
    AuthorizationError, Challenge, ChallengeError, IdentifiedToken, IssuerKeyError, IssuerKeys,
    PresentedToken, TOKEN_TYPE, TokenError, VerifiedToken,
};
pub use in_flight::InFlight;

/// For the metrics: tokens that have paid for something.
pub fn count_redeemed(tokens: usize) {
    if tokens > 0 {
        metrics::counter!("ds_tokens_redeemed_total").increment(tokens as u64);
    }
}

/// For the metrics: a request whose tokens were refused. `spent` is an attempt to spend one twice (or under a
/// key that is closed).
pub fn count_refused(reason: &'static str) {
    metrics::counter!("ds_tokens_refused_total", "reason" => reason).increment(1);
}
