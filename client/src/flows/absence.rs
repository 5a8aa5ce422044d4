//! Coming back after months: what the service keeps no more by then, and who can bring this client
//! back.

use protocol::group::GroupKind;
use protocol::ids::{Day, GroupId};
use protocol::journal::{CONNECTION_HANDSHAKE_DAYS, HANDSHAKE_DAYS};
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::ids::GroupRef;
use crate::mls::content::Content;
use crate::store::connections::group_with;
use crate::store::{Event, Group, Profile, Status, contacts, events, groups, known};

/// Whether a group may have gone on to where nothing leads any more that the service keeps: what
/// came next, it accepted on the last day that this client has read to the end, or later.
pub(super) fn outlasted(db: &Connection, group: &Group, now_ms: u64) -> Result<bool, Error> {
    let kept = match group.kind {
        GroupKind::Connection => CONNECTION_HANDSHAKE_DAYS,
        GroupKind::Group | GroupKind::SingleUser => HANDSHAKE_DAYS,
    };
    let read_day = groups::read_day(db, &group.id)?;
    Ok(read_day > 0 && Day::of(now_ms).0 > read_day.saturating_add(u32::from(kept)))
}

/// The contacts who were in a group when this client followed it last, and with whom there still
/// is a connection: each can add this user again, if it is a member still. Nobody while this client
/// is in the group.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn who_can_bring_back(
    db: &Connection,
    _: &Profile,
    group: &GroupRef,
) -> Result<Vec<String>, Error> {
    let group = Group::meant(db, group)?;
    if group.status == Status::Active {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for member in known::of(db, &group.id)?.iter().flat_map(|it| it.there()) {
        let Some(real) = &member.identity.real else {
            continue;
        };
        let key = real.signature_public_key.as_slice();
        if let Some(name) = contacts::name_of_key(db, key)?
            && group_with(db, key)?.is_some()
        {
            names.push(name);
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// A contact asks to be added again, in the caller's transaction. Of a group that it was never in,
/// as far as is known, nothing is told.
pub(super) fn asked_back(db: &Connection, key: &[u8], id: &GroupId) -> Result<(), Error> {
    let group = Group::find(db, id)?
        .filter(|it| it.status == Status::Active && it.kind == GroupKind::Group);
    let (Some(group), Some(name)) = (group, contacts::name_of_key(db, key)?) else {
        return Ok(());
    };
    let known = known::members(db, id)?;
    let was_there = known.iter().any(|member| {
        let real = member.identity.real.as_ref();
        real.is_some_and(|real| real.signature_public_key.as_slice() == key)
    });
    let event = Event::ReturnWanted {
        group: group.display_name(),
        name,
    };
    // Once, however often it is asked, until the user has seen it.
    let waits = events::all(db)?.iter().any(|it| it.event == event);
    match was_there && !waits {
        true => events::store(db, &event),
        false => Ok(()),
    }
}

impl Engine {
    /// Asks a contact to add this user to a group again, over the connection with it.
    ///
    /// # Errors
    /// [`UsageError::AlreadyAMember`] in a group that this client follows;
    /// [`UsageError::NotInGroup`] for somebody who is none of [`who_can_bring_back`].
    pub(crate) async fn ask_to_return(
        &mut self,
        group: &GroupRef,
        contact: &str,
    ) -> Result<(), Error> {
        let _held = self.hold().await?;
        let meant = self.sync_with(group).await?;
        if meant.status == Status::Active {
            let own = self.profile.handle.clone().unwrap_or_default();
            return Err(UsageError::AlreadyAMember(own).into());
        }
        let can = who_can_bring_back(&self.db, &self.profile, &meant.id.into())?;
        let key = contacts::by_name(&self.db, contact)?.signature_key;
        match group_with(&self.db, &key)? {
            Some(connection) if can.iter().any(|name| name == contact) => {
                self.send_content(&connection, &Content::Return(meant.id))
                    .await
            }
            _ => Err(UsageError::NotInGroup(contact.to_owned()).into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Identity;
    use crate::store::groups::tests::group;
    use crate::sync_message::{NewContact, PoolKeys};
    use protocol::codec::{WireSecret, opaque};
    use protocol::connections::ClientCredential;
    use protocol::time::DAY_MS;

    #[test]
    fn what_was_read_within_the_time_that_the_service_keeps_it_cannot_have_expired() {
        let db = crate::store::database::in_memory().unwrap();
        for (number, kind, days) in [
            (1, GroupKind::Group, 140),
            (2, GroupKind::SingleUser, 140),
            (3, GroupKind::Connection, 371),
        ] {
            let name = format!("group {number}");
            let group = Group {
                kind,
                ..group(number, &name)
            };
            group.insert(&db).unwrap();
            let after = |days: u64| outlasted(&db, &group, (20_000 + days) * DAY_MS).unwrap();
            assert!(!after(9_000), "nobody knows when it was read");
            groups::set_read_day(&db, &group.id, 20_000).unwrap();
            assert!(!after(days));
            assert!(after(days + 1));
        }
    }

    #[test]
    fn of_a_group_nobody_is_told_who_asks_to_come_back_and_was_never_there() {
        let db = crate::store::database::in_memory().unwrap();
        let team = group(7, "team");
        team.insert(&db).unwrap();
        let contact = |name: &'static str, key: u8| NewContact {
            credential: ClientCredential {
                name: opaque(*name.as_bytes().first_chunk::<5>().unwrap()),
                signature_public_key: opaque([key; 32]),
            },
            connection_key: WireSecret::new([key; 32]),
            connection_token: WireSecret::new([key; 32]),
            pool: PoolKeys::fresh().unwrap(),
            given: crate::sync_message::GivenName::none(),
        };
        let [carol, mally] = [contact("carol", 1), contact("mally", 2)];
        carol.store(&db).unwrap();
        mally.store(&db).unwrap();
        let was_there = known::Known {
            epoch: 3,
            own_leaf: 0,
            external_senders: Vec::new(),
            ciphersuite: crate::leaf::CIPHERSUITE.into(),
            policy: None,
            members: vec![known::KnownMember {
                credential: vec![5],
                identity: Identity {
                    user_pseudonym: vec![5],
                    real: Some(carol.credential.clone()),
                },
                removed_epoch: Some(2),
            }],
        };
        known::restore(&db, &team.id, &was_there).unwrap();
        for (key, id) in [(2, team.id), (3, team.id), (1, GroupId([8; 16]))] {
            asked_back(&db, &[key; 32], &id).unwrap();
            assert_eq!(events::stored(&db), []);
        }
        // Who was is heard once until the user has looked.
        for _ in 0..3 {
            asked_back(&db, &[1; 32], &team.id).unwrap();
        }
        let (group, name) = ("team".to_owned(), "carol".to_owned());
        assert_eq!(events::stored(&db), [Event::ReturnWanted { group, name }]);
    }
}
