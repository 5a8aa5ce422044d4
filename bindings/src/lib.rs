//! The SDK for Python, Kotlin and Swift: the same calls, events and errors as in Rust, declared for
//! UniFFI, which writes the other languages' side (`make python`, `make bindings`).
//!
//! What is documented here becomes the documentation there. So it names no paths of Rust, and says
//! of errors what programs compare: [`ClientError`] and its codes (docs/errors.md).
//!
//! The types of the SDK are not declared to UniFFI themselves: the SDK keeps its freedom to add to
//! them, and its ban on unsafe code. Tests hold names of both sides against each other: of
//! variants, of fields and of calls.

#![deny(missing_docs)]
#![allow(
    unsafe_code,
    reason = "UniFFI writes the functions that are called from C; nothing here does"
)]

mod account;
mod attachments;
mod contacts;
mod devices;
mod error;
mod event;
mod events;
mod groups;
mod ids;
mod messages;
mod mirror;
mod options;
mod outcomes;
mod push;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

use std::sync::Arc;

use zeroize::Zeroizing;

pub use account::{
    BackupKey, Disagreement, HistoryScope, ImportedHistory, KeyPackageCount, new_recovery_key,
};
pub use attachments::{Attachment, Thumbnail, TransferListener, UploadOptions};
pub use contacts::{Contact, IncomingRequest, ReportReason};
pub use devices::{Device, LinkCode};
pub use error::{ClientError, Fault};
pub use event::Event;
pub use events::{Events, StoredEvent};
pub use groups::{
    EpochAuthenticator, Evidence, GroupProfile, GroupSummary, Member, Picture, VerifiedGroup,
};
pub use ids::{GroupId, MessageId, UserId};
pub use messages::{
    Draft, Expiry, Gone, Message, MessageDetails, MessageState, QueuedMessage, Reaction, Receipt,
    Receipts, TextFormat,
};
pub use options::{Bundle, Options, Profile, RequestPolicy, WaitListener};
pub use outcomes::{RemovalReason, StopReason, StoreChange};
pub use push::{PushAddress, PushConsent};

uniffi::setup_scaffolding!("mimimi");

/// What a call returns: what it is for, or why not.
type Answer<T> = Result<T, ClientError>;

/// One device of one user, kept in a home directory.
///
/// All calls of one client are done one after the other, in the order in which they were made. A
/// call can be cancelled at any time: one that was not begun is taken back, one that was begun is
/// done, and only its answer is lost. Calls that do not wait never ask the network.
///
/// A group is meant by its id or by its name. A text that is written like an id is one. Others can
/// rename groups: an application that acts on what it has shown hands in the id.
///
/// A call that does not wait may be held up for 5 seconds by another one's write to the database,
/// and fails with `local` after that. When the last reference to a client goes, its thread is
/// waited for: call `stop` before.
#[derive(uniffi::Object)]
pub struct Client {
    sdk: client::Client,
}

impl Client {
    fn of(sdk: client::Client) -> Arc<Self> {
        Arc::new(Self { sdk })
    }
}

#[uniffi::export]
impl Client {
    /// Makes a client in a home directory: keys and tokens. In a home directory that has one it
    /// changes the addresses and the account token, and finishes what was cut off. `endpoints` is
    /// the content of the operator's `stack.json`, and `account_token` what the operator's account
    /// system hands out.
    ///
    /// Fails with `invalid-stack`, `same-operator`, `invalid-account-token`, or what the token
    /// issuer says.
    #[uniffi::constructor(default(options))]
    pub async fn create(
        home: String,
        endpoints: String,
        account_token: String,
        options: Options,
    ) -> Answer<Arc<Self>> {
        let account_token = Zeroizing::new(account_token);
        let endpoints = client::Endpoints::from_json(endpoints.as_bytes())?;
        let options = options.for_sdk();
        let made = client::Client::init(home.as_ref(), &endpoints, &account_token, options);
        Ok(Self::of(made.await?))
    }

    /// Opens the client in a home directory.
    ///
    /// Fails with `not-initialised` where there is none, `busy` while another process holds it.
    #[uniffi::constructor(default(options))]
    pub async fn open(home: String, options: Options) -> Answer<Arc<Self>> {
        let opened = client::Client::open(home.as_ref(), options.for_sdk());
        Ok(Self::of(opened.await?))
    }

    /// Makes a client out of a backup, in an empty home directory: with a new inbox, new
    /// KeyPackages and a new leaf in each group. The client that the backup was made of, if it is
    /// still there, cannot follow its groups after that.
    ///
    /// Fails with `not-a-backup`, `wrong-backup-key`, `newer-backup`, or `already-in-use` for a
    /// home directory that has a client. `partly-restored` names the groups that it could not come
    /// back into: the client is there all the same, and can be opened.
    #[uniffi::constructor(default(options))]
    pub async fn restore(
        home: String,
        backup: Vec<u8>,
        key: Arc<BackupKey>,
        options: Options,
    ) -> Answer<Arc<Self>> {
        let options = options.for_sdk();
        let restored = client::Client::restore(home.as_ref(), &backup, &key.0, options);
        Ok(Self::of(restored.await?))
    }

    /// Catches up: finishes what was under way, reads the journals of all groups (waiting up to
    /// `wait_ms` for something if there is nothing, 4 seconds at most), and does what follows from
    /// it. Whoever follows events need not call it. The relay sees how many groups are read in one
    /// go, the service which ones, and both see when.
    pub async fn sync(&self, wait_ms: u32) -> Answer<()> {
        Ok(self.sdk.sync(wait_ms).await?)
    }

    /// Ends this client when all calls that were made before have been done. What is called later
    /// fails with `stopped`, and its streams of events end. Queued messages are sent after it is
    /// opened the next time.
    pub async fn stop(&self) {
        self.sdk.clone().close().await;
    }

    /// Leaves every group, takes back every connection and request, deletes handle, inbox and
    /// KeyPackages, and forgets everything. The user's other devices are removed first. Where
    /// others are left in a group, the last trace of this user goes with their next commit. If it
    /// fails it can be called again.
    pub async fn delete_account(&self) -> Answer<()> {
        Ok(self.sdk.delete_account().await?)
    }
}
