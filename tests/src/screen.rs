//! A terminal for a program that wants one: what it would show, and the keys.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

const ROWS: u16 = 24;
const COLUMNS: u16 = 100;

/// A program on a terminal of its own.
pub struct Screen {
    child: Child,
    keys: File,
    terminal: OwnedFd,
    shown: Arc<Mutex<vt100::Parser>>,
}

impl Screen {
    /// Starts the program.
    ///
    /// # Panics
    /// If there is no terminal to be had.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("a terminal of our own");
        unlockpt(&master).expect("an open terminal");
        let name = ptsname(&master, Vec::new()).expect("a terminal with a name");
        let terminal = File::options()
            .read(true)
            .write(true)
            .open(std::ffi::OsStr::new(name.to_str().expect("a path")))
            .expect("the terminal's other end");
        let size = Winsize {
            ws_row: ROWS,
            ws_col: COLUMNS,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).expect("a size");
        let end = || Stdio::from(terminal.try_clone().expect("the terminal again"));
        let child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("the program");
        let shown = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let keys = File::from(master);
        let mut output = keys.try_clone().expect("the terminal again");
        let drawn = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It ends with an error when the program has closed its end.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let mut drawn = drawn.lock().expect("a screen");
                drawn.process(&bytes[..count]);
            }
        });
        Self {
            child,
            keys,
            terminal: terminal.into(),
            shown,
        }
    }

    /// What stands on it.
    ///
    /// # Panics
    /// Never in tests that have not failed.
    #[must_use]
    pub fn shown(&self) -> String {
        self.shown.lock().expect("a screen").screen().contents()
    }

    /// Presses keys.
    ///
    /// # Panics
    /// If the program has ended.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a keyboard");
    }

    /// Waits until a text is shown.
    ///
    /// # Panics
    /// If it is not.
    pub async fn shows(&self, text: &str) {
        let begun = Instant::now();
        while !self.shown().contains(text) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no {text:?} in\n{}",
                self.shown()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether keys are shown and lines waited for, as before the program.
    ///
    /// # Panics
    /// If the terminal is gone.
    #[must_use]
    pub fn is_as_before(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = tcgetattr(&self.terminal).expect("its modes").local_modes;
        let whole = !self
            .shown
            .lock()
            .expect("a screen")
            .screen()
            .alternate_screen();
        whole && modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it goes on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
