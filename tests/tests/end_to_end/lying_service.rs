//! A delivery service that lies in every answer it can, against the real SDK: it must read nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Client, Error, Event, PeerError, StopReason, UsageError};
use end_to_end::{
    FalseGroup, Liar, LogLevel, Stack, added_by, asked_into, befriend, blank, context_of, device,
    events, group_with, link, settle, talks,
};
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::group::{
    CommitAccepted, CommitRequest, EntryAccepted, ExternalJoinRequest, GroupKind, JoinAccepted,
    JournalKeys, SendMessageRequest,
};
use protocol::ids::{Day, Epoch, GroupId, Position, RotationEpoch, SegmentId};
use protocol::join::ExternalCommitInfoResponse;
use protocol::journal::{
    CommitEvent, Entry, Event as JournalEvent, Place, ReadJournalRequest, ReadJournalResponse,
};
use protocol::operation::Operation;

const GROUP: &str = "expedition";
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castillo";
const SECRET: &str = "the key lies under the third stone";

struct Scene {
    stack: Stack,
    liar: Liar,
    alice: Client,
    bob: Client,
    carol: Client,
}

/// A group of three, at a service that has been honest so far.
async fn scene() -> Scene {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    let carol = device(&stack, 2, CAROL).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    talks(GROUP, &[&alice, &bob, &carol]).await;
    Scene {
        stack,
        liar,
        alice,
        bob,
        carol,
    }
}

fn commit(bytes: &[u8]) -> JournalEvent {
    JournalEvent::Commit(CommitEvent {
        commit: opaque(bytes),
        link_keys: Vec::new(),
        former_wrapper_key: None,
    })
}

/// What the service says of a commit to a group of its own.
fn accepted(epoch: u64) -> CommitAccepted {
    CommitAccepted {
        epoch: Epoch(epoch),
        place: Place {
            rotation_epoch: RotationEpoch(0),
            position: Position(epoch),
        },
        accepted_ms: 1,
    }
}

/// A commit that nobody made: one of any group, made to look like one of this group and epoch.
fn garbage_commit(liar: &Liar, id: GroupId, epoch: u64) -> JournalEvent {
    let heard = liar.heard(Operation::AddUsers);
    let request = CommitRequest::decode(&heard[0].body).unwrap();
    let mut bytes = request.commit.as_slice().to_vec();
    // Version and wire format, the length of the id; then id and epoch (RFC 9420 §6).
    bytes[5..21].copy_from_slice(&id.0);
    bytes[21..29].copy_from_slice(&epoch.to_be_bytes());
    commit(&bytes)
}

/// The members' genuine KeyPackages that the service saw when they were added.
fn genuine_key_packages(liar: &Liar, id: GroupId) -> Vec<openmls::prelude::KeyPackage> {
    let heard = liar.heard(Operation::AddUsers);
    heard
        .iter()
        .map(|heard| CommitRequest::decode(&heard.body).unwrap())
        .filter(|request| request.group.group_id == id)
        .flat_map(|request| added_by(request.commit.as_slice()))
        .collect()
}

/// Has the service play a group of its own to whoever wants to come into one from outside.
fn play(liar: &Liar, group: FalseGroup) -> Arc<Mutex<FalseGroup>> {
    let group = Arc::new(Mutex::new(group));
    let this = Arc::clone(&group);
    liar.answer(Operation::ExternalCommitInfo, move |_| {
        Some(this.lock().unwrap().info(Vec::new()).encode())
    });
    let this = Arc::clone(&group);
    liar.answer(Operation::ExternalJoin, move |body| {
        let request = ExternalJoinRequest::decode(body).unwrap();
        let mut group = this.lock().unwrap();
        assert!(group.take(request.commit.as_slice()), "an external commit");
        let joined = JoinAccepted {
            accepted: accepted(group.epoch()),
            journal: JournalKeys {
                rotation_epoch: RotationEpoch(0),
                journal_key: WireSecret::new([1; 32]),
                tag_key: WireSecret::new([1; 32]),
                tag_day: Day(20_000),
            },
        };
        Some(joined.encode())
    });
    // Whoever comes back replaces its leaf at once.
    let this = Arc::clone(&group);
    liar.answer(Operation::UpdateClient, move |body| {
        let request = CommitRequest::decode(body).unwrap();
        let mut group = this.lock().unwrap();
        let taken = group.take(request.commit.as_slice());
        taken.then(|| accepted(group.epoch()).encode())
    });
    let this = Arc::clone(&group);
    liar.answer(Operation::SendMessage, move |body| {
        let request = SendMessageRequest::decode(body).unwrap();
        this.lock().unwrap().hear(request.message.as_slice());
        let accepted = EntryAccepted {
            place: accepted(0).place,
            accepted_ms: 1,
        };
        Some(accepted.encode())
    });
    group
}

fn has_read(group: &Mutex<FalseGroup>, text: &str) -> bool {
    let group = group.lock().unwrap();
    group.read().iter().any(|read| {
        read.windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

#[tokio::test]
async fn a_journal_without_an_end_ends_a_call_and_hides_nothing_that_is_in_it() {
    let mut scene = scene().await;
    let Scene {
        liar, alice, bob, ..
    } = &mut scene;
    alice.send_message(GROUP, "hello").await.unwrap();
    let segment = liar.segment(alice.group_access(GROUP).unwrap().id);
    let signs = liar.clone();
    liar.twist(Operation::ReadJournal, move |body, answer| {
        let request = ReadJournalRequest::decode(body).unwrap();
        let mut page = ReadJournalResponse::decode(answer).unwrap();
        if request.segment != segment {
            return;
        }
        let from = match request.from {
            Position::LAST => page.first,
            from => from,
        };
        // As many more as there are, and the end always beyond them.
        if page.entries.is_empty() {
            page.first = from;
            page.entries = vec![Entry::Message(opaque([0xa5; 300])); 32];
        }
        page.head.next = Position(from.0 + 1_000);
        page.head = signs.sign_end(&segment, page.head.next, page.head.chain);
        *answer = page.encode();
    });
    let caught_up = tokio::time::timeout(Duration::from_secs(120), bob.sync(0)).await;
    let _ = caught_up.expect("an end");
    let read = bob.events().unwrap();
    let hello = |event: &Event| matches!(event, Event::Message { text, .. } if text == "hello");
    assert!(read.iter().any(|it| hello(&it.event)), "{read:?}");
}

#[tokio::test]
async fn a_garbage_commit_leads_nobody_into_a_group_of_the_services_own() {
    let mut scene = scene().await;
    let Scene { liar, bob, .. } = &mut scene;
    let access = bob.group_access(GROUP).unwrap();
    let context = context_of(liar.created(GroupKind::Group)[0].group_info.as_slice());
    // Carol's genuine KeyPackage is in it.
    let carol = genuine_key_packages(liar, access.id).pop().unwrap();
    let mut group = FalseGroup::make(access.id, context, &[carol]);
    group.advance(20);
    let group = play(liar, group);
    liar.put(access.id, garbage_commit(liar, access.id, access.epoch));

    // Bob's user has done nothing but sync, and writes.
    bob.sync(0).await.unwrap();
    let sent = bob.send_message(GROUP, SECRET).await;
    assert!(!has_read(&group, SECRET), "the service reads along");
    assert!(
        matches!(sent, Err(Error::Usage(UsageError::GroupLost(_)))),
        "{sent:?}"
    );
    assert!(
        liar.heard(Operation::ExternalJoin).len() == 2,
        "two acceptances"
    );
}

/// Has the service show a group of its own to whoever comes into `id`.
fn play_own_group(liar: &Liar, id: GroupId, kind: GroupKind) -> Arc<Mutex<FalseGroup>> {
    let created = liar.created(kind);
    let created = created.iter().find(|created| created.group_id == id);
    let context = context_of(created.expect("its creation").group_info.as_slice());
    let mut group = FalseGroup::make(id, context, &[]);
    group.advance(20);
    play(liar, group)
}

fn is_unauthenticated<T: std::fmt::Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Peer(PeerError::Unauthenticated(_))))
}

#[tokio::test]
async fn a_garbage_commit_leads_nobody_out_of_a_connection() {
    let mut scene = scene().await;
    let Scene { liar, bob, .. } = &mut scene;
    // The first connection: alice asked bob.
    let joined = ExternalJoinRequest::decode(&liar.heard(Operation::ExternalJoin)[0].body);
    let id = joined.unwrap().group.group_id;
    let group = play_own_group(liar, id, GroupKind::Connection);
    let before = liar.joins();
    liar.put(id, garbage_commit(liar, id, 1));
    let told = events(bob).await;
    assert!(
        told.contains(&Event::ConnectionLost {
            name: ALICE.into(),
            why: StopReason::Unprocessable,
        }),
        "{told:?}"
    );
    // It may be anything that he tells his contacts by himself: here a new token, since Carol is
    // none any more.
    let _ = bob.disconnect(CAROL).await;
    bob.sync(0).await.unwrap();
    assert_eq!(liar.joins(), before, "nothing was sent into the group");
    assert!(group.lock().unwrap().read().is_empty(), "the service reads");
    let back = bob.rejoin_group(ALICE).await;
    assert!(is_unauthenticated(&back), "{back:?}");
    assert_eq!(liar.joins(), before, "nothing was sent into the group");

    // By the real service and the user's word it goes on.
    liar.repent();
    bob.rejoin_group(ALICE).await.unwrap();
    assert_eq!(bob.stop_reason(ALICE).unwrap(), None);
}

#[tokio::test]
async fn a_garbage_commit_leads_no_device_out_of_the_devices_group() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(GROUP, &alice, &[&bob]).await;
    let laptop = blank(&stack, 2, "laptop").await;
    link(&alice, &laptop, "laptop").await;
    let own = liar.created(GroupKind::SingleUser)[0].group_id;
    let group = play_own_group(&liar, own, GroupKind::SingleUser);
    let before = liar.joins();
    // One for now, and some that wait for later.
    for epoch in 0..8 {
        liar.put(own, garbage_commit(&liar, own, epoch));
    }
    let told = events(&laptop).await;
    assert!(
        told.contains(&Event::DevicesLost {
            why: StopReason::Unprocessable,
        }),
        "{told:?}"
    );
    // What a device tells the others: a contact with its keys.
    let carol = device(&stack, 3, CAROL).await;
    liar.repent();
    befriend(&laptop, &carol).await;
    let group_again = play(&liar, FalseGroup::make(own, extensions_of(&liar, own), &[]));
    laptop.sync(0).await.unwrap();
    assert!(is_unauthenticated(&laptop.rejoin_devices().await));
    for group in [group, group_again] {
        assert!(group.lock().unwrap().read().is_empty(), "the service reads");
    }
    // Carol's acceptance is the only join since.
    assert_eq!(liar.joins(), before + 1, "nothing was sent into the group");

    liar.repent();
    let knows = |client: &Client| client.contacts().unwrap().iter().any(|it| it.name == CAROL);
    for _ in 0..8 {
        // Again, if the others' word has proved since that the service has signed two journals.
        laptop.rejoin_devices().await.unwrap();
        alice.sync(0).await.unwrap();
        laptop.sync(0).await.unwrap();
        alice.sync(0).await.unwrap();
        if knows(&alice) {
            break;
        }
    }
    assert!(knows(&alice));
}

fn extensions_of(
    liar: &Liar,
    id: GroupId,
) -> openmls::prelude::Extensions<openmls::group::GroupContext> {
    let created = liar.created(GroupKind::SingleUser);
    let created = created.iter().find(|created| created.group_id == id);
    context_of(created.unwrap().group_info.as_slice())
}

#[tokio::test]
async fn whoever_accepts_a_connection_comes_into_no_group_but_the_requesters() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    alice.connect(BOB).await.unwrap();
    bob.check_inbox().await.unwrap();
    let id = asked_into(&stack.home(ALICE));
    let group = play_own_group(&liar, id, GroupKind::Connection);
    let request = bob.incoming_requests().unwrap()[0].id.clone();
    let accepted = bob.accept_request(&request).await;
    assert!(is_unauthenticated(&accepted), "{accepted:?}");
    assert_eq!(liar.joins(), 0);
    assert!(group.lock().unwrap().read().is_empty());
    liar.repent();
    assert_eq!(bob.accept_request(&request).await.unwrap(), ALICE);
}

#[tokio::test]
async fn whoever_comes_by_a_code_comes_into_no_group_of_the_services_own() {
    let mut scene = scene().await;
    let code = scene.alice.invite(GROUP, 7).await.unwrap();
    let id = scene.alice.group_access(GROUP).unwrap().id;
    let dave = device(&scene.stack, 3, "dave.dimitrov").await;
    let before = scene.liar.joins();
    let group = play_own_group(&scene.liar, id, GroupKind::Group);
    let joined = dave.join_by_code(&code).await;
    assert!(is_unauthenticated(&joined), "{joined:?}");
    assert_eq!(scene.liar.joins(), before);
    assert!(group.lock().unwrap().read().is_empty());
    scene.liar.repent();
    assert_eq!(dave.join_by_code(&code).await.unwrap(), GROUP);
    let Scene { alice, bob, .. } = &mut scene;
    settle(&[alice, bob, &dave]).await;
    talks(GROUP, &[alice, bob, &dave]).await;
}

#[tokio::test]
async fn a_new_device_comes_into_no_group_of_the_services_own() {
    let (stack, liar) = Stack::start_with_liar(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(GROUP, &alice, &[&bob]).await;
    let laptop = blank(&stack, 2, "laptop").await;
    let code = laptop.link_code("laptop").await.unwrap();
    let number = alice.approve_link(&code.code, &code.number).await.unwrap();
    let before = liar.joins();
    let own = liar.created(GroupKind::SingleUser)[0].group_id;
    let group = play_own_group(&liar, own, GroupKind::SingleUser);
    laptop.complete_link(&number, 0).await.unwrap();
    laptop.sync(0).await.unwrap();
    assert_eq!(liar.joins(), before, "it comes in nowhere");
    assert!(group.lock().unwrap().read().is_empty());
}

/// What the service shows to those who come in from outside, as it truly is now.
async fn true_info(scene: &mut Scene) -> ExternalCommitInfoResponse {
    let shown = Arc::new(Mutex::new(None));
    let code = scene.alice.invite(GROUP, 7).await.unwrap();
    let dave = blank(&scene.stack, 4, "dave").await;
    dave.register_handle("dave.dimitrov").await.unwrap();
    let this = Arc::clone(&shown);
    scene
        .liar
        .twist(Operation::ExternalCommitInfo, move |_, answer| {
            *this.lock().unwrap() = Some(answer.clone());
            // So that he comes no further.
            answer.clear();
        });
    dave.join_by_code(&code).await.unwrap_err();
    scene.liar.repent();
    let shown = shown.lock().unwrap().take().unwrap();
    ExternalCommitInfoResponse::decode(&shown).unwrap()
}

#[tokio::test]
async fn a_genuine_but_old_group_takes_nobody_back_to_a_removed_member() {
    let mut scene = scene().await;
    let old = true_info(&mut scene).await;
    let Scene {
        liar, alice, bob, ..
    } = &mut scene;
    alice.remove_from_group(GROUP, &[CAROL]).await.unwrap();
    bob.sync(0).await.unwrap();
    let access = bob.group_access(GROUP).unwrap();
    liar.put(access.id, garbage_commit(liar, access.id, access.epoch));
    let old = old.encode();
    liar.answer(Operation::ExternalCommitInfo, move |_| Some(old.clone()));
    let before = liar.joins();
    bob.sync(0).await.unwrap();
    let back = bob.rejoin_group(GROUP).await;
    assert!(is_unauthenticated(&back), "{back:?}");
    assert_eq!(liar.joins(), before);
    // What he was shown is evidence, beside the commit that nobody made.
    let evidence = bob.evidence(GROUP).unwrap();
    assert_eq!(evidence.len(), 2, "{evidence:?}");
    assert_eq!(evidence[0].epoch, access.epoch);
    liar.repent();
    bob.rejoin_group(GROUP).await.unwrap();
    comes_to_know_of_both(alice, bob).await;
    talks(GROUP, &[alice, bob]).await;
}

/// The service has signed two journals, and what alice says of hers proves it sooner or later.
/// Once: after that it goes on.
async fn comes_to_know_of_both(alice: &Client, bob: &Client) {
    for _ in 0..60 {
        settle(&[alice, bob]).await;
        if bob.stop_reason(GROUP).unwrap() == Some(StopReason::Split) {
            bob.rejoin_group(GROUP).await.unwrap();
            return settle(&[alice, bob]).await;
        }
        alice.send_message(GROUP, "hello").await.unwrap();
    }
    panic!("nobody has said it");
}

#[tokio::test]
async fn a_service_that_comes_in_by_itself_is_sent_nothing() {
    let mut scene = scene().await;
    let erin = device(&scene.stack, 3, "erin").await;
    befriend(&scene.bob, &erin).await;
    let info = true_info(&mut scene).await;
    let (intruder, commit) = FalseGroup::break_in(&info);
    let intruder = Arc::new(Mutex::new(intruder));
    let this = Arc::clone(&intruder);
    scene.liar.answer(Operation::SendMessage, move |body| {
        let request = SendMessageRequest::decode(body).unwrap();
        this.lock().unwrap().hear(request.message.as_slice());
        None
    });
    let Scene { liar, bob, .. } = &mut scene;
    let id = bob.group_access(GROUP).unwrap().id;
    liar.put(id, self::commit(&commit));
    let told = events(bob).await;
    let sent = bob.send_message(GROUP, SECRET).await;
    assert!(!has_read(&intruder, SECRET), "the service reads along");
    assert_eq!(
        sent.unwrap_err().to_string(),
        Error::from(UsageError::UnverifiedMember(GROUP.into())).to_string()
    );
    assert!(
        told.contains(&Event::UnverifiedMember {
            group: GROUP.into()
        }),
        "{told:?}"
    );
    // Nor is anybody added: the newcomer's keys to names are sealed under what every leaf can
    // derive.
    let added = bob.add_to_group(GROUP, &["erin"]).await;
    assert!(
        matches!(&added, Err(Error::Usage(UsageError::UnverifiedMember(_)))),
        "{added:?}"
    );
    // Only the user's explicit word lets it read.
    bob.accept_unverified(GROUP).await.unwrap();
    let _ = bob.send_message(GROUP, SECRET).await;
    assert!(
        has_read(&intruder, SECRET),
        "the attack works without the check"
    );
}

/// Back in the group, where these are not any more and these have another role.
fn back_without(absent: &[&str], changed: &[&str]) -> Event {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Event::Rejoined {
        group: GROUP.into(),
        absent: names(absent),
        changed: names(changed),
        rules_changed: false,
    }
}

/// Shows a segment as it was when it was read last.
fn withhold(liar: &Liar, segment: SegmentId) {
    liar.withhold(segment, liar.end_read_last(segment));
}

#[tokio::test]
async fn who_is_told_that_commits_are_missing_comes_back_by_word_and_sees_who_is_new() {
    let mut scene = scene().await;
    let dave = device(&scene.stack, 3, "dave.dimitrov").await;
    let Scene {
        liar,
        alice,
        bob,
        carol,
        ..
    } = &mut scene;
    befriend(alice, &dave).await;
    // What moves the group on is not shown to bob; nobody is in it whom he does not know.
    bob.sync(0).await.unwrap();
    withhold(liar, bob.group_access(GROUP).unwrap().segment);
    alice.update_own_leaf(GROUP).await.unwrap_err();
    let before = liar.joins();
    let _ = bob.update_own_leaf(GROUP).await;
    let told = events(bob).await;
    assert!(
        told.contains(&Event::GroupLost {
            group: GROUP.into(),
            why: StopReason::Missing
        }),
        "{told:?}"
    );
    // That something is missing is the service's word.
    bob.sync(0).await.unwrap();
    assert_eq!(liar.joins(), before, "nothing by itself");
    liar.repent();
    alice.sync(0).await.unwrap();
    bob.rejoin_group(GROUP).await.unwrap();
    let told = events(bob).await;
    assert!(told.contains(&back_without(&[], &[])), "{told:?}");
    // He replaces the leaf that he came back with.
    settle(&[alice, bob, carol]).await;

    // And with somebody new in it, when the user has seen who it is.
    bob.sync(0).await.unwrap();
    withhold(liar, bob.group_access(GROUP).unwrap().segment);
    let _ = alice.add_to_group(GROUP, &["dave.dimitrov"]).await;
    let before = liar.joins();
    let _ = bob.update_own_leaf(GROUP).await;
    bob.sync(0).await.unwrap();
    assert_eq!(bob.stop_reason(GROUP).unwrap(), Some(StopReason::Missing));
    liar.repent();
    alice.sync(0).await.unwrap();
    let shown = bob.rejoin_group(GROUP).await;
    let Err(Error::Usage(UsageError::NewMembers { names, .. })) = shown else {
        panic!("{shown:?}");
    };
    assert_eq!(names, ["dave.dimitrov"]);
    assert_eq!(liar.joins(), before, "nothing was sent into the group");
    bob.rejoin_group_with_shown(GROUP).await.unwrap();
    dave.sync(0).await.unwrap();
    settle(&[alice, bob, carol, &dave]).await;
    talks(GROUP, &[alice, bob, &dave]).await;
}
