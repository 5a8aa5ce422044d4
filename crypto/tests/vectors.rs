//! The vectors of derivations, seals, signatures and hashes, for whoever writes a client. What a
//! vector says is computed once more by the formulas of the documents, with other libraries.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use crypto::connection::{self, ConnectionOffer};
use crypto::credential::{self, PseudonymousCredential, PseudonymousCredentialTbs};
use crypto::hpke::{self, HpkeKeyPair};
use crypto::journal::{self, End, HeadSigner};
use crypto::keys::{ConnectionKey, IdentityLinkKey, IdentityLinkWrapperKey};
use crypto::leaf_authorization::{AuthorizedJoin, authorize};
use crypto::reporting::{self as certificates, OwnCertificate};
use crypto::schedule::*;
use crypto::sealing::{self, Place};
use crypto::secret::Secret;
use crypto::sign::{self, LeafKeyPair, Scheme, SignatureKeyPair, sign_content};
use crypto::{feed, kdf, records, safety_number};
use hkdf::Hkdf;
use presentation::{Structures, hex, unhex, vectors};
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, ConnectionRequest, ConnectionResponse};
use protocol::feed::{FeedTickTbs, Resolution, Tag, code};
use protocol::group::{JOIN_CODE_LABEL, JoinCode};
use protocol::ids::*;
use protocol::journal::{Class, EntryContent, Event};
use protocol::padding::{bucket, padme};
use protocol::reporting::{
    AbuseReport, CERTIFICATE_LABEL, Occasion, Padded, ReportReason, ReportingCertificate,
};
use protocol::{WIRE_VERSION, Wire};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const GROUP: GroupId = GroupId([1; 16]);
const SEGMENT: SegmentId = SegmentId([2; 32]);

type Vectors = BTreeMap<String, Vec<Value>>;

fn add(made: &mut Vectors, section: &str, vector: Value) {
    made.entry(section.to_owned()).or_default().push(vector);
}

fn signer() -> SignatureKeyPair {
    SignatureKeyPair::from_seed(&Secret::new([3; 32]))
}

fn real() -> ClientCredential {
    ClientCredential {
        name: opaque(*b"alice"),
        signature_public_key: opaque(signer().public()),
    }
}

/// RFC 5869 with the info of the documents.
fn hkdf(salt: Option<&[u8]>, secret: &[u8], name: &str, context: &[u8], output: &mut [u8]) {
    let info = [b"MIMIMI 1.0 ", name.as_bytes(), &[0], context].concat();
    Hkdf::<Sha256>::new(salt, secret)
        .expand(&info, output)
        .unwrap();
}

#[test]
fn keys_are_derived_as_the_documents_say() {
    let mut made = Vectors::new();
    let mut derived = |of: &str, secret: &[u8; 32], name: &str, context: &[u8], output: &[u8]| {
        let mut expected = vec![0; output.len()];
        hkdf(None, secret, name, context, &mut expected);
        assert_eq!(expected, output, "{of}");
        let vector = json!({
            "of": of, "secret": hex(secret), "name": name, "context": hex(context),
            "output": hex(output),
        });
        add(&mut made, "derive", vector);
    };
    let bytes = [4; 32];
    let group_and_epoch = [&GROUP.0[..], &7u64.to_be_bytes()].concat();
    let rotation = RotationSecret::new(bytes);
    derived(
        "S_0 from R",
        &bytes,
        "state key",
        b"",
        rotation.state_key().expose(),
    );
    derived(
        "W from R",
        &bytes,
        "link wrapper",
        b"",
        rotation.wrapper_key().expose(),
    );
    let state = StateKey::new(bytes);
    derived(
        "segment id from S_0",
        &bytes,
        "segment",
        &group_and_epoch,
        &state.segment(&GROUP, RotationEpoch(7)).0,
    );
    derived("S_1 from S_0", &bytes, "next", b"", state.next().expose());
    let journal = JournalKey::new(bytes);
    derived(
        "T_0 from k_0",
        &bytes,
        "tag",
        b"",
        journal.tag_key().expose(),
    );
    derived("k_1 from k_0", &bytes, "next", b"", journal.next().expose());
    let tag = TagKey::new(bytes);
    derived("F_d from T_d", &bytes, "feed", b"", tag.feed_key().expose());
    derived("T_1 from T_0", &bytes, "next", b"", tag.next().expose());
    let number = 45_000_000u64;
    let context = [&[2][..], &number.to_be_bytes()].concat();
    let in_tick = FeedKey::new(bytes).tag(Resolution::Seconds20, TickNumber(number));
    derived(
        "tag of a tick from F_d",
        &bytes,
        "tick",
        &context,
        &in_tick.0.to_be_bytes(),
    );
    let (id, key) = WelcomeSecret::new(bytes).of(b"KeyPackageRef");
    let own: [u8; 32] = kdf::derive(&bytes, "welcome of", b"KeyPackageRef");
    derived(
        "of a KeyPackage from X",
        &bytes,
        "welcome of",
        b"KeyPackageRef",
        &own,
    );
    derived("Welcome's id from that", &own, "welcome id", b"", &id.0);
    derived(
        "Welcome's key from that",
        &own,
        "welcome key",
        b"",
        key.expose(),
    );
    let record = JoinKey::new(bytes).record_id(&GROUP);
    derived(
        "id of a join record from its key",
        &bytes,
        "join record",
        &GROUP.0,
        &record.0,
    );
    let code = JoinCodeSecret::new(bytes);
    derived(
        "permit from a code",
        &bytes,
        "permit",
        b"",
        code.permit().expose(),
    );
    derived(
        "seed of an HPKE key from a code",
        &bytes,
        "hpke",
        b"",
        code.hpke_seed().expose(),
    );
    let pool = PoolToken::new(bytes).pool();
    derived("pool id from a token", &bytes, "pool", b"", &pool.0);
    for (of, name) in [
        (
            "what seals KeyPackage sets, from a token",
            "key package sets",
        ),
        ("what seals people, from W", "people"),
        ("what seals a group's profile, from W", "group profile"),
    ] {
        derived(of, &bytes, name, b"", &kdf::derive::<32>(&bytes, name, b""));
    }
    for n in 1u8..=2 {
        for name in ["restored leaf", "restored recovery seed"] {
            let output = kdf::derive::<32>(&bytes, name, &[n]);
            derived(
                "seed of a restored client, number n",
                &bytes,
                name,
                &[n],
                &output,
            );
        }
    }
    let backup = kdf::derive::<32>(&bytes, "backup", &[5; 16]);
    derived(
        "key of a backup, from a recovery key",
        &bytes,
        "backup",
        &[5; 16],
        &backup,
    );

    let context = b"PseudonymousCredentialTbs";
    let output = kdf::expand_with_label(&bytes, "IdentityLinkKey", context);
    let info = [&[0, 32, 23][..], b"MLS 1.0 IdentityLinkKey", &[25], context].concat();
    let mut expected = [0; 32];
    Hkdf::<Sha256>::from_prk(&bytes)
        .unwrap()
        .expand(&info, &mut expected)
        .unwrap();
    assert_eq!(output, expected);
    let vector = json!({
        "of": "link key from a connection key", "secret": hex(&bytes), "label": "IdentityLinkKey",
        "context": hex(context), "output": hex(&output),
    });
    add(&mut made, "ExpandWithLabel", vector);
    for seed in [[6; 32], [7; 32]] {
        let pair = LeafKeyPair::from_seed(Scheme::EcdsaP256, &Secret::new(seed)).unwrap();
        let vector = json!({ "seed": hex(&seed), "public_key": hex(&pair.public()) });
        add(&mut made, "P-256 signature key", vector);
    }
    vectors::hold("derivations.json", &made);
}

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
    let kept = vectors::kept("seals.json");
    link_keys(&mut made, &kept);
    to_keys(&mut made, &kept);
    vectors::hold("seals.json", &made);
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

#[test]
fn signatures_are_made_as_the_documents_say() {
    let mut made = Vectors::new();
    let structures = Structures::of_documents().unwrap();
    let seed = hex(&[3; 32]);
    let public = signer().public();
    let mut signed = |label: &str, name: &str, content: &[u8], signature: &[u8]| {
        assert_eq!(signer().sign(label, content), signature, "{label}");
        sign::verify(&public, label, content, signature).unwrap();
        let structure = vectors::structure(&structures, name, content);
        let vector = json!({
            "label": format!("MIMIMI 1.0 {label}"), "seed": seed, "public_key": hex(&public),
            "of": name, "content": hex(content), "signed": hex(&sign_content(label, content)),
            "signature": hex(signature),
        });
        add(&mut made, "signatures", vector);
        // Structures that only this crate knows.
        if ["HandleRecordTbs", "AttributionTbs"].contains(&name) {
            add(&mut made, name, structure);
        }
    };
    let leaf = || LeafKeyPair::from(signer());
    let record = connection::sign_handle_record(b"alice", &real(), &signer(), &[22; 32]);
    connection::verify_handle_record(b"alice", &record).unwrap();
    let tbs = [opaque(*b"alice").encode(), opaque([22; 32]).encode()].concat();
    signed(
        "HandleRecordTBS",
        "HandleRecordTbs",
        &tbs,
        record.signature.as_slice(),
    );
    let wrapper = IdentityLinkWrapperKey::new([23; 32]);
    let attribution = connection::sign_attribution(&signer(), &GROUP, 24, &wrapper, b"team");
    connection::verify_attribution(&attribution, &GROUP, 24, &wrapper, b"team").unwrap();
    let numbers = [&GROUP.0[..], &24u64.to_be_bytes(), wrapper.expose()].concat();
    let tbs = [numbers, opaque(*b"team").encode()].concat();
    signed(
        "AttributionTBS",
        "AttributionTbs",
        &tbs,
        attribution.signature.as_slice(),
    );
    let recovery = journal::sign_recovery_key(&leaf(), &GROUP, b"public key");
    let key = opaque(public).encode();
    let tbs = [&GROUP.0[..], &key, &opaque(*b"public key").encode()].concat();
    signed(
        "RecoveryKeyTBS",
        "RecoveryKeyTbs",
        &tbs,
        recovery.signature.as_slice(),
    );
    let word = authorize(
        &leaf(),
        &GROUP,
        &SEGMENT,
        AuthorizedJoin::Rejoin,
        5,
        6,
        b"new key",
    );
    let tbs = [
        &GROUP.0[..],
        &SEGMENT.0,
        &[3],
        &5u32.to_be_bytes(),
        &6u64.to_be_bytes(),
        &opaque(*b"new key").encode(),
    ]
    .concat();
    signed(
        "LeafAuthorizationTBS",
        "LeafAuthorizationTbs",
        &tbs,
        word.signature.as_slice(),
    );
    let end = End {
        generation: 13,
        next: Position(14),
        chain: ChainHead([11; 32]),
    };
    let heads = HeadSigner::new(signer());
    let head = heads.sign(&SEGMENT, end).unwrap();
    let tbs = [
        &13u64.to_be_bytes()[..],
        &SEGMENT.0,
        &14u64.to_be_bytes(),
        &[11; 32],
    ]
    .concat();
    signed("JournalHeadTBS", "JournalHeadTbs", &tbs, &head.signature);
    let join_code = JoinCode {
        permit_hash: [25; 32],
        public_key: opaque([26; 32]),
        expiry: Week(2_900),
        epoch: Epoch(27),
        maker: LeafIndex(28),
        signature: opaque(*b""),
    };
    let tbs = journal::join_code_tbs(&GROUP, &join_code);
    signed(
        JOIN_CODE_LABEL,
        "JoinCodeTbs",
        &tbs,
        &leaf().sign(JOIN_CODE_LABEL, &tbs),
    );

    let mut certificate = ReportingCertificate {
        version: 1,
        key_id: certificates::key_id(&public),
        commitment: Sha256::digest(
            [b"MIMIMI 1.0 reporting commitment\0", &[29; 32][..], &public].concat(),
        )
        .into(),
        account_handle: [30; 60],
        not_after_day: 20_000,
        signature: [0; 64],
    };
    let tbs = certificate.to_be_signed();
    certificate.signature = signer().sign(CERTIFICATE_LABEL, &tbs).try_into().unwrap();
    let own = OwnCertificate {
        certificate,
        salt: [29; 32],
    };
    certificates::verify_certificate(&own, &public, &[public], 19_000).unwrap();
    let introduction =
        certificates::introduce(&signer(), &own, Occasion::Request, &public, 19_000, "Hello")
            .unwrap();
    signed(
        "IntroductionTBS",
        "Introduction",
        &introduction.introduction.encode(),
        &introduction.signature,
    );
    let mut unlisted = |label: &str, content: &[u8], signature: &[u8]| {
        assert_eq!(signer().sign(label, content), signature, "{label}");
        let vector = json!({
            "label": format!("MIMIMI 1.0 {label}"), "seed": seed, "public_key": hex(&public),
            "of": "everything before the signature", "content": hex(content),
            "signed": hex(&sign_content(label, content)), "signature": hex(signature),
        });
        add(&mut made, "signatures over the rest of a structure", vector);
    };
    unlisted(CERTIFICATE_LABEL, &tbs, &own.certificate.signature);
    let mut report = AbuseReport {
        version: 1,
        reason: ReportReason::Spam,
        account_token_digest: [31; 32],
        evidence: introduction,
        signature: [0; 64],
    };
    let tbs = report.to_be_signed();
    report.signature = signer().sign("AbuseReportTBS", &tbs).try_into().unwrap();
    unlisted("AbuseReportTBS", &tbs, &report.signature);

    let p256 = LeafKeyPair::from_seed(Scheme::EcdsaP256, &Secret::new([6; 32])).unwrap();
    let signature = p256.sign("RecoveryKeyTBS", b"content");
    sign::verify(&p256.public(), "RecoveryKeyTBS", b"content", &signature).unwrap();
    let vector = json!({
        "label": "MIMIMI 1.0 RecoveryKeyTBS", "public_key": hex(&p256.public()),
        "content": hex(b"content"), "signature": hex(&signature),
    });
    add(&mut made, "P-256 signatures", vector);
    vectors::hold("signatures.json", &made);
}

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
