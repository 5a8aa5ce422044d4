//! Coming back after hours and days: which groups have news is known by coarse ticks, whoever shows
//! them, and costs what it may.

#![allow(
    clippy::disallowed_methods,
    reason = "what goes on beside a call has its time"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mimimi_client::in_process::FeedView;
use mimimi_client::{Client, Options, Profile};

use crate::feed::{next_tick, place, proofs};
use crate::support::{Homes, database, settle, team, texts};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const GROUPS: usize = 12;

fn name(group: usize) -> String {
    match group {
        0 => "team".to_owned(),
        group => format!("group {group}"),
    }
}

fn now_ms(homes: &Homes) -> u64 {
    homes.service.clock.0.load(Ordering::Relaxed)
}

/// The service runs for so many seconds, and makes all ticks but some of the finest.
fn pass(homes: &Homes, seconds: u64) {
    let end_ms = now_ms(homes) + seconds * 1_000;
    while now_ms(homes) < end_ms {
        let left = (end_ms - now_ms(homes)) / 1_000;
        let step = match left {
            0..=1_200 => 2,
            1_201..=9_000 => 20,
            _ => 1_200,
        };
        homes.service.clock.advance(Duration::from_secs(step));
        homes.service.make_ticks();
    }
}

fn options(homes: &Homes, feed_bytes: u64) -> Options {
    Options {
        feed_bytes: Some(feed_bytes),
        ..homes.options()
    }
}

const ENOUGH: u64 = 1 << 30;

async fn open(homes: &Homes, feed_bytes: u64) -> Client {
    let options = options(homes, feed_bytes);
    Client::open(&homes.path("carol"), options).await.unwrap()
}

/// Carol is in 12 groups with Alice and has followed the feed until a minute past midnight. Then
/// she has closed.
async fn scene(seed: u64) -> (Homes, Client) {
    let mut homes = Homes::new(seed);
    homes.feed_bytes = Some(ENOUGH);
    let [alice, _bob, carol] = team(&homes).await;
    for group in 1..GROUPS {
        alice.create_group(&name(group)).await.unwrap();
        alice.add_to_group(&name(group), &["carol"]).await.unwrap();
        settle(&[&carol]).await;
    }
    // Where she waits.
    carol.create_group("elsewhere").await.unwrap();
    carol.send_message("elsewhere", "note").await.unwrap();
    settle(&[&alice, &carol]).await;
    homes.service.show_feed();
    pass(&homes, DAY - now_ms(&homes) / 1_000 % DAY + 60);
    for _ in 0..4 {
        next_tick(&homes, &[(&carol, "carol")]).await;
    }
    assert!(place(&homes, "carol").is_some());
    carol.close().await;
    // What is heard of from now on.
    let database = database(&homes, "carol");
    let log = "CREATE TABLE heard_of (name TEXT);
        CREATE TRIGGER named AFTER INSERT ON feed_groups WHEN NEW.place > 0 BEGIN
            INSERT INTO heard_of SELECT name FROM groups WHERE group_id = NEW.group_id; END;
        CREATE TRIGGER named_again AFTER UPDATE ON feed_groups WHEN OLD.place = 0 AND NEW.place > 0 BEGIN
            INSERT INTO heard_of SELECT name FROM groups WHERE group_id = NEW.group_id; END;
        CREATE TRIGGER all_may AFTER DELETE ON feed_groups BEGIN
            INSERT INTO heard_of VALUES ('all'); END;";
    database.execute_batch(log).unwrap();
    homes.service.feed_asked();
    (homes, alice)
}

/// The groups of which this client has heard that there is news; "all": of any there may be.
fn heard_of(homes: &Homes) -> BTreeSet<String> {
    let database = database(homes, "carol");
    let mut names = database.prepare("SELECT name FROM heard_of").unwrap();
    let names = names.query_map((), |row| row.get(0)).unwrap();
    names.map(Result::unwrap).collect()
}

fn some(groups: &[usize]) -> BTreeSet<String> {
    groups.iter().map(|group| name(*group)).collect()
}

/// Carol is away for so many seconds. Meanwhile Alice writes to some groups: early, later, and at
/// the end.
async fn absence(homes: &Homes, alice: &Client, seconds: u64, groups: &[usize; 3]) {
    let parts = [seconds * 3 / 10, seconds / 2, seconds / 5 - 30];
    for (group, seconds) in groups.iter().zip(parts) {
        pass(homes, seconds);
        alice.send_message(&name(*group), "hello").await.unwrap();
    }
    pass(homes, 30);
}

/// Until she follows the last tick again, or no feed at all.
async fn come_back(homes: &Homes, carol: &Client) {
    let resolution: u64 = 2;
    let last = now_ms(homes) / 1_000 / resolution - 1;
    for _ in 0..6 {
        carol.sync(1_000).await.unwrap();
        if place(homes, "carol").is_none_or(|number| number >= last) {
            return;
        }
    }
}

const WRITTEN: [usize; 3] = [3, 0, 8];

#[tokio::test]
async fn who_was_away_for_hours_or_days_hears_of_the_groups_that_were_written_to_and_of_no_other() {
    for (seed, away) in [(1, 8 * HOUR), (2, 3 * DAY), (3, 20 * DAY)] {
        let (homes, alice) = scene(seed).await;
        absence(&homes, &alice, away, &WRITTEN).await;
        let carol = open(&homes, ENOUGH).await;
        come_back(&homes, &carol).await;
        assert_eq!(heard_of(&homes), some(&WRITTEN), "{away}");
        for group in WRITTEN {
            assert_eq!(texts(&carol, &name(group)), ["hello"]);
        }
        let asked = homes.service.feed_asked();
        assert!(asked.len() < 200, "{}", asked.len());
        // She follows the finest ticks again.
        alice.send_message(&name(5), "and now").await.unwrap();
        next_tick(&homes, &[(&carol, "carol")]).await;
        assert_eq!(texts(&carol, &name(5)), ["and now"]);
        assert!(!heard_of(&homes).contains("all"));
        assert_eq!(proofs(&homes, "carol"), 0);
    }
}

#[tokio::test]
async fn after_more_days_than_ticks_are_shown_all_groups_are_read() {
    let (homes, alice) = scene(4).await;
    absence(&homes, &alice, 25 * DAY, &WRITTEN).await;
    homes.service.clock.advance(Duration::from_secs(11 * DAY));
    homes.service.make_ticks();
    let carol = open(&homes, ENOUGH).await;
    for _ in 0..3 {
        come_back(&homes, &carol).await;
        homes.service.clock.advance(Duration::from_secs(120));
        homes.service.make_ticks();
    }
    assert!(heard_of(&homes).contains("all"));
    for group in WRITTEN {
        assert_eq!(texts(&carol, &name(group)), ["hello"]);
    }
}

/// What somebody does who shows ticks.
enum Lie {
    Hides,
    Alters,
    /// Shows another one that the service has signed, of this number only if one is given.
    Forks,
}

/// A coarse tick that was missed is not shown as it is.
async fn lied_to(seed: u64, seconds: u64, is_last: bool, lie: Lie) {
    let (homes, alice) = scene(seed).await;
    absence(&homes, &alice, 8 * HOUR + 600, &WRITTEN).await;
    let last = now_ms(&homes) / 1_000 / seconds - 1;
    let path = format!("{seconds}/{}", last - u64::from(!is_last) * 3);
    let is_fork = matches!(lie, Lie::Forks);
    let is_it = move |view: FeedView, of: &str| view == FeedView::Relay && of == path;
    match lie {
        Lie::Hides => homes.service.hide_feed(Some(Box::new(is_it))),
        Lie::Alters => homes
            .service
            .alter_feed(Some(Box::new(move |view, of, mut bytes| {
                let last = bytes.len() - 70;
                bytes[last] ^= u8::from(is_it(view, of));
                bytes
            }))),
        Lie::Forks => {
            let service = Arc::clone(&homes.service);
            homes
                .service
                .alter_feed(Some(Box::new(move |view, of, bytes| {
                    match is_it(view, of) {
                        true => service.signed_otherwise(&bytes),
                        false => bytes,
                    }
                })));
        }
    }
    let carol = open(&homes, ENOUGH).await;
    for _ in 0..3 {
        come_back(&homes, &carol).await;
    }
    assert_eq!(proofs(&homes, "carol"), usize::from(is_fork));
    // Nothing that was found before counts, and all are read.
    let left: usize = database(&homes, "carol")
        .query_row(
            "SELECT count(*) FROM heard_of WHERE name != 'all'",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(left, 0);
    for group in WRITTEN {
        assert_eq!(texts(&carol, &name(group)), ["hello"]);
    }
    assert!(is_fork || heard_of(&homes).contains("all") || place(&homes, "carol").is_none());
}

#[tokio::test]
async fn a_coarse_tick_that_is_hidden_altered_or_forked_has_all_groups_read() {
    lied_to(5, 1_200, false, Lie::Hides).await;
    lied_to(6, 1_200, false, Lie::Alters).await;
    lied_to(7, 1_200, true, Lie::Alters).await;
    lied_to(8, 1_200, false, Lie::Forks).await;
    lied_to(9, 1_200, true, Lie::Forks).await;
    lied_to(10, 20, false, Lie::Hides).await;
}

#[tokio::test]
async fn what_is_fetched_after_an_absence_does_not_depend_on_what_is_in_it() {
    let mut lists = Vec::new();
    for written in [&WRITTEN[..], &[]] {
        let (homes, alice) = scene(11).await;
        for (part, seconds) in [HOUR, DAY, 2 * DAY].into_iter().enumerate() {
            pass(&homes, seconds);
            if let Some(group) = written.get(part) {
                alice.send_message(&name(*group), "hello").await.unwrap();
            }
        }
        pass(&homes, 30);
        let carol = open(&homes, ENOUGH).await;
        let last = now_ms(&homes) / 2_000 - 1;
        come_back(&homes, &carol).await;
        assert_eq!(place(&homes, "carol"), Some(last));
        assert_eq!(heard_of(&homes).len(), written.len());
        let mut asked = homes.service.feed_asked();
        // How often it is asked for a tick that is not there yet depends on the moment.
        asked.retain(|path| *path != format!("2/{}", last + 1));
        lists.push(asked);
    }
    assert!(lists[0].len() > 60);
    assert_eq!(lists[0], lists[1]);
}

#[tokio::test]
async fn an_absence_that_is_cut_off_while_it_is_caught_up_with_begins_anew() {
    let (homes, alice) = scene(12).await;
    absence(&homes, &alice, 8 * HOUR + 600, &WRITTEN).await;
    let before = place(&homes, "carol");
    // The second walk does not begin.
    homes.service.hide_feed(Some(Box::new(|view, path| {
        view == FeedView::Relay && path.starts_with("20/")
    })));
    let carol = open(&homes, ENOUGH).await;
    carol.sync(500).await.unwrap();
    let asked = homes.service.feed_asked();
    assert!(asked.iter().any(|path| path.starts_with("1200/")));
    carol.close().await;
    assert_eq!(place(&homes, "carol"), before);
    assert_eq!(heard_of(&homes), BTreeSet::new());
    homes.service.hide_feed(None);
    let carol = open(&homes, ENOUGH).await;
    come_back(&homes, &carol).await;
    assert_eq!(heard_of(&homes), some(&WRITTEN));
    assert!(place(&homes, "carol") > before);
}

#[tokio::test]
async fn tag_keys_of_former_days_stay_until_their_ticks_are_searched_and_no_longer() {
    let (homes, alice) = scene(13).await;
    absence(&homes, &alice, 3 * DAY + 3 * HOUR, &WRITTEN).await;
    let today = u32::try_from(now_ms(&homes) / 1_000 / DAY).unwrap();
    let days = || -> BTreeSet<u32> {
        let database = database(&homes, "carol");
        let mut days = database
            .prepare("SELECT tag_day FROM segments WHERE tag_day > 0")
            .unwrap();
        let days = days.query_map((), |row| row.get(0)).unwrap();
        days.map(Result::unwrap).collect()
    };
    assert_eq!(days(), [today - 3].into());
    let carol = open(&homes, ENOUGH).await;
    come_back(&homes, &carol).await;
    assert_eq!(heard_of(&homes), some(&WRITTEN));
    carol.sync(300).await.unwrap();
    assert_eq!(days(), [today].into());
    // Nor do they stay for who reads all groups and follows nothing.
    pass(&homes, 2 * DAY);
    carol.sync(0).await.unwrap();
    assert_eq!(days(), [today + 2].into());
}

fn resolution(homes: &Homes) -> Option<u64> {
    database(homes, "carol")
        .query_row("SELECT seconds FROM feed", (), |row| row.get(0))
        .ok()
}

/// Sets what is left to pay with.
fn purse_has(homes: &Homes, left: u64) {
    database(homes, "carol")
        .execute(
            "INSERT INTO feed_purse (only, left, at_ms) VALUES (0, ?1, ?2)
             ON CONFLICT (only) DO UPDATE SET left = ?1, at_ms = ?2",
            [left, now_ms(homes)],
        )
        .unwrap();
}

#[tokio::test]
async fn a_smaller_budget_holds_at_once_and_costs_no_second_reading_of_all_groups() {
    let (homes, alice) = scene(14).await;
    absence(&homes, &alice, HOUR, &WRITTEN).await;
    let left = |homes: &Homes| -> u64 {
        database(homes, "carol")
            .query_row("SELECT left FROM feed_purse", (), |row| row.get(0))
            .unwrap()
    };
    purse_has(&homes, 200 << 20);
    assert_eq!(resolution(&homes), Some(2));
    // 20 seconds fit, and a week of it is less than what was left.
    const LESS: u64 = 100 << 20;
    let carol = open(&homes, LESS).await;
    let last = now_ms(&homes) / 20_000 - 1;
    for _ in 0..6 {
        carol.sync(1_000).await.unwrap();
        if place(&homes, "carol") == Some(last) {
            break;
        }
    }
    assert_eq!(resolution(&homes), Some(20));
    assert!(left(&homes) < LESS / 4, "{}", left(&homes));
    let asked = homes.service.feed_asked();
    assert!(!asked.is_empty() && !asked.iter().any(|path| path.starts_with("2/")));
    assert_eq!(heard_of(&homes), some(&WRITTEN));
}

#[tokio::test]
async fn a_feed_that_costs_more_than_is_left_is_left_for_a_coarser_one() {
    let (homes, alice) = scene(15).await;
    // Two ticks of two seconds, and no more.
    purse_has(&homes, 1_400);
    let carol = open(&homes, ENOUGH).await;
    for _ in 0..4 {
        homes.service.clock.advance(Duration::from_secs(2));
        homes.service.make_ticks();
        // Nothing comes in meanwhile.
        database(&homes, "carol")
            .execute("UPDATE feed_purse SET at_ms = ?", [now_ms(&homes)])
            .unwrap();
        carol.sync(1_000).await.unwrap();
    }
    alice.send_message("team", "hello").await.unwrap();
    homes.service.clock.advance(Duration::from_secs(600));
    homes.service.make_ticks();
    for _ in 0..3 {
        carol.sync(300).await.unwrap();
    }
    assert_eq!(resolution(&homes), Some(20));
    assert_eq!(texts(&carol, "team"), ["hello"]);
}

#[tokio::test]
async fn a_relay_that_says_less_of_its_ticks_than_they_have_is_not_believed() {
    let (homes, _alice) = scene(16).await;
    homes
        .service
        .alter_feed(Some(Box::new(|_, path, bytes| match path {
            "latest" => String::from_utf8(bytes)
                .unwrap()
                .split("\"bytes\":")
                .map(|part| part.trim_start_matches(|digit: char| digit.is_ascii_digit()))
                .collect::<Vec<_>>()
                .join("\"bytes\":0")
                .into_bytes(),
            _ => bytes,
        })));
    database(&homes, "carol")
        .execute("DELETE FROM feed", ())
        .unwrap();
    pass(&homes, 600);
    // Enough for ticks of two seconds if they had no bytes at all.
    let ticks = 30 * DAY / 2;
    let carol = open(&homes, ticks * 310).await;
    carol.sync(300).await.unwrap();
    assert_eq!(resolution(&homes), Some(20));
}

#[tokio::test]
async fn what_cannot_be_a_tick_is_asked_for_once() {
    let (homes, alice) = scene(17).await;
    let carol = open(&homes, ENOUGH).await;
    next_tick(&homes, &[(&carol, "carol")]).await;
    assert!(place(&homes, "carol").is_some());
    homes
        .service
        .alter_feed(Some(Box::new(|_, path, bytes| match path {
            "latest" => bytes,
            _ => vec![7; 100_000],
        })));
    homes.service.feed_asked();
    homes.service.clock.advance(Duration::from_secs(2));
    homes.service.make_ticks();
    let tick = format!("2/{}", now_ms(&homes) / 2_000 - 1);
    for _ in 0..3 {
        carol.sync(1_000).await.unwrap();
    }
    let asked = homes.service.feed_asked();
    assert_eq!(asked.iter().filter(|path| **path == tick).count(), 1);
    assert_eq!(place(&homes, "carol"), None);
    alice.send_message("team", "hello").await.unwrap();
    carol.sync(300).await.unwrap();
    assert_eq!(texts(&carol, "team"), ["hello"]);
}

#[tokio::test]
async fn however_much_a_relay_shows_no_more_is_fetched_than_may_be_paid() {
    let (homes, _alice) = scene(18).await;
    // An hour fills so much.
    const AN_HOUR: u64 = 4_000;
    purse_has(&homes, AN_HOUR);
    homes
        .service
        .alter_feed(Some(Box::new(|_, path, bytes| match path {
            "latest" => bytes,
            _ => vec![7; 100_000],
        })));
    let carol = open(&homes, 30 * 24 * AN_HOUR).await;
    for _ in 0..60 {
        homes.service.clock.advance(Duration::from_secs(60));
        homes.service.make_ticks();
        carol.sync(50).await.unwrap();
    }
    let asked = homes.service.feed_asked();
    // As much for the head of each, and what there is in them.
    let heads = 300 * u64::try_from(asked.len()).unwrap();
    assert!((1..=2 * AN_HOUR).contains(&heads), "{heads}");
}

#[tokio::test]
async fn groups_that_were_named_are_not_lost_when_they_could_not_be_kept() {
    let (homes, alice) = scene(19).await;
    let quiet = Options {
        profile: Profile::Batched,
        ..options(&homes, ENOUGH)
    };
    let carol = Client::open(&homes.path("carol"), quiet).await.unwrap();
    let _events = carol.event_stream();
    // Until its ticks are followed.
    let followed = async |homes: &Homes| {
        homes.service.clock.advance(Duration::from_secs(2));
        homes.service.make_ticks();
        let last = format!("2/{}", now_ms(homes) / 2_000 - 1);
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if homes.service.feed_asked().contains(&last) {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    followed(&homes).await;
    alice.send_message("team", "hello").await.unwrap();
    followed(&homes).await;
    let database = database(&homes, "carol");
    database
        .execute_batch(
            "CREATE TRIGGER full BEFORE UPDATE ON feed BEGIN SELECT RAISE(ABORT, 'no room'); END",
        )
        .unwrap();
    // It goes on being followed beside this call.
    assert!(carol.sync(1).await.is_err());
    database.execute_batch("DROP TRIGGER full").unwrap();
    followed(&homes).await;
    carol.sync(1).await.unwrap();
    assert!(heard_of(&homes).contains("team"), "{:?}", heard_of(&homes));
}
