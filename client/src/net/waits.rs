//! Numbers that others give to one client, or see of it, and that would tell it from others if they
//! were exact.

/// Waits in seconds, as fine as anybody needs them.
const STEPS_S: [u64; 12] = [1, 2, 5, 10, 20, 30, 60, 300, 900, 3_600, 21_600, 86_400];
pub(crate) const MINUTE_MS: u64 = 60_000;

/// A wait that somebody asked for, as it is kept and carried out: one of twelve. Whoever asks each
/// client for a wait of its own does not know it again by when it comes back.
pub(crate) fn in_steps(asked_s: u64) -> u64 {
    let step = STEPS_S.iter().copied().find(|step| asked_s <= *step);
    step.unwrap_or(86_400)
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
}
