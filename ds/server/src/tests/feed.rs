//! The activity feed of one service and of two nodes on one database.

use crypto::feed::{CheckedTick, check};
use ds_store_postgres::server::Server as Database;
use ds_store_postgres::{Postgres, PostgresSettings};
use protocol::feed::{FEED_PATH, FeedPointer, Resolution, TICK_MEDIA_TYPE, Tick};
use protocol::ids::TickNumber;

use super::*;
use crate::feed::make_due;

async fn shown(running: &Running, path: &str) -> Reply {
    let request = Request::get(format!("{FEED_PATH}/{path}"))
        .header(
            service::gateway_auth::GATEWAY_AUTHORIZATION,
            running.secret.header_value(),
        )
        .body(Body::empty())
        .unwrap();
    Reply::read(running.router.clone().oneshot(request).await.unwrap()).await
}

async fn tick(running: &Running, number: u64) -> Option<CheckedTick> {
    let reply = shown(running, &format!("2/{number}")).await;
    if reply.status == StatusCode::NOT_FOUND {
        return None;
    }
    assert_eq!(reply.headers[header::CONTENT_TYPE], TICK_MEDIA_TYPE);
    assert_eq!(
        reply.headers[header::CACHE_CONTROL],
        "max-age=31536000, immutable"
    );
    let key = running.server.keys.journal_signing().public();
    Some(check(&key, &Tick::decode(&reply.body).unwrap()).unwrap())
}

/// Whether a tick names the segment of these tests.
fn names(tick: &CheckedTick) -> bool {
    let key = JournalKey::new([3; 32]).tag_key().feed_key();
    tick.tags.contains(key.tag(tick.resolution, tick.number))
}

fn number_at(running: &Running) -> u64 {
    Resolution::Seconds2.tick_at(running.clock.now_unix_ms()).0
}

#[tokio::test]
async fn what_was_accepted_is_in_the_tick_of_its_time_which_is_shown_to_everybody_alike() {
    let running = running(10);
    running.begin_segment().await;
    make_due(&running.server, true).await.unwrap();
    for appends in [true, false, true, true] {
        let number = number_at(&running);
        if appends {
            running.append(1).await;
        }
        assert_eq!(tick(&running, number).await, None);
        running.clock.advance(2_000);
        make_due(&running.server, false).await.unwrap();
        let made = tick(&running, number).await.unwrap();
        assert_eq!(names(&made), appends);
        assert_eq!(made.number, TickNumber(number));
        let before = tick(&running, number - 1).await.unwrap();
        assert_eq!(made.previous, before.hash);
    }
    let reply = shown(&running, "latest").await;
    assert_eq!(reply.headers[header::CACHE_CONTROL], "max-age=1");
    let pointer: FeedPointer = serde_json::from_slice(&reply.body).unwrap();
    let last = pointer.ticks[0];
    assert_eq!((last.seconds, last.number), (2, number_at(&running) - 1));
    let file = shown(&running, &format!("2/{}", last.number)).await;
    assert_eq!(file.body.len(), usize::try_from(last.bytes).unwrap());
    for path in ["3/1", "2/x", "2", "", "2/18446744073709551615"] {
        assert!(shown(&running, path).await.status.is_client_error());
    }
    let request = Request::get(format!("{FEED_PATH}/latest"))
        .body(Body::empty())
        .unwrap();
    let stranger = Reply::read(running.router.clone().oneshot(request).await.unwrap()).await;
    assert_eq!(stranger.problem(), ProblemType::GatewayOnly);
}

#[tokio::test]
async fn a_clock_that_is_not_believed_makes_no_tick() {
    let (running, clock) = super::bounds::watched(Arc::default());
    assert!(make_due(&running.server, true).await.unwrap() > 0);
    clock.jump(365 * 86_400_000);
    assert_eq!(make_due(&running.server, false).await.unwrap(), 0);
    clock.jump(0u64.wrapping_sub(364 * 86_400_000));
    assert_eq!(make_due(&running.server, false).await.unwrap(), 0);
}

/// Two nodes, if there is a server.
async fn nodes() -> Option<[Running; 2]> {
    let database = Database::shared()?;
    let settings = PostgresSettings {
        host: database.sockets.clone(),
        port: 5432,
        user: "mimimi".to_owned(),
        database: database.fresh_database().await,
        password_file: Some(database.password_file.clone()),
        connections: 8,
        acquire_ms: 20_000,
        statement_ms: 10_000,
    };
    let first = Postgres::create(&settings).await.unwrap();
    let second = Postgres::open(&settings).await.unwrap();
    Some([first, second].map(|engine| {
        running_with(Setup {
            engine: Some(Arc::new(engine)),
            ..Setup::default()
        })
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_make_one_feed_that_has_what_each_has_accepted() {
    let Some([a, b]) = nodes().await else {
        return;
    };
    a.begin_segment().await;
    let _ = tokio::join!(make_due(&a.server, true), make_due(&b.server, true));
    let mut before = None;
    for turn in 0..30u32 {
        let number = number_at(&a);
        let accepts = match turn % 3 {
            0 => Some(&a),
            1 => Some(&b),
            _ => None,
        };
        if let Some(node) = accepts {
            node.append(1).await;
        }
        for node in [&a, &b] {
            node.clock.advance(2_000);
        }
        let (one, other) = tokio::join!(make_due(&a.server, false), make_due(&b.server, false));
        let made = one.unwrap() + other.unwrap();
        // Each tick of each resolution once: of twenty seconds one every ten times.
        assert!((1..=3).contains(&made), "{made} in turn {turn}");
        let [shown, other] = [tick(&a, number).await, tick(&b, number).await];
        assert_eq!(shown, other);
        let shown = shown.unwrap();
        assert_eq!(names(&shown), accepts.is_some(), "turn {turn}");
        if let Some(before) = before {
            assert_eq!(shown.previous, before);
        }
        before = Some(shown.hash);
    }
}

#[test]
fn mirrors_know_the_resolutions_and_how_long_ticks_are_shown() {
    let ours = Resolution::ALL.map(|it| (it.seconds(), u64::from(it.kept_days())));
    assert_eq!(service::feed::TICKS, ours);
    assert_eq!(service::mirror::TICK.media_type, TICK_MEDIA_TYPE);
}
