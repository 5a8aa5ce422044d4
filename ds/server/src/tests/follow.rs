//! Streams of a journal: their frames, their bounds, and what they leave alone.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "how long it really takes; and what a test rests on"
)]

mod pressure;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crypto::journal::{first_head, head_after};
use ds_domain::engine::{ApplyError, EngineError, Found};
use ds_domain::journal::head::LEAST_WAITING;
use protocol::follow::{
    FollowBegun, FollowJournalRequest, FollowedStretch, Frame, FrameKind, LONGEST_DELAY_MS, Pace,
};
use protocol::journal::{AnswerSize, CommitEvent, Entry};
use service::stream_limits::EndsBy;

use super::*;

/// An answer that goes on.
struct Stream {
    body: Body,
    held: Vec<u8>,
    begun: FollowBegun,
    /// Bytes of each piece as it came.
    pieces: Vec<usize>,
    ends_by: EndsBy,
}

/// What a stream said last.
#[derive(Debug, PartialEq)]
enum Said {
    Stretch(FollowedStretch),
    End(FrameKind),
    /// The answer has ended.
    Nothing,
}

impl Stream {
    async fn piece(&mut self) -> bool {
        let Some(frame) = within(self.body.frame()).await else {
            return false;
        };
        let bytes = frame.unwrap().into_data().unwrap();
        self.pieces.push(bytes.len());
        self.held.extend_from_slice(&bytes);
        true
    }

    async fn frame(&mut self) -> Option<(FrameKind, Vec<u8>)> {
        let len = usize::from(self.begun.frame_len);
        while self.held.len() < len {
            if !self.piece().await {
                assert!(self.held.is_empty(), "whole frames");
                return None;
            }
        }
        let rest = self.held.split_off(len);
        let frame = std::mem::replace(&mut self.held, rest);
        let frame = Frame::read(&frame).unwrap();
        Some((frame.kind, frame.content.to_vec()))
    }

    async fn said(&mut self) -> Said {
        let mut stretch = Vec::new();
        loop {
            let Some((kind, content)) = self.frame().await else {
                return Said::Nothing;
            };
            stretch.extend_from_slice(&content);
            match kind {
                FrameKind::Part => {}
                FrameKind::Whole => {
                    return Said::Stretch(FollowedStretch::decode(&stretch).unwrap());
                }
                FrameKind::Over | FrameKind::Behind => return Said::End(kind),
            }
        }
    }

    /// The next stretch that has entries.
    async fn news(&mut self) -> FollowedStretch {
        loop {
            match self.said().await {
                Said::Stretch(stretch) if stretch.entries.is_empty() => {}
                Said::Stretch(stretch) => return stretch,
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    let limited = tokio::time::timeout(Duration::from_secs(20), future);
    limited.await.expect("in time")
}

fn request(from: u64, pace: Pace) -> FollowJournalRequest {
    FollowJournalRequest {
        version: WIRE_VERSION,
        segment: segment(),
        from: Position(from),
        pace,
    }
}

/// Frames come often.
const FAST: StreamSettings = StreamSettings {
    seconds: 300,
    live_beat_ms: 400,
    even_beat_ms: 40,
};

fn fast() -> Running {
    running_with(Setup {
        segment_reads: 1_000_000,
        streams: FAST,
        ..Setup::default()
    })
}

impl Running {
    async fn follow(&self, request: &FollowJournalRequest) -> Result<Stream, Reply> {
        let request = self.request(Number::FollowJournal, request.encode(), &[]);
        let answer = self.router.clone().oneshot(request).await.unwrap();
        if answer.status() != StatusCode::OK {
            return Err(Reply::read(answer).await);
        }
        assert!(answer.headers().get(header::CONTENT_LENGTH).is_none());
        let ends_by = *answer.extensions().get::<EndsBy>().unwrap();
        let mut stream = Stream {
            body: answer.into_body(),
            held: Vec::new(),
            begun: FollowBegun {
                version: 0,
                frame_len: 0,
                beat_ms: 0,
                lasts_ms: 0,
            },
            pieces: Vec::new(),
            ends_by,
        };
        assert!(stream.piece().await);
        let frames = stream.held.split_off(FollowBegun::LEN);
        stream.begun = FollowBegun::decode(&stream.held).unwrap();
        stream.held = frames;
        Ok(stream)
    }

    async fn live(&self) -> Stream {
        let followed = self.follow(&request(0, Pace::Live)).await;
        followed.unwrap_or_else(|_| panic!("a stream"))
    }

    /// A message, of which followers are told.
    async fn say(&self, len: usize) {
        let appended = self.append_events(vec![message(vec![7; len])], false);
        self.server.tell(vec![appended.await]);
    }
}

/// Counts the ways to the store.
struct Counting {
    memory: Arc<Memory>,
    reads: AtomicUsize,
}

#[async_trait]
impl Engine for Counting {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Found>, EngineError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
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
async fn an_entry_is_told_to_all_followers_as_it_was_stored_and_is_not_read_from_the_store() {
    let memory = Arc::new(Memory::default());
    let counting = Arc::new(Counting {
        memory: memory.clone(),
        reads: AtomicUsize::new(0),
    });
    let running = running_with(Setup {
        engine: Some(counting.clone()),
        memory,
        ..Setup::default()
    });
    running.begin_segment().await;
    let mut followers = Vec::new();
    for _ in 0..3 {
        let mut follower = running.live().await;
        assert!(
            matches!(follower.said().await, Said::Stretch(stretch) if stretch.entries.is_empty())
        );
        followers.push(follower);
    }
    let before = counting.reads.load(Ordering::SeqCst);
    running.say(300).await;
    let mut told = Vec::new();
    for follower in &mut followers {
        told.push(follower.news().await);
    }
    // The one of the append itself.
    assert_eq!(counting.reads.load(Ordering::SeqCst), before + 1);
    let read = running.read(0, 0).await.unwrap();
    for stretch in told {
        assert_eq!(stretch.entries, read.entries);
        assert_eq!(stretch.first, Position(0));
        assert_eq!(stretch.head, read.head);
        assert_eq!((stretch.step, stretch.closed), (read.step, read.closed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_have_one_size_whatever_they_hold_and_an_even_stream_sends_one_at_a_time() {
    for pace in [Pace::Live, Pace::Even] {
        let running = fast();
        running.begin_segment().await;
        running.say(20).await;
        let mut stream = running.follow(&request(0, pace)).await.ok().unwrap();
        let lengths = [1, 300, 900, 9_000, 70_000, 5];
        for len in lengths {
            running.say(len).await;
        }
        let mut at = Position(0);
        let mut chain = first_head(&segment());
        while at.0 < 1 + lengths.len() as u64 {
            let stretch = stream.news().await;
            assert_eq!(stretch.first, at);
            for entry in &stretch.entries {
                chain = head_after(&chain, at, entry);
                at = at.next();
            }
        }
        assert_eq!(
            chain,
            running.read(0, 0).await.unwrap().head.chain,
            "{pace:?}"
        );
        let len = usize::from(stream.begun.frame_len);
        stream.pieces[0] -= FollowBegun::LEN;
        for piece in &stream.pieces {
            match pace {
                Pace::Live => assert_eq!(piece % len, 0),
                Pace::Even => assert_eq!(*piece, len),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_even_stream_sends_as_many_frames_with_entries_as_without() {
    let running = fast();
    running.begin_segment().await;
    let mut counts = Vec::new();
    for speaks in [false, true] {
        let followed = running.follow(&request(0, Pace::Even)).await;
        let mut stream = followed.ok().unwrap();
        let began = Instant::now();
        let mut entries = 0;
        while began.elapsed() < Duration::from_millis(40 * 50) {
            if speaks && stream.pieces.len() % 3 == 0 {
                running.say(200).await;
            }
            if let Said::Stretch(stretch) = stream.said().await {
                entries += stretch.entries.len();
            }
        }
        assert_eq!(entries > 0, speaks);
        counts.push(stream.pieces.len());
    }
    assert!(
        counts.iter().all(|count| (35..=52).contains(count)),
        "{counts:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_takes_nothing_blocks_nobody_and_is_told_that_it_has_fallen_behind() {
    let running = fast();
    running.begin_segment().await;
    let mut slow = running.live().await;
    let mut quick = running.live().await;
    let reading = tokio::spawn(async move {
        let mut told = 0;
        while told < 200 {
            told += quick.news().await.entries.len();
        }
        told
    });
    for _ in 0..200 {
        let said = Instant::now();
        running.say(300).await;
        assert!(said.elapsed() < Duration::from_millis(500));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(within(reading).await.unwrap(), 200);
    assert!(matches!(slow.said().await, Said::Stretch(_)));
    assert!(slow.said().await == Said::End(FrameKind::Behind));
    assert_eq!(slow.said().await, Said::Nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_of_few_leaves_has_sixteen_followers_and_waiting_readers() {
    let running = running_with(Setup {
        load: LoadLimits {
            concurrent_streams: 100,
            ..places(4, 4)
        },
        ..Setup::default()
    });
    running.begin_segment().await;
    let mut streams = Vec::new();
    for _ in 1..LEAST_WAITING {
        streams.push(running.live().await);
    }
    let (poll, router) = (
        running.request(
            Number::ReadJournal,
            ReadJournalRequest {
                version: WIRE_VERSION,
                segment: segment(),
                from: Position(0),
                known: Position(0),
                wait_ms: 30_000,
                size: AnswerSize::Segment,
                piece: 0,
            }
            .encode(),
            &[],
        ),
        running.router.clone(),
    );
    let waiting = tokio::spawn(async move { router.oneshot(poll).await.unwrap().status() });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = running.follow(&request(0, Pace::Live)).await.err().unwrap();
    assert_eq!(refused.problem(), ProblemType::Unavailable);
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    assert!(!waiting.is_finished());
    // A stream that has ended gives its seat back.
    streams.pop();
    assert!(running.follow(&request(0, Pace::Live)).await.is_ok());
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_has_as_many_streams_as_configured_and_they_take_no_place_from_reads() {
    let running = running_with(Setup {
        load: LoadLimits {
            concurrent_streams: 2,
            ..places(1, 1)
        },
        ..Setup::default()
    });
    running.begin_segment().await;
    let mut streams = vec![running.live().await, running.live().await];
    let refused = running.follow(&request(0, Pace::Live)).await.err().unwrap();
    assert_eq!(refused.problem(), ProblemType::Unavailable);
    running.read(0, 0).await.unwrap();
    streams.pop();
    assert!(running.follow(&request(0, Pace::Live)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_the_commit_that_closes_its_segment() {
    for pace in [Pace::Live, Pace::Even] {
        let running = fast();
        running.begin_segment().await;
        let mut stream = running.follow(&request(0, pace)).await.ok().unwrap();
        let commit = Event::Commit(CommitEvent {
            commit: opaque(vec![9; 300]),
            link_keys: Vec::new(),
            former_wrapper_key: None,
        });
        let appended = running.append_events(vec![message(vec![1]), commit], true);
        running.server.tell(vec![appended.await]);
        let last = stream.news().await;
        assert_eq!((last.closed, last.head.next), (1, Position(2)));
        assert!(matches!(
            last.entries[..],
            [Entry::Message(_), Entry::Handshake(_)]
        ));
        assert_eq!(stream.said().await, Said::End(FrameKind::Over), "{pace:?}");
        assert_eq!(stream.said().await, Said::Nothing);
        // Whoever comes later is told the same.
        let mut later = running.follow(&request(0, pace)).await.ok().unwrap();
        assert_eq!(later.news().await.closed, 1);
        assert_eq!(later.said().await, Said::End(FrameKind::Over));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_unknown_segment_a_follower_is_told_what_a_reader_is_told() {
    let running = fast();
    let refused = running.follow(&request(0, Pace::Live)).await.err().unwrap();
    let read = ReadJournalRequest {
        version: WIRE_VERSION,
        segment: segment(),
        from: Position(0),
        known: Position(0),
        wait_ms: 0,
        size: AnswerSize::Segment,
        piece: 0,
    };
    let read = running.reply(Number::ReadJournal, read.encode(), &[]).await;
    assert_eq!(refused.problem(), ProblemType::UnknownSegment);
    assert_eq!((refused.status, &refused.body), (read.status, &read.body));
    running.begin_segment().await;
    for (wrong, problem) in [
        (request(33, Pace::Live), ProblemType::Malformed),
        (
            FollowJournalRequest {
                version: 2,
                ..request(0, Pace::Live)
            },
            ProblemType::UnsupportedVersion,
        ),
    ] {
        let refused = running.follow(&wrong).await.err().unwrap();
        assert_eq!(refused.problem(), problem);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_that_is_lost_late_or_in_the_wrong_order_costs_time_and_no_entry() {
    for pace in [Pace::Live, Pace::Even] {
        let running = fast();
        running.begin_segment().await;
        let mut stream = running.follow(&request(0, pace)).await.ok().unwrap();
        // Lost.
        running.append_events(vec![message(vec![0])], false).await;
        assert_eq!(stream.news().await.first, Position(0));
        // The later one first.
        let one = running.append_events(vec![message(vec![1])], false).await;
        let two = running.append_events(vec![message(vec![2])], false).await;
        running.server.tell(vec![two.clone()]);
        running.server.tell(vec![one]);
        running.server.tell(vec![two]);
        let mut next = 1;
        while next < 3 {
            let stretch = stream.news().await;
            assert_eq!(stretch.first.0, next, "{pace:?}");
            next += stretch.entries.len() as u64;
        }
        assert_eq!(next, 3);
        running.say(3).await;
        assert_eq!(stream.news().await.first, Position(3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_accepts_is_told_to_the_followers_of_this_one() {
    let memory = Arc::new(Memory::default());
    let node = || {
        running_with(Setup {
            memory: memory.clone(),
            look_again_ms: Some(200),
            ..Setup::default()
        })
    };
    let (one, other) = (node(), node());
    one.begin_segment().await;
    for pace in [Pace::Live, Pace::Even] {
        let mut stream = one.follow(&request(0, pace)).await.ok().unwrap();
        let before = one.read(0, 0).await.unwrap().head.next;
        other.say(10).await;
        loop {
            let stretch = stream.news().await;
            if stretch.head.next > before {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_begins_with_what_is_there_and_goes_on_with_what_comes() {
    let running = fast();
    running.begin_segment().await;
    for _ in 0..70 {
        running.say(1_500).await;
    }
    let mut stream = running.follow(&request(32, Pace::Live)).await.ok().unwrap();
    let mut next = 32;
    while next < 72 {
        let stretch = stream.news().await;
        assert_eq!(stretch.first.0, next);
        next += stretch.entries.len() as u64;
        if next == 70 {
            running.say(1).await;
            running.say(2).await;
        }
    }
    assert_eq!(next, 72);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_at_its_announced_time_and_when_the_service_ends() {
    let streams = StreamSettings { seconds: 1, ..FAST };
    let running = running_with(Setup {
        streams,
        ..Setup::default()
    });
    running.begin_segment().await;
    for pace in [Pace::Live, Pace::Even] {
        let mut stream = running.follow(&request(0, pace)).await.ok().unwrap();
        assert_eq!(stream.begun.lasts_ms, 1_000);
        let began = Instant::now();
        let lasts = stream.ends_by.0 - tokio::time::Instant::from_std(began);
        assert!((900..1_100).contains(&lasts.as_millis()), "{lasts:?}");
        // Its time begins before anybody takes anything of it.
        tokio::time::sleep(Duration::from_millis(600)).await;
        while stream.said().await != Said::End(FrameKind::Over) {}
        assert!((900..1_500).contains(&began.elapsed().as_millis()));
        assert_eq!(stream.said().await, Said::Nothing);
    }
    let running = fast();
    running.begin_segment().await;
    let mut stream = running.live().await;
    assert!(matches!(stream.said().await, Said::Stretch(_)));
    running.ends.request();
    assert_eq!(stream.said().await, Said::End(FrameKind::Over));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_entry_goes_out_after_a_random_time_below_the_longest() {
    let running = running_with(Setup {
        segment_reads: 1_000,
        ..Setup::default()
    });
    running.begin_segment().await;
    let mut stream = running.live().await;
    let mut times = Vec::new();
    for _ in 0..24 {
        let said = Instant::now();
        running.say(10).await;
        stream.news().await;
        times.push(said.elapsed().as_millis());
    }
    times.sort_unstable();
    let most = u128::from(LONGEST_DELAY_MS);
    assert!(times[12] < most, "{times:?}");
    // Of 24 random ones, the middle ones are far apart.
    assert!(times[20] - times[3] > most / 5, "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_pays_for_a_stream_that_is_not_to_be_had() {
    let running = running_with(Setup {
        segment_reads: 4,
        load: LoadLimits {
            concurrent_streams: 0,
            ..places(4, 4)
        },
        ..Setup::default()
    });
    running.begin_segment().await;
    for _ in 0..20 {
        let refused = running.follow(&request(0, Pace::Live)).await.err().unwrap();
        assert_eq!(refused.problem(), ProblemType::Unavailable);
    }
    running.read(0, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_finds_no_place_to_look_tells_later_and_takes_none_from_reads() {
    for pace in [Pace::Live, Pace::Even] {
        let running = running_with(Setup {
            segment_reads: 1_000_000,
            streams: FAST,
            load: places(1, 1),
            ..Setup::default()
        });
        running.begin_segment().await;
        let mut stream = running.follow(&request(0, pace)).await.ok().unwrap();
        assert!(matches!(stream.said().await, Said::Stretch(_)));
        let looking = running.server.load.look().unwrap();
        // It is not handed over.
        running.say(70_000).await;
        for _ in 0..3 {
            let said = stream.said().await;
            assert!(
                matches!(&said, Said::Stretch(stretch) if stretch.entries.is_empty()),
                "{pace:?}"
            );
            running.read(0, 0).await.unwrap();
        }
        drop(looking);
        assert_eq!(stream.news().await.first, Position(0));
    }
}
