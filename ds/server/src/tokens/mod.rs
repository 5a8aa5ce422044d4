//! What a request pays with on this node: soft allowances, and the tokens that are in requests of
//! this moment; and what becomes of the spent-sets of issuer keys that are gone.
//!
//! Order of work:
//!
//! 1. no more tokens are looked at than the operation may cost; whether one is spent, which a read
//!    tells; only then the issuer's signature;
//! 2. [`InFlight::hold`]: a token is in one request at a time. Whoever has to wait gives up its
//!    place;
//! 3. the recorded result, and what is cheap (body, price, bounds, the request's signature): a
//!    refusal here costs no token;
//! 4. where the work is dear (a tree), the work; a refusal after it spends the token and is
//!    recorded;
//! 5. the token is spent in the same transition as the effect that it pays for.

mod allowance;
mod in_flight;
pub mod retired;

pub use allowance::{AllowanceLimits, Allowances};
pub use in_flight::InFlight;

/// For the metrics: tokens that have paid for something.
pub(crate) fn count_redeemed(tokens: usize) {
    if tokens > 0 {
        metrics::counter!("ds_tokens_redeemed_total").increment(tokens as u64);
    }
}

/// For the metrics: a request whose tokens were refused. `spent` is an attempt to spend one twice
/// (or under a key that is closed).
pub(crate) fn count_refused(reason: &'static str) {
    metrics::counter!("ds_tokens_refused_total", "reason" => reason).increment(1);
}
