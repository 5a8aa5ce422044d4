//! What only commits, joins and codes need of a group beside its leaves.

use protocol::Wire;
use protocol::group::{CommitAccepted, JoinCode};
use protocol::ids::{Day, Digest, Epoch, GroupId, Position, RotationEpoch, Week};
use protocol::join::{SealedFormerWrapperKey, WrapperChainLink};
use protocol::journal::Place;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::open::OpenedGroup;
use super::parts;
use super::roster::Roster;
use crate::refusal::Stop;
use crate::rows::{Part, Rows};
use crate::view::View;

const FORMAT: u8 = 1;

/// Commits whose acceptance is remembered, for a winner that lost the answer.
const RECENT_COMMITS: usize = 32;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Encoded {
    recent: Vec<Recent>,
    codes: Vec<Vec<u8>>,
    waiting: Vec<Waiting>,
    chain: Vec<Vec<u8>>,
}

/// The plaintext of a control part.
#[derive(Debug, Default)]
pub(super) struct Control {
    recent: Vec<Recent>,
    /// Codes by which users may come in, some of them perhaps expired.
    pub(super) codes: Vec<JoinCode>,
    waiting: Vec<Waiting>,
    /// Former wrapper keys that a link key still needs, newest first.
    pub(super) chain: Vec<WrapperChainLink>,
}

/// A commit that was accepted.
#[derive(Debug, Serialize, Deserialize)]
struct Recent {
    epoch: u64,
    digest: [u8; 32],
    place: (u64, u64),
    accepted_ms: u64,
    /// The committer's signature key before, if the commit changed it: a winner that lost the
    /// answer signs again with that one.
    former_key: Option<Vec<u8>>,
}

/// Leaves that were added and have not been here since.
#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    /// The last day on which they can come.
    until: u32,
    leaves: Vec<u32>,
}

const DAMAGED: Stop = Stop::Internal("the control part of a group");

impl Control {
    /// Opens the part, which was read.
    pub(super) fn open(group: &OpenedGroup, view: &View) -> Result<Self, Stop> {
        let part = (Part::Control, &group.short.control);
        let sealed = view.row(&group.row.part(Part::Control))?;
        Self::decode(&parts::open(
            &group.id,
            &group.short.data_key,
            part,
            sealed,
        )?)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Stop> {
        let Encoded {
            recent,
            codes,
            waiting,
            chain,
        } = parts::decode(FORMAT, bytes)?;
        Ok(Self {
            recent,
            codes: decoded(&codes)?,
            waiting,
            chain: decoded(&chain)?,
        })
    }

    pub(super) fn encode(self) -> Result<Zeroizing<Vec<u8>>, Stop> {
        let encoded = Encoded {
            recent: self.recent,
            codes: self.codes.iter().map(Wire::encode).collect(),
            waiting: self.waiting,
            chain: self.chain.iter().map(Wire::encode).collect(),
        };
        parts::encode(FORMAT, &encoded)
    }

    /// Remembers a commit.
    pub(super) fn remember(
        &mut self,
        digest: Digest,
        accepted: &CommitAccepted,
        former_key: Option<Vec<u8>>,
    ) {
        self.recent.push(Recent {
            epoch: accepted.epoch.0,
            digest: digest.0,
            place: (accepted.place.rotation_epoch.0, accepted.place.position.0),
            accepted_ms: accepted.accepted_ms,
            former_key,
        });
        let surplus = self.recent.len().saturating_sub(RECENT_COMMITS);
        self.recent.drain(..surplus);
    }

    /// The acceptance of a commit, if it is remembered; and the key that its committer had before.
    pub(super) fn accepted(&self, digest: &Digest) -> Option<(CommitAccepted, Option<&[u8]>)> {
        let recent = self
            .recent
            .iter()
            .find(|recent| recent.digest == digest.0)?;
        let (rotation_epoch, position) = recent.place;
        Some((
            CommitAccepted {
                epoch: Epoch(recent.epoch),
                place: Place {
                    rotation_epoch: RotationEpoch(rotation_epoch),
                    position: Position(position),
                },
                accepted_ms: recent.accepted_ms,
            },
            recent.former_key.as_deref(),
        ))
    }

    /// Whether a code has come to its end: who has it knows the segment.
    pub(super) fn has_expired_code(&self, week: Week) -> bool {
        self.codes.iter().any(|code| code.expiry < week)
    }

    /// Takes out the codes that are not kept, and returns the ids of their rows.
    pub(super) fn end_codes(
        &mut self,
        group: &GroupId,
        keep: impl Fn(&JoinCode) -> bool,
        rows: &Rows<'_>,
    ) -> Vec<crate::rows::RecoveryRow> {
        let (kept, ended): (Vec<_>, Vec<_>) = std::mem::take(&mut self.codes)
            .into_iter()
            .partition(|code| keep(code));
        self.codes = kept;
        ended
            .iter()
            .map(|code| rows.recovery(&row_of(group, code)))
            .collect()
    }

    /// Whether a code has this key.
    pub(super) fn has_key(&self, public_key: &[u8]) -> bool {
        self.codes
            .iter()
            .any(|code| code.public_key.as_slice() == public_key)
    }

    /// The code with this permit, if it is good.
    pub(super) fn code(&self, permit_hash: &[u8; 32], week: Week) -> Option<&JoinCode> {
        self.codes
            .iter()
            .find(|code| code.permit_hash == *permit_hash && code.expiry >= week)
    }

    /// These leaves are awaited until a day.
    pub(super) fn await_leaves(&mut self, leaves: Vec<u32>, until: Day) {
        if !leaves.is_empty() {
            self.waiting.push(Waiting {
                until: until.0,
                leaves,
            });
        }
    }

    /// These leaves have come, or have gone. Says whether one was awaited.
    pub(super) fn no_longer_awaits(&mut self, leaves: &[u32]) -> bool {
        let awaited = |waiting: &[Waiting]| -> usize {
            waiting.iter().map(|waiting| waiting.leaves.len()).sum()
        };
        let before = awaited(&self.waiting);
        for waiting in &mut self.waiting {
            waiting.leaves.retain(|leaf| !leaves.contains(leaf));
        }
        self.waiting.retain(|waiting| !waiting.leaves.is_empty());
        awaited(&self.waiting) != before
    }

    /// Leaves that were added and cannot come any more.
    pub(super) fn never_came(&self, today: Day) -> impl Iterator<Item = u32> + '_ {
        self.waiting
            .iter()
            .filter(move |waiting| waiting.until < today.0)
            .flat_map(|waiting| waiting.leaves.iter().copied())
    }

    /// The former wrapper key joins the chain, and what no link key needs any more goes.
    pub(super) fn extend_chain(
        &mut self,
        under: RotationEpoch,
        former: SealedFormerWrapperKey,
        roster: &Roster,
    ) {
        self.chain.insert(0, WrapperChainLink { under, former });
        let oldest = roster.leaves().map(|(_, leaf)| leaf.wrapper()).min();
        self.chain
            .retain(|link| oldest.is_some_and(|oldest| link.former.of >= oldest));
    }
}

/// The id of the row of a code.
pub(super) fn row_of(group: &GroupId, code: &JoinCode) -> protocol::ids::RecoveryRowId {
    crypto::schedule::recovery_row_id(group, code.public_key.as_slice())
}

fn decoded<T: Wire>(encoded: &[Vec<u8>]) -> Result<Vec<T>, Stop> {
    encoded
        .iter()
        .map(|bytes| T::decode(bytes).map_err(|_| DAMAGED))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::opaque;
    use protocol::ids::LeafIndex;

    use super::*;

    fn control() -> Control {
        let mut control = Control::default();
        let accepted = CommitAccepted {
            epoch: Epoch(1),
            place: Place {
                rotation_epoch: RotationEpoch(2),
                position: Position(3),
            },
            accepted_ms: 4,
        };
        control.remember(Digest([5; 32]), &accepted, None);
        control.remember(Digest([6; 32]), &accepted, Some(vec![7; 2]));
        control.codes.push(JoinCode {
            permit_hash: [8; 32],
            public_key: opaque([9; 3]),
            expiry: Week(10),
            epoch: Epoch(1),
            maker: LeafIndex(11),
            signature: opaque([12; 4]),
        });
        control.await_leaves(vec![13, 14], Day(15));
        control.chain.push(WrapperChainLink {
            under: RotationEpoch(16),
            former: SealedFormerWrapperKey {
                of: RotationEpoch(17),
                sealed: opaque([18; 5]),
            },
        });
        control
    }

    #[test]
    fn a_control_part_is_read_as_it_was_written() {
        let bytes = control().encode().unwrap();
        crate::fixtures::check("control part", &bytes);
        let read = Control::decode(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", control()));
    }
}
