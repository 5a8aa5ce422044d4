//! kill -9 in the middle of writing. A child process (this test binary again) applies batches and
//! reports each one that was acknowledged; the parent kills it, opens the directory and looks.
//!
//! This proves that a batch is a whole in the log and that an answer waits for the log. That the
//! log is on the disk by then is up to `fsync`, which a killed process can't show: the page cache
//! survives it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use ds_domain::conformance::crash::{STEPS, Worker};

use super::*;

/// Where the child writes; its presence makes this process the child.
const DIRECTORY: &str = "STORE_CRASH_TEST_DIRECTORY";
/// Which child it is: rows of different children differ.
const RUN: &str = "STORE_CRASH_TEST_RUN";
const KILLS: u64 = 20;
const WORKERS: u64 = 4;

/// The child: does nothing in an ordinary run of the tests. It ends when the engine fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_child_writes_until_it_is_killed() {
    let (Ok(directory), Ok(run)) = (std::env::var(DIRECTORY), std::env::var(RUN)) else {
        return;
    };
    let run: u64 = run.parse().unwrap();
    let rocks = Arc::new(Rocks::open(directory).unwrap());
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let rocks = Arc::clone(&rocks);
            tokio::spawn(async move {
                for number in 0.. {
                    let batch = Worker { run, worker }.batch(number);
                    match rocks.apply(batch).await {
                        // Past the capture of the test harness; one write, so a line is never torn.
                        Ok(()) => {
                            writeln!(std::io::stdout(), "acknowledged {worker} {number}").unwrap();
                        }
                        Err(ApplyError::Engine(error)) => {
                            writeln!(std::io::stdout(), "failed {error}").unwrap();
                            return;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let probe = rocks.apply(put(&row(Table::Store, 1), &[0; 4_096])).await;
    writeln!(std::io::stdout(), "then {}", probe.is_ok()).unwrap();
}

/// What a child said.
#[derive(Default)]
struct Said {
    /// Batches of each worker that were acknowledged.
    acknowledged: BTreeMap<u64, u64>,
    failures: usize,
    takes_writes_after: Option<bool>,
}

impl Said {
    fn take(&mut self, line: &str) {
        if let Some((_, place)) = line.split_once("acknowledged ") {
            // Of a line that the kill tore nothing but the number could be short; it is a prefix of
            // the right one and would claim less, never more.
            if let Some((worker, number)) = place.split_once(' ')
                && let (Ok(worker), Ok(number)) = (worker.parse(), number.parse::<u64>())
            {
                let count = self.acknowledged.entry(worker).or_insert(0);
                *count = (*count).max(number + 1);
            }
        } else if line.contains("failed ") {
            self.failures += 1;
        } else if let Some((_, answer)) = line.split_once("then ") {
            self.takes_writes_after = Some(answer == "true");
        }
    }

    fn of(&self, worker: u64) -> u64 {
        self.acknowledged.get(&worker).copied().unwrap_or(0)
    }

    fn batches(&self) -> u64 {
        self.acknowledged.values().sum()
    }
}

/// The child, below a shell that may limit it.
fn child(directory: &Path, run: u64, limit: &str) -> Command {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut child = Command::new("sh");
    child
        .args(["-c", &format!("{limit} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("{module}::a_child_writes_until_it_is_killed"),
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .env(RUN, run.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    child
}

/// Kills a child after this time of writing or, on a slow machine, when it has written enough to
/// mean anything.
fn write_and_kill(directory: &Path, run: u64, after: Duration) -> Said {
    let mut child = child(directory, run, "").spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (each, written) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = Said::default();
        for line in lines.map_while(Result::ok) {
            said.take(&line);
            let _ = each.send(said.batches());
        }
        said
    });
    while written.recv().unwrap() == 0 {}
    std::thread::sleep(after);
    while written.recv().unwrap() < WORKERS * STEPS {}
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// How many batches of each worker happened.
async fn settled(rocks: &Rocks, run: u64, said: &Said) -> BTreeMap<u64, u64> {
    let mut done = BTreeMap::new();
    for worker in 0..WORKERS {
        let place = Worker { run, worker };
        let found = place.settle(rocks, said.of(worker)).await;
        // The one under way was applied again if it was not there.
        done.insert(worker, said.of(worker) + 1);
        assert!(found.batches <= said.of(worker) + 1);
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_every_acknowledged_batch_is_there_and_no_other_in_part() {
    let directory = tempfile::tempdir().unwrap();
    drop(Rocks::create(directory.path()).unwrap());
    let (mut seed, mut total) = (0x5eed_u64, 0);
    let mut runs = Vec::new();
    for run in 0..KILLS {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let after = Duration::from_millis((seed >> 33) % 400);
        let said = write_and_kill(directory.path(), run, after);
        total += said.batches();
        let rocks = Rocks::open(directory.path()).unwrap();
        runs.push(settled(&rocks, run, &said).await);
    }
    assert!(total > KILLS * WORKERS * STEPS, "{total}");
    // What was there after one kill is there after all of them.
    let rocks = Rocks::open(directory.path()).unwrap();
    for (run, done) in (0..).zip(runs) {
        for (worker, batches) in done {
            let place = Worker { run, worker };
            let found = place.settle(&rocks, batches - 1).await;
            assert_eq!(found.batches, batches);
        }
    }
}

/// Files that cannot grow any more, as on a disk that is full. Nothing is acknowledged that is not
/// there after it has space again.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_no_batch_is_acknowledged_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    drop(Rocks::create(directory.path()).unwrap());
    for run in 0..3 {
        // In blocks of 512 bytes; without the signal, so that writes fail.
        let limit = format!("trap '' XFSZ; ulimit -f {};", 4_000 + 1_111 * run);
        let output = child(directory.path(), run, &limit).output().unwrap();
        let mut said = Said::default();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            said.take(line);
        }
        assert_eq!(said.failures as u64, WORKERS, "{output:?}");
        assert_eq!(said.takes_writes_after, Some(false));
        assert!(said.batches() > 20, "{}", said.batches());
        let rocks = Rocks::open(directory.path()).unwrap();
        settled(&rocks, run, &said).await;
    }
}
