//! Google's service, HTTP v1, in the shape of its documentation, with the exchange of RFC 7523.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use protocol::codec::opaque;
use protocol::push::*;
use serde_json::{Value, json};

use crate::support::{Device, PushService, Sender, pem, write_secret};

struct Kit {
    service: PushService,
    sender: Sender,
    public: Vec<u8>,
}

async fn started() -> Kit {
    let service = PushService::start().await;
    let directory = tempfile::tempdir().unwrap();
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let account = json!({
        "type": "service_account",
        "project_id": "chat-1234",
        "private_key_id": "key-1",
        "private_key": pem(pkcs8.as_ref()),
        "client_email": "push@chat-1234.iam.example",
        "client_id": "1",
        "token_uri": service.url("/token"),
    });
    let file = directory.path().join("account.json");
    write_secret(&file, &account.to_string());
    let tables = format!(
        "[[fcm]]\napp = 'chat'\nendpoint = '{}'\nservice_account_file = '{}'\n",
        service.url(""),
        file.display(),
    );
    Kit {
        service,
        sender: Sender::start_in(directory, &tables).await,
        public: key.public_key().as_ref().to_vec(),
    }
}

fn google(token: &str) -> Address {
    Address::Fcm(AppAddress {
        app: opaque(*b"chat"),
        token: opaque(token.as_bytes()),
    })
}

impl Kit {
    fn gives_access(&self, token: &str) {
        let body = json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" });
        self.service.answer(200, &[], &body.to_string());
    }
}

#[tokio::test]
async fn a_push_by_google_is_what_google_documents_and_has_no_content() {
    let kit = started().await;
    let mut device = Device::registered(&kit.sender, google("device:token-1")).await;
    kit.gives_access("access-1");
    kit.sender.wake(device.handle(&kit.sender).await).await;
    let noted = kit.service.exactly(2).await;

    let exchange = &noted[0];
    assert_eq!(exchange.path, "/token");
    assert_eq!(
        exchange.header("content-type"),
        "application/x-www-form-urlencoded"
    );
    let form = std::str::from_utf8(&exchange.body).unwrap();
    let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    let statement = form.strip_prefix(grant).unwrap();
    assert_eq!(
        decode_header(statement).unwrap().kid.as_deref(),
        Some("key-1")
    );
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[kit.service.url("/token")]);
    validation.set_issuer(&["push@chat-1234.iam.example"]);
    let key = DecodingKey::from_rsa_der(&kit.public);
    let claims = decode::<Value>(statement, &key, &validation)
        .unwrap()
        .claims;
    assert_eq!(
        claims["scope"],
        "https://www.googleapis.com/auth/firebase.messaging"
    );
    let lives = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert_eq!(lives, 3600);

    let push = &noted[1];
    assert_eq!(push.path, "/v1/projects/chat-1234/messages:send");
    assert_eq!(push.header("authorization"), "Bearer access-1");
    let body: Value = serde_json::from_slice(&push.body).unwrap();
    let android = json!({ "priority": "high", "ttl": "86400s", "collapse_key": "wake" });
    let message = json!({
        "token": "device:token-1", "data": { "wake": "1" }, "android": android,
    });
    assert_eq!(body, json!({ "message": message }));

    // The access token is used until it ends.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    kit.sender.wake(device.handle(&kit.sender).await).await;
    assert_eq!(
        kit.service.exactly(1).await[0].header("authorization"),
        "Bearer access-1"
    );
}

#[tokio::test]
async fn an_access_token_that_was_withdrawn_is_replaced_once() {
    let kit = started().await;
    let mut device = Device::registered(&kit.sender, google("device:token-1")).await;
    kit.gives_access("access-1");
    kit.service.answer(401, &[], "");
    kit.gives_access("access-2");
    kit.sender.wake(device.handle(&kit.sender).await).await;
    let noted = kit.service.exactly(4).await;
    assert_eq!(noted[3].header("authorization"), "Bearer access-2");
}

#[tokio::test]
async fn an_exchange_that_failed_is_not_tried_again_at_once() {
    let kit = started().await;
    let mut device = Device::registered(&kit.sender, google("device:token-1")).await;
    kit.service.answer(503, &[], "");
    kit.sender.wake(device.handle(&kit.sender).await).await;
    assert_eq!(kit.service.exactly(1).await[0].path, "/token");
    assert!(kit.sender.metrics().await.contains("push_given_up_total 1"));
}

#[tokio::test]
async fn googles_refusals_are_understood() {
    for (status, code, is_gone, requests) in [
        (404, "UNREGISTERED", true, 1),
        (403, "SENDER_ID_MISMATCH", true, 1),
        (404, "", false, 1),
        (400, "INVALID_ARGUMENT", false, 1),
        (429, "QUOTA_EXCEEDED", false, 2),
        (503, "UNAVAILABLE", false, 2),
    ] {
        let kit = started().await;
        let mut device = Device::registered(&kit.sender, google("device:token-1")).await;
        let handle = device.handle(&kit.sender).await;
        kit.gives_access("access-1");
        kit.sender.wake(handle).await;
        kit.service.exactly(2).await;
        let detail = json!({
            "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code,
        });
        let error = json!({ "error": { "code": status, "details": [detail] } });
        kit.service.answer(status, &[], &error.to_string());
        kit.sender.wake(handle).await;
        kit.service.exactly(requests).await;
        kit.sender.wake(handle).await;
        kit.service.exactly(usize::from(!is_gone)).await;
    }
}
