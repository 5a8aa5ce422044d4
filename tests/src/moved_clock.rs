//! Processes whose clocks are wrong, and step while they run.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The services, and what sets them up.
const PROGRAMS: [&str; 5] = [
    "ds",
    "ohttp-gateway",
    "ohttp-relay",
    "privacy-pass-issuer",
    "xtask",
];

/// Clocks of processes: each follows a file of its own.
pub struct MovedClocks {
    directory: PathBuf,
    library: PathBuf,
}

impl MovedClocks {
    /// Clocks that are so many seconds ahead, in a directory of their own below this one.
    #[must_use]
    pub fn make(below: &Path, seconds: i64) -> Self {
        let directory = below.join("clocks");
        fs::create_dir(&directory).expect("a directory");
        let source = directory.join("moved_clock.c");
        fs::write(&source, include_str!("moved_clock.c")).expect("a file");
        let library = directory.join("moved_clock.so");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .status()
            .expect("the C compiler that links everything here");
        assert!(status.success());
        let clocks = Self { directory, library };
        for program in PROGRAMS {
            clocks.set(program, seconds);
        }
        clocks
    }

    /// Moves the clock of a program, or of what [`MovedClocks::one`] was asked for, to so many
    /// seconds from the machine's; while it runs, too.
    pub fn set(&self, name: &str, seconds: i64) {
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.directory.join(name))
            .expect("a file");
        // In one piece: it is mapped.
        file.write_all_at(&seconds.to_ne_bytes(), 0)
            .expect("a file");
    }

    /// The environment in which programs follow the clocks that have their names.
    #[must_use]
    pub fn for_programs(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("MOVED_CLOCKS", self.directory.clone().into()),
        ]
    }

    /// The environment in which a process follows the clock of this name.
    #[must_use]
    pub fn one(&self, name: &str) -> Vec<(&'static str, OsString)> {
        self.set(name, 0);
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("MOVED_CLOCK", self.directory.join(name).into()),
        ]
    }
}
