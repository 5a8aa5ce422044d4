//! The end of expired days and issuer keys.

use super::groups::nth;
use super::session::{Sessions, Step, malformed, step};
use super::sql;
use crate::store::{ExpiryDays, RetiredIssuerKey, StoreError};

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
        // Closed and committed before the first row goes.
        self.run(&[step!(sql::CLOSE_ISSUER_KEY; &issuer_key_id[..])])
            .await?;
        let step = || step!(sql::DROP_SPENT; &issuer_key_id[..]);
        while self.delete_batch(step()).await? > 0 {}
        Ok(())
    }

    pub(super) async fn retire_issuer_key(
        &self,
        issuer_key_id: [u8; 32],
        since_ms: u64,
    ) -> Result<(), StoreError> {
        let since_ms = i64::try_from(since_ms).unwrap_or(i64::MAX);
        let step = step!(sql::RETIRE_ISSUER_KEY; &issuer_key_id[..], since_ms);
        self.run(&[step]).await.map(drop)
    }

    pub(super) async fn readmit_issuer_key(
        &self,
        issuer_key_id: [u8; 32],
    ) -> Result<(), StoreError> {
        let step = step!(sql::READMIT_ISSUER_KEY; &issuer_key_id[..]);
        self.run(&[step]).await.map(drop)
    }

    pub(super) async fn retired_issuer_keys(&self) -> Result<Vec<RetiredIssuerKey>, StoreError> {
        let found = self.run(&[step!(sql::RETIRED_ISSUER_KEYS;)]).await?;
        nth(&found, 0)?
            .rows
            .iter()
            .map(|row| {
                let id: &[u8] = row.try_get(0).map_err(|_| malformed())?;
                let since_ms: i64 = row.try_get(1).map_err(|_| malformed())?;
                Ok(RetiredIssuerKey {
                    id: id.try_into().map_err(|_| malformed())?,
                    since_ms: u64::try_from(since_ms).unwrap_or(0),
                    closed: row.try_get(2).map_err(|_| malformed())?,
                })
            })
            .collect()
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
