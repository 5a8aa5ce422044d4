//! Keys that follow from other keys.

use super::*;

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
    let blob = BlobCapability::new(bytes).id();
    derived("blob id from a capability", &bytes, "blob id", b"", &blob.0);
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
