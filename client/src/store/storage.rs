//! The MLS library's storage, on our database (`schema/mls.sql`): each of its values under a key,
//! as the library writes both. What changes with each message is kept in [`pieces`].
//!
//! Bytes that are written here hold private keys: they are wiped when they are written.

use openmls_traits::storage::{CURRENT_VERSION, StorageProvider, traits};
use rusqlite::types::FromSqlError;
use rusqlite::{Connection, Error, OptionalExtension as _, Params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::store::codec::StateCodec;
use crate::store::pieces;

/// See the module.
pub(crate) struct Storage<'a> {
    db: &'a Connection,
}

fn written<T: Serialize + ?Sized>(value: &T) -> Result<Zeroizing<Vec<u8>>, Error> {
    StateCodec::to_vec(value)
        .map(Zeroizing::new)
        .map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    StateCodec::from_slice(bytes).map_err(|error| FromSqlError::Other(Box::new(error)).into())
}

impl<'a> Storage<'a> {
    pub(super) fn new(db: &'a Connection) -> Self {
        Self { db }
    }

    fn change(&self, sql: &str, values: impl Params) -> Result<(), Error> {
        self.db.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    /// The first column of the first row.
    fn value<T: DeserializeOwned>(
        &self,
        sql: &str,
        values: impl Params,
    ) -> Result<Option<T>, Error> {
        let mut found = self.db.prepare_cached(sql)?;
        let found = found.query_row(values, |row| read(row.get_ref(0)?.as_blob()?));
        found.optional()
    }

    /// The first column of all rows.
    fn values<T: DeserializeOwned>(&self, sql: &str, values: impl Params) -> Result<Vec<T>, Error> {
        let mut found = self.db.prepare_cached(sql)?;
        let found = found.query_map(values, |row| read(row.get_ref(0)?.as_blob()?))?;
        found.collect()
    }

    fn write_of_group<T: Serialize>(
        &self,
        group: &impl Serialize,
        kind: &str,
        value: &T,
    ) -> Result<(), Error> {
        let (group, value) = (written(group)?, written(value)?);
        self.change(
            "INSERT OR REPLACE INTO openmls_group_data (group_id, data_type, group_data)
             VALUES (?, ?, ?)",
            (group.as_slice(), kind, value.as_slice()),
        )
    }

    fn read_of_group<T: DeserializeOwned>(
        &self,
        group: &impl Serialize,
        kind: &str,
    ) -> Result<Option<T>, Error> {
        self.value(
            "SELECT group_data FROM openmls_group_data WHERE group_id = ? AND data_type = ?",
            (written(group)?.as_slice(), kind),
        )
    }

    fn delete_of_group(&self, group: &impl Serialize, kind: &str) -> Result<(), Error> {
        self.change(
            "DELETE FROM openmls_group_data WHERE group_id = ? AND data_type = ?",
            (written(group)?.as_slice(), kind),
        )
    }
}

/// What is kept of a group under the name of a kind.
macro_rules! of_group {
    ($($kind:literal: $write:ident, $read:ident, $delete:ident, $role:ident;)+) => {
        $(
            fn $write<Group: traits::GroupId<CURRENT_VERSION>, Value: traits::$role<CURRENT_VERSION>>(
                &self,
                group: &Group,
                value: &Value,
            ) -> Result<(), Error> {
                self.write_of_group(group, $kind, value)
            }

            fn $read<Group: traits::GroupId<CURRENT_VERSION>, Value: traits::$role<CURRENT_VERSION>>(
                &self,
                group: &Group,
            ) -> Result<Option<Value>, Error> {
                self.read_of_group(group, $kind)
            }

            fn $delete<Group: traits::GroupId<CURRENT_VERSION>>(
                &self,
                group: &Group,
            ) -> Result<(), Error> {
                self.delete_of_group(group, $kind)
            }
        )+
    };
}

/// What is kept under a key of its own, in a table of its own.
macro_rules! by_key {
    ($($table:literal ($key:literal, $value:literal):
        $write:ident, $read:ident, $delete:ident,
        $key_role:ident, $value_role:ident;)+) => {
        $(
            fn $write<
                Key: traits::$key_role<CURRENT_VERSION>,
                Value: traits::$value_role<CURRENT_VERSION>,
            >(
                &self,
                key: &Key,
                value: &Value,
            ) -> Result<(), Error> {
                let (key, value) = (written(key)?, written(value)?);
                self.change(
                    concat!(
                        "INSERT OR REPLACE INTO ", $table, " (", $key, ", ", $value, ")
                         VALUES (?, ?)"
                    ),
                    (key.as_slice(), value.as_slice()),
                )
            }

            by_key!(@read $read, $key_role, $value_role, concat!(
                "SELECT ", $value, " FROM ", $table, " WHERE ", $key, " = ?"
            ));

            fn $delete<Key: traits::$key_role<CURRENT_VERSION>>(
                &self,
                key: &Key,
            ) -> Result<(), Error> {
                self.change(
                    concat!("DELETE FROM ", $table, " WHERE ", $key, " = ?"),
                    [written(key)?.as_slice()],
                )
            }
        )+
    };
    // Where the library names what is kept before what it is kept under.
    (@read encryption_key_pair, $key_role:ident, $value_role:ident, $sql:expr) => {
        by_key!(@value_first encryption_key_pair, $key_role, $value_role, $sql);
    };
    (@read psk, $key_role:ident, $value_role:ident, $sql:expr) => {
        by_key!(@value_first psk, $key_role, $value_role, $sql);
    };
    (@read $read:ident, $key_role:ident, $value_role:ident, $sql:expr) => {
        fn $read<
            Key: traits::$key_role<CURRENT_VERSION>,
            Value: traits::$value_role<CURRENT_VERSION>,
        >(
            &self,
            key: &Key,
        ) -> Result<Option<Value>, Error> {
            self.value($sql, [written(key)?.as_slice()])
        }
    };
    (@value_first $read:ident, $key_role:ident, $value_role:ident, $sql:expr) => {
        fn $read<
            Value: traits::$value_role<CURRENT_VERSION>,
            Key: traits::$key_role<CURRENT_VERSION>,
        >(
            &self,
            key: &Key,
        ) -> Result<Option<Value>, Error> {
            self.value($sql, [written(key)?.as_slice()])
        }
    };
}

impl StorageProvider<CURRENT_VERSION> for Storage<'_> {
    type Error = Error;

    of_group! {
        "join_group_config": write_mls_join_config, mls_group_join_config, delete_group_config,
            MlsGroupJoinConfig;
        "tree": write_tree, tree, delete_tree, TreeSync;
        "interim_transcript_hash": write_interim_transcript_hash, interim_transcript_hash,
            delete_interim_transcript_hash, InterimTranscriptHash;
        "context": write_context, group_context, delete_context, GroupContext;
        "confirmation_tag": write_confirmation_tag, confirmation_tag, delete_confirmation_tag,
            ConfirmationTag;
        "resumption_psk_store": write_resumption_psk_store, resumption_psk_store,
            delete_all_resumption_psk_secrets, ResumptionPskStore;
        "own_leaf_index": write_own_leaf_index, own_leaf_index, delete_own_leaf_index,
            LeafNodeIndex;
        "group_epoch_secrets": write_group_epoch_secrets, group_epoch_secrets,
            delete_group_epoch_secrets, GroupEpochSecrets;
    }

    by_key! {
        "openmls_signature_keys" ("public_key", "signature_key"):
            write_signature_key_pair, signature_key_pair, delete_signature_key_pair,
            SignaturePublicKey, SignatureKeyPair;
        "openmls_encryption_keys" ("public_key", "key_pair"):
            write_encryption_key_pair, encryption_key_pair, delete_encryption_key_pair,
            EncryptionKey, HpkeKeyPair;
        "openmls_key_packages" ("key_package_ref", "key_package"):
            write_key_package, key_package, delete_key_package,
            HashReference, KeyPackage;
        "openmls_psks" ("psk_id", "psk_bundle"):
            write_psk, psk, delete_psk,
            PskId, PskBundle;
    }

    fn write_group_state<
        GroupState: traits::GroupState<CURRENT_VERSION>,
        GroupId: traits::GroupId<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        group_state: &GroupState,
    ) -> Result<(), Error> {
        self.write_of_group(group_id, "group_state", group_state)
    }

    fn group_state<
        GroupState: traits::GroupState<CURRENT_VERSION>,
        GroupId: traits::GroupId<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<Option<GroupState>, Error> {
        self.read_of_group(group_id, "group_state")
    }

    fn delete_group_state<GroupId: traits::GroupId<CURRENT_VERSION>>(
        &self,
        group_id: &GroupId,
    ) -> Result<(), Error> {
        self.delete_of_group(group_id, "group_state")
    }

    fn write_message_secrets<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        MessageSecrets: traits::MessageSecrets<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        message_secrets: &MessageSecrets,
    ) -> Result<(), Error> {
        let secrets = written(message_secrets)?;
        pieces::write(self.db, &written(group_id)?, &secrets)
    }

    fn message_secrets<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        MessageSecrets: traits::MessageSecrets<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<Option<MessageSecrets>, Error> {
        pieces::read(self.db, &written(group_id)?)?
            .map(|secrets| read(&secrets))
            .transpose()
    }

    fn delete_message_secrets<GroupId: traits::GroupId<CURRENT_VERSION>>(
        &self,
        group_id: &GroupId,
    ) -> Result<(), Error> {
        pieces::delete(self.db, &written(group_id)?)
    }

    fn append_own_leaf_node<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        LeafNode: traits::LeafNode<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        leaf_node: &LeafNode,
    ) -> Result<(), Error> {
        let (group, leaf) = (written(group_id)?, written(leaf_node)?);
        self.change(
            "INSERT INTO openmls_own_leaf_nodes (group_id, leaf_node) VALUES (?, ?)",
            (group.as_slice(), leaf.as_slice()),
        )
    }

    fn own_leaf_nodes<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        LeafNode: traits::LeafNode<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<Vec<LeafNode>, Error> {
        self.values(
            "SELECT leaf_node FROM openmls_own_leaf_nodes WHERE group_id = ? ORDER BY id",
            [written(group_id)?.as_slice()],
        )
    }

    fn delete_own_leaf_nodes<GroupId: traits::GroupId<CURRENT_VERSION>>(
        &self,
        group_id: &GroupId,
    ) -> Result<(), Error> {
        self.change(
            "DELETE FROM openmls_own_leaf_nodes WHERE group_id = ?",
            [written(group_id)?.as_slice()],
        )
    }

    fn queue_proposal<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
        QueuedProposal: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        proposal_ref: &ProposalRef,
        proposal: &QueuedProposal,
    ) -> Result<(), Error> {
        let (group, reference) = (written(group_id)?, written(proposal_ref)?);
        self.change(
            "INSERT OR IGNORE INTO openmls_proposals (group_id, proposal_ref, proposal)
             VALUES (?, ?, ?)",
            (
                group.as_slice(),
                reference.as_slice(),
                written(proposal)?.as_slice(),
            ),
        )
    }

    fn queued_proposal_refs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<Vec<ProposalRef>, Error> {
        self.values(
            "SELECT proposal_ref FROM openmls_proposals WHERE group_id = ? ORDER BY rowid",
            [written(group_id)?.as_slice()],
        )
    }

    fn queued_proposals<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
        QueuedProposal: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<Vec<(ProposalRef, QueuedProposal)>, Error> {
        let mut found = self.db.prepare_cached(
            "SELECT proposal_ref, proposal FROM openmls_proposals WHERE group_id = ? ORDER BY rowid",
        )?;
        let found = found.query_map([written(group_id)?.as_slice()], |row| {
            Ok((
                read(row.get_ref(0)?.as_blob()?)?,
                read(row.get_ref(1)?.as_blob()?)?,
            ))
        })?;
        found.collect()
    }

    fn remove_proposal<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        proposal_ref: &ProposalRef,
    ) -> Result<(), Error> {
        let (group, reference) = (written(group_id)?, written(proposal_ref)?);
        self.change(
            "DELETE FROM openmls_proposals WHERE group_id = ? AND proposal_ref = ?",
            (group.as_slice(), reference.as_slice()),
        )
    }

    fn clear_proposal_queue<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<(), Error> {
        self.change(
            "DELETE FROM openmls_proposals WHERE group_id = ?",
            [written(group_id)?.as_slice()],
        )
    }

    fn write_encryption_epoch_key_pairs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        EpochKey: traits::EpochKey<CURRENT_VERSION>,
        HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        epoch: &EpochKey,
        leaf_index: u32,
        key_pairs: &[HpkeKeyPair],
    ) -> Result<(), Error> {
        let (group, epoch) = (written(group_id)?, written(epoch)?);
        self.change(
            "INSERT OR REPLACE INTO openmls_epoch_keys_pairs
                (group_id, epoch_id, leaf_index, key_pairs)
             VALUES (?, ?, ?, ?)",
            (
                group.as_slice(),
                epoch.as_slice(),
                leaf_index,
                written(key_pairs)?.as_slice(),
            ),
        )
    }

    fn encryption_epoch_key_pairs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        EpochKey: traits::EpochKey<CURRENT_VERSION>,
        HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        epoch: &EpochKey,
        leaf_index: u32,
    ) -> Result<Vec<HpkeKeyPair>, Error> {
        let (group, epoch) = (written(group_id)?, written(epoch)?);
        let key_pairs = self.value(
            "SELECT key_pairs FROM openmls_epoch_keys_pairs
             WHERE group_id = ? AND epoch_id = ? AND leaf_index = ?",
            (group.as_slice(), epoch.as_slice(), leaf_index),
        )?;
        Ok(key_pairs.unwrap_or_default())
    }

    fn delete_encryption_epoch_key_pairs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        EpochKey: traits::EpochKey<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        epoch: &EpochKey,
        leaf_index: u32,
    ) -> Result<(), Error> {
        let (group, epoch) = (written(group_id)?, written(epoch)?);
        self.change(
            "DELETE FROM openmls_epoch_keys_pairs
             WHERE group_id = ? AND epoch_id = ? AND leaf_index = ?",
            (group.as_slice(), epoch.as_slice(), leaf_index),
        )
    }
}
