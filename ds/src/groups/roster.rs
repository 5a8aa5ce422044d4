//! The roster: what the service needs of each leaf for the hot path. Borrowed from the opened part, so
//! that reading it allocates a few vectors, whatever the number of leaves.

mod join_records;
mod version1;

use std::borrow::Cow;

use crypto::keys::{GroupLookup as _, RecoverySecret, StateKey};
use crypto::queue::{HANDLE_LEN, QueueHandle};
use crypto::sealing;
use protocol::groups::{GroupKind, MemberRecord};
use protocol::ids::{GroupId, QueueId};
use protocol::policy::Capabilities;
use protocol::removal::RemovalReason;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::join_records::{OpenJoinRecord, Today};
use super::parts::{self, Part};
use crate::error::DsError;
use crate::service_state::DeliveryService;
use crate::store::Version;

const FORMAT: u8 = 3;

/// The same fields; the group's recovery records may stand under rows that are not bound to it.
const FORMAT_2: u8 = 2;

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
    /// Version that the tree part is sealed under; none in what release 0.1 wrote.
    pub tree_version: Option<Version>,
    /// Version that the part with the pending proposals is sealed under, if there is one.
    pub proposals_version: Option<Version>,
    /// After a ReInit nothing but reading and deletion is possible (RFC 9420 §11.2).
    pub reinitialized: bool,
    /// The service's place among the external senders.
    #[serde(borrow)]
    pub service_sender: Option<ServiceSender<'a>>,
    /// What must be committed before anything else happens.
    pub pending_removals: Vec<PendingRemoval>,
    #[serde(borrow)]
    recent_commits: Vec<RecentCommit<'a>>,
    former_senders: Vec<FormerSender>,
    /// Codes by which users may come in.
    #[serde(borrow)]
    pub join_codes: Vec<JoinCode<'a>>,
    /// Join records whose joiners have not all been here.
    pub join_records: Vec<OpenJoinRecord>,
    /// Sorted by index.
    #[serde(borrow)]
    leaves: Vec<Leaf<'a>>,
    /// Read from an earlier format: the next transition moves the recovery records.
    #[serde(skip)]
    pub older_lookups: bool,
}

/// Which of the group's external senders the service is.
#[derive(Clone, Serialize, Deserialize)]
pub struct ServiceSender<'a> {
    /// Index in the `external_senders` extension.
    pub index: u32,
    /// Which of the service's keys.
    #[serde(borrow, serialize_with = "serde_bytes::serialize")]
    pub public_key: Cow<'a, [u8]>,
}

/// A leaf whose removal is proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRemoval {
    /// The leaf.
    pub leaf: u32,
    /// Why, for when the service proposes it.
    pub reason: RemovalReason,
    /// An external commit cannot cover it: after one the service proposes it for the next epoch.
    pub renewed_by_service: bool,
}

/// A commit that was accepted.
#[derive(Clone, Serialize, Deserialize)]
pub struct RecentCommit<'a> {
    /// The epoch it began.
    pub epoch: u64,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// When it was accepted.
    pub accepted_timestamp_ms: u64,
    /// The committer's signature key before, if the commit changed it: a winner that lost the answer
    /// signs again with that one.
    #[serde(borrow)]
    pub former_key: Option<Cow<'a, [u8]>>,
}

/// Whether a leaf could send before an epoch, if that has changed: messages are judged by the epoch that they name.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct FormerSender {
    before_epoch: u64,
    leaf: u32,
    could_send: bool,
}

/// A code by which users may come in.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinCode<'a> {
    /// 32 bytes; opens the code's recovery record too.
    #[serde(borrow, serialize_with = "serde_bytes::serialize")]
    pub secret: Cow<'a, [u8]>,
    /// Last day on which it is good.
    pub expiry_day: u32,
}

/// One leaf.
#[derive(Clone, Serialize, Deserialize)]
pub struct Leaf<'a> {
    /// MLS leaf index.
    pub index: u32,
    /// As in the tree.
    #[serde(borrow, serialize_with = "serde_bytes::serialize")]
    pub signature_key: Cow<'a, [u8]>,
    /// As in the leaf's credential.
    #[serde(borrow, serialize_with = "serde_bytes::serialize")]
    pub user_pseudonym: Cow<'a, [u8]>,
    /// What its user may do, by the group's policy.
    capabilities: u16,
    /// The epoch it came in with.
    pub since_epoch: u64,
    handle_key_id: u8,
    #[serde(borrow, serialize_with = "serde_bytes::serialize")]
    handle: Cow<'a, [u8]>,
    /// For members.
    #[serde(borrow, serialize_with = "serde_bytes::serialize")]
    pub encrypted_identity_link_key: Cow<'a, [u8]>,
    /// 32 bytes, or none yet.
    #[serde(borrow, serialize_with = "serde_bytes::serialize")]
    pub recovery_secret: Cow<'a, [u8]>,
}

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
        let mut leaf = Self {
            index,
            signature_key: signature_key.into(),
            user_pseudonym: user_pseudonym.into(),
            capabilities: Capabilities::ALL.0,
            since_epoch: 0,
            handle_key_id: 0,
            handle: Cow::Borrowed(&[]),
            encrypted_identity_link_key: encrypted_identity_link_key.into(),
            recovery_secret: Cow::Borrowed(&[]),
        };
        leaf.set_queue(service, queue)?;
        Ok(leaf)
    }

    /// Has deliveries go to this queue.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn set_queue(&mut self, service: &DeliveryService, queue: &QueueId) -> Result<(), DsError> {
        let (handle_key_id, handle) = service.keys.seal_handle(queue)?;
        self.handle_key_id = handle_key_id;
        self.handle = handle.to_vec().into();
        Ok(())
    }

    /// With a recovery secret.
    #[must_use]
    pub fn with_recovery_secret(mut self, secret: &[u8; 32]) -> Self {
        self.recovery_secret = secret.to_vec().into();
        self
    }

    /// The same leaf of a tree with new content: keeps what is the roster's own.
    #[must_use]
    pub fn with_content_of(mut self, old: &Leaf<'a>) -> Self {
        self.since_epoch = old.since_epoch;
        self.recovery_secret = old.recovery_secret.clone();
        self
    }

    /// With what its user may do.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities.0;
        self
    }

    /// What its user may do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities(self.capabilities)
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

    /// Its recovery secret, if it has set one.
    #[must_use]
    pub fn recovery_secret(&self) -> Option<RecoverySecret> {
        RecoverySecret::try_from(self.recovery_secret.as_ref()).ok()
    }

    /// For members.
    #[must_use]
    pub fn record(&self) -> MemberRecord {
        MemberRecord {
            leaf_index: self.index,
            user_pseudonym: protocol::codec::opaque(self.user_pseudonym.as_ref()),
            capabilities: self.capabilities(),
            encrypted_identity_link_key: protocol::codec::opaque(
                self.encrypted_identity_link_key.as_ref(),
            ),
        }
    }
}

/// What a commit makes of a roster, beside the leaves.
pub struct Succession<'a> {
    /// The accepted commit.
    pub commit: RecentCommit<'a>,
    /// Whether the state key changes with it.
    pub rotates: bool,
    /// Of the tree part.
    pub tree_version: Version,
    /// As the new epoch's group context has it.
    pub service_sender: Option<ServiceSender<'a>>,
    /// Whether it was a ReInit.
    pub reinitializes: bool,
    /// Today, for what expires.
    pub today: u32,
}

impl<'a> Roster<'a> {
    /// The roster of a new group.
    #[must_use]
    pub fn new(
        kind: GroupKind,
        ciphersuite: u16,
        creator: Leaf<'a>,
        tree_version: Version,
        service_sender: ServiceSender<'a>,
    ) -> Self {
        Self {
            format: FORMAT,
            kind: kind as u8,
            ciphersuite,
            epoch: 0,
            oldest_message_epoch: 0,
            tree_version: Some(tree_version),
            proposals_version: None,
            reinitialized: false,
            service_sender: Some(service_sender),
            pending_removals: Vec::new(),
            recent_commits: Vec::new(),
            former_senders: Vec::new(),
            join_codes: Vec::new(),
            join_records: Vec::new(),
            leaves: vec![creator],
            older_lookups: false,
        }
    }

    /// Reads an opened part, of this or an earlier format.
    ///
    /// # Errors
    /// [`DsError::Internal`] if it is not one.
    pub fn read(bytes: &'a [u8]) -> Result<Self, DsError> {
        let read = || postcard::from_bytes(bytes).map_err(|_| DsError::Internal("roster"));
        match bytes.first() {
            Some(&FORMAT) => read(),
            Some(&FORMAT_2) => read().map(|old: Self| Self {
                format: FORMAT,
                older_lookups: true,
                ..old
            }),
            Some(&version1::FORMAT) => version1::read(bytes),
            _ => Err(DsError::Internal("roster format")),
        }
    }

    /// Seals the part under a version of the group.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn seal(
        &self,
        group: &GroupId,
        key: &StateKey,
        version: &Version,
    ) -> Result<Vec<u8>, DsError> {
        let bytes =
            Zeroizing::new(postcard::to_stdvec(self).map_err(|_| DsError::Internal("roster"))?);
        let at = parts::place(group, Part::Roster, Some(version));
        Ok(sealing::seal(key.expose(), at.as_place(), &bytes)?)
    }

    /// What kind of group it is.
    #[must_use]
    pub fn kind(&self) -> GroupKind {
        match self.kind {
            kind if kind == GroupKind::Connection as u8 => GroupKind::Connection,
            kind if kind == GroupKind::SingleUser as u8 => GroupKind::SingleUser,
            _ => GroupKind::Group,
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

    /// The leaf with this signature key.
    #[must_use]
    pub fn leaf_with_key(&self, signature_key: &[u8]) -> Option<&Leaf<'a>> {
        self.leaves
            .iter()
            .find(|leaf| leaf.signature_key.as_ref() == signature_key)
    }

    /// All leaves, by index.
    #[must_use]
    pub fn leaves(&self) -> &[Leaf<'a>] {
        &self.leaves
    }

    /// The leaves of a user.
    pub fn of_user(&self, pseudonym: &[u8]) -> impl Iterator<Item = &Leaf<'a>> {
        self.leaves
            .iter()
            .filter(move |leaf| leaf.user_pseudonym.as_ref() == pseudonym)
    }

    /// Whether a user has a leaf here.
    #[must_use]
    pub fn has_user(&self, pseudonym: &[u8]) -> bool {
        self.of_user(pseudonym).next().is_some()
    }

    /// Whether all leaves are of one user.
    #[must_use]
    pub fn is_one_user(&self) -> bool {
        let mut pseudonyms = self.leaves.iter().map(|leaf| &leaf.user_pseudonym);
        let first = pseudonyms.next();
        pseudonyms.all(|pseudonym| Some(pseudonym) == first)
    }

    /// Whether a removal of this leaf is pending.
    #[must_use]
    pub fn is_leaving(&self, index: u32) -> bool {
        self.pending_removals
            .iter()
            .any(|pending| pending.leaf == index)
    }

    /// Whether the service proposes a removal again after an external commit that did not cover it. A SelfRemove such a
    /// commit could cover, but who joins cannot see whether its membership tag is right (RFC 9420 §6.2): members would
    /// not follow a commit that covers one with a wrong tag.
    #[must_use]
    pub fn renews(&self, pending: &PendingRemoval) -> bool {
        pending.renewed_by_service || self.service_sender.is_some()
    }

    /// Whether a leaf may send a message of this epoch: it was in it, and its user could send then.
    #[must_use]
    pub fn could_send(&self, leaf: &Leaf<'_>, epoch: u64) -> bool {
        // The first change after the epoch tells how it was before.
        let former = self
            .former_senders
            .iter()
            .filter(|former| former.leaf == leaf.index && epoch < former.before_epoch)
            .min_by_key(|former| former.before_epoch);
        leaf.since_epoch <= epoch
            && former.map_or_else(
                || leaf.capabilities().contain(Capabilities::SEND),
                |former| former.could_send,
            )
    }

    /// The acceptance of a commit with this digest, if it is remembered.
    #[must_use]
    pub fn accepted(&self, digest: &[u8; 32]) -> Option<&RecentCommit<'a>> {
        self.recent_commits
            .iter()
            .find(|commit| commit.digest == *digest)
    }

    /// The join code with this secret, if it is still good.
    #[must_use]
    pub fn join_code(&self, secret: &[u8; 32], today: u32) -> Option<&JoinCode<'a>> {
        use subtle::ConstantTimeEq as _;
        self.join_codes
            .iter()
            .find(|code| code.expiry_day >= today && bool::from(code.secret.as_ref().ct_eq(secret)))
    }

    /// Rows of the recovery records of these leaves.
    pub fn recovery_rows(
        &self,
        service: &DeliveryService,
        group: &GroupId,
        leaves: impl Fn(&Leaf<'a>) -> bool,
    ) -> Vec<crypto::rows::Row> {
        self.leaves
            .iter()
            .filter(|leaf| leaves(leaf))
            .filter_map(Leaf::recovery_secret)
            .map(|secret| service.rows().recovery_record(&secret.lookup_in(group)))
            .collect()
    }

    /// Rows of the recovery records of join codes.
    pub fn join_code_rows(
        &self,
        service: &DeliveryService,
        group: &GroupId,
        codes: impl Fn(&JoinCode<'a>) -> bool,
    ) -> Vec<crypto::rows::Row> {
        self.join_codes
            .iter()
            .filter(|code| codes(code))
            .filter_map(|code| RecoverySecret::try_from(code.secret.as_ref()).ok())
            .map(|secret| service.rows().recovery_record(&secret.lookup_in(group)))
            .collect()
    }

    /// Where an earlier release wrote the recovery records of leaves and join codes, if it did.
    pub fn older_recovery_rows(&self, service: &DeliveryService) -> Vec<crypto::rows::Row> {
        if !self.older_lookups {
            return Vec::new();
        }
        let of_codes = self
            .join_codes
            .iter()
            .filter_map(|code| RecoverySecret::try_from(code.secret.as_ref()).ok());
        self.leaves
            .iter()
            .filter_map(Leaf::recovery_secret)
            .chain(of_codes)
            .map(|secret| service.rows().recovery_record(&secret.older_lookup()))
            .collect()
    }

    /// The roster after a commit.
    #[must_use]
    pub fn next(
        &self,
        mut leaves: Vec<Leaf<'a>>,
        capabilities: impl Fn(&[u8]) -> Capabilities,
        succession: Succession<'a>,
    ) -> Self {
        let Succession {
            commit,
            rotates,
            tree_version,
            service_sender,
            reinitializes,
            today,
        } = succession;
        let epoch = commit.epoch;
        let oldest_message_epoch = if rotates {
            epoch
        } else {
            self.oldest_message_epoch
                .max(epoch.saturating_sub(super::MESSAGE_LAG_EPOCHS))
        };
        leaves.sort_unstable_by_key(|leaf| leaf.index);
        let mut former_senders: Vec<FormerSender> = self
            .former_senders
            .iter()
            .filter(|former| former.before_epoch > oldest_message_epoch)
            .copied()
            .collect();
        for leaf in &mut leaves {
            leaf.capabilities = capabilities(&leaf.user_pseudonym).0;
            // Whoever came in with this commit is since this epoch, also in a place that was somebody's.
            let Some(old) = self.leaf(leaf.index).filter(|_| leaf.since_epoch < epoch) else {
                continue;
            };
            let could_send = old.capabilities().contain(Capabilities::SEND);
            if could_send != leaf.capabilities().contain(Capabilities::SEND)
                && oldest_message_epoch < epoch
            {
                former_senders.push(FormerSender {
                    before_epoch: epoch,
                    leaf: leaf.index,
                    could_send,
                });
            }
        }
        let mut recent_commits = self.recent_commits.clone();
        recent_commits.push(commit);
        let surplus = recent_commits.len().saturating_sub(RECENT_COMMITS);
        recent_commits.drain(..surplus);
        Self {
            format: FORMAT,
            kind: self.kind,
            ciphersuite: self.ciphersuite,
            epoch,
            oldest_message_epoch,
            tree_version: Some(tree_version),
            proposals_version: None,
            reinitialized: self.reinitialized || reinitializes,
            service_sender,
            pending_removals: Vec::new(),
            recent_commits,
            former_senders,
            join_codes: self
                .join_codes
                .iter()
                .filter(|code| code.expiry_day >= today)
                .cloned()
                .collect(),
            join_records: self.join_records_after(&leaves, epoch),
            leaves,
            older_lookups: false,
        }
    }
}
