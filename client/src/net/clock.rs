//! Time comes from outside, so that tests can move it.

pub use basis::{Clock, SharedClock, SystemClock};
use protocol::ids::Day;

/// What is kept of a difference between clocks, in steps of this many milliseconds. Whoever tells
/// clients the time could tell each another one and know them again by it (RFC 9458 §6.5.2): so
/// only what the relay says too is kept, whose operator is another; and what is wrong by less than
/// a step is within the windows of gateway and service anyway.
const STEP_MS: i64 = 5 * 60 * 1000;

/// A clock, and how far the service's clock is known to be from it.
#[derive(Clone)]
pub(crate) struct ServiceTime {
    clock: SharedClock,
    offset_ms: i64,
    /// How far the relay's clock was from ours when it last said the time.
    relay_offset_ms: Option<i64>,
}

impl ServiceTime {
    pub(crate) fn new(clock: SharedClock, offset_ms: i64) -> Self {
        Self {
            clock,
            offset_ms,
            relay_offset_ms: None,
        }
    }

    pub(crate) fn now_unix_ms(&self) -> u64 {
        self.clock
            .now_unix_ms()
            .saturating_add_signed(self.offset_ms)
    }

    /// The day, since 1970.
    pub(crate) fn today(&self) -> u32 {
        Day::of(self.now_unix_ms()).0
    }

    pub(crate) fn offset_ms(&self) -> i64 {
        self.offset_ms
    }

    /// Another process has learned how far the service's clock is from ours.
    pub(crate) fn follow(&mut self, offset_ms: i64) {
        self.offset_ms = offset_ms;
    }

    /// The relay said what time it is.
    pub(crate) fn witness(&mut self, relay_unix_ms: u64) {
        self.relay_offset_ms = Some(self.offset_of(relay_unix_ms));
    }

    /// The gateway or the service said what time it is there. It is kept if the relay agrees.
    pub(crate) fn learn(&mut self, service_unix_ms: u64) {
        let told = self.offset_of(service_unix_ms);
        let Some(witnessed) = self.relay_offset_ms else {
            return;
        };
        if told.abs_diff(witnessed) <= STEP_MS.unsigned_abs() {
            let steps = witnessed.saturating_add(STEP_MS / 2).div_euclid(STEP_MS);
            self.offset_ms = steps.saturating_mul(STEP_MS);
        }
    }

    fn offset_of(&self, unix_ms: u64) -> i64 {
        let local = i64::try_from(self.clock.now_unix_ms()).unwrap_or(i64::MAX);
        i64::try_from(unix_ms)
            .unwrap_or(i64::MAX)
            .saturating_sub(local)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Stopped(u64);

    impl Clock for Stopped {
        fn now_unix_ms(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn a_time_that_the_relay_confirms_is_kept_as_well_as_the_window_of_the_service_needs() {
        for service in [0, 1_000, 90_000_000, 1_700_000_000_000] {
            let mut time = ServiceTime::new(Arc::new(Stopped(50_000_000)), 0);
            assert_eq!(time.now_unix_ms(), 50_000_000);
            time.witness(service + 20_000);
            time.learn(service);
            assert!(time.now_unix_ms().abs_diff(service) <= 170_000);
        }
    }

    #[test]
    fn no_client_is_marked_by_a_time_that_it_is_told() {
        const NOW: u64 = 50_000_000;
        for told in [
            0,
            NOW - 600_000,
            NOW - 149_000,
            NOW,
            NOW + 301_000,
            NOW + 600_000,
            u64::MAX,
        ] {
            // By the gateway or the service alone, and by one whose relay says otherwise.
            for relay in [None, Some(NOW - 2_000), Some(NOW + 2_000)] {
                let mut time = ServiceTime::new(Arc::new(Stopped(NOW)), 0);
                relay.into_iter().for_each(|relay| time.witness(relay));
                time.learn(told);
                assert_eq!(time.offset_ms(), 0, "{told} {relay:?}");
            }
            // By the relay alone.
            let mut time = ServiceTime::new(Arc::new(Stopped(NOW)), 0);
            time.witness(told);
            assert_eq!(time.offset_ms(), 0);
        }
    }
}
