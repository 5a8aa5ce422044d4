//! Groups: what is kept of them beside the MLS library's state, and what callers see.

pub(crate) mod authenticate;
pub(crate) mod changes;
pub(crate) mod commit;
pub(crate) mod content;
pub(crate) mod create;
pub(crate) mod devices;
pub(crate) mod evidence;
pub(crate) mod external;
pub(crate) mod further;
pub(crate) mod heard;
pub(crate) mod identities;
pub(crate) mod inspect;
pub(crate) mod invite;
pub(crate) mod join;
pub(crate) mod known;
mod leave;
mod member_request;
mod membership;
pub(crate) mod message;
pub(crate) mod outbox;
pub(crate) mod pending;
pub(crate) mod people;
pub(crate) mod pointers;
pub(crate) mod policy;
pub(crate) mod process;
pub(crate) mod recovery;
mod refused;
mod rejoin;
pub(crate) mod removals;
pub(crate) mod restored;
pub(crate) mod returned;
mod roles;
pub(crate) mod unreadable;
mod upgrade;
pub(crate) mod upkeep;

use crypto::credential::PseudonymousCredential;
use crypto::schedule::StateKey;
use crypto::secret::Secret;
use crypto::sign::LeafKeyPair;
use openmls::group::MlsGroupJoinConfig;
use openmls::prelude::{
    Credential, MlsGroup, OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
};
use openmls_sqlite_storage::Codec as _;
use protocol::Wire as _;
use protocol::group::{GroupKey, GroupKind};
use protocol::ids::{GroupId, LeafIndex};
use protocol::request::Sender;
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::database::key32;
use crate::engine::Engine;
use crate::error::{Error, LocalError, UsageError};
use crate::ids::UserId;
use crate::journal::{self as segment, Segment};
use crate::leaf;
use crate::profile::Profile;
use crate::provider::{JsonCodec, LeafSigner, Provider};
use crate::text;

/// Messages of so many past epochs can still be read when they come late.
pub(crate) const PAST_EPOCHS: usize = 5;
/// Longest group name in bytes.
pub(crate) const MAX_NAME: usize = 256;
/// Application messages are padded to multiples of this.
pub(crate) const PADDING: usize = 128;

/// How far this client is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The service has not accepted the creation or the join yet.
    Joining,
    Active,
    /// Removed by a member.
    Removed,
    /// Cannot follow any more.
    Lost,
    /// Does not follow any more: the service took a commit that the group's policy forbids.
    Refused,
    /// Deleted, or re-initialised as another group.
    Closed,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Removed => "removed",
            Self::Lost => "lost",
            Self::Refused => "refused",
            Self::Closed => "closed",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        [
            Self::Joining,
            Self::Active,
            Self::Removed,
            Self::Lost,
            Self::Refused,
            Self::Closed,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| LocalError::Damaged.into())
    }
}

/// A row of `groups`.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) kind: GroupKind,
    pub(crate) name: Option<String>,
    /// Where it is in the group's journal, with the keys that this gives.
    pub(crate) segment: Segment,
    /// Of the key pair that others seal the way back to.
    pub(crate) recovery: Secret<32>,
    pub(crate) recovery_set: bool,
    pub(crate) update_due: bool,
    pub(crate) status: Status,
}

const COLUMNS: &str =
    "groups.group_id, kind, name, recovery_seed, recovery_set, update_due, status";

fn select(rest: &str) -> String {
    let of_segment = segment::COLUMNS;
    format!("SELECT {COLUMNS}, {of_segment} FROM groups JOIN segments USING (group_id) {rest}")
}

impl Group {
    fn from_row(row: &Row<'_>) -> Result<Self, Error> {
        let key =
            |column: usize| -> Result<[u8; 32], Error> { key32(&row.get::<_, Vec<u8>>(column)?) };
        Ok(Self {
            id: GroupId(row.get(0)?),
            kind: match row.get::<_, u8>(1)? {
                1 => GroupKind::Group,
                2 => GroupKind::Connection,
                3 => GroupKind::SingleUser,
                _ => return Err(LocalError::Damaged.into()),
            },
            name: row.get(2)?,
            recovery: Secret::new(key(3)?),
            recovery_set: row.get(4)?,
            update_due: row.get(5)?,
            status: Status::parse(&row.get::<_, String>(6)?)?,
            segment: Segment::from_row(row, 7)?,
        })
    }

    fn select(
        db: &Connection,
        condition: &str,
        value: impl rusqlite::ToSql,
    ) -> Result<Option<Self>, Error> {
        db.prepare_cached(&select(&format!("WHERE {condition}")))?
            .query_row([value], |row| Ok(Self::from_row(row)))
            .optional()?
            .transpose()
    }

    pub(crate) fn find(db: &Connection, id: &GroupId) -> Result<Option<Self>, Error> {
        Self::select(db, "groups.group_id = ?", id.0)
    }

    pub(crate) fn read(db: &Connection, id: &GroupId) -> Result<Self, Error> {
        Self::find(db, id)?.ok_or_else(|| LocalError::Damaged.into())
    }

    pub(crate) fn by_name(db: &Connection, name: &str) -> Result<Self, Error> {
        let canonical = text::canonical(name);
        Self::select(db, "name = ? AND status != 'joining'", canonical)?
            .ok_or_else(|| UsageError::UnknownGroup(name.to_owned()).into())
    }

    /// The group if this client can act in it.
    pub(crate) fn usable(db: &Connection, name: &str) -> Result<Self, Error> {
        let group = Self::by_name(db, name)?;
        group.check_usable()?;
        Ok(group)
    }

    pub(crate) fn check_usable(&self) -> Result<(), Error> {
        let name = self.display_name();
        match self.status {
            Status::Active => Ok(()),
            Status::Lost => Err(UsageError::GroupLost(name).into()),
            Status::Refused => Err(UsageError::GroupRefused(name).into()),
            Status::Removed | Status::Joining | Status::Closed => {
                Err(UsageError::NotAMember(name).into())
            }
        }
    }

    /// The own leaf's public key, which is enough to come back with.
    pub(crate) fn leaf_key(db: &Connection, id: &GroupId) -> Result<Option<Vec<u8>>, Error> {
        Ok(db
            .query_row(
                "SELECT leaf_key FROM groups WHERE group_id = ?",
                [id.0],
                |row| row.get(0),
            )
            .optional()?
            .flatten())
    }

    pub(crate) fn set_leaf_key(db: &Connection, id: &GroupId, key: &[u8]) -> Result<(), Error> {
        db.execute(
            "UPDATE groups SET leaf_key = ? WHERE group_id = ?",
            (key, id.0),
        )?;
        Ok(())
    }

    /// The epoch before which no join code is good that was made, as far as this client knows.
    pub(crate) fn codes_since(db: &Connection, id: &GroupId) -> Result<u64, Error> {
        let since: i64 = db.query_row(
            "SELECT codes_since FROM groups WHERE group_id = ?",
            [id.0],
            |row| row.get(0),
        )?;
        Ok(u64::try_from(since).unwrap_or(u64::MAX))
    }

    pub(crate) fn set_codes_since(db: &Connection, id: &GroupId, epoch: u64) -> Result<(), Error> {
        db.execute(
            "UPDATE groups SET codes_since = ? WHERE group_id = ?",
            (i64::try_from(epoch).unwrap_or(i64::MAX), id.0),
        )?;
        Ok(())
    }

    /// How often this client has tried by itself to come back.
    pub(crate) fn rejoin_attempts(db: &Connection, id: &GroupId) -> Result<u32, Error> {
        Ok(db
            .query_row(
                "SELECT rejoin_attempts FROM groups WHERE group_id = ?",
                [id.0],
                |row| row.get(0),
            )
            .optional()?
            .unwrap_or(0))
    }

    pub(crate) fn set_rejoin_attempts(
        db: &Connection,
        id: &GroupId,
        attempts: u32,
    ) -> Result<(), Error> {
        db.execute(
            "UPDATE groups SET rejoin_attempts = ? WHERE group_id = ?",
            (attempts, id.0),
        )?;
        Ok(())
    }

    /// Whether this client wants to leave.
    pub(crate) fn is_leaving(db: &Connection, id: &GroupId) -> Result<bool, Error> {
        Ok(db
            .query_row(
                "SELECT leaving FROM groups WHERE group_id = ?",
                [id.0],
                |row| row.get(0),
            )
            .optional()?
            .unwrap_or(false))
    }

    pub(crate) fn all(db: &Connection) -> Result<Vec<Self>, Error> {
        let mut statement = db.prepare(&select("ORDER BY name"))?;
        let rows = statement.query_map((), |row| Ok(Self::from_row(row)))?;
        rows.map(|row| row?).collect()
    }

    pub(crate) fn insert(&self, db: &Connection) -> Result<(), Error> {
        db.execute(
            "INSERT INTO groups (group_id, kind, name, recovery_seed, recovery_set, update_due, status)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                self.id.0,
                self.kind as u8,
                &self.name,
                self.recovery.expose(),
                self.recovery_set,
                self.update_due,
                self.status.as_str(),
            ),
        )?;
        self.segment.write(db, &self.id)
    }

    /// The group, and the key that opens its state, for a request.
    pub(crate) fn key(&self) -> GroupKey {
        GroupKey {
            group_id: self.id,
            state_key: self.segment.state_key.to_wire(),
        }
    }

    pub(crate) fn set_status(db: &Connection, id: &GroupId, status: Status) -> Result<(), Error> {
        db.execute(
            "UPDATE groups SET status = ? WHERE group_id = ?",
            (status.as_str(), id.0),
        )?;
        Ok(())
    }

    /// The name for events; connection groups have none and make none.
    pub(crate) fn display_name(&self) -> String {
        self.name.clone().unwrap_or_default()
    }

    /// Forgets the group and the MLS library's state of it.
    pub(crate) fn delete(db: &Connection, id: &GroupId) -> Result<(), Error> {
        discard_mls(db, id)?;
        db.execute("DELETE FROM groups WHERE group_id = ?", [id.0])?;
        db.execute("DELETE FROM acts WHERE about = ?", [id.0])?;
        refused::forget(db, id)
    }
}

pub(crate) fn mls_id(id: &GroupId) -> openmls::group::GroupId {
    openmls::group::GroupId::from_slice(&id.0)
}

pub(crate) fn group_id(id: &openmls::group::GroupId) -> Option<GroupId> {
    id.as_slice().try_into().ok().map(GroupId)
}

pub(crate) fn load_mls(db: &Connection, id: &GroupId) -> Result<MlsGroup, Error> {
    MlsGroup::load(Provider::new(db).storage(), &mls_id(id))?
        .ok_or_else(|| LocalError::Damaged.into())
}

pub(crate) fn delete_mls(db: &Connection, id: &GroupId) -> Result<(), Error> {
    let provider = Provider::new(db);
    if let Some(mut mls) = MlsGroup::load(provider.storage(), &mls_id(id))? {
        mls.delete(provider.storage())?;
    }
    Ok(())
}

/// As [`delete_mls`], whatever state that is in.
pub(crate) fn discard_mls(db: &Connection, id: &GroupId) -> Result<(), Error> {
    // The library cannot delete what it cannot load; what it leaves is deleted below.
    let _ = delete_mls(db, id);
    let key = JsonCodec::to_vec(&mls_id(id)).map_err(|_| LocalError::Damaged)?;
    for table in [
        "openmls_group_data",
        "openmls_own_leaf_nodes",
        "openmls_proposals",
        "openmls_epoch_keys_pairs",
    ] {
        db.execute(&format!("DELETE FROM {table} WHERE group_id = ?"), [&key])?;
    }
    Ok(())
}

/// The user pseudonym in a leaf's credential.
pub(crate) fn pseudonym_of(credential: &Credential) -> Option<Vec<u8>> {
    PseudonymousCredential::decode(credential.serialized_content())
        .ok()
        .map(|credential| credential.user_pseudonym.as_slice().to_vec())
}

pub(crate) fn own_pseudonym(mls_group: &MlsGroup) -> Result<Vec<u8>, Error> {
    mls_group
        .own_leaf_node()
        .and_then(|leaf| pseudonym_of(leaf.credential()))
        .ok_or_else(|| LocalError::Damaged.into())
}

pub(crate) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(PAST_EPOCHS)
        .padding_size(PADDING)
        .sender_ratchet_configuration(upkeep::sender_ratchet())
        .build()
}

/// A name with a number behind it. The name is cut and not the number, else it would be the name
/// without one.
pub(crate) fn numbered(wanted: &str, number: u32) -> String {
    let number = format!(" ({number})");
    let wanted = text::received(wanted, MAX_NAME.saturating_sub(number.len()));
    wanted + &number
}

/// A name that no group has yet, after one that others may have chosen.
pub(crate) fn free_name(db: &Connection, wanted: &str) -> Result<String, Error> {
    let wanted = match text::received(wanted, MAX_NAME) {
        name if name.is_empty() => "group".to_owned(),
        name => name,
    };
    let taken = |name: &str| -> Result<bool, Error> {
        Ok(db
            .query_row("SELECT 1 FROM groups WHERE name = ?", [name], |_| Ok(()))
            .optional()?
            .is_some())
    };
    let mut name = wanted.clone();
    let mut number = 2u32;
    while taken(&name)? {
        name = numbered(&wanted, number);
        number = number.saturating_add(1);
    }
    Ok(name)
}

/// A group as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GroupSummary {
    /// Which group.
    pub id: crate::ids::GroupId,
    /// Its name on this device: as given at its creation, or with a number behind it.
    pub name: String,
    /// How many clients are in it.
    pub members: usize,
    /// Its epoch, as far as this client has followed.
    pub epoch: u64,
    /// Whether this client is still a member that can follow.
    pub active: bool,
    /// Why it does not follow any more, if it was not removed.
    pub stopped: Option<evidence::StopReason>,
}

/// A member as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Member {
    /// Who; `None` if this member cannot show it.
    pub user: Option<UserId>,
    /// Handle, or the name that they chose.
    pub name: String,
    /// This client.
    pub own: bool,
    /// Name of the role; empty in groups without roles.
    pub role: String,
    /// `active`, `inactive`, `muted` or `banned`.
    pub standing: &'static str,
    /// Names the client among all of the group's.
    pub leaf_index: u32,
}

/// What tests and tools need for requests of their own making.
#[derive(Debug)]
pub struct GroupAccess {
    /// The group's id.
    pub id: GroupId,
    /// The key that seals its state, as far as this client knows.
    pub state_key: StateKey,
    /// The segment of its journal.
    pub segment: protocol::ids::SegmentId,
    /// Its epoch, as far as this client has followed.
    pub epoch: u64,
    /// The own leaf.
    pub leaf_index: u32,
}

impl Engine {
    /// The own leaf as the sender of a request, and its key.
    pub(crate) fn own_sender(&self, id: &GroupId) -> Result<(Sender, LeafKeyPair), Error> {
        let mls = load_mls(&self.db, id)?;
        let leaf = mls.own_leaf_node().ok_or(LocalError::Damaged)?;
        let LeafSigner(key) = leaf::signer(&self.db, leaf.signature_key().as_slice())?;
        Ok((Sender::Leaf(LeafIndex(mls.own_leaf_index().u32())), key))
    }
}

/// Groups by name, without connection groups.
pub(crate) fn groups(db: &Connection) -> Result<Vec<GroupSummary>, Error> {
    let mut summaries = Vec::new();
    for group in Group::all(db)? {
        if group.name.is_some() && group.status != Status::Joining {
            summaries.push(summary(db, group)?);
        }
    }
    Ok(summaries)
}

/// One group.
pub(crate) fn summary(db: &Connection, group: Group) -> Result<GroupSummary, Error> {
    let mls = load_mls(db, &group.id).ok();
    Ok(GroupSummary {
        id: group.id.into(),
        members: mls.as_ref().map_or(0, |mls| mls.members().count()),
        epoch: mls.as_ref().map_or(0, |mls| mls.epoch().as_u64()),
        active: group.status == Status::Active,
        stopped: evidence::stopped(db, &group.id)?,
        name: group.name.unwrap_or_default(),
    })
}

/// Whether there is a group of this name and no contact.
///
/// # Errors
/// [`Error::Local`].
pub(crate) fn has_group(db: &Connection, name: &str) -> Result<bool, Error> {
    Ok(crate::contacts::by_name(db, name).is_err() && Group::by_name(db, name).is_ok())
}

/// The members of a group, as far as this client has followed.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn members(
    db: &Connection,
    profile: &Profile,
    group: &str,
) -> Result<Vec<Member>, Error> {
    let group = Group::by_name(db, group)?;
    let mls = load_mls(db, &group.id)?;
    let own = mls.own_leaf_index();
    let policy = policy::policy_in(mls.extensions())?;
    mls.members()
        .map(|member| {
            let identity = identities::of(db, &group.id, &member.credential)?;
            let name = identities::name(db, profile, identity.as_ref())?;
            let pseudonym = pseudonym_of(&member.credential).unwrap_or_default();
            let (role, standing) = roles::shown(policy.as_ref(), &pseudonym);
            let real = identity.and_then(|identity| identity.real);
            Ok(Member {
                user: real.and_then(|real| UserId::of(real.signature_public_key.as_slice())),
                name,
                own: member.index == own,
                role,
                standing,
                leaf_index: member.index.u32(),
            })
        })
        .collect()
}

/// Id, keys and position in a group, for requests that are made by hand.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn group_access(db: &Connection, group: &str) -> Result<GroupAccess, Error> {
    let group = Group::by_name(db, group)?;
    let mls = load_mls(db, &group.id)?;
    Ok(GroupAccess {
        id: group.id,
        segment: group.segment.id,
        state_key: group.segment.state_key,
        epoch: mls.epoch().as_u64(),
        leaf_index: mls.own_leaf_index().u32(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn group(id: u8, name: &str) -> Group {
        Group {
            id: GroupId([id; 16]),
            kind: GroupKind::Group,
            name: Some(name.to_owned()),
            segment: crate::journal::tests::segment(&GroupId([id; 16])),
            recovery: Secret::new([3; 32]),
            recovery_set: false,
            update_due: false,
            status: Status::Active,
        }
    }

    /// What the MLS library keeps of a group of one.
    pub(crate) fn keep_mls_group(db: &Connection, id: &GroupId) {
        let key = crypto::sign::SignatureKeyPair::random().unwrap();
        let signer = LeafSigner(key.into());
        let credential = openmls::prelude::CredentialWithKey {
            credential: openmls::prelude::BasicCredential::new(b"x".to_vec()).into(),
            signature_key: signer.0.public().to_vec().into(),
        };
        MlsGroup::builder()
            .with_group_id(mls_id(id))
            .ciphersuite(leaf::CIPHERSUITE)
            .build(&Provider::new(db), &signer, credential)
            .unwrap();
    }

    #[test]
    fn a_group_is_read_as_it_was_written_and_names_stay_apart() {
        let db = crate::database::in_memory().unwrap();
        group(1, "team").insert(&db).unwrap();
        let read = Group::usable(&db, "team").unwrap();
        assert_eq!(read.id, GroupId([1; 16]));
        assert_eq!(read.segment.wrapper_key.expose(), &[2; 32]);
        assert_eq!(free_name(&db, "team").unwrap(), "team (2)");
        group(2, "team (2)").insert(&db).unwrap();
        assert_eq!(free_name(&db, "team").unwrap(), "team (3)");
        let longest = "é".repeat(MAX_NAME / 2);
        group(3, &longest).insert(&db).unwrap();
        let next = free_name(&db, &longest).unwrap();
        assert!(next.ends_with("é (2)") && next.len() <= MAX_NAME, "{next}");
        // With its number it is taken as it is.
        assert_eq!(free_name(&db, &next).unwrap(), next);
        group(4, &next).insert(&db).unwrap();
        assert!(free_name(&db, &longest).unwrap().ends_with("é (3)"));
        Group::set_status(&db, &read.id, Status::Lost).unwrap();
        let lost = Group::usable(&db, "team");
        assert!(matches!(lost, Err(Error::Usage(UsageError::GroupLost(_)))));
    }
}
