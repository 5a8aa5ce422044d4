//! Who this client is: its long-lived keys and the addresses of its services.

use crypto::hpke::HpkeKeyPair;
use crypto::keys::ConnectionKey;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::codec::WireSecret;
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::ids::{GroupId, InboxId};
use rusqlite::Connection;

use crate::endpoints::Endpoints;
use crate::error::{Error, LocalError, UsageError};
use crate::store::database::{change, first, key32};
use crate::sync_message::DeviceId;
use crate::views::Views;

/// The profile row.
pub(crate) struct Profile {
    pub(crate) endpoints: Endpoints,
    pub(crate) account_token: zeroize::Zeroizing<String>,
    /// The user's real key: what contacts compare.
    pub(crate) identity: SignatureKeyPair,
    /// Of the key that connection requests are sealed to.
    pub(crate) establishment_seed: Secret<32>,
    pub(crate) connection_key: ConnectionKey,
    pub(crate) handle_owner: SignatureKeyPair,
    /// Reads the inbox of the handle.
    pub(crate) inbox_owner: SignatureKeyPair,
    pub(crate) inbox: InboxId,
    pub(crate) handle: Option<String>,
    /// Names this device among the user's.
    pub(crate) device: DeviceId,
    pub(crate) device_name: String,
    /// The group of the user's devices.
    pub(crate) device_group: Option<GroupId>,
    pub(crate) clock_offset_ms: i64,
    pub(crate) ohttp_key_config: Option<Vec<u8>>,
    pub(crate) views: Views,
    /// Whether this client takes groups with X-Wing.
    pub(crate) takes_post_quantum: bool,
}

impl Profile {
    /// Makes the row with fresh keys; or, when it is there, changes what may change: the addresses
    /// and the account token.
    pub(crate) fn write(
        db: &Connection,
        endpoints: &Endpoints,
        account_token: &str,
    ) -> Result<(), Error> {
        let endpoints = serde_json::to_string(endpoints).map_err(|_| LocalError::Damaged)?;
        let seed = Secret::<32>::random;
        change(db, "INSERT INTO profile (id, endpoints, account_token, identity_seed, establishment_seed,
                connection_key, handle_owner_seed, inbox_owner_seed, inbox_id, device_id, device_name)
             VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'first')
             ON CONFLICT (id) DO UPDATE SET endpoints = excluded.endpoints,
                account_token = excluded.account_token, ohttp_key_config = NULL, directory = NULL,
                directory_heard = NULL, views = NULL",
            (
                endpoints,
                account_token,
                seed()?.expose(),
                seed()?.expose(),
                seed()?.expose(),
                seed()?.expose(),
                seed()?.expose(),
                seed()?.expose(),
                crypto::random::<16>()?,
            ),
        )
    }

    /// What connection requests are opened with. It is derived where it is needed: that takes
    /// longer than all else that is read here.
    pub(crate) fn establishment(&self) -> Result<HpkeKeyPair, Error> {
        Ok(HpkeKeyPair::from_seed(&self.establishment_seed)?)
    }

    /// The row.
    pub(crate) fn read(db: &Connection) -> Result<Self, Error> {
        let row = first(db, "SELECT endpoints, account_token, identity_seed, establishment_seed, connection_key,
                    handle_owner_seed, inbox_owner_seed, inbox_id, handle, clock_offset_ms, ohttp_key_config, device_id,
                    device_name, device_group, views, takes_post_quantum FROM profile", (), |row| {
                    let mut keys = Vec::with_capacity(5);
                    for column in 2..7 {
                        keys.push(zeroize::Zeroizing::new(row.get::<_, Vec<u8>>(column)?));
                    }
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        keys,
                        InboxId(row.get(7)?),
                        row.get(8)?,
                        row.get(9)?,
                        row.get(10)?,
                        DeviceId(row.get(11)?),
                        row.get(12)?,
                        row.get::<_, Option<[u8; 16]>>(13)?.map(GroupId),
                        row.get::<_, Option<String>>(14)?,
                        row.get(15)?,
                    ))
                })?
            .ok_or(UsageError::NotInitialised)?;
        let (
            endpoints,
            account_token,
            keys,
            inbox,
            handle,
            clock_offset_ms,
            ohttp_key_config,
            device,
            device_name,
            device_group,
            views,
            takes_post_quantum,
        ) = row;
        let key = |index: usize| {
            key32(
                keys.get(index)
                    .map(|key| key.as_slice())
                    .unwrap_or_default(),
            )
        };
        let signature =
            |index| Ok::<_, Error>(SignatureKeyPair::from_seed(&Secret::new(key(index)?)));
        Ok(Self {
            endpoints: serde_json::from_str(&endpoints).map_err(|_| LocalError::Damaged)?,
            account_token: zeroize::Zeroizing::new(account_token),
            identity: signature(0)?,
            establishment_seed: Secret::new(key(1)?),
            connection_key: ConnectionKey::new(key(2)?),
            handle_owner: signature(3)?,
            inbox_owner: signature(4)?,
            inbox,
            handle,
            device,
            device_name,
            device_group,
            clock_offset_ms,
            ohttp_key_config,
            views: views
                .map(|views| serde_json::from_str(&views).map_err(|_| LocalError::Damaged))
                .transpose()?
                .unwrap_or_default(),
            takes_post_quantum,
        })
    }

    /// The real credential. Its name is the handle, so there is none before.
    pub(crate) fn credential(&self) -> Result<ClientCredential, Error> {
        let handle = self.handle.as_ref().ok_or(UsageError::NoHandle)?;
        Ok(self.credential_for(handle))
    }

    /// The real credential under a handle that is about to be registered.
    pub(crate) fn credential_for(&self, handle: &str) -> ClientCredential {
        ClientCredential {
            name: opaque(handle.as_bytes()),
            signature_public_key: opaque(self.identity.public()),
        }
    }
}

/// New keys of the handle.
pub(crate) fn set_handle_keys(
    db: &Connection,
    owner: &[u8; 32],
    establishment: &[u8; 32],
) -> Result<(), Error> {
    change(
        db,
        "UPDATE profile SET handle_owner_seed = ?, establishment_seed = ?",
        (owner, establishment),
    )
}

/// No removed device knows the keys of the handle.
pub(crate) fn handle_keys_are_new(db: &Connection) -> Result<(), Error> {
    change(db, "UPDATE profile SET keys_due = keys_due & ~2", ())
}

/// No removed device knows the connection tokens.
pub(crate) fn tokens_are_new(db: &Connection) -> Result<(), Error> {
    change(db, "UPDATE profile SET keys_due = keys_due & ~1", ())
}

/// What removed devices still know.
pub(crate) fn set_keys_due(db: &Connection, keys: u8) -> Result<(), Error> {
    change(db, "UPDATE profile SET keys_due = ?", [keys])
}

pub(crate) fn set_handle(db: &Connection, handle: Option<&str>) -> Result<(), Error> {
    change(db, "UPDATE profile SET handle = ?", [handle])
}

/// When the record of the handle is renewed; 0 before that was drawn.
pub(crate) fn handle_due_ms(db: &Connection) -> Result<i64, Error> {
    Ok(db
        .prepare_cached("SELECT handle_due_ms FROM profile")?
        .query_row((), |row| row.get(0))?)
}

pub(crate) fn set_handle_due_ms(db: &Connection, due_ms: i64) -> Result<(), Error> {
    change(db, "UPDATE profile SET handle_due_ms = ?", [due_ms])
}

/// When the inbox is looked at next.
pub(crate) fn inbox_due_ms(db: &Connection) -> Result<i64, Error> {
    Ok(db
        .prepare_cached("SELECT inbox_due_ms FROM profile")?
        .query_row((), |row| row.get(0))?)
}

pub(crate) fn set_inbox_due_ms(db: &Connection, due_ms: i64) -> Result<(), Error> {
    change(db, "UPDATE profile SET inbox_due_ms = ?", [due_ms])
}

/// The service's directory, as it was last agreed on.
pub(crate) fn directory(db: &Connection) -> Result<Option<String>, Error> {
    Ok(db
        .prepare_cached("SELECT directory FROM profile")?
        .query_row((), |row| row.get(0))?)
}

pub(crate) fn set_directory(db: &Connection, directory: &str) -> Result<(), Error> {
    change(db, "UPDATE profile SET directory = ?", [directory])
}

/// The service's directory, as it was heard and not agreed on.
pub(crate) fn set_directory_heard(db: &Connection, directory: &str) -> Result<(), Error> {
    change(db, "UPDATE profile SET directory_heard = ?", [directory])
}

pub(crate) fn set_device_name(db: &Connection, name: &str) -> Result<(), Error> {
    change(db, "UPDATE profile SET device_name = ?", [name])
}

pub(crate) fn set_device_group(db: &Connection, group: &GroupId) -> Result<(), Error> {
    change(db, "UPDATE profile SET device_group = ?", [group.0])
}

/// Whether this client takes groups with X-Wing from now on.
pub(crate) fn set_takes_post_quantum(db: &Connection, takes: bool) -> Result<(), Error> {
    change(db, "UPDATE profile SET takes_post_quantum = ?", [takes])
}

/// What operators have shown.
pub(crate) fn set_views(db: &Connection, views: &str) -> Result<(), Error> {
    change(db, "UPDATE profile SET views = ?", [views])
}

/// The gateway's keys and the service's time.
pub(crate) fn set_transport(
    db: &Connection,
    key_config: Option<&[u8]>,
    clock_offset_ms: i64,
) -> Result<(), Error> {
    change(
        db,
        "UPDATE profile SET ohttp_key_config = ?, clock_offset_ms = ?",
        (key_config, clock_offset_ms),
    )
}

/// What all devices of a user have.
pub(crate) struct UserKeys<'a> {
    pub(crate) identity_seed: &'a WireSecret,
    pub(crate) establishment_seed: &'a WireSecret,
    pub(crate) connection_key: &'a WireSecret,
    pub(crate) handle_owner_seed: &'a WireSecret,
}

/// This client is one of a user who is there already, in the caller's transaction.
pub(crate) fn become_user(
    db: &Connection,
    handle: Option<&str>,
    keys: &UserKeys<'_>,
    device_group: Option<&GroupId>,
) -> Result<(), Error> {
    change(
        db,
        "UPDATE profile SET handle = ?, identity_seed = ?, establishment_seed = ?,
            connection_key = ?, handle_owner_seed = ?, device_group = ?",
        (
            handle,
            keys.identity_seed.expose(),
            keys.establishment_seed.expose(),
            keys.connection_key.expose(),
            keys.handle_owner_seed.expose(),
            device_group.map(|group| group.0),
        ),
    )
}

/// The directory that all views agreed on, and the one that was last heard.
pub(crate) fn directories(db: &Connection) -> Result<[Option<String>; 2], Error> {
    Ok(db
        .prepare_cached("SELECT directory, directory_heard FROM profile")?
        .query_row((), |row| Ok([row.get(0)?, row.get(1)?]))?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn profile(db: &Connection) -> Profile {
        Profile::write(db, &endpoints("http://ds:3"), "token").unwrap();
        Profile::read(db).unwrap()
    }

    pub(crate) fn endpoints(ds: &str) -> Endpoints {
        Endpoints {
            relay: "http://127.0.0.1:1/".into(),
            gateway: "http://127.0.0.1:2".into(),
            ohttp_keys: "http://127.0.0.1:1/ohttp-keys".into(),
            ohttp_key_mirrors: Vec::new(),
            ds: ds.into(),
            issuer: "http://127.0.0.1:4".into(),
            issuer_name: None,
            token_origin: None,
            authorities: None,
            push: None,
            operators: crate::endpoints::tests::operators(),
        }
    }

    #[test]
    fn keys_are_made_once_and_a_second_init_changes_addresses_and_account_only() {
        let db = crate::store::database::in_memory().unwrap();
        assert!(matches!(
            Profile::read(&db),
            Err(Error::Usage(UsageError::NotInitialised))
        ));
        Profile::write(&db, &endpoints("http://ds:3"), "one").unwrap();
        let first = Profile::read(&db).unwrap();
        Profile::write(&db, &endpoints("http://ds:4"), "two").unwrap();
        let second = Profile::read(&db).unwrap();
        assert_eq!(first.identity.public(), second.identity.public());
        assert_eq!(first.inbox, second.inbox);
        assert_ne!(first.identity.public(), first.handle_owner.public());
        assert_eq!(second.account_token.as_str(), "two");
        assert_eq!(
            second.endpoints.ds_origin().unwrap(),
            ("http".into(), "ds:4".into())
        );
    }

    #[test]
    fn a_stack_file_may_say_more_but_not_less() {
        let mut json = serde_json::to_value(endpoints("http://ds:3")).unwrap();
        json["pids"] = serde_json::json!({});
        assert!(Endpoints::from_json(json.to_string().as_bytes()).is_ok());
        let names = |json: &serde_json::Value| {
            let endpoints = Endpoints::from_json(json.to_string().as_bytes()).ok()?;
            Some((endpoints.issuer_name(), endpoints.token_origin()))
        };
        assert_eq!(names(&json), Some(("127.0.0.1:4".into(), "ds:3".into())));
        json["issuer_name"] = "issuer.example".into();
        json["token_origin"] = "ds.example".into();
        assert_eq!(
            names(&json),
            Some(("issuer.example".into(), "ds.example".into()))
        );
        json["token_origin"] = "ds.example,for.you".into();
        assert_eq!(names(&json), None);
        json["token_origin"] = "ds.example".into();
        json["ds"] = "nowhere".into();
        assert!(Endpoints::from_json(json.to_string().as_bytes()).is_err());
        assert!(Endpoints::from_json(b"{}").is_err());
    }
}
