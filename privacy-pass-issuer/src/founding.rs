//! How database and key files come to be (`privacy-pass-issuer init`), and are recognised at each
//! start.

use std::fs;
use std::path::Path;

use service::bound_files::BoundFiles;
use service::clock::SystemClock;
use service::founding::{self, BoundKey, Refusal, Unfinished};
use service::secret_file::{self, SecretFileError};
use zeroize::Zeroizing;

use crate::accounts::AccountHasher;
use crate::config::Config;
use crate::reporting::keys::CertificateKeys;
use crate::store::RocksStore;
use crate::token_keys::TokenKeys;
use crate::{IssuerError, PROGRAM};

/// Quotas and blocks are kept under it.
const HASH_KEY: &str = "account-hash.key";
/// Reports are sealed with it.
const REPORT_KEY: &str = "reports.key";
const REPORT_KEY_LENGTH: usize = 32;
/// Is in the key directory while `init` runs.
const UNFINISHED: &str = "init-unfinished";

fn places(config: &Config) -> String {
    format!(
        "{} and {}",
        config.data_directory.display(),
        config.key_directory.display()
    )
}

/// What a start finds.
pub(crate) struct Opened {
    pub(crate) store: RocksStore,
    pub(crate) hash_key: Zeroizing<Vec<u8>>,
    pub(crate) report_key: [u8; REPORT_KEY_LENGTH],
    pub(crate) token_keys: TokenKeys,
    pub(crate) certificate_keys: CertificateKeys,
}

/// Makes an empty database and the first keys. Returns a text that says what was made.
///
/// # Errors
/// One of the two directories is not empty: nothing was changed.
pub async fn init(config: Config) -> Result<String, IssuerError> {
    let (data, keys) = (&config.data_directory, &config.key_directory);
    Unfinished::check(&keys.join(UNFINISHED), PROGRAM, &places(&config))?;
    founding::claim_empty_directory(keys)?;
    founding::claim_empty_directory(data)?;
    let unfinished = Unfinished::begin(&keys.join(UNFINISHED), PROGRAM, &places(&config))?;
    let hash_key = secret_file::load_or_create(&keys.join(HASH_KEY), AccountHasher::KEY_LENGTH)?;
    let report_key = secret_file::load_or_create(&keys.join(REPORT_KEY), REPORT_KEY_LENGTH)?;
    let now_unix_s = SystemClock::shared().now_unix_ms() / 1000;
    let id = with_bound_keys(keys, &hash_key, &report_key, |bound| {
        RocksStore::create(data)?.bind(bound)
    })?;
    let bound = || BoundFiles::of(id, &hash_key);
    TokenKeys::open(keys, now_unix_s, config.rotation, bound())?;
    CertificateKeys::open(keys, now_unix_s, bound())?;
    unfinished.end()?;
    Ok(format!(
        "made the database {id} in {} with the key files in {}: back them up apart from each other",
        data.display(),
        keys.display()
    ))
}

/// Opens the database, if it is whole, and belongs to the key files that are there.
pub(crate) fn open(config: &Config, now_unix_s: u64) -> Result<Opened, IssuerError> {
    let keys = &config.key_directory;
    Unfinished::check(&keys.join(UNFINISHED), PROGRAM, &places(config))?;
    let store = RocksStore::open(&config.data_directory)?;
    founding::inspect(keys, PROGRAM, &[])?;
    let hash_key = load(&keys.join(HASH_KEY), AccountHasher::KEY_LENGTH)?;
    let bytes = load(&keys.join(REPORT_KEY), REPORT_KEY_LENGTH)?;
    let id = with_bound_keys(keys, &hash_key, &bytes, |bound| {
        store.recognise(&config.data_directory, bound)
    })?;
    // Else they would be made anew, and nobody would know the tokens that are out there.
    for (prefix, suffix) in [("token-", ".pk8"), ("certificate-", ".key")] {
        if !has_file(keys, prefix, suffix)? {
            return Err(Refusal::NoKeyFile {
                path: keys.join(format!("{prefix}*{suffix}")),
                program: PROGRAM,
            }
            .into());
        }
    }
    let bound = || BoundFiles::of(id, &hash_key);
    let token_keys = TokenKeys::open(keys, now_unix_s, config.rotation, bound())?;
    let certificate_keys = CertificateKeys::open(keys, now_unix_s, bound())?;
    // Only now: what is refused stays as it is.
    service::directory::private(&config.data_directory)?;
    tracing::info!(database = %id, "the database is whole");
    let mut report_key = [0; REPORT_KEY_LENGTH];
    report_key.copy_from_slice(&bytes);
    Ok(Opened {
        store,
        hash_key,
        report_key,
        token_keys,
        certificate_keys,
    })
}

fn with_bound_keys<T, E>(
    directory: &Path,
    hash_key: &[u8],
    report_key: &[u8],
    work: impl FnOnce(&[BoundKey<'_>]) -> Result<T, E>,
) -> Result<T, E> {
    let (hash_file, report_file) = (directory.join(HASH_KEY), directory.join(REPORT_KEY));
    work(&[
        BoundKey {
            file: &hash_file,
            key: hash_key,
        },
        BoundKey {
            file: &report_file,
            key: report_key,
        },
    ])
}

fn load(path: &Path, length: usize) -> Result<Zeroizing<Vec<u8>>, IssuerError> {
    secret_file::load(path, length).map_err(|error: SecretFileError| {
        if error.is_missing() {
            Refusal::NoKeyFile {
                path: path.to_owned(),
                program: PROGRAM,
            }
            .into()
        } else {
            error.into()
        }
    })
}

fn has_file(directory: &Path, prefix: &str, suffix: &str) -> Result<bool, Refusal> {
    for entry in fs::read_dir(directory).map_err(Refusal::io(directory))? {
        let name = entry.map_err(Refusal::io(directory))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(suffix) {
            return Ok(true);
        }
    }
    Ok(false)
}
