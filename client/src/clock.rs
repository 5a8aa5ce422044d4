//! Time comes from outside, so that tests can move it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the current time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
    fn now_unix_ms(&self) -> u64;
}

/// A clock as it is handed to a client.
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
        // A clock set before 1970 reads as 1970; the service then tells its own time.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }
}

/// What is kept of a difference between clocks, in steps of this many milliseconds. Whoever tells clients the time could
/// tell each another one and know them again by it (RFC 9458 §6.5.2); and what is wrong by less than a step
/// is within the windows of gateway and service anyway.
const STEP_MS: i64 = 5 * 60 * 1000;

/// A clock, and how far the service's clock is known to be from it.
#[derive(Clone)]
pub(crate) struct ServiceTime {
    clock: SharedClock,
    offset_ms: i64,
}

impl ServiceTime {
    pub(crate) fn new(clock: SharedClock, offset_ms: i64) -> Self {
        Self { clock, offset_ms }
    }

    pub(crate) fn now_unix_ms(&self) -> u64 {
        self.clock
            .now_unix_ms()
            .saturating_add_signed(self.offset_ms)
    }

    pub(crate) fn offset_ms(&self) -> i64 {
        self.offset_ms
    }

    /// The service said what time it is there.
    pub(crate) fn learn(&mut self, service_unix_ms: u64) {
        let local = i64::try_from(self.clock.now_unix_ms()).unwrap_or(i64::MAX);
        let service = i64::try_from(service_unix_ms).unwrap_or(i64::MAX);
        let steps = service
            .saturating_sub(local)
            .saturating_add(STEP_MS / 2)
            .div_euclid(STEP_MS);
        self.offset_ms = steps.saturating_mul(STEP_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stopped(u64);

    impl Clock for Stopped {
        fn now_unix_ms(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn once_told_the_service_time_is_kept_as_well_as_its_window_needs() {
        for service in [0, 1_000, 90_000_000, 1_700_000_000_000] {
            let mut time = ServiceTime::new(Arc::new(Stopped(50_000_000)), 0);
            assert_eq!(time.now_unix_ms(), 50_000_000);
            time.learn(service);
            assert!(time.now_unix_ms().abs_diff(service) <= 150_000);
        }
    }

    #[test]
    fn clients_with_a_good_clock_are_not_told_apart_by_what_they_were_told() {
        for told in [50_000_000 - 149_000, 50_000_000, 50_000_000 + 149_000] {
            let mut time = ServiceTime::new(Arc::new(Stopped(50_000_000)), 0);
            time.learn(told);
            assert_eq!(time.offset_ms(), 0);
        }
    }
}
