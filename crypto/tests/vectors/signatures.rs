//! What is signed, and under which label.

use super::*;

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
