//! Webhooks, and with them what is the same for all kinds of senders.

use std::collections::BTreeSet;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::push::*;

use crate::support::{Device, Noted, PushService, Sender, registration, webhook};

async fn started() -> (PushService, Sender) {
    let service = PushService::start().await;
    let tables = format!("[webhook]\nhosts = ['127.0.0.1:{}']", service.port);
    let sender = Sender::start(&tables).await;
    (service, sender)
}

#[tokio::test]
async fn a_webhook_is_signed_and_says_nothing() {
    let (service, sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handle = device.handle(&sender).await;
    sender.wake(handle).await;
    let noted = service.exactly(1).await.remove(0);
    assert_eq!(noted.path, "/hook");
    assert_eq!(
        (&*noted.body, noted.header("content-type")),
        (&b"{}"[..], "application/json")
    );
    // Standard Webhooks 1.0.
    let (id, at) = (
        noted.header("webhook-id"),
        noted.header("webhook-timestamp"),
    );
    let signature = noted
        .header("webhook-signature")
        .strip_prefix("v1,")
        .unwrap();
    let signature = STANDARD.decode(signature).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[5; 32]);
    let signed = format!("{id}.{at}.{{}}");
    assert!(hmac::verify(&key, signed.as_bytes(), &signature).is_ok());
    for (name, value) in &noted.headers {
        let known = [
            "host",
            "content-type",
            "content-length",
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
        ];
        assert!(known.contains(&name.as_str()), "{name}: {value:?}");
    }
}

#[tokio::test]
async fn many_handles_of_a_device_wake_it_once_and_all_answers_are_alike() {
    let (service, sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handles = device.act(&sender, DeviceAct::IssueHandles(64)).await;
    let all = sender.wakes(handles).await;
    let random = (0..64).map(|_| crypto::random().unwrap());
    let none = sender.wakes(random.collect()).await;
    assert_eq!(all, none);
    // None would cost no allowance.
    assert_eq!(sender.wakes(Vec::new()).await.0, 400);
    service.exactly(1).await;
}

#[tokio::test]
async fn who_agreed_gets_decoys_like_any_push_and_who_did_not_or_is_gone_gets_none() {
    let service = PushService::start().await;
    let tables = format!("[webhook]\nhosts = ['127.0.0.1:{}']", service.port);
    let often = [["decoy_mean_ms = 0", "decoy_mean_ms = 150"]];
    let directory = tempfile::tempdir().unwrap();
    let sender = Sender::start_changed(directory, &tables, &often).await;
    let mut bystander = Device::registered(&sender, webhook(&service.url("/bystander"))).await;
    let handle = bystander.handle(&sender).await;
    let mut agrees = Device::new();
    let agreed = || registration(webhook(&service.url("/agrees")), 1);
    agrees.act(&sender, agreed()).await;
    service.at_least(5).await;
    sender.wake(handle).await;
    agrees.act(&sender, DeviceAct::Awake(3600)).await;
    let noted = service.settled().await;
    let is_news = |it: &&Noted| it.path == "/bystander";
    assert_eq!(noted.iter().filter(is_news).count(), 1);
    let shape = |it: &Noted| {
        let names: BTreeSet<String> = it.headers.keys().map(ToString::to_string).collect();
        (names, it.body.clone())
    };
    let first = shape(&noted[0]);
    assert!(noted.iter().all(|it| shape(it) == first));
    let decoys = sender.count("push_decoys_total", &["sent"]).await;
    assert_eq!(decoys, noted.len() - 1);

    service.exactly(0).await;
    let none = Consent {
        pace: WakePace::Prompt,
        decoys: 0,
    };
    for end in [DeviceAct::SetConsent(none), DeviceAct::Remove] {
        agrees.act(&sender, agreed()).await;
        agrees.act(&sender, DeviceAct::Awake(0)).await;
        service.at_least(3).await;
        agrees.act(&sender, end).await;
        service.settled().await;
        service.exactly(0).await;
    }
}

#[tokio::test]
async fn a_handle_that_was_ended_or_whose_device_is_gone_wakes_nobody() {
    let (service, sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let (left, stays) = (device.handle(&sender).await, device.handle(&sender).await);
    device
        .act(&sender, DeviceAct::RevokeHandles(vec![left]))
        .await;
    sender.wake(left).await;
    service.exactly(0).await;
    sender.wake(stays).await;
    service.exactly(1).await;
    device.act(&sender, DeviceAct::Remove).await;
    sender.wake(stays).await;
    service.exactly(0).await;
}

#[tokio::test]
async fn an_address_that_is_gone_is_not_asked_again_and_the_next_one_takes_its_place() {
    for status in [404, 410] {
        let (service, sender) = started().await;
        let mut device = Device::registered(&sender, webhook(&service.url("/gone"))).await;
        let handle = device.handle(&sender).await;
        service.answer(status, &[], "");
        sender.wake(handle).await;
        service.exactly(1).await;
        sender.wake(handle).await;
        service.exactly(0).await;
        let next = webhook(&service.url("/next"));
        device.act(&sender, registration(next, 0)).await;
        sender.wake(handle).await;
        assert_eq!(service.exactly(1).await[0].path, "/next");
    }
}

#[tokio::test]
async fn what_is_not_taken_now_is_sent_again_after_the_wait_that_was_asked_for() {
    let (service, sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handle = device.handle(&sender).await;
    service.answer(429, &[("retry-after", "2")], "");
    sender.wake(handle).await;
    // More news does not shorten the wait.
    service.at_least(1).await;
    sender.wake(handle).await;
    service.exactly(1).await;
    service.exactly(0).await;
    service.exactly(1).await;
}

#[tokio::test]
async fn a_service_that_fails_is_asked_a_bounded_number_of_times() {
    let (service, sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handle = device.handle(&sender).await;
    for _ in 0..5 {
        service.answer(503, &[], "");
    }
    sender.wake(handle).await;
    let noted = service.exactly(3).await;
    let ids: Vec<_> = noted.iter().map(|it| it.header("webhook-id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one and the same push");
    assert!(sender.metrics().await.contains("push_given_up_total 1"));
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_up_no_other() {
    let service = PushService::start().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let tables = format!(
        "[webhook]\nhosts = ['127.0.0.1:{}', '127.0.0.1:{port}']",
        service.port
    );
    let sender = Sender::start(&tables).await;
    let mut wakes = Vec::new();
    for name in 0..8 {
        let url = format!("http://127.0.0.1:{port}/{name}");
        let mut device = Device::registered(&sender, webhook(&url)).await;
        wakes.push(device.handle(&sender).await);
    }
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handle = device.handle(&sender).await;
    sender.wakes(wakes).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    sender.wake(handle).await;
    // Sooner than the silent one is given up.
    let woken = tokio::time::timeout(std::time::Duration::from_secs(3), service.at_least(1));
    assert!(woken.await.is_ok());
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_host_that_is_not_listed_not_taken() {
    let (service, sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handle = device.handle(&sender).await;
    service.answer(307, &[("location", "/inwards")], "");
    sender.wake(handle).await;
    assert_eq!(service.exactly(1).await[0].path, "/hook");
    let elsewhere = PushService::start().await;
    for url in [
        elsewhere.url("/"),
        "https://169.254.169.254/".to_owned(),
        format!("http://localhost:{}/", service.port),
        format!("https://x@127.0.0.1:{}/", service.port),
    ] {
        let request = Device::new().request(registration(webhook(&url), 0));
        let (status, problem) = sender.device(request).await;
        let problem = String::from_utf8(problem).unwrap();
        assert_eq!(status, 400, "{url}");
        assert!(problem.contains("urn:mimimi-push:problem:address-not-taken"));
        assert!(!problem.contains("127.0.0.1"));
    }
    elsewhere.exactly(0).await;
}

#[tokio::test]
async fn a_device_that_says_that_it_is_awake_is_left_alone_until_it_sleeps() {
    let (service, sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handle = device.handle(&sender).await;
    device.act(&sender, DeviceAct::Awake(2)).await;
    sender.wake(handle).await;
    service.exactly(0).await;
    // It never said that it sleeps: it may have crashed.
    service.exactly(1).await;
}
