//! When which address is woken without news: at times of its own that say nothing of each other.

use std::collections::{BTreeSet, HashMap};

use super::Reachable;
use crate::keys::Tag;

/// One decoy for each address: the next.
pub(super) struct Decoys {
    /// Between two decoys of an address, on the average. 0: there are none.
    mean_ms: u64,
    most: usize,
    planned: HashMap<Tag, (u64, Reachable)>,
    order: BTreeSet<(u64, Tag)>,
}

impl Decoys {
    pub(super) fn new(mean_ms: u64, most: usize) -> Self {
        Self {
            mean_ms,
            most,
            planned: HashMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// Plans a decoy for a device that agreed, if none is planned for its address. One that does
    /// not agree any more loses its own.
    pub(super) fn heard(&mut self, reachable: Reachable, now_ms: u64, chance: u64) {
        let Reachable {
            device,
            tag,
            decoys,
            ..
        } = reachable;
        match self.planned.get(&tag).copied() {
            // Its pace may be another one.
            Some((due_ms, _)) if decoys => {
                self.planned.insert(tag, (due_ms, reachable));
            }
            Some((_, planned)) if planned.device == device => self.forget(tag),
            None if decoys && self.mean_ms > 0 && self.planned.len() < self.most => {
                self.plan(reachable, now_ms, chance);
            }
            _ => {}
        }
    }

    pub(super) fn forget(&mut self, tag: Tag) {
        if let Some((due_ms, _)) = self.planned.remove(&tag) {
            self.order.remove(&(due_ms, tag));
        }
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.order.first().map(|(due_ms, _)| *due_ms)
    }

    /// Whose decoy is due. The next one is planned from now on: a clock that jumps makes no more
    /// than one.
    pub(super) fn take_due(&mut self, now_ms: u64, chance: u64) -> Option<Reachable> {
        let &(_, tag) = self.order.first().filter(|(due_ms, _)| *due_ms <= now_ms)?;
        let (due_ms, reachable) = self.planned.remove(&tag)?;
        self.order.remove(&(due_ms, tag));
        self.plan(reachable, now_ms, chance);
        Some(reachable)
    }

    fn plan(&mut self, reachable: Reachable, now_ms: u64, chance: u64) {
        let due_ms = now_ms.saturating_add(wait_ms(self.mean_ms, chance));
        self.planned.insert(reachable.tag, (due_ms, reachable));
        self.order.insert((due_ms, reachable.tag));
    }
}

/// A wait of an exponential distribution: how long it was quiet says nothing of how long it will
/// be. At least a millisecond, at most some 37 times the mean.
fn wait_ms(mean_ms: u64, chance: u64) -> u64 {
    const STEPS: u64 = 1 << 53;
    let uniform = ((chance % STEPS) + 1) as f64 / STEPS as f64;
    ((-uniform.ln() * mean_ms as f64) as u64).max(1)
}
