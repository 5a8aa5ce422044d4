//! The end of expired days and issuer keys.

use super::groups::nth;
use super::session::{Sessions, Step, malformed, step};
use super::sql;
use crate::store::{ExpiryDays, StoreError};

impl Sessions {
    /// Not one transition: each batch for itself, so that locks are short and what a crash leaves goes
    /// next time. Partitions by day, which a server drops at the cost of a file, are for when the
    /// deleting shows in an operator's numbers.
    pub(super) async fn expire(&self, before: ExpiryDays) -> Result<(), StoreError> {
        let ExpiryDays {
            queues,
            results,
            join_records,
            reservations,
            key_packages,
        } = before;
        for (sql, day) in [
            // Entries before what they point to.
            (sql::EXPIRE_ENTRIES, queues),
            (sql::EXPIRE_BLOCKS, queues),
            (sql::EXPIRE_PAYLOADS, queues),
            (sql::EXPIRE_RELEASED, queues),
            (sql::EXPIRE_INCARNATIONS, queues),
            (sql::EXPIRE_RESULTS, results),
            (sql::EXPIRE_JOIN_RECORDS, join_records),
            (sql::EXPIRE_RESERVATIONS, reservations),
            (sql::EXPIRE_SETS, key_packages),
            (sql::EXPIRE_LAST_RESORT, key_packages),
        ] {
            while self.delete_batch(step!(sql; i64::from(day))).await? > 0 {}
        }
        Ok(())
    }

    pub(super) async fn drop_spent(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        let step = || step!(sql::DROP_SPENT; &issuer_key_id[..]);
        while self.delete_batch(step()).await? > 0 {}
        Ok(())
    }

    pub(super) async fn spent_issuer_keys(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        let mut keys: Vec<[u8; 32]> = Vec::new();
        loop {
            let last = keys.last().map_or(&[][..], |key| &key[..]);
            let found = self.run(&[step!(sql::NEXT_ISSUER_KEY; last)]).await?;
            let Some(key) = nth(&found, 0)?.value()? else {
                return Ok(keys);
            };
            keys.push(key.try_into().map_err(|_| malformed())?);
        }
    }

    async fn delete_batch(&self, step: Step<'_>) -> Result<u64, StoreError> {
        let outcomes = self.run(&[step]).await?;
        Ok(outcomes.iter().map(|outcome| outcome.affected).sum())
    }
}
