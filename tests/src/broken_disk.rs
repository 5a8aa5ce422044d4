//! A disk that breaks under a process, and a process that ends in the middle of what it writes.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What the disk does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaks {
    Nothing = 0,
    Writes = 1,
    Syncs = 2,
}

/// A disk below a directory, for processes that are started with its environment.
pub struct BrokenDisk {
    directory: TempDir,
    below: PathBuf,
}

impl BrokenDisk {
    /// One that is whole.
    #[must_use]
    pub fn below(below: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let source = directory.path().join("broken_disk.c");
        fs::write(&source, include_str!("broken_disk.c")).expect("a file");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&directory.path().join("broken_disk.so"), &source])
            .status()
            .expect("the C compiler that links everything here");
        assert!(status.success());
        let disk = Self {
            directory,
            below: below.to_owned(),
        };
        disk.is(Breaks::Nothing);
        disk
    }

    /// From now on.
    pub fn is(&self, breaks: Breaks) {
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.directory.path().join("broken"))
            .expect("a file");
        // In one piece: it is mapped.
        file.write_all_at(&(breaks as i64).to_ne_bytes(), 0)
            .expect("a file");
    }

    /// Of processes on it.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let file = |name: &str| self.directory.path().join(name).into_os_string();
        vec![
            ("LD_PRELOAD", file("broken_disk.so")),
            ("BROKEN_DISK", file("broken")),
            ("BROKEN_DISK_BELOW", self.below.clone().into()),
        ]
    }

    /// Of a process that is killed when it begins this change, from 1, to what is on the disk.
    #[must_use]
    pub fn dying_at(&self, change: usize) -> Vec<(&'static str, OsString)> {
        let mut environment = self.environment();
        environment.push(("BROKEN_DISK_DIES_AT", change.to_string().into()));
        environment
    }
}
