//! Apple's push service: HTTP/2, known by a token that is signed with a key of the operator's team.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;
use protocol::push::{AppAddress, MAX_TOKEN_BYTES};
use serde::Deserialize;
use serde_json::{Value, json};
use service::hex;
use tls_codec::VLBytes;

use super::jwt::{KeyError, SigningKey};
use super::outcome::{Failure, Outcome, Trust};
use super::{KeyFileError, SenderError, pem};
use crate::config::{ApnsSettings, SendingSettings};
use crate::outbound::{Answer, Outbound};

/// Apple refuses tokens that are older than an hour, and makers of more than one in 20 minutes.
const TOKEN_SECONDS: u64 = 40 * 60;
const REMADE_SECONDS: u64 = 20 * 60;
const COLLAPSE_ID: &str = "wake";

pub(super) struct Apns {
    endpoint: String,
    key: SigningKey,
    key_id: String,
    team_id: String,
    topic: HeaderValue,
    alert_title_key: Option<String>,
    ttl_seconds: u32,
    token: Mutex<Token>,
    trust: Trust,
}

#[derive(Default)]
struct Token {
    /// When it was made, and the header.
    current: Option<(u64, HeaderValue)>,
    /// When one was last refused before its time.
    remade_s: Option<u64>,
}

impl std::fmt::Debug for Apns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Apns(..)")
    }
}

/// Apple says of its tokens only that their length varies.
pub(super) fn is_token(token: &VLBytes) -> bool {
    (8..=MAX_TOKEN_BYTES).contains(&token.as_slice().len())
}

impl Apns {
    pub(super) fn new(
        settings: &ApnsSettings,
        sending: &SendingSettings,
    ) -> Result<Self, SenderError> {
        let wrong = || KeyFileError::Key(settings.key_file.clone());
        let key = pem::pkcs8(&pem::read(&settings.key_file)?).ok_or_else(wrong)?;
        let key = SigningKey::es256(key.secret_pkcs8_der()).map_err(|KeyError| wrong())?;
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        super::fcm::check_endpoint(&endpoint, sending)?;
        Ok(Self {
            endpoint,
            key,
            key_id: settings.key_id.clone(),
            team_id: settings.team_id.clone(),
            topic: HeaderValue::from_str(&settings.topic).map_err(|_| SenderError::App)?,
            alert_title_key: settings.alert_title_key.clone(),
            ttl_seconds: sending.ttl_seconds,
            token: Mutex::default(),
            trust: Trust::default(),
        })
    }

    pub(super) async fn send(
        &self,
        http: &Outbound,
        address: &AppAddress,
        now_unix_ms: u64,
    ) -> Result<Outcome, Failure> {
        let now_s = now_unix_ms / 1000;
        let authorization = self.authorization(now_s)?;
        let answer = self.ask(http, address, &authorization, now_unix_ms).await?;
        // Apple's clock is ahead of ours.
        if reason(&answer) != "ExpiredProviderToken" || !self.discard(&authorization, now_s) {
            return self.outcome(&answer);
        }
        let authorization = self.authorization(now_s)?;
        let answer = self.ask(http, address, &authorization, now_unix_ms).await?;
        self.outcome(&answer)
    }

    /// Whether there may be another token than the one that was refused.
    fn discard(&self, refused: &HeaderValue, now_s: u64) -> bool {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.current.as_ref().is_none_or(|(_, it)| it != refused) {
            return true;
        }
        let is_too_soon = |at_s: u64| now_s.abs_diff(at_s) < REMADE_SECONDS;
        if token.remade_s.is_some_and(is_too_soon) {
            return false;
        }
        *token = Token {
            current: None,
            remade_s: Some(now_s),
        };
        true
    }

    async fn ask(
        &self,
        http: &Outbound,
        address: &AppAddress,
        authorization: &HeaderValue,
        now_unix_ms: u64,
    ) -> Result<Answer, Failure> {
        let now_s = now_unix_ms / 1000;
        let (push_type, priority) = match self.alert_title_key {
            Some(_) => ("alert", "10"),
            // A background push with priority 10 is refused.
            None => ("background", "5"),
        };
        let device = hex::encode(address.token.as_slice());
        let request = Request::post(format!("{}/3/device/{device}", self.endpoint))
            .header(AUTHORIZATION, authorization)
            .header("apns-topic", self.topic.clone())
            .header("apns-push-type", push_type)
            .header("apns-priority", priority)
            .header("apns-collapse-id", COLLAPSE_ID)
            .header(
                "apns-expiration",
                now_s.saturating_add(self.ttl_seconds.into()),
            )
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(self.payload().to_string())))?;
        Ok(http.send(request, now_unix_ms).await?)
    }

    /// The same for all devices of an app.
    fn payload(&self) -> Value {
        match &self.alert_title_key {
            Some(key) => {
                json!({ "aps": { "alert": { "title-loc-key": key }, "mutable-content": 1 } })
            }
            None => json!({ "aps": { "content-available": 1 } }),
        }
    }

    fn authorization(&self, now_s: u64) -> Result<HeaderValue, Failure> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, value)) = &token.current
            && now_s.abs_diff(*made) < TOKEN_SECONDS
        {
            return Ok(value.clone());
        }
        let claims = json!({ "iss": self.team_id, "iat": now_s });
        let signed = self.key.sign(Some(&self.key_id), &claims)?;
        let value = HeaderValue::try_from(format!("bearer {signed}"));
        let mut value = value.map_err(http::Error::from)?;
        value.set_sensitive(true);
        token.current = Some((now_s, value.clone()));
        Ok(value)
    }

    fn outcome(&self, answer: &Answer) -> Result<Outcome, Failure> {
        Ok(match (answer.status, reason(answer).as_str()) {
            (StatusCode::GONE, _) => Outcome::Gone,
            // A topic or an endpoint that is wrong has the same reasons.
            (StatusCode::BAD_REQUEST, "BadDeviceToken" | "DeviceTokenNotForTopic") => {
                self.trust.doubtful()
            }
            (StatusCode::FORBIDDEN, _) => return Err(Failure::Credentials),
            (status, _) if status.is_success() => self.trust.sent(),
            (status, _) => Outcome::of_failure(status, answer),
        })
    }
}

#[derive(Deserialize)]
struct Reason {
    reason: String,
}

fn reason(answer: &Answer) -> String {
    serde_json::from_slice(&answer.body).map_or_else(|_| String::new(), |it: Reason| it.reason)
}
