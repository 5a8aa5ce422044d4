//! How often a group's handles are looked up: once an interval, whatever is said in it.

use std::collections::HashMap;
use std::hash::Hash;

use ds_domain::group::handles::Whose;

/// What is to be looked up, and when the interval ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) whose: Whose,
    pub(super) end_ms: u64,
}

struct Open {
    end_ms: u64,
    /// The sender of the first message: all others are woken for it.
    first: u32,
    /// Another one has sent, too.
    is_all: bool,
}

/// The groups that something was said in lately.
pub(super) struct Passes<K> {
    interval_ms: u64,
    most: usize,
    open: HashMap<K, Open>,
}

impl<K: Hash + Eq> Passes<K> {
    pub(super) fn new(interval_ms: u64, most: usize) -> Self {
        Self {
            interval_ms,
            most,
            open: HashMap::new(),
        }
    }

    /// A leaf has sent a message. Everybody is woken behind the end of the interval: whoever comes
    /// then finds all that was said in it.
    pub(super) fn message(&mut self, segment: K, sender: u32, now_ms: u64) -> Option<Pass> {
        if let Some(open) = self.open.get_mut(&segment)
            && now_ms < open.end_ms
        {
            if open.is_all || open.first == sender {
                return None;
            }
            open.is_all = true;
            return Some(Pass {
                whose: Whose::Only(open.first),
                end_ms: open.end_ms,
            });
        }
        if self.open.len() >= self.most {
            self.open.retain(|_, open| now_ms < open.end_ms);
        }
        if self.open.len() >= self.most {
            return None;
        }
        let end_ms = now_ms.saturating_add(self.interval_ms);
        let open = Open {
            end_ms,
            first: sender,
            is_all: false,
        };
        self.open.insert(segment, open);
        Some(Pass {
            whose: Whose::AllBut(sender),
            end_ms,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn whose(pass: Option<Pass>) -> Option<Whose> {
        pass.map(|pass| pass.whose)
    }

    #[test]
    fn a_group_is_looked_up_once_an_interval_and_its_first_sender_when_another_one_sends() {
        let mut passes = Passes::new(5_000, 10);
        let it = 1;
        let mut pass = |sender, now_ms| passes.message(it, sender, now_ms);
        let first = pass(3, 100).unwrap();
        assert_eq!((first.whose, first.end_ms), (Whose::AllBut(3), 5_100));
        for now_ms in 101..1_000 {
            assert_eq!(pass(3, now_ms), None);
        }
        let second = pass(4, 1_000).unwrap();
        assert_eq!((second.whose, second.end_ms), (Whose::Only(3), 5_100));
        for sender in 0..100 {
            assert_eq!(pass(sender, 5_099), None);
        }
        assert_eq!(whose(pass(4, 5_100)), Some(Whose::AllBut(4)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_other_groups_have_their_own_interval() {
        let mut passes = Passes::new(5_000, 2);
        assert!(passes.message(1, 0, 0).is_some());
        assert!(passes.message(2, 0, 1_000).is_some());
        assert!(passes.message(3, 0, 2_000).is_none());
        assert!(passes.message(3, 0, 5_500).is_some());
        assert_eq!(passes.open.len(), 2);
    }
}
