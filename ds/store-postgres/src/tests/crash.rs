//! kill -9 of the server, with all of its processes, in the middle of writing. After its recovery
//! every batch that was acknowledged must be there, and of those that failed all or nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use ds_domain::conformance::crash::{STEPS, Worker};

use super::*;

const KILLS: u64 = 20;
const WORKERS: u64 = 4;

/// Goes on until a batch is not acknowledged; answers with how many were. `written` counts those of
/// all workers.
async fn write(store: Postgres, worker: Worker, written: Arc<AtomicU64>) -> u64 {
    for number in 0.. {
        match store.apply(worker.batch(number)).await {
            Ok(()) => {
                written.fetch_add(1, Ordering::Relaxed);
            }
            Err(ApplyError::Engine(_)) => return number,
            Err(error) => panic!("{worker:?}: {error}"),
        }
    }
    unreachable!()
}

async fn wait_for(store: &Postgres) {
    for _ in 0..600 {
        if store.read(vec![Read::Row(key(b"any"))]).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server does not come back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_kill_of_the_server_every_acknowledged_batch_is_there_and_no_other_in_part() {
    if Server::shared().is_none() {
        return;
    }
    let server = Arc::new(Server::start());
    let database = server.fresh_database().await;
    let store = Postgres::create(&settings(&server, &database))
        .await
        .unwrap();
    let (mut seed, mut total) = (0x5eed_u64, 0);
    let mut done = Vec::new();
    for run in 0..KILLS {
        let written = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let worker = Worker { run, worker };
                tokio::spawn(write(store.clone(), worker, Arc::clone(&written)))
            })
            .collect();
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis((seed >> 33) % 300)).await;
        // However slow the machine is: enough to mean anything.
        while written.load(Ordering::Relaxed) <= WORKERS * STEPS {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        // A batch may outlast a quick restart, tried again: kill until nobody goes on.
        let mut counts = Vec::new();
        for mut worker in workers {
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
        wait_for(&store).await;
        for (worker, count) in (0..).zip(counts) {
            Worker { run, worker }.settle(&store, count).await;
            total += count;
            done.push((Worker { run, worker }, count + 1));
        }
    }
    assert!(total > KILLS * WORKERS * STEPS, "{total}");
    // What was there after one kill is there after all of them.
    for (worker, batches) in done {
        let found = worker.settle(&store, batches - 1).await;
        assert_eq!(found.batches, batches);
    }
}
