//! The inputs of a decision beside request and view: time, randomness, keys, settings.

use crypto::sealing::SALT;
use crypto::service_keys::ServiceKeys;
use protocol::ids::{Day, Week};
use rand_core::CryptoRng;

use crate::engine::VERSION_LEN;
use crate::rows::Rows;

/// The surroundings of one decision.
pub struct Env<'e> {
    /// The service's clock, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The store's generation, as the directory shows it.
    pub generation: u64,
    /// Where all randomness comes from.
    pub rng: &'e mut dyn CryptoRng,
    /// The service's keys.
    pub keys: &'e ServiceKeys,
    /// Limits, prices and policies.
    pub settings: &'e Settings,
    /// So many more chunks of blobs there is room for.
    pub blob_room: u64,
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env(..)")
    }
}

impl Env<'_> {
    /// Names rows under the service's storage key.
    #[must_use]
    pub fn rows(&self) -> Rows<'_> {
        Rows(self.keys.rows())
    }

    /// The day of the service's clock.
    #[must_use]
    pub fn today(&self) -> Day {
        Day::of(self.now_ms)
    }

    /// The week of the service's clock.
    #[must_use]
    pub fn week(&self) -> Week {
        Week::of(self.now_ms)
    }

    /// Fresh random bytes.
    pub fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// A salt for sealing.
    pub fn salt(&mut self) -> [u8; SALT] {
        self.random()
    }

    /// A version: random, so that it counts nothing.
    pub fn version(&mut self) -> Version {
        Version(self.random())
    }
}

/// Identifies one state of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Version(pub [u8; VERSION_LEN]);

impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Version(..)")
    }
}

/// The operator's settings for decisions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The bounds of what is stored.
    pub limits: Limits,
    /// The tokens that operations cost.
    pub prices: Prices,
    /// Days after which the next commit must begin a new segment.
    pub segment_days: u32,
    /// Weeks without a commit after which a leaf is due for removal, in a small group.
    pub inactive_weeks: u16,
    /// Days that a join record and its Welcomes are kept.
    pub join_record_days: u32,
    /// Whether to compare roster and tree in every commit: for tests.
    pub self_check: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            prices: Prices::default(),
            segment_days: 30,
            inactive_weeks: 19,
            join_record_days: 98,
            self_check: false,
        }
    }
}

/// Bounds, in bytes where nothing else is said.
#[derive(Debug, Clone)]
pub struct Limits {
    pub message_bytes: usize,
    pub proposal_bytes: usize,
    pub commit_bytes: usize,
    /// Extensions and signature of a GroupInfo.
    pub group_info_bytes: usize,
    /// All Welcomes of a commit.
    pub welcome_bytes: usize,
    /// A ratchet tree at creation, and a join record.
    pub tree_bytes: usize,
    /// Leaves of a group.
    pub members: usize,
    /// Adds in one commit.
    pub joiners: usize,
    /// Proposals in a commit that are no removals, and pending ones.
    pub proposals: usize,
    /// Bytes of messages that a group's journal takes in a day.
    pub group_message_bytes_a_day: u64,
    /// Messages that a group's journal takes in a day; an eighth of these bounds is one user's.
    pub group_messages_a_day: u64,
    /// Bytes of handshakes, and of the records that they bring, that a group's journal takes in a
    /// day beside removals; in a small group less.
    pub group_handshake_bytes_a_day: u64,
    /// Handshakes that a group's journal takes in a day beside removals.
    pub group_handshakes_a_day: u64,
    pub handle_record_bytes: usize,
    /// A sealed KeyPackage set.
    pub key_package_set_bytes: usize,
    /// Chunks of a blob.
    pub blob_chunks: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 256 * 1024,
            proposal_bytes: 16 * 1024,
            commit_bytes: 896 * 1024,
            group_info_bytes: 16 * 1024,
            welcome_bytes: 1024 * 1024,
            tree_bytes: 3 * 1024 * 1024,
            members: 5_000,
            joiners: 256,
            proposals: 512,
            group_message_bytes_a_day: 64 * 1024 * 1024,
            group_messages_a_day: 20_000,
            group_handshake_bytes_a_day: 256 * 1024 * 1024,
            group_handshakes_a_day: 4_096,
            handle_record_bytes: 2_048,
            key_package_set_bytes: 128 * 1024,
            // 133 MB.
            blob_chunks: 512,
        }
    }
}

/// Tokens that operations cost. An operation without a price draws on allowances.
#[derive(Debug, Clone)]
pub struct Prices {
    /// Also pays for one look at a tree at creation.
    pub reserve_group_id: u8,
    /// Tokens for an external commit, and for a proposal from outside.
    pub external_join: u8,
    /// A publication of KeyPackage sets.
    pub publish_key_packages: u8,
    /// Sets that this price is good for; 0 for any number.
    pub key_package_sets_per_token: u16,
    /// Tokens for each claimed set.
    pub claim_key_package: u8,
    /// Tokens for registering a handle.
    pub register_handle: u8,
    /// Tokens for looking up a handle.
    pub lookup_handle: u8,
    /// A connection request to an inbox that is less than a quarter full; it doubles with each
    /// further quarter.
    pub request_connection: u8,
    /// Tokens for a blob, whatever its size.
    pub create_blob: u8,
    /// Bytes that one token buys.
    pub bytes_a_token: usize,
}

impl Prices {
    /// A publication of this many sets.
    #[must_use]
    pub fn of_publication(&self, sets: usize) -> u8 {
        let per_price = usize::from(self.key_package_sets_per_token);
        let prices = sets
            .checked_div(per_price)
            .map_or(1, |_| sets.div_ceil(per_price));
        let prices = u8::try_from(prices.max(1)).unwrap_or(u8::MAX);
        self.publish_key_packages.saturating_mul(prices)
    }
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            reserve_group_id: 1,
            external_join: 1,
            publish_key_packages: 1,
            key_package_sets_per_token: 64,
            claim_key_package: 1,
            register_handle: 1,
            lookup_handle: 1,
            request_connection: 1,
            create_blob: 1,
            bytes_a_token: 64 * 1024,
        }
    }
}
