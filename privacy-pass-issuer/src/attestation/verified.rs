//! Account tokens whose signature has been found good, so that it is verified once and not with
//! each request: a client without batches shows the same one many times an hour.
//!
//! It belongs to one set of keys under one configuration and goes with them: a token of a key that
//! has left the set is verified anew, and found to be nobody's. Only the signature is remembered.
//! What a token says of times is looked at each time, and whether an account is blocked is asked of
//! the database each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::claims::Claimed;

/// Tokens in each half: together they take a few megabytes.
const HALF: usize = 8192;

/// By digest: how long finding one takes says nothing about the tokens that are there, and the
/// memory of the process holds none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

/// At most two halves of tokens: when the younger one is full, the older one is forgotten.
#[derive(Default)]
pub(super) struct VerifiedTokens(Mutex<Halves>);

#[derive(Default)]
struct Halves {
    younger: HashMap<TokenDigest, Arc<Claimed>>,
    older: HashMap<TokenDigest, Arc<Claimed>>,
}

impl VerifiedTokens {
    pub(super) fn find(&self, token: TokenDigest) -> Option<Arc<Claimed>> {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claimed) = halves.younger.get(&token) {
            return Some(Arc::clone(claimed));
        }
        let claimed = halves.older.remove(&token)?;
        halves.keep(token, Arc::clone(&claimed));
        Some(claimed)
    }

    pub(super) fn keep(&self, token: TokenDigest, claimed: Arc<Claimed>) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        halves.keep(token, claimed);
    }
}

impl Halves {
    fn keep(&mut self, token: TokenDigest, claimed: Arc<Claimed>) {
        if self.younger.len() >= HALF {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(token, claimed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::attestation::claims;

    fn token(number: usize) -> TokenDigest {
        TokenDigest::of(&number.to_string())
    }

    #[test]
    fn tokens_in_use_are_kept_while_others_come_and_memory_is_bounded() {
        let claims = serde_json::json!({"sub": "alice", "exp": 1});
        let claimed = Arc::new(
            claims::read(claims.as_object().unwrap(), "plan")
                .ok()
                .unwrap(),
        );
        let verified = VerifiedTokens::default();
        verified.keep(token(0), Arc::clone(&claimed));
        for number in 1..4 * HALF {
            verified.keep(token(number), Arc::clone(&claimed));
            if number % (HALF / 2) == 0 {
                assert!(verified.find(token(0)).is_some());
            }
        }
        assert!(verified.find(token(1)).is_none(), "nobody asked for it");
        let halves = verified.0.lock().unwrap();
        assert!(halves.younger.len() + halves.older.len() <= 2 * HALF);
    }
}
