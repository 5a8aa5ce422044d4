//! Finding the way back to a group's state key, and giving the service what makes that possible.

use std::time::Duration;

use crypto::keys::{GroupLookup as _, RecoverySecret, StateKey};
use crypto::sealing::{self, Place};
use crypto::sign::SignatureKeyPair;
use protocol::envelope::Sender;
use protocol::groups::{
    Accepted, OwnLeafRequest, OwnLeafResponse, RecoveryRecordRequest, SealedRecord,
    SetRecoverySecretRequest,
};
use protocol::ids::{GroupId, LookupId};
use protocol::problem::ProblemType;
use protocol::{Operation, Wire as _};

use crate::Client;
use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::groups::evidence::{self, StopReason};
use crate::groups::{Group, Status, load_mls};
use crate::leaf;
use crate::profile::Profile;

const LOOKS: u32 = 10;

impl Client {
    /// The service says that the group is at another epoch, `current`, than this client at `epoch`: the commits
    /// that led there stand in the queue. To an earlier one nothing leads: the service has lost what it
    /// accepted, and whoever went on from there would undo what was decided since.
    pub(crate) async fn follow(
        &mut self,
        id: &GroupId,
        epoch: u64,
        current: Option<u64>,
    ) -> Result<(), Error> {
        if current.is_some_and(|current| current < epoch) {
            return self.lose(id, StopReason::Behind);
        }
        for look in 0..LOOKS {
            self.pull().await?;
            self.process().await?;
            if self.epoch(id)? != epoch || Group::read(&self.db, id)?.status != Status::Active {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(
                100u64.saturating_mul(u64::from(look)),
            ))
            .await;
        }
        self.lose_track(id).await
    }

    /// The group has gone on, and what would lead there is not in the queue.
    pub(crate) async fn lose_track(&mut self, id: &GroupId) -> Result<(), Error> {
        if self.stop_if_replaced(id).await? {
            return Ok(());
        }
        self.lose(id, StopReason::Missing)
    }

    /// Stops in a group where the service says that no leaf has this client's key. The group still
    /// opens with the known key, so nobody was removed since: if that is true, another copy of this
    /// client has replaced the leaf, and has perhaps fetched from the queue what would show that
    /// here. It is the service's word alone, and said as such.
    pub(crate) async fn stop_if_replaced(&mut self, id: &GroupId) -> Result<bool, Error> {
        let state_key = Group::read(&self.db, id)?.state_key;
        let (_, signer) = self.own_sender(id)?;
        let request = OwnLeafRequest {
            group_id: *id,
            state_key: state_key.to_wire(),
        };
        let own: Result<OwnLeafResponse, Error> =
            self.call(Operation::OwnLeaf, signer, &request).await;
        match own {
            Err(Error::Refused(refusal)) if refusal.problem == ProblemType::NotAllowed => {
                self.lose(id, StopReason::LeafGone)?;
                Ok(true)
            }
            Err(error @ (Error::Unreachable(_) | Error::Local(_))) => Err(error),
            _ => Ok(false),
        }
    }

    /// The service knows no group that opens with the key that we have. It may have rotated: then the
    /// commit is in the queue, or, if that is gone, the key in a recovery record.
    pub(crate) async fn recover_state_key(&mut self, id: &GroupId) -> Result<(), Error> {
        let before = Group::read(&self.db, id)?;
        let epoch = self.epoch(id)?;
        self.pull().await?;
        self.process().await?;
        let now = Group::read(&self.db, id)?;
        if now.state_key != before.state_key
            || self.epoch(id)? != epoch
            || now.status != Status::Active
        {
            return Ok(());
        }
        let key = self.recovered_key(id, &now.recovery_secret).await?;
        match key.filter(|key| *key != now.state_key) {
            Some(key) => Group::set_state_key(&self.db, id, &key),
            None => {
                self.lose(id, StopReason::Missing)?;
                Err(UsageError::GroupLost(now.display_name()).into())
            }
        }
    }

    /// The state key in a group's recovery record, if there is one.
    pub(crate) async fn recovered_key(
        &mut self,
        id: &GroupId,
        secret: &RecoverySecret,
    ) -> Result<Option<StateKey>, Error> {
        // Where release 0.1 wrote it, unless the group has changed since.
        for lookup in [secret.lookup_in(id), secret.older_lookup()] {
            let key = self.key_in_record(secret, lookup).await?;
            if key.is_some() {
                return Ok(key);
            }
        }
        Ok(None)
    }

    async fn key_in_record(
        &mut self,
        secret: &RecoverySecret,
        lookup: LookupId,
    ) -> Result<Option<StateKey>, Error> {
        let signer = SignatureKeyPair::random()?;
        let record: Result<SealedRecord, Error> = self
            .call(
                Operation::RecoveryRecord,
                signer,
                &RecoveryRecordRequest { lookup },
            )
            .await;
        match record {
            Ok(record) => {
                let place = Place {
                    table: "recovery_records",
                    row: &lookup.0,
                    part: "record",
                };
                Ok(
                    sealing::open(secret.expose(), place, record.sealed.as_slice())
                        .ok()
                        .and_then(|key| StateKey::try_from(key.as_slice()).ok()),
                )
            }
            Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownRecord => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// This client cannot follow the group any more; the user is told.
    pub(crate) fn lose(&mut self, id: &GroupId, reason: StopReason) -> Result<(), Error> {
        self.transact(|db, profile| evidence::stop(db, profile, id, reason))
    }

    /// After a join: the secret under which the service will write recovery records for the new leaf.
    pub(crate) async fn set_recovery_secret(&mut self, id: &GroupId) -> Result<(), Error> {
        match self.send_recovery_secret(id).await {
            Ok(()) => {
                self.db.execute(
                    "UPDATE groups SET recovery_set = 1 WHERE group_id = ?",
                    [id.0],
                )?;
                Ok(())
            }
            // The key has rotated since; the commit is on its way, and we try again after it.
            Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn send_recovery_secret(&mut self, id: &GroupId) -> Result<(), Error> {
        let group = Group::read(&self.db, id)?;
        let mls_group = load_mls(&self.db, id)?;
        let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
        let signer = leaf::signer(&self.db, own_leaf.signature_key().as_slice())?;
        let request = SetRecoverySecretRequest {
            group_id: *id,
            state_key: group.state_key.to_wire(),
            recovery_secret: group.recovery_secret.to_wire(),
        };
        let sender = Sender::Leaf(mls_group.own_leaf_index().u32());
        let _: Accepted = self
            .call_as(
                Operation::SetRecoverySecret,
                sender,
                signer.0,
                request.encode(),
                0,
            )
            .await?;
        Ok(())
    }
}

/// This client leaves off following because of a commit, in the caller's transaction. One that the policy
/// forbids is not made good by coming back to the state after it.
pub(crate) fn lose_to(
    db: &rusqlite::Connection,
    profile: &Profile,
    id: &GroupId,
    fault: PeerError,
) -> Result<(), Error> {
    let reason = match fault {
        PeerError::NotPermitted
        | PeerError::Policy
        | PeerError::RemovalWithoutRotation
        | PeerError::ExternalSenders => StopReason::Forbidden,
        PeerError::OtherCopy => StopReason::OtherCopy,
        _ => StopReason::Unprocessable,
    };
    evidence::stop(db, profile, id, reason)
}
