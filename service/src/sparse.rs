//! Log lines that an outsider can cause: one a minute, with how often it happened meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(60);

/// One kind of line.
#[derive(Debug, Default)]
pub struct Sparse(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    since: u64,
}

impl Sparse {
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(State {
            last: None,
            since: 0,
        }))
    }

    /// It happened again. If a line is due: how often since the last one.
    #[allow(
        clippy::disallowed_methods,
        reason = "how often something is logged, by no clock that anybody sets"
    )]
    pub fn due(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.since = state.since.saturating_add(1);
        let now = Instant::now();
        let is_due = state
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= EVERY);
        is_due.then(|| {
            state.last = Some(now);
            std::mem::take(&mut state.since)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_those_of_the_next_minute_are_counted() {
        let sparse = Sparse::new();
        assert_eq!(sparse.due(), Some(1));
        for _ in 0..1_000 {
            assert_eq!(sparse.due(), None);
        }
        let minute_ago = |state: &mut State| {
            state.last = state.last.and_then(|last| last.checked_sub(EVERY));
        };
        minute_ago(&mut sparse.0.lock().unwrap_or_else(PoisonError::into_inner));
        assert_eq!(sparse.due(), Some(1_001));
    }
}
