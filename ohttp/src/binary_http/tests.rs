#![allow(clippy::unwrap_used)]

use std::io::Cursor;

use bhttp::{ControlData, Mode};
use proptest::prelude::*;

use super::*;

/// Head, content and trailers, or the error.
type Read<H> = Result<(H, Vec<u8>, HeaderMap), Malformed>;

fn read_with<H: Head>(pieces: &[&[u8]], limits: Limits) -> Read<H> {
    let mut decoder = Decoder::<H>::new(limits);
    let mut content = Vec::new();
    for piece in pieces {
        decoder.push(piece, &mut content)?;
    }
    let message = decoder.finish()?;
    Ok((message.head, content, message.trailers))
}

fn read<H: Head>(pieces: &[&[u8]]) -> Read<H> {
    read_with(pieces, Limits::default())
}

fn hex(text: &str) -> Vec<u8> {
    basis::hex::decode(&text.split_whitespace().collect::<String>()).unwrap()
}

fn response(pieces: &[&[u8]], padding: usize) -> Vec<u8> {
    let mut fields = HeaderMap::new();
    fields.append("content-type", "text/plain".parse().unwrap());
    fields.append("x-a", "1".parse().unwrap());
    fields.append("x-a", "".parse().unwrap());
    let mut out = Vec::new();
    response_head(StatusCode::OK, &fields, &mut out);
    for piece in pieces {
        content(piece, &mut out);
    }
    end(&mut out);
    out.resize(out.len() + padding, 0);
    out
}

fn request() -> (RequestHead, Vec<u8>) {
    let mut fields = HeaderMap::new();
    fields.append("accept", "*/*".parse().unwrap());
    let head = RequestHead {
        method: Method::POST,
        scheme: "https".into(),
        authority: "ds.example".into(),
        path: "/v1/x".into(),
        fields,
    };
    let mut out = Vec::new();
    request_head(&head, &mut out);
    content(b"some", &mut out);
    content(b"", &mut out);
    content(b" content", &mut out);
    end(&mut out);
    (head, out)
}

/// The same message by another implementation, in either form.
fn by_bhttp(mode: Mode, content: &[u8]) -> Vec<u8> {
    let mut message = bhttp::Message::response(bhttp::StatusCode::OK);
    message.put_header("content-type", "text/plain");
    message.write_content(content);
    message.put_trailer("digest", "x");
    let mut out = Vec::new();
    message.write_bhttp(mode, &mut out).unwrap();
    out
}

/// RFC 9292 §5.1 without the framing and the length or terminator of the header section.
const EXAMPLE_CONTROL: &str = "03474554 056874747073 00 0a2f68656c6c6f2e747874";
const EXAMPLE_LINES: &str = "0a757365722d6167656e74 346375726c2f372e31362e33206c69626375726c2f372e\
    31362e33204f70656e53534c2f302e392e376c207a6c69622f312e322e33 04686f7374 0f7777772e6578616d70\
    6c652e636f6d 0f6163636570742d6c616e6775616765 06656e2c206d69";
/// RFC 9292 §5.2.
const EXAMPLE_RESPONSE: &str = "0340c8001d5468697320636f6e74656e7420636f6e7461696e732043524c462e0d0a\
    0007747261696c6572047465787400";

#[test]
fn the_examples_of_rfc_9292_are_read_in_both_forms() {
    for bytes in [
        hex(&format!("00{EXAMPLE_CONTROL}406c{EXAMPLE_LINES}0000")),
        hex(&format!(
            "02{EXAMPLE_CONTROL}{EXAMPLE_LINES}000000{:020}",
            0
        )),
    ] {
        let (head, content, trailers) = read::<RequestHead>(&[&bytes]).unwrap();
        assert_eq!(
            (head.method, head.path.as_str()),
            (Method::GET, "/hello.txt")
        );
        assert_eq!(head.authority, "");
        assert_eq!(head.fields["host"], "www.example.com");
        assert_eq!(head.fields["accept-language"], "en, mi");
        assert!(content.is_empty() && trailers.is_empty());
    }
    let (head, content, trailers) = read::<ResponseHead>(&[&hex(EXAMPLE_RESPONSE)]).unwrap();
    assert_eq!((head.status, head.fields.len()), (StatusCode::OK, 0));
    assert_eq!(content, b"This content contains CRLF.\r\n");
    assert_eq!(trailers["trailer"], "text");
}

#[test]
fn parts_that_are_empty_may_be_missing_at_the_end_and_only_there() {
    // The request of the examples of RFC 9458 has no header section.
    let bytes = hex("00034745540568747470730b6578616d706c652e636f6d012f");
    let (head, ..) = read::<RequestHead>(&[&bytes]).unwrap();
    assert_eq!((head.path.as_str(), head.fields.len()), ("/", 0));
    let (head, ..) = read::<ResponseHead>(&[&hex("0140c8")]).unwrap();
    assert_eq!(head.status, StatusCode::OK);
    for (message, whole) in [
        // Framing, status, header section, content, trailer section.
        ("03 40c8 00", true),
        ("03 40c8 00 00", true),
        ("03 40c8 00 0161 00", true),
        ("03 40c8 00 0161 00 00", true),
        ("03 40c8 00 0161", false),
        ("03 40c8 00 0261", false),
        ("03 40c8 0161 00", false),
        ("03 40c8 0161", false),
        ("03 40", false),
        ("", false),
        ("01 40c8 02 0161 00", false),
        ("01 40c8 03 0161 00", true),
        ("01 40c8 00 0161", true),
        ("01 40c8 00 0261", false),
    ] {
        let read = read::<ResponseHead>(&[&hex(message)]);
        assert_eq!(read.is_ok(), whole, "{message}");
    }
}

#[test]
fn informational_responses_are_passed_over() {
    let bytes = hex("03 4067 0161 00 00 4064 00 40c8 00 0178 00 00");
    // The first one has a line of a name and an empty value.
    let (head, content, _) = read::<ResponseHead>(&[&bytes]).unwrap();
    assert_eq!((head.status, head.fields.len()), (StatusCode::OK, 0));
    assert_eq!(content, b"x");
}

#[test]
fn what_is_no_message_of_this_kind_is_refused() {
    let (_, request) = request();
    assert_eq!(read::<ResponseHead>(&[&request]), Err(Malformed::Syntax));
    assert_eq!(
        read::<RequestHead>(&[&response(&[], 0)]),
        Err(Malformed::Syntax)
    );
    for message in [
        // An unknown framing; no final status; a status beyond all.
        "04",
        "03 4063 00",
        "03 4258 00",
        "03 7fff 00",
        // A name in capitals, a pseudo-header, a line break in a value, an empty name.
        "03 40c8 0141 0178 00",
        "03 40c8 023a61 0178 00",
        "03 40c8 0161 010a 00",
        "01 40c8 02 0000",
        // A line that goes beyond its section.
        "01 40c8 03 0161 0178 00",
        "01 40c8 02 0561",
        // Padding that is not zero.
        "03 40c8 00 00 00 00 01",
    ] {
        assert_eq!(
            read::<ResponseHead>(&[&hex(message)]),
            Err(Malformed::Syntax),
            "{message}"
        );
    }
}

#[test]
fn lengths_beyond_the_limits_are_refused_before_anything_is_kept_for_them() {
    for message in [
        "03 40c8 ffffffffffffffff",
        "03 40c8 0161 ffffffffffffffff",
        "03 40c8 80010000",
        "01 40c8 ffffffffffffffff",
        "03 40c8 00 ffffffffffffffff",
        "01 40c8 00 ffffffffffffffff",
    ] {
        assert_eq!(
            read::<ResponseHead>(&[&hex(message)]),
            Err(Malformed::TooLarge),
            "{message}"
        );
    }
    let limits = Limits {
        max_head_bytes: 50,
        max_fields: 3,
        max_content_bytes: 4,
    };
    let whole = response(&[b"ab", b"cd"], 0);
    assert!(read_with::<ResponseHead>(&[&whole], limits).is_ok());
    for smaller in [
        Limits {
            max_head_bytes: 30,
            ..limits
        },
        Limits {
            max_fields: 2,
            ..limits
        },
        Limits {
            max_content_bytes: 3,
            ..limits
        },
    ] {
        let read = read_with::<ResponseHead>(&[&whole], smaller);
        assert_eq!(read, Err(Malformed::TooLarge));
    }
    // A head that never ends is not kept beyond its limit, in however small pieces it comes.
    let mut decoder = Decoder::<ResponseHead>::new(limits);
    decoder.push(&hex("03 40c8"), &mut Vec::new()).unwrap();
    let endless = std::iter::repeat_n(&[0x40, 0x64][..], 100);
    assert!(endless.into_iter().any(|informational| {
        let pushed = decoder.push(&[informational, &[0]].concat(), &mut Vec::new());
        pushed.is_err()
    }));
}

#[test]
fn the_head_is_there_before_the_content_has_come() {
    let bytes = response(&[b"abc"], 0);
    let at = bytes.len() - 6;
    let mut decoder = Decoder::<ResponseHead>::new(Limits::default());
    let mut content = Vec::new();
    decoder.push(&bytes[..at - 1], &mut content).unwrap();
    assert!(decoder.head().is_none());
    decoder.push(&bytes[at - 1..at], &mut content).unwrap();
    assert_eq!(decoder.head().unwrap().fields.len(), 3);
    decoder.push(&bytes[at..at + 3], &mut content).unwrap();
    assert_eq!(content, b"ab");
}

#[test]
fn requests_survive_the_round_trip_and_another_implementation_reads_them() {
    let (head, bytes) = request();
    let (read, content, _) = read::<RequestHead>(&[&bytes]).unwrap();
    assert_eq!((read, content.as_slice()), (head, &b"some content"[..]));
    let message = bhttp::Message::read_bhttp(&mut Cursor::new(&bytes)).unwrap();
    assert_eq!(message.content(), b"some content");
    assert_eq!(message.control().method(), Some(&b"POST"[..]));
    assert!(matches!(message.control(), ControlData::Request { .. }));
    assert_eq!(message.header().get(b"accept"), Some(&b"*/*"[..]));
}

proptest! {
    #[test]
    fn no_split_changes_what_is_read(
        known: bool, mutation in proptest::option::of((any::<usize>(), any::<u8>())),
        cut: Option<proptest::sample::Index>, mut splits in proptest::collection::vec(0usize..90, 0..5),
    ) {
        let mode = if known { Mode::KnownLength } else { Mode::IndeterminateLength };
        let mut bytes = by_bhttp(mode, b"content of it");
        if let Some((at, value)) = mutation {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        splits.iter_mut().for_each(|at| *at = (*at).min(bytes.len()));
        splits.extend([0, bytes.len()]);
        splits.sort_unstable();
        let pieces: Vec<&[u8]> = splits.windows(2).map(|at| &bytes[at[0]..at[1]]).collect();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let whole = read::<ResponseHead>(&[&bytes]);
        prop_assert_eq!(&read::<ResponseHead>(&pieces), &whole);
        prop_assert_eq!(&read::<ResponseHead>(&single), &whole);
        if mutation.is_none() && cut.is_none() {
            let (head, content, trailers) = whole.unwrap();
            prop_assert_eq!(head.status, StatusCode::OK);
            prop_assert_eq!((content.as_slice(), trailers.len()), (&b"content of it"[..], 1));
        }
    }

    #[test]
    fn another_implementation_reads_what_we_write(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..5),
    ) {
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let bytes = response(&slices, 7);
        let message = bhttp::Message::read_bhttp(&mut Cursor::new(&bytes)).unwrap();
        prop_assert_eq!(message.content(), pieces.concat());
        prop_assert_eq!(message.header().get_all(b"x-a").count(), 2);
        let (_, content, _) = read::<ResponseHead>(&[&bytes]).unwrap();
        prop_assert_eq!(content, pieces.concat());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_give_more_than_came(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), framing in 0u8..4,
    ) {
        let bytes = [&[framing], &bytes[..]].concat();
        if let Ok((_, content, _)) = read::<ResponseHead>(&[&bytes]) {
            prop_assert!(content.len() < bytes.len());
        }
        if let Ok((_, content, _)) = read::<RequestHead>(&[&bytes]) {
            prop_assert!(content.len() < bytes.len());
        }
    }
}
