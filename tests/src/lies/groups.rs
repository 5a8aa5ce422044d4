//! Lies about groups: what is in them, what was accepted, which id is free.

use client::StopReason;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::{
    CommitAccepted, EntryAccepted, InspectGroupRequest, InspectGroupResponse,
    ReserveGroupIdResponse,
};
use protocol::ids::{Epoch, GroupId, LeafIndex, Position, RotationEpoch, Week};
use protocol::journal::Place;
use protocol::operation::Operation;
use protocol::policy::Capabilities;
use tls_codec::VLBytes;

use super::Does::{Add, Create, Mute, Renew, Send, Upgrade, Verify};
use super::Outcome::{Evidence, Harmless, Refused, Stops};
use super::means::{GARBAGE, Lie};
use super::{alter, refusals};
use crate::liar::Liar;

fn inspected(
    liar: &Liar,
    change: impl Fn(&mut InspectGroupResponse) + core::marker::Send + 'static,
) {
    alter(liar, Operation::InspectGroup, change);
}

fn accepted(
    liar: &Liar,
    operation: Operation,
    change: impl Fn(&mut CommitAccepted) + core::marker::Send + 'static,
) {
    alter(liar, operation, change);
}

fn sent(liar: &Liar, change: impl Fn(&mut EntryAccepted) + core::marker::Send + 'static) {
    alter(liar, Operation::SendMessage, change);
}

fn reserved(liar: &Liar, id: GroupId) {
    let operation = Operation::ReserveGroupId;
    alter(liar, operation, move |it: &mut ReserveGroupIdResponse| {
        it.group_id = id
    });
}

pub(super) const INSPECT_GROUP: &[Lie] = &[
    (
        "InspectGroup.epoch: an earlier one",
        Verify,
        |liar, _| inspected(liar, |it| it.epoch.0 -= 1),
        Stops(StopReason::Behind),
    ),
    (
        "InspectGroup.epoch: 0",
        Verify,
        |liar, _| inspected(liar, |it| it.epoch = Epoch(0)),
        Stops(StopReason::Behind),
    ),
    (
        "InspectGroup.epoch: the highest number",
        Verify,
        |liar, _| inspected(liar, |it| it.epoch = Epoch(u64::MAX)),
        Stops(StopReason::Missing),
    ),
    (
        "InspectGroup.rotation_epoch: another one",
        Verify,
        |liar, _| inspected(liar, |it| it.rotation_epoch.0 += 1),
        Harmless,
    ),
    (
        "InspectGroup.rotation_epoch: the highest number",
        Verify,
        |liar, _| inspected(liar, |it| it.rotation_epoch = RotationEpoch(u64::MAX)),
        Harmless,
    ),
    (
        "InspectGroup.rotation_due: 1",
        Verify,
        |liar, _| inspected(liar, |it| it.rotation_due = 1),
        Harmless,
    ),
    (
        "InspectGroup.rotation_due: no such number",
        Verify,
        |liar, _| inspected(liar, |it| it.rotation_due = 255),
        Harmless,
    ),
    (
        "InspectGroup.leaves: none",
        Verify,
        |liar, _| inspected(liar, |it| it.leaves.clear()),
        Refused("peer"),
    ),
    (
        "InspectGroup.leaves: one less",
        Verify,
        |liar, _| inspected(liar, |it| drop(it.leaves.pop())),
        Refused("peer"),
    ),
    (
        "InspectGroup.leaves: the last one twice",
        Verify,
        |liar, _| inspected(liar, |it| it.leaves.extend(it.leaves.last().cloned())),
        Refused("peer"),
    ),
    (
        "InspectGroup.leaves: in another order",
        Verify,
        |liar, _| inspected(liar, |it| it.leaves.reverse()),
        Refused("peer"),
    ),
    (
        "InspectGroup.leaves.leaf_index: the highest number",
        Verify,
        |liar, _| inspected(liar, |it| it.leaves[0].leaf_index = LeafIndex(u32::MAX)),
        Refused("peer"),
    ),
    (
        "InspectGroup.leaves.user_pseudonym: nothing",
        Verify,
        |liar, _| inspected(liar, |it| it.leaves[0].user_pseudonym = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "InspectGroup.leaves.user_pseudonym: another member's",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.leaves[0].user_pseudonym = it.leaves[1].user_pseudonym.clone()
            })
        },
        Refused("peer"),
    ),
    (
        "InspectGroup.leaves.capabilities: all",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.leaves[1].capabilities = Capabilities(u16::MAX)
            })
        },
        Refused("peer"),
    ),
    (
        "InspectGroup.leaves.link_key.wrapper: of no segment",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.leaves[0].link_key.wrapper = RotationEpoch(u64::MAX)
            })
        },
        Harmless,
    ),
    (
        "InspectGroup.leaves.link_key.sealed: garbage",
        Verify,
        |liar, _| inspected(liar, |it| it.leaves[0].link_key.sealed = opaque(GARBAGE)),
        Harmless,
    ),
    (
        "InspectGroup.leaves.recovery_key: none",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.leaves
                    .iter_mut()
                    .for_each(|leaf| leaf.recovery_key = None)
            })
        },
        Harmless,
    ),
    (
        "InspectGroup.leaves.recovery_key: another member's",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                let [one, other] = [0, 1].map(|at| it.leaves[at].recovery_key.clone());
                it.leaves[0].recovery_key = other;
                it.leaves[1].recovery_key = one;
            })
        },
        Harmless,
    ),
    (
        "InspectGroup.leaves.has_row: 0",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.leaves.iter_mut().for_each(|leaf| leaf.has_row = 0)
            })
        },
        Harmless,
    ),
    (
        "InspectGroup.leaves.has_row: no such number",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.leaves.iter_mut().for_each(|leaf| leaf.has_row = 255)
            })
        },
        Harmless,
    ),
    (
        "InspectGroup.leaves.active: long ago",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.leaves.iter_mut().for_each(|leaf| leaf.active = Week(0))
            })
        },
        Harmless,
    ),
    (
        "InspectGroup.leaves.active: the highest number",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.leaves
                    .iter_mut()
                    .for_each(|leaf| leaf.active = Week(u16::MAX))
            })
        },
        Harmless,
    ),
    (
        "InspectGroup.places: 0",
        Verify,
        |liar, _| inspected(liar, |it| it.places = 0),
        Harmless,
    ),
    (
        "InspectGroup.places: the highest number",
        Verify,
        |liar, _| inspected(liar, |it| it.places = u32::MAX),
        Refused("protocol"),
    ),
    (
        "InspectGroup.codes: none",
        Verify,
        |liar, _| inspected(liar, |it| it.codes.clear()),
        Harmless,
    ),
    (
        "InspectGroup.codes: the first one a thousand times",
        Verify,
        |liar, _| inspected(liar, |it| it.codes = vec![it.codes[0].clone(); 1000]),
        Harmless,
    ),
    (
        "InspectGroup.codes.signature: garbage",
        Verify,
        |liar, _| inspected(liar, |it| it.codes[0].signature = opaque(GARBAGE)),
        Harmless,
    ),
    (
        "InspectGroup.pending_proposals: garbage",
        Verify,
        |liar, _| inspected(liar, |it| it.pending_proposals = vec![opaque(GARBAGE); 300]),
        Harmless,
    ),
];

const ELSEWHERE: Place = Place {
    rotation_epoch: RotationEpoch(77),
    position: Position(u64::MAX),
};

pub(super) const ACCEPTED: &[Lie] = &[
    (
        "EntryAccepted.accepted_ms: 0",
        Send,
        |liar, _| sent(liar, |it| it.accepted_ms = 0),
        Harmless,
    ),
    (
        "EntryAccepted.accepted_ms: the highest number",
        Send,
        |liar, _| sent(liar, |it| it.accepted_ms = u64::MAX),
        Harmless,
    ),
    (
        "EntryAccepted.place.position: an earlier one",
        Send,
        |liar, _| sent(liar, |it| it.place.position = Position(0)),
        Harmless,
    ),
    (
        "EntryAccepted.place.position: the highest number",
        Send,
        |liar, _| sent(liar, |it| it.place.position = Position(u64::MAX)),
        Harmless,
    ),
    (
        "EntryAccepted.place.rotation_epoch: the highest number",
        Send,
        |liar, _| sent(liar, |it| it.place.rotation_epoch = RotationEpoch(u64::MAX)),
        Harmless,
    ),
    (
        "CommitAccepted.epoch of a commit: 0",
        Renew,
        |liar, _| accepted(liar, Operation::UpdateClient, |it| it.epoch = Epoch(0)),
        Harmless,
    ),
    (
        "CommitAccepted.epoch of a commit: the one before",
        Renew,
        |liar, _| accepted(liar, Operation::UpdateClient, |it| it.epoch.0 -= 1),
        Harmless,
    ),
    (
        "CommitAccepted.epoch of a commit: the highest number",
        Renew,
        |liar, _| {
            accepted(liar, Operation::UpdateClient, |it| {
                it.epoch = Epoch(u64::MAX)
            })
        },
        Harmless,
    ),
    (
        "CommitAccepted.place.position of a commit: 0",
        Renew,
        |liar, _| {
            accepted(liar, Operation::UpdateClient, |it| {
                it.place.position = Position(0)
            })
        },
        Harmless,
    ),
    (
        "CommitAccepted.place.position of a commit: the highest number",
        Renew,
        |liar, _| {
            accepted(liar, Operation::UpdateClient, |it| {
                it.place.position = Position(u64::MAX)
            })
        },
        Harmless,
    ),
    (
        "CommitAccepted.place.rotation_epoch of a commit: the highest number",
        Renew,
        |liar, _| {
            accepted(liar, Operation::UpdateClient, |it| {
                it.place.rotation_epoch = RotationEpoch(u64::MAX)
            })
        },
        Harmless,
    ),
    (
        "CommitAccepted.accepted_ms of a commit: 0",
        Renew,
        |liar, _| accepted(liar, Operation::UpdateClient, |it| it.accepted_ms = 0),
        Harmless,
    ),
    (
        "CommitAccepted.accepted_ms of a commit: the highest number",
        Renew,
        |liar, _| {
            accepted(liar, Operation::UpdateClient, |it| {
                it.accepted_ms = u64::MAX
            })
        },
        Harmless,
    ),
    (
        "CommitAccepted.epoch of an Add: the highest number",
        Add,
        |liar, _| accepted(liar, Operation::AddUsers, |it| it.epoch = Epoch(u64::MAX)),
        Harmless,
    ),
    (
        "CommitAccepted.place of an Add: elsewhere",
        Add,
        |liar, _| accepted(liar, Operation::AddUsers, |it| it.place = ELSEWHERE),
        Harmless,
    ),
    (
        "CommitAccepted.epoch of a creation: the highest number",
        Create,
        |liar, _| {
            accepted(liar, Operation::CreateGroup, |it| {
                it.epoch = Epoch(u64::MAX)
            })
        },
        Harmless,
    ),
    (
        "CommitAccepted.place of a creation: elsewhere",
        Create,
        |liar, _| accepted(liar, Operation::CreateGroup, |it| it.place = ELSEWHERE),
        Harmless,
    ),
    (
        "CommitAccepted.accepted_ms of a creation: 0",
        Create,
        |liar, _| accepted(liar, Operation::CreateGroup, |it| it.accepted_ms = 0),
        Harmless,
    ),
    (
        "CommitAccepted.accepted_ms of a creation: the highest number",
        Create,
        |liar, _| accepted(liar, Operation::CreateGroup, |it| it.accepted_ms = u64::MAX),
        Harmless,
    ),
];

pub(super) const MADE_UP: &[Lie] = &[
    (
        "EntryAccepted: nothing was",
        Send,
        |liar, _| {
            let accepted = EntryAccepted {
                place: ELSEWHERE,
                accepted_ms: 1,
            };
            liar.answer(Operation::SendMessage, move |_| Some(accepted.encode()));
        },
        Harmless,
    ),
    (
        "CommitAccepted of a commit: nothing was",
        Mute,
        |liar, _| nothing_was_accepted(liar, Operation::SetRole),
        Refused("protocol"),
    ),
    (
        "CommitAccepted of a creation: nothing was",
        Create,
        |liar, _| nothing_was_accepted(liar, Operation::CreateGroup),
        Stops(StopReason::Missing),
    ),
    (
        "InspectGroup.pending_proposals, needed for sending: none",
        Send,
        |liar, _| pending(liar, |_, _| Vec::new()),
        Refused("contention"),
    ),
    (
        "InspectGroup.pending_proposals, needed for sending: garbage",
        Send,
        |liar, _| pending(liar, |_, _| vec![opaque(GARBAGE); 3]),
        Refused("contention"),
    ),
    (
        "InspectGroup.pending_proposals, needed for sending: a member leaves who has not said so",
        Send,
        |liar, _| {
            pending(liar, |id, epoch| {
                vec![opaque(made_up_leaving(id, epoch, 1))]
            })
        },
        Evidence("peer"),
    ),
    (
        "InspectGroup.pending_proposals, needed for sending: of a leaf that is not there",
        Send,
        |liar, _| {
            pending(liar, |id, epoch| {
                vec![opaque(made_up_leaving(id, epoch, u32::MAX))]
            })
        },
        Evidence("peer"),
    ),
    (
        "InspectGroup.pending_proposals, needed for sending: of another epoch",
        Send,
        |liar, _| {
            pending(liar, |id, epoch| {
                vec![opaque(made_up_leaving(id, epoch + 1, 1))]
            })
        },
        Evidence("peer"),
    ),
];

fn nothing_was_accepted(liar: &Liar, operation: Operation) {
    let accepted = CommitAccepted {
        epoch: Epoch(1),
        place: ELSEWHERE,
        accepted_ms: 1,
    };
    liar.answer(operation, move |_| Some(accepted.encode()));
}

/// Refuses messages because of proposals that it then shows.
fn pending(liar: &Liar, made_up: fn(GroupId, u64) -> Vec<VLBytes>) {
    liar.instead(Operation::SendMessage, refusals::pending_proposals());
    liar.twist(Operation::InspectGroup, move |body, answer| {
        let id = InspectGroupRequest::decode(body)
            .expect("a request")
            .group
            .group_id;
        let mut inspected = InspectGroupResponse::decode(answer).expect("a true answer");
        inspected.pending_proposals = made_up(id, inspected.epoch.0);
        *answer = inspected.encode();
    });
}

/// A SelfRemove of a member who has not made it: a PublicMessage (RFC 9420 §6.2) with a signature
/// and a membership tag of zeros.
fn made_up_leaving(id: GroupId, epoch: u64, leaf: u32) -> Vec<u8> {
    const MLS10_PUBLIC_MESSAGE: [u8; 4] = [0, 1, 0, 1];
    const MEMBER: [u8; 1] = [1];
    const PROPOSAL_SELF_REMOVE: [u8; 3] = [2, 0, 10];
    [
        &MLS10_PUBLIC_MESSAGE[..],
        &opaque(id.0).encode(),
        &epoch.to_be_bytes(),
        &MEMBER,
        &leaf.to_be_bytes(),
        &opaque(*b"").encode(),
        &PROPOSAL_SELF_REMOVE,
        &opaque([0; 64]).encode(),
        &opaque([0; 32]).encode(),
    ]
    .concat()
}

pub(super) const RESERVE_GROUP_ID: &[Lie] = &[
    (
        "ReserveGroupId.group_id: nobody's",
        Create,
        |liar, _| reserved(liar, GroupId([0; 16])),
        Refused("protocol"),
    ),
    (
        "ReserveGroupId.group_id: of another group of this client",
        Create,
        |liar, means| reserved(liar, means.other),
        Refused("protocol"),
    ),
    (
        "ReserveGroupId.group_id of a successor: of another group of this client",
        Upgrade,
        |liar, means| reserved(liar, means.other),
        Refused("protocol"),
    ),
];
