//! Until when a KeyPackage is good, in a form that no reader's clock can turn against the group.
//!
//! MLS libraries compare the lifetime of an added leaf (RFC 9420 §7.2) with the clock of the
//! *reader* of the commit, now or weeks later. A member whose clock is off would so lose a group
//! that everybody else follows. §7.3 demands the check of the sender only. So here every lifetime
//! begins at 0 and ends [`ALWAYS_S`] seconds after its real end: every clock finds it good. The
//! real end is signed with it; the claimer judges it, by the service's time, and the service when
//! it accepts the commit. Nobody does so later.

/// How much later than it really ends a lifetime ends in the leaf, in seconds: beyond every clock.
pub const ALWAYS_S: u64 = 1 << 40;

/// Most days that a KeyPackage is good for. RFC 9420 §7.2 wants a maximum.
pub const MAX_DAYS: u32 = 98;

/// `not_before` and `not_after` of a leaf that is good until `end_s` (seconds since the Unix
/// epoch).
#[must_use]
pub fn bounds(end_s: u64) -> (u64, u64) {
    (0, end_s.saturating_add(ALWAYS_S))
}

/// The real end, in seconds since the Unix epoch, of a lifetime that no clock turns bad; `None` for
/// another one.
#[must_use]
pub fn end(not_before: u64, not_after: u64) -> Option<u64> {
    not_after
        .checked_sub(ALWAYS_S)
        .filter(|end| not_before == 0 && *end < ALWAYS_S)
}

/// Whether a lifetime has this form, has not ended at `now_s`, and is not longer than [`MAX_DAYS`].
#[must_use]
pub fn is_good(not_before: u64, not_after: u64, now_s: u64) -> bool {
    let longest = u64::from(MAX_DAYS).saturating_mul(24 * 60 * 60);
    end(not_before, not_after)
        .is_some_and(|end| end > now_s && end.saturating_sub(now_s) <= longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;
    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_lifetime_is_good_by_every_clock_and_keeps_its_real_end() {
        let (not_before, not_after) = bounds(NOW + 84 * DAY);
        assert_eq!(end(not_before, not_after), Some(NOW + 84 * DAY));
        for clock in [0, 1, NOW - 7200, NOW + 100 * DAY, NOW * 100] {
            assert!(not_before <= clock && clock < not_after, "{clock}");
        }
    }

    #[test]
    fn a_lifetime_of_another_form_that_has_ended_or_is_too_long_is_not_good() {
        let good = |(not_before, not_after)| is_good(not_before, not_after, NOW);
        assert!(good(bounds(NOW + 1)));
        assert!(good(bounds(NOW + 98 * DAY)));
        assert!(!good(bounds(NOW)));
        assert!(!good(bounds(NOW + 98 * DAY + 1)));
        assert!(!good((1, bounds(NOW + 1).1)));
        assert!(!good((0, NOW + 84 * DAY)));
        assert!(!good((NOW - 3600, NOW + 84 * DAY)));
        assert!(!good((0, u64::MAX)));
    }
}
