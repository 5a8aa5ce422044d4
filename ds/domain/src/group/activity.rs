//! A byte for each leaf place: the week of its last commit. Written by commits only, so that it
//! says of nobody when it was there otherwise.

use protocol::ids::Week;
use zeroize::Zeroizing;

use super::open::OpenedGroup;
use super::parts;
use super::short::{byte_of, week_of};
use crate::refusal::Stop;
use crate::rows::Part;
use crate::view::View;

const FORMAT: u8 = 1;

/// The plaintext of an activity part: `format || byte…`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Activity(Vec<u8>);

impl Activity {
    pub(super) fn of_creator(week: Week) -> Self {
        Self(vec![byte_of(week)])
    }

    /// Opens the part, which was read.
    pub(super) fn open(group: &OpenedGroup, view: &View) -> Result<Self, Stop> {
        let part = (Part::Activity, &group.short.activity);
        let sealed = view.row(&group.row.part(Part::Activity))?;
        let bytes = parts::open(&group.id, &group.short.data_key, part, sealed)?;
        match bytes.split_first() {
            Some((&FORMAT, weeks)) => Ok(Self(weeks.to_vec())),
            _ => Err(Stop::Internal("the activity part of a group")),
        }
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&[FORMAT], self.0.as_slice()].concat())
    }

    /// A leaf has committed, or has come in.
    pub(super) fn mark(&mut self, leaf: u32, week: Week) {
        let Ok(at) = usize::try_from(leaf) else {
            return;
        };
        if self.0.len() <= at {
            self.0.resize(at.saturating_add(1), byte_of(week));
        }
        if let Some(byte) = self.0.get_mut(at) {
            *byte = byte_of(week);
        }
    }

    /// Leaf places up to the last one that is filled.
    pub(super) fn resize(&mut self, places: u32, week: Week) {
        if let Ok(places) = usize::try_from(places) {
            self.0.resize(places, byte_of(week));
        }
    }

    /// The week of a leaf's last commit.
    pub(super) fn of(&self, leaf: u32, now: Week) -> Week {
        usize::try_from(leaf)
            .ok()
            .and_then(|at| self.0.get(at))
            .map_or(now, |byte| week_of(*byte, now))
    }
}

/// Weeks without a commit after which a leaf is due. Its client commits every `max(45, members /
/// 20)` days at the latest, and is waited for three times as long.
pub(super) fn patience(members: usize, inactive_weeks: u16) -> u16 {
    let days = members.saturating_mul(3) / 20;
    // A byte does not tell more than five years.
    let weeks = u16::try_from(days.div_ceil(7)).unwrap_or(u16::MAX).min(250);
    inactive_weeks.max(weeks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activity_is_stored_as_it_always_was() {
        let mut activity = Activity::of_creator(Week(2_900));
        activity.mark(2, Week(2_901));
        crate::fixtures::check("activity part", &activity.encode());
    }
}
