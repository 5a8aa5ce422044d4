//! Wakes long polls when something arrives. A hint only: a lost one costs latency, never a message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use protocol::ids::QueueId;
use tokio::sync::Notify;

/// Who waits for which queue.
#[derive(Debug, Default)]
pub struct Wakeups(Mutex<HashMap<QueueId, Weak<Notify>>>);

/// Beyond this number of entries, those that nobody waits for any more are cleared out.
const SWEEP_AT: usize = 4096;

impl Wakeups {
    /// Waits are on the returned handle; take it before looking into the queue.
    pub fn subscribe(&self, queue: QueueId) -> Arc<Notify> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= SWEEP_AT && waiting.len().is_power_of_two() {
            waiting.retain(|_, notify| notify.strong_count() > 0);
        }
        if let Some(notify) = waiting.get(&queue).and_then(Weak::upgrade) {
            return notify;
        }
        let notify = Arc::new(Notify::new());
        waiting.insert(queue, Arc::downgrade(&notify));
        notify
    }

    /// Wakes whoever waits for one of these queues.
    pub fn wake(&self, queues: &[QueueId]) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in queues {
            match waiting.get(queue).map(Weak::upgrade) {
                Some(Some(notify)) => notify.notify_waiters(),
                Some(None) => {
                    waiting.remove(queue);
                }
                None => {}
            }
        }
    }
}
