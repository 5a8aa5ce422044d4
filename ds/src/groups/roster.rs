//! The roster: what the service needs of each leaf for the hot path. Borrowed from the opened part, so
//! that reading it allocates one vector, whatever the number of leaves.

use std::borrow::Cow;

use crypto::keys::StateKey;
use crypto::queue::{HANDLE_LEN, QueueHandle};
use crypto::sealing;
use protocol::groups::GroupKind;
use protocol::ids::{GroupId, QueueId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::DsError;
use crate::service_state::DeliveryService;
use crate::store::Version;

const FORMAT: u8 = 2;

/// Commits whose acceptance is remembered, for a winner that lost the answer.
const RECENT_COMMITS: usize = 32;

/// The plaintext of a roster part.
#[derive(Serialize, Deserialize)]
pub struct Roster<'a> {
    format: u8,
    kind: u8,
    /// MLS ciphersuite.
    pub ciphersuite: u16,
    /// The group's epoch.
    pub epoch: u64,
    /// Messages of this epoch and later ones are taken: never older than the last rotation.
    pub oldest_message_epoch: u64,
    /// The version that the tree was sealed in: this one, or an earlier one if only the roster has changed
    /// since.
    pub tree_version: Version,
    recent_commits: Vec<RecentCommit>,
    /// Sorted by index.
    #[serde(borrow)]
    leaves: Vec<Leaf<'a>>,
}

/// A commit that was accepted.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct RecentCommit {
    /// The epoch it began.
    pub epoch: u64,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// When it was accepted.
    pub accepted_timestamp_ms: u64,
    /// The committer's signature key before, if the commit changed it: a winner that lost the answer
    /// signs again with that one.
    pub former_key: Option<[u8; 32]>,
}

/// One leaf.
#[derive(Clone, Serialize, Deserialize)]
pub struct Leaf<'a> {
    /// MLS leaf index.
    pub index: u32,
    /// As in the tree.
    #[serde(borrow)]
    pub signature_key: Cow<'a, [u8]>,
    /// As in the leaf's credential.
    #[serde(borrow)]
    pub user_pseudonym: Cow<'a, [u8]>,
    role: u8,
    handle_key_id: u8,
    #[serde(borrow)]
    handle: Cow<'a, [u8]>,
    /// For members.
    #[serde(borrow)]
    pub encrypted_identity_link_key: Cow<'a, [u8]>,
    /// 32 bytes, or none yet.
    #[serde(borrow)]
    pub recovery_secret: Cow<'a, [u8]>,
}

/// The role of the creator and of everybody else; operations by role come later, the place in the
/// format is here.
const ROLE_MEMBER: u8 = 0;
const ROLE_ADMIN: u8 = 1;

impl<'a> Leaf<'a> {
    /// A leaf that has just come in.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn new(
        service: &DeliveryService,
        index: u32,
        signature_key: Vec<u8>,
        user_pseudonym: Vec<u8>,
        queue: &QueueId,
        encrypted_identity_link_key: Vec<u8>,
    ) -> Result<Self, DsError> {
        let (handle_key_id, handle) = service.keys.seal_handle(queue)?;
        Ok(Self {
            index,
            signature_key: signature_key.into(),
            user_pseudonym: user_pseudonym.into(),
            role: ROLE_MEMBER,
            handle_key_id,
            handle: handle.to_vec().into(),
            encrypted_identity_link_key: encrypted_identity_link_key.into(),
            recovery_secret: Cow::Borrowed(&[]),
        })
    }

    /// Makes it the creator's.
    #[must_use]
    pub fn as_creator(mut self, recovery_secret: &[u8; 32]) -> Self {
        self.role = ROLE_ADMIN;
        self.recovery_secret = recovery_secret.to_vec().into();
        self
    }

    /// The same leaf of a tree with new content: keeps role and recovery secret.
    #[must_use]
    pub fn with_content_of(mut self, old: &Leaf<'a>) -> Self {
        self.role = old.role;
        self.recovery_secret = old.recovery_secret.clone();
        self
    }

    /// The queue behind the handle.
    ///
    /// # Errors
    /// [`DsError::Internal`] if the handle is not ours.
    pub fn queue(&self, service: &DeliveryService) -> Result<QueueId, DsError> {
        let handle: &QueueHandle = self
            .handle
            .as_ref()
            .try_into()
            .map_err(|_: std::array::TryFromSliceError| DsError::Internal("queue handle"))?;
        const { assert!(HANDLE_LEN == 44) };
        Ok(service.keys.open_handle(self.handle_key_id, handle)?)
    }
}

impl<'a> Roster<'a> {
    /// The roster of a new group.
    #[must_use]
    pub fn new(kind: GroupKind, ciphersuite: u16, version: Version, creator: Leaf<'a>) -> Self {
        Self {
            format: FORMAT,
            kind: kind as u8,
            ciphersuite,
            epoch: 0,
            oldest_message_epoch: 0,
            tree_version: version,
            recent_commits: Vec::new(),
            leaves: vec![creator],
        }
    }

    /// Reads an opened part.
    ///
    /// # Errors
    /// [`DsError::Internal`] if it is not one.
    pub fn read(bytes: &'a [u8]) -> Result<Self, DsError> {
        let roster: Self = postcard::from_bytes(bytes).map_err(|_| DsError::Internal("roster"))?;
        if roster.format == FORMAT {
            Ok(roster)
        } else {
            Err(DsError::Internal("roster format"))
        }
    }

    /// Seals the part for a version of the group.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn seal(
        &self,
        group: &GroupId,
        version: &Version,
        key: &StateKey,
    ) -> Result<Vec<u8>, DsError> {
        let bytes =
            Zeroizing::new(postcard::to_stdvec(self).map_err(|_| DsError::Internal("roster"))?);
        Ok(sealing::seal(
            key.expose(),
            super::PartRow::new(group, version).place("roster"),
            &bytes,
        )?)
    }

    /// What kind of group it is.
    #[must_use]
    pub fn kind(&self) -> GroupKind {
        if self.kind == GroupKind::Connection as u8 {
            GroupKind::Connection
        } else {
            GroupKind::Group
        }
    }

    /// A leaf by its index.
    #[must_use]
    pub fn leaf(&self, index: u32) -> Option<&Leaf<'a>> {
        let at = self
            .leaves
            .binary_search_by_key(&index, |leaf| leaf.index)
            .ok()?;
        self.leaves.get(at)
    }

    /// As [`Roster::leaf`], to change it.
    pub fn leaf_mut(&mut self, index: u32) -> Option<&mut Leaf<'a>> {
        let at = self
            .leaves
            .binary_search_by_key(&index, |leaf| leaf.index)
            .ok()?;
        self.leaves.get_mut(at)
    }

    /// All leaves, by index.
    #[must_use]
    pub fn leaves(&self) -> &[Leaf<'a>] {
        &self.leaves
    }

    /// Whether a user has a leaf here.
    #[must_use]
    pub fn has_user(&self, pseudonym: &[u8]) -> bool {
        self.leaves
            .iter()
            .any(|leaf| leaf.user_pseudonym.as_ref() == pseudonym)
    }

    /// The acceptance of a commit with this digest, if it is remembered.
    #[must_use]
    pub fn accepted(&self, digest: &[u8; 32]) -> Option<&RecentCommit> {
        self.recent_commits
            .iter()
            .find(|commit| commit.digest == *digest)
    }

    /// The roster after a commit, which has a version and a tree of its own.
    #[must_use]
    pub fn next(
        &self,
        version: Version,
        mut leaves: Vec<Leaf<'a>>,
        commit: RecentCommit,
        rotates: bool,
    ) -> Self {
        leaves.sort_unstable_by_key(|leaf| leaf.index);
        let mut recent_commits = self.recent_commits.clone();
        recent_commits.push(commit);
        let surplus = recent_commits.len().saturating_sub(RECENT_COMMITS);
        recent_commits.drain(..surplus);
        Self {
            format: FORMAT,
            kind: self.kind,
            ciphersuite: self.ciphersuite,
            epoch: commit.epoch,
            oldest_message_epoch: if rotates {
                commit.epoch
            } else {
                self.oldest_message_epoch
                    .max(commit.epoch.saturating_sub(super::MESSAGE_LAG_EPOCHS))
            },
            tree_version: version,
            recent_commits,
            leaves,
        }
    }
}
