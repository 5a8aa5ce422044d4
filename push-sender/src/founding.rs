//! How the store and its key files come to be (`push-sender init`), and are recognised at each
//! start.

use service::founding::{BoundKey, Refusal, Unfinished, claim_empty_directory};
use service::gateway_auth::GatewaySecret;
use service::secret_file;

use crate::config::Config;
use crate::keys::{KEY_LEN, Keys};
use crate::store::Store;
use crate::{PROGRAM, PushError, senders};

const UNFINISHED: &str = "init-unfinished";

fn places(config: &Config) -> String {
    format!(
        "{} and {}",
        config.data_directory.display(),
        config.key_file.display()
    )
}

/// Makes an empty store and the key files. Returns a text that says what was made.
///
/// # Errors
/// There is something already: nothing was changed.
pub async fn init(config: Config) -> Result<String, PushError> {
    let data = &config.data_directory;
    let marker = data.with_extension(UNFINISHED);
    Unfinished::check(&marker, PROGRAM, &places(&config))?;
    claim_empty_directory(data)?;
    let unfinished = Unfinished::begin(&marker, PROGRAM, &places(&config))?;
    let fresh = || {
        let key = crypto::random::<KEY_LEN>();
        key.map(|key| zeroize::Zeroizing::new(key.to_vec()))
            .map_err(|_| secret_file::SecretFileError::NoRandomness)
    };
    let key = secret_file::create_with(&config.key_file, fresh)?;
    let bound = BoundKey {
        file: &config.key_file,
        key: &key,
    };
    let id = Store::create(data, &[bound])?;
    service::founding::sync_directory(data)?;
    if let Some(web_push) = &config.web_push {
        senders::make_vapid_key(&web_push.vapid_key_file)?;
    }
    GatewaySecret::load_or_create(&config.gateway_secret_file)?;
    unfinished.end()?;
    Ok(format!(
        "made the store {id} in {} with the key file {}: back them up apart from each other",
        data.display(),
        config.key_file.display()
    ))
}

/// Opens the store, if it is whole, and belongs to the key file that is there.
pub(crate) fn open(config: &Config) -> Result<(Store, Keys), PushError> {
    let data = &config.data_directory;
    Unfinished::check(&data.with_extension(UNFINISHED), PROGRAM, &places(config))?;
    let key = secret_file::load(&config.key_file, KEY_LEN).map_err(|error| {
        if error.is_missing() {
            PushError::Refused(Refusal::NoKeyFile {
                path: config.key_file.clone(),
                program: PROGRAM,
            })
        } else {
            error.into()
        }
    })?;
    let bound = BoundKey {
        file: &config.key_file,
        key: &key,
    };
    let (store, id) = Store::open(data, &[bound])?;
    service::directory::private(data)?;
    tracing::info!(store = %id, "the store is whole");
    let mut bytes = zeroize::Zeroizing::new([0; KEY_LEN]);
    bytes.copy_from_slice(&key);
    Ok((store, Keys::new(&bytes)))
}
