//! Wallets on real processes: filled by whole batches, at times of their own and when the user says
//! so, never in the course of anything that the user does; and what was asked for once comes,
//! whatever happens in between.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use client::{Client, Clock as _, Endpoints, Error, Fault, IssuerError, SystemClock};
use end_to_end::{LogLevel, Service, Stack, User, blank, database, device, group_with, patient};
use protocol::operation::Operation;

/// Tokens of a full wallet at the default prices, and of each request for them.
const FULL: usize = 200;
const BATCH: usize = 100;
/// Below so many tokens the next filling is brought forward.
const RESERVE: usize = 25;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Bytes of a batch of a hundred requests: type, truncated key id and blinded message of each,
/// after their length.
const BATCH_BYTES: usize = 4 + BATCH * 259;

/// Stands between one client and the issuer, and sees all that passes.
struct InBetween {
    http: reqwest::Client,
    issuer: String,
    drops_answers: AtomicBool,
    lost_answers: AtomicUsize,
    /// Says nothing to a request for tokens.
    is_silent: AtomicBool,
    /// Instead of an answer to a request for tokens: a page with this status, as a network's portal
    /// has it.
    portal: Mutex<Option<u16>>,
    shows_another_key: AtomicBool,
    seen: Mutex<Vec<(String, Vec<u8>)>>,
}

impl InBetween {
    async fn start(stack: &Stack) -> (Arc<Self>, String) {
        let between = Arc::new(Self {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            issuer: format!("http://{}", stack.ports().of(Service::Issuer)),
            drops_answers: AtomicBool::new(false),
            lost_answers: AtomicUsize::new(0),
            is_silent: AtomicBool::new(false),
            portal: Mutex::default(),
            shows_another_key: AtomicBool::new(false),
            seen: Mutex::default(),
        });
        let app = Router::new()
            .fallback(pass_on)
            .with_state(Arc::clone(&between));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (between, format!("http://{address}"))
    }

    /// The issuer has answered a request for tokens, and nobody has heard it.
    async fn answer_is_lost(&self) {
        while self.lost_answers.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Requests of any kind, since the last call.
    fn requests(&self) -> Vec<(String, Vec<u8>)> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// Requests for tokens, since the last call.
    fn token_requests(&self) -> Vec<Vec<u8>> {
        self.requests()
            .into_iter()
            .filter(|(path, _)| path == "/token-request")
            .map(|(_, body)| body)
            .collect()
    }
}

async fn pass_on(
    State(between): State<Arc<InBetween>>,
    method: axum::http::Method,
    uri: axum::http::Uri,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> Response {
    let seen = (uri.path().to_owned(), body.to_vec());
    between.seen.lock().unwrap().push(seen);
    let mut request = between
        .http
        .request(method, format!("{}{uri}", between.issuer))
        .body(body);
    for name in ["authorization", "content-type", "accept"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    if let (Some(status), "/token-request") = (*between.portal.lock().unwrap(), uri.path()) {
        let status = axum::http::StatusCode::from_u16(status).unwrap();
        return (status, [("content-type", "text/html")], "<p>Log in first").into_response();
    }
    let status = answer.status();
    let media_type = answer.headers()["content-type"].clone();
    let mut body = answer.bytes().await.unwrap();
    if uri.path().ends_with("-directory") && between.shows_another_key.load(Ordering::SeqCst) {
        let mut directory: serde_json::Value = serde_json::from_slice(&body).unwrap();
        for key in directory["token-keys"].as_array_mut().unwrap() {
            let spki = key["token-key"].as_str().unwrap().to_owned();
            let other = if &spki[200..201] == "A" { "B" } else { "A" };
            key["token-key"] = format!("{}{other}{}", &spki[..200], &spki[201..]).into();
        }
        body = directory.to_string().into();
    }
    if uri.path() == "/token-request" && between.is_silent.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    if uri.path() == "/token-request" && between.drops_answers.load(Ordering::SeqCst) {
        between.lost_answers.fetch_add(1, Ordering::SeqCst);
        return axum::http::StatusCode::BAD_GATEWAY.into_response();
    }
    (status, [("content-type", media_type)], body).into_response()
}

fn endpoints(stack: &Stack, issuer: &str) -> Endpoints {
    let mut description = stack.description();
    description["issuer"] = issuer.into();
    Endpoints::from_json(description.to_string().as_bytes()).unwrap()
}

async fn init_at(stack: &Stack, home: &str, issuer: &str) -> Result<Client, Error> {
    let token = fs::read_to_string(stack.account_token(0)).unwrap();
    let endpoints = endpoints(stack, issuer);
    Client::init(&stack.home(home), &endpoints, &token, patient()).await
}

async fn reopened(stack: &Stack, home: &str) -> Client {
    Client::open(&stack.home(home), patient()).await.unwrap()
}

fn now() -> i64 {
    i64::try_from(SystemClock.now_unix_ms()).unwrap()
}

/// When the wallet is filled next, and whether it has been put off and brought forward.
fn schedule(stack: &Stack, home: &str) -> (i64, bool, bool) {
    let row = "SELECT next_top_up_ms, top_up_put_off, top_up_hastened FROM profile";
    database(&stack.home(home))
        .query_row(row, (), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
}

/// As if the last token had been spent `ago` ms ago.
fn set_spent(stack: &Stack, home: &str, ago: i64) {
    database(&stack.home(home))
        .execute("UPDATE profile SET last_spent_ms = ?", [now() - ago])
        .unwrap();
}

/// The next filling, with nothing spent for hours.
fn set_schedule(stack: &Stack, home: &str, next_ms: i64) {
    database(&stack.home(home))
        .execute("UPDATE profile SET next_top_up_ms = ?", [next_ms])
        .unwrap();
    set_spent(stack, home, 3 * HOUR_MS);
}

fn wallet_empty(error: &Error) -> u64 {
    assert_eq!(
        (error.code(), error.fault()),
        ("wallet-empty", Fault::Caller)
    );
    match error {
        Error::Issuer(IssuerError::WalletEmpty { filled_in_s }) => *filled_in_s,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_that_a_user_does_has_the_issuer_asked_not_even_with_an_empty_wallet() {
    let stack = Stack::start(LogLevel::Info).await;
    let (between, url) = InBetween::start(&stack).await;
    let alice = init_at(&stack, "alice", &url).await.unwrap();
    let batches = between.token_requests();
    assert_eq!(batches.len(), FULL / BATCH);
    assert!(batches.iter().all(|batch| batch.len() == BATCH_BYTES));
    assert_eq!(alice.tokens().await.unwrap(), FULL);
    let (planned, _, hastened) = schedule(&stack, "alice");
    assert!(planned > now() + 11 * HOUR_MS && !hastened);

    // Everything that costs tokens, until few are left.
    let bob = device(&stack, 1, "bob").await;
    alice.register_handle("alice").await.unwrap();
    alice.connect("bob").await.unwrap();
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().remove(0);
    bob.accept_request(&request.id).await.unwrap();
    alice.sync(0).await.unwrap();
    alice.create_group("climbing").await.unwrap();
    alice.add_to_group("climbing", &["bob"]).await.unwrap();
    while alice.tokens().await.unwrap() >= RESERVE + 3 {
        alice.withdraw_tokens(3).await.unwrap();
        alice.sync(0).await.unwrap();
    }
    assert_eq!(schedule(&stack, "alice").0, planned);

    // Hardly any are left: within minutes, whatever happens until then.
    alice.withdraw_tokens(3).await.unwrap();
    let (soon, put_off, hastened) = schedule(&stack, "alice");
    assert!(hastened && !put_off);
    assert!((now()..=now() + 15 * MINUTE_MS).contains(&soon));
    let left = alice.tokens().await.unwrap();
    alice.withdraw_tokens(left - 2).await.unwrap();
    let before = alice.groups().unwrap().len();
    for _ in 0..2 {
        // Asking for a connection costs three: one token is not spent on the way to a failure.
        let empty = alice.connect("carol").await.unwrap_err();
        assert!(wallet_empty(&empty) <= 15 * 60);
        assert_eq!(alice.tokens().await.unwrap(), 2);
    }
    alice.withdraw_tokens(2).await.unwrap();
    for _ in 0..3 {
        let empty = alice.create_group("sailing").await.unwrap_err();
        assert!(wallet_empty(&empty) <= 15 * 60);
        alice.sync(0).await.unwrap();
    }
    assert_eq!(alice.groups().unwrap().len(), before);
    // What costs nothing goes on.
    alice.send_message("climbing", "still here").await.unwrap();
    assert_eq!(schedule(&stack, "alice").0, soon);
    assert_eq!(between.requests(), [], "the issuer was asked");

    // The time comes.
    drop(alice);
    set_schedule(&stack, "alice", now() - 1);
    let alice = reopened(&stack, "alice").await;
    alice.sync(0).await.unwrap();
    let batches = between.token_requests();
    assert_eq!(batches.len(), FULL / BATCH);
    assert!(batches.iter().all(|batch| batch.len() == BATCH_BYTES));
    assert_eq!(alice.tokens().await.unwrap(), FULL);
    let (next, _, hastened) = schedule(&stack, "alice");
    assert!(next > now() + 11 * HOUR_MS && !hastened);
    alice.create_group("sailing").await.unwrap();
}

#[tokio::test]
async fn a_wallet_is_filled_in_the_background_when_it_is_low_and_its_kept_time_has_come() {
    let stack = Stack::start(LogLevel::Info).await;
    let (between, url) = InBetween::start(&stack).await;
    let alice = init_at(&stack, "alice", &url).await.unwrap();
    alice.withdraw_tokens(10).await.unwrap();
    between.requests();
    drop(alice);

    // More than half is left: not needed.
    set_schedule(&stack, "alice", now() - 1);
    let alice = reopened(&stack, "alice").await;
    alice.sync(0).await.unwrap();
    assert!(schedule(&stack, "alice").0 > now() + 11 * HOUR_MS);
    assert_eq!(between.requests(), []);
    let left = alice.tokens().await.unwrap();
    alice.withdraw_tokens(left - 60).await.unwrap();
    drop(alice);

    // Who comes back after hours does not ask at once.
    set_schedule(&stack, "alice", now() - 3 * HOUR_MS);
    reopened(&stack, "alice").await.sync(0).await.unwrap();
    let (later, put_off, _) = schedule(&stack, "alice");
    assert!(put_off && later >= now() - MINUTE_MS);
    assert_eq!(between.requests(), []);

    // Nor who has spent something a moment ago.
    set_schedule(&stack, "alice", now() - 1);
    set_spent(&stack, "alice", MINUTE_MS);
    reopened(&stack, "alice").await.sync(0).await.unwrap();
    let (later, _, hastened) = schedule(&stack, "alice");
    assert!(later >= now() + 59 * MINUTE_MS && !hastened);
    assert_eq!(between.requests(), []);

    set_schedule(&stack, "alice", now() - 1);
    let alice = reopened(&stack, "alice").await;
    alice.sync(0).await.unwrap();
    // A whole batch, and no more than fit.
    assert_eq!(alice.tokens().await.unwrap(), 60 + BATCH);
    assert_eq!(between.token_requests().len(), 1);
    drop(alice);
    let (planned, put_off, _) = schedule(&stack, "alice");
    assert!(planned > now() + 11 * HOUR_MS && !put_off);
}

#[tokio::test]
async fn a_filling_that_nobody_waits_for_asks_the_issuer_once_and_does_not_hold_anything_up() {
    let stack = Stack::start(LogLevel::Info).await;
    let (between, url) = InBetween::start(&stack).await;
    let alice = init_at(&stack, "alice", &url).await.unwrap();
    alice.withdraw_tokens(FULL - 60).await.unwrap();
    drop(alice);
    between.requests();
    for trouble in [&between.drops_answers, &between.is_silent] {
        trouble.store(true, Ordering::SeqCst);
        set_schedule(&stack, "alice", now() - 1);
        let alice = reopened(&stack, "alice").await;
        // One attempt of somebody who waits may take 30 s, and there would be five of them.
        let synced = tokio::time::timeout(Duration::from_secs(25), alice.sync(0));
        synced.await.unwrap().unwrap();
        assert_eq!(between.token_requests().len(), 1);
        trouble.store(false, Ordering::SeqCst);
        let (again, ..) = schedule(&stack, "alice");
        assert!((now()..now() + 20 * MINUTE_MS).contains(&again));
    }
}

#[tokio::test]
async fn a_user_can_have_the_wallet_filled_at_once() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = User::register(&stack, 0, "alice").await;
    let opened = reopened(&stack, "alice").await;
    let left = opened.tokens().await.unwrap();
    opened.withdraw_tokens(left).await.unwrap();
    drop(opened);
    let failed = alice.try_run(&["group", "create", "climbing"]).await;
    let failed = failed.unwrap_err();
    assert_eq!(failed.error, "wallet-empty");
    assert!(failed.detail.contains("mimimi top-up"), "{}", failed.detail);
    assert_eq!(alice.run(&["top-up"]).await["available"], FULL);
    alice.run(&["group", "create", "climbing"]).await;
    // A full one gets another batch: the user may know why.
    let more = alice.run(&["top-up"]).await;
    assert_eq!(more["available"], FULL - 1 + BATCH);
}

#[tokio::test]
async fn who_has_used_an_allowance_up_falls_in_step_with_it_and_pays_nothing() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    group_with("climbing", &alice, &[&bob]).await;
    let directory: String = database(&stack.home("alice"))
        .query_row("SELECT directory FROM profile", (), |row| row.get(0))
        .unwrap();
    let directory: serde_json::Value = serde_json::from_str(&directory).unwrap();
    let leaf = &directory["allowances"]["leaf"];
    let announced = |name: &str| leaf[name].as_u64().unwrap();
    let (capacity, refill) = (announced("capacity"), announced("refill_per_minute"));
    // A burst, and then what flows back in some seconds.
    let began = now();
    for number in 0..capacity + 5 {
        let text = format!("number {number}");
        alice.send_message("climbing", &text).await.unwrap();
    }
    let passed = u64::try_from(now() - began).unwrap();
    assert!(passed * refill / 60_000 >= 4, "{passed} ms");
    let asked = liar.asked();
    let path = Operation::SendMessage.path();
    let messages = asked.iter().filter(|asked| asked.path == path);
    assert!(messages.clone().count() as u64 > capacity);
    assert_eq!(messages.map(|asked| asked.tokens.len()).sum::<usize>(), 0);
}

#[tokio::test]
async fn tokens_that_were_asked_for_come_though_the_answer_was_lost_and_the_client_ended() {
    let stack = Stack::start(LogLevel::Info).await;
    let (between, url) = InBetween::start(&stack).await;
    between.drops_answers.store(true, Ordering::SeqCst);
    // Killed after the request has reached the issuer.
    tokio::select! {
        ended = init_at(&stack, "alice", &url) => panic!("{ended:?}"),
        () = between.answer_is_lost() => {}
    }
    let lost = between.token_requests();
    assert!(!lost.is_empty() && lost.iter().all(|request| *request == lost[0]));
    assert_eq!(stack.issued().await, BATCH);

    // Unreachable until patience ends.
    let error = init_at(&stack, "alice", &url).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    let again = between.token_requests();
    assert!(!again.is_empty() && again.iter().all(|request| *request == lost[0]));

    between.drops_answers.store(false, Ordering::SeqCst);
    let alice = init_at(&stack, "alice", &url).await.unwrap();
    let at_last = between.token_requests();
    assert_eq!(at_last.len(), FULL / BATCH);
    assert_eq!(at_last[0], lost[0], "the same request");
    assert_ne!(at_last[1], lost[0]);
    assert_eq!(alice.tokens().await.unwrap(), FULL);
    assert_eq!(stack.issued().await, FULL, "charged once");
    alice.register_handle("alice").await.unwrap();

    // Nothing is left of it that could be asked for again.
    alice.fill_wallet().await.unwrap();
    let fresh = between.token_requests();
    assert!(fresh.iter().all(|request| !at_last.contains(request)));
    let kept = "SELECT count(*) FROM token_batch";
    let kept: i64 = database(&stack.home("alice"))
        .query_row(kept, (), |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn a_batch_whose_key_has_expired_meanwhile_is_not_asked_for_again() {
    let stack = Stack::start(LogLevel::Info).await;
    let (between, url) = InBetween::start(&stack).await;
    between.drops_answers.store(true, Ordering::SeqCst);
    init_at(&stack, "alice", &url).await.unwrap_err();
    let lost = between.token_requests();
    between.drops_answers.store(false, Ordering::SeqCst);
    // As if its key had been another one, which nobody announces any more.
    let db = database(&stack.home("alice"));
    let mut key: Vec<u8> = db
        .query_row("SELECT token_key FROM token_batch", (), |row| row.get(0))
        .unwrap();
    let last_of_modulus = key.len() - 6;
    key[last_of_modulus] ^= 2;
    db.execute("UPDATE token_batch SET token_key = ?", [key])
        .unwrap();
    drop(db);
    let alice = init_at(&stack, "alice", &url).await.unwrap();
    let fresh = between.token_requests();
    assert_eq!(fresh.len(), FULL / BATCH);
    assert!(!fresh.contains(&lost[0]));
    alice.register_handle("alice").await.unwrap();
}

#[tokio::test]
async fn tokens_that_were_taken_never_come_back_whenever_the_client_ends() {
    let stack = Stack::start(LogLevel::Info).await;
    let mut taken = BTreeSet::new();
    let mut count = 0;
    let mut alice = blank(&stack, 0, "alice").await;
    for round in 0..8_u64 {
        for token in alice.withdraw_tokens(2).await.unwrap() {
            assert!(taken.insert(token), "a token came a second time");
            count += 1;
        }
        // Ended in the middle of a request that costs a token, or of filling the wallet.
        let patience = Duration::from_millis(3 * round);
        let _ = tokio::time::timeout(patience, alice.connect("nobody")).await;
        let patience = Duration::from_millis(40 * round);
        let _ = tokio::time::timeout(patience, alice.fill_wallet()).await;
        drop(alice);
        alice = reopened(&stack, "alice").await;
        let held: Vec<Vec<u8>> = database(&stack.home("alice"))
            .prepare("SELECT token FROM tokens")
            .unwrap()
            .query_map((), |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert!(held.iter().all(|token| !taken.contains(token)));
    }
    assert_eq!(taken.len(), count);
    // And it goes on.
    alice.register_handle("alice").await.unwrap();
}

#[tokio::test]
async fn a_batch_that_was_paid_for_outlasts_what_others_on_the_way_say_of_it() {
    let stack = Stack::start(LogLevel::Info).await;
    let (between, url) = InBetween::start(&stack).await;
    let alice = init_at(&stack, "alice", &url).await.unwrap();
    for status in [404, 200] {
        let left = alice.tokens().await.unwrap();
        alice.withdraw_tokens(left - 50).await.unwrap();
        between.requests();
        *between.portal.lock().unwrap() = Some(status);
        assert!(alice.fill_wallet().await.is_err(), "{status}");
        let paid = between.token_requests();
        *between.portal.lock().unwrap() = None;
        alice.fill_wallet().await.unwrap();
        assert_eq!(between.token_requests(), paid[..1], "{status}");
        assert_eq!(alice.tokens().await.unwrap(), 50 + BATCH);
    }
    assert_eq!(stack.issued().await, FULL + 2 * BATCH);
}

#[tokio::test]
async fn an_issuer_that_shows_another_key_to_a_running_client_is_told_when_tokens_are_missed() {
    let stack = Stack::start(LogLevel::Info).await;
    let (between, url) = InBetween::start(&stack).await;
    let alice = init_at(&stack, "alice", &url).await.unwrap();
    alice.withdraw_tokens(FULL - 10).await.unwrap();
    drop(alice);
    set_schedule(&stack, "alice", now() - 1);
    between.shows_another_key.store(true, Ordering::SeqCst);
    between.requests();
    let alice = reopened(&stack, "alice").await;
    alice.sync(0).await.unwrap();
    let refused = alice.withdraw_tokens(20).await.unwrap_err();
    assert!(
        matches!(refused, Error::Issuer(IssuerError::KeyMismatch)),
        "{refused:?}"
    );
    assert_eq!(between.token_requests().len(), 0);
    // What is left of the right key is still good.
    let left = alice.tokens().await.unwrap();
    assert!(left > 0);
    alice.withdraw_tokens(left).await.unwrap();
}
