//! Where a device is woken.

use protocol::codec::{WireSecret, opaque};
use protocol::push::{Address, AppAddress, WebPushAddress, WebhookAddress};
use zeroize::Zeroizing;

/// Where a device is woken (docs/push.md).
#[non_exhaustive]
pub enum PushAddress {
    /// A Web Push subscription (RFC 8030), as a browser gives it.
    WebPush {
        /// The push resource.
        endpoint: String,
        /// The user agent's P-256 key, an uncompressed point.
        p256dh: Vec<u8>,
        /// The authentication secret.
        auth: [u8; 16],
    },
    /// A server of the user's own, which takes a POST that is signed as Standard Webhooks says.
    Webhook {
        /// Of the server.
        url: String,
        /// Key of the HMAC.
        secret: Zeroizing<[u8; 32]>,
    },
    /// Apple's service.
    Apns {
        /// The app's name at the push sender.
        app: String,
        /// The device token, in bytes.
        token: Vec<u8>,
    },
    /// Google's service.
    Fcm {
        /// The app's name at the push sender.
        app: String,
        /// The registration token.
        token: String,
    },
}

impl std::fmt::Debug for PushAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PushAddress(..)")
    }
}

impl PushAddress {
    pub(crate) fn to_wire(&self) -> Address {
        match self {
            Self::WebPush {
                endpoint,
                p256dh,
                auth,
            } => Address::WebPush(WebPushAddress {
                endpoint: opaque(endpoint.as_bytes()),
                p256dh: opaque(p256dh.as_slice()),
                auth: *auth,
            }),
            Self::Webhook { url, secret } => Address::Webhook(WebhookAddress {
                url: opaque(url.as_bytes()),
                secret: WireSecret::new(**secret),
            }),
            Self::Apns { app, token } => Address::Apns(AppAddress {
                app: opaque(app.as_bytes()),
                token: opaque(token.as_slice()),
            }),
            Self::Fcm { app, token } => Address::Fcm(AppAddress {
                app: opaque(app.as_bytes()),
                token: opaque(token.as_bytes()),
            }),
        }
    }
}

/// How a device agrees to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushConsent {
    /// Seldom: for platforms that allow a few wake-ups an hour.
    pub batched: bool,
    /// Also without news, at random times of the push sender. The platform behind it cannot tell
    /// which wake-up is of news.
    pub decoys: bool,
}

impl PushConsent {
    pub(crate) fn to_wire(self) -> protocol::push::Consent {
        protocol::push::Consent {
            pace: if self.batched {
                protocol::push::WakePace::Batched
            } else {
                protocol::push::WakePace::Prompt
            },
            decoys: u8::from(self.decoys),
        }
    }
}
