//! What keeps the process from running.

use std::path::PathBuf;

use ds_domain::engine::EngineError;
use ds_domain::tokens::ChallengeError;
use service::founding::{Refusal, StoreId};
use service::secret_file::SecretFileError;

use crate::foundation::FoundationError;
use crate::issuer_directory::IssuerDirectoryError;
use crate::limits::StreamsOutOfBounds;

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Of the table `[streams]`.
    #[error(transparent)]
    Streams(#[from] StreamsOutOfBounds),
    /// The service key file.
    #[error(transparent)]
    KeyFile(#[from] SecretFileError),
    /// Its content.
    #[error("the service key file {} is of a later release", .0.display())]
    Keys(PathBuf, #[source] crypto::CryptoError),
    /// It is missing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The authorities of the issuer's certificate.
    #[error("the authorities for the issuer's certificate cannot be used")]
    Authorities(#[from] service::tls::TlsError),
    /// The directory of the database.
    #[error(transparent)]
    Directory(#[from] service::directory::DirectoryError),
    /// The store is not the one, not whole, or not to be had.
    #[error("the store is not served from")]
    Foundation(#[from] FoundationError),
    /// The store.
    #[error("the store failed")]
    Engine(#[from] EngineError),
    /// Where chunks of blobs are kept.
    #[error("the blob store cannot be used")]
    Blobs(#[from] ds_store_blobs::SettingsError),
    /// They belong to another store, or nothing says to which.
    #[error(
        "{place} is not where the store {store} keeps its blobs: is its disk mounted? If they are \
         lost, docs/stores.md says how to go on without them"
    )]
    OtherBlobs {
        /// Where blobs should be.
        place: String,
        /// The store that was opened.
        store: StoreId,
    },
    /// The store was made, and its blob store was not.
    #[error("the blob store cannot be told which store it belongs to")]
    UnboundBlobs(#[source] ds_store_blobs::BlobStoreError),
    /// The store, later on.
    #[error("the store takes no writes ({0}): start again when its disk is mended")]
    Lost(String),
    /// Issuer name or origin.
    #[error("the token challenge cannot be made")]
    Challenge(#[from] ChallengeError),
    /// The issuer did not answer for long.
    #[error("the issuer's keys cannot be had")]
    Issuer(#[from] IssuerDirectoryError),
    /// Handles and the secret would go over a network in the clear.
    #[error("`push.url` must begin with https://, unless it is on this machine")]
    PushUrl,
    /// The listener.
    #[error(transparent)]
    Bind(#[from] service::http::BindError),
}
