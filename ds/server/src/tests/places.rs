//! One token, or none, must not take the places of everybody else.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use ds_domain::engine::{ApplyError, EngineError, Found};
use tokio::sync::Notify;

use super::*;

/// Longer than anything here may take.
const SOON: Duration = Duration::from_secs(15);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap()
}

/// The first batch waits for the test; later ones are counted.
#[derive(Default)]
struct Watched {
    memory: Memory,
    batches: AtomicUsize,
    began: Notify,
    go_on: Notify,
}

#[async_trait]
impl Engine for Watched {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        self.memory.read(reads).await
    }

    async fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        if self.batches.fetch_add(1, Ordering::SeqCst) == 0 {
            self.began.notify_one();
            self.go_on.notified().await;
        }
        self.memory.apply(batch).await
    }

    async fn drop_days(&self, table: Table, before: u32) -> Result<(), EngineError> {
        self.memory.drop_days(table, before).await
    }

    async fn drop_prefix(&self, table: Table, prefix: Vec<u8>) -> Result<(), EngineError> {
        self.memory.drop_prefix(table, prefix).await
    }
}

/// A service in which a request holds its token until the test lets it go on.
async fn holding(
    requests: usize,
    paid: &[HeaderValue],
) -> (Running, Arc<Watched>, tokio::task::JoinHandle<Reply>) {
    let watched = Arc::new(Watched::default());
    let running = running_with(Setup {
        engine: Some(watched.clone()),
        load: places(requests, 1),
        ..Setup::default()
    });
    let first = running.spawn(Number::ReserveGroupId, reservation(1), paid);
    soon(watched.began.notified()).await;
    (running, watched, first)
}

/// What somebody else asks meanwhile.
async fn is_served(running: &Running, nonce: u8) {
    let tokens = [token()];
    let reply = running.reply(Number::ReserveGroupId, reservation(nonce), &tokens);
    assert_eq!(soon(reply).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_token_takes_no_place_and_waits_a_second() {
    let paid = [token()];
    let (running, watched, first) = holding(2, &paid).await;
    let second = running.spawn(Number::ReserveGroupId, reservation(2), &paid);
    // While it waits, and after it has given up.
    let mut nonce = 10;
    while !second.is_finished() {
        is_served(&running, nonce).await;
        nonce += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let second = second.await.unwrap();
    assert_eq!(second.problem(), ProblemType::Unavailable);
    assert_eq!(second.headers[header::RETRY_AFTER], "1");
    watched.go_on.notify_one();
    assert_eq!(soon(first).await.unwrap().status, StatusCode::OK);
    let late = running.reply(Number::ReserveGroupId, reservation(2), &paid);
    assert_eq!(soon(late).await.problem(), ProblemType::TokenRejected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waited_for_a_token_that_is_spent_gets_no_work_for_it() {
    let paid = [token()];
    let (running, watched, first) = holding(8, &paid).await;
    let second = running.spawn(Number::ReserveGroupId, reservation(2), &paid);
    // It has come as far as to wait, or is refused later for what it finds.
    tokio::time::sleep(Duration::from_millis(200)).await;
    watched.go_on.notify_one();
    assert_eq!(soon(first).await.unwrap().status, StatusCode::OK);
    // On a busy machine it may have waited for too long.
    let second = soon(second).await.unwrap().problem();
    let refused = [ProblemType::TokenRejected, ProblemType::Unavailable];
    assert!(refused.contains(&second), "{second:?}");
    assert_eq!(watched.batches.load(Ordering::SeqCst), 1, "of the first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_many_times_at_once_has_one_effect_and_one_answer() {
    let paid = [token()];
    let (running, watched, first) = holding(64, &paid).await;
    let others: Vec<_> = (0..12)
        .map(|_| running.spawn(Number::ReserveGroupId, reservation(1), &[]))
        .collect();
    watched.go_on.notify_one();
    let first = soon(first).await.unwrap();
    for other in others {
        // Before the record is there it asks for its token; after it, nothing.
        let other = soon(other).await.unwrap();
        assert!(other.body == first.body || other.problem() == ProblemType::TokenRequired);
    }
    let again = running.reply(Number::ReserveGroupId, reservation(1), &[]);
    assert_eq!(again.await.body, first.body);
    let rows = watched.memory.snapshot();
    let reserved = rows
        .rows()
        .filter(|(key, _)| key.table == Table::Reservations);
    assert_eq!(reserved.count(), 1);
}

#[tokio::test]
async fn a_service_that_is_busy_says_when_to_come_again_before_it_looks_at_anything() {
    let running = running_with(Setup {
        load: places(0, 0),
        ..Setup::default()
    });
    for operation in [Number::SendMessage, Number::JoinRecord, Number::ReadJournal] {
        let reply = running.reply(operation, b"anything".to_vec(), &[]).await;
        assert_eq!(reply.problem(), ProblemType::Unavailable);
        assert_eq!(reply.headers[header::RETRY_AFTER], "1");
    }
}
