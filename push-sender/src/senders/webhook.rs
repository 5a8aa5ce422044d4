//! A webhook, signed as Standard Webhooks 1.0 says: any server of the device's owner.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use protocol::push::{MAX_URL_BYTES, WebhookAddress};
use service::hex;

use super::SenderError;
use super::outcome::{Failure, Outcome};
use crate::allowed::Hosts;
use crate::config::{SendingSettings, WebhookSettings};
use crate::outbound::Outbound;
use crate::record::text;
use crate::wakes::PushId;

/// All that is ever said.
const BODY: &str = "{}";

#[derive(Debug)]
pub(super) struct Webhook {
    hosts: Hosts,
}

impl Webhook {
    pub(super) fn new(
        settings: &WebhookSettings,
        sending: &SendingSettings,
    ) -> Result<Self, SenderError> {
        let hosts = Hosts::new(&settings.hosts, sending.allow_loopback);
        Ok(Self {
            hosts: hosts.ok_or(SenderError::Hosts)?,
        })
    }

    pub(super) fn takes(&self, address: &WebhookAddress) -> bool {
        address.url.as_slice().len() <= MAX_URL_BYTES
            && text(&address.url).is_some_and(|url| self.hosts.check(url).is_ok())
    }

    pub(super) async fn send(
        &self,
        http: &Outbound,
        address: &WebhookAddress,
        id: &PushId,
        now_unix_ms: u64,
    ) -> Result<Outcome, Failure> {
        let uri = self.hosts.check(text(&address.url).ok_or(Failure::Text)?)?;
        let (id, seconds) = (hex::encode(id), now_unix_ms / 1000);
        let key = hmac::Key::new(hmac::HMAC_SHA256, address.secret.expose());
        let tag = hmac::sign(&key, format!("{id}.{seconds}.{BODY}").as_bytes());
        let request = Request::post(uri)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", format!("v1,{}", STANDARD.encode(tag)))
            .body(Full::new(Bytes::from_static(BODY.as_bytes())))?;
        Ok(Outcome::of(&http.send(request, now_unix_ms).await?))
    }
}
