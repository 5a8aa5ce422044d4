//! What has come of a file, in a file beside the one that is asked for.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crypto::blob::CHUNK_CONTENT;
use protocol::blobs::BlobName;

use crate::error::{AttachmentError, Error, FileError, LocalError};
use crate::remote_file::Scanned;

/// What there is of a file, beside its place.
pub(super) struct Part {
    path: PathBuf,
    file: Option<File>,
    /// Whole chunks that are there.
    pub(super) chunks: u32,
}

impl Part {
    /// # Errors
    /// [`AttachmentError::Exists`].
    pub(super) fn check_target(into: &Path) -> Result<(), Error> {
        match into.symlink_metadata() {
            Ok(_) => Err(AttachmentError::Exists.into()),
            Err(_) => Ok(()),
        }
    }

    /// Goes on with what is there, as far as it is whole chunks. Whether it is right shows in the
    /// end. Its name is the blob's: a sender who chooses how the file is called must not choose
    /// which other file is written over.
    pub(super) fn open(into: &Path, blob: &BlobName, of: u32) -> Result<Self, Error> {
        let begins = blob.id.0.first_chunk::<8>().unwrap_or(&[0; 8]);
        let path = into.with_file_name(format!("{}.part", basis::hex::encode(begins)));
        let failed = |error| LocalError::File(FileError::at(&path, "written")(error));
        let mut options = OpenOptions::new();
        let options = options.create(true).write(true).read(true).truncate(false);
        let mut file = options.mode(0o600).open(&path).map_err(failed)?;
        // Two at once would each cut off what the other one has written.
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::from(AttachmentError::UnderWay),
            TryLockError::Error(error) => failed(error).into(),
        })?;
        let len = file.metadata().map_err(failed)?.len();
        let chunks = u32::try_from(len / CHUNK_CONTENT as u64).unwrap_or(0);
        // The last one is fetched in any case: it tells that this is all.
        let chunks = chunks.min(of.saturating_sub(1));
        let whole = u64::from(chunks) * CHUNK_CONTENT as u64;
        file.set_len(whole).map_err(failed)?;
        file.seek(SeekFrom::Start(whole)).map_err(failed)?;
        Ok(Self {
            path,
            file: Some(file),
            chunks,
        })
    }

    pub(super) fn write(&mut self, content: &[u8]) -> Result<(), Error> {
        let failed = |error| LocalError::File(FileError::at(&self.path, "written")(error));
        let Some(file) = &mut self.file else {
            return Err(LocalError::Stopped.into());
        };
        Ok(file.write_all(content).map_err(failed)?)
    }

    /// Gives the file its name, if it is what it should be and the name is free.
    pub(super) fn finish(mut self, into: &Path, digest: &[u8; 32]) -> Result<(), Error> {
        let failed = |error| LocalError::File(FileError::at(&self.path, "written")(error));
        let Some(mut file) = self.file.take() else {
            return Err(LocalError::Stopped.into());
        };
        file.sync_all().map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let scanned = Scanned::of(&mut file).map_err(|_| AttachmentError::Damaged)?;
        if scanned.digest != *digest {
            // Nothing of it may be gone on with.
            std::fs::remove_file(&self.path).map_err(failed)?;
            return Err(AttachmentError::Damaged.into());
        }
        // A link is made only where nothing is, also if somebody else makes one now.
        match std::fs::hard_link(&self.path, into) {
            Ok(()) => std::fs::remove_file(&self.path).map_err(failed)?,
            Err(_) if into.symlink_metadata().is_ok() => {
                return Err(AttachmentError::Exists.into());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(failed(error).into()),
            // A file system without links.
            Err(_) => std::fs::rename(&self.path, into).map_err(failed)?,
        }
        let directory = into.parent().filter(|it| !it.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or(Path::new(".")));
        Ok(directory.and_then(|it| it.sync_all()).map_err(failed)?)
    }
}
