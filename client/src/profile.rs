//! Who this client is: its long-lived keys and the addresses of its services.

use crypto::hpke::HpkeKeyPair;
use crypto::keys::ConnectionKey;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::ids::{GroupId, InboxId};
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use crate::database::key32;
use crate::devices::DeviceId;
use crate::error::{Error, LocalError, UsageError};
use crate::trust;
use crate::views::Views;

/// The addresses of the services, as `stack.json` has them. Members that are not listed are
/// ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Where `message/ohttp-req` is posted.
    pub relay: String,
    /// The gateway; never contacted by a client.
    pub gateway: String,
    /// Where the gateway's key configurations are fetched from.
    pub ohttp_keys: String,
    /// Where else they are shown, by somebody who is not the relay's operator; asked before a new
    /// key is used. Each must answer.
    #[serde(default)]
    pub ohttp_key_mirrors: Vec<String>,
    /// The delivery service, as the gateway knows it; reached through relay and gateway only.
    pub ds: String,
    /// The token issuer; reached directly, since it knows the account anyway.
    pub issuer: String,
    /// The issuer's name in token challenges (RFC 9577 §2.1.1). Without it: host and port of
    /// `issuer`.
    #[serde(default)]
    pub issuer_name: Option<String>,
    /// The origin that tokens are for. Without it: host and port of `ds`.
    #[serde(default)]
    pub token_origin: Option<String>,
    /// The authorities, in PEM, that the certificates of relay, mirrors and issuer must be from,
    /// instead of those of the web. See [`Endpoints::trust`].
    #[serde(default)]
    pub authorities: Option<String>,
}

impl Endpoints {
    /// Reads the content of a `stack.json`.
    ///
    /// # Errors
    /// [`UsageError::InvalidStack`].
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let endpoints: Self = serde_json::from_slice(json).map_err(|_| {
            UsageError::InvalidStack("relay, gateway, ohttp_keys, ds and issuer are needed")
        })?;
        endpoints.ds_origin()?;
        let mirrors = endpoints.ohttp_key_mirrors.iter();
        for url in [&endpoints.relay, &endpoints.ohttp_keys, &endpoints.issuer]
            .into_iter()
            .chain(mirrors)
        {
            url.parse::<http::Uri>()
                .ok()
                .filter(|uri| uri.authority().is_some())
                .ok_or(UsageError::InvalidStack("an address is not a URL"))?;
        }
        for name in [endpoints.issuer_name(), endpoints.token_origin()] {
            let is_name = name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b',');
            if name.is_empty() || name.len() > LONGEST_NAME || !is_name {
                return Err(UsageError::InvalidStack(
                    "issuer_name and token_origin are visible ASCII without commas",
                )
                .into());
            }
        }
        Ok(endpoints)
    }

    pub(crate) fn issuer_name(&self) -> String {
        self.issuer_name
            .clone()
            .unwrap_or_else(|| authority(&self.issuer))
    }

    pub(crate) fn token_origin(&self) -> String {
        self.token_origin
            .clone()
            .unwrap_or_else(|| authority(&self.ds))
    }

    /// Has only certificates from these authorities taken, PEM; `origin` says where they are from.
    ///
    /// # Errors
    /// [`LocalError::Authorities`]: there is none, or something else.
    pub fn trust(&mut self, pem: &[u8], origin: &str) -> Result<(), Error> {
        let unusable = || LocalError::Authorities(origin.to_owned());
        let text = String::from_utf8(pem.to_vec()).map_err(|_| unusable())?;
        trust::certificates(text.as_bytes()).map_err(|_| unusable())?;
        self.authorities = Some(text);
        Ok(())
    }

    /// Scheme and authority of the delivery service, for the inner requests.
    pub(crate) fn ds_origin(&self) -> Result<(String, String), Error> {
        let uri: http::Uri = self
            .ds
            .parse()
            .map_err(|_| UsageError::InvalidStack("ds is not a URL"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some(scheme), Some(authority)) => Ok((scheme.to_owned(), authority.to_string())),
            _ => Err(UsageError::InvalidStack("ds is not a URL").into()),
        }
    }
}

const LONGEST_NAME: usize = 255;

/// Host and port of a URL.
fn authority(url: &str) -> String {
    let uri = url.parse::<http::Uri>().ok();
    uri.and_then(|uri| Some(uri.authority()?.to_string()))
        .unwrap_or_default()
}

/// The profile row.
pub(crate) struct Profile {
    pub(crate) endpoints: Endpoints,
    pub(crate) account_token: zeroize::Zeroizing<String>,
    /// The user's real key: what contacts compare.
    pub(crate) identity: SignatureKeyPair,
    pub(crate) establishment: HpkeKeyPair,
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
        db.execute(
            "INSERT INTO profile (id, endpoints, account_token, identity_seed, establishment_seed,
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
        )?;
        Ok(())
    }

    /// The row.
    pub(crate) fn read(db: &Connection) -> Result<Self, Error> {
        let row = db
            .query_row(
                "SELECT endpoints, account_token, identity_seed, establishment_seed, connection_key,
                    handle_owner_seed, inbox_owner_seed, inbox_id, handle, clock_offset_ms, ohttp_key_config, device_id,
                    device_name, device_group, views FROM profile",
                (),
                |row| {
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
                    ))
                },
            )
            .optional()?
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
        let hpke = |index| Ok::<_, Error>(HpkeKeyPair::from_seed(&Secret::new(key(index)?))?);
        Ok(Self {
            endpoints: serde_json::from_str(&endpoints).map_err(|_| LocalError::Damaged)?,
            account_token: zeroize::Zeroizing::new(account_token),
            identity: signature(0)?,
            establishment: hpke(1)?,
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
        }
    }

    #[test]
    fn keys_are_made_once_and_a_second_init_changes_addresses_and_account_only() {
        let db = crate::database::in_memory().unwrap();
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
