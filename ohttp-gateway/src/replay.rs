//! The cache of encapsulated keys that makes a captured request useless (RFC 9458 §6.5.1).
//!
//! It lives in memory: after a restart, and when it overflows, the `Date` window still bounds what
//! can be replayed, and the delivery service answers a repeated request from its result record
//! without a second effect. A client that got no answer therefore never sends the same bytes
//! again: it encapsulates the same inner request afresh.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// An encapsulated key of DHKEM(X25519).
pub(crate) const ENC_LEN: usize = 32;
type Enc = [u8; ENC_LEN];

/// Remembers every key for at least the window and at most twice as long, in two generations.
pub(crate) struct ReplayCache {
    window_ms: u64,
    /// Of each generation.
    max_entries: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    current: HashSet<Enc>,
    previous: HashSet<Enc>,
    current_since_unix_ms: u64,
}

/// The encapsulated key was seen before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replayed;

impl ReplayCache {
    pub(crate) fn new(window_ms: u64, max_entries: usize) -> Self {
        Self {
            window_ms,
            max_entries: (max_entries / 2).max(1),
            generations: Mutex::default(),
        }
    }

    /// Remembers `enc`. Call it for what was decapsulated only: garbage must not fill the cache.
    pub(crate) fn remember(&self, enc: Enc, now_unix_ms: u64) -> Result<(), Replayed> {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        generations.advance(self.window_ms, self.max_entries, now_unix_ms);
        if generations.previous.contains(&enc) || !generations.current.insert(enc) {
            return Err(Replayed);
        }
        Ok(())
    }
}

impl Generations {
    fn advance(&mut self, window_ms: u64, max_entries: usize, now: u64) {
        let age = now.saturating_sub(self.current_since_unix_ms);
        if age >= window_ms.saturating_mul(2) {
            self.current.clear();
            self.previous.clear();
            self.current_since_unix_ms = now;
        } else if age >= window_ms {
            self.begin_generation(now);
        } else if self.current.len() >= max_entries {
            // Refusing everybody would be worse: see the module text.
            tracing::warn!("the replay cache is full, the oldest half is forgotten early");
            metrics::counter!("ohttp_gateway_replay_cache_overflows_total").increment(1);
            self.begin_generation(now);
        }
    }

    fn begin_generation(&mut self, now: u64) {
        self.previous = std::mem::take(&mut self.current);
        self.current_since_unix_ms = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 600_000;
    const START: u64 = 1_000_000_000;

    fn enc(n: u16) -> Enc {
        let mut enc = [0; ENC_LEN];
        enc[..2].copy_from_slice(&n.to_be_bytes());
        enc
    }

    #[test]
    fn a_key_is_remembered_for_the_window_and_forgotten_after_two() {
        for offset in [0, 1, WINDOW / 2, WINDOW - 1] {
            let cache = ReplayCache::new(WINDOW, 1000);
            assert_eq!(cache.remember(enc(0), START), Ok(()));
            let first = START + offset;
            assert_eq!(cache.remember(enc(1), first), Ok(()));
            assert_eq!(cache.remember(enc(1), first + WINDOW), Err(Replayed));
            assert_eq!(cache.remember(enc(1), first + 3 * WINDOW), Ok(()));
        }
    }

    #[test]
    fn the_size_is_bounded_and_recent_keys_are_kept() {
        let cache = ReplayCache::new(WINDOW, 20);
        for n in 0..1000 {
            assert_eq!(cache.remember(enc(n), START), Ok(()));
            assert_eq!(cache.remember(enc(n), START), Err(Replayed));
        }
        let generations = cache
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        assert!(generations.current.len() + generations.previous.len() <= 20);
    }
}
