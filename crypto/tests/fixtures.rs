//! What the first release keeps and sends under its keys opens and verifies for ever. Once there is
//! a release, a line of the fixtures may be added, and none may change.
#![allow(clippy::unwrap_used)]

use crypto::connection::{self, ConnectionOffer};
use crypto::credential::{self, PseudonymousCredential};
use crypto::hpke::{self, HpkeKeyPair};
use crypto::journal::{self, End};
use crypto::keys::{ConnectionKey, IdentityLinkKey, IdentityLinkWrapperKey};
use crypto::schedule::{JoinCodeSecret, JoinKey, JournalKey};
use crypto::sealing::{self, Place};
use crypto::secret::Secret;
use crypto::service_keys::ServiceKeys;
use crypto::sign::{LeafKeyPair, Scheme, SignatureKeyPair};
use crypto::{records, safety_number};
use protocol::Wire;
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::ids::{
    ChainHead, GroupId, JoinRecordId, Position, RecoveryRowId, RotationEpoch, SegmentId, Step,
};
use protocol::journal::{Class, EntryContent, Event};
use protocol::reporting::Padded;

/// Read when a test runs: nothing is compiled again for a line more.
fn fixtures() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures.txt")).unwrap()
}

/// Holds what is made now against its fixture.
fn check(name: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = format!("{name}={hex}");
    assert!(
        fixtures().lines().any(|it| it == line),
        "no fixture: {line}"
    );
}

/// What was made once with randomness: only reading it can be tried.
fn kept(name: &str, fresh: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let fixtures = fixtures();
    let mut lines = fixtures.lines().filter_map(|line| line.split_once('='));
    let Some((_, hex)) = lines.find(|(of, _)| *of == name) else {
        check(name, &fresh());
        return Vec::new();
    };
    let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).filter_map(byte).collect()
}

const GROUP: GroupId = GroupId([1; 16]);
const SEGMENT: SegmentId = SegmentId([2; 32]);

fn signer() -> SignatureKeyPair {
    SignatureKeyPair::from_seed(&Secret::new([3; 32]))
}

fn real() -> ClientCredential {
    ClientCredential {
        name: opaque(*b"Alice"),
        signature_public_key: opaque(signer().public()),
    }
}

#[test]
fn a_sealed_part_is_what_it_always_was() {
    let place = Place {
        table: "table",
        row: b"row",
        part: "part",
    };
    let sealed = sealing::seal_salted(&[1; 32], [2; 32], place, b"plaintext").unwrap();
    check("sealed", &sealed);
    let opened = sealing::open(&[1; 32], place, &sealed).unwrap();
    assert_eq!(*opened, b"plaintext");
}

#[test]
fn a_key_file_holds_the_keys_that_it_always_held() {
    let file = [&[1][..], &[4; 32], &[2], &[5; 32], &[6; 32]].concat();
    let keys = ServiceKeys::from_file(&file).unwrap();
    for (fingerprint, generation) in keys.fingerprints().iter().zip(1..) {
        check(&format!("fingerprint {generation}"), &**fingerprint);
    }
    for (sender, generation) in keys.external_senders().iter().zip(1..) {
        check(
            &format!("Ed25519 sender {generation}"),
            &sender.ed25519.public(),
        );
        check(&format!("P-256 sender {generation}"), &sender.p256.public());
    }
    check("journal signing key", &keys.journal_signing().public());
    check("row", &keys.rows().row(7, &[b"fixed", b"last"]));
}

#[test]
fn a_journal_is_sealed_chained_and_signed_as_it_always_was() {
    let key = JournalKey::new([7; 32]);
    let content = EntryContent {
        accepted_ms: 8,
        event: Event::Message(opaque(*b"message")),
    };
    let sealed = journal::seal_entry(&key, [9; 32], &SEGMENT, Step(10), &content).unwrap();
    check("hash of an entry", &journal::row_hash(&sealed).0);
    check("first head", &journal::first_head(&SEGMENT).0);
    let (head, hash) = (ChainHead([11; 32]), journal::row_hash(b"row"));
    for class in [Class::Handshake, Class::Message] {
        let next = journal::next_head(&head, Position(12), class, &hash);
        check(&format!("head after a {class:?}"), &next.0);
    }
    let end = End {
        generation: 13,
        next: Position(14),
        chain: head,
    };
    let signer = journal::HeadSigner::new(signer());
    check("signed head", &signer.sign(&SEGMENT, end).unwrap().encode());
    let leaf = LeafKeyPair::from_seed(Scheme::Ed25519, &Secret::new([15; 32])).unwrap();
    let recovery = journal::sign_recovery_key(&leaf, &GROUP, b"public key");
    check("signed recovery key", &recovery.encode());
}

#[test]
fn records_are_sealed_as_they_always_were() {
    let key = JoinKey::new([16; 32]);
    let id = JoinRecordId([17; 32]);
    let page = records::seal_join_page(&key, [18; 32], &id, (1, 2), b"page").unwrap();
    check("page of a join record", &page);
    let id = RecoveryRowId([19; 32]);
    let row = records::seal_recovery_row(&id, [20; 32], RotationEpoch(21), b"row").unwrap();
    check("recovery row", &row);
}

#[test]
fn what_people_signed_and_sealed_is_read() {
    let record = connection::sign_handle_record(b"alice", &real(), &signer(), &[22; 32]);
    check("handle record", &record.encode());
    let wrapper = || IdentityLinkWrapperKey::new([23; 32]);
    let attribution = connection::sign_attribution(&signer(), &GROUP, 24, &wrapper(), b"team");
    check("attribution", &attribution.encode());
    let number = safety_number::safety_number(&[25; 32], &[26; 32]);
    check("safety number", number.as_bytes());

    let wrapped = kept("wrapped link key", || {
        credential::wrap_link_key(&wrapper(), &IdentityLinkKey::new([27; 32])).unwrap()
    });
    let opened = credential::unwrap_link_key(&wrapper(), &wrapped).unwrap();
    assert_eq!(*opened.expose(), [27; 32]);

    let connection_key = ConnectionKey::new([28; 32]);
    let issued = kept("pseudonymous credential", || {
        let user = opaque(*b"mimi://example.org/p/user");
        PseudonymousCredential::issue(
            "example.org",
            user,
            &[29; 32],
            &real(),
            &signer(),
            &connection_key,
        )
        .unwrap()
        .0
        .encode()
    });
    let issued = PseudonymousCredential::decode(&issued).unwrap();
    let link_key = issued.link_key(&connection_key);
    assert_eq!(issued.open_identity_link(&link_key).unwrap(), real());

    let introducing = kept("introducing credential", || {
        let user = opaque(*b"mimi://example.org/p/user");
        let introduction = Padded::new(*b"introduction").unwrap();
        PseudonymousCredential::issue_introducing(
            "example.org",
            user,
            &[30; 32],
            &real(),
            &signer(),
            &connection_key,
            introduction,
        )
        .unwrap()
        .0
        .encode()
    });
    let introducing = PseudonymousCredential::decode(&introducing).unwrap();
    let link_key = introducing.link_key(&connection_key);
    let link = introducing.open_introducing_link(&link_key).unwrap();
    assert_eq!(link.introduction.content(), b"introduction");

    let recipient = HpkeKeyPair::from_seed(&Secret::new([31; 32])).unwrap();
    let sealed = kept("HPKE", || {
        hpke::seal(recipient.public(), "info", b"aad", b"plaintext").unwrap()
    });
    let opened = hpke::open(&recipient, "info", b"aad", &sealed).unwrap();
    assert_eq!(*opened, b"plaintext");

    let request = kept("connection request", || {
        let offer = ConnectionOffer {
            credential: &real(),
            group_id: GROUP,
            connection_key: &connection_key,
            response_key: &[32; 1216],
            code: &JoinCodeSecret::new([33; 32]),
            introduction: Padded::empty(),
        };
        connection::seal_connection_request(&offer, &signer(), recipient.public()).unwrap()
    });
    let opened = connection::open_connection_request(&recipient, &request).unwrap();
    assert_eq!(opened.requester_client_credential, real());
    assert_eq!(*opened.extensions.code.expose(), [33; 32]);
}
