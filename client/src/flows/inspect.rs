//! The service's view of a group, held against this client's.

use openmls::prelude::MlsGroup;
use protocol::group::InspectGroupResponse;
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, PeerError, UsageError};
use crate::flows::rounds::ROUNDS;
use crate::ids::GroupRef;
use crate::leaf::pseudonym_of;
use crate::mls::policy::{capabilities, policy_in};
use crate::mls::proposals;
use crate::outcomes::StopReason;
use crate::store::{Group, Profile, evidence, load_mls};

/// Compares leaves, pseudonyms and capabilities.
fn compare(mls_group: &MlsGroup, inspected: &InspectGroupResponse) -> Result<(), PeerError> {
    let policy = policy_in(mls_group.extensions())?;
    let mut theirs = inspected.leaves.iter();
    for member in mls_group.members() {
        let record = theirs
            .next()
            .ok_or(PeerError::Disagreement("the service misses a member"))?;
        let pseudonym = pseudonym_of(&member.credential).unwrap_or_default();
        if record.leaf_index.0 != member.index.u32()
            || record.user_pseudonym.as_slice() != pseudonym
        {
            return Err(PeerError::Disagreement("a member differs"));
        }
        if record.capabilities != capabilities(policy.as_ref(), &pseudonym) {
            return Err(PeerError::Disagreement("what a member may do differs"));
        }
    }
    if theirs.next().is_some() {
        return Err(PeerError::Disagreement("the service has a member too many"));
    }
    Ok(())
}

impl Engine {
    /// Asks the service what it holds of a group and compares it with what this client has: returns
    /// the number of clients in the group and its epoch, which both agree on.
    ///
    /// # Errors
    /// [`PeerError::Disagreement`].
    pub(crate) async fn verify_group(&mut self, group: &GroupRef) -> Result<(usize, u64), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        for _ in 0..ROUNDS {
            let epoch = self.epoch(&id)?;
            let inspected = self.inspect(&id).await?;
            // Asking may have brought this client further.
            let epoch = epoch.max(self.epoch(&id)?);
            if inspected.epoch.0 > epoch {
                self.follow(&id, epoch, Some(inspected.epoch.0)).await?;
                Group::read(&self.db, &id)?.check_usable()?;
                continue;
            }
            let mls_group = self.mls(&id)?;
            if inspected.epoch.0 < epoch {
                self.lose(&id, StopReason::Behind)?;
                return Err(PeerError::Disagreement("the service is at an earlier epoch").into());
            }
            compare(&mls_group, &inspected)?;
            return Ok((inspected.leaves.len(), epoch));
        }
        Err(UsageError::Contention.into())
    }

    /// Commits what must be committed before anything can be sent.
    pub(crate) async fn make_way(&mut self, id: &GroupId) -> Result<(), Error> {
        self.learn_pending(id).await?;
        let group = Group::read(&self.db, id)?;
        group.check_usable()?;
        let mls_group = self.mls(id)?;
        let leaving = proposals::removals(&self.db, &mls_group)?;
        if leaving.contains(&mls_group.own_leaf_index().u32()) {
            return Err(UsageError::Leaving(group.display_name()).into());
        }
        self.cover(id).await
    }
}

/// What two members can compare over another channel: the authenticator of the present epoch
/// (RFC 9420 §8.7) in hex, with the epoch. It is the same for all who have the same history of
/// the group, and different after two different commits, whatever the service shows.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn epoch_authenticator(
    db: &Connection,
    profile: &Profile,
    group: &GroupRef,
) -> Result<(u64, String), Error> {
    let id = evidence::group_or_connection(db, profile, group)?.id;
    let mls_group = load_mls(db, &id)?;
    let authenticator = mls_group.epoch_authenticator().as_slice();
    let hex = authenticator
        .chunks(4)
        .map(basis::hex::encode)
        .collect::<Vec<String>>();
    Ok((mls_group.epoch().as_u64(), hex.join(" ")))
}
