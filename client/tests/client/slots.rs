//! What a client shows of itself while somebody looks at its events: whether it is written to or
//! not.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "when something really goes out"
)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mimimi_client::in_process::{Answer, FeedView, Service};
use mimimi_client::{Bundle, Client, Event, Events, Options, Profile};
use protocol::directory::Directory;
use protocol::operation::Operation;

use crate::support::{Homes, InProcess, settle, team, texts};

/// A request, as a relay sees it, and what it was.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    sent: usize,
    answered: usize,
    operation: Operation,
}

/// Sees the requests of one client.
struct Watched {
    service: Arc<InProcess>,
    seen: Mutex<Vec<Seen>>,
    /// When ticks of the feed were there.
    ticks: Mutex<Vec<Instant>>,
}

impl Watched {
    fn new(homes: &Homes) -> Arc<Self> {
        Arc::new(Self {
            service: Arc::clone(&homes.service),
            seen: Mutex::default(),
            ticks: Mutex::default(),
        })
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Service for Watched {
    fn answer<'a>(
        &'a self,
        operation: Operation,
        request: &'a [u8],
        tokens: &'a [Vec<u8>],
    ) -> Answer<'a> {
        Box::pin(async move {
            let at = Instant::now();
            let answer = self.service.answer(operation, request, tokens).await;
            self.seen.lock().unwrap().push(Seen {
                at,
                sent: request.len(),
                answered: answer.as_ref().map_or(0, Vec::len),
                operation,
            });
            answer
        })
    }

    fn directory(&self) -> Directory {
        self.service.directory()
    }

    fn feed(&self, path: &str, view: FeedView) -> Option<Vec<u8>> {
        let shown = self.service.feed(path, view)?;
        if view == FeedView::Relay && path != "latest" {
            self.ticks.lock().unwrap().push(Instant::now());
        }
        Some(shown)
    }
}

/// Carol, opened again so that she is watched, in a group with Alice and Bob, and in three others.
async fn scene(seed: u64, options: Options) -> (Homes, [Client; 2], Client, Arc<Watched>) {
    let mut homes = Homes::new(seed);
    homes.feed_bytes = Some(1 << 30);
    let [alice, bob, carol] = team(&homes).await;
    for name in ["one", "two", "three"] {
        carol.create_group(name).await.unwrap();
    }
    settle(&[&alice, &bob, &carol]).await;
    let seen = carol.events().unwrap();
    carol.acknowledge(&seen).unwrap();
    carol.close().await;
    let watched = Watched::new(&homes);
    let options = Options {
        service: Some(Arc::clone(&watched) as Arc<dyn Service>),
        ..options
    };
    let options = Options {
        clock: homes.options().clock,
        ciphersuites: vec![1],
        ..options
    };
    let carol = Client::open(&homes.path("carol"), options).await.unwrap();
    (homes, [alice, bob], carol, watched)
}

/// The next message.
async fn message(events: &mut Events) -> String {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next());
        if let Event::Message { text, .. } = next.await.expect("in time").unwrap().event {
            return text;
        }
    }
}

/// How far the distributions of two lists of gaps are from each other (Kolmogorov and Smirnov),
/// times the root of their mean number: 1.95 is exceeded by one in a thousand.
#[allow(clippy::cast_precision_loss)]
fn distance(one: &[Seen], other: &[Seen]) -> f64 {
    let gaps = |seen: &[Seen]| -> Vec<Duration> {
        let gaps = seen.windows(2).map(|it| it[1].at - it[0].at);
        gaps.collect()
    };
    let (one, other) = (gaps(one), gaps(other));
    let below = |gaps: &[Duration], most: Duration| {
        gaps.iter().filter(|it| **it <= most).count() as f64 / gaps.len() as f64
    };
    let all = one.iter().chain(&other);
    let farthest = all.map(|gap| (below(&one, *gap) - below(&other, *gap)).abs());
    let (m, n) = (one.len() as f64, other.len() as f64);
    farthest.fold(0.0, f64::max) * (m * n / (m + n)).sqrt()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_written_to_shows_the_requests_of_one_that_is_not() {
    const LOOKS: Duration = Duration::from_secs(12);
    let options = Options {
        profile: Profile::Batched,
        // One in 150 ms.
        slots_faster: 400,
        ..Options::default()
    };
    let (_homes, [alice, _bob], carol, watched) = scene(1, options).await;
    let mut events = carol.event_stream();
    // What there was to be done is done.
    tokio::time::sleep(Duration::from_secs(3)).await;
    watched.take();
    tokio::time::sleep(LOOKS).await;
    let idle = watched.take();
    let began = Instant::now();
    let mut said = Vec::new();
    while began.elapsed() < LOOKS {
        let text = format!("number {}", said.len());
        alice.send_message("team", &text).await.unwrap();
        said.push(text);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let busy = watched.take();
    for text in &said {
        assert_eq!(message(&mut events).await, *text);
    }
    for seen in idle.iter().chain(&busy) {
        assert_eq!(seen.operation, Operation::ReadJournal);
        let sizes = |seen: &Seen| (seen.sent, seen.answered);
        assert_eq!(sizes(seen), sizes(&idle[0]));
    }
    println!("{} requests, {} when written to", idle.len(), busy.len());
    assert!(idle.len() > 30 && busy.len() > 30);
    let distance = distance(&idle, &busy);
    assert!(distance < 1.95, "{distance}");
}

/// How many requests a client made while it was written to twelve times, and the feed said so.
async fn asked_while_written_to(seed: u64, slots_weakened: bool) -> usize {
    const MESSAGES: usize = 12;
    let options = Options {
        profile: Profile::Batched,
        // One in 30 s.
        slots_faster: 2,
        slots_weakened,
        // Enough for ticks of two seconds.
        feed_bytes: Some(1 << 30),
        ..Options::default()
    };
    let (homes, [alice, _bob], carol, watched) = scene(seed, options).await;
    homes.service.show_feed();
    let service = Arc::clone(&homes.service);
    let ticking = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            service.clock.advance(Duration::from_millis(100));
            service.make_ticks();
        }
    });
    let _events = carol.event_stream();
    while watched.ticks.lock().unwrap().len() < 4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    watched.take();
    for number in 0..MESSAGES {
        let text = format!("number {number}");
        alice.send_message("team", &text).await.unwrap();
        // One in each tick or less.
        let ticks = watched.ticks.lock().unwrap().len();
        while watched.ticks.lock().unwrap().len() < ticks + 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    ticking.abort();
    let asked = watched.take().len();
    println!("{asked} requests, weakened: {slots_weakened}");
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_asked_because_the_feed_has_named_a_group() {
    let (real, weak) = tokio::join!(
        asked_while_written_to(2, false),
        asked_while_written_to(3, true)
    );
    // It takes a minute: two slots, and hardly ever eight.
    assert!(real < 8, "{real}");
    // It would be seen.
    assert!(weak > 8, "{weak}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begins_with_no_burst_and_more_than_a_page_comes_in_as_many_slots() {
    let options = Options {
        profile: Profile::Batched,
        slots_faster: 400,
        ..Options::default()
    };
    let (_homes, [alice, bob], carol, watched) = scene(4, options).await;
    let long = "a".repeat(300);
    let mut said = Vec::new();
    for number in 0..20 {
        let text = format!("{number} {long}");
        [&alice, &bob][number % 2]
            .send_message("team", &text)
            .await
            .unwrap();
        said.push(text);
    }
    let mut events = carol.event_stream();
    for text in &said {
        assert_eq!(message(&mut events).await, *text);
    }
    let mut seen = watched.take();
    seen.retain(|seen| seen.operation == Operation::ReadJournal);
    // Five groups, and four pages of one of them at least.
    assert!(seen.len() >= 4, "{}", seen.len());
    let first = seen
        .iter()
        .filter(|it| it.at - seen[0].at < Duration::from_millis(20));
    assert!(first.count() < 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundled_slot_reads_four_journals_whatever_is_due() {
    let options = Options {
        profile: Profile::Batched,
        bundle: Bundle::Bundled,
        slots_faster: 100,
        ..Options::default()
    };
    let (_homes, [alice, _bob], carol, watched) = scene(5, options).await;
    let mut events = carol.event_stream();
    tokio::time::sleep(Duration::from_secs(3)).await;
    watched.take();
    alice.send_message("team", "hello").await.unwrap();
    assert_eq!(message(&mut events).await, "hello");
    drop(events);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = watched.take();
    assert!(
        !seen.is_empty() && seen.len().is_multiple_of(4),
        "{}",
        seen.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_takes_the_place_of_a_slot() {
    let options = Options {
        profile: Profile::Batched,
        // One in a second.
        slots_faster: 60,
        ..Options::default()
    };
    let (_homes, [alice, _bob], carol, watched) = scene(6, options).await;
    let _events = carol.event_stream();
    let mut silent = 0;
    for number in 0..6 {
        // As many requests as give way to at most.
        while watched.seen.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let began = Instant::now();
        carol
            .send_message("team", &format!("number {number}"))
            .await
            .unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "at once");
        let sent = watched.take().into_iter();
        let posted = sent.filter(|it| it.at >= began).count();
        assert!(posted >= 1);
        let next = Instant::now();
        while watched.seen.lock().unwrap().is_empty() && next.elapsed() < Duration::from_secs(15) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        silent += usize::from(next.elapsed() > Duration::from_millis(900));
    }
    // Two slots and more gave way each time: hardly ever does the next one come within a second.
    assert!(silent >= 3, "{silent}");
    settle(&[&alice]).await;
    assert_eq!(texts(&alice, "team").len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_added_to_a_group_while_looking_comes_in_after_some_slots() {
    let options = Options {
        profile: Profile::Batched,
        slots_faster: 400,
        ..Options::default()
    };
    let (_homes, [alice, _bob], carol, _watched) = scene(7, options).await;
    let mut events = carol.event_stream();
    alice.create_group("garden").await.unwrap();
    alice
        .add_to_group("garden", &["bob", "carol"])
        .await
        .unwrap();
    let joined = async {
        loop {
            if let Event::Joined { group, .. } = events.next().await.unwrap().event
                && group == "garden"
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), joined)
        .await
        .expect("she comes in by herself");
}
