//! Publishing: sets for every ciphersuite, each with a package of every device of the user.
//!
//! One device publishes for all, the one with the lowest leaf in the devices' group. It asks the
//! others for their packages and waits a day for them; a device that was left out of a set is
//! brought into the groups that come of it by the others.

use crypto::credential::random_pseudonym;
use crypto::schedule::PoolToken;
use openmls::prelude::{Ciphersuite, KeyPackage};
use protocol::codec::opaque;
use protocol::directory::Directory;
use protocol::group::Accepted;
use protocol::ids::Week;
use protocol::key_packages::{KeyPackageSet, KeyPackageSetUpload, PublishKeyPackagesRequest};
use protocol::operation::Operation;
use protocol::time::DAY_MS;
use rusqlite::{Connection, OptionalExtension as _};
use tls_codec::{Serialize as _, VLBytes};

use super::count::{may_publish, published_in_vain};
use super::seal_set;
use crate::contacts::{self, PoolKeys};
use crate::devices::sync::{MadePackage, PackagesMade, SetsWanted, SyncMessage, WantedSet};
use crate::devices::{enqueue, others};
use crate::engine::Engine;
use crate::error::{Error, LocalError, mls};
use crate::groups::load_mls;
use crate::leaf::{self, CIPHERSUITE, LIFETIME_S, NewLeaf};
use crate::profile::Profile;
use crate::provider::Provider;

/// So many sets of the usual ciphersuite, and of each other one, are published for a contact at a
/// time,
const BATCH: (u32, u32) = (5, 2);
/// when fewer than so many are left.
const LOW: (u32, u32) = (2, 1);
/// So many new pools of one contact are filled in a day, each for a token: whoever has its pool
/// renewed again and again, by changing devices, waits for the next day. What it claims it pays.
const MOST_NEW_POOLS: u32 = 8;
/// So long the other devices have time to add their packages.
const BATCH_MS: u64 = DAY_MS;
const WEEK_S: u64 = 7 * 24 * 60 * 60;

/// Sets of one ciphersuite that are to be published. None is of last resort: that would be one
/// pseudonym in as many groups as the service, or a contact who has emptied the pool, wants it to
/// be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    suite: Ciphersuite,
    sets: u32,
}

fn due(db: &Connection, contact: &[u8], suites: &[Ciphersuite]) -> Result<Vec<Due>, Error> {
    let mut all = Vec::new();
    for suite in suites.iter().copied() {
        let left: u32 = db
            .query_row(
                "SELECT sets_left FROM key_packages WHERE signature_key = ? AND ciphersuite = ?",
                (contact, u16::from(suite)),
                |row| row.get(0),
            )
            .optional()?
            .unwrap_or_default();
        let usual = suite == CIPHERSUITE;
        let low = if usual { LOW.0 } else { LOW.1 };
        if left < low {
            let sets = if usual { BATCH.0 } else { BATCH.1 };
            all.push(Due { suite, sets });
        }
    }
    Ok(all)
}

/// Whether sets may be published for a contact today.
fn may_publish_for(db: &Connection, contact: &[u8], today: u32) -> Result<bool, Error> {
    let is_new: Option<bool> = db
        .query_row(
            "SELECT pool_new FROM contacts WHERE signature_key = ?",
            [contact],
            |row| row.get(0),
        )
        .optional()?;
    let waits = is_new == Some(true) && new_pools(db, contact, today)? >= MOST_NEW_POOLS;
    Ok(!waits && may_publish(db, today)?)
}

/// How many new pools of a contact were filled today.
fn new_pools(db: &Connection, contact: &[u8], today: u32) -> Result<u32, Error> {
    let query = "SELECT new_pools FROM contacts WHERE signature_key = ? AND new_pools_day = ?";
    let filled = db
        .query_row(query, (contact, today), |row| row.get(0))
        .optional()?;
    Ok(filled.unwrap_or_default())
}

/// Sets were published for a contact, in the caller's transaction.
fn published(db: &Connection, contact: &[u8], today: u32) -> Result<(), Error> {
    let filled = new_pools(db, contact, today)?.saturating_add(1);
    db.execute(
        "UPDATE contacts SET pool_new = 0, new_pools = ?, new_pools_day = ?
         WHERE signature_key = ? AND pool_new = 1",
        (filled, today, contact),
    )?;
    Ok(())
}

/// Makes a KeyPackage of this device. Its private keys are kept in the caller's transaction.
pub(crate) fn make_package(
    db: &Connection,
    profile: &Profile,
    directory: &Directory,
    set: &WantedSet,
    now_ms: u64,
) -> Result<VLBytes, Error> {
    let suite = leaf::ciphersuite(set.ciphersuite).ok_or(LocalError::Damaged)?;
    let leaf = NewLeaf::of_user(profile, directory, suite, set.user_pseudonym.clone())?;
    leaf.store_key(db)?;
    let builder = KeyPackage::builder()
        .key_package_lifetime(leaf::lifetime(now_ms))
        .leaf_node_capabilities(leaf::capabilities());
    let bundle = builder
        .build(
            suite,
            &Provider::new(db),
            &leaf.signer,
            leaf.credential.clone(),
        )
        .map_err(mls)?;
    Ok(opaque(
        bundle.key_package().tls_serialize_detached().map_err(mls)?,
    ))
}

fn upload(
    token: &PoolToken,
    set: &WantedSet,
    key_packages: Vec<VLBytes>,
    now_ms: u64,
) -> Result<KeyPackageSetUpload, Error> {
    // Not handed out in its last week, so that whoever claims it has time to use it.
    let weeks = u16::try_from(LIFETIME_S / WEEK_S)
        .unwrap_or(0)
        .saturating_sub(1);
    let key_packages = in_any_order(key_packages)?;
    let sealed = seal_set(token, &KeyPackageSet { key_packages })?;
    Ok(KeyPackageSetUpload {
        ciphersuite: set.ciphersuite,
        expiry: Week(Week::of(now_ms).0.saturating_add(weeks)),
        sealed: opaque(sealed),
    })
}

/// Leaves are filled in the order of a set: the same order each time would tell a user's devices
/// apart in all groups.
fn in_any_order(key_packages: Vec<VLBytes>) -> Result<Vec<VLBytes>, Error> {
    let mut drawn = key_packages
        .into_iter()
        .map(|package| Ok((crypto::random::<16>()?, package)))
        .collect::<Result<Vec<_>, Error>>()?;
    drawn.sort_by_key(|(random, _)| *random);
    Ok(drawn.into_iter().map(|(_, package)| package).collect())
}

fn sets_of(due: &[Due], domain: &str) -> Result<Vec<WantedSet>, Error> {
    let mut sets = Vec::new();
    for due in due {
        for _ in 0..due.sets {
            sets.push(WantedSet {
                user_pseudonym: random_pseudonym(domain)?,
                ciphersuite: u16::from(due.suite),
            });
        }
    }
    Ok(sets)
}

struct Batch {
    sets: Vec<(WantedSet, Vec<VLBytes>)>,
    complete: bool,
}

/// The batch in the making, if there is one.
fn batch(
    db: &Connection,
    contact: &[u8],
    devices: usize,
    now_ms: u64,
) -> Result<Option<Batch>, Error> {
    let mut statement = db.prepare(
        "SELECT user_pseudonym, ciphersuite, begun_ms FROM key_package_batch WHERE signature_key = ?",
    )?;
    let rows = statement.query_map([contact], |row| {
        Ok((
            WantedSet {
                user_pseudonym: opaque(row.get::<_, Vec<u8>>(0)?),
                ciphersuite: row.get(1)?,
            },
            row.get::<_, i64>(2)?,
        ))
    })?;
    let mut batch = Batch {
        sets: Vec::new(),
        complete: true,
    };
    for row in rows {
        let (set, begun_ms) = row?;
        let mut packages =
            db.prepare_cached("SELECT key_package FROM batch_packages WHERE user_pseudonym = ?")?;
        let packages = packages
            .query_map([set.user_pseudonym.as_slice()], |row| {
                Ok(opaque(row.get::<_, Vec<u8>>(0)?))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        let begun_ms = u64::try_from(begun_ms).unwrap_or(0);
        batch.complete &= packages.len() >= devices || begun_ms.saturating_add(BATCH_MS) <= now_ms;
        batch.sets.push((set, packages));
    }
    Ok((!batch.sets.is_empty()).then_some(batch))
}

impl Engine {
    /// Publishes KeyPackages for each contact for whom few are left: as the service counts them,
    /// and this client what was used.
    pub(crate) async fn replenish_key_packages(&mut self) -> Result<(), Error> {
        if self.profile.handle.is_none() || !self.publishes()? {
            return Ok(());
        }
        for (contact, pool) in contacts::pools(&self.db)? {
            if may_publish_for(&self.db, &contact, self.today())? {
                self.replenish_pool(&contact, &pool).await?;
            }
        }
        Ok(())
    }

    async fn replenish_pool(&mut self, contact: &[u8], pool: &PoolKeys) -> Result<(), Error> {
        let devices = self.device_count()?;
        let now_ms = self.transport.time.now_unix_ms();
        if let Some(batch) = batch(&self.db, contact, devices, now_ms)? {
            return if batch.complete {
                self.publish(contact, pool, &batch.sets, now_ms).await
            } else {
                Ok(())
            };
        }
        self.count_when_due(contact, pool, now_ms).await?;
        let directory = self.directory().await?;
        let due = due(&self.db, contact, &self.suites(&directory))?;
        if due.is_empty() {
            return Ok(());
        }
        // Their private keys are durable before anybody can claim them.
        self.transact(|db, profile| {
            let sets = sets_of(&due, &directory.domain)?;
            for set in &sets {
                let package = make_package(db, profile, &directory, set, now_ms)?;
                let pseudonym = set.user_pseudonym.as_slice();
                db.execute(
                    "INSERT INTO key_package_batch (user_pseudonym, signature_key, ciphersuite, begun_ms)
                     VALUES (?, ?, ?, ?)",
                    (
                        pseudonym,
                        contact,
                        set.ciphersuite,
                        i64::try_from(now_ms).unwrap_or(i64::MAX),
                    ),
                )?;
                db.execute(
                    "INSERT INTO batch_packages VALUES (?, ?, ?)",
                    (pseudonym, profile.device.0, package.as_slice()),
                )?;
            }
            if devices > 1 {
                enqueue(db, SyncMessage::SetsWanted(SetsWanted { sets }))?;
            }
            Ok(())
        })?;
        match batch(&self.db, contact, devices, now_ms)? {
            Some(batch) if batch.complete => self.publish(contact, pool, &batch.sets, now_ms).await,
            _ => Ok(()),
        }
    }

    /// As [`Client::replenish_key_packages`] for a pool that this device has made and that has
    /// nothing yet: does not wait for the other devices, whose packages follow in the next batch.
    pub(crate) async fn publish_alone(
        &mut self,
        contact: &[u8],
        pool: &PoolKeys,
    ) -> Result<(), Error> {
        let is_new: bool = self.db.query_row(
            "SELECT pool_new FROM contacts WHERE signature_key = ?",
            [contact],
            |row| row.get(0),
        )?;
        // Who is told the token of a pool again finds there what the device publishes that does.
        if self.profile.handle.is_none() || !is_new {
            return Ok(());
        }
        let directory = self.directory().await?;
        let now_ms = self.transport.time.now_unix_ms();
        let due = due(&self.db, contact, &self.suites(&directory))?;
        if due.is_empty() || !may_publish_for(&self.db, contact, self.today())? {
            return Ok(());
        }
        let sets = self.transact(|db, profile| {
            sets_of(&due, &directory.domain)?
                .into_iter()
                .map(|set| {
                    let package = make_package(db, profile, &directory, &set, now_ms)?;
                    Ok((set, vec![package]))
                })
                .collect::<Result<Vec<_>, Error>>()
        })?;
        self.publish(contact, pool, &sets, now_ms).await?;
        if !others(&self.db)?.is_empty() {
            self.transact(|db, _| {
                db.execute(
                    "UPDATE contacts SET pool_stale = 1 WHERE signature_key = ?",
                    [contact],
                )?;
                db.execute(
                    "DELETE FROM key_packages WHERE signature_key = ?",
                    [contact],
                )?;
                Ok(())
            })?;
        }
        Ok(())
    }

    async fn publish(
        &mut self,
        contact: &[u8],
        pool: &PoolKeys,
        sets: &[(WantedSet, Vec<VLBytes>)],
        now_ms: u64,
    ) -> Result<(), Error> {
        let stale: bool = self.db.query_row(
            "SELECT pool_stale FROM contacts WHERE signature_key = ?",
            [contact],
            |row| row.get(0),
        )?;
        if stale {
            self.empty_pool(contact, pool).await?;
        }
        let token = pool.token();
        let uploads = sets
            .iter()
            .map(|(set, packages)| upload(&token, set, packages.clone(), now_ms))
            .collect::<Result<_, _>>()?;
        let request = PublishKeyPackagesRequest {
            pool: token.pool(),
            sets: uploads,
        };
        let answered: Result<Accepted, Error> = self
            .call_for(
                Operation::PublishKeyPackages,
                pool.owner(),
                &request,
                sets.len(),
            )
            .await;
        // Without a token nothing was asked.
        if !matches!(answered, Ok(_) | Err(Error::Issuer(_))) {
            published_in_vain(&self.db, self.today())?;
        }
        answered?;
        let today = self.today();
        self.transact(|db, _| {
            published(db, contact, today)?;
            for (set, _) in sets {
                db.execute(
                    "INSERT INTO key_packages (signature_key, ciphersuite, sets_left) VALUES (?, ?, 1)
                     ON CONFLICT (signature_key, ciphersuite) DO UPDATE SET sets_left = sets_left + 1",
                    (contact, set.ciphersuite),
                )?;
                db.execute(
                    "DELETE FROM key_package_batch WHERE user_pseudonym = ?",
                    [set.user_pseudonym.as_slice()],
                )?;
            }
            Ok(())
        })
    }

    /// The ciphersuites of this client's options that the service takes too.
    fn suites(&self, directory: &Directory) -> Vec<Ciphersuite> {
        self.ciphersuites
            .iter()
            .copied()
            .filter(|number| directory.ciphersuites.contains(number))
            .filter_map(leaf::ciphersuite)
            .collect()
    }

    /// Whether it is this device that publishes for all of the user's.
    fn publishes(&self) -> Result<bool, Error> {
        if self.profile.device_group.is_none() {
            return Ok(true);
        }
        let Some(group) = self.devices_group()? else {
            return Ok(false);
        };
        let mls_group = load_mls(&self.db, &group.id)?;
        let first = mls_group.members().map(|member| member.index).min();
        Ok(first == Some(mls_group.own_leaf_index()))
    }

    /// How many devices this user has: also those that have not said yet who they are.
    fn device_count(&self) -> Result<usize, Error> {
        Ok(match self.devices_group()? {
            Some(group) => load_mls(&self.db, &group.id)?.members().count(),
            None => 1,
        })
    }

    /// Makes the packages that another device waits for.
    pub(crate) async fn make_wanted_packages(&mut self) -> Result<(), Error> {
        let wanted = {
            let mut statement = self
                .db
                .prepare("SELECT user_pseudonym, ciphersuite FROM wanted_packages")?;
            let rows = statement.query_map((), |row| {
                Ok(WantedSet {
                    user_pseudonym: opaque(row.get::<_, Vec<u8>>(0)?),
                    ciphersuite: row.get(1)?,
                })
            })?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        if wanted.is_empty() {
            return Ok(());
        }
        let directory = self.directory().await?;
        let now_ms = self.transport.time.now_unix_ms();
        self.transact(|db, profile| {
            let mut packages = Vec::with_capacity(wanted.len());
            for set in &wanted {
                // A ciphersuite of a later release: the set goes without us.
                if leaf::ciphersuite(set.ciphersuite).is_some() {
                    packages.push(MadePackage {
                        user_pseudonym: set.user_pseudonym.clone(),
                        key_package: make_package(db, profile, &directory, set, now_ms)?,
                    });
                }
            }
            db.execute("DELETE FROM wanted_packages", ())?;
            enqueue(db, SyncMessage::PackagesMade(PackagesMade { packages }))
        })
    }
}

/// A set of a contact's pool was used, in the caller's transaction.
pub(crate) fn used(db: &Connection, contact: &[u8], suite: Ciphersuite) -> Result<(), Error> {
    db.execute(
        "UPDATE key_packages SET sets_left = max(sets_left - 1, 0) WHERE signature_key = ? AND ciphersuite = ?",
        (contact, u16::from(suite)),
    )?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TODAY: u32 = 20_000;

    #[test]
    fn packages_of_a_set_stand_in_any_order() {
        let packages = vec![opaque(*b"one"), opaque(*b"other")];
        let kept = (0..64)
            .filter(|_| in_any_order(packages.clone()).unwrap() == packages)
            .count();
        assert!((1..64).contains(&kept), "{kept}");
    }

    #[test]
    fn sets_are_due_for_each_ciphersuite_when_few_are_left() {
        let db = crate::database::in_memory().unwrap();
        let other = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
        let suites = [CIPHERSUITE, other];
        let bob = [7; 32];
        for (name, key) in [("bob", 7), ("carol", 8)] {
            contacts::tests::contact(name, key).store(&db).unwrap();
        }
        let due = |contact: &[u8]| due(&db, contact, &suites).unwrap();
        assert_eq!(due(&bob).len(), 2);
        db.execute(
            "INSERT INTO key_packages VALUES (?1, 1, 2), (?1, 3, 0)",
            [bob],
        )
        .unwrap();
        // What is published for one contact is not there for another one.
        assert_eq!(due(&[8; 32]).len(), 2);
        let left = due(&bob);
        let expected = Due {
            suite: other,
            sets: BATCH.1,
        };
        assert_eq!(left, [expected]);
        used(&db, &bob, CIPHERSUITE).unwrap();
        assert_eq!(due(&bob).len(), 2);
    }

    #[test]
    fn of_a_contact_so_many_new_pools_are_filled_a_day_and_nobody_else_waits_for_it() {
        let db = crate::database::in_memory().unwrap();
        crate::profile::tests::profile(&db);
        let [bob, carol] = [[7; 32], [8; 32]];
        for (name, key) in [("bob", 7), ("carol", 8)] {
            contacts::tests::contact(name, key).store(&db).unwrap();
        }
        let may = |contact: &[u8], today| may_publish_for(&db, contact, today).unwrap();
        let renew = || {
            db.execute("UPDATE contacts SET pool_new = 1", ()).unwrap();
        };
        let mut filled = 0;
        renew();
        while filled < 100 && may(&bob, TODAY) {
            published(&db, &bob, TODAY).unwrap();
            // What is claimed from it is published again as often as it takes.
            published(&db, &bob, TODAY).unwrap();
            assert!(may(&bob, TODAY));
            filled += 1;
            renew();
        }
        assert_eq!(filled, MOST_NEW_POOLS);
        assert!(may(&carol, TODAY));
        assert!(may(&bob, TODAY + 1));
    }
}
