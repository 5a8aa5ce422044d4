//! The keys of a running process: the next one is made ahead of time, old ones are dropped.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::Deserialize;
use service::bound_files::BoundFiles;
use service::founding::StoreId;

use super::files;
use super::{KeySet, KeyState, TokenKeyError};

/// Truncated ids are one byte: with eight keys in use the 64th attempt is needed once in 10^96
/// times.
const GENERATION_ATTEMPTS: usize = 64;
/// More keys in use than this would make collisions of truncated ids a matter of course, and would
/// let the issuer sort its users by the key they were given.
const MAX_OVERLAPPING_PERIODS: u64 = 2;
/// Keys in the directory: the one before, the one in use, the next, and one more by hand. Clients
/// take no longer list.
const MAX_SHOWN: usize = 4;

/// The table `[rotation]`: when keys follow each other.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// A key is followed by the next one after this time; absent: only when an operator says so.
    pub period_seconds: Option<u64>,
    /// A key is published this long before it signs.
    pub lead_seconds: u64,
    /// A key signs this long beside its successor, and is deleted then.
    pub overlap_seconds: u64,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            period_seconds: None,
            lead_seconds: 86_400,
            overlap_seconds: 7 * 86_400,
        }
    }
}

/// The table `[rotation]` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    #[error(
        "`rotation.lead_seconds` and `rotation.overlap_seconds` must be at least `directory_max_age_seconds`"
    )]
    ShorterThanTheDirectoryLives,
    #[error("`rotation.period_seconds` must be longer than `rotation.lead_seconds`")]
    PeriodTooShort,
    #[error(
        "`rotation.overlap_seconds` and `rotation.lead_seconds` must be at most two periods together"
    )]
    OverlapTooLong,
    #[error("the next key is already published")]
    NextIsPublished,
    #[error("clients take no more keys than are published: wait until one expires")]
    TooMany,
}

impl Rotation {
    /// Checks the settings against how long clients may keep a directory.
    pub fn check(&self, directory_max_age_s: u64) -> Result<(), RotationError> {
        if self.lead_seconds.min(self.overlap_seconds) < directory_max_age_s {
            return Err(RotationError::ShorterThanTheDirectoryLives);
        }
        let Some(period) = self.period_seconds else {
            return Ok(());
        };
        if period <= self.lead_seconds {
            return Err(RotationError::PeriodTooShort);
        }
        let overlapping = self.overlap_seconds.saturating_add(self.lead_seconds);
        if overlapping.div_ceil(period) > MAX_OVERLAPPING_PERIODS {
            return Err(RotationError::OverlapTooLong);
        }
        Ok(())
    }
}

/// The token keys of a process. Requests see one set or the next, never a mixture.
pub struct TokenKeys {
    directory: PathBuf,
    bound: BoundFiles,
    rotation: Rotation,
    current: RwLock<Arc<KeySet>>,
    /// Whoever changes keys and files does it alone.
    changing: Mutex<()>,
}

impl TokenKeys {
    /// As [`TokenKeys::open`], rotated by hand, without a database: for tests.
    pub fn load_or_create(directory: &Path, now_unix_s: u64) -> Result<Self, TokenKeyError> {
        let bound = BoundFiles::of(StoreId([0; 16]), &[]);
        Self::open(directory, now_unix_s, Rotation::default(), bound)
    }

    /// Reads every `token-<not before>.pk8` in `directory`; makes the first key, valid from
    /// `now_unix_s`, when there is none. One process at a time: the caller holds the database. A
    /// file that is not bound to that is refused.
    pub fn open(
        directory: &Path,
        now_unix_s: u64,
        rotation: Rotation,
        bound: BoundFiles,
    ) -> Result<Self, TokenKeyError> {
        files::make_directory(directory)?;
        let mut keys = Vec::new();
        for (key, binding) in files::load_all(directory, &bound)? {
            binding.check()?;
            keys.push(key);
        }
        if keys.is_empty() {
            keys.push(files::store(
                directory,
                &files::generate_pkcs8()?,
                now_unix_s,
                &bound,
            )?);
        }
        Ok(Self {
            directory: directory.to_owned(),
            bound,
            rotation,
            current: RwLock::new(Arc::new(KeySet::new(keys, rotation.overlap_seconds)?)),
            changing: Mutex::new(()),
        })
    }

    /// The keys as they are now.
    #[must_use]
    pub fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the directory will change next, as far as that is settled.
    #[must_use]
    pub fn next_change_unix_s(&self, now_unix_s: u64) -> Option<u64> {
        let current = self.current();
        let expiry = current.next_expiry_unix_s(now_unix_s);
        let publication = self.next_publication_unix_s(&current);
        expiry.into_iter().chain(publication).min()
    }

    fn next_publication_unix_s(&self, current: &KeySet) -> Option<u64> {
        let period = self.rotation.period_seconds?;
        let newest = current.newest()?.not_before_unix_s();
        Some(
            newest
                .saturating_add(period)
                .saturating_sub(self.rotation.lead_seconds),
        )
    }

    /// Makes the next key and deletes expired ones when they are due. Blocks for as long as a key
    /// takes.
    pub fn keep_up(&self, now_unix_s: u64) -> Result<(), TokenKeyError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        if let (Some(period), Some(due)) = (
            self.rotation.period_seconds,
            self.next_publication_unix_s(&current),
        ) && due <= now_unix_s
        {
            let newest = current.newest().map_or(0, |key| key.not_before_unix_s());
            let earliest = now_unix_s.saturating_add(self.rotation.lead_seconds);
            self.add_key(newest.saturating_add(period).max(earliest))?;
        }
        self.drop_expired(now_unix_s)
    }

    /// Publishes the next key now, to sign after the lead time. Blocks for as long as a key takes.
    pub fn rotate(&self, now_unix_s: u64) -> Result<(), TokenKeyError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.current().newest().map(|key| key.not_before_unix_s());
        if newest.is_some_and(|not_before| not_before > now_unix_s) {
            return Err(RotationError::NextIsPublished.into());
        }
        let current = self.current();
        let shown = current
            .states(now_unix_s)
            .filter(|(_, state, _)| *state != KeyState::Expired);
        if shown.count() >= MAX_SHOWN {
            return Err(RotationError::TooMany.into());
        }
        self.add_key(now_unix_s.saturating_add(self.rotation.lead_seconds))
    }

    /// Takes the key files as they lie in the directory now: those that an operator put there,
    /// without those that he took away, and binds them to the database. On an error everything
    /// stays as it was.
    pub fn reload(&self) -> Result<(), TokenKeyError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = files::load_all(&self.directory, &self.bound)?;
        let (keys, bindings): (Vec<_>, Vec<_>) = loaded.into_iter().unzip();
        let keys = KeySet::new(keys, self.rotation.overlap_seconds)?;
        for binding in bindings {
            binding.write()?;
        }
        self.replace(keys);
        Ok(())
    }

    fn add_key(&self, not_before_unix_s: u64) -> Result<(), TokenKeyError> {
        let current = self.current();
        for _ in 0..GENERATION_ATTEMPTS {
            let pkcs8 = files::generate_pkcs8()?;
            let candidate = super::TokenKey::from_pkcs8(&pkcs8, not_before_unix_s)?;
            if current.has_truncated_id(candidate.truncated_id()) {
                continue;
            }
            let key = files::store(&self.directory, &pkcs8, not_before_unix_s, &self.bound)?;
            let mut keys = current.keys.clone();
            keys.push(key);
            self.replace(KeySet::new(keys, self.rotation.overlap_seconds)?);
            return Ok(());
        }
        Err(TokenKeyError::TruncatedIdCollision)
    }

    fn drop_expired(&self, now_unix_s: u64) -> Result<(), TokenKeyError> {
        let current = self.current();
        let (expired, kept): (Vec<_>, Vec<_>) = current
            .states(now_unix_s)
            .partition(|(_, state, _)| *state == KeyState::Expired);
        if expired.is_empty() {
            return Ok(());
        }
        // The files first: while one is there, its key is known and is tried again.
        for (key, ..) in expired {
            files::remove(&self.directory, key)?;
        }
        let kept = kept.into_iter().map(|(key, ..)| Arc::clone(key)).collect();
        self.replace(KeySet::new(kept, self.rotation.overlap_seconds)?);
        Ok(())
    }

    fn replace(&self, next: KeySet) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}
