//! The time limits of an answer that goes on: on all of it, and between two of its pieces.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::shutdown::Shutdown;

/// Among the extensions of a response: its body ends by then. The listener sees to it where the
/// body cannot, since nobody asks it for more while the last piece is not taken. Where it is one of
/// many on its connection only that answer is cut.
#[derive(Clone, Copy, Debug)]
pub struct EndsBy(pub Instant);

/// To be asked whenever there is no piece, and told of each. One timer, which pieces do not arm
/// anew.
pub struct StreamLimits {
    end: Instant,
    idle: Duration,
    last: Instant,
    timer: Pin<Box<Sleep>>,
    ending: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

/// Why a stream does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOver {
    /// There was nothing for too long.
    Idle,
    /// It went on for too long.
    Long,
    /// This process is about to end.
    Ending,
}

#[allow(
    clippy::disallowed_methods,
    reason = "how long a peer takes, by no clock that anybody sets"
)]
fn now() -> Instant {
    Instant::now()
}

impl StreamLimits {
    /// `longest` in all, `idle` between two pieces, and `grace` after the shutdown.
    #[must_use]
    pub fn new(longest: Duration, idle: Duration, shutdown: &Shutdown, grace: Duration) -> Self {
        let last = now();
        let end = last + longest;
        let shutdown = shutdown.clone();
        Self {
            end,
            idle,
            last,
            timer: Box::pin(sleep_until(end.min(last + idle))),
            ending: Box::pin(async move { shutdown.requested_before(grace).await }),
        }
    }

    /// When it is over at the latest.
    #[must_use]
    pub fn ends_by(&self) -> EndsBy {
        EndsBy(self.end)
    }

    /// A piece has come. Whether it goes on: where there always is one nothing else says so.
    #[must_use]
    pub fn piece(&mut self) -> bool {
        self.last = now();
        self.last < self.end
    }

    /// Ready: it does not go on.
    pub fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<StreamOver> {
        if self.ending.as_mut().poll(context).is_ready() {
            return Poll::Ready(StreamOver::Ending);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            let (now, silent) = (now(), self.last + self.idle);
            if now >= self.end {
                return Poll::Ready(StreamOver::Long);
            }
            if now >= silent {
                return Poll::Ready(StreamOver::Idle);
            }
            self.timer.as_mut().reset(self.end.min(silent));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_stream_ends_when_nothing_comes_and_after_its_whole_time_whatever_comes() {
        let (trigger, shutdown) = Shutdown::channel();
        let ms = Duration::from_millis;
        let limits = |longest| StreamLimits::new(ms(longest), ms(200), &shutdown, ms(50));
        let over = async |mut limits: StreamLimits, pieces: usize| {
            let began = now();
            for _ in 0..pieces {
                let waiting = poll_fn(|context| limits.poll_over(context));
                if let Ok(over) = tokio::time::timeout(ms(100), waiting).await {
                    return (over, began.elapsed());
                }
                let _ = limits.piece();
            }
            let over = poll_fn(|context| limits.poll_over(context)).await;
            (over, began.elapsed())
        };
        let (idle, busy) = tokio::join!(over(limits(10_000), 3), over(limits(700), 100));
        assert_eq!(idle.0, StreamOver::Idle);
        assert!((ms(500)..ms(900)).contains(&idle.1), "{idle:?}");
        assert_eq!(busy.0, StreamOver::Long);
        assert!((ms(700)..ms(1_000)).contains(&busy.1), "{busy:?}");
        // It is asked for nothing else, since there always is a piece.
        let began = now();
        let mut endless = limits(300);
        let pieces = async {
            while endless.piece() {
                tokio::task::yield_now().await;
            }
        };
        // However long a busy machine takes.
        let ended = tokio::time::timeout(ms(10_000), pieces).await;
        assert!(ended.is_ok() && began.elapsed() >= ms(300));
        trigger.request();
        assert_eq!(over(limits(10_000), 0).await.0, StreamOver::Ending);
    }
}
