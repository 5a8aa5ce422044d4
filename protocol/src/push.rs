//! Waking devices: what a device says to its push sender, and a delivery service to push senders
//! (`docs/push.md`).
//!
//! The push sender belongs to an operator of its own. A device reaches it through a relay and the
//! push sender's own OHTTP gateway; the gateway of a delivery service sees nothing of it.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::Wire;
use crate::codec::WireSecret;
use crate::group::PUSH_HANDLE_BYTES;

/// Where [`DeviceRequest`]s are posted, through the push sender's OHTTP gateway.
pub const DEVICE_PATH: &str = "/v1/push/device";
/// Where [`WakeRequest`]s are posted, by delivery services.
pub const WAKE_PATH: &str = "/v1/wake";
/// Media type of requests.
pub const REQUEST_MEDIA_TYPE: &str = "application/mimimi-push-request";
/// Media type of answers.
pub const RESPONSE_MEDIA_TYPE: &str = "application/mimimi-push-response";
/// What the type of every problem begins with.
pub const PROBLEM_PREFIX: &str = "urn:mimimi-push:problem:";

/// The version of everything here.
pub const VERSION: u16 = 1;
/// Signature label of a [`DeviceRequest`].
pub const DEVICE_LABEL: &str = "PushDeviceTBS";
/// Longest URL of a device, in bytes.
pub const MAX_URL_BYTES: usize = 1024;
/// Longest device token of Apple or Google, in bytes.
pub const MAX_TOKEN_BYTES: usize = 1024;
/// Longest name of an app, in bytes.
pub const MAX_APP_BYTES: usize = 64;
/// Handles in one request or answer.
pub const MAX_HANDLES: usize = 256;
/// Handles in one [`WakeRequest`].
pub const MAX_WAKES: usize = 512;
/// The longest time for which a device can say that it is awake.
pub const MAX_AWAKE_SECONDS: u16 = 3600;

/// A push handle: opaque to all but its push sender. Where a leaf has none, random bytes.
pub type Handle = [u8; PUSH_HANDLE_BYTES];

/// Where a device is reached.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Address {
    /// A subscription (RFC 8030).
    #[tls_codec(discriminant = 1)]
    WebPush(WebPushAddress),
    /// Anything that takes a signed POST.
    #[tls_codec(discriminant = 2)]
    Webhook(WebhookAddress),
    /// Apple's service.
    #[tls_codec(discriminant = 3)]
    Apns(AppAddress),
    /// Google's service.
    #[tls_codec(discriminant = 4)]
    Fcm(AppAddress),
}

/// A Web Push subscription.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WebPushAddress {
    /// The push resource: an https URL of at most [`MAX_URL_BYTES`].
    pub endpoint: VLBytes,
    /// The user agent's P-256 key, an uncompressed point of 65 bytes (RFC 8291 §3.1).
    pub p256dh: VLBytes,
    /// The authentication secret (RFC 8291 §3.2).
    pub auth: [u8; 16],
}

/// A webhook.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WebhookAddress {
    /// An https URL of at most [`MAX_URL_BYTES`].
    pub url: VLBytes,
    /// Key of the HMAC-SHA256 in each request.
    pub secret: WireSecret,
}

/// A device token of Apple or Google.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct AppAddress {
    /// The name of the app in the push sender's configuration, at most [`MAX_APP_BYTES`].
    pub app: VLBytes,
    /// As the platform gave it, at most [`MAX_TOKEN_BYTES`]. Apple's is in bytes, not in
    /// hexadecimal.
    pub token: VLBytes,
}

/// How often and how fast a device is woken at most. Without any push (`periodic`) it has no
/// record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum WakePace {
    /// Soon.
    Prompt = 1,
    /// Seldom: for platforms that allow a few wake-ups an hour.
    Batched = 2,
}

/// What a device agrees to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Consent {
    /// How often it is woken at most.
    pub pace: WakePace,
    /// 1: the push sender wakes it without news too, at random times. 0: never.
    pub decoys: u8,
}

/// A device's address and what it agrees to.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Registration {
    /// Takes the place of the address before it.
    pub address: Address,
    /// Takes the place of the consent before it.
    pub consent: Consent,
}

/// What a device wants of its record.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum DeviceAct {
    /// Makes the record, or gives it another address. The handles that are out stay good.
    #[tls_codec(discriminant = 1)]
    Register(Registration),
    /// Changes the consent alone.
    #[tls_codec(discriminant = 2)]
    SetConsent(Consent),
    /// So many fresh handles, at most [`MAX_HANDLES`].
    #[tls_codec(discriminant = 3)]
    IssueHandles(u16),
    /// Ends these handles, at most [`MAX_HANDLES`].
    #[tls_codec(discriminant = 4)]
    RevokeHandles(Vec<Handle>),
    /// Ends every handle that is out.
    #[tls_codec(discriminant = 5)]
    RevokeAllHandles,
    /// Ends the record, and every handle with it.
    #[tls_codec(discriminant = 6)]
    Remove,
    /// No push for so many seconds, at most [`MAX_AWAKE_SECONDS`]. 0: it sleeps again.
    #[tls_codec(discriminant = 7)]
    Awake(u16),
}

/// What the owner of a record signs.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeviceRequestTbs {
    /// [`VERSION`].
    pub version: u16,
    /// Ed25519. It names the record, and occurs nowhere else.
    pub owner_key: [u8; 32],
    /// Higher than in any request before: what is sent again has no second effect.
    pub number: u64,
    /// What is asked for.
    pub act: DeviceAct,
}

/// A request of a device.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeviceRequest {
    /// A [`DeviceRequestTbs`].
    pub request: VLBytes,
    /// Ed25519 by its owner key, label [`DEVICE_LABEL`].
    pub signature: [u8; 64],
}

/// The answer to a [`DeviceRequest`].
#[derive(Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeviceResponse {
    /// The handles that were asked for; else none.
    pub handles: Vec<Handle>,
}

/// A delivery service's request: handles of leaves in any groups, in any order, each of a device
/// for which there is news. The answer is the same whatever becomes of them.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WakeRequest {
    /// [`VERSION`].
    pub version: u16,
    /// At most [`MAX_WAKES`].
    pub handles: Vec<Handle>,
}

impl DeviceRequest {
    /// The signed part, of `signature` by whatever key: to be verified by the owner key in it.
    ///
    /// # Errors
    /// Its bytes are no [`DeviceRequestTbs`].
    pub fn unverified(&self) -> Result<DeviceRequestTbs, crate::DecodeError> {
        DeviceRequestTbs::decode(self.request.as_slice())
    }
}
