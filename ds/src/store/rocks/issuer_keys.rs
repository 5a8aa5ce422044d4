//! Spent-sets by issuer key: which keys are gone, and the end of their sets.

use super::tables::{Table, retired_of, retired_value};
use super::{Engine, malformed};
use crate::store::{RetiredIssuerKey, StoreError};

impl Engine {
    pub(super) fn retire_issuer_key(&self, id: &[u8; 32], since_ms: u64) -> Result<(), StoreError> {
        let _held = self.hold_issuer_key(id);
        if self.has(Table::IssuerKeys, id)? {
            return Ok(());
        }
        let mut batch = self.batch();
        batch.put(Table::IssuerKeys, id, &retired_value(since_ms, false))?;
        batch.write()
    }

    pub(super) fn readmit_issuer_key(&self, id: &[u8; 32]) -> Result<(), StoreError> {
        let _held = self.hold_issuer_key(id);
        if self.is_closed(id)? {
            return Ok(());
        }
        let mut batch = self.batch();
        batch.delete(Table::IssuerKeys, id)?;
        batch.write()
    }

    pub(super) fn retired_issuer_keys(&self) -> Result<Vec<RetiredIssuerKey>, StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.table(Table::IssuerKeys)?);
        let mut keys = Vec::new();
        rows.seek_to_first();
        while let (Some(id), Some(value)) = (rows.key(), rows.value()) {
            let (since_ms, closed) =
                retired_of(value).ok_or_else(|| malformed(Table::IssuerKeys))?;
            keys.push(RetiredIssuerKey {
                id: id.try_into().map_err(|_| malformed(Table::IssuerKeys))?,
                since_ms,
                closed,
            });
            rows.next();
        }
        rows.status().map_err(|error| self.unread(error))?;
        Ok(keys)
    }

    /// Closed and synced before the first row goes; who spends looks in the other order. So a token whose
    /// row is gone meets a closed key.
    pub(super) fn drop_spent(&self, id: &[u8; 32]) -> Result<(), StoreError> {
        {
            let _held = self.hold_issuer_key(id);
            let since_ms = match self.retired(id)? {
                Some((since_ms, _)) => since_ms,
                None => 0,
            };
            let mut batch = self.batch();
            batch.put(Table::IssuerKeys, id, &retired_value(since_ms, true))?;
            batch.write()?;
        }
        // One byte longer than any key of this issuer key, so behind all of them.
        let behind = [&id[..], &[0xff; 17]].concat();
        self.drop_range(Table::Spent, id, &behind)
    }

    pub(super) fn is_closed(&self, id: &[u8; 32]) -> Result<bool, StoreError> {
        Ok(self.retired(id)?.is_some_and(|(_, closed)| closed))
    }

    fn retired(&self, id: &[u8; 32]) -> Result<Option<(u64, bool)>, StoreError> {
        self.read(Table::IssuerKeys, id)?
            .map(|value| retired_of(&value).ok_or_else(|| malformed(Table::IssuerKeys)))
            .transpose()
    }

    fn hold_issuer_key(&self, id: &[u8; 32]) -> super::stripes::Held<'_> {
        self.conditions
            .claims()
            .exclusive(Table::IssuerKeys, id)
            .hold()
    }
}
