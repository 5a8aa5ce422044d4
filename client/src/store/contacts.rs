//! Contacts: whose connection key and token this client has, and the names that members go by.

use crypto::keys::ConnectionKey;
use crypto::safety_number::safety_number;
use crypto::schedule::PoolToken;
use protocol::codec::{WireSecret, opaque};
use protocol::connections::{ClientCredential, is_valid_handle};
use rusqlite::Connection;

use crate::error::{Error, PeerError, UsageError};
use crate::ids::UserId;
use crate::store::database::{change, column, first, is_there, key32, rows, value};
use crate::store::profile::Profile;
use crate::store::sync_outbox::enqueue;
use crate::sync_message::{GivenName, NewContact, PoolKeys, SyncMessage};
use crate::text;

/// Longest name of a contact in bytes.
const MAX_NAME: usize = 64;

/// How a member is shown whose identity link does not open. No handle looks like this.
pub(crate) const UNVERIFIED: &str = "(unverified)";

/// The own pools with the contacts that they are for.
pub(crate) fn pools(db: &Connection) -> Result<Vec<(Vec<u8>, PoolKeys)>, Error> {
    Ok(all(db)?
        .into_iter()
        .map(|contact| {
            let key = contact.credential.signature_public_key.as_slice().to_vec();
            (key, contact.pool)
        })
        .collect())
}

/// A pool that nobody is to claim from any more, in the caller's transaction.
pub(crate) fn retire_pool(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "INSERT OR IGNORE INTO retired_pools (pool_token, owner_seed)
         SELECT pool_token, pool_owner_seed FROM contacts WHERE signature_key = ?",
        [signature_key],
    )
}

/// Somebody to share groups with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Who.
    pub user: UserId,
    /// What this user calls them: their handle, or another name ([`Client::rename_contact`]).
    ///
    /// [`Client::rename_contact`]: crate::Client::rename_contact
    pub name: String,
    /// The handle that they registered.
    pub handle: String,
    /// Whether they can be reported to the token issuer: they have shown a certificate that is
    /// still valid.
    pub reportable: bool,
}

pub(crate) struct ContactKeys {
    pub(crate) name: String,
    pub(crate) signature_key: Vec<u8>,
    pub(crate) connection_key: ConnectionKey,
    pub(crate) connection_token: PoolToken,
}

/// The handle in a credential.
pub(crate) fn handle_of(credential: &ClientCredential) -> Option<String> {
    let name = credential.name.as_slice();
    if !is_valid_handle(name) {
        return None;
    }
    String::from_utf8(name.to_vec()).ok()
}

impl NewContact {
    /// Keeps a new contact, or a new pool for one, and tells the other devices.
    pub(crate) fn store(&self, db: &Connection) -> Result<String, Error> {
        let mut contact = self.copy();
        contact.pool.generation = db.prepare_cached("SELECT coalesce(max(pool_generation), 0) + 1 FROM contacts WHERE signature_key = ?")?.query_row([self.credential.signature_public_key.as_slice()],
            |row| row.get(0),)?;
        let handle = contact.keep(db)?;
        enqueue(db, SyncMessage::Contact(contact))?;
        Ok(handle)
    }

    fn copy(&self) -> Self {
        Self {
            credential: self.credential.clone(),
            connection_key: WireSecret::new(*self.connection_key.expose()),
            connection_token: WireSecret::new(*self.connection_token.expose()),
            pool: self.pool.copy(),
            given: self.given.clone(),
        }
    }

    /// Keeps the contact, with the later one of two pools; of two that devices have made at the
    /// same time all keep the same. A handle names one key: another user under the same handle is
    /// refused. A contact keeps the name that this user knows it by, whatever it calls itself
    /// later. Returns the name.
    pub(crate) fn keep(&self, db: &Connection) -> Result<String, Error> {
        let key = self.credential.signature_public_key.as_slice();
        let known = value(
            db,
            "SELECT handle FROM contacts WHERE signature_key = ?",
            [key],
        )?;
        let handle = match known {
            Some(known) => known,
            None => {
                let handle = handle_of(&self.credential).ok_or(PeerError::IdentityLink)?;
                if by_name(db, &handle).is_ok() {
                    return Err(UsageError::AlreadyConnected(handle).into());
                }
                handle
            }
        };
        change(
            db,
            "INSERT OR IGNORE INTO retired_pools (pool_token, owner_seed)
             SELECT pool_token, pool_owner_seed FROM contacts
             WHERE signature_key = ? AND (pool_generation, pool_token) < (?, ?)",
            (key, self.pool.generation, self.pool.token.expose()),
        )?;
        change(db, "INSERT INTO contacts (signature_key, handle, connection_key, connection_token, pool_token,
                pool_owner_seed, pool_generation)
             VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (signature_key) DO UPDATE SET
                connection_key = excluded.connection_key, connection_token = excluded.connection_token", (
                key,
                &handle,
                self.connection_key.expose(),
                self.connection_token.expose(),
                self.pool.token.expose(),
                self.pool.owner_seed.expose(),
                self.pool.generation,
            ),)?;
        change(
            db,
            "UPDATE contacts SET token_due = token_due OR pool_generation = ?1, pool_new = 0,
                pool_generation = ?1, pool_token = ?2, pool_owner_seed = ?3
             WHERE signature_key = ?4 AND (pool_generation, pool_token) < (?1, ?2)",
            (
                self.pool.generation,
                self.pool.token.expose(),
                self.pool.owner_seed.expose(),
                key,
            ),
        )?;
        self.keep_name(db)?;
        Ok(name_of_key(db, key)?.unwrap_or(handle))
    }

    /// The later one of two names that devices of this user have given it, if nobody else here has
    /// that name.
    fn keep_name(&self, db: &Connection) -> Result<(), Error> {
        let key = self.credential.signature_public_key.as_slice();
        let given = String::from_utf8_lossy(self.given.name.as_slice());
        let name = text::received(&given, MAX_NAME);
        let is_free = match by_name(db, &name) {
            Ok(contact) => contact.signature_key == key,
            Err(_) => true,
        };
        if !is_free {
            return Ok(());
        }
        change(
            db,
            "UPDATE contacts SET known_as = nullif(?1, ''), renamed = ?2
             WHERE signature_key = ?3 AND (renamed, coalesce(known_as, '')) < (?2, ?1)",
            (name, self.given.generation, key),
        )
    }
}

/// Calls a contact something else here, or by its handle again, and tells the other devices.
///
/// # Errors
/// [`UsageError::UnknownContact`], [`UsageError::InvalidContactName`],
/// [`UsageError::AlreadyConnected`] if another contact has that name or handle.
pub(crate) fn rename(
    db: &Connection,
    profile: &Profile,
    contact: &str,
    name: Option<&str>,
) -> Result<(), Error> {
    let key = by_name(db, contact)?.signature_key;
    let name = name
        .map(|name| text::chosen(name, MAX_NAME).ok_or(UsageError::InvalidContactName))
        .transpose()?;
    if let Some(name) = &name {
        let is_others = by_name(db, name).is_ok_and(|other| other.signature_key != key);
        if is_others || profile.handle.as_ref() == Some(name) {
            return Err(UsageError::AlreadyConnected(name.clone()).into());
        }
    }
    change(
        db,
        "UPDATE contacts SET known_as = nullif(?1, handle), renamed = renamed + 1
         WHERE signature_key = ?2",
        (name, &key),
    )?;
    let all = all(db)?.into_iter();
    let mut of_key = all.filter(|it| it.credential.signature_public_key.as_slice() == key);
    match of_key.next() {
        Some(contact) => enqueue(db, SyncMessage::Contact(contact)),
        None => Ok(()),
    }
}

/// The contact that this user calls so, or whose handle it is: nobody else's name is either.
pub(crate) fn by_name(db: &Connection, name: &str) -> Result<ContactKeys, Error> {
    let row = first(
        db,
        "SELECT signature_key, connection_key, connection_token, coalesce(known_as, handle)
         FROM contacts WHERE known_as = ?1 OR handle = ?1",
        [name],
        |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, Vec<u8>>(2)?,
                row.get(3)?,
            ))
        },
    )?;
    let (signature_key, connection_key, connection_token, name) =
        row.ok_or_else(|| UsageError::UnknownContact(name.to_owned()))?;
    Ok(ContactKeys {
        name,
        signature_key,
        connection_key: ConnectionKey::new(key32(&connection_key)?),
        connection_token: PoolToken::new(key32(&connection_token)?),
    })
}

/// All of them, for another device or a backup.
pub(crate) fn all(db: &Connection) -> Result<Vec<NewContact>, Error> {
    let mut statement = db.prepare_cached(
        "SELECT signature_key, handle, connection_key, connection_token, pool_token, pool_owner_seed,
            pool_generation, known_as, renamed
         FROM contacts ORDER BY handle",
    )?;
    let rows = statement.query_map((), |row| {
        Ok((
            row.get::<_, Vec<u8>>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, Vec<u8>>(2)?,
            row.get::<_, Vec<u8>>(3)?,
            row.get::<_, Vec<u8>>(4)?,
            row.get::<_, Vec<u8>>(5)?,
            row.get::<_, u32>(6)?,
            (row.get::<_, Option<String>>(7)?, row.get::<_, u32>(8)?),
        ))
    })?;
    rows.map(|row| {
        let (
            key,
            handle,
            connection_key,
            connection_token,
            pool_token,
            owner_seed,
            generation,
            name,
        ) = row?;
        let (known_as, renamed) = name;
        Ok(NewContact {
            credential: ClientCredential {
                name: opaque(handle.into_bytes()),
                signature_public_key: opaque(key),
            },
            connection_key: WireSecret::new(key32(&connection_key)?),
            connection_token: WireSecret::new(key32(&connection_token)?),
            pool: PoolKeys {
                generation,
                token: WireSecret::new(key32(&pool_token)?),
                owner_seed: WireSecret::new(key32(&owner_seed)?),
            },
            given: GivenName {
                generation: renamed,
                name: opaque(known_as.unwrap_or_default().into_bytes()),
            },
        })
    })
    .collect()
}

/// Forgets a contact, and has its pool deleted, in the caller's transaction.
pub(crate) fn forget(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    retire_pool(db, signature_key)?;
    change(
        db,
        "DELETE FROM contacts WHERE signature_key = ?",
        [signature_key],
    )
}

pub(crate) fn name_of_key(db: &Connection, signature_key: &[u8]) -> Result<Option<String>, Error> {
    value(
        db,
        "SELECT coalesce(known_as, handle) FROM contacts WHERE signature_key = ?",
        [signature_key],
    )
}

/// The name that somebody has gone by in a group, an introduction or a request: no contact, perhaps
/// a former one.
pub(crate) fn name_seen(db: &Connection, signature_key: &[u8]) -> Result<Option<String>, Error> {
    value(db, "SELECT name FROM (
                SELECT name, 0 AS rank FROM introductions WHERE signature_key = ?1
                UNION ALL SELECT name, 1 FROM identities WHERE signature_key = ?1 AND name IS NOT NULL
                UNION ALL SELECT name, 2 FROM incoming_requests WHERE signature_key = ?1
             ) ORDER BY rank LIMIT 1", [signature_key])
}

/// Whether somebody else who is no contact goes by this name too, in any group or request.
fn has_namesake(db: &Connection, name: &str, own_key: &[u8], key: &[u8]) -> Result<bool, Error> {
    is_there(
        db,
        "SELECT 1 FROM (
                SELECT name, signature_key FROM identities
                UNION ALL SELECT name, signature_key FROM known_members
                UNION ALL SELECT name, signature_key FROM incoming_requests
             ) AS seen
             WHERE name = ?1 AND signature_key IS NOT NULL AND signature_key NOT IN (?2, ?3)
                AND signature_key NOT IN (SELECT signature_key FROM contacts) LIMIT 1",
        (name, own_key, key),
    )
}

/// What tells a key from others under the same name: 48 bits, so that to find another key with the
/// same is work.
fn mark_of(key: &[u8]) -> String {
    use sha2::Digest as _;
    format!("#{}", basis::hex::encode(&sha2::Sha256::digest(key)[..6]))
}

/// How the owner of a real credential is shown: a contact as this user calls it; anybody else by
/// the name that they chose, marked when that is the name of a contact or of this user, and with a
/// part of the key's hash when it is the name of yet another one.
pub(crate) fn display_name(
    db: &Connection,
    own: &ClientCredential,
    credential: &ClientCredential,
) -> Result<String, Error> {
    let key = credential.signature_public_key.as_slice();
    if let Some(name) = name_of_key(db, key)? {
        return Ok(name);
    }
    let Some(name) = handle_of(credential) else {
        return Ok(UNVERIFIED.to_owned());
    };
    let is_own = own.signature_public_key.as_slice() == key;
    let claimed = own.name.as_slice() == name.as_bytes() || by_name(db, &name).is_ok();
    if is_own {
        return Ok(name);
    }
    let namesake = has_namesake(db, &name, own.signature_public_key.as_slice(), key)?;
    let mut shown = name;
    if claimed {
        shown = format!("{shown} {UNVERIFIED}");
    }
    if namesake {
        shown = format!("{shown} {}", mark_of(key));
    }
    Ok(shown)
}

/// All contacts by name.
///
/// # Errors
/// [`Error::Local`].
pub(crate) fn contacts(db: &Connection, today: u32) -> Result<Vec<Contact>, Error> {
    rows(
        db,
        "SELECT coalesce(known_as, handle) AS name, handle, signature_key, EXISTS (SELECT 1 FROM introductions
                WHERE introductions.signature_key = contacts.signature_key AND not_after_day >= ?)
             FROM contacts ORDER BY name",
        [today],
        |row| {
            Ok(Contact {
                name: row.get(0)?,
                handle: row.get(1)?,
                user: UserId(row.get(2)?),
                reportable: row.get(3)?,
            })
        },
    )
}

/// The safety number with a contact: the same on both sides if and only if neither service gave
/// them wrong keys. To be compared over another channel.
///
/// # Errors
/// [`UsageError::UnknownContact`].
pub(crate) fn safety_number_with(
    db: &Connection,
    profile: &Profile,
    contact: &str,
) -> Result<String, Error> {
    let contact = by_name(db, contact)?;
    Ok(safety_number(
        &profile.identity.public(),
        &contact.signature_key,
    ))
}

/// What is published for contacts is not what it should be any more.
pub(crate) fn make_pools_stale(db: &Connection) -> Result<(), Error> {
    change(db, "UPDATE contacts SET pool_stale = 1", ())
}

/// When the sets of a pool are counted next.
pub(crate) fn set_pool_due_ms(
    db: &Connection,
    signature_key: &[u8],
    due_ms: i64,
) -> Result<(), Error> {
    change(
        db,
        "UPDATE contacts SET pool_due_ms = ? WHERE signature_key = ?",
        (due_ms, signature_key),
    )
}

/// Whether nothing was published in a pool yet.
pub(crate) fn pool_is_new(db: &Connection, signature_key: &[u8]) -> Result<bool, Error> {
    Ok(db
        .prepare_cached("SELECT pool_new FROM contacts WHERE signature_key = ?")?
        .query_row([signature_key], |row| row.get(0))?)
}

pub(crate) fn pool_is_stale(db: &Connection, signature_key: &[u8]) -> Result<bool, Error> {
    Ok(db
        .prepare_cached("SELECT pool_stale FROM contacts WHERE signature_key = ?")?
        .query_row([signature_key], |row| row.get(0))?)
}

/// How many new pools of a contact were filled today.
pub(crate) fn new_pools(db: &Connection, contact: &[u8], today: u32) -> Result<u32, Error> {
    let filled = value(
        db,
        "SELECT new_pools FROM contacts WHERE signature_key = ? AND new_pools_day = ?",
        (contact, today),
    )?;
    Ok(filled.unwrap_or_default())
}

/// Sets were published for a contact, in the caller's transaction.
pub(crate) fn pool_is_published(db: &Connection, contact: &[u8], today: u32) -> Result<(), Error> {
    let filled = new_pools(db, contact, today)?.saturating_add(1);
    change(
        db,
        "UPDATE contacts SET pool_new = 0, new_pools = ?, new_pools_day = ?
         WHERE signature_key = ? AND pool_new = 1",
        (filled, today, contact),
    )
}

pub(crate) fn make_pool_stale(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "UPDATE contacts SET pool_stale = 1 WHERE signature_key = ?",
        [signature_key],
    )
}

pub(crate) fn pool_is_fresh(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "UPDATE contacts SET pool_stale = 0 WHERE signature_key = ?",
        [signature_key],
    )
}

pub(crate) fn told(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "UPDATE contacts SET token_due = 0 WHERE signature_key = ?",
        [signature_key],
    )
}

/// A new pool: the contact is to be told.
pub(crate) fn begin_pool(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "UPDATE contacts SET token_due = 1, pool_new = 1 WHERE signature_key = ?",
        [signature_key],
    )
}

/// Who is to be told the token of a pool.
pub(crate) fn to_tell(db: &Connection) -> Result<Vec<Vec<u8>>, Error> {
    column(
        db,
        "SELECT signature_key FROM contacts WHERE token_due = 1",
        (),
    )
}

/// When the sets of a pool are counted next.
pub(crate) fn pool_due_ms(db: &Connection, signature_key: &[u8]) -> Result<u64, Error> {
    let due_ms: i64 = db
        .prepare_cached("SELECT pool_due_ms FROM contacts WHERE signature_key = ?")?
        .query_row([signature_key], |row| row.get(0))?;
    Ok(u64::try_from(due_ms).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    fn credential(name: &str, key: u8) -> ClientCredential {
        ClientCredential {
            name: protocol::codec::opaque(name.as_bytes()),
            signature_public_key: protocol::codec::opaque(vec![key; 32]),
        }
    }

    pub(crate) fn contact(name: &str, key: u8) -> NewContact {
        NewContact {
            credential: credential(name, key),
            connection_key: WireSecret::new([1; 32]),
            connection_token: WireSecret::new([2; 32]),
            pool: PoolKeys::fresh().unwrap(),
            given: crate::sync_message::GivenName::none(),
        }
    }

    #[test]
    fn a_contact_is_called_as_the_user_likes_and_nobody_is_taken_for_another_one() {
        let db = crate::store::database::in_memory().unwrap();
        let mut profile = crate::store::profile::tests::profile(&db);
        profile.handle = Some("me".to_owned());
        contact("alice", 1).store(&db).unwrap();
        contact("bob", 2).store(&db).unwrap();
        let call = |who: &str, name: Option<&str>| rename(&db, &profile, who, name);
        call("alice", Some("Mum ")).unwrap();
        let shown = |name: &str| by_name(&db, name).map(|it| (it.name, it.signature_key[0]));
        for name in ["Mum", "alice"] {
            assert_eq!(shown(name).unwrap(), ("Mum".to_owned(), 1));
        }
        assert_eq!(name_of_key(&db, &[1; 32]).unwrap().unwrap(), "Mum");
        let own = credential("me", 9);
        let display = |name, key| display_name(&db, &own, &credential(name, key)).unwrap();
        assert_eq!(display("alice", 1), "Mum");
        assert_eq!(display("alice", 3), "alice (unverified)");
        let names = contacts(&db, 0).unwrap().into_iter();
        let names: Vec<_> = names.map(|it| (it.name, it.handle)).collect();
        let pair = |name: &str, handle: &str| (name.to_owned(), handle.to_owned());
        assert_eq!(names, [pair("Mum", "alice"), pair("bob", "bob")]);
        // Not by another one's name or handle, the user's own, or none.
        for name in ["Mum", "alice", "me"] {
            let taken = call("bob", Some(name));
            assert!(matches!(
                taken,
                Err(Error::Usage(UsageError::AlreadyConnected(_)))
            ));
        }
        for name in ["", " ", "x\u{202e}y"] {
            let invalid = call("bob", Some(name));
            assert!(matches!(
                invalid,
                Err(Error::Usage(UsageError::InvalidContactName))
            ));
        }
        // Nobody becomes a contact under it.
        call("alice", Some("carol")).unwrap();
        let carol = contact("carol", 4).store(&db);
        assert!(matches!(
            carol,
            Err(Error::Usage(UsageError::AlreadyConnected(_)))
        ));
        call("carol", None).unwrap();
        assert_eq!(shown("alice").unwrap(), ("alice".to_owned(), 1));
        contact("carol", 4).store(&db).unwrap();
    }

    #[test]
    fn of_two_names_that_devices_give_a_contact_all_keep_the_later_one() {
        let db = || {
            let db = crate::store::database::in_memory().unwrap();
            contact("alice", 1).store(&db).unwrap();
            db
        };
        let named = |generation, name: &str| NewContact {
            given: GivenName {
                generation,
                name: opaque(name.as_bytes()),
            },
            ..contact("alice", 1)
        };
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
            let (db, said) = (
                db(),
                [
                    named(1, "Mum"),
                    named(2, "Ma"),
                    named(2, "Mama"),
                    named(0, ""),
                ],
            );
            for at in order {
                said[at].keep(&db).unwrap();
            }
            let all = all(&db).unwrap();
            assert_eq!(all[0].given, named(2, "Mama").given);
            assert_eq!(name_of_key(&db, &[1; 32]).unwrap().unwrap(), "Mama");
            // By the handle again, later.
            named(3, "").keep(&db).unwrap();
            assert_eq!(name_of_key(&db, &[1; 32]).unwrap().unwrap(), "alice");
            // What another contact is called is passed over.
            contact("bob", 2).store(&db).unwrap();
            named(4, "bob").keep(&db).unwrap();
            assert_eq!(by_name(&db, "bob").unwrap().signature_key, [2; 32]);
            assert_eq!(name_of_key(&db, &[1; 32]).unwrap().unwrap(), "alice");
        }
    }

    #[test]
    fn a_handle_stays_with_the_key_that_had_it_first() {
        let db = crate::store::database::in_memory().unwrap();
        contact("alice", 1).store(&db).unwrap();
        contact("alice", 1).store(&db).unwrap();
        let impostor = contact("alice", 2).store(&db);
        assert!(matches!(
            impostor,
            Err(Error::Usage(UsageError::AlreadyConnected(_)))
        ));
        assert_eq!(by_name(&db, "alice").unwrap().signature_key, [1; 32]);
        assert!(by_name(&db, "bob").is_err());
        // What a contact calls itself when it asks again changes no name.
        assert_eq!(contact("bob", 1).store(&db).unwrap(), "alice");
        assert!(by_name(&db, "bob").is_err());
        assert_eq!(contact("bob", 3).store(&db).unwrap(), "bob");
    }

    #[test]
    fn what_another_device_says_of_a_pool_lowers_none_and_all_keep_the_same_of_two() {
        let [one, other] = [1, 2].map(|_| crate::store::database::in_memory().unwrap());
        let pool = |db: &Connection| {
            let pool = pools(db).unwrap().remove(0).1;
            (pool.generation, *pool.token.expose())
        };
        let say = |from: &Connection, to: &Connection| {
            all(from).unwrap().remove(0).keep(to).unwrap();
        };
        contact("alice", 1).store(&one).unwrap();
        let former = all(&one).unwrap().remove(0);
        say(&one, &other);
        assert_eq!(pool(&one), pool(&other));
        // Each makes one at the same time, and hears of the other's.
        contact("alice", 1).store(&one).unwrap();
        contact("alice", 1).store(&other).unwrap();
        let later = pool(&one).max(pool(&other));
        say(&one, &other);
        say(&other, &one);
        assert_eq!((pool(&one), pool(&other)), (later, later));
        former.keep(&one).unwrap();
        assert_eq!(pool(&one), later);
    }

    #[test]
    fn nobody_is_shown_under_the_name_of_a_contact_or_of_oneself() {
        let db = crate::store::database::in_memory().unwrap();
        contact("alice", 1).store(&db).unwrap();
        let own = credential("bob", 9);
        let shown = |name, key| display_name(&db, &own, &credential(name, key)).unwrap();
        assert_eq!(shown("alice", 1), "alice");
        assert_eq!(shown("alice", 2), "alice (unverified)");
        assert_eq!(shown("carol", 3), "carol");
        assert_eq!(shown("bob", 9), "bob");
        assert_eq!(shown("bob", 8), "bob (unverified)");
        assert_eq!(shown("Not A Handle", 4), "(unverified)");
    }

    #[test]
    fn two_people_of_one_name_are_told_apart_wherever_they_are_shown() {
        let db = crate::store::database::in_memory().unwrap();
        contact("alice", 1).store(&db).unwrap();
        crate::store::groups::tests::group(7, "team")
            .insert(&db)
            .unwrap();
        let own = credential("bob", 9);
        let shown = |name, key| display_name(&db, &own, &credential(name, key)).unwrap();
        let seen = |name: &str, key: u8| {
            db.execute(
                "INSERT INTO identities (group_id, credential, user_pseudonym, name, signature_key)
                 VALUES (?, ?, x'', ?, ?)",
                ([7u8; 16], [key; 32], name, [key; 32]),
            )
            .unwrap();
        };
        seen("carol", 3);
        seen("alice", 1);
        assert_eq!(shown("carol", 3), "carol");
        seen("carol", 4);
        let (one, other) = (shown("carol", 3), shown("carol", 4));
        assert!(
            one.starts_with("carol #") && other.starts_with("carol #"),
            "{one} {other}"
        );
        assert_ne!(one, other);
        // Impostors of a contact too; the contact stays who it is.
        seen("alice", 5);
        assert_eq!(shown("alice", 5), "alice (unverified)");
        seen("alice", 6);
        assert_ne!(shown("alice", 5), shown("alice", 6));
        assert_eq!(shown("alice", 1), "alice");
        assert_eq!(shown("bob", 9), "bob");
    }
}
