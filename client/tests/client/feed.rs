//! Following the activity feed: what it saves, and what nobody achieves with it who shows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crypto::schedule::{JournalKey, TagKey};
use mimimi_client::in_process::FeedView;
use mimimi_client::{Client, Clock};
use protocol::feed::Resolution;
use protocol::operation::Operation as Number;

use crate::support::{Homes, TestClock, befriend, database, settle, team, texts};

/// Lets a tick go by, and has clients look for news as they do while somebody waits for events.
pub(crate) async fn next_tick(homes: &Homes, clients: &[(&Client, &str)]) {
    homes.service.clock.advance(Duration::from_secs(2));
    homes.service.make_ticks();
    let last = homes.service.clock.0.load(Ordering::Relaxed) / 2_000 - 1;
    for (client, name) in clients {
        for _ in 0..8 {
            client.sync(2_000).await.unwrap();
            if place(homes, name).is_none_or(|number| number >= last) {
                break;
            }
        }
    }
}

pub(crate) fn place(homes: &Homes, name: &str) -> Option<u64> {
    let number = "SELECT number FROM feed";
    database(homes, name)
        .query_row(number, (), |row| row.get(0))
        .ok()
}

/// Carol, who follows the feed; with Alice and Bob she is in a group, and her own device's group
/// and connections beside that.
async fn scene(seed: u64) -> (Homes, [Client; 3]) {
    let mut homes = Homes::new(seed);
    homes.feed_bytes = Some(1 << 30);
    let clients = team(&homes).await;
    // Where she waits.
    clients[2].create_group("elsewhere").await.unwrap();
    clients[2].send_message("elsewhere", "note").await.unwrap();
    homes.service.show_feed();
    next_tick(&homes, &[(&clients[2], "carol")]).await;
    // What is read when following begins.
    next_tick(&homes, &[(&clients[2], "carol")]).await;
    assert!(place(&homes, "carol").is_some());
    (homes, clients)
}

/// How many proofs a client has kept that the service shows two feeds.
pub(crate) fn proofs(homes: &Homes, name: &str) -> usize {
    let database = database(homes, name);
    let mut rows = database
        .prepare("SELECT one, other FROM feed_forks")
        .unwrap();
    let rows = rows.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
    let proofs = rows.unwrap().map(|proof| {
        let (one, other): (Vec<u8>, Vec<u8>) = proof.unwrap();
        homes.service.is_proof(&one, &other)
    });
    let proofs: Vec<bool> = proofs.collect();
    assert!(proofs.iter().all(|proves| *proves));
    proofs.len()
}

fn reads(homes: &Homes) -> usize {
    homes.service.count(Number::ReadJournal)
}

#[tokio::test]
async fn a_group_is_read_when_the_feed_names_it_and_others_are_not() {
    let (homes, [alice, _bob, carol]) = scene(1).await;
    let before = reads(&homes);
    next_tick(&homes, &[(&carol, "carol")]).await;
    let idle = reads(&homes) - before;
    alice.send_message("team", "hello").await.unwrap();
    let before = reads(&homes);
    next_tick(&homes, &[(&carol, "carol")]).await;
    assert_eq!(texts(&carol, "team"), ["hello"]);
    let named = reads(&homes) - before;
    assert!(named <= idle + 2, "{named} reads after {idle}");
    // She is in more groups than she has read.
    let groups: usize = database(&homes, "carol")
        .query_row(
            "SELECT count(*) FROM groups WHERE status = 'active'",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert!(idle < groups, "{idle} reads of {groups} groups");
}

#[tokio::test]
async fn a_service_that_leaves_a_group_out_only_delays_its_news_until_the_next_day_of_calls() {
    let (homes, [alice, _bob, carol]) = scene(2).await;
    homes.service.forget_notes(true);
    alice.send_message("team", "hidden").await.unwrap();
    for _ in 0..2 {
        next_tick(&homes, &[(&carol, "carol")]).await;
        assert_eq!(texts(&carol, "team"), [""; 0]);
    }
    // It was another day when she read, and ticks go on coming: it is not for the feed's end.
    database(&homes, "carol")
        .execute("UPDATE groups SET read_day = read_day - 1", [])
        .unwrap();
    next_tick(&homes, &[(&carol, "carol")]).await;
    assert!(place(&homes, "carol").is_some());
    assert_eq!(texts(&carol, "team"), ["hidden"]);
}

#[tokio::test]
async fn a_relay_that_alters_a_tick_has_it_ignored_and_all_groups_polled() {
    let (homes, [alice, _bob, carol]) = scene(3).await;
    homes
        .service
        .alter_feed(Some(Box::new(|view, path, mut bytes| {
            if view == FeedView::Relay && path != "latest" {
                let last = bytes.len() - 80;
                bytes[last] ^= 1;
            }
            bytes
        })));
    alice.send_message("team", "hello").await.unwrap();
    next_tick(&homes, &[(&carol, "carol")]).await;
    next_tick(&homes, &[(&carol, "carol")]).await;
    assert_eq!(place(&homes, "carol"), None);
    assert_eq!(texts(&carol, "team"), ["hello"]);
}

#[tokio::test]
async fn a_service_that_shows_one_relay_another_feed_is_found_out_and_not_followed() {
    let (homes, [alice, _bob, carol]) = scene(4).await;
    // Signed as the others are, and the chain goes on.
    homes.service.fork_feed();
    for _ in 0..3 {
        next_tick(&homes, &[(&carol, "carol")]).await;
    }
    let forks = || proofs(&homes, "carol");
    assert_eq!((forks(), place(&homes, "carol")), (1, None));
    assert!(carol.disagreement().await.unwrap().is_some());
    // Nor ever again, and nothing is missed.
    alice.send_message("team", "hello").await.unwrap();
    homes.service.clock.advance(Duration::from_secs(600));
    for _ in 0..3 {
        next_tick(&homes, &[(&carol, "carol")]).await;
    }
    assert_eq!((forks(), place(&homes, "carol")), (1, None));
    assert_eq!(texts(&carol, "team"), ["hello"]);
}

#[tokio::test]
async fn ticks_that_do_not_go_on_from_each_other_are_proof_and_not_acted_on() {
    let (homes, [alice, _bob, carol]) = scene(5).await;
    alice.send_message("team", "hello").await.unwrap();
    // One tick of another feed, shown to her alone.
    homes.service.fork_feed_at_relay_once();
    next_tick(&homes, &[(&carol, "carol")]).await;
    next_tick(&homes, &[(&carol, "carol")]).await;
    next_tick(&homes, &[(&carol, "carol")]).await;
    assert_eq!((proofs(&homes, "carol"), place(&homes, "carol")), (1, None));
    assert_eq!(texts(&carol, "team"), ["hello"]);
}

#[tokio::test]
async fn a_feed_that_stops_is_left_and_taken_up_again() {
    let (homes, [alice, _bob, carol]) = scene(6).await;
    homes.service.stop_feed(true);
    alice.send_message("team", "one").await.unwrap();
    // Longer than a tick can be late: that is judged by time that passes.
    for _ in 0..20 {
        carol.sync(1_000).await.unwrap();
    }
    assert_eq!(place(&homes, "carol"), None);
    assert_eq!(texts(&carol, "team"), ["one"]);
    homes.service.stop_feed(false);
    homes.service.clock.advance(Duration::from_secs(120));
    next_tick(&homes, &[(&carol, "carol")]).await;
    assert!(place(&homes, "carol").is_some());
}

#[tokio::test]
async fn what_a_device_that_is_seized_holds_finds_no_activity_of_former_days() {
    let (homes, [alice, bob, carol]) = scene(7).await;
    alice.send_message("team", "hello").await.unwrap();
    next_tick(&homes, &[(&carol, "carol")]).await;
    let number = place(&homes, "carol").unwrap();
    let archived = homes.service.tick(Resolution::Seconds2, number);
    // Members have come in since the segments began: first tag keys do not follow from what is
    // kept.
    let keys = |name: &str| -> Vec<TagKey> {
        let database = database(&homes, name);
        let mut keys = database
            .prepare("SELECT tag_key, journal_key FROM segments WHERE step > 0")
            .unwrap();
        let keys = keys.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
        keys.unwrap()
            .map(Result::unwrap)
            .flat_map(|(tag, journal)| {
                let first = move || JournalKey::new(journal).tag_key();
                let all = (0..60).map(move |days| first().ahead(days));
                all.chain([TagKey::new(tag)])
            })
            .collect()
    };
    let found = |name: &str| {
        keys(name).into_iter().any(|key| {
            let key = key.feed_key();
            archived.contains(key.tag(Resolution::Seconds2, protocol::ids::TickNumber(number)))
        })
    };
    assert!(found("carol"));
    // Nothing is said in the group any more, and she looks at it no more than before.
    homes.service.clock.advance(Duration::from_secs(86_400));
    next_tick(&homes, &[(&carol, "carol")]).await;
    next_tick(&homes, &[(&carol, "carol")]).await;
    assert!(!found("carol"));
    settle(&[&bob]).await;
    homes.service.clock.advance(Duration::from_secs(86_400));
    settle(&[&bob]).await;
    assert!(!found("bob"));
}

#[tokio::test]
async fn everybody_asks_for_the_same_and_for_nothing_that_is_their_own() {
    let (homes, [alice, _bob, carol]) = scene(8).await;
    for _ in 0..3 {
        next_tick(&homes, &[(&alice, "alice"), (&carol, "carol")]).await;
    }
    homes.service.feed_asked();
    homes.service.clock.advance(Duration::from_secs(2));
    homes.service.make_ticks();
    // In different groups. How often a tick is asked for that is not there depends on the moment.
    let mut lists = Vec::new();
    for (client, name) in [(&alice, "alice"), (&carol, "carol")] {
        let last = homes.service.clock.0.load(Ordering::Relaxed) / 2_000 - 1;
        for _ in 0..8 {
            client.sync(2_000).await.unwrap();
            if place(&homes, name).is_some_and(|number| number >= last) {
                break;
            }
        }
        let mut asked = homes.service.feed_asked();
        asked.dedup();
        asked.retain(|path| *path <= format!("2/{last}"));
        lists.push(asked);
    }
    assert!(!lists[0].is_empty());
    assert_eq!(lists[0], lists[1]);
    let asked = lists.concat();
    let now = homes.service.clock.0.load(Ordering::Relaxed) / 2_000;
    for path in asked {
        let is_tick = path.strip_prefix("2/").is_some_and(|number| {
            let number: u64 = number.parse().unwrap();
            (now - 20..=now + 1).contains(&number)
        });
        assert!(path == "latest" || is_tick, "{path}");
    }
}

/// A clock that is two minutes behind.
struct Behind(TestClock);

impl Clock for Behind {
    fn now_unix_ms(&self) -> u64 {
        self.0.now_unix_ms() - 120_000
    }
}

#[tokio::test]
async fn a_client_whose_clock_is_behind_over_midnight_has_the_tag_keys_that_others_have() {
    const DAY_MS: u64 = 86_400_000;
    let homes = Homes::new(9);
    let options = mimimi_client::Options {
        clock: Arc::new(Behind(homes.service.clock.clone())),
        ..homes.options()
    };
    let late = homes.client_with("late", options).await;
    late.register_handle("late").await.unwrap();
    let right = homes.user("right").await;
    befriend(&right, &late).await;
    settle(&[&right, &late]).await;
    // At half a minute past midnight.
    let now_ms = homes.service.clock.0.load(Ordering::Relaxed);
    let left_ms = DAY_MS - now_ms % DAY_MS + 30_000;
    homes.service.clock.advance(Duration::from_millis(left_ms));
    late.create_group("made").await.unwrap();
    late.add_to_group("made", &["right"]).await.unwrap();
    right.create_group("joined").await.unwrap();
    right.add_to_group("joined", &["late"]).await.unwrap();
    settle(&[&right, &late]).await;
    let keys = |name: &str| -> BTreeMap<Vec<u8>, (u32, [u8; 32])> {
        let database = database(&homes, name);
        let mut rows = database
            .prepare("SELECT segment_id, tag_day, tag_key FROM segments WHERE tag_day > 0")
            .unwrap();
        rows.query_map((), |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    };
    let agree = || {
        let (right, late) = (keys("right"), keys("late"));
        let shared = right.iter().filter_map(|(segment, (day, key))| {
            let (other_day, other) = late.get(segment)?;
            let last = *day.max(other_day);
            let at = |day: u32, key: &[u8; 32]| *TagKey::new(*key).ahead(last - day).expose();
            Some(at(*day, key) == at(*other_day, other))
        });
        let shared: Vec<bool> = shared.collect();
        (shared.len(), shared.into_iter().all(|it| it))
    };
    let (shared, all) = agree();
    assert!(shared >= 2 && all, "of {shared} segments");
    // And where a segment begins with a removal.
    let third = homes.user("third").await;
    befriend(&right, &third).await;
    settle(&[&right, &third]).await;
    right.add_to_group("joined", &["third"]).await.unwrap();
    settle(&[&right, &late, &third]).await;
    let before = keys("late");
    right.remove_from_group("joined", &["third"]).await.unwrap();
    settle(&[&right, &late]).await;
    assert!(keys("late").keys().any(|it| !before.contains_key(it)));
    let (shared, all) = agree();
    assert!(shared >= 2 && all, "of {shared} segments after a removal");
}
