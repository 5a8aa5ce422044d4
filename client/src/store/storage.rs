//! The MLS library's storage: its own one on our database, but for what changes with each message.

use openmls_sqlite_storage::{Codec as _, SqliteStorageProvider};
use openmls_traits::storage::{CURRENT_VERSION, StorageProvider, traits};
use rusqlite::types::FromSqlError;
use rusqlite::{Connection, Error};

use crate::store::codec::StateCodec;
use crate::store::pieces;

/// See the module.
pub(crate) struct Storage<'a> {
    db: &'a Connection,
    own: SqliteStorageProvider<StateCodec, &'a Connection>,
}

impl<'a> Storage<'a> {
    pub(super) fn new(db: &'a Connection) -> Self {
        Self {
            db,
            own: SqliteStorageProvider::new(db),
        }
    }
}

fn written(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    StateCodec::to_vec(value).map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))
}

/// What the library's own storage does.
macro_rules! pass_on {
    ($($name:ident<$($kind:ident: $role:ident),+>($($given:ident: $of:ty),+) -> $answer:ty;)+) => {
        $(
            fn $name<$($kind: traits::$role<CURRENT_VERSION>),+>(
                &self,
                $($given: $of),+
            ) -> Result<$answer, Self::Error> {
                self.own.$name::<$($kind),+>($($given),+)
            }
        )+
    };
}

impl StorageProvider<CURRENT_VERSION> for Storage<'_> {
    type Error = Error;

    fn write_message_secrets<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        MessageSecrets: traits::MessageSecrets<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        message_secrets: &MessageSecrets,
    ) -> Result<(), Self::Error> {
        let secrets = zeroize::Zeroizing::new(written(message_secrets)?);
        pieces::write(self.db, &written(group_id)?, &secrets)
    }

    fn message_secrets<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        MessageSecrets: traits::MessageSecrets<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<Option<MessageSecrets>, Self::Error> {
        let read = |secrets: &[u8]| {
            StateCodec::from_slice(secrets)
                .map_err(|error| Error::from(FromSqlError::Other(Box::new(error))))
        };
        pieces::read(self.db, &written(group_id)?)?
            .map(|secrets| read(&secrets))
            .transpose()
    }

    fn delete_message_secrets<GroupId: traits::GroupId<CURRENT_VERSION>>(
        &self,
        group_id: &GroupId,
    ) -> Result<(), Self::Error> {
        pieces::delete(self.db, &written(group_id)?)
    }

    pass_on! {
        write_mls_join_config<GroupId: GroupId, MlsGroupJoinConfig: MlsGroupJoinConfig>(
            group_id: &GroupId, config: &MlsGroupJoinConfig
        ) -> ();
        append_own_leaf_node<GroupId: GroupId, LeafNode: LeafNode>(
            group_id: &GroupId, leaf_node: &LeafNode
        ) -> ();
        queue_proposal<GroupId: GroupId, ProposalRef: ProposalRef, QueuedProposal: QueuedProposal>(
            group_id: &GroupId, proposal_ref: &ProposalRef, proposal: &QueuedProposal
        ) -> ();
        write_tree<GroupId: GroupId, TreeSync: TreeSync>(group_id: &GroupId, tree: &TreeSync) -> ();
        write_interim_transcript_hash<
            GroupId: GroupId, InterimTranscriptHash: InterimTranscriptHash
        >(group_id: &GroupId, interim_transcript_hash: &InterimTranscriptHash) -> ();
        write_context<GroupId: GroupId, GroupContext: GroupContext>(
            group_id: &GroupId, group_context: &GroupContext
        ) -> ();
        write_confirmation_tag<GroupId: GroupId, ConfirmationTag: ConfirmationTag>(
            group_id: &GroupId, confirmation_tag: &ConfirmationTag
        ) -> ();
        write_group_state<GroupState: GroupState, GroupId: GroupId>(
            group_id: &GroupId, group_state: &GroupState
        ) -> ();
        write_resumption_psk_store<GroupId: GroupId, ResumptionPskStore: ResumptionPskStore>(
            group_id: &GroupId, resumption_psk_store: &ResumptionPskStore
        ) -> ();
        write_own_leaf_index<GroupId: GroupId, LeafNodeIndex: LeafNodeIndex>(
            group_id: &GroupId, own_leaf_index: &LeafNodeIndex
        ) -> ();
        write_group_epoch_secrets<GroupId: GroupId, GroupEpochSecrets: GroupEpochSecrets>(
            group_id: &GroupId, group_epoch_secrets: &GroupEpochSecrets
        ) -> ();
        write_signature_key_pair<
            SignaturePublicKey: SignaturePublicKey, SignatureKeyPair: SignatureKeyPair
        >(public_key: &SignaturePublicKey, signature_key_pair: &SignatureKeyPair) -> ();
        write_encryption_key_pair<EncryptionKey: EncryptionKey, HpkeKeyPair: HpkeKeyPair>(
            public_key: &EncryptionKey, key_pair: &HpkeKeyPair
        ) -> ();
        write_encryption_epoch_key_pairs<
            GroupId: GroupId, EpochKey: EpochKey, HpkeKeyPair: HpkeKeyPair
        >(group_id: &GroupId, epoch: &EpochKey, leaf_index: u32, key_pairs: &[HpkeKeyPair]) -> ();
        write_key_package<HashReference: HashReference, KeyPackage: KeyPackage>(
            hash_ref: &HashReference, key_package: &KeyPackage
        ) -> ();
        write_psk<PskId: PskId, PskBundle: PskBundle>(psk_id: &PskId, psk: &PskBundle) -> ();
        mls_group_join_config<GroupId: GroupId, MlsGroupJoinConfig: MlsGroupJoinConfig>(
            group_id: &GroupId
        ) -> Option<MlsGroupJoinConfig>;
        own_leaf_nodes<GroupId: GroupId, LeafNode: LeafNode>(group_id: &GroupId) -> Vec<LeafNode>;
        queued_proposal_refs<GroupId: GroupId, ProposalRef: ProposalRef>(
            group_id: &GroupId
        ) -> Vec<ProposalRef>;
        queued_proposals<
            GroupId: GroupId, ProposalRef: ProposalRef, QueuedProposal: QueuedProposal
        >(group_id: &GroupId) -> Vec<(ProposalRef, QueuedProposal)>;
        tree<GroupId: GroupId, TreeSync: TreeSync>(group_id: &GroupId) -> Option<TreeSync>;
        group_context<GroupId: GroupId, GroupContext: GroupContext>(
            group_id: &GroupId
        ) -> Option<GroupContext>;
        interim_transcript_hash<GroupId: GroupId, InterimTranscriptHash: InterimTranscriptHash>(
            group_id: &GroupId
        ) -> Option<InterimTranscriptHash>;
        confirmation_tag<GroupId: GroupId, ConfirmationTag: ConfirmationTag>(
            group_id: &GroupId
        ) -> Option<ConfirmationTag>;
        group_state<GroupState: GroupState, GroupId: GroupId>(
            group_id: &GroupId
        ) -> Option<GroupState>;
        resumption_psk_store<GroupId: GroupId, ResumptionPskStore: ResumptionPskStore>(
            group_id: &GroupId
        ) -> Option<ResumptionPskStore>;
        own_leaf_index<GroupId: GroupId, LeafNodeIndex: LeafNodeIndex>(
            group_id: &GroupId
        ) -> Option<LeafNodeIndex>;
        group_epoch_secrets<GroupId: GroupId, GroupEpochSecrets: GroupEpochSecrets>(
            group_id: &GroupId
        ) -> Option<GroupEpochSecrets>;
        signature_key_pair<
            SignaturePublicKey: SignaturePublicKey, SignatureKeyPair: SignatureKeyPair
        >(public_key: &SignaturePublicKey) -> Option<SignatureKeyPair>;
        encryption_key_pair<HpkeKeyPair: HpkeKeyPair, EncryptionKey: EncryptionKey>(
            public_key: &EncryptionKey
        ) -> Option<HpkeKeyPair>;
        encryption_epoch_key_pairs<GroupId: GroupId, EpochKey: EpochKey, HpkeKeyPair: HpkeKeyPair>(
            group_id: &GroupId, epoch: &EpochKey, leaf_index: u32
        ) -> Vec<HpkeKeyPair>;
        key_package<KeyPackageRef: HashReference, KeyPackage: KeyPackage>(
            hash_ref: &KeyPackageRef
        ) -> Option<KeyPackage>;
        psk<PskBundle: PskBundle, PskId: PskId>(psk_id: &PskId) -> Option<PskBundle>;
        remove_proposal<GroupId: GroupId, ProposalRef: ProposalRef>(
            group_id: &GroupId, proposal_ref: &ProposalRef
        ) -> ();
        delete_own_leaf_nodes<GroupId: GroupId>(group_id: &GroupId) -> ();
        delete_group_config<GroupId: GroupId>(group_id: &GroupId) -> ();
        delete_tree<GroupId: GroupId>(group_id: &GroupId) -> ();
        delete_confirmation_tag<GroupId: GroupId>(group_id: &GroupId) -> ();
        delete_group_state<GroupId: GroupId>(group_id: &GroupId) -> ();
        delete_context<GroupId: GroupId>(group_id: &GroupId) -> ();
        delete_interim_transcript_hash<GroupId: GroupId>(group_id: &GroupId) -> ();
        delete_all_resumption_psk_secrets<GroupId: GroupId>(group_id: &GroupId) -> ();
        delete_own_leaf_index<GroupId: GroupId>(group_id: &GroupId) -> ();
        delete_group_epoch_secrets<GroupId: GroupId>(group_id: &GroupId) -> ();
        clear_proposal_queue<GroupId: GroupId, ProposalRef: ProposalRef>(group_id: &GroupId) -> ();
        delete_signature_key_pair<SignaturePublicKey: SignaturePublicKey>(
            public_key: &SignaturePublicKey
        ) -> ();
        delete_encryption_key_pair<EncryptionKey: EncryptionKey>(public_key: &EncryptionKey) -> ();
        delete_encryption_epoch_key_pairs<GroupId: GroupId, EpochKey: EpochKey>(
            group_id: &GroupId, epoch: &EpochKey, leaf_index: u32
        ) -> ();
        delete_key_package<KeyPackageRef: HashReference>(hash_ref: &KeyPackageRef) -> ();
        delete_psk<PskKey: PskId>(psk_id: &PskKey) -> ();
    }
}
