//! Several devices of one user, a device that is lost, and one that comes back from a backup.

use std::sync::{Arc, Mutex};

use client::{BackupKey, Client, Event, StopReason, UsageError};
use end_to_end::{
    LogLevel, Stack, befriend, blank, copy_over, device, events, group_with, link, messages,
    patient, reads, settle, some_minutes_later, usage,
};
use protocol::Wire as _;
use protocol::codec::WireSecret;
use protocol::group::{
    CommitAccepted, CreateGroupRequest, ExternalJoinRequest, GroupKind, JoinAccepted, JournalKeys,
};
use protocol::ids::{Day, Epoch, Position, RotationEpoch};
use protocol::journal::{CommitEvent, Event as JournalEvent, Place, ReadJournalResponse};
use protocol::operation::Operation;

const ALICE: &str = "alice";
const BOB: &str = "bob";
const CAROL: &str = "carol";
const GROUP: &str = "expedition";

fn device_names(client: &Client) -> Vec<String> {
    let devices = client.devices().unwrap();
    devices.into_iter().map(|device| device.name).collect()
}

fn group_names(client: &Client) -> Vec<String> {
    let groups = client.groups().unwrap();
    groups
        .into_iter()
        .filter(|group| group.active)
        .map(|group| group.name)
        .collect()
}

#[tokio::test]
async fn a_second_device_is_linked_and_both_are_the_user_from_then_on() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(GROUP, &alice, &[&bob]).await;
    alice.send_message(GROUP, "before").await.unwrap();

    let laptop = blank(&stack, 2, "laptop").await;
    link(&alice, &laptop, "laptop").await;
    assert_eq!(device_names(&alice), ["first", "laptop"]);
    assert_eq!(device_names(&laptop), ["laptop", "first"]);
    assert_eq!(group_names(&laptop), [GROUP]);
    let contacts = laptop.contacts().unwrap();
    assert_eq!(contacts.len(), 1);
    assert_eq!(
        laptop.safety_number(BOB).unwrap(),
        alice.safety_number(BOB).unwrap()
    );

    messages(&alice).await;
    messages(&laptop).await;
    reads(&bob, &[(ALICE, "before")]).await;
    bob.send_message(GROUP, "to both").await.unwrap();
    reads(&alice, &[(BOB, "to both")]).await;
    reads(&laptop, &[(BOB, "to both")]).await;
    laptop.send_message(GROUP, "from the laptop").await.unwrap();
    reads(&alice, &[(ALICE, "from the laptop")]).await;
    reads(&bob, &[(ALICE, "from the laptop")]).await;
    // Nobody new has come for bob.
    let events = bob.events().unwrap();
    assert!(
        !events
            .iter()
            .any(|stored| matches!(stored.event, Event::MemberAdded { .. })),
        "{events:?}"
    );

    // The sets that were published since have a package of each.
    settle(&[&alice, &laptop]).await;
    bob.create_group("summit").await.unwrap();
    bob.add_to_group("summit", &[ALICE]).await.unwrap();
    assert_eq!(bob.members("summit").unwrap().len(), 3);
    alice.sync(0).await.unwrap();
    laptop.sync(0).await.unwrap();
    assert_eq!(group_names(&alice), [GROUP, "summit"]);
    assert_eq!(group_names(&laptop), [GROUP, "summit"]);

    // And what one device does, the other is brought into.
    laptop.create_group("plans").await.unwrap();
    settle(&[&laptop, &alice]).await;
    messages(&laptop).await;
    messages(&alice).await;
    alice.send_message("plans", "here too").await.unwrap();
    reads(&laptop, &[(ALICE, "here too")]).await;
    let carol = device(&stack, 3, CAROL).await;
    befriend(&laptop, &carol).await;
    settle(&[&laptop, &alice, &carol]).await;
    alice.add_to_group("plans", &[CAROL]).await.unwrap();
    carol.sync(0).await.unwrap();
    assert_eq!(group_names(&carol), ["plans"]);
}

#[tokio::test]
async fn a_device_whose_way_in_is_stale_is_added_by_a_commit() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let laptop = blank(&stack, 1, "laptop").await;
    link(&alice, &laptop, "laptop").await;
    alice.create_group("plans").await.unwrap();
    alice.sync(0).await.unwrap();
    // The key that vouches for the laptop is gone before the laptop has come.
    alice.update_own_leaf("plans").await.unwrap();
    laptop.sync(0).await.unwrap();
    assert!(group_names(&laptop).is_empty());
    settle(&[&alice, &laptop]).await;
    assert_eq!(group_names(&laptop), ["plans"]);
    assert_eq!(alice.members("plans").unwrap().len(), 2);
    messages(&alice).await;
    laptop.send_message("plans", "here").await.unwrap();
    reads(&alice, &[(ALICE, "here")]).await;
}

#[tokio::test]
async fn a_link_needs_both_numbers_to_be_compared() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let laptop = blank(&stack, 1, "laptop").await;
    let other = "00000 00000 00000 00000";
    let link = laptop.link_code("laptop").await.unwrap();
    let refused = alice.approve_link(&link.code, other).await.unwrap_err();
    assert_eq!(usage(refused), UsageError::NumbersDiffer);
    let nothing = laptop.complete_link(other, 0).await.unwrap_err();
    assert_eq!(usage(nothing), UsageError::NotLinking);

    let number = alice.approve_link(&link.code, &link.number).await.unwrap();
    let refused = laptop.complete_link(other, 0).await.unwrap_err();
    assert_eq!(usage(refused), UsageError::NumbersDiffer);
    assert_eq!(laptop.handle().unwrap().as_deref(), None);
    laptop.complete_link(&number, 0).await.unwrap();
    assert_eq!(laptop.handle().unwrap().as_deref(), Some(ALICE));
    // The code is used up.
    let again = alice.approve_link(&link.code, &link.number).await;
    assert_eq!(usage(again.unwrap_err()), UsageError::InvalidLinkCode);
}

#[tokio::test]
async fn a_lost_device_is_removed_by_another_one() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(GROUP, &alice, &[&bob]).await;
    let phone = blank(&stack, 2, "phone").await;
    link(&alice, &phone, "phone").await;
    bob.sync(0).await.unwrap();
    assert_eq!(bob.members(GROUP).unwrap().len(), 3);

    alice.unlink_device("phone").await.unwrap();
    assert_eq!(device_names(&alice), ["first"]);
    bob.sync(0).await.unwrap();
    assert_eq!(bob.members(GROUP).unwrap().len(), 2);
    bob.send_message(GROUP, "only to those who are left")
        .await
        .unwrap();
    let told: Vec<Event> = phone
        .receive(0)
        .await
        .unwrap()
        .into_iter()
        .map(|stored| stored.event)
        .collect();
    assert!(told.contains(&Event::DeviceUnlinked), "{told:?}");
    let wrong = |event: &Event| {
        matches!(
            event,
            Event::Disconnected { .. } | Event::Message { .. } | Event::GroupLost { .. }
        )
    };
    assert!(!told.iter().any(wrong), "{told:?}");
    assert!(group_names(&phone).is_empty());
    // The new connection token has come to bob, and leads to sets without the phone.
    bob.create_group("summit").await.unwrap();
    bob.add_to_group("summit", &[ALICE]).await.unwrap();
    assert_eq!(bob.members("summit").unwrap().len(), 2);
    alice.sync(0).await.unwrap();
    assert_eq!(group_names(&alice), [GROUP, "summit"]);
    phone.sync(0).await.unwrap();
    assert!(group_names(&phone).is_empty());
}

#[tokio::test]
async fn a_lost_device_goes_from_every_group_wherever_it_says_that_it_is() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(GROUP, &alice, &[&bob]).await;
    for (account, name, said) in [(2, "phone", 99), (3, "tablet", 0)] {
        let lost = blank(&stack, account, name).await;
        link(&alice, &lost, name).await;
        bob.sync(0).await.unwrap();
        assert_eq!(bob.members(GROUP).unwrap().len(), 3);
        // At no leaf; at the one of the device that removes it.
        let database = stack.home(ALICE).join("client.sqlite");
        let db = rusqlite::Connection::open(database).unwrap();
        let heard = db.execute("UPDATE device_leaves SET leaf_index = ?", [said]);
        assert!(heard.unwrap() > 0);
        alice.unlink_device(name).await.unwrap();
        bob.sync(0).await.unwrap();
        assert_eq!(bob.members(GROUP).unwrap().len(), 2, "{name} reads on");
    }
}

/// What a device knows that lets it speak for its user: connection key and handle.
fn shared_keys(stack: &Stack, home: &str) -> [Vec<u8>; 2] {
    let database = stack.home(home).join("client.sqlite");
    let db = rusqlite::Connection::open(database).unwrap();
    db.query_row(
        "SELECT handle_owner_seed, establishment_seed FROM profile",
        (),
        |row| Ok([row.get(0)?, row.get(1)?]),
    )
    .unwrap()
}

fn have_none_in_common(one: &[Vec<u8>; 2], other: &[Vec<u8>; 2]) -> bool {
    one.iter().zip(other).all(|(one, other)| one != other)
}

#[tokio::test]
async fn who_removes_a_lost_device_has_new_keys_and_so_have_the_devices_that_are_left() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let phone = blank(&stack, 1, "phone").await;
    let laptop = blank(&stack, 2, "laptop").await;
    link(&alice, &phone, "phone").await;
    link(&alice, &laptop, "laptop").await;
    settle(&[&alice, &phone, &laptop]).await;
    let lost = shared_keys(&stack, "phone");
    assert_eq!(lost, shared_keys(&stack, ALICE));

    alice.unlink_device("phone").await.unwrap();
    assert_eq!(device_names(&alice), ["first", "laptop"]);
    settle(&[&laptop, &alice]).await;
    assert!(have_none_in_common(&lost, &shared_keys(&stack, ALICE)));
    assert_eq!(shared_keys(&stack, "laptop"), shared_keys(&stack, ALICE));
    // What the phone still has opens nothing at the service.
    phone.sync(0).await.unwrap();
    let _ = phone.delete_handle().await;
    assert_eq!(shared_keys(&stack, "phone"), lost);
    let carol = device(&stack, 3, CAROL).await;
    carol.connect(ALICE).await.unwrap();

    let left = shared_keys(&stack, "laptop");
    assert_eq!(alice.unlink_other_devices().await.unwrap(), ["laptop"]);
    assert_eq!(device_names(&alice), ["first"]);
    assert!(have_none_in_common(&left, &shared_keys(&stack, ALICE)));
    assert!(alice.unlink_other_devices().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_removal_of_a_device_that_is_cut_off_is_brought_to_its_end() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(GROUP, &alice, &[&bob]).await;
    let phone = blank(&stack, 2, "phone").await;
    link(&alice, &phone, "phone").await;
    let lost = shared_keys(&stack, "phone");

    // The phone is out of the groups when the tokens for new keys run out.
    let all = alice.tokens().await.unwrap();
    alice.withdraw_tokens(all).await.unwrap();
    let error = alice.unlink_device("phone").await.unwrap_err();
    assert_eq!(error.code(), "wallet-empty");
    drop(alice);
    let alice = Client::open(&stack.home(ALICE), patient()).await.unwrap();
    alice.fill_wallet().await.unwrap();
    settle(&[&alice]).await;
    assert_eq!(device_names(&alice), ["first"]);
    assert!(have_none_in_common(&lost, &shared_keys(&stack, ALICE)));
    let _ = phone.delete_handle().await;
    let carol = device(&stack, 3, CAROL).await;
    carol.connect(ALICE).await.unwrap();
    settle(&[&bob, &alice]).await;
    bob.create_group("summit").await.unwrap();
    bob.add_to_group("summit", &[ALICE]).await.unwrap();
    assert_eq!(bob.members("summit").unwrap().len(), 2);
}

#[tokio::test]
async fn a_client_is_restored_from_a_backup_by_rejoining() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    let carol = device(&stack, 2, CAROL).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    let passphrase = |text: &str| BackupKey::Passphrase(text.to_owned().into());
    let backup = alice.backup(&passphrase("four words of it")).await.unwrap();
    drop(alice);
    // The state key changes after the backup.
    bob.sync(0).await.unwrap();
    carol.leave_group(GROUP).await.unwrap();
    bob.sync(0).await.unwrap();
    // Some minutes later bob has sealed the way back for her.
    some_minutes_later(&stack.home(BOB), &bob).await;

    let home = stack.home("restored");
    let refused = Client::restore(&home, &backup, &passphrase("others"), patient()).await;
    assert_eq!(usage(refused.unwrap_err()), UsageError::WrongBackupKey);
    let alice = Client::restore(&home, &backup, &passphrase("four words of it"), patient())
        .await
        .unwrap();
    assert_eq!(alice.handle().unwrap().as_deref(), Some(ALICE));
    assert_eq!(group_names(&alice), [GROUP]);
    settle(&[&bob, &alice]).await;
    // By her backup there was somebody else, who is not heard any more.
    alice.accept_unverified(GROUP).await.unwrap();
    alice.send_message(GROUP, "back again").await.unwrap();
    reads(&bob, &[(ALICE, "back again")]).await;
    bob.send_message(GROUP, "welcome").await.unwrap();
    reads(&alice, &[(BOB, "welcome")]).await;
    assert_eq!(bob.members(GROUP).unwrap().len(), 2);
    // KeyPackages of the new client only.
    bob.create_group("summit").await.unwrap();
    bob.add_to_group("summit", &[ALICE]).await.unwrap();
    alice.sync(0).await.unwrap();
    assert_eq!(group_names(&alice), [GROUP, "summit"]);
}

#[tokio::test]
async fn key_packages_are_there_for_every_ciphersuite_of_the_options() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    befriend(&alice, &bob).await;
    for suite in [1, 2, 3, 0x4f] {
        let name = format!("suite {suite}");
        alice.create_group_with(&name, suite).await.unwrap();
        alice.add_to_group(&name, &[BOB]).await.unwrap();
        messages(&bob).await;
        bob.send_message(&name, "hello").await.unwrap();
        reads(&alice, &[(BOB, "hello")]).await;
    }
}

#[tokio::test]
async fn a_person_who_is_in_a_group_comes_in_by_no_code_a_second_time() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(GROUP, &alice, &[&bob]).await;
    let code = alice.invite(GROUP, 7).await.unwrap();
    // The new device knows its user's key, and nothing of the group: nobody has told it yet.
    let laptop = blank(&stack, 2, "laptop").await;
    let link = laptop.link_code("laptop").await.unwrap();
    let number = alice.approve_link(&link.code, &link.number).await.unwrap();
    laptop.complete_link(&number, 0).await.unwrap();
    assert_eq!(group_names(&laptop), [""; 0]);
    let joined = laptop.join_by_code(&code).await.unwrap_err();
    assert_eq!(usage(joined), UsageError::AlreadyAMember(ALICE.into()));
    // It comes in by its user's other device, and the others are told of it.
    settle(&[&alice, &laptop]).await;
    assert_eq!(group_names(&laptop), [GROUP]);
    let one_more = Event::ClientAdded {
        group: GROUP.into(),
        name: ALICE.into(),
    };
    let told = bob.receive(0).await.unwrap();
    assert!(told.iter().any(|it| it.event == one_more), "{told:?}");
    // The device that vouched is told too, of the devices' group as of the others.
    let told = alice.receive(0).await.unwrap();
    for event in [Event::DeviceCameIn, one_more] {
        assert!(told.iter().any(|it| it.event == event), "{told:?}");
    }
}

async fn linked(old: &Client, new: &Client, name: &str) {
    let link = new.link_code(name).await.unwrap();
    let number = old.approve_link(&link.code, &link.number).await.unwrap();
    new.complete_link(&number, 0).await.unwrap();
}

#[tokio::test]
async fn a_removed_device_comes_back_with_no_help_of_the_service() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let laptop = blank(&stack, 2, "laptop").await;
    // A way in that was never used, since the service would not have it: as in a copy of the disk.
    liar.lies(|asked, told| {
        if asked.path == Operation::ExternalCommitInfo.path() {
            told.status = http::StatusCode::BAD_REQUEST;
            let media = http::HeaderValue::from_static("application/problem+json");
            told.headers.insert("content-type", media);
            told.body = br#"{"type": "urn:mimi-ds:problem:limit-exceeded"}"#.to_vec();
        }
    });
    linked(&alice, &laptop, "laptop").await;
    drop(laptop);
    copy_over(&stack.home("laptop"), &stack.home("kept"));
    liar.repent();
    let laptop = Client::open(&stack.home("laptop"), patient())
        .await
        .unwrap();
    settle(&[&alice, &laptop]).await;
    assert_eq!(device_names(&alice), ["first", "laptop"]);
    alice.unlink_device("laptop").await.unwrap();

    // The service knows what the group is now, and shows it to the former device.
    let shown = Arc::new(Mutex::new(Vec::new()));
    let now = Arc::clone(&shown);
    liar.twist(Operation::ExternalCommitInfo, move |_, answer| {
        *now.lock().unwrap() = std::mem::take(answer);
    });
    let tablet = blank(&stack, 3, "tablet").await;
    linked(&alice, &tablet, "tablet").await;
    liar.repent();
    let told: Vec<Event> = events(&alice).await;
    let came = told.iter().filter(|it| **it == Event::DeviceCameIn).count();
    assert_eq!(came, 1, "the laptop, when it was a device: {told:?}");
    let info = shown.lock().unwrap().clone();
    assert!(!info.is_empty());
    liar.answer(Operation::ExternalCommitInfo, move |_| Some(info.clone()));
    // And that the segment, which its removal closed, goes on.
    liar.twist(Operation::ReadJournal, |_, answer| {
        let mut page = ReadJournalResponse::decode(answer).unwrap();
        page.closed = 0;
        *answer = page.encode();
    });
    let commit = Arc::new(Mutex::new(None));
    let sent = Arc::clone(&commit);
    liar.answer(Operation::ExternalJoin, move |body| {
        let request = ExternalJoinRequest::decode(body).unwrap();
        *sent.lock().unwrap() = Some(request.commit);
        let accepted = JoinAccepted {
            accepted: CommitAccepted {
                epoch: Epoch(9),
                place: Place {
                    rotation_epoch: RotationEpoch(0),
                    position: Position(9),
                },
                accepted_ms: 1,
            },
            journal: JournalKeys {
                rotation_epoch: RotationEpoch(0),
                journal_key: WireSecret::new([1; 32]),
                tag_key: WireSecret::new([1; 32]),
                tag_day: Day(1),
            },
        };
        Some(accepted.encode())
    });
    let former = Client::open(&stack.home("kept"), patient()).await.unwrap();
    let _ = former.sync(0).await;
    let commit = commit
        .lock()
        .unwrap()
        .take()
        .expect("it comes in, as far as it knows");
    liar.repent();
    let created = liar.heard(Operation::CreateGroup).into_iter();
    let mut created = created.map(|heard| CreateGroupRequest::decode(&heard.body).unwrap());
    let devices = created.find(|it| it.kind == GroupKind::SingleUser).unwrap();
    let event = CommitEvent {
        commit,
        link_keys: Vec::new(),
        former_wrapper_key: None,
    };
    liar.put(devices.group_id, JournalEvent::Commit(event));
    let told = events(&alice).await;
    assert_eq!(
        told,
        [Event::DevicesLost {
            why: StopReason::Forbidden
        }]
    );
    assert_eq!(device_names(&alice), ["first"]);
}
