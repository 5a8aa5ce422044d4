//! Linking a device.
//!
//! The new device registers a handle that nobody can guess, for one request, and shows a code: that
//! handle, the hash of an HPKE key, a secret. The other device looks the handle up, as before any
//! connection request, and holds the key in its record against the hash: the key itself would make
//! the code twenty times as long. It sends what makes the new one a device of its user as a
//! connection request to that handle: for the service it is one like any other. Both ways the users
//! compare a number: the first shows that the code is the one that the new device showed, the
//! second that the package is the one that the other device sent.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto::connection::sign_handle_record;
use crypto::hpke::{self, HpkeKeyPair};
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::connections::ClientCredential;
use protocol::group::{Accepted, GroupKind};
use protocol::ids::InboxId;
use protocol::inbox::{DeleteHandleRequest, REQUEST_SIZE, RegisterHandleRequest};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::flows::devices::invitations;
use crate::flows::handles::{expiry, inbox_owner};
use crate::store::link::{self, Waiting, waiting};
use crate::store::profile::UserKeys;
use crate::store::{Group, Profile, profile, ways};
use crate::sync_message::{MAX_DEVICE_NAME, WayIn};
use crate::text;

const VERSION: u8 = 1;
/// How often the inbox of an open link code is looked at.
const LOOK_MS: u32 = 1_000;
const INFO: &str = "MIMIMI 1.0 device link";

/// What the new device shows.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct DeviceLinkCode {
    /// [`VERSION`].
    version: u8,
    /// The random part of the handle.
    handle: [u8; 16],
    /// SHA-256 of the key in the handle's record.
    key_hash: [u8; 32],
    /// Bound into the package, so that nobody who learned the key alone can send one.
    secret: [u8; 16],
}

/// What makes a client a device of a user. The groups follow through the devices' own one.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct LinkPackage {
    /// [`PACKAGE_VERSION`].
    version: u16,
    /// The user's.
    handle: VLBytes,
    /// Of the real credential's key.
    identity_seed: WireSecret,
    /// Of the HPKE key in the handle's record.
    establishment_seed: WireSecret,
    connection_key: WireSecret,
    /// Of the key that owns the handle.
    handle_owner_seed: WireSecret,
    /// The way into the group of the user's devices.
    devices_group: WayIn,
}

const PACKAGE_VERSION: u16 = 1;

/// A link code and the number to compare.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LinkCode {
    /// For the other device.
    pub code: String,
    /// The other device must be told this number too: from this device's screen, not from where the
    /// code came.
    pub number: String,
}

/// Twenty digits: too many for somebody to find another code or package with the same.
fn number(label: &str, parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    hash.update(label);
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let mut groups = Vec::with_capacity(4);
    for chunk in hash.finalize().chunks_exact(8).take(4) {
        let value = chunk
            .iter()
            .fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
        groups.push(format!("{:05}", value % 100_000));
    }
    groups.join(" ")
}

fn same_number(typed: &str, shown: &str) -> bool {
    let digits = |text: &str| -> String { text.chars().filter(|it| !it.is_whitespace()).collect() };
    digits(typed) == digits(shown)
}

fn handle_of(code: &DeviceLinkCode) -> String {
    format!("link-{}", basis::hex::encode(&code.handle))
}

fn decode(text: &str) -> Result<(DeviceLinkCode, Vec<u8>), Error> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text.trim())
        .map_err(|_| UsageError::InvalidLinkCode)?;
    let code = DeviceLinkCode::decode(&bytes).map_err(|_| UsageError::InvalidLinkCode)?;
    if code.version != VERSION {
        return Err(UsageError::InvalidLinkCode.into());
    }
    Ok((code, bytes))
}

fn open(waiting: &Waiting, sealed: &[u8]) -> Option<LinkPackage> {
    let code = DeviceLinkCode::decode(&waiting.code).ok()?;
    let opened = hpke::open_padded(&waiting.key, INFO, &code.secret, sealed).ok()?;
    LinkPackage::decode(&opened)
        .ok()
        .filter(|package| package.version == PACKAGE_VERSION)
}

/// Keeps what came to the handle of the link code, in the caller's transaction; says whether it was
/// such.
pub(crate) fn keep_package(db: &Connection, sealed: &[u8]) -> Result<bool, Error> {
    let Some(waiting) = waiting(db)? else {
        return Ok(false);
    };
    if open(&waiting, sealed).is_none() {
        return Ok(false);
    }
    link::keep_package(db, sealed)?;
    Ok(true)
}

impl Engine {
    /// On a new device, without a handle of its own: shows the code that links it to a user.
    ///
    /// # Errors
    /// [`UsageError::AlreadyInUse`] for a client that is somebody already.
    pub(crate) async fn link_code(&mut self, name: &str) -> Result<LinkCode, Error> {
        let _held = self.hold().await?;
        let name = text::chosen(name, MAX_DEVICE_NAME).ok_or(UsageError::InvalidDeviceName)?;
        if self.profile.handle.is_some() {
            return Err(UsageError::AlreadyInUse.into());
        }
        if let Some(former) = waiting(&self.db)? {
            self.delete_link_handle(&former).await?;
        }
        let (seed, owner_seed) = (Secret::<32>::random()?, Secret::<32>::random()?);
        let key = HpkeKeyPair::from_seed(&seed)?;
        let owner = SignatureKeyPair::from_seed(&owner_seed);
        let code = DeviceLinkCode {
            version: VERSION,
            handle: crypto::random()?,
            key_hash: Sha256::digest(key.public()).into(),
            secret: crypto::random()?,
        };
        let handle = handle_of(&code);
        let (inbox, inbox_seed) = (InboxId(crypto::random()?), Secret::<32>::random()?);
        let credential = ClientCredential {
            name: opaque(handle.as_bytes()),
            signature_public_key: opaque(owner.public()),
        };
        let record = sign_handle_record(handle.as_bytes(), &credential, &owner, key.public());
        let request = RegisterHandleRequest {
            handle: opaque(handle.as_bytes()),
            record: opaque(record.encode()),
            inbox,
            inbox_owner: inbox_owner(&SignatureKeyPair::from_seed(&inbox_seed))?,
            expiry: expiry(self.transport.time.now_unix_ms()),
        };
        let bytes = code.encode();
        self.transact(|db, _| {
            link::begin(db, &bytes, [&seed, &owner_seed], (&inbox, &inbox_seed))?;
            profile::set_device_name(db, &name)
        })?;
        self.profile = Profile::read(&self.db)?;
        let _: Accepted = self
            .call(Operation::RegisterHandle, owner, &request)
            .await?;
        Ok(LinkCode {
            code: URL_SAFE_NO_PAD.encode(&bytes),
            number: number("link code", &[&bytes]),
        })
    }

    /// On a device of the user: links the new device that shows this code and this number. Returns
    /// the number that the new device must be told.
    ///
    /// # Errors
    /// [`UsageError::InvalidLinkCode`], [`UsageError::NumbersDiffer`], [`PeerError::HandleRecord`]
    /// for another key than the one that the code names: nothing was sent then.
    pub(crate) async fn approve_link(&mut self, code: &str, shown: &str) -> Result<String, Error> {
        let _held = self.hold().await?;
        let credential = self.profile.credential()?;
        let (code, bytes) = decode(code)?;
        if !same_number(shown, &number("link code", &[&bytes])) {
            return Err(UsageError::NumbersDiffer.into());
        }
        self.sync().await?;
        let key = self.key_of(&code).await?;
        let group = self.ensure_devices_group().await?;
        let now_ms = self.transport.time.now_unix_ms();
        let profile = &self.profile;
        let package = LinkPackage {
            version: PACKAGE_VERSION,
            handle: credential.name,
            identity_seed: WireSecret::new(*profile.identity.seed().expose()),
            establishment_seed: WireSecret::new(*profile.establishment_seed.expose()),
            connection_key: profile.connection_key.to_wire(),
            handle_owner_seed: WireSecret::new(*profile.handle_owner.seed().expose()),
            devices_group: invitations::way_into(&self.db, &group, now_ms)?,
        };
        let encoded = Zeroizing::new(package.encode());
        let sealed = hpke::seal_in(REQUEST_SIZE, &key, INFO, &code.secret, &encoded)
            .map_err(|_| PeerError::HandleRecord)?;
        let comparison = number("link package", &[&bytes, &sealed]);
        let sent = self.put_into_inbox(&handle_of(&code), sealed, 0).await;
        match sent {
            Err(error) if error.problem() == Some(ProblemType::UnknownHandle) => {
                Err(UsageError::InvalidLinkCode.into())
            }
            other => other.map(|()| comparison),
        }
    }

    /// The key that the new device has registered with its handle.
    async fn key_of(&mut self, code: &DeviceLinkCode) -> Result<Vec<u8>, Error> {
        let record = match self.look_up(&handle_of(code)).await {
            Err(error) if error.problem() == Some(ProblemType::UnknownHandle) => {
                return Err(UsageError::InvalidLinkCode.into());
            }
            found => found?.0,
        };
        let key = record.connection_establishment_key.as_slice();
        if Sha256::digest(key).as_slice() != code.key_hash {
            return Err(PeerError::HandleRecord.into());
        }
        Ok(key.to_vec())
    }

    async fn ensure_devices_group(&mut self) -> Result<Group, Error> {
        if let Some(group) = self.devices_group()? {
            return Ok(group);
        }
        let id = self.new_group(GroupKind::SingleUser, None).await?;
        profile::set_device_group(&self.db, &id)?;
        self.profile.device_group = Some(id);
        Group::read(&self.db, &id)
    }

    /// On the new device: becomes what the other device has sent, if it is what it showed the
    /// number of. Waits up to `wait_ms` for it. Returns the user's handle.
    ///
    /// # Errors
    /// [`UsageError::NotLinking`] without a code or a package; [`UsageError::NumbersDiffer`].
    pub(crate) async fn complete_link(
        &mut self,
        shown: &str,
        wait_ms: u32,
    ) -> Result<String, Error> {
        let mut left = wait_ms;
        loop {
            let held = self.hold().await?;
            if let Some(waiting) = waiting(&self.db)? {
                self.read_inbox(waiting.inbox, &waiting.inbox_owner).await?;
            }
            drop(held);
            if left == 0 || waiting(&self.db)?.is_none_or(|waiting| waiting.package.is_some()) {
                break;
            }
            let wait = left.min(LOOK_MS);
            crate::runtime::sleep(std::time::Duration::from_millis(wait.into())).await;
            left = left.saturating_sub(wait);
        }
        let _held = self.hold().await?;
        let waiting = waiting(&self.db)?.ok_or(UsageError::NotLinking)?;
        let sealed = waiting.package.as_deref().ok_or(UsageError::NotLinking)?;
        if !same_number(shown, &number("link package", &[&waiting.code, sealed])) {
            return Err(UsageError::NumbersDiffer.into());
        }
        let package = open(&waiting, sealed).ok_or(UsageError::NotLinking)?;
        let handle = String::from_utf8(package.handle.as_slice().to_vec())
            .map_err(|_| UsageError::NotLinking)?;
        self.delete_link_handle(&waiting).await?;
        self.transact(|db, _| install(db, &handle, &package))?;
        self.profile = Profile::read(&self.db)?;
        self.sync().await?;
        Ok(handle)
    }

    async fn delete_link_handle(&mut self, waiting: &Waiting) -> Result<(), Error> {
        let code = DeviceLinkCode::decode(&waiting.code).map_err(|_| LocalError::Damaged)?;
        let request = DeleteHandleRequest {
            handle: opaque(handle_of(&code).into_bytes()),
        };
        let owner = SignatureKeyPair::from_seed(&waiting.owner.seed());
        let deleted: Result<Accepted, Error> =
            self.call(Operation::DeleteHandle, owner, &request).await;
        match deleted {
            Err(error) if error.problem() != Some(ProblemType::UnknownHandle) => Err(error),
            _ => Ok(()),
        }
    }
}

fn install(db: &Connection, handle: &str, package: &LinkPackage) -> Result<(), Error> {
    let group = &package.devices_group;
    let keys = UserKeys {
        identity_seed: &package.identity_seed,
        establishment_seed: &package.establishment_seed,
        connection_key: &package.connection_key,
        handle_owner_seed: &package.handle_owner_seed,
    };
    profile::become_user(db, Some(handle), &keys, Some(&group.link.group_id))?;
    link::forget(db)?;
    ways::keep(db, group)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A code, a package, and the numbers to compare.
    pub(crate) fn sample(way: WayIn) -> (Vec<u8>, Vec<u8>, [String; 2]) {
        let code = DeviceLinkCode {
            version: VERSION,
            handle: [1; 16],
            key_hash: [2; 32],
            secret: [3; 16],
        };
        let secret = |byte| WireSecret::new([byte; 32]);
        let package = LinkPackage {
            version: PACKAGE_VERSION,
            handle: opaque(*b"alice"),
            identity_seed: secret(4),
            establishment_seed: secret(5),
            connection_key: secret(6),
            handle_owner_seed: secret(7),
            devices_group: way,
        };
        let code = code.encode();
        let numbers = [
            number("link code", &[&code]),
            number("link package", &[&code, b"the sealed package"]),
        ];
        (code, package.encode(), numbers)
    }

    proptest! {
        #[test]
        fn a_code_is_read_as_it_was_shown(handle: [u8; 16], key_hash: [u8; 32], secret: [u8; 16]) {
            let code = DeviceLinkCode { version: VERSION, handle, key_hash, secret };
            let text = URL_SAFE_NO_PAD.encode(code.encode());
            prop_assert_eq!(decode(&text).unwrap().0, code);
            prop_assert!(protocol::connections::is_valid_handle(
                handle_of(&decode(&text).unwrap().0).as_bytes()
            ));
        }

        #[test]
        fn arbitrary_text_is_no_code(text in "[A-Za-z0-9_-]{0,86}") {
            prop_assert!(decode(&text).is_err());
        }
    }

    #[test]
    fn numbers_tell_codes_and_packages_apart_and_may_be_typed_with_spaces_or_without() {
        let shown = number("link code", &[b"a"]);
        assert_eq!(shown.len(), 23);
        assert_ne!(shown, number("link code", &[b"b"]));
        assert_ne!(shown, number("link package", &[b"a"]));
        assert_ne!(number("x", &[b"ab", b"c"]), number("x", &[b"a", b"bc"]));
        assert!(same_number(&shown.replace(' ', ""), &shown));
        assert!(!same_number("", &shown));
    }
}
