//! kill -9 of the server, with all of its processes, in the middle of writing. Workers report each
//! transition that was acknowledged; after the server's recovery all of these must be there, and of
//! those that failed all or nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crypto::rows::Row;

use super::server::Server;
use super::tests::settings;
use super::{Postgres, session, sql};
use crate::store::rocks::crash_tests::{Inspected, Place, STEPS, WORKERS};
use crate::store::{Store, StoreError};

const KILLS: u64 = 6;

#[async_trait]
impl Inspected for Postgres {
    async fn has_group_row(&self, group: &Row) -> bool {
        let step = session::step!(sql::GROUP_IS_THERE; &group[..]);
        self.value(step).await.unwrap().is_some()
    }

    async fn deletion_traces(&self, group: &Row) -> Vec<bool> {
        let mut traces = Vec::new();
        for sql in [
            "SELECT id FROM groups WHERE id = $1 AND version IS NULL",
            "SELECT id FROM groups WHERE id = $1 AND roster IS NULL",
            "SELECT id FROM groups WHERE id = $1 AND tree IS NULL",
            "SELECT id FROM groups WHERE id = $1 AND proposals IS NULL",
        ] {
            let step = session::step!(sql; &group[..]);
            traces.push(self.value(step).await.unwrap().is_some());
        }
        traces
    }

    async fn has_pool(&self, pool: &Row) -> bool {
        let step = session::step!(sql::HOLD_POOL; &pool[..]);
        self.value(step).await.unwrap().is_some()
    }
}

/// Goes through its transitions until one is not acknowledged; answers with how many were. `written` counts
/// those of all workers.
async fn write(store: Postgres, run: u64, worker: u64, written: Arc<AtomicU64>) -> u64 {
    for number in 0.. {
        let place = Place {
            run,
            worker,
            number,
        };
        match place.carry_out(&store).await {
            Ok(()) => {
                written.fetch_add(1, Ordering::Relaxed);
            }
            Err(StoreError::Engine(_)) => return number,
            Err(error) => panic!("{place:?}: {error:?}"),
        }
    }
    unreachable!()
}

async fn wait_for(store: &Postgres) {
    for _ in 0..600 {
        if store.check().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server does not come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_kill_of_the_server_every_acknowledged_transition_is_there_and_no_other_in_part() {
    if Server::shared().is_none() {
        return;
    }
    let server = Arc::new(Server::start());
    let database = server.fresh_database().await;
    let store = Postgres::create(&settings(&server, &database))
        .await
        .unwrap();
    let mut acknowledged = Vec::new();
    let (mut seed, mut undecided_happened) = (0x5eed_u64, 0_u64);
    for run in 0..KILLS {
        let written = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| tokio::spawn(write(store.clone(), run, worker, Arc::clone(&written))))
            .collect();
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis(300 + (seed >> 33) % 500)).await;
        // However slow the machine is: enough to mean anything.
        while written.load(Ordering::Relaxed) <= WORKERS * STEPS {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        // A transition may outlast a quick restart, tried again: kill until nobody goes on.
        let mut counts = Vec::new();
        for worker in workers {
            let mut worker = worker;
            counts.push(loop {
                match tokio::time::timeout(Duration::from_secs(1), &mut worker).await {
                    Ok(count) => break count.unwrap(),
                    Err(_) => {
                        wait_for(&store).await;
                        server.kill();
                    }
                }
            });
        }
        acknowledged.push(counts);
        wait_for(&store).await;

        for (run, counts) in (0..).zip(&acknowledged) {
            for (worker, count) in (0..).zip(counts) {
                for number in 0..*count {
                    let place = Place {
                        run,
                        worker,
                        number,
                    };
                    let traces = place.traces(&store).await;
                    assert!(
                        traces.iter().all(|trace| *trace),
                        "{place:?} was acknowledged: {traces:?}"
                    );
                }
                // Under way when the server died.
                let place = Place {
                    run,
                    worker,
                    number: *count,
                };
                let traces = place.traces(&store).await;
                assert!(
                    traces.iter().all(|trace| *trace == traces[0]),
                    "half of {place:?}: {traces:?}"
                );
                undecided_happened += u64::from(traces[0] && run + 1 == acknowledged.len() as u64);
            }
        }
    }
    let total: u64 = acknowledged.iter().flatten().sum();
    assert!(
        total > KILLS * WORKERS * STEPS,
        "too little was written to mean anything: {total}"
    );
    println!("{total} transitions were acknowledged, {undecided_happened} more found");
}
