//! Files that are being uploaded, and the keys that delete what was.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crypto::blob::{BlobCapability, BlobContentKey, BlobWriteKey, NONCE_PREFIX};
use protocol::ids::{BlobId, Day};
use rusqlite::{Connection, Row};

use crate::attachment::Attachment;
use crate::error::{AttachmentError, Error, LocalError};
use crate::remote_file::{RemoteFile, Scanned};
use crate::store::database::{change, first, key32, rows};

/// Uploads that a call of this process goes on with, or has ended: no other call does. Nothing that
/// is sent is taken back, and two messages do not tell of one blob.
#[derive(Debug, Clone, Default)]
pub(crate) struct InUse(Arc<Mutex<HashSet<[u8; 32]>>>);

impl InUse {
    /// Takes this one; none if it is taken.
    pub(crate) fn take(&self, blob: &BlobId) -> Option<Taken> {
        let is_free = self.all().insert(blob.0);
        is_free.then(|| Taken {
            of: self.clone(),
            blob: blob.0,
        })
    }

    fn all(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload that is in use until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    of: InUse,
    blob: [u8; 32],
}

impl Taken {
    /// The upload has ended, and stays in use.
    pub(crate) fn stays(mut self) {
        // An empty set: nothing is removed from it.
        self.of = InUse::default();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.all().remove(&self.blob);
    }
}

/// The keys of an upload, drawn before anything of it is sent.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) capability: BlobCapability,
    pub(crate) key: BlobContentKey,
    pub(crate) nonce: [u8; NONCE_PREFIX],
    pub(crate) write_key: BlobWriteKey,
    pub(crate) last_day: Day,
}

impl Upload {
    /// Fresh keys; the service says the day.
    pub(crate) fn draw() -> Result<Self, Error> {
        Ok(Self {
            capability: BlobCapability::new(crypto::random()?),
            key: BlobContentKey::new(crypto::random()?),
            nonce: crypto::random()?,
            write_key: BlobWriteKey::new(crypto::random()?),
            last_day: Day(0),
        })
    }

    /// Keeps it: the file in this place is being uploaded.
    pub(crate) fn begin(&self, db: &Connection, place: &str, file: &Scanned) -> Result<(), Error> {
        change(
            db,
            "INSERT OR REPLACE INTO uploads
                (blob, place, digest, capability, content_key, nonce, write_key, last_day)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.capability.id().0,
                place,
                file.digest,
                self.capability.expose(),
                self.key.expose(),
                self.nonce,
                self.write_key.expose(),
                self.last_day.0,
            ),
        )
    }

    /// What was begun with files in this place, each with the digest that the file had then.
    pub(crate) fn of_place(db: &Connection, place: &str) -> Result<Vec<(Self, [u8; 32])>, Error> {
        let sql = "SELECT capability, content_key, nonce, write_key, last_day, digest
            FROM uploads WHERE place = ?";
        let found = rows(db, sql, [place], |row| {
            Ok((Stored::read(row)?, row.get::<_, Vec<u8>>(5)?))
        })?;
        let found = found.into_iter();
        found
            .map(|(stored, digest)| Ok((stored.upload()?, key32(&digest)?)))
            .collect()
    }

    /// Nothing of it is kept.
    pub(crate) fn forget(&self, db: &Connection) -> Result<(), Error> {
        let blob = self.capability.id().0;
        change(db, "DELETE FROM uploads WHERE blob = ?", [blob])
    }

    /// The file that it is, where it is whole.
    pub(crate) fn file(self, file: &Scanned) -> RemoteFile {
        RemoteFile {
            capability: self.capability,
            key: self.key,
            nonce: self.nonce,
            last_day: self.last_day,
            size: file.size,
            digest: file.digest,
        }
    }
}

/// A message that tells of it is kept: what deletes it stays here, and nothing that opens it.
pub(crate) fn told(db: &Connection, of: &Attachment) -> Result<(), Error> {
    let Ok(of) = RemoteFile::try_from(of) else {
        return Ok(());
    };
    let sql = "UPDATE uploads SET place = NULL, digest = NULL, capability = NULL,
        content_key = NULL, nonce = NULL WHERE blob = ?";
    change(db, sql, [of.blob().id.0])
}

/// The key that deletes it, if this device has uploaded it.
pub(crate) fn write_key(db: &Connection, of: &RemoteFile) -> Result<BlobWriteKey, Error> {
    let sql = "SELECT write_key FROM uploads WHERE blob = ?";
    let key: Option<Vec<u8>> = first(db, sql, [of.blob().id.0], |row| row.get(0))?;
    let key = key.ok_or(AttachmentError::NotOwn)?;
    Ok(BlobWriteKey::new(key32(&key)?))
}

/// It was deleted.
pub(crate) fn forget(db: &Connection, of: &RemoteFile) -> Result<(), Error> {
    change(db, "DELETE FROM uploads WHERE blob = ?", [of.blob().id.0])
}

/// Forgets the keys of what has expired.
pub(crate) fn expire(db: &Connection, today: u32) -> Result<(), Error> {
    change(db, "DELETE FROM uploads WHERE last_day < ?", [today])
}

struct Stored([Vec<u8>; 4], u32);

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let secrets = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
        Ok(Self(secrets, row.get(4)?))
    }

    fn upload(self) -> Result<Upload, Error> {
        let Self([capability, key, nonce, write_key], last_day) = self;
        Ok(Upload {
            capability: BlobCapability::new(key32(&capability)?),
            key: BlobContentKey::new(key32(&key)?),
            nonce: nonce.try_into().map_err(|_| LocalError::Damaged)?,
            write_key: BlobWriteKey::new(key32(&write_key)?),
            last_day: Day(last_day),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::remote_file::UploadOptions;

    fn scanned(byte: u8) -> Scanned {
        Scanned {
            size: 1,
            digest: [byte; 32],
            chunks: vec![[byte; 32]],
        }
    }

    #[test]
    fn an_upload_is_found_by_its_place_until_a_message_tells_of_it_and_its_key_until_it_expires() {
        let db = crate::store::database::in_memory().unwrap();
        let mut upload = Upload::draw().unwrap();
        upload.last_day = Day(30);
        upload.begin(&db, "/a", &scanned(1)).unwrap();
        let (found, digest) = Upload::of_place(&db, "/a").unwrap().remove(0);
        assert_eq!(digest, [1; 32]);
        assert_eq!(found.capability, upload.capability);
        assert_eq!(
            (found.key, found.nonce),
            (upload.key.expose().to_owned().into(), upload.nonce)
        );
        assert!(Upload::of_place(&db, "/b").unwrap().is_empty());
        let key = upload.write_key.expose().to_owned();
        let of = upload.file(&scanned(1));
        let attachment = of.told("a".to_owned(), UploadOptions::default());
        told(&db, &Attachment::default()).unwrap();
        assert_eq!(Upload::of_place(&db, "/a").unwrap().len(), 1);
        told(&db, &attachment).unwrap();
        assert!(Upload::of_place(&db, "/a").unwrap().is_empty());
        // What opens it is in the message alone.
        let all = "SELECT content_key IS NULL AND capability IS NULL AND nonce IS NULL
            AND digest IS NULL FROM uploads";
        assert_eq!(first(&db, all, [], |row| row.get(0)).unwrap(), Some(true));
        assert_eq!(write_key(&db, &of).unwrap().expose(), &key);
        expire(&db, 30).unwrap();
        assert!(write_key(&db, &of).is_ok());
        expire(&db, 31).unwrap();
        assert!(matches!(
            write_key(&db, &of),
            Err(Error::Attachment(AttachmentError::NotOwn))
        ));
    }

    #[test]
    fn files_of_one_name_have_an_upload_each() {
        let db = crate::store::database::in_memory().unwrap();
        let (one, other) = (Upload::draw().unwrap(), Upload::draw().unwrap());
        one.begin(&db, "/a", &scanned(1)).unwrap();
        other.begin(&db, "/a", &scanned(2)).unwrap();
        let found = Upload::of_place(&db, "/a").unwrap();
        let digests: Vec<_> = found.iter().map(|(_, digest)| digest[0]).collect();
        assert_eq!(digests, [1, 2]);
    }
}
