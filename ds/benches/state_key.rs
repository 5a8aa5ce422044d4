//! How long it takes to find that a group is not there, and that a state key is not the group's: the same, whatever
//! the size of the group. Beside it, what opening the roster takes.
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

use std::time::Instant;

use crypto::keys::StateKey;
use crypto::sealing;
use ds::groups::parts::{Part, open_group, place, seal_key_check};
use ds::store::{DayRow, NewGroup, Receipt, Reservation};
use protocol::ids::GroupId;

use support::{Engine, Service, postgres};

const ROUNDS: usize = 1_000;
const ROSTER_BYTES: usize = 1024 * 1024;

/// A group with a roster of this size.
async fn group(service: &Service, number: u8, roster_bytes: usize) -> (GroupId, StateKey) {
    let (id, key) = (GroupId([number; 16]), StateKey::new([number; 32]));
    let row = service.domain.rows().group(&id);
    let (at, owner_tag) = (DayRow { day: 1, row }, [number; 32]);
    let store = service.store.quietly();
    let reservation = Reservation { at, owner_tag };
    store
        .reserve_group(reservation, Receipt::default())
        .await
        .unwrap();
    let version = [number; 16];
    let at = place(&id, Part::Roster, Some(&version));
    let roster = sealing::seal(key.expose(), at.as_place(), &vec![7; roster_bytes]).unwrap();
    let group = NewGroup {
        group: row,
        reservation_days: vec![1],
        owner_tag,
        version,
        key_check: seal_key_check(&id, &key).unwrap(),
        roster,
        tree: Vec::new(),
    };
    store.create_group(group, Receipt::default()).await.unwrap();
    (id, key)
}

fn quartiles(mut times: Vec<f64>) -> [f64; 3] {
    times.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| times[times.len() * quarter / 4])
}

async fn measure(engine: Engine) {
    let service = Service::start(engine);
    let (small, small_key) = group(&service, 1, 1024).await;
    let (large, large_key) = group(&service, 2, ROSTER_BYTES).await;
    let (unknown, wrong) = (GroupId([3; 16]), StateKey::new([4; 32]));
    let cases = [
        ("unknown group", unknown, &wrong),
        ("wrong key, roster of 1 KiB", small, &wrong),
        ("wrong key, roster of 1 MiB", large, &wrong),
        ("right key, roster of 1 KiB", small, &small_key),
        ("right key, roster of 1 MiB", large, &large_key),
    ];
    let mut times = cases.map(|_| Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        // In turn, so that a busy machine slows all of them, and each behind each other one. The large roster
        // leaves no cache as it was, so nothing that is compared comes right behind it.
        for case in (0..3).map(|case| (case + round) % 3).chain([3, 4, 3]) {
            let (_, id, key) = &cases[case];
            let row = service.domain.rows().group(id);
            let start = Instant::now();
            let _ = std::hint::black_box(open_group(&service.domain, row, id, &[key]).await);
            times[case].push(start.elapsed().as_secs_f64() * 1e6);
        }
        let row = service.domain.rows().group(&unknown);
        let _ = open_group(&service.domain, row, &unknown, &[&wrong]).await;
    }
    println!("{engine:?}: quartiles, us");
    for ((what, ..), times) in cases.iter().zip(times) {
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
        measure(Engine::Memory).await;
        measure(Engine::Rocks).await;
        if postgres::is_available() {
            measure(Engine::Postgres).await;
        }
    });
}
