//! Every device brings the others into the groups that it is in.

use crypto::leaf_authorization::{AuthorizedJoin, authorize};
use crypto::secret::Secret;
use crypto::sign::LeafKeyPair;
use openmls::prelude::KeyPackageIn;
use protocol::codec::{WireSecret, opaque};
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::time::DAY_MS;
use rusqlite::Connection;
use tls_codec::DeserializeBytes as _;

use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::flows::key_packages::publish::make_package;
use crate::leaf;
use crate::mls::authenticate::person_digests;
use crate::mls::claimed::check_one;
use crate::mls::plan::Plan;
use crate::store::devices::{ask_in, leaf_of, others, own_leaves};
use crate::store::outbox;
use crate::store::sync_outbox::enqueue;
use crate::store::ways::{self, invited};
use crate::store::{Group, Status, connection_stock, groups, known, leaf_keys, load_mls};
use crate::sync_message::{AddMe, GroupLink, Invitation, SyncMessage, WantedSet, WayIn};

/// A way in is good for so long, less what is over of the last day,
const GOOD_MS: u64 = 7 * DAY_MS;

/// When a way in that is made now ends: with a day. The service reads it, and the millisecond in
/// which a device has made its ways into all of its groups would tell that they are one user's.
fn end_ms(now_ms: u64) -> u64 {
    let end_ms = now_ms.saturating_add(GOOD_MS);
    end_ms - end_ms % DAY_MS
}

/// A way into a group for one other device of this user. Its first leaf's key is made here, so that
/// it can be authorized without asking.
pub(crate) fn way_into(db: &Connection, group: &Group, now_ms: u64) -> Result<WayIn, Error> {
    let mls_group = load_mls(db, &group.id)?;
    let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf_keys::signer(db, own_leaf.signature_key().as_slice())?;
    let (user_pseudonym, _) = own_leaves(db, &group.id, &mls_group)?;
    let known = known::of(db, &group.id)?.ok_or(LocalError::Damaged)?;
    let seed = Secret::<32>::random()?;
    let new_key = LeafKeyPair::from_seed(leaf::scheme(mls_group.ciphersuite()), &seed)?;
    Ok(WayIn {
        link: GroupLink {
            group_id: group.id,
            kind: group.kind,
            ciphersuite: u16::from(mls_group.ciphersuite()),
            name: opaque(group.display_name().into_bytes()),
            segment: group.segment.id,
            rotation: group.segment.rotation,
            step: group.segment.step,
            state_key: group.segment.state_key.to_wire(),
            wrapper_key: group.segment.wrapper_key.to_wire(),
            user_pseudonym: opaque(user_pseudonym),
            epoch: known.epoch,
            codes_since: Group::codes_since(db, &group.id)?,
            members: opaque(person_digests(&known)),
        },
        leaf_seed: WireSecret::new(*seed.expose()),
        authorization: authorize(
            &signer.0,
            &group.id,
            &group.segment.id,
            AuthorizedJoin::Client,
            mls_group.own_leaf_index().u32(),
            end_ms(now_ms),
            &new_key.public(),
        ),
    })
}

impl Engine {
    /// Invites devices that are not in a group that this one is in.
    pub(super) fn invite_devices(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        self.transact(|db, _| {
            let devices = others(db)?;
            if devices.is_empty() {
                return Ok(());
            }
            for group in Group::all(db)? {
                if group.status != Status::Active
                    || group.kind == GroupKind::SingleUser
                    || connection_stock::waits(db, &group.id)?
                {
                    continue;
                }
                let (_, leaves) = own_leaves(db, &group.id, &load_mls(db, &group.id)?)?;
                if leaves.len() > devices.len() {
                    continue;
                }
                for device in &devices {
                    if leaf_of(db, &device.id, &group.id)?.is_some()
                        || invited(db, &device.id.0, &group.id, now_ms)?
                    {
                        continue;
                    }
                    let way = way_into(db, &group, now_ms)?;
                    let device = device.id;
                    enqueue(db, SyncMessage::Invitation(Invitation { device, way }))?;
                    ways::invite(db, &device, &group.id, now_ms)?;
                }
            }
            Ok(())
        })
    }

    /// Comes into the groups that this device was asked into.
    pub(super) async fn take_ways_in(&mut self) -> Result<(), Error> {
        for way in ways::all(&self.db)? {
            match self.come_in(&way).await {
                Ok(true) => {}
                // It has rotated: another device knows the keys of now.
                Ok(false) => {
                    self.transact(|db, _| enqueue(db, SyncMessage::Want(way.link.group_id)))?;
                }
                // The key of the leaf that vouched for us has changed.
                Err(Error::Refused(refusal))
                    if refusal.problem == ProblemType::NotAllowed
                        && way.link.kind == GroupKind::Group =>
                {
                    self.ask_to_be_added(&way).await?;
                }
                Err(Error::Refused(refusal))
                    if matches!(
                        refusal.problem,
                        ProblemType::UnknownGroup | ProblemType::NotAllowed
                    ) =>
                {
                    // The state key has changed: another device knows it.
                    self.transact(|db, _| enqueue(db, SyncMessage::Want(way.link.group_id)))?;
                }
                // Tried again next time.
                Err(Error::Refused(_) | Error::Usage(_) | Error::Issuer(_)) => continue,
                Err(Error::Peer(_) | Error::Protocol(_)) => {}
                Err(error) => return Err(error),
            }
            ways::done(&self.db, &way.link.group_id)?;
        }
        Ok(())
    }

    /// The other way in: a KeyPackage for a commit of another device.
    async fn ask_to_be_added(&mut self, way: &WayIn) -> Result<(), Error> {
        let directory = self.directory().await?;
        let now_ms = self.transport.time.now_unix_ms();
        let set = WantedSet {
            user_pseudonym: way.link.user_pseudonym.clone(),
            ciphersuite: way.link.ciphersuite,
        };
        self.transact(|db, profile| {
            let key_package = make_package(db, profile, &directory, &set, now_ms)?;
            let group_id = way.link.group_id;
            let made = KeyPackageIn::tls_deserialize_exact_bytes(key_package.as_slice())
                .map_err(|_| LocalError::Damaged)?;
            let leaf = made.unverified_credential();
            ask_in(db, &group_id, leaf.signature_key.as_slice())?;
            enqueue(
                db,
                SyncMessage::AddMe(AddMe {
                    group_id,
                    key_package,
                }),
            )
        })
    }

    /// Adds devices of this user that have asked for it.
    pub(super) async fn add_clients(&mut self) -> Result<(), Error> {
        for (id, key_package) in ways::to_add(&self.db)? {
            match self.add_client(&id, &key_package).await {
                // Refused: added by another device meanwhile.
                Ok(()) | Err(Error::Refused(_) | Error::Usage(_)) => {}
                // Made for what was: it is invited anew.
                Err(Error::Peer(_)) => {
                    ways::invite_again(&self.db, &id)?;
                }
                Err(error) => return Err(error),
            }
            ways::added(&self.db, &id, &key_package)?;
        }
        Ok(())
    }

    async fn add_client(&mut self, id: &GroupId, key_package: &[u8]) -> Result<(), Error> {
        if Group::find(&self.db, id)?.is_none_or(|it| it.status != Status::Active) {
            return Ok(());
        }
        let now_ms = self.transport.time.now_unix_ms();
        self.commit(id, |client| {
            let mls_group = client.mls(id)?;
            let (own, leaves) = own_leaves(&client.db, id, &mls_group)?;
            let profile = &client.profile;
            let (claimed, pseudonym) = check_one(
                &client.db,
                &profile.identity.public(),
                &profile.connection_key,
                mls_group.ciphersuite(),
                key_package,
                now_ms,
            )?;
            if pseudonym.as_slice() != own || leaves.len() > others(&client.db)?.len() {
                return Err(PeerError::KeyPackage.into());
            }
            Ok(Plan::AddClients {
                key_packages: vec![claimed.key_package],
                link_keys: vec![claimed.link_key],
            })
        })
        .await
    }

    async fn come_in(&mut self, way: &WayIn) -> Result<bool, Error> {
        let former = Group::find(&self.db, &way.link.group_id)?;
        if former
            .as_ref()
            .is_some_and(|group| group.kind != way.link.kind)
        {
            return Err(
                PeerError::Unauthenticated("a way leads into a group of another kind").into(),
            );
        }
        match former.map(|group| group.status) {
            Some(Status::Active) => return Ok(true),
            Some(_) => self.transact(|db, _| {
                outbox::fail_all(db, &way.link.group_id)?;
                Group::delete(db, &way.link.group_id)
            })?,
            None => {}
        }
        let suite = leaf::ciphersuite(way.link.ciphersuite)
            .ok_or(UsageError::UnknownCiphersuite(way.link.ciphersuite))?;
        let seed = Secret::new(*way.leaf_seed.expose());
        let key = LeafKeyPair::from_seed(leaf::scheme(suite), &seed)?;
        leaf_keys::store_key(&self.db, &key)?;
        let is_in = self
            .join_as_client(&way.link, &key.public(), way.authorization.clone())
            .await?;
        if !is_in {
            return Ok(false);
        }
        // Who invited us knows the key of this leaf.
        groups::set_update_due(&self.db, &way.link.group_id, true)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ways::AGAIN_MS;

    #[test]
    fn ways_in_that_are_made_on_one_day_end_alike_and_not_later_than_is_allowed() {
        let day = 20_000 * DAY_MS;
        assert_eq!(end_ms(day), end_ms(day + DAY_MS - 1));
        assert!(end_ms(day + 1) <= day + 1 + mls_rules::commit::MAX_AUTHORIZATION_MS);
        assert!(end_ms(day + DAY_MS - 1) > day + DAY_MS - 1 + AGAIN_MS);
    }
}
