//! The account: handle, KeyPackages, tokens, backups, its end.

use std::path::Path;
use std::sync::Arc;

use crate::api::{Client, call};
use crate::backup_key::BackupKey;
use crate::error::Error;
#[cfg(doc)]
use crate::error::UsageError;
use crate::flows::history::{HistoryScope, ImportedHistory};

impl Client {
    /// An encrypted backup of this client as it is now. Groups joined later are not in it.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub async fn backup(&self, key: &BackupKey) -> Result<Vec<u8>, Error> {
        let key = key.copy();
        call!(self, |engine| engine.backup(&key))
    }

    /// Writes what was said into a file that must not exist, sealed, and says how many messages and
    /// reactions. Another device of this user reads it in ([`Client::import_history`]). What waits,
    /// is gone, or was told by receipts is not in it. Whoever has sent a message cannot delete it
    /// there any more: keep the file as long as it is needed.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`] for a group of the scope; [`Error::Local`].
    pub async fn export_history(
        &self,
        path: &Path,
        key: &BackupKey,
        scope: HistoryScope,
    ) -> Result<u64, Error> {
        let (path, key) = (path.to_owned(), key.copy());
        call!(self, |engine| engine.export_history(&path, &key, &scope))
    }

    /// Reads a history of this user in. Each message comes to its place in its group. What is known
    /// here stays as it is, and so does what is gone here. No event tells of what comes back.
    ///
    /// # Errors
    /// Of [`UsageError`]: `NotAHistory`, `HistoryOfAnother`, `WrongBackupKey`, `NewerBackup`;
    /// nothing was read in then. [`Error::Local`].
    pub async fn import_history(
        &self,
        path: &Path,
        key: &BackupKey,
    ) -> Result<ImportedHistory, Error> {
        let (path, key) = (path.to_owned(), key.copy());
        call!(self, |engine| engine.import_history(&path, &key).await)
    }

    /// Registers this user's handle, which is also the name that members see, and publishes
    /// KeyPackages. Again with the same handle: renews the record.
    ///
    /// # Errors
    /// [`UsageError::HandleRegistered`], [`UsageError::InvalidHandle`]; the problem `handle-taken`.
    pub async fn register_handle(&self, handle: &str) -> Result<(), Error> {
        let handle = handle.to_owned();
        call!(self, |engine| engine.register_handle(&handle).await)
    }

    /// KeyPackages that others can still claim of this user, by ciphersuite, as the service counts
    /// them. What is missing is published by the next [`Client::sync`].
    ///
    /// # Errors
    /// [`Error::Unreachable`] and whatever the request meets.
    pub async fn count_key_packages(&self) -> Result<Vec<(u16, u32)>, Error> {
        call!(self, |engine| engine.count_key_packages().await)
    }

    /// Gives the handle up. Contacts and groups stay; nobody can ask for a connection any more.
    ///
    /// # Errors
    /// [`UsageError::NoHandle`].
    pub async fn delete_handle(&self) -> Result<(), Error> {
        call!(self, |engine| engine.delete_handle().await)
    }

    /// Fills the wallet now: by whole batches until it is full, by one at least.
    ///
    /// This is for users to decide. The issuer sees when they do, and that many tokens were spent
    /// before; what is done with tokens soon after is easier to tell for theirs than what is done
    /// from a wallet that was filled at a time of its own.
    ///
    /// # Errors
    /// [`Error::Issuer`], [`Error::Unreachable`].
    pub async fn fill_wallet(&self) -> Result<(), Error> {
        call!(self, |engine| engine.fill_wallet().await)
    }

    /// The own handle.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn handle(&self) -> Result<Option<String>, Error> {
        self.read(|_, profile, _| Ok(profile.handle.clone()))
    }

    /// Tokens that can be spent.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub async fn tokens(&self) -> Result<usize, Error> {
        call!(self, |engine| engine.spendable())
    }

    /// Why the views of relay, mirrors, gateway and service did not agree when they were last
    /// compared. What they agreed on before stays in use; a disagreement that lasts is a reason to
    /// ask the operators.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub async fn disagreement(&self) -> Result<Option<Arc<Error>>, Error> {
        call!(self, |engine| Ok(engine.disagreement.clone()))
    }
}
