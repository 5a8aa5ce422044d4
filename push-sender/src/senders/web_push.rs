//! Web Push (RFC 8030) with an encrypted message of no content (RFC 8291), known to the push
//! service by VAPID (RFC 8292).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, Request, Uri};
use http_body_util::Full;
use protocol::push::{MAX_URL_BYTES, WebPushAddress};
use service::secret_file::{self, SecretFileError};
use zeroize::Zeroizing;

use super::jwt::{KeyError, SigningKey};
use super::outcome::{Failure, Outcome};
use super::{SenderError, encryption};
use crate::allowed::Hosts;
use crate::config::{SendingSettings, WebPushSettings};
use crate::outbound::Outbound;
use crate::record::text;

/// Zeros behind the content, which is empty: every message has one size.
const PADDING: usize = 32;
/// Bytes of a P-256 key as PKCS#8.
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 100..=200;
/// Half of what a token may live (RFC 8292 §2).
const TOKEN_SECONDS: u64 = 12 * 3600;
/// Push services that a token is kept for.
const MOST_TOKENS: usize = 1024;
/// A later push takes the place of one that still waits (RFC 8030 §5.4): the same for everybody.
const TOPIC: &str = "wake";

pub(super) struct WebPush {
    hosts: Hosts,
    key: SigningKey,
    contact: String,
    ttl_seconds: u32,
    /// By origin: until when it is good, and the header.
    tokens: Mutex<HashMap<String, (u64, HeaderValue)>>,
}

impl std::fmt::Debug for WebPush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebPush(..)")
    }
}

/// Makes the key by which push services know this push sender, if there is none.
pub(crate) fn make_vapid_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let fresh = || {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map(|key| Zeroizing::new(key.as_ref().to_vec()))
            .map_err(|_| SecretFileError::NoRandomness)
    };
    secret_file::load_or_create_with(path, fresh, KEY_LENGTHS)
}

impl WebPush {
    pub(super) fn new(
        settings: &WebPushSettings,
        sending: &SendingSettings,
    ) -> Result<Self, SenderError> {
        let key = secret_file::load_between(&settings.vapid_key_file, KEY_LENGTHS)
            .map_err(super::KeyFileError::from)?;
        let key = SigningKey::es256(&key)
            .map_err(|KeyError| super::KeyFileError::Key(settings.vapid_key_file.clone()))?;
        let contact = settings.contact.clone();
        if !contact.starts_with("mailto:") && !contact.starts_with("https:") {
            return Err(SenderError::Contact);
        }
        Ok(Self {
            hosts: Hosts::new(&settings.hosts, sending.allow_loopback).ok_or(SenderError::Hosts)?,
            key,
            contact,
            ttl_seconds: sending.ttl_seconds,
            tokens: Mutex::new(HashMap::new()),
        })
    }

    pub(super) fn takes(&self, address: &WebPushAddress) -> bool {
        address.endpoint.as_slice().len() <= MAX_URL_BYTES
            && text(&address.endpoint).is_some_and(|url| self.hosts.check(url).is_ok())
            && encryption::encrypt(address.p256dh.as_slice(), &address.auth, &[], PADDING).is_ok()
    }

    pub(super) async fn send(
        &self,
        http: &Outbound,
        address: &WebPushAddress,
        now_unix_ms: u64,
    ) -> Result<Outcome, Failure> {
        let uri = self
            .hosts
            .check(text(&address.endpoint).ok_or(Failure::Text)?)?;
        let authorization = self.authorization(&uri, now_unix_ms / 1000)?;
        let message = encryption::encrypt(address.p256dh.as_slice(), &address.auth, &[], PADDING)?;
        let request = Request::post(uri)
            .header(AUTHORIZATION, authorization)
            .header("ttl", self.ttl_seconds)
            .header("urgency", "high")
            .header("topic", TOPIC)
            .header(CONTENT_ENCODING, "aes128gcm")
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Full::new(Bytes::from(message)))?;
        Ok(Outcome::of(&http.send(request, now_unix_ms).await?))
    }

    fn authorization(&self, uri: &Uri, now_s: u64) -> Result<HeaderValue, Failure> {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or("https"));
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((good_until, value)) = tokens.get(&origin)
            && now_s < *good_until
        {
            return Ok(value.clone());
        }
        let expires = now_s.saturating_add(TOKEN_SECONDS);
        let claims = serde_json::json!({ "aud": origin, "exp": expires, "sub": self.contact });
        let token = self.key.sign(None, &claims)?;
        let value = format!("vapid t={token}, k={}", self.key.public_point());
        let mut value = HeaderValue::try_from(value).map_err(http::Error::from)?;
        value.set_sensitive(true);
        if tokens.len() >= MOST_TOKENS {
            tokens.clear();
        }
        // Another one is made while this one is still good.
        let good_until = now_s.saturating_add(TOKEN_SECONDS / 2);
        tokens.insert(origin, (good_until, value.clone()));
        Ok(value)
    }
}
