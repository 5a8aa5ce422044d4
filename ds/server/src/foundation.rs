//! What a store knows about itself: which one it is, with which key file, how often it was begun,
//! and what the service must find again although others who told it are away. Rows of
//! [`Table::Store`].

use std::path::Path;
use std::sync::Arc;

use crypto::service_keys::ServiceKeys;
use ds_domain::engine::{
    ApplyError, Batch, Condition, Engine, EngineError, Found, Key, Read, Table,
};
use ds_domain::env::Version;
use ds_domain::execution::ATTEMPTS;
use ds_domain::store::Versioned;
use service::founding::{BoundKey, Refusal, StoreId, binding, check_binding};

/// A row of a store about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Note {
    /// Which store it is, bound to the service key file ([`service::founding::binding`]).
    Binding,
    /// How often a service was started on it, 8 bytes.
    Starts,
    /// When its operator said last that it was restored from a backup, in seconds, 8 bytes.
    Generation,
    /// The last day that the service believed its clock, 4 bytes.
    Clock,
    /// What the token issuer showed last.
    IssuerDirectory,
    /// Written only to see whether writes are taken.
    Probe,
}

impl Note {
    /// Its key: part of the format.
    fn key(self) -> Key {
        let name = match self {
            Self::Binding => "binding",
            Self::Starts => "starts",
            Self::Generation => "generation",
            Self::Clock => "clock",
            Self::IssuerDirectory => "issuer directory",
            Self::Probe => "probe",
        };
        Key {
            table: Table::Store,
            day: 0,
            name: name.as_bytes().to_vec(),
        }
    }
}

/// What is noted. Its version is random: that of what was noted before it is another one.
#[derive(Debug)]
pub struct Noted {
    version: Version,
    pub value: Vec<u8>,
}

/// What is noted, if anything is.
///
/// # Errors
/// [`EngineError`].
pub async fn note(engine: &dyn Engine, note: Note) -> Result<Option<Noted>, EngineError> {
    let found = engine.read(vec![Read::Row(note.key())]).await?.pop();
    let Some(Found::Row(Some(row))) = found else {
        return Ok(None);
    };
    match Versioned::read(&row) {
        Some((version, value)) => Ok(Some(Noted {
            version,
            value: value.to_vec(),
        })),
        None => Err(EngineError(
            "a note of the store about itself is malformed".to_owned(),
        )),
    }
}

/// Notes it durably, whatever was noted before.
///
/// # Errors
/// [`EngineError`].
pub async fn write_note(
    engine: &dyn Engine,
    note: Note,
    value: Vec<u8>,
) -> Result<(), EngineError> {
    match engine.apply(written(note, Vec::new(), value)?).await {
        Ok(()) => Ok(()),
        Err(ApplyError::Engine(error)) => Err(error),
        Err(ApplyError::Condition { .. }) => {
            Err(EngineError("a write without conditions met one".to_owned()))
        }
    }
}

/// Invariant: one successor for each value. Says whether it was noted: not unless exactly this was
/// before.
async fn replace_note(
    engine: &dyn Engine,
    note: Note,
    expected: Option<&Noted>,
    value: Vec<u8>,
) -> Result<bool, EngineError> {
    let condition = match expected {
        None => Condition::Absent(note.key()),
        Some(noted) => Condition::Version(note.key(), noted.version.0),
    };
    match engine.apply(written(note, vec![condition], value)?).await {
        Ok(()) => Ok(true),
        Err(ApplyError::Condition { .. }) => Ok(false),
        Err(ApplyError::Engine(error)) => Err(error),
    }
}

fn written(note: Note, conditions: Vec<Condition>, value: Vec<u8>) -> Result<Batch, EngineError> {
    let version =
        crypto::random().map_err(|_| EngineError("the system gives no randomness".to_owned()))?;
    let noted = Versioned {
        version: Version(version),
        sealed: value,
    };
    Ok(Batch {
        conditions,
        puts: vec![(note.key(), noted.into_value())],
        ..Batch::default()
    })
}

/// Why a store is not begun.
#[derive(Debug, thiserror::Error)]
pub enum FoundationError {
    /// It is not the one, or not whole.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is one already.
    #[error("the store is bound to a key file already")]
    Bound,
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<ds_store_rocks::OpenError> for FoundationError {
    fn from(error: ds_store_rocks::OpenError) -> Self {
        match error {
            ds_store_rocks::OpenError::Refused(refusal) => Self::Refused(refusal),
            ds_store_rocks::OpenError::Engine(error) => Self::Engine(error),
        }
    }
}

impl From<ds_store_postgres::OpenError> for FoundationError {
    fn from(error: ds_store_postgres::OpenError) -> Self {
        match error {
            ds_store_postgres::OpenError::Refused(refusal) => Self::Refused(refusal),
            ds_store_postgres::OpenError::Engine(error) => Self::Engine(error),
        }
    }
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
/// [`FoundationError::Bound`] when it is one already.
pub async fn bind(
    store: &dyn Engine,
    keys: &ServiceKeys,
    key_file: &Path,
) -> Result<StoreId, FoundationError> {
    let id = StoreId::generate()?;
    let newest: Vec<_> = keys_of(keys, key_file).next_back().into_iter().collect();
    if replace_note(store, Note::Binding, None, binding(id, &newest)).await? {
        Ok(id)
    } else {
        Err(FoundationError::Bound)
    }
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

/// Begins a store that was made before: it is the one of this key file, and knows no later one.
/// `place` is for the operator.
///
/// # Errors
/// [`Refusal::Unbound`], [`Refusal::OtherKeyFile`], also for an earlier copy of the key file.
pub async fn begin(
    store: &dyn Engine,
    place: &str,
    keys: &ServiceKeys,
    key_file: &Path,
) -> Result<Begun, FoundationError> {
    let id = recognise(store, place, keys, key_file).await?;
    let starts = count(store, Note::Starts, 1).await?;
    let generation = number(note(store, Note::Generation).await?.as_ref())?;
    Ok(Begun {
        id,
        starts,
        generation,
    })
}

/// A store that [`begin`] knows was put back from a backup: clients are shown a later generation
/// from now on.
///
/// # Errors
/// As [`begin`].
pub async fn restored(
    store: &dyn Engine,
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
async fn count(store: &dyn Engine, of: Note, least: u64) -> Result<u64, EngineError> {
    for _ in 0..ATTEMPTS {
        let noted = note(store, of).await?;
        let next = number(noted.as_ref())?.saturating_add(1).max(least);
        // Else another node is at it at this moment.
        if replace_note(store, of, noted.as_ref(), next.to_be_bytes().to_vec()).await? {
            return Ok(next);
        }
    }
    Err(EngineError(
        "other nodes count what the store keeps, again and again".to_owned(),
    ))
}

fn number(noted: Option<&Noted>) -> Result<u64, EngineError> {
    let Some(noted) = noted else {
        return Ok(0);
    };
    let bytes = noted.value.as_slice().try_into();
    bytes
        .map(u64::from_be_bytes)
        .map_err(|_| EngineError("a number that the store keeps is malformed".to_owned()))
}

async fn recognise(
    store: &dyn Engine,
    place: &str,
    keys: &ServiceKeys,
    key_file: &Path,
) -> Result<StoreId, FoundationError> {
    let noted = note(store, Note::Binding).await?;
    let bound = noted.as_ref().map(|noted| noted.value.as_slice());
    let mut refused = Refusal::Unbound {
        place: place.to_owned(),
    };
    let mut is_newest = true;
    for key in keys_of(keys, key_file).rev() {
        match check_binding(bound, place, &[key]) {
            Ok(id) if is_newest => return Ok(id),
            // The key file has been rotated since: from now on the store knows that.
            Ok(id) => {
                let newest: Vec<_> = keys_of(keys, key_file).next_back().into_iter().collect();
                let now = binding(id, &newest);
                // Else another node did; or it has a later file, and says so at the next start.
                replace_note(store, Note::Binding, noted.as_ref(), now).await?;
                return Ok(id);
            }
            Err(refusal) => refused = refusal,
        }
        is_newest = false;
    }
    Err(refused.into())
}

/// Asks for one durable write: for readiness.
#[must_use]
pub fn probe(store: Arc<dyn Engine>) -> service::probe::Probe {
    service::probe::Probe::new(move || {
        let store = Arc::clone(&store);
        async move {
            let page = service::probe::BYTES.to_vec();
            let written = write_note(&*store, Note::Probe, page).await;
            written.map_err(|error| error.to_string())
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ds_domain::memory::Memory;

    use super::*;

    #[tokio::test]
    async fn a_store_knows_the_latest_key_file_and_refuses_an_earlier_copy_and_any_other() {
        let (store, file) = (Memory::default(), Path::new("service-keys"));
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
