//! Generations of keys in files: one file each, readable by its owner only, durable before a key is
//! used.
//!
//! ```text
//! version(1) = 1 | published_unix_ms(8) | 1 to 8 × [ key id(1) kem(2) seed(32) ]
//! ```
//!
//! The name holds the first id, so that two nodes that share the directory and rotate at the same
//! moment end with the same generation: whoever is second reads what the first one wrote.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use oblivious::{Kem, MIN_SEED_LEN};
use service::founding::{self, Refusal, StoreId, Unfinished};
use service::secret_file::{self, SecretFileError};
use zeroize::Zeroizing;

use crate::{GatewayError, PROGRAM};

const VERSION: u8 = 1;
const HEAD_LEN: usize = 9;
const ENTRY_LEN: usize = 1 + 2 + MIN_SEED_LEN;
const MAX_KEYS: usize = 8;
const PREFIX: &str = "keys-";

pub(super) struct Generation {
    pub(super) published_unix_ms: u64,
    /// Most wanted first.
    pub(super) keys: Vec<Seeded>,
    path: PathBuf,
}

pub(super) struct Seeded {
    pub(super) id: u8,
    pub(super) kem: Kem,
    pub(super) seed: Zeroizing<Vec<u8>>,
}

/// All generations in `directory`, oldest first.
pub(super) fn read_all(directory: &Path) -> Result<Vec<Generation>, GatewayError> {
    let mut generations = Vec::new();
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        if is_generation(&path) {
            let content = secret_file::load_between(&path, lengths())?;
            generations.push(decode(&content, path)?);
        }
    }
    generations.sort_by_key(|generation: &Generation| generation.published_unix_ms);
    Ok(generations)
}

/// The name of the file that says that a directory was made to hold keys, and which one it is.
const FOUNDED: &str = "founded";
const FOUNDED_LEN: usize = 16;

/// Is there while `init` runs.
const UNFINISHED: &str = "init-unfinished";

/// Makes the first keys possible: an empty directory, or none, becomes one for keys. Begun on it is
/// what [`Unfinished::end`] ends.
pub(super) fn found(directory: &Path) -> Result<(StoreId, Unfinished), GatewayError> {
    check_finished(directory)?;
    founding::claim_empty_directory(directory)?;
    let marker = directory.join(UNFINISHED);
    let unfinished = Unfinished::begin(&marker, PROGRAM, &directory.display().to_string())?;
    let id = StoreId::generate()?;
    let content = || Ok(Zeroizing::new(id.0.to_vec()));
    secret_file::create_with(&directory.join(FOUNDED), content)?;
    Ok((id, unfinished))
}

fn check_finished(directory: &Path) -> Result<(), Refusal> {
    let marker = directory.join(UNFINISHED);
    Unfinished::check(&marker, PROGRAM, &directory.display().to_string())
}

/// Whether the directory is one that was made for keys, and holds some. Else every client's
/// copy of the keys would be worth nothing, without a word. Changes nothing.
pub(super) fn recognise(directory: &Path) -> Result<(), GatewayError> {
    check_finished(directory)?;
    founding::inspect(directory, PROGRAM, &[FOUNDED])?;
    secret_file::load(&directory.join(FOUNDED), FOUNDED_LEN)?;
    if read_all(directory)?.is_empty() {
        return Err(Refusal::NoKeyFile {
            path: directory.join(format!("{PREFIX}*")),
            program: PROGRAM,
        }
        .into());
    }
    Ok(())
}

/// Makes the directory if it is not there, and removes what a crash in the middle of a write left
/// of a seed.
pub(super) fn prepare(directory: &Path) -> Result<(), GatewayError> {
    service::directory::private(directory)?;
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(".new")) {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// Writes a new generation with fresh seeds, or finds the one that another node wrote in the
/// meantime.
pub(super) fn create(
    directory: &Path,
    keys: &[(u8, Kem)],
    published_unix_ms: u64,
) -> Result<Generation, GatewayError> {
    let (first, _) = keys.first().ok_or(GatewayError::NoKey)?;
    let path = directory.join(format!("{PREFIX}{first:03}"));
    let fresh = || {
        let mut content = Zeroizing::new(Vec::with_capacity(HEAD_LEN + keys.len() * ENTRY_LEN));
        content.push(VERSION);
        content.extend_from_slice(&published_unix_ms.to_be_bytes());
        for (id, kem) in keys {
            let mut seed = Zeroizing::new([0; MIN_SEED_LEN]);
            getrandom::fill(&mut *seed).map_err(|_| SecretFileError::NoRandomness)?;
            content.push(*id);
            content.extend_from_slice(&kem.id().to_be_bytes());
            content.extend_from_slice(&*seed);
        }
        Ok(content)
    };
    let content = secret_file::load_or_create_with(&path, fresh, lengths())?;
    decode(&content, path)
}

/// Removes a generation for good: what was encapsulated to it stays closed.
pub(super) fn remove(directory: &Path, generation: &Generation) -> Result<(), GatewayError> {
    match fs::remove_file(&generation.path) {
        // Another node was first.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed
            .and_then(|()| File::open(directory)?.sync_all())
            .map_err(at(&generation.path)),
    }
}

fn lengths() -> std::ops::RangeInclusive<usize> {
    HEAD_LEN + ENTRY_LEN..=HEAD_LEN + MAX_KEYS * ENTRY_LEN
}

fn is_generation(path: &Path) -> bool {
    let number = path
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix(PREFIX));
    number.is_some_and(|number| number.len() == 3 && number.parse::<u8>().is_ok())
}

fn at(path: &Path) -> impl Fn(io::Error) -> GatewayError {
    move |source| GatewayError::KeyDirectory {
        path: path.to_owned(),
        source,
    }
}

fn decode(content: &[u8], path: PathBuf) -> Result<Generation, GatewayError> {
    match seeds(content) {
        Some((published_unix_ms, keys)) => Ok(Generation {
            published_unix_ms,
            keys,
            path,
        }),
        None => Err(GatewayError::KeyFile(path)),
    }
}

/// When a generation was published, and its keys.
fn seeds(content: &[u8]) -> Option<(u64, Vec<Seeded>)> {
    let (version, rest) = content.split_first()?;
    let (published, rest) = rest.split_first_chunk::<8>()?;
    if *version != VERSION || rest.len() % ENTRY_LEN != 0 {
        return None;
    }
    let keys = rest.chunks_exact(ENTRY_LEN).map(|entry| {
        let (id, rest) = entry.split_first()?;
        let (kem, seed) = rest.split_first_chunk::<2>()?;
        Some(Seeded {
            id: *id,
            kem: Kem::from_id(u16::from_be_bytes(*kem))?,
            seed: Zeroizing::new(seed.to_vec()),
        })
    });
    Some((u64::from_be_bytes(*published), keys.collect::<Option<_>>()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const KEYS: [(u8, Kem); 2] = [(7, Kem::XWing), (8, Kem::X25519)];

    /// `version || published, ms || (id || KEM || seed)…`.
    #[test]
    fn a_key_file_of_the_first_release_is_read() {
        let file = [
            &[1, 0, 0, 0, 0, 0, 0, 1, 2, 7, 0x64, 0x7a][..],
            &[3; MIN_SEED_LEN],
            &[8, 0, 0x20],
            &[4; MIN_SEED_LEN],
        ];
        let (published, keys) = seeds(&file.concat()).unwrap();
        assert_eq!(published, 0x0102);
        let read: Vec<_> = keys
            .iter()
            .map(|key| (key.id, key.kem, key.seed[0]))
            .collect();
        assert_eq!(read, [(7, Kem::XWing, 3), (8, Kem::X25519, 4)]);
    }

    #[test]
    fn a_generation_is_read_as_it_was_written_and_by_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        prepare(&path).unwrap();
        let made = create(&path, &KEYS, 5).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&made.path).unwrap().mode() & 0o777, 0o600);
        let read = read_all(&path).unwrap().remove(0);
        assert_eq!(read.published_unix_ms, 5);
        let parts = |generation: &Generation| -> Vec<_> {
            let keys = generation.keys.iter();
            keys.map(|key| (key.id, key.kem, key.seed.to_vec()))
                .collect()
        };
        assert_eq!(parts(&read), parts(&made));
        let seeds: Vec<_> = made.keys.iter().map(|key| &key.seed).collect();
        assert!(seeds.iter().all(|seed| seed.len() == 32) && seeds.first() != seeds.last());
    }

    #[test]
    fn two_nodes_that_rotate_at_once_end_with_the_same_generation() {
        let directory = tempfile::tempdir().unwrap();
        let first = create(directory.path(), &KEYS, 5).unwrap();
        let second = create(directory.path(), &KEYS, 6).unwrap();
        assert_eq!(second.published_unix_ms, 5);
        assert_eq!(
            first.keys.first().unwrap().seed,
            second.keys.first().unwrap().seed
        );
        for _ in 0..2 {
            remove(directory.path(), &first).unwrap();
        }
        assert!(read_all(directory.path()).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_generation_is_refused_and_a_torn_write_is_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let torn = directory.path().join("keys-009.0011.new");
        fs::write(&torn, "seed").unwrap();
        prepare(directory.path()).unwrap();
        assert!(!torn.exists());
        let made = create(directory.path(), &KEYS, 5).unwrap();
        let good = fs::read(&made.path).unwrap();
        for (at, value) in [(0, 2), (HEAD_LEN + 1, 0xff)] {
            let mut bad = good.to_vec();
            *bad.get_mut(at).unwrap() = value;
            fs::write(&made.path, bad).unwrap();
            assert!(read_all(directory.path()).is_err());
        }
        fs::write(&made.path, good.get(..good.len() - 1).unwrap()).unwrap();
        assert!(read_all(directory.path()).is_err());
    }
}
