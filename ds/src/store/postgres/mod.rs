//! The scale-out engine: anything that speaks PostgreSQL's protocol. Several nodes may use one
//! database; nothing is kept in a node.
//!
//! Every transition is one transaction with three round trips whatever the number of recipients: BEGIN;
//! the receipt's inserts and the condition; the writes and COMMIT ([`transition`]). All statements
//! stand in [`sql`].
//!
//! * **Isolation**: READ COMMITTED. Every condition is a unique key or a locked row, never a predicate
//!   over rows that are not locked, so nothing stronger is needed, and nothing weaker than it exists;
//!   aborts for serialization don't happen. A server that runs everything SERIALIZABLE gives the same
//!   answers, with retries.
//! * **Locks** are taken in one order: result, tokens (sorted), reservation or group or queue or handle or
//!   pool, then sets (sorted). Messages share the group's row, an epoch change takes it alone. Inserts into queues meet
//!   no other row.
//! * **Durability**: `synchronous_commit` is on in every session; a server without fsync is refused.
//! * **Crash, lost connection**: until COMMIT is sent nothing has happened and the transaction is tried
//!   again, as after 40001 and 40P01. Once it is sent, only its answer makes `Ok`; without one it is
//!   [`StoreError::Engine`], and the transition is there as a whole or not at all. The result record
//!   tells the retry. One exception, without harm: a payload whose last reference was given up right
//!   before a crash stays until its day expires.
//! * **Cancellation**: a transition runs in a task of its own; if the caller's future is dropped, it is
//!   carried out all the same.
//! * **Transport**: without TLS so far, hence over a unix socket or loopback only (a proxy on the
//!   machine may do TLS). A pooler in between must be in session mode: statements are prepared.

#[cfg(test)]
mod crash_tests;
mod expiry;
mod groups;
mod key_packages;
mod queues;
mod schema;
#[cfg(test)]
mod server;
mod session;
mod settings;
mod sql;
#[cfg(test)]
mod tests;
mod transition;

use std::sync::Arc;

use async_trait::async_trait;
use crypto::rows::Row;
use protocol::ids::Incarnation;

pub use self::settings::PostgresSettings;

use self::groups::{Create, DeliverToGroup, Reserve, UseUpReservation};
use self::key_packages::{Claim, DeleteHandle, DeletePool, Publish, RegisterHandle};
use self::queues::{CreateQueue, Deliver, RegisterIncarnation, ReplaceQueue};
use self::session::{Sessions, Step, step};
use self::transition::{Nothing, Transition};
use super::{
    Advance, ClaimableSet, ConsumedSet, DayRow, Deliveries, ExpiryDays, Foundation,
    FoundationError, GroupDeletion, NewGroup, NewKeyPackageSet, Note, Parts, Receipt, Reservation,
    RetiredIssuerKey, SetCount, Spend, Store, StoreError, StoredGroup, Version,
};

/// PostgreSQL as a [`Store`].
#[derive(Clone)]
pub struct Postgres {
    sessions: Arc<Sessions>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sessions: _ } = self;
        f.write_str("Postgres(..)")
    }
}

impl Postgres {
    /// Makes the tables in an empty database.
    ///
    /// # Errors
    /// [`Refusal::OccupiedDatabase`](service::founding::Refusal) if there are any; else as
    /// [`Postgres::open`].
    pub async fn create(settings: &PostgresSettings) -> Result<Self, FoundationError> {
        schema::create(&settings.connection()?).await?;
        Self::connect(settings)
    }

    /// Connects to a database whose tables are there, and brings them to this release's version. Several
    /// nodes may do so at once.
    ///
    /// # Errors
    /// [`Refusal::EmptyDatabase`](service::founding::Refusal); settings that can't be used, the server
    /// can't be reached, has fsync off, or has a schema that this version doesn't know.
    pub async fn open(settings: &PostgresSettings) -> Result<Self, FoundationError> {
        schema::prepare(&settings.connection()?).await?;
        Self::connect(settings)
    }

    fn connect(settings: &PostgresSettings) -> Result<Self, FoundationError> {
        let sessions = Sessions::new(settings.connection()?, settings.limits())?;
        Ok(Self {
            sessions: Arc::new(sessions),
        })
    }

    async fn carry_out(
        &self,
        transition: impl Transition,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let sessions = Arc::clone(&self.sessions);
        to_the_end(async move { sessions.carry_out(&transition, &receipt).await }).await
    }

    /// The first column of the row that this finds.
    async fn value(&self, step: Step<'_>) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.sessions.run(&[step]).await?;
        groups::nth(&found, 0)?.value()
    }
}

/// Goes on when whoever waits for it does not.
async fn to_the_end(
    work: impl Future<Output = Result<(), StoreError>> + Send + 'static,
) -> Result<(), StoreError> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        // Not its text: a panic message may quote data.
        Err(error) if error.is_panic() => {
            Err(StoreError::Engine("a storage call panicked".to_owned()))
        }
        Err(_) => Err(StoreError::Engine(
            "the runtime is shutting down".to_owned(),
        )),
    }
}

#[async_trait]
impl Foundation for Postgres {
    async fn note(&self, note: Note) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(step!(sql::NOTE; note.name())).await
    }

    async fn write_note(&self, note: Note, value: Vec<u8>) -> Result<(), StoreError> {
        let write = step!(sql::WRITE_NOTE; note.name(), &value[..]);
        self.sessions.run(&[write]).await.map(|_| ())
    }

    async fn replace_note(
        &self,
        note: Note,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> Result<(), StoreError> {
        let replace = match &expected {
            None => step!(sql::FIRST_NOTE; note.name(), &value[..]),
            Some(expected) => step!(sql::NEXT_NOTE; note.name(), &expected[..], &value[..]),
        };
        let done = self.sessions.run(&[replace]).await?;
        match done.first() {
            Some(outcome) if outcome.affected == 1 => Ok(()),
            _ => Err(StoreError::Conflict),
        }
    }
}

#[async_trait]
impl Store for Postgres {
    async fn result(&self, at: DayRow) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(step!(sql::RESULT; i64::from(at.day), &at.row[..]))
            .await
    }

    async fn reserve_group(
        &self,
        reservation: Reservation,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.carry_out(Reserve(reservation), receipt).await
    }

    async fn create_group(&self, group: NewGroup, receipt: Receipt) -> Result<(), StoreError> {
        self.carry_out(Create(group), receipt).await
    }

    async fn use_up_reservation(
        &self,
        group: Row,
        reservation_days: Vec<u32>,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let used_up = UseUpReservation {
            group,
            reservation_days,
            owner_tag,
        };
        self.carry_out(used_up, receipt).await
    }

    async fn reservation(&self, at: Vec<DayRow>) -> Result<Option<[u8; 32]>, StoreError> {
        self.sessions.reservation(at).await
    }

    async fn key_check(&self, group: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(step!(sql::KEY_CHECK; &group[..])).await
    }

    async fn group(&self, group: Row, parts: Parts) -> Result<Option<StoredGroup>, StoreError> {
        self.sessions.group(group, parts).await
    }

    async fn advance_group(&self, advance: Advance, receipt: Receipt) -> Result<(), StoreError> {
        self.carry_out(advance, receipt).await
    }

    async fn delete_group(
        &self,
        deletion: GroupDeletion,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.carry_out(deletion, receipt).await
    }

    async fn deliver_to_group(
        &self,
        group: Row,
        expected: Version,
        deliveries: Deliveries,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let deliver = DeliverToGroup {
            group,
            expected,
            deliveries,
        };
        self.carry_out(deliver, receipt).await
    }

    async fn deliver(&self, deliveries: Deliveries, receipt: Receipt) -> Result<(), StoreError> {
        self.carry_out(Deliver(deliveries), receipt).await
    }

    async fn join_record(&self, at: Vec<DayRow>) -> Result<Option<Vec<u8>>, StoreError> {
        self.sessions.join_record(at).await
    }

    async fn recovery_record(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(step!(sql::RECOVERY_RECORD; &row[..])).await
    }

    async fn create_queue(
        &self,
        row: Row,
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.carry_out(CreateQueue { row, sealed }, receipt).await
    }

    async fn queue(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(step!(sql::QUEUE; &row[..])).await
    }

    async fn queues(&self, rows: Vec<Row>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.sessions.queues(rows).await
    }

    async fn replace_queue(
        &self,
        row: Row,
        expected: Vec<u8>,
        sealed: Option<Vec<u8>>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let replace = ReplaceQueue {
            row,
            expected,
            sealed,
        };
        self.carry_out(replace, receipt).await
    }

    async fn register_incarnation(
        &self,
        day: u32,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        self.carry_out(RegisterIncarnation { day, incarnation }, Receipt::default())
            .await
    }

    async fn incarnations(&self) -> Result<Vec<(u32, Incarnation)>, StoreError> {
        self.sessions.incarnations().await
    }

    async fn blocks(&self, at: Vec<DayRow>) -> Result<Vec<bool>, StoreError> {
        self.sessions.blocks(at).await
    }

    async fn entries(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.sessions.values(sql::ENTRIES, at).await
    }

    async fn payloads(&self, at: Vec<DayRow>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.sessions.values(sql::PAYLOADS, at).await
    }

    async fn acknowledge(&self, entries: Vec<(DayRow, DayRow)>) -> Result<(), StoreError> {
        let sessions = Arc::clone(&self.sessions);
        to_the_end(async move { sessions.acknowledge(entries).await }).await
    }

    async fn publish_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        sets: Vec<NewKeyPackageSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let publish = Publish {
            pool,
            owner_tag,
            sets,
        };
        self.carry_out(publish, receipt).await
    }

    async fn delete_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.carry_out(DeletePool { pool, owner_tag }, receipt)
            .await
    }

    async fn count_key_packages(
        &self,
        pool: Row,
        owner_tag: [u8; 32],
        today: u32,
    ) -> Result<Vec<SetCount>, StoreError> {
        self.sessions
            .count_key_packages(pool, owner_tag, today)
            .await
    }

    async fn claimable_set(
        &self,
        pool: Row,
        ciphersuite: u16,
        today: u32,
        pick: u64,
    ) -> Result<Option<ClaimableSet>, StoreError> {
        self.sessions
            .claimable_set(pool, ciphersuite, today, pick)
            .await
    }

    async fn claim_key_packages(
        &self,
        sets: Vec<ConsumedSet>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.carry_out(Claim::new(sets), receipt).await
    }

    async fn register_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        sealed: Vec<u8>,
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        let register = RegisterHandle {
            row,
            owner_tag,
            sealed,
        };
        self.carry_out(register, receipt).await
    }

    async fn handle(&self, row: Row) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(step!(sql::HANDLE; &row[..])).await
    }

    async fn delete_handle(
        &self,
        row: Row,
        owner_tag: [u8; 32],
        receipt: Receipt,
    ) -> Result<(), StoreError> {
        self.carry_out(DeleteHandle { row, owner_tag }, receipt)
            .await
    }

    async fn is_spent(&self, spends: Vec<Spend>) -> Result<bool, StoreError> {
        self.sessions.is_spent(&spends).await
    }

    async fn settle(&self, receipt: Receipt) -> Result<(), StoreError> {
        self.carry_out(Nothing, receipt).await
    }

    async fn expire(&self, before: ExpiryDays) -> Result<(), StoreError> {
        self.sessions.expire(before).await
    }

    async fn spent_issuer_keys(&self) -> Result<Vec<[u8; 32]>, StoreError> {
        self.sessions.spent_issuer_keys().await
    }

    async fn retire_issuer_key(
        &self,
        issuer_key_id: [u8; 32],
        since_ms: u64,
    ) -> Result<(), StoreError> {
        self.sessions
            .retire_issuer_key(issuer_key_id, since_ms)
            .await
    }

    async fn readmit_issuer_key(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        self.sessions.readmit_issuer_key(issuer_key_id).await
    }

    async fn retired_issuer_keys(&self) -> Result<Vec<RetiredIssuerKey>, StoreError> {
        self.sessions.retired_issuer_keys().await
    }

    async fn drop_spent(&self, issuer_key_id: [u8; 32]) -> Result<(), StoreError> {
        self.sessions.drop_spent(issuer_key_id).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.sessions.run(&[step!(sql::CHECK;)]).await?;
        Ok(())
    }
}
