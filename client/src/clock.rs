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
        self.offset_ms = service.saturating_sub(local);
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
    fn once_told_the_service_time_is_kept() {
        for service in [1_000, 90_000_000] {
            let mut time = ServiceTime::new(Arc::new(Stopped(50_000)), 0);
            assert_eq!(time.now_unix_ms(), 50_000);
            time.learn(service);
            assert_eq!(time.now_unix_ms(), service);
        }
    }
}
