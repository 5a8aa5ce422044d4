//! How each kind of address is reached. Nothing is said but "wake up": no content, one size for all
//! devices of a kind.

mod apns;
mod encryption;
mod fcm;
mod jwt;
mod outcome;
mod pem;
mod web_push;
mod webhook;

use std::collections::HashMap;

use protocol::push::Address;
use service::tls::TlsError;

use crate::config::{Config, SendingSettings};
use crate::outbound::Outbound;
use crate::record::text;
use crate::wakes::PushId;

pub(crate) use outcome::Outcome;
pub use pem::KeyFileError;
pub(crate) use web_push::make_vapid_key;

/// Why the senders could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    #[error(
        "an entry of `hosts` is not a host, host:port or .domain, or an endpoint is no https URL"
    )]
    Hosts,
    #[error("`contact` of Web Push must begin with mailto: or https:")]
    Contact,
    #[error("an app stands twice")]
    App,
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
}

#[derive(Debug)]
pub(crate) struct Senders {
    web_push: Option<web_push::WebPush>,
    webhook: Option<webhook::Webhook>,
    apns: HashMap<String, apns::Apns>,
    fcm: HashMap<String, fcm::Fcm>,
    any: Outbound,
    http2: Outbound,
}

impl Senders {
    pub(crate) fn new(config: &Config) -> Result<Self, SenderError> {
        let sending: &SendingSettings = &config.sending;
        let web_push = config.web_push.as_ref();
        let webhook = config.webhook.as_ref();
        let senders = Self {
            web_push: web_push
                .map(|it| web_push::WebPush::new(it, sending))
                .transpose()?,
            webhook: webhook
                .map(|it| webhook::Webhook::new(it, sending))
                .transpose()?,
            apns: config
                .apns
                .iter()
                .map(|it| Ok((it.app.clone(), apns::Apns::new(it, sending)?)))
                .collect::<Result<_, SenderError>>()?,
            fcm: config
                .fcm
                .iter()
                .map(|it| Ok((it.app.clone(), fcm::Fcm::new(it, sending)?)))
                .collect::<Result<_, SenderError>>()?,
            any: Outbound::new(sending)?,
            http2: Outbound::http2(sending)?,
        };
        if senders.apns.len() != config.apns.len() || senders.fcm.len() != config.fcm.len() {
            return Err(SenderError::App);
        }
        Ok(senders)
    }

    /// Whether there is a sender for `address`, and it is of the form that one takes.
    pub(crate) fn takes(&self, address: &Address) -> bool {
        match address {
            Address::WebPush(it) => self
                .web_push
                .as_ref()
                .is_some_and(|sender| sender.takes(it)),
            Address::Webhook(it) => self.webhook.as_ref().is_some_and(|sender| sender.takes(it)),
            Address::Apns(it) => app(&self.apns, it).is_some() && apns::is_token(&it.token),
            Address::Fcm(it) => app(&self.fcm, it).is_some() && fcm::is_token(&it.token),
        }
    }

    /// Wakes the device at `address`.
    pub(crate) async fn send(&self, address: &Address, id: &PushId, now_unix_ms: u64) -> Outcome {
        let sent = match address {
            Address::WebPush(it) => match &self.web_push {
                Some(sender) => sender.send(&self.any, it, now_unix_ms).await,
                None => Ok(Outcome::Refused),
            },
            Address::Webhook(it) => match &self.webhook {
                Some(sender) => sender.send(&self.any, it, id, now_unix_ms).await,
                None => Ok(Outcome::Refused),
            },
            Address::Apns(it) => match app(&self.apns, it) {
                Some(sender) => sender.send(&self.http2, it, now_unix_ms).await,
                None => Ok(Outcome::Refused),
            },
            Address::Fcm(it) => match app(&self.fcm, it) {
                Some(sender) => sender.send(&self.any, it, now_unix_ms).await,
                None => Ok(Outcome::Refused),
            },
        };
        sent.unwrap_or_else(|failure| failure.outcome())
    }
}

/// The name of a kind of sender, for metrics.
pub(crate) fn label(address: &Address) -> &'static str {
    match address {
        Address::WebPush(_) => "web_push",
        Address::Webhook(_) => "webhook",
        Address::Apns(_) => "apns",
        Address::Fcm(_) => "fcm",
    }
}

fn app<'a, S>(
    senders: &'a HashMap<String, S>,
    address: &protocol::push::AppAddress,
) -> Option<&'a S> {
    senders.get(text(&address.app)?)
}
