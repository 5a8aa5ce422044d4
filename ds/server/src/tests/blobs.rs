//! Blobs over HTTP: chunks that are kept, what is refused, and what goes.

use std::sync::atomic::{AtomicU64, Ordering};

use crypto::blob::{BlobCapability, BlobWriteKey};
use ds_domain::blobs::{Blob, BlobRequest, Location};
use ds_domain::engine::Table;
use ds_domain::execution::Failure;
use ds_store_blobs::BlobStore;
use protocol::blobs::*;
use protocol::group::Accepted;
use protocol::ids::{BlobId, Day};

use super::*;
use crate::BlobLimits;

const DAY_MS: u64 = 86_400_000;

fn id(of: u8) -> BlobId {
    BlobCapability::new([of; 32]).id()
}

fn writer(of: u8) -> BlobWriteKey {
    BlobWriteKey::new([of; 32])
}

fn creation(of: u8, chunks: u16) -> Vec<u8> {
    let create = CreateBlobRequest {
        id: id(of),
        chunks,
        life: BlobLife::Week,
        writer: writer(of).hash(),
    };
    signed(Number::CreateBlob, of, &create)
}

fn deletion(blob: BlobName, of: u8) -> DeleteBlobRequest {
    DeleteBlobRequest {
        version: WIRE_VERSION,
        blob,
        write_key: writer(of).to_wire(),
    }
}

fn chunk(content: u8) -> Vec<u8> {
    vec![content; CHUNK]
}

/// A service whose chunks lie in this directory.
fn in_directory(directory: &tempfile::TempDir, limits: BlobLimits) -> Running {
    let store = BlobStore::in_directory(directory.path()).unwrap();
    running_with(Setup {
        segment_reads: 100_000,
        blobs: Some(Blobs::new(store, limits)),
        ..Setup::default()
    })
}

fn limits() -> BlobLimits {
    BlobLimits {
        keep_free_bytes: 0,
        ..BlobLimits::default()
    }
}

impl Running {
    async fn create(&self, of: u8, chunks: u16) -> BlobName {
        let reply = self
            .reply(Number::CreateBlob, creation(of, chunks), &[token()])
            .await;
        assert_eq!(reply.status, 200);
        let created = CreateBlobResponse::decode(&reply.body).unwrap();
        BlobName {
            id: id(of),
            last_day: created.last_day,
        }
    }

    async fn put(
        &self,
        blob: BlobName,
        (of, index): (u8, u16),
        content: u8,
        completes: u8,
    ) -> Reply {
        let put = PutChunkRequest {
            version: WIRE_VERSION,
            blob,
            write_key: writer(of).to_wire(),
            index,
            completes,
            chunk: opaque(chunk(content)),
        };
        self.reply(Number::PutChunk, put.encode(), &[]).await
    }

    async fn chunk(&self, blob: BlobName, index: u16) -> Reply {
        let read = ReadChunkRequest {
            version: WIRE_VERSION,
            blob,
            index,
        };
        self.reply(Number::ReadChunk, read.encode(), &[]).await
    }

    async fn chunks(&self, blob: BlobName) -> Reply {
        let list = BlobChunksRequest {
            version: WIRE_VERSION,
            blob,
        };
        self.reply(Number::BlobChunks, list.encode(), &[]).await
    }

    /// The blob that was created under this number, with a life of a week.
    fn name(&self, of: u8) -> BlobName {
        BlobName {
            id: id(of),
            last_day: Day(Day::of(NOON_MS).0 + 7),
        }
    }

    async fn delete(&self, blob: BlobName, of: u8) {
        let body = deletion(blob, of).encode();
        let reply = self.reply(Number::DeleteBlob, body, &[]).await;
        assert_eq!(reply.status, 200);
    }

    /// The blob as a request finds it.
    async fn found(&self, blob: BlobName) -> Blob {
        let version = WIRE_VERSION;
        let list = BlobRequest::List(BlobChunksRequest { version, blob });
        let mut view = View::default();
        let found = self
            .server
            .look(&mut view, |view, env| list.decide(view, env));
        found.await.unwrap().0
    }

    /// Blobs in making and chunks, as they are counted.
    fn counted(&self) -> (u64, u64) {
        let room = &self.server.blobs;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&room.in_making), of(&room.chunks))
    }

    /// Rows of blobs in making, and of whole ones.
    fn rows(&self) -> (usize, usize) {
        let engine = self.memory.snapshot();
        let of = |table| engine.rows().filter(|(key, _)| key.table == table).count();
        (of(Table::BlobsInMaking), of(Table::Blobs))
    }

    /// A whole blob of two chunks.
    async fn whole(&self, of: u8) -> BlobName {
        let blob = self.create(of, 2).await;
        assert_eq!(self.put(blob, (of, 0), 1, 0).await.status, 200);
        assert_eq!(self.put(blob, (of, 1), 2, 1).await.status, 200);
        blob
    }
}

fn shown(reply: &Reply) -> u8 {
    let read = ReadChunkResponse::decode(&reply.body).unwrap();
    assert_eq!(read.chunk.as_slice().len(), CHUNK);
    read.chunk.as_slice()[0]
}

fn files(directory: &tempfile::TempDir) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.path().to_owned()];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_blob_is_written_once_and_read_by_whoever_knows_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    // It costs a token, once.
    let unpaid = running.reply(Number::CreateBlob, creation(1, 2), &[]).await;
    assert_eq!(unpaid.problem(), ProblemType::TokenRequired);
    let blob = running.create(1, 2).await;
    assert_eq!(blob.last_day, Day(Day::of(NOON_MS).0 + 7));
    assert_eq!(running.put(blob, (1, 1), 2, 0).await.status, 200);
    let listed = running.chunks(blob).await;
    let listed = BlobChunksResponse::decode(&listed.body).unwrap();
    assert_eq!((listed.chunks, listed.whole), (2, 0));
    assert_eq!((listed.is_there(0), listed.is_there(1)), (false, true));
    // Not whole: nobody reads, and it cannot be said to be.
    let problem = |reply: Reply| reply.problem();
    assert_eq!(
        problem(running.chunk(blob, 1).await),
        ProblemType::BlobIncomplete
    );
    assert_eq!(
        problem(running.put(blob, (1, 1), 2, 1).await),
        ProblemType::BlobIncomplete
    );
    // Somebody else's secret.
    assert_eq!(
        problem(running.put(blob, (9, 0), 1, 0).await),
        ProblemType::UnknownBlob
    );
    // The same again is the same; another content is refused.
    assert_eq!(running.put(blob, (1, 1), 2, 0).await.status, 200);
    assert_eq!(
        problem(running.put(blob, (1, 1), 3, 0).await),
        ProblemType::BlobComplete
    );
    assert_eq!(running.put(blob, (1, 0), 1, 1).await.status, 200);
    assert_eq!(shown(&running.chunk(blob, 0).await), 1);
    assert_eq!(shown(&running.chunk(blob, 1).await), 2);
    // An answer may have been lost; nothing can be written any more.
    assert_eq!(running.put(blob, (1, 0), 1, 1).await.status, 200);
    assert_eq!(
        problem(running.put(blob, (1, 0), 3, 1).await),
        ProblemType::BlobComplete
    );
    assert_eq!(shown(&running.chunk(blob, 0).await), 1);
}

#[tokio::test]
async fn a_damaged_or_missing_chunk_is_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    let blob = running.whole(1).await;
    let file = &files(&directory)[0];
    let good = std::fs::read(file).unwrap();
    assert_eq!(good.len(), CHUNK + 32);
    let mut changed = good.clone();
    changed[5] ^= 1;
    for bytes in [
        changed,
        good[..CHUNK].to_vec(),
        good[..40].to_vec(),
        Vec::new(),
    ] {
        std::fs::write(file, bytes).unwrap();
        assert_eq!(
            running.chunk(blob, 0).await.problem(),
            ProblemType::BlobDamaged
        );
        // Of the others nothing is lost.
        assert_eq!(running.chunk(blob, 1).await.status, 200);
    }
    std::fs::remove_file(file).unwrap();
    assert_eq!(
        running.chunk(blob, 0).await.problem(),
        ProblemType::BlobDamaged
    );
    std::fs::write(file, good).unwrap();
    assert_eq!(running.chunk(blob, 0).await.status, 200);
}

#[tokio::test]
async fn a_process_that_died_leaves_a_blob_that_is_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    let blob = running.create(1, 3).await;
    running.put(blob, (1, 0), 1, 0).await;
    // It died while it wrote the next chunk; the files are what they were.
    let begun = files(&directory)[0].with_file_name("1#1");
    std::fs::write(&begun, [1; 100]).unwrap();
    let store = BlobStore::in_directory(directory.path()).unwrap();
    let next = running_with(Setup {
        memory: running.memory.clone(),
        segment_reads: 100_000,
        blobs: Some(Blobs::new(store, limits())),
        ..Setup::default()
    });
    drop(running);
    let listed = BlobChunksResponse::decode(&next.chunks(blob).await.body).unwrap();
    let there: Vec<bool> = (0..3).map(|index| listed.is_there(index)).collect();
    assert_eq!(there, [true, false, false]);
    for index in [1, 2] {
        let put = next.put(blob, (1, index), 1, u8::from(index == 2)).await;
        assert_eq!(put.status, 200);
    }
    assert_eq!(shown(&next.chunk(blob, 1).await), 1);
}

#[tokio::test]
async fn blobs_go_with_their_day_and_those_that_are_not_whole_soon() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    let today = Day::of(NOON_MS).0;
    let whole = running.whole(1).await;
    let begun = running.create(2, 2).await;
    running.put(begun, (2, 0), 1, 0).await;
    assert_eq!(files(&directory).len(), 3);
    let expire = async |day: u32| {
        running.server.expire_blobs(day).await.unwrap();
        crate::run::expire(&*running.server.engine, day)
            .await
            .unwrap();
    };
    expire(today + 1).await;
    assert_eq!(files(&directory).len(), 3);
    expire(today + 2).await;
    assert_eq!(files(&directory).len(), 2);
    assert_eq!(running.rows(), (0, 1));
    assert_eq!(running.chunk(whole, 0).await.status, 200);
    expire(today + 7).await;
    assert_eq!(files(&directory).len(), 2);
    running.clock.set(NOON_MS + 8 * DAY_MS);
    // Already before anybody has deleted it.
    assert_eq!(
        running.chunk(whole, 0).await.problem(),
        ProblemType::UnknownBlob
    );
    expire(today + 8).await;
    assert!(files(&directory).is_empty());
    assert_eq!(running.rows(), (0, 0));
}

#[tokio::test]
async fn its_secret_deletes_a_blob_and_no_other_one_does() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    let (blob, other) = (running.whole(1).await, running.whole(2).await);
    let delete = |of: u8| deletion(blob, of).encode();
    let reply = running.reply(Number::DeleteBlob, delete(2), &[]).await;
    assert_eq!(reply.problem(), ProblemType::UnknownBlob);
    assert_eq!(files(&directory).len(), 4);
    let reply = running.reply(Number::DeleteBlob, delete(1), &[]).await;
    assert_eq!(reply.body, Accepted {}.encode());
    assert_eq!(files(&directory).len(), 2);
    assert_eq!(
        running.chunk(blob, 0).await.problem(),
        ProblemType::UnknownBlob
    );
    assert_eq!(running.chunk(other, 0).await.status, 200);
}

#[tokio::test]
async fn where_there_is_no_room_new_blobs_are_refused_for_now_and_old_ones_are_read() {
    let refused = |reply: Reply| {
        assert_eq!(reply.problem(), ProblemType::StorageFull);
        assert!(reply.headers.contains_key(header::RETRY_AFTER));
    };
    let directory = tempfile::tempdir().unwrap();
    // By bytes: two blobs of two chunks.
    let running = in_directory(
        &directory,
        BlobLimits {
            max_bytes: 5 * CHUNK as u64,
            ..limits()
        },
    );
    let blob = running.whole(1).await;
    running.whole(2).await;
    refused(
        running
            .reply(Number::CreateBlob, creation(3, 2), &[token()])
            .await,
    );
    assert_eq!(running.chunk(blob, 0).await.status, 200);
    running.create(4, 1).await;
    // What is gone leaves room, also after all were counted.
    let today = Day::of(NOON_MS).0;
    running.server.count_blobs(today).await.unwrap();
    refused(
        running
            .reply(Number::CreateBlob, creation(3, 2), &[token()])
            .await,
    );
    running.delete(blob, 1).await;
    running.create(3, 2).await;
    // By blobs that are being written.
    let running = in_directory(
        &directory,
        BlobLimits {
            max_in_making: 1,
            ..limits()
        },
    );
    let blob = running.create(1, 1).await;
    refused(
        running
            .reply(Number::CreateBlob, creation(2, 1), &[token()])
            .await,
    );
    running.put(blob, (1, 0), 1, 1).await;
    running.create(2, 1).await;
    // By what the disk has left.
    let running = in_directory(
        &directory,
        BlobLimits {
            keep_free_bytes: u64::MAX,
            ..limits()
        },
    );
    refused(
        running
            .reply(Number::CreateBlob, creation(1, 1), &[token()])
            .await,
    );
}

#[tokio::test]
async fn one_token_takes_room_once_however_often_its_request_comes_also_the_last_room() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(
        &directory,
        BlobLimits {
            max_in_making: 1,
            ..limits()
        },
    );
    let (body, paid) = (creation(1, 2), token());
    for _ in 0..3 {
        let tokens = std::slice::from_ref(&paid);
        let reply = running
            .reply(Number::CreateBlob, body.clone(), tokens)
            .await;
        assert_eq!(reply.status, 200);
    }
    assert_eq!(running.counted(), (1, 2));
    // A refusal costs nothing at the service.
    let tokens = [token()];
    let refused = running
        .reply(Number::CreateBlob, creation(2, 1), &tokens)
        .await;
    assert_eq!(refused.problem(), ProblemType::StorageFull);
    running.delete(running.name(1), 1).await;
    let reply = running
        .reply(Number::CreateBlob, creation(2, 1), &tokens)
        .await;
    assert_eq!(reply.status, 200);
}

/// Otherwise a token would buy room again and again that nobody counts.
#[tokio::test]
async fn a_chunk_that_is_written_while_its_blob_is_deleted_goes_too() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    for completes in [false, true] {
        let of = 1 + u8::from(completes);
        let blob = running.create(of, 1).await;
        let put = PutChunkRequest {
            version: WIRE_VERSION,
            blob,
            write_key: writer(of).to_wire(),
            index: 0,
            completes: 0,
            chunk: opaque(chunk(1)),
        };
        let found = running.found(blob).await;
        running.delete(blob, of).await;
        let late = running.server.put_chunk(&found, (0, completes), &put).await;
        let gone = Failure::Refused(ProblemType::UnknownBlob.into());
        assert_eq!(late, Err(gone));
        assert!(files(&directory).is_empty());
    }
}

/// A row that nothing leads to any more would be an alarm at each read for 90 days.
#[tokio::test]
async fn a_blob_that_becomes_whole_while_it_is_deleted_goes_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    let blob = running.create(1, 1).await;
    let begun = running.found(blob).await;
    assert_eq!(running.put(blob, (1, 0), 1, 1).await.status, 200);
    let delete = BlobRequest::Delete(deletion(blob, 1));
    running.server.delete_blob(begun, &delete).await.unwrap();
    assert!(files(&directory).is_empty());
    assert_eq!(running.rows(), (0, 0));
    assert_eq!(running.counted(), (0, 0));
    let reply = running.chunk(blob, 0).await;
    assert_eq!(reply.problem(), ProblemType::UnknownBlob);
}

#[tokio::test]
async fn a_chunk_that_was_deleted_while_it_was_read_is_unknown_and_not_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    let blob = running.whole(1).await;
    let found = running.found(blob).await;
    let read = || running.server.chunk(&found, 0, &blob);
    std::fs::remove_file(&files(&directory)[0]).unwrap();
    let is = |problem: ProblemType| Err(Failure::Refused(problem.into()));
    assert_eq!(read().await, is(ProblemType::BlobDamaged));
    running.delete(blob, 1).await;
    assert_eq!(read().await, is(ProblemType::UnknownBlob));
}

#[tokio::test]
async fn chunks_without_a_row_go_and_so_do_blobs_of_which_nothing_comes() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    let today = Day::of(NOON_MS).0;
    let whole = running.whole(1).await;
    let begun = running.create(2, 3).await;
    running.put(begun, (2, 0), 1, 0).await;
    let idle = running.create(3, 4).await;
    let store = &running.server.blobs.store;
    let orphan = Location::on(today + 30, [7; 16]);
    store.put(&orphan, 0, &chunk(1)).await.unwrap();
    assert_eq!(files(&directory).len(), 4);
    running.server.sweep_blobs(today).await.unwrap();
    assert_eq!(files(&directory).len(), 3);
    assert_eq!(store.blobs().await.unwrap().len(), 2);
    // Its writer has had time until now only from one pass to the next.
    assert_eq!((running.rows(), running.counted()), ((2, 1), (2, 9)));
    running.server.sweep_blobs(today).await.unwrap();
    assert_eq!((running.rows(), running.counted()), ((1, 1), (1, 5)));
    let reply = running.put(idle, (3, 0), 1, 0).await;
    assert_eq!(reply.problem(), ProblemType::UnknownBlob);
    for index in [1, 2] {
        let put = running.put(begun, (2, index), 1, u8::from(index == 2));
        assert_eq!(put.await.status, 200);
    }
    for blob in [whole, begun] {
        assert_eq!(running.chunk(blob, 1).await.status, 200);
    }
}

#[tokio::test]
async fn what_was_begun_is_brought_to_its_end_if_nobody_waits_for_the_answer() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    let blob = running.create(1, 1).await;
    let put = running.put(blob, (1, 0), 1, 1);
    // As far as it goes without waiting: then the connection is lost.
    assert!(futures::FutureExt::now_or_never(put).is_none());
    let whole = async { while running.chunk(blob, 0).await.status != 200 {} };
    let whole = tokio::time::timeout(std::time::Duration::from_secs(20), whole);
    whole.await.unwrap();
}

/// Writes that take 70 ms leave 100 ms after they came. If a pause of 50 ms followed the work,
/// they would leave after 120.
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "how long something really takes")]
async fn an_answer_leaves_at_a_step_whatever_was_done_for_it() {
    let slow = BlobStore::in_memory_with_slow_writes(std::time::Duration::from_millis(70));
    let running = running_with(Setup {
        segment_reads: 100_000,
        blobs: Some(Blobs::new(slow, limits())),
        ..Setup::default()
    });
    let blob = running.create(1, 8).await;
    let mut fastest = [u128::MAX; 3];
    for index in 0..8 {
        let began = std::time::Instant::now();
        running.put(blob, (1, index), 1, 0).await;
        fastest[0] = fastest[0].min(began.elapsed().as_millis());
        let began = std::time::Instant::now();
        running.chunks(blob).await;
        fastest[1] = fastest[1].min(began.elapsed().as_millis());
        let began = std::time::Instant::now();
        running.chunks(BlobName { id: id(9), ..blob }).await;
        fastest[2] = fastest[2].min(began.elapsed().as_millis());
    }
    let [write, read, refusal] = fastest;
    assert!((100..115).contains(&write), "{fastest:?}");
    for fast in [read, refusal] {
        assert!((50..65).contains(&fast), "{fastest:?}");
    }
}

#[tokio::test]
async fn nothing_of_a_blobs_name_or_secret_is_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let running = in_directory(&directory, limits());
    let blob = running.whole(1).await;
    let Location { row, .. } = running.found(blob).await.location();
    let (name, key, hash) = (id(1).0, writer(1), writer(1).hash());
    let secrets = [&name[..], key.expose(), &hash];
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let paths: Vec<String> = files(&directory)
        .into_iter()
        .map(|path| path.display().to_string())
        .collect();
    assert!(paths.iter().all(|path| path.contains(&hex(&row))));
    for secret in secrets {
        assert!(!paths.iter().any(|path| path.contains(&hex(&secret[..8]))));
    }
    let engine = running.memory.snapshot();
    for (key, value) in engine.rows() {
        for secret in secrets {
            for place in [&key.name[..], value] {
                assert!(!place.windows(8).any(|part| part == &secret[..8]));
            }
        }
    }
}
