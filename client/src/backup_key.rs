//! What a user's files are sealed with: backups and histories.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto::kdf;
use crypto::secret::Secret;
use zeroize::Zeroizing;

use crate::error::{Error, UsageError};

/// Drawn for each file.
pub(crate) const SALT: usize = 16;
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;

/// What opens a backup, or a history.
pub enum BackupKey {
    /// Words that a person remembers; Argon2id makes guessing dear.
    Passphrase(Zeroizing<String>),
    /// 32 random bytes in base64url, as [`new_recovery_key`] makes them.
    RecoveryKey(Zeroizing<String>),
}

impl std::fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BackupKey(..)")
    }
}

impl BackupKey {
    /// For the thread that uses it.
    pub(crate) fn copy(&self) -> Self {
        match self {
            Self::Passphrase(words) => Self::Passphrase(words.clone()),
            Self::RecoveryKey(key) => Self::RecoveryKey(key.clone()),
        }
    }

    pub(crate) fn kdf(&self) -> u8 {
        match self {
            Self::Passphrase(_) => 1,
            Self::RecoveryKey(_) => 2,
        }
    }

    pub(crate) fn derive(&self, salt: &[u8]) -> Result<Secret<32>, Error> {
        match self {
            Self::Passphrase(passphrase) => {
                let mut key = Zeroizing::new([0; 32]);
                let params = Params::new(MEMORY_KIB, PASSES, 1, Some(32))
                    .map_err(|_| crypto::CryptoError::Backend)?;
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
                    .map_err(|_| crypto::CryptoError::Backend)?;
                Ok(Secret::new(*key))
            }
            Self::RecoveryKey(text) => {
                let bytes = URL_SAFE_NO_PAD
                    .decode(text.trim())
                    .map(Zeroizing::new)
                    .map_err(|_| UsageError::WrongBackupKey)?;
                let key: Secret<32> = Secret::new(
                    bytes
                        .as_slice()
                        .try_into()
                        .map_err(|_| UsageError::WrongBackupKey)?,
                );
                Ok(Secret::new(kdf::derive(key.expose(), "backup", salt)))
            }
        }
    }
}

/// A random key for a backup, to be written down.
///
/// # Errors
/// [`Error::Local`] without randomness.
pub fn new_recovery_key() -> Result<Zeroizing<String>, Error> {
    let key = Zeroizing::new(crypto::random::<32>()?);
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(*key)))
}
