//! A contact's pool of KeyPackages: what was used of it is filled up, and nobody empties it unseen.

use client::{Clock as _, Error, Event, SystemClock, UsageError};
use crypto::schedule::PoolToken;
use crypto::sign::{LeafKeyPair, Scheme};
use end_to_end::{LogLevel, Stack, befriend, database, device, events, group_with, talks};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::key_packages::ClaimKeyPackagesRequest;
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::Sender;

use crate::scene::{Scene, scene};

const GROUP: &str = "expedition";

/// Who is removed before they look joins nothing, or not each time. A KeyPackage is used up all the
/// same.
#[tokio::test]
async fn who_was_added_and_removed_again_while_away_can_be_added_still() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    let carol = device(&stack, 2, "carol").await;
    group_with(GROUP, &alice, &[&carol]).await;
    befriend(&alice, &bob).await;
    for _ in 0..4 {
        alice.add_to_group(GROUP, &["bob"]).await.unwrap();
        alice.remove_from_group(GROUP, &["bob"]).await.unwrap();
    }
    events(&bob).await;
    for _ in 0..4 {
        alice.add_to_group(GROUP, &["bob"]).await.unwrap();
        alice.remove_from_group(GROUP, &["bob"]).await.unwrap();
    }
    events(&bob).await;
    alice.add_to_group(GROUP, &["bob"]).await.unwrap();
    talks(GROUP, &[&alice, &bob, &carol]).await;
}

#[tokio::test]
async fn a_pool_that_contacts_have_emptied_puts_nobody_into_two_groups_under_one_pseudonym() {
    let mut scene = scene(&["alice", "bob"]).await;
    let bob = scene.name(1);
    let full = scene.client(1).count_key_packages().await.unwrap();
    let (_, full) = *full.iter().find(|(suite, _)| *suite == 0x4f).unwrap();
    for number in 0..full {
        scene.group(&format!("g{number}"), &[1]).await;
    }
    scene.client(0).create_group("one more").await.unwrap();
    let none_left = scene.client(0).add_to_group("one more", &[&bob]).await;
    assert_eq!(
        none_left.unwrap_err().problem(),
        Some(ProblemType::NoKeyPackages)
    );
    scene.client(1).sync(0).await.unwrap();
    assert_eq!(scene.client(1).groups().unwrap().len(), full as usize);
    // Identities that bob has of himself, by the pseudonym in each group.
    let database = database(&scene.users[1].home);
    let pseudonyms: u32 = database
        .query_row(
            "SELECT count(DISTINCT user_pseudonym) FROM identities JOIN groups USING (group_id)
             WHERE groups.kind = 1 AND identities.name = 'bob'",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(pseudonyms, full);
    // New ones were published.
    scene.add("one more", &[1]).await;
    scene.client(1).sync(0).await.unwrap();
    assert_eq!(scene.client(1).groups().unwrap().len(), full as usize + 1);
}

/// Claims so many sets of a contact by hand, and uses none.
async fn claim_by_hand(scene: &mut Scene, by: usize, count: u32) {
    let database = database(&scene.users[by].home);
    let token: Vec<u8> = database
        .query_row("SELECT connection_token FROM contacts", (), |row| {
            row.get(0)
        })
        .unwrap();
    let pool = PoolToken::try_from(token.as_slice()).unwrap().pool();
    let client = scene.client(by);
    for _ in 0..count {
        let body = ClaimKeyPackagesRequest {
            pool,
            ciphersuite: 0x4f,
            sets: 1,
        }
        .encode();
        let signer = LeafKeyPair::random(Scheme::Ed25519).unwrap();
        let sender = Sender::Key(opaque(signer.public()));
        let now = SystemClock.now_unix_ms();
        let operation = Operation::ClaimKeyPackages;
        let request = client::sign(operation, now, &sender, &body, &signer)
            .unwrap()
            .encode();
        let tokens = client.withdraw_tokens(1).await.unwrap();
        let claimed = client.post(operation, &request, &tokens).await;
        claimed.unwrap();
    }
}

#[tokio::test]
async fn whoever_takes_key_packages_and_adds_nobody_is_noticed_and_the_pool_filled_up() {
    let mut scene = scene(&["alice", "bob"]).await;
    let of_first = |counts: Vec<(u16, u32)>| counts.iter().find(|it| it.0 == 0x4f).map(|it| it.1);
    let full = of_first(scene.client(1).count_key_packages().await.unwrap()).unwrap();
    claim_by_hand(&mut scene, 0, full - 1).await;
    // As if the hour had passed after which the service is asked again.
    database(&scene.users[1].home)
        .execute("UPDATE contacts SET pool_due_ms = 0", ())
        .unwrap();
    let events = scene.client(1).receive(0).await.unwrap();
    let taken = Event::KeyPackagesTaken { taken: full - 1 };
    assert!(
        events.iter().any(|stored| stored.event == taken),
        "{events:?}"
    );
    let left = of_first(scene.client(1).count_key_packages().await.unwrap());
    assert_eq!(left, Some(full + 1));
}

#[tokio::test]
async fn an_add_that_fails_again_and_again_takes_one_key_package() {
    let stack = Stack::start_with(LogLevel::Info, "[ds.limits]\nmax_members = 2").await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    let carol = device(&stack, 2, "carol").await;
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    let of_first = |counts: Vec<(u16, u32)>| counts.iter().find(|it| it.0 == 0x4f).map(|it| it.1);
    alice.create_group("full").await.unwrap();
    alice.add_to_group("full", &["bob"]).await.unwrap();
    let before = of_first(carol.count_key_packages().await.unwrap()).unwrap();
    for _ in 0..5 {
        let refused = alice.add_to_group("full", &["carol"]).await.unwrap_err();
        assert_eq!(refused.problem(), Some(ProblemType::LimitExceeded));
    }
    assert_eq!(
        of_first(carol.count_key_packages().await.unwrap()),
        Some(before - 1)
    );
    // The service has seen that one in another group: it is not used where that would link them.
    alice.create_group("other").await.unwrap();
    alice.add_to_group("other", &["carol"]).await.unwrap();
    assert_eq!(
        of_first(carol.count_key_packages().await.unwrap()),
        Some(before - 2)
    );
    carol.sync(0).await.unwrap();
    assert_eq!(carol.groups().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_known_to_be_impossible_takes_no_key_package() {
    let mut scene = scene(&["alice", "bob", "carol"]).await;
    let (bob, carol) = (scene.name(1), scene.name(2));
    scene.group("g", &[1]).await;
    let before = scene.client(2).count_key_packages().await.unwrap();
    let already = scene.client(0).add_to_group("g", &[&carol, &bob]).await;
    assert!(matches!(
        already,
        Err(Error::Usage(UsageError::AlreadyAMember(_)))
    ));
    scene.client(0).leave_group("g").await.unwrap();
    let leaving = scene.client(0).add_to_group("g", &[&carol]).await;
    assert!(matches!(leaving, Err(Error::Usage(_))), "{leaving:?}");
    assert_eq!(scene.client(2).count_key_packages().await.unwrap(), before);
}
