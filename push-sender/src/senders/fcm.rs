//! Google's push service, HTTP v1: known by an access token, for which a service account's signed
//! statement is exchanged (RFC 7523 §2.1).

use std::path::Path;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;
use protocol::push::{AppAddress, MAX_TOKEN_BYTES};
use serde::Deserialize;
use serde_json::{Value, json};
use tls_codec::VLBytes;
use tokio::sync::Mutex;

use super::jwt::{KeyError, SigningKey};
use super::outcome::{Failure, Outcome, Trust};
use super::{KeyFileError, SenderError, pem};
use crate::allowed::Hosts;
use crate::config::{FcmSettings, SendingSettings};
use crate::outbound::{Answer, Outbound};
use crate::record::text;

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
const STATEMENT_SECONDS: u64 = 3600;
/// An access token is exchanged so long before it ends.
const EARLY_SECONDS: u64 = 300;
/// An exchange that failed is not tried again for so long.
const FAILED_SECONDS: u64 = 30;
const COLLAPSE_KEY: &str = "wake";

pub(super) struct Fcm {
    endpoint: String,
    account: ServiceAccount,
    key: SigningKey,
    ttl_seconds: u32,
    /// Held while a token is exchanged: once is enough.
    access: Mutex<Access>,
    trust: Trust,
}

#[derive(Default)]
struct Access {
    /// Until when it is good, and the header.
    current: Option<(u64, HeaderValue)>,
    /// Until then no other one is asked for: all pushes would wait for that.
    failed_until_s: u64,
}

impl std::fmt::Debug for Fcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fcm(..)")
    }
}

/// What of Google's file is needed beside the key.
#[derive(Deserialize)]
struct ServiceAccount {
    project_id: String,
    private_key_id: String,
    client_email: String,
    token_uri: String,
}

#[derive(Deserialize)]
struct PrivateKey {
    private_key: String,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    expires_in: u64,
}

pub(super) fn is_token(token: &VLBytes) -> bool {
    (8..=MAX_TOKEN_BYTES).contains(&token.as_slice().len())
        && text(token).is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// A URL of the operator's: https, or on this machine where the configuration says so.
pub(super) fn check_endpoint(url: &str, sending: &SendingSettings) -> Result<(), SenderError> {
    let uri: http::Uri = url.parse().map_err(|_| SenderError::Hosts)?;
    let authority = uri.authority().ok_or(SenderError::Hosts)?.to_string();
    let hosts = Hosts::new(&[authority], sending.allow_loopback).ok_or(SenderError::Hosts)?;
    hosts.check(url).map(drop).map_err(|_| SenderError::Hosts)
}

impl Fcm {
    pub(super) fn new(
        settings: &FcmSettings,
        sending: &SendingSettings,
    ) -> Result<Self, SenderError> {
        let path: &Path = &settings.service_account_file;
        let file = pem::read(path)?;
        let wrong = || KeyFileError::ServiceAccount(path.to_owned());
        let account: ServiceAccount = serde_json::from_slice(&file).map_err(|_| wrong())?;
        let key: PrivateKey = serde_json::from_slice(&file).map_err(|_| wrong())?;
        let key = pem::pkcs8(key.private_key.as_bytes()).ok_or_else(wrong)?;
        let key = SigningKey::rs256(key.secret_pkcs8_der()).map_err(|KeyError| wrong())?;
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        check_endpoint(&endpoint, sending)?;
        check_endpoint(&account.token_uri, sending)?;
        Ok(Self {
            endpoint,
            account,
            key,
            ttl_seconds: sending.ttl_seconds,
            access: Mutex::default(),
            trust: Trust::default(),
        })
    }

    pub(super) async fn send(
        &self,
        http: &Outbound,
        address: &AppAddress,
        now_unix_ms: u64,
    ) -> Result<Outcome, Failure> {
        let authorization = self.authorization(http, now_unix_ms).await?;
        let answer = self.ask(http, address, &authorization, now_unix_ms).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return self.outcome(&answer);
        }
        // It was withdrawn before its time. Another push may have replaced it meanwhile.
        let mut access = self.access.lock().await;
        access.current.take_if(|(_, it)| *it == authorization);
        drop(access);
        let authorization = self.authorization(http, now_unix_ms).await?;
        let answer = self.ask(http, address, &authorization, now_unix_ms).await?;
        self.outcome(&answer)
    }

    async fn ask(
        &self,
        http: &Outbound,
        address: &AppAddress,
        authorization: &HeaderValue,
        now_unix_ms: u64,
    ) -> Result<Answer, Failure> {
        let token = text(&address.token).ok_or(Failure::Text)?;
        let body = json!({ "message": {
            "token": token,
            "data": { "wake": "1" },
            "android": {
                "priority": "high",
                "ttl": format!("{}s", self.ttl_seconds),
                "collapse_key": COLLAPSE_KEY,
            },
        } });
        let project = &self.account.project_id;
        let request = Request::post(format!(
            "{}/v1/projects/{project}/messages:send",
            self.endpoint
        ))
        .header(AUTHORIZATION, authorization)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
        Ok(http.send(request, now_unix_ms).await?)
    }

    async fn authorization(
        &self,
        http: &Outbound,
        now_unix_ms: u64,
    ) -> Result<HeaderValue, Failure> {
        let now_s = now_unix_ms / 1000;
        let mut access = self.access.lock().await;
        if let Some((good_until, value)) = &access.current
            && now_s < *good_until
        {
            return Ok(value.clone());
        }
        if now_s < access.failed_until_s {
            return Err(crate::outbound::Unreachable.into());
        }
        let given = self.exchange(http, now_unix_ms).await;
        match &given {
            Ok(given) => access.current = Some(given.clone()),
            Err(_) => access.failed_until_s = now_s.saturating_add(FAILED_SECONDS),
        }
        Ok(given?.1)
    }

    /// A new access token: until when it is good, and the header.
    async fn exchange(
        &self,
        http: &Outbound,
        now_unix_ms: u64,
    ) -> Result<(u64, HeaderValue), Failure> {
        let now_s = now_unix_ms / 1000;
        let claims = json!({
            "iss": self.account.client_email,
            "scope": SCOPE,
            "aud": self.account.token_uri,
            "iat": now_s,
            "exp": now_s.saturating_add(STATEMENT_SECONDS),
        });
        let key_id = Some(self.account.private_key_id.as_str());
        let statement = self.key.sign(key_id, &claims)?;
        let body = format!("grant_type={GRANT}&assertion={statement}");
        let request = Request::post(&self.account.token_uri)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(body)))?;
        let answer = http.send(request, now_unix_ms).await?;
        if answer.status.is_client_error() && answer.status != StatusCode::TOO_MANY_REQUESTS {
            return Err(Failure::Credentials);
        }
        let given: Given =
            serde_json::from_slice(&answer.body).map_err(|_| crate::outbound::Unreachable)?;
        let value = HeaderValue::try_from(format!("Bearer {}", given.access_token));
        let mut value = value.map_err(http::Error::from)?;
        value.set_sensitive(true);
        let good_for = given.expires_in.saturating_sub(EARLY_SECONDS);
        Ok((now_s.saturating_add(good_for), value))
    }

    /// `UNREGISTERED` comes with 404 and says that the token is gone; a 404 without it, that the
    /// project is unknown.
    fn outcome(&self, answer: &Answer) -> Result<Outcome, Failure> {
        let code = error_code(&answer.body);
        Ok(match (answer.status, code.as_deref()) {
            (status, _) if status.is_success() => self.trust.sent(),
            (StatusCode::NOT_FOUND, Some("UNREGISTERED")) => Outcome::Gone,
            // A token of another project, or our own project is another one.
            (StatusCode::FORBIDDEN, Some("SENDER_ID_MISMATCH")) => self.trust.doubtful(),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _) => {
                return Err(Failure::Credentials);
            }
            (status, _) => Outcome::of_failure(status, answer),
        })
    }
}

/// `error.details[…].errorCode`.
fn error_code(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let details = body.get("error")?.get("details")?.as_array()?;
    let code = details.iter().find_map(|detail| detail.get("errorCode"))?;
    code.as_str().map(str::to_owned)
}
