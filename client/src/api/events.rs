//! What happened, for whoever looks.

use std::sync::Arc;

use crate::api::{Client, call, in_group};
use crate::driver::Interest;
use crate::error::{Error, LocalError};
use crate::ids::GroupRef;
use crate::net::clock::{Clock as _, SystemClock};
use crate::slots;
use crate::store::events::{self, Event, StoredEvent};
use crate::store::profile::Profile;
use crate::store::{database, erasing};

impl Client {
    /// The events that have not been acknowledged, oldest first.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn events(&self) -> Result<Vec<StoredEvent>, Error> {
        self.expire()?;
        self.at_desk(|desk| events::all(desk))
    }

    /// Forgets events that have been shown. Before this call they come again after a crash.
    /// Messages that expire after reading do from now on.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn acknowledge(&self, events: &[StoredEvent]) -> Result<(), Error> {
        let begun = self.at_desk(|desk| {
            let now_ms = self.time(&Profile::read(desk)?).now_unix_ms();
            let transaction = database::begin(desk)?;
            let mut begun = false;
            for event in events {
                if let Event::Message { message, .. } = &event.event {
                    begun |= erasing::begin(&transaction, message, now_ms)?;
                }
            }
            events::acknowledge(&transaction, events)?;
            transaction.commit()?;
            Ok(begun)
        })?;
        if begun {
            self.look_again();
        }
        Ok(())
    }

    /// As [`Client::acknowledge`], by the ids of the events. Those that are not there any more are
    /// passed over.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn acknowledge_by_id(&self, ids: &[i64]) -> Result<(), Error> {
        let events = self.at_desk(|desk| events::of_ids(desk, ids))?;
        self.acknowledge(&events)
    }

    /// Events as they come, those first that have not been acknowledged. While it is there, this
    /// client reads as its [`Profile`](slots::Profile) says.
    #[must_use]
    pub fn event_stream(&self) -> Events {
        let interest = Arc::clone(&self.shared.driver.interest);
        interest.begin();
        // One that has stopped shows when the stream is asked.
        self.look_again();
        Events {
            client: self.clone(),
            interest,
            seen: 0,
        }
    }

    /// Reads in another way from now on, while somebody looks at events: as an application does
    /// that comes to the screen or goes from it.
    ///
    /// # Errors
    /// [`LocalError::Stopped`].
    pub async fn set_profile(&self, profile: slots::Profile) -> Result<(), Error> {
        call!(self, |engine| {
            engine.choose_profile(profile);
            Ok(())
        })
    }

    /// Has a group in front, as if it were on the screen: its journal is followed while somebody
    /// looks at events. So is the one that a call has sent a message to last; queued messages that
    /// go out by themselves bring no group to the front.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`](crate::UsageError).
    pub async fn bring_to_front(&self, group: impl Into<GroupRef>) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine.bring_to_front(&group))
    }

    /// Catches up until there is an event or `wait_ms` have passed, and returns the events that
    /// have not been acknowledged. As [`Client::sync`], it reads all groups at once.
    ///
    /// # Errors
    /// As [`Client::sync`].
    pub async fn receive(&self, wait_ms: u32) -> Result<Vec<StoredEvent>, Error> {
        // Whatever time an application's clock shows.
        let clock = SystemClock;
        let end_ms = clock.monotonic_ms().saturating_add(wait_ms.into());
        self.sync(0).await?;
        loop {
            let events = self.events()?;
            let left_ms = end_ms.saturating_sub(clock.monotonic_ms());
            if !events.is_empty() || left_ms == 0 {
                return Ok(events);
            }
            self.sync(u32::try_from(left_ms).unwrap_or(u32::MAX))
                .await?;
        }
    }
}

/// Events as they come: see [`Client::event_stream`].
pub struct Events {
    client: Client,
    interest: Arc<Interest>,
    /// The number of the last one that it has shown.
    seen: i64,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events(..)")
    }
}

impl Events {
    /// The next event. A future that is dropped takes none away.
    ///
    /// # Errors
    /// [`Error::Local`]; [`LocalError::Stopped`] when the client has ended.
    pub async fn next(&mut self) -> Result<StoredEvent, Error> {
        let event = self.after(self.seen).await?;
        self.seen = event.id;
        Ok(event)
    }

    /// The first event with a larger id, which [`Events::next`] passes over as little as before:
    /// for callers who cannot be sure to get what this has returned.
    ///
    /// # Errors
    /// As [`Events::next`].
    pub async fn after(&self, seen: i64) -> Result<StoredEvent, Error> {
        let mut changes = self.client.shared.driver.changes.clone();
        loop {
            changes.mark_unchanged();
            self.client.expire()?;
            let next = self.client.at_desk(|desk| events::next(desk, seen));
            if let Some(event) = next? {
                return Ok(event);
            }
            changes.changed().await.map_err(|_| LocalError::Stopped)?;
        }
    }

    /// Whether the client was closed or its account deleted. It has failed where this is false and
    /// [`Events::next`] says that it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.interest.has_ended()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.interest.end();
    }
}
