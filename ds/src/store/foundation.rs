//! What a store knows about itself: which one it is, with which key file, how often it was begun, and
//! what the service must find again although others who told it are away.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use crypto::service_keys::ServiceKeys;
use service::founding::{BoundKey, Refusal, StoreId, binding, check_binding};

use super::StoreError;

/// A row of a store about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Note {
    /// Which store it is, bound to the service key file ([`service::founding::binding`]).
    Binding,
    /// How often a service was started on it, 8 bytes.
    Starts,
    /// When its operator said last that it was restored from a backup, in seconds, 8 bytes.
    Generation,
    /// The day that the clock showed last, 4 bytes.
    Clock,
    /// What the token issuer showed last.
    IssuerDirectory,
    /// Written only to see whether writes are taken.
    Probe,
}

impl Note {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Binding,
        Self::Starts,
        Self::Generation,
        Self::Clock,
        Self::IssuerDirectory,
        Self::Probe,
    ];

    /// Its key: part of the format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Starts => "starts",
            Self::Generation => "generation",
            Self::Clock => "clock",
            Self::IssuerDirectory => "issuer directory",
            Self::Probe => "probe",
        }
    }
}

/// The side of an engine that the process needs, and no request.
#[async_trait]
pub trait Foundation: Send + Sync + 'static {
    /// What is noted.
    async fn note(&self, note: Note) -> Result<Option<Vec<u8>>, StoreError>;

    /// Notes it durably, whatever was noted before.
    async fn write_note(&self, note: Note, value: Vec<u8>) -> Result<(), StoreError>;

    /// Invariant: one successor for each value. [`StoreError::Conflict`] unless exactly this is noted.
    async fn replace_note(
        &self,
        note: Note,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> Result<(), StoreError>;
}

/// Why a store is not begun.
#[derive(Debug, thiserror::Error)]
pub enum FoundationError {
    /// It is not the one, or not whole.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn keys_of<'a>(
    keys: &'a ServiceKeys,
    file: &'a Path,
) -> impl DoubleEndedIterator<Item = BoundKey<'a>> {
    keys.fingerprints().iter().map(move |key| BoundKey {
        file,
        key: &key[..],
    })
}

/// Makes an empty store the one of this key file.
///
/// # Errors
/// [`StoreError::Conflict`] when it is one already.
pub async fn bind(
    store: &dyn Foundation,
    keys: &ServiceKeys,
    key_file: &Path,
) -> Result<StoreId, FoundationError> {
    let id = StoreId::generate()?;
    let newest: Vec<_> = keys_of(keys, key_file).next_back().into_iter().collect();
    store
        .replace_note(Note::Binding, None, binding(id, &newest))
        .await?;
    Ok(id)
}

/// Which store it is, and what has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Which one.
    pub id: StoreId,
    /// The how manieth time it is begun, from 1: larger than each time before.
    pub starts: u64,
    /// When it was restored from a backup last, in seconds; 0: never.
    pub generation: u64,
}

/// Begins a store that was made before: it is the one of this key file, and knows no later one. `place` is
/// for the operator.
///
/// # Errors
/// [`Refusal::Unbound`], [`Refusal::OtherKeyFile`], also for an earlier copy of the key file.
pub async fn begin(
    store: &dyn Foundation,
    place: &str,
    keys: &ServiceKeys,
    key_file: &Path,
) -> Result<Begun, FoundationError> {
    let id = recognise(store, place, keys, key_file).await?;
    let starts = count(store, Note::Starts, 1).await?;
    let generation = number(store.note(Note::Generation).await?.as_deref())?;
    Ok(Begun {
        id,
        starts,
        generation,
    })
}

/// A store that [`begin`] knows was put back from a backup: clients are shown a later generation from now on.
///
/// # Errors
/// As [`begin`].
pub async fn restored(
    store: &dyn Foundation,
    place: &str,
    keys: &ServiceKeys,
    key_file: &Path,
    now_unix_s: u64,
) -> Result<Begun, FoundationError> {
    let mut begun = begin(store, place, keys, key_file).await?;
    // The same backup may be put back twice: a count would be the same both times.
    begun.generation = count(store, Note::Generation, now_unix_s).await?;
    Ok(begun)
}

/// One more than is noted, and no less than `least`.
async fn count(store: &dyn Foundation, note: Note, least: u64) -> Result<u64, StoreError> {
    loop {
        let noted = store.note(note).await?;
        let next = number(noted.as_deref())?.saturating_add(1).max(least);
        let written = store
            .replace_note(note, noted, next.to_be_bytes().to_vec())
            .await;
        match written {
            // Another node is at it at this moment.
            Err(StoreError::Conflict) => {}
            written => return written.map(|()| next),
        }
    }
}

fn number(noted: Option<&[u8]>) -> Result<u64, StoreError> {
    let Some(noted) = noted else {
        return Ok(0);
    };
    let bytes = noted.try_into();
    bytes
        .map(u64::from_be_bytes)
        .map_err(|_| StoreError::Engine("a number that the store keeps is malformed".to_owned()))
}

async fn recognise(
    store: &dyn Foundation,
    place: &str,
    keys: &ServiceKeys,
    key_file: &Path,
) -> Result<StoreId, FoundationError> {
    let noted = store.note(Note::Binding).await?;
    let mut refused = Refusal::Unbound {
        place: place.to_owned(),
    };
    let mut is_newest = true;
    for key in keys_of(keys, key_file).rev() {
        match check_binding(noted.as_deref(), place, &[key]) {
            Ok(id) if is_newest => return Ok(id),
            // The key file has been rotated since: from now on the store knows that.
            Ok(id) => {
                let newest: Vec<_> = keys_of(keys, key_file).next_back().into_iter().collect();
                let now = binding(id, &newest);
                match store.replace_note(Note::Binding, noted.clone(), now).await {
                    // Another node did; or it has a later file, and says so at the next start.
                    Ok(()) | Err(StoreError::Conflict) => return Ok(id),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(refusal) => refused = refusal,
        }
        is_newest = false;
    }
    Err(refused.into())
}

/// Asks for one durable write: for readiness.
#[must_use]
pub fn probe(store: Arc<dyn Foundation>) -> service::probe::Probe {
    service::probe::Probe::new(move || {
        let store = Arc::clone(&store);
        async move {
            let page = service::probe::BYTES.to_vec();
            let written = store.write_note(Note::Probe, page).await;
            written.map_err(|error| error.to_string())
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[tokio::test]
    async fn a_store_knows_the_latest_key_file_and_refuses_an_earlier_copy_and_any_other() {
        let (store, file) = (Memory::new(), Path::new("service-keys"));
        let made = ServiceKeys::generate_file().unwrap();
        let rotated = ServiceKeys::rotate_file(&made).unwrap();
        let diverged = ServiceKeys::rotate_file(&made).unwrap();
        let other = ServiceKeys::generate_file().unwrap();
        let start = async |content: &[u8]| {
            let keys = ServiceKeys::from_file(content).unwrap();
            begin(&store, "here", &keys, file).await
        };
        let unmade = start(&made).await;
        assert!(matches!(
            unmade,
            Err(FoundationError::Refused(Refusal::Unbound { .. }))
        ));
        let keys = ServiceKeys::from_file(&made).unwrap();
        let id = bind(&store, &keys, file).await.unwrap();
        assert!(bind(&store, &keys, file).await.is_err());
        let is_refused = async |content: &[u8]| {
            let refused = start(content).await;
            matches!(refused, Err(FoundationError::Refused(Refusal::OtherKeyFile { store, .. })) if store == id)
        };
        let begun = |starts| Begun {
            id,
            starts,
            generation: 0,
        };
        assert_eq!(start(&made).await.unwrap(), begun(1));
        assert!(is_refused(&other).await);
        assert_eq!(start(&made).await.unwrap(), begun(2));
        assert_eq!(start(&rotated).await.unwrap(), begun(3));
        assert!(is_refused(&made).await);
        assert!(is_refused(&diverged).await);
        let twice = ServiceKeys::rotate_file(&rotated).unwrap();
        assert_eq!(start(&twice).await.unwrap(), begun(4));
        assert!(is_refused(&rotated).await);
    }
}
