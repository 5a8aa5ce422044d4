//! Who waits for a segment to go on. A hint only: a lost one costs latency, never an entry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ds_domain::rows::SegmentRow;
use tokio::sync::Notify;

/// Segments that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<HashMap<SegmentRow, Weak<Notify>>>);

/// Beyond this number of entries, those that nobody waits for any more are cleared out.
const SWEEP_AT: usize = 4096;

impl Waits {
    /// Waits are on the returned handle; take it before looking into the segment. None where `most`
    /// wait for it already.
    pub(crate) fn subscribe(&self, segment: SegmentRow, most: usize) -> Option<Arc<Notify>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= SWEEP_AT && waiting.len().is_power_of_two() {
            waiting.retain(|_, notify| notify.strong_count() > 0);
        }
        if let Some(notify) = waiting.get(&segment).and_then(Weak::upgrade) {
            // This one not counted.
            let others = Arc::strong_count(&notify).saturating_sub(1);
            return (others < most).then_some(notify);
        }
        let notify = Arc::new(Notify::new());
        waiting.insert(segment, Arc::downgrade(&notify));
        Some(notify).filter(|_| most > 0)
    }

    /// Wakes whoever waits for one of these.
    pub(crate) fn wake(&self, segments: &[SegmentRow]) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in segments {
            match waiting.get(segment).map(Weak::upgrade) {
                Some(Some(notify)) => notify.notify_waiters(),
                Some(None) => {
                    waiting.remove(segment);
                }
                None => {}
            }
        }
    }
}
