//! Being woken.

use zeroize::Zeroizing;

use client::UsageError;

use crate::{Answer, Client, ClientError};

/// Where a device is woken.
#[derive(Clone, uniffi::Enum)]
pub enum PushAddress {
    /// A Web Push subscription, as a browser gives it.
    WebPush {
        /// The push resource.
        endpoint: String,
        /// The user agent's P-256 key, an uncompressed point.
        p256dh: Vec<u8>,
        /// The authentication secret, 16 bytes.
        auth: Vec<u8>,
    },
    /// A server of the user's own, which takes a POST that is signed as Standard Webhooks says.
    Webhook {
        /// Of the server.
        url: String,
        /// Key of the HMAC, 32 bytes.
        secret: Vec<u8>,
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

impl PushAddress {
    fn for_sdk(self) -> Answer<client::PushAddress> {
        let wrong = |_| ClientError::from(UsageError::InvalidPushAddress);
        Ok(match self {
            Self::WebPush {
                endpoint,
                p256dh,
                auth,
            } => client::PushAddress::WebPush {
                endpoint,
                p256dh,
                auth: auth.try_into().map_err(wrong)?,
            },
            Self::Webhook { url, secret } => client::PushAddress::Webhook {
                url,
                secret: Zeroizing::new(secret.try_into().map_err(wrong)?),
            },
            Self::Apns { app, token } => client::PushAddress::Apns { app, token },
            Self::Fcm { app, token } => client::PushAddress::Fcm { app, token },
        })
    }
}

/// How a device agrees to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct PushConsent {
    /// Seldom: for platforms that allow a few wake-ups an hour.
    #[uniffi(default = false)]
    pub batched: bool,
    /// Also without news, at random times of the push sender. The platform behind it cannot tell
    /// which wake-up is of news.
    #[uniffi(default = false)]
    pub decoys: bool,
}

#[uniffi::export]
impl Client {
    /// Has this device woken at an address when there is news, until `remove_push`. Again: at
    /// another address, which no group learns of. Groups that this client is in already bring
    /// handles at times of their own, in the next hours. The push sender learns when the device is
    /// woken, and with whom at about the same time.
    ///
    /// Fails with `no-push-sender`, `invalid-push-address`, or refused with `push-refused`.
    pub async fn register_push(&self, address: PushAddress, consent: PushConsent) -> Answer<()> {
        let PushConsent { batched, decoys } = consent;
        let consent = client::PushConsent { batched, decoys };
        Ok(self.sdk.register_push(address.for_sdk()?, consent).await?)
    }

    /// Has this device woken no more.
    ///
    /// Fails with `not-woken`.
    pub async fn remove_push(&self) -> Answer<()> {
        Ok(self.sdk.remove_push().await?)
    }

    /// Says to the push sender that this device reads by itself for so many seconds, an hour at
    /// most; with 0, that it sleeps again.
    ///
    /// Fails with `not-woken`.
    pub async fn awake(&self, seconds: u16) -> Answer<()> {
        Ok(self.sdk.awake(seconds).await?)
    }
}
