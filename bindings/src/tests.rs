//! What other languages see is all that the SDK has, by its names.

use std::collections::BTreeSet;
use std::path::Path;

use client::{AttachmentError, Error, IssuerError, NoAnswer, PeerError, PushRefusal, UsageError};

use crate::error::{ClientError, Fault};
use crate::event::Event;
use crate::messages::{Gone, MessageState};
use crate::outcomes::{RemovalReason, StopReason, StoreChange};

/// The names in serde's complaint about one that it does not know.
fn expected(error: &serde_json::Error) -> Vec<String> {
    let text = error.to_string();
    let quoted = text.split('`').skip(1).step_by(2).skip(1);
    quoted.map(str::to_owned).collect()
}

fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

macro_rules! assert_all {
    ($name:ident, $json:literal) => {{
        let error = serde_json::from_str::<client::$name>($json).unwrap_err();
        let ours: Vec<_> = $name::VARIANTS.iter().map(|it| snake_case(it)).collect();
        assert_eq!(ours, expected(&error), stringify!($name));
    }};
}

#[test]
fn every_variant_of_the_sdk_has_its_name_here() {
    assert_all!(Event, r#"{"type":"?"}"#);
    assert_all!(StopReason, r#""?""#);
    assert_all!(RemovalReason, r#""?""#);
    assert_all!(StoreChange, r#""?""#);
    assert_all!(MessageState, r#""?""#);
    assert_all!(Gone, r#""?""#);
}

/// All that is written in a directory, without the code of tests.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    let mut entries: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            all += &sources(&path);
        } else if path.file_name().unwrap() != "tests.rs" {
            let text = std::fs::read_to_string(&path).unwrap();
            all += text.split("#[cfg(test)]\nmod tests").next().unwrap();
        }
    }
    all
}

fn of_sdk(directory: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    sources(&root.join("client/src").join(directory))
}

fn ours() -> String {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

/// The names of fields or variants in the declarations with this head, without `pub(crate)` ones.
fn members(source: &str, head: &str) -> Vec<BTreeSet<String>> {
    let indented = " ".repeat(head.len() - head.trim_start().len());
    let ends = format!("\n{indented}}}");
    let names = |body: &str| {
        let lines = body.lines().filter_map(|line| {
            let line = line.strip_prefix(&indented)?.strip_prefix("    ")?;
            let line = line.trim_start_matches("pub ");
            let name = line.split([':', ',', ' ', '(']).next()?;
            let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic());
            (is_name && name != "pub").then(|| name.to_owned())
        });
        lines.collect()
    };
    let head = format!("\n{head} {{\n");
    let declared = source.split(&head).skip(1);
    declared
        .map(|rest| names(rest.split(&ends).next().unwrap()))
        .collect()
}

/// Whether a type is declared here with these members.
fn is_here(ours: &str, name: &str, members_there: &BTreeSet<String>) -> bool {
    ["pub struct ", "pub enum ", "    "]
        .into_iter()
        .flat_map(|before| members(ours, &format!("{before}{name}")))
        .any(|here| here == *members_there)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Of an attachment: where it lies and how it is opened. Whoever prints a record prints its fields.
const HIDDEN: &[&str] = &[
    "aad",
    "content_hash",
    "encryption",
    // Judged by `file_name`.
    "filename",
    "hash_algorithm",
    "key",
    "nonce",
    "url",
];

#[test]
fn every_field_of_the_sdk_has_its_name_here() {
    let (sdk, ours) = (of_sdk(""), ours());
    for name in [
        "Contact",
        "Device",
        "Evidence",
        "GroupProfile",
        "GroupSummary",
        "IncomingRequest",
        "LinkCode",
        "Member",
        "Message",
        "MessageDetails",
        "Picture",
        "PushConsent",
        "QueuedMessage",
        "Reaction",
        "Receipt",
        "StoredEvent",
        "Thumbnail",
        "UploadOptions",
    ] {
        let [theirs] = members(&sdk, &format!("pub struct {name}"))
            .try_into()
            .unwrap();
        assert!(is_here(&ours, name, &theirs), "{name}: {theirs:?}");
    }
    let [theirs] = members(&sdk, "pub struct Attachment").try_into().unwrap();
    let shown = calls(&ours);
    let not_shown = theirs.into_iter().filter(|it| !shown.contains(it));
    assert_eq!(not_shown.collect::<BTreeSet<_>>(), set(HIDDEN));
    let [theirs] = members(&sdk, "pub struct Options").try_into().unwrap();
    let [mut here] = members(&ours, "pub struct Options").try_into().unwrap();
    for (time, name) in [
        ("attempt_ms", "patience"),
        ("call_ms", "patience"),
        ("lock_ms", "lock_patience"),
    ] {
        assert!(here.remove(time));
        here.insert(name.to_owned());
    }
    let for_tests = set(&["clock", "pace", "service", "slots_faster", "slots_weakened"]);
    assert_eq!(&here | &for_tests, theirs);
}

#[test]
fn what_is_chosen_among_is_all_that_the_sdk_has() {
    let (sdk, ours) = (of_sdk(""), ours());
    for name in [
        "Bundle",
        "Expiry",
        "Profile",
        "PushAddress",
        "Receipts",
        "RequestPolicy",
        "TextFormat",
    ] {
        let [theirs] = members(&sdk, &format!("pub enum {name}"))
            .try_into()
            .unwrap();
        assert!(is_here(&ours, name, &theirs), "{name}: {theirs:?}");
    }
}

/// The names of calls.
fn calls(source: &str) -> BTreeSet<String> {
    let lines = source.lines().filter_map(|line| {
        let line = line.strip_prefix("    pub ")?;
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")?.split(['(', '<']).next()
    });
    lines.map(str::to_owned).collect()
}

#[test]
fn every_call_of_the_sdk_is_here() {
    let api = of_sdk("api");
    let for_tests = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/src/api/testing.rs"),
    );
    let for_tests = calls(&for_tests.unwrap());
    let mut missing = &(&calls(&api) - &for_tests) - &calls(&ours());
    // Under another name, or as an argument of another call.
    let otherwise = [
        ("init", "create"),
        ("close", "stop"),
        ("handle", "own_handle"),
        ("acknowledge_by_id", "acknowledge"),
        ("connect_with", "connect"),
        ("create_group_with", "create_group"),
        ("next", "next_event"),
        ("after", "next_event"),
        ("has_ended", "next_event"),
    ];
    for (theirs, here) in otherwise {
        assert!(calls(&ours()).contains(here), "{here}");
        missing.remove(theirs);
    }
    // For programs that are started again and again.
    assert_eq!(missing, set(&["has_group", "hold"]));
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn an_error_keeps_its_code_its_names_its_problem_and_who_is_at_fault() {
    let group = "team".to_owned();
    let new = names(&["a, b", "c"]);
    let error = UsageError::NewMembers {
        group,
        names: new.clone(),
    };
    let text = error.to_string();
    let ClientError::Usage {
        code,
        fault,
        detail,
        names: shown,
    } = error.into()
    else {
        panic!("another kind")
    };
    assert_eq!((code.as_str(), fault), ("new-members", Fault::Caller));
    assert_eq!((detail, shown), (text, new));
    let gone = Error::from(AttachmentError::Gone);
    let ClientError::Usage { code, fault, .. } = gone.into() else {
        panic!("another kind")
    };
    assert_eq!((code.as_str(), fault), ("attachment-gone", Fault::Caller));
    for error in [
        UsageError::WouldLeaveBehind(names(&["bob"])),
        UsageError::PartlyRestored(names(&["bob"])),
        UsageError::LacksPostQuantum("bob".to_owned()),
    ] {
        let ClientError::Usage { names: shown, .. } = error.into() else {
            panic!("another kind")
        };
        assert_eq!(shown, ["bob"]);
    }

    let refused = Error::Push(PushRefusal {
        problem: "too-many-devices".to_owned(),
        last: None,
        retry_after_s: Some(5),
    });
    let ClientError::Refused {
        code,
        problem,
        retry_after_s,
        ..
    } = refused.into()
    else {
        panic!("another kind")
    };
    assert_eq!(code, "push-refused");
    assert_eq!(problem.as_deref(), Some("too-many-devices"));
    assert_eq!(retry_after_s, Some(5));

    let limited = IssuerError::Limited {
        problem: "account-limit".to_owned(),
        retry_after_s: Some(60),
    };
    let refused = IssuerError::Refused("account-suspended".to_owned());
    let empty = IssuerError::WalletEmpty { filled_in_s: 7 };
    for (error, code, fault, problem, after) in [
        (
            limited,
            "issuer-limit",
            Fault::Caller,
            Some("account-limit"),
            Some(60),
        ),
        (
            refused,
            "issuer",
            Fault::Issuer,
            Some("account-suspended"),
            None,
        ),
        (empty, "wallet-empty", Fault::Caller, None, Some(7)),
    ] {
        let detail = error.to_string();
        let made = ClientError::Issuer {
            code: code.to_owned(),
            fault,
            detail,
            problem: problem.map(str::to_owned),
            retry_after_s: after,
        };
        assert_eq!(ClientError::from(Error::from(error)), made);
    }
    for (error, fault) in [
        (Error::from(PeerError::Unusable), Fault::Peer),
        (Error::from(AttachmentError::Damaged), Fault::Peer),
        (Error::Protocol("an answer"), Fault::Service),
        (Error::from(NoAnswer::from("nobody")), Fault::Network),
        (Error::from(client::LocalError::Stopped), Fault::Local),
    ] {
        let shown = (error.code().to_owned(), error.to_string());
        let (has, code, detail) = match error.into() {
            ClientError::Peer {
                fault,
                code,
                detail,
            } => (fault, code, detail),
            ClientError::Service {
                fault,
                code,
                detail,
            } => (fault, code, detail),
            ClientError::Network {
                fault,
                code,
                detail,
                ..
            } => (fault, code, detail),
            ClientError::Local {
                fault,
                code,
                detail,
            } => (fault, code, detail),
            other => panic!("{other:?}"),
        };
        assert_eq!((has, code, detail), (fault, shown.0, shown.1));
    }
}
