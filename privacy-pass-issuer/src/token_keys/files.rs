//! Token keys on disk: `token-<not before, unix seconds>.pk8`, PKCS#8, mode 0600, each bound to the
//! database.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use service::bound_files::{self, Binding, BoundFiles};
use zeroize::Zeroizing;

use super::{TokenKey, TokenKeyError};

/// A PKCS#8 file of a 2048-bit RSA key has about 1,220 bytes.
const MAX_FILE_LENGTH: u64 = 4096;

pub(super) fn make_directory(directory: &Path) -> Result<(), TokenKeyError> {
    Ok(service::directory::private(directory)?)
}

fn at(path: &Path) -> impl Fn(io::Error) -> TokenKeyError {
    move |source| TokenKeyError::Io {
        path: path.to_owned(),
        source,
    }
}

fn path_of(directory: &Path, not_before_unix_s: u64) -> PathBuf {
    directory.join(format!("token-{not_before_unix_s}.pk8"))
}

/// Every key, and its binding, which has been neither checked nor written.
pub(super) fn load_all(
    directory: &Path,
    bound: &BoundFiles,
) -> Result<Vec<(Arc<TokenKey>, Binding)>, TokenKeyError> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let Some(not_before) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("token-")?.strip_suffix(".pk8"))
        else {
            continue;
        };
        let Ok(not_before) = not_before.parse() else {
            return Err(TokenKeyError::FileName(path));
        };
        let read = |path: &Path| {
            let pkcs8 = read_secret(path)?;
            let key = TokenKey::from_pkcs8(&pkcs8, not_before)?;
            Ok((Arc::new(key), bound.binding(path, &pkcs8)))
        };
        keys.push(read(&path).map_err(|error| TokenKeyError::File {
            path,
            error: Box::new(error),
        })?);
    }
    Ok(keys)
}

pub(super) fn generate_pkcs8() -> Result<Zeroizing<Vec<u8>>, TokenKeyError> {
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| TokenKeyError::Generation)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| TokenKeyError::Generation)?;
    Ok(Zeroizing::new(der.as_ref().to_vec()))
}

fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, TokenKeyError> {
    let file = File::open(path).map_err(at(path))?;
    let metadata = file.metadata().map_err(at(path))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(TokenKeyError::Exposed {
            mode: metadata.mode() & 0o7777,
        });
    }
    if metadata.len() > MAX_FILE_LENGTH {
        return Err(TokenKeyError::Unsupported);
    }
    // Room for all of it at once: growing would leave a copy behind.
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_FILE_LENGTH as usize + 1));
    file.take(MAX_FILE_LENGTH)
        .read_to_end(&mut secret)
        .map_err(at(path))?;
    Ok(secret)
}

/// Keeps a new key, under the first free time from `not_before_unix_s` on.
pub(super) fn store(
    directory: &Path,
    pkcs8: &[u8],
    not_before_unix_s: u64,
    bound: &BoundFiles,
) -> Result<Arc<TokenKey>, TokenKeyError> {
    let mut not_before_unix_s = not_before_unix_s;
    while path_of(directory, not_before_unix_s).exists() {
        not_before_unix_s += 1;
    }
    let path = path_of(directory, not_before_unix_s);
    bound.binding(&path, pkcs8).write()?;
    write_secret(directory, &path, pkcs8).map_err(at(&path))?;
    Ok(Arc::new(TokenKey::from_pkcs8(pkcs8, not_before_unix_s)?))
}

/// Deletes the file of a key that has expired: with it nobody can make tokens of the past any more.
pub(super) fn remove(directory: &Path, key: &TokenKey) -> Result<(), TokenKeyError> {
    let path = path_of(directory, key.not_before_unix_s());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(at(&path)(error));
        }
        _ => {}
    }
    bound_files::forget(&path)?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(at(directory))
}

/// A key file is there whole or not at all, and is on disk before it is used: a key that signed and
/// then was lost would leave clients with tokens that nobody can place.
fn write_secret(directory: &Path, path: &Path, secret: &[u8]) -> io::Result<()> {
    let temporary: PathBuf = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(secret)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}
