//! The service's public directory: what several operators show alike, bounded, and kept until they
//! agree on another.

use std::sync::Arc;
use std::time::Duration;

use protocol::directory::Directory;
use protocol::operation::DIRECTORY_PATH;

use crate::engine::Engine;
use crate::error::{DirectoryError, Error, LocalError};
use crate::net::directory::{agree, difference, parse, token_keys};
use crate::store::events::{self, StoreChange};
use crate::store::{Event, profile};

impl Engine {
    /// The directory that all views last agreed on. Nothing is asked for it, but for the first one.
    pub(crate) async fn directory(&mut self) -> Result<Directory, Error> {
        self.adopt_directory()?;
        if let Some(directory) = self.stored_directory()? {
            return Ok(directory);
        }
        let directory = self.first_directory().await?;
        self.take_directory(directory.clone())?;
        Ok(directory)
    }

    /// The same, if there is one.
    pub(crate) fn stored_directory(&self) -> Result<Option<Directory>, Error> {
        let stored: Option<String> = profile::directory(&self.db)?;
        let parsed = stored.map(|stored| serde_json::from_str(&stored));
        Ok(parsed.transpose().map_err(|_| LocalError::Damaged)?)
    }

    fn store_directory(&mut self, directory: &Directory) -> Result<(), Error> {
        let text = serde_json::to_string(directory).map_err(|_| LocalError::Damaged)?;
        let known = self.stored_directory()?;
        let change = known.and_then(|known| StoreChange::between(&known.store, &directory.store));
        let transaction = crate::store::database::begin(&mut self.db)?;
        if let Some(change) = change {
            events::store(&transaction, &Event::ServiceStoreChanged { change })?;
            crate::store::heads::forget(&transaction)?;
        }
        profile::set_directory(&transaction, &text)?;
        transaction.commit()?;
        // Tokens under a key that is gone are none.
        self.hasten_filling()
    }

    /// Whether a directory is of a store whose journals this client has read under that key. A
    /// service that could take another one would have signed none of what members tell each other.
    fn of_known_signer(&self, directory: Directory) -> Result<Directory, Error> {
        match self.stored_directory()? {
            Some(known)
                if known.store == directory.store
                    && known.journal_signing_key != directory.journal_signing_key =>
            {
                Err(DirectoryError::Member("journal_signing_key").into())
            }
            _ => Ok(directory),
        }
    }

    fn take_directory(&mut self, directory: Directory) -> Result<(), Error> {
        self.transport.take_directory(directory)?;
        self.use_directory()
    }

    /// Uses a directory that was compared some time ago.
    fn adopt_directory(&mut self) -> Result<(), Error> {
        self.transport.adopt_directory();
        self.use_directory()
    }

    fn use_directory(&mut self) -> Result<(), Error> {
        if let Some(used) = self.transport.views().directory.used().cloned()
            && self.stored_directory()?.as_ref() != Some(&used)
        {
            self.store_directory(&used)?;
            self.keep_transport_state()?;
        }
        Ok(())
    }

    /// There is nothing yet that this client has said to the service, so that nothing can be tied
    /// to the time.
    async fn first_directory(&mut self) -> Result<Directory, Error> {
        let budget = Arc::clone(self.transport.budget());
        let mut pause = Duration::from_millis(200);
        loop {
            match self.compare_directories().await {
                // Some are behind others for a moment after a change.
                Err(Error::Unreachable(_) | Error::Directory(DirectoryError::Differs(_)))
                    if !budget.left().is_zero() =>
                {
                    budget.pause(pause.min(budget.left())).await;
                    pause = pause.saturating_mul(2).min(Duration::from_secs(3));
                }
                other => return other,
            }
        }
    }

    /// What relay, mirrors and the service itself show now.
    async fn compare_directories(&mut self) -> Result<Directory, Error> {
        if let Some(service) = self.transport.service() {
            return Ok(service.directory());
        }
        let own = parse(&self.transport.fetch(DIRECTORY_PATH).await?)?;
        let mut views = vec![own];
        views.push(self.transport.directory_of_relay().await?);
        views.extend(self.transport.directories_of_mirrors().await?);
        agree(&views, &self.profile.endpoints)
    }

    /// What the relay shows everybody and the service says itself, asked now: who knows the account
    /// hears nothing of it. It does for what members of a group hold against each other anyway.
    pub(crate) async fn heard_directory(&mut self) -> Result<Directory, Error> {
        if let Some(service) = self.transport.service() {
            return Ok(service.directory());
        }
        let own = parse(&self.transport.fetch(DIRECTORY_PATH).await?)?;
        let relays = self.transport.directory_of_relay().await?;
        let heard = agree(&[own, relays], &self.profile.endpoints)?;
        if self.stored_directory()?.as_ref() != Some(&heard) {
            self.transport.bring_comparison_forward()?;
        }
        self.keep_transport_state()?;
        Ok(heard)
    }

    /// The service refuses what the directory promises. If the relay shows everybody another one by
    /// now, the next comparison comes soon.
    pub(crate) async fn doubt_directory(&mut self) -> Result<(), Error> {
        if self.transport.service().is_some() {
            return Ok(());
        }
        if let Ok(shown) = self.transport.directory_of_relay().await
            && self.stored_directory()?.is_some_and(|stored| {
                let document = |directory| serde_json::to_value(directory).unwrap_or_default();
                difference(&document(&stored), &document(&shown), "").is_some()
                    || token_keys(&stored) != token_keys(&shown)
            })
        {
            self.transport.bring_comparison_forward()?;
        }
        self.keep_transport_state()
    }

    /// Compares the views of keys and directory if it is time, beside everything else: what was
    /// agreed on before stays in use meanwhile, and if they do not agree now.
    pub(crate) async fn compare_views(&mut self) -> Result<(), Error> {
        if let Some(service) = self.transport.service() {
            // There is one view.
            let directory = service.directory();
            let known = self.of_known_signer(directory)?;
            self.take_directory(known)?;
            self.disagreement = self.feed_disagreement().await?;
            return Ok(());
        }
        self.adopt_directory()?;
        if self.transport.comparison_is_due()? {
            let compared = match self.transport.compare_keys().await {
                Ok(()) => self.compare_directories().await,
                Err(error) => Err(error),
            };
            let compared = compared.and_then(|directory| self.of_known_signer(directory));
            self.disagreement = match compared {
                Ok(directory) => {
                    self.take_directory(directory)?;
                    self.transport.comparison_is_done()?;
                    self.feed_disagreement().await?
                }
                Err(error @ Error::Local(_)) => return Err(error),
                Err(error) => {
                    self.transport.comparison_failed()?;
                    Some(Arc::new(error))
                }
            };
        }
        self.keep_transport_state()
    }
}
