//! Secrets in files: readable by their owner only, written once and whole.
//!
//! A file of ours is `content || checksum(8)`, the first bytes of the content's SHA-256: one wrong
//! bit in a key would else make everything unreadable, without a word. A file that somebody else
//! made ([`load_within`]) is the content alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const CHECKSUM_LEN: usize = 8;

/// Why a secret could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("the secret file {} cannot be read", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("the secret file {} cannot be written", .path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error(
        "the secret file {0} may be read or written by others: it has mode {mode:04o} and must \
         have 0600 (chmod 600 {0})",
        .path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the secret file {} has {found} bytes, not {expected}", .path.display())]
    WrongLength {
        path: PathBuf,
        expected: usize,
        found: u64,
    },
    #[error(
        "the secret file {} is damaged: its checksum is wrong. Bring it back from its backup",
        .path.display()
    )]
    Damaged { path: PathBuf },
    #[error("the operating system gives no randomness")]
    NoRandomness,
}

/// The `len` random bytes that the file at `path` holds; makes the file if it is not there.
///
/// Two processes that share a secret may both call this at the same time: one file comes to be,
/// and both return what it holds.
///
/// # Errors
/// The file is readable by others, has another length, or cannot be read or made.
pub fn load_or_create(path: &Path, len: usize) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let fresh = || {
        let mut secret = Zeroizing::new(vec![0; len]);
        getrandom::fill(&mut secret).map_err(|_| SecretFileError::NoRandomness)?;
        Ok(secret)
    };
    load_or_create_with(path, fresh, len..=len)
}

/// As [`load_or_create`], for secrets with a structure: `fresh` makes the content of a new file,
/// and an existing one may have any length in `lengths`.
///
/// # Errors
/// As [`load_or_create`], and those of `fresh`.
pub fn load_or_create_with(
    path: &Path,
    fresh: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, SecretFileError>,
    lengths: RangeInclusive<usize>,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    match load_checked(path, &lengths) {
        Err(error) if error.is_missing() => match create_with(path, fresh) {
            Err(error) if error.is_occupied() => load_checked(path, &lengths),
            created => created,
        },
        loaded => loaded,
    }
}

/// Makes a file that is not there.
///
/// # Errors
/// It is there, or cannot be made; those of `fresh`.
pub fn create_with(
    path: &Path,
    fresh: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, SecretFileError>,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let secret = fresh()?;
    create(path, &with_checksum(&secret)).map_err(unwritable(path))?;
    Ok(secret)
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> SecretFileError {
    |error| SecretFileError::Unreadable {
        path: path.to_owned(),
        error,
    }
}

fn unwritable(path: &Path) -> impl Fn(io::Error) -> SecretFileError {
    |error| SecretFileError::Unwritable {
        path: path.to_owned(),
        error,
    }
}

impl SecretFileError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }

    /// Whether there is one already.
    #[must_use]
    pub fn is_occupied(&self) -> bool {
        matches!(self, Self::Unwritable { error, .. } if error.kind() == io::ErrorKind::AlreadyExists)
    }
}

fn with_checksum(secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let checksum = Sha256::digest(secret);
    let mut content = Zeroizing::new(Vec::with_capacity(secret.len() + CHECKSUM_LEN));
    content.extend_from_slice(secret);
    content.extend(checksum.iter().take(CHECKSUM_LEN));
    content
}

/// Replaces the content of an existing secret file by what `next` makes of it: whole or not at all.
///
/// # Errors
/// As [`load_or_create_with`] for a file that is there, and those of `next`.
pub fn replace(
    path: &Path,
    lengths: RangeInclusive<usize>,
    next: impl FnOnce(&[u8]) -> Result<Zeroizing<Vec<u8>>, SecretFileError>,
) -> Result<(), SecretFileError> {
    let secret = next(&load_checked(path, &lengths)?)?;
    let replaced = || {
        let temporary = temporary_beside(path)?;
        write_new(&temporary, &with_checksum(&secret))?;
        fs::rename(&temporary, path)?;
        File::open(directory_of(path))?.sync_all()
    };
    replaced().map_err(unwritable(path))
}

/// The `len` bytes that a file of ours at `path` holds.
///
/// # Errors
/// The file is missing, readable by others, damaged, or has another length.
pub fn load(path: &Path, len: usize) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    load_checked(path, &(len..=len))
}

/// As [`load`], of any length in `lengths`.
///
/// # Errors
/// As [`load`].
pub fn load_between(
    path: &Path,
    lengths: RangeInclusive<usize>,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    load_checked(path, &lengths)
}

/// As [`load_between`], for a secret that somebody else chose, without a checksum.
///
/// # Errors
/// As [`load`].
pub fn load_within(
    path: &Path,
    lengths: RangeInclusive<usize>,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    load_bounded(path, &lengths)
}

fn load_checked(
    path: &Path,
    lengths: &RangeInclusive<usize>,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let damaged = || SecretFileError::Damaged {
        path: path.to_owned(),
    };
    let (shortest, longest) = (*lengths.start(), *lengths.end());
    let stored = shortest + CHECKSUM_LEN..=longest + CHECKSUM_LEN;
    let content = load_bounded(path, &stored)?;
    let (secret, _) = content
        .split_last_chunk::<CHECKSUM_LEN>()
        .ok_or_else(damaged)?;
    if *with_checksum(secret) == *content {
        Ok(Zeroizing::new(secret.to_vec()))
    } else {
        Err(damaged())
    }
}

fn load_bounded(
    path: &Path,
    lengths: &RangeInclusive<usize>,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let mut file = File::open(path).map_err(unreadable(path))?;
    let metadata = file.metadata().map_err(unreadable(path))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(SecretFileError::Exposed {
            path: path.to_owned(),
            mode: metadata.mode() & 0o7777,
        });
    }
    let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if !lengths.contains(&len) {
        return Err(SecretFileError::WrongLength {
            path: path.to_owned(),
            expected: *lengths.start(),
            found: metadata.len(),
        });
    }
    let mut secret = Zeroizing::new(vec![0; len]);
    file.read_exact(&mut secret).map_err(unreadable(path))?;
    Ok(secret)
}

/// Writes a new file that is there whole or not at all, and never replaces one: a hard link to a
/// finished temporary file fails where `rename` would overwrite.
fn create(path: &Path, secret: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write_new(&temporary, secret).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    written?;
    removed?;
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(|_| io::Error::other("no randomness"))?;
    let mut name = path
        .file_name()
        .ok_or(io::ErrorKind::InvalidInput)?
        .to_owned();
    name.push(format!(".{:016x}.new", u64::from_be_bytes(suffix)));
    Ok(path.with_file_name(name))
}

fn write_new(path: &Path, secret: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(secret)?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_replaced_secret_stays_readable_by_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed");
        load_or_create(&path, 4).unwrap();
        replace(&path, 4..=8, |old| {
            Ok(Zeroizing::new([old, b"next"].concat()))
        })
        .unwrap();
        let now = load(&path, 8).unwrap();
        assert!(now.ends_with(b"next"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_is_made_once_and_then_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed");
        let made = load_or_create(&path, 32).unwrap();
        assert_eq!(made.len(), 32);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(*load_or_create(&path, 32).unwrap(), *made);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn processes_that_race_to_make_a_secret_end_with_the_same_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed");
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| load_or_create(&path, 32).unwrap()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(made.iter().all(|secret| **secret == *made[0]));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed");
        load_or_create(&path, 32).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(
                load_or_create(&path, 32),
                Err(SecretFileError::Exposed { .. })
            ));
        }
    }

    #[test]
    fn a_file_of_another_length_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed");
        load_or_create(&path, 16).unwrap();
        assert!(matches!(
            load_or_create(&path, 32),
            Err(SecretFileError::WrongLength {
                expected: 40,
                found: 24,
                ..
            })
        ));
        assert_eq!(fs::metadata(&path).unwrap().len(), 24);
    }

    #[test]
    fn a_file_with_one_wrong_bit_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed");
        load_or_create(&path, 16).unwrap();
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            *damaged.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
            fs::write(&path, &damaged).unwrap();
            let refused = load_or_create(&path, 16);
            assert!(
                matches!(&refused, Err(SecretFileError::Damaged { path: named }) if *named == path),
                "bit {bit}"
            );
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
    }
}
