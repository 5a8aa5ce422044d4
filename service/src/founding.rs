//! How a store comes to be and is recognised again.
//!
//! A service that starts on an empty place and serves from it tells its clients that nothing ever
//! was. So only an explicit command (`PROGRAM init`) makes a store, in an empty place. A start
//! refuses everything but that store, whole, with its own key files. A refusal changes nothing,
//! names the file, and says what to do (docs/stores.md).

use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Why a service does not serve from a store, or does not make it.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The directory does not exist.
    #[error(
        "{} does not exist: is its disk mounted? A new store is made by `{program} init` only",
        .path.display()
    )]
    Missing {
        /// The missing directory.
        path: PathBuf,
        /// The program whose `init` makes a store.
        program: &'static str,
    },
    /// A directory without anything in it.
    #[error(
        "{} is empty: is its disk mounted? A new store is made by `{program} init` only",
        .path.display()
    )]
    Empty {
        /// The empty directory.
        path: PathBuf,
        /// The program whose `init` makes a store.
        program: &'static str,
    },
    /// A database without any table of ours.
    #[error(
        "the database holds no store: is it the right one? A new store is made by `{program} init` only"
    )]
    EmptyDatabase {
        /// The program whose `init` makes a store.
        program: &'static str,
    },
    /// A file that every store of this kind has.
    #[error(
        "{} is missing: the store is damaged. Nothing was changed; bring the file back, or restore \
         the whole directory from its backup (docs/stores.md)",
        .path.display()
    )]
    Gone {
        /// The missing file.
        path: PathBuf,
    },
    /// The content of a file is not what was written.
    #[error(
        "{} is damaged: {what}. Restore the whole directory from its backup (docs/stores.md)",
        .path.display()
    )]
    Damaged {
        /// The file, or the directory that it is in.
        path: PathBuf,
        /// Which file, and how; of the engine.
        what: String,
    },
    /// The store is older than writes that were acknowledged from it.
    #[error(
        "{} lacks writes that were acknowledged: its log ends at {found}, {acknowledged} was \
         acknowledged. Bring the missing log files back, or restore the whole directory from its \
         backup (docs/stores.md)",
        .path.display()
    )]
    Behind {
        /// The directory of the store.
        path: PathBuf,
        /// The number of the last write that is there.
        found: u64,
        /// The number of the last write that was acknowledged, as far as that is on the disk.
        acknowledged: u64,
    },
    /// Another process has opened the store.
    #[error("{} is in use by another process", .path.display())]
    InUse {
        /// The directory of the store.
        path: PathBuf,
    },
    /// A key file is not there.
    #[error(
        "the key file {} does not exist: is its disk mounted? Without it nothing in the store can \
         be read: bring it back from its backup. A new one is made with a new store, by `{program} \
         init` only",
        .path.display()
    )]
    NoKeyFile {
        /// The missing key file.
        path: PathBuf,
        /// The program whose `init` makes a store.
        program: &'static str,
    },
    /// A whole key file, but of another store.
    #[error(
        "the key file {} is not the one that the store {store} was made with: use that one (each \
         node of a service has a copy of the same key file)",
        .path.display()
    )]
    OtherKeyFile {
        /// The key file.
        path: PathBuf,
        /// The store that was opened.
        store: StoreId,
    },
    /// A whole key file that this store has not made or taken.
    #[error(
        "the key file {} is none of those of the store {store}: it is another one's, or was changed, \
         or {}.bound is missing. Bring both back from their backup (docs/stores.md)",
        .path.display(),
        .path.display()
    )]
    ForeignKeyFile {
        /// The key file.
        path: PathBuf,
        /// The store that was opened.
        store: StoreId,
    },
    /// A store that does not say which one it is.
    #[error(
        "the store in {place} does not say which one it is: it is damaged, or was not made whole"
    )]
    Unbound {
        /// The directory or database.
        place: String,
    },
    /// The place for a new store is not empty.
    #[error(
        "{} is there already: a store is made in an empty place only. If it is to be given up, \
         move it away first",
        .path.display()
    )]
    Occupied {
        /// The file or directory.
        path: PathBuf,
    },
    /// An `init` began to make the store and did not end.
    #[error(
        "`{program} init` was begun here and did not end ({} says so): what there is of {places} was never served \
         from. Remove what there is of them, then {}, and say `{program} init` again",
        .marker.display(),
        .marker.display()
    )]
    Unfinished {
        /// The file that was there for as long as it ran.
        marker: PathBuf,
        /// The program whose `init` ran.
        program: &'static str,
        /// The places that `init` makes.
        places: String,
    },
    /// The database for a new store is not empty.
    #[error(
        "the database holds a store already: a store is made in an empty one only. If it is to be \
         given up, make another database"
    )]
    OccupiedDatabase,
    /// The file system has failed.
    #[error("{} cannot be read or written", .path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gives no randomness")]
    NoRandomness,
}

impl Refusal {
    /// Makes the error of an operation on this path.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |error| Self::Io { path, error }
    }

    /// Why RocksDB does not open a directory, by its own words: `is_io` if it calls that an error
    /// of input or output.
    #[must_use]
    pub fn of_rocksdb(path: &Path, is_io: bool, what: String) -> Self {
        let path = path.to_owned();
        if is_io && (what.contains("While lock file") || what.contains("lock hold by")) {
            Self::InUse { path }
        } else if is_io && !what.contains("No such file") {
            let error = io::Error::other(what);
            Self::Io { path, error }
        } else {
            Self::Damaged { path, what }
        }
    }
}

/// Makes the directory of a new store, mode 0700, or takes an empty one that is there.
///
/// # Errors
/// [`Refusal::Occupied`], [`Refusal::Io`].
pub fn claim_empty_directory(path: &Path) -> Result<(), Refusal> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Refusal::io(path))?;
    if names(path)?.is_empty() {
        // One that was there may be open to others.
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(Refusal::io(path))
    } else {
        Err(Refusal::Occupied {
            path: path.to_owned(),
        })
    }
}

/// Looks whether a directory can be that of a store, without changing anything: it is there, is not
/// empty, and has these files.
///
/// # Errors
/// [`Refusal::Missing`], [`Refusal::Empty`], [`Refusal::Gone`], [`Refusal::Io`].
pub fn inspect(path: &Path, program: &'static str, files: &[&str]) -> Result<(), Refusal> {
    let names = match names(path) {
        Err(Refusal::Io { path, error }) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Refusal::Missing { path, program });
        }
        names => names?,
    };
    if names.is_empty() {
        return Err(Refusal::Empty {
            path: path.to_owned(),
            program,
        });
    }
    for file in files {
        if !names.iter().any(|name| name == file) {
            return Err(Refusal::Gone {
                path: path.join(file),
            });
        }
    }
    Ok(())
}

/// What is in the directory, but for what a file system keeps there for itself.
fn names(path: &Path) -> Result<Vec<String>, Refusal> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(Refusal::io(path))? {
        let name = entry.map_err(Refusal::io(path))?.file_name();
        if name != "lost+found" {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Makes creations and removals in a directory outlast a power failure.
///
/// # Errors
/// [`Refusal::Io`].
pub fn sync_directory(path: &Path) -> Result<(), Refusal> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(Refusal::io(path))
}

/// An `init` that is under way. A file says so from before the first thing is made until after the
/// last one: whatever ends it in between, the next start and the next `init` know what they find.
#[derive(Debug)]
#[must_use]
pub struct Unfinished {
    marker: PathBuf,
}

impl Unfinished {
    /// Begins, unless another one has not ended. `places` is what will be made, for the operator.
    ///
    /// # Errors
    /// [`Refusal::Unfinished`], [`Refusal::Io`].
    pub fn begin(marker: &Path, program: &'static str, places: &str) -> Result<Self, Refusal> {
        Self::check(marker, program, places)?;
        File::create_new(marker)
            .and_then(|file| file.sync_all())
            .map_err(Refusal::io(marker))?;
        sync_directory(parent_of(marker))?;
        Ok(Self {
            marker: marker.to_owned(),
        })
    }

    /// Whether none has been broken off.
    ///
    /// # Errors
    /// [`Refusal::Unfinished`].
    pub fn check(marker: &Path, program: &'static str, places: &str) -> Result<(), Refusal> {
        if marker.try_exists().map_err(Refusal::io(marker))? {
            return Err(Refusal::Unfinished {
                marker: marker.to_owned(),
                program,
                places: places.to_owned(),
            });
        }
        Ok(())
    }

    /// Everything is made, or nothing.
    ///
    /// # Errors
    /// [`Refusal::Io`].
    pub fn end(self) -> Result<(), Refusal> {
        fs::remove_file(&self.marker).map_err(Refusal::io(&self.marker))?;
        sync_directory(parent_of(&self.marker))
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Names a store: random, and no secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    /// Of a new store.
    ///
    /// # Errors
    /// [`Refusal::NoRandomness`].
    pub fn generate() -> Result<Self, Refusal> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| Refusal::NoRandomness)?;
        Ok(Self(id))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// A key file that a store is bound to.
#[derive(Clone, Copy)]
pub struct BoundKey<'a> {
    /// Where it is, for a refusal.
    pub file: &'a Path,
    /// What is in it, or a key derived from that: uniformly random.
    pub key: &'a [u8],
}

const VERSION: u8 = 1;
const LABEL: &[u8] = b"MIMIMI 1.0 store binding";
const TAG_LEN: usize = 32;

/// The row that binds a store to its key files: `version(1) || id(16) || a tag(32) for each file`,
/// the tags under the keys.
#[must_use]
pub fn binding(id: StoreId, keys: &[BoundKey<'_>]) -> Vec<u8> {
    let mut row = vec![VERSION];
    row.extend_from_slice(&id.0);
    for (place, key) in keys.iter().enumerate() {
        if let Some(mac) = tag(id, place, key) {
            row.extend_from_slice(&mac.finalize().into_bytes());
        }
    }
    row
}

/// Whether a store is bound to these key files, in this order: which one it is.
///
/// # Errors
/// [`Refusal::Unbound`] without a row of this form; [`Refusal::OtherKeyFile`].
pub fn check_binding(
    row: Option<&[u8]>,
    place: &str,
    keys: &[BoundKey<'_>],
) -> Result<StoreId, Refusal> {
    let unbound = || Refusal::Unbound {
        place: place.to_owned(),
    };
    let (version, rest) = row.and_then(<[u8]>::split_first).ok_or_else(unbound)?;
    let (id, tags) = rest.split_first_chunk().ok_or_else(unbound)?;
    if *version != VERSION || tags.len() != keys.len() * TAG_LEN {
        return Err(unbound());
    }
    let id = StoreId(*id);
    for (place, (key, expected)) in keys.iter().zip(tags.chunks_exact(TAG_LEN)).enumerate() {
        let is_it = tag(id, place, key).is_some_and(|mac| mac.verify_slice(expected).is_ok());
        if !is_it {
            return Err(Refusal::OtherKeyFile {
                path: key.file.to_owned(),
                store: id,
            });
        }
    }
    Ok(id)
}

/// `None` never happens: HMAC takes a key of any length.
fn tag(id: StoreId, place: usize, key: &BoundKey<'_>) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.key).ok()?;
    mac.update(LABEL);
    mac.update(&(place as u64).to_be_bytes());
    mac.update(&id.0);
    Some(mac)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_missing_empty_or_lacks_a_file_is_no_store_and_stays_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("store");
        let look = || inspect(&path, "test", &["CURRENT"]);
        assert!(matches!(look(), Err(Refusal::Missing { .. })));
        assert!(!path.exists());
        fs::create_dir_all(path.join("lost+found")).unwrap();
        assert!(matches!(look(), Err(Refusal::Empty { .. })));
        fs::write(path.join("000004.sst"), "").unwrap();
        assert!(matches!(look(), Err(Refusal::Gone { path }) if path.ends_with("CURRENT")));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        fs::write(path.join("CURRENT"), "").unwrap();
        look().unwrap();
    }

    #[test]
    fn a_store_is_made_in_an_empty_place_only() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/store");
        claim_empty_directory(&path).unwrap();
        claim_empty_directory(&path).unwrap();
        fs::write(path.join("file"), "").unwrap();
        assert!(matches!(
            claim_empty_directory(&path),
            Err(Refusal::Occupied { .. })
        ));
    }

    #[test]
    fn a_binding_holds_for_its_key_files_in_their_order_and_for_no_others() {
        let key = |file, key: &'static [u8; 32]| BoundKey {
            file: Path::new(file),
            key,
        };
        let (one, two) = (key("one", &[1; 32]), key("two", &[2; 32]));
        let id = StoreId::generate().unwrap();
        let row = binding(id, &[one, two]);
        let check = |row: &[u8], keys: &[BoundKey<'_>]| check_binding(Some(row), "here", keys);
        assert_eq!(check(&row, &[one, two]).unwrap(), id);
        let other = key("two", &[3; 32]);
        for (keys, wrong) in [
            ([one, other], "two"),
            ([two, one], "two"),
            ([other, two], "two"),
        ] {
            let refused = check(&row, &keys);
            assert!(
                matches!(&refused, Err(Refusal::OtherKeyFile { path, .. }) if path == Path::new(wrong)),
                "{refused:?}"
            );
        }
        for bit in 0..row.len() * 8 {
            let mut damaged = row.clone();
            *damaged.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
            assert!(check(&damaged, &[one, two]).is_err(), "bit {bit}");
        }
        for row in [&row[..row.len() - 1], &[]] {
            assert!(matches!(
                check(row, &[one, two]),
                Err(Refusal::Unbound { .. })
            ));
        }
        assert!(check_binding(None, "here", &[one]).is_err());
    }
}
