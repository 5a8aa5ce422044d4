//! Locks for the rows that a transition's conditions stand on.
//!
//! The database directory belongs to one process (RocksDB's `LOCK` file sees to that), so a lock in
//! this process is all that is needed between reading a condition and writing what depends on it.
//! Rows share a fixed number of locks (stripes): two rows on one stripe cost a wait, never an error.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::tables::{Table, day_key, spent_key};
use crate::store::Receipt;

/// Much more than the blocking threads of a runtime (512), so that strangers seldom meet.
const STRIPES: usize = 1 << 14;

pub(super) struct Stripes {
    locks: Box<[RwLock<()>]>,
    /// Keyed, so that nobody can choose rows that meet on one stripe.
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Shared,
    Exclusive,
}

/// The stripes that one transition needs: in the order of their numbers, each once, so that two
/// transitions can't wait for each other.
pub(super) struct Claims<'a> {
    stripes: &'a Stripes,
    modes: BTreeMap<usize, Mode>,
}

/// Held until the transition is durable: who reads the condition next must see what was written.
#[must_use]
pub(super) struct Held<'a> {
    _shared: Vec<RwLockReadGuard<'a, ()>>,
    _exclusive: Vec<RwLockWriteGuard<'a, ()>>,
}

impl Stripes {
    pub(super) fn new() -> Self {
        Self {
            locks: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn claims(&self) -> Claims<'_> {
        Claims {
            stripes: self,
            modes: BTreeMap::new(),
        }
    }
}

impl<'a> Claims<'a> {
    /// Others may share this row.
    pub(super) fn shared(mut self, table: Table, key: &[u8]) -> Self {
        self.claim(table, key, Mode::Shared);
        self
    }

    /// Nobody else may use this row.
    pub(super) fn exclusive(mut self, table: Table, key: &[u8]) -> Self {
        self.claim(table, key, Mode::Exclusive);
        self
    }

    /// The rows that a receipt reads and writes.
    pub(super) fn receipt(mut self, receipt: &Receipt) -> Self {
        if let Some(result) = &receipt.result {
            self.claim(Table::Results, &day_key(&result.at), Mode::Exclusive);
        }
        for spend in &receipt.spends {
            self.claim(Table::Spent, &spent_key(spend), Mode::Exclusive);
        }
        self
    }

    fn claim(&mut self, table: Table, key: &[u8], mode: Mode) {
        let hash = self.stripes.hasher.hash_one((table, key));
        let stripe = usize::try_from(hash % STRIPES as u64).unwrap_or(0);
        let claimed = self.modes.entry(stripe).or_insert(mode);
        *claimed = mode.max(*claimed);
    }

    /// Waits for all of them.
    pub(super) fn hold(self) -> Held<'a> {
        let (mut shared, mut exclusive) = (Vec::new(), Vec::new());
        for (stripe, mode) in self.modes {
            let Some(lock) = self.stripes.locks.get(stripe) else {
                continue;
            };
            // The lock guards no memory that a panic could have left half written.
            match mode {
                Mode::Shared => shared.push(lock.read().unwrap_or_else(PoisonError::into_inner)),
                Mode::Exclusive => {
                    exclusive.push(lock.write().unwrap_or_else(PoisonError::into_inner))
                }
            }
        }
        Held {
            _shared: shared,
            _exclusive: exclusive,
        }
    }
}
