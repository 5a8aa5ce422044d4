//! What the service can say instead of the truth to a client that comes into a group from outside:
//! that comes back, comes in by a code, or accepts a connection.

use protocol::codec::{WireSecret, opaque};
use protocol::group::OwnLeafResponse;
use protocol::group::{JoinAccepted, JoinCode};
use protocol::ids::{Day, Epoch, LeafIndex, Position, RotationEpoch, Week};
use protocol::join::{ExternalCommitInfoResponse, SealedFormerWrapperKey, WrapperChainLink};
use protocol::operation::Operation;
use protocol::policy::Capabilities;

use super::alter;
use crate::liar::Liar;

/// What comes of a lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The client says that the group is not the one that it knows, and sends nothing into it.
    NotTheGroup,
    /// The client cannot read the answer, and sends nothing into the group.
    Unreadable,
    /// The client does not look at it, and comes into its group.
    NotBelieved,
    /// The client comes in, and sends nothing: somebody is in it who does not show who it is.
    Unverified,
}

use Seen::{NotBelieved, NotTheGroup, Unreadable};

/// What the service has at hand.
pub struct Shown {
    /// Its answer about a group of its own.
    pub own: ExternalCommitInfoResponse,
    /// A true answer: at an earlier time, or about another group of the same kind.
    pub old: ExternalCommitInfoResponse,
}

/// How a client comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Again, after it has stopped.
    Back,
    /// By a join code.
    Code,
    /// Into the group of who asked for a connection.
    Connection,
}

/// What is changed, how, and what comes of it by each [`Way`].
pub type Lie = (
    &'static str,
    fn(&mut ExternalCommitInfoResponse, &Shown),
    [Seen; 3],
);

fn with_a_byte_more(bytes: &tls_codec::VLBytes) -> tls_codec::VLBytes {
    opaque([bytes.as_slice(), &[0]].concat())
}

/// A code that nobody made.
fn made_up_code() -> JoinCode {
    JoinCode {
        permit_hash: [5; 32],
        public_key: opaque([9; 32]),
        expiry: Week(u16::MAX),
        epoch: Epoch(0),
        maker: LeafIndex(0),
        signature: opaque([7; 64]),
    }
}

/// Every field of [`ExternalCommitInfoResponse`].
pub const EXTERNAL_COMMIT_INFO: &[Lie] = &[
    (
        "a group of the service's own, with the genuine link keys",
        |info, shown| {
            info.group_info = shown.own.group_info.clone();
            info.ratchet_tree = shown.own.ratchet_tree.clone();
        },
        [NotTheGroup; 3],
    ),
    (
        "a group of the service's own",
        |info, shown| *info = shown.own.clone(),
        [NotTheGroup; 3],
    ),
    (
        "the group as it was, or another one",
        |info, shown| *info = shown.old.clone(),
        [NotTheGroup, NotTheGroup, Unreadable],
    ),
    (
        "epoch: 0",
        |info, _| info.epoch = Epoch(0),
        [NotBelieved; 3],
    ),
    (
        "epoch: the highest number",
        |info, _| info.epoch = Epoch(u64::MAX),
        [NotBelieved; 3],
    ),
    (
        "group_info: nothing",
        |info, _| info.group_info = opaque(*b""),
        [Unreadable; 3],
    ),
    (
        "group_info: with a byte more",
        |info, _| info.group_info = with_a_byte_more(&info.group_info),
        [Unreadable; 3],
    ),
    (
        "group_info: with another signature",
        |info, _| {
            let mut bytes = info.group_info.as_slice().to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            info.group_info = opaque(bytes);
        },
        [NotTheGroup; 3],
    ),
    (
        "group_info: as it was, or another one's",
        |info, shown| info.group_info = shown.old.group_info.clone(),
        [NotTheGroup, NotTheGroup, Unreadable],
    ),
    (
        "ratchet_tree: nothing",
        |info, _| info.ratchet_tree = opaque(*b""),
        [Unreadable; 3],
    ),
    (
        "ratchet_tree: with a byte more",
        |info, _| info.ratchet_tree = with_a_byte_more(&info.ratchet_tree),
        [Unreadable; 3],
    ),
    (
        "ratchet_tree: as it was, or another one's",
        |info, shown| info.ratchet_tree = shown.old.ratchet_tree.clone(),
        [NotTheGroup; 3],
    ),
    (
        "ratchet_tree: with a bit changed",
        |info, _| {
            let mut bytes = info.ratchet_tree.as_slice().to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            info.ratchet_tree = opaque(bytes);
        },
        [NotTheGroup; 3],
    ),
    (
        "leaves: none",
        |info, _| info.leaves.clear(),
        [NotTheGroup; 3],
    ),
    (
        "leaves: each of a leaf that is not there",
        |info, _| {
            info.leaves
                .iter_mut()
                .for_each(|leaf| leaf.leaf_index = LeafIndex(u32::MAX));
        },
        [NotTheGroup; 3],
    ),
    (
        "leaves: each twice, garbage behind",
        |info, _| {
            for mut leaf in info.leaves.clone() {
                leaf.link_key.sealed = opaque([0xa5; 60]);
                info.leaves.push(leaf);
            }
        },
        [NotBelieved; 3],
    ),
    (
        "leaves.link_key.wrapper: of no segment",
        |info, _| {
            info.leaves
                .iter_mut()
                .for_each(|leaf| leaf.link_key.wrapper = RotationEpoch(u64::MAX));
        },
        [NotTheGroup; 3],
    ),
    (
        "leaves.link_key.sealed: each the key of another one, or garbage",
        |info, _| {
            if let [only] = &mut info.leaves[..] {
                only.link_key.sealed = opaque([0xa5; 60]);
                return;
            }
            let first = info.leaves[0].link_key.clone();
            for at in 1..info.leaves.len() {
                info.leaves[at - 1].link_key = info.leaves[at].link_key.clone();
            }
            info.leaves.last_mut().unwrap().link_key = first;
        },
        [NotTheGroup; 3],
    ),
    (
        "leaves.link_key.sealed of the last one: garbage",
        |info, _| info.leaves.last_mut().unwrap().link_key.sealed = opaque([0xa5; 60]),
        // Whom this client knows it does not forget.
        [NotBelieved, NotBelieved, NotTheGroup],
    ),
    (
        "wrapper_chain: none",
        |info, _| info.wrapper_chain.clear(),
        // Who comes by a code cannot see who has signed it, if that one's key is under an earlier
        // wrapper key.
        [NotBelieved, NotTheGroup, NotBelieved],
    ),
    (
        "wrapper_chain: garbage, in a circle",
        |info, _| {
            let link = WrapperChainLink {
                under: RotationEpoch(0),
                former: SealedFormerWrapperKey {
                    of: RotationEpoch(0),
                    sealed: opaque([0xa5; 60]),
                },
            };
            info.wrapper_chain = vec![link; 1000];
        },
        [NotBelieved, NotTheGroup, NotBelieved],
    ),
    (
        "codes: none",
        |info, _| info.codes.clear(),
        [NotBelieved; 3],
    ),
    (
        "codes: one that nobody made",
        |info, _| info.codes.push(made_up_code()),
        [NotBelieved; 3],
    ),
    (
        "codes: the service's own key in one that a member made",
        |info, _| {
            let own = opaque([9; 32]);
            info.codes
                .iter_mut()
                .for_each(|it| it.public_key = own.clone());
        },
        [NotBelieved; 3],
    ),
    (
        "codes.expiry: never",
        |info, _| {
            info.codes
                .iter_mut()
                .for_each(|it| it.expiry = Week(u16::MAX))
        },
        [NotBelieved; 3],
    ),
    (
        "codes.maker: nobody",
        |info, _| {
            info.codes
                .iter_mut()
                .for_each(|it| it.maker = LeafIndex(u32::MAX));
        },
        [NotBelieved; 3],
    ),
    (
        "codes.permit_hash: another one",
        |info, _| {
            info.codes
                .iter_mut()
                .for_each(|it| it.permit_hash = [5; 32])
        },
        [NotBelieved; 3],
    ),
    (
        "codes.signature: garbage",
        |info, _| {
            info.codes
                .iter_mut()
                .for_each(|it| it.signature = opaque([7; 64]));
        },
        [NotBelieved; 3],
    ),
];

fn leaf(liar: &Liar, change: impl Fn(&mut OwnLeafResponse) + Send + 'static) {
    alter(liar, Operation::OwnLeaf, change);
}

fn join(liar: &Liar, change: impl Fn(&mut JoinAccepted) + Send + 'static) {
    alter(liar, Operation::ExternalJoin, change);
}

/// What is changed, how, and what comes of it.
pub type LieOnReturn = (&'static str, fn(&Liar), Seen);

/// Every field of the other answers that lead a client back into a group.
pub const COMING_BACK: &[LieOnReturn] = &[
    (
        "OwnLeaf.epoch: 0",
        |liar| leaf(liar, |own| own.epoch = Epoch(0)),
        NotBelieved,
    ),
    (
        "OwnLeaf.epoch: a later one",
        |liar| leaf(liar, |own| own.epoch.0 += 100),
        NotBelieved,
    ),
    (
        "OwnLeaf.leaf.leaf_index: another one",
        |liar| leaf(liar, |own| own.leaf.leaf_index.0 += 1),
        NotTheGroup,
    ),
    (
        "OwnLeaf.leaf.leaf_index: the highest number",
        |liar| leaf(liar, |own| own.leaf.leaf_index = LeafIndex(u32::MAX)),
        NotTheGroup,
    ),
    (
        "OwnLeaf.leaf.user_pseudonym: another one",
        |liar| {
            leaf(liar, |own| {
                own.leaf.user_pseudonym = opaque(*b"mimi://d/p/x")
            })
        },
        NotBelieved,
    ),
    (
        "OwnLeaf.leaf.capabilities: none",
        |liar| leaf(liar, |own| own.leaf.capabilities = Capabilities(0)),
        NotBelieved,
    ),
    (
        "OwnLeaf.leaf.link_key: garbage",
        |liar| leaf(liar, |own| own.leaf.link_key.sealed = opaque([0xa5; 60])),
        NotBelieved,
    ),
    (
        "OwnLeaf.leaf.link_key.wrapper: of no segment",
        |liar| {
            leaf(liar, |own| {
                own.leaf.link_key.wrapper = RotationEpoch(u64::MAX)
            })
        },
        NotBelieved,
    ),
    (
        "OwnLeaf.leaf.recovery_key: none",
        |liar| leaf(liar, |own| own.leaf.recovery_key = None),
        NotBelieved,
    ),
    (
        "OwnLeaf.leaf.has_row: no such number",
        |liar| leaf(liar, |own| own.leaf.has_row = 255),
        NotBelieved,
    ),
    (
        "OwnLeaf.leaf.active: the highest number",
        |liar| leaf(liar, |own| own.leaf.active = Week(u16::MAX)),
        NotBelieved,
    ),
    (
        "JoinAccepted.accepted.epoch: 0",
        |liar| join(liar, |joined| joined.accepted.epoch = Epoch(0)),
        NotBelieved,
    ),
    (
        "JoinAccepted.accepted.epoch: a later one",
        |liar| join(liar, |joined| joined.accepted.epoch.0 += 100),
        NotBelieved,
    ),
    (
        "JoinAccepted.accepted.place: elsewhere",
        |liar| {
            join(liar, |joined| {
                joined.accepted.place.position = Position(u64::MAX)
            })
        },
        // It asks again.
        Unreadable,
    ),
    (
        "JoinAccepted.accepted.accepted_ms: the highest number",
        |liar| join(liar, |joined| joined.accepted.accepted_ms = u64::MAX),
        NotBelieved,
    ),
    (
        "JoinAccepted.journal: another one's",
        |liar| {
            join(liar, |joined| {
                joined.journal.rotation_epoch = RotationEpoch(u64::MAX);
                joined.journal.journal_key = WireSecret::new([0; 32]);
                joined.journal.tag_key = WireSecret::new([0; 32]);
                joined.journal.tag_day = Day(u32::MAX);
            });
        },
        NotBelieved,
    ),
];
