//! What is stored, and what the transitions share.

use std::collections::{BTreeMap, BTreeSet};

use crypto::rows::Row;

use crate::store::{ConsumedSet, DayRow, Deliveries, Receipt, Spend, StoreError, Version};

#[derive(Default)]
pub(super) struct Tables {
    /// `None`: a tombstone.
    pub(super) groups: BTreeMap<Row, Option<(Version, Vec<u8>)>>,
    pub(super) key_checks: BTreeMap<Row, Vec<u8>>,
    pub(super) trees: BTreeMap<Row, Vec<u8>>,
    pub(super) proposals: BTreeMap<Row, Vec<u8>>,
    pub(super) reservations: BTreeMap<DayRow, [u8; 32]>,
    pub(super) join_records: BTreeMap<DayRow, Vec<u8>>,
    pub(super) recovery: BTreeMap<Row, Vec<u8>>,
    pub(super) entries: BTreeMap<DayRow, Vec<u8>>,
    pub(super) payloads: BTreeMap<DayRow, Vec<u8>>,
    pub(super) payload_refs: BTreeMap<DayRow, i64>,
    pub(super) blocks: BTreeSet<DayRow>,
    pub(super) incarnations: BTreeSet<(u32, [u8; 16])>,
    pub(super) queues: BTreeMap<Row, Vec<u8>>,
    pub(super) pools: BTreeMap<Row, [u8; 32]>,
    pub(super) key_packages: BTreeMap<ConsumedSet, Vec<u8>>,
    pub(super) last_resort: BTreeMap<(Row, u16), (u32, Vec<u8>)>,
    pub(super) handles: BTreeMap<Row, ([u8; 32], Vec<u8>)>,
    pub(super) results: BTreeMap<DayRow, Vec<u8>>,
    pub(super) spent: BTreeSet<([u8; 32], Row)>,
    /// Keys that are gone: since when, and whether they are closed.
    pub(super) issuer_keys: BTreeMap<[u8; 32], (u64, bool)>,
}

impl Tables {
    /// The checks of a receipt, in their order.
    pub(super) fn admit(&self, receipt: &Receipt) -> Result<(), StoreError> {
        if let Some(done) = receipt
            .result
            .as_ref()
            .and_then(|result| self.results.get(&result.at))
        {
            return Err(StoreError::AlreadyDone(done.clone()));
        }
        let mut seen = BTreeSet::new();
        for Spend { issuer_key_id, row } in &receipt.spends {
            let token = (*issuer_key_id, *row);
            if self.is_spent(&token) || !seen.insert(token) {
                return Err(StoreError::TokenSpent);
            }
        }
        Ok(())
    }

    pub(super) fn is_spent(&self, token: &([u8; 32], Row)) -> bool {
        let closed = self.issuer_keys.get(&token.0);
        self.spent.contains(token) || closed.is_some_and(|(_, closed)| *closed)
    }

    pub(super) fn record(&mut self, receipt: Receipt) {
        self.spent.extend(
            receipt
                .spends
                .into_iter()
                .map(|spend| (spend.issuer_key_id, spend.row)),
        );
        if let Some(result) = receipt.result {
            self.results.insert(result.at, result.sealed);
        }
    }

    pub(super) fn expect_version(&self, group: &Row, expected: &Version) -> Result<(), StoreError> {
        match self.groups.get(group) {
            Some(Some((version, _))) if version == expected => Ok(()),
            _ => Err(StoreError::Conflict),
        }
    }

    pub(super) fn insert(&mut self, deliveries: Deliveries) {
        let Deliveries {
            payloads,
            entries,
            blocks,
        } = deliveries;
        for payload in payloads {
            self.payloads.insert(payload.at, payload.sealed);
            self.payload_refs
                .insert(payload.at, i64::from(payload.references));
        }
        self.entries.extend(entries);
        self.blocks.extend(blocks);
    }
}
