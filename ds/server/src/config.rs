//! The delivery service's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use ds_domain::env;
use ds_store_blobs::BlobStoreSettings;
use ds_store_postgres::PostgresSettings;
use protocol::blobs::{MAX_CHUNKS, chunk_class};
use protocol::directory::Prices;
use protocol::removal::LEAST_INACTIVE_WEEKS;
use serde::Deserialize;
use service::config::{ServiceConfig, ServiceSettings};
use service::http::Limits as ListenerLimits;

use crate::blob_room::BlobLimits;
use crate::limits::{LARGEST_ENTRY, LARGEST_TREE, LoadLimits, StreamSettings};
use crate::tokens::AllowanceLimits;

/// See `sample.toml` for what each field means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    pub domain: String,
    pub service_key_file: PathBuf,
    pub gateway_secret_file: PathBuf,
    #[serde(default = "default_segment_days")]
    pub segment_days: u32,
    #[serde(
        default = "default_inactive_weeks",
        deserialize_with = "long_enough_to_be_away"
    )]
    pub inactive_weeks: u16,
    #[serde(default = "default_join_record_days")]
    pub join_record_days: u32,
    #[serde(default)]
    pub self_check: bool,
    pub store: StoreSettings,
    pub issuer: IssuerSettings,
    #[serde(default = "default_prices")]
    pub prices: Prices,
    #[serde(default)]
    pub allowances: AllowanceSettings,
    #[serde(default)]
    pub push: Option<PushSettings>,
    pub service: ServiceSettings,
    #[serde(default)]
    pub limits: LimitSettings,
    #[serde(default)]
    pub streams: StreamSettings,
    pub blobs: BlobSettings,
}

/// Where chunks of blobs are kept, and how many.
#[derive(Clone, Debug, Deserialize)]
pub struct BlobSettings {
    #[serde(flatten)]
    pub store: BlobStoreSettings,
    #[serde(default)]
    pub limits: BlobLimits,
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

/// The push sender, and how it is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushSettings {
    /// The push sender: its scheme and authority.
    pub url: String,
    pub secret_file: PathBuf,
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u64,
    #[serde(default = "default_spread_ms")]
    pub spread_ms: u64,
    #[serde(default = "default_flush_ms")]
    pub flush_ms: u64,
    #[serde(default = "default_max_groups")]
    pub max_groups: usize,
    #[serde(default = "default_max_waiting")]
    pub max_waiting: usize,
}

/// Token buckets: of each leaf in each group, of each group, of the readers of each segment
/// together, and of the owner of each pool and inbox.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AllowanceSettings {
    pub nodes: u32,
    pub leaf: BucketSettings,
    pub group: BucketSettings,
    pub segment: BucketSettings,
    pub owner: BucketSettings,
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
            segment: buckets(24_000, 12_000),
            owner: buckets(600, 120),
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
    #[serde(deserialize_with = "entry_bytes")]
    pub max_message_bytes: usize,
    #[serde(deserialize_with = "entry_bytes")]
    pub max_commit_bytes: usize,
    pub max_welcome_bytes: usize,
    #[serde(deserialize_with = "tree_bytes")]
    pub max_tree_bytes: usize,
    pub max_group_info_bytes: usize,
    pub max_key_package_set_bytes: usize,
    #[serde(deserialize_with = "blob_chunks")]
    pub max_blob_chunks: u16,
    pub max_handle_record_bytes: usize,
    pub max_proposal_bytes: usize,
    pub max_members: usize,
    pub max_joiners: usize,
    pub max_proposals: usize,
    pub max_messages_a_day: u64,
    pub max_message_bytes_a_day: u64,
    pub max_handshakes_a_day: u64,
    pub max_handshake_bytes_a_day: u64,
    pub max_concurrent_requests: usize,
    pub max_concurrent_reads: usize,
    pub max_concurrent_waits: usize,
    pub max_concurrent_streams: usize,
    pub max_requests_per_second: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let ListenerLimits {
            body_read_seconds,
            header_read_seconds,
            max_headers,
            ..
        } = ListenerLimits::default();
        let env::Limits {
            message_bytes,
            proposal_bytes,
            commit_bytes,
            group_info_bytes,
            welcome_bytes,
            tree_bytes,
            members,
            joiners,
            proposals,
            group_message_bytes_a_day,
            group_messages_a_day,
            group_handshake_bytes_a_day,
            group_handshakes_a_day,
            handle_record_bytes,
            key_package_set_bytes,
            blob_chunks,
        } = env::Limits::default();
        let LoadLimits {
            concurrent_requests,
            concurrent_reads,
            concurrent_waits,
            concurrent_streams,
            requests_per_second,
            nodes: _,
        } = LoadLimits::default();
        Self {
            // What the gateway takes at most.
            max_body_bytes: 2 * 1024 * 1024,
            body_read_seconds,
            header_read_seconds,
            // The longest message beyond an allowance brings as many tokens as it has 64 KiB.
            max_header_bytes: 32 * 1024,
            max_headers,
            // Everything below at once.
            max_connections: concurrent_requests
                + concurrent_reads
                + concurrent_waits
                + concurrent_streams,
            max_message_bytes: message_bytes,
            max_commit_bytes: commit_bytes,
            max_welcome_bytes: welcome_bytes,
            max_tree_bytes: tree_bytes,
            max_group_info_bytes: group_info_bytes,
            max_key_package_set_bytes: key_package_set_bytes,
            max_blob_chunks: blob_chunks,
            max_handle_record_bytes: handle_record_bytes,
            max_proposal_bytes: proposal_bytes,
            max_members: members,
            max_joiners: joiners,
            max_proposals: proposals,
            max_messages_a_day: group_messages_a_day,
            max_message_bytes_a_day: group_message_bytes_a_day,
            max_handshakes_a_day: group_handshakes_a_day,
            max_handshake_bytes_a_day: group_handshake_bytes_a_day,
            max_concurrent_requests: concurrent_requests,
            max_concurrent_reads: concurrent_reads,
            max_concurrent_waits: concurrent_waits,
            max_concurrent_streams: concurrent_streams,
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

    /// For what is done at once, of all nodes together.
    #[must_use]
    pub fn load(&self) -> LoadLimits {
        LoadLimits {
            concurrent_requests: self.max_concurrent_requests,
            concurrent_reads: self.max_concurrent_reads,
            concurrent_waits: self.max_concurrent_waits,
            concurrent_streams: self.max_concurrent_streams,
            requests_per_second: self.max_requests_per_second,
            nodes: 1,
        }
    }

    /// For what a request holds, and what a group takes in a day.
    #[must_use]
    pub fn decisions(&self) -> env::Limits {
        env::Limits {
            message_bytes: self.max_message_bytes,
            proposal_bytes: self.max_proposal_bytes,
            commit_bytes: self.max_commit_bytes,
            group_info_bytes: self.max_group_info_bytes,
            welcome_bytes: self.max_welcome_bytes,
            tree_bytes: self.max_tree_bytes,
            members: self.max_members,
            joiners: self.max_joiners,
            proposals: self.max_proposals,
            group_message_bytes_a_day: self.max_message_bytes_a_day,
            group_messages_a_day: self.max_messages_a_day,
            group_handshake_bytes_a_day: self.max_handshake_bytes_a_day,
            group_handshakes_a_day: self.max_handshakes_a_day,
            handle_record_bytes: self.max_handle_record_bytes,
            key_package_set_bytes: self.max_key_package_set_bytes,
            blob_chunks: self.max_blob_chunks,
        }
    }
}

impl StoreSettings {
    /// Where the store is, for the operator.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Rocksdb { directory } => directory.display().to_string(),
            Self::Postgres(settings) => {
                format!("the database {} at {}", settings.database, settings.host)
            }
            Self::Memory => "memory".to_owned(),
        }
    }
}

impl Config {
    /// What decisions go by.
    #[must_use]
    pub fn decisions(&self) -> env::Settings {
        let Prices {
            reserve_group_id,
            publish_key_packages,
            key_package_sets_per_token,
            claim_key_package,
            register_handle,
            lookup_handle,
            request_connection,
            external_join,
            create_blob,
        } = self.prices;
        env::Settings {
            limits: self.limits.decisions(),
            prices: env::Prices {
                reserve_group_id,
                external_join,
                create_blob,
                publish_key_packages,
                key_package_sets_per_token,
                claim_key_package,
                register_handle,
                lookup_handle,
                request_connection,
                ..env::Prices::default()
            },
            segment_days: self.segment_days,
            inactive_weeks: self.inactive_weeks,
            join_record_days: self.join_record_days,
            self_check: self.self_check,
        }
    }
}

/// What goes into a journal must come out of it, through the gateway.
fn entry_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    at_most(LARGEST_ENTRY, deserializer)
}

fn tree_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    at_most(LARGEST_TREE, deserializer)
}

fn blob_chunks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let chunks = u16::deserialize(deserializer)?;
    if chunk_class(chunks.into()) == Some(chunks) {
        Ok(chunks)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "max_blob_chunks must be a class of sizes, up to {MAX_CHUNKS}: no blob has a number between them"
        )))
    }
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

fn long_enough_to_be_away<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<u16, D::Error> {
    let weeks = u16::deserialize(deserializer)?;
    if weeks >= LEAST_INACTIVE_WEEKS {
        Ok(weeks)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "inactive_weeks must be at least {LEAST_INACTIVE_WEEKS}: who has not committed for so long is removed from the group"
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

fn default_interval_ms() -> u64 {
    5_000
}

fn default_spread_ms() -> u64 {
    10_000
}

fn default_flush_ms() -> u64 {
    1_000
}

fn default_max_groups() -> usize {
    100_000
}

fn default_max_waiting() -> usize {
    1_000_000
}

fn default_segment_days() -> u32 {
    env::Settings::default().segment_days
}

fn default_inactive_weeks() -> u16 {
    env::Settings::default().inactive_weeks
}

fn default_join_record_days() -> u32 {
    env::Settings::default().join_record_days
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
        external_join: 1,
        create_blob: 1,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_file_is_a_valid_configuration() {
        let config: Config = service::config::parse(include_str!("../../sample.toml")).unwrap();
        assert_eq!(config.prices, default_prices());
        let (shown, default) = (config.decisions(), env::Settings::default());
        assert_eq!(format!("{shown:?}"), format!("{default:?}"));
        assert_eq!(config.limits.load(), LoadLimits::default());
        assert_eq!(config.streams, StreamSettings::default());
        let connections = LimitSettings::default().max_connections;
        assert_eq!(config.limits.max_connections, connections);
        let (shown, default) = (config.allowances, AllowanceSettings::default());
        for of in [
            |a: &AllowanceSettings| a.leaf,
            |a: &AllowanceSettings| a.group,
            |a: &AllowanceSettings| a.segment,
            |a: &AllowanceSettings| a.owner,
        ] {
            assert_eq!(shown.share_of(of(&shown)), default.share_of(of(&default)));
        }
        assert_eq!(
            config.limits.max_body_bytes,
            LimitSettings::default().max_body_bytes
        );
    }

    fn with(key: &str, default: usize, value: usize) -> Result<Config, String> {
        let sample = include_str!("../../sample.toml");
        let text = sample.replace(&format!("{key} = {default}"), &format!("{key} = {value}"));
        assert!(value == default || text != sample);
        service::config::parse::<Config>(&text).map_err(|error| {
            let source = std::error::Error::source(&error).unwrap();
            source.to_string()
        })
    }

    #[test]
    fn a_limit_that_no_gateway_could_pass_is_refused() {
        for (key, default, largest) in [
            ("max_message_bytes", 262_144, LARGEST_ENTRY),
            ("max_commit_bytes", 917_504, LARGEST_ENTRY),
            ("max_tree_bytes", 3_145_728, LARGEST_TREE),
        ] {
            assert!(with(key, default, largest).is_ok());
            assert!(with(key, default, largest + 1).is_err());
        }
    }

    #[test]
    fn who_is_on_holiday_is_not_taken_for_gone() {
        assert!(with("inactive_weeks", 19, 10).is_ok());
        for weeks in [0, 9] {
            let reason = with("inactive_weeks", 19, weeks).unwrap_err();
            assert!(
                reason.contains("inactive_weeks must be at least 10"),
                "{reason}"
            );
        }
    }

    #[test]
    fn the_sample_shows_every_setting_of_each_engine() {
        let sample = include_str!("../../sample.toml");
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
        let text = format!("unknown = 1\n{}", include_str!("../../sample.toml"));
        assert!(service::config::parse::<Config>(&text).is_err());
    }
}
