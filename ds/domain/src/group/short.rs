//! The short part: all that a message needs of a group beside its sender, and the key of the rest.

use crypto::schedule::{DataKey, JournalKey};
use protocol::group::GroupKind;
use protocol::ids::{Day, Epoch, RotationEpoch, SegmentId, Step, Week};
use zeroize::Zeroizing;

use super::parts::Reader;
use crate::env::{Env, Version};
use crate::refusal::Stop;
use crate::rows::Part;

const FORMAT: u8 = 1;

const MUST_ROTATE: u8 = 1;
const REINITIALIZED: u8 = 2;
const REMOVAL_PENDING: u8 = 4;

/// Leaves in a page of the roster.
pub const LEAVES_IN_PAGE: u32 = 64;

/// The plaintext of a short part.
#[derive(Debug)]
pub struct Short {
    /// Fixed for the life of the group.
    pub kind: GroupKind,
    /// The MLS ciphersuite's number.
    pub ciphersuite: u16,
    /// The group's current epoch.
    pub epoch: Epoch,
    /// The epoch that began the segment.
    pub rotation_epoch: RotationEpoch,
    /// Days that messages are kept.
    pub message_days: u16,
    /// The segment of the journal that goes on.
    pub segment: SegmentId,
    /// The entry key `k_t` of the present step.
    pub journal_key: JournalKey,
    /// Seals the other parts.
    pub data_key: DataKey,
    /// The day that the segment began.
    pub begun: Day,
    /// Whether a member's next commit must rotate, whatever the day.
    pub must_rotate: bool,
    /// After a ReInit nothing but reading and deletion is possible (RFC 9420 §11.2).
    pub reinitialized: bool,
    /// Whether a removal must be committed before anything else happens.
    pub removal_pending: bool,
    /// Leaf places up to the last one that is filled.
    pub places: u32,
    /// The version of the part [`Part::Control`].
    pub control: Version,
    /// The version of the part [`Part::Marks`].
    pub marks: Version,
    /// The version of the part [`Part::Tree`].
    pub tree: Version,
    /// The version of the part [`Part::TreeChanges`], if there is
    /// one.
    pub tree_changes: Option<Version>,
    /// The version of the part [`Part::Proposals`], if there is one.
    pub proposals: Option<Version>,
    /// The version of each page of the roster.
    pub pages: Vec<Version>,
}

const DAMAGED: Stop = Stop::Internal("the short part of a group");

impl Short {
    /// Commits since the rotation.
    #[must_use]
    pub fn step(&self) -> Step {
        let steps = self.epoch.0.saturating_sub(self.rotation_epoch.0);
        Step(u32::try_from(steps).unwrap_or(u32::MAX))
    }

    /// Whether a segment is so old that a member's next commit ends it.
    #[must_use]
    pub fn is_due(&self, env: &Env<'_>) -> bool {
        let age = env.today().0.saturating_sub(self.begun.0);
        self.must_rotate || age >= env.settings.segment_days
    }

    /// The page of a leaf, with its version.
    #[must_use]
    pub fn page_of(&self, leaf: u32) -> Option<(Part, Version)> {
        self.page(u16::try_from(leaf / LEAVES_IN_PAGE).ok()?)
    }

    /// A page, with its version.
    #[must_use]
    pub fn page(&self, page: u16) -> Option<(Part, Version)> {
        let version = self.pages.get(usize::from(page))?;
        Some((Part::Roster(page), *version))
    }

    /// All parts but the short one.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let pages = (0u16..)
            .zip(&self.pages)
            .map(|(page, _)| Part::Roster(page));
        pages
            .chain([Part::Control, Part::Marks])
            .chain(self.tree_parts())
            .chain(self.proposals.map(|_| Part::Proposals))
            .collect()
    }

    /// Parts that the tree is in.
    pub fn tree_parts(&self) -> impl Iterator<Item = Part> {
        let changes = self.tree_changes.map(|_| Part::TreeChanges);
        [Part::Tree].into_iter().chain(changes)
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let Self {
            kind,
            ciphersuite,
            epoch,
            rotation_epoch,
            message_days,
            segment,
            journal_key,
            data_key,
            begun,
            must_rotate,
            reinitialized,
            removal_pending,
            places,
            control,
            marks,
            tree,
            tree_changes,
            proposals,
            pages,
        } = self;
        let mut out = Zeroizing::new(Vec::with_capacity(256 + 16 * pages.len()));
        out.push(FORMAT);
        out.push(*kind as u8);
        out.extend(ciphersuite.to_be_bytes());
        out.extend(epoch.0.to_be_bytes());
        out.extend(rotation_epoch.0.to_be_bytes());
        out.extend(message_days.to_be_bytes());
        out.extend(segment.0);
        out.extend(journal_key.expose());
        out.extend(data_key.expose());
        out.extend(begun.0.to_be_bytes());
        let flags = [
            (*must_rotate, MUST_ROTATE),
            (*reinitialized, REINITIALIZED),
            (*removal_pending, REMOVAL_PENDING),
        ];
        let flags = flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit);
        out.push(flags.sum());
        out.extend(places.to_be_bytes());
        for version in [control, marks, tree] {
            out.extend(version.0);
        }
        for version in [tree_changes, proposals] {
            out.push(u8::from(version.is_some()));
            out.extend(version.map_or([0; 16], |version| version.0));
        }
        for version in pages {
            out.extend(version.0);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Stop> {
        Self::read(bytes).ok_or(DAMAGED)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [format, kind] = reader.take()?;
        if format != FORMAT {
            return None;
        }
        let kind = match kind {
            1 => GroupKind::Group,
            2 => GroupKind::Connection,
            3 => GroupKind::SingleUser,
            _ => return None,
        };
        let ciphersuite = u16::from_be_bytes(reader.take()?);
        let epoch = Epoch(u64::from_be_bytes(reader.take()?));
        let rotation_epoch = RotationEpoch(u64::from_be_bytes(reader.take()?));
        let message_days = u16::from_be_bytes(reader.take()?);
        let segment = SegmentId(reader.take()?);
        let journal_key = JournalKey::new(reader.take()?);
        let data_key = DataKey::new(reader.take()?);
        let begun = Day(u32::from_be_bytes(reader.take()?));
        let [flags] = reader.take()?;
        if flags >= 2 * REMOVAL_PENDING {
            return None;
        }
        let places = u32::from_be_bytes(reader.take()?);
        let [control, marks, tree] = [
            Version(reader.take()?),
            Version(reader.take()?),
            Version(reader.take()?),
        ];
        let mut optional = || {
            let [is_there] = reader.take()?;
            let version = Version(reader.take()?);
            Some((is_there == 1).then_some(version))
        };
        let [tree_changes, proposals] = [optional()?, optional()?];
        let mut pages = Vec::with_capacity(reader.0.len() / 16);
        while !reader.0.is_empty() {
            pages.push(Version(reader.take()?));
        }
        Some(Self {
            kind,
            ciphersuite,
            epoch,
            rotation_epoch,
            message_days,
            segment,
            journal_key,
            data_key,
            begun,
            must_rotate: flags & MUST_ROTATE != 0,
            reinitialized: flags & REINITIALIZED != 0,
            removal_pending: flags & REMOVAL_PENDING != 0,
            places,
            control,
            marks,
            tree,
            tree_changes,
            proposals,
            pages,
        })
    }
}

/// The week that a byte stands for, as seen from this one: a byte counts weeks around 256.
#[must_use]
pub fn week_of(byte: u8, now: Week) -> Week {
    let [_, low] = now.0.to_be_bytes();
    Week(now.0.saturating_sub(u16::from(low.wrapping_sub(byte))))
}

/// The byte of a week.
#[must_use]
pub fn byte_of(week: Week) -> u8 {
    let [_, low] = week.0.to_be_bytes();
    low
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn short() -> Short {
        Short {
            kind: GroupKind::Connection,
            ciphersuite: 3,
            epoch: Epoch(9),
            rotation_epoch: RotationEpoch(4),
            message_days: 30,
            segment: SegmentId([1; 32]),
            journal_key: JournalKey::new([2; 32]),
            data_key: DataKey::new([3; 32]),
            begun: Day(20_000),
            must_rotate: true,
            reinitialized: false,
            removal_pending: true,
            places: 65,
            control: Version([4; 16]),
            marks: Version([5; 16]),
            tree: Version([6; 16]),
            tree_changes: Some(Version([10; 16])),
            proposals: Some(Version([7; 16])),
            pages: vec![Version([8; 16]), Version([9; 16])],
        }
    }

    #[test]
    fn a_short_part_is_read_as_it_was_written_and_in_no_other_form() {
        let bytes = short().encode();
        crate::fixtures::check("short part", &bytes);
        let read = Short::decode(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", short()));
        assert_eq!(*read.encode(), *bytes);
        for end in 0..bytes.len() {
            let cut = bytes.get(..end).unwrap();
            // A part is cut at a whole page only, which its seal would show.
            if !(bytes.len() - end).is_multiple_of(16) || bytes.len() - end > 32 {
                assert!(Short::decode(cut).is_err(), "{end}");
            }
        }
        let mut other = bytes.to_vec();
        other[0] = 2;
        assert!(Short::decode(&other).is_err());
    }

    #[test]
    fn a_byte_tells_a_week_of_the_last_five_years() {
        for now in [Week(2_900), Week(3_071), Week(3_072)] {
            for back in 0..256 {
                let week = Week(now.0 - back);
                assert_eq!(week_of(byte_of(week), now), week);
            }
        }
    }
}
