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
use mimimi_client::{Bundle, Client, Error, Event, Events, Options, Profile, Refusal};
use protocol::Wire as _;
use protocol::directory::Directory;
use protocol::ids::SegmentId;
use protocol::journal::ReadJournalRequest;
use protocol::operation::Operation;
use protocol::problem::ProblemType;

use crate::support::{Homes, InProcess, database, refusal, settle, team, texts};

/// A request, as a relay sees it, and what it was.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    sent: usize,
    answered: usize,
    operation: Operation,
    tokens: usize,
    /// Of a read.
    segment: Option<SegmentId>,
    is_piece: bool,
}

impl Seen {
    fn is_nobodys(&self) -> bool {
        self.segment == Some(SegmentId::NOBODY)
    }
}

fn segment_of(operation: Operation, request: &[u8]) -> Option<SegmentId> {
    let read = (operation == Operation::ReadJournal).then(|| ReadJournalRequest::decode(request));
    Some(read?.unwrap().segment)
}

/// Sees the requests of one client.
struct Watched {
    service: Arc<InProcess>,
    seen: Mutex<Vec<Seen>>,
    /// When ticks of the feed were there.
    ticks: Mutex<Vec<Instant>>,
    /// Reads of this segment are refused if they bring no token.
    unpaid: Mutex<Option<SegmentId>>,
}

impl Watched {
    fn new(homes: &Homes) -> Arc<Self> {
        Arc::new(Self {
            service: Arc::clone(&homes.service),
            seen: Mutex::default(),
            ticks: Mutex::default(),
            unpaid: Mutex::default(),
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
            let segment = segment_of(operation, request);
            let is_unpaid = segment.is_some() && segment == *self.unpaid.lock().unwrap();
            let answer = match is_unpaid && tokens.is_empty() {
                true => Err(Error::Refused(Refusal {
                    problem: ProblemType::TooManyRequests,
                    epoch: None,
                    now_ms: None,
                    retry_after_s: Some(1),
                    token_helps: true,
                })),
                false => self.service.answer(operation, request, tokens).await,
            };
            self.seen.lock().unwrap().push(Seen {
                at,
                sent: request.len(),
                answered: answer.as_ref().map_or(0, Vec::len),
                operation,
                tokens: tokens.len(),
                segment,
                is_piece: segment.is_some()
                    && ReadJournalRequest::decode(request).unwrap().piece > 0,
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
        ciphersuites: vec![0x4f],
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

/// With X-Wing a commit with a path does not fit into an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_read_in_slots_of_the_size_of_all_others() {
    let options = Options {
        profile: Profile::Batched,
        // One in 150 ms.
        slots_faster: 400,
        ..Options::default()
    };
    let (_homes, [alice, bob], carol, watched) = scene(2, options).await;
    let mut events = carol.event_stream();
    tokio::time::sleep(Duration::from_secs(3)).await;
    watched.take();
    bob.update_own_leaf("team").await.unwrap();
    alice.sync(0).await.unwrap();
    alice.send_message("team", "hello").await.unwrap();
    assert_eq!(message(&mut events).await, "hello");
    let seen = watched.take();
    let [one, other] = [&carol, &bob].map(|client| client.group("team").unwrap().epoch);
    assert_eq!(one, other);
    assert!(seen.iter().any(|it| it.is_piece));
    let reads = seen.iter();
    let reads = reads.filter(|it| it.operation == Operation::ReadJournal);
    let mut sizes: Vec<_> = reads.map(|it| (it.sent, it.answered)).collect();
    sizes.dedup();
    assert_eq!(sizes.len(), 1, "{sizes:?}");
}

/// Ticks of the feed as time passes, until it is dropped.
struct Ticking(tokio::task::JoinHandle<()>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ticking {
    fn of(service: &Arc<InProcess>) -> Self {
        service.show_feed();
        let service = Arc::clone(service);
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                service.clock.advance(Duration::from_millis(100));
                service.make_ticks();
            }
        }))
    }
}

/// Until so many ticks more were there.
async fn ticks(watched: &Watched, more: usize) {
    let ticks = watched.ticks.lock().unwrap().len();
    while watched.ticks.lock().unwrap().len() < ticks + more {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The segment that a group of Carol's is in.
fn segment(homes: &Homes, group: &str) -> SegmentId {
    let segment = "SELECT segment_id FROM segments JOIN groups USING (group_id) WHERE name = ?";
    let segment = database(homes, "carol").query_row(segment, [group], |row| row.get(0));
    SegmentId(segment.unwrap())
}

fn options(profile: Profile, slots_faster: u64) -> Options {
    Options {
        profile,
        slots_faster,
        // Enough for ticks of two seconds.
        feed_bytes: Some(1 << 30),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_news_nobodys_journal_is_read_and_with_news_the_one_that_has_some() {
    // A slot in 300 ms; a look into one of eight groups in eleven seconds.
    let (homes, [alice, _bob], carol, watched) = scene(8, options(Profile::Batched, 200)).await;
    let _ticking = Ticking::of(&homes.service);
    let mut events = carol.event_stream();
    ticks(&watched, 3).await;
    // What there was before is read.
    tokio::time::sleep(Duration::from_secs(10)).await;
    watched.take();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle = watched.take();
    let looks = idle.iter().filter(|it| !it.is_nobodys()).count();
    println!("{looks} looks in {} slots", idle.len());
    assert!(idle.len() > 15 && looks * 4 < idle.len());
    alice.send_message("team", "hello").await.unwrap();
    assert_eq!(message(&mut events).await, "hello");
    let busy = watched.take();
    let team = segment(&homes, "team");
    assert!(busy.iter().any(|it| it.segment == Some(team)));
    for seen in idle.iter().chain(&busy) {
        let sizes = |seen: &Seen| (seen.sent, seen.answered);
        assert_eq!(sizes(seen), sizes(&idle[0]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_the_feed_leaves_out_is_looked_into_all_the_same() {
    // A look into each group in five seconds.
    let (homes, [alice, _bob], carol, watched) = scene(9, options(Profile::Batched, 3_200)).await;
    let _ticking = Ticking::of(&homes.service);
    let mut events = carol.event_stream();
    ticks(&watched, 3).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    homes.service.forget_notes(true);
    alice.send_message("team", "hidden").await.unwrap();
    assert_eq!(message(&mut events).await, "hidden");
}

/// One group has news in each tick, and a second one after it; slots come a few to a tick.
async fn second_group_is_read(seed: u64, team_is_refused: bool) {
    let (homes, [alice, bob], carol, watched) = scene(seed, options(Profile::Batched, 100)).await;
    alice.create_group("garden").await.unwrap();
    alice.add_to_group("garden", &["carol"]).await.unwrap();
    settle(&[&alice, &carol]).await;
    let _ticking = Ticking::of(&homes.service);
    let mut events = carol.event_stream();
    ticks(&watched, 3).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let team = segment(&homes, "team");
    if team_is_refused {
        homes
            .service
            .intercept(Some(Box::new(move |number, request| {
                let is_team = segment_of(number, request) == Some(team);
                is_team.then(|| Err(refusal(ProblemType::TooManyRequests)))
            })));
    }
    // A hundred entries and more: many pages.
    let long = "a".repeat(300);
    let senders = [&alice, &bob];
    for number in 0..(if team_is_refused { 1 } else { 300 }) {
        senders[number % 2]
            .send_message("team", &long)
            .await
            .unwrap();
    }
    ticks(&watched, 2).await;
    alice.send_message("garden", "hello").await.unwrap();
    watched.take();
    while message(&mut events).await != "hello" {}
    let seen = watched.take();
    let of_team = seen.iter().filter(|it| it.segment == Some(team)).count();
    println!("{of_team} of {} reads are of the other group", seen.len());
    // A tick or two, and then the next slots.
    assert!(of_team < 16, "{of_team}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_in_which_much_is_written_holds_up_no_other_one() {
    second_group_is_read(10, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_reads_are_refused_holds_up_no_other_one() {
    second_group_is_read(11, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_feed_a_group_whose_reads_are_refused_holds_up_no_other_one() {
    let (homes, [alice, _bob], carol, _watched) = scene(12, options(Profile::Batched, 400)).await;
    alice.create_group("garden").await.unwrap();
    alice.add_to_group("garden", &["carol"]).await.unwrap();
    settle(&[&alice, &carol]).await;
    let team = segment(&homes, "team");
    homes
        .service
        .intercept(Some(Box::new(move |number, request| {
            let is_team = segment_of(number, request) == Some(team);
            is_team.then(|| Err(refusal(ProblemType::TooManyRequests)))
        })));
    let mut events = carol.event_stream();
    for number in 0..5 {
        let text = format!("number {number}");
        alice.send_message("garden", &text).await.unwrap();
        assert_eq!(message(&mut events).await, text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_readers_allowance_is_used_up_a_slot_is_one_request_and_the_next_one_pays() {
    let (homes, [alice, _bob], carol, watched) = scene(13, options(Profile::Batched, 100)).await;
    let team = segment(&homes, "team");
    let _ticking = Ticking::of(&homes.service);
    let mut events = carol.event_stream();
    ticks(&watched, 3).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    *watched.unpaid.lock().unwrap() = Some(team);
    alice.send_message("team", "hello").await.unwrap();
    watched.take();
    assert_eq!(message(&mut events).await, "hello");
    let seen = watched.take();
    let of_team: Vec<usize> = seen
        .iter()
        .filter(|it| it.segment == Some(team))
        .map(|it| it.tokens)
        .collect();
    assert_eq!(of_team, [0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_little_data_a_group_is_read_once_a_minute_however_often_it_is_named() {
    const TICKS: usize = 12;
    // Once in twelve seconds.
    let (homes, [alice, _bob], carol, watched) = scene(14, options(Profile::LowData, 5)).await;
    let _ticking = Ticking::of(&homes.service);
    let _events = carol.event_stream();
    ticks(&watched, 3).await;
    let team = segment(&homes, "team");
    watched.take();
    for number in 0..TICKS {
        let text = format!("number {number}");
        alice.send_message("team", &text).await.unwrap();
        ticks(&watched, 1).await;
    }
    let seen = watched.take();
    let read = seen.iter().filter(|it| it.segment == Some(team)).count();
    assert!((1..=4).contains(&read), "{read} of {TICKS}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_in_several_groups_comes_in_as_many_slots() {
    const GROUPS: [&str; 4] = ["red", "green", "blue", "white"];
    let (_homes, [alice, bob], carol, watched) = scene(15, options(Profile::Batched, 60)).await;
    for name in GROUPS {
        alice.create_group(name).await.unwrap();
        alice.add_to_group(name, &["bob", "carol"]).await.unwrap();
    }
    settle(&[&alice, &bob, &carol]).await;
    let _events = carol.event_stream();
    watched.take();
    // Somebody has to commit that, and nobody else is there.
    for name in GROUPS {
        bob.leave_group(name).await.unwrap();
    }
    let commits = async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let seen = watched.seen.lock().unwrap();
            let commits = seen
                .iter()
                .filter(|it| it.operation == Operation::UpdateClient);
            let commits: Vec<Instant> = commits.map(|it| it.at).collect();
            if commits.len() >= GROUPS.len() {
                return commits;
            }
        }
    };
    let commits = tokio::time::timeout(Duration::from_secs(120), commits)
        .await
        .expect("she commits what he wishes");
    let gaps: Vec<Duration> = commits.windows(2).map(|it| it[1] - it[0]).collect();
    println!("{gaps:?}");
    let together = gaps.iter().filter(|it| **it < Duration::from_millis(100));
    assert!(together.count() < 2, "{gaps:?}");
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
    let _ticking = Ticking::of(&homes.service);
    let _events = carol.event_stream();
    ticks(&watched, 4).await;
    watched.take();
    for number in 0..MESSAGES {
        let text = format!("number {number}");
        alice.send_message("team", &text).await.unwrap();
        // One in each tick or less.
        ticks(&watched, 2).await;
    }
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
async fn a_message_is_one_request_at_once_and_takes_the_place_of_a_slot() {
    const ROUNDS: usize = 5;
    let options = Options {
        profile: Profile::Batched,
        // One in a second.
        slots_faster: 60,
        ..Options::default()
    };
    let (_homes, [alice, _bob], carol, watched) = scene(6, options).await;
    let _events = carol.event_stream();
    let mut silent = 0;
    for round in 0..ROUNDS {
        // As many as slots give way to at most.
        for number in 0..4 {
            watched.take();
            let began = Instant::now();
            let text = format!("number {round} {number}");
            carol.send_message("team", &text).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(5), "at once");
            let sent = watched.take().into_iter();
            let sent: Vec<Operation> = sent
                .filter(|it| it.at >= began)
                .map(|it| it.operation)
                .collect();
            // Two at one moment would be no slots of anybody's. Only what this process has not read
            // yet is read before.
            match (round, number) {
                (0, 0) => assert!(sent.contains(&Operation::SendMessage)),
                _ => assert_eq!(sent, [Operation::SendMessage]),
            }
        }
        watched.take();
        let next = Instant::now();
        while watched.seen.lock().unwrap().is_empty() && next.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        silent += usize::from(next.elapsed() > Duration::from_millis(1_500));
    }
    // Five slots take five seconds, and hardly ever less than a third of that; one does often.
    assert!(silent + 1 >= ROUNDS, "{silent}");
    settle(&[&alice]).await;
    assert_eq!(texts(&alice, "team").len(), 4 * ROUNDS);
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
