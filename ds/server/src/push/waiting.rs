//! Handles on their way: each waits for a time of its own, with nothing beside it that says of
//! which group it is.

use std::collections::BTreeSet;

use protocol::push::{Handle, MAX_WAKES};

/// The push sender is asked for a wake so often.
const ATTEMPTS: u8 = 3;
const RETRY_MS: u64 = 10_000;

/// A handle, and how often it was tried in vain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiter {
    pub(super) handle: Handle,
    tried: u8,
}

pub(super) struct Waiting {
    most: usize,
    spread_ms: u64,
    due: BTreeSet<(u64, Waiter)>,
}

impl Waiting {
    pub(super) fn new(most: usize, spread_ms: u64) -> Self {
        Self {
            most,
            spread_ms,
            due: BTreeSet::new(),
        }
    }

    /// Has each of these wait until `end_ms`, and longer by a chance of its own. Returns how many
    /// there was no place for.
    pub(super) fn add(
        &mut self,
        handles: Vec<Handle>,
        end_ms: u64,
        mut chance: impl FnMut() -> u64,
    ) -> usize {
        let mut left_out = 0;
        for handle in handles {
            if self.due.len() >= self.most {
                left_out += 1;
                continue;
            }
            let later_ms = chance() % self.spread_ms.saturating_add(1);
            let tried = 0;
            let waiter = Waiter { handle, tried };
            self.due.insert((end_ms.saturating_add(later_ms), waiter));
        }
        left_out
    }

    /// Those whose time has come, as many as one request holds.
    pub(super) fn take(&mut self, now_ms: u64) -> Vec<Waiter> {
        let mut taken = Vec::new();
        while taken.len() < MAX_WAKES
            && let Some((due_ms, waiter)) = self.due.first().copied()
            && due_ms <= now_ms
        {
            self.due.pop_first();
            taken.push(waiter);
        }
        // By chance, too: they are random bytes.
        taken.sort_unstable();
        taken
    }

    /// The push sender has not taken these. Returns how many are given up.
    pub(super) fn put_back(&mut self, taken: Vec<Waiter>, now_ms: u64) -> usize {
        let mut given_up = 0;
        for Waiter { handle, tried } in taken {
            let tried = tried.saturating_add(1);
            if tried >= ATTEMPTS || self.due.len() >= self.most {
                given_up += 1;
            } else {
                let due_ms = now_ms.saturating_add(RETRY_MS);
                self.due.insert((due_ms, Waiter { handle, tried }));
            }
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handles(count: u8) -> Vec<Handle> {
        (0..count).map(|it| [it; 96]).collect()
    }

    #[test]
    fn each_handle_waits_for_a_time_of_its_own_behind_the_interval() {
        let mut waiting = Waiting::new(100, 10_000);
        let mut chance = 0;
        waiting.add(handles(50), 5_000, || {
            chance += 7_919;
            chance
        });
        assert!(waiting.take(4_999).is_empty());
        let times: Vec<u64> = (5_000..=15_000)
            .flat_map(|now_ms| vec![now_ms; waiting.take(now_ms).len()])
            .collect();
        assert_eq!(times.len(), 50);
        let alone = times.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!(alone > 40, "spread: {times:?}");
    }

    #[test]
    fn memory_and_requests_are_bounded() {
        let mut waiting = Waiting::new(10, 0);
        assert_eq!(waiting.add(handles(12), 0, || 0), 2);
        let mut waiting = Waiting::new(10_000, 0);
        for _ in 0..10 {
            waiting.add(
                (0..200)
                    .map(|_| crypto::random().unwrap_or([0; 96]))
                    .collect(),
                0,
                || 0,
            );
        }
        assert_eq!(waiting.take(0).len(), MAX_WAKES);
    }

    #[test]
    fn what_the_push_sender_does_not_take_is_tried_again_and_given_up() {
        let mut waiting = Waiting::new(10, 0);
        waiting.add(handles(2), 0, || 0);
        let taken = waiting.take(0);
        assert_eq!(waiting.put_back(taken, 0), 0);
        assert!(waiting.take(RETRY_MS - 1).is_empty());
        let taken = waiting.take(RETRY_MS);
        assert_eq!(waiting.put_back(taken, RETRY_MS), 0);
        let taken = waiting.take(2 * RETRY_MS);
        assert_eq!((taken.len(), waiting.put_back(taken, 0)), (2, 2));
    }
}
