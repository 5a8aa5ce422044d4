//! The home directory: private to its owner, used by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, FileError, LocalError};

const POLL: Duration = Duration::from_millis(50);

/// A locked home directory; unlocked on drop.
#[derive(Debug)]
pub(crate) struct Home {
    directory: PathBuf,
    _lock: File,
}

impl Home {
    /// Opens or makes the directory (mode 0700) and waits for another process to leave it.
    pub(crate) async fn open(directory: &Path, patience: Duration) -> Result<Self, Error> {
        if directory.is_dir() {
            std::fs::set_permissions(directory, Permissions::from_mode(0o700))
                .map_err(home_error(directory, "kept from others"))?;
        } else {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(home_error(directory, "made"))?;
        }
        let lock = private_file(&directory.join("lock"))?;
        let mut waited = Duration::ZERO;
        loop {
            match lock.try_lock() {
                Ok(()) => {
                    return Ok(Self {
                        directory: directory.to_owned(),
                        _lock: lock,
                    });
                }
                Err(TryLockError::WouldBlock) if waited < patience => {
                    tokio::time::sleep(POLL).await;
                    waited = waited.saturating_add(POLL);
                }
                Err(TryLockError::WouldBlock) => return Err(LocalError::Busy.into()),
                Err(TryLockError::Error(error)) => {
                    return Err(home_error(directory, "locked")(error).into());
                }
            }
        }
    }

    /// Removes the database with its journal.
    pub(crate) fn wipe(&self) -> Result<(), Error> {
        for name in ["client.sqlite", "client.sqlite-wal", "client.sqlite-shm"] {
            let file = self.directory.join(name);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(home_error(&file, "removed")(error).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Path of the database; the file is there afterwards, with mode 0600, which SQLite gives to its
    /// journal too.
    pub(crate) fn database(&self) -> Result<PathBuf, Error> {
        let path = self.directory.join("client.sqlite");
        private_file(&path)?;
        Ok(path)
    }
}

fn private_file(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(home_error(path, "opened"))?;
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(home_error(path, "kept from others"))?;
    Ok(file)
}

fn home_error(path: &Path, done: &'static str) -> impl Fn(std::io::Error) -> LocalError {
    let error = FileError::at(path, done);
    move |source| LocalError::Home(error(source))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_home_is_private_and_has_one_user_at_a_time() {
        let directory = tempfile::tempdir().unwrap().path().join("a/b");
        let home = Home::open(&directory, Duration::ZERO).await.unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&home.database().unwrap()), 0o600);
        let second = Home::open(&directory, Duration::ZERO).await;
        assert!(matches!(second, Err(Error::Local(LocalError::Busy))));
        drop(home);
        Home::open(&directory, Duration::ZERO).await.unwrap();
    }
}
