//! `ds init`: the only way that a store comes to be.

use crypto::service_keys::ServiceKeys;
use service::founding::Refusal;
use service::gateway_auth::GatewaySecret;
use service::secret_file::{self, SecretFileError};

use crate::config::{Config, StoreSettings};
use crate::run::{RunError, place};
use crate::store::{FoundationError, bind, postgres::Postgres, rocks::Rocks};

/// Makes the service key file and an empty store that is bound to it. Makes the gateway's secret, too,
/// unless the gateway made it before. Says what was made.
///
/// # Errors
/// There is a key file, or the place is not empty: nothing was changed.
pub async fn init(config: Config) -> Result<String, RunError> {
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
    let made = make(&config, &file).await;
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
    let id = match &config.store {
        StoreSettings::Rocksdb { directory } => {
            bind(&Rocks::create(directory)?, &keys, key_file).await
        }
        StoreSettings::Postgres(settings) => {
            bind(&Postgres::create(settings).await?, &keys, key_file).await
        }
        StoreSettings::Memory => {
            return Ok(format!(
                "made the key file {}; a store in memory is made at each start",
                key_file.display()
            ));
        }
    };
    let id = id.map_err(|error: FoundationError| RunError::from(error))?;
    Ok(format!(
        "made the store {id} in {} with the key file {}: back the key file up apart from the store; \
         each node has a copy of it",
        place(&config.store),
        key_file.display()
    ))
}
