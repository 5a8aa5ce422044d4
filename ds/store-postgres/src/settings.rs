//! Where the server is and how much may be asked of it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use zeroize::Zeroizing;

use ds_domain::engine::EngineError;

use crate::session::Limits;

/// The configuration of this engine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSettings {
    /// Directory of a unix socket, or a loopback address: the connection has no TLS.
    pub host: String,
    #[serde(default = "default_port")]
    pub port: u16,
    pub user: String,
    pub database: String,
    /// Mode 0600; white space at its end is not part of the password. Without it the server must
    /// know us otherwise (peer authentication).
    pub password_file: Option<PathBuf>,
    /// Connections of this node. All nodes' together must be below the server's `max_connections`.
    #[serde(default = "default_connections")]
    pub connections: usize,
    /// How long a request waits for a connection.
    #[serde(default = "default_acquire_ms")]
    pub acquire_ms: u64,
    /// How long one statement may take, its waiting for locks included.
    #[serde(default = "default_statement_ms")]
    pub statement_ms: u64,
}

fn default_port() -> u16 {
    5432
}

fn default_connections() -> usize {
    16
}

fn default_acquire_ms() -> u64 {
    5_000
}

fn default_statement_ms() -> u64 {
    10_000
}

/// Longest password file.
const PASSWORD_BYTES: usize = 1_024;

impl PostgresSettings {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            connections: self.connections.max(1),
            acquire: Duration::from_millis(self.acquire_ms.max(1)),
            statement: Duration::from_millis(self.statement_ms.max(1)),
        }
    }

    pub(crate) fn connection(&self) -> Result<tokio_postgres::Config, EngineError> {
        let is_loopback = self.host == "localhost"
            || self
                .host
                .parse()
                .is_ok_and(|address: IpAddr| address.is_loopback());
        if !self.host.starts_with('/') && !is_loopback {
            return Err(EngineError(
                "the connection to PostgreSQL has no TLS: only a unix socket or a loopback address \
                 can be its host"
                    .to_owned(),
            ));
        }
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name("mimimi ds")
            .ssl_mode(SslMode::Disable)
            // A standby takes no writes.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(self.limits().acquire)
            .keepalives_idle(Duration::from_secs(30))
            .tcp_user_timeout(Duration::from_secs(30));
        if let Some(path) = &self.password_file {
            config.password(password(path)?.trim_ascii_end());
        }
        Ok(config)
    }
}

fn password(path: &Path) -> Result<Zeroizing<Vec<u8>>, EngineError> {
    service::secret_file::load_within(path, 1..=PASSWORD_BYTES)
        .map_err(|error| EngineError(format!("the password of PostgreSQL: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn settings(host: &str) -> PostgresSettings {
        PostgresSettings {
            host: host.to_owned(),
            port: default_port(),
            user: "mimimi".to_owned(),
            database: "mimimi".to_owned(),
            password_file: None,
            connections: default_connections(),
            acquire_ms: default_acquire_ms(),
            statement_ms: default_statement_ms(),
        }
    }

    #[test]
    fn a_server_that_needs_tls_is_refused() {
        for host in ["/run/postgresql", "127.0.0.1", "::1", "localhost"] {
            assert!(settings(host).connection().is_ok(), "{host}");
        }
        for host in ["db.example.org", "10.0.0.1", "", "run/postgresql"] {
            assert!(settings(host).connection().is_err(), "{host}");
        }
    }

    #[test]
    fn a_password_is_read_without_the_end_of_its_line_and_shown_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "correct horse\n").unwrap();
        let mut settings = settings("/run/postgresql");
        settings.password_file = Some(file.clone());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(settings.connection().is_err(), "others can read it");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let config = settings.connection().unwrap();
        assert_eq!(config.get_password(), Some(&b"correct horse"[..]));
        assert!(!format!("{settings:?} {config:?}").contains("horse"));
    }
}
