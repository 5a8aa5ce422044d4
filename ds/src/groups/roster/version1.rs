//! Rosters as release 0.1 wrote them; rewritten with the next change of the group.

use std::borrow::Cow;

use protocol::policy::Capabilities;
use serde::Deserialize;

use super::{Leaf, RecentCommit, Roster};
use crate::error::DsError;

pub(super) const FORMAT: u8 = 1;

#[derive(Deserialize)]
struct RosterV1<'a> {
    #[expect(dead_code, reason = "read before")]
    format: u8,
    kind: u8,
    ciphersuite: u16,
    epoch: u64,
    oldest_message_epoch: u64,
    recent_commits: Vec<RecentCommitV1>,
    #[serde(borrow)]
    leaves: Vec<LeafV1<'a>>,
}

#[derive(Deserialize)]
struct RecentCommitV1 {
    epoch: u64,
    digest: [u8; 32],
    accepted_timestamp_ms: u64,
    former_key: Option<[u8; 32]>,
}

#[derive(Deserialize)]
struct LeafV1<'a> {
    index: u32,
    #[serde(borrow)]
    signature_key: Cow<'a, [u8]>,
    #[serde(borrow)]
    user_pseudonym: Cow<'a, [u8]>,
    #[expect(dead_code, reason = "no operation looked at it")]
    role: u8,
    handle_key_id: u8,
    #[serde(borrow)]
    handle: Cow<'a, [u8]>,
    #[serde(borrow)]
    encrypted_identity_link_key: Cow<'a, [u8]>,
    #[serde(borrow)]
    recovery_secret: Cow<'a, [u8]>,
}

/// There was no policy: everybody could do everything.
pub(super) fn read(bytes: &[u8]) -> Result<Roster<'_>, DsError> {
    let old: RosterV1<'_> =
        postcard::from_bytes(bytes).map_err(|_| DsError::Internal("roster of version 1"))?;
    Ok(Roster {
        format: super::FORMAT,
        kind: old.kind,
        ciphersuite: old.ciphersuite,
        epoch: old.epoch,
        oldest_message_epoch: old.oldest_message_epoch,
        tree_version: None,
        proposals_version: None,
        reinitialized: false,
        service_sender: None,
        pending_removals: Vec::new(),
        recent_commits: old
            .recent_commits
            .into_iter()
            .map(|commit| RecentCommit {
                epoch: commit.epoch,
                digest: commit.digest,
                accepted_timestamp_ms: commit.accepted_timestamp_ms,
                former_key: commit.former_key.map(|key| Cow::Owned(key.to_vec())),
            })
            .collect(),
        former_senders: Vec::new(),
        join_codes: Vec::new(),
        join_records: Vec::new(),
        leaves: old
            .leaves
            .into_iter()
            .map(|leaf| Leaf {
                index: leaf.index,
                signature_key: leaf.signature_key,
                user_pseudonym: leaf.user_pseudonym,
                capabilities: Capabilities::ALL.0,
                since_epoch: 0,
                handle_key_id: leaf.handle_key_id,
                handle: leaf.handle,
                encrypted_identity_link_key: leaf.encrypted_identity_link_key,
                recovery_secret: leaf.recovery_secret,
            })
            .collect(),
        older_lookups: true,
    })
}
