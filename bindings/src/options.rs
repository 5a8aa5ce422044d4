//! How a client is asked to behave.

use std::sync::Arc;
use std::time::Duration;

use client::Waiting;

use crate::mirror::choice;
use crate::{Answer, Client};

choice! {
    /// How a client reads while somebody follows its events.
    Profile {
        /// The group in front on a stream, on which an entry comes within a fraction of a second;
        /// the others in a slot every 30 seconds. By the times of what it passes on, the relay can
        /// see who is in one conversation with the group in front, and who speaks in it.
        Live,
        /// The group in front on a stream with a frame every second, whether there is an entry or
        /// not; the others in a slot every 30 seconds. The relay sees that there is a stream.
        Even,
        /// All groups in a slot every minute. The relay sees that the client is there. The default:
        /// who chooses nothing shows nothing.
        Batched,
        /// A group is read when the activity feed names it, once a minute at most, and every few
        /// hours. Cheapest. The relay sees who has news, and after a few messages from whom.
        LowData,
        /// The client sleeps, wakes every half hour at a random time, takes eight slots within a
        /// minute and sleeps again. Nobody is told when there is news.
        Periodic,
    }
}

choice! {
    /// How many journals a slot reads. What is asked together is linked.
    Bundle {
        /// One. No time tells the service which journals one client reads.
        Separate,
        /// Four, one after the other, or nobody's. The service can tell which journals one client
        /// reads.
        Bundled,
    }
}

choice! {
    /// Which connection requests are shown.
    RequestPolicy {
        /// As the issuer asks: all, or those with a certificate.
        Announced,
        /// All.
        All,
        /// Those whose sender can be reported; others are forgotten unseen.
        Reportable,
    }
}

/// Hears of calls that wait longer than usual.
#[uniffi::export(with_foreign)]
pub trait WaitListener: Send + Sync {
    /// A call has waited for so many milliseconds; `reason` is what the last attempt met. It is
    /// called on the client's own thread, which waits for it to return. An error in it changes
    /// nothing.
    fn waits(&self, reason: String, so_far_ms: u64) -> Answer<()>;
}

/// How a client behaves. What is left out is as usual.
#[derive(Clone, Default, uniffi::Record)]
pub struct Options {
    /// How journals are read while somebody follows events. It can be changed later.
    #[uniffi(default = None)]
    pub profile: Option<Profile>,
    /// How many journals a slot of the profile reads.
    #[uniffi(default = None)]
    pub bundle: Option<Bundle>,
    /// Bytes that the activity feed may cost in a month; 0 for none of it.
    #[uniffi(default = None)]
    pub feed_bytes: Option<u64>,
    /// Which connection requests are shown.
    #[uniffi(default = None)]
    pub requests: Option<RequestPolicy>,
    /// MLS ciphersuites that contacts may add this user to groups with, by IANA's numbers. Without
    /// one that has X-Wing (78, 79), a group that this user is added to is not post-quantum.
    #[uniffi(default = None)]
    pub ciphersuites: Option<Vec<u16>>,
    /// One attempt of a request must be answered within so many milliseconds.
    #[uniffi(default = None)]
    pub attempt_ms: Option<u64>,
    /// So many milliseconds a call waits for answers that do not come.
    #[uniffi(default = None)]
    pub call_ms: Option<u64>,
    /// So many milliseconds a call waits for another process to leave the home directory.
    #[uniffi(default = None)]
    pub lock_ms: Option<u64>,
    /// Hears of calls that wait longer than usual.
    #[uniffi(default = None)]
    pub progress: Option<Arc<dyn WaitListener>>,
}

impl Options {
    pub(crate) fn for_sdk(self) -> client::Options {
        let usual = client::Options::default();
        let span = |ms: Option<u64>, usual| ms.map_or(usual, Duration::from_millis);
        client::Options {
            profile: self.profile.map_or(usual.profile, Into::into),
            bundle: self.bundle.map_or(usual.bundle, Into::into),
            feed_bytes: match self.feed_bytes {
                None => usual.feed_bytes,
                Some(0) => None,
                bytes => bytes,
            },
            requests: self.requests.map_or(usual.requests, Into::into),
            ciphersuites: self.ciphersuites.unwrap_or(usual.ciphersuites),
            patience: client::Patience {
                attempt: span(self.attempt_ms, usual.patience.attempt),
                call: span(self.call_ms, usual.patience.call),
            },
            lock_patience: span(self.lock_ms, usual.lock_patience),
            progress: self.progress.map(heard),
            ..client::Options::default()
        }
    }
}

fn heard(by: Arc<dyn WaitListener>) -> client::Progress {
    Arc::new(move |Waiting { reason, so_far }| {
        let so_far_ms = u64::try_from(so_far.as_millis()).unwrap_or(u64::MAX);
        drop(by.waits(reason, so_far_ms));
    })
}

#[uniffi::export]
impl Client {
    /// Reads in another way from now on, while somebody follows events: as an application does that
    /// comes to the screen or goes from it.
    pub async fn set_profile(&self, profile: Profile) -> Answer<()> {
        Ok(self.sdk.set_profile(profile.into()).await?)
    }
}
