//! Wire types: what is encoded decodes to the same, no bytes whatsoever do harm, and encodings are
//! those of documents and vectors.
#![allow(clippy::unwrap_used)]

mod allocation;
mod sample;
mod table;
mod vectors;

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::codec::opaque;
use protocol::problem::ProblemType;
use protocol::request::{ReceivedRequest, RequestTbs, SignedRequest};
use protocol::{DecodeError, Operation, Wire};
use tls_codec::{Serialize as _, VLBytes};

use sample::Source;
use table::{ALL, WireType};

/// What bytes decode to is encoded as these bytes.
fn is_harmless(of: &WireType, bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(decoded) = (of.decode)(bytes) {
        prop_assert_eq!(decoded.encoding, bytes, "{}", of.name);
    }
    Ok(())
}

fn has_one_exact_encoding(of: &WireType, from: Vec<u8>) -> Result<(), TestCaseError> {
    let value = (of.sample)(&mut Source::random(from));
    let encoding = value.encoding.clone();
    prop_assert_eq!((of.decode)(&encoding), Ok(value), "{}", of.name);
    let longer = [&encoding[..], &[0]].concat();
    let refused = Err(DecodeError::TrailingBytes);
    prop_assert_eq!((of.decode)(&longer), refused, "{}", of.name);
    for length in 0..encoding.len() {
        let shorter = (of.decode)(&encoding[..length]);
        prop_assert_eq!(shorter, Err(DecodeError::Malformed), "{}", of.name);
    }
    Ok(())
}

/// Changes one byte to another, and puts others in: among them the beginnings of a length that
/// takes more bytes than it needs.
fn is_harmless_when_mutated(of: &WireType, from: Vec<u8>) -> Result<(), TestCaseError> {
    let byte = from[0];
    let encoding = (of.sample)(&mut Source::random(from)).encoding;
    for at in 0..encoding.len() {
        let (before, after) = encoding.split_at(at);
        is_harmless(of, &[before, &[byte], &after[1..]].concat())?;
        for inserted in [&[byte][..], &[0x40], &[0x80, 0, 0], &[0xff]] {
            is_harmless(of, &[before, inserted, after].concat())?;
        }
    }
    Ok(())
}

/// What the signature of a request is over.
fn to_be_signed(request: &SignedRequest) -> RequestTbs<'_> {
    RequestTbs {
        version: request.version,
        operation: request.operation,
        minute: request.minute,
        nonce: request.nonce,
        sender: &request.sender,
        body: &request.body,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_encoded_decodes_to_the_same_and_to_nothing_else(from in vec(any::<u8>(), 1..600)) {
        for of in ALL {
            has_one_exact_encoding(of, from.clone())?;
        }
    }

    #[test]
    fn what_was_mutated_is_refused_or_is_another_value(from in vec(any::<u8>(), 1..600)) {
        for of in ALL {
            is_harmless_when_mutated(of, from.clone())?;
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..300)) {
        for of in ALL {
            is_harmless(of, &bytes)?;
        }
    }

    #[test]
    fn the_signed_bytes_are_the_received_ones_before_the_signature(
        from in vec(any::<u8>(), 1..99),
    ) {
        let request: SignedRequest = Source::random(from).take();
        let encoded = request.encode();
        let received = ReceivedRequest::decode(&encoded).unwrap();
        let signature = request.signature.encode();
        prop_assert_eq!([received.signed_bytes, &signature[..]].concat(), encoded.clone());
        let to_be_signed = to_be_signed(&request).tls_serialize_detached().unwrap();
        prop_assert_eq!(received.signed_bytes, to_be_signed);
    }
}

/// RFC 9420 §2.1.2.
#[test]
fn a_length_takes_more_bytes_where_it_must_and_nowhere_else() {
    for (length, head) in [
        (63, &[63][..]),
        (64, &[0x40, 64]),
        (16_383, &[0x7f, 0xff]),
        (16_384, &[0x80, 0, 0x40, 0]),
    ] {
        let bytes = opaque(vec![7; length]);
        let encoded = bytes.encode();
        assert_eq!(encoded, [head, bytes.as_slice()].concat());
        assert_eq!(VLBytes::decode(&encoded), Ok(bytes));
    }
    for longer in [&[0x40, 1, 7][..], &[0x80, 0, 0, 1, 7]] {
        assert_eq!(VLBytes::decode(longer), Err(DecodeError::Malformed));
    }
}

/// The types that have both halves of a codec: by derive, by hand, or by a macro that gets their
/// names, a line each.
fn wire_types_in(source: &str) -> Vec<&str> {
    let name = |text| str::split(text, |c: char| !c.is_alphanumeric()).next();
    let derived = source.split("#[derive(").filter_map(|item| {
        let (derives, item) = item.split_once(")]")?;
        let both = derives.contains("TlsSerialize") && derives.contains("TlsDeserializeBytes");
        let mut words = item.split_whitespace().filter(|_| both);
        words.find(|word| ["struct", "enum"].contains(word))?;
        name(words.next()?)
    });
    let (by_macro, mut types): (Vec<_>, Vec<_>) = derived.partition(|name| name.is_empty());
    for line in source.lines() {
        let given_to_macro = line
            .trim()
            .strip_suffix(");")
            .filter(|_| !by_macro.is_empty());
        let name_given = given_to_macro.and_then(|line| line.split_once('('));
        let by_hand = ["DeserializeBytes for ", "Wire for "]
            .iter()
            .filter(|_| line.starts_with("impl"))
            .find_map(|codec| line.split_once(codec));
        types.extend(name_given.map(|(name, _)| name).filter(|it| is_name(it)));
        types.extend(
            by_hand
                .and_then(|(_, written)| name(written))
                .filter(|name| *name != "T"),
        );
    }
    types
}

fn is_name(text: &str) -> bool {
    text.starts_with(char::is_uppercase) && text.chars().all(char::is_alphanumeric)
}

#[test]
fn every_wire_type_is_in_the_table() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let files = std::fs::read_dir(directory).unwrap();
    let sources: Vec<_> = files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let in_sources: BTreeSet<_> = sources.iter().flat_map(|it| wire_types_in(it)).collect();
    let in_table: BTreeSet<_> = ALL.iter().map(|of| of.name).collect();
    let missing: Vec<_> = in_sources.symmetric_difference(&in_table).collect();
    assert!(
        missing.is_empty(),
        "in the table or in the sources only: {missing:?}"
    );
    assert_eq!(ALL.len(), in_table.len(), "twice in the table");
}

#[test]
fn numbers_and_paths_of_operations_are_unique() {
    let numbers: BTreeSet<_> = Operation::ALL.iter().map(|o| o.number()).collect();
    let paths: BTreeSet<_> = Operation::ALL.iter().map(|o| o.path()).collect();
    assert_eq!(numbers.len(), Operation::ALL.len());
    assert_eq!(paths.len(), Operation::ALL.len());
}

#[test]
fn every_operation_and_problem_stands_in_the_documentation() {
    let documentation = include_str!("../../../docs/protocol.md");
    for problem in ProblemType::ALL {
        let name = problem.uri().rsplit(':').next().unwrap();
        let row = format!("| `{name}` | {} |", problem.status());
        assert!(documentation.contains(&row), "{row}");
    }
    for operation in Operation::ALL {
        let row = format!("| {} | `{}` |", operation.number(), operation.path());
        assert!(documentation.contains(&row), "{row}");
    }
}
