//! What readers may take, and what a clock may do.

use std::sync::atomic::{AtomicU64, Ordering};

use ds_domain::engine::{ApplyError, EngineError, Found};
use ds_domain::journal::head::LEAST_WAITING;
use protocol::ids::{Day, WelcomeId};
use protocol::welcome::FetchWelcomeRequest;

use super::*;

/// Two clocks: one that is set, and one that nobody sets.
#[derive(Debug)]
pub(super) struct Watch {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl Watch {
    pub(super) fn jump(&self, ms: u64) {
        self.wall.fetch_add(ms, Ordering::SeqCst);
    }

    fn go_on(&self, ms: u64) {
        self.jump(ms);
        self.steady.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Watch {
    fn now_unix_ms(&self) -> u64 {
        self.wall.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.steady.load(Ordering::SeqCst)
    }
}

/// A node whose clocks are in the test's hands.
pub(super) fn watched(memory: Arc<Memory>) -> (Running, Arc<Watch>) {
    let clock = Arc::new(Watch {
        wall: NOON_MS.into(),
        steady: 5.into(),
    });
    let running = running_with(Setup {
        memory,
        clock: Some(clock.clone()),
        ..Setup::default()
    });
    (running, clock)
}

async fn fetch(running: &Running, id: WelcomeId) -> StatusCode {
    let request = FetchWelcomeRequest {
        version: WIRE_VERSION,
        id,
    };
    let fetched = running.post(Number::FetchWelcome, request.encode(), &[]);
    fetched.await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_wait_take_no_place_from_others_and_who_finds_none_is_answered_at_once() {
    // The node's places, then the segment's: it has two leaves.
    for (concurrent_waits, waiting) in [(3, 3), (100, LEAST_WAITING)] {
        let running = running_with(Setup {
            load: LoadLimits {
                concurrent_waits,
                ..places(4, 1)
            },
            ..Setup::default()
        });
        running.begin_segment().await;
        let polls: Vec<_> = (0..waiting).map(|_| running.read(0, 30_000)).collect();
        let mut polls = Box::pin(futures_of(polls));
        let waits = tokio::time::timeout(Duration::from_millis(300), &mut polls).await;
        assert!(waits.is_err(), "all of them wait");
        running.read(0, 0).await.unwrap();
        let one_more = tokio::time::timeout(Duration::from_secs(10), running.read(0, 30_000)).await;
        assert!(one_more.unwrap().unwrap().entries.is_empty());
        let claim = ClaimKeyPackagesRequest {
            pool: PoolId([7; 32]),
            ciphersuite: 1,
            sets: 1,
        };
        let claim = signed(Number::ClaimKeyPackages, 1, &claim);
        let (status, _) = running
            .post(Number::ClaimKeyPackages, claim, &[token()])
            .await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        running.append(1).await;
        let end = tokio::time::timeout(Duration::from_secs(20), polls).await;
        assert!(end.is_ok(), "news ends every wait");
        // Their places are free again.
        let poll = running.read(1, 30_000);
        assert!(
            tokio::time::timeout(Duration::from_millis(300), poll)
                .await
                .is_err()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_pays_for_one_read_when_the_readers_allowance_is_used_up() {
    let running = running(2);
    running.begin_segment().await;
    let read = async |tokens: &[HeaderValue]| {
        let read = running.read_of(segment(), (0, 0), tokens).await;
        read.map(drop)
    };
    let paid = [token()];
    // Not spent where nothing has to be paid.
    assert_eq!(read(&paid).await, Ok(()));
    assert_eq!(read(&[]).await, Ok(()));
    assert_eq!(read(&[]).await, Err(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(read(&paid).await, Ok(()));
    assert_eq!(read(&paid).await, Err(StatusCode::UNAUTHORIZED));
    // For nobody else's.
    assert_eq!(read(&[]).await, Err(StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(read(&[token()]).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_for_what_is_not_there_takes_nothing_from_readers() {
    let running = running(3);
    running.begin_segment().await;
    for other in 1..=3 {
        let read = running.read_of(SegmentId([other; 32]), (0, 0), &[]).await;
        assert_eq!(read.unwrap_err(), StatusCode::NOT_FOUND);
    }
    let read = running.read_of(SegmentId([4; 32]), (0, 0), &[]).await;
    assert_eq!(read.unwrap_err(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        fetch(&running, WelcomeId([4; 32])).await,
        StatusCode::TOO_MANY_REQUESTS
    );
    running.read(0, 0).await.unwrap();
}

/// A read in a slot.
async fn slot(
    running: &Running,
    segment: SegmentId,
    tokens: &[HeaderValue],
) -> (StatusCode, usize) {
    let request = ReadJournalRequest {
        version: WIRE_VERSION,
        segment,
        from: Position::LAST,
        known: Position(0),
        wait_ms: 0,
        size: AnswerSize::Slot,
        piece: 0,
    };
    let read = running.post(Number::ReadJournal, request.encode(), tokens);
    let (status, body) = read.await;
    (status, body.len())
}

/// Takes its time, or has none.
struct Slow {
    memory: Memory,
    takes: Duration,
    is_broken: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl Engine for Slow {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        tokio::time::sleep(self.takes).await;
        match self.is_broken.load(Ordering::SeqCst) {
            true => Err(EngineError("it is broken".into())),
            false => self.memory.read(reads).await,
        }
    }

    async fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        self.memory.apply(batch).await
    }

    async fn drop_days(&self, table: Table, before: u32) -> Result<(), EngineError> {
        self.memory.drop_days(table, before).await
    }

    async fn drop_prefix(&self, table: Table, prefix: Vec<u8>) -> Result<(), EngineError> {
        self.memory.drop_prefix(table, prefix).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobodys_journal_is_read_for_nothing_whatever_the_store_does() {
    let engine = Arc::new(Slow {
        memory: Memory::default(),
        takes: Duration::ZERO,
        is_broken: false.into(),
    });
    let running = running_with(Setup {
        engine: Some(engine.clone()),
        segment_reads: 2,
        ..Setup::default()
    });
    running.begin_segment().await;
    let (status, len) = slot(&running, segment(), &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(slot(&running, segment(), &[]).await.0, StatusCode::OK);
    let refused = StatusCode::TOO_MANY_REQUESTS;
    assert_eq!(slot(&running, segment(), &[]).await.0, refused);
    // Others use up what everybody has who asks for what is not there.
    for other in 1..=3 {
        slot(&running, SegmentId([other; 32]), &[]).await;
    }
    assert_eq!(slot(&running, SegmentId([4; 32]), &[]).await.0, refused);
    let paid = [token()];
    for _ in 0..5 {
        let nobodys = slot(&running, SegmentId::NOBODY, &paid).await;
        assert_eq!(nobodys, (StatusCode::OK, len));
    }
    // The token was not spent.
    assert_eq!(slot(&running, segment(), &paid).await.0, StatusCode::OK);
    engine.is_broken.store(true, Ordering::SeqCst);
    assert_ne!(slot(&running, segment(), &[]).await.0, StatusCode::OK);
    let nobodys = slot(&running, SegmentId::NOBODY, &[]).await;
    assert_eq!(nobodys, (StatusCode::OK, len));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods, reason = "how long something really takes")]
async fn when_the_answer_to_a_slot_leaves_does_not_say_what_was_done_for_it() {
    let engine = Arc::new(Slow {
        memory: Memory::default(),
        takes: Duration::from_millis(4),
        is_broken: false.into(),
    });
    let running = running_with(Setup {
        engine: Some(engine),
        segment_reads: 4,
        ..Setup::default()
    });
    running.begin_segment().await;
    running.append(1).await;
    let mut soonest = Vec::new();
    let mut kinds = Vec::new();
    for of in [SegmentId::NOBODY, segment(), segment()] {
        let mut took = Vec::new();
        let mut statuses = Vec::new();
        for _ in 0..4 {
            let began = std::time::Instant::now();
            statuses.push(slot(&running, of, &[]).await.0);
            took.push(began.elapsed());
        }
        statuses.dedup();
        kinds.push(statuses);
        soonest.push(took.into_iter().min().unwrap());
    }
    let refused = StatusCode::TOO_MANY_REQUESTS;
    assert_eq!(kinds, [[StatusCode::OK], [StatusCode::OK], [refused]]);
    // One grid for what is nobody's, what was read, and what was refused.
    let grid = Duration::from_millis(20);
    for took in &soonest {
        assert!((grid..grid + grid / 2).contains(took), "{soonest:?}");
    }
    // Whoever waits for nothing is answered at once.
    let began = std::time::Instant::now();
    let _ = running.read(0, 0).await;
    assert!(began.elapsed() < grid, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readers_of_each_record_have_an_allowance_by_its_bytes() {
    let running = running(4);
    let last_day = Day((Day::of(NOON_MS).0 + 98).div_ceil(14) * 14);
    let rows = ds_domain::rows::Rows(running.server.keys.rows());
    for (id, len) in [([1; 32], 100), ([2; 32], 100), ([3; 32], 40_000)] {
        let key = rows.welcome(&WelcomeId(id)).key(last_day);
        let batch = Batch {
            puts: vec![(key, vec![0; len])],
            ..Batch::default()
        };
        running.memory.apply(batch).await.unwrap();
    }
    for _ in 0..4 {
        assert_eq!(fetch(&running, WelcomeId([1; 32])).await, StatusCode::OK);
    }
    assert_eq!(
        fetch(&running, WelcomeId([1; 32])).await,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(fetch(&running, WelcomeId([2; 32])).await, StatusCode::OK);
    // 40,000 bytes are three times 16 KiB.
    assert_eq!(fetch(&running, WelcomeId([3; 32])).await, StatusCode::OK);
    assert_eq!(
        fetch(&running, WelcomeId([3; 32])).await,
        StatusCode::TOO_MANY_REQUESTS
    );
}

const YEAR_MS: u64 = 365 * 86_400_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_has_jumped_ahead_writes_nothing_and_everything_goes_on_when_it_is_back() {
    let (running, clock) = watched(Arc::default());
    running.begin_segment().await;
    let rows = running.memory.snapshot();
    let publish = signed(Number::PublishKeyPackages, 1, &publication());
    let paid = [token()];
    let published = async || {
        let posted = running.post(Number::PublishKeyPackages, publish.clone(), &paid);
        posted.await.0
    };
    clock.jump(YEAR_MS);
    assert_eq!(published().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(running.memory.snapshot(), rows);
    running.read(0, 0).await.unwrap();
    clock.jump(0u64.wrapping_sub(YEAR_MS));
    assert_eq!(published().await, StatusCode::OK);
}

/// As the hourly upkeep does.
async fn looks(running: &Running) {
    crate::run::expire_steadily(&running.server).await.unwrap();
}

#[tokio::test]
async fn of_several_nodes_one_whose_clock_is_wrong_and_is_believed_deletes_nothing_for_the_others()
{
    const DAY_MS: u64 = 86_400_000;
    let (right, right_clock) = watched(Arc::default());
    let (wrong, wrong_clock) = watched(right.memory.clone());
    let rows = ds_domain::rows::Rows(right.server.keys.rows());
    let key = rows
        .welcome(&WelcomeId([1; 32]))
        .key(Day(Day::of(NOON_MS).0 + 10));
    let batch = Batch {
        puts: vec![(key.clone(), vec![1])],
        ..Batch::default()
    };
    right.memory.apply(batch).await.unwrap();
    let is_there = async || {
        let found = right.memory.read(vec![Read::Row(key.clone())]).await;
        found.unwrap() == [Found::Row(Some(vec![1]))]
    };
    looks(&right).await;
    looks(&wrong).await;
    wrong_clock.jump(YEAR_MS);
    looks(&wrong).await;
    // It has said so for a day.
    for clock in [&right_clock, &wrong_clock] {
        clock.go_on(DAY_MS);
    }
    for _ in 0..48 {
        looks(&wrong).await;
        looks(&right).await;
        assert!(wrong.server.now().may_write());
        assert!(is_there().await);
    }
    // Its row does expire.
    for _ in 0..11 {
        right_clock.go_on(DAY_MS);
        looks(&right).await;
    }
    assert!(!is_there().await);
}
