//! Downloads. Chunks are opened, and written in their order to a file beside the one that is asked
//! for; that has its name only when all of it is there and is what the message says.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crypto::blob::{BlobCipher, CHUNK_CONTENT, ChunkPlace};
use futures::{StreamExt as _, TryStreamExt as _};
use protocol::WIRE_VERSION;
use protocol::Wire as _;
use protocol::blobs::{
    BlobChunksRequest, BlobChunksResponse, BlobName, ReadChunkRequest, ReadChunkResponse,
};
use protocol::operation::Operation;
use tokio::time::Instant;

use super::{Payer, TransferProgress, Way, at_once, blocking};
use crate::attachment::Attachment;
use crate::engine::Engine;
use crate::error::{AttachmentError, Error, FileError, LocalError};
use crate::remote_file::{RemoteFile, Scanned, Transferred, chunks_of};

/// A download that can begin: what the message said, and the way to the service.
pub(crate) struct Download {
    way: Way,
    cipher: Arc<BlobCipher>,
    blob: BlobName,
    of: u16,
    size: u64,
    digest: [u8; 32],
}

impl Engine {
    /// What it takes to fetch this.
    pub(crate) async fn begin_download(
        &mut self,
        of: &Attachment,
        payer: Payer,
    ) -> Result<Download, Error> {
        let _held = self.hold().await?;
        let of = RemoteFile::try_from(of)?;
        if of.last_day.0 < self.today() {
            return Err(AttachmentError::Gone.into());
        }
        Ok(Download {
            way: Way::beside_calls(&self.transport, payer),
            cipher: Arc::new(BlobCipher::new(&of.key, &of.nonce)),
            blob: of.blob(),
            of: of.chunks()?,
            size: of.size,
            digest: of.digest,
        })
    }
}

/// What there is of a file, beside its place.
struct Part {
    path: PathBuf,
    file: Option<File>,
    /// Whole chunks that are there.
    chunks: u32,
}

impl Part {
    /// Goes on with what is there, as far as it is whole chunks. Whether it is right shows in the
    /// end. Its name is the blob's: a sender who chooses how the file is called must not choose
    /// which other file is written over.
    fn open(into: &Path, blob: &BlobName, of: u32) -> Result<Self, Error> {
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

    fn write(&mut self, content: &[u8]) -> Result<(), Error> {
        let failed = |error| LocalError::File(FileError::at(&self.path, "written")(error));
        let Some(file) = &mut self.file else {
            return Err(LocalError::Stopped.into());
        };
        Ok(file.write_all(content).map_err(failed)?)
    }

    /// Gives the file its name, if it is what it should be and the name is free.
    fn finish(mut self, into: &Path, digest: &[u8; 32]) -> Result<(), Error> {
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

impl Download {
    /// Fetches it into the file, which must not exist.
    pub(crate) async fn fetch(
        &self,
        into: PathBuf,
        progress: Option<TransferProgress>,
    ) -> Result<(), Error> {
        if into.symlink_metadata().is_ok() {
            return Err(AttachmentError::Exists.into());
        }
        match self.fetch_once(&into, &progress).await {
            // What was there of it before was of something else.
            Err((Error::Attachment(AttachmentError::Damaged), true)) => {
                self.fetch_once(&into, &progress).await
            }
            done => done,
        }
        .map_err(|(error, _)| error)
    }

    /// Whether something of it was there before, if it fails.
    async fn fetch_once(
        &self,
        into: &Path,
        progress: &Option<TransferProgress>,
    ) -> Result<(), (Error, bool)> {
        let (target, blob, of) = (into.to_owned(), self.blob, chunks_of(self.size));
        let part = blocking(move || Part::open(&target, &blob, of)).await;
        let part = part.map_err(|error| (error, false))?;
        let goes_on = part.chunks > 0;
        let fetched = self.fetch_rest(part, into, progress).await;
        fetched.map_err(|error| (error, goes_on))
    }

    async fn fetch_rest(
        &self,
        mut part: Part,
        into: &Path,
        progress: &Option<TransferProgress>,
    ) -> Result<(), Error> {
        let request = BlobChunksRequest {
            version: WIRE_VERSION,
            blob: self.blob,
        };
        let began = Instant::now();
        let there: BlobChunksResponse = self
            .way
            .exchange(Operation::BlobChunks, &request.encode())
            .await?;
        let at_once = at_once(began.elapsed());
        if there.chunks != self.of {
            return Err(AttachmentError::Damaged.into());
        }
        if there.whole != 1 {
            return Err(AttachmentError::Incomplete.into());
        }
        // One that only fills up the class is fetched like any other: nobody sees where the file
        // ends.
        let first = u16::try_from(part.chunks).map_err(|_| AttachmentError::Unusable)?;
        let last = self.of.saturating_sub(1);
        let chunks = futures::stream::iter(first..last)
            .map(|index| self.chunk(index))
            .buffered(at_once)
            .chain(futures::stream::once(self.chunk(last)));
        let mut chunks = std::pin::pin!(chunks);
        while let Some((index, content)) = chunks.try_next().await? {
            let from = u64::from(index) * CHUNK_CONTENT as u64;
            let len = self.size.saturating_sub(from).min(CHUNK_CONTENT as u64);
            let len = usize::try_from(len).unwrap_or(CHUNK_CONTENT);
            part = blocking(move || {
                part.write(content.get(..len).unwrap_or_default())?;
                Ok(part)
            })
            .await?;
            if let Some(progress) = progress {
                let chunks = u64::from(index).saturating_add(1);
                progress(Transferred::after(chunks, self.of, self.size));
            }
        }
        let (target, digest) = (into.to_owned(), self.digest);
        blocking(move || part.finish(&target, &digest)).await
    }

    async fn chunk(&self, index: u16) -> Result<(u16, Vec<u8>), Error> {
        let request = ReadChunkRequest {
            version: WIRE_VERSION,
            blob: self.blob,
            index,
        };
        let read: ReadChunkResponse = self
            .way
            .exchange(Operation::ReadChunk, &request.encode())
            .await?;
        let (cipher, blob, of) = (Arc::clone(&self.cipher), self.blob.id, self.of);
        let content = blocking(move || {
            let place = ChunkPlace { blob, index, of };
            let opened = cipher.open(place, read.chunk.as_slice());
            Ok(opened.map_err(|_| AttachmentError::Damaged)?)
        });
        Ok((index, content.await?))
    }
}
