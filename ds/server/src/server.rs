//! The running service: engine, keys, clock, allowances. No group state: that lives for one request.

use std::sync::{Arc, PoisonError, RwLock};

use crypto::service_keys::ServiceKeys;
use ds::tokens::{AllowanceLimits, Allowances, Challenge, InFlight, IssuerKeys};
use ds_domain::engine::Engine;
use ds_domain::env::{Env, Settings};
use ds_domain::operation::Level;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;
use service::clock::SharedClock;
use tokio::sync::Semaphore;

use crate::waits::Waits;

/// What configuration decides, beside the domain's settings.
#[derive(Debug)]
pub struct ServerSettings {
    /// The domain's.
    pub domain: Settings,
    /// What tokens must answer.
    pub challenge: Challenge,
    /// Allowances of each level.
    pub allowed: Allowed,
    /// Requests that are worked on at the same time, reads of journals apart.
    pub concurrent_requests: usize,
    /// Reads of journals that are worked on or wait.
    pub concurrent_reads: usize,
    /// How often a long poll looks into a store that other nodes write to, too; none where this is the
    /// only one.
    pub look_again_ms: Option<u64>,
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
    pub(crate) places: Semaphore,
    pub(crate) reads: Semaphore,
    pub(crate) waits: Waits,
    pub(crate) in_flight: InFlight,
    allowances: [(Level, Allowances); 4],
    issuer_keys: RwLock<Arc<IssuerKeys>>,
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
            clock,
            places: Semaphore::new(settings.concurrent_requests.min(Semaphore::MAX_PERMITS)),
            reads: Semaphore::new(settings.concurrent_reads.min(Semaphore::MAX_PERMITS)),
            waits: Waits::default(),
            in_flight: InFlight::default(),
            allowances: [
                (Level::Leaf, Allowances::new(leaf)),
                (Level::Group, Allowances::new(group)),
                (Level::Segment, Allowances::new(segment)),
                (Level::Owner, Allowances::new(owner)),
            ],
            issuer_keys: RwLock::new(Arc::new(issuer_keys)),
            settings,
        }
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

    pub(crate) fn allowances(&self, level: Level) -> Option<&Allowances> {
        self.allowances
            .iter()
            .find(|(of, _)| *of == level)
            .map(|(_, allowances)| allowances)
    }

    /// The surroundings of one decision, with this randomness.
    pub(crate) fn env<'e>(&'e self, rng: &'e mut ChaCha12Rng) -> Env<'e> {
        Env {
            now_ms: self.clock.now_unix_ms(),
            rng,
            keys: &self.keys,
            settings: &self.settings.domain,
        }
    }
}

/// Randomness for one request.
pub(crate) fn fresh_rng() -> Result<ChaCha12Rng, crypto::CryptoError> {
    Ok(ChaCha12Rng::from_seed(crypto::random()?))
}
