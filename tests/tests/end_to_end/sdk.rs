//! What the SDK makes of histories that a client has to get through, on real processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{
    Client, Clock as _, CommitOutcome, Error, Event, Options, Profile, SystemClock, UsageError,
};
use crypto::sign::{LeafKeyPair, Scheme};
use end_to_end::{LogLevel, Stack, copy_over, database, device, program};
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::group::{CreateGroupRequest, GroupKind, LeafExtras, NextSegment, RecoveryKey};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::Sender;
use tokio::io::AsyncReadExt as _;

use crate::scene::{Scene, User, scene};

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
    scene.client(0).stage_remove("g", &[&carol]).await.unwrap();
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
    for from_journal in [false, true] {
        let mut scene = scene(&["alice", "bob", "carol"]).await;
        scene.group("g", &[1, 2]).await;
        let carol = scene.name(2);
        let alice = scene.client(0);
        alice.stage_remove("g", &[&carol]).await.unwrap();
        let pending = alice.pending_request("g").unwrap().unwrap();
        alice
            .post(pending.operation, &pending.request, &pending.tokens)
            .await
            .unwrap();
        if from_journal {
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
    scene.client(0).stage_remove("g", &[&carol]).await.unwrap();
    let alice = scene.users.remove(0);
    drop(alice.client);
    let client = Client::open(&alice.home, Options::default()).await.unwrap();
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
async fn a_member_who_is_put_back_reads_again_what_it_had_read_and_goes_on() {
    let mut scene = scene(&["alice", "bob", "carol"]).await;
    scene.group("g", &[1, 2]).await;
    scene.client(1).sync(0).await.unwrap();
    let saved = scene.stack.home("saved");
    copy_over(&scene.users[1].home, &saved);
    scene.remove("g", 2).await;
    scene.client(0).send_message("g", "once").await.unwrap();
    assert_eq!(scene.texts(1).await, ["once"]);
    restore(&mut scene, 1, &saved).await;
    // Over the rotation too.
    assert_eq!(scene.texts(1).await, ["once"]);
    scene
        .client(1)
        .send_message("g", "here again")
        .await
        .unwrap();
    assert_eq!(scene.texts(0).await, ["here again"]);
}

#[tokio::test]
async fn who_has_no_groups_waits_as_long_as_it_said_and_no_longer() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    assert_eq!(alice.receive(0).await.unwrap(), []);
    assert_eq!(alice.receive(300).await.unwrap(), []);
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
        .sign_as_member("g", protocol::operation::Operation::SendMessage, b"garbage")
        .unwrap();
    let garbage = alice
        .post(protocol::operation::Operation::SendMessage, &body, &[])
        .await;
    assert_eq!(problem(garbage.unwrap_err()), ProblemType::Malformed);
}

#[tokio::test]
async fn somebody_under_the_handle_of_a_contact_to_be_does_not_stop_a_client() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, "alice").await;
    let bob = device(&stack, 1, "bob").await;
    let mallory = device(&stack, 2, "mallory").await;
    // Nobody checks what a requester calls itself.
    drop(mallory);
    let home = stack.home("mallory");
    database(&home)
        .execute("UPDATE profile SET handle = 'bob'", ())
        .unwrap();
    let mallory = Client::open(&home, Options::default()).await.unwrap();

    alice.connect("bob").await.unwrap();
    mallory.connect("alice").await.unwrap();
    alice.check_inbox().await.unwrap();
    let request = alice.incoming_requests().unwrap().remove(0);
    assert_eq!(alice.accept_request(&request.id).await.unwrap(), "bob");
    bob.check_inbox().await.unwrap();
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

/// A creation that was accepted, as its client sees it when the answer was lost and the time for
/// which the service remembers it is over: signed again it is refused.
async fn unanswered_creation(stack: &Stack, group: &str) -> Client {
    let home = stack.home("alice");
    let alice = Client::open(&home, Options::default()).await.unwrap();
    let id = alice.group_access(group).unwrap().id;
    drop(alice);
    let signer = LeafKeyPair::random(Scheme::Ed25519).unwrap();
    let sender = Sender::Key(opaque(signer.public()));
    let body = CreateGroupRequest {
        group_id: id,
        kind: GroupKind::Group,
        message_days: 30,
        segment: NextSegment {
            state_key: WireSecret::new([1; 32]),
            journal_key: WireSecret::new([1; 32]),
            former_wrapper_key: None,
            code_rows: Vec::new(),
        },
        ratchet_tree: opaque(*b""),
        group_info: opaque(*b""),
        leaf: LeafExtras {
            wrapped_link_key: opaque(*b""),
            recovery_key: RecoveryKey {
                public_key: opaque(*b""),
                signature: opaque(*b""),
            },
            push_handle: opaque(*b""),
        },
    }
    .encode();
    let now = SystemClock.now_unix_ms();
    let request = client::sign(Operation::CreateGroup, now, &sender, &body, &signer)
        .unwrap()
        .encode();
    let db = database(&home);
    db.execute(
        "INSERT INTO pending_requests
            (group_id, operation, body, sender, signer_seed, request, minute, tokens, aad)
         VALUES (?, ?, ?, ?, ?, ?, ?, x'', x'')",
        (
            id.0,
            Operation::CreateGroup.number(),
            &body,
            sender.encode(),
            signer.seed().expose(),
            &request,
            now / 60_000,
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
    let alice = device(&stack, 0, "alice").await;
    alice.create_group("g").await.unwrap();
    drop(alice);
    let alice = unanswered_creation(&stack, "g").await;
    alice.sync(0).await.unwrap();
    alice.send_message("g", "it is there").await.unwrap();
    drop(alice);

    // Another segment than the group's: the service knows no such group.
    database(&stack.home("alice"))
        .execute(
            "UPDATE segments SET state_key = ?, segment_id = ?",
            [[9u8; 32], [9u8; 32]],
        )
        .unwrap();
    let alice = unanswered_creation(&stack, "g").await;
    alice.sync(0).await.unwrap();
    assert!(alice.groups().unwrap().is_empty());
}

/// What the program of two clients has said by itself.
#[derive(Default)]
struct Said {
    /// Texts that it says will be sent, or were.
    kept: Vec<String>,
    /// By whom each text was read, under which number of an event.
    read: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Said {
    fn take(&mut self, output: &str) {
        // What is cut off by the end of the process was not said.
        let whole = output.rfind('\n').map_or("", |end| &output[..end]);
        for line in whole.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["queued" | "sent", text] => self.kept.push(text.to_owned()),
                [name, "read", text, event] => {
                    let read = (name.to_owned(), text.to_owned());
                    self.read.entry(read).or_default().insert(event.to_owned());
                }
                _ => panic!("{line}"),
            }
        }
    }
}

/// The program of the examples, in its own process.
async fn two_in_one_task(homes: [&Path; 2], run: &str, killed_after: Option<Duration>) -> String {
    let mut program = tokio::process::Command::new(program("examples/two_in_one_task"))
        .args(homes)
        .arg(run)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut output = String::new();
    let mut said = program.stdout.take().unwrap();
    let reading = said.read_to_string(&mut output);
    match killed_after {
        Some(time) => {
            let killing = async {
                tokio::time::sleep(time).await;
                program.kill().await.unwrap();
            };
            let (read, ()) = tokio::join!(reading, killing);
            read.unwrap();
        }
        None => {
            reading.await.unwrap();
            assert!(program.wait().await.unwrap().success(), "{output}");
        }
    }
    output
}

#[tokio::test]
async fn two_clients_in_one_task_send_while_they_wait_and_are_killed_and_nothing_is_lost_or_twice()
{
    let Scene { stack, users } = scene(&["alice", "bob"]).await;
    users[0].client.create_group("team").await.unwrap();
    users[0]
        .client
        .add_to_group("team", &["bob"])
        .await
        .unwrap();
    for user in &users {
        user.client.sync(0).await.unwrap();
        let old = user.client.events().unwrap();
        user.client.acknowledge(&old).unwrap();
    }
    let homes: Vec<PathBuf> = users.into_iter().map(|user| user.home).collect();
    let homes = [homes[0].as_path(), homes[1].as_path()];
    let mut said = Said::default();
    for run in 0..8 {
        let time = Duration::from_millis(700 + 300 * run);
        said.take(&two_in_one_task(homes, &run.to_string(), Some(time)).await);
    }
    said.take(&two_in_one_task(homes, "rest", None).await);
    assert!(said.kept.len() >= 5, "{} were sent", said.kept.len());
    for text in &said.kept {
        let number: usize = text.rsplit('.').next().unwrap().parse().unwrap();
        let reader = if number.is_multiple_of(2) {
            "two"
        } else {
            "one"
        };
        assert!(
            said.read.contains_key(&(reader.to_owned(), text.clone())),
            "{text}"
        );
    }
    for (read, events) in &said.read {
        assert_eq!(events.len(), 1, "{read:?} came twice");
    }
    drop(stack);
}

async fn example(name: &str, arguments: &[&Path]) -> String {
    let output = tokio::process::Command::new(program(&format!("examples/{name}")))
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), output);
    let output = output.await.expect("an end").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}{complaint}");
    said
}

#[tokio::test]
async fn the_examples_of_the_sdk_do_what_they_say() {
    let stack = Stack::start(LogLevel::Info).await;
    let homes = stack.home("homes");
    let file = stack.layout().stack_json();
    let accounts = [0, 1].map(|number| stack.account_token(number));
    let [of_ann, of_ben] = &accounts;
    let said = example("first_message", &[&file, of_ann, of_ben, &homes]).await;
    assert_eq!(said, "ann: Saturday?\n");

    let (ann, ben) = (homes.join("ann"), homes.join("ben"));
    let bot = tokio::spawn({
        let ben = ben.clone();
        async move { example("echo", &[&ben, Path::new("2")]).await }
    });
    let options = Options {
        profile: Profile::Live,
        ..Options::default()
    };
    let client = Client::open(&ann, options).await.unwrap();
    client.bring_to_front("climbing").await.unwrap();
    let mut events = client.event_stream();
    client.queue_message("climbing", "How?").unwrap();
    // What Ann had said before is answered too.
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next());
        let next = next.await.expect("an answer").unwrap();
        if let Event::Message { text, .. } = next.event {
            answers.push(text);
        }
    }
    assert_eq!(answers, ["Saturday?", "How?"]);
    bot.await.unwrap();
    drop(events);
    client.close().await;

    let tablet = stack.home("tablet");
    let group = Path::new("climbing");
    let said = example("devices", &[&ann, &tablet, &file, of_ann, group]).await;
    assert_eq!(
        said,
        "the tablet is one of ann's devices\nthe tablet is in climbing\n"
    );
    let said = example("backup", &[&ben, &stack.home("restored")]).await;
    assert_eq!(said, "back in climbing\n");
}
