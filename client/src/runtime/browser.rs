//! The event loop of a worker: one thread does everything.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, Either, select};
use gloo_timers::future::TimeoutFuture;
use tokio::sync::oneshot;
use wasm_bindgen_futures::spawn_local;
pub(crate) use web_time::Instant;

use crate::error::{Error, LocalError};

/// Timers count milliseconds in 31 bits; nothing here waits for as long as that.
const LONGEST: u32 = i32::MAX.unsigned_abs();

/// A wait; none once it is over.
pub(crate) struct Sleep(Option<TimeoutFuture>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = &mut self.0 {
            std::task::ready!(Pin::new(timer).poll(context));
            self.0 = None;
        }
        Poll::Ready(())
    }
}

pub(crate) fn sleep(time: Duration) -> Sleep {
    // A timer may ring a fraction of a millisecond early.
    let ms = u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(LONGEST);
    Sleep(Some(TimeoutFuture::new(ms.min(LONGEST))))
}

pub(crate) fn sleep_until(time: Instant) -> Sleep {
    sleep(time.saturating_duration_since(now()))
}

#[allow(
    clippy::disallowed_methods,
    reason = "waits are measured by the machine's clock"
)]
fn now() -> Instant {
    Instant::now()
}

/// The time was over before.
#[derive(Debug)]
pub(crate) struct Elapsed;

pub(crate) async fn timeout<F: Future>(time: Duration, work: F) -> Result<F::Output, Elapsed> {
    let work = std::pin::pin!(work);
    match select(work, sleep(time)).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right(((), _)) => Err(Elapsed),
    }
}

/// A task that runs by itself.
pub(crate) struct JoinHandle<T> {
    done: oneshot::Receiver<T>,
    abort: AbortHandle,
}

impl<T> JoinHandle<T> {
    pub(crate) fn abort(&self) {
        self.abort.abort();
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, oneshot::error::RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.done).poll(context)
    }
}

pub(crate) fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let (tell, done) = oneshot::channel();
    let (abort, registration) = AbortHandle::new_pair();
    let work = async move {
        // Whoever does not wait any more has lost the answer.
        let _ = tell.send(work.await);
    };
    spawn_local(async move {
        // Aborted or done: both are the end.
        let _ = Abortable::new(work, registration).await;
    });
    JoinHandle { done, abort }
}

/// Work beside the application. To drop it does not wait for its end: that needs the event loop.
pub(crate) struct Aside;

impl Aside {
    /// Has what `work` makes run to its end.
    ///
    /// # Errors
    /// None here.
    pub(crate) fn run<F: Future<Output = ()> + 'static>(
        work: impl FnOnce() -> F + 'static,
    ) -> Result<Self, LocalError> {
        spawn_local(work());
        Ok(Self)
    }
}

/// What is read, written or computed: here too, and nothing else meanwhile.
pub(crate) async fn blocking<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    work()
}

/// Nothing here is held up by another thread.
pub(crate) fn block_for(_: Duration) {}
