//! How many fetches wait for one queue. A queue costs one token for ever, and each wait holds a place here, a
//! connection of the gateway and a slot at the relay: the tokens of one user must not fill them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::ids::QueueId;
use tokio::sync::Notify;

/// A client waits with one. More are those that it has given up without our knowing.
const MOST: usize = 4;

/// The fetches that may wait.
#[derive(Debug, Default)]
pub struct Polls(Mutex<HashMap<QueueId, VecDeque<Arc<Turn>>>>);

/// Tells one of them that its turn is over.
#[derive(Debug, Default)]
struct Turn {
    is_over: AtomicBool,
    over: Notify,
}

/// A fetch, for as long as it may wait.
#[must_use]
pub struct Poll<'a> {
    polls: &'a Polls,
    queue: QueueId,
    turn: Arc<Turn>,
}

impl Polls {
    /// One more fetch of this queue. When there are too many, the oldest gives way: whoever asks last is the
    /// one who is still there.
    pub fn begin(&self, queue: QueueId) -> Poll<'_> {
        let turn = Arc::new(Turn::default());
        let mut polls = self.lock();
        let turns = polls.entry(queue).or_default();
        turns.push_back(Arc::clone(&turn));
        if turns.len() > MOST
            && let Some(oldest) = turns.pop_front()
        {
            oldest.is_over.store(true, Ordering::Release);
            oldest.over.notify_one();
        }
        Poll {
            polls: self,
            queue,
            turn,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<QueueId, VecDeque<Arc<Turn>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Poll<'_> {
    /// Whether it is to wait no more.
    #[must_use]
    pub fn gives_way(&self) -> bool {
        self.turn.is_over.load(Ordering::Acquire)
    }

    /// Resolves when it is to wait no more.
    pub async fn gave_way(&self) {
        self.turn.over.notified().await;
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        let mut polls = self.polls.lock();
        if let Some(turns) = polls.get_mut(&self.queue) {
            turns.retain(|turn| !Arc::ptr_eq(turn, &self.turn));
            if turns.is_empty() {
                polls.remove(&self.queue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_fetches_of_a_queue_the_oldest_gives_way_and_no_other_queue_notices() {
        let polls = Polls::default();
        let (queue, other) = (QueueId([1; 16]), QueueId([2; 16]));
        let elsewhere = polls.begin(other);
        let mut waiting: Vec<_> = (0..MOST).map(|_| polls.begin(queue)).collect();
        assert!(!waiting.iter().any(Poll::gives_way));
        waiting.push(polls.begin(queue));
        let over: Vec<bool> = waiting.iter().map(Poll::gives_way).collect();
        assert_eq!(over, [true, false, false, false, false]);
        assert!(!elsewhere.gives_way());
        waiting.truncate(2);
        let again = polls.begin(queue);
        assert!(!waiting.iter().skip(1).any(Poll::gives_way) && !again.gives_way());
        drop((waiting, again, elsewhere));
        assert!(polls.lock().is_empty());
    }
}
