//! Web Push: every header, and the message as a browser would open it.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use protocol::codec::opaque;
use protocol::push::*;
use serde_json::Value;

use crate::support::{Device, PushService, Sender, registration};

pub(crate) struct Browser {
    key: PrivateKey,
    auth: [u8; 16],
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive<const N: usize>(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> [u8; N] {
    let mut derived = [0; N];
    let pseudorandom = Salt::new(HKDF_SHA256, salt).extract(secret);
    let expanded = pseudorandom.expand(info, Length(N)).unwrap();
    expanded.fill(&mut derived).unwrap();
    derived
}

impl Browser {
    pub(crate) fn new() -> Self {
        Self {
            key: PrivateKey::generate(&ECDH_P256).unwrap(),
            auth: crypto::random().unwrap(),
        }
    }

    fn public(&self) -> Vec<u8> {
        self.key.compute_public_key().unwrap().as_ref().to_vec()
    }

    pub(crate) fn subscription(&self, endpoint: &str) -> Address {
        Address::WebPush(WebPushAddress {
            endpoint: opaque(endpoint.as_bytes()),
            p256dh: opaque(self.public()),
            auth: self.auth,
        })
    }

    /// RFC 8188 §2 and RFC 8291 §3: the padded content.
    fn open(&self, message: &[u8]) -> Vec<u8> {
        let (salt, rest) = message.split_at(16);
        let (record_size, rest) = rest.split_at(4);
        assert!(u32::from_be_bytes(record_size.try_into().unwrap()) >= 18);
        let (length, rest) = rest.split_first().unwrap();
        let (sender, record) = rest.split_at(usize::from(*length));
        let peer = UnparsedPublicKey::new(&ECDH_P256, sender);
        let material: [u8; 32] = agree(&self.key, peer, (), |shared| {
            let info: [&[u8]; 3] = [b"WebPush: info\0", &self.public(), sender];
            Ok(derive(&self.auth, shared, &info))
        })
        .unwrap();
        let key: [u8; 16] = derive(salt, &material, &[b"Content-Encoding: aes128gcm\0"]);
        let nonce: [u8; 12] = derive(salt, &material, &[b"Content-Encoding: nonce\0"]);
        let mut record = record.to_vec();
        LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap())
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut record,
            )
            .unwrap()
            .to_vec()
    }
}

#[tokio::test]
async fn a_web_push_has_every_header_a_token_and_an_encrypted_message_of_no_content() {
    let service = PushService::start().await;
    let directory = tempfile::tempdir().unwrap();
    let tables = format!(
        "[web_push]\nhosts = ['127.0.0.1:{}']\nvapid_key_file = '{}'\ncontact = 'mailto:push@example.org'",
        service.port,
        directory.path().join("vapid.pk8").display(),
    );
    let sender = Sender::start_in(directory, &tables).await;
    let mut sizes = Vec::new();
    for path in ["/push/a", "/push/a-much-longer-subscription"] {
        let browser = Browser::new();
        let address = browser.subscription(&service.url(path));
        let mut device = Device::registered(&sender, address).await;
        sender.wake(device.handle(&sender).await).await;
        let noted = service.exactly(1).await.remove(0);
        assert_eq!(noted.path, path);
        for (name, value) in [
            ("ttl", "86400"),
            ("urgency", "high"),
            ("topic", "wake"),
            ("content-encoding", "aes128gcm"),
            ("content-type", "application/octet-stream"),
        ] {
            assert_eq!(noted.header(name), value, "{name}");
        }
        let authorization = noted
            .header("authorization")
            .strip_prefix("vapid t=")
            .unwrap();
        let (token, key) = authorization.split_once(", k=").unwrap();
        let key = URL_SAFE_NO_PAD.decode(key).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[service.url("")]);
        let claims = decode::<Value>(token, &DecodingKey::from_ec_der(&key), &validation);
        let claims = claims.unwrap().claims;
        assert_eq!(claims["sub"], "mailto:push@example.org");
        let lives = claims["exp"].as_u64().unwrap() - jsonwebtoken::get_current_timestamp();
        assert!((3600..=86_400).contains(&lives), "RFC 8292 §2: {lives}");

        let opened = browser.open(&noted.body);
        assert_eq!(opened[0], 2, "no content before the end of the last record");
        assert!(opened[1..].iter().all(|byte| *byte == 0));
        sizes.push(noted.body.len());
    }
    assert_eq!(sizes[0], sizes[1]);
}

#[tokio::test]
async fn a_subscription_whose_key_is_no_point_of_the_curve_is_refused() {
    let service = PushService::start().await;
    let directory = tempfile::tempdir().unwrap();
    let tables = format!(
        "[web_push]\nhosts = ['127.0.0.1:{}']\nvapid_key_file = '{}'\ncontact = 'mailto:a@b.example'",
        service.port,
        directory.path().join("vapid.pk8").display(),
    );
    let sender = Sender::start_in(directory, &tables).await;
    let address = Address::WebPush(WebPushAddress {
        endpoint: opaque(service.url("/push").as_bytes()),
        p256dh: opaque([4; 65]),
        auth: [0; 16],
    });
    let request = Device::new().request(registration(address, 0));
    assert_eq!(sender.device(request).await.0, 400);
}
