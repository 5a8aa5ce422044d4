//! One row for what can be changed in a field of an answer.

use crypto::connection::sign_handle_record;
use crypto::hpke::HpkeKeyPair;
use crypto::keys::{GroupLookup as _, JoinKey, RecoverySecret};
use crypto::sealing::{self, Place};
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::codec::{WireSecret, opaque};
use protocol::connections::{ClientCredential, HandleRecord, LookupHandleResponse};
use protocol::groups::{
    CommitRequest, EpochAccepted, InspectGroupRequest, InspectGroupResponse, JoinRecordContent,
    JoinRecordRequest, MessageAccepted, RecoveryRecordRequest, ReserveGroupIdResponse,
    SealedRecord, SetJoinCodeRequest,
};
use protocol::ids::{GroupId, LookupId};
use protocol::key_packages::{
    ClaimKeyPackagesResponse, ClaimedSet, CountKeyPackagesResponse, KeyPackageCount,
};
use protocol::policy::Capabilities;
use protocol::{Operation, Wire as _};
use tls_codec::VLBytes;

use super::Does::{Add, Connect, Count, Create, Enter, Join, Mute, Renew, Send, Upgrade, Verify};
use super::Outcome::{Evidence, Harmless, Pinned, Refused, Stops, Unverified, Waits};
use super::{Does, Outcome, alter, refusals};
use crate::liar::Liar;

/// What the service has at hand.
pub struct Means {
    /// Another group that the client who is lied to is in.
    pub other: GroupId,
    /// The encoded ratchet tree of another group.
    pub tree: Vec<u8>,
    /// The name that a first look-up is of.
    pub handle: &'static str,
    /// The record of somebody else.
    pub record: Vec<u8>,
    /// A set that was claimed of the same contact before.
    pub claimed: Vec<u8>,
}

/// The service's own identity, which it passes off as a user's.
#[must_use]
pub fn own_identity() -> SignatureKeyPair {
    SignatureKeyPair::from_seed(&Secret::new([7; 32]))
}

/// The service's own key for connection requests.
///
/// # Panics
/// When the library refuses.
#[must_use]
pub fn own_key() -> HpkeKeyPair {
    HpkeKeyPair::from_seed(&Secret::new([8; 32])).expect("a key")
}

/// What is changed; what the client does meanwhile; how the service does it; what comes of it.
pub type Lie = (&'static str, Does, fn(&Liar, &Means), Outcome);

const GARBAGE: [u8; 60] = [0xa5; 60];

fn inspected(
    liar: &Liar,
    change: impl Fn(&mut InspectGroupResponse) + core::marker::Send + 'static,
) {
    alter(liar, Operation::InspectGroup, change);
}

fn accepted(
    liar: &Liar,
    operation: Operation,
    change: impl Fn(&mut EpochAccepted) + core::marker::Send + 'static,
) {
    alter(liar, operation, change);
}

fn claimed(liar: &Liar, change: impl Fn(&mut Vec<ClaimedSet>) + core::marker::Send + 'static) {
    let operation = Operation::ClaimKeyPackages;
    alter(liar, operation, move |it: &mut ClaimKeyPackagesResponse| {
        change(&mut it.sets)
    });
}

fn counted(liar: &Liar, change: impl Fn(&mut Vec<KeyPackageCount>) + core::marker::Send + 'static) {
    let operation = Operation::CountKeyPackages;
    alter(liar, operation, move |it: &mut CountKeyPackagesResponse| {
        change(&mut it.counts)
    });
}

fn reserved(liar: &Liar, id: GroupId) {
    let operation = Operation::ReserveGroupId;
    alter(liar, operation, move |it: &mut ReserveGroupIdResponse| {
        it.group_id = id
    });
}

fn found(liar: &Liar, change: impl Fn(&mut VLBytes) + core::marker::Send + 'static) {
    let operation = Operation::LookupHandle;
    alter(liar, operation, move |it: &mut LookupHandleResponse| {
        change(&mut it.record)
    });
}

fn found_record(liar: &Liar, change: impl Fn(&mut HandleRecord) + core::marker::Send + 'static) {
    found(liar, move |record| {
        let mut decoded = HandleRecord::decode(record.as_slice()).expect("a record");
        change(&mut decoded);
        *record = opaque(decoded.encode());
    });
}

/// A record that the service has signed itself.
fn own_record(handle: &str, name: &str, key: &[u8]) -> VLBytes {
    let identity = own_identity();
    let credential = ClientCredential {
        name: opaque(name.as_bytes()),
        signature_public_key: opaque(identity.public()),
    };
    opaque(sign_handle_record(handle.as_bytes(), &credential, &identity, key).encode())
}

fn sealed(
    liar: &Liar,
    operation: Operation,
    change: impl Fn(&mut Vec<u8>) + core::marker::Send + 'static,
) {
    alter(liar, operation, move |record: &mut SealedRecord| {
        let mut bytes = record.sealed.as_slice().to_vec();
        change(&mut bytes);
        record.sealed = opaque(bytes);
    });
}

fn place<'a>(table: &'static str, lookup: &'a LookupId) -> Place<'a> {
    Place {
        table,
        row: &lookup.0,
        part: "record",
    }
}

/// Opens a join record with the key that came with the commit, which an honest service has forgotten by then.
fn joined(liar: &Liar, change: impl Fn(&mut JoinRecordContent) + core::marker::Send + 'static) {
    let heard_by = liar.clone();
    liar.twist(Operation::JoinRecord, move |body, answer| {
        let lookup = JoinRecordRequest::decode(body).expect("a request").lookup;
        let commits = heard_by.heard(Operation::AddUsers);
        let key = commits.iter().find_map(|heard| {
            let request = CommitRequest::decode(&heard.body).expect("a commit");
            let key = JoinKey::from(&request.welcome.expect("a Welcome").join_key);
            (key.lookup_in(&request.group_id) == lookup).then_some(key)
        });
        let key = key.expect("the key of the epoch");
        let at = place("join_records", &lookup);
        let sealed = SealedRecord::decode(answer).expect("a record").sealed;
        let opened = sealing::open(key.expose(), at, sealed.as_slice()).expect("it opens");
        let mut content = JoinRecordContent::decode(&opened).expect("its content");
        change(&mut content);
        let at = place("join_records", &lookup);
        let sealed = sealing::seal(key.expose(), at, &content.encode()).expect("sealed");
        *answer = SealedRecord {
            sealed: opaque(sealed),
        }
        .encode();
    });
}

/// Seals something else for whoever has the join code.
fn recovered(liar: &Liar, key: &'static [u8]) {
    let heard_by = liar.clone();
    liar.twist(Operation::RecoveryRecord, move |body, answer| {
        let lookup = RecoveryRecordRequest::decode(body)
            .expect("a request")
            .lookup;
        let codes = heard_by.heard(Operation::SetJoinCode);
        let secret = codes.iter().find_map(|heard| {
            let request = SetJoinCodeRequest::decode(&heard.body).expect("a code");
            let secret = RecoverySecret::from(&request.secret);
            (secret.lookup_in(&request.group_id) == lookup).then_some(secret)
        });
        let Some(secret) = secret else { return };
        let at = place("recovery_records", &lookup);
        let sealed = sealing::seal(secret.expose(), at, key).expect("sealed");
        *answer = SealedRecord {
            sealed: opaque(sealed),
        }
        .encode();
    });
}

const INSPECT_GROUP: &[Lie] = &[
    (
        "InspectGroup.epoch: an earlier one",
        Verify,
        |liar, _| inspected(liar, |it| it.epoch -= 1),
        Stops(client::StopReason::Behind),
    ),
    (
        "InspectGroup.epoch: 0",
        Verify,
        |liar, _| inspected(liar, |it| it.epoch = 0),
        Stops(client::StopReason::Behind),
    ),
    (
        "InspectGroup.epoch: the highest number",
        Verify,
        |liar, _| inspected(liar, |it| it.epoch = u64::MAX),
        Stops(client::StopReason::Missing),
    ),
    (
        "InspectGroup.members: none",
        Verify,
        |liar, _| inspected(liar, |it| it.members.clear()),
        Refused("peer"),
    ),
    (
        "InspectGroup.members: one less",
        Verify,
        |liar, _| inspected(liar, |it| drop(it.members.pop())),
        Refused("peer"),
    ),
    (
        "InspectGroup.members: the last one twice",
        Verify,
        |liar, _| inspected(liar, |it| it.members.extend(it.members.last().cloned())),
        Refused("peer"),
    ),
    (
        "InspectGroup.members: in another order",
        Verify,
        |liar, _| inspected(liar, |it| it.members.reverse()),
        Refused("peer"),
    ),
    (
        "InspectGroup.members.leaf_index: the highest number",
        Verify,
        |liar, _| inspected(liar, |it| it.members[0].leaf_index = u32::MAX),
        Refused("peer"),
    ),
    (
        "InspectGroup.members.user_pseudonym: nothing",
        Verify,
        |liar, _| inspected(liar, |it| it.members[0].user_pseudonym = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "InspectGroup.members.user_pseudonym: another member's",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.members[0].user_pseudonym = it.members[1].user_pseudonym.clone();
            })
        },
        Refused("peer"),
    ),
    (
        "InspectGroup.members.capabilities: all",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.members[1].capabilities = Capabilities(u16::MAX)
            })
        },
        Refused("peer"),
    ),
    (
        "InspectGroup.members.encrypted_identity_link_key: garbage",
        Verify,
        |liar, _| {
            inspected(liar, |it| {
                it.members[0].encrypted_identity_link_key = opaque(GARBAGE);
            })
        },
        Harmless,
    ),
    (
        "InspectGroup.pending_proposals: garbage",
        Verify,
        |liar, _| inspected(liar, |it| it.pending_proposals = vec![opaque(GARBAGE); 300]),
        Harmless,
    ),
];

const ACCEPTED: &[Lie] = &[
    (
        "MessageAccepted.accepted_timestamp_ms: 0",
        Send,
        |liar, _| {
            alter(liar, Operation::SendMessage, |it: &mut MessageAccepted| {
                it.accepted_timestamp_ms = 0;
            })
        },
        Harmless,
    ),
    (
        "MessageAccepted.accepted_timestamp_ms: the highest number",
        Send,
        |liar, _| {
            alter(liar, Operation::SendMessage, |it: &mut MessageAccepted| {
                it.accepted_timestamp_ms = u64::MAX;
            })
        },
        Harmless,
    ),
    (
        "EpochAccepted.epoch of a commit: 0",
        Renew,
        |liar, _| accepted(liar, Operation::UpdateClient, |it| it.epoch = 0),
        Harmless,
    ),
    (
        "EpochAccepted.epoch of a commit: the one before",
        Renew,
        |liar, _| accepted(liar, Operation::UpdateClient, |it| it.epoch -= 1),
        Harmless,
    ),
    (
        "EpochAccepted.epoch of a commit: the highest number",
        Renew,
        |liar, _| accepted(liar, Operation::UpdateClient, |it| it.epoch = u64::MAX),
        Harmless,
    ),
    (
        "EpochAccepted.accepted_timestamp_ms of a commit: 0",
        Renew,
        |liar, _| {
            accepted(liar, Operation::UpdateClient, |it| {
                it.accepted_timestamp_ms = 0
            })
        },
        Harmless,
    ),
    (
        "EpochAccepted.accepted_timestamp_ms of a commit: the highest number",
        Renew,
        |liar, _| {
            accepted(liar, Operation::UpdateClient, |it| {
                it.accepted_timestamp_ms = u64::MAX;
            })
        },
        Harmless,
    ),
    (
        "EpochAccepted.epoch of an Add: the highest number",
        Add,
        |liar, _| accepted(liar, Operation::AddUsers, |it| it.epoch = u64::MAX),
        Harmless,
    ),
    (
        "EpochAccepted.epoch of a creation: the highest number",
        Create,
        |liar, _| accepted(liar, Operation::CreateGroup, |it| it.epoch = u64::MAX),
        Harmless,
    ),
    (
        "EpochAccepted.accepted_timestamp_ms of a creation: 0",
        Create,
        |liar, _| {
            accepted(liar, Operation::CreateGroup, |it| {
                it.accepted_timestamp_ms = 0
            })
        },
        Harmless,
    ),
];

/// What is said to be accepted and is not, and what is said to be pending and is not.
const MADE_UP: &[Lie] = &[
    (
        "MessageAccepted: nothing was",
        Send,
        |liar, _| {
            let accepted = MessageAccepted {
                accepted_timestamp_ms: 1,
            };
            liar.answer(Operation::SendMessage, move |_| Some(accepted.encode()));
        },
        Harmless,
    ),
    (
        "EpochAccepted of a commit: nothing was",
        Mute,
        |liar, _| nothing_was_accepted(liar, Operation::SetRole),
        Stops(client::StopReason::Behind),
    ),
    (
        "EpochAccepted of a creation: nothing was",
        Create,
        |liar, _| nothing_was_accepted(liar, Operation::CreateGroup),
        Stops(client::StopReason::Missing),
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
    let accepted = EpochAccepted {
        epoch: 1,
        accepted_timestamp_ms: 1,
    };
    liar.answer(operation, move |_| Some(accepted.encode()));
}

/// Refuses messages because of proposals that it then shows.
fn pending(liar: &Liar, made_up: fn(GroupId, u64) -> Vec<VLBytes>) {
    liar.instead(Operation::SendMessage, refusals::pending_proposals());
    liar.twist(Operation::InspectGroup, move |body, answer| {
        let id = InspectGroupRequest::decode(body)
            .expect("a request")
            .group_id;
        let mut inspected = InspectGroupResponse::decode(answer).expect("a true answer");
        inspected.pending_proposals = made_up(id, inspected.epoch);
        *answer = inspected.encode();
    });
}

/// A SelfRemove of a member who has not made it: a PublicMessage (RFC 9420 §6.2) with a signature and a membership
/// tag of zeros.
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

const RESERVE_GROUP_ID: &[Lie] = &[
    (
        "ReserveGroupId.group_id: nobody's",
        Create,
        |liar, _| reserved(liar, GroupId([0; 16])),
        Refused("invalid-group-id"),
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

const CLAIM_KEY_PACKAGES: &[Lie] = &[
    (
        "ClaimKeyPackages.sets: none",
        Add,
        |liar, _| claimed(liar, Vec::clear),
        Refused("protocol"),
    ),
    (
        "ClaimKeyPackages.sets: one less",
        Add,
        |liar, _| claimed(liar, |it| drop(it.pop())),
        Refused("protocol"),
    ),
    (
        "ClaimKeyPackages.sets: one more",
        Add,
        |liar, _| claimed(liar, |it| it.extend(it.last().cloned())),
        Refused("protocol"),
    ),
    (
        "ClaimKeyPackages.sets: in another order",
        Add,
        |liar, _| claimed(liar, |it| it.reverse()),
        Refused("peer"),
    ),
    (
        "ClaimKeyPackages.sets: the same for both",
        Add,
        |liar, _| claimed(liar, |it| it[0] = it[1].clone()),
        Refused("peer"),
    ),
    (
        "ClaimKeyPackages.sets.sealed: nothing",
        Add,
        |liar, _| claimed(liar, |it| it[0].sealed = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "ClaimKeyPackages.sets.sealed: cut short",
        Add,
        |liar, _| {
            claimed(liar, |it| {
                let bytes = it[0].sealed.as_slice();
                it[0].sealed = opaque(&bytes[..bytes.len() - 1]);
            })
        },
        Refused("peer"),
    ),
    (
        "ClaimKeyPackages.sets.sealed: garbage",
        Add,
        |liar, _| claimed(liar, |it| it[0].sealed = opaque(GARBAGE)),
        Refused("peer"),
    ),
    (
        "ClaimKeyPackages.sets.sealed: one that this client has used elsewhere",
        Add,
        |liar, means| {
            let former = opaque(means.claimed.as_slice());
            claimed(liar, move |it| it[0].sealed = former.clone());
        },
        Refused("peer"),
    ),
    (
        "ClaimKeyPackages.sets.last_resort: 1",
        Add,
        |liar, _| claimed(liar, |it| it.iter_mut().for_each(|set| set.last_resort = 1)),
        Harmless,
    ),
    (
        "ClaimKeyPackages.sets.last_resort: no such number",
        Add,
        |liar, _| {
            claimed(liar, |it| {
                it.iter_mut().for_each(|set| set.last_resort = 255)
            })
        },
        Harmless,
    ),
];

const COUNT_KEY_PACKAGES: &[Lie] = &[
    (
        "CountKeyPackages.counts: none",
        Count,
        |liar, _| counted(liar, Vec::clear),
        Harmless,
    ),
    (
        "CountKeyPackages.counts: each a thousand times",
        Count,
        |liar, _| counted(liar, |it| *it = vec![it[0]; 1000]),
        Harmless,
    ),
    (
        "CountKeyPackages.counts.ciphersuite: no such",
        Count,
        |liar, _| {
            counted(liar, |it| {
                it.iter_mut().for_each(|it| it.ciphersuite = u16::MAX)
            })
        },
        Harmless,
    ),
    (
        "CountKeyPackages.counts.expiry_day: 0",
        Count,
        |liar, _| counted(liar, |it| it.iter_mut().for_each(|it| it.expiry_day = 0)),
        Harmless,
    ),
    (
        "CountKeyPackages.counts.expiry_day: the highest number",
        Count,
        |liar, _| {
            counted(liar, |it| {
                it.iter_mut().for_each(|it| it.expiry_day = u32::MAX)
            })
        },
        Harmless,
    ),
    (
        "CountKeyPackages.counts.last_resort: no such number",
        Count,
        |liar, _| counted(liar, |it| it.iter_mut().for_each(|it| it.last_resort = 255)),
        Harmless,
    ),
    (
        "CountKeyPackages.counts.sets: 0",
        Count,
        |liar, _| counted(liar, |it| it.iter_mut().for_each(|it| it.sets = 0)),
        Harmless,
    ),
    (
        "CountKeyPackages.counts.sets: the highest number, twice",
        Count,
        |liar, _| {
            counted(liar, |it| {
                it.iter_mut().for_each(|it| it.sets = u32::MAX);
                it.extend(it.clone());
            })
        },
        Harmless,
    ),
];

const RECOVERY_RECORD: &[Lie] = &[
    (
        "RecoveryRecord.sealed: nothing",
        Enter,
        |liar, _| sealed(liar, Operation::RecoveryRecord, Vec::clear),
        Refused("join-code-expired"),
    ),
    (
        "RecoveryRecord.sealed: cut short",
        Enter,
        |liar, _| {
            sealed(liar, Operation::RecoveryRecord, |it| {
                it.truncate(it.len() - 1)
            })
        },
        Refused("join-code-expired"),
    ),
    (
        "RecoveryRecord.sealed: garbage",
        Enter,
        |liar, _| sealed(liar, Operation::RecoveryRecord, |it| it.fill(0xa5)),
        Refused("join-code-expired"),
    ),
    (
        "RecoveryRecord's state key: nothing",
        Enter,
        |liar, _| recovered(liar, &[]),
        Refused("join-code-expired"),
    ),
    (
        "RecoveryRecord's state key: one byte less",
        Enter,
        |liar, _| recovered(liar, &[3; 31]),
        Refused("join-code-expired"),
    ),
    (
        "RecoveryRecord's state key: zero",
        Enter,
        |liar, _| recovered(liar, &[0; 32]),
        Refused("join-code-expired"),
    ),
];

const LOOKUP_HANDLE: &[Lie] = &[
    (
        "LookupHandle.record: nothing",
        Connect,
        |liar, _| found(liar, |it| *it = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "LookupHandle.record: garbage",
        Connect,
        |liar, _| found(liar, |it| *it = opaque(GARBAGE)),
        Refused("peer"),
    ),
    (
        "LookupHandle.record: with a byte more",
        Connect,
        |liar, _| found(liar, |it| *it = opaque([it.as_slice(), &[0]].concat())),
        Refused("peer"),
    ),
    (
        "LookupHandle.record: of somebody else",
        Connect,
        |liar, means| {
            let record = opaque(means.record.as_slice());
            found(liar, move |it| *it = record.clone());
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record.credential.name: another one",
        Connect,
        |liar, _| found_record(liar, |it| it.credential.name = opaque(*b"another")),
        Refused("peer"),
    ),
    (
        "LookupHandle.record.credential.name: another one, signed by the service's own key",
        Connect,
        |liar, means| {
            let record = own_record(means.handle, "another", &own_key().public());
            found(liar, move |it| *it = record.clone());
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record.credential.signature_public_key: the service's own",
        Connect,
        |liar, _| {
            found_record(liar, |it| {
                it.credential.signature_public_key = opaque(own_identity().public());
            })
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record.credential.signature_public_key: nothing",
        Connect,
        |liar, _| found_record(liar, |it| it.credential.signature_public_key = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "LookupHandle.record.connection_establishment_key: the service's own",
        Connect,
        |liar, _| {
            found_record(liar, |it| {
                it.connection_establishment_key = opaque(own_key().public());
            })
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record.signature: nothing",
        Connect,
        |liar, _| found_record(liar, |it| it.signature = opaque(*b"")),
        Refused("peer"),
    ),
    (
        "LookupHandle.record: the service's own, with no key",
        Connect,
        |liar, means| {
            let record = own_record(means.handle, means.handle, b"");
            found(liar, move |it| *it = record.clone());
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record: the service's own, with a key of zeros",
        Connect,
        |liar, means| {
            let record = own_record(means.handle, means.handle, &[0; 32]);
            found(liar, move |it| *it = record.clone());
        },
        Refused("peer"),
    ),
    (
        "LookupHandle.record: the service's own",
        Connect,
        |liar, means| {
            let record = own_record(means.handle, means.handle, &own_key().public());
            found(liar, move |it| *it = record.clone());
        },
        Pinned,
    ),
];

const JOIN_RECORD: &[Lie] = &[
    (
        "JoinRecord.sealed: nothing",
        Join,
        |liar, _| sealed(liar, Operation::JoinRecord, Vec::clear),
        Waits,
    ),
    (
        "JoinRecord.sealed: cut short",
        Join,
        |liar, _| sealed(liar, Operation::JoinRecord, |it| it.truncate(it.len() - 1)),
        Waits,
    ),
    (
        "JoinRecord.sealed: garbage",
        Join,
        |liar, _| sealed(liar, Operation::JoinRecord, |it| it.fill(0xa5)),
        Waits,
    ),
    (
        "JoinRecord's ratchet_tree: nothing",
        Join,
        |liar, _| joined(liar, |it| it.ratchet_tree = opaque(*b"")),
        Waits,
    ),
    (
        "JoinRecord's ratchet_tree: garbage",
        Join,
        |liar, _| joined(liar, |it| it.ratchet_tree = opaque(GARBAGE)),
        Waits,
    ),
    (
        "JoinRecord's ratchet_tree: of another group",
        Join,
        |liar, means| {
            let tree = opaque(means.tree.as_slice());
            joined(liar, move |it| it.ratchet_tree = tree.clone());
        },
        Waits,
    ),
    (
        "JoinRecord's leaves: none",
        Join,
        |liar, _| joined(liar, |it| it.leaves.clear()),
        Waits,
    ),
    (
        "JoinRecord's leaves.leaf_index: of none",
        Join,
        |liar, _| {
            joined(liar, |it| {
                it.leaves
                    .iter_mut()
                    .for_each(|leaf| leaf.leaf_index = u32::MAX);
            })
        },
        Waits,
    ),
    (
        "JoinRecord's leaves.encrypted_identity_link_key of who invites: another one's",
        Join,
        |liar, _| {
            joined(liar, |it| {
                let other = it.leaves[1].encrypted_identity_link_key.clone();
                it.leaves[0].encrypted_identity_link_key = other;
            })
        },
        Waits,
    ),
    (
        "JoinRecord's leaves.encrypted_identity_link_key of another one: garbage",
        Join,
        |liar, _| {
            joined(liar, |it| {
                it.leaves[1].encrypted_identity_link_key = opaque(GARBAGE);
            })
        },
        Unverified,
    ),
    (
        "JoinRecord's leaves: each twice, garbage behind",
        Join,
        |liar, _| {
            joined(liar, |it| {
                for mut leaf in it.leaves.clone() {
                    leaf.encrypted_identity_link_key = opaque(GARBAGE);
                    it.leaves.push(leaf);
                }
            })
        },
        Harmless,
    ),
    (
        "JoinRecord's state_key: zero",
        Join,
        |liar, _| joined(liar, |it| it.state_key = WireSecret::new([0; 32])),
        Stops(client::StopReason::Missing),
    ),
];

/// All of them, by answer.
pub const ANSWERS: &[&[Lie]] = &[
    INSPECT_GROUP,
    ACCEPTED,
    MADE_UP,
    RESERVE_GROUP_ID,
    CLAIM_KEY_PACKAGES,
    COUNT_KEY_PACKAGES,
    RECOVERY_RECORD,
    JOIN_RECORD,
    LOOKUP_HANDLE,
];
