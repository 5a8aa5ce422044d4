//! Dates as the protocol counts them.

/// Milliseconds in a day.
pub const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How far a request's timestamp may be from the service's clock, either way, in milliseconds.
pub const CLOCK_WINDOW_MS: u64 = 10 * 60 * 1000;

/// The day (days since the Unix epoch) of a time in milliseconds since the Unix epoch.
#[must_use]
pub fn day_of(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / DAY_MS).unwrap_or(u32::MAX)
}
