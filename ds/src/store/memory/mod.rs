//! The engine of the tests: maps in memory, one lock around them. Same answers as every other engine,
//! nothing survives.

mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use crypto::rows::Row;
use protocol::ids::Incarnation;

use self::tables::Tables;
use super::{
    Advance, CLAIM_CANDIDATES, ClaimableSet, ConsumedSet, DayRow, Deliveries, ExpiryDays,
    Foundation, GroupDeletion, MAX_COUNTED, NewGroup, NewKeyPackageSet, Note, Parts,
    ProposalsChange, Receipt, Reservation, RetiredIssuerKey, SetCount, Spend, Store, StoreError,
    StoredGroup, Version,
};

/// Maps in memory as a [`Store`].
#[derive(Default)]
pub struct Memory {
    tables: Mutex<Tables>,
    notes: Mutex<BTreeMap<Note, Vec<u8>>>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            tables: _,
            notes: _,
        } = self;
        f.write_str("Memory(..)")
    }
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<Note, Vec<u8>>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Transitions check everything before they change anything, so a panic in between (which would
    /// poison the lock) leaves the tables whole.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Foundation for Memory {
    async fn note(&self, note: Note) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.notes().get(&note).cloned())
    }

    async fn write_note(&self, note: Note, value: Vec<u8>) -> Result<(), StoreError> {
        self.notes().insert(note, value);
        Ok(())
    }

    async fn replace_note(
        &self,
        note: Note,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> Result<(), StoreError> {
        let mut notes = self.notes();
        if notes.get(&note) != expected.as_ref() {
            return Err(StoreError::Conflict);
        }
        notes.insert(note, value);
        Ok(())
    }
}

#[async_trait]
impl Store for Memory {
    async fn result(&self, at: DayRow) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables().results.get(&at).cloned())
    }

    async fn reserve_group(
        &self,
        reservation: Reservation,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        let reserved = reservation
            .near()
            .any(|at| tables.reservations.contains_key(&at));
        if reserved || tables.groups.contains_key(&reservation.at.row) {
            return Err(StoreError::Taken);
        }
        tables.record(receipt);
        tables
            .reservations
            .insert(reservation.at, reservation.owner_tag);
        Ok(())
    }

    async fn create_group(&self, group: NewGroup, receipt: Receipt) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        let mut days = group.reservation_days.iter().map(|day| DayRow {
            day: *day,
            row: group.group,
        });
        let reservation = days
            .find(|at| tables.reservations.get(at) == Some(&group.owner_tag))
            .ok_or(StoreError::Absent)?;
        if tables.groups.contains_key(&group.group) {
            return Err(StoreError::Taken);
        }
        tables.record(receipt);
        tables.reservations.remove(&reservation);
        tables
            .groups
            .insert(group.group, Some((group.version, group.roster)));
        tables.key_checks.insert(group.group, group.key_check);
        tables.trees.insert(group.group, group.tree);
        Ok(())
    }

    async fn use_up_reservation(
        &self,
        group: Row,
        reservation_days: Vec<u32>,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        let at = reservation_days
            .iter()
            .map(|day| DayRow {
                day: *day,
                row: group,
            })
            .find(|at| tables.reservations.get(at) == Some(&owner_tag))
            .ok_or(StoreError::Absent)?;
        tables.record(receipt);
        tables.reservations.remove(&at);
        Ok(())
    }

    async fn reservation(&self, at: Vec<DayRow>) -> Result<Option<[u8; 32]>, StoreError> {
        let tables = self.tables();
        Ok(at
            .iter()
            .find_map(|at| tables.reservations.get(at))
            .copied())
    }

    async fn key_check(&self, group: Row) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables().key_checks.get(&group).cloned())
    }

    async fn group(&self, group: Row, parts: Parts) -> Result<Option<StoredGroup>, StoreError> {
        let tables = self.tables();
        let Parts { tree, proposals } = parts;
        let part = |table: &BTreeMap<Row, Vec<u8>>, asked: bool| {
            table.get(&group).filter(|_| asked).cloned()
        };
        Ok(tables
            .groups
            .get(&group)
            .and_then(Option::as_ref)
            .map(|(version, roster)| StoredGroup {
                version: *version,
                roster: roster.clone(),
                tree: part(&tables.trees, tree),
                proposals: part(&tables.proposals, proposals),
            }))
    }

    async fn advance_group(&self, advance: Advance, receipt: Receipt) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        tables.expect_version(&advance.group, &advance.expected)?;
        tables.record(receipt);
        tables
            .groups
            .insert(advance.group, Some((advance.next, advance.roster)));
        tables.key_checks.insert(advance.group, advance.key_check);
        if let Some(tree) = advance.tree {
            tables.trees.insert(advance.group, tree);
        }
        match advance.proposals {
            ProposalsChange::Keep => {}
            ProposalsChange::Put(sealed) => {
                tables.proposals.insert(advance.group, sealed);
            }
            ProposalsChange::Clear => {
                tables.proposals.remove(&advance.group);
            }
        }
        for at in advance.dropped_join_records {
            tables.join_records.remove(&at);
        }
        tables.join_records.extend(advance.join_record);
        for row in advance.dropped_recovery_records {
            tables.recovery.remove(&row);
        }
        tables.recovery.extend(advance.recovery_records);
        tables.insert(advance.deliveries);
        Ok(())
    }

    async fn delete_group(
        &self,
        deletion: GroupDeletion,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let GroupDeletion {
            group,
            expected,
            dropped_recovery_records,
            dropped_join_records,
            deliveries,
        } = deletion;
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        tables.expect_version(&group, &expected)?;
        tables.record(receipt);
        tables.groups.insert(group, None);
        tables.key_checks.remove(&group);
        tables.trees.remove(&group);
        tables.proposals.remove(&group);
        for row in dropped_recovery_records {
            tables.recovery.remove(&row);
        }
        for at in dropped_join_records {
            tables.join_records.remove(&at);
        }
        tables.insert(deliveries);
        Ok(())
    }

    async fn deliver_to_group(
        &self,
        group: Row,
        expected: Version,
        deliveries: Deliveries,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        tables.expect_version(&group, &expected)?;
        tables.record(receipt);
        tables.insert(deliveries);
        Ok(())
    }

    async fn deliver(&self, deliveries: Deliveries, receipt: Receipt) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        tables.record(receipt);
        tables.insert(deliveries);
        Ok(())
    }

    async fn join_record(&self, at: Vec<DayRow>) -> Result<Option<Vec<u8>>, StoreError> {
        let tables = self.tables();
        Ok(at
            .iter()
            .find_map(|at| tables.join_records.get(at))
            .cloned())
    }

    async fn recovery_record(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables().recovery.get(&row).cloned())
    }

    async fn create_queue(
        &self,
        row: Row,
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        if tables.queues.contains_key(&row) {
            return Err(StoreError::Taken);
        }
        tables.record(receipt);
        tables.queues.insert(row, sealed);
        Ok(())
    }

    async fn queue(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables().queues.get(&row).cloned())
    }

    async fn queues(&self, rows: Vec<Row>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let tables = self.tables();
        Ok(rows
            .iter()
            .map(|row| tables.queues.get(row).cloned())
            .collect())
    }

    async fn replace_queue(
        &self,
        row: Row,
        expected: Vec<u8>,
        sealed: Option<Vec<u8>>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        if tables.queues.get(&row) != Some(&expected) {
            return Err(StoreError::Conflict);
        }
        tables.record(receipt);
        match sealed {
            Some(sealed) => tables.queues.insert(row, sealed),
            None => tables.queues.remove(&row),
        };
        Ok(())
    }

    async fn register_incarnation(
        &self,
        day: u32,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        self.tables().incarnations.insert((day, incarnation.0));
        Ok(())
    }

    async fn incarnations(&self) -> Result<Vec<(u32, Incarnation)>, StoreError> {
        let tables = self.tables();
        Ok(tables
            .incarnations
            .iter()
            .map(|(day, incarnation)| (*day, Incarnation(*incarnation)))
            .collect())
    }

    async fn blocks(&self, at: Vec<DayRow>) -> Result<Vec<bool>, StoreError> {
        let tables = self.tables();
        Ok(at.iter().map(|at| tables.blocks.contains(at)).collect())
    }

    async fn entries(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let tables = self.tables();
        Ok(at
            .iter()
            .map(|at| tables.entries.get(at).cloned())
            .collect())
    }

    async fn payloads(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let tables = self.tables();
        Ok(at
            .iter()
            .map(|at| tables.payloads.get(at).cloned())
            .collect())
    }

    async fn acknowledge(&self, entries: Vec<(DayRow, DayRow)>) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let tables = &mut *tables;
        let given_up: BTreeMap<DayRow, DayRow> = entries.into_iter().collect();
        for (entry, payload) in given_up {
            if tables.entries.remove(&entry).is_none() {
                continue;
            }
            let references = tables.payload_refs.entry(payload).or_default();
            *references = references.saturating_sub(1);
            if *references <= 0 {
                tables.payload_refs.remove(&payload);
                tables.payloads.remove(&payload);
            }
        }
        Ok(())
    }

    async fn publish_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        sets: Vec<NewKeyPackageSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        if tables
            .pools
            .get(&pool)
            .is_some_and(|owner| *owner != owner_tag)
        {
            return Err(StoreError::Taken);
        }
        tables.record(receipt);
        tables.pools.insert(pool, owner_tag);
        for set in sets {
            let NewKeyPackageSet {
                id,
                ciphersuite,
                expiry_day,
                last_resort,
                sealed,
            } = set;
            if last_resort {
                tables
                    .last_resort
                    .insert((pool, ciphersuite), (expiry_day, sealed));
            } else {
                tables.key_packages.insert(
                    ConsumedSet {
                        pool,
                        ciphersuite,
                        expiry_day,
                        id,
                    },
                    sealed,
                );
            }
        }
        Ok(())
    }

    async fn delete_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        let owner = tables.pools.get(&pool).ok_or(StoreError::Absent)?;
        if *owner != owner_tag {
            return Err(StoreError::Taken);
        }
        tables.record(receipt);
        tables.pools.remove(&pool);
        tables.key_packages.retain(|set, _| set.pool != pool);
        tables.last_resort.retain(|(of, _), _| *of != pool);
        Ok(())
    }

    async fn count_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        today: u32,
    ) -> Result<Vec<SetCount>, StoreError> {
        let tables = self.tables();
        let owner = tables.pools.get(&pool).ok_or(StoreError::Absent)?;
        if *owner != owner_tag {
            return Err(StoreError::Taken);
        }
        let mut counts = Vec::new();
        let sets = tables.key_packages.keys();
        for set in sets
            .filter(|set| set.pool == pool && set.expiry_day >= today)
            .take(MAX_COUNTED)
        {
            SetCount::add(&mut counts, set.ciphersuite, set.expiry_day);
        }
        for ((of, ciphersuite), (expiry_day, _)) in &tables.last_resort {
            if *of == pool && *expiry_day >= today {
                counts.push(SetCount {
                    ciphersuite: *ciphersuite,
                    expiry_day: *expiry_day,
                    last_resort: true,
                    sets: 1,
                });
            }
        }
        Ok(counts)
    }

    async fn claimable_set(
        &self,
        pool: Row,
        ciphersuite: u16,
        today: u32,
        pick: u64,
    ) -> Result<Option<ClaimableSet>, StoreError> {
        let tables = self.tables();
        let at = |expiry_day, id| ConsumedSet {
            pool,
            ciphersuite,
            expiry_day,
            id,
        };
        let unexpired = tables
            .key_packages
            .range(at(today, [0; 16])..=at(u32::MAX, [0xff; 16]));
        let candidates: Vec<_> = unexpired.take(CLAIM_CANDIDATES).collect();
        let start = pick
            .checked_rem(candidates.len() as u64)
            .and_then(|start| usize::try_from(start).ok());
        if let Some((set, sealed)) = start.and_then(|start| candidates.get(start)) {
            return Ok(Some(ClaimableSet {
                consume: Some(**set),
                sealed: (*sealed).clone(),
            }));
        }
        let last_resort = tables.last_resort.get(&(pool, ciphersuite));
        Ok(last_resort
            .filter(|(expiry_day, _)| *expiry_day >= today)
            .map(|(_, sealed)| ClaimableSet {
                consume: None,
                sealed: sealed.clone(),
            }))
    }

    async fn claim_key_packages(
        &self,
        sets: Vec<ConsumedSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        let mut seen = BTreeSet::new();
        if !sets
            .iter()
            .all(|set| tables.key_packages.contains_key(set) && seen.insert(*set))
        {
            return Err(StoreError::Conflict);
        }
        tables.record(receipt);
        for set in sets {
            tables.key_packages.remove(&set);
        }
        Ok(())
    }

    async fn register_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        if tables
            .handles
            .get(&row)
            .is_some_and(|(owner, _)| *owner != owner_tag)
        {
            return Err(StoreError::Taken);
        }
        tables.record(receipt);
        tables.handles.insert(row, (owner_tag, sealed));
        Ok(())
    }

    async fn handle(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .tables()
            .handles
            .get(&row)
            .map(|(_, sealed)| sealed.clone()))
    }

    async fn delete_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        let (owner, _) = tables.handles.get(&row).ok_or(StoreError::Absent)?;
        if *owner != owner_tag {
            return Err(StoreError::Taken);
        }
        tables.record(receipt);
        tables.handles.remove(&row);
        Ok(())
    }

    async fn is_spent(&self, spends: Vec<Spend>) -> Result<bool, StoreError> {
        let tables = self.tables();
        Ok(spends
            .iter()
            .any(|spend| tables.is_spent(&(spend.issuer_key_id, spend.row))))
    }

    async fn settle(&self, receipt: Receipt) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.admit(&receipt)?;
        tables.record(receipt);
        Ok(())
    }

    async fn expire(&self, before: ExpiryDays) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let ExpiryDays {
            queues,
            results,
            join_records,
            reservations,
            key_packages,
        } = before;
        tables.entries.retain(|at, _| at.day >= queues);
        tables.blocks.retain(|at| at.day >= queues);
        tables.payloads.retain(|at, _| at.day >= queues);
        tables.payload_refs.retain(|at, _| at.day >= queues);
        tables.incarnations.retain(|(day, _)| *day >= queues);
        tables.results.retain(|at, _| at.day >= results);
        tables.join_records.retain(|at, _| at.day >= join_records);
        tables.reservations.retain(|at, _| at.day >= reservations);
        tables
            .key_packages
            .retain(|set, _| set.expiry_day >= key_packages);
        tables
            .last_resort
            .retain(|_, (expiry_day, _)| *expiry_day >= key_packages);
        Ok(())
    }

    async fn spent_issuer_keys(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        let tables = self.tables();
        let keys: BTreeSet<[u8; 32]> = tables.spent.iter().map(|(key, _)| *key).collect();
        Ok(keys.into_iter().collect())
    }

    async fn retire_issuer_key(
        &self,
        issuer_key_id: [u8; 32],
        since_ms: u64,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let noted = tables.issuer_keys.entry(issuer_key_id);
        noted.or_insert((since_ms, false));
        Ok(())
    }

    async fn readmit_issuer_key(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        self.tables()
            .issuer_keys
            .retain(|id, (_, closed)| *closed || *id != issuer_key_id);
        Ok(())
    }

    async fn retired_issuer_keys(&self) -> Result<Vec<RetiredIssuerKey>, StoreError> {
        let tables = self.tables();
        let keys = tables.issuer_keys.iter();
        Ok(keys
            .map(|(id, (since_ms, closed))| RetiredIssuerKey {
                id: *id,
                since_ms: *since_ms,
                closed: *closed,
            })
            .collect())
    }

    async fn drop_spent(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.issuer_keys.entry(issuer_key_id).or_default().1 = true;
        tables.spent.retain(|(issuer, _)| *issuer != issuer_key_id);
        Ok(())
    }

    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
