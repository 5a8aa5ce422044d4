//! Uploads. What is sealed for a place is always the same: the file is read once before anything
//! is sent, and each chunk is compared with what it was then. So a key and nonce never see two
//! contents, however often a chunk is sent.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::Instant;
use crypto::blob::{BlobCipher, CHUNK_CONTENT, ChunkPlace};
use crypto::sign::{LeafKeyPair, Scheme};
use futures::{StreamExt as _, TryStreamExt as _};
use protocol::WIRE_VERSION;
use protocol::Wire as _;
use protocol::blobs::{
    BlobChunksRequest, BlobChunksResponse, BlobLife, BlobName, CreateBlobRequest,
    CreateBlobResponse, DeleteBlobRequest, PutChunkRequest,
};
use protocol::codec::opaque;
use protocol::group::Accepted;
use protocol::ids::Day;
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use sha2::{Digest as _, Sha256};

use super::{Payer, TransferProgress, Way, at_once, of_blob};
use crate::attachment::Attachment;
use crate::engine::Engine;
use crate::error::{AttachmentError, Error, FileError, LocalError};
use crate::remote_file::{RemoteFile, ScanError, Scanned, Transferred, UploadOptions};
use crate::runtime::blocking;
use crate::store::uploads::{self, Taken, Upload};

/// What can be read again from any place.
trait Source: Read + Seek + Send {}

impl<T: Read + Seek + Send> Source for T {}

/// A file that was read once.
pub(crate) struct Uploading {
    source: Arc<Mutex<dyn Source>>,
    /// The same for the same file, in whatever words it was named: its whole path, or the name of
    /// what is no file here.
    place: PathBuf,
    /// What it is called where nothing else is said, if it is a file.
    name: Option<OsString>,
    scanned: Arc<Scanned>,
}

/// Reads a file.
pub(crate) async fn scan(path: PathBuf) -> Result<Uploading, Error> {
    blocking(move || {
        let failed = |error| LocalError::File(FileError::at(&path, "read")(error));
        // That of a link, and not of what it leads to.
        let name = path.file_name().map(OsStr::to_owned);
        let place = path.canonicalize().map_err(failed)?;
        let file = File::open(&place).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(AttachmentError::Unusable.into());
        }
        read_once(file, place, name)
    })
    .await
}

/// Reads what has this name, from its beginning.
pub(crate) async fn scan_source(
    source: impl Read + Seek + Send + 'static,
    name: String,
) -> Result<Uploading, Error> {
    blocking(move || read_once(source, name.into(), None)).await
}

fn read_once(
    mut source: impl Read + Seek + Send + 'static,
    place: PathBuf,
    name: Option<OsString>,
) -> Result<Uploading, Error> {
    let failed = |error| LocalError::File(FileError::at(&place, "read")(error));
    source.rewind().map_err(failed)?;
    let scanned = Scanned::of(&mut source).map_err(|error| match error {
        ScanError::TooLong => Error::from(AttachmentError::TooLong),
        ScanError::Read(error) => failed(error).into(),
    })?;
    Ok(Uploading {
        source: Arc::new(Mutex::new(source)),
        scanned: Arc::new(scanned),
        place,
        name,
    })
}

/// Whether what is kept until that day is of this life: it may have been begun yesterday, and
/// clocks differ. A service that says another day could mark a file with it.
fn is_of(life: BlobLife, last_day: Day, today: u32) -> bool {
    last_day.0.abs_diff(today.saturating_add(life.days())) <= 1
}

/// An upload that the service knows of.
#[derive(Debug)]
pub(crate) struct Begun {
    upload: Upload,
    taken: Taken,
    way: Way,
    /// How long its beginning took; none if it was begun before: some chunks are there, perhaps.
    took: Option<Duration>,
    name: String,
    options: UploadOptions,
}

impl Begun {
    /// What a message tells of the file, which is at the service. Until one does another process
    /// can go on with it.
    pub(crate) fn end(self, of: &Uploading) -> Attachment {
        self.taken.stays();
        let file = self.upload.file(&of.scanned);
        file.told(self.name, self.options)
    }
}

impl Engine {
    /// Finds the upload that was begun with this file, or begins one.
    pub(crate) async fn begin_upload(
        &mut self,
        of: &Uploading,
        options: UploadOptions,
        payer: Payer,
    ) -> Result<Begun, Error> {
        let _held = self.hold().await?;
        let own = of.name.as_ref().and_then(|name| name.to_str());
        let name = options.name.as_deref().or(own);
        let name = name.ok_or(AttachmentError::Unusable)?.to_owned();
        options.check(&name)?;
        let today = self.today();
        uploads::expire(&self.db, today)?;
        let place = of.place.to_string_lossy().into_owned();
        let life = options.life();
        let way = Way::beside_calls(&self.transport, payer);
        let begun = |upload, taken, took| Begun {
            upload,
            taken,
            way,
            took,
            name,
            options,
        };
        for (upload, digest) in Upload::of_place(&self.db, &place)? {
            let Some(taken) = self.uploads.take(&upload.capability.id()) else {
                continue;
            };
            if digest == of.scanned.digest {
                if is_of(life, upload.last_day, today) {
                    return Ok(begun(upload, taken, None));
                }
            } else if of.name.is_some() {
                // The file is another one now: its beginning is of no use.
                self.abandon_upload(&upload).await?;
            }
        }
        let mut upload = Upload::draw()?;
        upload.last_day = Day(today.saturating_add(life.days()));
        let create = CreateBlobRequest {
            id: upload.capability.id(),
            chunks: of.scanned.class()?,
            life,
            writer: upload.write_key.hash(),
        };
        let taken = self.uploads.take(&create.id);
        let taken = taken.ok_or(LocalError::Damaged)?;
        let signer = LeafKeyPair::random(Scheme::Ed25519)?;
        // Kept before it is sent: the answer may be lost, and the next call finds the blob.
        upload.begin(&self.db, &place, &of.scanned)?;
        let began = Instant::now();
        let created = self.call(Operation::CreateBlob, signer, &create).await;
        let took = began.elapsed();
        let created = created.and_then(|created: CreateBlobResponse| {
            match is_of(life, created.last_day, today) {
                true => Ok(created),
                false => Err(Error::Protocol(
                    "a blob is kept for another time than was asked for",
                )),
            }
        });
        match created {
            Ok(created) => upload.last_day = created.last_day,
            Err(error @ Error::Unreachable(_)) => return Err(error),
            Err(error) => {
                upload.forget(&self.db)?;
                return Err(match error.problem() {
                    Some(ProblemType::LimitExceeded) => AttachmentError::TooLong.into(),
                    _ => of_blob(error),
                });
            }
        }
        upload.begin(&self.db, &place, &of.scanned)?;
        Ok(begun(upload, taken, Some(took)))
    }

    /// Takes back what cannot be finished, as far as the service lets it.
    async fn abandon_upload(&mut self, upload: &Upload) -> Result<(), Error> {
        upload.forget(&self.db)?;
        let request = DeleteBlobRequest {
            version: WIRE_VERSION,
            blob: BlobName {
                id: upload.capability.id(),
                last_day: upload.last_day,
            },
            write_key: upload.write_key.to_wire(),
        };
        let given_up = self.read::<Accepted>(Operation::DeleteBlob, &request).await;
        crate::error::all_can_wait(given_up.map(drop))
    }

    /// The service has nothing of this upload any more.
    pub(crate) async fn forget_upload(&mut self, begun: Begun) -> Result<UploadOptions, Error> {
        let _held = self.hold().await?;
        begun.upload.forget(&self.db)?;
        Ok(UploadOptions {
            name: Some(begun.name),
            ..begun.options
        })
    }

    /// Deletes a file at the service that this device has uploaded.
    pub(crate) async fn delete_upload(&mut self, of: &Attachment) -> Result<(), Error> {
        let _held = self.hold().await?;
        let of = RemoteFile::try_from(of)?;
        let request = DeleteBlobRequest {
            version: WIRE_VERSION,
            blob: of.blob(),
            write_key: uploads::write_key(&self.db, &of)?.to_wire(),
        };
        let deleted = self.read::<Accepted>(Operation::DeleteBlob, &request).await;
        match deleted.map_err(of_blob) {
            // Perhaps by this very request.
            Ok(Accepted {}) | Err(Error::Attachment(AttachmentError::Gone)) => {
                uploads::forget(&self.db, &of)
            }
            Err(error) => Err(error),
        }
    }
}

/// What the chunks are sealed with, for any number of exchanges at once.
struct Sealing {
    cipher: BlobCipher,
    source: Arc<Mutex<dyn Source>>,
    place: PathBuf,
    scanned: Arc<Scanned>,
    blob: BlobName,
    of: u16,
}

impl Sealing {
    /// The chunk in this place, as it always was.
    fn seal(&self, index: u16) -> Result<Vec<u8>, Error> {
        let mut content = vec![0; CHUNK_CONTENT];
        if let Some(digest) = self.scanned.chunks.get(usize::from(index)) {
            let from = u64::from(index) * CHUNK_CONTENT as u64;
            let len = self
                .scanned
                .size
                .saturating_sub(from)
                .min(CHUNK_CONTENT as u64);
            let len = usize::try_from(len).unwrap_or(CHUNK_CONTENT);
            match self.read(from, content.get_mut(..len).unwrap_or_default()) {
                Ok(()) => {}
                // It is shorter than it was.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(AttachmentError::Changed.into());
                }
                Err(error) => {
                    return Err(LocalError::File(FileError::at(&self.place, "read")(error)).into());
                }
            }
            if Sha256::digest(&content).as_slice() != digest {
                return Err(AttachmentError::Changed.into());
            }
        }
        let place = ChunkPlace {
            blob: self.blob.id,
            index,
            of: self.of,
        };
        Ok(self.cipher.seal(place, &content)?)
    }

    fn read(&self, from: u64, content: &mut [u8]) -> std::io::Result<()> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.seek(SeekFrom::Start(from))?;
        source.read_exact(content)
    }
}

impl Uploading {
    /// Sends what the service does not have. Whether it was whole is known when this returns.
    pub(crate) async fn send(
        &self,
        begun: &Begun,
        progress: Option<TransferProgress>,
    ) -> Result<(), Error> {
        let (upload, way) = (&begun.upload, &begun.way);
        let blob = BlobName {
            id: upload.capability.id(),
            last_day: upload.last_day,
        };
        let of = self.scanned.class()?;
        let mut missing: Vec<u16> = (0..of).collect();
        let began = Instant::now();
        if begun.took.is_none() {
            let request = BlobChunksRequest {
                version: WIRE_VERSION,
                blob,
            };
            let there: BlobChunksResponse = way
                .exchange(Operation::BlobChunks, &request.encode())
                .await?;
            if there.chunks != of {
                return Err(Error::Protocol("a blob has another number of chunks"));
            }
            if there.whole == 1 {
                return Ok(());
            }
            missing.retain(|index| !there.is_there(*index));
        }
        let at_once = at_once(begun.took.unwrap_or(began.elapsed()));
        // What makes it whole goes when all others are there; again, if it was there before.
        let last = missing.pop().unwrap_or(of.saturating_sub(1));
        let sealing = Arc::new(Sealing {
            cipher: BlobCipher::new(&upload.key, &upload.nonce),
            source: Arc::clone(&self.source),
            place: self.place.clone(),
            scanned: Arc::clone(&self.scanned),
            blob,
            of,
        });
        let sent = AtomicU64::new(u64::from(of) - missing.len() as u64 - 1);
        let put = async |index: u16, completes: bool| -> Result<(), Error> {
            let sealing = Arc::clone(&sealing);
            let chunk = blocking(move || sealing.seal(index)).await?;
            let request = PutChunkRequest {
                version: WIRE_VERSION,
                blob,
                write_key: upload.write_key.to_wire(),
                index,
                completes: completes.into(),
                chunk: opaque(chunk),
            };
            let body = zeroize::Zeroizing::new(request.encode());
            drop(request);
            let _: Accepted = way.exchange(Operation::PutChunk, &body).await?;
            let done = sent.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(progress) = &progress {
                progress(Transferred::after(done, of, self.scanned.size));
            }
            Ok(())
        };
        // In the order in which a download begins its exchanges: one that is slow holds up as many
        // in both directions.
        futures::stream::iter(missing)
            .map(|index| put(index, false))
            .buffered(at_once)
            .try_collect::<()>()
            .await?;
        put(last, true).await
    }
}
