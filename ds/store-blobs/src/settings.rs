//! Which store, as the configuration file says.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{BlobStore, BlobStoreError};

/// Where chunks are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "store", rename_all = "lowercase")]
pub enum BlobStoreSettings {
    /// In a directory of this machine.
    Directory {
        /// The directory, which holds nothing else.
        directory: PathBuf,
    },
    /// In a bucket of a store that speaks S3.
    S3 {
        /// The bucket, which holds nothing else.
        bucket: String,
        /// The store's region.
        region: String,
        /// The store's URL, where it is not Amazon's.
        #[serde(default)]
        endpoint: Option<String>,
        /// A file with two lines: the id of the access key, and the key.
        access_key_file: PathBuf,
    },
    /// In memory: for tests. With braces, so that other settings are refused.
    Memory {},
}

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// See [`BlobStoreError`].
    #[error(transparent)]
    Store(#[from] BlobStoreError),
    /// The file with the access key.
    #[error("the file with the access key of the blob store cannot be used")]
    AccessKey,
    /// This build has no S3.
    #[error("this ds was built without the feature `s3`")]
    WithoutS3,
    /// As the client library says it.
    #[error("the settings of the blob store cannot be used: {0}")]
    S3(String),
}

impl BlobStoreSettings {
    /// Where it is, for the operator.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Directory { directory } => directory.display().to_string(),
            Self::S3 { bucket, .. } => format!("the bucket {bucket}"),
            Self::Memory {} => "memory".to_owned(),
        }
    }

    /// The store, which is asked for nothing yet. A directory is there already.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn open(&self) -> Result<BlobStore, SettingsError> {
        match self {
            Self::Directory { directory } => Ok(BlobStore::in_directory(directory)?),
            Self::Memory {} => Ok(BlobStore::in_memory()),
            #[cfg(feature = "s3")]
            Self::S3 {
                bucket,
                region,
                endpoint,
                access_key_file,
            } => {
                let file = std::fs::read_to_string(access_key_file);
                let file = file.map_err(|_| SettingsError::AccessKey)?;
                let mut lines = file.lines();
                let (Some(id), Some(key)) = (lines.next(), lines.next()) else {
                    return Err(SettingsError::AccessKey);
                };
                let mut builder = object_store::aws::AmazonS3Builder::new()
                    .with_bucket_name(bucket)
                    .with_region(region)
                    .with_access_key_id(id.trim())
                    .with_secret_access_key(key.trim());
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                let built = builder.build();
                let objects = built.map_err(|error| SettingsError::S3(error.to_string()))?;
                Ok(BlobStore {
                    objects: std::sync::Arc::new(objects),
                    directory: None,
                })
            }
            #[cfg(not(feature = "s3"))]
            Self::S3 { .. } => Err(SettingsError::WithoutS3),
        }
    }
}
