//! The home in a browser: files in the origin-private file system, which no other origin and no
//! page sees. One tab has it open at a time, as the files' handles are exclusive; it is another
//! one's when the client has ended, or the tab is gone.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rsqlite_vfs::VfsFilesManager as _;
use sqlite_wasm_rs::WasmOsCallback;
use sqlite_wasm_vfs::sahpool::{OpfsSAHError, OpfsSAHPoolCfgBuilder, OpfsSAHPoolUtil, install};

use crate::error::{Error, FileError, LocalError, UsageError};
use crate::runtime::{sleep, spawn};

const POLL: Duration = Duration::from_millis(20);
const DATABASE: &str = "client.sqlite";
/// All homes lie below it.
const HOMES: &str = "mimimi";

thread_local! {
    /// Homes that are open in this worker, or have not been closed to their end.
    static OPEN: RefCell<HashSet<PathBuf>> = RefCell::default();
    /// So many are being closed.
    static CLOSING: Cell<usize> = const { Cell::new(0) };
    /// The files of each home that was open here once.
    static POOLS: RefCell<HashMap<PathBuf, OpfsSAHPoolUtil>> = RefCell::default();
}

/// A home.
#[derive(Debug)]
pub(crate) struct Home {
    directory: PathBuf,
    is_open: Cell<bool>,
    is_wiped: Cell<bool>,
    /// Calls that hold it: one and those that it makes.
    holders: Arc<AtomicUsize>,
    patience: Duration,
}

/// While this is there, no other call does anything in the home.
#[derive(Debug)]
pub struct Held {
    holders: Arc<AtomicUsize>,
    first: bool,
}

impl Held {
    /// Whether nothing else held the home.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holders.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where the database of a home lies: in which of SQLite's file systems, and under which name.
pub(crate) fn place(database: &Path) -> (String, String) {
    let home = database.parent().unwrap_or(Path::new(""));
    let vfs = format!("{HOMES} {}", home.display());
    (vfs, DATABASE.to_owned())
}

impl Home {
    /// Nothing is touched before it is held.
    pub(crate) fn at(directory: &Path, patience: Duration) -> Result<Self, Error> {
        Ok(Self {
            directory: directory.to_owned(),
            is_open: Cell::new(false),
            is_wiped: Cell::new(false),
            holders: Arc::default(),
            patience,
        })
    }

    /// Waits for another tab to close the home; once, as it is this one's then.
    pub(crate) async fn hold(&self) -> Result<Held, Error> {
        let mut waited = Duration::ZERO;
        while !self.is_open.get() && !self.try_open().await? {
            if waited >= self.patience {
                return Err(LocalError::Busy.into());
            }
            sleep(POLL).await;
            waited = waited.saturating_add(POLL);
        }
        Ok(Held {
            first: self.holders.fetch_add(1, Ordering::Relaxed) == 0,
            holders: Arc::clone(&self.holders),
        })
    }

    /// False: it is open elsewhere.
    async fn try_open(&self) -> Result<bool, Error> {
        if !OPEN.with_borrow_mut(|open| open.insert(self.directory.clone())) {
            return Ok(false);
        }
        let opened = match self.open().await {
            Ok(()) => Ok(true),
            // Another tab has the files.
            Err(OpfsSAHError::Opfs { value, .. }) if is_taken(&value) => Ok(false),
            Err(error) => Err(failed(&self.directory, "opened", &error).into()),
        };
        match opened {
            Ok(true) => self.is_open.set(true),
            _ => {
                OPEN.with_borrow_mut(|open| open.remove(&self.directory));
            }
        }
        opened
    }

    async fn open(&self) -> Result<(), OpfsSAHError> {
        let known = POOLS.with_borrow(|pools| pools.get(&self.directory).cloned());
        if let Some(pool) = known {
            return pool.resume().await;
        }
        let (vfs, _) = place(&self.directory.join(DATABASE));
        let options = OpfsSAHPoolCfgBuilder::new()
            .vfs_name(&vfs)
            .directory(&format!("{HOMES}/{}", self.directory.display()))
            .build();
        let pool = install::<WasmOsCallback>(&options, false).await?;
        POOLS.with_borrow_mut(|pools| pools.insert(self.directory.clone(), pool));
        Ok(())
    }

    fn pool(&self) -> Result<OpfsSAHPoolUtil, Error> {
        let pool = POOLS.with_borrow(|pools| pools.get(&self.directory).cloned());
        pool.ok_or_else(|| LocalError::Busy.into())
    }

    /// Removes the database when everybody has closed it; [`all_closed`] waits for that.
    pub(crate) fn wipe(&self) -> Result<(), Error> {
        self.is_wiped.set(true);
        Ok(())
    }

    /// For [`place`]. It is there once it is opened.
    pub(crate) fn database(&self) -> Result<PathBuf, Error> {
        Ok(self.directory.join(DATABASE))
    }

    /// # Errors
    /// [`UsageError::NotInitialised`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.pool()?.contains(DATABASE) {
            Ok(true) => Ok(()),
            Ok(false) => Err(UsageError::NotInitialised.into()),
            Err(error) => Err(failed(&self.directory, "read", &error).into()),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let Ok(pool) = self.pool() else { return };
        if !self.is_open.get() {
            return;
        }
        CLOSING.set(CLOSING.get().saturating_add(1));
        let (directory, is_wiped) = (self.directory.clone(), self.is_wiped.get());
        spawn(async move {
            // Until the last connection is closed.
            while is_wiped && pool.clear().is_err() {
                sleep(POLL).await;
            }
            while pool.pause().is_err() {
                sleep(POLL).await;
            }
            OPEN.with_borrow_mut(|open| open.remove(&directory));
            CLOSING.set(CLOSING.get().saturating_sub(1));
        });
    }
}

/// Waits until homes are closed whose clients have ended.
pub(crate) async fn all_closed() {
    while CLOSING.get() > 0 {
        sleep(POLL).await;
    }
}

/// Whether a handle is not to be had because another tab has it.
fn is_taken(thrown: &wasm_bindgen::JsValue) -> bool {
    let name = js_sys::Reflect::get(thrown, &"name".into()).ok();
    let name = name.and_then(|name| name.as_string());
    name.is_some_and(|name| name == "NoModificationAllowedError")
}

fn failed(path: &Path, done: &'static str, error: &OpfsSAHError) -> LocalError {
    let source = std::io::Error::other(error.to_string());
    LocalError::Home(FileError::at(path, done)(source))
}
