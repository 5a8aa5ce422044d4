//! How often a group's handles are looked up: once an interval, whatever is said in it.

use std::collections::HashMap;
use std::hash::Hash;

/// The groups that something was said in lately, and until when nothing more is looked up there.
pub(super) struct Passes<K> {
    interval_ms: u64,
    most: usize,
    open: HashMap<K, u64>,
    /// Before that, there is nothing more to forget than was forgotten.
    tidied_ms: u64,
}

impl<K: Hash + Eq> Passes<K> {
    pub(super) fn new(interval_ms: u64, most: usize) -> Self {
        Self {
            interval_ms,
            most,
            open: HashMap::new(),
            tidied_ms: 0,
        }
    }

    /// A message was accepted. If the group's handles are to be looked up for it: when the interval
    /// ends. Everybody is woken after that, and finds all that was said in it.
    pub(super) fn message(&mut self, segment: K, now_ms: u64) -> Option<u64> {
        let is_open = self
            .open
            .get(&segment)
            .is_some_and(|end_ms| now_ms < *end_ms);
        if is_open {
            return None;
        }
        // Behind a request: not all of them for each message.
        let is_full = self.open.len() >= self.most;
        if is_full && now_ms >= self.tidied_ms.saturating_add(self.interval_ms / 4) {
            self.open.retain(|_, end_ms| now_ms < *end_ms);
            self.tidied_ms = now_ms;
        }
        if self.open.len() >= self.most && !self.open.contains_key(&segment) {
            return None;
        }
        let end_ms = now_ms.saturating_add(self.interval_ms);
        self.open.insert(segment, end_ms);
        Some(end_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_looked_up_once_an_interval() {
        let mut passes = Passes::new(5_000, 10);
        assert_eq!(passes.message(1, 100), Some(5_100));
        for now_ms in 101..5_100 {
            assert_eq!(passes.message(1, now_ms), None);
        }
        assert_eq!(passes.message(1, 5_100), Some(10_100));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_other_groups_have_their_own_interval() {
        let mut passes = Passes::new(5_000, 2);
        assert!(passes.message(1, 0).is_some());
        assert!(passes.message(2, 1_000).is_some());
        assert!(passes.message(3, 2_000).is_none());
        assert!(passes.message(3, 5_500).is_some());
        assert_eq!(passes.open.len(), 2);
    }
}
