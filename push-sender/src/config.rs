//! The push sender's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use service::config::{ServiceConfig, ServiceSettings};
use service::http::Limits;
use service::tls::{ClientTlsSettings, TlsSettings};

/// See `sample.toml` for what each field means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    pub gateway_secret_file: PathBuf,
    pub data_directory: PathBuf,
    pub key_file: PathBuf,
    #[serde(default)]
    pub delivery_services: Vec<DeliveryServiceSettings>,
    #[serde(default)]
    pub devices: DeviceSettings,
    #[serde(default)]
    pub pace: PaceSettings,
    #[serde(default)]
    pub sending: SendingSettings,
    #[serde(default)]
    pub web_push: Option<WebPushSettings>,
    #[serde(default)]
    pub webhook: Option<WebhookSettings>,
    #[serde(default)]
    pub apns: Vec<ApnsSettings>,
    #[serde(default)]
    pub fcm: Vec<FcmSettings>,
    pub service: ServiceSettings,
    #[serde(default)]
    pub limits: Limits,
}

/// A delivery service that may have devices woken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryServiceSettings {
    pub secret_file: PathBuf,
    /// 0: any number.
    #[serde(default)]
    pub wakes_per_second: u32,
    #[serde(default)]
    pub burst: u32,
}

/// Bounds of what is kept for devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSettings {
    pub max_devices: u64,
    pub registrations_per_hour: u32,
    /// Records with one address.
    pub records_per_address: u32,
    /// What a record may be asked in an hour.
    pub requests_per_hour: u32,
    pub handles_per_week: u32,
    pub handle_weeks: u16,
    pub revoked_handles: usize,
    pub idle_weeks: u16,
}

impl Default for DeviceSettings {
    fn default() -> Self {
        Self {
            max_devices: 1_000_000,
            registrations_per_hour: 10_000,
            records_per_address: 8,
            requests_per_hour: 240,
            handles_per_week: 2_048,
            handle_weeks: 13,
            revoked_handles: 1_024,
            idle_weeks: 26,
        }
    }
}

/// How often a device is woken at most, and how much chance there is in when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PaceSettings {
    pub prompt_ms: u64,
    pub prompt_jitter_ms: u64,
    pub batched_ms: u64,
    pub batched_jitter_ms: u64,
    /// Between two decoys for an address, on the average. 0: there are none.
    pub decoy_mean_ms: u64,
}

impl Default for PaceSettings {
    fn default() -> Self {
        Self {
            prompt_ms: 60_000,
            prompt_jitter_ms: 5_000,
            batched_ms: 1_200_000,
            batched_jitter_ms: 300_000,
            decoy_mean_ms: 21_600_000,
        }
    }
}

/// How pushes are sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SendingSettings {
    /// Devices that wait to be woken.
    pub max_pending: usize,
    /// Pushes under way, of each kind of sender.
    pub max_at_once: usize,
    pub connect_seconds: u64,
    pub answer_seconds: u64,
    /// Of one push, the first time counted.
    pub attempts: u32,
    /// The first wait before another attempt; twice as long each time.
    pub retry_ms: u64,
    /// What a push service asks to wait for is believed up to here.
    pub longest_retry_ms: u64,
    /// How long a push service keeps a push for a device that it does not reach.
    pub ttl_seconds: u32,
    /// For tests: push services on this machine, and without TLS.
    pub allow_loopback: bool,
    pub tls: ClientTlsSettings,
}

impl Default for SendingSettings {
    fn default() -> Self {
        Self {
            max_pending: 1_000_000,
            max_at_once: 128,
            connect_seconds: 10,
            answer_seconds: 20,
            attempts: 8,
            retry_ms: 5_000,
            longest_retry_ms: 3_600_000,
            ttl_seconds: 86_400,
            allow_loopback: false,
            tls: ClientTlsSettings::default(),
        }
    }
}

/// Web Push (RFC 8030).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebPushSettings {
    pub hosts: Vec<String>,
    /// P-256, PKCS#8, made by `init`.
    pub vapid_key_file: PathBuf,
    /// `mailto:` or `https:` (RFC 8292 §2.1).
    pub contact: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    pub hosts: Vec<String>,
    /// To one host, whatever the URLs are.
    #[serde(default = "default_pushes_per_minute")]
    pub pushes_per_minute: u32,
}

/// An app on Apple's devices.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApnsSettings {
    pub app: String,
    #[serde(default = "default_apns_endpoint")]
    pub endpoint: String,
    /// Apple's .p8 file.
    pub key_file: PathBuf,
    pub key_id: String,
    pub team_id: String,
    pub topic: String,
    /// Absent: a background push. Else the localisation key of the alert's title.
    #[serde(default)]
    pub alert_title_key: Option<String>,
}

/// An app that is reached by way of Google.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FcmSettings {
    pub app: String,
    #[serde(default = "default_fcm_endpoint")]
    pub endpoint: String,
    /// Google's JSON file.
    pub service_account_file: PathBuf,
}

impl ServiceConfig for Config {
    fn service(&self) -> &ServiceSettings {
        &self.service
    }
}

fn default_pushes_per_minute() -> u32 {
    600
}

fn default_apns_endpoint() -> String {
    "https://api.push.apple.com".to_owned()
}

fn default_fcm_endpoint() -> String {
    "https://fcm.googleapis.com".to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_file_is_valid_and_shows_the_defaults() {
        let config: Config = service::config::parse(include_str!("../sample.toml")).unwrap();
        assert_eq!(config.devices, DeviceSettings::default());
        assert_eq!(config.pace, PaceSettings::default());
        assert_eq!(config.sending, SendingSettings::default());
        assert_eq!(config.limits.max_body_bytes, 65_536);
        assert_eq!(config.delivery_services.len(), 1);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = include_str!("../sample.toml").replace("max_pending", "most_pending");
        assert!(service::config::parse::<Config>(&text).is_err());
    }
}
