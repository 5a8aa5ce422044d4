//! Slots through real processes: what a relay is brought of a client that is written to, and
//! writes.

#![allow(clippy::disallowed_methods, reason = "how long something really takes")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use client::{Client, Endpoints, Event, Options, Profile};
use end_to_end::{LogLevel, Stack, device, group_with, patient};
use protocol::padding::{ORDINARY_ANSWER, ORDINARY_REQUEST};
use serde_json::Value;

const GROUP: &str = "night shift";

/// Stands before the relay, and sees what its operator does.
#[derive(Clone)]
struct Before {
    relay: String,
    http: reqwest::Client,
    /// Bytes of requests and of their answers.
    seen: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Before {
    /// Where it is asked in place of the relay.
    async fn listen(relay: &str) -> (Self, String) {
        let before = Self {
            relay: relay.to_owned(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            seen: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/", post(Self::pass))
            .with_state(before.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (before, url)
    }

    async fn pass(State(this): State<Self>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
        let sent = body.len();
        let answer = this
            .http
            .post(&this.relay)
            .header("content-type", &headers["content-type"])
            .body(body)
            .send()
            .await
            .unwrap();
        let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        let answer = answer.bytes().await.unwrap();
        this.seen.lock().unwrap().push((sent, answer.len()));
        (status, [("content-type", kind)], answer)
    }
}

/// A client with its home and account from before, whose requests go through there.
async fn reopened(stack: &Stack, (number, handle): (usize, &str), relay: &str) -> Client {
    let mut description: Value = serde_json::from_str(&stack.description().to_string()).unwrap();
    description["relay"] = relay.into();
    let endpoints = Endpoints::from_json(description.to_string().as_bytes()).unwrap();
    let token = std::fs::read_to_string(stack.account_token(number)).unwrap();
    let options = Options {
        profile: Profile::Batched,
        // One in a second.
        slots_faster: 60,
        ..patient()
    };
    let home = stack.home(handle);
    Client::init(&home, &endpoints, &token, options)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_sees_one_size_of_a_client_that_reads_and_writes_in_slots() {
    let stack = Stack::start(LogLevel::Error).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    group_with(GROUP, &alice, &[&bob]).await;
    bob.sync(0).await.unwrap();
    let known = bob.events().unwrap();
    bob.acknowledge(&known).unwrap();
    bob.close().await;
    let relay = stack.description()["relay"].as_str().unwrap().to_owned();
    let (before, url) = Before::listen(&relay).await;
    let bob = reopened(&stack, (1, "bob"), &url).await;
    let mut events = bob.event_stream();
    before.seen.lock().unwrap().clear();
    let began = Instant::now();
    // Each text is read in a slot and answered in another one.
    let mut number = 0;
    while number < 5 || before.seen.lock().unwrap().len() < 15 {
        alice
            .send_message(GROUP, &format!("number {number}"))
            .await
            .unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(90), async {
            loop {
                if let Event::Message { text, .. } = events.next().await.unwrap().event
                    && text == format!("number {number}")
                {
                    return;
                }
            }
        });
        heard.await.expect("it is read in some slot");
        number += 1;
        let text = "a".repeat(40 * number);
        bob.send_message(GROUP, &text).await.unwrap();
    }
    let seen = before.seen.lock().unwrap().clone();
    println!("{number} texts in {:?}", began.elapsed());
    for sizes in &seen {
        assert_eq!(sizes, &seen[0], "{seen:?}");
    }
    let (sent, answered) = seen[0];
    assert!((1..1_500).contains(&(sent - ORDINARY_REQUEST)), "{sent}");
    assert!(
        (1..100).contains(&(answered - ORDINARY_ANSWER)),
        "{answered}"
    );
}
