//! The account: handle, KeyPackages, tokens, backups.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{Answer, Client};

/// What opens a backup, or a history. It does not show what it holds.
#[derive(uniffi::Object)]
pub struct BackupKey(pub(crate) client::BackupKey);

#[uniffi::export]
impl BackupKey {
    /// Words that a person remembers; guessing them is made dear.
    #[uniffi::constructor]
    pub fn passphrase(words: String) -> Arc<Self> {
        Arc::new(Self(client::BackupKey::Passphrase(Zeroizing::new(words))))
    }

    /// A random key, as `new_recovery_key` makes it.
    #[uniffi::constructor]
    pub fn recovery_key(key: String) -> Arc<Self> {
        Arc::new(Self(client::BackupKey::RecoveryKey(Zeroizing::new(key))))
    }
}

/// Why the views of several operators did not agree.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Disagreement {
    /// A stable name, as that of an error.
    pub code: String,
    /// In words.
    pub detail: String,
}

/// KeyPackages that others can still claim of this user.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct KeyPackageCount {
    /// IANA's number of the MLS ciphersuite.
    pub ciphersuite: u16,
    /// How many, as the service counts them.
    pub count: u32,
}

/// What of a history is written.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct HistoryScope {
    /// Only what was said in the last so many days; all if there is none.
    #[uniffi(default = None)]
    pub days: Option<u32>,
    /// Only what was said in these groups; in all if there is none.
    #[uniffi(default = [])]
    pub groups: Vec<String>,
}

/// What has come of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Record)]
pub struct ImportedHistory {
    /// Messages and reactions that were not here before.
    pub added: u64,
    /// Those that were here, have expired, or are about what is gone here.
    pub passed_over: u64,
    /// Those of groups that this client has never been in. They can be read in later.
    pub of_unknown_groups: u64,
}

/// A random key for a backup, to be written down.
#[uniffi::export]
pub fn new_recovery_key() -> Answer<String> {
    Ok(client::new_recovery_key()?.to_string())
}

#[uniffi::export]
impl Client {
    /// An encrypted backup of this client as it is now. Groups joined later are not in it.
    pub async fn backup(&self, key: Arc<BackupKey>) -> Answer<Vec<u8>> {
        Ok(self.sdk.backup(&key.0).await?)
    }

    /// Writes what was said into a file that must not exist, sealed, and says how many messages and
    /// reactions. Another device of this user reads it in. What waits, is gone, or was told by
    /// receipts is not in it. Whoever has sent a message cannot delete it there any more: keep the
    /// file as long as it is needed.
    ///
    /// Fails with `unknown-group` for a group of the scope, or locally.
    pub async fn export_history(
        &self,
        path: String,
        key: Arc<BackupKey>,
        scope: HistoryScope,
    ) -> Answer<u64> {
        let scope = client::HistoryScope {
            days: scope.days,
            groups: scope.groups.iter().map(client::GroupRef::from).collect(),
        };
        Ok(self
            .sdk
            .export_history(path.as_ref(), &key.0, scope)
            .await?)
    }

    /// Reads a history of this user in. Each message comes to its place in its group. What is known
    /// here stays as it is, and so does what is gone here. No event tells of what comes back.
    ///
    /// Fails with `not-a-history`, `history-of-another`, `wrong-backup-key` or `newer-backup`:
    /// nothing was read in then.
    pub async fn import_history(
        &self,
        path: String,
        key: Arc<BackupKey>,
    ) -> Answer<ImportedHistory> {
        let imported = self.sdk.import_history(path.as_ref(), &key.0).await?;
        Ok(ImportedHistory {
            added: imported.added,
            passed_over: imported.passed_over,
            of_unknown_groups: imported.of_unknown_groups,
        })
    }

    /// Registers this user's handle, which is also the name that members see, and publishes
    /// KeyPackages. Again with the same handle, it renews the record.
    ///
    /// Fails with `handle-registered`, `invalid-handle`, or refused with `handle-taken`.
    pub async fn register_handle(&self, handle: String) -> Answer<()> {
        Ok(self.sdk.register_handle(&handle).await?)
    }

    /// Gives the handle up. Contacts and groups stay; nobody can ask for a connection any more.
    ///
    /// Fails with `no-handle`.
    pub async fn delete_handle(&self) -> Answer<()> {
        Ok(self.sdk.delete_handle().await?)
    }

    /// This user's handle, if there is one.
    pub fn own_handle(&self) -> Answer<Option<String>> {
        Ok(self.sdk.handle()?)
    }

    /// KeyPackages that others can still claim of this user, by ciphersuite. What is missing is
    /// published by the next sync.
    pub async fn count_key_packages(&self) -> Answer<Vec<KeyPackageCount>> {
        let counts = self.sdk.count_key_packages().await?.into_iter();
        let record = |(ciphersuite, count)| KeyPackageCount { ciphersuite, count };
        Ok(counts.map(record).collect())
    }

    /// Tokens that can be spent.
    pub async fn tokens(&self) -> Answer<u64> {
        Ok(count(self.sdk.tokens().await?))
    }

    /// Fills the wallet now: by whole batches until it is full, by one at least. This is for users
    /// to decide: the issuer sees when they do, and that many tokens were spent before.
    pub async fn fill_wallet(&self) -> Answer<()> {
        Ok(self.sdk.fill_wallet().await?)
    }

    /// Why the views of relay, mirrors, gateway and service did not agree when they were last
    /// compared. A disagreement that lasts is a reason to ask the operators.
    pub async fn disagreement(&self) -> Answer<Option<Disagreement>> {
        let error = self.sdk.disagreement().await?;
        Ok(error.map(|error| Disagreement {
            code: error.code().to_owned(),
            detail: error.to_string(),
        }))
    }
}

/// A number of things, in the width that all languages have.
pub(crate) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
