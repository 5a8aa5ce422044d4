//! Putting another group in the place of one, in another ciphersuite. RFC 9420 §11.2 has ReInit for that, but the
//! MLS library leaves ReInit proposals out of the commits that it builds: so the old group is deleted, and the
//! members who are contacts are added to a new one. A ReInit of another implementation is followed.

use crypto::credential::random_pseudonym;
use openmls::prelude::Ciphersuite;
use protocol::groups::GroupKind;
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use rusqlite::{Connection, OptionalExtension as _};

use crate::Client;
use crate::contacts;
use crate::error::{Error, LocalError, UsageError};
use crate::groups::commit::Plan;
use crate::groups::enforce;
use crate::groups::{Group, Status, free_name, identities, load_mls};
use crate::leaf::{self, NewLeaf};

struct Successor {
    id: GroupId,
    leaf_key: Vec<u8>,
    suite: Ciphersuite,
    stage: u8,
}

const AGREED: u8 = 1;
const CREATED: u8 = 2;

fn successor(db: &Connection, old: &GroupId) -> Result<Option<Successor>, Error> {
    let row = db
        .query_row(
            "SELECT successor, leaf_key, ciphersuite, stage FROM successors WHERE group_id = ?",
            [old.0],
            |row| {
                Ok((
                    GroupId(row.get(0)?),
                    row.get(1)?,
                    row.get::<_, u16>(2)?,
                    row.get(3)?,
                ))
            },
        )
        .optional()?;
    row.map(|(id, leaf_key, suite, stage)| {
        Ok(Successor {
            id,
            leaf_key,
            suite: leaf::ciphersuite(suite).ok_or(LocalError::Damaged)?,
            stage,
        })
    })
    .transpose()
}

fn set_stage(db: &Connection, old: &GroupId, stage: u8) -> Result<(), Error> {
    db.execute(
        "UPDATE successors SET stage = ? WHERE group_id = ?",
        (stage, old.0),
    )?;
    Ok(())
}

/// The group has ended in favour of another one, in the caller's transaction: its name is free for that one.
/// Returns the name that the old one has now.
pub(crate) fn retire(db: &Connection, group: &Group) -> Result<String, Error> {
    Group::set_status(db, &group.id, Status::Closed)?;
    let name = free_name(db, &format!("{} (former)", group.display_name()))?;
    db.execute(
        "UPDATE groups SET name = ? WHERE group_id = ?",
        (&name, group.id.0),
    )?;
    Ok(name)
}

/// A group of this name that is over leaves it to another one.
pub(crate) fn give_up_name(db: &Connection, name: &str) -> Result<(), Error> {
    match Group::by_name(db, name) {
        Ok(group) if matches!(group.status, Status::Removed | Status::Closed) => {
            let former = free_name(db, &format!("{name} (former)"))?;
            db.execute(
                "UPDATE groups SET name = ? WHERE group_id = ?",
                (former, group.id.0),
            )?;
            Ok(())
        }
        Ok(_) | Err(Error::Usage(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A group was deleted by us, in the caller's transaction: perhaps in favour of another one.
pub(crate) fn ended(db: &Connection, group: &Group) -> Result<(), Error> {
    if successor(db, &group.id)?.is_some() {
        set_stage(db, &group.id, AGREED)?;
        retire(db, group)?;
    }
    Ok(())
}

impl Client {
    /// Ends a group and makes another one under its name, in another ciphersuite, in which the members who are
    /// contacts are added again. The others need to be invited.
    ///
    /// # Errors
    /// [`UsageError::NotPermitted`], [`UsageError::UnknownCiphersuite`].
    pub async fn upgrade_group(&mut self, group: &str, suite: u16) -> Result<(), Error> {
        let suite = leaf::ciphersuite(suite).ok_or(UsageError::UnknownCiphersuite(suite))?;
        self.sync(0).await?;
        let old = Group::usable(&self.db, group)?;
        let mls_group = load_mls(&self.db, &old.id)?;
        enforce::permit(&old, &mls_group, &Plan::Delete)?;
        let members =
            serde_json::to_string(&self.contacts_in(&old.id)?).map_err(|_| LocalError::Damaged)?;
        let directory = self.directory().await?;
        let pseudonym = random_pseudonym(&directory.domain)?;
        let leaf = NewLeaf::of_user(&self.profile, &directory, suite, pseudonym.clone())?;
        let id = self.reserve(&leaf).await?;
        self.transact(|db, _| {
            leaf.store_key(db)?;
            db.execute(
                "INSERT OR REPLACE INTO successors
                    (group_id, successor, leaf_key, pseudonym, name, members, ciphersuite, stage)
                 VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                (
                    old.id.0,
                    id.0,
                    leaf.signer.0.public(),
                    pseudonym.as_slice(),
                    group,
                    members,
                    u16::from(suite),
                ),
            )?;
            Ok(())
        })?;
        self.commit(&old.id, |_| Ok(Plan::Delete)).await?;
        self.go_on_upgrading(&old.id).await
    }

    /// What is left to do of an upgrade.
    pub(crate) async fn go_on_upgrading(&mut self, old: &GroupId) -> Result<(), Error> {
        let Some(next) = successor(&self.db, old)?.filter(|next| next.stage >= AGREED) else {
            return Ok(());
        };
        if next.stage == AGREED && Group::find(&self.db, &next.id)?.is_none() {
            let (name, pseudonym): (String, Vec<u8>) = self.db.query_row(
                "SELECT name, pseudonym FROM successors WHERE group_id = ?",
                [old.0],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let name = free_name(&self.db, &name)?;
            let directory = self.directory().await?;
            let signer = leaf::signer(&self.db, &next.leaf_key)?;
            let pseudonym = protocol::codec::opaque(pseudonym);
            let leaf = NewLeaf::with_key(&self.profile, &directory, signer.0, pseudonym)?;
            self.create_reserved(next.id, GroupKind::Group, Some(name), next.suite, leaf)
                .await?;
        }
        set_stage(&self.db, old, CREATED)?;
        let members: String = self.db.query_row(
            "SELECT members FROM successors WHERE group_id = ?",
            [old.0],
            |row| row.get(0),
        )?;
        let members: Vec<String> =
            serde_json::from_str(&members).map_err(|_| LocalError::Damaged)?;
        for contact in members {
            match self.add_contacts(&next.id, &[contact.as_str()]).await {
                Ok(())
                | Err(Error::Usage(
                    UsageError::AlreadyAMember(_) | UsageError::UnknownContact(_),
                )) => {}
                // Who has published nothing for this ciphersuite has to be invited.
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::NoKeyPackages => {}
                Err(error) => return Err(error),
            }
        }
        self.db
            .execute("DELETE FROM successors WHERE group_id = ?", [old.0])?;
        Ok(())
    }

    /// Names of the contacts among the members of a group.
    fn contacts_in(&self, id: &GroupId) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for member in load_mls(&self.db, id)?.members() {
            let real = identities::of(&self.db, id, &member.credential)?
                .and_then(|identity| identity.real);
            if let Some(real) = real
                && let Some(name) =
                    contacts::name_of_key(&self.db, real.signature_public_key.as_slice())?
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Groups that are being upgraded.
    pub(crate) fn upgrading(&self) -> Result<Vec<GroupId>, Error> {
        let mut statement = self.db.prepare("SELECT group_id FROM successors")?;
        let rows = statement.query_map((), |row| Ok(GroupId(row.get(0)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
