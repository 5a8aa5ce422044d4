//! The running service: keys, store, streams, allowances. No group state: that lives for one request.

use std::sync::{Arc, Mutex, RwLock};

use crypto::rows::RowKeys;
use crypto::service_keys::ServiceKeys;
use protocol::directory::{Prices, StoreState};
use service::clock::SharedClock;
use service::shutdown::Shutdown;

use crate::error::DsError;
use crate::expiry_day::ExpiryDay;
use crate::limits::{LoadLimits, QueueLimits, RequestLimits};
use crate::load::Load;
use crate::queues::drained::Drained;
use crate::queues::polls::Polls;
use crate::queues::sequence::Sequence;
use crate::queues::streams::Streams;
use crate::queues::wakeups::Wakeups;
use crate::store::Store;
use crate::tokens::{AllowanceLimits, Allowances, Challenge, InFlight, IssuerKeys};

/// Everything that a request needs.
pub struct DeliveryService {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: ServiceKeys,
    pub(crate) clock: SharedClock,
    expiry_day: Mutex<ExpiryDay>,
    pub(crate) shutdown: Shutdown,
    pub(crate) streams: Streams,
    pub(crate) wakeups: Wakeups,
    pub(crate) polls: Polls,
    pub(crate) sequence: Sequence,
    pub(crate) drained: Drained,
    pub(crate) leaf_allowances: Allowances,
    pub(crate) group_allowances: Allowances,
    pub(crate) queue_allowances: Allowances,
    pub(crate) load: Load,
    pub(crate) settings: Settings,
    pub(crate) tokens_in_flight: InFlight,
    issuer_keys: RwLock<Arc<IssuerKeys>>,
}

/// What configuration decides.
#[derive(Debug)]
pub struct Settings {
    /// Qualifies pseudonyms.
    pub domain: String,
    /// RFC 9577 issuer name.
    pub issuer_name: String,
    /// What tokens must answer.
    pub challenge: Challenge,
    /// Tokens an operation costs.
    pub prices: Prices,
    /// Per leaf and group.
    pub leaf_allowance: AllowanceLimits,
    /// Per group, of all its leaves together.
    pub group_allowance: AllowanceLimits,
    /// Of fetches, per queue.
    pub queue_allowance: AllowanceLimits,
    /// Days that queue entries and join records are kept.
    pub retention_days: u32,
    /// Days after which a client that has not read its queue is removed from its groups.
    pub inactivity_days: u32,
    /// Compare roster and tree before and after every commit.
    pub self_check: bool,
    /// Largest request body.
    pub max_request_bytes: usize,
    /// Of the parts of a request.
    pub limits: RequestLimits,
    /// Of what waits in a queue: this node's share.
    pub queue_limits: QueueLimits,
    /// Of what is done at once: this node's share.
    pub load: LoadLimits,
    /// As clients are shown it.
    pub store: StoreState,
}

impl DeliveryService {
    /// This day, or the one before it that a clock which jumped ahead has left: by which is decided what cannot be undone
    /// (see [`ExpiryDay`]).
    #[must_use]
    pub fn settled_day(&self, day: u32) -> u32 {
        self.settled().0.min(day)
    }

    /// The settled day, and whether it is the clock's.
    #[must_use]
    pub fn settled(&self) -> (u32, bool) {
        let (now, steady) = (self.clock.now_unix_ms(), self.clock.monotonic_ms());
        let mut expiry_day = self
            .expiry_day
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        expiry_day.today(now, steady)
    }

    /// The settled day goes on from the last one on which something was delivered.
    pub fn settle_from(&self, last_day: Option<u32>) {
        let (now, steady) = (self.clock.now_unix_ms(), self.clock.monotonic_ms());
        *self
            .expiry_day
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) =
            ExpiryDay::from(last_day, now, steady);
    }

    /// Puts a service together.
    ///
    /// # Errors
    /// [`DsError::Internal`] without randomness.
    pub fn new(
        store: Arc<dyn Store>,
        keys: ServiceKeys,
        clock: SharedClock,
        shutdown: Shutdown,
        issuer_keys: IssuerKeys,
        settings: Settings,
    ) -> Result<Self, DsError> {
        Ok(Self {
            streams: Streams::new(),
            wakeups: Wakeups::default(),
            polls: Polls::default(),
            sequence: Sequence::default(),
            drained: Drained::default(),
            queue_allowances: Allowances::new(settings.queue_allowance),
            group_allowances: Allowances::new(settings.group_allowance),
            load: Load::new(settings.load),
            leaf_allowances: Allowances::new(settings.leaf_allowance),
            tokens_in_flight: InFlight::default(),
            issuer_keys: RwLock::new(Arc::new(issuer_keys)),
            expiry_day: Mutex::new(ExpiryDay::from(
                None,
                clock.now_unix_ms(),
                clock.monotonic_ms(),
            )),
            store,
            keys,
            clock,
            shutdown,
            settings,
        })
    }

    /// Names rows.
    #[must_use]
    pub fn rows(&self) -> &RowKeys {
        self.keys.rows()
    }

    /// The issuer keys that are accepted now.
    #[must_use]
    pub fn issuer_keys(&self) -> Arc<IssuerKeys> {
        Arc::clone(
            &self
                .issuer_keys
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// Accepts these issuer keys from now on.
    pub fn accept_issuer_keys(&self, keys: IssuerKeys) {
        *self
            .issuer_keys
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(keys);
    }
}
