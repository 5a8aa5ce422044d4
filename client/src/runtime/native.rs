//! Threads, and tokio.

use std::future::Future;

pub(crate) use tokio::spawn;
pub(crate) use tokio::task::JoinHandle;
pub(crate) use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::error::{Error, LocalError};

/// Work on a thread of its own. To drop it waits for the end of that thread.
pub(crate) struct Aside(Option<std::thread::JoinHandle<()>>);

impl Aside {
    /// Starts a thread with a runtime of its own, in which what `work` makes runs to its end.
    ///
    /// # Errors
    /// [`LocalError::Thread`].
    pub(crate) fn run<F: Future<Output = ()>>(
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self, LocalError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LocalError::Thread)?;
        let thread = std::thread::Builder::new()
            .name("client".to_owned())
            .spawn(move || runtime.block_on(async move { work().await }))
            .map_err(LocalError::Thread)?;
        Ok(Self(Some(thread)))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // It has nothing to say that a handle has not been told.
            let _ = thread.join();
        }
    }
}

/// What is read, written or computed in a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| LocalError::Stopped)?
}

/// Waits a moment without doing anything else.
pub(crate) fn block_for(time: std::time::Duration) {
    std::thread::sleep(time);
}
