//! What is sealed under keys, and to keys.

use super::*;

/// A seal for a place, opened once more by the formulas of the documents.
fn seal(
    made: &mut Vectors,
    (table, row, part): (&str, &[u8], &str),
    (secret, salt): (&[u8; 32], [u8; 32]),
    plaintext: &[u8],
    sealed: &[u8],
) {
    let short = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()][..], bytes].concat();
    assert!(
        [table.len(), row.len(), part.len()]
            .iter()
            .all(|it| *it < 64)
    );
    let fields = [table.as_bytes(), row, part.as_bytes()].map(short).concat();
    let aad = [&fields[..], &[1]].concat();
    let mut both = [0; 64];
    hkdf(Some(&salt[..]), secret, "sealed part", &aad, &mut both);
    let (key, commitment) = both.split_at(32);
    let mut padded = u32::try_from(plaintext.len())
        .unwrap()
        .to_be_bytes()
        .to_vec();
    padded.extend(plaintext);
    padded.resize(padme(padded.len()), 0);
    let cipher_key = <[u8; 32]>::try_from(key).unwrap();
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(cipher_key));
    let payload = Payload {
        msg: &padded,
        aad: &aad,
    };
    let body = cipher.encrypt(&Nonce::from([0; 12]), payload).unwrap();
    assert_eq!(
        [&[1][..], &salt, commitment, &body].concat(),
        sealed,
        "{table} {part}"
    );
    let vector = json!({
        "table": table, "row": hex(row), "part": part, "secret": hex(secret), "salt": hex(&salt),
        "aad": hex(&aad), "key": hex(key), "commitment": hex(commitment),
        "plaintext": hex(plaintext), "padded_length": padded.len(), "sealed": hex(sealed),
    });
    add(made, "sealing", vector);
}

/// `uint32 length || content || zeros`, to a size bucket.
fn in_bucket(content: &[u8]) -> Vec<u8> {
    let mut padded = u32::try_from(content.len()).unwrap().to_be_bytes().to_vec();
    padded.extend(content);
    padded.resize(bucket(padded.len()), 0);
    padded
}

#[test]
fn seals_are_made_as_the_documents_say() {
    let mut made = Vectors::new();
    let (secret, salt) = ([8; 32], [9; 32]);
    let content = EntryContent {
        accepted_ms: 1_700_000_000_000,
        event: Event::Message(opaque(*b"MLSMessage")),
    };
    let (step, class) = (Step(10), Class::Message);
    let sealed =
        journal::seal_entry(&JournalKey::new(secret), salt, &SEGMENT, step, &content).unwrap();
    let row = [&SEGMENT.0[..], &step.0.to_be_bytes(), &[class as u8]].concat();
    let plaintext = in_bucket(&content.encode());
    seal(
        &mut made,
        ("journal", &row, "entry"),
        (&secret, salt),
        &plaintext,
        &sealed,
    );

    let id = JoinRecordId([11; 32]);
    let sealed =
        records::seal_join_page(&JoinKey::new(secret), salt, &id, (1, 2), b"a page").unwrap();
    let row = [&id.0[..], &[0, 1, 0, 2]].concat();
    seal(
        &mut made,
        ("join_records", &row, "page"),
        (&secret, salt),
        b"a page",
        &sealed,
    );

    // Places in which clients seal by themselves.
    let of_epoch = [&GROUP.0[..], &7u64.to_be_bytes()].concat();
    let token = PoolToken::new(secret);
    let of = |name| kdf::derive::<32>(&secret, name, &[]);
    let person = [&[12; 32][..], b"alice", &[0; 59]].concat();
    let (pool, welcome) = (token.pool().0, [13; 32]);
    for (table, row, part, secret, plaintext) in [
        (
            "welcomes",
            &welcome[..],
            "welcome",
            secret,
            in_bucket(b"WelcomeContent"),
        ),
        (
            "wrapper_keys",
            &of_epoch[..],
            "former",
            secret,
            vec![14; 32],
        ),
        (
            "key_package_sets",
            &pool[..],
            "set",
            of("key package sets"),
            b"set".to_vec(),
        ),
        ("policies", &GROUP.0[..], "person", of("people"), person),
        (
            "policies",
            &GROUP.0[..],
            "profile",
            of("group profile"),
            vec![15; 256],
        ),
        ("backups", &[][..], "backup", secret, b"Backup".to_vec()),
    ] {
        let place = Place { table, row, part };
        let sealed = sealing::seal_salted(&secret, salt, place, &plaintext).unwrap();
        seal(
            &mut made,
            (table, row, part),
            (&secret, salt),
            &plaintext,
            &sealed,
        );
    }
    chunks(&mut made);
    let kept = vectors::kept("seals.json");
    link_keys(&mut made, &kept);
    to_keys(&mut made, &kept);
    vectors::hold("seals.json", &made);
}

/// Chunks of a blob: STREAM, by its formula. They are long, so the vectors have digests.
fn chunks(made: &mut Vectors) {
    let (key, prefix, blob) = ([25; 32], [26; NONCE_PREFIX], BlobId([27; 32]));
    let cipher = BlobCipher::new(&BlobContentKey::new(key), &prefix);
    let content = vec![b'x'; CHUNK_CONTENT];
    for index in [0, 1, 2] {
        let place = ChunkPlace { blob, index, of: 3 };
        let sealed = cipher.seal(place, &content).unwrap();
        let counter = u32::from(index).to_be_bytes();
        let nonce = [&prefix[..], &counter, &[u8::from(index == 2)]].concat();
        let payload = Payload {
            msg: &content,
            aad: &blob.0,
        };
        let by_formula = Aes256Gcm::new(&Key::<Aes256Gcm>::from(key))
            .encrypt(&Nonce::try_from(&nonce[..]).unwrap(), payload)
            .unwrap();
        assert_eq!(by_formula, sealed);
        assert_eq!(cipher.open(place, &sealed).unwrap(), content);
        let vector = json!({
            "content_key": hex(&key), "nonce_prefix": hex(&prefix), "blob_id": hex(&blob.0),
            "index": index, "of": 3, "nonce": hex(&nonce), "content": "x", "times": CHUNK_CONTENT,
            "sealed_length": sealed.len(), "tag": hex(&sealed[CHUNK_CONTENT..]),
            "sha256_of_sealed": hex(&Sha256::digest(&sealed)),
        });
        add(made, "chunk of a blob", vector);
    }
}

/// What was made once, since it has randomness of its own.
fn once(
    kept: &Vectors,
    section: &str,
    at: usize,
    member: &str,
    fresh: impl FnOnce() -> Vec<u8>,
) -> Vec<u8> {
    let vector = kept.get(section).and_then(|vectors| vectors.get(at));
    let bytes = vector.and_then(|it| unhex(it[member].as_str()?).ok());
    bytes.unwrap_or_else(fresh)
}

/// Identity links and their keys.
fn link_keys(made: &mut Vectors, kept: &Vectors) {
    let wrapper = IdentityLinkWrapperKey::new([16; 32]);
    let wrapped = once(kept, "wrapped link key", 0, "sealed", || {
        credential::wrap_link_key(&wrapper, &IdentityLinkKey::new([17; 32])).unwrap()
    });
    let opened = credential::unwrap_link_key(&wrapper, &wrapped).unwrap();
    assert_eq!(*opened.expose(), [17; 32]);
    let vector = json!({
        "wrapper_key": hex(wrapper.expose()), "nonce": hex(&wrapped[..12]),
        "aad": hex(b"identity link key"), "plaintext": hex(&[17; 32]), "sealed": hex(&wrapped),
    });
    add(made, "wrapped link key", vector);

    let connection_key = ConnectionKey::new([18; 32]);
    let user = || opaque(*b"mimi://example.org/p/00000000-0000-4000-8000-000000000000");
    let leaf_key = [19; 32];
    let issue = |at| {
        once(kept, "identity link", at, "credential", || {
            let (domain, real, signer) = ("example.org", real(), signer());
            let issued = match at {
                0 => PseudonymousCredential::issue(
                    domain,
                    user(),
                    &leaf_key,
                    &real,
                    &signer,
                    &connection_key,
                ),
                _ => PseudonymousCredential::issue_introducing(
                    domain,
                    user(),
                    &leaf_key,
                    &real,
                    &signer,
                    &connection_key,
                    Padded::new(*b"SignedIntroduction").unwrap(),
                ),
            };
            issued.unwrap().0.encode()
        })
    };
    let structures = Structures::of_documents().unwrap();
    for (at, name, size) in [(0, "IdentityLinkTbe", 192), (1, "IntroducingLinkTbe", 576)] {
        let bytes = issue(at);
        let issued = PseudonymousCredential::decode(&bytes).unwrap();
        let key = issued.link_key(&connection_key);
        let opened = issued.open_introducing_link(&key).unwrap();
        assert_eq!(opened.credential, real());
        let tbs = PseudonymousCredentialTbs {
            client_pseudonym: issued.client_pseudonym.clone(),
            user_pseudonym: issued.user_pseudonym.clone(),
            signature_public_key: issued.signature_public_key.clone(),
        }
        .encode();
        let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key.expose()));
        let payload = Payload {
            msg: issued.identity_link_ciphertext.as_slice(),
            aad: &tbs,
        };
        let plain = cipher.decrypt(&Nonce::from([0; 12]), payload).unwrap();
        assert_eq!(plain.len(), size);
        let signature = signer().sign("PseudonymousCredentialTBS", &tbs);
        let mut link = [opaque(signature).encode(), real().encode()].concat();
        if at == 1 {
            link.extend(Padded::<384>::new(*b"SignedIntroduction").unwrap().encode());
        }
        let zeros = vec![0; size - link.len()];
        assert_eq!([&link[..], &zeros].concat(), plain, "{name}");
        let vector = json!({
            "connection_key": hex(connection_key.expose()), "link_key": hex(key.expose()),
            "aad": hex(&tbs), "plaintext": hex(&plain), "credential": hex(&bytes),
        });
        add(made, "identity link", vector);
        add(made, name, vectors::structure(&structures, name, &link));
        add(
            made,
            "PseudonymousCredential",
            vectors::structure(&structures, "PseudonymousCredential", &bytes),
        );
        if at == 0 {
            add(
                made,
                "PseudonymousCredentialTbs",
                vectors::structure(&structures, "PseudonymousCredentialTbs", &tbs),
            );
        }
    }
}

/// What is sealed to the key of a user.
fn to_keys(made: &mut Vectors, kept: &Vectors) {
    let (seed, response_seed) = ([20; 32], [21; 32]);
    let recipient = HpkeKeyPair::from_seed(&Secret::new(seed)).unwrap();
    let asker = HpkeKeyPair::from_seed(&Secret::new(response_seed)).unwrap();
    let connection_key = ConnectionKey::new([22; 32]);
    let code = JoinCodeSecret::new([23; 32]);
    let plain = once(kept, "HPKE", 0, "sealed", || {
        hpke::seal(recipient.public(), "info", b"aad", b"plaintext").unwrap()
    });
    assert_eq!(
        *hpke::open(&recipient, "info", b"aad", &plain).unwrap(),
        b"plaintext"
    );
    let request = once(kept, "HPKE", 1, "sealed", || {
        let offer = ConnectionOffer {
            credential: &real(),
            group_id: GROUP,
            connection_key: &connection_key,
            response_key: asker.public(),
            code: &code,
            introduction: Padded::empty(),
        };
        connection::seal_connection_request(&offer, &signer(), recipient.public()).unwrap()
    });
    let opened: ConnectionRequest =
        connection::open_connection_request(&recipient, &request).unwrap();
    assert_eq!(opened.requester_client_credential, real());
    let encoded = opened.encode();
    let padded = hpke::open(&recipient, "MIMIMI 1.0 connection request", b"", &request).unwrap();
    let length = u16::try_from(encoded.len()).unwrap().to_be_bytes();
    assert!(padded.starts_with(&[&length[..], &encoded].concat()));
    let response = once(kept, "HPKE", 2, "sealed", || {
        let response = ConnectionResponse {
            responder_connection_key: connection_key.to_wire(),
            version: 1,
            connection_token: PoolToken::new([24; 32]).to_wire(),
        };
        connection::seal_connection_response(&response, asker.public(), &GROUP).unwrap()
    });
    let answer = connection::open_connection_response(&asker, &GROUP, &response)
        .unwrap()
        .encode();
    for (of, key, seed, info, aad, plaintext, sealed) in [
        (
            "nothing in particular",
            &recipient,
            seed,
            "info",
            &b"aad"[..],
            &b"plaintext"[..],
            plain,
        ),
        (
            "a ConnectionRequest, padded",
            &recipient,
            seed,
            "MIMIMI 1.0 connection request",
            &b""[..],
            &padded[..],
            request,
        ),
        (
            "a ConnectionResponse",
            &asker,
            response_seed,
            "MIMIMI 1.0 connection response",
            &GROUP.0[..],
            &answer[..],
            response,
        ),
    ] {
        let vector = json!({
            "of": of, "seed": hex(&seed), "public_key": hex(key.public()), "info": info,
            "aad": hex(aad), "plaintext": hex(plaintext), "sealed": hex(&sealed),
        });
        add(made, "HPKE", vector);
    }
}
