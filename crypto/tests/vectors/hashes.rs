//! Chains, ids of rows, tags, numbers to compare.

use super::*;

#[test]
fn hashes_are_computed_as_the_documents_say() {
    let mut made = Vectors::new();
    let sha = |parts: &[&[u8]]| -> [u8; 32] { Sha256::digest(parts.concat()).into() };
    let mut hashed = |of: &str, parts: &[&[u8]], output: &[u8]| {
        assert_eq!(sha(parts), output, "{of}");
        let parts: Vec<String> = parts.iter().map(|part| hex(part)).collect();
        add(
            &mut made,
            "SHA-256",
            json!({ "of": of, "parts": parts, "output": hex(output) }),
        );
    };
    let label: &[u8] = b"MIMIMI 1.0 journal chain\0";
    hashed(
        "chain before the first entry",
        &[label, &SEGMENT.0],
        &journal::first_head(&SEGMENT).0,
    );
    let row = journal::row_hash(b"a sealed row");
    hashed("a sealed row", &[b"a sealed row"], &row.0);
    let head = ChainHead([32; 32]);
    for class in [Class::Handshake, Class::Message] {
        let next = journal::next_head(&head, Position(33), class, &row);
        hashed(
            "chain after an entry",
            &[
                b"MIMIMI 1.0 journal entry\0",
                &head.0,
                &33u64.to_be_bytes(),
                &[class as u8],
                &row.0,
            ],
            &next.0,
        );
    }
    hashed(
        "id of a recovery row",
        &[b"MIMIMI 1.0 recovery row\0", &GROUP.0, b"public key"],
        &recovery_row_id(&GROUP, b"public key").0,
    );
    let writer = BlobWriteKey::new([33; 32]);
    hashed("writer of a blob", &[writer.expose()], &writer.hash());
    let permit = JoinCodeSecret::new([34; 32]).permit();
    hashed("a permit", &[permit.expose()], &permit.hash());
    let tags: std::collections::BTreeSet<Tag> = (1..=5u64)
        .map(|at| Tag(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let (count, coded) = code(&tags);
    let tbs = FeedTickTbs {
        version: WIRE_VERSION,
        generation: 35,
        resolution: Resolution::Minutes2,
        number: TickNumber(14_000_000),
        previous: feed::NO_TICK,
        count,
        coded: coded.clone(),
    };
    let encoded = tbs.encode();
    let heads = HeadSigner::new(signer());
    let tick = heads.sign_tick(tbs).unwrap();
    feed::check(&heads.public(), &tick).unwrap();
    hashed(
        "a tick",
        &[b"MIMIMI 1.0 feed tick\0", &encoded],
        &feed::tick_hash(&tick).0,
    );
    let tags: Vec<String> = tags.iter().map(|tag| hex(&tag.0.to_be_bytes())).collect();
    let vector = json!({ "tags": tags, "count": count, "coded": hex(coded.as_slice()), "tick": hex(&tick.encode()) });
    add(&mut made, "tags of a tick", vector);
    for (one, other) in [([36; 32], [37; 32]), ([37; 32], [36; 32])] {
        let number = safety_number::safety_number(&one, &other);
        let vector = json!({ "one": hex(&one), "other": hex(&other), "digits": number });
        add(&mut made, "safety numbers", vector);
    }
    vectors::hold("hashes.json", &made);
}
