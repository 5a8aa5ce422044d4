//! The tasks as a process.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test waits in real time"
)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");

fn run(arguments: &[&str]) -> Output {
    Command::new(XTASK).args(arguments).output().unwrap()
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A zombie has ended, too: nobody may be there who waits for it.
fn has_ended(pid: &str) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    status.map_or(true, |status| status.contains(") Z "))
}

#[test]
fn a_child_ends_when_its_parent_is_killed() {
    let script = format!("'{XTASK}' launch $$ /bin/sleep -- 60 & echo $!; wait");
    let mut parent = Command::new("/bin/sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    BufReader::new(parent.stdout.take().unwrap())
        .read_line(&mut pid)
        .unwrap();
    let comm = Path::new("/proc").join(pid.trim()).join("comm");
    let began = Instant::now();
    while std::fs::read_to_string(&comm).unwrap().trim() != "sleep" {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "it never became the program"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    parent.kill().unwrap();
    parent.wait().unwrap();
    let began = Instant::now();
    while !has_ended(pid.trim()) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "it outlived its parent"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_child_whose_parent_is_gone_does_not_start() {
    let output = run(&["launch", "1", "/bin/echo", "--", "started"]);
    assert!(complaint(&output).contains("the parent has ended"));
    assert_eq!(output.stdout, b"");
}

#[test]
fn a_port_that_is_taken_is_named_and_what_to_do_about_it() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = directory.path().to_str().unwrap();
    let complaint = complaint(&run(&["stack", "--dir", dir, "--port", &port]));
    assert!(
        complaint.contains(&format!("127.0.0.1:{port} is in use")),
        "{complaint}"
    );
    assert!(complaint.contains("STACK_PORT"));
    assert!(!directory.path().join("stack.json").exists());
}

#[test]
fn a_scan_that_finds_something_fails_and_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let searched = directory.path().join("searched");
    std::fs::create_dir(&searched).unwrap();
    std::fs::write(searched.join("clean"), b"nothing").unwrap();
    let needles = directory.path().join("needles");
    std::fs::write(&needles, "first needle\n\nsecond needle\n").unwrap();
    let arguments = [
        "scan",
        searched.to_str().unwrap(),
        needles.to_str().unwrap(),
    ];
    assert!(run(&arguments).status.success());

    std::fs::write(searched.join("dirty"), b"a second needle").unwrap();
    let output = run(&arguments);
    assert!(complaint(&output).contains("1 found"));
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(found.contains("dirty: second needle (Raw)"), "{found}");
}
