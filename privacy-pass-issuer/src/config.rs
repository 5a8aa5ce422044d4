//! The issuer's configuration file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use serde::Deserialize;
use service::addresses::AddressLimitSettings;
use service::config::{ServiceConfig, ServiceSettings};
use service::cors::AllowedOrigins;
use service::http::Limits;
use service::tls::TlsSettings;

use crate::plans::{Plan, Plans};
use crate::token_keys::Rotation;
use crate::token_request::{LENGTH_PREFIX, TOKEN_REQUEST_LENGTH};

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
    #[serde(default)]
    pub burst_per_account: Option<NonZeroU32>,
    #[serde(default = "default_max_batch_size")]
    pub max_batch_size: NonZeroUsize,
    #[serde(default = "default_request_uri")]
    pub request_uri: String,
    #[serde(default = "default_directory_max_age_seconds")]
    pub directory_max_age_seconds: u32,
    /// The base URL of an OHTTP gateway whose key configurations are mirrored.
    #[serde(default)]
    pub ohttp_gateway: Option<String>,
    /// The authorities of its certificate.
    #[serde(default)]
    pub ohttp_gateway_ca_file: Option<PathBuf>,
    pub accounts: AccountSettings,
    #[serde(default)]
    pub reporting: ReportingSettings,
    #[serde(default)]
    pub plans: BTreeMap<String, Plan>,
    #[serde(default)]
    pub rotation: Rotation,
    #[serde(default)]
    pub allowed_origins: AllowedOrigins,
    pub service: ServiceSettings,
    #[serde(default = "default_limits")]
    pub limits: Limits,
    #[serde(default)]
    pub address_limits: AddressLimitSettings,
    /// Addresses of what terminates connections in front, with the PROXY protocol.
    #[serde(default)]
    pub proxies: Vec<IpAddr>,
}

impl Config {
    /// The limits of the listener: a whole batch always fits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let batch = self
            .max_batch_size
            .get()
            .saturating_mul(TOKEN_REQUEST_LENGTH)
            .saturating_add(LENGTH_PREFIX);
        Limits {
            max_body_bytes: self.limits.max_body_bytes.max(batch),
            ..self.limits
        }
    }

    #[must_use]
    pub fn plans(&self) -> Plans {
        let default = Plan {
            tokens_per_day: self.tokens_per_account_per_day,
            burst: self.burst_per_account,
        };
        Plans::new(default, self.plans.clone())
    }
}

/// The table `[accounts]`: whose account tokens are believed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccountSettings {
    pub issuer: String,
    pub audience: String,
    pub keys: Vec<String>,
    pub jwks_file: Option<PathBuf>,
    pub jwks_url: Option<String>,
    pub jwks_ca_file: Option<PathBuf>,
    pub jwks_refresh_seconds: u64,
    pub jwks_retry_seconds: u64,
    pub clock_skew_seconds: u32,
    pub plan_claim: String,
    pub development: bool,
    pub development_tokens: BTreeMap<String, String>,
}

impl Default for AccountSettings {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            keys: Vec::new(),
            jwks_file: None,
            jwks_url: None,
            jwks_ca_file: None,
            jwks_refresh_seconds: 300,
            jwks_retry_seconds: 30,
            clock_skew_seconds: 60,
            plan_claim: "plan".to_owned(),
            development: false,
            development_tokens: BTreeMap::new(),
        }
    }
}

/// Certificates end with a week: they can be valid for this many days more than the settings say.
const TO_THE_END_OF_A_WEEK: u32 = 6;
/// With fewer there would always be a next key for certificates, and another one after it.
const LEAST_KEY_DAYS: u32 = 3;

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

/// The table `[reporting]` contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportingSettingsError {
    #[error("`reporting.{0}` must be at least 1")]
    Zero(&'static str),
    #[error(
        "`reporting.key_days` must be at least {least}: keys are published two days before they sign"
    )]
    KeyDays { least: u32 },
    #[error(
        "`reporting.keep_reports_days` must be at least {least}: as long as a certificate can be valid, or the \
         same evidence would be a new report"
    )]
    KeepReports { least: u32 },
    #[error(
        "`reporting.automatic_within_days` must be 1 to `keep_reports_days`: reports that are gone do not count"
    )]
    AutomaticWithin,
}

impl ReportingSettings {
    /// # Errors
    /// [`ReportingSettingsError`].
    pub fn check(&self) -> Result<(), ReportingSettingsError> {
        use ReportingSettingsError as E;
        for (days, name) in [
            (self.certificate_days, "certificate_days"),
            (self.withhold_days, "withhold_days"),
        ] {
            if days == 0 {
                return Err(E::Zero(name));
            }
        }
        let least = LEAST_KEY_DAYS;
        if self.key_days < least {
            return Err(E::KeyDays { least });
        }
        let least = self.certificate_days.saturating_add(TO_THE_END_OF_A_WEEK);
        if self.keep_reports_days < least {
            return Err(E::KeepReports { least });
        }
        let within = 1..=self.keep_reports_days;
        if self.automatic_reporters > 0 && !within.contains(&self.automatic_within_days) {
            return Err(E::AutomaticWithin);
        }
        Ok(())
    }
}

impl ServiceConfig for Config {
    fn service(&self) -> &ServiceSettings {
        &self.service
    }
}

fn default_max_batch_size() -> NonZeroUsize {
    const { NonZeroUsize::new(100).unwrap() }
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
    use crate::attestation::JwtAttester;

    #[test]
    fn the_sample_file_is_valid() {
        let config: Config = service::config::parse(include_str!("../sample.toml")).unwrap();
        assert_eq!(config.request_uri, default_request_uri());
        assert_eq!(config.max_batch_size, default_max_batch_size());
        let max_age = config.directory_max_age_seconds.into();
        assert_eq!(config.rotation.check(max_age), Ok(()));
        assert!(config.rotation.period_seconds.is_some());
        assert_eq!(config.reporting.check(), Ok(()));
        let clock = service::SystemClock::shared();
        assert!(JwtAttester::new(&config.accounts, clock).is_ok());
        assert!(config.plans().of(Some("plus")).tokens_per_day.get() > 500);
    }

    #[test]
    fn what_identifies_the_deployment_suffices_and_a_whole_batch_fits_a_body() {
        let text = "listen = '127.0.0.1:1'\ndata_directory = 'd'\nkey_directory = 'k'\n\
                    tokens_per_account_per_day = 1\n\
                    [accounts]\nissuer = 'i'\naudience = 'a'\nkeys = []\n\
                    [service]\nadmin_listen = '127.0.0.1:3'";
        let config = service::config::parse::<Config>(text).unwrap();
        assert_eq!(config.rotation, Rotation::default());
        assert!(config.limits().max_body_bytes >= 4 + 100 * 259);
    }

    #[test]
    fn settings_of_reporting_that_contradict_each_other_are_refused() {
        use ReportingSettingsError as E;
        let refused = |change: fn(&mut ReportingSettings)| {
            let mut settings = ReportingSettings::default();
            change(&mut settings);
            settings.check().err()
        };
        assert_eq!(refused(|_| {}), None);
        assert_eq!(
            refused(|it| it.certificate_days = 0),
            Some(E::Zero("certificate_days"))
        );
        assert_eq!(
            refused(|it| it.withhold_days = 0),
            Some(E::Zero("withhold_days"))
        );
        assert_eq!(refused(|it| it.key_days = 2), Some(E::KeyDays { least: 3 }));
        assert_eq!(
            refused(|it| it.keep_reports_days = 33),
            Some(E::KeepReports { least: 34 })
        );
        assert_eq!(refused(|it| it.keep_reports_days = 34), None);
        // Nothing is counted, so nothing contradicts.
        assert_eq!(refused(|it| it.automatic_within_days = 0), None);
        for days in [0, 91] {
            let settings = ReportingSettings {
                automatic_reporters: 2,
                automatic_within_days: days,
                ..ReportingSettings::default()
            };
            assert_eq!(settings.check(), Err(E::AutomaticWithin));
        }
    }

    #[test]
    fn an_unknown_field_and_a_quota_of_nothing_are_refused() {
        let sample = include_str!("../sample.toml");
        let unknown = format!("{sample}\nmax_conections = 3\n");
        assert!(service::config::parse::<Config>(&unknown).is_err());
        for (from, to) in [
            ("per_day = 500", "per_day = 0"),
            ("max_batch_size = 100", "max_batch_size = 0"),
            ("lead_seconds", "led_seconds"),
        ] {
            assert!(sample.contains(from));
            let changed = sample.replace(from, to);
            assert!(service::config::parse::<Config>(&changed).is_err());
        }
    }
}
