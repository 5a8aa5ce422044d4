//! How a client is asked to behave.

use std::time::Duration;

use protocol::follow;
use protocol::operation::Operation;

use crate::in_process::SharedService;
use crate::net::clock::{SharedClock, SystemClock};
use crate::net::transport::patience::{Patience, Progress};
use crate::store::reporting::RequestPolicy;
use crate::views::Pace;

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
    /// MLS ciphersuites that KeyPackages are published for. The first one is that of connections.
    pub ciphersuites: Vec<u16>,
    /// Which connection requests are shown.
    pub requests: RequestPolicy,
    /// When the views of independent operators are compared.
    pub pace: Pace,
    /// How the group in front is followed while somebody looks at events.
    pub following: Following,
    /// Bytes that the activity feed may cost in a month of being followed without a pause: the
    /// low-data profile. The client takes the finest resolution that fits, and reads the groups
    /// that it names. It reads every group where none fits, where the relay shows no feed, and
    /// without a budget: a read right after a tick shows the relay that this client has news.
    pub feed_bytes: Option<u64>,
    /// Answers in place of relay, gateway, service and issuer: for tests without sockets.
    pub service: Option<SharedService>,
}

/// How the group in front is followed while somebody looks at events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Following {
    /// On a stream, on which an entry comes within a fraction of a second. By the times of what it
    /// passes on, the relay can see who is in one conversation.
    #[default]
    Live,
    /// On a stream with a frame every second, whether there is an entry or not. The relay sees that
    /// there is a stream.
    Even,
    /// By long polls: each answer is followed by another request.
    Polls,
}

impl Following {
    pub(crate) fn pace(self) -> Option<follow::Pace> {
        match self {
            Self::Live => Some(follow::Pace::Live),
            Self::Even => Some(follow::Pace::Even),
            Self::Polls => None,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            patience: Patience::default(),
            progress: None,
            lock_patience: Duration::from_secs(60),
            ciphersuites: vec![0x0001, 0x0002, 0x0003, 0x004f],
            requests: RequestPolicy::default(),
            pace: Pace::default(),
            following: Following::default(),
            feed_bytes: None,
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
