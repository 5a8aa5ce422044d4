//! Whether this home directory is the only one: a message key that is used twice can give away what
//! was said with it.
//!
//! A home that was copied, restored from a copy, or rolled back goes on with keys that another one
//! may have used. So a file beside the database holds a random token that is another one after each
//! start, and the database knows token, inode and time of change of that file. A copy has another
//! inode; a file that was put back has another time of change, which nobody can set; a database
//! that was put back alone has another token. What remains is a snapshot of the whole disk: that
//! shows nothing here, and others notice it (`unreadable`).
//!
//! Where they differ nothing is refused, as the reason may be harmless (a new disk, a change of
//! modes). This client makes a new leaf in each group before it sends anything there. If the other
//! home is alive, it sees a commit of its own leaf that it has not made, stops, and says why.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rusqlite::Connection;

use crate::error::Error;
use crate::home::home_error;
use crate::store::database::begin;
use crate::store::home_marker::{self, Marker};
use crate::store::{Event, events, upkeep};

const FILE: &str = "instance";

fn inode(path: &Path) -> Result<String, Error> {
    let metadata = fs::metadata(path).map_err(home_error(path, "looked at"))?;
    Ok(format!(
        "{} {}.{:09}",
        metadata.ino(),
        metadata.ctime(),
        metadata.ctime_nsec()
    ))
}

/// Puts a file with this content in the place of the former one, durably.
fn replace(home: &Path, content: &[u8]) -> Result<(), Error> {
    let fresh = home.join("instance.new");
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, home.join(FILE))?;
        File::open(home)?.sync_all()
    };
    write().map_err(|error| home_error(&fresh, "written")(error).into())
}

/// Whether the file is the one that the database knows.
fn is_same(home: &Path, marker: &Marker) -> Result<bool, Error> {
    let path = home.join(FILE);
    let Ok(token) = fs::read(&path) else {
        return Ok(false);
    };
    // Cut off between the two: no copy can have this token.
    if marker.next.as_ref() == Some(&token) {
        return Ok(true);
    }
    Ok(marker.token == token && marker.inode == inode(&path)?)
}

/// Compares, renews the marker, and has keys renewed where the two differ.
pub(crate) fn check(home: &Path, db: &mut Connection) -> Result<(), Error> {
    let known = home_marker::kept(db)?;
    let copied = match &known {
        Some(marker) => !is_same(home, marker)?,
        None => false,
    };
    if copied {
        let transaction = begin(db)?;
        upkeep::renew_everywhere(&transaction)?;
        events::store(&transaction, &Event::HomeCopied)?;
        // Told once, whatever happens now.
        home_marker::forget(&transaction)?;
        transaction.commit()?;
    }
    let token = crypto::random::<16>()?;
    home_marker::begin(db, &token)?;
    replace(home, &token)?;
    home_marker::written(db, &token, &inode(&home.join(FILE))?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DATABASE: &str = "client.sqlite";

    fn open(home: &Path) -> Connection {
        let mut db = crate::store::database::open(&home.join(DATABASE)).unwrap();
        check(home, &mut db).unwrap();
        db
    }

    /// Whether the next start says that the home was copied, and has keys renewed.
    fn says_so(home: &Path) -> bool {
        let db = open(home);
        let count = |sql: &str| db.query_row(sql, (), |row| row.get::<_, u32>(0)).unwrap();
        let told = count("SELECT count(*) FROM events");
        assert_eq!(count("SELECT count(*) FROM upkeep WHERE renew = 1"), told);
        told == 1
    }

    fn home(path: &Path) {
        fs::create_dir(path).unwrap();
        let db = open(path);
        crate::store::groups::tests::group(1, "team")
            .insert(&db)
            .unwrap();
    }

    /// All files, written anew or over those that are there.
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for name in [DATABASE, FILE] {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }

    #[test]
    fn a_home_that_was_copied_or_put_back_is_noticed_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let [original, first, second, renamed] =
            ["original", "first", "second", "renamed"].map(|name| directory.path().join(name));
        home(&original);
        for _ in 0..3 {
            assert!(!says_so(&original));
        }
        copy(&original, &first);
        assert!(says_so(&first));
        assert!(!says_so(&original));
        // Over the files that are there, which so keep their inodes.
        copy(&original, &second);
        drop(open(&original));
        copy(&second, &original);
        assert!(says_so(&original));
        // The directory is another name for the same files.
        home(&renamed);
        let moved = directory.path().join("moved");
        fs::rename(&renamed, &moved).unwrap();
        assert!(!says_so(&moved));
        // The database alone, and the file alone gone.
        fs::copy(moved.join(DATABASE), renamed.with_extension("db")).unwrap();
        drop(open(&moved));
        fs::copy(renamed.with_extension("db"), moved.join(DATABASE)).unwrap();
        assert!(says_so(&moved));
        let other = directory.path().join("other");
        home(&other);
        fs::remove_file(other.join(FILE)).unwrap();
        assert!(says_so(&other));
    }

    #[test]
    fn a_start_that_was_cut_off_is_no_copy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("home");
        home(&path);
        let token = [7u8; 16];
        let db = crate::store::database::open(&path.join(DATABASE)).unwrap();
        db.execute("UPDATE home_marker SET next = ?", [token])
            .unwrap();
        drop(db);
        // Before the file was replaced, and after it.
        assert!(!says_so(&path));
        let db = crate::store::database::open(&path.join(DATABASE)).unwrap();
        db.execute("UPDATE home_marker SET next = ?", [token])
            .unwrap();
        drop(db);
        replace(&path, &token).unwrap();
        assert!(!says_so(&path));
    }
}
