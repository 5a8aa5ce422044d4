//! The account: handle, KeyPackages, tokens, backups.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{Answer, Client};

/// What opens a backup. It does not show what it holds.
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
