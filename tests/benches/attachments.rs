//! What a file costs on its whole path, from `mimimi send --file` until `mimimi save` has it:
//! processor time and the highest memory of each process, and time; beside the bare work in the
//! same run: each byte is read and hashed twice, sealed, opened, and hashed once more.
//!
//! `cargo bench --workspace --bench attachments`, after a build of the programs. The services are
//! those of `make stack`, on RocksDB. `SIZES` are those of files, MB. Memory that grows with the
//! file would show between them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crypto::blob::{BlobCipher, BlobContentKey, CHUNK_CONTENT, ChunkPlace, NONCE_PREFIX};
use end_to_end::{LogLevel, MUCH, Service, Stack, User, program};
use protocol::ids::BlobId;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Builder;

const GROUP: &str = "measured";
const MB: usize = 1_000_000;
const SERVICES: [Service; 3] = [Service::Relay, Service::Gateway, Service::Ds];

fn main() {
    let sizes = std::env::var("SIZES").unwrap_or_else(|_| "8,100".to_owned());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stack = Stack::start_with(LogLevel::Error, MUCH).await;
        let alice = User::register(&stack, 0, "alice").await;
        let bob = User::register(&stack, 1, "bob").await;
        alice.befriend(&bob).await;
        alice.run(&["group", "create", GROUP]).await;
        alice.run(&["group", "add", GROUP, "bob"]).await;
        bob.run(&["receive"]).await;
        for size in sizes.split(',').map(|size| size.parse().unwrap()) {
            whole_path(&stack, &alice, &bob, size).await;
        }
    });
}

async fn whole_path(stack: &Stack, alice: &User, bob: &User, size: usize) {
    let directory = tempfile::tempdir().unwrap();
    let (file, saved) = (
        directory.path().join("file"),
        directory.path().join("saved"),
    );
    let content: Vec<u8> = (0..size * MB).map(|at| (at % 251) as u8).collect();
    fs::write(&file, &content).unwrap();
    println!(
        "\n{size} MB: {:<20} {:>12} {:>12}",
        "", "CPU ms/MB", "highest MB"
    );
    let [seal, open] = bare(&content);
    println!("bare: to seal {:>26.2}", seal / size as f64);
    println!("bare: to open {:>26.2}", open / size as f64);
    let send = ["send", GROUP, "--file", text(&file)];
    measured(stack, alice, "send", &send, size);
    bob.run(&["receive"]).await;
    let messages = bob.run(&["messages", GROUP]).await;
    let last = messages
        .as_array()
        .and_then(|all| all.last())
        .expect("the message");
    let id = last["message"].as_str().unwrap();
    let save = ["save", GROUP, id, "--to", text(&saved)];
    measured(stack, bob, "save", &save, size);
    assert!(fs::read(&saved).unwrap() == content, "the file as it was");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Milliseconds of one thread: what the sender cannot do without, and the receiver.
fn bare(content: &[u8]) -> [f64; 2] {
    let cipher = BlobCipher::new(&BlobContentKey::new([1; 32]), &[2; NONCE_PREFIX]);
    let of = u16::try_from(content.len().div_ceil(CHUNK_CONTENT)).unwrap();
    let place = |index: usize| ChunkPlace {
        blob: BlobId([3; 32]),
        index: u16::try_from(index).unwrap(),
        of,
    };
    let began = Instant::now();
    let mut sealed = Vec::new();
    black_box(Sha256::digest(content));
    for (index, chunk) in content.chunks(CHUNK_CONTENT).enumerate() {
        let mut filled = chunk.to_vec();
        filled.resize(CHUNK_CONTENT, 0);
        // Of each chunk, when the file is scanned and when the chunk is sealed.
        black_box([Sha256::digest(&filled), Sha256::digest(&filled)]);
        sealed.push(cipher.seal(place(index), &filled).unwrap());
    }
    let to_seal = began.elapsed();
    let began = Instant::now();
    let mut whole = Sha256::new();
    for (index, chunk) in sealed.iter().enumerate() {
        whole.update(cipher.open(place(index), chunk).unwrap());
    }
    black_box(whole.finalize());
    [to_seal, began.elapsed()].map(|time| time.as_secs_f64() * 1e3)
}

/// Processor time so far, ms, and the most memory that was resident since [`forget_highest`], MB.
fn spent(pid: u64) -> Option<[f64; 2]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let highest = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = highest.trim().strip_suffix(" kB")?.parse().ok()?;
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let nanoseconds: f64 = threads
        .filter_map(|thread| {
            let stat = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<f64>().ok()
        })
        .sum();
    Some([nanoseconds / 1e6, kib / 1024.0])
}

fn forget_highest(pid: u64) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

fn measured(stack: &Stack, user: &User, what: &str, arguments: &[&str], size: usize) {
    let pids = &stack.description()["pids"];
    let pids = SERVICES.map(|service| pids[service.name()].as_u64().unwrap());
    pids.into_iter().for_each(forget_highest);
    let before = pids.map(|pid| spent(pid).unwrap());
    let began = Instant::now();
    let mut mimimi = Command::new(program("mimimi"))
        .arg("--home")
        .arg(user.home())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut of_client = [0.0; 2];
    let status = loop {
        // Before it has ended: afterwards nobody knows.
        of_client = spent(mimimi.id().into()).unwrap_or(of_client);
        if let Some(status) = mimimi.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = began.elapsed().as_secs_f64();
    assert!(status.success());
    let row = |name: &str, [ms, highest]: [f64; 2]| {
        println!(
            "{what}: {name:<20} {:>12.2} {highest:>12.1}",
            ms / size as f64
        );
    };
    row("mimimi", of_client);
    for ((service, pid), before) in SERVICES.into_iter().zip(pids).zip(before) {
        let [ms, highest] = spent(pid).unwrap();
        row(service.name(), [ms - before[0], highest]);
    }
    println!("{what}: {took:.1} s, {:.1} MB/s", size as f64 / took);
}
