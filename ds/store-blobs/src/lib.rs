//! Where the chunks of blobs lie: objects of an `object_store`, one for each chunk, below the last
//! day on which they are kept. What a chunk is of is in no name; without the service's storage key
//! a name is a random number.
//!
//! ```text
//! store-id                                which store of rows they belong to
//! 20454/                                  the last day, since the Unix epoch
//!   5f0c…(32 digits)/                     the blob
//!     0 1 2 …                             its chunks, each with its SHA-256 behind it
//! ```
//!
//! A chunk is written whole or not at all, is durable when [`BlobStore::put`] returns, and is not
//! written over. One that is damaged is never shown: its digest tells. Members' clients would
//! notice, too, since chunks are authenticated; but a damaged one can be put again.

mod settings;

use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ds_domain::blobs::Location;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use sha2::{Digest as _, Sha256};

pub use settings::{BlobStoreSettings, SettingsError};

/// Says which store of rows the chunks belong to.
const STORE_ID: &str = "store-id";

/// Behind each chunk.
const DIGEST: usize = 32;

/// Why a chunk was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobStoreError {
    /// It is not there.
    #[error("a chunk is missing")]
    Missing,
    /// It is there, and is not what was written.
    #[error("a chunk is damaged")]
    Damaged,
    /// There is no room.
    #[error("there is no room for chunks")]
    Full,
    /// The store failed; the text is for the operator's trace only.
    #[error("the blob store failed: {0}")]
    Failed(String),
}

/// What came of a chunk that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there now.
    Written,
    /// The very same was there.
    WasThere,
    /// Another one is there, and stays.
    Other,
}

/// Objects in a directory, in memory, or in a store that speaks S3.
#[derive(Debug)]
pub struct BlobStore {
    objects: Arc<dyn ObjectStore>,
    /// Of the embedded default.
    directory: Option<PathBuf>,
}

impl BlobStore {
    /// Objects in a directory, which is there. A write is a file of its own, synced, that is then
    /// linked under its name, and the directory is synced.
    ///
    /// # Errors
    /// [`BlobStoreError::Failed`].
    pub fn in_directory(directory: &FilePath) -> Result<Self, BlobStoreError> {
        let objects = LocalFileSystem::new_with_prefix(directory)?.with_fsync(true);
        Ok(Self {
            objects: Arc::new(objects),
            directory: Some(directory.to_owned()),
        })
    }

    /// Objects in memory: for tests.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            objects: Arc::new(InMemory::new()),
            directory: None,
        }
    }

    /// As [`BlobStore::in_memory`], where each write takes so long.
    #[must_use]
    pub fn in_memory_with_slow_writes(takes: Duration) -> Self {
        let config = ThrottleConfig {
            wait_put_per_call: takes,
            ..ThrottleConfig::default()
        };
        Self {
            objects: Arc::new(ThrottledStore::new(InMemory::new(), config)),
            directory: None,
        }
    }

    /// The store of rows that the chunks here belong to, if any was said: by a text that an
    /// operator can write, too.
    ///
    /// # Errors
    /// [`BlobStoreError::Failed`].
    pub async fn store_id(&self) -> Result<Option<String>, BlobStoreError> {
        match self.objects.get(&Path::from(STORE_ID)).await {
            Ok(found) => {
                let id = found.bytes().await?;
                Ok(Some(String::from_utf8_lossy(&id).trim().to_owned()))
            }
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Says which store of rows the chunks here belong to, once.
    ///
    /// # Errors
    /// [`BlobStoreError::Full`]; [`BlobStoreError::Failed`], also where it was said before.
    pub async fn bind(&self, store_id: &str) -> Result<(), BlobStoreError> {
        let id = Bytes::from(format!("{store_id}\n"));
        Ok(self
            .write(&Path::from(STORE_ID), id, PutMode::Create)
            .await?)
    }

    /// Keeps a chunk, unless one is there that is whole.
    ///
    /// # Errors
    /// [`BlobStoreError::Full`], [`BlobStoreError::Failed`]. It may be there all the same.
    pub async fn put(
        &self,
        of: &Location,
        index: u16,
        chunk: &[u8],
    ) -> Result<Put, BlobStoreError> {
        let path = object(of, index);
        let mut object = Vec::with_capacity(chunk.len() + DIGEST);
        object.extend_from_slice(chunk);
        object.extend_from_slice(&Sha256::digest(chunk));
        let object = Bytes::from(object);
        match self.write(&path, object.clone(), PutMode::Create).await {
            Err(Error::AlreadyExists { .. }) => {}
            written => return Ok(written.map(|()| Put::Written)?),
        }
        match self.get(of, index).await {
            Ok(there) if there == chunk => Ok(Put::WasThere),
            Ok(_) => Ok(Put::Other),
            // A disk has lost it: whoever wrote it may put it back.
            Err(BlobStoreError::Damaged | BlobStoreError::Missing) => {
                self.write(&path, object, PutMode::Overwrite).await?;
                Ok(Put::Written)
            }
            Err(error) => Err(error),
        }
    }

    async fn write(&self, path: &Path, object: Bytes, mode: PutMode) -> Result<(), Error> {
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        let payload = PutPayload::from_bytes(object);
        self.objects.put_opts(path, payload, options).await?;
        Ok(())
    }

    /// A chunk as it was put.
    ///
    /// # Errors
    /// [`BlobStoreError::Missing`], [`BlobStoreError::Damaged`], [`BlobStoreError::Failed`].
    pub async fn get(&self, of: &Location, index: u16) -> Result<Vec<u8>, BlobStoreError> {
        let object = self.objects.get(&object(of, index)).await?.bytes().await?;
        let (chunk, digest) = object
            .split_last_chunk::<DIGEST>()
            .ok_or(BlobStoreError::Damaged)?;
        if Sha256::digest(chunk).as_slice() == digest {
            Ok(chunk.to_vec())
        } else {
            Err(BlobStoreError::Damaged)
        }
    }

    /// The indices of the chunks of this length that are there, in no order.
    ///
    /// # Errors
    /// [`BlobStoreError::Failed`].
    pub async fn present(&self, of: &Location, chunk: usize) -> Result<Vec<u16>, BlobStoreError> {
        let prefix = blob(of);
        let objects = self.objects.list(Some(&prefix));
        let indices = objects.try_filter_map(|object| async move {
            let index = object
                .location
                .filename()
                .and_then(|name| name.parse::<u16>().ok());
            Ok(index.filter(|_| object.size == (chunk + DIGEST) as u64))
        });
        Ok(indices.try_collect().await?)
    }

    /// The blobs of which something is there.
    ///
    /// # Errors
    /// [`BlobStoreError::Failed`].
    pub async fn blobs(&self) -> Result<Vec<Location>, BlobStoreError> {
        let mut found = Vec::new();
        for day in self.below(None).await? {
            let Some(last_day) = day.filename().and_then(|day| day.parse().ok()) else {
                continue;
            };
            for blob in self.below(Some(&day)).await? {
                let row = blob.filename().and_then(row);
                found.extend(row.map(|row| Location::on(last_day, row)));
            }
        }
        Ok(found)
    }

    async fn below(&self, prefix: Option<&Path>) -> Result<Vec<Path>, BlobStoreError> {
        let listed = self.objects.list_with_delimiter(prefix).await?;
        Ok(listed.common_prefixes)
    }

    /// Deletes all chunks of a blob.
    ///
    /// # Errors
    /// [`BlobStoreError::Failed`]; some may be gone then.
    pub async fn delete(&self, of: &Location) -> Result<(), BlobStoreError> {
        self.delete_below(blob(of)).await
    }

    /// Deletes everything that was kept until a day before this one. A day that cannot be deleted
    /// holds up no other one.
    ///
    /// # Errors
    /// [`BlobStoreError::Failed`]; some may be gone then.
    pub async fn drop_days(&self, before: u32) -> Result<(), BlobStoreError> {
        let mut done = Ok(());
        for day in self.below(None).await? {
            let number = day.filename().and_then(|day| day.parse::<u32>().ok());
            if number.is_some_and(|day| day < before) {
                done = done.and(self.delete_below(day).await);
            }
        }
        done
    }

    async fn delete_below(&self, prefix: Path) -> Result<(), BlobStoreError> {
        if let Some(directory) = &self.directory {
            // With what an interrupted write has left there.
            let below = directory.join(prefix.as_ref());
            return match tokio::fs::remove_dir_all(below).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(BlobStoreError::Failed(error.kind().to_string()))
                }
                _ => Ok(()),
            };
        }
        let objects = self.objects.list(Some(&prefix));
        let paths = objects.map_ok(|object| object.location).boxed();
        let deleted = self.objects.delete_stream(paths);
        deleted.try_for_each(|_| std::future::ready(Ok(()))).await?;
        Ok(())
    }

    /// Bytes that the disk has left; nothing where no disk of this machine is used.
    pub async fn bytes_left(&self) -> Option<u64> {
        let directory = self.directory.clone()?;
        let disk = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&directory));
        let disk = disk.await.ok()?.ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// [`BlobStoreError::Failed`].
    pub async fn check(&self) -> Result<(), BlobStoreError> {
        self.objects.list_with_delimiter(None).await?;
        Ok(())
    }
}

fn blob(of: &Location) -> Path {
    use std::fmt::Write as _;
    let mut path = format!("{}/", of.last_day.0);
    for byte in of.row {
        // Writing into a String does not fail.
        let _ = write!(path, "{byte:02x}");
    }
    Path::from(path)
}

/// The name of the row that this name of a directory is of.
fn row(name: &str) -> Option<[u8; 16]> {
    let is_hex = name.len() == 32 && name.bytes().all(|digit| digit.is_ascii_hexdigit());
    let name = u128::from_str_radix(name, 16).ok().filter(|_| is_hex)?;
    Some(name.to_be_bytes())
}

fn object(of: &Location, index: u16) -> Path {
    blob(of).join(index.to_string())
}

impl From<Error> for BlobStoreError {
    fn from(error: Error) -> Self {
        if matches!(error, Error::NotFound { .. }) {
            return Self::Missing;
        }
        // The library's texts have names of objects in them.
        let mut said = "the store cannot be used".to_owned();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => return Self::Full,
                    kind => said = kind.to_string(),
                }
            }
            cause = error.source();
        }
        Self::Failed(said)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
