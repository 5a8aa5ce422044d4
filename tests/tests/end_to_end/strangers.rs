//! What somebody who is nothing but a contact, or a member among others, makes others pay, wait for
//! or lose.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use client::Client;
use crypto::connection::{ConnectionOffer, seal_connection_request};
use crypto::hpke::HpkeKeyPair;
use crypto::keys::ConnectionKey;
use crypto::schedule::{JoinCodeSecret, PoolToken};
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use end_to_end::{
    LogLevel, Outer, Stack, befriend, blank, database, device, group_with, link, settle,
    signed_by_anybody, talks,
};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::ids::{ChainHead, GroupId, PoolId, SegmentId};
use protocol::inbox::{REQUEST_SIZE, RequestConnectionRequest};
use protocol::key_packages::CountKeyPackagesRequest;
use protocol::operation::Operation;
use protocol::reporting::Padded;
use protocol::welcome::WelcomePointer;
use rusqlite::Connection;

const ALICE: &str = "alice";
const BOB: &str = "bob";
const CAROL: &str = "carol";
const GROUP: &str = "expedition";

/// The pool from which the client in a home directory claims the sets of its only contact.
fn pool_of_contact(stack: &Stack, home: &str) -> PoolId {
    let token: [u8; 32] = database(&stack.home(home))
        .query_row("SELECT connection_token FROM contacts", (), |row| {
            row.get(0)
        })
        .unwrap();
    PoolToken::new(token).pool()
}

#[tokio::test]
async fn whoever_knows_another_ones_pool_uses_up_nothing_of_its_owners() {
    const FEW: &str = "[ds.allowances.owner]\ncapacity = 30\nrefill_per_minute = 1";
    let stack = Stack::start_with(LogLevel::Info, FEW).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    befriend(&alice, &bob).await;
    let pool = pool_of_contact(&stack, BOB);
    let body = CountKeyPackagesRequest { pool }.encode();
    let outer = Outer::of(&stack).await;
    for _ in 0..40 {
        let request = signed_by_anybody(Operation::CountKeyPackages, &body);
        let answer = outer.post(Operation::CountKeyPackages, &request).await;
        assert_eq!(answer.problem().as_deref(), Some("not-owner"));
    }
    // She is rid of him, and it costs her nothing.
    let before = alice.tokens().await.unwrap();
    alice.disconnect(BOB).await.unwrap();
    assert_eq!(alice.tokens().await.unwrap(), before);
}

/// Where one client was told, and another one tells, that a third one's Welcome is.
struct Pointer {
    group: [u8; 16],
    epoch: i64,
    credential: Vec<u8>,
    pointer: WelcomePointer,
    expires_day: u32,
}

impl Pointer {
    /// The one that a client has told, or is about to tell. Until [`Pointer::is_told`] it does not.
    fn taken_from(db: &Connection) -> Self {
        let pointer = db
            .query_row(
                "SELECT group_id, epoch, credential, pointer, expires_day FROM pointers WHERE state = 1",
                (),
                |row| {
                    Ok(Self {
                        group: row.get(0)?,
                        epoch: row.get(1)?,
                        credential: row.get(2)?,
                        pointer: WelcomePointer::decode(&row.get::<_, Vec<u8>>(3)?).unwrap(),
                        expires_day: row.get(4)?,
                    })
                },
            )
            .expect("a pointer that is not told yet");
        db.execute("DELETE FROM pointers", ()).unwrap();
        pointer
    }

    fn is_told(&self, db: &Connection) {
        db.execute(
            "INSERT INTO pointers (group_id, epoch, credential, pointer, state, expires_day)
             VALUES (?, ?, ?, ?, 1, ?)",
            (
                self.group,
                self.epoch,
                &self.credential,
                self.pointer.encode(),
                self.expires_day,
            ),
        )
        .unwrap();
        db.execute(
            "INSERT OR IGNORE INTO acts (act, about, due_ms) VALUES ('pointer', ?, 0)",
            [self.group],
        )
        .unwrap();
    }
}

/// Alice has added carol to a group with bob; nobody has told carol where her Welcome is.
async fn added(stack: &Stack) -> ([Client; 3], Pointer) {
    let alice = device(stack, 0, ALICE).await;
    let bob = device(stack, 1, BOB).await;
    let carol = device(stack, 2, CAROL).await;
    group_with(GROUP, &alice, &[&bob]).await;
    befriend(&alice, &carol).await;
    befriend(&bob, &carol).await;
    alice.stage_add(GROUP, &[CAROL]).await.unwrap();
    alice.submit(GROUP).await.unwrap();
    bob.sync(0).await.unwrap();
    let pointer = Pointer::taken_from(&database(&stack.home(ALICE)));
    ([alice, bob, carol], pointer)
}

/// Bob, who is a member too, points carol elsewhere before alice points her where she has to go.
async fn comes_in_all_the_same(twist: impl Fn(&mut WelcomePointer)) {
    let stack = Stack::start(LogLevel::Info).await;
    let ([alice, bob, carol], mut pointer) = added(&stack).await;
    let (segment, chain) = (pointer.pointer.segment, pointer.pointer.chain);
    twist(&mut pointer.pointer);
    pointer.is_told(&database(&stack.home(BOB)));
    bob.sync(0).await.unwrap();
    for _ in 0..3 {
        carol.sync(0).await.unwrap();
    }
    (pointer.pointer.segment, pointer.pointer.chain) = (segment, chain);
    pointer.is_told(&database(&stack.home(ALICE)));
    alice.sync(0).await.unwrap();
    for _ in 0..3 {
        carol.sync(0).await.unwrap();
    }
    let evidence = carol.evidence(GROUP);
    assert!(carol.stop_reason(GROUP).unwrap().is_none(), "{evidence:?}");
    talks(GROUP, &[&alice, &bob, &carol]).await;
}

#[tokio::test]
async fn a_member_who_points_a_joiner_to_another_segment_keeps_nobody_out() {
    comes_in_all_the_same(|pointer| pointer.segment = SegmentId([7; 32])).await;
}

#[tokio::test]
async fn a_member_who_tells_a_joiner_another_chain_has_nobody_take_the_service_for_a_liar() {
    comes_in_all_the_same(|pointer| pointer.chain = ChainHead([7; 32])).await;
}

#[tokio::test]
async fn an_invitation_that_never_fits_is_asked_for_ever_more_seldom() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let ([_, bob, carol], mut pointer) = added(&stack).await;
    pointer.pointer.segment = SegmentId([7; 32]);
    pointer.is_told(&database(&stack.home(BOB)));
    bob.sync(0).await.unwrap();
    for _ in 0..40 {
        carol.sync(0).await.unwrap();
    }
    let asked = liar.heard(Operation::JoinRecord).len();
    assert!((1..10).contains(&asked), "{asked}");
}

#[tokio::test]
async fn whatever_is_put_into_an_inbox_keeps_nothing_else_out_of_it() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    let mallory = device(&stack, 2, "mallory").await;
    let outer = Outer::of(&stack).await;
    let key = {
        let seed: [u8; 32] = database(&stack.home(BOB))
            .query_row("SELECT establishment_seed FROM profile", (), |row| {
                row.get(0)
            })
            .unwrap();
        HpkeKeyPair::from_seed(&Secret::new(seed)).unwrap()
    };
    let request = |name: &[u8], response_key: &[u8]| {
        let signer = SignatureKeyPair::random().unwrap();
        let offer = ConnectionOffer {
            credential: &ClientCredential {
                name: opaque(name),
                signature_public_key: opaque(signer.public()),
            },
            group_id: GroupId([7; 16]),
            connection_key: &ConnectionKey::new([8; 32]),
            response_key,
            code: &JoinCodeSecret::new([9; 32]),
            introduction: Padded::new(*b"nobody's").unwrap(),
        };
        seal_connection_request(&offer, &signer, key.public()).unwrap()
    };
    let garbage = |content: &[u8]| {
        let info = "MIMIMI 1.0 connection request";
        crypto::hpke::seal_in(REQUEST_SIZE, key.public(), info, &[], content).unwrap()
    };
    let poisons = [
        vec![0; REQUEST_SIZE],
        vec![0xff; REQUEST_SIZE],
        garbage(b""),
        garbage(&[0xff; 2_900]),
        request(b"", &[1; 1216]),
        request(b"\xff\xfe", &[1; 1216]),
        request(ALICE.as_bytes(), &[0; 1216]),
    ];
    for poison in poisons {
        let token = mallory.withdraw_tokens(1).await.unwrap().remove(0);
        let token = URL_SAFE.encode(token);
        let body = RequestConnectionRequest {
            handle: opaque(BOB.as_bytes()),
            encrypted_request: opaque(poison),
        };
        let request = signed_by_anybody(Operation::RequestConnection, &body.encode());
        let field = format!("PrivateToken token=\"{token}\"");
        let answer = outer
            .post_with(
                Operation::RequestConnection,
                &request,
                &[("authorization", &field)],
            )
            .await;
        assert_eq!(answer.status, 200, "{:?}", answer.problem());
    }
    bob.check_inbox().await.unwrap();
    let false_alice = bob.incoming_requests().unwrap();
    assert_eq!(false_alice.len(), 1, "{false_alice:?}");
    assert!(bob.accept_request(&false_alice[0].id).await.is_err());
    alice.connect(BOB).await.unwrap();
    bob.check_inbox().await.unwrap();
    let requests = bob.incoming_requests().unwrap();
    let id = &requests.last().unwrap().id;
    bob.accept_request(id).await.unwrap();
    settle(&[&alice, &bob]).await;
    assert_eq!(alice.contacts().unwrap().len(), 1);
}

#[tokio::test]
async fn nobody_takes_the_name_of_a_group_that_is_over_but_who_was_in_it() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    let carol = device(&stack, 2, CAROL).await;
    group_with(GROUP, &alice, &[&carol]).await;
    befriend(&bob, &carol).await;
    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    carol.sync(0).await.unwrap();
    let names = |carol: &Client| {
        let groups = carol.groups().unwrap().into_iter();
        let mut names: Vec<_> = groups.map(|group| (group.name, group.active)).collect();
        names.sort();
        names
    };
    let named = |name: &str, active| (name.to_owned(), active);
    bob.create_group(GROUP).await.unwrap();
    bob.add_to_group(GROUP, &[CAROL]).await.unwrap();
    bob.sync(0).await.unwrap();
    carol.sync(0).await.unwrap();
    let false_one = format!("{GROUP} (2)");
    let expected = [named(GROUP, false), named(&false_one, true)];
    assert_eq!(names(&carol), expected);
    // Who was in it may.
    alice.delete_group(GROUP).await.unwrap();
    alice.create_group(GROUP).await.unwrap();
    alice.add_to_group(GROUP, &[CAROL]).await.unwrap();
    alice.sync(0).await.unwrap();
    carol.sync(0).await.unwrap();
    let former = format!("{GROUP} (former)");
    let expected = [
        named(GROUP, true),
        named(&false_one, true),
        named(&former, false),
    ];
    assert_eq!(names(&carol), expected);
}

#[tokio::test]
async fn a_contact_who_changes_devices_all_day_costs_a_few_tokens() {
    const CHANGES: usize = 11;
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    befriend(&alice, &bob).await;
    settle(&[&alice, &bob]).await;
    let before = alice.tokens().await.unwrap();
    for number in 0..CHANGES {
        let phone = blank(&stack, 2 + number % 2, &format!("phone {number}")).await;
        link(&bob, &phone, "phone").await;
        alice.sync(0).await.unwrap();
        bob.unlink_device("phone").await.unwrap();
        settle(&[&bob, &alice]).await;
    }
    let spent = before - alice.tokens().await.unwrap();
    assert!(spent <= 8, "{spent}");
}
