//! A file at the service: what an attachment of a message says of it, read and written.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto::blob::{BlobCapability, BlobContentKey, CHUNK_CONTENT, NONCE_PREFIX};
use protocol::blobs::{BlobLife, BlobName, chunk_class};
use protocol::ids::Day;
use sha2::{Digest as _, Sha256};

use crate::attachment::{Attachment, Thumbnail};
use crate::error::AttachmentError;
use crate::text::is_all_seen;

/// Before the capability, in place of an address.
const URL: &str = "mimimi-blob:";
/// Of the range for private use of IANA's AEAD numbers: AES-256-GCM under STREAM, in chunks
/// (docs/blobs.md).
const ENCRYPTION: u16 = 0xff01;
/// SHA-256, of IANA's named information hash algorithms.
const SHA_256: u8 = 1;
const DAY_S: u32 = 86_400;

/// What it takes to fetch and open a file.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    pub(crate) capability: BlobCapability,
    pub(crate) key: BlobContentKey,
    pub(crate) nonce: [u8; NONCE_PREFIX],
    pub(crate) last_day: Day,
    pub(crate) size: u64,
    pub(crate) digest: [u8; 32],
}

/// What an upload is, beside the file's content.
#[derive(Debug, Clone)]
pub struct UploadOptions {
    /// What it is called where it is saved; the file's name if there is none.
    pub name: Option<String>,
    /// Its media type.
    pub media_type: String,
    /// What it is, in words.
    pub description: String,
    /// A small picture of it, made by the application: see [`Thumbnail`]. It stands in the message
    /// itself, which is longer by it: the relay sees so that a transfer was an upload, and the
    /// service that a message may have a picture.
    pub thumbnail: Option<Thumbnail>,
    /// It can be fetched for so many days at least: of 1, 7, 30 and 90 the next one.
    pub days: u32,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self {
            name: None,
            media_type: "application/octet-stream".to_owned(),
            description: String::new(),
            thumbnail: None,
            days: 30,
        }
    }
}

impl UploadOptions {
    pub(crate) fn life(&self) -> BlobLife {
        BlobLife::of_at_least(self.days)
    }

    /// # Errors
    /// [`AttachmentError::Unusable`].
    pub(crate) fn check(&self, name: &str) -> Result<(), AttachmentError> {
        let is_type = |it: &str| {
            it.len() <= MAX_NAME && it.bytes().all(|it| it.is_ascii_graphic() || it == b' ')
        };
        let is_good = is_file_name(name)
            && self.thumbnail.as_ref().is_none_or(Thumbnail::is_picture)
            && self.description.len() <= MAX_DESCRIPTION
            && is_type(&self.media_type);
        if is_good {
            Ok(())
        } else {
            Err(AttachmentError::Unusable)
        }
    }
}

/// Longest name of a file, and longest media type, bytes.
const MAX_NAME: usize = 255;
/// Longest description, bytes.
const MAX_DESCRIPTION: usize = 4 * 1024;

/// How far a transfer has come, bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transferred {
    /// So many are there.
    pub bytes: u64,
    /// Of so many.
    pub of: u64,
}

impl Transferred {
    /// After so many chunks of a blob of a file of this size. Those that only fill up its class
    /// are on the way too: all is there when the last one is.
    pub(crate) fn after(chunks: u64, of: u16, size: u64) -> Self {
        let bytes = size.saturating_mul(chunks).checked_div(of.into());
        let bytes = bytes.unwrap_or(size).min(size);
        Self { bytes, of: size }
    }
}

/// One that can be the name of a file in any directory, and is seen as it is: others choose it.
fn is_file_name(name: &str) -> bool {
    !name.trim().is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && is_all_seen(name)
}

/// Chunks of the file itself.
pub(crate) fn chunks_of(size: u64) -> u32 {
    let chunks = size.div_ceil(CHUNK_CONTENT as u64).max(1);
    u32::try_from(chunks).unwrap_or(u32::MAX)
}

impl Attachment {
    /// What the file is called: a name without directories that hides nothing. None where whoever
    /// sent it has given another one.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        Some(self.filename.as_str()).filter(|name| is_file_name(name))
    }
}

impl RemoteFile {
    pub(crate) fn blob(&self) -> BlobName {
        BlobName {
            id: self.capability.id(),
            last_day: self.last_day,
        }
    }

    /// How many chunks it has at the service.
    pub(crate) fn chunks(&self) -> Result<u16, AttachmentError> {
        chunk_class(chunks_of(self.size)).ok_or(AttachmentError::Unusable)
    }

    /// What a message tells of it.
    pub(crate) fn told(&self, name: String, options: UploadOptions) -> Attachment {
        let capability = URL_SAFE_NO_PAD.encode(self.capability.expose());
        Attachment {
            media_type: options.media_type,
            url: format!("{URL}{capability}"),
            expires: self
                .last_day
                .0
                .saturating_add(1)
                .saturating_mul(DAY_S)
                .saturating_sub(1),
            size: self.size,
            encryption: ENCRYPTION,
            key: self.key.expose().to_vec(),
            nonce: self.nonce.to_vec(),
            aad: Vec::new(),
            hash_algorithm: SHA_256,
            content_hash: self.digest.to_vec(),
            description: options.description,
            filename: name,
            thumbnail: options.thumbnail,
        }
    }
}

impl TryFrom<&Attachment> for RemoteFile {
    type Error = AttachmentError;

    /// Reads what somebody sent.
    fn try_from(told: &Attachment) -> Result<Self, AttachmentError> {
        let read = || {
            let capability = told.url.strip_prefix(URL)?;
            let capability = URL_SAFE_NO_PAD.decode(capability).ok()?;
            let is_ours = told.encryption == ENCRYPTION
                && told.hash_algorithm == SHA_256
                && told.aad.is_empty();
            is_ours.then_some(())?;
            Some(Self {
                capability: BlobCapability::try_from(capability.as_slice()).ok()?,
                key: BlobContentKey::try_from(told.key.as_slice()).ok()?,
                nonce: told.nonce.as_slice().try_into().ok()?,
                last_day: Day(told.expires / DAY_S),
                size: told.size,
                digest: told.content_hash.as_slice().try_into().ok()?,
            })
        };
        let file = read().ok_or(AttachmentError::Unusable)?;
        file.chunks()?;
        Ok(file)
    }
}

/// What a file was when its upload began: its content, chunk by chunk. A chunk is sealed only while
/// it is still that, since no nonce may see two contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) size: u64,
    pub(crate) digest: [u8; 32],
    /// SHA-256 of each chunk's content, filled up with zeros.
    pub(crate) chunks: Vec<[u8; 32]>,
}

impl Scanned {
    /// Reads it to its end.
    ///
    /// # Errors
    /// [`ScanError::TooLong`]; [`ScanError::Read`].
    pub(crate) fn of(file: &mut impl std::io::Read) -> Result<Self, ScanError> {
        let (mut whole, mut size, mut chunks) = (Sha256::new(), 0u64, Vec::new());
        let mut chunk = vec![0; CHUNK_CONTENT];
        loop {
            let len = read_full(file, &mut chunk)?;
            if len == 0 && !chunks.is_empty() {
                break;
            }
            whole.update(chunk.get(..len).unwrap_or_default());
            chunk.get_mut(len..).unwrap_or_default().fill(0);
            chunks.push(Sha256::digest(&chunk).into());
            size = size.saturating_add(len as u64);
            if chunk_class(u32::try_from(chunks.len()).unwrap_or(u32::MAX)).is_none() {
                return Err(ScanError::TooLong);
            }
            if len < CHUNK_CONTENT {
                break;
            }
        }
        Ok(Self {
            size,
            digest: whole.finalize().into(),
            chunks,
        })
    }

    /// All chunks, those that only fill up the class too.
    pub(crate) fn class(&self) -> Result<u16, AttachmentError> {
        chunk_class(u32::try_from(self.chunks.len()).unwrap_or(u32::MAX))
            .ok_or(AttachmentError::TooLong)
    }
}

/// Why a file was not scanned.
#[derive(Debug)]
pub(crate) enum ScanError {
    TooLong,
    Read(std::io::Error),
}

impl From<std::io::Error> for ScanError {
    fn from(error: std::io::Error) -> Self {
        Self::Read(error)
    }
}

/// As many bytes as there are, up to a whole chunk.
pub(crate) fn read_full(
    file: &mut impl std::io::Read,
    chunk: &mut [u8],
) -> Result<usize, std::io::Error> {
    let mut len = 0;
    while let Some(rest) = chunk.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn remote_file(size: u64) -> RemoteFile {
        RemoteFile {
            capability: BlobCapability::new([1; 32]),
            key: BlobContentKey::new([2; 32]),
            nonce: [3; NONCE_PREFIX],
            last_day: Day(20_500),
            size,
            digest: [4; 32],
        }
    }

    fn told(size: u64) -> Attachment {
        remote_file(size).told("plan.txt".to_owned(), UploadOptions::default())
    }

    /// For the vectors: a file, and the attachment that tells of it.
    pub(crate) fn sample() -> (RemoteFile, Attachment) {
        (remote_file(5_000_000), told(5_000_000))
    }

    #[test]
    fn a_file_is_read_as_it_was_told() {
        let told = told(5_000_000);
        let read = RemoteFile::try_from(&told).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", remote_file(5_000_000)));
        assert_eq!(
            read.told("plan.txt".to_owned(), UploadOptions::default()),
            told
        );
        assert_eq!(read.chunks().unwrap(), 20);
        assert_eq!(
            (read.key, read.capability),
            ([2; 32].into(), [1; 32].into())
        );
    }

    #[test]
    fn what_is_elsewhere_or_sealed_otherwise_is_no_file_of_ours() {
        let is_refused = |change: fn(&mut Attachment)| {
            let mut told = told(1);
            change(&mut told);
            RemoteFile::try_from(&told).is_err()
        };
        assert!(!is_refused(|_| {}));
        assert!(is_refused(|it| it.url = "https://example.org/x".to_owned()));
        assert!(is_refused(|it| it.url.push('A')));
        assert!(is_refused(|it| it.url.truncate(40)));
        assert!(is_refused(|it| it.encryption = 2));
        assert!(is_refused(|it| it.hash_algorithm = 0));
        assert!(is_refused(|it| it.aad.push(1)));
        assert!(is_refused(|it| it.key.push(1)));
        assert!(is_refused(|it| it.nonce.push(1)));
        assert!(is_refused(|it| it.content_hash.clear()));
        assert!(is_refused(|it| it.size = u64::MAX));
    }

    #[test]
    fn a_name_that_leads_out_of_a_directory_or_hides_is_not_given() {
        let mut attachment = told(1);
        assert_eq!(attachment.file_name(), Some("plan.txt"));
        for name in [
            "",
            " ",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            ".bashrc",
            "a\nb",
            "a\0b",
            "photo\u{202e}gpj.exe",
            "a\u{200b}b",
        ] {
            attachment.filename = name.to_owned();
            assert_eq!(attachment.file_name(), None, "{name:?}");
        }
        attachment.filename = "x".repeat(256);
        assert_eq!(attachment.file_name(), None);
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", remote_file(1));
        assert!(
            shown.contains("Secret<32>(..)") && !shown.contains("1, 1, 1"),
            "{shown}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn a_scan_knows_the_file_and_each_of_its_chunks(
            len in prop_oneof![0..10usize, CHUNK_CONTENT - 2..CHUNK_CONTENT + 3, 0..3 * CHUNK_CONTENT],
            byte: u8,
        ) {
            let file = vec![byte; len];
            let scanned = Scanned::of(&mut file.as_slice()).unwrap();
            prop_assert_eq!(scanned.size, len as u64);
            let digest: [u8; 32] = Sha256::digest(&file).into();
            prop_assert_eq!(scanned.digest, digest);
            prop_assert_eq!(scanned.chunks.len() as u32, chunks_of(len as u64));
            let filled = [file, vec![0; CHUNK_CONTENT]].concat();
            for (at, digest) in scanned.chunks.iter().enumerate() {
                let chunk = &filled[at * CHUNK_CONTENT..(at + 1) * CHUNK_CONTENT];
                let of_chunk: [u8; 32] = Sha256::digest(chunk).into();
                prop_assert_eq!(*digest, of_chunk);
            }
        }
    }
}
