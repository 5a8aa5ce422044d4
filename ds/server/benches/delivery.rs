//! What messages, reads and commits cost the delivery service, beside what nobody can do without,
//! in the same run.
//!
//! The service is the real one: RocksDB with fsync, its listener on a socket, metrics. Its requests
//! come from one thread that speaks HTTP/1.1 by hand, as a gateway does after decapsulation. **CPU
//! is that of the whole process without this thread**: sockets, HTTP, decisions, the thread that
//! writes, and RocksDB's own. What it leaves out is Oblivious HTTP, which is the gateway's
//! (`oblivious`).
//!
//! `make bench`; figures are in `docs/performance.md`. Arguments name parts: `messages`, `reads`,
//! `added`, `grown`. `SUITE` is the MLS ciphersuite (1, X25519, if nothing is said; 79 has X-Wing),
//! `LARGE` the members of the groups of the last two, `LARGEST` of the others' large one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use blind_rsa_signatures::{Deterministic, KeyPair, PSS, Sha384, reexports::rand};
use crypto::service_keys::ServiceKeys;
use ds_domain::engine::{Batch, Engine as _};
use ds_domain::env::Settings;
use ds_domain::group::scenes::large::{Bare, LargeGroup, limits};
use ds_domain::testing::{NOON_MS, key_file};
use ds_domain::tokens::{Challenge, IssuerKeys};
use ds_server::limits::LoadLimits;
use ds_server::tokens::AllowanceLimits;
use ds_server::{Allowed, Server, ServerSettings, router};
use ds_store_rocks::Rocks;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use protocol::directory::StoreState;
use protocol::group::EntryAccepted;
use protocol::ids::{Position, SegmentId};
use protocol::journal::{AnswerSize, ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::{REQUEST_MEDIA_TYPE, WIRE_VERSION, Wire as _};
use rustix::time::{ClockId, clock_gettime};
use service::clock::MovedClock;
use service::gateway_auth::{GATEWAY_AUTHORIZATION, GatewaySecret};
use service::shutdown::Shutdown;

type Issuer = KeyPair<Sha384, PSS, Deterministic>;

const TEXT: [u8; 300] = [7; 300];
/// Requests that are measured together: the clocks are looked at before and after them.
const TOGETHER: usize = 25;
const ROUNDS: usize = 60;
/// Readers who wait together.
const WAITING: usize = 16;
const COMMITS: usize = 40;
const REMOVALS: usize = 15;

fn number_of(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |number| number.parse().unwrap())
}

fn suite() -> u16 {
    u16::try_from(number_of("SUITE", 1)).unwrap()
}

fn largest() -> usize {
    number_of("LARGEST", 5_000)
}

/// Time on a processor: of this thread, and of all others of this process.
#[derive(Clone, Copy)]
struct Spent {
    here: Duration,
    elsewhere: Duration,
}

impl Spent {
    fn until_now() -> Self {
        let [all, here]: [Duration; 2] = [ClockId::ProcessCPUTime, ClockId::ThreadCPUTime]
            .map(|clock| clock_gettime(clock).try_into().unwrap());
        Self {
            here,
            elsewhere: all.saturating_sub(here),
        }
    }

    /// Microseconds here and elsewhere since then. The service gets a moment to end what nobody
    /// waits for.
    fn since(self) -> [f64; 2] {
        std::thread::sleep(Duration::from_millis(2));
        let now = Self::until_now();
        [(now.here, self.here), (now.elsewhere, self.elsewhere)]
            .map(|(now, then)| now.saturating_sub(then).as_secs_f64() * 1e6)
    }
}

/// CPU of the service for this, microseconds.
fn of_service(work: impl FnOnce()) -> f64 {
    let before = Spent::until_now();
    work();
    let [_, elsewhere] = before.since();
    elsewhere
}

fn quartiles(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| figures[(figures.len() * quarter / 4).min(figures.len() - 1)])
}

fn row(what: &str, figures: Vec<f64>) -> f64 {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let [first, median, third] = quartiles(figures);
    println!("{what:<64} {least:>9.2} {first:>9.2} {median:>9.2} {third:>9.2}");
    median
}

fn head(what: &str) {
    println!(
        "\n{what:<64} {:>9} {:>9} {:>9} {:>9}",
        "least", "quarter", "median", "quarter"
    );
}

fn ratios(these: &[f64], those: &[f64]) -> Vec<f64> {
    these.iter().zip(those).map(|(a, b)| a / b).collect()
}

/// A connection of the gateway's.
struct Connection {
    stream: TcpStream,
    gateway: String,
}

impl Connection {
    fn send(&mut self, operation: Operation, body: &[u8]) {
        let mut request = format!(
            "POST {} HTTP/1.1\r\nhost: ds.example\r\ncontent-type: {REQUEST_MEDIA_TYPE}\r\n\
             {GATEWAY_AUTHORIZATION}: {}\r\ncontent-length: {}\r\n\r\n",
            operation.path(),
            self.gateway,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).unwrap();
    }

    /// The body of the answer.
    fn receive(&mut self) -> Vec<u8> {
        let (mut bytes, mut room) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let read = self.stream.read(&mut room).unwrap();
            assert_ne!(read, 0, "the connection was closed");
            bytes.extend_from_slice(&room[..read]);
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let text = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map(|length| length.parse::<usize>().unwrap());
            if bytes.len() < end + 4 + length.unwrap() {
                continue;
            }
            let body = bytes.split_off(end + 4);
            let shown = String::from_utf8_lossy(&body);
            assert!(text.starts_with("HTTP/1.1 200"), "{text}\n{shown}");
            return body;
        }
    }

    fn call(&mut self, operation: Operation, body: &[u8]) -> Vec<u8> {
        self.send(operation, body);
        self.receive()
    }
}

/// The service with its listener.
struct Service {
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    rocks: Arc<Rocks>,
    address: SocketAddr,
    gateway: String,
    metrics: PrometheusHandle,
}

impl Service {
    fn start(metrics: &PrometheusHandle) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        let gateway = GatewaySecret::load_or_create(&secret).unwrap();
        let header = gateway.header_value().to_str().unwrap().to_owned();
        let rocks = Arc::new(Rocks::create(directory.path().join("store")).unwrap());
        let issuer = Issuer::generate(&mut rand::rng(), 2048).unwrap();
        let (trigger, shutdown) = Shutdown::channel();
        // For as long as the process lives.
        std::mem::forget(trigger);
        let much = AllowanceLimits {
            capacity: u32::MAX,
            refill_per_minute: u32::MAX,
            max_buckets: 1_000,
            nodes: 1,
        };
        let server = Arc::new(Server::new(
            rocks.clone(),
            ServiceKeys::from_file(&key_file()).unwrap(),
            MovedClock::at(NOON_MS),
            shutdown.clone(),
            IssuerKeys::from_directory_keys([issuer.pk.to_spki().unwrap()]).unwrap(),
            ServerSettings {
                decisions: Settings {
                    limits: limits(),
                    ..Settings::default()
                },
                domain: "ds.example".to_owned(),
                issuer_name: "issuer.example".to_owned(),
                challenge: Challenge::new("issuer.example", "ds.example").unwrap(),
                allowed: Allowed {
                    leaf: much,
                    group: much,
                    segment: much,
                    owner: much,
                },
                load: LoadLimits::default(),
                look_again_ms: None,
                streams: ds_server::StreamSettings::default(),
                max_request_bytes: 2 * 1024 * 1024,
                store: StoreState {
                    id: String::new(),
                    generation: 0,
                },
            },
        ));
        let router = router(server, gateway);
        let listener = runtime
            .block_on(service::http::bind(([127, 0, 0, 1], 0).into()))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let limits = service::http::Limits {
            // The client may take its time between two requests.
            header_read_seconds: 3_600,
            ..service::http::Limits::default()
        };
        runtime.spawn(service::http::serve(listener, router, limits, shutdown));
        Self {
            directory,
            runtime,
            rocks,
            address,
            gateway: header,
            metrics: metrics.clone(),
        }
    }

    /// Keeps a group from now on.
    fn take(&self, group: &LargeGroup) {
        let rows: Vec<_> = group.rows().collect();
        for rows in rows.chunks(500) {
            let puts = rows
                .iter()
                .map(|(key, value)| ((*key).clone(), value.to_vec()));
            let batch = Batch {
                puts: puts.collect(),
                ..Batch::default()
            };
            self.runtime.block_on(self.rocks.apply(batch)).unwrap();
        }
        self.runtime.block_on(self.rocks.flush()).unwrap();
    }

    fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection {
            stream,
            gateway: self.gateway.clone(),
        }
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// As the admin listener does it: not this thread's work, not measured.
    fn tidy(&self) {
        self.metrics.run_upkeep();
    }
}

/// Bytes of the logs that RocksDB has.
fn log_bytes(store: &Path) -> u64 {
    fs::read_dir(store)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .map(|path| fs::metadata(path).unwrap().len())
        .sum()
}

/// As a client asks that has read to the end.
fn read_to_end(segment: SegmentId, next: Position, wait_ms: u32) -> Vec<u8> {
    ReadJournalRequest {
        version: WIRE_VERSION,
        segment,
        from: next.rounded_down(),
        known: next,
        wait_ms,
        size: AnswerSize::Segment,
        piece: 0,
    }
    .encode()
}

/// A group, and where its journal has got to.
struct Journal {
    group: LargeGroup,
    next: Position,
}

impl Journal {
    fn send(&mut self, connection: &mut Connection, request: &[u8]) {
        let answer = connection.call(Operation::SendMessage, request);
        self.next = EntryAccepted::decode(&answer)
            .unwrap()
            .place
            .position
            .next();
    }

    fn messages(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.group.message(&TEXT)).collect()
    }
}

/// Groups of 2 and of [`largest`], in one service.
fn prepared(service: &Service) -> [Journal; 2] {
    let groups = [2, largest()].map(|users| Journal {
        // The sender's page of the roster is as full as it gets.
        group: LargeGroup::added(suite(), users as u64, users, 64),
        next: Position(0),
    });
    for journal in &groups {
        service.take(&journal.group);
    }
    groups
}

fn messages(service: &Service, groups: &mut [Journal; 2]) {
    let mut connection = service.connect();
    let store = service.store();
    let (mut cpu, mut bytes) = ([(); 2].map(|()| Vec::new()), [(); 2].map(|()| Vec::new()));
    for round in 0..ROUNDS + 4 {
        for turn in 0..2 {
            // In turn, and each behind the other.
            let at = (round + turn) % 2;
            let journal = &mut groups[at];
            let requests = journal.messages(TOGETHER);
            service.tidy();
            let written = log_bytes(&store);
            let spent = of_service(|| {
                for request in &requests {
                    journal.send(&mut connection, request);
                }
            });
            let written = log_bytes(&store).saturating_sub(written);
            if round >= 4 {
                cpu[at].push(spent / TOGETHER as f64);
                bytes[at].push(written as f64 / TOGETHER as f64);
            }
        }
    }
    head("SendMessage, one after the other");
    let ratio = ratios(&cpu[1], &cpu[0]);
    let [small, large] = cpu;
    row("CPU us, group of 2", small);
    row(&format!("CPU us, group of {}", largest()), large);
    row("ratio", ratio);
    let [small, large] = bytes;
    row("bytes of the store's log, group of 2", small);
    row(
        &format!("bytes of the store's log, group of {}", largest()),
        large,
    );
}

fn reads(service: &Service, groups: &mut [Journal; 2]) {
    let mut connections: Vec<Connection> = (0..WAITING).map(|_| service.connect()).collect();
    head("ReadJournal");
    for (journal, users) in groups.iter_mut().zip([2, largest()]) {
        // Half of what is read together.
        while journal.next.0 % Position::READ_GRANULE != Position::READ_GRANULE / 2 {
            let request = journal.group.message(&TEXT);
            journal.send(&mut connections[0], &request);
        }
        for what in ["16 entries come again", "no entry comes"] {
            let request = read_to_end(journal.group.segment(), journal.next, 0);
            let (mut alone, mut together, mut size) = (Vec::new(), Vec::new(), 0);
            for _ in 0..ROUNDS {
                service.tidy();
                alone.push(
                    of_service(|| {
                        for _ in 0..10 * TOGETHER {
                            size = connections[0].call(Operation::ReadJournal, &request).len();
                        }
                    }) / (10 * TOGETHER) as f64,
                );
                together.push(
                    of_service(|| {
                        for _ in 0..10 {
                            for connection in &mut connections {
                                connection.send(Operation::ReadJournal, &request);
                            }
                            for connection in &mut connections {
                                connection.receive();
                            }
                        }
                    }) / (10 * WAITING) as f64,
                );
            }
            let of = format!("idle journal of {users}, {what} ({size} bytes)");
            row(&format!("CPU us, {of}, one by one"), alone);
            row(&format!("... {WAITING} at once"), together);
            for _ in 0..Position::READ_GRANULE / 2 {
                let request = journal.group.message(&TEXT);
                journal.send(&mut connections[0], &request);
            }
        }
    }
    let [_, journal] = groups;
    polls(service, journal, &mut connections);
}

/// Long polls that a message ends: what all of it costs without the message, for each.
fn polls(service: &Service, journal: &mut Journal, connections: &mut [Connection]) {
    let mut sender = service.connect();
    let (mut begun, mut woken) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let requests = journal.messages(2);
        service.tidy();
        let message = of_service(|| journal.send(&mut sender, &requests[0]));
        let request = read_to_end(journal.group.segment(), journal.next, 20_000);
        let begins = of_service(|| {
            for connection in connections.iter_mut() {
                connection.send(Operation::ReadJournal, &request);
            }
            std::thread::sleep(Duration::from_millis(20));
        });
        let wakes = of_service(|| {
            journal.send(&mut sender, &requests[1]);
            for connection in connections.iter_mut() {
                let answer = connection.receive();
                let answer = ReadJournalResponse::decode(&answer).unwrap();
                assert_eq!(answer.head.next, journal.next);
            }
        });
        begun.push(begins / WAITING as f64);
        woken.push((wakes - message) / WAITING as f64);
    }
    let whole: Vec<f64> = begun.iter().zip(&woken).map(|(a, b)| a + b).collect();
    row(
        &format!(
            "CPU us, long poll begins ({WAITING} wait, {} members)",
            largest()
        ),
        begun,
    );
    row("... is woken and answered", woken);
    row("... both", whole);
}

/// The group as the library alone has it, in a database of its own.
struct BareStore {
    _directory: tempfile::TempDir,
    db: rocksdb::DB,
    bare: Bare,
}

impl BareStore {
    fn new(group: &LargeGroup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        let (bare, bytes) = group.bare();
        let store = Self {
            db: rocksdb::DB::open(&options, directory.path()).unwrap(),
            _directory: directory,
            bare,
        };
        store.put(&bytes);
        store
    }

    fn put(&self, bytes: &[u8]) {
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(true);
        self.db.put_opt(b"group", bytes, &options).unwrap();
    }

    /// CPU of load, process, merge, serialize and one synced write; and of the calls of the library
    /// alone. In a thread whose memory nobody else has used: the first one has made a thousand
    /// clients in its own.
    fn commit(&self, commit: &[u8]) -> [f64; 2] {
        let begun = Spent::until_now().here;
        let bytes = self.db.get(b"group").unwrap().unwrap();
        let read = Spent::until_now().here;
        let next = self.bare.commit(&bytes, commit);
        let processed = Spent::until_now().here;
        self.put(&next);
        let written = Spent::until_now().here;
        [written - begun, processed - read].map(|time| time.as_secs_f64() * 1e6)
    }
}

struct BareThread {
    group_bytes: usize,
    commits: mpsc::Sender<Vec<u8>>,
    figures: mpsc::Receiver<[f64; 2]>,
}

impl BareThread {
    fn start(store: BareStore) -> Self {
        let group_bytes = store.db.get(b"group").unwrap().unwrap().len();
        let (commits, coming): (_, mpsc::Receiver<Vec<u8>>) = mpsc::channel();
        let (going, figures) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok(commit) = coming.recv() {
                going.send(store.commit(&commit)).unwrap();
            }
        });
        Self {
            group_bytes,
            commits,
            figures,
        }
    }

    fn commit(&self, commit: &[u8]) -> [f64; 2] {
        self.commits.send(commit.to_vec()).unwrap();
        self.figures.recv().unwrap()
    }
}

fn commits(metrics: &PrometheusHandle, what: &str, mut group: LargeGroup) {
    let service = Service::start(metrics);
    service.take(&group);
    let mut connection = service.connect();
    let bare = BareThread::start(BareStore::new(&group));
    let (mut served, mut with_write, mut library) = (Vec::new(), Vec::new(), Vec::new());
    let mut size = 0;
    for round in 0..COMMITS + 4 {
        let staged = group.update();
        size = staged.commit.len();
        service.tidy();
        let spent = of_service(|| {
            connection.call(Operation::UpdateClient, &staged.request);
        });
        let [whole, calls] = bare.commit(&staged.commit);
        group.accepted(&staged);
        if round >= 4 {
            served.push(spent);
            with_write.push(whole);
            library.push(calls);
        }
    }
    let members = group.leaves().len();
    head(&format!(
        "UpdateClient, {members} members {what}: group of {} bytes, commit of {size}",
        bare.group_bytes
    ));
    let ratio = ratios(&served, &with_write);
    let without_rotation = row("CPU us, service", served);
    row(
        "CPU us, library: load, process, merge, serialize; synced write",
        with_write,
    );
    row("CPU us, library alone", library);
    row("ratio", ratio);
    removals(
        &service,
        &mut connection,
        &bare,
        &mut group,
        without_rotation,
    );
}

fn removals(
    service: &Service,
    connection: &mut Connection,
    bare: &BareThread,
    group: &mut LargeGroup,
    without_rotation: f64,
) {
    let mut figures = [(); 7].map(|()| Vec::new());
    let (mut size, mut requests) = (0, 0);
    for round in 0..REMOVALS + 2 {
        let leaves = group.leaves();
        let leaf = leaves[leaves.len() / 2 + 7 * round];
        let at_stage = Spent::until_now();
        let staged = group.removal(leaf);
        let [staging, _] = at_stage.since();
        size = staged.commit.len();
        let remaining = (leaves.len() - 1) as f64;
        service.tidy();
        let served = of_service(|| {
            connection.call(Operation::RemoveUsers, &staged.request);
        });
        let [whole, _] = bare.commit(&staged.commit);
        let at_merge = Spent::until_now();
        group.accepted(&staged);
        let [merging, _] = at_merge.since();
        let at_rows = Spent::until_now();
        let rows = group.recovery_rows();
        let [sealing, _] = at_rows.since();
        requests = rows.len();
        service.tidy();
        let written = of_service(|| {
            for request in &rows {
                connection.call(Operation::PutRecoveryRows, request);
            }
        });
        if round >= 2 {
            let values = [
                served,
                whole,
                (served - 1.3 * whole) / remaining,
                (served - without_rotation) / remaining,
                written / remaining,
                staging + merging,
                sealing / remaining,
            ];
            for (figures, value) in figures.iter_mut().zip(values) {
                figures.push(value);
            }
        }
    }
    head(&format!(
        "RemoveUsers with a rotation: commit of {size} bytes, {requests} requests with rows"
    ));
    let names = [
        "CPU us, service, the commit",
        "CPU us, library and synced write",
        "service, beyond 1.3 times that, for each remaining leaf",
        "service, beyond a commit without rotation, for each remaining leaf",
        "CPU us, service, PutRecoveryRows, for each remaining leaf",
        "CPU us, committer: library makes and merges the commit",
        "CPU us, committer: sealing the rows, for each remaining leaf",
    ];
    for (name, figures) in names.into_iter().zip(figures) {
        row(name, figures);
    }
}

fn main() {
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    if is_wanted("messages") || is_wanted("reads") {
        let service = Service::start(&metrics);
        let mut groups = prepared(&service);
        messages(&service, &mut groups);
        if is_wanted("reads") {
            reads(&service, &mut groups);
        }
    }
    let members = number_of("LARGE", 1_000);
    if is_wanted("added") {
        commits(
            &metrics,
            "added at once",
            LargeGroup::added(suite(), 1, members, members),
        );
    }
    if is_wanted("grown") {
        commits(
            &metrics,
            "who came one by one",
            LargeGroup::grown(suite(), 1, members),
        );
    }
}
