//! What one message costs everybody, from the call that sends it until all others in its group have
//! decrypted it: processor time of each service, as a process of its own, and of each client.
//!
//! `cargo bench --workspace --bench action`, after a build of the programs. Clients are the SDK in
//! threads of this process, on stores of their own. They come by relay and gateway, and wait in
//! long polls for the group. The way back into the next long poll is in the figures: conversations
//! go on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use client::{Client, Event};
use end_to_end::{LogLevel, MUCH, Service, Stack, device, group_with, patient};
use tokio::runtime::{Builder, Runtime};

const ROUNDS: usize = 60;
const WARM_UP: usize = 10;
const GROUP: &str = "measured";
/// What follows from a message is over.
const SETTLED: Duration = Duration::from_millis(150);
const WAIT_MS: u32 = 30_000;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Processor time of a thread that sleeps now, microseconds.
fn cpu_of_thread(thread: &Path) -> f64 {
    let stat = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|first| first.parse().ok());
    nanoseconds.unwrap_or(0.0) / 1e3
}

/// The same of all threads of a process.
fn cpu_of_process(pid: u64) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .map(|thread| cpu_of_thread(&thread.unwrap().path()))
        .sum()
}

fn own_thread() -> PathBuf {
    Path::new("/proc").join(fs::read_link("/proc/thread-self").unwrap())
}

/// A client in a thread of its own.
struct Running {
    thread: PathBuf,
    /// To the one who sends: what.
    say: Sender<String>,
}

/// Runs a client until the program ends. Whoever hears something says so.
fn run(home: PathBuf, heard: Option<Sender<String>>) -> Running {
    let (say, to_say): (Sender<String>, Receiver<String>) = channel();
    let (started, thread) = channel();
    std::thread::spawn(move || {
        started.send(own_thread()).unwrap();
        runtime().block_on(async move {
            let client = Client::open(&home, patient()).await.unwrap();
            let Some(heard) = heard else {
                while let Ok(text) = to_say.recv() {
                    client.send_message(GROUP, &text).await.unwrap();
                }
                return;
            };
            // From here on the group is the one in front.
            client.send_message(GROUP, "I am here").await.unwrap();
            loop {
                let events = client.receive(WAIT_MS).await.unwrap();
                client.acknowledge(&events).unwrap();
                for stored in events {
                    if let Event::Message { text, .. } = stored.event
                        && heard.send(text).is_err()
                    {
                        return;
                    }
                }
            }
        });
    });
    Running {
        thread: thread.recv().unwrap(),
        say,
    }
}

/// The stack, and homes of members of one group; the first is its founder's.
async fn prepare(members: usize) -> (Stack, Vec<PathBuf>) {
    let stack = Stack::start_with(LogLevel::Error, MUCH).await;
    let mut clients = Vec::new();
    for number in 0..members {
        clients.push(device(&stack, number, &format!("member.{number}")).await);
    }
    let (founder, others) = clients.split_first().unwrap();
    let others: Vec<&Client> = others.iter().collect();
    group_with(GROUP, founder, &others).await;
    let homes = (0..members).map(|number| stack.home(&format!("member.{number}")));
    let homes = homes.collect();
    (stack, homes)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn measure(recipients: usize) {
    let (stack, homes) = runtime().block_on(prepare(recipients + 1));
    let pids = &stack.description()["pids"];
    let services = [
        Service::Relay,
        Service::Gateway,
        Service::Ds,
        Service::Issuer,
    ];
    let pids = services.map(|service| pids[service.name()].as_u64().unwrap());
    let (heard, hearing) = channel();
    let sender = run(homes[0].clone(), None);
    let readers: Vec<Running> = homes[1..]
        .iter()
        .map(|home| run(home.clone(), Some(heard.clone())))
        .collect();
    // They hear each other's first words.
    std::thread::sleep(Duration::from_secs(5));
    let all = || -> Vec<f64> {
        std::thread::sleep(SETTLED);
        let mut spent: Vec<f64> = pids.iter().map(|pid| cpu_of_process(*pid)).collect();
        spent.push(cpu_of_thread(&sender.thread));
        let of_readers = readers.iter().map(|reader| cpu_of_thread(&reader.thread));
        spent.push(of_readers.sum());
        spent
    };
    let mut figures = [(); 7].map(|()| Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let text = format!("message {round}");
        let before = all();
        let began = Instant::now();
        sender.say.send(text.clone()).unwrap();
        let mut missing = recipients;
        while missing > 0 {
            let heard = hearing.recv_timeout(Duration::from_secs(60)).unwrap();
            missing -= usize::from(heard == text);
        }
        let took = began.elapsed().as_secs_f64() * 1e6;
        let after = all();
        if round >= WARM_UP {
            let spent = after
                .iter()
                .zip(&before)
                .map(|(after, before)| after - before);
            for (figures, figure) in figures.iter_mut().zip(spent.chain([took])) {
                figures.push(figure);
            }
        }
    }
    println!(
        "{:<36} {:>14} {:>14}",
        format!("{recipients} recipients"),
        "us a message",
        "a recipient"
    );
    let names = [
        "relay",
        "gateway",
        "delivery service",
        "issuer",
        "sender",
        "recipients together",
        "(until the last has it, wall)",
    ];
    for (name, figures) in names.into_iter().zip(figures) {
        let whole = median(figures);
        println!(
            "{name:<36} {whole:>14.0} {:>14.0}",
            whole / recipients as f64
        );
    }
}

fn main() {
    for recipients in [1, 9] {
        measure(recipients);
    }
}
