//! The running service: engine, keys, clock, allowances. No group state: that lives for one
//! request.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use crypto::service_keys::ServiceKeys;
use ds_domain::engine::Engine;
use ds_domain::env::{Env, Settings};
use ds_domain::operation::Level;
use ds_domain::tokens::{Challenge, IssuerKeys};
use ds_store_blobs::BlobStore;
use protocol::directory::StoreState;
use rand_chacha::ChaCha12Rng;
use service::clock::SharedClock;
use service::shutdown::Shutdown;

use crate::agreed_clock::{AgreedClock, Now};
use crate::blob_room::{BlobLimits, Blobs};
use crate::limits::{LoadLimits, StreamSettings};
use crate::load::Load;
use crate::news::NewsQueue;
use crate::streams::Streams;
use crate::tokens::{AllowanceLimits, Allowances, InFlight};
use crate::waits::Waits;

/// What configuration decides.
#[derive(Debug)]
pub struct ServerSettings {
    /// What decisions go by.
    pub decisions: Settings,
    /// Qualifies pseudonyms.
    pub domain: String,
    /// RFC 9577 issuer name.
    pub issuer_name: String,
    /// What tokens must answer.
    pub challenge: Challenge,
    /// Allowances of each level.
    pub allowed: Allowed,
    /// Of what is done at once: this node's share.
    pub load: LoadLimits,
    /// How often a long poll looks into a store that other nodes write to, too; none where this is
    /// the only one.
    pub look_again_ms: Option<u64>,
    /// How long streams of journals go on, and their frames.
    pub streams: StreamSettings,
    /// Largest request body.
    pub max_request_bytes: usize,
    /// As clients are shown it.
    pub store: StoreState,
}

/// What may be done without a token.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// Of each leaf in its group.
    pub leaf: AllowanceLimits,
    /// Of each group, all its leaves together.
    pub group: AllowanceLimits,
    /// Of the readers of each segment together.
    pub segment: AllowanceLimits,
    /// Of the owner of each pool and inbox.
    pub owner: AllowanceLimits,
}

/// Everything that a request needs.
pub struct Server {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) keys: ServiceKeys,
    pub(crate) clock: SharedClock,
    pub(crate) settings: ServerSettings,
    pub(crate) shutdown: Shutdown,
    pub(crate) load: Load,
    pub(crate) waits: Waits,
    pub(crate) streams: Streams,
    pub(crate) in_flight: InFlight,
    pub(crate) blobs: Blobs,
    /// Where messages are told that wake devices, if there is a push sender.
    pub(crate) push: OnceLock<NewsQueue>,
    allowances: [(Level, Allowances); 5],
    issuer_keys: RwLock<Arc<IssuerKeys>>,
    agreed_clock: Mutex<AgreedClock>,
}

/// The part of a group's allowance that one user may use.
const USERS_PART: u32 = 8;

/// What a user has in a group, however many leaves: a part of what the group has, and what one leaf
/// has at least.
fn of_user(leaf: AllowanceLimits, group: AllowanceLimits) -> AllowanceLimits {
    AllowanceLimits {
        capacity: (group.capacity / USERS_PART).max(leaf.capacity),
        refill_per_minute: (group.refill_per_minute / USERS_PART).max(leaf.refill_per_minute),
        ..group
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server(..)")
    }
}

impl Server {
    /// Puts a server together.
    #[must_use]
    pub fn new(
        engine: Arc<dyn Engine>,
        keys: ServiceKeys,
        clock: SharedClock,
        shutdown: Shutdown,
        issuer_keys: IssuerKeys,
        settings: ServerSettings,
    ) -> Self {
        let Allowed {
            leaf,
            group,
            segment,
            owner,
        } = settings.allowed;
        Self {
            engine,
            keys,
            shutdown,
            load: Load::new(settings.load),
            waits: Waits::default(),
            streams: Streams::default(),
            in_flight: InFlight::default(),
            blobs: Blobs::new(BlobStore::in_memory(), BlobLimits::default()),
            push: OnceLock::new(),
            allowances: [
                (Level::Leaf, Allowances::new(leaf)),
                (Level::User, Allowances::new(of_user(leaf, group))),
                (Level::Group, Allowances::new(group)),
                (Level::Segment, Allowances::new(segment)),
                (Level::Owner, Allowances::new(owner)),
            ],
            issuer_keys: RwLock::new(Arc::new(issuer_keys)),
            agreed_clock: Mutex::new(AgreedClock::from(
                None,
                clock.now_unix_ms(),
                clock.monotonic_ms(),
            )),
            clock,
            settings,
        }
    }

    /// With blobs elsewhere than in memory.
    #[must_use]
    pub fn with_blobs(self, blobs: Blobs) -> Self {
        Self { blobs, ..self }
    }

    /// The issuer keys that are accepted now.
    #[must_use]
    pub fn issuer_keys(&self) -> Arc<IssuerKeys> {
        Arc::clone(
            &self
                .issuer_keys
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Accepts these issuer keys from now on.
    pub fn accept_issuer_keys(&self, keys: IssuerKeys) {
        *self
            .issuer_keys
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// What time it is, as far as the clock is believed (see [`AgreedClock`]).
    pub(crate) fn now(&self) -> Now {
        let (now, steady) = (self.clock.now_unix_ms(), self.clock.monotonic_ms());
        self.agreed_clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .now(now, steady)
    }

    /// Time goes on from the last day that was believed; with none, from what the clock says.
    pub(crate) fn settle_from(&self, last_day: Option<u32>) {
        let (now, steady) = (self.clock.now_unix_ms(), self.clock.monotonic_ms());
        *self
            .agreed_clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = AgreedClock::from(last_day, now, steady);
    }

    pub(crate) fn allowances(&self, level: Level) -> Option<&Allowances> {
        self.allowances
            .iter()
            .find(|(of, _)| *of == level)
            .map(|(_, allowances)| allowances)
    }

    /// The surroundings of one decision, with this randomness.
    pub(crate) fn env<'e>(&'e self, rng: &'e mut ChaCha12Rng) -> Env<'e> {
        Env {
            now_ms: self.now().unix_ms,
            generation: self.settings.store.generation,
            rng,
            keys: &self.keys,
            settings: &self.settings.decisions,
            blob_room: self.blobs.room(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_all_leaves_that_it_may_have_leaves_most_of_a_groups_allowance_to_others() {
        let defaults = crate::config::AllowanceSettings::default();
        let [leaf, group] = [defaults.leaf, defaults.group].map(|of| defaults.share_of(of));
        let user = of_user(leaf, group);
        assert!(u64::from(user.capacity) * 8 <= group.capacity.into());
        assert!(u64::from(user.refill_per_minute) * 8 <= group.refill_per_minute.into());
        // One leaf alone has what it had.
        assert!(user.capacity >= leaf.capacity);
        assert!(user.refill_per_minute >= leaf.refill_per_minute);
        let few = AllowanceLimits {
            capacity: 3,
            refill_per_minute: 1,
            ..group
        };
        assert_eq!(of_user(leaf, few).capacity, leaf.capacity);
    }
}
