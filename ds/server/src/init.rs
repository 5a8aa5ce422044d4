//! `ds init`: the only way that a store comes to be.

use std::path::{Path, PathBuf};

use crypto::service_keys::ServiceKeys;
use ds_store_blobs::{BlobStoreSettings, SettingsError};
use ds_store_postgres::Postgres;
use ds_store_rocks::Rocks;
use service::founding::{Refusal, Unfinished};
use service::gateway_auth::GatewaySecret;
use service::secret_file::{self, SecretFileError};

use crate::config::{Config, StoreSettings};
use crate::error::RunError;
use crate::foundation::{FoundationError, bind};

/// Makes the service key file and an empty store that is bound to it. Makes the gateway's secret,
/// too, unless the gateway made it before. Says what was made.
///
/// # Errors
/// There is a key file, or the place is not empty: nothing was changed.
pub async fn init(config: Config) -> Result<String, RunError> {
    let key_file = &config.service_key_file;
    let unfinished = Unfinished::begin(&marker(key_file), "ds", &places(&config))?;
    let made = make_with_key_file(&config).await;
    // What broke off while it wrote has left something.
    if !made.as_ref().is_err_and(leaves_something) {
        unfinished.end()?;
    }
    made
}

/// Beside the key file, which comes first.
fn marker(key_file: &Path) -> PathBuf {
    let mut name = key_file.file_name().unwrap_or_default().to_owned();
    name.push(".init-unfinished");
    key_file.with_file_name(name)
}

fn places(config: &Config) -> String {
    format!(
        "the key file {}, {} and {}",
        config.service_key_file.display(),
        config.store.place(),
        config.blobs.store.place()
    )
}

/// Whether no `init` was broken off.
///
/// # Errors
/// [`Refusal::Unfinished`].
pub(crate) fn check_finished(config: &Config) -> Result<(), Refusal> {
    Unfinished::check(&marker(&config.service_key_file), "ds", &places(config))
}

fn leaves_something(error: &RunError) -> bool {
    let found_something = |refusal: &Refusal| {
        matches!(
            refusal,
            Refusal::Occupied { .. } | Refusal::OccupiedDatabase
        )
    };
    match error {
        RunError::Refused(refusal) => !found_something(refusal),
        RunError::UnboundBlobs(_) => true,
        RunError::Foundation(FoundationError::Refused(refusal)) => !found_something(refusal),
        // A database that cannot be reached has taken nothing.
        _ => false,
    }
}

async fn make_with_key_file(config: &Config) -> Result<String, RunError> {
    let key_file = &config.service_key_file;
    let fresh = || ServiceKeys::generate_file().map_err(|_| SecretFileError::NoRandomness);
    let file = match secret_file::create_with(key_file, fresh) {
        // It may be all that is left of a store, and that of a disk which is not mounted.
        Err(error) if error.is_occupied() => {
            return Err(Refusal::Occupied {
                path: key_file.clone(),
            }
            .into());
        }
        file => file?,
    };
    let made = make(config, &file).await;
    if made.is_err() {
        // Nothing is bound to it.
        let _ = std::fs::remove_file(key_file);
    }
    made
}

async fn make(config: &Config, file: &[u8]) -> Result<String, RunError> {
    let key_file = &config.service_key_file;
    let keys =
        ServiceKeys::from_file(file).map_err(|error| RunError::Keys(key_file.clone(), error))?;
    GatewaySecret::load_or_create(&config.gateway_secret_file)?;
    if let BlobStoreSettings::Directory { directory } = &config.blobs.store {
        service::directory::private(directory)?;
    }
    let blobs = config.blobs.store.open()?;
    let bound = blobs.store_id().await.map_err(SettingsError::Store)?;
    if bound.is_some() {
        let path = PathBuf::from(config.blobs.store.place());
        return Err(Refusal::Occupied { path }.into());
    }
    let id = match &config.store {
        StoreSettings::Rocksdb { directory } => {
            let rocks = Rocks::create(directory).map_err(FoundationError::from)?;
            bind(&rocks, &keys, key_file).await
        }
        StoreSettings::Postgres(settings) => {
            let postgres = Postgres::create(settings)
                .await
                .map_err(FoundationError::from)?;
            bind(&postgres, &keys, key_file).await
        }
        StoreSettings::Memory => {
            return Ok(format!(
                "made the key file {}; a store in memory is made at each start",
                key_file.display()
            ));
        }
    };
    let id = id?;
    blobs
        .bind(&id.to_string())
        .await
        .map_err(RunError::UnboundBlobs)?;
    Ok(format!(
        "made the store {id} in {} with the key file {}: back the key file up apart from the store; \
         each node has a copy of it",
        config.store.place(),
        key_file.display()
    ))
}
