//! The cache of encapsulated keys that makes a captured request useless (RFC 9458 §6.5.1).
//!
//! A request is remembered once it was opened, so garbage fills nothing. That the encapsulated key
//! names the request follows from each of the KEMs: a change of any byte of it, ignored bits
//! included, gives another shared secret, and nothing opens.
//!
//! It lives in memory, of one process: after a restart, when it overflows, and between nodes that
//! have the same keys, the `Date` window still bounds what can be replayed, and the delivery
//! service answers a repeated request from its result record without a second effect; the answer is
//! sealed to the client that made the request. A client that got no answer therefore never sends
//! the same bytes again: it encapsulates the same inner request afresh. Our relay asks one of
//! several nodes at a time, and another one only when that is gone. Nodes partition the cache by
//! listing each relay at one of them: a captured request is then refused by every other node before
//! it is looked at.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use crate::config::ReplaySettings;

/// Of a digest: encapsulated keys have up to 1120 bytes.
const NAME_LEN: usize = 16;
type Name = [u8; NAME_LEN];

/// Remembers every key for at least the window and at most twice as long, in two generations.
pub(crate) struct ReplayCache {
    window_ms: u64,
    /// Of each generation.
    max_entries: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    current: HashSet<Name>,
    previous: HashSet<Name>,
    current_since_ms: u64,
}

/// The encapsulated key was seen before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replayed;

impl ReplayCache {
    pub(crate) fn new(settings: &ReplaySettings) -> Self {
        Self {
            window_ms: settings.window_seconds.saturating_mul(1000),
            max_entries: (settings.max_entries / 2).max(1),
            generations: Mutex::default(),
        }
    }

    /// Remembers `enc`. Call it for what was decapsulated only: garbage must not fill the cache.
    pub(crate) fn remember(&self, enc: &[u8], now_ms: u64) -> Result<(), Replayed> {
        let mut name = [0; NAME_LEN];
        name.iter_mut()
            .zip(digest(&SHA256, enc).as_ref())
            .for_each(|(to, from)| *to = *from);
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        generations.advance(self.window_ms, self.max_entries, now_ms);
        if generations.previous.contains(&name) || !generations.current.insert(name) {
            return Err(Replayed);
        }
        Ok(())
    }
}

impl Generations {
    fn advance(&mut self, window_ms: u64, max_entries: usize, now: u64) {
        let age = now.saturating_sub(self.current_since_ms);
        if age >= window_ms.saturating_mul(2) {
            self.current.clear();
            self.previous.clear();
            self.current_since_ms = now;
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
        self.current_since_ms = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 600_000;
    const START: u64 = 1_000_000_000;

    fn cache(max_entries: usize) -> ReplayCache {
        ReplayCache::new(&ReplaySettings {
            window_seconds: WINDOW / 1000,
            max_entries,
            ..ReplaySettings::default()
        })
    }

    fn enc(n: u16) -> [u8; 2] {
        n.to_be_bytes()
    }

    #[test]
    fn a_key_is_remembered_for_the_window_and_forgotten_after_two() {
        for offset in [0, 1, WINDOW / 2, WINDOW - 1] {
            let cache = cache(1000);
            assert_eq!(cache.remember(&enc(0), START), Ok(()));
            let first = START + offset;
            assert_eq!(cache.remember(&enc(1), first), Ok(()));
            assert_eq!(cache.remember(&enc(1), first + WINDOW), Err(Replayed));
            assert_eq!(cache.remember(&enc(1), first + 3 * WINDOW), Ok(()));
        }
    }

    #[test]
    fn the_size_is_bounded_and_recent_keys_are_kept() {
        let cache = cache(20);
        for n in 0..1000 {
            assert_eq!(cache.remember(&enc(n), START), Ok(()));
            assert_eq!(cache.remember(&enc(n), START), Err(Replayed));
        }
        let generations = cache
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        assert!(generations.current.len() + generations.previous.len() <= 20);
    }

    #[test]
    fn of_many_that_bring_the_same_key_at_once_one_is_first() {
        let cache = cache(1000);
        let firsts: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| cache.remember(&enc(1), START).is_ok()))
                .collect();
            threads
                .into_iter()
                .map(|thread| usize::from(thread.join().is_ok_and(|first| first)))
                .sum()
        });
        assert_eq!(firsts, 1);
    }
}
