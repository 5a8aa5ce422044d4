//! How many sets there still are: asked of the service, since contacts claim without telling.

use openmls::prelude::Ciphersuite;
use protocol::ids::Day;
use protocol::key_packages::{CountKeyPackagesRequest, CountKeyPackagesResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::time::day_of;
use rusqlite::Connection;

use crate::contacts::{self, PoolKeys};
use crate::engine::Engine;
use crate::error::Error;
use crate::events::{self, Event};
use crate::leaf::CIPHERSUITE;

/// Asked every so often, on average; the times are random.
const INTERVAL_MS: u64 = 12 * 60 * 60 * 1000;
/// Sets that expire sooner are replaced before they do.
const FRESH_DAYS: u32 = 14;
/// So often a day sets are published because the service says that they are gone. Each costs
/// tokens: a service that says so without end does not empty the wallet.
const REFILLS: u32 = 16;
/// So many sets that went at once without this user being added anywhere are worth telling.
const TAKEN: u32 = 3;

/// So often a day sets are published in vain before the next day is waited for.
const FAILURES: u32 = 24;

/// How often sets were published today because the service said that they are gone, or in vain.
fn refills(db: &Connection, today: u32) -> Result<u32, Error> {
    let (day, refills): (u32, u32) =
        db.query_row("SELECT refill_day, refills FROM profile", (), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(if day == today { refills } else { 0 })
}

fn set_refills(db: &Connection, today: u32, refills: u32) -> Result<(), Error> {
    db.execute(
        "UPDATE profile SET refill_day = ?, refills = ?",
        (today, refills),
    )?;
    Ok(())
}

/// Whether publishing is worth its tokens: not when the service has taken them in vain all day.
pub(super) fn may_publish(db: &Connection, today: u32) -> Result<bool, Error> {
    Ok(refills(db, today)? < FAILURES)
}

/// Tokens were presented, and what came back says nothing of sets that are published.
pub(super) fn published_in_vain(db: &Connection, today: u32) -> Result<(), Error> {
    set_refills(db, today, refills(db, today)?.saturating_add(1))
}

/// What a service has said is left, at most what was known: nobody but this client adds to a pool.
fn take_over(
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
            db.execute(
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

impl Engine {
    /// KeyPackages that others can still claim of this user, by ciphersuite, as the service counts
    /// them. What is missing is published by the next [`Client::sync`].
    ///
    /// # Errors
    /// [`Error::Unreachable`] and whatever the request meets.
    pub(crate) async fn count_key_packages(&mut self) -> Result<Vec<(u16, u32)>, Error> {
        let _held = self.hold().await?;
        let mut sums: Vec<(u16, u32)> = Vec::new();
        for (key, pool) in contacts::pools(&self.db)? {
            let counted = self.count_pool(&key, &pool).await?;
            for count in &counted.counts {
                match sums
                    .iter_mut()
                    .find(|(suite, _)| *suite == count.ciphersuite)
                {
                    Some((_, sum)) => *sum = sum.saturating_add(count.sets),
                    None => sums.push((count.ciphersuite, count.sets)),
                }
            }
        }
        Ok(sums)
    }

    /// Asks when it is time to: for each pool at a time of its own.
    pub(super) async fn count_when_due(
        &mut self,
        contact: &[u8],
        pool: &PoolKeys,
        now_ms: u64,
    ) -> Result<(), Error> {
        let due_ms: i64 = self.db.query_row(
            "SELECT pool_due_ms FROM contacts WHERE signature_key = ?",
            [contact],
            |row| row.get(0),
        )?;
        // No draw gives a later one: another clock did.
        let latest_ms = now_ms.saturating_add(INTERVAL_MS.saturating_mul(2));
        let due_ms = u64::try_from(due_ms).unwrap_or(0);
        if now_ms < due_ms && due_ms <= latest_ms {
            return Ok(());
        }
        self.count_pool(contact, pool).await.map(drop)
    }

    async fn count_pool(
        &mut self,
        contact: &[u8],
        pool: &PoolKeys,
    ) -> Result<CountKeyPackagesResponse, Error> {
        let request = CountKeyPackagesRequest {
            pool: pool.token().pool(),
        };
        let counted = match self
            .call(Operation::CountKeyPackages, pool.owner(), &request)
            .await
        {
            // There is no pool: nothing was published yet, or the service has lost it.
            Err(Error::Refused(refusal)) if refusal.problem == ProblemType::NotOwner => {
                CountKeyPackagesResponse { counts: Vec::new() }
            }
            other => other?,
        };
        let now_ms = self.transport.time.now_unix_ms();
        let [random] = crypto::random::<1>()?;
        // Between a half and one and a half times the interval.
        let wait_ms =
            (INTERVAL_MS / 2).saturating_add(INTERVAL_MS.saturating_mul(random.into()) / 255);
        let next_ms = i64::try_from(now_ms.saturating_add(wait_ms)).unwrap_or(i64::MAX);
        self.transact(|db, _| {
            take_over(db, contact, &counted, day_of(now_ms))?;
            db.execute(
                "UPDATE contacts SET pool_due_ms = ? WHERE signature_key = ?",
                (next_ms, contact),
            )?;
            Ok(())
        })?;
        Ok(counted)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::key_packages::KeyPackageCount;

    use super::*;
    use crate::events::stored;

    const TODAY: u32 = 20_000;
    const BOB: [u8; 32] = [7; 32];

    fn counted(sets: u32, days: u32) -> CountKeyPackagesResponse {
        CountKeyPackagesResponse {
            counts: vec![KeyPackageCount {
                ciphersuite: 1,
                expiry: protocol::ids::Week(u16::try_from((TODAY + days) / 7).unwrap()),
                sets,
            }],
        }
    }

    fn left(db: &Connection) -> u32 {
        db.query_row("SELECT sets_left FROM key_packages", (), |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn what_the_service_counts_is_believed_if_it_is_less_and_not_about_to_expire() {
        let db = crate::database::in_memory().unwrap();
        crate::profile::tests::profile(&db);
        crate::contacts::tests::contact("bob", 7)
            .store(&db)
            .unwrap();
        db.execute("INSERT INTO key_packages VALUES (?, 1, 20)", [BOB])
            .unwrap();
        take_over(&db, &BOB, &counted(500, 60), TODAY).unwrap();
        assert_eq!(left(&db), 20);
        take_over(&db, &BOB, &counted(18, 60), TODAY).unwrap();
        assert_eq!(left(&db), 18);
        assert!(stored(&db).is_empty());
        take_over(&db, &BOB, &counted(18, 6), TODAY).unwrap();
        assert_eq!(left(&db), 0);
        assert_eq!(stored(&db), [Event::KeyPackagesTaken { taken: 18 }]);
    }

    #[test]
    fn a_service_that_says_without_end_that_all_are_gone_costs_a_few_publications_a_day() {
        let db = crate::database::in_memory().unwrap();
        crate::profile::tests::profile(&db);
        crate::contacts::tests::contact("bob", 7)
            .store(&db)
            .unwrap();
        db.execute("INSERT INTO key_packages VALUES (?, 1, 20)", [BOB])
            .unwrap();
        let mut publications = 0;
        for _ in 0..50 {
            take_over(&db, &BOB, &counted(0, 60), TODAY).unwrap();
            if left(&db) == 0 {
                publications += 1;
                db.execute("UPDATE key_packages SET sets_left = 20", ())
                    .unwrap();
            }
        }
        assert_eq!(publications, REFILLS);
        take_over(&db, &BOB, &counted(0, 60), TODAY + 1).unwrap();
        assert_eq!(left(&db), 0, "the next day it is believed again");
    }
}
