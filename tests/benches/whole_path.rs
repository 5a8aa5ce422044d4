//! What a message costs on its whole path, from the call that sends it until the event is there at
//! all others of its group: processor time of each service, of the sender and of the receivers,
//! requests by kind, and latency; beside the bare work that cannot be done without, in the same
//! run.
//!
//! `cargo bench --workspace --bench whole_path`, after a build of the programs. The services are
//! those of `make stack`, on RocksDB. Clients are the SDK on homes of their own: the sender in this
//! process, the receivers in another one. `MEMBERS` are the sizes of groups.
//!
//! * *stream*: all look at events, with the group in front, which they follow on a stream.
//! * *polling*: each receiver catches up once after each message.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[path = "../../client/benches/bare/mod.rs"]
mod bare;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bare::{at, each, median, mls};
use client::{Client, Event, Options};
use end_to_end::{LogLevel, MUCH, Service, Stack, device_with, patient};
use futures::future::join_all;
use oblivious::{Aead, Kem, Key, whole};
use rocksdb::{DB, WriteOptions};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use xtask::http;

const GROUP: &str = "measured";
/// Of text in each message.
const TEXT: usize = 300;
const WARM_UP: usize = 5;
/// What follows from a message is over.
const SETTLED: Duration = Duration::from_millis(200);
/// Nothing is sent for so long to see what waiting costs.
const IDLE: Duration = Duration::from_secs(20);
/// Set for the process of the receivers: how they read, and their homes.
const RECEIVERS: &str = "WHOLE_PATH_RECEIVERS";
const ISSUER: &str = "
[issuer]
tokens_per_account_per_day = 100000
";
/// The services share the cores of this machine: a second thread of each would only be woken for
/// nothing.
const ONE_THREAD_EACH: &str = "
[relay.service]
worker_threads = 1
[gateway.service]
worker_threads = 1
[ds.service]
worker_threads = 1
[issuer.service]
worker_threads = 1
";
const SERVICES: [Service; 4] = [
    Service::Relay,
    Service::Gateway,
    Service::Ds,
    Service::Issuer,
];

fn main() {
    if let Ok(given) = std::env::var(RECEIVERS) {
        return receivers(&given);
    }
    let bare = Bare::measure();
    bare.print();
    let sizes = std::env::var("MEMBERS").unwrap_or_else(|_| "2,10,100".to_owned());
    for members in sizes.split(',').map(|size| size.parse().unwrap()) {
        let group = runtime().block_on(Prepared::make(members));
        bare.print_floor(members - 1);
        for reading in [Reading::Stream, Reading::Polling] {
            group.measure(reading);
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// An application's, in particular its slots.
fn usual() -> Options {
    Options {
        slots_faster: 1,
        ..patient()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Stream,
    Polling,
}

impl Reading {
    const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Polling => "polling",
        }
    }
}

// The process of the receivers: lines in say "poll", lines out say what has happened.

fn receivers(given: &str) {
    let mut lines = given.lines();
    let reading = lines.next().unwrap();
    let homes: Vec<PathBuf> = lines.map(PathBuf::from).collect();
    let looks = reading != Reading::Polling.name();
    runtime().block_on(async {
        let mut clients = Vec::new();
        for home in &homes {
            clients.push(Client::open(home, usual()).await.unwrap());
        }
        if looks {
            for client in &clients {
                // From here on the group is the one in front.
                client.send_message(GROUP, "I am here").await.unwrap();
            }
        }
        for client in &clients {
            client.sync(0).await.unwrap();
            let events = client.events().unwrap();
            client.acknowledge(&events).unwrap();
        }
        if looks {
            println!("ready");
            join_all(clients.iter().map(follow)).await;
        } else {
            println!("ready");
            for line in std::io::stdin().lines() {
                assert_eq!(line.unwrap(), "poll");
                join_all(clients.iter().map(catch_up)).await;
                println!("polled");
            }
        }
    });
}

async fn follow(client: &Client) {
    let mut events = client.event_stream();
    loop {
        let stored = events.next().await.unwrap();
        if let Event::Message { text, .. } = &stored.event {
            println!("{} {text}", monotonic_ns());
        }
        client.acknowledge(&[stored]).unwrap();
    }
}

async fn catch_up(client: &Client) {
    client.sync(0).await.unwrap();
    let events = client.events().unwrap();
    for stored in &events {
        if let Event::Message { text, .. } = &stored.event {
            println!("{} {text}", monotonic_ns());
        }
    }
    client.acknowledge(&events).unwrap();
}

/// The same clock in every process.
fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

struct Receivers {
    process: Child,
    say: ChildStdin,
    heard: Receiver<String>,
}

impl Receivers {
    fn start(reading: Reading, homes: &[PathBuf]) -> Self {
        let homes: Vec<_> = homes.iter().map(|home| home.to_str().unwrap()).collect();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(
                RECEIVERS,
                format!("{}\n{}", reading.name(), homes.join("\n")),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (tell, heard) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let this = Self {
            say: process.stdin.take().unwrap(),
            process,
            heard,
        };
        assert_eq!(this.next(), "ready");
        this
    }

    fn next(&self) -> String {
        self.heard.recv_timeout(Duration::from_secs(600)).unwrap()
    }

    fn poll(&mut self) {
        self.say.write_all(b"poll\n").unwrap();
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// What is measured.

/// Processor time of all threads of a process that `is_counted`, µs.
fn cpu(pid: u64, is_counted: impl Fn(&str) -> bool) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .filter_map(|thread| {
            let thread = thread.ok()?.path();
            let name = fs::read_to_string(thread.join("comm")).ok()?;
            let stat = fs::read_to_string(thread.join("schedstat")).ok()?;
            let nanoseconds: f64 = stat.split(' ').next()?.parse().ok()?;
            is_counted(name.trim_end()).then_some(nanoseconds / 1e3)
        })
        .sum()
}

struct Prepared {
    stack: Stack,
    founder: Client,
    homes: Vec<PathBuf>,
}

/// Of the services, the sender and the receivers, µs.
type Spent = [f64; 6];

const SPENDERS: [&str; 6] = [
    "relay",
    "gateway",
    "delivery service",
    "issuer",
    "sender",
    "receivers together",
];

impl Prepared {
    /// A founder and others who came in by a code.
    async fn make(members: usize) -> Self {
        let stack =
            Stack::start_with(LogLevel::Error, &format!("{MUCH}{ISSUER}{ONE_THREAD_EACH}")).await;
        let founder = device_with(&stack, 0, "the.founder", usual()).await;
        founder.create_group(GROUP).await.unwrap();
        let code = founder.invite(GROUP, 30).await.unwrap();
        let mut homes = Vec::new();
        for number in 1..members {
            let name = format!("member.{number}");
            let client = device_with(&stack, number % 10, &name, usual()).await;
            client.join_by_code(&code).await.unwrap();
            client.close().await;
            homes.push(stack.home(&name));
        }
        founder.sync(0).await.unwrap();
        Self {
            stack,
            founder,
            homes,
        }
    }

    fn spent(&self, receivers: &Receivers) -> Spent {
        let pids = &self.stack.description()["pids"];
        let [relay, gateway, ds, issuer] =
            SERVICES.map(|service| cpu(pids[service.name()].as_u64().unwrap(), |_| true));
        let sender = cpu(std::process::id().into(), |name| name == "client");
        let receivers = cpu(receivers.process.id().into(), |_| true);
        [relay, gateway, ds, issuer, sender, receivers]
    }

    /// How many requests the service has answered, by operation.
    fn requests(&self) -> BTreeMap<String, f64> {
        let admin = self.stack.ports().admin_of(Service::Ds);
        let (_, metrics) = runtime().block_on(http::get(admin, "/metrics")).unwrap();
        let mut requests = BTreeMap::new();
        for line in metrics.lines() {
            let Some((labels, count)) = line
                .strip_prefix("ds_requests_total{")
                .and_then(|rest| rest.split_once("} "))
            else {
                continue;
            };
            let operation = labels.split('"').nth(1).unwrap();
            *requests.entry(operation.to_owned()).or_default() += count.parse::<f64>().unwrap();
        }
        requests
    }

    fn measure(&self, reading: Reading) {
        let runtime = runtime();
        let mut receivers = Receivers::start(reading, &self.homes);
        let recipients = self.homes.len();
        let rounds = (600 / recipients).clamp(15, 60);
        let mut spent: [Vec<f64>; 6] = [(); 6].map(|()| Vec::new());
        let mut latencies = Vec::new();
        // Whoever writes in a chat looks at it.
        let _events = (reading == Reading::Stream).then(|| {
            runtime
                .block_on(self.founder.send_message(GROUP, "I am here"))
                .unwrap();
            self.founder.event_stream()
        });
        // What they have to say to each other when they begin.
        std::thread::sleep(Duration::from_secs(5));
        let mut asked = BTreeMap::new();
        for round in 0..WARM_UP + rounds {
            if round == WARM_UP {
                asked = self.requests();
            }
            let mark = format!("{round:06} ");
            let text = format!("{mark}{}", "x".repeat(TEXT - mark.len()));
            std::thread::sleep(SETTLED);
            let before = self.spent(&receivers);
            let began = monotonic_ns();
            runtime
                .block_on(self.founder.send_message(GROUP, &text))
                .unwrap();
            let mut missing = recipients;
            if reading == Reading::Polling {
                receivers.poll();
                missing += 1;
            }
            while missing > 0 {
                let line = receivers.next();
                if line == "polled" {
                    missing -= 1;
                } else if let Some((time, heard)) = line.split_once(' ')
                    && heard.starts_with(&mark)
                {
                    missing -= 1;
                    if round >= WARM_UP {
                        let time: u64 = time.parse().unwrap();
                        latencies.push(time.saturating_sub(began) as f64 / 1e6);
                    }
                }
            }
            std::thread::sleep(SETTLED);
            let after = self.spent(&receivers);
            if round >= WARM_UP {
                for ((figures, after), before) in spent.iter_mut().zip(after).zip(before) {
                    figures.push(after - before);
                }
            }
        }
        let requests = self.requests();
        println!(
            "\n{:<40} {:>12} {:>12}",
            format!("n = {}, {}", recipients + 1, reading.name()),
            "us a message",
            "a recipient"
        );
        let row = |name: &str, us: f64| {
            println!("{name:<40} {us:>12.0} {:>12.0}", us / recipients as f64);
        };
        let together = spent[..SERVICES.len()].concat().chunks(rounds).fold(
            vec![0.0; rounds],
            |mut sums, figures| {
                sums.iter_mut()
                    .zip(figures)
                    .for_each(|(sum, us)| *sum += us);
                sums
            },
        );
        row("all services", median(together));
        for (name, figures) in SPENDERS.into_iter().zip(spent) {
            row(name, median(figures));
        }
        for (operation, count) in requests {
            let before = asked.get(&operation).copied().unwrap_or_default();
            let a_message = (count - before) / rounds as f64;
            if a_message > 0.0 {
                println!(
                    "{:<40} {a_message:>12.2} {:>12.2}",
                    format!("requests: {operation}"),
                    a_message / recipients as f64
                );
            }
        }
        println!(
            "{:<40} {:>12.1} {:>12.1}",
            "latency, ms: p50, p99",
            at(&mut latencies, 50),
            at(&mut latencies, 99)
        );
        if reading != Reading::Polling {
            self.measure_idle(&receivers);
        }
    }

    fn measure_idle(&self, receivers: &Receivers) {
        let before = self.spent(receivers);
        let began = Instant::now();
        std::thread::sleep(IDLE);
        let seconds = began.elapsed().as_secs_f64();
        let after = self.spent(receivers);
        let spent: Vec<f64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        let each = |us: f64| us / seconds / self.homes.len() as f64;
        println!(
            "{:<40} {:>12.0} {:>12.0}",
            "waiting, us a receiver and second:",
            each(spent[..SERVICES.len()].iter().sum()),
            each(spent[5])
        );
        println!("{:<40} {:>12} {:>12}", "", "services", "receivers");
    }
}

// The work that cannot be done without, µs of processor time.

struct Bare {
    encrypt: f64,
    decrypt: f64,
    write: f64,
    seal: f64,
    open: f64,
}

impl Bare {
    fn measure() -> Self {
        let text = "x".repeat(TEXT);
        let (encrypt, decrypt, message) = mls(text.as_bytes());
        let directory = tempfile::tempdir().unwrap();
        let db = DB::open_default(directory.path()).unwrap();
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let mut number = 0_u64;
        let write = each(500, || {
            number += 1;
            db.put_opt(number.to_be_bytes(), &message, &synced).unwrap();
        });
        let key = Key::derive(1, Kem::XWing, &[1; 32]).unwrap();
        let request = vec![7; 1024];
        let seal = each(1000, || {
            drop(whole::seal(key.public(), Aead::Aes128Gcm, &request).unwrap());
        });
        let (sealed, _) = whole::seal(key.public(), Aead::Aes128Gcm, &request).unwrap();
        let open = each(1000, || {
            let opened = whole::open(&key, &sealed).unwrap();
            opened.response.seal(&request).unwrap();
        });
        Self {
            encrypt,
            decrypt,
            write,
            seal,
            open,
        }
    }

    fn print(&self) {
        println!("{:<56} {:>8}", "bare work", "us");
        for (what, us) in [
            ("MLS: encrypt", self.encrypt),
            ("MLS: decrypt", self.decrypt),
            ("RocksDB: write its bytes, synced", self.write),
            ("X-Wing, a KiB: encapsulate", self.seal),
            ("X-Wing, a KiB: decapsulate, and seal the answer", self.open),
        ] {
            println!("{what:<56} {us:>8.1}");
        }
    }

    /// Of services, which open and write once and open a read for each recipient.
    fn print_floor(&self, recipients: usize) {
        let services = self.open.mul_add(recipients as f64 + 1.0, self.write);
        let reader = self.seal + self.decrypt;
        println!(
            "\nn = {}, bare: services {services:.0} us a message, sender {:.0}, each receiver {reader:.0}",
            recipients + 1,
            self.encrypt + self.seal
        );
    }
}
