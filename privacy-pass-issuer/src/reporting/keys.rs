//! The keys behind certificates: one file each, from which the signature key and the key of the
//! account handles are derived.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use protocol::codec::sign_content;
use protocol::reporting::{ACCOUNT_HANDLE_LEN, CERTIFICATE_LABEL, ReportingCertificate, VERSION};
use service::bound_files::{self, BoundFiles};
use service::founding::{Refusal, StoreId};
use service::secret_file::{self, SecretFileError};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::store::Day;
use crate::store::reports::AccountTag;

const SEED_LEN: usize = 32;
const SECONDS_PER_DAY: u64 = 86_400;
/// Clients fetch the keys once a day: a key is published so long before it signs.
const PUBLISHED_AHEAD_S: u64 = 2 * SECONDS_PER_DAY;
/// Certificates run to the end of a week.
const WEEK: u32 = 7;

/// Certificate keys cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateKeyError {
    #[error("the key directory {} cannot be read or written", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("a certificate key cannot be used")]
    File(#[from] SecretFileError),
    #[error(transparent)]
    Bound(#[from] Refusal),
    #[error("the name of {} is not certificate-TIME.key with a unix time", .0.display())]
    FileName(PathBuf),
    #[error("two certificate key files hold the same key, or two keys with the same id")]
    Repeated,
    #[error("a certificate key cannot be made or used")]
    Generation,
}

/// One key of the issuer.
pub struct CertificateKey {
    not_before_unix_s: u64,
    signing: Ed25519KeyPair,
    handles: LessSafeKey,
    public: [u8; 32],
    id: [u8; 8],
}

impl CertificateKey {
    fn from_seed(seed: &[u8], not_before_unix_s: u64) -> Result<Self, CertificateKeyError> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, seed);
        let derive = |label: &[u8]| Zeroizing::new(hmac::sign(&root, label).as_ref().to_vec());
        let failed = |_| CertificateKeyError::Generation;
        let signing = Ed25519KeyPair::from_seed_unchecked(&derive(b"certificate signature"))
            .map_err(|_| CertificateKeyError::Generation)?;
        let handles = UnboundKey::new(&AES_256_GCM, &derive(b"account handle"))
            .map(LessSafeKey::new)
            .map_err(failed)?;
        let mut public = [0; 32];
        public.copy_from_slice(signing.public_key().as_ref());
        let digest = Sha256::digest(public);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Ok(Self {
            not_before_unix_s,
            signing,
            handles,
            public,
            id,
        })
    }

    /// The Ed25519 public key, 32 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Certifies a commitment for an account. The handle has a fresh nonce: two certificates of one
    /// account show nobody else that they are.
    ///
    /// # Errors
    /// [`CertificateKeyError::Generation`] without randomness.
    pub fn certify(
        &self,
        commitment: &[u8; 32],
        account: &AccountTag,
        not_after: Day,
    ) -> Result<ReportingCertificate, CertificateKeyError> {
        let mut certificate = ReportingCertificate {
            version: VERSION,
            key_id: self.id,
            commitment: *commitment,
            account_handle: self.seal(account)?,
            not_after_day: not_after.0,
            signature: [0; 64],
        };
        let content = sign_content(CERTIFICATE_LABEL, &certificate.to_be_signed());
        certificate
            .signature
            .copy_from_slice(self.signing.sign(&content).as_ref());
        Ok(certificate)
    }

    fn seal(&self, account: &AccountTag) -> Result<[u8; ACCOUNT_HANDLE_LEN], CertificateKeyError> {
        let failed = |_| CertificateKeyError::Generation;
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).map_err(|_| CertificateKeyError::Generation)?;
        let mut body = account.0;
        let tag = self
            .handles
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.id),
                &mut body,
            )
            .map_err(failed)?;
        let mut handle = [0; ACCOUNT_HANDLE_LEN];
        handle[..12].copy_from_slice(&nonce);
        handle[12..44].copy_from_slice(&body);
        handle[44..].copy_from_slice(tag.as_ref());
        Ok(handle)
    }

    /// Whose certificate it is.
    #[must_use]
    pub fn open(&self, handle: &[u8; ACCOUNT_HANDLE_LEN]) -> Option<AccountTag> {
        let (nonce, sealed) = handle.split_first_chunk::<12>()?;
        let mut sealed = sealed.to_vec();
        let opened = self
            .handles
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(self.id),
                &mut sealed,
            )
            .ok()?;
        Some(AccountTag(opened.try_into().ok()?))
    }
}

/// All certificate keys, oldest first.
pub struct CertificateKeys {
    directory: PathBuf,
    bound: BoundFiles,
    keys: RwLock<Vec<Arc<CertificateKey>>>,
}

impl CertificateKeys {
    /// As [`CertificateKeys::open`], without a database: for tests.
    ///
    /// # Errors
    /// [`CertificateKeyError`].
    pub fn load_or_create(directory: &Path, now_unix_s: u64) -> Result<Self, CertificateKeyError> {
        let bound = BoundFiles::of(StoreId([0; 16]), &[]);
        Self::open(directory, now_unix_s, bound)
    }

    /// Reads every `certificate-<not before>.key` in `directory`; makes the first one, which signs
    /// from `now_unix_s`, when there is none. One process at a time: the caller holds the database.
    /// A file that is not bound to that is refused.
    ///
    /// # Errors
    /// [`CertificateKeyError`].
    pub fn open(
        directory: &Path,
        now_unix_s: u64,
        bound: BoundFiles,
    ) -> Result<Self, CertificateKeyError> {
        let mut keys = Vec::new();
        let failed = |source| CertificateKeyError::Directory {
            path: directory.to_owned(),
            source,
        };
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(not_before) = path.file_name().and_then(|name| {
                name.to_str()?
                    .strip_prefix("certificate-")?
                    .strip_suffix(".key")
            }) else {
                continue;
            };
            let Ok(not_before) = not_before.parse() else {
                return Err(CertificateKeyError::FileName(path));
            };
            let seed = secret_file::load(&path, SEED_LEN)?;
            bound.binding(&path, &seed).check()?;
            keys.push(Arc::new(CertificateKey::from_seed(&seed, not_before)?));
        }
        keys.sort_by_key(|key| key.not_before_unix_s);
        require_distinct(&keys)?;
        let keys = Self {
            directory: directory.to_owned(),
            bound,
            keys: RwLock::new(keys),
        };
        if keys.all().is_empty() {
            keys.add(now_unix_s)?;
        }
        Ok(keys)
    }

    fn all(&self) -> Vec<Arc<CertificateKey>> {
        self.keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn path(&self, not_before_unix_s: u64) -> PathBuf {
        self.directory
            .join(format!("certificate-{not_before_unix_s}.key"))
    }

    /// On disk before it is published.
    fn add(&self, not_before_unix_s: u64) -> Result<(), CertificateKeyError> {
        let seed = self.make(&self.path(not_before_unix_s))?;
        let key = Arc::new(CertificateKey::from_seed(&seed, not_before_unix_s)?);
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = keys.clone();
        // The same file once more is the same key.
        next.retain(|other| other.not_before_unix_s != not_before_unix_s);
        next.push(key);
        next.sort_by_key(|key| key.not_before_unix_s);
        require_distinct(&next)?;
        *keys = next;
        Ok(())
    }

    /// The file that is there is taken only if it is bound: a crash can have left it.
    fn make(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateKeyError> {
        match secret_file::load(path, SEED_LEN) {
            Ok(seed) => {
                self.bound.binding(path, &seed).check()?;
                return Ok(seed);
            }
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
        }
        let mut seed = Zeroizing::new(vec![0; SEED_LEN]);
        getrandom::fill(&mut seed).map_err(|_| CertificateKeyError::Generation)?;
        self.bound.binding(path, &seed).write()?;
        Ok(secret_file::create_with(path, || Ok(seed))?)
    }

    /// The public keys that clients must know: those that sign, those that will sign, and those
    /// whose certificates are still valid.
    #[must_use]
    pub fn published(&self) -> Vec<[u8; 32]> {
        self.all().iter().map(|key| key.public).collect()
    }

    /// The newest key that may sign.
    ///
    /// # Errors
    /// [`CertificateKeyError::Generation`] when the clock stands before all of them.
    pub fn signing(&self, now_unix_s: u64) -> Result<Arc<CertificateKey>, CertificateKeyError> {
        self.all()
            .into_iter()
            .rev()
            .find(|key| key.not_before_unix_s <= now_unix_s)
            .ok_or(CertificateKeyError::Generation)
    }

    /// The key that a certificate names.
    #[must_use]
    pub fn find(&self, id: &[u8; 8]) -> Option<Arc<CertificateKey>> {
        self.all().into_iter().find(|key| key.id == *id)
    }

    /// Makes the next key, which signs once every client knows it; nothing if one waits already.
    ///
    /// # Errors
    /// [`CertificateKeyError`].
    pub fn rotate(&self, now_unix_s: u64) -> Result<(), CertificateKeyError> {
        let waits = self
            .all()
            .last()
            .is_some_and(|key| key.not_before_unix_s > now_unix_s);
        if waits {
            return Ok(());
        }
        self.add(now_unix_s.saturating_add(PUBLISHED_AHEAD_S))
    }

    /// Rotates after `key_days`, and forgets keys whose last certificate has ended.
    ///
    /// # Errors
    /// [`CertificateKeyError`].
    pub fn tidy(
        &self,
        now_unix_s: u64,
        key_days: u32,
        certificate_days: u32,
    ) -> Result<(), CertificateKeyError> {
        let days = |days: u32| u64::from(days) * SECONDS_PER_DAY;
        if let Some(newest) = self.all().last()
            && newest.not_before_unix_s.saturating_add(days(key_days))
                <= now_unix_s.saturating_add(PUBLISHED_AHEAD_S)
        {
            self.rotate(now_unix_s)?;
        }
        let lifetime = days(certificate_days.saturating_add(WEEK + 1));
        let all = self.all();
        for (key, successor) in all.iter().zip(all.iter().skip(1)) {
            if successor.not_before_unix_s.saturating_add(lifetime) >= now_unix_s {
                break;
            }
            let path = self.path(key.not_before_unix_s);
            fs::remove_file(&path).map_err(|source| CertificateKeyError::Directory {
                path: path.clone(),
                source,
            })?;
            bound_files::forget(&path)?;
            let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
            keys.retain(|other| other.id != key.id);
        }
        Ok(())
    }
}

/// Each key is compared with every other one by its id, which is what a certificate names: of two
/// keys with one id only the first would be found, and a copy of a key under another time would go
/// on to sign after the first was dropped by its id.
fn require_distinct(keys: &[Arc<CertificateKey>]) -> Result<(), CertificateKeyError> {
    let ids: BTreeSet<_> = keys.iter().map(|key| key.id).collect();
    if ids.len() == keys.len() {
        Ok(())
    } else {
        Err(CertificateKeyError::Repeated)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: u64 = 20_000 * SECONDS_PER_DAY;
    const ALICE: AccountTag = AccountTag([1; 32]);

    #[test]
    fn two_certificates_of_one_account_have_nothing_in_common_but_key_and_day() {
        let directory = tempfile::tempdir().unwrap();
        let keys = CertificateKeys::load_or_create(directory.path(), NOW).unwrap();
        let key = keys.signing(NOW).unwrap();
        let certify = |commitment| key.certify(&[commitment; 32], &ALICE, Day(20_028)).unwrap();
        let (one, other) = (certify(1), certify(2));
        assert_eq!(key.open(&one.account_handle), Some(ALICE));
        assert_eq!(key.open(&other.account_handle), Some(ALICE));
        // No four bytes of one handle stand in the other one.
        for window in one.account_handle.windows(4) {
            assert!(!other.account_handle.windows(4).any(|it| it == window));
        }
        assert_ne!(one.signature, other.signature);
    }

    #[test]
    fn a_handle_opens_with_its_key_only_and_any_changed_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let keys = CertificateKeys::load_or_create(directory.path(), NOW).unwrap();
        keys.rotate(NOW).unwrap();
        let key = keys.signing(NOW).unwrap();
        let next = keys.signing(NOW + PUBLISHED_AHEAD_S).unwrap();
        let handle = key.seal(&ALICE).unwrap();
        assert_eq!(next.open(&handle), None);
        for at in 0..handle.len() {
            let mut changed = handle;
            changed[at] ^= 1;
            assert_eq!(key.open(&changed), None);
        }
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_until_its_last_certificate_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let keys = CertificateKeys::load_or_create(directory.path(), NOW).unwrap();
        let first = *keys.signing(NOW).unwrap().public();
        keys.tidy(NOW + 87 * SECONDS_PER_DAY, 90, 28).unwrap();
        assert_eq!(keys.published(), [first]);

        let rotated = NOW + 88 * SECONDS_PER_DAY;
        keys.tidy(rotated, 90, 28).unwrap();
        keys.tidy(rotated + 60, 90, 28).unwrap();
        assert_eq!(keys.published().len(), 2);
        assert_eq!(*keys.signing(rotated).unwrap().public(), first);
        let signs = rotated + PUBLISHED_AHEAD_S;
        let second = *keys.signing(signs).unwrap().public();
        assert_ne!(second, first);
        // The same after a restart.
        let keys = CertificateKeys::load_or_create(directory.path(), signs).unwrap();
        assert_eq!(keys.published(), [first, second]);
        keys.tidy(signs + 36 * SECONDS_PER_DAY, 90, 28).unwrap();
        assert_eq!(keys.published().len(), 2);
        keys.tidy(signs + 37 * SECONDS_PER_DAY, 90, 28).unwrap();
        assert_eq!(keys.published(), [second]);
        let keys = CertificateKeys::load_or_create(directory.path(), signs).unwrap();
        assert_eq!(keys.published(), [second]);
    }

    #[test]
    fn a_key_that_lies_there_twice_is_refused_and_the_same_file_once_more_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let keys = CertificateKeys::load_or_create(directory.path(), NOW).unwrap();
        keys.add(NOW).unwrap();
        assert_eq!(keys.published().len(), 1);
        // A copy under the name of the key that is to be made next.
        let copy = keys.path(NOW + PUBLISHED_AHEAD_S);
        fs::copy(keys.path(NOW), &copy).unwrap();
        for refused in [
            keys.rotate(NOW),
            CertificateKeys::load_or_create(directory.path(), NOW).map(|_| ()),
        ] {
            assert!(matches!(
                refused,
                Err(CertificateKeyError::Bound(Refusal::ForeignKeyFile { path, .. })) if path == copy
            ));
        }
        // Nor if somebody had bound it.
        let seed = secret_file::load(&copy, SEED_LEN).unwrap();
        keys.bound.binding(&copy, &seed).write().unwrap();
        assert!(matches!(
            keys.rotate(NOW),
            Err(CertificateKeyError::Repeated)
        ));
        assert_eq!(keys.published().len(), 1, "nothing has changed");
        assert!(matches!(
            CertificateKeys::load_or_create(directory.path(), NOW),
            Err(CertificateKeyError::Repeated)
        ));
    }
}
