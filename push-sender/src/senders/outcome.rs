//! What came of a push.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;

use super::encryption::EncryptionError;
use super::jwt::KeyError;
use crate::allowed::NotAllowed;
use crate::outbound::{Answer, Unreachable};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Sent,
    /// The address leads nowhere any more.
    Gone,
    /// To be tried again: after so long, or when we think fit.
    Later(Option<u64>),
    /// Will not do, however often it is tried.
    Refused,
}

impl Outcome {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Gone => "gone",
            Self::Later(_) => "later",
            Self::Refused => "refused",
        }
    }

    /// Of an answer in the plain sense of its status (RFC 8030 §7.3, §8.4; RFC 6585 §4).
    pub(crate) fn of(answer: &Answer) -> Self {
        match answer.status {
            status if status.is_success() => Self::Sent,
            StatusCode::NOT_FOUND | StatusCode::GONE => Self::Gone,
            status => Self::of_failure(status, answer),
        }
    }

    /// The same where a missing or gone resource says nothing of the device.
    pub(crate) fn of_failure(status: StatusCode, answer: &Answer) -> Self {
        if status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
            || status.is_server_error()
        {
            Self::Later(answer.retry_after_ms)
        } else {
            Self::Refused
        }
    }
}

/// So many devices in a row may be gone before that looks like a mistake of ours.
const BELIEVED: u32 = 10;

/// Whether a refusal of a device is believed that a mistake in our own configuration would cause,
/// too. It is while the service takes pushes to other devices.
#[derive(Debug, Default)]
pub(super) struct Trust(AtomicU32);

impl Trust {
    /// The service has taken a push.
    pub(super) fn sent(&self) -> Outcome {
        self.0.store(BELIEVED, Relaxed);
        Outcome::Sent
    }

    /// It says that it has no such device, or none of this app.
    pub(super) fn doubtful(&self) -> Outcome {
        let one_less = |left: u32| left.checked_sub(1);
        if self.0.fetch_update(Relaxed, Relaxed, one_less).is_ok() {
            return Outcome::Gone;
        }
        tracing::error!("a push service takes no device of an app: is it configured for that app?");
        Outcome::Refused
    }
}

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
    #[error("the text is none")]
    Text,
    /// The push service does not know us.
    #[error("the push service refuses this push sender")]
    Credentials,
}

impl Failure {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Unreachable(_) => Outcome::Later(None),
            Self::Credentials => {
                tracing::error!("a push service does not accept this push sender's credentials");
                Outcome::Refused
            }
            Self::Key(_) | Self::Request(_) => {
                tracing::error!(error = %self, "a push could not be made");
                Outcome::Refused
            }
            // The list of hosts has changed, or the subscription is no key.
            Self::NotAllowed(_) | Self::Encryption(_) | Self::Text => Outcome::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_the_configuration_erases_few_addresses() {
        let trust = Trust::default();
        assert_eq!(trust.doubtful(), Outcome::Refused, "nothing was taken yet");
        trust.sent();
        let gone = (0..1_000).filter(|_| trust.doubtful() == Outcome::Gone);
        assert_eq!(gone.count(), 10);
    }
}
