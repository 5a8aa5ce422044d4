//! Whether a store takes writes: asked by `/readyz`, and watched after a write has failed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout};

/// How a store is asked.
#[derive(Clone, Copy)]
struct Times {
    /// What a probe writes tells nobody anything, but it costs an fsync: whoever asks within this
    /// time gets the answer of before.
    fresh: Duration,
    /// A disk that does not answer is as good as none.
    answers_within: Duration,
    /// A store that has failed a write is asked this often.
    asked_again: Duration,
}

const TIMES: Times = Times {
    fresh: Duration::from_secs(1),
    answers_within: Duration::from_secs(5),
    asked_again: Duration::from_secs(1),
};

/// What a probe writes: more than what is left of the last page of a full disk.
pub const BYTES: [u8; 4096] = [0; 4096];

/// How many times a store that has failed a write may fail another one.
const GIVEN_UP_AFTER: u32 = 15;

type Asked = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Asks a store for one durable write.
#[derive(Clone)]
pub struct Probe(Arc<Inner>);

struct Inner {
    times: Times,
    ask: Box<dyn Fn() -> Asked + Send + Sync>,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Probe(..)")
    }
}

impl Probe {
    /// `ask` makes one durable write; its error is for the operator.
    pub fn new<F, A>(ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self::with(TIMES, ask)
    }

    fn with<F, A>(times: Times, ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self(Arc::new(Inner {
            times,
            ask: Box::new(move || Box::pin(ask())),
            last: Mutex::new(None),
        }))
    }

    /// Whether the store takes writes, as of the last second.
    #[allow(
        clippy::disallowed_methods,
        reason = "how often a disk is asked is no behaviour that a test moves a clock for"
    )]
    pub async fn asked(&self) -> Result<(), String> {
        let mut last = self.0.last.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < self.0.times.fresh
        {
            return answer.clone();
        }
        let answer = self.ask_now().await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn ask_now(&self) -> Result<(), String> {
        match timeout(self.0.times.answers_within, (self.0.ask)()).await {
            Ok(answer) => answer,
            Err(_) => Err("the store does not answer".to_owned()),
        }
    }
}

/// Where an engine says that a write has failed.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Notify>);

impl Trouble {
    /// A write has failed.
    pub fn report(&self) {
        self.0.notify_one();
    }
}

/// Returns when the store has failed a write and takes none for a while after: what it says then.
/// An engine in this process can be helped by a new start only.
pub async fn lost(trouble: Trouble, probe: Probe) -> String {
    loop {
        trouble.0.notified().await;
        let mut last = None;
        for _ in 0..GIVEN_UP_AFTER {
            match probe.ask_now().await {
                Ok(()) => {
                    if last.is_some() {
                        tracing::info!("the store takes writes again");
                    }
                    last = None;
                    break;
                }
                Err(why) => {
                    if last.is_none() {
                        tracing::error!(%why, "the store takes no writes");
                    }
                    last = Some(why);
                    sleep(probe.0.times.asked_again).await;
                }
            }
        }
        if let Some(why) = last {
            return why;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const AT_ONCE: Times = Times {
        fresh: Duration::ZERO,
        answers_within: Duration::ZERO,
        asked_again: Duration::ZERO,
    };

    /// Fails the first so many times that it is asked.
    fn failing(times: Times, failures: u32) -> (Probe, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        let probe = Probe::with(times, move || {
            let fails = counted.fetch_add(1, Ordering::SeqCst) < failures;
            async move {
                if fails {
                    Err("full".to_owned())
                } else {
                    Ok(())
                }
            }
        });
        (probe, asked)
    }

    #[tokio::test]
    async fn a_store_is_asked_once_in_a_while_however_often_readiness_is() {
        let hour = Duration::from_secs(3600);
        let (probe, asked) = failing(
            Times {
                fresh: hour,
                ..TIMES
            },
            1,
        );
        for _ in 0..50 {
            assert!(probe.asked().await.is_err());
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let (probe, asked) = failing(AT_ONCE, 1);
        assert!(probe.asked().await.is_err());
        assert!(probe.asked().await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_not_ready() {
        let probe = Probe::with(AT_ONCE, std::future::pending);
        assert!(probe.asked().await.is_err());
    }

    #[tokio::test]
    async fn a_store_that_recovers_goes_on_and_one_that_does_not_is_given_up() {
        let trouble = Trouble::default();
        let (probe, asked) = failing(AT_ONCE, GIVEN_UP_AFTER - 1);
        let watching = tokio::spawn(lost(trouble.clone(), probe));
        trouble.report();
        while asked.load(Ordering::SeqCst) < GIVEN_UP_AFTER {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!watching.is_finished());
        assert_eq!(asked.load(Ordering::SeqCst), GIVEN_UP_AFTER);
        watching.abort();

        let (probe, asked) = failing(AT_ONCE, u32::MAX);
        trouble.report();
        assert_eq!(lost(trouble, probe).await, "full");
        assert_eq!(asked.load(Ordering::SeqCst), GIVEN_UP_AFTER);
    }
}
