//! Who is approached can report it; nobody else can, and the delivery service learns nothing of it.

use std::fs;

use client::{Client, Error, IssuerError, ReportReason, UsageError};
use end_to_end::{LogLevel, Service, Stack, User, befriend, device, reporting_secrets_of};
use serde_json::Value;
use xtask::scan::{self, Needles};

const GREETING: &str = "Genuine watches, half the price, today only";

/// A command on the issuer's admin listener, as its operator sends it.
async fn operator(stack: &Stack, command: &str, argument: &str) -> (u16, String) {
    let admin = stack.ports().admin_of(Service::Issuer);
    let answer = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .post(format!("http://{admin}/commands/{command}"))
        .header("content-type", "application/x-mimimi-admin")
        .body(argument.to_owned())
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn reports(stack: &Stack) -> Vec<Value> {
    let (status, lines) = operator(stack, "reports", "").await;
    assert_eq!(status, 200);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn refusal(error: Error) -> String {
    match error {
        Error::Issuer(IssuerError::Refused(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

/// Has the wallet filled, of which ten tokens are left.
async fn asks_for_tokens(client: &Client) -> Result<(), Error> {
    let left = client.tokens().await?;
    client.withdraw_tokens(left.saturating_sub(10)).await?;
    client.fill_wallet().await
}

#[tokio::test]
async fn whoever_is_reported_by_whom_he_approached_gets_no_more_tokens() {
    let stack = Stack::start(LogLevel::Info).await;
    let mallory = device(&stack, 0, "mallory").await;
    let alice = User::register(&stack, 1, "alice").await;
    let carol = User::register(&stack, 2, "carol").await;
    mallory.connect_with("alice", GREETING).await.unwrap();

    let requests = alice.run(&["requests"]).await;
    assert_eq!(requests[0]["name"], "mallory");
    assert_eq!(requests[0]["greeting"], GREETING);
    assert_eq!(requests[0]["reportable"], true);
    // Who was not approached has nothing to report.
    let stranger = carol.try_run(&["report", "mallory"]).await.unwrap_err();
    assert_eq!(stranger.error, "unknown-contact");
    let reported = alice.run(&["report", "mallory", "--reason", "spam"]).await;
    assert_eq!(reported["reported"], "mallory");
    // Again: still one report.
    alice.run(&["report", "mallory", "--reason", "spam"]).await;

    let queue = reports(&stack).await;
    assert_eq!(queue.len(), 1, "{queue:?}");
    assert_eq!(queue[0]["greeting"], GREETING);
    assert_eq!(queue[0]["reason"], "spam");
    assert_eq!(queue[0]["occasion"], "request");
    assert_eq!(queue[0]["status"], "open");
    asks_for_tokens(&mallory).await.unwrap();

    let id = queue[0]["id"].as_str().unwrap();
    assert_eq!(operator(&stack, "uphold", "0123").await.0, 400);
    assert_eq!(operator(&stack, "uphold", id).await.0, 200);
    assert_eq!(reports(&stack).await[0]["status"], "upheld");
    // What is out still works: nobody can tell whose it is.
    assert!(mallory.tokens().await.unwrap() > 0);
    mallory.connect("carol").await.unwrap();
    assert!(carol.request_from(&alice).await.is_none());
    let refused = asks_for_tokens(&mallory).await.unwrap_err();
    assert_eq!(refusal(refused), "tokens-withheld");

    // Across a restart, until the operator releases the account.
    let before = stack.kill(Service::Issuer);
    stack.restarted(Service::Issuer, before).await;
    let refused = asks_for_tokens(&mallory).await.unwrap_err();
    assert_eq!(refusal(refused), "tokens-withheld");
    assert_eq!(operator(&stack, "release", id).await.0, 200);
    asks_for_tokens(&mallory).await.unwrap();
    assert_eq!(operator(&stack, "dismiss", id).await.0, 200);
    assert_eq!(reports(&stack).await[0]["status"], "dismissed");
}

#[tokio::test]
async fn whoever_answered_a_request_can_be_reported_too_even_when_gone_since() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    befriend(&alice, &bob).await;
    for (client, other) in [(&alice, "bob"), (&bob, "alice")] {
        let contacts = client.contacts().unwrap();
        assert!(contacts[0].reportable, "{contacts:?}");
        client.report(other, ReportReason::Abuse).await.unwrap();
        let unknown = client.report("nobody", ReportReason::Abuse).await;
        assert!(matches!(
            unknown,
            Err(Error::Usage(UsageError::UnknownContact(_)))
        ));
    }
    let mut occasions: Vec<_> = reports(&stack)
        .await
        .iter()
        .map(|report| report["occasion"].as_str().unwrap().to_owned())
        .collect();
    occasions.sort();
    assert_eq!(occasions, ["answer", "request"]);
    // Who has ended the connection can still be reported.
    bob.disconnect("alice").await.unwrap();
    alice.sync(0).await.unwrap();
    assert!(alice.contacts().unwrap().is_empty());
    alice.report("bob", ReportReason::Other).await.unwrap();
}

#[tokio::test]
async fn the_delivery_service_hears_and_keeps_nothing_of_certificates_and_reports() {
    let (mut stack, tap) = Stack::start_with_tap(LogLevel::Trace).await;
    let mallory = device(&stack, 0, "mallory").await;
    let alice = device(&stack, 1, "alice").await;
    mallory.connect_with("alice", GREETING).await.unwrap();
    alice.check_inbox().await.unwrap();
    let request = alice.incoming_requests().unwrap().remove(0);
    assert_eq!(request.greeting.as_deref(), Some(GREETING));
    alice.accept_request(&request.id).await.unwrap();
    mallory.sync(0).await.unwrap();
    alice.report("mallory", ReportReason::Spam).await.unwrap();
    mallory.report("alice", ReportReason::Spam).await.unwrap();

    let mut needles = vec![GREETING.as_bytes().to_vec()];
    for (handle, expected) in [("mallory", 2), ("alice", 2)] {
        let secrets = reporting_secrets_of(&stack.home(handle));
        assert_eq!(
            secrets.len(),
            expected * 6,
            "own certificate and the other's"
        );
        needles.extend(secrets);
    }
    let needles = Needles::new(&needles).unwrap();
    drop((mallory, alice));
    stack.stop().await;

    let heard = tempfile::tempdir().unwrap();
    let bytes = tap.heard();
    assert!(bytes.len() > 50_000, "the tap heard {} bytes", bytes.len());
    // It listens in the right place: handles are looked up in the clear, as documented.
    assert!(bytes.windows(7).any(|window| window == b"mallory"));
    fs::write(heard.path().join("heard"), bytes).unwrap();
    for directory in [
        heard.path().to_owned(),
        stack.layout().data(Service::Ds),
        stack.layout().all_logs(),
        // The issuer has seen certificates and keeps none.
        stack.layout().data(Service::Issuer),
    ] {
        let report = scan::directory(&directory, &needles).unwrap();
        let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
        assert_eq!(findings, Vec::<String>::new(), "{}", directory.display());
    }
}
