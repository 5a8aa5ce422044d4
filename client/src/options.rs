//! How a client is asked to behave.

use std::time::Duration;

use protocol::operation::Operation;

use crate::in_process::SharedService;
use crate::net::clock::{SharedClock, SystemClock};
use crate::net::transport::patience::{Patience, Progress};
use crate::slots::{Bundle, Profile, Slots};
use crate::store::reporting::RequestPolicy;
use crate::views::Pace;

/// What the feed may cost where nothing else is said: ticks of 20 seconds among 10^5 users.
const FEED_BYTES: u64 = 256 * 1024 * 1024;

/// How a client behaves.
#[derive(Clone)]
pub struct Options {
    /// Where the time comes from.
    pub clock: SharedClock,
    /// How long calls wait for answers.
    pub patience: Patience,
    /// Hears of calls that wait longer than usual.
    pub progress: Option<Progress>,
    /// How long a call waits for another process to leave the home directory.
    pub lock_patience: Duration,
    /// MLS ciphersuites that contacts may add this user to groups with. Without one that has X-Wing
    /// (0x004e, 0x004f), a group that this user is added to is not post-quantum, and its members
    /// are told. Connections are, whatever stands here.
    pub ciphersuites: Vec<u16>,
    /// Which connection requests are shown.
    pub requests: RequestPolicy,
    /// When the views of independent operators are compared.
    pub pace: Pace,
    /// How journals are read while somebody looks at events ([`Client::event_stream`]). It can be
    /// changed later ([`Client::set_profile`]).
    ///
    /// [`Client::event_stream`]: crate::Client::event_stream
    /// [`Client::set_profile`]: crate::Client::set_profile
    pub profile: Profile,
    /// How many journals a slot of the profile reads.
    pub bundle: Bundle,
    /// Bytes that the activity feed may cost in a month. The client takes the finest resolution
    /// that fits, and fetches no more however large ticks become: what is not used is good for a
    /// week. The feed says which journal the next slot reads, in every profile. Without it, where
    /// none fits and where the relay shows none, each slot reads any group: news come later by as
    /// many slots as there are groups, on the average, and some by three times as many.
    pub feed_bytes: Option<u64>,
    /// Slots come as many times faster, for tests.
    #[cfg(feature = "test-support")]
    pub slots_faster: u64,
    /// Slots come when there is news: the weakness that they are there against, for tests.
    #[cfg(feature = "test-support")]
    pub slots_weakened: bool,
    /// Answers in place of relay, gateway, service and issuer: for tests without sockets.
    pub service: Option<SharedService>,
}

impl Options {
    pub(crate) const fn slots(&self) -> Slots {
        let slots = Slots::new(self.profile);
        #[cfg(feature = "test-support")]
        let slots = match self.slots_weakened {
            true => slots.faster(self.slots_faster).weakened(),
            false => slots.faster(self.slots_faster),
        };
        slots
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            patience: Patience::default(),
            progress: None,
            lock_patience: Duration::from_secs(60),
            ciphersuites: vec![0x004f, 0x0001, 0x0002, 0x0003],
            requests: RequestPolicy::default(),
            pace: Pace::default(),
            profile: Profile::default(),
            bundle: Bundle::default(),
            feed_bytes: Some(FEED_BYTES),
            #[cfg(feature = "test-support")]
            slots_faster: 1,
            #[cfg(feature = "test-support")]
            slots_weakened: false,
            service: None,
        }
    }
}

/// A kept request, as it would be sent.
#[derive(Debug)]
pub struct PendingRequest {
    /// What it asks for.
    pub operation: Operation,
    /// The signed request.
    pub request: Vec<u8>,
    /// The tokens beside it.
    pub tokens: Vec<Vec<u8>>,
}
