//! The messages between a user's devices: kept until they are sent, carried out when they arrive.

use openmls::prelude::LeafNodeIndex;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::ConnectionRequest;
use protocol::group::GroupKind;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, LocalError};
use crate::flows::connections;
use crate::mls::content::Content;
use crate::store::connections::{all_incoming, forget_incoming};
use crate::store::devices::{self, forget_removed, free_name, others};
use crate::store::sync_outbox::{self, enqueue};
use crate::store::{
    Event, Group, Profile, Status, connection_stock, contacts, events, groups, key_packages,
    load_mls, profile, reporting, requests_taken, ways,
};
use crate::sync_message::{
    self, AddMe, HandleKeys, Hello, Invitation, PackagesMade, Present, SyncMessage,
};

fn hello(profile: &Profile) -> SyncMessage {
    SyncMessage::Hello(Hello {
        device: profile.device,
        name: opaque(profile.device_name.as_bytes()),
    })
}

/// Carries out what another device says, in the caller's transaction. `leaf` is its leaf in the
/// devices' group, which only this user's devices are in.
pub(crate) fn receive(
    db: &Connection,
    profile: &Profile,
    leaf: LeafNodeIndex,
    frame: &[u8],
) -> Result<(), Error> {
    let Some(message) = SyncMessage::from_frame(frame) else {
        return Ok(());
    };
    match message {
        SyncMessage::Hello(said) => meet(db, profile, leaf.u32(), &said),
        SyncMessage::Contact(contact) => learn_contact(db, &contact),
        SyncMessage::ContactGone(key) => contacts::forget(db, key.as_slice()),
        SyncMessage::Invitation(Invitation { device, way }) => {
            if device == profile.device {
                ways::keep(db, &way)
            } else {
                Ok(())
            }
        }
        SyncMessage::Present(Present {
            group_id,
            leaf_index,
        }) => devices::is_in(db, leaf.u32(), &group_id, leaf_index),
        SyncMessage::Want(group_id) => ways::invite_device_again(db, leaf.u32(), &group_id),
        SyncMessage::AddMe(AddMe {
            group_id,
            key_package,
        }) => ways::ask_to_add(db, &group_id, key_package.as_slice()),
        SyncMessage::SetsWanted(wanted) => {
            for set in wanted.sets {
                key_packages::want(db, &set)?;
            }
            Ok(())
        }
        SyncMessage::PackagesMade(PackagesMade { packages }) => {
            for made in packages {
                // Of a batch that is published already: nothing.
                key_packages::made_by(db, leaf.u32(), &made)?;
            }
            Ok(())
        }
        SyncMessage::Request(request) => match ConnectionRequest::decode(request.as_slice()) {
            Ok(request) => connections::keep_request(db, profile, &request),
            Err(_) => Ok(()),
        },
        SyncMessage::Introduction(signed) => reporting::keep_shared(db, profile, signed.as_slice()),
        SyncMessage::RequestsTaken(digests) => requests_taken::learn(db, digests.as_slice()),
        SyncMessage::RequestGone(key) => forget_incoming(db, key.as_slice()),
        SyncMessage::Handle(HandleKeys {
            owner_seed,
            establishment_seed,
        }) => profile::set_handle_keys(db, owner_seed.expose(), establishment_seed.expose()),
    }
}

/// Keeps a contact of another device. One that this device cannot have is told to the user, and
/// holds up nothing.
fn learn_contact(db: &Connection, contact: &sync_message::NewContact) -> Result<(), Error> {
    match contact.keep(db) {
        Ok(_) => Ok(()),
        Err(Error::Usage(_) | Error::Peer(_)) => {
            let name = contacts::handle_of(&contact.credential).unwrap_or_default();
            events::store(db, &Event::ContactConflict { name })
        }
        Err(error) => Err(error),
    }
}

/// Another device says who it is. One that is new is told what this one knows.
fn meet(db: &Connection, profile: &Profile, leaf: u32, said: &Hello) -> Result<(), Error> {
    if said.device == profile.device {
        return Ok(());
    }
    let known = devices::place(db, &said.device)?;
    if known == Some(leaf) {
        return Ok(());
    }
    // Nobody takes the name of a device that is there: whoever removes one by its name must find
    // it.
    if let (Some(place), Some(group)) = (known, &profile.device_group)
        && load_mls(db, group)?
            .member(LeafNodeIndex::new(place))
            .is_some()
    {
        return Ok(());
    }
    let name = free_name(db, profile, said)?;
    devices::keep(db, &said.device, &name, leaf)?;
    // The sets that are published lack its packages.
    contacts::make_pools_stale(db)?;
    key_packages::have_none_left(db)?;
    key_packages::forget_batch(db)?;
    groups::announce_again(db, profile.device_group.as_ref())?;
    enqueue(db, hello(profile))?;
    for contact in contacts::all(db)? {
        enqueue(db, SyncMessage::Contact(contact))?;
    }
    for request in all_incoming(db)? {
        enqueue(db, SyncMessage::Request(opaque(request)))?;
    }
    let taken = requests_taken::all(db)?;
    if !taken.is_empty() {
        enqueue(db, SyncMessage::RequestsTaken(opaque(taken)))?;
    }
    events::store(db, &Event::DeviceLinked { name })
}

impl Engine {
    /// What the user's devices owe each other.
    pub(crate) async fn settle_devices(&mut self) -> Result<(), Error> {
        self.profile = Profile::read(&self.db)?;
        self.take_ways_in().await?;
        let Some(group) = self.devices_group()? else {
            return Ok(());
        };
        self.transact(|db, profile| {
            forget_removed(db, &group)?;
            announce(db, profile)
        })?;
        self.add_clients().await?;
        self.invite_devices()?;
        self.make_wanted_packages().await?;
        self.send_outbox().await
    }

    /// The group of this user's devices, if this one is in it.
    pub(crate) fn devices_group(&self) -> Result<Option<Group>, Error> {
        match &self.profile.device_group {
            Some(id) => Ok(Group::find(&self.db, id)?.filter(|it| it.status == Status::Active)),
            None => Ok(None),
        }
    }

    async fn send_outbox(&mut self) -> Result<(), Error> {
        loop {
            let Some(group) = self.devices_group()? else {
                return Ok(());
            };
            let Some((id, frame)) = sync_outbox::next(&self.db)? else {
                return Ok(());
            };
            // Said to nobody, it is said: whoever comes later is told anew.
            if !others(&self.db)?.is_empty() || self.mls(&group.id)?.members().count() > 1 {
                let content = Content::Sync(zeroize::Zeroizing::new(frame));
                self.send_content(&group.id, &content).await?;
            }
            sync_outbox::sent(&self.db, id)?;
        }
    }
}

/// Says who this device is and which leaves are its own, once.
fn announce(db: &Connection, profile: &Profile) -> Result<(), Error> {
    for group in Group::all(db)? {
        let announced: bool = groups::is_announced(db, &group.id)?;
        if announced || group.status != Status::Active || connection_stock::waits(db, &group.id)? {
            continue;
        }
        if group.kind == GroupKind::SingleUser {
            // Also after a restore: the others know this leaf under another name.
            enqueue(db, hello(profile))?;
        }
        let leaf_index = load_mls(db, &group.id)
            .map_err(|_| LocalError::Damaged)?
            .own_leaf_index()
            .u32();
        if profile.device_group.is_some() && group.kind != GroupKind::SingleUser {
            enqueue(
                db,
                SyncMessage::Present(Present {
                    group_id: group.id,
                    leaf_index,
                }),
            )?;
        }
        groups::announced(db, &group.id)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::WireSecret;
    use protocol::connections::ClientCredential;

    use super::*;
    use crate::sync_message::DeviceId;

    fn contact(name: &str, key: u8) -> sync_message::NewContact {
        sync_message::NewContact {
            credential: ClientCredential {
                name: opaque(name.as_bytes()),
                signature_public_key: opaque(vec![key; 32]),
            },
            connection_key: WireSecret::new([1; 32]),
            connection_token: WireSecret::new([2; 32]),
            pool: sync_message::PoolKeys::fresh().unwrap(),
            given: crate::sync_message::GivenName::none(),
        }
    }

    #[test]
    fn no_device_takes_the_name_of_one_that_is_there() {
        let db = crate::store::database::in_memory().unwrap();
        let mut profile = crate::store::profile::tests::profile(&db);
        let group = crate::store::groups::tests::group(7, "devices");
        group.insert(&db).unwrap();
        // Of one leaf, with number 0.
        crate::store::groups::tests::keep_mls_group(&db, &group.id);
        profile.device_group = Some(group.id);
        let hello = |leaf: u32, device: u8| {
            let said = Hello {
                device: DeviceId([device; 16]),
                name: opaque(*b"laptop"),
            };
            let frame = SyncMessage::Hello(said).into_frame();
            receive(&db, &profile, LeafNodeIndex::new(leaf), &frame).unwrap();
        };
        let known = || -> Vec<(u8, u32)> {
            let others = others(&db).unwrap();
            others.iter().map(|it| (it.id.0[0], it.leaf)).collect()
        };
        hello(0, 1);
        hello(1, 2);
        // A lost phone says that it is the laptop: who removes the phone must find it.
        hello(1, 1);
        assert_eq!(known(), [(1, 0), (2, 1)]);
        // Whoever has left its place may say where it is now.
        hello(0, 2);
        assert_eq!(known(), [(2, 0)]);
    }

    #[test]
    fn a_contact_of_another_device_that_this_one_cannot_have_is_told_and_holds_up_nothing() {
        let db = crate::store::database::in_memory().unwrap();
        let profile = crate::store::profile::tests::profile(&db);
        let leaf = LeafNodeIndex::new(1);
        let say = |contact| {
            receive(
                &db,
                &profile,
                leaf,
                &SyncMessage::Contact(contact).into_frame(),
            )
        };
        say(contact("bob", 1)).unwrap();
        say(contact("bob", 2)).unwrap();
        say(contact("Not A Handle", 3)).unwrap();
        say(contact("carol", 4)).unwrap();
        let conflict = |name: &str| Event::ContactConflict { name: name.into() };
        assert_eq!(events::stored(&db), [conflict("bob"), conflict("")]);
        assert_eq!(
            contacts::by_name(&db, "bob").unwrap().signature_key,
            [1; 32]
        );
        assert!(contacts::by_name(&db, "carol").is_ok());
    }
}
