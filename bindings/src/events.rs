//! What happened, for whoever looks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::event::Event;
use crate::{Answer, Client};

/// An event that is kept until it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct StoredEvent {
    /// Grows with each event of this client, and is never used again.
    pub id: i64,
    /// What happened.
    pub event: Event,
}

impl From<client::StoredEvent> for StoredEvent {
    fn from(sdk: client::StoredEvent) -> Self {
        Self {
            id: sdk.id,
            event: sdk.event.into(),
        }
    }
}

/// Events as they come, those first that have not been acknowledged. While it is there and has not
/// been ended, its client reads as its profile says.
#[derive(uniffi::Object)]
pub struct Events {
    sdk: Mutex<Option<Arc<client::Events>>>,
    ended: CancellationToken,
}

#[uniffi::export]
impl Events {
    /// Waits for the first event with a larger id than `after`: the id of the last one that the
    /// caller has got, 0 at the beginning. What a cancelled call would have returned the next one
    /// does. There is nothing once this stream was ended, or its client by `stop` or
    /// `delete_account`.
    ///
    /// Fails with `stopped` when the client has ended by a failure of its own.
    pub async fn next_event(&self, after: i64) -> Answer<Option<StoredEvent>> {
        let Some(sdk) = self.sdk().clone() else {
            return Ok(None);
        };
        match self.ended.run_until_cancelled(sdk.after(after)).await {
            Some(Ok(stored)) => Ok(Some(stored.into())),
            Some(Err(error)) if !sdk.has_ended() => Err(error.into()),
            Some(Err(_)) | None => Ok(None),
        }
    }

    /// Ends the stream: its client reads for it no more, and whoever waits gets nothing.
    pub fn end(&self) {
        self.ended.cancel();
        *self.sdk() = None;
    }
}

impl Events {
    fn sdk(&self) -> MutexGuard<'_, Option<Arc<client::Events>>> {
        self.sdk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[uniffi::export]
impl Client {
    /// The events that have not been acknowledged, oldest first.
    pub fn events(&self) -> Answer<Vec<StoredEvent>> {
        let events = self.sdk.events()?;
        Ok(events.into_iter().map(Into::into).collect())
    }

    /// Forgets events that have been shown, by their ids. Before this call they come again after a
    /// crash. Messages that expire after reading do from now on. Ids that are not there any more
    /// are passed over.
    pub fn acknowledge(&self, events: Vec<i64>) -> Answer<()> {
        Ok(self.sdk.acknowledge_by_id(&events)?)
    }

    /// Events as they come. Until what this returns is ended or gone, this client reads as its
    /// profile says.
    pub fn event_stream(&self) -> Events {
        Events {
            sdk: Mutex::new(Some(Arc::new(self.sdk.event_stream()))),
            ended: CancellationToken::new(),
        }
    }

    /// Has a group in front, as if it were on the screen: its journal is followed while somebody
    /// follows events. So is the one that a call has sent a message to last.
    ///
    /// Fails with `unknown-group`.
    pub async fn bring_to_front(&self, group: String) -> Answer<()> {
        Ok(self.sdk.bring_to_front(&group).await?)
    }

    /// Catches up until there is an event or `wait_ms` have passed, and returns the events that
    /// have not been acknowledged. As `sync`, it reads all groups at once.
    pub async fn receive(&self, wait_ms: u32) -> Answer<Vec<StoredEvent>> {
        let events = self.sdk.receive(wait_ms).await?;
        Ok(events.into_iter().map(Into::into).collect())
    }
}
