//! Streams when more is said than fits, an allowance is empty, or the store is slow.

use std::sync::atomic::AtomicBool;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_even_stream_ends_in_time_though_more_is_to_be_told_than_fits() {
    let streams = StreamSettings { seconds: 1, ..FAST };
    let running = running_with(Setup {
        segment_reads: 1_000_000,
        streams,
        ..Setup::default()
    });
    running.begin_segment().await;
    let began = Instant::now();
    let mut stream = running.follow(&request(0, Pace::Even)).await.ok().unwrap();
    running.say(200_000).await;
    loop {
        match stream.said().await {
            Said::Stretch(stretch) => assert!(stretch.entries.is_empty()),
            other => break assert_eq!(other, Said::End(FrameKind::Behind)),
        }
    }
    assert!((900..1_500).contains(&began.elapsed().as_millis()));
    assert_eq!(stream.said().await, Said::Nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_even_stream_goes_on_however_much_is_said_within_a_beat() {
    let running = fast();
    running.begin_segment().await;
    let mut stream = running.follow(&request(0, Pace::Even)).await.ok().unwrap();
    assert!(matches!(stream.said().await, Said::Stretch(_)));
    // Three times what waits for a stream.
    for _ in 0..192 {
        running.say(10).await;
    }
    let mut next = 0;
    while next < 192 {
        let stretch = stream.news().await;
        assert_eq!(stretch.first.0, next);
        next += stretch.entries.len() as u64;
    }
    running.say(1).await;
    assert_eq!(stream.news().await.first, Position(192));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_new_is_told_though_somebody_has_emptied_the_allowance_of_the_readers() {
    for pace in [Pace::Live, Pace::Even] {
        let running = running_with(Setup {
            segment_reads: 200,
            streams: StreamSettings {
                seconds: 20,
                ..FAST
            },
            ..Setup::default()
        });
        running.begin_segment().await;
        let mut stream = running.follow(&request(0, pace)).await.ok().unwrap();
        assert!(matches!(stream.said().await, Said::Stretch(_)));
        while running.read(0, 0).await.is_ok() {}
        // Of these none is handed over.
        for at in 0..3 {
            running.say(70_000).await;
            assert_eq!(stream.news().await.first, Position(at), "{pace:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_what_was_there_before_by_a_stream_draws_on_the_allowance_of_the_readers() {
    let running = running_with(Setup {
        segment_reads: 200,
        streams: StreamSettings {
            seconds: 20,
            ..FAST
        },
        ..Setup::default()
    });
    running.begin_segment().await;
    for _ in 0..20 {
        running.say(60_000).await;
    }
    let mut stream = running.live().await;
    while running.read(0, 0).await.is_ok() {}
    loop {
        match stream.said().await {
            Said::Stretch(_) => {}
            other => break assert_eq!(other, Said::End(FrameKind::Behind)),
        }
    }
}

/// A store that takes its time when it is told to, or does not answer.
struct Slow {
    memory: Arc<Memory>,
    is_slow: AtomicBool,
    is_down: AtomicBool,
    reads: AtomicUsize,
}

impl Slow {
    const TIME: Duration = Duration::from_millis(700);

    fn running() -> (Arc<Self>, Running) {
        let memory = Arc::new(Memory::default());
        let slow = Arc::new(Self {
            memory: memory.clone(),
            is_slow: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
        });
        let running = running_with(Setup {
            engine: Some(slow.clone()),
            memory,
            segment_reads: 1_000_000,
            streams: FAST,
            ..Setup::default()
        });
        (slow, running)
    }
}

#[async_trait]
impl Engine for Slow {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(EngineError("down".to_owned()));
        }
        if self.is_slow.load(Ordering::SeqCst) {
            self.reads.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Self::TIME).await;
        }
        self.memory.read(reads).await
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
async fn no_frame_of_an_even_stream_waits_for_the_store() {
    let (slow, running) = Slow::running();
    running.begin_segment().await;
    let mut stream = running.follow(&request(0, Pace::Even)).await.ok().unwrap();
    // It is not handed over.
    running.say(70_000).await;
    slow.is_slow.store(true, Ordering::SeqCst);
    let mut times = vec![Instant::now()];
    while slow.reads.load(Ordering::SeqCst) < 3 {
        assert!(stream.piece().await);
        times.push(Instant::now());
    }
    let between = times.windows(2).map(|two| two[1] - two[0]);
    let longest = between.max().unwrap();
    assert!(longest < Slow::TIME / 2, "{longest:?}");
    assert_eq!(stream.news().await.first, Position(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_when_the_store_answers_again() {
    for pace in [Pace::Live, Pace::Even] {
        let (slow, running) = Slow::running();
        running.begin_segment().await;
        let mut stream = running.follow(&request(0, pace)).await.ok().unwrap();
        running.say(70_000).await;
        slow.is_down.store(true, Ordering::SeqCst);
        for _ in 0..30 {
            let said = match pace {
                Pace::Live => tokio::time::timeout(Duration::from_millis(50), stream.said()).await,
                Pace::Even => Ok(stream.said().await),
            };
            let ended = matches!(said, Ok(Said::End(_) | Said::Nothing));
            assert!(!ended, "{pace:?}");
        }
        slow.is_down.store(false, Ordering::SeqCst);
        assert_eq!(stream.news().await.first, Position(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_told_in_pieces_that_are_not_copied_whole_for_each_stream() {
    let running = fast();
    running.begin_segment().await;
    let mut stream = running.live().await;
    assert!(matches!(stream.said().await, Said::Stretch(_)));
    for _ in 0..60 {
        running.say(1_500).await;
    }
    let mut told = 0;
    while told < 60 {
        told += stream.news().await.entries.len();
    }
    assert!(stream.pieces.iter().all(|len| *len <= 16 * 1024));
    // And not one by one either.
    assert!(stream.pieces.len() < 40, "{}", stream.pieces.len());
}
