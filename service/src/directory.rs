//! Directories and files that nobody but their owner may look into.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PRIVATE: u32 = 0o700;

/// A directory that cannot be had as it must be.
#[derive(Debug, thiserror::Error)]
#[error("the directory {} cannot be made, or not be kept from others (mode 0700)", path.display())]
pub struct DirectoryError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Whatever this process makes from now on is its owner's only: also what an engine makes, which
/// asks for wider modes.
pub(crate) fn keep_new_files_private() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Makes the directory at `path`, and missing ones above it, with mode 0700. Takes the rights of
/// others from an existing one.
///
/// # Errors
/// It cannot be made or changed, or is no directory.
pub fn private(path: &Path) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE)
        .create(path)
        .map_err(failed)?;
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode & PRIVATE)).map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_private_whether_it_was_there_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let new = directory.path().join("a/b");
        private(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        assert_eq!(mode(new.parent().unwrap()), 0o700);
        for open in [0o755, 0o770, 0o777] {
            fs::set_permissions(&new, Permissions::from_mode(open)).unwrap();
            private(&new).unwrap();
            assert_eq!(mode(&new), 0o700, "{open:o}");
        }
    }

    #[test]
    fn a_file_in_its_place_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = private(&file).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    }
}
