//! The order of what this process delivers, as clients see it in their entries.

use std::sync::atomic::{AtomicU64, Ordering};

/// Hands out numbers that grow: microseconds of the service's clock, moved on where two would tie or
/// the clock has gone back. Another process, or this one after a restart, goes by its clock.
#[derive(Debug, Default)]
pub struct Sequence(AtomicU64);

impl Sequence {
    /// Greater than every number before.
    pub fn next(&self, now_ms: u64) -> u64 {
        let now_us = now_ms.saturating_mul(1000);
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            let next = now_us.max(last.saturating_add(1));
            match self
                .0
                .compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return next,
                Err(current) => last = current,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_clock_and_neither_tie_nor_go_back_with_it() {
        let sequence = Sequence::default();
        assert_eq!(sequence.next(5), 5_000);
        assert_eq!(sequence.next(5), 5_001);
        assert_eq!(sequence.next(2), 5_002);
        assert_eq!(sequence.next(6), 6_000);
    }

    #[test]
    fn threads_get_a_number_each() {
        let sequence = Sequence::default();
        let mut numbers: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).map(|_| sequence.next(7)).collect::<Vec<_>>()))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        numbers.sort_unstable();
        assert_eq!(numbers, (7_000..11_000).collect::<Vec<_>>());
    }
}
