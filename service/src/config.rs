//! Configuration files: TOML, every unknown field an error.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::logging::{LogFormat, LogLevel};

/// The command line of every binary.
#[derive(clap::Parser, Debug)]
pub struct CommandLine {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// The command line of a binary that has a store.
#[derive(clap::Parser, Debug)]
pub struct StoreCommandLine<K: clap::ValueEnum + Send + Sync + 'static> {
    /// Without it the service runs.
    #[arg(value_enum)]
    pub command: Option<K>,
    #[command(flatten)]
    pub shared: CommandLine,
}

/// What is done beside running, where there is no more to do.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitCommand {
    /// Makes a new store with its key files, in an empty place, and ends.
    Init,
}

/// What is done beside running, where clients keep what the store may have lost.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreCommand {
    /// Makes a new store with its key files, in an empty place, and ends.
    Init,
    /// Has clients told that the store was restored from a backup, and ends. To be said before the
    /// service is started on it.
    Restored,
}

/// Why a configuration could not be used. The text names fields and positions for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file {} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration file {} is not valid", path.display())]
    InvalidFile {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("the configuration is not valid")]
    Invalid(#[source] Box<toml::de::Error>),
}

/// Reads the TOML file at `path`. `T` and everything in it is expected to
/// `deny_unknown_fields`, so that a misspelt limit is an error and not a default.
///
/// # Errors
/// The file cannot be read, or is not a valid `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| ConfigError::InvalidFile {
        path: path.to_owned(),
        source: Box::new(error),
    })
}

/// [`load`] from text: for the sample files, which tests read with `include_str!`.
///
/// # Errors
/// The text is not a valid `T`.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Invalid(Box::new(error)))
}

/// A configuration that [`crate::start::run`] can start a process from.
pub trait ServiceConfig: DeserializeOwned {
    /// The part that is the same for every binary.
    fn service(&self) -> &ServiceSettings;
}

/// The table `[service]` of every configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// Where `/metrics`, `/healthz` and `/readyz` are served: never a public address.
    pub admin_listen: SocketAddr,
    /// The most verbose level that is logged; the environment variable `MIMIMI_LOG` overrides it.
    #[serde(default)]
    pub log_level: LogLevel,
    #[serde(default)]
    pub log_format: LogFormat,
    /// How long running requests may take to end after SIGTERM or SIGINT.
    #[serde(default = "default_drain_seconds")]
    pub drain_seconds: u64,
    /// Threads of the runtime; absent: one per core.
    #[serde(default)]
    pub worker_threads: Option<std::num::NonZeroUsize>,
}

impl ServiceSettings {
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

fn default_drain_seconds() -> u64 {
    20
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_service_table_has_defaults_for_all_but_the_admin_address() {
        let settings: ServiceSettings = parse("admin_listen = '127.0.0.1:1'").unwrap();
        assert_eq!(settings.drain_seconds, 20);
        assert_eq!(settings.log_level, LogLevel::Info);
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let result = parse::<ServiceSettings>("admin_listen = '127.0.0.1:1'\ndrain = 3");
        assert!(matches!(result, Err(ConfigError::Invalid(_))));
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let result = load::<ServiceSettings>(Path::new("/nonexistent/config.toml"));
        assert!(matches!(result, Err(ConfigError::Unreadable { .. })));
    }
}
