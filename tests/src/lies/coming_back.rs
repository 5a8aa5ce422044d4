//! What the service can say instead of the truth when a client comes back into a group (`lying_service`).

use protocol::codec::opaque;
use protocol::groups::{EpochAccepted, ExternalCommitInfoResponse, OwnLeafResponse};
use protocol::policy::Capabilities;
use protocol::{Operation, Wire as _};

use super::alter;
use crate::liar::Liar;

/// What comes of a lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// The client says that the group is not the one that it knows, and sends nothing into it.
    NotTheGroup,
    /// The client cannot read the answer, and sends nothing into the group.
    Unreadable,
    /// The client does not look at it, and comes back into its group.
    NotBelieved,
}

/// What the service has at hand.
pub struct Shown {
    /// Its answer about a group of its own.
    pub own: Vec<u8>,
    /// Its true answer at an earlier time.
    pub old: ExternalCommitInfoResponse,
}

fn show(liar: &Liar, change: impl Fn(&mut ExternalCommitInfoResponse) + Send + 'static) {
    alter(liar, Operation::ExternalCommitInfo, change);
}

fn say_of_leaf(liar: &Liar, change: impl Fn(&mut OwnLeafResponse) + Send + 'static) {
    alter(liar, Operation::OwnLeaf, change);
}

fn say_of_join(liar: &Liar, change: impl Fn(&mut EpochAccepted) + Send + 'static) {
    alter(liar, Operation::ExternalJoin, change);
}

fn with_a_byte_more(bytes: &tls_codec::VLBytes) -> tls_codec::VLBytes {
    opaque([bytes.as_slice(), &[0]].concat())
}

/// What is changed, how, and what comes of it.
pub type Lie = (&'static str, fn(&Liar, &Shown), Back);

/// Every field of the answers that lead a client back into a group, and what the service says instead.
pub const COMING_BACK: &[Lie] = &[
    (
        "ExternalCommitInfo: a group of the service's own",
        |liar, means| {
            let own = ExternalCommitInfoResponse::decode(&means.own).unwrap();
            // With the genuine link keys.
            show(liar, move |info| {
                info.group_info = own.group_info.clone();
                info.ratchet_tree = own.ratchet_tree.clone();
            });
        },
        Back::NotTheGroup,
    ),
    (
        "ExternalCommitInfo: the group as it was",
        |liar, means| {
            let old = means.old.clone();
            show(liar, move |info| *info = old.clone());
        },
        Back::NotTheGroup,
    ),
    (
        "ExternalCommitInfo.group_info: with another signature",
        |liar, _| {
            show(liar, |info| {
                let mut bytes = info.group_info.as_slice().to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                info.group_info = opaque(bytes);
            });
        },
        Back::NotTheGroup,
    ),
    (
        "ExternalCommitInfo.group_info: with a byte more",
        |liar, _| {
            show(liar, |info| {
                info.group_info = with_a_byte_more(&info.group_info)
            })
        },
        Back::Unreadable,
    ),
    (
        "ExternalCommitInfo.ratchet_tree: as it was",
        |liar, means| {
            let old = means.old.clone();
            show(liar, move |info| {
                info.ratchet_tree = old.ratchet_tree.clone()
            });
        },
        Back::NotTheGroup,
    ),
    (
        "ExternalCommitInfo.ratchet_tree: with a byte more",
        |liar, _| {
            show(liar, |info| {
                info.ratchet_tree = with_a_byte_more(&info.ratchet_tree)
            })
        },
        Back::Unreadable,
    ),
    (
        "ExternalCommitInfo.leaves: none",
        |liar, _| show(liar, |info| info.leaves.clear()),
        Back::NotTheGroup,
    ),
    (
        "ExternalCommitInfo.leaves: each the key of another one",
        |liar, _| {
            show(liar, |info| {
                let first = info.leaves[0].encrypted_identity_link_key.clone();
                for at in 1..info.leaves.len() {
                    info.leaves[at - 1].encrypted_identity_link_key =
                        info.leaves[at].encrypted_identity_link_key.clone();
                }
                info.leaves.last_mut().unwrap().encrypted_identity_link_key = first;
            });
        },
        Back::NotTheGroup,
    ),
    (
        "ExternalCommitInfo.self_removes: no proposal",
        |liar, _| show(liar, |info| info.self_removes.push(opaque(*b"go"))),
        Back::Unreadable,
    ),
    (
        "OwnLeaf.leaf_index: another one",
        |liar, _| say_of_leaf(liar, |own| own.member.leaf_index += 1),
        Back::NotTheGroup,
    ),
    (
        "OwnLeaf.user_pseudonym: another one",
        |liar, _| {
            say_of_leaf(liar, |own| {
                own.member.user_pseudonym = opaque(*b"mimi://d/p/x")
            })
        },
        Back::NotBelieved,
    ),
    (
        "OwnLeaf.epoch: a later one",
        |liar, _| say_of_leaf(liar, |own| own.epoch += 100),
        Back::NotBelieved,
    ),
    (
        "ExternalJoin.epoch: a later one",
        |liar, _| {
            say_of_join(liar, |accepted| accepted.epoch += 100);
        },
        Back::NotBelieved,
    ),
    (
        "ExternalCommitInfo.leaves: each of a leaf that is not there",
        |liar, _| {
            show(liar, |info| {
                info.leaves
                    .iter_mut()
                    .for_each(|leaf| leaf.leaf_index = u32::MAX);
            });
        },
        Back::NotTheGroup,
    ),
    (
        "ExternalCommitInfo.leaves: each twice, garbage behind",
        |liar, _| {
            show(liar, |info| {
                for mut leaf in info.leaves.clone() {
                    leaf.encrypted_identity_link_key = opaque([0xa5; 60]);
                    info.leaves.push(leaf);
                }
            });
        },
        Back::NotBelieved,
    ),
    (
        "ExternalCommitInfo.group_info: nothing",
        |liar, _| show(liar, |info| info.group_info = opaque(*b"")),
        Back::Unreadable,
    ),
    (
        "ExternalCommitInfo.ratchet_tree: nothing",
        |liar, _| show(liar, |info| info.ratchet_tree = opaque(*b"")),
        Back::Unreadable,
    ),
    (
        "OwnLeaf.leaf_index: the highest number",
        |liar, _| say_of_leaf(liar, |own| own.member.leaf_index = u32::MAX),
        Back::NotTheGroup,
    ),
    (
        "OwnLeaf.epoch: 0",
        |liar, _| say_of_leaf(liar, |own| own.epoch = 0),
        Back::NotBelieved,
    ),
    (
        "OwnLeaf.capabilities: none",
        |liar, _| say_of_leaf(liar, |own| own.member.capabilities = Capabilities(0)),
        Back::NotBelieved,
    ),
    (
        "OwnLeaf.encrypted_identity_link_key: garbage",
        |liar, _| {
            say_of_leaf(liar, |own| {
                own.member.encrypted_identity_link_key = opaque([0xa5; 60])
            })
        },
        Back::NotBelieved,
    ),
    (
        "ExternalJoin.epoch: 0",
        |liar, _| say_of_join(liar, |accepted| accepted.epoch = 0),
        Back::NotBelieved,
    ),
    (
        "ExternalJoin.accepted_timestamp_ms: the highest number",
        |liar, _| say_of_join(liar, |accepted| accepted.accepted_timestamp_ms = u64::MAX),
        Back::NotBelieved,
    ),
];
