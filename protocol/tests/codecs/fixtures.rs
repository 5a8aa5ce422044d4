//! The encodings of the first release, which every later one reads. Once there is a release, a line
//! may be added, and none may change.

use protocol::codec::sign_content;
use protocol::directory::Directory;
use protocol::follow::{Frame, FrameKind};
use protocol::problem::ProblemType;
use protocol::removal::{RemovalReason, ServiceRemoval};
use protocol::reporting::ReportingDirectory;
use protocol::{Operation, WIRE_VERSION};

use crate::sample::Source;
use crate::table::ALL;

const FIXTURES: &str = include_str!("../fixtures.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// The fixtures of one name.
fn fixtures(name: &str) -> Vec<&str> {
    FIXTURES
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter_map(|(of, value)| (of == name).then_some(value))
        .collect()
}

/// Everything of the wire that is no JSON, as it is now: types with each choice that they have,
/// what is signed or sent but never decoded here, operations, problems.
fn now() -> Vec<String> {
    let mut lines = Vec::new();
    for of in ALL {
        let mut samples = (0..).map(|choice| (of.sample)(&mut Source::counted(choice)).encoding);
        let mut last = None;
        while let Some(sample) = samples
            .next()
            .filter(|sample| last.as_ref() != Some(sample))
        {
            lines.push(format!("{}={}", of.name, hex(&sample)));
            last = Some(sample);
        }
    }
    let mut source = Source::counted(0);
    let removal = ServiceRemoval {
        group_id: source.take(),
        epoch: source.take(),
        sender: source.take(),
        leaf: source.take(),
        reason: RemovalReason::Inactive(source.take()),
    };
    lines.push(format!("to_sign={}", hex(&removal.to_sign())));
    lines.push(format!("message={}", hex(&removal.message(b"signature"))));
    lines.push(format!(
        "sign_content={}",
        hex(&sign_content("Label", b"content"))
    ));
    let mut frames = Vec::new();
    Frame::put_stretch(b"stretch", 8, &mut frames);
    Frame::put_end(FrameKind::Over, 8, &mut frames);
    Frame::put_end(FrameKind::Behind, 8, &mut frames);
    lines.push(format!("frames={}", hex(&frames)));
    lines.push(format!("WIRE_VERSION={WIRE_VERSION}"));
    lines.extend(
        Operation::ALL
            .iter()
            .map(|it| format!("path={} {}", it.number(), it.path())),
    );
    lines.extend(
        ProblemType::ALL
            .iter()
            .map(|it| format!("problem={} {}", it.status(), it.uri())),
    );
    lines
}

#[test]
fn no_encoding_has_changed_and_each_has_a_fixture() {
    let now = now();
    let missing: Vec<_> = now
        .iter()
        .filter(|line| !FIXTURES.lines().any(|it| it == *line))
        .collect();
    let changed: Vec<_> = FIXTURES
        .lines()
        .filter(|line| !line.contains("={") && !now.iter().any(|it| it == line))
        .collect();
    assert!(
        missing.is_empty() && changed.is_empty(),
        "no fixture: {missing:#?}\nnot made any more: {changed:#?}"
    );
}

#[test]
fn every_fixture_is_read() {
    for of in ALL {
        let fixtures = fixtures(of.name);
        assert!(!fixtures.is_empty(), "{}", of.name);
        for (choice, fixture) in fixtures.into_iter().enumerate() {
            let value = (of.sample)(&mut Source::counted(choice));
            assert_eq!((of.decode)(&bytes(fixture)), Ok(value), "{}", of.name);
        }
    }
}

#[test]
fn the_directories_have_the_members_that_they_had() {
    for fixture in fixtures("Directory") {
        let read: Directory = serde_json::from_str(fixture).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), fixture);
    }
    for fixture in fixtures("ReportingDirectory") {
        let read: ReportingDirectory = serde_json::from_str(fixture).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), fixture);
    }
}
