//! Messages that were accepted, for who wakes devices.

mod passes;

use std::sync::{Mutex, PoisonError};

use ds_domain::group::handles::AcceptedMessage;
use ds_domain::rows::SegmentRow;
use service::SharedClock;
use tokio::sync::mpsc;

use passes::Passes;

/// Messages that wait to be looked at.
const MOST: usize = 1024;
/// One that waits longer is dropped: it holds its group's key.
const MOST_MS: u64 = 2_000;

/// A message that was accepted, the first of an interval in its group.
pub(crate) struct News {
    message: AcceptedMessage,
    accepted_ms: u64,
    /// When the interval ends.
    pub(crate) end_ms: u64,
}

impl News {
    /// The message, if it has not waited for too long.
    pub(crate) fn message(&self, now_ms: u64) -> Option<&AcceptedMessage> {
        let until_ms = self.accepted_ms.saturating_add(MOST_MS);
        (now_ms <= until_ms).then_some(&self.message)
    }
}

/// Where accepted messages are handed in.
pub(crate) struct NewsQueue {
    queue: mpsc::Sender<News>,
    passes: Mutex<Passes<SegmentRow>>,
    clock: SharedClock,
}

impl std::fmt::Debug for NewsQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewsQueue(..)")
    }
}

impl NewsQueue {
    pub(crate) fn new(
        interval_ms: u64,
        most_groups: usize,
        clock: SharedClock,
    ) -> (Self, mpsc::Receiver<News>) {
        let (queue, news) = mpsc::channel(MOST);
        let passes = Mutex::new(Passes::new(interval_ms, most_groups));
        let queue = Self {
            queue,
            passes,
            clock,
        };
        (queue, news)
    }

    /// The request of a message was carried out. Costs the request nothing but this. The key of a
    /// message that nothing is looked up for is not kept.
    pub(crate) fn message(&self, segment: SegmentRow, request: &[u8]) {
        let accepted_ms = self.clock.monotonic_ms();
        let end_ms = {
            let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
            passes.message(segment, accepted_ms)
        };
        let message = end_ms.and_then(|end_ms| Some((end_ms, AcceptedMessage::of(request)?)));
        let Some((end_ms, message)) = message else {
            return;
        };
        let news = News {
            message,
            accepted_ms,
            end_ms,
        };
        if self.queue.try_send(news).is_err() {
            metrics::counter!("ds_push_messages_dropped_total").increment(1);
        }
    }
}
