//! How long a call waits, all its requests and attempts together, and what it says meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, NoAnswer};
use crate::key_view::KeyView;

/// An answer within this time costs a call nothing of its patience.
const GOOD_TIME: Duration = Duration::from_secs(2);
/// Waiting is counted in such steps.
const STEP: Duration = Duration::from_millis(100);
/// Whoever shows progress hears of it so often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How long a call waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// One attempt of a request must be answered within this time; behind that it is made again.
    pub attempt: Duration,
    /// So long a call waits for answers that do not come, over all of its requests and attempts;
    /// what is answered within two seconds does not count, nor does a long poll while the service
    /// may hold it.
    pub call: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(15),
            call: Duration::from_secs(30),
        }
    }
}

/// What a call is waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What the last attempt met, or that there was no answer yet.
    pub reason: String,
    /// For how long the call has waited so far.
    pub so_far: Duration,
}

/// Hears of calls that wait longer than usual.
pub type Progress = Arc<dyn Fn(Waiting) + Send + Sync>;

/// What is left of the patience of the call that is under way.
pub(crate) struct Budget {
    patience: Patience,
    progress: Option<Progress>,
    waited_ms: AtomicU64,
    told_ms: AtomicU64,
    met: Mutex<Met>,
}

/// What the last attempt of a request met.
#[derive(Debug, Clone)]
pub(crate) enum Met {
    NoAnswer(NoAnswer),
    Mismatch(KeyView),
}

impl Met {
    fn nothing() -> Self {
        Self::NoAnswer("the relay does not answer".into())
    }

    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::NoAnswer(no_answer) => no_answer.retry_after_s,
            Self::Mismatch(_) => None,
        }
    }

    fn reason(self) -> String {
        match self {
            Self::NoAnswer(no_answer) => no_answer.reason,
            Self::Mismatch(_) => "the gateway has other keys".to_owned(),
        }
    }
}

impl From<Met> for Error {
    fn from(met: Met) -> Self {
        match met {
            Met::NoAnswer(no_answer) => no_answer.into(),
            Met::Mismatch(view) => Self::KeyConfigMismatch(view),
        }
    }
}

impl Budget {
    pub(crate) fn new(patience: Patience, progress: Option<Progress>) -> Self {
        Self {
            patience,
            progress,
            waited_ms: AtomicU64::new(0),
            told_ms: AtomicU64::new(0),
            met: Mutex::new(Met::nothing()),
        }
    }

    /// For a request beside the calls: nobody hears of its waiting.
    pub(crate) fn anew(&self) -> Self {
        Self::new(self.patience, None)
    }

    pub(crate) fn attempt(&self) -> Duration {
        self.patience.attempt
    }

    /// Another call begins.
    pub(crate) fn begin(&self) {
        self.waited_ms.store(0, Ordering::Relaxed);
        self.told_ms.store(0, Ordering::Relaxed);
    }

    pub(crate) fn left(&self) -> Duration {
        self.patience.call.saturating_sub(self.waited())
    }

    fn waited(&self) -> Duration {
        Duration::from_millis(self.waited_ms.load(Ordering::Relaxed))
    }

    /// What an attempt has met, for whoever is told in the end.
    pub(crate) fn meets(&self, met: Met) {
        *self.met.lock().unwrap_or_else(PoisonError::into_inner) = met;
    }

    fn met(&self) -> Met {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.clone()
    }

    fn count(&self, time: Duration) {
        let step = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let waited_ms = self
            .waited_ms
            .fetch_add(step, Ordering::Relaxed)
            .saturating_add(step);
        let told_ms = self.told_ms.load(Ordering::Relaxed);
        if u128::from(waited_ms.saturating_sub(told_ms)) < TELL_EVERY.as_millis() {
            return;
        }
        self.told_ms.store(waited_ms, Ordering::Relaxed);
        if let Some(progress) = &self.progress {
            progress(Waiting {
                reason: self.met().reason(),
                so_far: Duration::from_millis(waited_ms),
            });
        }
    }

    /// Sleeps as a part of the call's waiting.
    pub(crate) async fn pause(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(STEP);
            crate::runtime::sleep(step).await;
            self.count(step);
            left = left.saturating_sub(step);
        }
    }

    /// Waits for a request to come to its end. `held` is how long the service may hold it.
    ///
    /// # Errors
    /// What was met last, when the call's patience ends before.
    pub(crate) async fn wait<T>(
        &self,
        held: Duration,
        request: impl Future<Output = T>,
    ) -> Result<T, Error> {
        self.meets(Met::nothing());
        let mut request = std::pin::pin!(request);
        if let Ok(done) =
            crate::runtime::timeout(GOOD_TIME.saturating_add(held), request.as_mut()).await
        {
            return Ok(done);
        }
        self.count(GOOD_TIME);
        while !self.left().is_zero() {
            if let Ok(done) = crate::runtime::timeout(STEP, request.as_mut()).await {
                return Ok(done);
            }
            self.count(STEP);
        }
        Err(self.met().into())
    }
}
