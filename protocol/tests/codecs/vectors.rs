//! The vectors of the wire, for whoever writes a client: every structure with each choice that it
//! has, what is signed or sent but never decoded here, and tables. They are held against the code,
//! and against what the documents say.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use presentation::{FRAME_LEN, Structures, hex, unhex, vectors};
use proptest::collection::vec;
use proptest::prelude::*;
use protocol::directory::Directory;
use protocol::follow::{Frame, FrameKind};
use protocol::ids::Week;
use protocol::problem::ProblemType;
use protocol::removal::{RemovalReason, ServiceRemoval};
use protocol::reporting::ReportingDirectory;
use protocol::request::SignedRequest;
use protocol::{Operation, padding};
use serde_json::{Value, json};
use tls_codec::Serialize as _;

use crate::sample::Source;
use crate::table::{ALL, WireType};

const STRUCTURES: &str = "structures.json";
const TABLES: &str = "tables.json";

static DOCUMENTS: LazyLock<Structures> = LazyLock::new(|| Structures::of_documents().unwrap());

/// Not structures of the documents but parts of their language.
const OF_THE_LANGUAGE: [&str; 2] = ["WireSecret", "Padded"];

fn described() -> impl Iterator<Item = &'static WireType> {
    ALL.iter().filter(|of| !OF_THE_LANGUAGE.contains(&of.name))
}

/// A value for each choice.
fn samples(of: &WireType) -> Vec<Vec<u8>> {
    let mut samples: Vec<Vec<u8>> = Vec::new();
    loop {
        let sample = (of.sample)(&mut Source::counted(samples.len())).encoding;
        if samples.last() == Some(&sample) {
            return samples;
        }
        samples.push(sample);
    }
}

#[test]
fn every_structure_is_what_documents_and_vectors_say() {
    let vector = |name: &str, bytes: &[u8]| vectors::structure(&DOCUMENTS, name, bytes);
    let mut made: BTreeMap<String, Vec<Value>> = described()
        .map(|of| {
            let samples = samples(of).into_iter();
            let vectors = samples.map(|bytes| vector(of.name, &bytes));
            (of.name.to_owned(), vectors.collect())
        })
        .collect();
    let mut add = |name: &str, bytes: &[u8]| {
        let of_name = made.entry(name.to_owned()).or_default();
        of_name.push(vector(name, bytes));
    };
    for choice in 0..2 {
        let request: SignedRequest = Source::counted(choice).take();
        let tbs = crate::to_be_signed(&request);
        add("RequestTbs", &tbs.tls_serialize_detached().unwrap());
    }
    add(
        "SignContent",
        &protocol::codec::sign_content("Label", b"content"),
    );
    add(
        "Handle",
        &Source::counted(0).take::<protocol::push::Handle>(),
    );
    let mut frames = Vec::new();
    Frame::put_stretch(&[7; FRAME_LEN + 7], FRAME_LEN, &mut frames);
    Frame::put_end(FrameKind::Over, FRAME_LEN, &mut frames);
    Frame::put_end(FrameKind::Behind, FRAME_LEN, &mut frames);
    frames
        .chunks(FRAME_LEN)
        .for_each(|frame| add("Frame", frame));
    vectors::hold(STRUCTURES, &made);
}

#[test]
fn every_vector_is_read() {
    let kept = vectors::kept(STRUCTURES);
    for of in described() {
        let vectors = &kept[of.name];
        for (choice, vector) in vectors.iter().enumerate() {
            let bytes = unhex(vector["encoded"].as_str().unwrap()).unwrap();
            let value = (of.sample)(&mut Source::counted(choice));
            assert_eq!((of.decode)(&bytes), Ok(value), "{}", of.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A second implementation, made from the documents alone, reads and writes the same bytes.
    #[test]
    fn what_is_encoded_is_what_the_documents_say(from in vec(any::<u8>(), 1..600)) {
        for of in described() {
            let bytes = (of.sample)(&mut Source::random(from.clone())).encoding;
            let fields = DOCUMENTS.decode(of.name, &bytes);
            prop_assert!(fields.is_ok(), "{}: {:?}", of.name, fields);
            let encoded = DOCUMENTS.encode(of.name, &fields.unwrap()).unwrap();
            prop_assert_eq!(encoded, bytes, "{}", of.name);
        }
        let language = Structures::parse("Padded<24> Padded; opaque WireSecret[32];").unwrap();
        for of in ALL.iter().filter(|of| OF_THE_LANGUAGE.contains(&of.name)) {
            let bytes = (of.sample)(&mut Source::random(from.clone())).encoding;
            let fields = language.decode(of.name, &bytes).unwrap();
            prop_assert_eq!(language.encode(of.name, &fields).unwrap(), bytes, "{}", of.name);
        }
    }

    /// What the documents say is no such structure is none, and the other way round: among bytes
    /// that nearly are one.
    #[test]
    fn what_is_refused_is_refused_by_the_documents_too(
        from in vec(any::<u8>(), 1..200), at: prop::sample::Index, byte: u8,
    ) {
        for of in described() {
            let mut bytes = (of.sample)(&mut Source::random(from.clone())).encoding;
            if bytes.is_empty() {
                continue;
            }
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let documents = DOCUMENTS.decode(of.name, &bytes);
            let code = (of.decode)(&bytes);
            prop_assert_eq!(code.is_ok(), documents.is_ok(), "{}: {:?}", of.name, documents);
        }
    }
}

#[test]
fn tables_are_what_the_vectors_say() {
    let kept = vectors::kept(TABLES);
    let mut made = BTreeMap::new();
    let operations = Operation::ALL.iter();
    let operations = operations.map(|it| json!({ "number": it.number(), "path": it.path() }));
    made.insert("operations".to_owned(), operations.collect());
    let problems = ProblemType::ALL.iter();
    let problems = problems.map(|it| json!({ "type": it.uri(), "status": it.status() }));
    made.insert("problems".to_owned(), problems.collect());
    let lengths = [
        0, 1, 2, 3, 8, 9, 17, 100, 511, 512, 513, 1_000, 2_048, 2_049, 8_192, 8_193, 65_536,
        65_537, 131_073, 1_000_000,
    ];
    let sizes = lengths.map(|length| {
        json!({
            "length": length, "bucket": padding::bucket(length), "padme": padding::padme(length),
            "request": padding::request_bucket(length), "answer": padding::answer_bucket(length),
            "answer_to_bulk": padding::answer_bucket_for(padding::BULK, length),
        })
    });
    made.insert("padding".to_owned(), sizes.to_vec());
    // What stands in them is written as it was read: no member has gone or has another name.
    for (name, again) in [
        ("Directory", again::<Directory> as fn(&Value) -> Value),
        ("ReportingDirectory", again::<ReportingDirectory>),
    ] {
        let documents = kept.get(name).filter(|it| !it.is_empty()).unwrap();
        made.insert(name.to_owned(), documents.iter().map(again).collect());
    }
    let mut source = Source::counted(0);
    let week: Week = source.take();
    let removal = ServiceRemoval {
        group_id: source.take(),
        epoch: source.take(),
        sender: source.take(),
        leaf: source.take(),
        reason: RemovalReason::Inactive(week),
    };
    let vector = json!({
        "group_id": hex(&removal.group_id.0), "epoch": removal.epoch.0.to_string(),
        "external_sender": removal.sender, "leaf_index": removal.leaf.0,
        "week": week.0, "signed": hex(&removal.to_sign()),
        "signature": hex(b"signature"), "message": hex(&removal.message(b"signature")),
    });
    made.insert("removals by the service".to_owned(), vec![vector]);
    vectors::hold(TABLES, &made);
}

fn again<T: serde::Serialize + serde::de::DeserializeOwned>(document: &Value) -> Value {
    let read: T = serde_json::from_value(document.clone()).unwrap();
    serde_json::to_value(read).unwrap()
}
