//! A mark beside a database of how far it has acknowledged its writes.
//!
//! A log that was cut off, lost or exchanged for an earlier one looks to its engine like a log
//! after a crash: it ends earlier, and nothing tells that more was there. The mark does. It is
//! moved after each durable write and before its answer, without an fsync of its own: a killed
//! process loses nothing of it, and a power failure at most the last second. So it is never beyond
//! what the database holds, unless the database has lost something.
//!
//! ```text
//! 2 × [ number(8) || checksum(8) ], written in turn: of a torn write the other one is left
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::founding::{Refusal, sync_directory};

/// Its name in the directory of a store.
pub const FILE: &str = "ACKNOWLEDGED";

const SLOT_LEN: u64 = 16;
/// A mark is on the disk after this time at the latest.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// The mark of an open store. One process at a time has it.
pub struct HighWater {
    directory: PathBuf,
    mark: Arc<Mutex<Mark>>,
    /// Ends the thread when it is dropped.
    open: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Mark {
    file: File,
    number: u64,
    slot: u64,
    is_synced: bool,
}

impl std::fmt::Debug for HighWater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HighWater(..)")
    }
}

impl HighWater {
    /// Makes the mark of a new store, at 0.
    ///
    /// # Errors
    /// [`Refusal::Io`], also if there is one.
    pub fn create(directory: &Path) -> Result<Self, Refusal> {
        let path = directory.join(FILE);
        let create = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.try_lock()?;
            file.write_all_at(&[slot(0), slot(0)].concat(), 0)?;
            file.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(Refusal::io(&path))?;
        sync_directory(directory)?;
        Self::keep(directory, file, 0, 0)
    }

    /// Reads the mark of a store that is about to be opened.
    ///
    /// # Errors
    /// [`Refusal::Gone`], [`Refusal::InUse`], [`Refusal::Damaged`], [`Refusal::Io`].
    pub fn open(directory: &Path) -> Result<Self, Refusal> {
        let path = directory.join(FILE);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Refusal::Gone { path });
            }
            opened => opened.map_err(Refusal::io(&path))?,
        };
        if file.try_lock().is_err() {
            return Err(Refusal::InUse {
                path: directory.to_owned(),
            });
        }
        let mut last = None;
        for at in 0..2 {
            let mut bytes = [0; SLOT_LEN as usize];
            match file.read_exact_at(&mut bytes, at * SLOT_LEN) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                read => read.map_err(Refusal::io(&path))?,
            }
            let (number, _) = bytes.split_at(8);
            let number = u64::from_be_bytes(number.try_into().unwrap_or_default());
            if slot(number) == bytes && last.is_none_or(|(_, last)| number > last) {
                last = Some((at, number));
            }
        }
        let Some((at, acknowledged)) = last else {
            return Err(Refusal::Damaged {
                path,
                what: "no mark in it is whole".to_owned(),
            });
        };
        Self::keep(directory, file, acknowledged, at)
    }

    /// Holds the mark against the number of the last write that the store was found to hold.
    ///
    /// # Errors
    /// [`Refusal::Behind`].
    pub fn check(&self, found: u64) -> Result<(), Refusal> {
        let acknowledged = self
            .mark
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .number;
        if found < acknowledged {
            return Err(Refusal::Behind {
                path: self.directory.clone(),
                found,
                acknowledged,
            });
        }
        Ok(())
    }

    /// As [`HighWater::check`], for a log with a hole: `found` is the number of the last write in
    /// front of it, if the engine can tell, and `what` what it says of the hole. Whatever is behind
    /// it is given up for good when the store is opened.
    ///
    /// # Errors
    /// [`Refusal::Damaged`]: something acknowledged is behind the hole, or may be.
    pub fn pass_over_hole(&self, found: Option<u64>, what: &str) -> Result<(), Refusal> {
        let damaged = |more: &str| Refusal::Damaged {
            path: self.directory.clone(),
            what: format!("{what}{more}"),
        };
        let found = found.ok_or_else(|| damaged(""))?;
        match self.check(found) {
            Ok(()) => {
                tracing::warn!(
                    what,
                    last_write = found,
                    "the log has a hole behind all that was acknowledged, as a power failure leaves it: the store goes \
                     on from there"
                );
                Ok(())
            }
            Err(Refusal::Behind { acknowledged, .. }) => Err(damaged(&format!(
                " (the log is whole up to write {found}, and {acknowledged} was acknowledged)"
            ))),
            Err(refusal) => Err(refusal),
        }
    }

    fn keep(directory: &Path, file: File, number: u64, slot: u64) -> Result<Self, Refusal> {
        let mark = Arc::new(Mutex::new(Mark {
            file,
            number,
            slot,
            is_synced: true,
        }));
        let (open, closed) = channel();
        let watched = Arc::clone(&mark);
        let thread = std::thread::Builder::new()
            .name("high water".to_owned())
            .spawn(move || sync_now_and_then(&watched, &closed))
            .map_err(Refusal::io(directory))?;
        Ok(Self {
            directory: directory.to_owned(),
            mark,
            open: Some(open),
            thread: Some(thread),
        })
    }

    /// All writes up to this number are durable: only now may they be acknowledged. A lower number
    /// than an earlier one changes nothing.
    ///
    /// # Errors
    /// The file cannot be written; then the write must not be acknowledged.
    pub fn raise(&self, number: u64) -> io::Result<()> {
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        if number > mark.number {
            let next = 1 - mark.slot;
            mark.file.write_all_at(&slot(number), next * SLOT_LEN)?;
            mark.number = number;
            mark.slot = next;
            mark.is_synced = false;
        }
        Ok(())
    }
}

impl Drop for HighWater {
    /// Who opens the store next finds it free.
    fn drop(&mut self) {
        drop(self.open.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn slot(number: u64) -> [u8; SLOT_LEN as usize] {
    let number = number.to_be_bytes();
    let mut slot = [0; SLOT_LEN as usize];
    let (head, check) = slot.split_at_mut(8);
    head.copy_from_slice(&number);
    check.copy_from_slice(&Sha256::digest(number)[..8]);
    slot
}

/// Without holding up who raises it. An error is not told: the next one who writes meets it.
fn sync_now_and_then(mark: &Mutex<Mark>, closed: &Receiver<()>) {
    loop {
        let ended = closed.recv_timeout(SYNC_PERIOD) != Err(RecvTimeoutError::Timeout);
        let file = {
            let mut mark = mark.lock().unwrap_or_else(PoisonError::into_inner);
            let is_synced = std::mem::replace(&mut mark.is_synced, true);
            (!is_synced).then(|| mark.file.try_clone())
        };
        if let Some(Ok(file)) = file {
            let _ = file.sync_data();
        }
        if ended {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_store_that_ends_before_its_mark_is_refused_and_one_that_reaches_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let mark = HighWater::create(directory.path()).unwrap();
        for number in [3, 7, 5] {
            mark.raise(number).unwrap();
        }
        let used = HighWater::open(directory.path());
        assert!(matches!(used, Err(Refusal::InUse { .. })), "{used:?}");
        drop(mark);
        for found in [0, 6] {
            let refused = HighWater::open(directory.path()).unwrap().check(found);
            assert!(
                matches!(refused, Err(Refusal::Behind { found: at, acknowledged: 7, .. }) if at == found),
                "{refused:?}"
            );
        }
        for found in [7, 8] {
            HighWater::open(directory.path())
                .unwrap()
                .check(found)
                .unwrap();
        }
    }

    #[test]
    fn a_hole_is_passed_over_behind_the_mark_only() {
        let directory = tempfile::tempdir().unwrap();
        let mark = HighWater::create(directory.path()).unwrap();
        mark.raise(7).unwrap();
        for found in [Some(7), Some(9)] {
            mark.pass_over_hole(found, "hole").unwrap();
        }
        for found in [None, Some(6)] {
            let refused = mark.pass_over_hole(found, "hole");
            assert!(
                matches!(refused, Err(Refusal::Damaged { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn of_a_torn_mark_the_one_before_is_left_and_of_two_none() {
        let directory = tempfile::tempdir().unwrap();
        let mark = HighWater::create(directory.path()).unwrap();
        mark.raise(1).unwrap();
        mark.raise(2).unwrap();
        drop(mark);
        let path = directory.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let torn = |slots: &[usize]| {
            let mut bytes = whole.clone();
            for slot in slots {
                *bytes.get_mut(slot * 16 + 12).unwrap() ^= 1;
            }
            fs::write(&path, bytes).unwrap();
            HighWater::open(directory.path())?.check(1)
        };
        assert!(matches!(torn(&[]), Err(Refusal::Behind { .. })));
        torn(&[0]).unwrap();
        assert!(matches!(torn(&[1]), Err(Refusal::Behind { .. })));
        assert!(matches!(torn(&[0, 1]), Err(Refusal::Damaged { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            HighWater::open(directory.path()),
            Err(Refusal::Gone { .. })
        ));
    }
}
