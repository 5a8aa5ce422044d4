//! One row for what can be changed in a field of an answer; by what the client does.

pub use super::means::{Lie, Means, own_identity, own_key};
use super::{groups, joining, people};

/// All of them, by answer.
pub const ANSWERS: &[&[Lie]] = &[
    groups::INSPECT_GROUP,
    groups::ACCEPTED,
    groups::MADE_UP,
    groups::RESERVE_GROUP_ID,
    people::CLAIM_KEY_PACKAGES,
    people::COUNT_KEY_PACKAGES,
    people::LOOKUP_HANDLE,
    people::READ_INBOX,
    joining::RECOVERY_ROW,
    joining::JOIN_ACCEPTED,
    joining::JOIN_RECORD,
    joining::FETCH_WELCOME,
];
