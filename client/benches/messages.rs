//! What a message costs the SDK alone: processor time of a client's own thread to send one and to
//! receive one, and the requests that it makes for it, in groups of several sizes.
//!
//! `cargo bench --workspace --bench messages`. Clients have homes on the disk; the service answers
//! in this process, on the client's thread, and its time is taken off. So what is left out is what
//! carries a request: HTTP and Oblivious HTTP. `MEMBERS` are the sizes of groups, `ROUNDS` says how
//! often each is measured, `PAUSE` waits before the first measurement of each size.
//!
//! Beside it stands what cannot be done without, in the same run: to encrypt or decrypt with a
//! group that is in memory, and to commit a row of a message's size to SQLite, synced.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[path = "../tests/client/support/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "what tests need beyond this"
)]
mod support;

#[allow(dead_code, reason = "another bench needs more of it")]
mod bare;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bare::{each, mls, thread_time};
use mimimi_client::in_process::{Answer, Service};
use mimimi_client::{Client, Event, Options, Profile};
use protocol::directory::Directory;
use protocol::operation::Operation;
use rustix::time::{ClockId, clock_gettime};
use support::{Homes, InProcess};
use tokio::runtime::Builder;

const GROUP: &str = "measured";
/// Of text in each message.
const TEXT: usize = 300;
/// So many messages are received in one go, of several.
const SEVERAL: usize = 10;

fn main() {
    let bare = Bare::measure();
    println!("{:<52} {:>8.1} us", "MLS: encrypt", bare.encrypt);
    println!("{:<52} {:>8.1} us", "MLS: decrypt", bare.decrypt);
    println!("{:<52} {:>8.1} us", "SQLite: a row, synced", bare.write);
    let sizes = std::env::var("MEMBERS").unwrap_or_else(|_| "2,10,100".to_owned());
    let rounds = std::env::var("ROUNDS").map_or(40, |rounds| rounds.parse().unwrap());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for members in sizes.split(',').map(|size| size.parse().unwrap()) {
        runtime.block_on(measure(members, rounds, &bare));
    }
}

/// The service, its time and what it was asked.
struct Timed {
    service: Arc<InProcess>,
    spent: Mutex<Duration>,
    asked: Mutex<BTreeMap<String, usize>>,
}

impl Service for Timed {
    fn answer<'a>(
        &'a self,
        operation: Operation,
        request: &'a [u8],
        tokens: &'a [Vec<u8>],
    ) -> Answer<'a> {
        let name = format!("{operation:?}");
        *self.asked.lock().unwrap().entry(name).or_default() += 1;
        let mut answer = self.service.answer(operation, request, tokens);
        Box::pin(poll_fn(move |context| {
            let began = thread_time();
            let polled = answer.as_mut().poll(context);
            *self.spent.lock().unwrap() += thread_time() - began;
            polled
        }))
    }

    fn directory(&self) -> Directory {
        let began = thread_time();
        let directory = self.service.directory();
        *self.spent.lock().unwrap() += thread_time() - began;
        directory
    }
}

fn process_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap()
}

/// What several measurements of one kind gave.
#[derive(Default)]
struct Figures {
    us: Vec<f64>,
    asked: BTreeMap<String, usize>,
}

struct Measure<'a> {
    service: &'a Timed,
    kinds: BTreeMap<&'static str, Figures>,
}

impl Measure<'_> {
    /// Adds a measurement: processor time of this process, which does nothing else meanwhile.
    async fn of<T>(
        &mut self,
        kind: &'static str,
        times: usize,
        work: impl Future<Output = T>,
    ) -> T {
        self.service.asked.lock().unwrap().clear();
        let served = *self.service.spent.lock().unwrap();
        let began = process_time();
        let done = work.await;
        let all = process_time() - began;
        let served = *self.service.spent.lock().unwrap() - served;
        let figures = self.kinds.entry(kind).or_default();
        let us = all.saturating_sub(served).as_secs_f64() * 1e6;
        figures.us.push(us / times as f64);
        for (operation, count) in self.service.asked.lock().unwrap().iter() {
            *figures.asked.entry(operation.clone()).or_default() += count;
        }
        done
    }

    fn print(self, bare: &Bare) {
        for (kind, Figures { mut us, asked }) in self.kinds {
            let rounds = us.len();
            us.sort_unstable_by(f64::total_cmp);
            let (least, median) = (us[0], us[rounds / 2]);
            let floor = bare.of(kind);
            let asked: Vec<String> = asked
                .iter()
                .map(|(operation, count)| {
                    format!("{operation} {:.1}", *count as f64 / rounds as f64)
                })
                .collect();
            println!(
                "{kind:<28} {median:>8.0} us (least {least:>6.0})  {:>6.1} times the bare {floor:.0} us;  {}",
                median / floor,
                asked.join(", ")
            );
        }
    }
}

async fn measure(members: usize, rounds: usize, bare: &Bare) {
    let homes = Homes::new(7);
    let service = Arc::new(Timed {
        service: Arc::clone(&homes.service),
        spent: Mutex::default(),
        asked: Mutex::default(),
    });
    let options = || Options {
        service: Some(Arc::clone(&service) as Arc<dyn Service>),
        profile: Profile::Live,
        ..homes.options()
    };
    let sender = homes.client_with("founder", options()).await;
    sender.register_handle("founder").await.unwrap();
    sender.create_group(GROUP).await.unwrap();
    let code = sender.invite(GROUP, 30).await.unwrap();
    let mut receiver = None;
    for number in 1..members {
        let name = format!("member{number}");
        let client = homes.client_with(&name, options()).await;
        client.register_handle(&name).await.unwrap();
        client.join_by_code(&code).await.unwrap();
        if let Some(former) = receiver.replace(client) {
            let former: Client = former;
            former.close().await;
        }
    }
    let receiver = receiver.unwrap();
    for _ in 0..3 {
        sender.sync(0).await.unwrap();
        receiver.sync(0).await.unwrap();
    }
    for client in [&sender, &receiver] {
        client.send_message(GROUP, "I am here").await.unwrap();
    }
    for client in [&sender, &receiver] {
        client.sync(0).await.unwrap();
        let events = client.events().unwrap();
        client.acknowledge(&events).unwrap();
    }
    println!("\nn = {members}");
    let mut measure = Measure {
        service: &service,
        kinds: BTreeMap::new(),
    };
    let text = "x".repeat(TEXT);
    for round in 0..rounds {
        let sending = sender.send_message(GROUP, &text);
        measure.of("send", 1, sending).await.unwrap();
        let read = async {
            receiver.sync(0).await.unwrap();
            let events = receiver.events().unwrap();
            receiver.acknowledge(&events).unwrap();
            events.len()
        };
        assert_eq!(measure.of("receive one", 1, read).await, 1);
        let caught_up = measure.of("catch up, nothing new", 1, receiver.sync(0));
        caught_up.await.unwrap();
        let caught_up = measure.of("catch up, only own", 1, sender.sync(0));
        caught_up.await.unwrap();
        if round % 4 == 0 {
            for _ in 0..SEVERAL {
                sender.send_message(GROUP, &text).await.unwrap();
            }
            let read = async {
                receiver.sync(0).await.unwrap();
                let events = receiver.events().unwrap();
                receiver.acknowledge(&events).unwrap();
                events.len()
            };
            let read = measure.of("receive several, each", SEVERAL, read);
            assert_eq!(read.await, SEVERAL);
        }
    }
    // Who looks at events waits, and reads what has come.
    let mut events = receiver.event_stream();
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(50)).await;
        sender.send_message(GROUP, &text).await.unwrap();
        let stored = events.next().await.unwrap();
        assert!(matches!(stored.event, Event::Message { .. }));
        receiver.acknowledge(&[stored]).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let both = async {
            sender.send_message(GROUP, &text).await.unwrap();
            let stored = events.next().await.unwrap();
            receiver.acknowledge(&[stored]).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        measure.of("send and receive in front", 1, both).await;
    }
    measure.print(bare);
}

/// What cannot be done without, µs of processor time.
struct Bare {
    encrypt: f64,
    decrypt: f64,
    write: f64,
}

impl Bare {
    fn of(&self, kind: &str) -> f64 {
        self.write
            + match kind {
                "send" => self.encrypt,
                "send and receive in front" => self.encrypt + self.decrypt + self.write,
                _ => self.decrypt,
            }
    }

    fn measure() -> Self {
        let (encrypt, decrypt, _) = mls("x".repeat(TEXT).as_bytes());
        let directory = tempfile::tempdir().unwrap();
        let db = rusqlite::Connection::open(directory.path().join("db")).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;
            CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
        )
        .unwrap();
        let row = vec![7_u8; 2 * TEXT];
        let write = each(300, || {
            let mut statement = db
                .prepare_cached("INSERT INTO rows (data) VALUES (?)")
                .unwrap();
            statement.execute([&row]).unwrap();
        });
        Self {
            encrypt,
            decrypt,
            write,
        }
    }
}
