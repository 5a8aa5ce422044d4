//! The issuer's RSA keys: made once, kept in files, published in the directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::rsa::{self, PrivateKey};
use crate::token_request::{BLINDED_MESSAGE_LENGTH, TOKEN_TYPE, TokenRequest};

/// A PKCS#8 file of a 2048-bit RSA key has about 1,220 bytes.
const MAX_FILE_LENGTH: u64 = 4096;

/// A blind signature: the whole `TokenResponse` (RFC 9578 §6.2).
pub type BlindSignature = [u8; BLINDED_MESSAGE_LENGTH];

/// One token key of type 0x0002: RSASSA-PSS, 2048 bits, SHA-384, salt of 48 bytes.
pub struct TokenKey {
    not_before_unix_s: u64,
    secret: PrivateKey,
    modulus: [u8; BLINDED_MESSAGE_LENGTH],
    /// SubjectPublicKeyInfo as RFC 9578 §6.5 encodes it.
    spki: Vec<u8>,
    id: [u8; 32],
}

/// Token keys cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    #[error("the key directory cannot be read or written")]
    Directory(#[source] io::Error),
    #[error("the key directory holds a token-….pk8 whose name is no unix time")]
    FileName,
    #[error("a token key file may be read or written by others; it must have mode 0600")]
    Exposed,
    #[error("a token key file is not a 2048-bit RSA key in PKCS#8")]
    Unsupported,
    #[error("two token keys have the same truncated key id; replace one of them")]
    TruncatedIdCollision,
    #[error("a token key cannot be made")]
    Generation,
}

/// Signing failed for a reason that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token key could not sign")]
pub struct SigningError;

impl TokenKey {
    /// Reads a PKCS#8 private key.
    pub fn from_pkcs8(pkcs8: &[u8], not_before_unix_s: u64) -> Result<Self, TokenKeyError> {
        let secret = PrivateKey::from_pkcs8(pkcs8).map_err(|_| TokenKeyError::Unsupported)?;
        let modulus = secret.modulus().map_err(|_| TokenKeyError::Unsupported)?;
        if !secret.has_common_exponent() {
            return Err(TokenKeyError::Unsupported);
        }
        let spki = rsa::spki(&modulus);
        let id = Sha256::digest(&spki).into();
        Ok(Self {
            not_before_unix_s,
            secret,
            modulus,
            spki,
            id,
        })
    }

    /// SubjectPublicKeyInfo DER of the public key.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The last byte of the key id (RFC 9578 §6.1).
    #[must_use]
    pub fn truncated_id(&self) -> u8 {
        self.id[31]
    }

    /// Whether `request` can be signed at all: its blinded message must be below the modulus (RFC
    /// 9474 §4.3). Asked before the account is charged.
    #[must_use]
    pub fn accepts(&self, request: &TokenRequest) -> bool {
        *request.blinded_message() < self.modulus
    }

    /// The raw RSA operation of RFC 9474 §4.3. Deterministic: the same request gets the same signature, so
    /// a lost answer is repeated rather than stored.
    pub fn blind_sign(&self, request: &TokenRequest) -> Result<BlindSignature, SigningError> {
        self.secret
            .sign_raw(request.blinded_message())
            .map_err(|_| SigningError)
    }
}

/// All token keys, oldest first. One signs today; several stand here while clients move to the next.
pub struct TokenKeys(Vec<Arc<TokenKey>>);

impl TokenKeys {
    /// Reads every `token-<not before>.pk8` in `directory`; makes the first key, valid from
    /// `now_unix_s`, when there is none. One process at a time: the caller holds the database.
    pub fn load_or_create(directory: &Path, now_unix_s: u64) -> Result<Self, TokenKeyError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(TokenKeyError::Directory)?;
        let mut keys = load_all(directory)?;
        if keys.is_empty() {
            let pkcs8 = generate_pkcs8()?;
            let path = directory.join(format!("token-{now_unix_s}.pk8"));
            write_secret(directory, &path, &pkcs8).map_err(TokenKeyError::Directory)?;
            keys.push(TokenKey::from_pkcs8(&pkcs8, now_unix_s)?);
        }
        Self::new(keys)
    }

    pub fn new(mut keys: Vec<TokenKey>) -> Result<Self, TokenKeyError> {
        keys.sort_by_key(|key| key.not_before_unix_s);
        let mut seen = [false; 256];
        for key in &keys {
            // A request names its key by one byte: two keys behind it could not be told apart.
            if std::mem::replace(&mut seen[usize::from(key.truncated_id())], true) {
                return Err(TokenKeyError::TruncatedIdCollision);
            }
        }
        Ok(Self(keys.into_iter().map(Arc::new).collect()))
    }

    /// The key that a request names, if it may be used at `now_unix_s`.
    #[must_use]
    pub fn find(&self, truncated_id: u8, now_unix_s: u64) -> Option<&Arc<TokenKey>> {
        self.0
            .iter()
            .find(|key| key.truncated_id() == truncated_id && key.not_before_unix_s <= now_unix_s)
    }

    /// The issuer directory (RFC 9578 §4), newest key first as clients should prefer it. The bytes
    /// depend on keys and URI only: everybody gets the same ones, and can compare digests of them.
    #[must_use]
    pub fn directory(&self, request_uri: &str) -> Vec<u8> {
        let token_keys: Vec<_> = self
            .0
            .iter()
            .rev()
            .map(|key| {
                json!({
                    "token-type": TOKEN_TYPE,
                    "token-key": URL_SAFE.encode(&key.spki),
                    "not-before": key.not_before_unix_s,
                })
            })
            .collect();
        json!({ "issuer-request-uri": request_uri, "token-keys": token_keys })
            .to_string()
            .into_bytes()
    }
}

fn load_all(directory: &Path) -> Result<Vec<TokenKey>, TokenKeyError> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(directory).map_err(TokenKeyError::Directory)? {
        let path = entry.map_err(TokenKeyError::Directory)?.path();
        let Some(not_before) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("token-")?.strip_suffix(".pk8"))
        else {
            continue;
        };
        let not_before = not_before.parse().map_err(|_| TokenKeyError::FileName)?;
        keys.push(TokenKey::from_pkcs8(&read_secret(&path)?, not_before)?);
    }
    Ok(keys)
}

fn generate_pkcs8() -> Result<Zeroizing<Vec<u8>>, TokenKeyError> {
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| TokenKeyError::Generation)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| TokenKeyError::Generation)?;
    Ok(Zeroizing::new(der.as_ref().to_vec()))
}

fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, TokenKeyError> {
    let file = File::open(path).map_err(TokenKeyError::Directory)?;
    let metadata = file.metadata().map_err(TokenKeyError::Directory)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(TokenKeyError::Exposed);
    }
    if metadata.len() > MAX_FILE_LENGTH {
        return Err(TokenKeyError::Unsupported);
    }
    // Room for all of it at once: growing would leave a copy behind.
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_FILE_LENGTH as usize + 1));
    file.take(MAX_FILE_LENGTH)
        .read_to_end(&mut secret)
        .map_err(TokenKeyError::Directory)?;
    Ok(secret)
}

/// A key file is there whole or not at all, and is on disk before it is used: a key that signed and
/// then was lost would leave clients with tokens that nobody can place.
fn write_secret(directory: &Path, path: &Path, secret: &[u8]) -> io::Result<()> {
    let temporary: PathBuf = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(secret)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn only_file(directory: &Path) -> PathBuf {
        let files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn the_first_key_is_made_once_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let made = TokenKeys::load_or_create(&path, 1_000).unwrap();
        let file = only_file(&path);
        assert_eq!(file.file_name().unwrap(), "token-1000.pk8");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let read = TokenKeys::load_or_create(&path, 2_000).unwrap();
        assert_eq!(made.directory("/r"), read.directory("/r"));
    }

    /// The pure-Rust signer, whose results are the reference (RFC 9474).
    #[test]
    fn signatures_and_public_keys_are_those_of_the_reference() {
        use blind_rsa_signatures::{Deterministic, PSS, SecretKey, Sha384};
        for _ in 0..3 {
            let pkcs8 = generate_pkcs8().unwrap();
            let key = TokenKey::from_pkcs8(&pkcs8, 0).unwrap();
            let reference = SecretKey::<Sha384, PSS, Deterministic>::from_der(&pkcs8).unwrap();
            let spki = reference.public_key().unwrap().to_spki().unwrap();
            assert_eq!(key.spki(), spki);
            for first in [0, 1, 0x7f] {
                let mut message = [0; BLINDED_MESSAGE_LENGTH];
                getrandom::fill(&mut message).unwrap();
                message[0] = first;
                let expected: Vec<u8> = reference.blind_sign(message).unwrap().0;
                assert_eq!(key.secret.sign_raw(&message).unwrap()[..], expected);
            }
            // Not below the modulus.
            assert!(
                key.secret
                    .sign_raw(&[0xff; BLINDED_MESSAGE_LENGTH])
                    .is_err()
            );
        }
    }

    #[test]
    fn a_key_is_not_used_before_its_time() {
        let pkcs8 = generate_pkcs8().unwrap();
        let keys = TokenKeys::new(vec![TokenKey::from_pkcs8(&pkcs8, 500).unwrap()]).unwrap();
        let id = keys.0[0].truncated_id();
        assert!(keys.find(id, 499).is_none());
        assert!(keys.find(id, 500).is_some());
        assert!(keys.find(id.wrapping_add(1), 500).is_none());
    }

    #[test]
    fn the_directory_is_that_of_the_standard_with_the_newest_key_first() {
        let key =
            |not_before| TokenKey::from_pkcs8(&generate_pkcs8().unwrap(), not_before).unwrap();
        // Three random truncated ids collide once in 85 runs.
        let keys = std::iter::repeat_with(|| TokenKeys::new([300, 100, 200].map(key).into()))
            .find_map(Result::ok)
            .unwrap();
        let directory: serde_json::Value = serde_json::from_slice(&keys.directory("/req")).unwrap();
        assert_eq!(directory["issuer-request-uri"], "/req");
        let listed = directory["token-keys"].as_array().unwrap();
        let not_before: Vec<_> = listed
            .iter()
            .map(|key| key["not-before"].as_u64().unwrap())
            .collect();
        assert_eq!(not_before, [300, 200, 100]);
        assert_eq!(listed[0]["token-type"], 2);
        let spki = URL_SAFE
            .decode(listed[0]["token-key"].as_str().unwrap())
            .unwrap();
        assert_eq!(spki, keys.0[2].spki);
        assert_eq!(spki.len(), 342);
    }

    #[test]
    fn keys_that_a_request_could_not_tell_apart_are_refused() {
        let pkcs8 = generate_pkcs8().unwrap();
        let twice = [1, 2].map(|not_before| TokenKey::from_pkcs8(&pkcs8, not_before).unwrap());
        assert!(matches!(
            TokenKeys::new(twice.into()),
            Err(TokenKeyError::TruncatedIdCollision)
        ));
    }

    #[test]
    fn a_key_file_that_is_exposed_or_no_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        TokenKeys::load_or_create(&path, 1).unwrap();
        let file = only_file(&path);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            TokenKeys::load_or_create(&path, 1),
            Err(TokenKeyError::Exposed)
        ));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut trailing = fs::read(&file).unwrap();
        trailing.push(0);
        fs::write(&file, &trailing).unwrap();
        assert!(matches!(
            TokenKeys::load_or_create(&path, 1),
            Err(TokenKeyError::Unsupported)
        ));
        let renamed = file.with_file_name("token-soon.pk8");
        fs::rename(&file, renamed).unwrap();
        assert!(matches!(
            TokenKeys::load_or_create(&path, 1),
            Err(TokenKeyError::FileName)
        ));
    }
}
