//! The issuer's threads, which nothing starts again: a panic is the failure of the work in which it
//! comes up, and if a thread ends all the same, that is noticed.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use tokio::sync::Notify;

use crate::outcome::IssuanceError;

/// Work whose panic must not end the thread.
pub(crate) fn contained<T>(
    work: impl FnOnce() -> Result<T, IssuanceError>,
) -> Result<T, IssuanceError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(IssuanceError::Worker))
}

/// Threads of which none should end while there is anything to issue.
#[derive(Clone, Default)]
pub(crate) struct Workers(Arc<Notify>);

impl Workers {
    pub(crate) fn spawn(
        &self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let end = End(Arc::clone(&self.0));
        Builder::new().name(name.to_owned()).spawn(move || {
            let _end = end;
            work();
        })
    }

    /// Returns when one of them has ended, however. For one waiter.
    pub(crate) async fn ended(&self) {
        self.0.notified().await;
    }
}

struct End(Arc<Notify>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_failure_of_the_work_alone() {
        let failed = contained::<()>(|| panic!("in the work"));
        assert!(matches!(failed, Err(IssuanceError::Worker)));
        assert!(contained(|| Ok(())).is_ok());
    }

    #[tokio::test]
    async fn the_end_of_a_thread_is_noticed_by_whoever_looks_later_too() {
        let workers = Workers::default();
        let panicked = workers.spawn("test", || panic!("outside of any work"));
        assert!(panicked.unwrap().join().is_err());
        workers.ended().await;
    }
}
