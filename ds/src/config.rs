//! The delivery service's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::directory::Prices;
use serde::Deserialize;
use service::config::{ServiceConfig, ServiceSettings};
use service::http::Limits as ListenerLimits;

use crate::limits::{LARGEST_JOIN_RECORD, LARGEST_PAYLOAD, LoadLimits, QueueLimits, RequestLimits};
use crate::tokens::AllowanceLimits;

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
    #[serde(
        default = "default_inactivity_days",
        deserialize_with = "at_least_four_weeks"
    )]
    pub inactivity_days: u32,
    #[serde(default)]
    pub self_check: bool,
    pub store: StoreSettings,
    pub issuer: IssuerSettings,
    #[serde(default = "default_prices")]
    pub prices: Prices,
    #[serde(default)]
    pub allowances: AllowanceSettings,
    pub service: ServiceSettings,
    #[serde(default)]
    pub limits: LimitSettings,
}

/// Which engine keeps the data.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "engine", rename_all = "lowercase")]
pub enum StoreSettings {
    Rocksdb { directory: PathBuf },
    Postgres(PostgresSettings),
    Memory,
}

impl StoreSettings {
    /// As the configuration file has it.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        match self {
            Self::Rocksdb { .. } => "rocksdb",
            Self::Postgres(_) => "postgres",
            Self::Memory => "memory",
        }
    }
}

/// The Privacy Pass issuer whose tokens are taken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    pub name: String,
    pub origin: String,
    pub directory: String,
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default = "default_refresh_seconds")]
    pub refresh_seconds: u64,
    #[serde(default = "default_keep_days")]
    pub keep_days: u32,
}

/// Token buckets: for each leaf in each group, for each group, and for the fetches of each queue.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AllowanceSettings {
    pub nodes: u32,
    pub leaf: BucketSettings,
    pub group: BucketSettings,
    pub queue: BucketSettings,
}

/// The buckets of one kind.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSettings {
    pub capacity: u32,
    pub refill_per_minute: u32,
    #[serde(default = "default_max_buckets")]
    pub max_buckets: usize,
}

impl AllowanceSettings {
    /// This node's share of these buckets.
    #[must_use]
    pub fn share_of(&self, buckets: BucketSettings) -> AllowanceLimits {
        AllowanceLimits {
            capacity: buckets.capacity,
            refill_per_minute: buckets.refill_per_minute,
            max_buckets: buckets.max_buckets,
            nodes: self.nodes,
        }
    }
}

impl Default for AllowanceSettings {
    fn default() -> Self {
        let buckets = |capacity, refill_per_minute| BucketSettings {
            capacity,
            refill_per_minute,
            max_buckets: default_max_buckets(),
        };
        Self {
            nodes: 1,
            leaf: buckets(300, 60),
            group: buckets(6000, 1200),
            queue: buckets(600, 120),
        }
    }
}

/// The table `[limits]`: what the listener accepts, and what a request may hold.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    pub max_body_bytes: usize,
    pub body_read_seconds: u64,
    pub header_read_seconds: u64,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_connections: usize,
    #[serde(deserialize_with = "payload_bytes")]
    pub max_message_bytes: usize,
    #[serde(deserialize_with = "payload_bytes")]
    pub max_commit_bytes: usize,
    #[serde(deserialize_with = "payload_bytes")]
    pub max_welcome_bytes: usize,
    #[serde(deserialize_with = "join_record_bytes")]
    pub max_join_record_bytes: usize,
    pub max_group_info_bytes: usize,
    pub max_new_tree_bytes: usize,
    pub max_key_package_set_bytes: usize,
    pub max_proposal_bytes: usize,
    pub max_members: usize,
    pub max_proposals: usize,
    pub max_pending_proposals: usize,
    pub max_authorization_days: u32,
    pub max_queue_entries: usize,
    pub max_queue_entries_of_group: usize,
    pub max_concurrent_requests: usize,
    pub max_concurrent_fetches: usize,
    pub max_requests_per_second: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let ListenerLimits {
            body_read_seconds,
            header_read_seconds,
            max_headers,
            max_connections,
            ..
        } = ListenerLimits::default();
        let RequestLimits {
            message_bytes,
            commit_bytes,
            welcome_bytes,
            join_record_bytes,
            group_info_bytes,
            new_tree_bytes,
            key_package_set_bytes,
            proposal_bytes,
            members,
            proposals,
            pending_proposals,
            authorization_days,
        } = RequestLimits::default();
        let QueueLimits {
            entries,
            entries_of_group,
        } = QueueLimits::default();
        let LoadLimits {
            concurrent_requests,
            concurrent_fetches,
            requests_per_second,
            nodes: _,
        } = LoadLimits::default();
        Self {
            // What the gateway takes at most: a commit and its Welcome, each of the longest, just miss it.
            max_body_bytes: 2 * 1024 * 1024,
            body_read_seconds,
            header_read_seconds,
            // Sixteen claims bring sixteen tokens.
            max_header_bytes: 32 * 1024,
            max_headers,
            max_connections,
            max_message_bytes: message_bytes,
            max_commit_bytes: commit_bytes,
            max_welcome_bytes: welcome_bytes,
            max_join_record_bytes: join_record_bytes,
            max_group_info_bytes: group_info_bytes,
            max_new_tree_bytes: new_tree_bytes,
            max_key_package_set_bytes: key_package_set_bytes,
            max_proposal_bytes: proposal_bytes,
            max_members: members,
            max_proposals: proposals,
            max_pending_proposals: pending_proposals,
            max_authorization_days: authorization_days,
            max_queue_entries: entries,
            max_queue_entries_of_group: entries_of_group,
            max_concurrent_requests: concurrent_requests,
            max_concurrent_fetches: concurrent_fetches,
            max_requests_per_second: requests_per_second,
        }
    }
}

impl LimitSettings {
    /// For the listener.
    #[must_use]
    pub fn listener(&self) -> ListenerLimits {
        ListenerLimits {
            max_body_bytes: self.max_body_bytes,
            body_read_seconds: self.body_read_seconds,
            header_read_seconds: self.header_read_seconds,
            max_header_bytes: self.max_header_bytes,
            max_headers: self.max_headers,
            max_connections: self.max_connections,
            ..ListenerLimits::default()
        }
    }

    /// For what waits in queues, of all nodes together.
    #[must_use]
    pub fn queues(&self) -> QueueLimits {
        QueueLimits {
            entries: self.max_queue_entries,
            entries_of_group: self.max_queue_entries_of_group,
        }
    }

    /// For what is done at once, of all nodes together.
    #[must_use]
    pub fn load(&self) -> LoadLimits {
        LoadLimits {
            concurrent_requests: self.max_concurrent_requests,
            concurrent_fetches: self.max_concurrent_fetches,
            requests_per_second: self.max_requests_per_second,
            nodes: 1,
        }
    }

    /// For what a request holds.
    #[must_use]
    pub fn request(&self) -> RequestLimits {
        RequestLimits {
            message_bytes: self.max_message_bytes,
            commit_bytes: self.max_commit_bytes,
            welcome_bytes: self.max_welcome_bytes,
            join_record_bytes: self.max_join_record_bytes,
            group_info_bytes: self.max_group_info_bytes,
            new_tree_bytes: self.max_new_tree_bytes,
            key_package_set_bytes: self.max_key_package_set_bytes,
            proposal_bytes: self.max_proposal_bytes,
            members: self.max_members,
            proposals: self.max_proposals,
            pending_proposals: self.max_pending_proposals,
            authorization_days: self.max_authorization_days,
        }
    }
}

/// What goes into a queue must come out of it, through the gateway.
fn payload_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    at_most(LARGEST_PAYLOAD, deserializer)
}

fn join_record_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    at_most(LARGEST_JOIN_RECORD, deserializer)
}

fn at_most<'de, D: serde::Deserializer<'de>>(
    largest: usize,
    deserializer: D,
) -> Result<usize, D::Error> {
    let bytes = usize::deserialize(deserializer)?;
    if bytes <= largest {
        Ok(bytes)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "at most {largest} bytes can be delivered through a gateway"
        )))
    }
}

/// Who is on holiday must not lose all groups; and when a queue was last read is known to the week only.
const LEAST_INACTIVITY_DAYS: u32 = 28;

fn at_least_four_weeks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let days = u32::deserialize(deserializer)?;
    if days >= LEAST_INACTIVITY_DAYS {
        Ok(days)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "inactivity_days must be at least {LEAST_INACTIVITY_DAYS}: who has not read for so long is removed from every group"
        )))
    }
}

impl ServiceConfig for Config {
    fn service(&self) -> &ServiceSettings {
        &self.service
    }
}

fn default_max_buckets() -> usize {
    1_000_000
}

fn default_retention_days() -> u32 {
    30
}

fn default_inactivity_days() -> u32 {
    90
}

fn default_refresh_seconds() -> u64 {
    600
}

fn default_keep_days() -> u32 {
    7
}

fn default_prices() -> Prices {
    Prices {
        reserve_group_id: 1,
        publish_key_packages: 1,
        key_package_sets_per_token: 64,
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
        assert_eq!(config.limits.request(), RequestLimits::default());
        assert_eq!(config.limits.queues(), QueueLimits::default());
        assert_eq!(config.limits.load(), LoadLimits::default());
        let (shown, default) = (config.allowances, AllowanceSettings::default());
        for of in [
            |a: &AllowanceSettings| a.leaf,
            |a: &AllowanceSettings| a.group,
            |a: &AllowanceSettings| a.queue,
        ] {
            assert_eq!(shown.share_of(of(&shown)), default.share_of(of(&default)));
        }
        assert_eq!(
            config.limits.max_body_bytes,
            LimitSettings::default().max_body_bytes
        );
    }

    #[test]
    fn a_payload_limit_that_no_gateway_could_pass_is_refused() {
        let sample = include_str!("../sample.toml");
        for key in ["max_message_bytes", "max_commit_bytes", "max_welcome_bytes"] {
            let with = |bytes: usize| {
                let text = sample.replace(&format!("{key} = 1048576"), &format!("{key} = {bytes}"));
                assert_ne!(text, sample);
                service::config::parse::<Config>(&text)
            };
            assert!(with(LARGEST_PAYLOAD).is_ok());
            assert!(with(LARGEST_PAYLOAD + 1).is_err());
        }
        let with = |bytes: usize| {
            let text = sample.replace(
                "max_join_record_bytes = 3145728",
                &format!("max_join_record_bytes = {bytes}"),
            );
            service::config::parse::<Config>(&text)
        };
        assert!(with(LARGEST_JOIN_RECORD - 1).is_ok());
        assert!(with(LARGEST_JOIN_RECORD + 1).is_err());
    }

    #[test]
    fn who_is_on_holiday_is_not_taken_for_gone() {
        let with = |days: u32| {
            let sample = include_str!("../sample.toml");
            let text = sample.replace("inactivity_days = 90", &format!("inactivity_days = {days}"));
            assert_ne!(text, sample);
            service::config::parse::<Config>(&text)
        };
        assert!(with(28).is_ok());
        for days in [0, 27] {
            let error = with(days).unwrap_err();
            let reason = std::error::Error::source(&error).unwrap().to_string();
            assert!(
                reason.contains("inactivity_days must be at least 28"),
                "{reason}"
            );
        }
    }

    #[test]
    fn the_sample_shows_every_setting_of_each_engine() {
        let sample = include_str!("../sample.toml");
        let (before, store) = sample.split_once("\n[store]\n").unwrap();
        let (_, store) = store.split_once("\n# [store]\n").unwrap();
        let (postgres, after) = store.split_once("\n\n").unwrap();
        // Commented out: a setting has one "# " before it, a comment two.
        let postgres = format!("\n{postgres}").replace("\n# ", "\n");
        let text = format!("{before}\n[store]{postgres}\n\n{after}");
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
