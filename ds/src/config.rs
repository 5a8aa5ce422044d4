//! The delivery service's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::directory::Prices;
use serde::Deserialize;
use service::config::{ServiceConfig, ServiceSettings};
use service::http::Limits;

use crate::store::postgres::PostgresSettings;

/// See `sample.toml` for what each field means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    pub domain: String,
    pub service_key_file: PathBuf,
    pub gateway_secret_file: PathBuf,
    #[serde(default = "default_retention_days")]
    pub retention_days: u32,
    pub store: StoreSettings,
    pub issuer: IssuerSettings,
    #[serde(default = "default_prices")]
    pub prices: Prices,
    #[serde(default)]
    pub leaf_allowance: AllowanceSettings,
    pub service: ServiceSettings,
    #[serde(default)]
    pub limits: Limits,
}

/// Which engine keeps the data.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "engine", rename_all = "lowercase")]
pub enum StoreSettings {
    Rocksdb { directory: PathBuf },
    Postgres(PostgresSettings),
    Memory,
}

/// The Privacy Pass issuer whose tokens are taken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    pub name: String,
    pub origin: String,
    pub directory: String,
    #[serde(default = "default_refresh_seconds")]
    pub refresh_seconds: u64,
}

/// A token bucket for each leaf in each group.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowanceSettings {
    pub capacity: u32,
    pub refill_per_minute: u32,
    pub max_buckets: usize,
}

impl Default for AllowanceSettings {
    fn default() -> Self {
        Self {
            capacity: 300,
            refill_per_minute: 60,
            max_buckets: 1_000_000,
        }
    }
}

impl ServiceConfig for Config {
    fn service(&self) -> &ServiceSettings {
        &self.service
    }
}

fn default_retention_days() -> u32 {
    30
}

fn default_refresh_seconds() -> u64 {
    600
}

fn default_prices() -> Prices {
    Prices {
        reserve_group_id: 1,
        publish_key_packages: 1,
        claim_key_package: 1,
        register_handle: 1,
        lookup_handle: 1,
        request_connection: 1,
        create_queue: 1,
        external_join: 1,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_file_is_a_valid_configuration() {
        let config: Config = service::config::parse(include_str!("../sample.toml")).unwrap();
        assert_eq!(config.prices, default_prices());
    }

    #[test]
    fn the_sample_shows_every_setting_of_each_engine() {
        let sample = include_str!("../sample.toml");
        let (before, store) = sample.split_once("engine = \"rocksdb\"").unwrap();
        let (_, store) = store.split_once("\n# engine").unwrap();
        let (postgres, after) = store.split_once("\n\n").unwrap();
        // Commented out: a setting has one "# " before it, a comment two.
        let postgres = postgres.replace("\n# ", "\n");
        let text = format!("{before}engine{postgres}\n\n{after}");
        let config: Config = service::config::parse(&text).unwrap();
        assert!(matches!(&config.store, StoreSettings::Postgres(settings)
            if settings.connections == 16 && settings.password_file.is_some()));
        let unknown = text.replace("statement_ms", "statement_us");
        assert!(service::config::parse::<Config>(&unknown).is_err());
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = format!("unknown = 1\n{}", include_str!("../sample.toml"));
        assert!(service::config::parse::<Config>(&text).is_err());
    }
}
