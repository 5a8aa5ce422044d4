//! The vectors of what clients tell each other, seal for each other and send, for whoever writes
//! another one. What has randomness of its own was made once, and is read here.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use basis::hex;
use presentation::{Structures, unhex, vectors};
use protocol::Wire as _;
use protocol::ids::GroupId;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::endpoints::Endpoints;
use crate::flows::devices::link;
use crate::flows::{backup, invite};
use crate::group_profile;
use crate::history_file;
use crate::mls::{content, rows};
use crate::net::directory::challenge;
use crate::remote_file;
use crate::sync_message::{self, ConnectionUpdate};

const FILE: &str = "client.json";

const STACK: &str = r#"{
    "relay": "https://relay.example/", "gateway": "https://gateway.example",
    "ohttp_keys": "https://mirror.example/ohttp-keys",
    "ds": "https://ds.example", "issuer": "https://issuer.example",
    "operators": { "relay": "A", "gateway": "B", "issuer": "C" }
}"#;

type Vectors = BTreeMap<String, Vec<Value>>;

/// A structure, and those in it that no other file has.
fn add(made: &mut Vectors, structures: &Structures, name: &str, bytes: &[u8]) {
    let vector = vectors::structure(structures, name, bytes);
    let elsewhere = vectors::kept("structures.json");
    for (name, fields) in structures.parts(name, &vector["fields"]).unwrap() {
        let is_new = |made: &Vectors| {
            let others = made.get(&name).into_iter().flatten();
            !elsewhere.contains_key(&name) && !others.into_iter().any(|it| it["fields"] == fields)
        };
        if is_new(made) {
            let encoded = structures.encode(&name, &fields).unwrap();
            let vector = json!({ "fields": fields, "encoded": hex::encode(&encoded) });
            made.entry(name).or_default().push(vector);
        }
    }
    made.entry(name.to_owned()).or_default().push(vector);
}

/// What was made once, by its place.
fn once<'a>(
    kept: &'a Vectors,
    section: &'static str,
    member: &'static str,
) -> impl Fn(usize) -> Option<Vec<u8>> + 'a {
    move |at| unhex(kept.get(section)?.get(at)?.get(member)?.as_str()?).ok()
}

#[test]
fn what_clients_tell_each_other_is_what_documents_and_vectors_say() {
    let structures = Structures::of_documents().unwrap();
    let kept = vectors::kept(FILE);
    let mut made = Vectors::new();
    let mut whole = |name: &str, bytes: &[u8]| add(&mut made, &structures, name, bytes);
    for message in sync_message::tests::samples() {
        whole("SyncFrame", &message.into_frame());
    }
    for content in content::tests::samples() {
        whole("MessageContent", &content);
    }
    let update = ConnectionUpdate {
        version: 1,
        connection_token: protocol::codec::WireSecret::new([2; 32]),
    };
    whole("ConnectionUpdate", &update.encode());
    let printed = invite::tests::code();
    whole("PrintedJoinCode", &printed.encode());
    let (code, package, numbers) = link::tests::sample(sync_message::tests::way());
    whole("DeviceLinkCode", &code);
    whole("LinkPackage", &package);
    whole("Backup", &backup::tests::sample());
    whole("HistorySegment", &history_file::tests::sample());
    let profile = group_profile::GroupProfile {
        picture: None,
        ..group_profile::tests::profile()
    };
    let padded = profile.encode();
    let length = 1 + profile.name.len() + 1 + profile.description.len() + 2;
    whole("GroupProfileContent", &padded[..length]);
    let (group, seed) = (GroupId([7; 16]), [3; 32]);
    let (content, rows) =
        rows::tests::samples(&group, seed, once(&kept, "recovery rows", "sealed"));
    whole("RecoveryRowContent", &content);
    let texts = json!({ "encoded": hex::encode(&printed.encode()), "printed": printed.print() });
    made.insert("printed join codes".to_owned(), vec![texts]);
    let numbers = json!({
        "link code": hex::encode(&code), "number of the code": numbers[0],
        "sealed package": hex::encode(b"the sealed package"), "number of the package": numbers[1],
    });
    made.insert("numbers of device links".to_owned(), vec![numbers]);
    let rows = rows.iter().map(|(ciphersuite, public_key, sealed)| {
        json!({
            "ciphersuite": ciphersuite, "seed": hex::encode(&seed),
            "public_key": hex::encode(public_key), "group_id": hex::encode(&group.0),
            "rotation_epoch": "0", "info": "MIMIMI 1.0 recovery row",
            "aad": hex::encode(&crypto::journal::recovery_aad(&group, protocol::ids::RotationEpoch(0))),
            "content": hex::encode(&content), "sealed": hex::encode(sealed),
        })
    });
    made.insert("recovery rows".to_owned(), rows.collect());
    let backups = backup::tests::files(once(&kept, "backups", "file")).into_iter();
    let backups = backups.map(|(key, file)| json!({ "key": key, "file": hex::encode(&file) }));
    made.insert("backups".to_owned(), backups.collect());
    let (file, told) = remote_file::tests::sample();
    let message = ::content::MimiContent::attachment([1; 16], told.clone().into());
    let attachment = json!({
        "capability": hex::encode(file.capability.expose()), "last_day": file.last_day.0,
        "content_key": hex::encode(file.key.expose()), "nonce_prefix": hex::encode(&file.nonce),
        "digest": hex::encode(&file.digest), "size": file.size, "name": told.filename,
        "url": told.url, "expires": told.expires, "encryption": told.encryption,
        "hash_algorithm": told.hash_algorithm, "media_type": told.media_type,
        "message": hex::encode(&message.encode().unwrap()),
    });
    made.insert("attachments".to_owned(), vec![attachment]);
    let endpoints = Endpoints::from_json(STACK.as_bytes()).unwrap();
    let made_for = challenge(&endpoints);
    let challenge = made_for.serialize().unwrap();
    let digest = made_for.digest().unwrap();
    assert_eq!(digest[..], Sha256::digest(&challenge)[..]);
    let challenge = json!({
        "issuer_name": endpoints.issuer_name(), "origin": endpoints.token_origin(),
        "challenge": hex::encode(&challenge), "digest": hex::encode(&digest),
    });
    made.insert("token challenges".to_owned(), vec![challenge]);
    vectors::hold(FILE, &made);
}
