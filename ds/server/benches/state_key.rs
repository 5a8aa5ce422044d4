//! How long it takes to find that a group is not there, and that a state key is not the group's:
//! the same.
//!
//! `make bench`; figures are in `docs/performance.md`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and prints"
)]

use std::sync::Arc;
use std::time::Instant;

use crypto::schedule::StateKey;
use crypto::service_keys::ServiceKeys;
use ds_domain::engine::{Batch, Engine};
use ds_domain::env::{Env, Settings};
use ds_domain::group::OpenedGroup;
use ds_domain::memory::Memory;
use ds_domain::refusal::Stop;
use ds_domain::view::View;
use ds_store_rocks::Rocks;
use protocol::group::GroupKey;
use protocol::ids::GroupId;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;

const ROUNDS: usize = 1_000;
/// Short parts of a small group, and of one with 5,000 leaves.
const SHORT_BYTES: [usize; 2] = [512, 2_048];

fn quartiles(mut times: Vec<f64>) -> [f64; 3] {
    times.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| times[times.len() * quarter / 4])
}

struct Bench {
    engine: Arc<dyn Engine>,
    keys: ServiceKeys,
    settings: Settings,
    rng: ChaCha12Rng,
}

impl Bench {
    fn env(&mut self) -> Env<'_> {
        Env {
            generation: 0,
            now_ms: 1_800_014_400_000,
            rng: &mut self.rng,
            keys: &self.keys,
            settings: &self.settings,
            blob_room: 0,
        }
    }

    /// A group whose short part nobody here has the key of.
    async fn put_group(&mut self, id: &GroupId, bytes: usize) {
        let row = self.env().rows().group(id).key();
        let batch = Batch {
            puts: vec![(row, vec![7; bytes])],
            ..Batch::default()
        };
        self.engine.apply(batch).await.unwrap();
    }

    /// As a request finds out that it opens nothing.
    async fn open(&mut self, key: &GroupKey) {
        let engine = Arc::clone(&self.engine);
        let mut view = View::default();
        loop {
            match OpenedGroup::open(&view, key, None, &self.env()) {
                Err(Stop::Need(reads)) => {
                    let found = engine.read(reads.clone()).await.unwrap();
                    for (read, found) in reads.into_iter().zip(found) {
                        view.add(read, found);
                    }
                }
                refused => {
                    assert!(std::hint::black_box(refused).is_err());
                    return;
                }
            }
        }
    }
}

async fn measure(name: &str, engine: Arc<dyn Engine>) {
    let mut bench = Bench {
        engine,
        keys: ServiceKeys::from_file(&ServiceKeys::generate_file().unwrap()).unwrap(),
        settings: Settings::default(),
        rng: ChaCha12Rng::seed_from_u64(1),
    };
    let ids = [1, 2, 3].map(|number| GroupId([number; 16]));
    for (id, bytes) in ids.iter().zip(SHORT_BYTES) {
        bench.put_group(id, bytes).await;
    }
    let cases = [
        "wrong key, small group",
        "wrong key, 5,000 leaves",
        "unknown group",
    ];
    let mut times = cases.map(|_| Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        // In turn, so that a busy machine slows all of them, and each behind each other one.
        for case in (0..3).map(|case| (case + round) % 3) {
            let key = GroupKey {
                group_id: ids[case],
                state_key: StateKey::new([4; 32]).to_wire(),
            };
            let start = Instant::now();
            bench.open(&key).await;
            times[case].push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    println!("{name}: quartiles, us");
    for (what, times) in cases.iter().zip(times) {
        let [first, median, third] = quartiles(times);
        println!("{what:<32} {first:>8.1} {median:>8.1} {third:>8.1}");
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        measure("memory", Arc::new(Memory::default())).await;
        let directory = tempfile::tempdir().unwrap();
        let rocks = Rocks::create(directory.path().join("store")).unwrap();
        measure("rocksdb", Arc::new(rocks)).await;
    });
}
