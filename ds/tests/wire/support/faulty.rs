//! A store that fails once, right before or right after a write of the test's choice: every point at which a
//! process can die, as seen by those who talk to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use crypto::rows::Row;
use ds::store::{
    Advance, ClaimableSet, ConsumedSet, DayRow, Deliveries, ExpiryDays, GroupDeletion, NewGroup,
    NewKeyPackageSet, Parts, Receipt, Reservation, RetiredIssuerKey, SetCount, Spend, Store,
    StoreError, StoredGroup, Version,
};
use protocol::ids::Incarnation;

/// Where the failure is: at this write, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    Before(u64),
    After(u64),
}

pub struct Faulty {
    engine: Arc<dyn Store>,
    crash: Option<Crash>,
    writes: AtomicU64,
}

impl Faulty {
    pub fn new(engine: Arc<dyn Store>, crash: Option<Crash>) -> Self {
        Self {
            engine,
            crash,
            writes: AtomicU64::new(0),
        }
    }

    /// How many writes were asked for.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// Whether the failure is behind us.
    pub fn has_failed(&self) -> bool {
        match self.crash {
            Some(Crash::Before(number) | Crash::After(number)) => self.writes() >= number,
            None => false,
        }
    }

    async fn write(
        &self,
        write: impl Future<Output = Result<(), StoreError>> + Send,
    ) -> Result<(), StoreError> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let failure = || Err(StoreError::Engine("a crash of the test".to_owned()));
        if self.crash == Some(Crash::Before(number)) {
            return failure();
        }
        let outcome = write.await;
        if self.crash == Some(Crash::After(number)) {
            return failure();
        }
        outcome
    }
}

#[async_trait]
impl Store for Faulty {
    async fn result(&self, at: DayRow) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.result(at).await
    }

    async fn reserve_group(
        &self,
        reservation: Reservation,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(self.engine.reserve_group(reservation, receipt))
            .await
    }

    async fn create_group(&self, group: NewGroup, receipt: Receipt) -> Result<(), StoreError> {
        self.write(self.engine.create_group(group, receipt)).await
    }

    async fn use_up_reservation(
        &self,
        group: Row,
        reservation_days: Vec<u32>,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(
            self.engine
                .use_up_reservation(group, reservation_days, owner_tag, receipt),
        )
        .await
    }

    async fn reservation(&self, at: Vec<DayRow>) -> Result<Option<[u8; 32]>, StoreError> {
        self.engine.reservation(at).await
    }

    async fn key_check(&self, group: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.key_check(group).await
    }

    async fn group(&self, group: Row, parts: Parts) -> Result<Option<StoredGroup>, StoreError> {
        self.engine.group(group, parts).await
    }

    async fn advance_group(&self, advance: Advance, receipt: Receipt) -> Result<(), StoreError> {
        self.write(self.engine.advance_group(advance, receipt))
            .await
    }

    async fn delete_group(
        &self,
        deletion: GroupDeletion,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(self.engine.delete_group(deletion, receipt))
            .await
    }

    async fn deliver_to_group(
        &self,
        group: Row,
        expected: Version,
        deliveries: Deliveries,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(
            self.engine
                .deliver_to_group(group, expected, deliveries, receipt),
        )
        .await
    }

    async fn deliver(&self, deliveries: Deliveries, receipt: Receipt) -> Result<(), StoreError> {
        self.write(self.engine.deliver(deliveries, receipt)).await
    }

    async fn join_record(&self, at: Vec<DayRow>) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.join_record(at).await
    }

    async fn recovery_record(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.recovery_record(row).await
    }

    async fn create_queue(
        &self,
        row: Row,
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(self.engine.create_queue(row, sealed, receipt))
            .await
    }

    async fn queue(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.queue(row).await
    }

    async fn queues(&self, rows: Vec<Row>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.engine.queues(rows).await
    }

    async fn replace_queue(
        &self,
        row: Row,
        expected: Vec<u8>,
        sealed: Option<Vec<u8>>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(self.engine.replace_queue(row, expected, sealed, receipt))
            .await
    }

    async fn register_incarnation(
        &self,
        day: u32,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        self.write(self.engine.register_incarnation(day, incarnation))
            .await
    }

    async fn incarnations(&self) -> Result<Vec<(u32, Incarnation)>, StoreError> {
        self.engine.incarnations().await
    }

    async fn blocks(&self, at: Vec<DayRow>) -> Result<Vec<bool>, StoreError> {
        self.engine.blocks(at).await
    }

    async fn entries(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.engine.entries(at).await
    }

    async fn payloads(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.engine.payloads(at).await
    }

    async fn acknowledge(&self, entries: Vec<(DayRow, DayRow)>) -> Result<(), StoreError> {
        self.write(self.engine.acknowledge(entries)).await
    }

    async fn publish_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        sets: Vec<NewKeyPackageSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(
            self.engine
                .publish_key_packages(pool, owner_tag, sets, receipt),
        )
        .await
    }

    async fn delete_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(self.engine.delete_key_packages(pool, owner_tag, receipt))
            .await
    }

    async fn count_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        today: u32,
    ) -> Result<Vec<SetCount>, StoreError> {
        self.engine.count_key_packages(pool, owner_tag, today).await
    }

    async fn claimable_set(
        &self,
        pool: Row,
        ciphersuite: u16,
        today: u32,
        pick: u64,
    ) -> Result<Option<ClaimableSet>, StoreError> {
        self.engine
            .claimable_set(pool, ciphersuite, today, pick)
            .await
    }

    async fn claim_key_packages(
        &self,
        sets: Vec<ConsumedSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(self.engine.claim_key_packages(sets, receipt))
            .await
    }

    async fn register_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(self.engine.register_handle(row, owner_tag, sealed, receipt))
            .await
    }

    async fn handle(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.handle(row).await
    }

    async fn delete_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.write(self.engine.delete_handle(row, owner_tag, receipt))
            .await
    }

    async fn is_spent(&self, spends: Vec<Spend>) -> Result<bool, StoreError> {
        self.engine.is_spent(spends).await
    }

    async fn settle(&self, receipt: Receipt) -> Result<(), StoreError> {
        self.write(self.engine.settle(receipt)).await
    }

    async fn expire(&self, before: ExpiryDays) -> Result<(), StoreError> {
        self.write(self.engine.expire(before)).await
    }

    async fn spent_issuer_keys(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.engine.spent_issuer_keys().await
    }

    async fn retire_issuer_key(
        &self,
        issuer_key_id: [u8; 32],
        since_ms: u64,
    ) -> Result<(), StoreError> {
        self.write(self.engine.retire_issuer_key(issuer_key_id, since_ms))
            .await
    }

    async fn readmit_issuer_key(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        self.write(self.engine.readmit_issuer_key(issuer_key_id))
            .await
    }

    async fn retired_issuer_keys(&self) -> Result<Vec<RetiredIssuerKey>, StoreError> {
        self.engine.retired_issuer_keys().await
    }

    async fn drop_spent(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        self.write(self.engine.drop_spent(issuer_key_id)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.engine.check().await
    }
}
