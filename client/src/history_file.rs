//! What was said, sealed in a file: for another device of its user, or for later.
//!
//! ```text
//! history = "mimimi history" || version(1) || kdf(1) || salt(16) || segment*
//! segment = length(4) || sealed (crypto::sealing), for the place
//!           "history" / index(4) || last(1) / "segment"
//! ```
//!
//! The key is made as that of a backup, of the same salt. Each segment is sealed for its place and
//! the last one for being the last: a file that was cut, or whose segments were moved, does not
//! open. Memory holds one segment, however long the history is.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crypto::sealing::{self, Place};
use crypto::secret::Secret;
use protocol::Wire as _;
use protocol::ids::GroupId;
use tls_codec::{Size as _, TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::backup_key::{BackupKey, SALT};
use crate::error::{Error, FileError, LocalError, UsageError};

const MAGIC: &[u8] = b"mimimi history";
const VERSION: u8 = 1;
/// A segment is written when it has so many bytes.
const SEGMENT: usize = 256 * 1024;
/// A segment with a longest message at its end, sealed, is not longer.
const LONGEST: usize = 2 * 1024 * 1024;

/// What a segment has in it.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct HistorySegment {
    records: Vec<HistoryRecord>,
}

/// One thing of a history.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub(crate) enum HistoryRecord {
    /// Whose history it is: the user's identity key. The first record, and only that one.
    #[tls_codec(discriminant = 1)]
    User(VLBytes),
    /// What follows was said in this group.
    #[tls_codec(discriminant = 2)]
    Group(GroupId),
    /// A message or a reaction. They stand in the order of the group's journal.
    #[tls_codec(discriminant = 3)]
    Said(HistoryMessage),
}

/// A message or a reaction as it was when the history was written.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct HistoryMessage {
    pub(crate) id: [u8; 32],
    /// The identity key of who has said it; or, if `verified` is 0, SHA-256 of the leaf's
    /// credential.
    pub(crate) sender: VLBytes,
    /// 0 or 1.
    pub(crate) verified: u8,
    /// As the sender was called then, UTF-8.
    pub(crate) name: VLBytes,
    /// What a reaction is to; empty for a message.
    pub(crate) about: VLBytes,
    /// In the MIMI content format.
    pub(crate) content: VLBytes,
    /// 1: its sender has changed it.
    pub(crate) edited: u8,
    /// When the service has accepted it: milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// It expires so many seconds after it is read.
    pub(crate) after_s: Option<u32>,
    /// It expires then: milliseconds since 1970.
    pub(crate) due_ms: Option<u64>,
}

fn row(index: u32, last: bool) -> [u8; 5] {
    let [a, b, c, d] = index.to_be_bytes();
    [a, b, c, d, last.into()]
}

fn place(row: &[u8; 5]) -> Place<'_> {
    Place {
        table: "history",
        row,
        part: "segment",
    }
}

/// A file that is being written. If it does not come to its end, nothing of it stays.
pub(crate) struct Writer {
    path: PathBuf,
    /// None once it has ended.
    file: Option<BufWriter<File>>,
    secret: Secret<32>,
    records: Vec<HistoryRecord>,
    bytes: usize,
    index: u32,
}

impl Writer {
    /// Begins a file, which must not exist.
    pub(crate) fn begin(path: &Path, key: &BackupKey, user: &[u8]) -> Result<Self, Error> {
        let failed = |error| LocalError::File(FileError::at(path, "written")(error));
        let salt = crypto::random::<SALT>()?;
        let secret = key.derive(&salt)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(failed)?;
        let mut writer = Self {
            path: path.to_owned(),
            file: Some(BufWriter::new(file)),
            secret,
            records: Vec::new(),
            bytes: 0,
            index: 0,
        };
        writer.write(&[MAGIC, &[VERSION, key.kdf()], &salt].concat())?;
        writer.add(HistoryRecord::User(VLBytes::new(user.to_vec())))?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let file = self.file.as_mut().ok_or(LocalError::Stopped)?;
        let written = file.write_all(bytes);
        Ok(written
            .map_err(FileError::at(&self.path, "written"))
            .map_err(LocalError::File)?)
    }

    pub(crate) fn add(&mut self, record: HistoryRecord) -> Result<(), Error> {
        if self.bytes >= SEGMENT {
            self.flush(false)?;
        }
        self.bytes = self.bytes.saturating_add(record.tls_serialized_len());
        self.records.push(record);
        Ok(())
    }

    fn flush(&mut self, last: bool) -> Result<(), Error> {
        let segment = HistorySegment {
            records: std::mem::take(&mut self.records),
        };
        self.bytes = 0;
        let encoded = Zeroizing::new(segment.encode());
        let row = row(self.index, last);
        let sealed = sealing::seal(self.secret.expose(), place(&row), &encoded)?;
        self.index = self.index.saturating_add(1);
        let length = u32::try_from(sealed.len()).map_err(|_| LocalError::Damaged)?;
        self.write(&length.to_be_bytes())?;
        self.write(&sealed)
    }

    /// All of it is on the disk when this returns.
    pub(crate) fn end(mut self) -> Result<(), Error> {
        self.flush(true)?;
        let file = self.file.as_mut().ok_or(LocalError::Stopped)?;
        let synced = file.flush().and_then(|()| file.get_ref().sync_all());
        synced
            .map_err(FileError::at(&self.path, "written"))
            .map_err(LocalError::File)?;
        self.file = None;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // It was made here, and is of no use to anybody.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Hands all records of this user's history to `each`, in their order.
///
/// # Errors
/// [`UsageError::NotAHistory`], [`UsageError::NewerBackup`], [`UsageError::WrongBackupKey`],
/// [`UsageError::HistoryOfAnother`].
pub(crate) fn read(
    path: &Path,
    key: &BackupKey,
    user: &[u8],
    mut each: impl FnMut(HistoryRecord) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut file = Reader::open(path)?;
    let head = file.exactly(MAGIC.len())?.ok_or(UsageError::NotAHistory)?;
    let parameters = file.exactly(2 + SALT)?.ok_or(UsageError::NotAHistory)?;
    let [version, kdf, salt @ ..] = parameters.as_slice() else {
        return Err(UsageError::NotAHistory.into());
    };
    if head != MAGIC {
        return Err(UsageError::NotAHistory.into());
    }
    if *version != VERSION {
        return Err(UsageError::NewerBackup.into());
    }
    if *kdf != key.kdf() {
        return Err(UsageError::WrongBackupKey.into());
    }
    let secret = key.derive(salt)?;
    let mut next = file.segment()?;
    let mut index = 0u32;
    while let Some(sealed) = next {
        next = file.segment()?;
        let row = row(index, next.is_none());
        let opened = sealing::open(secret.expose(), place(&row), &sealed);
        // A key that opens nothing shows at the first one, whether it is the last or not.
        let opened = opened.map_err(|_| match index {
            0 if !opens(&secret, &sealed) => UsageError::WrongBackupKey,
            _ => UsageError::NotAHistory,
        })?;
        let segment = HistorySegment::decode(&opened).map_err(|_| UsageError::NotAHistory)?;
        let mut records = segment.records.into_iter();
        if index == 0 {
            match records.next() {
                Some(HistoryRecord::User(of)) if of.as_slice() == user => {}
                Some(HistoryRecord::User(_)) => return Err(UsageError::HistoryOfAnother.into()),
                _ => return Err(UsageError::NotAHistory.into()),
            }
        }
        records.try_for_each(&mut each)?;
        index = index.saturating_add(1);
    }
    match index {
        0 => Err(UsageError::NotAHistory.into()),
        _ => Ok(()),
    }
}

/// Whether it is a first segment of a file under this key, of whatever length.
fn opens(secret: &Secret<32>, sealed: &[u8]) -> bool {
    let is_one = |last| sealing::open(secret.expose(), place(&row(0, last)), sealed).is_ok();
    is_one(true) || is_one(false)
}

struct Reader {
    path: PathBuf,
    file: BufReader<File>,
}

impl Reader {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path)
            .map_err(FileError::at(path, "read"))
            .map_err(LocalError::File)?;
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::new(file),
        })
    }

    /// So many bytes; none if there are fewer.
    fn exactly(&mut self, length: usize) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = vec![0; length];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(LocalError::File(FileError::at(&self.path, "read")(error)).into()),
        }
    }

    /// The next segment; none at the end of the file. One that was cut is none either: then the
    /// one before does not open as the last.
    fn segment(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(length) = self.exactly(4)? else {
            return Ok(None);
        };
        let length = length.first_chunk().map_or(0, |it| u32::from_be_bytes(*it));
        match usize::try_from(length) {
            Ok(length) if length <= LONGEST => self.exactly(length),
            _ => Err(UsageError::NotAHistory.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::mem::discriminant;

    use proptest::prelude::*;

    use super::*;

    const USER: &[u8] = b"an identity key";

    fn key(words: &str) -> BackupKey {
        BackupKey::RecoveryKey(Zeroizing::new(base64::Engine::encode(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD,
            [words.len() as u8; 32],
        )))
    }

    pub(crate) fn message(number: u8, length: usize) -> HistoryRecord {
        HistoryRecord::Said(HistoryMessage {
            id: [number; 32],
            sender: VLBytes::new(vec![2; 32]),
            verified: 1,
            name: VLBytes::new(b"bob".to_vec()),
            about: VLBytes::new(vec![3; 32]),
            content: VLBytes::new(vec![number; length]),
            edited: 0,
            at_ms: 1_800_000_000_000,
            after_s: Some(60),
            due_ms: None,
        })
    }

    /// For the vectors.
    pub(crate) fn sample() -> Vec<u8> {
        let records = vec![
            HistoryRecord::User(VLBytes::new(vec![1; 32])),
            HistoryRecord::Group(GroupId([7; 16])),
            message(4, 3),
        ];
        HistorySegment { records }.encode()
    }

    fn written(path: &Path, records: &[HistoryRecord]) {
        let mut writer = Writer::begin(path, &key("a"), USER).unwrap();
        for record in records {
            writer.add(record.clone()).unwrap();
        }
        writer.end().unwrap();
    }

    fn read_all(path: &Path, key: &BackupKey, user: &[u8]) -> Result<Vec<HistoryRecord>, Error> {
        let mut records = Vec::new();
        read(path, key, user, |record| {
            records.push(record);
            Ok(())
        })?;
        Ok(records)
    }

    fn is(error: &Error, of: &UsageError) -> bool {
        matches!(error, Error::Usage(is) if discriminant(is) == discriminant(of))
    }

    #[test]
    fn a_history_opens_with_its_key_for_its_user_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        let records = [HistoryRecord::Group(GroupId([7; 16])), message(1, 10)];
        written(&path, &records);
        assert_eq!(read_all(&path, &key("a"), USER).unwrap(), records);
        let refused = |key: &BackupKey, user| read_all(&path, key, user).unwrap_err();
        assert!(is(&refused(&key("bb"), USER), &UsageError::WrongBackupKey));
        let words = BackupKey::Passphrase(Zeroizing::new("words".to_owned()));
        assert!(is(&refused(&words, USER), &UsageError::WrongBackupKey));
        let others = refused(&key("a"), b"another");
        assert!(is(&others, &UsageError::HistoryOfAnother));
    }

    /// Its offsets, and where each segment begins.
    fn segments(file: &[u8]) -> Vec<usize> {
        let mut at = MAGIC.len() + 2 + SALT;
        let mut begin = Vec::new();
        while at < file.len() {
            begin.push(at);
            let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
            at += 4 + length as usize;
        }
        begin
    }

    #[test]
    fn what_was_cut_moved_or_changed_is_no_history() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        let records: Vec<_> = (0..14).map(|number| message(number, 100_000)).collect();
        written(&path, &records);
        let file = std::fs::read(&path).unwrap();
        let begin = segments(&file);
        assert!(begin.len() >= 4, "{begin:?}");
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let error = read_all(&path, &key("a"), USER).unwrap_err();
            assert!(is(&error, &UsageError::NotAHistory), "{error}");
        };
        refused(b"");
        refused(b"mimimi backup");
        // Whole segments, and the middle of one.
        for cut in [&begin[1..], &[begin[1] + 10, file.len() - 1]].concat() {
            refused(&file[..cut]);
        }
        // None of these is the last one.
        let [second, third] = [&file[begin[1]..begin[2]], &file[begin[2]..begin[3]]];
        let (before, after) = (&file[..begin[1]], &file[begin[3]..]);
        refused(&[before, third, second, after].concat());
        refused(&[before, second, second, third, after].concat());
        refused(&[before, third, after].concat());
        refused(&[&file[..], second].concat());
        let mut changed = file.clone();
        changed[begin[1] + 200] ^= 1;
        refused(&changed);
        let mut huge = file;
        huge[begin[1]] = 0xff;
        refused(&huge);
    }

    #[test]
    fn a_file_that_does_not_come_to_its_end_does_not_stay_and_none_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        drop(Writer::begin(&path, &key("a"), USER).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert!(Writer::begin(&path, &key("a"), USER).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn a_history_is_read_as_it_was_written(lengths in prop::collection::vec(0..150_000usize, 0..12)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("history");
            let records: Vec<_> = lengths.into_iter().map(|length| message(9, length)).collect();
            written(&path, &records);
            prop_assert_eq!(read_all(&path, &key("a"), USER).unwrap(), records);
        }
    }
}
