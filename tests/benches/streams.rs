//! What streams of a journal cost relay, gateway and delivery service, without clients: processor
//! time and changes of threads for each message and recipient, memory for each stream, and latency.
//!
//! `cargo bench --workspace --bench streams`, after a build of the programs. Relay and gateway are
//! the programs, each a process. The delivery service is its router on RocksDB in a process of its
//! own, with a group that was put into its store. Recipients are sockets of this process that count
//! bytes. `STREAMS` are the numbers of streams (0: a message to nobody), `IDLE` those whose memory
//! is measured. The relay speaks to clients by HTTP/1.1, each on a connection of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crypto::service_keys::ServiceKeys;
use ds_domain::engine::{Batch, Engine as _};
use ds_domain::env::Settings;
use ds_domain::group::scenes::large::{LargeGroup, limits};
use ds_domain::testing::{NOON_MS, key_file};
use ds_domain::tokens::{Challenge, IssuerKeys};
use ds_server::limits::LoadLimits;
use ds_server::tokens::AllowanceLimits;
use ds_server::{Allowed, Server, ServerSettings, StreamSettings, router};
use ds_store_rocks::Rocks;
use end_to_end::{free_address, program};
use http::{HeaderMap, HeaderValue, Method, header};
use oblivious::binary_http::{self, RequestHead};
use oblivious::chunked::{self, RequestEncoder};
use oblivious::{Aead, PublicKey, configs, whole};
use protocol::directory::StoreState;
use protocol::follow::{FollowJournalRequest, Pace};
use protocol::ids::{Position, SegmentId};
use protocol::operation::Operation;
use protocol::{REQUEST_MEDIA_TYPE, WIRE_VERSION, Wire as _};
use serde::Deserialize;
use service::alloc::ZeroOnFree;
use service::clock::{MovedClock, SystemClock};
use service::config::{ServiceConfig, ServiceSettings};
use service::gateway_auth::GatewaySecret;
use service::start::Process as Started;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// As the programs have it.
#[global_allocator]
static ALLOCATOR: ZeroOnFree = ZeroOnFree::new();

const TEXT: [u8; 300] = [7; 300];
const WARM_UP: usize = 3;
/// Set for the process of the delivery service.
const DS: &str = "STREAMS_DS";
/// Who opens streams at the same time.
const OPENING: usize = 32;
/// Between two departures of live streams (`ds/server/src/departures.rs`).
const DEPARTURE_MS: f64 = 50.0;
/// Longer than a row takes: the frames that are counted are those of messages.
const BEAT_MS: u32 = 60_000;

fn main() -> ExitCode {
    if std::env::var_os(DS).is_some() {
        return service::start::run("ds", delivery_service);
    }
    let numbers = |name: &str, usual: &str| -> Vec<usize> {
        let given = std::env::var(name).unwrap_or_else(|_| usual.to_owned());
        let numbers = given.split(',').filter(|number| !number.is_empty());
        numbers.map(|number| number.parse().unwrap()).collect()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    head();
    runtime.block_on(in_a_row());
    let mut alone = None;
    for streams in numbers("STREAMS", "0,1,100,200,1000") {
        runtime.block_on(messages(streams, &mut alone));
    }
    for streams in numbers("IDLE", "1000,10000") {
        runtime.block_on(idle(streams));
    }
    ExitCode::SUCCESS
}

// The process of the delivery service.

#[derive(Clone, Debug, Deserialize)]
struct DsConfig {
    listen: SocketAddr,
    directory: std::path::PathBuf,
    service: ServiceSettings,
}

impl ServiceConfig for DsConfig {
    fn service(&self) -> &ServiceSettings {
        &self.service
    }
}

/// A server with nothing but the group: no issuer, no feed, no upkeep.
async fn delivery_service(config: DsConfig, process: Started) -> Result<(), std::io::Error> {
    let much = AllowanceLimits {
        capacity: u32::MAX,
        refill_per_minute: u32::MAX,
        max_buckets: 1_000,
        nodes: 1,
    };
    let secret = GatewaySecret::load_or_create(&config.directory.join("secret")).unwrap();
    let issuer = blind_rsa_signatures::KeyPair::<
        blind_rsa_signatures::Sha384,
        blind_rsa_signatures::PSS,
        blind_rsa_signatures::Deterministic,
    >::generate(&mut blind_rsa_signatures::reexports::rand::rng(), 2048)
    .unwrap();
    let server = Arc::new(Server::new(
        Arc::new(Rocks::open(config.directory.join("store")).unwrap()),
        ServiceKeys::from_file(&key_file()).unwrap(),
        MovedClock::at(NOON_MS),
        process.shutdown.clone(),
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
            load: LoadLimits {
                concurrent_streams: 20_000,
                ..LoadLimits::default()
            },
            look_again_ms: None,
            streams: StreamSettings {
                seconds: 900,
                live_beat_ms: BEAT_MS,
                ..StreamSettings::default()
            },
            max_request_bytes: 2 * 1024 * 1024,
            store: StoreState {
                id: String::new(),
                generation: 0,
            },
        },
    ));
    let listener = service::http::bind(config.listen).await.unwrap();
    let limits = service::http::Limits {
        max_connections: 20_000,
        ..service::http::Limits::default()
    };
    service::http::serve(listener, router(server, secret), limits, process.shutdown).await;
    Ok(())
}

// What is measured.

/// A process that ends with this one.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Clone, Copy, Default)]
struct Spent {
    cpu_us: f64,
    switches: f64,
}

impl Process {
    fn start(mut command: Command, directory: &Path, name: &str, config: &str) -> Self {
        let path = directory.join(format!("{name}.toml"));
        fs::write(&path, config).unwrap();
        Self(command.arg("--config").arg(path).spawn().unwrap())
    }

    fn gateway(directory: &Path, config: &str) -> Self {
        let path = directory.join("gateway.toml");
        fs::write(&path, config).unwrap();
        let mut init = Command::new(program("ohttp-gateway"));
        init.arg("init")
            .arg("--config")
            .arg(&path)
            .stdout(Stdio::null());
        assert!(init.status().unwrap().success());
        let command = Command::new(program("ohttp-gateway"));
        Self::start(command, directory, "gateway", config)
    }

    /// Of all its threads so far.
    fn spent(&self) -> Spent {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let mut spent = Spent::default();
        for task in tasks {
            let task = task.unwrap().path();
            let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
            let ns: f64 = read("schedstat")
                .split(' ')
                .next()
                .map_or(0.0, |ns| ns.parse().unwrap_or(0.0));
            spent.cpu_us += ns / 1e3;
            spent.switches += read("status")
                .lines()
                .filter_map(|line| line.split_once("voluntary_ctxt_switches:"))
                .filter_map(|(_, count)| count.trim().parse::<f64>().ok())
                .sum::<f64>();
        }
        spent
    }

    fn resident_kib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }
}

/// The processes, and a group in the store of the service.
struct Servers {
    /// Relay, gateway, delivery service.
    processes: [Process; 3],
    group: LargeGroup,
    relay: SocketAddr,
    ds: SocketAddr,
    key: PublicKey,
    _directory: tempfile::TempDir,
}

const MUCH: &str = "
[limits]
max_connections = 20000
";

impl Servers {
    async fn start(leaves: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let group = LargeGroup::added(1, leaves as u64, leaves, 64);
        let store = directory.path().join("store");
        put(&group, &store).await;
        let path = directory.path().display();
        let [ds, gateway, relay] = [(); 3].map(|()| free_address());
        // They share two cores.
        // Twice as many streams as leaves, at 1,024 a connection.
        let connections = (leaves / 500).max(4);
        let admin = || {
            let address = free_address();
            format!("[service]\nadmin_listen = '{address}'\nworker_threads = 1\n")
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(DS, "1").stdin(Stdio::null());
        let service = Process::start(
            command,
            directory.path(),
            "ds",
            &format!("listen = '{ds}'\ndirectory = '{path}'\n{}", admin()),
        );
        listening(ds).await;
        let gateway_process = Process::gateway(
            directory.path(),
            &format!(
                "listen = '{gateway}'\ngateway_secret_file = '{path}/secret'\n\
                 http2_connections = {connections}\nconnections_of_address = 0\nnew_connections_of_address_per_second = 0\n\
                 keys = {{ directory = '{path}/keys' }}\n\
                 [[targets]]\nscheme = 'http'\nauthority = '{ds}'\nmethods = ['POST']\n\
                 path_prefix = '/v1/'\nforward_to = 'http://{ds}'\n{MUCH}{}",
                admin()
            ),
        );
        listening(gateway).await;
        let relay_process = Process::start(
            Command::new(program("ohttp-relay")),
            directory.path(),
            "relay",
            &format!(
                "listen = '{relay}'\ngateway = 'http://{gateway}/'\nmax_requests = 20000\n\
                 http2_connections = {connections}\n\
                 [address_limits]\nrequests_per_second = 0\nconnections_per_second = 0\n\
                 max_connections = 0\nmax_requests = 0\n{MUCH}{}",
                admin()
            ),
        );
        listening(relay).await;
        let keys = reqwest::get(format!("http://{relay}/ohttp-keys"));
        let keys = keys.await.unwrap().bytes().await.unwrap();
        let config = configs::usable(&keys).unwrap().remove(0);
        Self {
            processes: [relay_process, gateway_process, service],
            group,
            relay,
            ds,
            key: PublicKey::of_config(&config).unwrap(),
            _directory: directory,
        }
    }

    fn spent(&self) -> [Spent; 3] {
        [0, 1, 2].map(|at| self.processes[at].spent())
    }

    fn resident_kib(&self) -> [f64; 3] {
        [0, 1, 2].map(|at| self.processes[at].resident_kib())
    }

    fn inner(&self, operation: Operation, body: &[u8]) -> Vec<u8> {
        let now_ms = SystemClock::shared().now_unix_ms();
        let mut fields = HeaderMap::new();
        let date = service::http_date::format(now_ms / 60_000 * 60_000);
        fields.insert(header::DATE, HeaderValue::from_str(&date).unwrap());
        let media_type = HeaderValue::from_static(REQUEST_MEDIA_TYPE);
        fields.insert(header::CONTENT_TYPE, media_type);
        let head = RequestHead {
            method: Method::POST,
            scheme: "http".to_owned(),
            authority: self.ds.to_string(),
            path: operation.path().to_owned(),
            fields,
        };
        let mut inner = Vec::new();
        binary_http::request_head(&head, &mut inner);
        binary_http::content(body, &mut inner);
        binary_http::end(&mut inner);
        inner.resize(protocol::padding::bucket(inner.len()), 0);
        inner
    }

    fn post(&self, media_type: &str, sealed: &[u8]) -> Vec<u8> {
        let mut request = format!(
            "POST / HTTP/1.1\r\nhost: {}\r\ncontent-type: {media_type}\r\n\
             content-length: {}\r\n\r\n",
            self.relay,
            sealed.len()
        )
        .into_bytes();
        request.extend_from_slice(sealed);
        request
    }

    fn follow(&self, segment: SegmentId) -> Vec<u8> {
        let request = FollowJournalRequest {
            version: WIRE_VERSION,
            segment,
            from: Position(0),
            pace: Pace::Live,
        };
        let inner = self.inner(Operation::FollowJournal, &request.encode());
        let encoder = RequestEncoder::new(&self.key, Aead::Aes128Gcm).unwrap();
        let mut sealed = Vec::new();
        encoder.finish(&inner, &mut sealed).unwrap();
        self.post(chunked::REQUEST, &sealed)
    }

    fn message(&mut self) -> Vec<u8> {
        let request = self.group.message(&TEXT);
        let inner = self.inner(Operation::SendMessage, &request);
        let (sealed, _) = whole::seal(&self.key, Aead::Aes128Gcm, &inner).unwrap();
        self.post(whole::REQUEST, &sealed)
    }

    async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.relay).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }
}

/// Keeps a group in a new store.
async fn put(group: &LargeGroup, store: &Path) {
    let rocks = Rocks::create(store).unwrap();
    let rows: Vec<_> = group.rows().collect();
    for rows in rows.chunks(500) {
        let puts = rows
            .iter()
            .map(|(key, value)| ((*key).clone(), value.to_vec()));
        let batch = Batch {
            puts: puts.collect(),
            ..Batch::default()
        };
        rocks.apply(batch).await.unwrap();
    }
    rocks.flush().await.unwrap();
}

async fn listening(address: SocketAddr) {
    for _ in 0..1_000 {
        if TcpStream::connect(address).await.is_ok() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("a program does not listen: what it said is above");
}

/// Streams that are open, and what comes on them.
struct Streams {
    /// Bytes of a message on each.
    piece: Arc<AtomicU64>,
    /// When a stream has got a message.
    got: mpsc::UnboundedReceiver<Instant>,
}

/// Counts bytes of one stream. The first piece is its beginning.
async fn count(mut stream: TcpStream, piece: Arc<AtomicU64>, got: mpsc::UnboundedSender<Instant>) {
    let mut buffer = vec![0; 8 * 1024];
    let mut bytes = 0;
    loop {
        // Whoever misses a message notices.
        let Ok(read @ 1..) = stream.read(&mut buffer).await else {
            return;
        };
        let now = Instant::now();
        bytes += read as u64;
        match piece.load(Ordering::Relaxed) {
            // Not known yet: it is what comes within a moment.
            0 => {
                while let Ok(read) =
                    timeout(Duration::from_millis(500), stream.read(&mut buffer)).await
                {
                    bytes += read.unwrap() as u64;
                }
                piece.store(bytes, Ordering::Relaxed);
                bytes = 0;
                got.send(now).unwrap();
            }
            piece if bytes >= piece => {
                bytes -= piece;
                got.send(now).unwrap();
            }
            _ => {}
        }
    }
}

impl Streams {
    async fn open(servers: &Servers, number: usize) -> Self {
        let segment = servers.group.segment();
        let piece = Arc::new(AtomicU64::new(0));
        let (tell, got) = mpsc::unbounded_channel();
        let mut left = number;
        while left > 0 {
            let some = left.min(OPENING);
            left -= some;
            let opening = (0..some).map(|_| async {
                let mut stream = servers.connect().await;
                stream.write_all(&servers.follow(segment)).await.unwrap();
                // The head, and what there is at the beginning.
                let mut buffer = vec![0; 64 * 1024];
                let read = stream.read(&mut buffer).await.unwrap();
                assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
                while timeout(Duration::from_millis(300), stream.read(&mut buffer))
                    .await
                    .is_ok()
                {}
                tokio::spawn(count(stream, Arc::clone(&piece), tell.clone()));
            });
            futures::future::join_all(opening).await;
        }
        Self { piece, got }
    }

    /// All of them have got a message.
    async fn all(&mut self, number: usize) -> Vec<Instant> {
        let mut times = Vec::new();
        while times.len() < number {
            let got = timeout(Duration::from_secs(20), self.got.recv());
            times.push(got.await.expect("a message for everybody").unwrap());
        }
        times
    }
}

fn head() {
    println!(
        "{:<26} {:>9} {:>9} {:>9} {:>9}",
        "", "relay", "gateway", "ds", "all"
    );
}

fn row(what: &str, figures: [f64; 3]) {
    let all: f64 = figures.iter().sum();
    let [relay, gateway, ds] = figures;
    println!("{what:<26} {relay:>9.1} {gateway:>9.1} {ds:>9.1} {all:>9.1}");
}

/// Messages to nobody, one right after the other: what a process that is busy takes for each.
async fn in_a_row() {
    const ROUNDS: u32 = 1_000;
    let mut servers = Servers::start(1).await;
    let mut sender = servers.connect().await;
    let requests: Vec<_> = (0..ROUNDS).map(|_| servers.message()).collect();
    let before = servers.spent();
    for request in &requests {
        say(&mut sender, request).await;
    }
    let after = servers.spent();
    println!("\nmessages to nobody, in a row");
    let each = |at: usize| (after[at].cpu_us - before[at].cpu_us) / f64::from(ROUNDS);
    row("us a message", [0, 1, 2].map(each));
}

async fn say(sender: &mut TcpStream, request: &[u8]) {
    sender.write_all(request).await.unwrap();
    let mut answer = vec![0; 16 * 1024];
    let read = sender.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
}

/// One message after the other, each when all have got the one before.
async fn messages(streams: usize, alone: &mut Option<[f64; 3]>) {
    let mut servers = Servers::start(streams + 1).await;
    let mut open = Streams::open(&servers, streams).await;
    let mut sender = servers.connect().await;
    let rounds = if streams > 500 { 25 } else { 60 };
    let mut requests: Vec<_> = (0..rounds + WARM_UP).map(|_| servers.message()).collect();
    let warm = requests.split_off(rounds);
    let (mut latencies, mut late) = (Vec::new(), Vec::new());
    let began = Instant::now();
    let mut before = servers.spent();
    for (round, request) in warm.iter().chain(&requests).enumerate() {
        if round == WARM_UP {
            sleep(Duration::from_millis(300)).await;
            before = servers.spent();
        }
        // Not in step with departures, of which the last one has just been.
        sleep(Duration::from_millis(round as u64 * 17 % 50)).await;
        say(&mut sender, request).await;
        let accepted = Instant::now();
        let got = open.all(streams).await;
        if streams == 0 {
            sleep(Duration::from_millis(20)).await;
        }
        if round >= WARM_UP {
            let times = got
                .iter()
                .map(|got| got.saturating_duration_since(accepted));
            latencies.extend(times.map(|time| time.as_secs_f64() * 1e3));
            late.extend(behind_departures(began, &got));
        }
    }
    sleep(Duration::from_millis(300)).await;
    let after = servers.spent();
    let each = |of: fn(&Spent) -> f64| {
        [0, 1, 2].map(|at| (of(&after[at]) - of(&before[at])) / rounds as f64)
    };
    let (cpu, switches) = (each(|spent| spent.cpu_us), each(|spent| spent.switches));
    println!(
        "\n{streams} streams, {} bytes a piece",
        open.piece.load(Ordering::Relaxed)
    );
    row("us a message", cpu);
    row("switches a message", switches);
    match alone {
        Some(alone) if streams > 0 => {
            let further = |at: usize| (cpu[at] - alone[at]) / streams as f64;
            row("us a recipient", [0, 1, 2].map(further));
        }
        _ if streams == 0 => *alone = Some(cpu),
        _ => {}
    }
    if streams > 0 {
        show("ms from accept to there", latencies);
        show("... behind its departure", late);
    }
}

fn show(what: &str, mut figures: Vec<f64>) {
    figures.sort_unstable_by(f64::total_cmp);
    let at = |percent: usize| figures[(figures.len() * percent / 100).min(figures.len() - 1)];
    println!("{what:<26} p50 {:.1}, p99 {:.1}", at(50), at(99));
}

/// How long after a departure each of these came, milliseconds. Departures are
/// [`DEPARTURE_MS`] apart, and directly before the first times behind the longest gap.
fn behind_departures(began: Instant, times: &[Instant]) -> Vec<f64> {
    let phase = |time: &Instant| (*time - began).as_secs_f64() * 1e3 % DEPARTURE_MS;
    let mut phases: Vec<f64> = times.iter().map(phase).collect();
    phases.sort_unstable_by(f64::total_cmp);
    let Some((first, last)) = phases.first().copied().zip(phases.last().copied()) else {
        return phases;
    };
    let gaps = phases.windows(2).map(|two| (two[1] - two[0], two[1]));
    let around = (first + DEPARTURE_MS - last, first);
    let (_, origin) = gaps.fold(around, |longest, gap| match gap.0 > longest.0 {
        true => gap,
        false => longest,
    });
    let behind = |phase| (phase + DEPARTURE_MS - origin) % DEPARTURE_MS;
    phases.into_iter().map(behind).collect()
}

/// Memory of streams on which nothing happens, and what waiting costs.
async fn idle(streams: usize) {
    let servers = Servers::start(streams / 2).await;
    // What is there from the first one on.
    let _first = Streams::open(&servers, 20).await;
    let before = servers.resident_kib();
    let _open = Streams::open(&servers, streams - 20).await;
    let after = servers.resident_kib();
    let each = |at: usize| (after[at] - before[at]) / (streams - 20) as f64;
    println!("\n{streams} idle streams");
    row("KiB a stream", [0, 1, 2].map(each));
    let before = servers.spent();
    sleep(Duration::from_secs(20)).await;
    let after = servers.spent();
    let waits = |at: usize| (after[at].cpu_us - before[at].cpu_us) / 20.0 / streams as f64;
    row("us a stream and second", [0, 1, 2].map(waits));
}
