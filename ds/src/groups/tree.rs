//! The tree part: openmls' public group as a versioned postcard blob.
//!
//! openmls persists through a storage provider; ours is five byte strings in memory, which become one
//! sealed part. The library's serde layout may change between its versions and with client-held keys we can migrate
//! only when a client comes by, hence the format number.

use std::cell::RefCell;

use crypto::keys::StateKey;
use crypto::sealing;
use openmls::prelude::group_info::{GroupInfo, VerifiableGroupInfo};
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{
    ConfirmationTag, Extensions, GroupContext, GroupId as MlsGroupId, LeafNodeIndex, ProposalStore,
    PublicGroup, QueuedProposal, RatchetTreeIn, Signature, StagedCommit, Verifiable,
};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto as _;
use openmls_traits::public_storage::PublicStorageProvider;
use openmls_traits::storage::{CURRENT_VERSION, traits};
use protocol::Wire as _;
use protocol::groups::PartialGroupInfo;
use protocol::ids::GroupId;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::problem::ProblemType;
use serde::{Deserialize, Serialize};

use super::parts::{self, Part};
use crate::error::DsError;
use crate::store::Version;

const FORMAT: u8 = 1;

/// A group as openmls sees it, with the GroupInfo of its epoch.
pub struct Tree {
    /// The public group.
    pub group: PublicGroup,
    group_info: StoredGroupInfo,
}

#[derive(Serialize, Deserialize)]
struct StoredGroupInfo {
    signer: u32,
    #[serde(with = "serde_bytes")]
    extensions: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Blob {
    format: u8,
    fields: Fields,
    group_info: StoredGroupInfo,
}

impl Tree {
    /// Opens the part.
    ///
    /// # Errors
    /// [`DsError::Internal`]: a key that opened the roster opens the tree.
    pub fn open(
        group: &GroupId,
        key: &StateKey,
        version: Option<&Version>,
        sealed: &[u8],
    ) -> Result<Self, DsError> {
        let at = parts::place(group, Part::Tree, version);
        let bytes = sealing::open(key.expose(), at.as_place(), sealed)?;
        let blob: Blob = postcard::from_bytes(&bytes).map_err(|_| DsError::Internal("tree"))?;
        if blob.format != FORMAT {
            return Err(DsError::Internal("tree format"));
        }
        let storage = Storage::new(blob.fields);
        let public_group = PublicGroup::load(&storage, &MlsGroupId::from_slice(&group.0))
            .ok()
            .flatten()
            .ok_or(DsError::Internal("tree"))?;
        Ok(Self {
            group: public_group,
            group_info: blob.group_info,
        })
    }

    /// Seals the part under a version of its own.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn seal(
        &self,
        group: &GroupId,
        key: &StateKey,
        version: &Version,
        fields: Fields,
    ) -> Result<Vec<u8>, DsError> {
        let blob = Blob {
            format: FORMAT,
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
        let bytes = postcard::to_extend(&blob, Vec::with_capacity(room))
            .map_err(|_| DsError::Internal("tree"))?;
        let at = parts::place(group, Part::Tree, Some(version));
        Ok(sealing::seal(key.expose(), at.as_place(), &bytes)?)
    }

    /// Makes a pending proposal known, so that a commit can refer to it.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn add_proposal(&mut self, proposal: QueuedProposal) -> Result<(), DsError> {
        self.group
            .add_proposal(&Storage::default(), proposal)
            .map_err(|_| DsError::Internal("pending proposal"))
    }

    /// The policy in the group context; none in groups that have no roles.
    ///
    /// # Errors
    /// [`DsError::Internal`]: it was checked when it came.
    pub fn policy(&self) -> Result<Option<GroupPolicy>, DsError> {
        policy_in(self.group.group_context().extensions())
            .map_err(|_| DsError::Internal("group policy"))
    }

    /// Merges a staged commit and verifies the new epoch's GroupInfo, of which the committer sent what
    /// the service cannot know. Its signature covers the confirmation tag, which the public group
    /// cannot check by itself, and the key that external joiners need.
    ///
    /// # Errors
    /// [`ProblemType::InvalidGroupInfo`].
    pub fn advance(
        &mut self,
        crypto: &RustCrypto,
        staged: StagedCommit,
        signer: LeafNodeIndex,
        partial: &PartialGroupInfo,
    ) -> Result<Fields, DsError> {
        let storage = Storage::default();
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
    pub fn create(
        crypto: &RustCrypto,
        tree: &[u8],
        info: VerifiableGroupInfo,
    ) -> Result<(Self, Fields), DsError> {
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
                .map_err(|_| DsError::Internal("GroupInfo"))?,
            signature: signature_bytes(info.signature())?,
        };
        Ok((Self { group, group_info }, storage.into_fields()))
    }

    /// `MLSMessage` with the GroupInfo of this epoch.
    ///
    /// # Errors
    /// [`DsError::Internal`].
    pub fn group_info_message(&self) -> Result<Vec<u8>, DsError> {
        // version(2) || wire_format(2) || GroupInfo: context, extensions, confirmation tag, signer, signature.
        let internal = |_| DsError::Internal("GroupInfo");
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
    /// [`DsError::Internal`].
    pub fn ratchet_tree(&self) -> Result<Vec<u8>, DsError> {
        self.group
            .export_ratchet_tree()
            .tls_serialize_detached()
            .map_err(|_| DsError::Internal("tree"))
    }
}

/// The policy among a group context's extensions.
///
/// # Errors
/// [`ProblemType::InvalidCommit`] for one that is malformed.
pub fn policy_in(
    extensions: &Extensions<GroupContext>,
) -> Result<Option<GroupPolicy>, ProblemType> {
    let Some(extension) = extensions.unknown(POLICY_EXTENSION) else {
        return Ok(None);
    };
    let policy = GroupPolicy::decode(&extension.0).map_err(|_| ProblemType::InvalidCommit)?;
    policy.check().map_err(|_| ProblemType::InvalidCommit)?;
    Ok(Some(policy))
}

/// The content of openmls' signature type, which shows it with its length header only.
fn signature_bytes(signature: &Signature) -> Result<Vec<u8>, DsError> {
    let encoded = signature
        .tls_serialize_detached()
        .map_err(|_| DsError::Internal("signature"))?;
    let (bytes, _) =
        VLBytes::tls_deserialize_bytes(&encoded).map_err(|_| DsError::Internal("signature"))?;
    Ok(bytes.into())
}

/// An external commit needs a key that can be encapsulated to (RFC 9420 §12.4.3.2). Whether it is the epoch's only
/// members know.
fn check_external_pub(crypto: &RustCrypto, info: &VerifiableGroupInfo) -> Result<(), ProblemType> {
    let key = info
        .extensions()
        .external_pub()
        .ok_or(ProblemType::InvalidGroupInfo)?
        .external_pub();
    crypto
        .hpke_seal(
            info.ciphersuite().hpke_config(),
            key.as_slice(),
            b"",
            b"",
            b"",
        )
        .map(|_| ())
        .map_err(|_| ProblemType::InvalidGroupInfo)
}

fn verifiable_group_info(
    group: &PublicGroup,
    confirmation_tag: ConfirmationTag,
    signer: LeafNodeIndex,
    extensions: &[u8],
    signature: &[u8],
) -> Result<VerifiableGroupInfo, DsError> {
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
pub struct Fields {
    #[serde(with = "serde_bytes")]
    tree: Option<Vec<u8>>,
    #[serde(with = "serde_bytes")]
    context: Option<Vec<u8>>,
    #[serde(with = "serde_bytes")]
    interim_transcript_hash: Option<Vec<u8>>,
    #[serde(with = "serde_bytes")]
    confirmation_tag: Option<Vec<u8>>,
}

impl Fields {
    fn len(&self) -> usize {
        [
            &self.tree,
            &self.context,
            &self.interim_transcript_hash,
            &self.confirmation_tag,
        ]
        .into_iter()
        .flatten()
        .map(Vec::len)
        .sum()
    }
}

/// Where openmls reads and writes one public group.
#[derive(Default)]
pub struct Storage(RefCell<Fields>);

impl Storage {
    /// With what was stored.
    #[must_use]
    pub fn new(fields: Fields) -> Self {
        Self(RefCell::new(fields))
    }

    /// What is stored.
    #[must_use]
    pub fn into_fields(self) -> Fields {
        self.0.into_inner()
    }
}

fn write<T: Serialize>(to: &mut Option<Vec<u8>>, value: &T) -> Result<(), postcard::Error> {
    *to = Some(postcard::to_stdvec(value)?);
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(
    from: Option<&Vec<u8>>,
) -> Result<Option<T>, postcard::Error> {
    from.map(|bytes| postcard::from_bytes(bytes)).transpose()
}

const V: u16 = CURRENT_VERSION;

impl PublicStorageProvider<V> for Storage {
    type PublicError = postcard::Error;

    fn write_tree<G: traits::GroupId<V>, T: traits::TreeSync<V>>(
        &self,
        _: &G,
        tree: &T,
    ) -> Result<(), postcard::Error> {
        write(&mut self.0.borrow_mut().tree, tree)
    }

    fn write_interim_transcript_hash<G: traits::GroupId<V>, T: traits::InterimTranscriptHash<V>>(
        &self,
        _: &G,
        hash: &T,
    ) -> Result<(), postcard::Error> {
        write(&mut self.0.borrow_mut().interim_transcript_hash, hash)
    }

    fn write_context<G: traits::GroupId<V>, T: traits::GroupContext<V>>(
        &self,
        _: &G,
        context: &T,
    ) -> Result<(), postcard::Error> {
        write(&mut self.0.borrow_mut().context, context)
    }

    fn write_confirmation_tag<G: traits::GroupId<V>, T: traits::ConfirmationTag<V>>(
        &self,
        _: &G,
        tag: &T,
    ) -> Result<(), postcard::Error> {
        write(&mut self.0.borrow_mut().confirmation_tag, tag)
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
        read(self.0.borrow().tree.as_ref())
    }

    fn group_context<G: traits::GroupId<V>, T: traits::GroupContext<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, postcard::Error> {
        read(self.0.borrow().context.as_ref())
    }

    fn interim_transcript_hash<G: traits::GroupId<V>, T: traits::InterimTranscriptHash<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, postcard::Error> {
        read(self.0.borrow().interim_transcript_hash.as_ref())
    }

    fn confirmation_tag<G: traits::GroupId<V>, T: traits::ConfirmationTag<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, postcard::Error> {
        read(self.0.borrow().confirmation_tag.as_ref())
    }

    fn delete_tree<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), postcard::Error> {
        self.0.borrow_mut().tree = None;
        Ok(())
    }

    fn delete_confirmation_tag<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), postcard::Error> {
        self.0.borrow_mut().confirmation_tag = None;
        Ok(())
    }

    fn delete_context<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), postcard::Error> {
        self.0.borrow_mut().context = None;
        Ok(())
    }

    fn delete_interim_transcript_hash<G: traits::GroupId<V>>(
        &self,
        _: &G,
    ) -> Result<(), postcard::Error> {
        self.0.borrow_mut().interim_transcript_hash = None;
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
