//! What a message and a commit cost at n = 2 to 5000 members: the whole service in process on RocksDB with
//! fsync, beside the bare library calls that nobody can do without, in the same run.
//!
//! `make bench`; figures are in `docs/performance.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    unreachable_pub,
    reason = "shares the kit of the wire tests"
)]

#[path = "../tests/wire/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use crypto::aead;
use ds::groups::tree::{Fields, Storage};
use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{
    MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, ProposalStore, PublicGroup,
    RatchetTreeIn,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::OpenMlsProvider as _;
use protocol::Operation;
use protocol::groups::GroupKind;
use protocol::ids::GroupId;

use support::client::Client;
use support::commits::{Plan, group_info_of};
use support::{Engine, Service, Setup};

const SIZES: [usize; 5] = [2, 10, 100, 1000, 5000];
/// As many Adds as fit into a commit of a megabyte.
const ADDED_AT_ONCE: usize = 500;
const MESSAGE: usize = 300;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!(
        "{:<10} {:>5} {:>12} {:>12} {:>8}   bare",
        "", "n", "service us", "bare us", "ratio"
    );
    for n in sizes() {
        runtime.block_on(messages(n));
        runtime.block_on(commits(n));
    }
}

/// The sizes on the command line, or all.
fn sizes() -> Vec<usize> {
    let named: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    if named.is_empty() {
        SIZES.to_vec()
    } else {
        named
    }
}

async fn group_of(service: &Service, n: usize) -> (Client, GroupId) {
    let mut owner = Client::new(service).await;
    let id = owner.create_group(service, GroupKind::Group).await;
    let mut left = n - 1;
    while left > 0 {
        let some = left.min(ADDED_AT_ONCE);
        let mut invitees = Vec::new();
        for _ in 0..some {
            invitees.push(Client::new(service).await.invitee(service));
        }
        owner.commit(service, &id, Plan::add(invitees)).await;
        left -= some;
    }
    (owner, id)
}

fn service() -> Service {
    Service::with(Setup {
        self_check: false,
        ..Setup::on(Engine::Rocks)
    })
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .map_or(0.0, Duration::as_secs_f64)
        * 1e6
}

fn row(what: &str, n: usize, service: f64, bare: f64, meaning: &str) {
    println!(
        "{what:<10} {n:>5} {service:>12.0} {bare:>12.0} {:>8.2}   {meaning}",
        service / bare
    );
}

async fn messages(n: usize) {
    let service = service();
    let (mut owner, id) = group_of(&service, n).await;
    let rounds = 200;
    let mut times = Vec::new();
    for round in 0..rounds + 20 {
        let request = owner.text_request(&service, &id, &[7; MESSAGE]);
        let start = Instant::now();
        let reply = service.post(Operation::SendMessage, &request).await;
        let took = start.elapsed();
        assert_eq!(reply.status, 200);
        // The first ones begin the streams: one encapsulation a queue and day.
        if round >= 20 {
            times.push(took);
        }
    }
    row(
        "message",
        n,
        median(times),
        bare_message(n - 1, rounds),
        "verify, seal n entries, one synced batch",
    );
}

/// One signature, one AEAD call for each entry, one synced write of them all.
fn bare_message(recipients: usize, rounds: usize) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = rocksdb::Options::default();
    settings.create_if_missing(true);
    settings.set_compression_type(rocksdb::DBCompressionType::None);
    let db = rocksdb::DB::open(&settings, directory.path()).unwrap();
    let mut options = rocksdb::WriteOptions::default();
    options.set_sync(true);
    let key = crypto::sign::SignatureKeyPair::random().unwrap();
    let content = [7; 600];
    let signature = key.sign("bench", &content);
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        crypto::sign::verify(&key.public(), "bench", &content, &signature).unwrap();
        let mut batch = rocksdb::WriteBatch::default();
        put_deliveries(&mut batch, vec![7; MESSAGE + 150], recipients);
        db.write_opt(batch, &options).unwrap();
        times.push(start.elapsed());
    }
    median(times)
}

/// A payload once, and a small entry for each recipient: one AEAD call and one row each.
fn put_deliveries(batch: &mut rocksdb::WriteBatch, mut payload: Vec<u8>, recipients: usize) {
    aead::seal(&[1; 32], [0; 12], &[], &mut payload).unwrap();
    batch.put(crypto::random::<20>().unwrap(), &payload);
    for recipient in 0..recipients {
        let mut entry = vec![u8::try_from(recipient % 251).unwrap(); 41];
        aead::seal(&[1; 32], [0; 12], &[], &mut entry).unwrap();
        entry.resize(125, 0);
        batch.put(crypto::random::<20>().unwrap(), &entry);
    }
}

/// A group as the bare library keeps it: five fields as postcard, one synced write after each commit.
struct Bare {
    db: rocksdb::DB,
    _directory: tempfile::TempDir,
    id: openmls::prelude::GroupId,
}

impl Bare {
    fn new(owner: &Client, id: &GroupId) -> Self {
        let (info, tree) = group_info_of(owner, id);
        let MlsMessageBodyIn::GroupInfo(info) = MlsMessageIn::tls_deserialize_exact(&info)
            .unwrap()
            .extract()
        else {
            panic!("not a GroupInfo");
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(&tree).unwrap();
        let provider = OpenMlsRustCrypto::default();
        let storage = Storage::default();
        PublicGroup::from_external(
            provider.crypto(),
            &storage,
            tree,
            info,
            ProposalStore::new(),
        )
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut settings = rocksdb::Options::default();
        settings.create_if_missing(true);
        settings.set_compression_type(rocksdb::DBCompressionType::None);
        let bare = Self {
            db: rocksdb::DB::open(&settings, directory.path()).unwrap(),
            _directory: directory,
            id: openmls::prelude::GroupId::from_slice(&id.0),
        };
        bare.store(storage, &[], 0);
        bare
    }

    /// One synced write of the group, and of the commit sealed for so many queues.
    fn store(&self, storage: Storage, commit: &[u8], recipients: usize) {
        let bytes = postcard::to_stdvec(&storage.into_fields()).unwrap();
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(true);
        let mut batch = rocksdb::WriteBatch::default();
        batch.put(b"group", bytes);
        if recipients > 0 {
            put_deliveries(&mut batch, commit.to_vec(), recipients);
        }
        self.db.write_opt(batch, &options).unwrap();
    }

    /// Load, process, merge, store; with recipients, its delivery in the same write.
    fn commit(&self, commit: &[u8], recipients: usize) -> Duration {
        let start = Instant::now();
        let bytes = self.db.get(b"group").unwrap().unwrap();
        let storage = Storage::new(postcard::from_bytes::<Fields>(&bytes).unwrap());
        let mut group = PublicGroup::load(&storage, &self.id).unwrap().unwrap();
        let message = MlsMessageIn::tls_deserialize_exact(commit)
            .unwrap()
            .try_into_protocol_message()
            .unwrap();
        let crypto = openmls_rust_crypto::RustCrypto::default();
        let processed = group.process_message(&crypto, message).unwrap();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            panic!("not a commit");
        };
        group.merge_commit(&storage, *staged).unwrap();
        self.store(storage, commit, recipients);
        start.elapsed()
    }
}

async fn commits(n: usize) {
    let service = service();
    let (mut owner, id) = group_of(&service, n).await;
    let (bare_group, delivering) = (Bare::new(&owner, &id), Bare::new(&owner, &id));
    let (mut times, mut bare, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    let rounds = if n < 1000 { 60 } else { 20 };
    for round in 0..rounds {
        let commit = owner.stage(&id, Plan::update());
        bytes = commit.commit.len();
        let request = owner.commit_request(&service, &commit);
        let start = Instant::now();
        let reply = service.post(Operation::UpdateClient, &request).await;
        let took = start.elapsed();
        assert_eq!(reply.status, 200);
        let alone = bare_group.commit(&commit.commit, 0);
        let with_deliveries = delivering.commit(&commit.commit, n);
        owner.merge(&commit);
        if round >= rounds / 5 {
            times.push(took);
            bare.push(alone);
            delivered.push(with_deliveries);
        }
    }
    let service = median(times);
    row(
        "commit",
        n,
        service,
        median(bare),
        &format!("load, process, merge, store durably; the commit has {bytes} bytes"),
    );
    row(
        "commit",
        n,
        service,
        median(delivered),
        "load, process, merge; store with the sealed entries of n queues durably",
    );
}
