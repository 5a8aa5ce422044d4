//! The tree part: openmls' public group as a versioned postcard blob.
//!
//! openmls persists through a storage provider; ours is four byte strings in memory, which become
//! one sealed part. A commit that is a path and nothing else changes some nodes of hundreds: what
//! it makes of the part is written as [splices], to a part of its own beside it. The library's
//! serde layout may change between its versions and with client-held keys we can migrate only when
//! a client comes by, hence the format number.

use std::borrow::Cow;
use std::cell::RefCell;

use openmls::prelude::group_info::{GroupInfo, VerifiableGroupInfo};
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{
    Ciphersuite, ConfirmationTag, Extensions, GroupId as MlsGroupId, LeafNode, LeafNodeIndex,
    ProposalStore, PublicGroup, QueuedProposal, RatchetTreeIn, Signature, StagedCommit, Verifiable,
};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto as _;
use openmls_traits::public_storage::PublicStorageProvider;
use openmls_traits::storage::{CURRENT_VERSION, traits};
use protocol::group::PartialGroupInfo;
use protocol::policy::GroupPolicy;
use protocol::problem::ProblemType;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::open::OpenedGroup;
use super::parts;
use super::splices::{self, Splice};
use crate::refusal::Stop;
use crate::rows::Part;
use crate::view::View;

const FORMAT: u8 = 1;

/// A group as openmls sees it, with the GroupInfo of its epoch.
pub(super) struct Tree {
    /// The public group.
    pub(super) group: PublicGroup,
    group_info: StoredGroupInfo,
    written: Written,
}

/// The part as it was written last, and how many commits were written beside it since.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    commits: u8,
}

/// How a tree is written.
pub(super) enum Encoded {
    /// As a whole. Changes that were written before are of another one.
    Whole(Zeroizing<Vec<u8>>),
    /// As what has changed since it was written as a whole.
    Changes(Zeroizing<Vec<u8>>),
}

#[derive(Serialize, Deserialize)]
struct Changes<'b> {
    commits: u8,
    #[serde(borrow)]
    splices: Vec<Splice<'b>>,
}

/// Commits that are written as changes before the tree is written as a whole again.
pub(super) const MOST_COMMITS: u8 = 12;

#[derive(Serialize, Deserialize)]
struct StoredGroupInfo {
    signer: u32,
    #[serde(with = "serde_bytes")]
    extensions: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Blob<'b> {
    #[serde(borrow)]
    fields: Fields<'b>,
    group_info: StoredGroupInfo,
}

impl Tree {
    /// Opens the parts, which were read.
    ///
    /// # Errors
    /// [`Stop::Moved`], [`Stop::Internal`].
    pub(super) fn open(group: &OpenedGroup, view: &View) -> Result<Self, Stop> {
        let short = &group.short;
        let opened = |part, version| {
            let sealed = view.row(&group.row.part(part))?;
            parts::open(&group.id, &short.data_key, (part, &version), sealed)
        };
        let mut written = opened(Part::Tree, short.tree)?;
        let changes = short
            .tree_changes
            .map(|version| opened(Part::TreeChanges, version))
            .transpose()?;
        let (bytes, commits) = match &changes {
            None => (Cow::Borrowed(written.as_slice()), 0),
            Some(changes) => {
                let Changes { commits, splices } = changes_in(changes)?;
                let now = splices::carried_out(&written, &splices);
                (Cow::Owned(now.ok_or(Stop::Internal("tree"))?), commits)
            }
        };
        let Blob { fields, group_info } = parts::decode(FORMAT, &bytes)?;
        let storage = Storage::new(fields);
        let public_group = PublicGroup::load(&storage, &MlsGroupId::from_slice(&group.id.0))
            .ok()
            .flatten()
            .ok_or(Stop::Internal("tree"))?;
        Ok(Self {
            group: public_group,
            group_info,
            written: Written {
                // Not wiped: nor is what the library has of it.
                bytes: std::mem::take(&mut *written),
                commits,
            },
        })
    }

    /// What is sealed of it after a commit that changes little: for changes there is so much room.
    /// All that are written for one group have one size, whoever commits, and after so many commits
    /// the tree is written as a whole.
    ///
    /// # Errors
    /// [`Stop::Internal`].
    pub(super) fn encode_changes(&self, fields: Fields<'_>, room: usize) -> Result<Encoded, Stop> {
        let mut whole = self.encode(fields)?;
        let Written { bytes, commits } = &self.written;
        // Else it is not worth a part.
        let is_worth = room <= bytes.len() / 4 && *commits < MOST_COMMITS;
        let Some(splices) = is_worth
            .then(|| splices::between(bytes, &whole, room))
            .flatten()
        else {
            return Ok(Encoded::Whole(whole));
        };
        let changes = Changes {
            commits: commits.saturating_add(1),
            splices,
        };
        let mut bytes = parts::encode(FORMAT, &changes)?;
        if bytes.len() > room {
            return Ok(Encoded::Whole(whole));
        }
        bytes.resize(room, 0);
        // Not wiped: nor is what the library has of it.
        drop(std::mem::take(&mut *whole));
        Ok(Encoded::Changes(bytes))
    }

    /// What is sealed of it as a whole.
    ///
    /// # Errors
    /// [`Stop::Internal`].
    pub(super) fn encode(&self, fields: Fields<'_>) -> Result<Zeroizing<Vec<u8>>, Stop> {
        let blob = Blob {
            fields,
            group_info: StoredGroupInfo {
                signer: self.group_info.signer,
                extensions: self.group_info.extensions.clone(),
                signature: self.group_info.signature.clone(),
            },
        };
        // Room for all of it at once, for the lengths too.
        let room = blob.fields.len()
            + blob.group_info.extensions.len()
            + blob.group_info.signature.len()
            + 64;
        let mut bytes = Vec::with_capacity(room);
        bytes.push(FORMAT);
        postcard::to_extend(&blob, bytes)
            .map(Zeroizing::new)
            .map_err(|_| Stop::Internal("tree"))
    }

    /// Makes a pending proposal known, so that a commit can refer to it.
    ///
    /// # Errors
    /// [`Stop::Internal`].
    pub(super) fn add_proposal(&mut self, proposal: QueuedProposal) -> Result<(), Stop> {
        self.group
            .add_proposal(&Storage::default(), proposal)
            .map_err(|_| Stop::Internal("pending proposal"))
    }

    /// The policy in the group context; none in groups that have no roles.
    ///
    /// # Errors
    /// [`Stop::Internal`]: it was checked when it came.
    pub(super) fn policy(&self) -> Result<Option<GroupPolicy>, Stop> {
        mls_rules::policy_in(self.group.group_context().extensions())
            .map_err(|_| Stop::Internal("group policy"))
    }

    /// Merges a staged commit and verifies the new epoch's GroupInfo, of which the committer sent
    /// what the service cannot know. Its signature covers the confirmation tag, which the public
    /// group cannot check by itself, and the key that external joiners need.
    ///
    /// # Errors
    /// [`ProblemType::InvalidGroupInfo`]; [`ProblemType::InvalidCommit`] for a leaf whose key
    /// nothing can be encrypted to.
    pub(super) fn advance(
        &mut self,
        crypto: &RustCrypto,
        staged: StagedCommit,
        signer: LeafNodeIndex,
        partial: &PartialGroupInfo,
    ) -> Result<Fields<'static>, Stop> {
        check_new_leaves(crypto, self.group.ciphersuite(), &staged)?;
        let storage = Storage::with_room(self.written.bytes.len());
        self.group
            .merge_commit(&storage, staged)
            .map_err(|_| ProblemType::InvalidCommit)?;
        let info = verifiable_group_info(
            &self.group,
            self.group.confirmation_tag().clone(),
            signer,
            partial.extensions.as_slice(),
            partial.signature.as_slice(),
        )?;
        check_external_pub(crypto, &info)?;
        let key = self
            .group
            .leaf(signer)
            .ok_or(ProblemType::InvalidGroupInfo)?
            .signature_key()
            .clone()
            .into_signature_public_key_enriched(self.group.ciphersuite().signature_algorithm());
        let _: GroupInfo = info
            .verify(crypto, &key)
            .map_err(|_| ProblemType::InvalidGroupInfo)?;
        self.group_info = StoredGroupInfo {
            signer: signer.u32(),
            extensions: partial.extensions.as_slice().to_vec(),
            signature: partial.signature.as_slice().to_vec(),
        };
        Ok(storage.into_fields())
    }

    /// Verifies the GroupInfo and tree of a new group (RFC 9420 §12.4.3.3) and takes them over.
    ///
    /// # Errors
    /// [`ProblemType::InvalidGroupInfo`].
    pub(super) fn create(
        crypto: &RustCrypto,
        tree: &[u8],
        info: VerifiableGroupInfo,
    ) -> Result<(Self, Fields<'static>), Stop> {
        let (tree, rest) = RatchetTreeIn::tls_deserialize_bytes(tree)
            .map_err(|_| ProblemType::InvalidGroupInfo)?;
        if !rest.is_empty() {
            return Err(ProblemType::InvalidGroupInfo.into());
        }
        check_external_pub(crypto, &info)?;
        let storage = Storage::default();
        let (group, info) =
            PublicGroup::from_external(crypto, &storage, tree, info, ProposalStore::new())
                .map_err(|_| ProblemType::InvalidGroupInfo)?;
        let group_info = StoredGroupInfo {
            signer: 0,
            extensions: info
                .extensions()
                .tls_serialize_detached()
                .map_err(|_| Stop::Internal("GroupInfo"))?,
            signature: signature_bytes(info.signature())?,
        };
        let tree = Self {
            group,
            group_info,
            written: Written::default(),
        };
        Ok((tree, storage.into_fields()))
    }

    /// `MLSMessage` with the GroupInfo of this epoch.
    ///
    /// # Errors
    /// [`Stop::Internal`].
    pub(super) fn group_info_message(&self) -> Result<Vec<u8>, Stop> {
        // version(2) || wire_format(2) || GroupInfo: context, extensions, confirmation tag, signer,
        // signature.
        let internal = |_| Stop::Internal("GroupInfo");
        let mut bytes = vec![0, 1, 0, 4];
        bytes.extend(
            self.group
                .group_context()
                .tls_serialize_detached()
                .map_err(internal)?,
        );
        bytes.extend(&self.group_info.extensions);
        bytes.extend(
            self.group
                .confirmation_tag()
                .tls_serialize_detached()
                .map_err(internal)?,
        );
        bytes.extend(self.group_info.signer.to_be_bytes());
        bytes.extend(
            Signature::from(self.group_info.signature.clone())
                .tls_serialize_detached()
                .map_err(internal)?,
        );
        Ok(bytes)
    }

    /// MLS `ratchet_tree`.
    ///
    /// # Errors
    /// [`Stop::Internal`].
    pub(super) fn ratchet_tree(&self) -> Result<Vec<u8>, Stop> {
        self.group
            .export_ratchet_tree()
            .tls_serialize_detached()
            .map_err(|_| Stop::Internal("tree"))
    }
}

/// What is written beside the part: of its format, and then nothing but padding.
fn changes_in(bytes: &[u8]) -> Result<Changes<'_>, Stop> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::take_from_bytes(rest)
            .map(|(changes, _)| changes)
            .map_err(|_| Stop::Internal("tree")),
        _ => Err(Stop::Internal("tree")),
    }
}

/// The content of openmls' signature type, which shows it with its length header only.
fn signature_bytes(signature: &Signature) -> Result<Vec<u8>, Stop> {
    let encoded = signature
        .tls_serialize_detached()
        .map_err(|_| Stop::Internal("signature"))?;
    let (bytes, _) =
        VLBytes::tls_deserialize_bytes(&encoded).map_err(|_| Stop::Internal("signature"))?;
    Ok(bytes.into())
}

/// An external commit needs a key that can be encapsulated to (RFC 9420 §12.4.3.2). Whether it is
/// the epoch's only members know.
fn check_external_pub(crypto: &RustCrypto, info: &VerifiableGroupInfo) -> Result<(), ProblemType> {
    let key = info
        .extensions()
        .external_pub()
        .ok_or(ProblemType::InvalidGroupInfo)?
        .external_pub();
    match can_be_sealed_to(crypto, info.ciphersuite(), key.as_slice()) {
        true => Ok(()),
        false => Err(ProblemType::InvalidGroupInfo),
    }
}

/// Who commits with a path encrypts to the leaves of others (RFC 9420 §7.6). A key that does not
/// take that, as about every string of that length does not with ML-KEM, would stop all such
/// commits until its leaf is removed.
fn check_new_leaves(
    crypto: &RustCrypto,
    suite: Ciphersuite,
    staged: &StagedCommit,
) -> Result<(), ProblemType> {
    // openmls shows a leaf's key with its length header only.
    let key = |leaf: &LeafNode| leaf.encryption_key().tls_serialize_detached();
    let added = staged
        .add_proposals()
        .map(|add| key(add.add_proposal().key_package().leaf_node()));
    let updated = staged
        .update_proposals()
        .map(|update| key(update.update_proposal().leaf_node()));
    let own = staged.update_path_leaf_node().map(key);
    for key in added.chain(updated).chain(own) {
        let key = key.map_err(|_| ProblemType::InvalidCommit)?;
        let key =
            VLBytes::tls_deserialize_exact_bytes(&key).map_err(|_| ProblemType::InvalidCommit)?;
        if !can_be_sealed_to(crypto, suite, key.as_slice()) {
            return Err(ProblemType::InvalidCommit);
        }
    }
    Ok(())
}

fn can_be_sealed_to(crypto: &RustCrypto, suite: Ciphersuite, key: &[u8]) -> bool {
    crypto
        .hpke_seal(suite.hpke_config(), key, b"", b"", b"")
        .is_ok()
}

fn verifiable_group_info(
    group: &PublicGroup,
    confirmation_tag: ConfirmationTag,
    signer: LeafNodeIndex,
    extensions: &[u8],
    signature: &[u8],
) -> Result<VerifiableGroupInfo, Stop> {
    let (extensions, rest) = Extensions::<GroupInfo>::tls_deserialize_bytes(extensions)
        .map_err(|_| ProblemType::InvalidGroupInfo)?;
    if !rest.is_empty() {
        return Err(ProblemType::InvalidGroupInfo.into());
    }
    Ok(VerifiableGroupInfo::new(
        group.group_context().clone(),
        extensions,
        confirmation_tag,
        signer,
        Signature::from(signature.to_vec()),
    ))
}

/// What openmls stores of a public group, each as postcard.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Fields<'b> {
    #[serde(borrow, with = "serde_bytes")]
    tree: Option<Cow<'b, [u8]>>,
    #[serde(borrow, with = "serde_bytes")]
    context: Option<Cow<'b, [u8]>>,
    #[serde(borrow, with = "serde_bytes")]
    interim_transcript_hash: Option<Cow<'b, [u8]>>,
    #[serde(borrow, with = "serde_bytes")]
    confirmation_tag: Option<Cow<'b, [u8]>>,
}

impl Fields<'_> {
    fn len(&self) -> usize {
        [
            &self.tree,
            &self.context,
            &self.interim_transcript_hash,
            &self.confirmation_tag,
        ]
        .into_iter()
        .flatten()
        .map(|field| field.len())
        .sum()
    }
}

/// Where openmls reads and writes one public group.
#[derive(Default)]
pub(super) struct Storage<'b> {
    fields: RefCell<Fields<'b>>,
    room: usize,
}

impl<'b> Storage<'b> {
    /// With what was stored.
    #[must_use]
    pub(super) fn new(fields: Fields<'b>) -> Self {
        Self {
            fields: RefCell::new(fields),
            room: 0,
        }
    }

    /// For a tree that will be about as long.
    #[must_use]
    fn with_room(room: usize) -> Self {
        Self {
            fields: RefCell::default(),
            // A commit adds a few nodes at most.
            room: room.saturating_add(room / 16),
        }
    }

    /// What is stored.
    #[must_use]
    pub(super) fn into_fields(self) -> Fields<'b> {
        self.fields.into_inner()
    }
}

fn write<T: Serialize>(
    to: &mut Option<Cow<'_, [u8]>>,
    value: &T,
    room: usize,
) -> Result<(), postcard::Error> {
    let bytes = postcard::to_extend(value, Vec::with_capacity(room))?;
    *to = Some(Cow::Owned(bytes));
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(
    from: Option<&Cow<'_, [u8]>>,
) -> Result<Option<T>, postcard::Error> {
    from.map(|bytes| postcard::from_bytes(bytes)).transpose()
}

const V: u16 = CURRENT_VERSION;

impl PublicStorageProvider<V> for Storage<'_> {
    type PublicError = postcard::Error;

    fn write_tree<G: traits::GroupId<V>, T: traits::TreeSync<V>>(
        &self,
        _: &G,
        tree: &T,
    ) -> Result<(), postcard::Error> {
        write(&mut self.fields.borrow_mut().tree, tree, self.room)
    }

    fn write_interim_transcript_hash<G: traits::GroupId<V>, T: traits::InterimTranscriptHash<V>>(
        &self,
        _: &G,
        hash: &T,
    ) -> Result<(), postcard::Error> {
        write(
            &mut self.fields.borrow_mut().interim_transcript_hash,
            hash,
            0,
        )
    }

    fn write_context<G: traits::GroupId<V>, T: traits::GroupContext<V>>(
        &self,
        _: &G,
        context: &T,
    ) -> Result<(), postcard::Error> {
        write(&mut self.fields.borrow_mut().context, context, 0)
    }

    fn write_confirmation_tag<G: traits::GroupId<V>, T: traits::ConfirmationTag<V>>(
        &self,
        _: &G,
        tag: &T,
    ) -> Result<(), postcard::Error> {
        write(&mut self.fields.borrow_mut().confirmation_tag, tag, 0)
    }

    // Pending proposals are a part of their own.
    fn queue_proposal<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        _: &G,
        _: &R,
        _: &P,
    ) -> Result<(), postcard::Error> {
        Ok(())
    }

    fn queued_proposals<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        _: &G,
    ) -> Result<Vec<(R, P)>, postcard::Error> {
        Ok(Vec::new())
    }

    fn tree<G: traits::GroupId<V>, T: traits::TreeSync<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, postcard::Error> {
        read(self.fields.borrow().tree.as_ref())
    }

    fn group_context<G: traits::GroupId<V>, T: traits::GroupContext<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, postcard::Error> {
        read(self.fields.borrow().context.as_ref())
    }

    fn interim_transcript_hash<G: traits::GroupId<V>, T: traits::InterimTranscriptHash<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, postcard::Error> {
        read(self.fields.borrow().interim_transcript_hash.as_ref())
    }

    fn confirmation_tag<G: traits::GroupId<V>, T: traits::ConfirmationTag<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, postcard::Error> {
        read(self.fields.borrow().confirmation_tag.as_ref())
    }

    fn delete_tree<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), postcard::Error> {
        self.fields.borrow_mut().tree = None;
        Ok(())
    }

    fn delete_confirmation_tag<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), postcard::Error> {
        self.fields.borrow_mut().confirmation_tag = None;
        Ok(())
    }

    fn delete_context<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), postcard::Error> {
        self.fields.borrow_mut().context = None;
        Ok(())
    }

    fn delete_interim_transcript_hash<G: traits::GroupId<V>>(
        &self,
        _: &G,
    ) -> Result<(), postcard::Error> {
        self.fields.borrow_mut().interim_transcript_hash = None;
        Ok(())
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        _: &G,
        _: &R,
    ) -> Result<(), postcard::Error> {
        Ok(())
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        _: &G,
    ) -> Result<(), postcard::Error> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_part_is_stored_as_it_always_was() {
        let blob = Blob {
            fields: Fields {
                tree: Some(vec![1; 2].into()),
                context: Some(vec![2; 3].into()),
                interim_transcript_hash: Some(vec![3; 4].into()),
                confirmation_tag: None,
            },
            group_info: StoredGroupInfo {
                signer: 4,
                extensions: vec![5; 6],
                signature: vec![6; 7],
            },
        };
        let bytes = parts::encode(FORMAT, &blob).unwrap();
        crate::fixtures::check("tree part", &bytes);
    }

    #[test]
    fn changes_of_a_tree_are_stored_as_they_always_were() {
        let (former, next) = ([1; 40], [&[1; 20][..], &[2; 3], &[1; 20]].concat());
        let changes = Changes {
            commits: 2,
            splices: splices::between(&former, &next, 6).unwrap(),
        };
        let mut bytes = parts::encode(FORMAT, &changes).unwrap();
        crate::fixtures::check("tree changes", &bytes);
        bytes.resize(100, 0);
        let Changes { commits, splices } = changes_in(&bytes).unwrap();
        assert_eq!(commits, 2);
        assert_eq!(splices::carried_out(&former, &splices).unwrap(), next);
        bytes[0] = 2;
        assert!(changes_in(&bytes).is_err());
    }
}
