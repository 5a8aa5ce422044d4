//! KeyPackages that this client publishes.

use openmls::prelude::{Ciphersuite, KeyPackage, OpenMlsProvider as _};
use protocol::codec::opaque;
use protocol::ids::Day;
use protocol::key_packages::CountKeyPackagesResponse;
use protocol::time::{DAY_MS, day_of};
use rusqlite::Connection;
use tls_codec::VLBytes;

use crate::error::{Error, mls};
use crate::leaf::CIPHERSUITE;
use crate::store::database::{change, rows, value};
use crate::store::events::{self, Event};
use crate::store::mls::{delete_key_package, own_key_package};
use crate::store::provider::Provider;
use crate::sync_message::{DeviceId, MadePackage, WantedSet};

/// So many sets of the usual ciphersuite, and of each other one, are published for a contact at a
/// time,
pub(crate) const BATCH: (u32, u32) = (5, 2);

/// when fewer than so many are left.
pub(crate) const LOW: (u32, u32) = (2, 1);

/// So long the other devices have time to add their packages.
pub(crate) const BATCH_MS: u64 = DAY_MS;

/// A join record is kept for so long at most: what points to it or opens it is kept no longer.
pub(crate) const KEPT_DAYS: u32 = 98;

/// Sets of one ciphersuite that are to be published. None is of last resort: that would be one
/// pseudonym in as many groups as the service, or a contact who has emptied the pool, wants it to
/// be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) suite: Ciphersuite,
    pub(crate) sets: u32,
}

pub(crate) fn due(
    db: &Connection,
    contact: &[u8],
    suites: &[Ciphersuite],
) -> Result<Vec<Due>, Error> {
    let mut all = Vec::new();
    for suite in suites.iter().copied() {
        let left: u32 = value(
            db,
            "SELECT sets_left FROM key_packages WHERE signature_key = ? AND ciphersuite = ?",
            (contact, u16::from(suite)),
        )?
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

/// This device has made a KeyPackage, in the caller's transaction.
pub(crate) fn made(db: &Connection, package: &KeyPackage) -> Result<(), Error> {
    let reference = package.hash_ref(Provider::new(db).crypto()).map_err(mls)?;
    let end = day_of(package.life_time().not_after().saturating_mul(1_000));
    change(
        db,
        "INSERT INTO made_packages (key_package_ref, leaf_key, expires_day) VALUES (?, ?, ?)",
        (
            reference.as_slice(),
            package.leaf_node().signature_key().as_slice(),
            end.saturating_add(KEPT_DAYS),
        ),
    )
}

/// Deletes the private keys of KeyPackages that nobody has used, once no join record is there that
/// could be opened with them.
pub(crate) fn forget_expired(db: &Connection, today: u32) -> Result<(), Error> {
    let expired = rows(
        db,
        "SELECT key_package_ref, leaf_key FROM made_packages WHERE expires_day < ?",
        [today],
        |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)),
    )?;
    for (reference, leaf_key) in expired {
        // The library deletes one that a group was joined with. Then the leaf is in that group.
        if own_key_package(db, &reference)?.is_some() {
            change(db, "DELETE FROM leaf_keys WHERE public_key = ?", [leaf_key])?;
            delete_key_package(db, &reference)?;
        }
        change(
            db,
            "DELETE FROM made_packages WHERE key_package_ref = ?",
            [reference],
        )?;
    }
    Ok(())
}

pub(crate) struct Batch {
    pub(crate) sets: Vec<(WantedSet, Vec<VLBytes>)>,
    pub(crate) complete: bool,
}

/// The batch in the making, if there is one.
pub(crate) fn batch(
    db: &Connection,
    contact: &[u8],
    devices: usize,
    now_ms: u64,
) -> Result<Option<Batch>, Error> {
    let mut statement = db.prepare_cached(
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

/// A set of a contact's pool was used, in the caller's transaction.
pub(crate) fn used(db: &Connection, contact: &[u8], suite: Ciphersuite) -> Result<(), Error> {
    change(
        db,
        "UPDATE key_packages SET sets_left = max(sets_left - 1, 0) WHERE signature_key = ? AND ciphersuite = ?",
        (contact, u16::from(suite)),
    )
}

/// Sets that expire sooner are replaced before they do.
pub(crate) const FRESH_DAYS: u32 = 14;

/// So many sets that went at once without this user being added anywhere are worth telling.
pub(crate) const TAKEN: u32 = 3;

/// How often sets were published today because the service said that they are gone, or in vain.
pub(crate) fn refills(db: &Connection, today: u32) -> Result<u32, Error> {
    let (day, refills): (u32, u32) = db
        .prepare_cached("SELECT refill_day, refills FROM profile")?
        .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(if day == today { refills } else { 0 })
}

pub(crate) fn set_refills(db: &Connection, today: u32, refills: u32) -> Result<(), Error> {
    change(
        db,
        "UPDATE profile SET refill_day = ?, refills = ?",
        (today, refills),
    )
}

/// What a service has said is left, at most what was known: nobody but this client adds to a pool.
pub(crate) fn take_over(
    db: &Connection,
    contact: &[u8],
    counted: &CountKeyPackagesResponse,
    today: u32,
) -> Result<(), Error> {
    let refills = refills(db, today)?;
    let known = db
        .prepare("SELECT ciphersuite, sets_left FROM key_packages WHERE signature_key = ?")?
        .query_map([contact], |row| {
            Ok((row.get::<_, u16>(0)?, row.get::<_, u32>(1)?))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    let mut fewer = false;
    for (suite, before) in known {
        let left = counted
            .counts
            .iter()
            .filter(|count| {
                count.ciphersuite == suite
                    && count.expiry.last_day() >= Day(today.saturating_add(FRESH_DAYS))
            })
            .fold(0u32, |sum, count| sum.saturating_add(count.sets));
        if left < before && refills < REFILLS {
            fewer = true;
            change(
                db,
                "UPDATE key_packages SET sets_left = ? WHERE signature_key = ? AND ciphersuite = ?",
                (left, contact, suite),
            )?;
            let usual = Ciphersuite::try_from(suite).is_ok_and(|suite| suite == CIPHERSUITE);
            if usual && before.saturating_sub(left) >= TAKEN {
                let taken = before.saturating_sub(left);
                events::store(db, &Event::KeyPackagesTaken { taken })?;
            }
        }
    }
    if fewer {
        set_refills(db, today, refills.saturating_add(1))?;
    }
    Ok(())
}

/// So often a day sets are published because the service says that they are gone. Each costs
/// tokens: a service that says so without end does not empty the wallet.
pub(crate) const REFILLS: u32 = 16;

/// What was published for a contact is no more.
pub(crate) fn forget_sets(db: &Connection, signature_key: &[u8]) -> Result<(), Error> {
    change(
        db,
        "DELETE FROM key_packages WHERE signature_key = ?",
        [signature_key],
    )
}

pub(crate) fn forget_wanted(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM wanted_packages", ())
}

pub(crate) fn forget_batch(db: &Connection) -> Result<(), Error> {
    change(db, "DELETE FROM key_package_batch", ())
}

pub(crate) fn have_none_left(db: &Connection) -> Result<(), Error> {
    change(db, "UPDATE key_packages SET sets_left = 0", ())
}

/// Begins a set of a batch, in the caller's transaction, with this device's package.
pub(crate) fn begin_set(
    db: &Connection,
    contact: &[u8],
    set: &WantedSet,
    (device, package): (&DeviceId, &[u8]),
    now_ms: u64,
) -> Result<(), Error> {
    let pseudonym = set.user_pseudonym.as_slice();
    let begun_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
    change(
        db,
        "INSERT INTO key_package_batch (user_pseudonym, signature_key, ciphersuite, begun_ms)
         VALUES (?, ?, ?, ?)",
        (pseudonym, contact, set.ciphersuite, begun_ms),
    )?;
    change(
        db,
        "INSERT INTO batch_packages VALUES (?, ?, ?)",
        (pseudonym, device.0, package),
    )
}

/// The device at this leaf has made a package for a set. Of a batch that is published already it is
/// nothing.
pub(crate) fn made_by(db: &Connection, leaf: u32, made: &MadePackage) -> Result<(), Error> {
    change(
        db,
        "INSERT OR REPLACE INTO batch_packages
         SELECT batch.user_pseudonym, device_id, ? FROM key_package_batch AS batch, devices
         WHERE batch.user_pseudonym = ? AND leaf_index = ?",
        (
            made.key_package.as_slice(),
            made.user_pseudonym.as_slice(),
            leaf,
        ),
    )
}

/// A set is published, in the caller's transaction.
pub(crate) fn set_is_published(
    db: &Connection,
    contact: &[u8],
    set: &WantedSet,
) -> Result<(), Error> {
    change(
        db,
        "INSERT INTO key_packages (signature_key, ciphersuite, sets_left) VALUES (?, ?, 1)
         ON CONFLICT (signature_key, ciphersuite) DO UPDATE SET sets_left = sets_left + 1",
        (contact, set.ciphersuite),
    )?;
    change(
        db,
        "DELETE FROM key_package_batch WHERE user_pseudonym = ?",
        [set.user_pseudonym.as_slice()],
    )
}

/// Another device waits for a package of this one.
pub(crate) fn want(db: &Connection, set: &WantedSet) -> Result<(), Error> {
    change(
        db,
        "INSERT OR IGNORE INTO wanted_packages VALUES (?, ?)",
        (set.user_pseudonym.as_slice(), set.ciphersuite),
    )
}

/// The sets for which other devices wait.
pub(crate) fn wanted(db: &Connection) -> Result<Vec<WantedSet>, Error> {
    rows(
        db,
        "SELECT user_pseudonym, ciphersuite FROM wanted_packages",
        (),
        |row| {
            Ok(WantedSet {
                user_pseudonym: opaque(row.get::<_, Vec<u8>>(0)?),
                ciphersuite: row.get(1)?,
            })
        },
    )
}
