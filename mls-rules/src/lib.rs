//! What a group allows: which commits, proposals and messages, by whom, under which policy. Written
//! once, for the service that accepts a commit and for the members that follow it: the service may
//! be wrong or lie.
//!
//! There are two judges of a commit. [`commit::Case::judge`] refuses what is unambiguously against
//! the rules of the epoch that the commit names; everybody applies it.
//! [`commit::Case::judge_operation`] and [`commit::Case::judge_join`] are the service's: a commit
//! must be the operation that it was sent as. Nothing here reads, writes, or knows a clock: what is
//! judged by a time is told when the service accepted it.

pub mod commit;
pub mod context;
pub mod leaf;
pub mod operation;
pub mod proposal;

use protocol::policy::{Capabilities, GroupPolicy};
use protocol::problem::ProblemType;

pub use self::commit::{Arrival, Case, Effect, Joined, Renewed, leaving};
pub use self::context::{ServiceSenders, policy_in};
pub use self::leaf::LeafClaims;

/// The ciphersuites of openmls' RustCrypto provider with a signature scheme that requests are
/// signed with: Ed25519 and ECDSA over P-256 (RFC 9420 §17.1, draft-ietf-mls-pq-ciphersuites).
pub const SUPPORTED_CIPHERSUITES: &[u16] = &[
    // MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519
    0x0001, // MLS_128_DHKEMP256_AES128GCM_SHA256_P256
    0x0002, // MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519
    0x0003,
    // MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519: X-Wing, the post-quantum hybrid
    0x004e, // MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519: X-Wing
    0x004f,
];

/// Most leaves of one user in a group. A user goes whole: one commit could not remove a user with
/// any number of leaves, and such a user would fill the group.
pub const MAX_CLIENTS: usize = 32;

/// Why something is against the rules: a problem at the service, a reason to stop at a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The commit lacks something that it must contain, or contains something that it must not.
    #[error("the commit is not valid")]
    Commit,
    /// The proposal is not of a kind that can be taken.
    #[error("the proposal is not valid")]
    Proposal,
    /// A leaf lacks what every leaf has: a pseudonymous credential for its own key.
    #[error("a leaf is not valid")]
    Leaf,
    /// This committer may not do this.
    #[error("the committer may not do that")]
    NotAllowed,
    /// The policy is malformed.
    #[error("the policy is malformed")]
    Policy,
    /// The external senders change in another way than by the service's rotation.
    #[error("the external senders change")]
    Senders,
    /// Leaves that have to go are not covered.
    #[error("pending removals are not covered")]
    Pending,
    /// The commit removes somebody and does not end the segment.
    #[error("a removal must rotate")]
    Rotation,
    /// The group's ciphersuite is not supported.
    #[error("the ciphersuite is not supported")]
    Ciphersuite,
    /// Not an id of a group.
    #[error("the group id is not valid")]
    GroupId,
    /// A user would have more than [`MAX_CLIENTS`] leaves.
    #[error("a user has too many leaves")]
    TooMany,
    /// An authorization is good for too long.
    #[error("an authorization is good for too long")]
    TooLong,
}

impl Refusal {
    /// The problem with which the service answers.
    #[must_use]
    pub const fn problem(self) -> ProblemType {
        match self {
            Self::Commit | Self::Policy | Self::Senders => ProblemType::InvalidCommit,
            Self::Proposal => ProblemType::InvalidMessage,
            Self::Leaf => ProblemType::InvalidLeaf,
            Self::NotAllowed => ProblemType::NotAllowed,
            Self::Pending => ProblemType::PendingProposals,
            Self::Rotation => ProblemType::RotationRequired,
            Self::Ciphersuite => ProblemType::UnsupportedCiphersuite,
            Self::GroupId => ProblemType::InvalidGroupId,
            Self::TooMany | Self::TooLong => ProblemType::LimitExceeded,
        }
    }
}

/// The capabilities of a user. Without a policy these are all.
#[must_use]
pub fn capabilities(policy: Option<&GroupPolicy>, user_pseudonym: &[u8]) -> Capabilities {
    policy.map_or(Capabilities::ALL, |policy| {
        policy.capabilities(user_pseudonym)
    })
}
