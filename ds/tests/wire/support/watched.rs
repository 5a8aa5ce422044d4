//! A store that counts the transitions which happened, and lets a test act in between a domain
//! decision and its transition: races happen when the test says so.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use crypto::rows::Row;
use ds::store::{
    Advance, ClaimableSet, ConsumedSet, DayRow, Deliveries, ExpiryDays, GroupDeletion, NewGroup,
    NewKeyPackageSet, Parts, Receipt, Reservation, RetiredIssuerKey, SetCount, Spend, Store,
    StoreError, StoredGroup, Version,
};
use protocol::ids::Incarnation;

type Interlude = Pin<Box<dyn Future<Output = ()> + Send>>;

pub struct Watched {
    engine: Arc<dyn Store>,
    transitions: AtomicU64,
    /// The number of the last transition that only settled a receipt; 0 for none.
    settled: AtomicU64,
    entries_read: AtomicU64,
    looks: AtomicU64,
    key_checks_read: AtomicU64,
    rosters_read: AtomicU64,
    trees_read: AtomicU64,
    last_tree: Mutex<Option<Vec<u8>>>,
    put_back: Mutex<Option<Vec<u8>>>,
    interlude: Mutex<Option<Interlude>>,
    tree_interlude: Mutex<Option<Interlude>>,
    queue_interlude: Mutex<Option<Interlude>>,
}

impl Watched {
    pub fn new(engine: Arc<dyn Store>) -> Self {
        Self {
            engine,
            transitions: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            entries_read: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            key_checks_read: AtomicU64::new(0),
            rosters_read: AtomicU64::new(0),
            trees_read: AtomicU64::new(0),
            last_tree: Mutex::new(None),
            put_back: Mutex::new(None),
            interlude: Mutex::new(None),
            tree_interlude: Mutex::new(None),
            queue_interlude: Mutex::new(None),
        }
    }

    /// The engine itself.
    pub fn quietly(&self) -> &dyn Store {
        self.engine.as_ref()
    }

    /// How many transitions have succeeded.
    pub fn transitions(&self) -> u64 {
        self.transitions.load(Ordering::SeqCst)
    }

    /// The number of the last transition that spent and recorded, and did nothing else.
    pub fn settled(&self) -> Option<u64> {
        Some(self.settled.load(Ordering::SeqCst)).filter(|number| *number > 0)
    }

    /// How many entry rows were looked up.
    pub fn entries_read(&self) -> u64 {
        self.entries_read.load(Ordering::SeqCst)
    }

    /// Resolves when somebody has looked into a queue since this was called. From then on, what happens wakes who
    /// looked.
    pub fn next_look(&self) -> impl Future<Output = ()> {
        let before = self.looks.load(Ordering::SeqCst);
        async move {
            while self.looks.load(Ordering::SeqCst) == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// How often a key check and a roster were asked for.
    pub fn checks_and_rosters_read(&self) -> [u64; 2] {
        [&self.key_checks_read, &self.rosters_read].map(|reads| reads.load(Ordering::SeqCst))
    }

    /// How often a tree was asked for.
    pub fn trees_read(&self) -> u64 {
        self.trees_read.load(Ordering::SeqCst)
    }

    /// The next tree that is read is the one that was read last: somebody has put it back.
    pub fn put_last_tree_back(&self) {
        let tree = self.last_tree.lock().unwrap().clone();
        *self.put_back.lock().unwrap() = Some(tree.unwrap());
    }

    /// Runs `interlude` right before the next tree is read: between roster and tree.
    pub fn before_next_tree(&self, interlude: impl Future<Output = ()> + Send + 'static) {
        *self.tree_interlude.lock().unwrap() = Some(Box::pin(interlude));
    }

    /// Runs `interlude` when queue records have been read next, before they are used.
    pub fn after_next_queues(&self, interlude: impl Future<Output = ()> + Send + 'static) {
        *self.queue_interlude.lock().unwrap() = Some(Box::pin(interlude));
    }

    /// Runs `interlude` right before the next transition of a group.
    pub fn before_next_group_transition(
        &self,
        interlude: impl Future<Output = ()> + Send + 'static,
    ) {
        *self.interlude.lock().unwrap() = Some(Box::pin(interlude));
    }

    async fn play_interlude(&self) {
        let interlude = self.interlude.lock().unwrap().take();
        if let Some(interlude) = interlude {
            interlude.await;
        }
    }

    fn count<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if outcome.is_ok() {
            self.transitions.fetch_add(1, Ordering::SeqCst);
        }
        outcome
    }
}

impl Watched {
    /// A transition that spends and records, and does nothing else.
    fn count_settled(&self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        let outcome = self.count(outcome);
        if outcome.is_ok() {
            self.settled.store(self.transitions(), Ordering::SeqCst);
        }
        outcome
    }
}

#[async_trait]
impl Store for Watched {
    async fn result(&self, at: DayRow) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.result(at).await
    }

    async fn reserve_group(
        &self,
        reservation: Reservation,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.count(self.engine.reserve_group(reservation, receipt).await)
    }

    async fn create_group(&self, group: NewGroup, receipt: Receipt) -> Result<(), StoreError> {
        self.count(self.engine.create_group(group, receipt).await)
    }

    async fn use_up_reservation(
        &self,
        group: Row,
        reservation_days: Vec<u32>,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let used_up = self
            .engine
            .use_up_reservation(group, reservation_days, owner_tag, receipt);
        self.count_settled(used_up.await)
    }

    async fn reservation(&self, at: Vec<DayRow>) -> Result<Option<[u8; 32]>, StoreError> {
        self.engine.reservation(at).await
    }

    async fn key_check(&self, group: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.key_checks_read.fetch_add(1, Ordering::SeqCst);
        self.engine.key_check(group).await
    }

    async fn group(&self, group: Row, parts: Parts) -> Result<Option<StoredGroup>, StoreError> {
        self.rosters_read.fetch_add(1, Ordering::SeqCst);
        if parts.tree {
            let interlude = self.tree_interlude.lock().unwrap().take();
            if let Some(interlude) = interlude {
                interlude.await;
            }
            self.trees_read.fetch_add(1, Ordering::SeqCst);
        }
        let mut stored = self.engine.group(group, parts).await?;
        if let Some(StoredGroup {
            tree: Some(tree), ..
        }) = &mut stored
        {
            if let Some(earlier) = self.put_back.lock().unwrap().take() {
                *tree = earlier;
            }
            *self.last_tree.lock().unwrap() = Some(tree.clone());
        }
        Ok(stored)
    }

    async fn advance_group(&self, advance: Advance, receipt: Receipt) -> Result<(), StoreError> {
        self.play_interlude().await;
        self.count(self.engine.advance_group(advance, receipt).await)
    }

    async fn delete_group(
        &self,
        deletion: GroupDeletion,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.play_interlude().await;
        self.count(self.engine.delete_group(deletion, receipt).await)
    }

    async fn deliver_to_group(
        &self,
        group: Row,
        expected: Version,
        deliveries: Deliveries,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.play_interlude().await;
        self.count(
            self.engine
                .deliver_to_group(group, expected, deliveries, receipt)
                .await,
        )
    }

    async fn deliver(&self, deliveries: Deliveries, receipt: Receipt) -> Result<(), StoreError> {
        self.count(self.engine.deliver(deliveries, receipt).await)
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
        self.count(self.engine.create_queue(row, sealed, receipt).await)
    }

    async fn queue(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.queue(row).await
    }

    async fn queues(&self, rows: Vec<Row>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let records = self.engine.queues(rows).await;
        let interlude = self.queue_interlude.lock().unwrap().take();
        if let Some(interlude) = interlude {
            interlude.await;
        }
        records
    }

    async fn replace_queue(
        &self,
        row: Row,
        expected: Vec<u8>,
        sealed: Option<Vec<u8>>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.count(
            self.engine
                .replace_queue(row, expected, sealed, receipt)
                .await,
        )
    }

    async fn register_incarnation(
        &self,
        day: u32,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        // Not counted: a name that a process made up for itself, no effect of a request.
        self.engine.register_incarnation(day, incarnation).await
    }

    async fn incarnations(&self) -> Result<Vec<(u32, Incarnation)>, StoreError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.engine.incarnations().await
    }

    async fn blocks(&self, at: Vec<DayRow>) -> Result<Vec<bool>, StoreError> {
        self.engine.blocks(at).await
    }

    async fn entries(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let number = u64::try_from(at.len()).unwrap();
        self.entries_read.fetch_add(number, Ordering::SeqCst);
        self.engine.entries(at).await
    }

    async fn payloads(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.engine.payloads(at).await
    }

    async fn acknowledge(&self, entries: Vec<(DayRow, DayRow)>) -> Result<(), StoreError> {
        self.count(self.engine.acknowledge(entries).await)
    }

    async fn publish_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        sets: Vec<NewKeyPackageSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.count(
            self.engine
                .publish_key_packages(pool, owner_tag, sets, receipt)
                .await,
        )
    }

    async fn delete_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.count(
            self.engine
                .delete_key_packages(pool, owner_tag, receipt)
                .await,
        )
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
        self.count(self.engine.claim_key_packages(sets, receipt).await)
    }

    async fn register_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.count(
            self.engine
                .register_handle(row, owner_tag, sealed, receipt)
                .await,
        )
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
        self.count(self.engine.delete_handle(row, owner_tag, receipt).await)
    }

    async fn is_spent(&self, spends: Vec<Spend>) -> Result<bool, StoreError> {
        self.engine.is_spent(spends).await
    }

    async fn settle(&self, receipt: Receipt) -> Result<(), StoreError> {
        self.count_settled(self.engine.settle(receipt).await)
    }

    async fn expire(&self, before: ExpiryDays) -> Result<(), StoreError> {
        self.count(self.engine.expire(before).await)
    }

    async fn spent_issuer_keys(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.engine.spent_issuer_keys().await
    }

    async fn retire_issuer_key(
        &self,
        issuer_key_id: [u8; 32],
        since_ms: u64,
    ) -> Result<(), StoreError> {
        self.count(self.engine.retire_issuer_key(issuer_key_id, since_ms).await)
    }

    async fn readmit_issuer_key(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        self.count(self.engine.readmit_issuer_key(issuer_key_id).await)
    }

    async fn retired_issuer_keys(&self) -> Result<Vec<RetiredIssuerKey>, StoreError> {
        self.engine.retired_issuer_keys().await
    }

    async fn drop_spent(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        self.count(self.engine.drop_spent(issuer_key_id).await)
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.engine.check().await
    }
}
