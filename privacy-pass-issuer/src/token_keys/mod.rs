//! The issuer's RSA keys: made ahead of time, kept in files, published in the directory, expired.

mod files;
mod ring;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::json;
use sha2::{Digest as _, Sha256};

pub use ring::{Rotation, RotationError, TokenKeys};

use crate::rsa::{self, PrivateKey};
use crate::token_request::{BLINDED_MESSAGE_LENGTH, TOKEN_TYPE, TokenRequest};

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
    #[error("{} cannot be read or written", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Directory(#[from] service::directory::DirectoryError),
    #[error("the name of {} is not token-TIME.pk8 with a unix time", .0.display())]
    FileName(PathBuf),
    #[error("it may be read or written by others: it has mode {mode:04o} and must have 0600")]
    Exposed { mode: u32 },
    #[error("not a 2048-bit RSA key in PKCS#8")]
    Unsupported,
    #[error("the token key file {} cannot be used: bring it back from its backup", .path.display())]
    File {
        path: PathBuf,
        #[source]
        error: Box<TokenKeyError>,
    },
    #[error("two token keys have the same truncated key id; replace one of them")]
    TruncatedIdCollision,
    #[error("there is no token key")]
    NoKey,
    #[error("a token key cannot be made")]
    Generation,
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Bound(#[from] service::founding::Refusal),
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

    /// SHA-256 of the SPKI (RFC 9578 §6.5): public.
    #[must_use]
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// From when on it signs.
    #[must_use]
    pub fn not_before_unix_s(&self) -> u64 {
        self.not_before_unix_s
    }

    /// The last byte of the key id (RFC 9578 §6.1).
    #[must_use]
    pub fn truncated_id(&self) -> u8 {
        self.id[31]
    }

    /// Whether `request` can be signed at all: its blinded message must be below the modulus (RFC
    /// 9474 §4.3), and none of 0, 1 and n - 1, which AWS-LC refuses since they are their own
    /// signatures. Asked before the account is charged.
    #[must_use]
    pub fn accepts(&self, request: &TokenRequest) -> bool {
        let mut one = [0; BLINDED_MESSAGE_LENGTH];
        let mut largest = self.modulus;
        // The modulus is odd, so nothing is borrowed.
        if let (Some(one), Some(largest)) = (one.last_mut(), largest.last_mut()) {
            *one = 1;
            *largest &= 0xfe;
        }
        (one < *request.blinded_message()) && (*request.blinded_message() < largest)
    }

    /// The raw RSA operation of RFC 9474 §4.3. Deterministic: the same request gets the same
    /// signature, so a lost answer is repeated rather than stored.
    pub fn blind_sign(&self, request: &TokenRequest) -> Result<BlindSignature, SigningError> {
        self.secret
            .sign_raw(request.blinded_message())
            .map_err(|_| SigningError)
    }
}

/// All token keys at one time, oldest first: never changed, only replaced as a whole. One signs by
/// preference; others stand beside it while clients move to the next.
pub struct KeySet {
    keys: Vec<Arc<TokenKey>>,
    overlap_s: u64,
}

/// A key as the operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Published, and not used yet.
    Next,
    /// What clients should ask for.
    Current,
    /// Still signs for clients that have not seen its successor.
    Previous,
    /// Neither published nor used any more.
    Expired,
}

impl KeySet {
    /// A key expires `overlap_s` seconds after its successor's first day of use.
    pub fn new(mut keys: Vec<Arc<TokenKey>>, overlap_s: u64) -> Result<Self, TokenKeyError> {
        keys.sort_by_key(|key| key.not_before_unix_s);
        let mut seen = [false; 256];
        for key in &keys {
            // A request names its key by one byte: two keys behind it could not be told apart.
            if std::mem::replace(&mut seen[usize::from(key.truncated_id())], true) {
                return Err(TokenKeyError::TruncatedIdCollision);
            }
        }
        if keys.is_empty() {
            return Err(TokenKeyError::NoKey);
        }
        Ok(Self { keys, overlap_s })
    }

    fn expires_unix_s(&self, index: usize) -> Option<u64> {
        let successor = self.keys.get(index + 1)?;
        Some(successor.not_before_unix_s.saturating_add(self.overlap_s))
    }

    /// Every key with its state and the time when it expires, if that is known; oldest first.
    pub fn states(
        &self,
        now_unix_s: u64,
    ) -> impl DoubleEndedIterator<Item = (&Arc<TokenKey>, KeyState, Option<u64>)> {
        self.keys.iter().enumerate().map(move |(index, key)| {
            let expires = self.expires_unix_s(index);
            let superseded = self
                .keys
                .get(index + 1)
                .is_some_and(|successor| successor.not_before_unix_s <= now_unix_s);
            let state = if expires.is_some_and(|expires| expires <= now_unix_s) {
                KeyState::Expired
            } else if key.not_before_unix_s > now_unix_s {
                KeyState::Next
            } else if superseded {
                KeyState::Previous
            } else {
                KeyState::Current
            };
            (key, state, expires)
        })
    }

    /// The key that a request names, if it may be used at `now_unix_s`.
    #[must_use]
    pub fn find(&self, truncated_id: u8, now_unix_s: u64) -> Option<&Arc<TokenKey>> {
        self.states(now_unix_s)
            .find(|(key, ..)| key.truncated_id() == truncated_id)
            .filter(|(_, state, _)| matches!(state, KeyState::Current | KeyState::Previous))
            .map(|(key, ..)| key)
    }

    /// When the directory changes next by itself: a key expires.
    #[must_use]
    pub fn next_expiry_unix_s(&self, now_unix_s: u64) -> Option<u64> {
        self.states(now_unix_s)
            .filter_map(|(_, _, expires)| expires)
            .filter(|expires| *expires > now_unix_s)
            .min()
    }

    fn newest(&self) -> Option<&Arc<TokenKey>> {
        self.keys.last()
    }

    fn has_truncated_id(&self, truncated_id: u8) -> bool {
        self.keys
            .iter()
            .any(|key| key.truncated_id() == truncated_id)
    }

    /// The issuer directory (RFC 9578 §4), newest key first as clients should prefer it. The bytes
    /// depend on keys and settings only: everybody gets the same ones, and can compare digests of
    /// them. `generic-batch-size` is ours: how many requests a batch may have.
    #[must_use]
    pub fn directory(&self, request_uri: &str, batch_size: usize, now_unix_s: u64) -> Vec<u8> {
        let token_keys: Vec<_> = self
            .states(now_unix_s)
            .rev()
            .filter(|(_, state, _)| *state != KeyState::Expired)
            .map(|(key, ..)| {
                json!({
                    "token-type": TOKEN_TYPE,
                    "token-key": URL_SAFE.encode(&key.spki),
                    "not-before": key.not_before_unix_s,
                })
            })
            .collect();
        json!({
            "issuer-request-uri": request_uri,
            "token-keys": token_keys,
            "generic-batch-size": batch_size,
        })
        .to_string()
        .into_bytes()
    }
}

#[cfg(test)]
mod tests;
