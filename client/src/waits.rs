//! Numbers that others give to one client, or see of it, and that would tell it from others if they were exact.

/// Waits in seconds, as fine as anybody needs them.
const STEPS_S: [u64; 12] = [1, 2, 5, 10, 20, 30, 60, 300, 900, 3_600, 21_600, 86_400];
pub(crate) const MINUTE_MS: u64 = 60_000;

/// A wait that somebody asked for, as it is kept and carried out: one of twelve. Whoever asks each client for a wait of
/// its own does not know it again by when it comes back.
pub(crate) fn in_steps(asked_s: u64) -> u64 {
    let step = STEPS_S.iter().copied().find(|step| asked_s <= *step);
    step.unwrap_or(86_400)
}

/// The time that a request is signed with: right to the minute, and by chance within it. How far the clock of a machine is off
/// in milliseconds is the same in all requests of a client, in whose name ever they are made, and changes slowly: it
/// would tie them together.
pub(crate) fn within_its_minute(now_ms: u64) -> u64 {
    let chance = crypto::random::<8>().map_or(0, u64::from_be_bytes) % MINUTE_MS;
    (now_ms - now_ms % MINUTE_MS).saturating_add(chance)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn of_all_waits_that_can_be_asked_for_twelve_are_carried_out_and_none_is_shorter() {
        let asked = (0..200_000).chain([u64::MAX]);
        let carried_out: BTreeSet<u64> = asked.map(in_steps).collect();
        assert_eq!(carried_out.len(), 12);
        for asked in 0..=86_400 {
            assert!(in_steps(asked) >= asked);
        }
        assert_eq!([0, 7, 31, u64::MAX].map(in_steps), [1, 10, 60, 86_400]);
    }

    #[test]
    fn signed_times_say_nothing_of_a_clock_but_its_minute() {
        const NOW: u64 = 1_800_000_037_251;
        let minute = NOW - NOW % MINUTE_MS;
        let signed: Vec<u64> = (0..400).map(|_| within_its_minute(NOW)).collect();
        assert!(
            signed
                .iter()
                .all(|time| (minute..minute + MINUTE_MS).contains(time))
        );
        // Two clocks that differ by half a minute sign alike.
        let below = signed
            .iter()
            .filter(|time| **time < minute + MINUTE_MS / 2)
            .count();
        assert!((120..280).contains(&below), "{below}");
        let distinct: BTreeSet<_> = signed.iter().collect();
        assert!(distinct.len() > 380);
    }
}
