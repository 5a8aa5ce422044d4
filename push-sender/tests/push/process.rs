//! The real binary: who is let in, what a kill leaves, and what is logged.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use protocol::Wire as _;
use protocol::push::*;
use service::hex;

use crate::support::{Device, PushService, Sender, registration, webhook};

async fn started() -> (PushService, Sender) {
    let service = PushService::start().await;
    let tables = format!("[webhook]\nhosts = ['127.0.0.1:{}']", service.port);
    let sender = Sender::start(&tables).await;
    (service, sender)
}

#[tokio::test]
async fn what_was_registered_survives_a_kill_and_the_log_names_nobody() {
    let (service, mut sender) = started().await;
    let path = "/name-of-the-subscription";
    let mut device = Device::registered(&sender, webhook(&service.url(path))).await;
    let (ended, handle) = (device.handle(&sender).await, device.handle(&sender).await);
    device
        .act(&sender, DeviceAct::RevokeHandles(vec![ended]))
        .await;
    sender.kill_and_start().await;
    sender.wake(ended).await;
    sender.wake(handle).await;
    assert_eq!(service.exactly(1).await[0].path, path);
    service.answer(410, &[], "");
    sender.wake(handle).await;
    service.exactly(1).await;
    let metrics = sender.metrics().await;
    assert!(sender.terminate(), "SIGTERM is a clean end");

    let log = sender.log();
    assert!(
        log.contains("request"),
        "the most verbose log has lines about requests"
    );
    let log: String = log
        .lines()
        .filter(|line| !line.contains(" listening "))
        .collect();
    for secret in [
        path.to_owned(),
        "127.0.0.1".to_owned(),
        STANDARD.encode(&handle[..48]),
        URL_SAFE_NO_PAD.encode(&handle[..48]),
        hex::encode(&handle[..16]),
    ] {
        assert!(!log.contains(&secret), "the log names {secret}");
        assert!(!metrics.contains(&secret), "the metrics name {secret}");
    }
    for name in ["push.sqlite3", "push.sqlite3-wal"] {
        let content = std::fs::read(sender.directory.path().join("data").join(name));
        let content = content.unwrap_or_default();
        let named = content.windows(path.len()).any(|it| it == path.as_bytes());
        assert!(!named, "{name} names the address");
    }
}

#[tokio::test]
async fn devices_come_by_the_gateway_and_wakes_from_listed_delivery_services_only() {
    let (service, sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handle = device.handle(&sender).await;
    let wakes = WakeRequest {
        version: VERSION,
        handles: vec![handle],
    };
    for secret in [
        "",
        "Bearer ",
        "Bearer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        let request = sender.post(WAKE_PATH).header("push-authorization", secret);
        let answer = request.body(wakes.encode()).send().await.unwrap();
        assert_eq!(answer.status(), 401);
        let request = device.request(DeviceAct::IssueHandles(1));
        let post = sender
            .post(DEVICE_PATH)
            .header("gateway-authorization", secret);
        assert_eq!(post.body(request).send().await.unwrap().status(), 401);
    }
    // The secret of the one does not open the other's door.
    let secret = |name: &str| {
        let path = sender.directory.path().join(name);
        service::gateway_auth::GatewaySecret::load(&path)
            .unwrap()
            .header_value()
    };
    let request = sender.post(WAKE_PATH);
    let request = request.header("push-authorization", secret("gateway-secret"));
    assert_eq!(
        request.body(wakes.encode()).send().await.unwrap().status(),
        401
    );
    service.exactly(0).await;
}

#[tokio::test]
async fn what_is_no_request_is_refused_as_a_whole() {
    let (service, sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handle = device.handle(&sender).await;
    let too_many = vec![handle; MAX_WAKES + 1];
    assert_eq!(sender.wakes(too_many).await.0, 400);
    let mut request = device.request(DeviceAct::IssueHandles(1));
    let last = request.len() - 1;
    request[last] ^= 1;
    assert_eq!(sender.device(request).await.0, 403);
    assert_eq!(sender.device(vec![0; 20]).await.0, 400);
    assert_eq!(sender.device(vec![0; 70_000]).await.0, 413);
    service.exactly(0).await;
}

#[tokio::test]
async fn init_makes_no_second_store_and_changes_nothing() {
    let (service, mut sender) = started().await;
    let mut device = Device::registered(&sender, webhook(&service.url("/hook"))).await;
    let handle = device.handle(&sender).await;
    let again = sender.command().arg("init").status().unwrap();
    assert!(!again.success());
    assert!(sender.log().contains("is there already"));
    sender.kill_and_start().await;
    sender.wake(handle).await;
    service.exactly(1).await;
}

#[tokio::test]
async fn a_request_that_is_sent_again_says_so() {
    let (service, sender) = started().await;
    let mut device = Device::new();
    let request = device.request(registration(webhook(&service.url("/hook")), 0));
    assert_eq!(sender.device(request.clone()).await.0, 200);
    let (status, problem) = sender.device(request).await;
    assert_eq!(status, 409);
    let problem = String::from_utf8(problem).unwrap();
    assert!(problem.contains("stale-number") && problem.contains("\"last\":1"));
}
