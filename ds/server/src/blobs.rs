//! Blobs: rows are decided on like everything, chunks are read and written here.
//!
//! A chunk is durable before it is acknowledged, and all are there before the row says that the
//! blob is whole. So a process that dies in between leaves a blob that can still be written.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use ds_domain::blobs::{self, Blob, BlobRequest, Location, Task};
use ds_domain::engine::{ApplyError, Batch, EngineError, Found, Read, Table};
use ds_domain::execution::Failure;
use ds_domain::rows::Rows;
use ds_domain::tokens::IdentifiedToken;
use ds_domain::view::View;
use ds_store_blobs::{BlobStoreError, Put};
use protocol::blobs::{
    BlobChunksRequest, BlobChunksResponse, BlobName, CHUNK, CreateBlobRequest, PutChunkRequest,
    ReadChunkResponse,
};
use protocol::codec::opaque;
use protocol::group::Accepted;
use protocol::problem::ProblemType;
use protocol::request::SignedRequest;
use protocol::{WIRE_VERSION, Wire as _};

use crate::blob_room::full;
use crate::server::Server;

/// Rows that are looked at in one go.
const PAGE: usize = 1_000;
/// Days for which rows may still be there that nobody has looked at: as long as a service may have
/// stood still.
const LOOK_BACK_DAYS: u32 = 400;
/// No blob is kept longer.
const LOOK_AHEAD_DAYS: u32 = 92;

fn refused(problem: ProblemType) -> Failure {
    Failure::Refused(problem.into())
}

fn failed(error: BlobStoreError) -> Failure {
    match error {
        BlobStoreError::Missing | BlobStoreError::Damaged => {
            metrics::counter!("ds_blob_chunks_damaged_total").increment(1);
            tracing::error!(%error, "a blob cannot be read any more");
            refused(ProblemType::BlobDamaged)
        }
        BlobStoreError::Full => full(),
        BlobStoreError::Failed(text) => Failure::Engine(text),
    }
}

/// The chunks that a request to create a blob asks for.
fn asked_for(body: &[u8]) -> Option<u16> {
    let envelope = SignedRequest::decode(body).ok()?;
    let create = CreateBlobRequest::decode(envelope.body.as_slice()).ok()?;
    Some(create.chunks)
}

impl Server {
    /// The blob that this body asked for can be written.
    pub(crate) fn blob_created(&self, body: &[u8]) {
        self.blobs
            .changed(1, asked_for(body).unwrap_or_default().into());
    }

    /// Carries out what is about chunks, and says what to answer.
    pub(crate) async fn blob(
        &self,
        request: &BlobRequest,
        offered: Vec<IdentifiedToken>,
    ) -> Result<Vec<u8>, Failure> {
        let (blob, task) = self.of_something(self.decided(request).await)?;
        let (bucket, bytes) = request.charge(&Rows(self.keys.rows()));
        self.draw(bucket, bytes, offered).await?;
        match (task, request) {
            (Task::Put { index, completes }, BlobRequest::Put(put)) => {
                self.put_chunk(&blob, (index, completes), put).await?;
                Ok(Accepted {}.encode())
            }
            (Task::Read(index), _) => {
                let chunk = opaque(self.chunk(&blob, index, request.name()).await?);
                Ok(ReadChunkResponse { chunk }.encode())
            }
            (Task::Delete, _) => {
                self.delete_blob(blob, request).await?;
                Ok(Accepted {}.encode())
            }
            (Task::List | Task::Put { .. }, _) => {
                let present = match blob.is_whole() {
                    true => (0..blob.chunks()).collect(),
                    false => self.present(&blob).await?,
                };
                let is_there = |index: u16| present.contains(&index);
                let answer = BlobChunksResponse::of(blob.chunks(), blob.is_whole(), is_there);
                Ok(answer.encode())
            }
        }
    }

    async fn decided(&self, request: &BlobRequest) -> Result<(Blob, Task), Failure> {
        self.look(&mut View::default(), |view, env| request.decide(view, env))
            .await
    }

    /// The blob with this name, as it is now.
    async fn blob_now(&self, name: &BlobName) -> Result<Blob, Failure> {
        let list = BlobRequest::List(BlobChunksRequest {
            version: WIRE_VERSION,
            blob: *name,
        });
        Ok(self.decided(&list).await?.0)
    }

    /// A chunk of a blob that is whole. If it is missing because the blob was deleted meanwhile,
    /// nothing is damaged.
    pub(crate) async fn chunk(
        &self,
        blob: &Blob,
        index: u16,
        name: &BlobName,
    ) -> Result<Vec<u8>, Failure> {
        match self.blobs.store.get(&blob.location(), index).await {
            Err(BlobStoreError::Missing) => {
                self.blob_now(name).await?;
                Err(failed(BlobStoreError::Missing))
            }
            found => found.map_err(failed),
        }
    }

    /// Deletes the row that the blob has, and then its chunks. They stay as long as a row leads to
    /// them.
    pub(crate) async fn delete_blob(
        &self,
        mut blob: Blob,
        request: &BlobRequest,
    ) -> Result<(), Failure> {
        let rows = Rows(self.keys.rows());
        while !self.gone_or_not(blob.deletion(&rows)).await? {
            // It has become whole meanwhile; or somebody else deletes it.
            blob = match self.decided(request).await {
                Err(failure) if failure == refused(ProblemType::UnknownBlob) => return Ok(()),
                found => found?.0,
            };
        }
        self.gone(&blob).await
    }

    /// The row is gone: there is room, and chunks have to go.
    async fn gone(&self, blob: &Blob) -> Result<(), Failure> {
        let chunks = -i64::from(blob.chunks());
        self.blobs.changed(-i64::from(!blob.is_whole()), chunks);
        let deleted = self.blobs.store.delete(&blob.location()).await;
        deleted.map_err(failed)
    }

    async fn present(&self, blob: &Blob) -> Result<HashSet<u16>, Failure> {
        let store = &self.blobs.store;
        let present = store.present(&blob.location(), CHUNK).await;
        Ok(present.map_err(failed)?.into_iter().collect())
    }

    pub(crate) async fn put_chunk(
        &self,
        blob: &Blob,
        (index, completes): (u16, bool),
        put: &PutChunkRequest,
    ) -> Result<(), Failure> {
        let (store, chunk) = (&self.blobs.store, put.chunk.as_slice());
        if blob.is_whole() {
            // The answer that said so was lost, perhaps.
            let there = self.chunk(blob, index, &put.blob).await?;
            return match there == chunk {
                true => Ok(()),
                false => Err(refused(ProblemType::BlobComplete)),
            };
        }
        self.blobs.disk().await?;
        match store
            .put(&blob.location(), index, chunk)
            .await
            .map_err(failed)?
        {
            Put::Written | Put::WasThere => {}
            Put::Other => return Err(refused(ProblemType::BlobComplete)),
        }
        if !completes {
            return self.still_there(blob.location(), put.blob).await;
        }
        let present = self.present(blob).await?;
        if !(0..blob.chunks()).all(|index| present.contains(&index)) {
            return Err(refused(ProblemType::BlobIncomplete));
        }
        match self
            .gone_or_not(blob.completion(&Rows(self.keys.rows())))
            .await?
        {
            true => self.blobs.changed(-1, 0),
            false => self.still_there(blob.location(), put.blob).await?,
        }
        Ok(())
    }

    /// Its writer may have deleted the blob while a chunk was written. Rows go before chunks: so
    /// whoever comes last leaves nothing that no row leads to.
    async fn still_there(&self, location: Location, blob: BlobName) -> Result<(), Failure> {
        let found = self.blob_now(&blob).await;
        let gone = refused(ProblemType::UnknownBlob);
        if found.as_ref().is_err_and(|failure| *failure == gone) {
            self.blobs.store.delete(&location).await.map_err(failed)?;
        }
        found.map(drop)
    }

    /// Applies what somebody else may have done meanwhile; whether it was done now.
    async fn gone_or_not(&self, batch: Batch) -> Result<bool, Failure> {
        match self.engine.apply(batch).await {
            Ok(()) => Ok(true),
            Err(ApplyError::Condition { .. }) => Ok(false),
            Err(ApplyError::Engine(EngineError(text))) => Err(Failure::Engine(text)),
        }
    }

    /// Deletes the chunks of what has expired: of blobs that were not finished by the end of their
    /// day, and of all that were kept until a day before this one. Their rows go after that. What
    /// fails here goes with its last day.
    pub(crate) async fn expire_blobs(&self, today: u32) -> Result<(), Failure> {
        let mut done = Ok(());
        for day in today.saturating_sub(LOOK_BACK_DAYS)..today {
            for (location, _) in self.blob_rows(Table::BlobsInMaking, day).await? {
                done = done.and(self.blobs.store.delete(&location).await);
            }
        }
        done.and(self.blobs.store.drop_days(today).await)
            .map_err(failed)
    }

    /// Deletes chunks that no row leads to: the process ended in between. Takes back blobs of which
    /// nothing has come since the pass before: who only makes room keeps it from others.
    pub(crate) async fn sweep_blobs(&self, today: u32) -> Result<(), Failure> {
        let store = &self.blobs.store;
        // Before their rows are looked for, which come first. A blob that becomes whole meanwhile
        // is found in one of the two tables.
        let there: HashSet<Location> = store.blobs().await.map_err(failed)?.into_iter().collect();
        let (mut known, mut unwritten) = (HashSet::new(), HashMap::new());
        for day in today.saturating_sub(LOOK_BACK_DAYS)..=today.saturating_add(LOOK_AHEAD_DAYS) {
            for (location, chunks) in self.blob_rows(Table::BlobsInMaking, day).await? {
                known.insert(location);
                if !there.contains(&location) {
                    unwritten.insert(location, (day, chunks));
                }
            }
        }
        let days: HashSet<u32> = there.iter().map(|location| location.last_day.0).collect();
        for day in days {
            let rows = self.blob_rows(Table::Blobs, day).await?;
            known.extend(rows.into_iter().map(|(location, _)| location));
        }
        for location in there.difference(&known) {
            store.delete(location).await.map_err(failed)?;
        }
        let now = unwritten.keys().copied().collect();
        let before = std::mem::replace(&mut *self.blobs.unwritten(), now);
        for (location, (day, chunks)) in unwritten {
            if before.contains(&location) {
                self.give_up(&location, day, chunks).await?;
            }
        }
        Ok(())
    }

    async fn give_up(&self, of: &Location, day: u32, chunks: u16) -> Result<(), Failure> {
        let store = &self.blobs.store;
        let has_begun = !store.present(of, CHUNK).await.map_err(failed)?.is_empty();
        let row = blobs::given_up(day, of, &Rows(self.keys.rows()));
        if !has_begun && self.gone_or_not(row).await? {
            self.blobs.changed(-1, -i64::from(chunks));
            store.delete(of).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Counts what there is, by the rows.
    ///
    /// # Errors
    /// [`Failure::Engine`].
    pub async fn count_blobs(&self, today: u32) -> Result<(), Failure> {
        let (mut in_making, mut chunks) = (0u64, 0u64);
        for day in today..=today.saturating_add(LOOK_AHEAD_DAYS) {
            for table in [Table::BlobsInMaking, Table::Blobs] {
                for (_, count) in self.blob_rows(table, day).await? {
                    in_making += u64::from(table == Table::BlobsInMaking);
                    chunks += u64::from(count);
                }
            }
        }
        self.blobs.in_making.store(in_making, Ordering::Relaxed);
        self.blobs.chunks.store(chunks, Ordering::Relaxed);
        self.blobs.show();
        Ok(())
    }

    async fn blob_rows(&self, table: Table, day: u32) -> Result<Vec<(Location, u16)>, Failure> {
        let (mut all, mut after) = (Vec::new(), Vec::new());
        loop {
            let range = blobs::rows_on(table, day, &after, PAGE);
            let found = self.engine.read(vec![Read::Range(range)]).await;
            let found = found.map_err(|EngineError(text)| Failure::Engine(text))?;
            let Some(Found::Range(rows)) = found.into_iter().next() else {
                return Ok(all);
            };
            all.extend(
                rows.iter()
                    .filter_map(|(name, value)| blobs::counted(name, value)),
            );
            match rows.last() {
                Some((name, _)) if rows.len() == PAGE => after.clone_from(name),
                _ => return Ok(all),
            }
        }
    }
}
