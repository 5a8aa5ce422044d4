//! Vectors of messages and their ids, for whoever writes a client.

use std::collections::BTreeMap;

use content::{Expiration, MessageId, MimiContent, Status};
use presentation::{hex, vectors};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const SENDER: &str = "mimi://example.org/p/00000000-0000-4000-8000-000000000000";
const ROOM: &str = "mimi://example.org/r/AQEBAQEBAQEBAQEBAQEBAQ";

#[test]
fn messages_and_their_ids_are_what_the_vectors_say() {
    let salt = [1; 16];
    let first = MessageId::of(
        SENDER,
        ROOM,
        &MimiContent::text(salt, "Hello").encode().unwrap(),
        &salt,
    );
    let first = first.unwrap();
    let messages = [
        ("a plain text", MimiContent::text(salt, "Hello")),
        ("markdown", MimiContent::markdown(salt, "**Hello**")),
        (
            "an answer",
            MimiContent::text([3; 16], "Hi").replying_to(first),
        ),
        (
            "a reaction",
            MimiContent::reaction([4; 16], first, "\u{1f44b}"),
        ),
        (
            "an edit",
            MimiContent::text([2; 16], "Hello, everybody").replacing(first),
        ),
        ("a deletion", MimiContent::delete([5; 16], first)),
        (
            "a message that expires",
            MimiContent::text(salt, "Hello").expiring(Expiration::After(60)),
        ),
        (
            "receipts",
            MimiContent::report([6; 16], &[(first, Status::Read)]),
        ),
    ];
    let mut made = BTreeMap::new();
    let vectors = messages.map(|(of, message)| {
        let encoded = message.encode().unwrap();
        let id = MessageId::of(SENDER, ROOM, &encoded, &message.salt).unwrap();
        // By the formula of the documents.
        let uri = |uri: &str| {
            [
                &u16::try_from(uri.len()).unwrap().to_be_bytes(),
                uri.as_bytes(),
            ]
            .concat()
        };
        let hash = Sha256::digest(
            [
                uri(SENDER),
                uri(ROOM),
                encoded.clone(),
                message.salt.to_vec(),
            ]
            .concat(),
        );
        assert_eq!(id.octets(), *[&[1][..], &hash[..31]].concat());
        json!({
            "of": of, "sender": SENDER, "room": ROOM, "salt": hex(&message.salt),
            "message": hex(&encoded), "id": hex(&id.octets()),
        })
    });
    made.insert("messages".to_owned(), vectors.to_vec());
    vectors::hold("content.json", &made);
}
