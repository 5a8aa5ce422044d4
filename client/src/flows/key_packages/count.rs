//! How many sets there still are: asked of the service, since contacts claim without telling.

use protocol::key_packages::{CountKeyPackagesRequest, CountKeyPackagesResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::time::day_of;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::Error;
use crate::store::contacts;
use crate::store::key_packages::{refills, set_refills, take_over};
use crate::sync_message::PoolKeys;

/// Asked every so often, on average; the times are random.
const INTERVAL_MS: u64 = 12 * 60 * 60 * 1000;

/// So often a day sets are published in vain before the next day is waited for.
const FAILURES: u32 = 24;

/// Whether publishing is worth its tokens: not when the service has taken them in vain all day.
pub(crate) fn may_publish(db: &Connection, today: u32) -> Result<bool, Error> {
    Ok(refills(db, today)? < FAILURES)
}

/// Tokens were presented, and what came back says nothing of sets that are published.
pub(crate) fn published_in_vain(db: &Connection, today: u32) -> Result<(), Error> {
    set_refills(db, today, refills(db, today)?.saturating_add(1))
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
        let due_ms = contacts::pool_due_ms(&self.db, contact)?;
        // No draw gives a later one: another clock did.
        let latest_ms = now_ms.saturating_add(INTERVAL_MS.saturating_mul(2));
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
            contacts::set_pool_due_ms(db, contact, next_ms)
        })?;
        Ok(counted)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::key_packages::KeyPackageCount;

    use super::*;
    use crate::store::events::Event;
    use crate::store::events::stored;
    use crate::store::key_packages::REFILLS;

    const TODAY: u32 = 20_000;
    const BOB: [u8; 32] = [7; 32];

    fn counted(sets: u32, days: u32) -> CountKeyPackagesResponse {
        CountKeyPackagesResponse {
            counts: vec![KeyPackageCount {
                ciphersuite: 79,
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
        let db = crate::store::database::in_memory().unwrap();
        crate::store::profile::tests::profile(&db);
        crate::store::contacts::tests::contact("bob", 7)
            .store(&db)
            .unwrap();
        db.execute("INSERT INTO key_packages VALUES (?, 79, 20)", [BOB])
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
        let db = crate::store::database::in_memory().unwrap();
        crate::store::profile::tests::profile(&db);
        crate::store::contacts::tests::contact("bob", 7)
            .store(&db)
            .unwrap();
        db.execute("INSERT INTO key_packages VALUES (?, 79, 20)", [BOB])
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
