//! Messages that were accepted, for who wakes devices.

use ds_domain::group::handles::AcceptedMessage;
use ds_domain::rows::SegmentRow;
use tokio::sync::mpsc;

/// Messages that wait to be looked at.
const MOST: usize = 1024;

/// A message that was accepted.
pub(crate) struct News {
    pub(crate) segment: SegmentRow,
    pub(crate) message: AcceptedMessage,
}

/// Where accepted messages are handed in.
#[derive(Debug)]
pub(crate) struct NewsQueue(mpsc::Sender<News>);

impl NewsQueue {
    pub(crate) fn new() -> (Self, mpsc::Receiver<News>) {
        let (queue, news) = mpsc::channel(MOST);
        (Self(queue), news)
    }

    /// The request of a message was carried out. Costs the request nothing but this.
    pub(crate) fn message(&self, segment: SegmentRow, request: &[u8]) {
        let Some(message) = AcceptedMessage::of(request) else {
            return;
        };
        if self.0.try_send(News { segment, message }).is_err() {
            metrics::counter!("ds_push_messages_dropped_total").increment(1);
        }
    }
}
