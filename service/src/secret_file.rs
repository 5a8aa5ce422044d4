//! Secrets in files: raw bytes, readable by their owner only, written once and whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a secret could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("the secret file cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("the secret file cannot be written")]
    Unwritable(#[source] io::Error),
    #[error("the secret file may be read or written by others; it must have mode 0600")]
    Exposed,
    #[error("the secret file has {found} bytes, not {expected}")]
    WrongLength { expected: usize, found: u64 },
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

/// As [`load_or_create`], for secrets with a structure: `fresh` makes the content of a new file, and
/// an existing one may have any length in `lengths`.
///
/// # Errors
/// As [`load_or_create`], and those of `fresh`.
pub fn load_or_create_with(
    path: &Path,
    fresh: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, SecretFileError>,
    lengths: RangeInclusive<usize>,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    match load_bounded(path, &lengths) {
        Err(SecretFileError::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
            let secret = fresh()?;
            match create(path, &secret) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    load_bounded(path, &lengths)
                }
                Err(error) => Err(SecretFileError::Unwritable(error)),
                Ok(()) => Ok(secret),
            }
        }
        loaded => loaded,
    }
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
    let secret = next(&load_bounded(path, &lengths)?)?;
    let replaced = || {
        let temporary = temporary_beside(path)?;
        write_new(&temporary, &secret)?;
        fs::rename(&temporary, path)?;
        File::open(directory_of(path))?.sync_all()
    };
    replaced().map_err(SecretFileError::Unwritable)
}

/// The `len` bytes that the file at `path` holds.
///
/// # Errors
/// The file is missing, readable by others, or has another length.
pub fn load(path: &Path, len: usize) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    load_bounded(path, &(len..=len))
}

/// As [`load`], for a secret that somebody else chose: of any length in `lengths`.
///
/// # Errors
/// As [`load`].
pub fn load_within(
    path: &Path,
    lengths: RangeInclusive<usize>,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    load_bounded(path, &lengths)
}

fn load_bounded(
    path: &Path,
    lengths: &RangeInclusive<usize>,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let mut file = File::open(path).map_err(SecretFileError::Unreadable)?;
    let metadata = file.metadata().map_err(SecretFileError::Unreadable)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(SecretFileError::Exposed);
    }
    let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if !lengths.contains(&len) {
        return Err(SecretFileError::WrongLength {
            expected: *lengths.start(),
            found: metadata.len(),
        });
    }
    let mut secret = Zeroizing::new(vec![0; len]);
    file.read_exact(&mut secret)
        .map_err(SecretFileError::Unreadable)?;
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
                Err(SecretFileError::Exposed)
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
                expected: 32,
                found: 16
            })
        ));
        assert_eq!(fs::metadata(&path).unwrap().len(), 16);
    }
}
