//! A sleeping device is woken: by a message, through relay, gateways, delivery service and push
//! sender, at a server of its owner's own.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use end_to_end::{LogLevel, Service, Stack, User};
use serde_json::json;

const GROUP: &str = "lighthouse";
/// Long enough for a push to come that should not.
const QUIET: Duration = Duration::from_secs(3);
const WITHIN: Duration = Duration::from_secs(60);
const HOOK: &str = "/name-of-the-hook";

type Pushes = Arc<Mutex<Vec<(HeaderMap, String)>>>;

/// A server of somebody's own.
struct Hook {
    pushes: Pushes,
    address: std::net::SocketAddr,
}

async fn note(State(pushes): State<Pushes>, headers: HeaderMap, body: String) -> StatusCode {
    pushes.lock().unwrap().push((headers, body));
    StatusCode::NO_CONTENT
}

impl Hook {
    async fn listen() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pushes = Pushes::default();
        let router = axum::Router::new()
            .route(HOOK, axum::routing::post(note))
            .with_state(Arc::clone(&pushes));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { pushes, address }
    }

    fn count(&self) -> usize {
        self.pushes.lock().unwrap().len()
    }

    /// Until nothing has come for a while.
    async fn settles(&self) -> usize {
        loop {
            let before = self.count();
            tokio::time::sleep(QUIET).await;
            if self.count() == before {
                return before;
            }
        }
    }

    async fn rings_again(&self, before: usize) {
        let rung = async {
            while self.count() == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(WITHIN, rung).await.is_ok(), "no push");
    }
}

/// Fast, so that a test need not wait; and with a place for the hook.
pub(crate) fn settings(hook: std::net::SocketAddr) -> String {
    format!(
        "[ds.push]\ninterval_ms = 300\nspread_ms = 200\nflush_ms = 100\n\
         [push-sender.pace]\nprompt_ms = 200\nprompt_jitter_ms = 50\n\
         [push-sender.sending]\nallow_loopback = true\n\
         [push-sender.webhook]\nhosts = ['{hook}']\n"
    )
}

#[tokio::test]
async fn a_message_wakes_who_asked_for_it_and_is_read_then() {
    let hook = Hook::listen().await;
    let stack = Stack::start_with_push(LogLevel::Trace, &settings(hook.address)).await;
    let (alice, bob) = tokio::join!(
        User::register(&stack, 0, "alice.adebayo"),
        User::register(&stack, 1, "bob.bergstrom"),
    );
    let secret = bob.home().join("hook-secret");
    fs::write(&secret, "5a".repeat(32)).unwrap();
    let url = format!("http://{}{HOOK}", hook.address);
    let on = bob
        .run(&[
            "push",
            "on",
            "--webhook",
            &url,
            "--secret-file",
            secret.to_str().unwrap(),
        ])
        .await;
    assert_eq!(on, json!({ "woken": true }));
    alice.befriend(&bob).await;
    alice.run(&["group", "create", GROUP]).await;
    alice.run(&["group", "add", GROUP, &bob.handle]).await;
    // He comes in, and his leaf brings a handle.
    assert_eq!(bob.receive().await, []);

    let before = hook.settles().await;
    alice.run(&["send", GROUP, "the lamp is out"]).await;
    hook.rings_again(before).await;
    bob.reads(&[(&alice, "the lamp is out")]).await;
    {
        let pushes = hook.pushes.lock().unwrap();
        assert!(pushes.iter().all(|(_, body)| body == "{}"), "no content");
        let (headers, _) = pushes.last().unwrap();
        assert!(headers.contains_key("webhook-signature"));
    }

    // Who writes is woken as everybody is: else the push sender would learn who wrote.
    let before = hook.settles().await;
    bob.run(&["send", GROUP, "I am on my way"]).await;
    hook.rings_again(before).await;
    hook.settles().await;
    alice.reads(&[(&bob, "I am on my way")]).await;

    // He reads by himself for now.
    bob.run(&["push", "awake", "3600"]).await;
    let before = hook.settles().await;
    alice.run(&["send", GROUP, "bring oil"]).await;
    assert_eq!(hook.settles().await, before);
    bob.run(&["push", "awake", "0"]).await;

    let before = hook.settles().await;
    bob.run(&["push", "off"]).await;
    alice.run(&["send", GROUP, "it burns again"]).await;
    assert_eq!(
        hook.settles().await,
        before,
        "he has taken his consent back"
    );
    bob.reads(&[(&alice, "bring oil"), (&alice, "it burns again")])
        .await;

    // Nobody but the push sender knows where bob is woken, and its log does not say it either.
    for service in Service::of(true) {
        let log = fs::read_to_string(stack.layout().log(service)).unwrap();
        assert!(!log.contains(HOOK), "{} names it", service.name());
        let directory = stack.layout().data(service);
        for file in walk(&directory) {
            let content = fs::read(&file).unwrap_or_default();
            let named = content
                .windows(HOOK.len())
                .any(|window| window == HOOK.as_bytes());
            assert!(!named, "{} names it", file.display());
        }
    }
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[tokio::test]
async fn a_push_sender_that_was_killed_knows_its_devices_and_one_that_is_away_stops_no_message() {
    let hook = Hook::listen().await;
    let stack = Stack::start_with_push(LogLevel::Info, &settings(hook.address)).await;
    let (alice, bob) = tokio::join!(
        User::register(&stack, 0, "alice.adebayo"),
        User::register(&stack, 1, "bob.bergstrom"),
    );
    let secret = bob.home().join("hook-secret");
    fs::write(&secret, "5a".repeat(32)).unwrap();
    let url = format!("http://{}{HOOK}", hook.address);
    let secret = secret.to_str().unwrap();
    bob.run(&["push", "on", "--webhook", &url, "--secret-file", secret])
        .await;
    alice.befriend(&bob).await;
    alice.run(&["group", "create", GROUP]).await;
    alice.run(&["group", "add", GROUP, &bob.handle]).await;
    assert_eq!(bob.receive().await, []);
    hook.settles().await;

    let killed = stack.kill(Service::PushSender);
    alice.run(&["send", GROUP, "nobody is called"]).await;
    stack.restarted(Service::PushSender, killed).await;
    let before = hook.settles().await;
    alice.run(&["send", GROUP, "now he is"]).await;
    hook.rings_again(before).await;
    bob.reads(&[(&alice, "nobody is called"), (&alice, "now he is")])
        .await;
}
