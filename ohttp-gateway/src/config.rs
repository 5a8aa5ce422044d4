//! The gateway's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use oblivious::Kem;
use serde::Deserialize;
use service::addresses::AddressLimitSettings;
use service::config::{ServiceConfig, ServiceSettings};
use service::http::Limits;
use service::outward::HttpVersion;
use service::tls::TlsSettings;

/// See `sample.toml` for what each field means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    pub gateway_secret_file: PathBuf,
    #[serde(default)]
    pub target_ca_file: Option<PathBuf>,
    #[serde(default = "default_forward_seconds")]
    pub forward_seconds: u64,
    #[serde(default = "default_connect_seconds")]
    pub connect_seconds: u64,
    #[serde(default = "default_max_response_bytes")]
    pub max_response_bytes: usize,
    #[serde(default = "default_idle_connections")]
    pub idle_connections: usize,
    #[serde(default = "default_http2_connections")]
    pub http2_connections: usize,
    #[serde(default)]
    pub target_http: HttpVersion,
    #[serde(default = "default_directory_path")]
    pub directory_path: String,
    #[serde(default = "default_feed_path")]
    pub feed_path: String,
    pub keys: KeySettings,
    pub targets: Vec<TargetSettings>,
    #[serde(default)]
    pub relays: Vec<RelaySettings>,
    #[serde(default)]
    pub relay_limit: RelayLimit,
    #[serde(default)]
    pub replay: ReplaySettings,
    #[serde(default)]
    pub stream: StreamSettings,
    pub service: ServiceSettings,
    #[serde(default)]
    pub limits: Limits,
    /// Of one address, that of a relay or a stranger's; 0: any number.
    #[serde(default = "default_connections_of_address")]
    pub connections_of_address: u32,
    /// New ones of one address, in a second; as many at once as it may have. 0: any number.
    #[serde(default = "default_new_connections_of_address_per_second")]
    pub new_connections_of_address_per_second: u32,
}

/// The gateway's own key pairs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    pub directory: PathBuf,
    #[serde(default = "default_kems")]
    pub kems: Vec<Kem>,
    /// 0: only by command.
    #[serde(default = "default_rotation_seconds")]
    pub rotation_seconds: u64,
    #[serde(default = "default_overlap_seconds")]
    pub overlap_seconds: u64,
    #[serde(default = "default_max_age_seconds")]
    pub max_age_seconds: u64,
}

/// An entry of the allow-list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSettings {
    pub scheme: String,
    pub authority: String,
    pub methods: Vec<String>,
    pub path_prefix: String,
    pub forward_to: String,
}

/// A relay that may send requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelaySettings {
    pub secret_file: PathBuf,
    /// In place of the limit for every relay.
    #[serde(default)]
    pub limit: Option<RelayLimit>,
}

/// How many requests a relay may send; 0 a second for any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayLimit {
    pub requests_per_second: u32,
    /// As many may come at once.
    pub burst: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplaySettings {
    pub window_seconds: u64,
    pub max_entries: usize,
    pub require_date: bool,
    pub date_seconds: u64,
}

impl Default for ReplaySettings {
    fn default() -> Self {
        Self {
            window_seconds: 600,
            max_entries: 500_000,
            require_date: true,
            date_seconds: 300,
        }
    }
}

/// Responses that are passed on while the target still makes them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSettings {
    pub idle_seconds: u64,
    pub total_seconds: u64,
    pub max_bytes: u64,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            idle_seconds: 70,
            total_seconds: 900,
            max_bytes: 64 * 1024 * 1024,
        }
    }
}

impl ServiceConfig for Config {
    fn service(&self) -> &ServiceSettings {
        &self.service
    }
}

impl Config {
    /// Requests are limited by relay: many clients come from the address of one.
    pub(crate) fn address_limits(&self) -> AddressLimitSettings {
        AddressLimitSettings {
            max_connections: self.connections_of_address,
            connections_per_second: self.new_connections_of_address_per_second,
            burst: self.connections_of_address,
            addresses_of_network: AddressLimitSettings::default().addresses_of_network,
            ..AddressLimitSettings::NONE
        }
    }

    /// How long an exchange may go on after the shutdown was requested.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.service.drain_seconds) / 2
    }
}

fn default_forward_seconds() -> u64 {
    70
}

fn default_connect_seconds() -> u64 {
    5
}

fn default_max_response_bytes() -> usize {
    4 * 1024 * 1024
}

fn default_idle_connections() -> usize {
    64
}

fn default_http2_connections() -> usize {
    4
}

fn default_connections_of_address() -> u32 {
    1024
}

fn default_new_connections_of_address_per_second() -> u32 {
    100
}

fn default_feed_path() -> String {
    "/v1/feed".to_owned()
}

fn default_directory_path() -> String {
    "/v1/directory".to_owned()
}

fn default_kems() -> Vec<Kem> {
    vec![Kem::XWing, Kem::X25519]
}

fn default_rotation_seconds() -> u64 {
    30 * 86_400
}

fn default_overlap_seconds() -> u64 {
    2 * 86_400
}

fn default_max_age_seconds() -> u64 {
    3600
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_file_is_valid_and_shows_the_defaults() {
        let config: Config = service::config::parse(include_str!("../sample.toml")).unwrap();
        let defaults = ReplaySettings::default();
        assert_eq!(config.replay.window_seconds, defaults.window_seconds);
        assert_eq!(config.replay.max_entries, defaults.max_entries);
        assert_eq!(config.stream, StreamSettings::default());
        assert!(config.relays.is_empty());
        assert_eq!(config.relay_limit, RelayLimit::default());
        assert_eq!(config.forward_seconds, default_forward_seconds());
        assert_eq!(
            config.connections_of_address,
            default_connections_of_address()
        );
        assert_eq!(
            config.new_connections_of_address_per_second,
            default_new_connections_of_address_per_second()
        );
        assert_eq!(config.directory_path, default_directory_path());
        assert_eq!(config.feed_path, default_feed_path());
        assert_eq!(config.keys.kems, default_kems());
        assert_eq!(config.keys.rotation_seconds, default_rotation_seconds());
        assert_eq!(config.keys.overlap_seconds, default_overlap_seconds());
        assert_eq!(config.keys.max_age_seconds, default_max_age_seconds());
        assert_eq!(
            config.limits.max_body_bytes,
            Limits::default().max_body_bytes
        );
    }

    #[test]
    fn what_the_operating_document_adds_to_the_sample_is_valid() {
        let document = include_str!("../../docs/operating-ohttp.md");
        let mut shown = document.split("```toml\n").skip(2);
        let gateway = shown.next().and_then(|rest| rest.split("```").next());
        let text = format!("{}\n{}", include_str!("../sample.toml"), gateway.unwrap());
        let config: Config = service::config::parse(&text).unwrap();
        assert!(config.tls.is_some_and(|tls| tls.client_ca_file.is_some()));
        assert_eq!(config.relays.len(), 1);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = include_str!("../sample.toml").replace("require_date", "requires_date");
        assert!(service::config::parse::<Config>(&text).is_err());
    }
}
