//! Key files that come and go while a store stays, and are bound to it one by one.
//!
//! A store's own row names the key files that it was made with ([`crate::founding`]). Keys that
//! rotate are not known then. Beside each of them lies `NAME.bound`, a tag over its name and
//! content under a key of that store: a file of another store, exchanged for this one's or put
//! beside it, is refused. The tag is no row of the database, since that can be restored from a day
//! before the last rotation.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::founding::{Refusal, StoreId, sync_directory};

const LABEL: &[u8] = b"MIMIMI 1.0 bound key file";
const TAG_LEN: usize = 32;

/// Binds key files to one store.
pub struct BoundFiles {
    store: StoreId,
    key: Zeroizing<Vec<u8>>,
}

/// The binding of one key file: to be written or checked.
pub struct Binding {
    store: StoreId,
    file: PathBuf,
    tag: [u8; TAG_LEN],
}

impl BoundFiles {
    /// Under a key file that the store is bound to itself.
    #[must_use]
    pub fn of(store: StoreId, key: &[u8]) -> Self {
        Self {
            store,
            key: Zeroizing::new(key.to_vec()),
        }
    }

    /// Of the file with this content. Its directory does not matter, which can be moved.
    #[must_use]
    pub fn binding(&self, file: &Path, content: &[u8]) -> Binding {
        let mut tag = [0; TAG_LEN];
        // Never fails: HMAC takes a key of any length.
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) {
            mac.update(LABEL);
            mac.update(&self.store.0);
            mac.update(&Sha256::digest(content));
            let name = file.file_name().unwrap_or_default();
            mac.update(name.as_encoded_bytes());
            tag.copy_from_slice(&mac.finalize().into_bytes());
        }
        Binding {
            store: self.store,
            file: file.to_owned(),
            tag,
        }
    }
}

impl Binding {
    /// Keeps it: before the key file itself is there, so that no crash leaves a key without.
    ///
    /// # Errors
    /// [`Refusal::Io`].
    pub fn write(&self) -> Result<(), Refusal> {
        let path = beside(&self.file, ".bound");
        let temporary = beside(&self.file, ".bound.new");
        write_new(&temporary, &self.tag)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(Refusal::io(&path))?;
        sync_directory(path.parent().unwrap_or(Path::new(".")))
    }

    /// Whether it is the one that was kept.
    ///
    /// # Errors
    /// [`Refusal::ForeignKeyFile`], [`Refusal::Io`].
    pub fn check(&self) -> Result<(), Refusal> {
        let path = beside(&self.file, ".bound");
        match fs::read(&path) {
            // No secret, and compared with nothing that a stranger sends.
            Ok(kept) if kept == self.tag => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Refusal::io(&path)(error)),
            _ => Err(Refusal::ForeignKeyFile {
                path: self.file.clone(),
                store: self.store,
            }),
        }
    }
}

/// Removes the record of a key file that is gone.
///
/// # Errors
/// [`Refusal::Io`].
pub fn forget(file: &Path) -> Result<(), Refusal> {
    let path = beside(file, ".bound");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Refusal::io(&path)(error)),
        _ => Ok(()),
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_file_is_known_by_store_key_name_and_content() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token-1");
        let ours = BoundFiles::of(StoreId([1; 16]), &[1; 32]);
        let refused = |binding: Binding| matches!(binding.check(), Err(Refusal::ForeignKeyFile { path, .. }) if path.exists());
        for name in ["token-1", "token-2"] {
            fs::write(directory.path().join(name), "key").unwrap();
        }
        assert!(refused(ours.binding(&file, b"key")), "nothing was kept");
        ours.binding(&file, b"key").write().unwrap();
        ours.binding(&file, b"key").check().unwrap();

        assert!(refused(ours.binding(&file, b"another")));
        let other_store = BoundFiles::of(StoreId([2; 16]), &[1; 32]);
        assert!(refused(other_store.binding(&file, b"key")));
        let other_key = BoundFiles::of(StoreId([1; 16]), &[2; 32]);
        assert!(refused(other_key.binding(&file, b"key")));
        let renamed = directory.path().join("token-2");
        fs::copy(beside(&file, ".bound"), beside(&renamed, ".bound")).unwrap();
        assert!(refused(ours.binding(&renamed, b"key")));

        forget(&file).unwrap();
        forget(&file).unwrap();
        assert!(refused(ours.binding(&file, b"key")));
    }
}
