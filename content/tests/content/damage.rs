//! What is no message, and what it is refused for.

use content::{
    ContentError, Disposition, Expiration, Extensions, Key, MAX_LEN, MAX_PARTS, MAX_STATUSES,
    MAX_TOPIC, MAX_VALUE, MessageId, MimiContent, NestedPart, Part, Semantics, Status,
    decode_report, encode_report,
};

fn refused(bytes: &[u8]) -> ContentError {
    MimiContent::decode(bytes).unwrap_err()
}

fn message() -> Vec<u8> {
    MimiContent::text([7; 16], "hello").encode().unwrap()
}

/// `message` with the map of extensions and the body from here.
fn with_end(end: &[u8]) -> Vec<u8> {
    let head = [&[0x87, 0x50][..], &[7; 16], &[0xf6, 0x40, 0xf6, 0xf6]].concat();
    [head.as_slice(), end].concat()
}

/// Array of 5: render, no language, single part, no media type, no content.
const BODY: [u8; 6] = [0x85, 1, 0x60, 1, 0x60, 0x40];

fn with_extension(value: &[u8]) -> Vec<u8> {
    with_end(&[&[0xa1, 0x19, 1, 0][..], value, &BODY].concat())
}

#[test]
fn a_message_ends_where_it_ends() {
    let whole = message();
    for length in 0..whole.len() {
        assert_eq!(
            refused(&whole[..length]),
            ContentError::Truncated,
            "{length}"
        );
    }
    assert_eq!(
        refused(&[whole, vec![0]].concat()),
        ContentError::TrailingBytes
    );
}

#[test]
fn another_encoding_of_the_same_is_refused() {
    let end = |end: &[u8]| refused(&with_end(end));
    assert!(MimiContent::decode(&with_end(&[&[0xa0][..], &BODY].concat())).is_ok());
    let not = ContentError::NotDeterministic;
    // Longer heads: of the map, the array, a number, a text, bytes.
    assert_eq!(end(&[&[0xb8, 0][..], &BODY].concat()), not);
    assert_eq!(end(&[0xa0, 0x98, 5, 1, 0x60, 1, 0x60, 0x40]), not);
    assert_eq!(end(&[0xa0, 0x85, 0x18, 1, 0x60, 1, 0x60, 0x40]), not);
    assert_eq!(end(&[0xa0, 0x85, 1, 0x78, 0, 1, 0x60, 0x40]), not);
    assert_eq!(end(&[0xa0, 0x85, 1, 0x60, 1, 0x60, 0x58, 0]), not);
    // Without a length: the map, the array, a text, bytes.
    assert_eq!(end(&[&[0xbf, 0xff][..], &BODY].concat()), not);
    assert_eq!(end(&[0xa0, 0x9f, 1, 0x60, 1, 0x60, 0x40, 0xff]), not);
    assert_eq!(end(&[0xa0, 0x85, 1, 0x7f, 0xff, 1, 0x60, 0x40]), not);
    assert_eq!(end(&[0xa0, 0x85, 1, 0x60, 1, 0x60, 0x5f, 0xff]), not);
}

#[test]
fn keys_are_in_order_and_there_once() {
    let map = |map: &[u8]| MimiContent::decode(&with_end(&[map, &BODY].concat()));
    assert!(map(&[0xa3, 3, 0xf6, 0x20, 0xf6, 0x61, b'a', 0xf6]).is_ok());
    for wrong in [
        &[0xa2, 3, 0xf6, 3, 0xf6][..],
        &[0xa2, 4, 0xf6, 3, 0xf6],
        &[0xa2, 0x20, 0xf6, 3, 0xf6],
        // RFC 7049's order: shorter keys first.
        &[0xa2, 0x20, 0xf6, 0x19, 1, 0, 0xf6],
        &[0xa2, 1, 0x60, 1, 0x60],
    ] {
        assert_eq!(
            map(wrong).unwrap_err(),
            ContentError::NotDeterministic,
            "{wrong:x?}"
        );
    }
    for wrong in [
        &[0xa1, 0, 0xf6][..],
        &[0xa1, 0x60, 0xf6],
        &[0xa1, 0x41, 1, 0xf6],
        &[0xa1, 1, 2],
    ] {
        assert_eq!(map(wrong).unwrap_err(), ContentError::Schema, "{wrong:x?}");
    }
    // Inside of an extension too.
    let inside = |value: &[u8]| MimiContent::decode(&with_extension(value));
    assert!(inside(&[0xa2, 1, 2, 0x41, 1, 2]).is_ok());
    let not = Err(ContentError::NotDeterministic);
    assert_eq!(inside(&[0xa2, 2, 2, 1, 2]), not);
    assert_eq!(inside(&[0xa1, 0xf6, 2]), Err(ContentError::Schema));
    // 2^53 is no exact key.
    assert_eq!(
        inside(&[0xa1, 0x1b, 0, 0x20, 0, 0, 0, 0, 0, 0, 2]),
        Err(ContentError::Schema)
    );
}

#[test]
fn numbers_in_extensions_have_one_form() {
    let inside = |value: &[u8]| MimiContent::decode(&with_extension(value));
    for right in [
        &[0xf9, 0x3c, 0][..],
        &[0xf9, 0x7e, 0],
        &[0xfa, 0x3f, 0x80, 0, 1],
        &[0xfa, 0x7f, 0x7f, 0xff, 0xff],
        &[0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 1],
        &[0xc2, 0x49, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xf7],
        &[0xf0],
        &[0xf8, 32],
    ] {
        assert!(inside(right).is_ok(), "{right:x?}");
    }
    for wrong in [
        // 1.0 and the smallest half, as a single; 1.0, as a double; infinity, as both.
        &[0xfa, 0x3f, 0x80, 0, 0][..],
        &[0xfa, 0x33, 0x80, 0, 0],
        &[0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0],
        &[0xfa, 0x7f, 0x80, 0, 0],
        &[0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0],
        // Other NaNs.
        &[0xf9, 0x7e, 1],
        &[0xfa, 0x7f, 0xc0, 0, 0],
        &[0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
        // Big integers that are small, or begin with zero.
        &[0xc2, 0x41, 1],
        &[0xc3, 0x4a, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(
            inside(wrong),
            Err(ContentError::NotDeterministic),
            "{wrong:x?}"
        );
    }
    for reserved in [20, 24, 31] {
        assert_eq!(inside(&[0xf8, reserved]), Err(ContentError::Schema));
    }
    assert_eq!(inside(&[0xff]), Err(ContentError::Schema));
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    let single = || NestedPart::single("a/b", b"c");
    let multi = |part| NestedPart {
        disposition: Disposition::Render,
        language: String::new(),
        part: Part::Multi {
            semantics: Semantics::ProcessAll,
            parts: vec![part, single()],
        },
    };
    let deepest = multi(multi(multi(single())));
    let bytes = MimiContent::new([7; 16], deepest.clone()).encode().unwrap();
    assert_eq!(MimiContent::decode(&bytes).unwrap().body, deepest);
    let deeper = MimiContent::new([7; 16], multi(deepest));
    assert_eq!(deeper.encode(), Err(ContentError::TooDeep));
    let nested = [0x85, 1, 0x60, 3, 0, 0x82].repeat(100_000 / 6);
    assert_eq!(
        refused(&with_end(&[&[0xa0][..], &nested].concat())),
        ContentError::TooDeep
    );
    // Extensions: the map is at level 1.
    let inside = |value: &[u8]| MimiContent::decode(&with_extension(value));
    assert!(inside(&[0x81, 0x81, 0xc6, 1]).is_ok());
    assert_eq!(
        inside(&[0x81, 0x81, 0x81, 0x81, 1]),
        Err(ContentError::TooDeep)
    );
    assert_eq!(inside(&[0xc6; 4000]), Err(ContentError::TooDeep));
}

#[test]
fn what_is_too_many_or_too_long_is_refused() {
    let parts = |length| {
        let part = NestedPart {
            disposition: Disposition::Render,
            language: String::new(),
            part: Part::Multi {
                semantics: Semantics::ProcessAll,
                parts: vec![NestedPart::null(Disposition::Render); length],
            },
        };
        MimiContent::new([7; 16], part).encode()
    };
    assert!(MimiContent::decode(&parts(MAX_PARTS - 1).unwrap()).is_ok());
    assert_eq!(parts(MAX_PARTS), Err(ContentError::TooManyParts));
    assert_eq!(parts(1), Err(ContentError::TooFewParts));
    let mut many = vec![0xa0, 0x85, 1, 0x60, 3, 2, 0x99, 4, 0];
    many.extend([0x83, 1, 0x60, 0].repeat(1024));
    assert_eq!(refused(&with_end(&many)), ContentError::TooManyParts);
    let one = [0xa0, 0x85, 1, 0x60, 3, 2, 0x81, 0x83, 1, 0x60, 0];
    assert_eq!(refused(&with_end(&one)), ContentError::TooFewParts);
    let mut topic = MimiContent::text([7; 16], "hello");
    topic.topic = vec![1; MAX_TOPIC];
    assert!(MimiContent::decode(&topic.encode().unwrap()).is_ok());
    topic.topic.push(1);
    assert_eq!(topic.encode(), Err(ContentError::TopicTooLong));
    let long = MimiContent::text([7; 16], &"x".repeat(MAX_LEN));
    assert_eq!(long.encode(), Err(ContentError::TooLong));
    assert_eq!(refused(&vec![0; MAX_LEN + 1]), ContentError::TooLong);
    // Bytes, a text, an array and a map that are announced and not there.
    let huge = [0x1b, 0, 0, 0, 1, 0, 0, 0, 0];
    for major in [0x40, 0x60, 0x80, 0xa0] {
        let mut value = huge.to_vec();
        value[0] |= major;
        let bytes = with_extension(&value);
        assert_eq!(
            refused(&bytes[..bytes.len() - BODY.len()]),
            ContentError::Truncated
        );
    }
    let value = [&[0x59, 0x0f, 0xfd][..], &[1; 4093]].concat();
    assert_eq!(value.len(), MAX_VALUE + 1);
    assert_eq!(
        refused(&with_extension(&value)),
        ContentError::ExtensionTooLong
    );
    let name = [&[0xa1, 0x79, 1, 0][..], &[b'a'; 256], &[0xf6], &BODY].concat();
    assert_eq!(refused(&with_end(&name)), ContentError::ExtensionTooLong);
    let reports = |length| {
        let id = MessageId::try_from([1; 32]).unwrap();
        decode_report(&encode_report(&vec![(id, Status::Read); length]))
    };
    assert!(reports(MAX_STATUSES).is_ok());
    assert_eq!(reports(MAX_STATUSES + 1), Err(ContentError::TooLong));
}

#[test]
fn what_nobody_knows_the_meaning_of_is_refused_or_kept() {
    let body = |body: &[u8]| MimiContent::decode(&with_end(&[&[0xa0][..], body].concat()));
    assert_eq!(
        body(&[0x83, 1, 0x60, 4]),
        Err(ContentError::UnknownCardinality)
    );
    let two = [0x83, 1, 0x60, 0].repeat(2);
    let semantics = [&[0x85, 1, 0x60, 3, 3, 0x82][..], &two].concat();
    assert_eq!(body(&semantics), Err(ContentError::UnknownSemantics));
    let kept = body(&[0x83, 0x18, 0xff, 0x60, 0]).unwrap();
    assert_eq!(kept.body.disposition, Disposition::Unknown(255));
    assert_eq!(MimiContent::decode(&kept.encode().unwrap()).unwrap(), kept);
    assert_eq!(
        body(&[0x83, 0x19, 1, 0, 0x60, 0]),
        Err(ContentError::Schema)
    );
    assert_eq!(MessageId::try_from([2; 32]), Err(ContentError::UnknownHash));
    let with_id = |octet: u8| {
        let head = [&[0x87, 0x50][..], &[7; 16], &[0x58, 32], &[octet; 32]].concat();
        MimiContent::decode(&[&head[..], &[0x40, 0xf6, 0xf6, 0xa0], &BODY].concat())
    };
    assert!(with_id(1).is_ok());
    assert_eq!(with_id(2), Err(ContentError::UnknownHash));
    assert_eq!(
        body(&[0x85, 1, 0x61, 0xff, 1, 0x60, 0x40]),
        Err(ContentError::NotUtf8)
    );
    assert_eq!(
        body(&[0x85, 1, 0x40, 1, 0x60, 0x40]),
        Err(ContentError::Schema)
    );
    // A part with an item more or less.
    assert_eq!(body(&[0x84, 1, 0x60, 0, 0]), Err(ContentError::Schema));
    assert_eq!(body(&[0x84, 1, 0x60, 1, 0x60]), Err(ContentError::Schema));
}

#[test]
fn extensions_of_others_survive() {
    let mut extensions = Extensions::default();
    extensions.set(Key::Number(-5), &[0x82, 1, 2]).unwrap();
    extensions.set(Key::Number(300), &[0xf5]).unwrap();
    extensions.set(Key::Number(300), &[0xf4]).unwrap();
    extensions.set(Key::Name("x".to_owned()), &[1]).unwrap();
    extensions.sender_uri = Some("mimi://a.example/u/a".to_owned());
    let message = MimiContent {
        extensions,
        ..MimiContent::text([7; 16], "hello")
    };
    let read = MimiContent::decode(&message.encode().unwrap()).unwrap();
    let mut others: Vec<_> = read.extensions.others().collect();
    others.sort_by_key(|(_, value)| value.len());
    assert_eq!(others.len(), 3);
    assert!(others.contains(&(&Key::Number(-5), &[0x82, 1, 2][..])));
    assert!(others.contains(&(&Key::Number(300), &[0xf4][..])));
    let mut extensions = Extensions::default();
    for (key, value, why) in [
        (Key::Number(1), &[0x60][..], ContentError::Schema),
        (Key::Number(0), &[0x60], ContentError::Schema),
        (Key::Number(9), &[0x60, 0x60], ContentError::TrailingBytes),
        (Key::Number(9), &[0x18, 1], ContentError::NotDeterministic),
        (Key::Name(String::new()), &[1], ContentError::Schema),
    ] {
        assert_eq!(extensions.set(key, value), Err(why));
    }
}

#[test]
fn an_expiration_is_no_more_than_a_year_away() {
    let now = 1_800_000_000_u64;
    let at = |time| Expiration::At(time).is_sensible(now);
    let year = 366 * 24 * 60 * 60;
    let now = 1_800_000_000_u32;
    assert!(at(now) && at(now + year) && at(now - year));
    assert!(!at(now + year + 1) && !at(now - year - 1) && !at(0) && !at(u32::MAX));
    let after = |time| Expiration::After(time).is_sensible(now.into());
    assert!(after(0) && after(year) && !after(year + 1));
}
