//! The activity feed of real processes, as the relay shows it in the open.

#![allow(clippy::disallowed_methods, reason = "how long it really takes")]

use std::time::{Duration, Instant};

use client::{Client, Event, Options, Profile};
use crypto::feed::{check, tick_hash};
use crypto::schedule::TagKey;
use end_to_end::{
    LogLevel, Service, Stack, database, device, device_with, group_with, messages, now_ms, patient,
};
use protocol::Wire as _;
use protocol::feed::{FeedPointer, Resolution, TICK_MEDIA_TYPE, Tick};
use protocol::ids::{Day, TickNumber};
use tokio::time::sleep;

const GROUP: &str = "harbour festival";
const FINE: Resolution = Resolution::Seconds2;

/// Somebody who knows the tag keys of a client, and looks for them at the relay.
struct Reader {
    http: reqwest::Client,
    base: String,
    keys: Vec<(Day, TagKey)>,
}

impl Reader {
    fn new(stack: &Stack, handle: &str) -> Self {
        let kept = database(&stack.home(handle));
        let mut rows = kept
            .prepare(
                "SELECT tag_day, tag_key FROM segments JOIN groups USING (group_id) WHERE name = ?",
            )
            .unwrap();
        let keys = rows
            .query_map([GROUP], |row| Ok((row.get::<_, u32>(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .map(|(day, key): (u32, [u8; 32])| (Day(day), TagKey::new(key)))
            .collect();
        let address = stack.ports().of(Service::Relay);
        Self {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            base: format!("http://{address}/feed"),
            keys,
        }
    }

    async fn get(&self, path: &str) -> Option<reqwest::Response> {
        let answer = self.http.get(format!("{}/{path}", self.base)).send().await;
        answer.ok().filter(|answer| answer.status() == 200)
    }

    /// The last tick, as soon as there is one.
    async fn last(&self) -> u64 {
        for _ in 0..100 {
            let pointer = self.get("latest").await.unwrap();
            let pointer = pointer.bytes().await.unwrap();
            let pointer: FeedPointer = serde_json::from_slice(&pointer).unwrap();
            if let Some(last) = pointer.ticks.first() {
                return last.number;
            }
            sleep(Duration::from_millis(200)).await;
        }
        panic!("there is no tick");
    }

    async fn tick(&self, number: u64) -> Option<Tick> {
        let answer = self.get(&format!("2/{number}")).await?;
        Some(Tick::decode(&answer.bytes().await.unwrap()).unwrap())
    }

    /// Whether a tick names the group; none while there is no such tick.
    async fn names(&self, number: u64) -> Option<bool> {
        let answer = self.get(&format!("2/{number}")).await?;
        assert_eq!(answer.headers()["content-type"], TICK_MEDIA_TYPE);
        assert_eq!(
            answer.headers()["cache-control"],
            "public, max-age=31536000, immutable"
        );
        let tick = Tick::decode(&answer.bytes().await.unwrap()).unwrap();
        let tags = protocol::feed::TagSet::decode(tick.count, tick.coded.as_slice()).unwrap();
        let number = TickNumber(number);
        let day = FINE.day_of(number);
        Some(self.keys.iter().any(|(of, key)| {
            let key = TagKey::new(*key.expose()).ahead(day.0.saturating_sub(of.0));
            tags.contains(key.feed_key().tag(FINE, number))
        }))
    }

    /// The first tick from this one on that names the group, within half a minute.
    async fn first_from(&self, number: u64) -> u64 {
        let begun = Instant::now();
        let mut next = number;
        let mut missing = 0;
        while begun.elapsed() < Duration::from_secs(30) {
            match self.names(next).await {
                Some(true) => return next,
                Some(false) => (next, missing) = (next + 1, 0),
                None => {
                    // Ticks in which no service ran are not made.
                    missing += 1;
                    if missing > 20 && self.last().await > next {
                        (next, missing) = (next + 1, 0);
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        panic!("no tick names the group");
    }
}

/// Of a client that follows the feed, in the finest resolution.
fn following() -> Options {
    Options {
        feed_bytes: Some(1 << 30),
        profile: Profile::LowData,
        ..patient()
    }
}

async fn pair(stack: &Stack) -> [Client; 2] {
    let alice = device(stack, 0, "alice").await;
    let bob = device_with(stack, 1, "bob", following()).await;
    group_with(GROUP, &alice, &[&bob]).await;
    [alice, bob]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_before_a_kill_is_announced_after_the_start() {
    let stack = Stack::start(LogLevel::Error).await;
    let [alice, _bob] = pair(&stack).await;
    let reader = Reader::new(&stack, "bob");
    // There is one to go on from.
    reader.last().await;
    for text in ["one", "two", "three"] {
        let before = FINE.tick_at(now_ms()).0;
        alice.send_message(GROUP, text).await.unwrap();
        let killed = stack.kill(Service::Ds);
        stack.restarted(Service::Ds, killed).await;
        let named = reader.first_from(before).await;
        // And the chain is whole.
        let tick = reader.tick(named).await.unwrap();
        let mut before = None;
        for number in (named - 30..named).rev() {
            before = reader.tick(number).await;
            if before.is_some() {
                break;
            }
        }
        assert_eq!(tick.previous, tick_hash(&before.unwrap()));
        sleep(Duration::from_secs(2)).await;
    }
}

/// Not of a second on top of the tick, which a quiet machine keeps (`docs/performance.md`): others
/// compute on this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_is_at_the_relay_soon_after_the_end_of_its_tick() {
    let stack = Stack::start(LogLevel::Error).await;
    let [alice, _bob] = pair(&stack).await;
    let reader = Reader::new(&stack, "bob");
    let mut delays = Vec::new();
    for number in 0..15u64 {
        sleep(Duration::from_millis(137 * (number % 7))).await;
        let before = FINE.tick_at(now_ms()).0;
        alice.send_message(GROUP, "hello").await.unwrap();
        let accepted = Instant::now();
        let tick = reader.first_from(before).await;
        delays.push(accepted.elapsed());
        // Of the time of the append, or of the next one.
        assert!(tick <= FINE.tick_at(now_ms()).0);
        while FINE.tick_at(now_ms()).0 <= tick + 1 {
            sleep(Duration::from_millis(50)).await;
        }
    }
    delays.sort_unstable();
    println!("from accept to news, ms: {delays:?}");
    assert!(
        delays[delays.len() - 1] < Duration::from_secs(8),
        "{delays:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_elsewhere_follows_the_feed_and_hears_of_a_group_by_it() {
    let stack = Stack::start(LogLevel::Error).await;
    let [alice, bob] = pair(&stack).await;
    let carol = device(&stack, 2, "carol").await;
    group_with("elsewhere", &bob, &[&carol]).await;
    messages(&bob).await;
    // There is one to go on from. A client that finds none tries again after 30 to 90 seconds.
    Reader::new(&stack, "carol").last().await;
    // In front from now on.
    bob.send_message("elsewhere", "first").await.unwrap();
    let mut events = bob.event_stream();
    let follows = || {
        let number = "SELECT number FROM feed";
        database(&stack.home("bob")).query_row(number, (), |row| row.get::<_, u64>(0))
    };
    let begun = Instant::now();
    while follows().is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "no feed is followed"
        );
        sleep(Duration::from_millis(200)).await;
    }
    sleep(Duration::from_secs(5)).await;
    for text in ["one", "two", "three"] {
        alice.send_message(GROUP, text).await.unwrap();
        let sent = Instant::now();
        let heard = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                if let Event::Message { text: heard, .. } = events.next().await.unwrap().event
                    && heard == text
                {
                    return;
                }
            }
        });
        heard.await.expect("heard");
        println!("heard after {:?}", sent.elapsed());
    }
    assert!(follows().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_gateway_and_issuer_show_the_same_ticks_and_the_service_signs_them() {
    let stack = Stack::start(LogLevel::Error).await;
    let [_alice, _bob] = pair(&stack).await;
    let reader = Reader::new(&stack, "bob");
    let last = reader.last().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut shown = Vec::new();
    for service in [Service::Relay, Service::Gateway, Service::Issuer] {
        let url = format!("http://{}/feed/2/{last}", stack.ports().of(service));
        let answer = http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", service.name());
        shown.push(answer.bytes().await.unwrap());
    }
    assert!(shown.iter().all(|bytes| *bytes == shown[0]));
    let directory = http
        .get(format!(
            "http://{}/service-directory",
            stack.ports().of(Service::Relay)
        ))
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let directory: serde_json::Value = serde_json::from_slice(&directory).unwrap();
    use base64::Engine as _;
    let key = base64::engine::general_purpose::URL_SAFE
        .decode(directory["journal_signing_key"].as_str().unwrap())
        .unwrap();
    check(&key, &Tick::decode(&shown[0]).unwrap()).unwrap();
}
