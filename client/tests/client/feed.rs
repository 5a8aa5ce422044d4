//! Following the activity feed: what it saves, and what nobody achieves with it who shows it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mimimi_client::Client;
use mimimi_client::in_process::FeedView;
use protocol::feed::Resolution;
use protocol::operation::Operation as Number;

use crate::support::{Homes, database, settle, team, texts};

/// Lets a tick go by, and has clients look for news as they do while somebody waits for events.
async fn next_tick(homes: &Homes, clients: &[(&Client, &str)]) {
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

fn place(homes: &Homes, name: &str) -> Option<u64> {
    let number = "SELECT number FROM feed";
    database(homes, name)
        .query_row(number, (), |row| row.get(0))
        .ok()
}

/// Carol, who follows the feed; with Alice and Bob she is in a group, and her own device's group
/// and connections beside that.
async fn scene(seed: u64) -> (Homes, [Client; 3]) {
    let homes = Homes::new(seed);
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
async fn a_service_that_leaves_a_group_out_only_delays_its_news_until_the_next_look() {
    let (homes, [alice, _bob, carol]) = scene(2).await;
    homes.service.forget_notes(true);
    alice.send_message("team", "hidden").await.unwrap();
    next_tick(&homes, &[(&carol, "carol")]).await;
    assert_eq!(texts(&carol, "team"), [""; 0]);
    homes.service.clock.advance(Duration::from_secs(6 * 3_600));
    for _ in 0..3 {
        next_tick(&homes, &[(&carol, "carol")]).await;
    }
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
    let forks = || -> usize {
        database(&homes, "carol")
            .query_row("SELECT count(*) FROM feed_forks", (), |row| row.get(0))
            .unwrap()
    };
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
    assert_eq!(place(&homes, "carol"), None);
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
    let keys = |name: &str| -> Vec<[u8; 32]> {
        let database = database(&homes, name);
        let mut keys = database.prepare("SELECT tag_key FROM segments").unwrap();
        let keys = keys.query_map((), |row| row.get(0)).unwrap();
        keys.map(Result::unwrap).collect()
    };
    let found = |name: &str| {
        keys(name).into_iter().any(|key| {
            let key = crypto::schedule::TagKey::new(key).feed_key();
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
    next_tick(&homes, &[(&alice, "alice"), (&carol, "carol")]).await;
    next_tick(&homes, &[(&alice, "alice"), (&carol, "carol")]).await;
    let asked = homes.service.feed_asked();
    assert!(!asked.is_empty());
    let now = homes.service.clock.0.load(Ordering::Relaxed) / 2_000;
    for path in asked {
        let is_tick = path.strip_prefix("2/").is_some_and(|number| {
            let number: u64 = number.parse().unwrap();
            (now - 20..=now + 1).contains(&number)
        });
        assert!(path == "latest" || is_tick, "{path}");
    }
}
