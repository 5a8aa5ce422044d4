//! The relay's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use service::config::{ServiceConfig, ServiceSettings};
use service::http::Limits;

/// See `sample.toml` for what each field means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    /// The gateway's base URL.
    pub gateway: String,
    /// Where the gateway knows its relays by a secret: the file with ours.
    #[serde(default)]
    pub relay_secret_file: Option<PathBuf>,
    #[serde(default = "default_forward_seconds")]
    pub forward_seconds: u64,
    #[serde(default = "default_connect_seconds")]
    pub connect_seconds: u64,
    #[serde(default = "default_max_response_bytes")]
    pub max_response_bytes: usize,
    #[serde(default = "default_idle_connections")]
    pub idle_connections: usize,
    pub service: ServiceSettings,
    #[serde(default)]
    pub limits: Limits,
}

impl ServiceConfig for Config {
    fn service(&self) -> &ServiceSettings {
        &self.service
    }
}

impl Config {
    /// How long an exchange may go on after the shutdown was requested.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.service.drain_seconds) / 2
    }
}

fn default_forward_seconds() -> u64 {
    75
}

fn default_connect_seconds() -> u64 {
    5
}

fn default_max_response_bytes() -> usize {
    4 * 1024 * 1024 + 128 * 1024
}

fn default_idle_connections() -> usize {
    64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_file_is_valid() {
        let config: Config = service::config::parse(include_str!("../sample.toml")).unwrap();
        assert_eq!(config.forward_seconds, default_forward_seconds());
    }

    #[test]
    fn addresses_suffice() {
        let text = "listen = '127.0.0.1:1'\ngateway = 'http://127.0.0.1:2/'\n\
                    [service]\nadmin_listen = '127.0.0.1:3'";
        assert!(service::config::parse::<Config>(text).is_ok());
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = concat!(include_str!("../sample.toml"), "\nmax_conections = 3\n");
        assert!(service::config::parse::<Config>(text).is_err());
    }
}
