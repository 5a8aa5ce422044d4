//! Apple's service, in the shape of its documentation: "Sending notification requests to APNs",
//! "Establishing a token-based connection to APNs", "Handling notification responses from APNs".

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use http::Version;
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

async fn started(more: &str) -> Kit {
    let service = PushService::start().await;
    let directory = tempfile::tempdir().unwrap();
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref()).unwrap();
    let file = directory.path().join("AuthKey.p8");
    write_secret(&file, &pem(key.as_ref()));
    let tables = format!(
        "[[apns]]\napp = 'chat'\nendpoint = '{}'\nkey_file = '{}'\nkey_id = 'ABC123DEFG'\n\
         team_id = 'DEF123GHIJ'\ntopic = 'org.example.chat'\n{more}\n",
        service.url(""),
        file.display(),
    );
    Kit {
        service,
        sender: Sender::start_in(directory, &tables).await,
        public: pair.public_key().as_ref().to_vec(),
    }
}

fn apple(token: &[u8]) -> Address {
    Address::Apns(AppAddress {
        app: opaque(*b"chat"),
        token: opaque(token),
    })
}

#[tokio::test]
async fn a_push_by_apple_is_what_apple_documents_and_has_no_content() {
    let Kit {
        service,
        sender,
        public,
    } = started("").await;
    let mut device = Device::registered(&sender, apple(&[0xAB; 32])).await;
    let before = jsonwebtoken::get_current_timestamp();
    sender.wake(device.handle(&sender).await).await;
    let noted = service.exactly(1).await.remove(0);
    assert_eq!(noted.version, Version::HTTP_2);
    assert_eq!(noted.path, format!("/3/device/{}", "ab".repeat(32)));
    for (name, value) in [
        ("apns-topic", "org.example.chat"),
        ("apns-push-type", "background"),
        ("apns-priority", "5"),
        ("apns-collapse-id", "wake"),
    ] {
        assert_eq!(noted.header(name), value, "{name}");
    }
    let expiration: u64 = noted.header("apns-expiration").parse().unwrap();
    assert!((before + 86_400..before + 86_500).contains(&expiration));
    let body: Value = serde_json::from_slice(&noted.body).unwrap();
    assert_eq!(body, json!({ "aps": { "content-available": 1 } }));

    let token = noted
        .header("authorization")
        .strip_prefix("bearer ")
        .unwrap();
    let header = decode_header(token).unwrap();
    assert_eq!(header.alg, Algorithm::ES256);
    assert_eq!(header.kid.as_deref(), Some("ABC123DEFG"));
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    let claims = decode::<Value>(token, &DecodingKey::from_ec_der(&public), &validation);
    let claims = claims.unwrap().claims;
    assert_eq!(claims["iss"], "DEF123GHIJ");
    let issued = claims["iat"].as_u64().unwrap();
    assert!((before..before + 60).contains(&issued));

    // Apple refuses who makes a new token for each push.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let token = token.to_owned();
    sender.wake(device.handle(&sender).await).await;
    let noted = service.exactly(1).await.remove(0);
    assert_eq!(noted.header("authorization"), format!("bearer {token}"));
}

#[tokio::test]
async fn an_alert_is_the_same_for_everybody() {
    let Kit {
        service, sender, ..
    } = started("alert_title_key = 'NEWS'").await;
    let mut device = Device::registered(&sender, apple(&[1; 32])).await;
    sender.wake(device.handle(&sender).await).await;
    let noted = service.exactly(1).await.remove(0);
    assert_eq!(noted.header("apns-push-type"), "alert");
    assert_eq!(noted.header("apns-priority"), "10");
    let body: Value = serde_json::from_slice(&noted.body).unwrap();
    let alert = json!({ "alert": { "title-loc-key": "NEWS" }, "mutable-content": 1 });
    assert_eq!(body, json!({ "aps": alert }));
}

#[tokio::test]
async fn apples_refusals_are_understood() {
    // Status, reason, whether the token is dropped, how many requests there are.
    for (status, reason, is_gone, requests) in [
        (410, "Unregistered", true, 1),
        (400, "BadDeviceToken", true, 1),
        (400, "DeviceTokenNotForTopic", true, 1),
        (400, "PayloadEmpty", false, 1),
        (403, "InvalidProviderToken", false, 1),
        (403, "ExpiredProviderToken", false, 2),
        (429, "TooManyRequests", false, 2),
        (503, "Shutdown", false, 2),
    ] {
        let Kit {
            service, sender, ..
        } = started("").await;
        let mut device = Device::registered(&sender, apple(&[1; 32])).await;
        let handle = device.handle(&sender).await;
        sender.wake(handle).await;
        service.exactly(1).await;
        service.answer(status, &[], &json!({ "reason": reason }).to_string());
        sender.wake(handle).await;
        let noted = service.exactly(requests).await;
        if reason == "ExpiredProviderToken" {
            let tokens: Vec<_> = noted.iter().map(|it| it.header("authorization")).collect();
            assert_ne!(tokens[0], tokens[1]);
        }
        sender.wake(handle).await;
        service.exactly(usize::from(!is_gone)).await;
    }
}

#[tokio::test]
async fn what_a_wrong_topic_may_cause_drops_no_address_before_a_push_was_taken() {
    let Kit {
        service, sender, ..
    } = started("").await;
    let mut device = Device::registered(&sender, apple(&[1; 32])).await;
    let handle = device.handle(&sender).await;
    for _ in 0..2 {
        service.answer(400, &[], &json!({ "reason": "BadDeviceToken" }).to_string());
        sender.wake(handle).await;
        service.exactly(1).await;
    }
    sender.wake(handle).await;
    service.exactly(1).await;
}

#[tokio::test]
async fn apple_is_not_sent_a_new_token_for_each_one_that_it_refuses() {
    let Kit {
        service, sender, ..
    } = started("").await;
    let mut device = Device::registered(&sender, apple(&[1; 32])).await;
    let handle = device.handle(&sender).await;
    let expired = json!({ "reason": "ExpiredProviderToken" }).to_string();
    service.answer(403, &[], &expired);
    sender.wake(handle).await;
    service.exactly(2).await;
    service.answer(403, &[], &expired);
    sender.wake(handle).await;
    service.exactly(1).await;
}

#[tokio::test]
async fn an_app_that_is_not_configured_is_refused() {
    let Kit { sender, .. } = started("").await;
    let address = Address::Apns(AppAddress {
        app: opaque(*b"other"),
        token: opaque([1; 32]),
    });
    let request = Device::new().request(crate::support::registration(address, 0));
    assert_eq!(sender.device(request).await.0, 400);
}
