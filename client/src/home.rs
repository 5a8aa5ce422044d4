//! The home directory: private to its owner, and used by one process at a time, for a moment: a
//! call holds it, a wait for news does not.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, FileError, LocalError, UsageError};

const POLL: Duration = Duration::from_millis(20);
const DATABASE: &str = "client.sqlite";

/// A home directory.
#[derive(Debug)]
pub(crate) struct Home {
    directory: PathBuf,
    lock: Arc<Lock>,
    patience: Duration,
}

#[derive(Debug)]
struct Lock {
    file: File,
    /// Calls of this process that hold it: one and those that it makes.
    holders: Mutex<usize>,
}

/// While this is there, no other process does anything in the home directory.
#[derive(Debug)]
pub struct Held {
    lock: Arc<Lock>,
    first: bool,
}

impl Held {
    /// Whether nothing else of this process held the directory: others may have changed what is in
    /// it.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self
            .lock
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *holders = holders.saturating_sub(1);
        if *holders == 0 {
            // It goes with the process in any case.
            let _ = self.lock.file.unlock();
        }
    }
}

impl Home {
    /// Makes the directory (mode 0700) if it is not there.
    pub(crate) fn at(directory: &Path, patience: Duration) -> Result<Self, Error> {
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
        Ok(Self {
            directory: directory.to_owned(),
            lock: Arc::new(Lock {
                file: private_file(&directory.join("lock"))?,
                holders: Mutex::new(0),
            }),
            patience,
        })
    }

    /// Waits for another process to leave the directory.
    pub(crate) async fn hold(&self) -> Result<Held, Error> {
        let mut waited = Duration::ZERO;
        loop {
            match self.try_hold() {
                Ok(held) => return Ok(held),
                Err(TryLockError::WouldBlock) if waited < self.patience => {
                    crate::runtime::sleep(POLL).await;
                    waited = waited.saturating_add(POLL);
                }
                Err(TryLockError::WouldBlock) => return Err(LocalError::Busy.into()),
                Err(TryLockError::Error(error)) => {
                    return Err(home_error(&self.directory, "locked")(error).into());
                }
            }
        }
    }

    fn try_hold(&self) -> Result<Held, TryLockError> {
        let mut holders = self
            .lock
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let first = *holders == 0;
        if first {
            self.lock.file.try_lock()?;
        }
        *holders = holders.saturating_add(1);
        Ok(Held {
            lock: Arc::clone(&self.lock),
            first,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes the database with its journal.
    pub(crate) fn wipe(&self) -> Result<(), Error> {
        for name in [
            DATABASE,
            "client.sqlite-wal",
            "client.sqlite-shm",
            "instance",
        ] {
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

    /// Path of the database; the file is there afterwards, with mode 0600, which SQLite gives to
    /// its journal too. One that is there is not opened: closing it would give up the locks that
    /// SQLite holds on it for this process (POSIX locks go with any descriptor of their file), and
    /// another process could take the journal away from under it.
    pub(crate) fn database(&self) -> Result<PathBuf, Error> {
        let path = self.directory.join(DATABASE);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(home_error(&path, "made")(error).into());
            }
            _ => std::fs::set_permissions(&path, Permissions::from_mode(0o600))
                .map_err(home_error(&path, "kept from others"))?,
        }
        Ok(path)
    }

    /// Another process may have deleted the client meanwhile.
    ///
    /// # Errors
    /// [`UsageError::NotInitialised`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.directory.join(DATABASE).is_file() {
            true => Ok(()),
            false => Err(UsageError::NotInitialised.into()),
        }
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

pub(crate) fn home_error(path: &Path, done: &'static str) -> impl Fn(std::io::Error) -> LocalError {
    let error = FileError::at(path, done);
    move |source| LocalError::Home(error(source))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_home_is_private_and_held_by_one_user_at_a_time() {
        let directory = tempfile::tempdir().unwrap().path().join("a/b");
        let home = Home::at(&directory, Duration::ZERO).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert!(home.check().is_err());
        assert_eq!(mode(&home.database().unwrap()), 0o600);
        home.check().unwrap();

        let other = Home::at(&directory, Duration::ZERO).unwrap();
        let held = home.hold().await.unwrap();
        let busy = other.hold().await;
        assert!(matches!(busy, Err(Error::Local(LocalError::Busy))));
        // A call that is made by the one that holds it.
        let inner = home.hold().await.unwrap();
        assert!(held.is_first() && !inner.is_first());
        drop(held);
        assert!(other.hold().await.is_err());
        drop(inner);
        assert!(other.hold().await.unwrap().is_first());
        home.hold().await.unwrap();
    }
}
