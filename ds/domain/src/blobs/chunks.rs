//! What is done with the chunks of a blob that is there: `PutChunk`, `BlobChunks`, `ReadChunk` and
//! `DeleteBlob`. Nobody signs them; a secret in the body says who may write.

use protocol::blobs::{
    BlobChunksRequest, BlobName, CHUNK, DeleteBlobRequest, PutChunkRequest, ReadChunkRequest,
};
use protocol::codec::WireSecret;
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;
use protocol::{WIRE_VERSION, Wire};
use sha2::{Digest as _, Sha256};

use super::Blob;
use crate::env::Env;
use crate::refusal::{Refusal, Stop};
use crate::rows::{Bucket, OwnerOf, Rows};
use crate::view::View;

/// A request about chunks.
#[derive(Debug)]
pub enum BlobRequest {
    /// Put a chunk into a blob.
    Put(PutChunkRequest),
    /// Which ones are there.
    List(BlobChunksRequest),
    /// A chunk of a whole blob.
    Read(ReadChunkRequest),
    /// Delete the blob.
    Delete(DeleteBlobRequest),
}

/// What is to be done with the chunks of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Keep the chunk of the request, unless one is there; then make the blob whole, if that is
    /// asked for. Of a whole blob it is only compared.
    Put {
        /// Where it goes.
        index: u16,
        /// All others are said to be there.
        completes: bool,
    },
    /// Say which ones are there.
    List,
    /// Show the chunk with this index.
    Read(u16),
    /// Delete the row, then all chunks.
    Delete,
}

/// Bytes that a chunk counts for in the allowance of a blob's readers and writers: a quarter, so
/// that a large blob can be read by a large group.
const CHARGED: usize = CHUNK / 4;

impl BlobRequest {
    /// Decodes the body of one of these operations.
    ///
    /// # Errors
    /// [`ProblemType::UnsupportedVersion`], [`ProblemType::Malformed`].
    pub fn decode(number: Number, body: &[u8]) -> Result<Self, Refusal> {
        match body
            .first_chunk::<2>()
            .map(|bytes| u16::from_be_bytes(*bytes))
        {
            Some(WIRE_VERSION) => {}
            Some(_) => return Err(ProblemType::UnsupportedVersion.into()),
            None => return Err(ProblemType::Malformed.into()),
        }
        fn of<T: Wire>(body: &[u8]) -> Result<T, Refusal> {
            T::decode(body).map_err(|_| ProblemType::Malformed.into())
        }
        match number {
            Number::PutChunk => of(body).map(Self::Put),
            Number::BlobChunks => of(body).map(Self::List),
            Number::ReadChunk => of(body).map(Self::Read),
            Number::DeleteBlob => of(body).map(Self::Delete),
            _ => Err(ProblemType::Malformed.into()),
        }
    }

    /// The blob that it is about.
    #[must_use]
    pub fn name(&self) -> &BlobName {
        match self {
            Self::Put(it) => &it.blob,
            Self::List(it) => &it.blob,
            Self::Read(it) => &it.blob,
            Self::Delete(it) => &it.blob,
        }
    }

    /// The allowance of all who read or write this blob, and the bytes that this draws.
    #[must_use]
    pub fn charge(&self, rows: &Rows<'_>) -> (Bucket, usize) {
        let bytes = match self {
            Self::Put(_) | Self::Read(_) => CHARGED,
            Self::List(_) | Self::Delete(_) => 0,
        };
        (rows.blob_bucket(&self.name().id), bytes)
    }

    /// The blob, and what is to be done. [`ProblemType::UnknownBlob`], also for a secret that is
    /// not its writer's; [`ProblemType::BlobIncomplete`] for a chunk of one that is not whole.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn decide(&self, view: &View, env: &mut Env<'_>) -> Result<(Blob, Task), Stop> {
        let blob = Blob::read(self.name(), view, env)?;
        let has = |index: u16| match index < blob.chunks() {
            true => Ok(()),
            false => Err(Stop::from(ProblemType::LimitExceeded)),
        };
        let may_write = |key: &WireSecret| {
            let hash = Sha256::digest(key.expose());
            match env.rows().owner(OwnerOf::Blob, &hash) == blob.record.writer {
                true => Ok(()),
                false => Err(Stop::from(ProblemType::UnknownBlob)),
            }
        };
        let task = match self {
            Self::Put(put) => {
                may_write(&put.write_key)?;
                has(put.index)?;
                if put.chunk.as_slice().len() != CHUNK {
                    return Err(ProblemType::LimitExceeded.into());
                }
                Task::Put {
                    index: put.index,
                    completes: put.completes == 1,
                }
            }
            Self::List(_) => Task::List,
            Self::Read(read) => {
                has(read.index)?;
                if !blob.is_whole() {
                    return Err(ProblemType::BlobIncomplete.into());
                }
                Task::Read(read.index)
            }
            Self::Delete(delete) => {
                may_write(&delete.write_key)?;
                Task::Delete
            }
        };
        Ok((blob, task))
    }
}
