//! What the SDK makes of histories that a client has to get through, on real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};

use client::{Client, Clock as _, CommitOutcome, Error, Event, Options, SystemClock, UsageError};
use crypto::sign::{LeafKeyPair, Scheme};
use end_to_end::{LogLevel, Stack, device};
use protocol::codec::{WireSecret, opaque};
use protocol::envelope::Sender;
use protocol::groups::{CreateGroupRequest, GroupKind};
use protocol::problem::ProblemType;
use protocol::{Operation, Wire as _};

struct User {
    client: Client,
    name: String,
    home: PathBuf,
}

/// Users with handles of their own, the first one connected to all others.
struct Scene {
    stack: Stack,
    users: Vec<User>,
}

async fn scene(names: &[&str]) -> Scene {
    let stack = Stack::start(LogLevel::Info).await;
    let mut users = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let home = stack.home(name);
        let client = device(&stack, number, name).await;
        users.push(User {
            client,
            name: (*name).to_owned(),
            home,
        });
    }
    let (first, others) = users.split_first_mut().unwrap();
    for other in others {
        first.client.connect(&other.name).await.unwrap();
        other.client.sync(0).await.unwrap();
        let request = other.client.incoming_requests().unwrap().remove(0);
        assert_eq!(
            other.client.accept_request(&request.id).await.unwrap(),
            first.name
        );
    }
    first.client.sync(0).await.unwrap();
    assert_eq!(first.client.contacts().unwrap().len(), names.len() - 1);
    Scene { stack, users }
}

impl Scene {
    fn client(&mut self, user: usize) -> &mut Client {
        &mut self.users[user].client
    }

    fn name(&self, user: usize) -> String {
        self.users[user].name.clone()
    }

    async fn group(&mut self, name: &str, members: &[usize]) {
        self.client(0).create_group(name).await.unwrap();
        self.add(name, members).await;
    }

    async fn add(&mut self, group: &str, members: &[usize]) {
        let names: Vec<String> = members.iter().map(|member| self.name(*member)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.client(0).add_to_group(group, &names).await.unwrap();
    }

    async fn remove(&mut self, group: &str, member: usize) {
        let name = self.name(member);
        self.client(0)
            .remove_from_group(group, &[&name])
            .await
            .unwrap();
    }

    /// Texts that a user receives now.
    async fn texts(&mut self, user: usize) -> Vec<String> {
        let client = self.client(user);
        let events = client.receive(0).await.unwrap();
        client.acknowledge(&events).unwrap();
        events
            .into_iter()
            .filter_map(|stored| match stored.event {
                Event::Message { text, .. } => Some(text),
                _ => None,
            })
            .collect()
    }
}

#[tokio::test]
async fn an_offline_member_crosses_several_rotations() {
    let mut scene = scene(&["alice", "bob", "carol", "dave"]).await;
    scene.group("g", &[1, 2, 3]).await;
    scene.client(1).sync(0).await.unwrap();
    scene.client(0).send_message("g", "one").await.unwrap();
    scene.remove("g", 2).await;
    scene.client(0).send_message("g", "two").await.unwrap();
    scene.remove("g", 3).await;
    scene.client(0).send_message("g", "three").await.unwrap();
    assert_eq!(scene.texts(1).await, ["one", "two", "three"]);
    scene.client(1).send_message("g", "back").await.unwrap();
    assert_eq!(scene.texts(0).await, ["back"]);
    assert_eq!(scene.texts(2).await, ["one"]);
    let refused = scene.client(2).send_message("g", "x").await;
    assert!(matches!(
        refused,
        Err(Error::Usage(UsageError::NotAMember(_)))
    ));
}

#[tokio::test]
async fn the_loser_of_a_race_goes_on() {
    let mut scene = scene(&["alice", "bob", "carol", "dave"]).await;
    scene.group("g", &[1, 2, 3]).await;
    scene.client(1).sync(0).await.unwrap();
    let carol = scene.name(2);
    let dave = scene.name(3);
    let bob = scene.name(1);
    scene.client(0).set_role("g", &bob, "admin").await.unwrap();
    scene.client(0).stage_remove("g", &[&carol]).unwrap();
    scene
        .client(1)
        .remove_from_group("g", &[&dave])
        .await
        .unwrap();
    assert_eq!(
        scene.client(0).submit("g").await.unwrap(),
        CommitOutcome::Superseded
    );
    assert_eq!(scene.client(0).members("g").unwrap().len(), 3);
    scene
        .client(0)
        .remove_from_group("g", &[&carol])
        .await
        .unwrap();
    scene
        .client(0)
        .send_message("g", "both gone")
        .await
        .unwrap();
    assert_eq!(scene.texts(1).await, ["both gone"]);
}

#[tokio::test]
async fn a_winner_who_lost_the_answer_finds_that_it_won() {
    for from_queue in [false, true] {
        let mut scene = scene(&["alice", "bob", "carol"]).await;
        scene.group("g", &[1, 2]).await;
        let carol = scene.name(2);
        let alice = scene.client(0);
        alice.stage_remove("g", &[&carol]).unwrap();
        let pending = alice.pending_request("g").unwrap().unwrap();
        alice
            .transport()
            .post(pending.operation, &pending.request, &pending.tokens)
            .await
            .unwrap();
        if from_queue {
            alice.take_in().await.unwrap();
        } else {
            assert_eq!(alice.submit("g").await.unwrap(), CommitOutcome::Accepted);
        }
        assert!(alice.pending_request("g").unwrap().is_none());
        assert_eq!(alice.members("g").unwrap().len(), 2);
        alice.send_message("g", "on we go").await.unwrap();
        assert_eq!(scene.texts(1).await, ["on we go"]);
    }
}

#[tokio::test]
async fn a_client_that_died_with_a_commit_under_way_finishes_it() {
    let mut scene = scene(&["alice", "bob", "carol"]).await;
    scene.group("g", &[1, 2]).await;
    let carol = scene.name(2);
    scene.client(0).stage_remove("g", &[&carol]).unwrap();
    let alice = scene.users.remove(0);
    drop(alice.client);
    let mut client = Client::open(&alice.home, Options::default()).await.unwrap();
    client.sync(0).await.unwrap();
    assert_eq!(client.members("g").unwrap().len(), 2);
    scene.users.insert(0, User { client, ..alice });
    scene.client(0).send_message("g", "hello").await.unwrap();
    assert_eq!(scene.texts(1).await, ["hello"]);
}

#[tokio::test]
async fn join_information_is_fetched_two_rotations_late() {
    let mut scene = scene(&["alice", "bob", "carol", "dave"]).await;
    scene.group("g", &[1, 2]).await;
    scene.add("g", &[3]).await;
    scene.remove("g", 1).await;
    scene.remove("g", 2).await;
    scene.client(0).send_message("g", "welcome").await.unwrap();
    assert_eq!(scene.texts(3).await, ["welcome"]);
    scene.client(3).send_message("g", "thanks").await.unwrap();
    assert_eq!(scene.texts(0).await, ["thanks"]);
    let names: Vec<String> = scene
        .client(3)
        .members("g")
        .unwrap()
        .into_iter()
        .map(|member| member.name)
        .collect();
    assert_eq!(names, [scene.name(0), scene.name(3)]);
}

#[tokio::test]
async fn somebody_is_removed_and_added_again() {
    let mut scene = scene(&["alice", "bob"]).await;
    scene.group("g", &[1]).await;
    scene.remove("g", 1).await;
    scene.add("g", &[1]).await;
    scene.client(0).send_message("g", "again").await.unwrap();
    assert_eq!(scene.texts(1).await, ["again"]);
    scene.client(1).send_message("g", "yes").await.unwrap();
    assert_eq!(scene.texts(0).await, ["yes"]);
    // And once more while bob has followed.
    scene.remove("g", 1).await;
    scene.client(1).sync(0).await.unwrap();
    scene.add("g", &[1]).await;
    scene.client(1).send_message("g", "third").await.unwrap();
    assert_eq!(scene.texts(0).await, ["third"]);
}

#[tokio::test]
async fn a_leaf_from_the_last_resort_key_package_is_replaced_at_once() {
    let mut scene = scene(&["alice", "bob"]).await;
    let bob = scene.name(1);
    for number in 0..21 {
        scene.group(&format!("g{number}"), &[1]).await;
    }
    scene.client(1).sync(0).await.unwrap();
    assert_eq!(scene.client(1).groups().unwrap().len(), 21);
    scene.client(0).sync(0).await.unwrap();
    let updated: Vec<String> = scene
        .client(0)
        .groups()
        .unwrap()
        .into_iter()
        .filter(|group| group.epoch == 2)
        .map(|group| group.name)
        .collect();
    assert_eq!(updated, ["g20"]);
    let members = scene.client(0).members("g20").unwrap();
    assert!(members.iter().any(|member| member.name == bob));
    scene
        .client(1)
        .send_message("g20", "new leaf")
        .await
        .unwrap();
    assert_eq!(scene.texts(0).await, ["new leaf"]);
    // New KeyPackages were published.
    scene.group("more", &[1]).await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Goes back to a copy of a user's home, so that what was acknowledged since is lost.
async fn restore(scene: &mut Scene, user: usize, copy_of_home: &Path) {
    let gone = scene.users.remove(user);
    drop(gone.client);
    let client = Client::open(copy_of_home, Options::default())
        .await
        .unwrap();
    scene.users.insert(
        user,
        User {
            client,
            name: gone.name,
            home: copy_of_home.to_owned(),
        },
    );
}

#[tokio::test]
async fn a_member_whose_queue_lost_a_rotation_is_told_and_can_be_added_again() {
    let mut scene = scene(&["alice", "bob", "carol"]).await;
    scene.group("g", &[1, 2]).await;
    scene.client(1).sync(0).await.unwrap();
    let saved = scene.stack.home("saved");
    copy(&scene.users[1].home, &saved);
    scene.remove("g", 2).await;
    scene.client(1).sync(0).await.unwrap();
    restore(&mut scene, 1, &saved).await;
    let lost = scene.client(1).send_message("g", "x").await;
    assert!(
        matches!(lost, Err(Error::Usage(UsageError::GroupLost(_)))),
        "{lost:?}"
    );
    scene.remove("g", 1).await;
    scene.add("g", &[1]).await;
    scene
        .client(1)
        .send_message("g", "here again")
        .await
        .unwrap();
    assert_eq!(scene.texts(0).await, ["here again"]);
}

#[tokio::test]
async fn refusals_are_typed() {
    let mut scene = scene(&["alice", "bob"]).await;
    let taken = scene.name(1);
    scene.group("g", &[1]).await;
    let alice = scene.client(0);
    let problem = |error: Error| error.problem().unwrap();
    assert_eq!(
        problem(alice.connect("nobody-of-this-name").await.unwrap_err()),
        ProblemType::UnknownHandle
    );
    assert!(matches!(
        alice.connect(&taken).await,
        Err(Error::Usage(UsageError::AlreadyConnected(_)))
    ));
    assert!(matches!(
        alice.create_group("g").await,
        Err(Error::Usage(UsageError::GroupExists(_)))
    ));
    assert!(matches!(
        alice.add_to_group("g", &[&taken]).await,
        Err(Error::Usage(UsageError::AlreadyAMember(_)))
    ));
    assert!(matches!(
        alice.send_message("nowhere", "x").await,
        Err(Error::Usage(UsageError::UnknownGroup(_)))
    ));
    let body = alice
        .sign_as_member("g", protocol::Operation::SendMessage, b"garbage")
        .unwrap();
    let garbage = alice
        .transport()
        .post(protocol::Operation::SendMessage, &body, &[])
        .await;
    assert_eq!(problem(garbage.unwrap_err()), ProblemType::Malformed);
}

#[tokio::test]
async fn somebody_under_the_handle_of_a_contact_to_be_does_not_stop_a_client() {
    let stack = Stack::start(LogLevel::Info).await;
    let mut alice = device(&stack, 0, "alice").await;
    let mut bob = device(&stack, 1, "bob").await;
    let mallory = device(&stack, 2, "mallory").await;
    // Nobody checks what a requester calls itself.
    drop(mallory);
    let home = stack.home("mallory");
    rusqlite::Connection::open(home.join("client.sqlite"))
        .unwrap()
        .execute("UPDATE profile SET handle = 'bob'", ())
        .unwrap();
    let mut mallory = Client::open(&home, Options::default()).await.unwrap();

    alice.connect("bob").await.unwrap();
    mallory.connect("alice").await.unwrap();
    alice.sync(0).await.unwrap();
    let request = alice.incoming_requests().unwrap().remove(0);
    assert_eq!(alice.accept_request(&request.id).await.unwrap(), "bob");
    bob.sync(0).await.unwrap();
    let request = bob.incoming_requests().unwrap().remove(0);
    bob.accept_request(&request.id).await.unwrap();

    let number = alice.safety_number("bob").unwrap();
    for _ in 0..2 {
        alice.sync(0).await.unwrap();
    }
    assert_eq!(alice.safety_number("bob").unwrap(), number);
    alice.create_group("g").await.unwrap();
    alice.send_message("g", "still here").await.unwrap();
}

/// A creation that was accepted, as its client sees it when the answer was lost and the time for which
/// the service remembers it is over: signed again it is refused.
async fn unanswered_creation(stack: &Stack, group: &str) -> Client {
    let home = stack.home("alice");
    let alice = Client::open(&home, Options::default()).await.unwrap();
    let id = alice.group_access(group).unwrap().id;
    drop(alice);
    let signer = LeafKeyPair::random(Scheme::Ed25519).unwrap();
    let sender = Sender::Key(opaque(signer.public()));
    let body = CreateGroupRequest {
        group_id: id,
        state_key: WireSecret::new([1; 32]),
        kind: GroupKind::Group,
        ratchet_tree: opaque(*b""),
        group_info: opaque(*b""),
        encrypted_identity_link_key: opaque(*b""),
        recovery_secret: WireSecret::new([1; 32]),
    }
    .encode();
    let now = SystemClock.now_unix_ms();
    let request = client::sign(Operation::CreateGroup, now, &sender, &body, &signer).encode();
    let db = rusqlite::Connection::open(home.join("client.sqlite")).unwrap();
    db.execute(
        "INSERT INTO pending_requests
            (group_id, operation, body, sender, signer_seed, request, timestamp_ms, tokens, aad)
         VALUES (?, ?, ?, ?, ?, ?, ?, x'', x'')",
        (
            id.0,
            Operation::CreateGroup.number(),
            &body,
            sender.encode(),
            signer.seed().expose(),
            &request,
            i64::try_from(now).unwrap(),
        ),
    )
    .unwrap();
    db.execute(
        "UPDATE groups SET status = 'joining' WHERE group_id = ?",
        [id.0],
    )
    .unwrap();
    drop(db);
    Client::open(&home, Options::default()).await.unwrap()
}

#[tokio::test]
async fn a_creation_that_was_accepted_long_ago_is_found_out_and_one_that_was_not_is_forgotten() {
    let stack = Stack::start(LogLevel::Info).await;
    let mut alice = device(&stack, 0, "alice").await;
    alice.create_group("g").await.unwrap();
    drop(alice);
    let mut alice = unanswered_creation(&stack, "g").await;
    alice.sync(0).await.unwrap();
    alice.send_message("g", "it is there").await.unwrap();
    drop(alice);

    // Another state key than the group's: the service knows no such group.
    rusqlite::Connection::open(stack.home("alice").join("client.sqlite"))
        .unwrap()
        .execute("UPDATE groups SET state_key = ?", [[9u8; 32]])
        .unwrap();
    let mut alice = unanswered_creation(&stack, "g").await;
    alice.sync(0).await.unwrap();
    assert!(alice.groups().unwrap().is_empty());
}
