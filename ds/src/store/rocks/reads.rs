//! Reads: none of them waits for a writer.

use protocol::ids::Incarnation;
use rocksdb::ReadOptions;

use super::tables::{SET_KEY_LEN, TOMBSTONE, Table, day_key, set_of, spent_key, suite_key};
use super::{Engine, malformed};
use crate::store::{
    CLAIM_CANDIDATES, ClaimableSet, DayRow, MAX_COUNTED, Parts, SetCount, Spend, StoreError,
    StoredGroup,
};

/// Behind an owner's tag in pools and handles.
pub(super) const OWNER_TAG_LEN: usize = 32;

impl Engine {
    pub(super) fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read(table, key)?.map(|value| value.to_vec()))
    }

    pub(super) fn values(
        &self,
        table: Table,
        at: &[DayRow],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let keys: Vec<_> = at.iter().map(day_key).collect();
        self.each(table, &keys, |value| value.map(<[u8]>::to_vec))
    }

    pub(super) fn present(&self, table: Table, at: &[DayRow]) -> Result<Vec<bool>, StoreError> {
        let keys: Vec<_> = at.iter().map(day_key).collect();
        self.each(table, &keys, |value| value.is_some())
    }

    pub(super) fn queues(&self, rows: &[[u8; 16]]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.each(Table::Queues, rows, |value| value.map(<[u8]>::to_vec))
    }

    /// Looks all keys up in one go, which shares the work on filters and blocks.
    fn each<T, const N: usize>(
        &self,
        table: Table,
        keys: &[[u8; N]],
        take: impl Fn(Option<&[u8]>) -> T,
    ) -> Result<Vec<T>, StoreError> {
        self.db
            .batched_multi_get_cf(self.table(table)?, keys, false)
            .into_iter()
            .map(|value| Ok(take(value.map_err(|error| self.unread(error))?.as_deref())))
            .collect()
    }

    pub(super) fn group(
        &self,
        group: &[u8; 16],
        parts: Parts,
    ) -> Result<Option<StoredGroup>, StoreError> {
        let Parts { tree, proposals } = parts;
        // One point in time, so that the roster of one epoch never comes with the tree of another.
        let now = self.db.snapshot();
        let part = |table| -> Result<_, StoreError> {
            now.get_cf(self.table(table)?, group)
                .map_err(|error| self.unread(error))
        };
        let Some(value) = now
            .get_pinned_cf(self.table(Table::Groups)?, group)
            .map_err(|error| self.unread(error))?
            .filter(|value| **value != *TOMBSTONE)
        else {
            return Ok(None);
        };
        let (version, roster) = value
            .split_first_chunk()
            .ok_or_else(|| malformed(Table::Groups))?;
        let tree = if tree {
            Some(part(Table::Trees)?.ok_or_else(|| malformed(Table::Trees))?)
        } else {
            None
        };
        let proposals = if proposals {
            part(Table::Proposals)?
        } else {
            None
        };
        Ok(Some(StoredGroup {
            version: *version,
            roster: roster.to_vec(),
            tree,
            proposals,
        }))
    }

    pub(super) fn reservation(&self, at: &[DayRow]) -> Result<Option<[u8; 32]>, StoreError> {
        for at in at {
            if let Some(owner) = self.read(Table::Reservations, &day_key(at))? {
                let owner = owner.as_ref().try_into();
                return owner.map(Some).map_err(|_| malformed(Table::Reservations));
            }
        }
        Ok(None)
    }

    pub(super) fn is_spent(&self, spends: &[Spend]) -> Result<bool, StoreError> {
        for spend in spends {
            if self.has(Table::Spent, &spent_key(spend))? || self.is_closed(&spend.issuer_key_id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Jumps from one issuer key to the next.
    pub(super) fn spent_issuer_keys(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.table(Table::Spent)?);
        let mut keys = Vec::new();
        rows.seek_to_first();
        while let Some(row) = rows.key() {
            let key: [u8; 32] = *row.first_chunk().ok_or_else(|| malformed(Table::Spent))?;
            keys.push(key);
            rows.seek([&key[..], &[0xff; 17]].concat());
        }
        rows.status().map_err(|error| self.unread(error))?;
        Ok(keys)
    }

    pub(super) fn join_record(&self, at: &[DayRow]) -> Result<Option<Vec<u8>>, StoreError> {
        for at in at {
            if let Some(record) = self.value(Table::JoinRecords, &day_key(at))? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    pub(super) fn incarnations(&self) -> Result<Vec<(u32, Incarnation)>, StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.table(Table::Incarnations)?);
        rows.seek_to_first();
        let mut incarnations = Vec::new();
        while let Some(key) = rows.key() {
            let (day, incarnation) = key
                .split_first_chunk()
                .ok_or_else(|| malformed(Table::Incarnations))?;
            let incarnation = incarnation
                .try_into()
                .map_err(|_| malformed(Table::Incarnations))?;
            incarnations.push((u32::from_be_bytes(*day), Incarnation(incarnation)));
            rows.next();
        }
        rows.status().map_err(|error| self.unread(error))?;
        Ok(incarnations)
    }

    pub(super) fn count_key_packages(
        &self,
        pool: &[u8; 16],
        owner_tag: &[u8; OWNER_TAG_LEN],
        today: u32,
    ) -> Result<Vec<SetCount>, StoreError> {
        let owner = self.read(Table::Pools, pool)?.ok_or(StoreError::Absent)?;
        if *owner != *owner_tag {
            return Err(StoreError::Taken);
        }
        let rows_of = |table| -> Result<_, StoreError> {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(behind(pool));
            let mut rows = self.db.raw_iterator_cf_opt(self.table(table)?, options);
            rows.seek(pool);
            Ok(rows)
        };
        let mut counts = Vec::new();
        let mut counted = 0;
        let mut rows = rows_of(Table::KeyPackages)?;
        while let Some(key) = rows.key() {
            let set = set_of(key).ok_or_else(|| malformed(Table::KeyPackages))?;
            if set.expiry_day >= today {
                SetCount::add(&mut counts, set.ciphersuite, set.expiry_day);
                counted += 1;
            }
            if counted == MAX_COUNTED {
                break;
            }
            rows.next();
        }
        rows.status().map_err(|error| self.unread(error))?;

        let mut rows = rows_of(Table::LastResort)?;
        while let Some((key, value)) = rows.item() {
            let wrong = || malformed(Table::LastResort);
            let ciphersuite = key.last_chunk().ok_or_else(wrong)?;
            let expiry_day = u32::from_be_bytes(*value.first_chunk().ok_or_else(wrong)?);
            if expiry_day >= today {
                counts.push(SetCount {
                    ciphersuite: u16::from_be_bytes(*ciphersuite),
                    expiry_day,
                    last_resort: true,
                    sets: 1,
                });
            }
            rows.next();
        }
        rows.status().map_err(|error| self.unread(error))?;
        Ok(counts)
    }

    pub(super) fn claimable_set(
        &self,
        pool: &[u8; 16],
        ciphersuite: u16,
        today: u32,
        pick: u64,
    ) -> Result<Option<ClaimableSet>, StoreError> {
        let prefix = suite_key(pool, ciphersuite);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(behind(&prefix));
        let mut rows = self
            .db
            .raw_iterator_cf_opt(self.table(Table::KeyPackages)?, options);
        let mut candidates: Vec<Vec<u8>> = Vec::new();
        rows.seek([&prefix[..], &today.to_be_bytes()].concat());
        while let Some(key) = rows.key() {
            candidates.push(key.to_vec());
            if candidates.len() == CLAIM_CANDIDATES {
                break;
            }
            rows.next();
        }
        rows.status().map_err(|error| self.unread(error))?;
        let start = pick
            .checked_rem(candidates.len() as u64)
            .and_then(|start| usize::try_from(start).ok());
        if let Some(key) = start.and_then(|start| candidates.get(start)) {
            // The iterator stays at its point in time: the set is there even if it is claimed meanwhile.
            rows.seek(key);
            let sealed = rows
                .value()
                .ok_or_else(|| malformed(Table::KeyPackages))?
                .to_vec();
            let set = set_of(key).ok_or_else(|| malformed(Table::KeyPackages))?;
            return Ok(Some(ClaimableSet {
                consume: Some(set),
                sealed,
            }));
        }

        let Some(value) = self.read(Table::LastResort, &prefix)? else {
            return Ok(None);
        };
        let (expiry_day, sealed) = value
            .split_first_chunk()
            .ok_or_else(|| malformed(Table::LastResort))?;
        if u32::from_be_bytes(*expiry_day) < today {
            return Ok(None);
        }
        Ok(Some(ClaimableSet {
            consume: None,
            sealed: sealed.to_vec(),
        }))
    }

    pub(super) fn handle(&self, row: &[u8; 16]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(value) = self.read(Table::Handles, row)? else {
            return Ok(None);
        };
        let (_, sealed) = value
            .split_first_chunk::<OWNER_TAG_LEN>()
            .ok_or_else(|| malformed(Table::Handles))?;
        Ok(Some(sealed.to_vec()))
    }
}

/// Greater than every key of a set, or of a last-resort set, with this prefix.
pub(super) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.resize(SET_KEY_LEN + 1, 0xff);
    key
}
