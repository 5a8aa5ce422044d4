//! What a service gets of its process: whether it is ready, what the operator can have it do, the
//! clock, and the end.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use http::StatusCode;

use crate::clock::SharedClock;
use crate::probe::Probe;
use crate::shutdown::Shutdown;

/// The parts that the start-up kit hands to a service.
pub struct Process {
    pub clock: SharedClock,
    /// Long-running responses await this and end early.
    pub shutdown: Shutdown,
    /// Call [`Readiness::ready`] once requests are taken.
    pub readiness: Readiness,
    /// The commands that the operator can send.
    pub commands: Commands,
}

/// Whether the process takes requests and can carry them out: the answer of `/readyz`.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    takes_requests: Arc<AtomicBool>,
    store: Arc<OnceLock<Probe>>,
}

impl Readiness {
    /// From now on the process takes requests.
    pub fn ready(&self) {
        if !self.takes_requests.swap(true, Ordering::SeqCst) {
            tracing::info!("ready");
        }
    }

    /// From now on it takes none, or cannot do what they ask for.
    pub fn not_ready(&self) {
        self.takes_requests.store(false, Ordering::SeqCst);
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.takes_requests.load(Ordering::SeqCst)
    }

    /// From now on the process is ready only while its store takes writes.
    pub fn depends_on(&self, store: Probe) {
        let _ = self.store.set(store);
    }

    /// Why the process is not ready, for its operator.
    pub(crate) async fn asked(&self) -> Result<(), String> {
        if !self.is_ready() {
            return Err(String::new());
        }
        match self.store.get() {
            Some(store) => store.asked().await,
            None => Ok(()),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<String, &'static str>> + Send>>;
type Handler = Arc<dyn Fn(String) -> Answer + Send + Sync>;

/// What an operator can have a running process do: `POST /commands/NAME` on the admin listener,
/// with the argument, if there is one, as the body.
#[derive(Clone, Default)]
pub struct Commands(Arc<RwLock<HashMap<&'static str, Handler>>>);

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Commands(..)")
    }
}

impl Commands {
    /// Offers a command from now on. Its error is for the operator, who sent the argument.
    pub fn offer<F, A>(&self, name: &'static str, command: F)
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), &'static str>> + Send + 'static,
    {
        self.offer_report(name, move |argument| {
            let done = command(argument);
            async move { done.await.map(|()| "done\n".to_owned()) }
        });
    }

    /// As [`Commands::offer`], for a command that has something to tell: whole lines.
    pub fn offer_report<F, A>(&self, name: &'static str, command: F)
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, &'static str>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |argument| Box::pin(command(argument)));
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, handler);
    }

    pub(crate) async fn carry_out(&self, name: &str, argument: String) -> (StatusCode, String) {
        let handler = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get_key_value(name)
            .map(|(name, handler)| (*name, Arc::clone(handler)));
        let Some((command, handler)) = handler else {
            tracing::warn!("an unknown admin command was refused");
            return (StatusCode::NOT_FOUND, "unknown command\n".to_owned());
        };
        // The name is one of ours; the argument may be an account or a queue.
        let done = handler(argument.trim().to_owned()).await;
        match done {
            Ok(report) => {
                tracing::info!(command, "an admin command was carried out");
                (StatusCode::OK, report)
            }
            Err(why) => {
                tracing::warn!(command, why, "an admin command failed");
                (StatusCode::BAD_REQUEST, format!("{why}\n"))
            }
        }
    }
}
