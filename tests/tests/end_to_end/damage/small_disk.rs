//! A file system that is soon full.

use super::*;

/// A file system of a few megabytes in memory, mounted over the data directory. `None` where nobody
/// may mount.
pub(super) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    pub(super) fn mount(path: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=0700"),
                "tmpfs",
            ])
            .arg(path)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("NOT TESTED on a full disk: nothing can be mounted here");
            return None;
        }
        Some(Self {
            path: path.to_owned(),
        })
    }

    pub(super) fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// To the last byte.
    pub(super) fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![0; size];
            while file.write_all(&bytes).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
