//! The issuer's configuration file.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::Deserialize;
use service::config::{ServiceConfig, ServiceSettings};
use service::http::Limits;
use service::tls::TlsSettings;

/// See `sample.toml` for what each field means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    pub data_directory: PathBuf,
    pub key_directory: PathBuf,
    pub tokens_per_account_per_day: NonZeroU32,
    #[serde(default = "default_request_uri")]
    pub request_uri: String,
    #[serde(default = "default_directory_max_age_seconds")]
    pub directory_max_age_seconds: u32,
    /// The base URL of an OHTTP gateway whose key configurations are mirrored.
    #[serde(default)]
    pub ohttp_gateway: Option<String>,
    pub accounts: AccountSettings,
    #[serde(default)]
    pub reporting: ReportingSettings,
    pub service: ServiceSettings,
    #[serde(default = "default_limits")]
    pub limits: Limits,
}

/// The table `[accounts]`: whose account tokens are believed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSettings {
    pub issuer: String,
    pub audience: String,
    pub keys: Vec<String>,
}

/// The table `[reporting]`: certificates, and what becomes of reports.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportingSettings {
    pub required: bool,
    pub certificate_days: u32,
    pub certificates_per_account_per_day: NonZeroU32,
    pub reports_per_account_per_day: NonZeroU32,
    pub keep_reports_days: u32,
    pub withhold_days: u32,
    pub automatic_reporters: u32,
    pub automatic_within_days: u32,
    pub key_days: u32,
}

impl Default for ReportingSettings {
    fn default() -> Self {
        const TEN: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
        Self {
            required: false,
            certificate_days: 28,
            certificates_per_account_per_day: TEN,
            reports_per_account_per_day: TEN,
            keep_reports_days: 90,
            withhold_days: 30,
            automatic_reporters: 0,
            automatic_within_days: 14,
            key_days: 90,
        }
    }
}

impl ServiceConfig for Config {
    fn service(&self) -> &ServiceSettings {
        &self.service
    }
}

fn default_request_uri() -> String {
    crate::http::TOKEN_REQUEST_PATH.to_owned()
}

fn default_directory_max_age_seconds() -> u32 {
    3600
}

fn default_limits() -> Limits {
    Limits {
        max_body_bytes: 1024,
        ..Limits::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::accounts::AccountVerifier;

    #[test]
    fn the_sample_file_is_valid() {
        let config: Config = service::config::parse(include_str!("../sample.toml")).unwrap();
        assert_eq!(config.request_uri, default_request_uri());
        assert_eq!(
            config.limits.max_body_bytes,
            default_limits().max_body_bytes
        );
        assert!(AccountVerifier::new(&config.accounts).is_ok());
    }

    #[test]
    fn what_identifies_the_deployment_suffices() {
        let text = "listen = '127.0.0.1:1'\ndata_directory = 'd'\nkey_directory = 'k'\n\
                    tokens_per_account_per_day = 1\n\
                    [accounts]\nissuer = 'i'\naudience = 'a'\nkeys = []\n\
                    [service]\nadmin_listen = '127.0.0.1:3'";
        assert!(service::config::parse::<Config>(text).is_ok());
    }

    #[test]
    fn an_unknown_field_and_a_quota_of_nothing_are_refused() {
        let sample = include_str!("../sample.toml");
        let unknown = format!("{sample}\nmax_conections = 3\n");
        assert!(service::config::parse::<Config>(&unknown).is_err());
        let nothing = sample.replace("per_day = 500", "per_day = 0");
        assert!(service::config::parse::<Config>(&nothing).is_err());
    }
}
