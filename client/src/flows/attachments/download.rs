//! Downloads. Chunks are opened, and written in their order to a file beside the one that is asked
//! for; that has its name only when all of it is there and is what the message says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::runtime::Instant;
use crypto::blob::{BlobCipher, CHUNK_CONTENT, ChunkPlace};
use futures::{StreamExt as _, TryStreamExt as _};
use protocol::WIRE_VERSION;
use protocol::Wire as _;
use protocol::blobs::{
    BlobChunksRequest, BlobChunksResponse, BlobName, ReadChunkRequest, ReadChunkResponse,
};
use protocol::operation::Operation;

use super::part::Part;
use super::{Payer, TransferProgress, Way, at_once};
use crate::attachment::Attachment;
use crate::engine::Engine;
use crate::error::{AttachmentError, Error};
use crate::remote_file::{RemoteFile, Transferred, chunks_of};
use crate::runtime::blocking;

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

impl Download {
    /// Fetches it into the file, which must not exist.
    pub(crate) async fn fetch(
        &self,
        into: PathBuf,
        progress: Option<TransferProgress>,
    ) -> Result<(), Error> {
        Part::check_target(&into)?;
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
