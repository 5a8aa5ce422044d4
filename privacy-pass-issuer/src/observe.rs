//! What is measured: how many tokens, why not, how old the keys are. Never whose: no label tells
//! accounts apart.

use crate::issuance::{IssuanceError, Issued};
use crate::problem::reason;
use crate::token_keys::{KeySet, KeyState};

pub(crate) fn issued(issued: Result<&Issued, &IssuanceError>) {
    match issued {
        Ok(issued) if issued.repeated => {
            metrics::counter!("issuer_answers_repeated_total").increment(1);
        }
        Ok(issued) => {
            let tokens = issued.signatures.len();
            metrics::counter!("issuer_tokens_issued_total").increment(tokens as u64);
            metrics::histogram!("issuer_request_tokens").record(tokens as f64);
        }
        Err(error) => {
            metrics::counter!("issuer_requests_refused_total", "reason" => reason(error))
                .increment(1);
            if let IssuanceError::Store(_) | IssuanceError::Signing(_) | IssuanceError::Worker =
                error
            {
                tracing::error!(%error, "a token could not be issued");
            }
        }
    }
}

/// Since when the keys sign: of each kind the oldest, in seconds; a key to come has a negative age.
pub(crate) fn key_ages(keys: &KeySet, now_unix_s: u64) {
    let mut counts = [0_u32; 3];
    let labels = ["next", "current", "previous"];
    for (key, state, _) in keys.states(now_unix_s).rev() {
        let kind = match state {
            KeyState::Next => 0,
            KeyState::Current => 1,
            KeyState::Previous => 2,
            KeyState::Expired => continue,
        };
        counts[kind] += 1;
        let age = now_unix_s as f64 - key.not_before_unix_s() as f64;
        metrics::gauge!("issuer_token_key_age_seconds", "key" => labels[kind]).set(age);
    }
    for (label, count) in labels.into_iter().zip(counts) {
        metrics::gauge!("issuer_token_keys", "key" => label).set(count);
    }
}
