//! The key pairs of the gateway: which there are, when they change, and the opening of requests
//! with them.
//!
//! Keys come in generations, one key for each KEM, and change on schedule or by command without a
//! restart ([`calendar`]); their seeds are in files ([`files`]), which are the truth: every node
//! that shares the directory reads them again from time to time.

mod calendar;
mod files;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use oblivious::chunked::{RequestDecoder, ResponseEncoder};
use oblivious::whole::{self, ResponseSealer};
use oblivious::{Kem, Key, Keys, OpenError, configs};
use service::founding::{StoreId, Unfinished};
use service::http_date::format;

use crate::GatewayError;
use crate::config::{KeySettings, ReplaySettings};
use crate::problems::Refusal;
use crate::replay::ReplayCache;
use calendar::{Calendar, Phase};
use files::Generation;

/// A key id has one byte, and none is used again while an older key with it may be in a cache.
const MAX_GENERATIONS: usize = 64;
/// Generations that are shown at once: the one before the newest, for who has not seen that yet.
/// Others are accepted as long as they would be anyway. Clients refuse a longer list: whoever shows
/// many keys to all can have each client use another one.
const SHOWN_GENERATIONS: usize = 2;

pub(crate) struct KeyRing {
    directory: PathBuf,
    kems: Vec<Kem>,
    calendar: Calendar,
    replay: ReplaySettings,
    /// Newest generation first, its most wanted key first.
    keys: RwLock<Arc<Vec<Arc<RingKey>>>>,
    /// One change at a time.
    changing: Mutex<()>,
}

struct RingKey {
    key: Key,
    published_unix_ms: u64,
    /// The same, but always for the oldest generation: whatever clocks say, there is something to
    /// show.
    shown_from_unix_ms: u64,
    /// When the generation after it is published, if there is one.
    next_unix_ms: Option<u64>,
    replay: Arc<ReplayCache>,
}

/// `application/ohttp-keys`, and for how long it may be kept.
pub(crate) struct Published {
    pub(crate) configs: Bytes,
    pub(crate) max_age_seconds: u64,
}

/// Why the operator's command was not carried out; the text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    #[error("a rotation is already under way")]
    UnderWay,
    #[error("too many generations of keys are still accepted")]
    TooMany,
    #[error("the keys are replaced, but a file of old ones cannot be deleted")]
    NotRemoved,
    #[error("the key files cannot be written or read")]
    Files(#[source] GatewayError),
}

impl RotationError {
    pub(crate) fn into_text(self) -> &'static str {
        match self {
            Self::UnderWay => "a rotation is already under way: see `keys`",
            Self::TooMany => "too many generations of keys are still accepted: see `keys`",
            Self::NotRemoved => {
                "the keys are replaced, but a file of old ones cannot be deleted: delete it now, or they come back"
            }
            Self::Files(_) => "the key files cannot be written or read; the keys are as before",
        }
    }
}

impl From<GatewayError> for RotationError {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::TooManyKeys => Self::TooMany,
            error => Self::Files(error),
        }
    }
}

/// Makes the key directory and the first generation, as `init` is told, which ends what was begun.
pub(crate) fn found(
    settings: &KeySettings,
    replay: &ReplaySettings,
    now_unix_ms: u64,
) -> Result<(StoreId, Unfinished), GatewayError> {
    checked(settings)?;
    let (id, unfinished) = files::found(&settings.directory)?;
    KeyRing::load(settings, replay, now_unix_ms)?;
    Ok((id, unfinished))
}

/// Refuses a directory that `init` did not make, or that has lost its keys.
pub(crate) fn recognise(settings: &KeySettings) -> Result<(), GatewayError> {
    files::recognise(&settings.directory)
}

fn checked(settings: &KeySettings) -> Result<Calendar, GatewayError> {
    let distinct: BTreeSet<_> = settings.kems.iter().collect();
    if settings.kems.is_empty() || distinct.len() < settings.kems.len() {
        return Err(GatewayError::Kems);
    }
    let lives = settings
        .max_age_seconds
        .saturating_mul(2)
        .saturating_add(settings.overlap_seconds);
    let calendar = Calendar::new(settings);
    if settings.rotation_seconds > 0
        && (settings.rotation_seconds < lives || calendar.generations() > MAX_GENERATIONS)
    {
        return Err(GatewayError::Rotation);
    }
    Ok(calendar)
}

impl KeyRing {
    /// Reads the generations that are there, and makes the first one if there is none.
    pub(crate) fn load(
        settings: &KeySettings,
        replay: &ReplaySettings,
        now_unix_ms: u64,
    ) -> Result<Self, GatewayError> {
        let calendar = checked(settings)?;
        files::prepare(&settings.directory)?;
        let ring = Self {
            directory: settings.directory.clone(),
            kems: settings
                .kems
                .iter()
                .copied()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            calendar,
            replay: replay.clone(),
            keys: RwLock::default(),
            changing: Mutex::default(),
        };
        ring.advance(now_unix_ms)?;
        Ok(ring)
    }

    /// How often [`KeyRing::advance`] is to be called: twice at least before anybody is shown a new
    /// generation.
    pub(crate) fn interval(&self) -> Duration {
        self.calendar.interval()
    }

    /// Reads the files again, makes the generation that is due, and drops those whose time is over.
    pub(crate) fn advance(&self, now_unix_ms: u64) -> Result<(), GatewayError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let generations = self.read()?;
        // First, so that there is room for the next one.
        let times = times(&generations);
        let mut kept = Vec::new();
        for (index, generation) in generations.into_iter().enumerate() {
            let next = times.get(index + 1).copied();
            let published = generation.published_unix_ms;
            if self.calendar.phase(published, next, now_unix_ms) == Phase::Dropped {
                files::remove(&self.directory, &generation)?;
                tracing::info!("a generation of keys is dropped");
            } else {
                kept.push(generation);
            }
        }
        let due = match kept.last() {
            None => Some(now_unix_ms),
            Some(newest) => {
                if self
                    .calendar
                    .is_of_another_clock(newest.published_unix_ms, now_unix_ms)
                {
                    tracing::error!(
                        "the newest keys are of a time far ahead and will not be followed by others: \
                         is the clock right? `rotate now` replaces them"
                    );
                    metrics::counter!("ohttp_gateway_key_failures_total").increment(1);
                }
                self.calendar.due(newest.published_unix_ms, now_unix_ms)
            }
        };
        if let Some(published) = due {
            kept.push(self.create(&kept, published)?);
            tracing::info!("a new generation of keys is made");
        }
        self.install(&kept)
    }

    /// Makes the next generation now: accepted at once, and shown as soon as no cache holds a list
    /// without it. Says so in words.
    ///
    /// # Errors
    /// [`RotationError`]; the keys are as before.
    pub(crate) fn rotate(&self, now_unix_ms: u64) -> Result<String, RotationError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut generations = self.read()?;
        if generations
            .last()
            .is_some_and(|newest| newest.published_unix_ms > now_unix_ms)
        {
            return Err(RotationError::UnderWay);
        }
        let published = self.calendar.publication_of_new(now_unix_ms);
        generations.push(self.create(&generations, published)?);
        self.install(&generations)?;
        tracing::info!("a new generation of keys is made, as commanded");
        Ok(self.describe(now_unix_ms))
    }

    /// After a key became known to somebody: shows a new generation at once and drops all others.
    /// Clients that have one of those in a cache fetch again, and relays do for them.
    ///
    /// # Errors
    /// [`RotationError`]; the keys are as before, but for [`RotationError::NotRemoved`].
    pub(crate) fn replace(&self, now_unix_ms: u64) -> Result<String, RotationError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.read()?;
        let new = self.create_id_after(&old, now_unix_ms)?;
        // What cannot be deleted is not accepted any more either, until somebody reads the files
        // again.
        let removed: Result<Vec<_>, _> = old
            .iter()
            .map(|generation| files::remove(&self.directory, generation))
            .collect();
        self.install(&[new])?;
        removed.map_err(|_| RotationError::NotRemoved)?;
        tracing::warn!("all keys are replaced, as commanded");
        Ok(self.describe(now_unix_ms))
    }

    /// The keys and their phases, for the operator.
    pub(crate) fn describe(&self, now_unix_ms: u64) -> String {
        let mut lines = String::new();
        for entry in self.keys().iter() {
            let phase = match self.phase(entry, now_unix_ms) {
                Phase::Waiting { published } => {
                    format!("accepted, published from {}", format(published))
                }
                Phase::Published { retired: None } => "published".to_owned(),
                Phase::Published { retired: Some(end) } => {
                    format!("published until {}", format(end))
                }
                Phase::Retired { dropped } => format!("accepted until {}", format(dropped)),
                Phase::Dropped => "about to be dropped".to_owned(),
            };
            let kem = entry.key.kem().name();
            let _ = writeln!(lines, "{:3} {kem:7} {phase}", entry.key.id());
        }
        lines
    }

    /// `application/ohttp-keys` (RFC 9458 §3.2). The same bytes for everybody.
    pub(crate) fn published(&self, now_unix_ms: u64) -> Published {
        let keys = self.keys();
        let mut published = Vec::new();
        let mut generations = BTreeSet::new();
        for entry in keys.iter() {
            if let Phase::Published { .. } = self.phase(entry, now_unix_ms) {
                generations.insert(entry.published_unix_ms);
                // Newest first, so that the rest is older.
                if generations.len() > SHOWN_GENERATIONS {
                    break;
                }
                published.push(entry.key.config());
            }
        }
        let mut times: Vec<_> = keys.iter().map(|entry| entry.published_unix_ms).collect();
        times.dedup();
        Published {
            configs: configs::list(published).into(),
            max_age_seconds: self.calendar.max_age_seconds(&times, now_unix_ms),
        }
    }

    /// Opens an encapsulated request: the binary HTTP and the means to answer it. The encapsulated
    /// key is remembered only if that succeeds; `now_ms` is of a clock that nobody sets.
    pub(crate) fn decapsulate(
        &self,
        encapsulated: &[u8],
        now_ms: u64,
    ) -> Result<(Vec<u8>, ResponseSealer), Refusal> {
        let keys = self.keys();
        let accepted = Accepted(&keys);
        let opened = whole::open(&accepted, encapsulated)?;
        accepted.remember(opened.key_id, &opened.encapsulated_key, now_ms)?;
        Ok((opened.request, opened.response))
    }

    /// The same for a request that is sealed in chunks, and that ends with its final chunk.
    pub(crate) fn decapsulate_chunked(
        &self,
        encapsulated: &[u8],
        now_ms: u64,
    ) -> Result<(Vec<u8>, ResponseEncoder), Refusal> {
        let keys = self.keys();
        let accepted = Accepted(&keys);
        let mut request = Vec::new();
        let mut decoder = RequestDecoder::new(&accepted);
        decoder.push(encapsulated, &mut request)?;
        let opened = decoder.finish(&mut request)?;
        accepted.remember(opened.key_id, &opened.encapsulated_key, now_ms)?;
        Ok((request, opened.response))
    }

    fn keys(&self) -> Arc<Vec<Arc<RingKey>>> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn phase(&self, entry: &RingKey, now_unix_ms: u64) -> Phase {
        self.calendar
            .phase(entry.shown_from_unix_ms, entry.next_unix_ms, now_unix_ms)
    }

    /// A directory that was emptied under a running gateway is a mistake, not a rotation.
    fn read(&self) -> Result<Vec<Generation>, GatewayError> {
        let generations = files::read_all(&self.directory)?;
        if generations.is_empty() && !self.keys().is_empty() {
            return Err(GatewayError::NoKey);
        }
        Ok(generations)
    }

    fn create(
        &self,
        generations: &[Generation],
        published_unix_ms: u64,
    ) -> Result<Generation, GatewayError> {
        if generations.len() >= MAX_GENERATIONS {
            return Err(GatewayError::TooManyKeys);
        }
        self.create_id_after(generations, published_unix_ms)
    }

    /// Ids go round: the one after the last, and none that is in use.
    fn create_id_after(
        &self,
        generations: &[Generation],
        published_unix_ms: u64,
    ) -> Result<Generation, GatewayError> {
        let used: BTreeSet<u8> = generations
            .iter()
            .flat_map(|generation| generation.keys.iter().map(|key| key.id))
            .collect();
        let newest = generations.last().and_then(|newest| newest.keys.last());
        let mut id = newest.map_or(0, |key| key.id);
        let mut keys = Vec::new();
        for kem in &self.kems {
            id = id.wrapping_add(1);
            while used.contains(&id) {
                id = id.wrapping_add(1);
            }
            keys.push((id, *kem));
        }
        files::create(&self.directory, &keys, published_unix_ms)
    }

    /// From now on requests are opened with `generations`, oldest first. Keys that stay keep their
    /// replay caches.
    fn install(&self, generations: &[Generation]) -> Result<(), GatewayError> {
        let current = self.keys();
        let times = times(generations);
        let mut keys = Vec::new();
        for (index, generation) in generations.iter().enumerate().rev() {
            for seeded in &generation.keys {
                let key = Key::derive(seeded.id, seeded.kem, &seeded.seed)
                    .map_err(|_| GatewayError::Key)?;
                let before = current
                    .iter()
                    .find(|entry| entry.key.config() == key.config());
                keys.push(Arc::new(RingKey {
                    published_unix_ms: generation.published_unix_ms,
                    shown_from_unix_ms: if index == 0 {
                        0
                    } else {
                        generation.published_unix_ms
                    },
                    next_unix_ms: times.get(index + 1).copied(),
                    replay: before.map_or_else(
                        || Arc::new(ReplayCache::new(&self.replay)),
                        |entry| Arc::clone(&entry.replay),
                    ),
                    key,
                }));
            }
        }
        metrics::gauge!("ohttp_gateway_keys").set(keys.len() as f64);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }
}

/// The keys that requests are opened with at some moment.
struct Accepted<'a>(&'a [Arc<RingKey>]);

impl<'a> Accepted<'a> {
    fn entry(&self, key_id: u8) -> Option<&'a RingKey> {
        let Self(keys) = self;
        keys.iter()
            .find(|entry| entry.key.id() == key_id)
            .map(Arc::as_ref)
    }

    fn remember(&self, key_id: u8, encapsulated_key: &[u8], now_ms: u64) -> Result<(), Refusal> {
        self.entry(key_id)
            .ok_or(Refusal::Key)?
            .replay
            .remember(encapsulated_key, now_ms)
            .map_err(|_| Refusal::Replayed)
    }
}

impl Keys for Accepted<'_> {
    fn key(&self, key_id: u8) -> Option<&Key> {
        Some(&self.entry(key_id)?.key)
    }
}

fn times(generations: &[Generation]) -> Vec<u64> {
    generations
        .iter()
        .map(|generation| generation.published_unix_ms)
        .collect()
}

impl From<OpenError> for Refusal {
    /// What is too short is told apart, and nothing else: an unknown suite, a bad point and a wrong
    /// tag are one answer.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Truncated => Self::Truncated,
            OpenError::UnknownKey
            | OpenError::ChunkTooLong
            | OpenError::CannotOpen
            | OpenError::Exhausted => Self::Key,
        }
    }
}
