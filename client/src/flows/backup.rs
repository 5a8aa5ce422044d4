//! Encrypted backups.
//!
//! ```text
//! backup = "mimimi backup" || version(1) || kdf(1) || salt(16) || sealed (crypto::sealing)
//! kdf = 1: key = Argon2id(passphrase, salt, 64 MiB, 3 passes, 1 lane)
//!       2: key = kdf::derive(recovery key, "backup", salt)
//! ```
//!
//! A backup has what makes the user and what the groups let in again: no state of the MLS library,
//! since two clients with the same ratchets would use keys twice. Whoever restores rejoins every
//! group with a new leaf.

use std::path::Path;

use crypto::sealing::{self, Place};
use crypto::secret::Secret;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::connections::ClientCredential;
use protocol::group::GroupKind;
use protocol::ids::{GroupId, RotationEpoch, SegmentId, Step};
use rusqlite::Connection;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::backup_key::{BackupKey, SALT};
use crate::endpoints::Endpoints;
use crate::engine::Engine;
use crate::error::{Error, LocalError, UsageError};
use crate::home::Home;
use crate::options::Options;
use crate::outcomes::StopReason;
use crate::store::devices::own_leaves;
use crate::store::known::{self, Known, KnownMember};
use crate::store::profile::{self, UserKeys};
use crate::store::{
    Group, Identity, Profile, Segment, Status, connection_stock, contacts, database, evidence,
    leaf_keys, load_mls, restored,
};
use crate::sync_message::NewContact;

const MAGIC: &[u8] = b"mimimi backup";
const VERSION: u8 = 1;

/// Content of a backup.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Backup {
    /// JSON of [`Endpoints`].
    endpoints: VLBytes,
    account_token: VLBytes,
    /// Empty for a user without one.
    handle: VLBytes,
    identity_seed: WireSecret,
    establishment_seed: WireSecret,
    connection_key: WireSecret,
    handle_owner_seed: WireSecret,
    contacts: Vec<NewContact>,
    groups: Vec<BackedUpGroup>,
}

/// What a group lets in again: a leaf that vouches for its successor.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct BackedUpGroup {
    group_id: GroupId,
    kind: GroupKind,
    name: VLBytes,
    segment: SegmentId,
    rotation: RotationEpoch,
    step: Step,
    /// Of that step.
    state_key: WireSecret,
    wrapper_key: WireSecret,
    recovery_seed: WireSecret,
    leaf_index: u32,
    leaf_seed: WireSecret,
    leaf_public_key: VLBytes,
    user_pseudonym: VLBytes,
    known: BackedUpKnown,
}

/// What is known of a group, so that the service cannot show another one to whoever restores.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct BackedUpKnown {
    epoch: u64,
    own_leaf: u32,
    external_senders: Vec<VLBytes>,
    ciphersuite: u16,
    policy: Option<VLBytes>,
    members: Vec<BackedUpMember>,
}

/// A leaf that was seen in a group.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct BackedUpMember {
    credential: VLBytes,
    user_pseudonym: VLBytes,
    real: Option<ClientCredential>,
    removed_epoch: Option<u64>,
}

impl From<Known> for BackedUpKnown {
    fn from(known: Known) -> Self {
        let members = known.members.into_iter().map(|member| BackedUpMember {
            credential: opaque(member.credential),
            user_pseudonym: opaque(member.identity.user_pseudonym),
            real: member.identity.real,
            removed_epoch: member.removed_epoch,
        });
        Self {
            epoch: known.epoch,
            own_leaf: known.own_leaf,
            external_senders: known.external_senders.into_iter().map(opaque).collect(),
            ciphersuite: known.ciphersuite,
            policy: known.policy.map(opaque),
            members: members.collect(),
        }
    }
}

impl From<&BackedUpKnown> for Known {
    fn from(known: &BackedUpKnown) -> Self {
        let members = known.members.iter().map(|member| KnownMember {
            credential: member.credential.as_slice().to_vec(),
            identity: Identity {
                user_pseudonym: member.user_pseudonym.as_slice().to_vec(),
                real: member.real.clone(),
            },
            removed_epoch: member.removed_epoch,
        });
        let senders = known.external_senders.iter();
        Self {
            epoch: known.epoch,
            own_leaf: known.own_leaf,
            external_senders: senders.map(|sender| sender.as_slice().to_vec()).collect(),
            ciphersuite: known.ciphersuite,
            policy: known
                .policy
                .as_ref()
                .map(|policy| policy.as_slice().to_vec()),
            members: members.collect(),
        }
    }
}

fn place() -> Place<'static> {
    Place {
        table: "backups",
        row: b"",
        part: "backup",
    }
}

fn seal(key: &BackupKey, backup: &Backup) -> Result<Vec<u8>, Error> {
    let salt = crypto::random::<SALT>()?;
    let secret = key.derive(&salt)?;
    let encoded = Zeroizing::new(backup.encode());
    let sealed = sealing::seal(secret.expose(), place(), &encoded)?;
    Ok([MAGIC, &[VERSION, key.kdf()], &salt, &sealed].concat())
}

fn open(key: &BackupKey, bytes: &[u8]) -> Result<Backup, Error> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(UsageError::NotABackup)?;
    let ([version, kdf], rest) = rest.split_first_chunk().ok_or(UsageError::NotABackup)?;
    if *version != VERSION {
        return Err(UsageError::NewerBackup.into());
    }
    if *kdf != key.kdf() {
        return Err(UsageError::WrongBackupKey.into());
    }
    let (salt, sealed) = rest
        .split_first_chunk::<SALT>()
        .ok_or(UsageError::NotABackup)?;
    let secret = key.derive(salt)?;
    let opened =
        sealing::open(secret.expose(), place(), sealed).map_err(|_| UsageError::WrongBackupKey)?;
    Backup::decode(&opened).map_err(|_| UsageError::NotABackup.into())
}

fn groups(db: &Connection) -> Result<Vec<BackedUpGroup>, Error> {
    let mut groups = Vec::new();
    for group in Group::all(db)? {
        // Nobody is in what waits: a restored client makes its own.
        if group.status != Status::Active || connection_stock::waits(db, &group.id)? {
            continue;
        }
        let mls_group = load_mls(db, &group.id)?;
        let own_leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
        let public_key = own_leaf.signature_key().as_slice();
        let signer = leaf_keys::signer(db, public_key)?;
        let (user_pseudonym, _) = own_leaves(db, &group.id, &mls_group)?;
        groups.push(BackedUpGroup {
            group_id: group.id,
            kind: group.kind,
            name: opaque(group.display_name().into_bytes()),
            segment: group.segment.id,
            rotation: group.segment.rotation,
            step: group.segment.step,
            state_key: group.segment.state_key.to_wire(),
            wrapper_key: group.segment.wrapper_key.to_wire(),
            recovery_seed: WireSecret::new(*group.recovery.expose()),
            leaf_index: mls_group.own_leaf_index().u32(),
            leaf_seed: WireSecret::new(*signer.0.seed().expose()),
            leaf_public_key: opaque(public_key),
            user_pseudonym: opaque(user_pseudonym),
            known: known::of(db, &group.id)?.ok_or(LocalError::Damaged)?.into(),
        });
    }
    Ok(groups)
}

impl Engine {
    /// An encrypted backup of this client as it is now. Groups joined later are not in it.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub(crate) fn backup(&self, key: &BackupKey) -> Result<Vec<u8>, Error> {
        let profile = &self.profile;
        let endpoints = serde_json::to_vec(&profile.endpoints).map_err(|_| LocalError::Damaged)?;
        let backup = Backup {
            endpoints: opaque(endpoints),
            account_token: opaque(profile.account_token.as_bytes()),
            handle: opaque(profile.handle.clone().unwrap_or_default().into_bytes()),
            identity_seed: WireSecret::new(*profile.identity.seed().expose()),
            establishment_seed: WireSecret::new(*profile.establishment_seed.expose()),
            connection_key: profile.connection_key.to_wire(),
            handle_owner_seed: WireSecret::new(*profile.handle_owner.seed().expose()),
            contacts: contacts::all(&self.db)?,
            groups: groups(&self.db)?,
        };
        seal(key, &backup)
    }

    /// Makes a client out of a backup, in an empty home directory: with a new inbox, new
    /// KeyPackages and a new leaf in each group. The client that the backup was made of, if it is
    /// still there, cannot follow its groups after that.
    ///
    /// # Errors
    /// [`UsageError::NotABackup`], [`UsageError::WrongBackupKey`], [`UsageError::NewerBackup`];
    /// [`UsageError::AlreadyInUse`] for a home directory that has a client;
    /// [`UsageError::PartlyRestored`] names the groups that it could not come back into: the client
    /// is there all the same, and can be opened.
    pub(crate) async fn restore(
        home: &Path,
        bytes: &[u8],
        key: &BackupKey,
        options: Options,
    ) -> Result<Self, Error> {
        let backup = open(key, bytes)?;
        let home = Home::at(home, options.lock_patience)?;
        let _held = home.hold().await?;
        let db = database::open(&home.database()?)?;
        if Profile::read(&db).is_ok() {
            return Err(UsageError::AlreadyInUse.into());
        }
        let endpoints = Endpoints::from_json(backup.endpoints.as_slice())?;
        let account_token = Zeroizing::new(
            String::from_utf8(backup.account_token.as_slice().to_vec())
                .map_err(|_| UsageError::NotABackup)?,
        );
        let mut db = db;
        let transaction = database::begin(&mut db)?;
        Profile::write(&transaction, &endpoints, &account_token)?;
        install(&transaction, &backup)?;
        transaction.commit()?;
        let mut client = Self::assemble(home, db, options)?;
        client.set_up_wallet().await?;
        if let Some(handle) = client.profile.handle.clone() {
            // Connection requests come to the new inbox from now on.
            client.register_handle(&handle).await?;
        }
        // Groups are rejoined as after any loss of state.
        client.sync().await?;
        let lost = client.not_restored()?;
        if lost.is_empty() {
            Ok(client)
        } else {
            Err(UsageError::PartlyRestored(lost).into())
        }
    }
}

fn install(db: &Connection, backup: &Backup) -> Result<(), Error> {
    let handle =
        String::from_utf8(backup.handle.as_slice().to_vec()).map_err(|_| UsageError::NotABackup)?;
    let keys = UserKeys {
        identity_seed: &backup.identity_seed,
        establishment_seed: &backup.establishment_seed,
        connection_key: &backup.connection_key,
        handle_owner_seed: &backup.handle_owner_seed,
    };
    let mut groups = backup.groups.iter();
    let device_group = groups.find(|group| group.kind == GroupKind::SingleUser);
    profile::become_user(
        db,
        Some(&*handle).filter(|handle| !handle.is_empty()),
        &keys,
        device_group.map(|group| &group.group_id),
    )?;
    for contact in &backup.contacts {
        contact.keep(db)?;
    }
    // What is published is of clients that are no more.
    contacts::make_pools_stale(db)?;
    for group in &backup.groups {
        let name = String::from_utf8(group.name.as_slice().to_vec())
            .map_err(|_| UsageError::NotABackup)?;
        Group {
            id: group.group_id,
            kind: group.kind,
            name: Some(name).filter(|name| !name.is_empty()),
            segment: Segment::heard_of(
                group.segment,
                group.rotation,
                (group.step, (&group.state_key).into()),
                (&group.wrapper_key).into(),
            ),
            recovery: Secret::new(*group.recovery_seed.expose()),
            recovery_set: true,
            update_due: false,
            // As if the MLS library's state had been lost: the way back is the same.
            status: Status::Lost,
        }
        .insert(db)?;
        leaf_keys::keep(
            db,
            group.leaf_public_key.as_slice(),
            group.leaf_seed.expose(),
        )?;
        Group::set_leaf_key(db, &group.group_id, group.leaf_public_key.as_slice())?;
        restored::keep(
            db,
            &group.group_id,
            group.leaf_seed.expose(),
            group.leaf_public_key.as_slice(),
            group.recovery_seed.expose(),
        )?;
        evidence::set_stopped(db, &group.group_id, Some(StopReason::Restored))?;
        known::restore(db, &group.group_id, &Known::from(&group.known))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use protocol::connections::ClientCredential;

    use super::*;
    use crate::sync_message;

    #[test]
    fn a_key_does_not_show_itself() {
        let shown = format!("{:?}", BackupKey::Passphrase("words".to_owned().into()));
        assert_eq!(shown, "BackupKey(..)");
    }

    fn secret(byte: u8) -> WireSecret {
        WireSecret::new([byte; 32])
    }

    fn backup(names: Vec<String>) -> Backup {
        Backup {
            endpoints: opaque(*b"{}"),
            account_token: opaque(*b"token"),
            handle: opaque(*b"alice"),
            identity_seed: secret(1),
            establishment_seed: secret(2),
            connection_key: secret(3),
            handle_owner_seed: secret(6),
            contacts: vec![NewContact {
                credential: ClientCredential {
                    name: opaque(*b"bob"),
                    signature_public_key: opaque([7; 32]),
                },
                connection_key: secret(8),
                connection_token: secret(9),
                pool: sync_message::PoolKeys {
                    generation: 1,
                    token: secret(4),
                    owner_seed: secret(5),
                },
                given: sync_message::GivenName {
                    generation: 1,
                    name: opaque(*b"Bobby"),
                },
            }],
            groups: names
                .into_iter()
                .map(|name| BackedUpGroup {
                    group_id: GroupId([1; 16]),
                    kind: GroupKind::Group,
                    name: opaque(name.into_bytes()),
                    segment: SegmentId([9; 32]),
                    rotation: RotationEpoch(2),
                    step: Step(3),
                    state_key: secret(10),
                    wrapper_key: secret(11),
                    recovery_seed: secret(12),
                    leaf_index: 3,
                    leaf_seed: secret(13),
                    leaf_public_key: opaque([14; 32]),
                    user_pseudonym: opaque(*b"p"),
                    known: BackedUpKnown {
                        epoch: 5,
                        own_leaf: 3,
                        external_senders: vec![opaque([15; 40])],
                        ciphersuite: 79,
                        policy: Some(opaque([17; 9])),
                        members: vec![BackedUpMember {
                            credential: opaque([16; 32]),
                            user_pseudonym: opaque(*b"p"),
                            real: None,
                            removed_epoch: Some(4),
                        }],
                    },
                })
                .collect(),
        }
    }

    fn recovery_key(byte: u8) -> BackupKey {
        BackupKey::RecoveryKey(Zeroizing::new(URL_SAFE_NO_PAD.encode([byte; 32])))
    }

    proptest! {
        #[test]
        fn a_backup_opens_with_its_key_only_and_any_changed_byte_is_noticed(
            names in prop::collection::vec("[a-z]{0,20}", 0..5),
            at in any::<prop::sample::Index>(),
        ) {
            let original = backup(names);
            let sealed = seal(&recovery_key(1), &original).unwrap();
            let opened = open(&recovery_key(1), &sealed).unwrap();
            prop_assert_eq!(opened.encode(), original.encode());
            prop_assert!(open(&recovery_key(2), &sealed).is_err());
            let mut changed = sealed.clone();
            let at = at.index(changed.len());
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= 1;
            }
            prop_assert!(open(&recovery_key(1), &changed).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_no_backup(bytes: Vec<u8>) {
            prop_assert!(open(&recovery_key(1), &bytes).is_err());
        }
    }

    /// The content of a backup.
    pub(crate) fn sample() -> Vec<u8> {
        let mut content = backup(vec!["team".to_owned()]);
        content.groups[0].known.members[0].real = Some(ClientCredential {
            name: opaque(*b"carol"),
            signature_public_key: opaque([18; 32]),
        });
        content.encode()
    }

    /// What opens a backup, and a backup that was made once.
    pub(crate) fn files(kept: impl Fn(usize) -> Option<Vec<u8>>) -> Vec<(String, Vec<u8>)> {
        let passphrase = || BackupKey::Passphrase(Zeroizing::new("one".to_owned()));
        let keys = [recovery_key(1), passphrase()].into_iter();
        let files = keys.enumerate().map(|(at, key)| {
            let content = Backup::decode(&sample()).unwrap();
            let file = kept(at).unwrap_or_else(|| seal(&key, &content).unwrap());
            assert_eq!(open(&key, &file).unwrap().encode(), content.encode());
            let (BackupKey::Passphrase(words) | BackupKey::RecoveryKey(words)) = key;
            (words.to_string(), file)
        });
        files.collect()
    }

    #[test]
    fn a_passphrase_opens_what_it_sealed_and_no_recovery_key_does() {
        let passphrase = |text: &str| BackupKey::Passphrase(Zeroizing::new(text.to_owned()));
        let sealed = seal(&passphrase("one"), &backup(Vec::new())).unwrap();
        assert!(open(&passphrase("one"), &sealed).is_ok());
        let wrong = |key| {
            matches!(
                open(&key, &sealed),
                Err(Error::Usage(UsageError::WrongBackupKey))
            )
        };
        assert!(wrong(passphrase("two")));
        assert!(wrong(recovery_key(1)));
    }
}
