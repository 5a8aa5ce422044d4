//! Lies to those who come in: by a code, and by the invitation of a member.

use client::StopReason;
use crypto::records::{open_join_page, seal_join_page};
use crypto::schedule::JoinKey;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::group::{CommitRequest, JoinAccepted};
use protocol::ids::{ChainHead, Day, Epoch, LeafIndex, Position, RotationEpoch, SegmentId};
use protocol::join::{
    JoinRecordContent, JoinRecordRequest, JoinRecordResponse, RecoveryRowResponse,
    SealedFormerWrapperKey, WrapperChainLink,
};
use protocol::operation::Operation;
use protocol::welcome::FetchWelcomeResponse;

use super::Does::{Enter, Join};
use super::Outcome::{Harmless, Refused, Stops, Unverified, Waits};
use super::alter;
use super::means::{GARBAGE, Lie};
use crate::liar::Liar;

fn row(liar: &Liar, change: impl Fn(&mut RecoveryRowResponse) + Send + 'static) {
    alter(liar, Operation::RecoveryRow, change);
}

fn joined(liar: &Liar, change: impl Fn(&mut JoinAccepted) + Send + 'static) {
    alter(liar, Operation::ExternalJoin, change);
}

fn page(liar: &Liar, change: impl Fn(&mut JoinRecordResponse) + Send + 'static) {
    alter(liar, Operation::JoinRecord, change);
}

fn welcome(liar: &Liar, change: impl Fn(&mut Vec<u8>) + Send + 'static) {
    let operation = Operation::FetchWelcome;
    alter(liar, operation, move |it: &mut FetchWelcomeResponse| {
        let mut bytes = it.sealed.as_slice().to_vec();
        change(&mut bytes);
        it.sealed = opaque(bytes);
    });
}

fn sealed(page: &mut JoinRecordResponse, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = page.sealed.as_slice().to_vec();
    change(&mut bytes);
    page.sealed = opaque(bytes);
}

/// Opens a join record with the key that came with the commit, which an honest service has
/// forgotten by then. These have one page.
fn record(liar: &Liar, change: impl Fn(&mut JoinRecordContent) + Send + 'static) {
    let heard_by = liar.clone();
    liar.twist(Operation::JoinRecord, move |body, answer| {
        let id = JoinRecordRequest::decode(body).expect("a request").id;
        let commits = heard_by.heard(Operation::AddUsers);
        let key = commits.iter().find_map(|heard| {
            let request = CommitRequest::decode(&heard.body).expect("a commit");
            let key = JoinKey::from(&request.welcome.expect("a Welcome").join_key);
            (key.record_id(&request.group.group_id) == id).then_some(key)
        });
        let key = key.expect("the key of the epoch");
        let mut page = JoinRecordResponse::decode(answer).expect("a page");
        let opened = open_join_page(&key, &id, (0, page.pages), page.sealed.as_slice());
        let opened = opened.expect("it opens");
        let mut content = JoinRecordContent::decode(&opened).expect("its content");
        change(&mut content);
        let salt = crypto::random().expect("randomness");
        let sealed = seal_join_page(&key, salt, &id, (0, page.pages), &content.encode());
        page.sealed = opaque(sealed.expect("sealed"));
        *answer = page.encode();
    });
}

pub(super) const RECOVERY_ROW: &[Lie] = &[
    (
        "RecoveryRow.rotation_epoch: an earlier one",
        Enter,
        |liar, _| row(liar, |it| it.rotation_epoch = RotationEpoch(0)),
        Refused("join-code-expired"),
    ),
    (
        "RecoveryRow.rotation_epoch: the highest number",
        Enter,
        |liar, _| row(liar, |it| it.rotation_epoch = RotationEpoch(u64::MAX)),
        Refused("join-code-expired"),
    ),
    (
        "RecoveryRow.sealed: nothing",
        Enter,
        |liar, _| row(liar, |it| it.sealed = opaque(*b"")),
        Refused("join-code-expired"),
    ),
    (
        "RecoveryRow.sealed: cut short",
        Enter,
        |liar, _| {
            row(liar, |it| {
                let bytes = it.sealed.as_slice();
                it.sealed = opaque(&bytes[..bytes.len() - 1]);
            })
        },
        Refused("join-code-expired"),
    ),
    (
        "RecoveryRow.sealed: garbage",
        Enter,
        |liar, _| row(liar, |it| it.sealed = opaque(GARBAGE)),
        Refused("join-code-expired"),
    ),
];

pub(super) const JOIN_ACCEPTED: &[Lie] = &[
    (
        "JoinAccepted.accepted.epoch: 0",
        Enter,
        |liar, _| joined(liar, |it| it.accepted.epoch = Epoch(0)),
        Harmless,
    ),
    (
        "JoinAccepted.accepted.epoch: the highest number",
        Enter,
        |liar, _| joined(liar, |it| it.accepted.epoch = Epoch(u64::MAX)),
        Harmless,
    ),
    (
        "JoinAccepted.accepted.accepted_ms: the highest number",
        Enter,
        |liar, _| joined(liar, |it| it.accepted.accepted_ms = u64::MAX),
        Harmless,
    ),
    (
        "JoinAccepted.accepted.place.position: 0",
        Enter,
        |liar, _| joined(liar, |it| it.accepted.place.position = Position(0)),
        Stops(StopReason::Unprocessable),
    ),
    (
        "JoinAccepted.accepted.place.position: a later one",
        Enter,
        |liar, _| joined(liar, |it| it.accepted.place.position.0 += 5),
        Stops(StopReason::Behind),
    ),
    (
        "JoinAccepted.accepted.place.rotation_epoch: the highest number",
        Enter,
        |liar, _| {
            joined(liar, |it| {
                it.accepted.place.rotation_epoch = RotationEpoch(u64::MAX)
            })
        },
        Refused("protocol"),
    ),
    (
        "JoinAccepted.journal.rotation_epoch: the highest number",
        Enter,
        |liar, _| {
            joined(liar, |it| {
                it.journal.rotation_epoch = RotationEpoch(u64::MAX)
            })
        },
        Harmless,
    ),
    (
        "JoinAccepted.journal.journal_key: zero",
        Enter,
        |liar, _| joined(liar, |it| it.journal.journal_key = WireSecret::new([0; 32])),
        Harmless,
    ),
    (
        "JoinAccepted.journal.tag_key: zero",
        Enter,
        |liar, _| joined(liar, |it| it.journal.tag_key = WireSecret::new([0; 32])),
        Harmless,
    ),
    (
        "JoinAccepted.journal.tag_day: the highest number",
        Enter,
        |liar, _| joined(liar, |it| it.journal.tag_day = Day(u32::MAX)),
        Harmless,
    ),
];

pub(super) const JOIN_RECORD: &[Lie] = &[
    (
        "JoinRecord.pages: 0",
        Join,
        |liar, _| page(liar, |it| it.pages = 0),
        Waits,
    ),
    (
        "JoinRecord.pages: the highest number",
        Join,
        |liar, _| page(liar, |it| it.pages = u16::MAX),
        Waits,
    ),
    (
        "JoinRecord.sealed: nothing",
        Join,
        |liar, _| page(liar, |it| sealed(it, Vec::clear)),
        Waits,
    ),
    (
        "JoinRecord.sealed: cut short",
        Join,
        |liar, _| page(liar, |it| sealed(it, |it| it.truncate(it.len() - 1))),
        Waits,
    ),
    (
        "JoinRecord.sealed: garbage",
        Join,
        |liar, _| page(liar, |it| sealed(it, |it| it.fill(0xa5))),
        Waits,
    ),
    (
        "JoinRecord's ratchet_tree: nothing",
        Join,
        |liar, _| record(liar, |it| it.ratchet_tree = opaque(*b"")),
        Waits,
    ),
    (
        "JoinRecord's ratchet_tree: garbage",
        Join,
        |liar, _| record(liar, |it| it.ratchet_tree = opaque(GARBAGE)),
        Waits,
    ),
    (
        "JoinRecord's ratchet_tree: of another group",
        Join,
        |liar, means| {
            let tree = opaque(means.tree.as_slice());
            record(liar, move |it| it.ratchet_tree = tree.clone());
        },
        Waits,
    ),
    (
        "JoinRecord's leaves: none",
        Join,
        |liar, _| record(liar, |it| it.leaves.clear()),
        Waits,
    ),
    (
        "JoinRecord's leaves.leaf_index: of none",
        Join,
        |liar, _| {
            record(liar, |it| {
                it.leaves
                    .iter_mut()
                    .for_each(|leaf| leaf.leaf_index = LeafIndex(u32::MAX))
            })
        },
        Waits,
    ),
    (
        "JoinRecord's leaves.link_key.wrapper: of no segment",
        Join,
        |liar, _| {
            record(liar, |it| {
                it.leaves
                    .iter_mut()
                    .for_each(|leaf| leaf.link_key.wrapper = RotationEpoch(77))
            })
        },
        Waits,
    ),
    (
        "JoinRecord's leaves.link_key.sealed of who invites: another one's",
        Join,
        |liar, _| {
            record(liar, |it| {
                it.leaves[0].link_key = it.leaves[1].link_key.clone()
            })
        },
        Waits,
    ),
    (
        "JoinRecord's leaves.link_key.sealed of another one: garbage",
        Join,
        |liar, _| record(liar, |it| it.leaves[1].link_key.sealed = opaque(GARBAGE)),
        Unverified,
    ),
    (
        "JoinRecord's leaves: each twice, garbage behind",
        Join,
        |liar, _| {
            record(liar, |it| {
                for mut leaf in it.leaves.clone() {
                    leaf.link_key.sealed = opaque(GARBAGE);
                    it.leaves.push(leaf);
                }
            })
        },
        Harmless,
    ),
    (
        "JoinRecord's wrapper_chain: garbage",
        Join,
        |liar, _| {
            record(liar, |it| {
                it.wrapper_chain = vec![
                    WrapperChainLink {
                        under: RotationEpoch(0),
                        former: SealedFormerWrapperKey {
                            of: RotationEpoch(0),
                            sealed: opaque(GARBAGE),
                        },
                    };
                    100
                ]
            })
        },
        Harmless,
    ),
    (
        "JoinRecord's state_key: zero",
        Join,
        |liar, _| record(liar, |it| it.state_key = WireSecret::new([0; 32])),
        Stops(StopReason::Missing),
    ),
    (
        "JoinRecord's journal.rotation_epoch: a later one",
        Join,
        |liar, _| record(liar, |it| it.journal.rotation_epoch.0 += 50),
        Waits,
    ),
    (
        "JoinRecord's journal.journal_key: zero",
        Join,
        |liar, _| record(liar, |it| it.journal.journal_key = WireSecret::new([0; 32])),
        Stops(StopReason::Unprocessable),
    ),
    (
        "JoinRecord's journal.tag_key: zero",
        Join,
        |liar, _| record(liar, |it| it.journal.tag_key = WireSecret::new([0; 32])),
        Harmless,
    ),
    (
        "JoinRecord's journal.tag_day: the highest number",
        Join,
        |liar, _| record(liar, |it| it.journal.tag_day = Day(u32::MAX)),
        Harmless,
    ),
    (
        "JoinRecord's place.position: 0",
        Join,
        |liar, _| record(liar, |it| it.place.position = Position(0)),
        Harmless,
    ),
    (
        "JoinRecord's place.position: one later",
        Join,
        |liar, _| record(liar, |it| it.place.position.0 += 1),
        Waits,
    ),
    (
        "JoinRecord's place.position: two later",
        Join,
        |liar, _| record(liar, |it| it.place.position.0 += 2),
        Waits,
    ),
    (
        "JoinRecord's place.position: five later",
        Join,
        |liar, _| record(liar, |it| it.place.position.0 += 5),
        Waits,
    ),
    (
        "JoinRecord's segment: another one",
        Join,
        |liar, _| record(liar, |it| it.segment = SegmentId([7; 32])),
        Waits,
    ),
    (
        "JoinRecord's chain: another one",
        Join,
        |liar, _| record(liar, |it| it.chain = ChainHead([7; 32])),
        Waits,
    ),
    (
        "JoinRecord's place.rotation_epoch: another one",
        Join,
        |liar, _| record(liar, |it| it.place.rotation_epoch.0 += 1),
        Waits,
    ),
];

pub(super) const FETCH_WELCOME: &[Lie] = &[
    (
        "FetchWelcome.sealed: nothing",
        Join,
        |liar, _| welcome(liar, Vec::clear),
        Waits,
    ),
    (
        "FetchWelcome.sealed: cut short",
        Join,
        |liar, _| welcome(liar, |it| it.truncate(it.len() - 1)),
        Waits,
    ),
    (
        "FetchWelcome.sealed: garbage",
        Join,
        |liar, _| welcome(liar, |it| it.fill(0xa5)),
        Waits,
    ),
    (
        "FetchWelcome.sealed: with a byte more",
        Join,
        |liar, _| welcome(liar, |it| it.push(0)),
        Waits,
    ),
];
