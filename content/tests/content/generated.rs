//! Random messages, and random bytes.

use content::{
    Disposition, Expiration, Extensions, ExternalPart, Key, MessageId, MimiContent, NestedPart,
    Part, Semantics, Status, decode_report, encode_report,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn ids() -> impl Strategy<Value = Option<MessageId>> {
    proptest::option::of(any::<[u8; 31]>().prop_map(|hash| {
        let octets = [&[1][..], &hash].concat();
        octets.as_slice().try_into().unwrap()
    }))
}

fn dispositions() -> impl Strategy<Value = Disposition> {
    prop_oneof![
        Just(Disposition::Unspecified),
        Just(Disposition::Render),
        Just(Disposition::Reaction),
        Just(Disposition::Attachment),
        Just(Disposition::Preview),
        (9..=255u8).prop_map(Disposition::Unknown),
    ]
}

fn leaves() -> impl Strategy<Value = Part> {
    let external = (
        (".{0,9}", ".{0,9}", ".{0,9}", ".{0,9}"),
        (any::<u32>(), any::<u64>(), any::<u16>(), any::<u8>()),
        vec(vec(any::<u8>(), 0..40), 4),
    );
    prop_oneof![
        Just(Part::Null),
        (".{0,30}", vec(any::<u8>(), 0..300)).prop_map(|(content_type, content)| Part::Single {
            content_type,
            content
        }),
        external.prop_map(
            |((content_type, url, description, filename), numbers, bytes)| {
                let (expires, size, encryption, hash_algorithm) = numbers;
                let [key, nonce, aad, content_hash] = bytes.try_into().unwrap();
                Part::External(Box::new(ExternalPart {
                    content_type,
                    url,
                    expires,
                    size,
                    encryption,
                    key,
                    nonce,
                    aad,
                    hash_algorithm,
                    content_hash,
                    description,
                    filename,
                }))
            }
        ),
    ]
}

fn part(part: impl Strategy<Value = Part>) -> impl Strategy<Value = NestedPart> {
    (dispositions(), "[a-z]{0,3}", part).prop_map(|(disposition, language, part)| NestedPart {
        disposition,
        language,
        part,
    })
}

fn bodies() -> impl Strategy<Value = NestedPart> {
    let semantics = prop_oneof![
        Just(Semantics::ChooseOne),
        Just(Semantics::SingleUnit),
        Just(Semantics::ProcessAll),
    ];
    part(leaves()).prop_recursive(3, 16, 3, move |inner| {
        let parts = (semantics.clone(), vec(inner, 2..4));
        part(parts.prop_map(|(semantics, parts)| Part::Multi { semantics, parts }))
    })
}

fn extensions() -> impl Strategy<Value = Extensions> {
    let key = prop_oneof![
        (3..70_000i64).prop_map(Key::Number),
        (-70_000..0i64).prop_map(Key::Number),
        "[a-z]{1,20}".prop_map(Key::Name),
    ];
    let value = prop_oneof![
        Just(vec![0xf6]),
        Just(vec![0x82, 1, 0x61, b'x']),
        Just(vec![0x20])
    ];
    let uri = proptest::option::of("mimi://[a-z]{1,9}/u/[a-z]{1,9}");
    (uri.clone(), uri, vec((key, value), 0..5)).prop_map(|(sender, room, others)| {
        let mut extensions = Extensions::default();
        for (key, value) in others {
            extensions.set(key, &value).unwrap();
        }
        extensions.sender_uri = sender;
        extensions.room_uri = room;
        extensions
    })
}

fn messages() -> impl Strategy<Value = MimiContent> {
    let expires = proptest::option::of((any::<bool>(), any::<u32>()));
    let fields = (
        any::<[u8; 16]>(),
        ids(),
        vec(any::<u8>(), 0..20),
        expires,
        ids(),
    );
    (fields, extensions(), bodies()).prop_map(|(fields, extensions, body)| {
        let (salt, replaces, topic, expires, in_reply_to) = fields;
        MimiContent {
            salt,
            replaces,
            topic,
            expires: expires.map(|(is_relative, time)| match is_relative {
                true => Expiration::After(time),
                false => Expiration::At(time),
            }),
            in_reply_to,
            extensions,
            body,
        }
    })
}

/// The order of extensions does not count.
fn sorted(message: &MimiContent) -> Vec<(Key, Vec<u8>)> {
    let others = message.extensions.others();
    let mut others: Vec<_> = others
        .map(|(key, value)| (key.clone(), value.to_vec()))
        .collect();
    others.sort_by_key(|(key, _)| format!("{key:?}"));
    others
}

proptest! {
    #[test]
    fn a_message_is_read_as_it_was_written(message in messages()) {
        let bytes = message.encode().unwrap();
        let read = MimiContent::decode(&bytes).unwrap();
        prop_assert_eq!(read.encode().unwrap(), bytes);
        prop_assert_eq!(sorted(&read), sorted(&message));
        prop_assert_eq!((read.salt, read.replaces, read.in_reply_to, read.expires),
            (message.salt, message.replaces, message.in_reply_to, message.expires));
        prop_assert_eq!(read.body, message.body);
    }

    #[test]
    fn no_other_bytes_are_the_same_message(message in messages(), at: prop::sample::Index, bit in 0..8u32) {
        let mut bytes = message.encode().unwrap();
        let read = MimiContent::decode(&bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = MimiContent::decode(&bytes) {
            prop_assert_ne!(&other, &read);
            prop_assert_eq!(other.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = MimiContent::decode(&bytes) {
            prop_assert_eq!(message.encode().unwrap(), bytes.clone());
        }
        if let Ok(statuses) = decode_report(&bytes) {
            prop_assert_eq!(encode_report(&statuses), bytes);
        }
    }

    #[test]
    fn a_report_is_read_as_it_was_written(ids in vec((any::<[u8; 31]>(), any::<u8>()), 0..20)) {
        let statuses: Vec<_> = ids
            .iter()
            .map(|(hash, status)| {
                let octets = [&[1][..], hash].concat();
                (octets.as_slice().try_into().unwrap(), Status::of(*status))
            })
            .collect();
        prop_assert_eq!(decode_report(&encode_report(&statuses)).unwrap(), statuses);
    }
}
