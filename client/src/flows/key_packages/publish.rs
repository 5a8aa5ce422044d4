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
use rusqlite::Connection;
use tls_codec::{Serialize as _, VLBytes};

use crate::engine::Engine;
use crate::error::{Error, LocalError, mls};
use crate::flows::act::in_any_order;
use crate::flows::key_packages::count::{may_publish, published_in_vain};
use crate::leaf::{self, LIFETIME_S};
use crate::mls::claimed::seal_set;
use crate::mls::new_leaf::NewLeaf;
use crate::store::devices::others;
use crate::store::key_packages::{self, Due, batch, due};
use crate::store::provider::Provider;
use crate::store::sync_outbox::enqueue;
use crate::store::{Profile, contacts};
use crate::sync_message::{
    MadePackage, PackagesMade, PoolKeys, SetsWanted, SyncMessage, WantedSet,
};

const WEEK_S: u64 = 7 * 24 * 60 * 60;

/// So many new pools of one contact are filled in a day, each for a token: whoever has its pool
/// renewed again and again, by changing devices, waits for the next day. What it claims it pays.
const MOST_NEW_POOLS: u32 = 8;

/// Whether sets may be published for a contact today.
fn may_publish_for(db: &Connection, contact: &[u8], today: u32) -> Result<bool, Error> {
    let waits = contacts::pool_is_new(db, contact)?
        && contacts::new_pools(db, contact, today)? >= MOST_NEW_POOLS;
    Ok(!waits && may_publish(db, today)?)
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
        .leaf_node_capabilities(leaf::capabilities(suite, profile.takes_post_quantum));
    let bundle = builder
        .build(
            suite,
            &Provider::new(db),
            &leaf.signer,
            leaf.credential.clone(),
        )
        .map_err(mls)?;
    let package = bundle.key_package();
    key_packages::made(db, package)?;
    Ok(opaque(package.tls_serialize_detached().map_err(mls)?))
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

impl Engine {
    /// Publishes KeyPackages for each contact for whom few are left: as the service counts them,
    /// and this client what was used.
    pub(crate) async fn replenish_key_packages(&mut self) -> Result<(), Error> {
        if self.profile.handle.is_none() || !self.publishes()? {
            return Ok(());
        }
        for (contact, pool) in in_any_order(contacts::pools(&self.db)?)? {
            if self.has_acted() {
                break;
            }
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
                let own = (&profile.device, package.as_slice());
                key_packages::begin_set(db, contact, set, own, now_ms)?;
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
        let is_new: bool = contacts::pool_is_new(&self.db, contact)?;
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
                contacts::make_pool_stale(db, contact)?;
                key_packages::forget_sets(db, contact)
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
        let stale: bool = contacts::pool_is_stale(&self.db, contact)?;
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
            contacts::pool_is_published(db, contact, today)?;
            for (set, _) in sets {
                key_packages::set_is_published(db, contact, set)?;
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
        let mls_group = self.mls(&group.id)?;
        let first = mls_group.members().map(|member| member.index).min();
        Ok(first == Some(mls_group.own_leaf_index()))
    }

    /// How many devices this user has: also those that have not said yet who they are.
    fn device_count(&self) -> Result<usize, Error> {
        Ok(match self.devices_group()? {
            Some(group) => self.mls(&group.id)?.members().count(),
            None => 1,
        })
    }

    /// Makes the packages that another device waits for.
    pub(crate) async fn make_wanted_packages(&mut self) -> Result<(), Error> {
        let wanted = key_packages::wanted(&self.db)?;
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
            key_packages::forget_wanted(db)?;
            enqueue(db, SyncMessage::PackagesMade(PackagesMade { packages }))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::leaf::CIPHERSUITE;
    use crate::store::key_packages::{BATCH, used};

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
        let db = crate::store::database::in_memory().unwrap();
        let other = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
        let suites = [CIPHERSUITE, other];
        let bob = [7; 32];
        for (name, key) in [("bob", 7), ("carol", 8)] {
            contacts::tests::contact(name, key).store(&db).unwrap();
        }
        let due = |contact: &[u8]| due(&db, contact, &suites).unwrap();
        assert_eq!(due(&bob).len(), 2);
        db.execute(
            "INSERT INTO key_packages VALUES (?1, 79, 2), (?1, 3, 0)",
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
        let db = crate::store::database::in_memory().unwrap();
        crate::store::profile::tests::profile(&db);
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
            contacts::pool_is_published(&db, &bob, TODAY).unwrap();
            // What is claimed from it is published again as often as it takes.
            contacts::pool_is_published(&db, &bob, TODAY).unwrap();
            assert!(may(&bob, TODAY));
            filled += 1;
            renew();
        }
        assert_eq!(filled, MOST_NEW_POOLS);
        assert!(may(&carol, TODAY));
        assert!(may(&bob, TODAY + 1));
    }
}
