//! Journals that are followed on streams, through relay and gateway: what is said is shown as it
//! comes, whatever happens to the stream and whatever is told on it.

#![allow(clippy::disallowed_methods, reason = "how long something really takes")]

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::{Client, Event, Events, Options, Profile};
use end_to_end::{
    Liar, LogLevel, MUCH, Service, Stack, Told, User, befriend, device, device_with, group_with,
    patient, program, settle,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::follow::FollowedStretch;
use protocol::ids::{ChainHead, Position, SegmentId};
use protocol::journal::{Entry, ReadJournalRequest};
use protocol::operation::Operation;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const GROUP: &str = "expedition";
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castro";

async fn within<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), future)
        .await
        .unwrap_or_else(|_| panic!("{what} takes more than {seconds} s"))
}

/// `mimimi receive --follow`, and what it prints.
struct Shown {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Shown {
    fn start(user: &User) -> Self {
        let mut process = Command::new(program("mimimi"))
            .arg("--home")
            .arg(user.home())
            .args(["receive", "--follow", "--group", GROUP, "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("mimimi runs");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        Self {
            lines,
            _process: process,
        }
    }

    /// The next message that it prints.
    async fn says(&mut self) -> String {
        let mut document = String::new();
        loop {
            let line = within(150, "a line", self.lines.next_line()).await;
            document.push_str(&line.expect("its output").expect("it goes on"));
            let Ok(events) = serde_json::from_str::<serde_json::Value>(&document) else {
                continue;
            };
            document.clear();
            if let Some(text) = events[0]["text"].as_str()
                && events[0]["type"] == "message"
            {
                return text.to_owned();
            }
        }
    }
}

async fn streams(stack: &Stack) -> f64 {
    let admin = stack.ports().admin_of(Service::Ds);
    let (_, metrics) = xtask::http::get(admin, "/metrics")
        .await
        .expect("an answer");
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix("ds_streams_total "));
    count.map_or(0.0, |count| count.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_is_shown_all_that_is_said_once_whichever_process_ends_and_comes_back() {
    let stack = Stack::start_with(LogLevel::Error, MUCH).await;
    let alice = User::register(&stack, 0, ALICE).await;
    let bob = User::register(&stack, 1, BOB).await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", GROUP]).await;
    alice.run(&["group", "add", GROUP, BOB]).await;
    bob.receive().await;
    let mut shown = Shown::start(&bob);
    let mut said = Vec::new();
    let say = async |text: String| {
        alice.run(&["send", GROUP, &text]).await;
        text
    };
    said.push(say("before".to_owned()).await);
    assert_eq!(shown.says().await, "before");
    assert!(streams(&stack).await >= 1.0, "it is followed on a stream");
    for service in [Service::Relay, Service::Gateway, Service::Ds] {
        let name = service.name();
        let before = stack.kill(service);
        // On the way while nothing is there.
        said.push(say(format!("without {name}")).await);
        stack.restarted(service, before).await;
        said.push(say(format!("after {name}")).await);
        for text in &said[said.len() - 2..] {
            assert_eq!(&shown.says().await, text);
        }
    }
    // It is followed again, by itself.
    let began = Instant::now();
    while streams(&stack).await < 1.0 {
        assert!(began.elapsed() < Duration::from_secs(60), "no stream again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    said.push(say("at the end".to_owned()).await);
    assert_eq!(shown.says().await, "at the end");
    // Nothing twice: it forgets what it has printed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(shown);
    assert_eq!(bob.receive().await, []);
}

/// A client that looks at its events, and its messages as they come.
struct Looking {
    client: Client,
    events: Events,
}

impl Looking {
    fn new(client: Client) -> Self {
        let events = client.event_stream();
        Self { client, events }
    }

    async fn message(&mut self) -> (String, String) {
        loop {
            let next = within(60, "an event", self.events.next()).await;
            let stored = next.expect("an event");
            self.client
                .acknowledge(std::slice::from_ref(&stored))
                .expect("acknowledged");
            if let Event::Message { sender, text, .. } = stored.event {
                return (sender, text);
            }
        }
    }
}

/// Two members of a group in front of a liar; the second one looks.
async fn two(profile: Profile) -> (Stack, Liar, Client, Looking) {
    two_after(profile, |_| {}).await
}

/// The same, after something was done to the liar.
async fn two_after(profile: Profile, first: impl FnOnce(&Liar)) -> (Stack, Liar, Client, Looking) {
    let (stack, liar) = Stack::start_with_liar_and(LogLevel::Error, MUCH).await;
    let alice = device(&stack, 0, ALICE).await;
    let options = Options {
        profile,
        ..patient()
    };
    let bob = device_with(&stack, 1, BOB, options).await;
    group_with(GROUP, &alice, &[&bob]).await;
    bob.bring_to_front(GROUP).await.expect("in front");
    let seen = bob.events().expect("events");
    bob.acknowledge(&seen).expect("acknowledged");
    first(&liar);
    (stack, liar, alice, Looking::new(bob))
}

fn asked_for(liar: &Liar, operation: Operation) -> usize {
    let asked = liar.asked();
    let operations = asked.iter().filter_map(|asked| asked.request());
    operations.filter(|(of, _)| *of == operation).count()
}

/// Waits until a stream goes on.
async fn is_followed(liar: &Liar) {
    are_followed(liar, 1).await;
}

/// Waits until so many streams go on.
async fn are_followed(liar: &Liar, streams: usize) {
    let (began, mut begun) = (Instant::now(), 0);
    while begun < streams {
        assert!(began.elapsed() < Duration::from_secs(30), "no stream");
        tokio::time::sleep(Duration::from_millis(100)).await;
        begun += asked_for(liar, Operation::FollowJournal);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Reads of a segment since the last look.
fn reads_of(liar: &Liar, segment: SegmentId) -> usize {
    let asked = liar.asked();
    let reads = asked.iter().filter_map(|asked| asked.request());
    let of_segment = reads.filter(|(operation, body)| {
        let read = ReadJournalRequest::decode(body);
        *operation == Operation::ReadJournal && read.is_ok_and(|it| it.segment == segment)
    });
    of_segment.count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_at_a_group_writes_and_reads_there_without_a_read_in_either_profile() {
    const MESSAGES: usize = 6;
    for profile in [Profile::Live, Profile::Even] {
        let (_stack, liar, alice, mut bob) = two(profile).await;
        let segment = bob.client.group_access(GROUP).expect("a group").segment;
        let alice = Looking::new(alice);
        are_followed(&liar, 2).await;
        // Once in each process a writer reads before it encrypts.
        alice
            .client
            .send_message(GROUP, "first")
            .await
            .expect("sent");
        assert_eq!(bob.message().await, (ALICE.to_owned(), "first".to_owned()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        reads_of(&liar, segment);
        for number in 0..MESSAGES {
            let text = format!("number {number}");
            let began = Instant::now();
            let sent = alice.client.send_message(GROUP, &text).await;
            sent.expect("sent");
            assert_eq!(bob.message().await, (ALICE.to_owned(), text));
            // Longer than others are not read, and than what was asked for is taken for news.
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(reads_of(&liar, segment), 0, "{profile:?}");
        let Looking { client, events } = bob;
        drop(events);
        for number in 0..MESSAGES {
            let text = format!("unseen {number}");
            let sent = alice.client.send_message(GROUP, &text).await;
            sent.expect("sent");
        }
        assert_eq!(reads_of(&liar, segment), 0, "{profile:?}");
        // Whatever a stream has told before.
        client.sync(0).await.expect("synced");
        let seen = client.events().expect("events");
        let texts = seen.into_iter().filter_map(|stored| match stored.event {
            Event::Message { text, .. } => Some(text),
            _ => None,
        });
        let unseen = (0..MESSAGES).map(|number| format!("unseen {number}"));
        assert!(texts.eq(unseen), "{profile:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gets_no_stream_reads_and_does_not_ask_in_a_circle() {
    let refused = |liar: &Liar| {
        liar.instead(
            Operation::FollowJournal,
            Told {
                status: http::StatusCode::SERVICE_UNAVAILABLE,
                headers: http::HeaderMap::new(),
                body: Vec::new(),
            },
        );
    };
    let (_stack, liar, alice, mut bob) = two_after(Profile::Live, refused).await;
    let began = Instant::now();
    for number in 0..5 {
        let text = format!("number {number}");
        alice.send_message(GROUP, &text).await.expect("sent");
        assert_eq!(bob.message().await, (ALICE.to_owned(), text));
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let asked = asked_for(&liar, Operation::FollowJournal);
    // In half of 4 s at the earliest, then of 8 s, 16 s, …
    assert!((2..=5).contains(&asked), "{asked} in {:?}", began.elapsed());
}

type Lie =
    fn(SegmentId, FollowedStretch, &mut Vec<(SegmentId, FollowedStretch)>) -> Vec<FollowedStretch>;

fn changed(entry: &Entry) -> Entry {
    let change = |row: &[u8]| {
        let mut row = row.to_vec();
        if let Some(last) = row.last_mut() {
            *last ^= 1;
        }
        opaque(row)
    };
    match entry {
        Entry::Handshake(row) => Entry::Handshake(change(row.as_slice())),
        Entry::Message(row) => Entry::Message(change(row.as_slice())),
        Entry::Expired(hash) => Entry::Expired(*hash),
    }
}

/// What a service can say on a stream instead of the truth, once something is said.
const LIES: [(&str, Lie); 9] = [
    ("an entry is changed", |_, mut it, _| {
        it.entries = it.entries.iter().map(changed).collect();
        vec![it]
    }),
    ("everything is told twice", |_, it, _| vec![it.clone(), it]),
    ("what was told before is told again", |segment, it, told| {
        told.push((segment, it.clone()));
        told.iter().map(|(_, stretch)| stretch.clone()).collect()
    }),
    ("an entry is left out", |_, mut it, _| {
        it.entries.clear();
        vec![it]
    }),
    ("a position is skipped", |_, mut it, _| {
        it.first = it.first.next();
        vec![it]
    }),
    ("a position comes again", |_, mut it, _| {
        it.first = Position(it.first.0.saturating_sub(1));
        vec![it]
    }),
    ("an end that nobody has signed", |_, mut it, _| {
        it.head.next = it.head.next.next();
        vec![it]
    }),
    ("another chain", |_, mut it, _| {
        it.head.chain = ChainHead([7; 32]);
        vec![it]
    }),
    ("nothing at all", |_, _, _| Vec::new()),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_on_a_stream_tells_anything_false_or_loses_or_repeats_anything() {
    let mut running = Vec::new();
    for (lie, tell) in LIES {
        let (stack, liar, alice, mut bob) = two(Profile::Live).await;
        is_followed(&liar).await;
        let mut told = Vec::new();
        let lied: Arc<AtomicUsize> = Arc::default();
        let lies = Arc::clone(&lied);
        liar.lies_on_streams(move |segment, stretch| {
            if stretch.entries.is_empty() {
                // A stream that is silent is stalled.
                return match lie {
                    "nothing at all" => Vec::new(),
                    _ => vec![stretch],
                };
            }
            lies.fetch_add(1, Ordering::SeqCst);
            tell(segment, stretch, &mut told)
        });
        let mut fell = Vec::new();
        for number in 0..3 {
            let text = format!("{lie}: {number}");
            alice.send_message(GROUP, &text).await.expect("sent");
            let message = tokio::time::timeout(Duration::from_secs(60), bob.message()).await;
            match message {
                Ok(message) if message == (ALICE.to_owned(), text.clone()) => {}
                other => fell.push(format!("{text}: {other:?}")),
            }
        }
        if let Some(why) = bob.client.stop_reason(GROUP).expect("a group") {
            fell.push(format!("{lie}: stopped: {why:?}"));
        }
        liar.repent();
        bob.client.sync(0).await.expect("synced");
        let left = bob.client.events().expect("events");
        if left
            .iter()
            .any(|stored| matches!(stored.event, Event::Message { .. }))
        {
            fell.push(format!("{lie}: twice: {left:?}"));
        }
        if lied.load(Ordering::SeqCst) == 0 {
            fell.push(format!("{lie}: nothing was told"));
        }
        running.extend(fell);
        drop((bob, stack));
    }
    assert!(running.is_empty(), "{}", running.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_of_another_segment_is_not_taken_for_the_groups_own() {
    const OTHER: &str = "camp";
    let (stack, liar, alice, mut bob) = two(Profile::Live).await;
    let carol = device(&stack, 2, CAROL).await;
    befriend(&alice, &carol).await;
    alice.create_group(OTHER).await.expect("made");
    let added = alice.add_to_group(OTHER, &[CAROL, BOB]).await;
    added.expect("added");
    settle(&[&alice, &carol, &bob.client]).await;
    let seen = carol.events().expect("events");
    carol.acknowledge(&seen).expect("acknowledged");
    bob.client.bring_to_front(GROUP).await.expect("in front");
    let mut carols = Looking::new(carol);
    carols.client.bring_to_front(OTHER).await.expect("in front");
    is_followed(&liar).await;
    let own = bob.client.group_access(GROUP).expect("a group").segment;
    let other = bob.client.group_access(OTHER).expect("a group").segment;
    let heard: Arc<Mutex<Vec<FollowedStretch>>> = Arc::default();
    let swapped: Arc<AtomicUsize> = Arc::default();
    let (hears, swaps) = (Arc::clone(&heard), Arc::clone(&swapped));
    liar.lies_on_streams(move |segment, stretch| {
        let mut heard = hears.lock().expect("not poisoned");
        if segment == other && !stretch.entries.is_empty() {
            heard.push(stretch.clone());
        }
        if segment == own && !stretch.entries.is_empty() && !heard.is_empty() {
            swaps.fetch_add(1, Ordering::SeqCst);
            return heard.clone();
        }
        vec![stretch]
    });
    alice
        .send_message(OTHER, "to the camp")
        .await
        .expect("sent");
    assert_eq!(carols.message().await.1, "to the camp");
    alice.send_message(GROUP, "to both").await.expect("sent");
    let mut said = vec![bob.message().await.1, bob.message().await.1];
    said.sort();
    assert_eq!(said, ["to both", "to the camp"]);
    assert_eq!(bob.client.stop_reason(GROUP).expect("a group"), None);
    assert!(swapped.load(Ordering::SeqCst) > 0, "it was told so");
}
