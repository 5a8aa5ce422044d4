//! Nine bytes for each leaf place, which every commit reads whole: the week of the leaf's last
//! commit, and a short form of its recovery key. Weeks are written by commits only, so that they
//! say of nobody when it was there otherwise.

use crypto::schedule::recovery_row_id;
use protocol::ids::{GroupId, RecoveryRowId, Week};
use zeroize::Zeroizing;

use super::open::OpenedGroup;
use super::parts;
use super::roster::Roster;
use super::short::{byte_of, week_of};
use crate::refusal::Stop;
use crate::rows::Part;
use crate::view::View;

const FORMAT: u8 = 1;

/// The first bytes of the id of a recovery key's row. Two keys with one short form are taken for
/// one: among a thousand keys by chance once in 2^54 times. Who searches for such a key has none
/// but its own refused.
type ShortKey = [u8; 8];

/// Of a leaf that has set no recovery key.
const NONE: ShortKey = [0; 8];

fn short_key(row: &RecoveryRowId) -> ShortKey {
    row.0.first_chunk().copied().unwrap_or(NONE)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    week: u8,
    key: ShortKey,
}

/// The plaintext of the part: `format || (week(1) || short key(8))…`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marks(Vec<Mark>);

const DAMAGED: Stop = Stop::Internal("the marks of a group's leaves");

impl Marks {
    pub(super) fn of_creator(week: Week, key: Option<&RecoveryRowId>) -> Self {
        let mut marks = Self(Vec::new());
        marks.resize(1, week);
        marks.set_key(0, key);
        marks
    }

    /// Opens the part, which was read.
    pub(super) fn open(group: &OpenedGroup, view: &View) -> Result<Self, Stop> {
        let part = (Part::Marks, &group.short.marks);
        let sealed = view.row(&group.row.part(Part::Marks))?;
        let bytes = parts::open(&group.id, &group.short.data_key, part, sealed)?;
        Self::decode(&bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Stop> {
        let Some((&FORMAT, bytes)) = bytes.split_first() else {
            return Err(DAMAGED);
        };
        let (marks, []) = bytes.as_chunks::<9>() else {
            return Err(DAMAGED);
        };
        let mark = |[week, key @ ..]: &[u8; 9]| Mark {
            week: *week,
            key: *key,
        };
        Ok(Self(marks.iter().map(mark).collect()))
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(1 + 9 * self.0.len()));
        out.push(FORMAT);
        for Mark { week, key } in &self.0 {
            out.push(*week);
            out.extend(key);
        }
        out
    }

    fn at(&self, leaf: u32) -> Option<&Mark> {
        self.0.get(usize::try_from(leaf).ok()?)
    }

    fn at_mut(&mut self, leaf: u32) -> Option<&mut Mark> {
        self.0.get_mut(usize::try_from(leaf).ok()?)
    }

    /// Leaf places up to the last one that is filled.
    pub(super) fn resize(&mut self, places: u32, week: Week) {
        let empty = Mark {
            week: byte_of(week),
            key: NONE,
        };
        if let Ok(places) = usize::try_from(places) {
            self.0.resize(places, empty);
        }
    }

    /// A leaf has committed, or has come in.
    pub(super) fn set_week(&mut self, leaf: u32, week: Week) {
        if let Some(mark) = self.at_mut(leaf) {
            mark.week = byte_of(week);
        }
    }

    /// The week of a leaf's last commit.
    pub(super) fn week(&self, leaf: u32, now: Week) -> Week {
        self.at(leaf).map_or(now, |mark| week_of(mark.week, now))
    }

    /// A leaf has this recovery key from now on, or none.
    pub(super) fn set_key(&mut self, leaf: u32, row: Option<&RecoveryRowId>) {
        if let Some(mark) = self.at_mut(leaf) {
            mark.key = row.map_or(NONE, short_key);
        }
    }

    /// Whether another leaf than this one has this recovery key.
    pub(super) fn has_key(&self, group: &GroupId, public_key: &[u8], but: Option<u32>) -> bool {
        let key = short_key(&recovery_row_id(group, public_key));
        let but = but.and_then(|leaf| usize::try_from(leaf).ok());
        let mut marks = self.0.iter().enumerate();
        marks.any(|(at, mark)| mark.key == key && Some(at) != but)
    }

    /// The leaf whose recovery key a row may be of: the roster says whether it is.
    pub(super) fn leaf_of(&self, row: &RecoveryRowId) -> Option<u32> {
        let key = short_key(row);
        let marks = (0..).zip(&self.0);
        let mut found = marks.filter(|(_, mark)| key != NONE && mark.key == key);
        found.next().map(|(leaf, _)| leaf)
    }

    /// That the keys are those of the roster, all of which is open.
    pub(super) fn check(&self, group: &GroupId, roster: &Roster) -> Result<(), Stop> {
        let is_of = |(leaf, mark): (u32, &Mark)| {
            let row = roster.leaf(leaf).and_then(|leaf| leaf.recovery_row(group));
            mark.key == row.as_ref().map_or(NONE, short_key)
        };
        match (0..).zip(&self.0).all(is_of) {
            true => Ok(()),
            false => Err(Stop::Internal("self-check: a mark differs")),
        }
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId([7; 16]);

    #[test]
    fn marks_are_stored_as_they_always_were() {
        let mut marks = Marks::of_creator(Week(2_900), None);
        marks.resize(3, Week(2_900));
        marks.set_week(2, Week(2_901));
        marks.set_key(1, Some(&recovery_row_id(&GROUP, b"key")));
        let bytes = marks.encode();
        crate::fixtures::check("marks part", &bytes);
        assert_eq!(Marks::decode(&bytes).unwrap(), marks);
        assert!(Marks::decode(bytes.get(..bytes.len() - 1).unwrap()).is_err());
    }

    #[test]
    fn a_key_is_known_until_its_leaf_has_another() {
        let mut marks = Marks::of_creator(Week(2_900), None);
        marks.resize(2, Week(2_900));
        let row = recovery_row_id(&GROUP, b"key");
        marks.set_key(1, Some(&row));
        assert_eq!(marks.leaf_of(&row), Some(1));
        assert!(marks.has_key(&GROUP, b"key", None));
        assert!(marks.has_key(&GROUP, b"key", Some(0)));
        assert!(!marks.has_key(&GROUP, b"key", Some(1)));
        assert!(!marks.has_key(&GROUP, b"another", None));
        marks.set_key(1, None);
        assert_eq!(marks.leaf_of(&row), None);
        assert_eq!(marks.leaf_of(&RecoveryRowId([0; 32])), None);
    }
}
