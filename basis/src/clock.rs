//! Time comes from outside, so that expiry paths can be tested and processes simulated.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
#[cfg(not(target_arch = "wasm32"))]
use std::time::{Instant, SystemTime, UNIX_EPOCH};
#[cfg(target_arch = "wasm32")]
use web_time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the current time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
    fn now_unix_ms(&self) -> u64;

    /// Milliseconds since some moment, unmoved when the time is set: for ages that somebody would
    /// gain by ending early.
    fn monotonic_ms(&self) -> u64 {
        self.now_unix_ms()
    }
}

/// A clock as it is handed to every part of a process.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The system clock as a [`SharedClock`].
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the time of the machine is read"
    )]
    fn now_unix_ms(&self) -> u64 {
        // A clock set before 1970 reads as 1970: everything that expires then stays valid, and
        // nothing panics.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the time of the machine is read"
    )]
    fn monotonic_ms(&self) -> u64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug, Default)]
pub struct MovedClock(AtomicU64);

impl MovedClock {
    /// A clock that shows `unix_ms`.
    #[must_use]
    pub fn at(unix_ms: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(unix_ms)))
    }

    /// Shows `unix_ms` from now on; it may lie in the past.
    pub fn set(&self, unix_ms: u64) {
        self.0.store(unix_ms, Ordering::SeqCst);
    }

    /// Moves the clock forward by `ms`.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now_unix_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_clock_shows_what_it_was_set_to() {
        let clock = MovedClock::at(1_000);
        clock.advance(500);
        assert_eq!(clock.now_unix_ms(), 1_500);
        clock.set(7);
        assert_eq!(clock.now_unix_ms(), 7);
    }

    #[test]
    fn the_system_clock_is_past_2024() {
        assert!(SystemClock.now_unix_ms() > 1_704_067_200_000);
    }
}
