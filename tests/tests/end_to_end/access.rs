//! Who gets in, and how far.

use client::{Client, Error, Event, sign};
use crypto::schedule::{PoolToken, StateKey};
use crypto::sign::{LeafKeyPair, Scheme};
use end_to_end::{
    Envelope, LogLevel, Outer, Service, Stack, befriend, device, events, group_with, messages,
    now_ms, reads, recovery_row_of, signed_by_anybody, talks,
};
use protocol::codec::opaque;
use protocol::group::{
    CommitRequest, GroupKey, InspectGroupRequest, PutRecoveryRowsRequest, ReserveGroupIdRequest,
    SendMessageRequest,
};
use protocol::ids::{GroupId, LeafIndex, Position, RotationEpoch, SegmentId};
use protocol::join::{ExternalCommitInfoRequest, JoinPermit, RecoveryRowRequest};
use protocol::journal::{AnswerSize, ReadJournalRequest, ReadJournalResponse};
use protocol::key_packages::ClaimKeyPackagesRequest;
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::request::Sender;
use protocol::{WIRE_VERSION, Wire as _};

const GROUP: &str = "expedition";
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
const CAROL: &str = "carol.castillo";

async fn trio(stack: &Stack) -> [Client; 3] {
    let alice = device(stack, 0, ALICE).await;
    let bob = device(stack, 1, BOB).await;
    let carol = device(stack, 2, CAROL).await;
    group_with(GROUP, &alice, &[&bob, &carol]).await;
    [alice, bob, carol]
}

async fn problem_of(client: &Client, operation: Operation, request: &[u8]) -> Option<ProblemType> {
    let answer = client.post(operation, request, &[]).await;
    answer.as_ref().err().and_then(Error::problem)
}

/// What the service can see of an application message: group and epoch.
fn application_message(group: &GroupId, epoch: u64) -> Vec<u8> {
    // MLSMessage: version mls10, wire format mls_private_message (RFC 9420 §6).
    let mut message = vec![0, 1, 0, 2];
    message.extend(opaque(group.0).encode());
    message.extend(epoch.to_be_bytes());
    message.push(1);
    for part in [vec![], vec![1; 28], vec![2; 48]] {
        message.extend(opaque(part).encode());
    }
    message
}

fn key(group: &GroupId, state_key: &StateKey) -> GroupKey {
    GroupKey {
        group_id: *group,
        state_key: state_key.to_wire(),
    }
}

fn send_message(group: &GroupId, state_key: &StateKey, message: Vec<u8>) -> Vec<u8> {
    SendMessageRequest {
        group: key(group, state_key),
        message: opaque(message),
    }
    .encode()
}

/// The request for the row by which a member would come back.
fn row_of(stack: &Stack, handle: &str) -> Vec<u8> {
    let request = RecoveryRowRequest {
        version: WIRE_VERSION,
        id: recovery_row_of(&stack.home(handle), GROUP),
    };
    request.encode()
}

/// The request for all of a segment.
fn reading(segment: SegmentId) -> Vec<u8> {
    let request = ReadJournalRequest {
        version: WIRE_VERSION,
        segment,
        from: Position(0),
        known: Position(0),
        wait_ms: 0,
        size: AnswerSize::Segment,
        piece: 0,
    };
    request.encode()
}

#[tokio::test]
async fn a_removed_member_reads_neither_messages_nor_state() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = trio(&stack).await;
    // All that Bob has as a member: his commit is ready, his state key opens the state.
    alice.set_role(GROUP, BOB, "admin").await.unwrap();
    bob.sync(0).await.unwrap();
    bob.stage_remove(GROUP, &[CAROL]).await.unwrap();
    let his = bob.group_access(GROUP).unwrap();
    let info = ExternalCommitInfoRequest {
        group: key(&his.id, &his.state_key),
        permit: JoinPermit::Rejoin,
        authorization: None,
    };
    let his_row = row_of(&stack, BOB);
    bob.post(Operation::RecoveryRow, &his_row, &[])
        .await
        .unwrap();

    alice.remove_from_group(GROUP, &[BOB]).await.unwrap();
    alice.send_message(GROUP, "he is gone").await.unwrap();
    carol.send_message(GROUP, "so he is").await.unwrap();

    let inspect = InspectGroupRequest {
        group: key(&his.id, &his.state_key),
        from: LeafIndex(0),
    };
    let put_rows = PutRecoveryRowsRequest {
        group: key(&his.id, &his.state_key),
        rotation_epoch: RotationEpoch(0),
        rows: Vec::new(),
    };
    let mut attempts = vec![
        (Operation::InspectGroup, inspect.encode()),
        (Operation::PutRecoveryRows, put_rows.encode()),
    ];
    for epoch in [his.epoch, his.epoch + 1] {
        let message = application_message(&his.id, epoch);
        attempts.push((
            Operation::SendMessage,
            send_message(&his.id, &his.state_key, message),
        ));
    }
    for (operation, body) in attempts {
        let request = bob.sign_as_member(GROUP, operation, &body).unwrap();
        let problem = problem_of(&bob, operation, &request).await;
        assert_eq!(problem, Some(ProblemType::UnknownGroup), "{operation:?}");
    }
    let kept = bob.pending_request(GROUP).unwrap().unwrap();
    let problem = problem_of(&bob, kept.operation, &kept.request).await;
    assert_eq!(problem, Some(ProblemType::UnknownGroup));
    let request = signed_by_anybody(Operation::ExternalCommitInfo, &info.encode());
    let problem = problem_of(&bob, Operation::ExternalCommitInfo, &request).await;
    assert_eq!(problem, Some(ProblemType::UnknownGroup));
    // The rotation left no row for him.
    let problem = problem_of(&bob, Operation::RecoveryRow, &his_row).await;
    assert_eq!(problem, Some(ProblemType::UnknownRecord));
    // The segment that he knows ends with his removal; the next one has a name that he cannot make.
    let read = reading(his.segment);
    let old = bob.post(Operation::ReadJournal, &read, &[]);
    let old = ReadJournalResponse::decode(&old.await.unwrap()).unwrap();
    assert_eq!(old.closed, 1);
    let rotation = RotationEpoch(his.epoch + 1);
    for state_key in [
        his.state_key.to_wire(),
        StateKey::from(&his.state_key.to_wire()).next().to_wire(),
    ] {
        let guessed = StateKey::from(&state_key).segment(&his.id, rotation);
        let problem = problem_of(&bob, Operation::ReadJournal, &reading(guessed)).await;
        assert_eq!(problem, Some(ProblemType::UnknownSegment));
    }
    let now = alice.group_access(GROUP).unwrap().segment;
    assert_ne!(now, his.segment);

    assert_eq!(
        events(&bob).await.last(),
        Some(&Event::Removed {
            group: GROUP.into()
        })
    );
    assert_eq!(
        bob.send_message(GROUP, "hello?").await.unwrap_err().code(),
        "not-a-member"
    );
    assert_eq!(messages(&bob).await, []);
    reads(&alice, &[(CAROL, "so he is")]).await;
    reads(&carol, &[(ALICE, "he is gone")]).await;
    talks(GROUP, &[&alice, &carol]).await;
}

#[tokio::test]
async fn an_unknown_group_and_a_wrong_state_key_are_the_same_problem() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, _, _] = trio(&stack).await;
    let access = alice.group_access(GROUP).unwrap();
    let outer = Outer::of(&stack).await;
    let wrong = StateKey::new(crypto::random().unwrap());
    let nowhere = GroupId([7; 16]);
    let mut answers = Vec::new();
    for (group, key) in [
        (&access.id, &wrong),
        (&nowhere, &access.state_key),
        (&nowhere, &wrong),
    ] {
        let body = send_message(group, key, application_message(group, access.epoch));
        let request = alice
            .sign_as_member(GROUP, Operation::SendMessage, &body)
            .unwrap();
        answers.push(outer.post(Operation::SendMessage, &request).await);
    }
    assert_eq!(answers[0].status, 404);
    assert_eq!(answers[0].problem().as_deref(), Some("unknown-group"));
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:#?}"
    );
}

#[tokio::test]
async fn every_bad_request_is_a_typed_problem_and_changes_nothing() {
    let stack = Stack::start(LogLevel::Info).await;
    let [alice, bob, carol] = trio(&stack).await;
    let dave = device(&stack, 3, "dave.dimitrov").await;
    befriend(&alice, &dave).await;
    alice.add_to_group(GROUP, &["dave.dimitrov"]).await.unwrap();

    alice.set_role(GROUP, BOB, "admin").await.unwrap();
    // A commit of an epoch that is over.
    alice.stage_remove(GROUP, &[CAROL]).await.unwrap();
    bob.remove_from_group(GROUP, &["dave.dimitrov"])
        .await
        .unwrap();
    bob.update_own_leaf(GROUP).await.unwrap();
    alice.take_in().await.unwrap();
    let old_epoch = alice.group_access(GROUP).unwrap().epoch;
    alice.stage_remove(GROUP, &[CAROL]).await.unwrap();
    let late = alice.pending_request(GROUP).unwrap().unwrap();
    bob.update_own_leaf(GROUP).await.unwrap();
    let answer = alice.post(late.operation, &late.request, &[]).await;
    let Err(Error::Refused(refusal)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(refusal.problem, ProblemType::WrongEpoch);
    assert_eq!(refusal.epoch, Some(old_epoch + 1));
    alice.sync(0).await.unwrap();
    for client in [&alice, &bob, &carol] {
        events(client).await;
    }

    // The state is what it was if this commit, made before, is accepted after all the others.
    alice.stage_remove(GROUP, &[CAROL]).await.unwrap();
    let kept = alice.pending_request(GROUP).unwrap().unwrap();
    let good = protocol::request::SignedRequest::decode(&kept.request).unwrap();
    let commit = || CommitRequest::decode(good.body.as_slice()).unwrap();
    let access = alice.group_access(GROUP).unwrap();
    let resigned = |operation, body: Vec<u8>| {
        (
            operation,
            alice.sign_as_member(GROUP, operation, &body).unwrap(),
        )
    };
    let message = |epoch| {
        send_message(
            &access.id,
            &access.state_key,
            application_message(&access.id, epoch),
        )
    };
    let mut bad = Vec::new();

    let whole = alice
        .sign_as_member(GROUP, Operation::SendMessage, &message(access.epoch))
        .unwrap();
    for length in [0, 1, 12, whole.len() / 2, whole.len() - 1] {
        let cut = whole[..length].to_vec();
        bad.push((ProblemType::Malformed, (Operation::SendMessage, cut)));
    }
    bad.push((
        ProblemType::Malformed,
        (Operation::SendMessage, [whole.as_slice(), &[0]].concat()),
    ));
    let trailing = [message(access.epoch), vec![0]].concat();
    bad.push((
        ProblemType::Malformed,
        resigned(Operation::SendMessage, trailing),
    ));
    // Version, operation, minute, nonce, sender; then a body of 2^30 - 1 bytes, so it says.
    let over_long = [&whole[..29], &[0xbf, 0xff, 0xff, 0xff], &whole[29..]].concat();
    bad.push((ProblemType::Malformed, (Operation::SendMessage, over_long)));
    let mut of_another_version = whole.clone();
    of_another_version[..2].copy_from_slice(&[0x7f, 0xff]);
    bad.push((
        ProblemType::UnsupportedVersion,
        (Operation::SendMessage, of_another_version),
    ));
    // Made for another operation, and posted as what it is not.
    bad.push((
        ProblemType::Malformed,
        (Operation::SetLeafExtras, whole.clone()),
    ));

    let mut forged = whole.clone();
    *forged.last_mut().unwrap() ^= 1;
    bad.push((ProblemType::BadSignature, (Operation::SendMessage, forged)));
    let key = LeafKeyPair::random(Scheme::Ed25519).unwrap();
    let leaf = Sender::Leaf(LeafIndex(access.leaf_index));
    let stranger = sign(
        Operation::SendMessage,
        now_ms(),
        &leaf,
        &message(access.epoch),
        &key,
    )
    .unwrap()
    .encode();
    bad.push((
        ProblemType::BadSignature,
        (Operation::SendMessage, stranger),
    ));
    let long_ago = sign(
        Operation::SendMessage,
        1,
        &leaf,
        &message(access.epoch),
        &key,
    )
    .unwrap()
    .encode();
    bad.push((
        ProblemType::StaleTimestamp,
        (Operation::SendMessage, long_ago),
    ));

    for (problem, epoch) in [
        (ProblemType::WrongEpoch, access.epoch - 3),
        (ProblemType::ServiceBehind, access.epoch + 1),
    ] {
        bad.push((problem, resigned(Operation::SendMessage, message(epoch))));
    }
    let handshake = send_message(
        &access.id,
        &access.state_key,
        commit().commit.as_slice().to_vec(),
    );
    bad.push((
        ProblemType::InvalidMessage,
        resigned(Operation::SendMessage, handshake),
    ));
    let mut no_commit = commit();
    no_commit.commit = opaque(application_message(&access.id, access.epoch));
    bad.push((
        ProblemType::InvalidMessage,
        resigned(Operation::RemoveUsers, no_commit.encode()),
    ));

    let mut changed = commit();
    let mut bytes = changed.commit.as_slice().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    changed.commit = opaque(bytes);
    bad.push((
        ProblemType::InvalidCommit,
        resigned(Operation::RemoveUsers, changed.encode()),
    ));
    // Everybody would take a key that the service does not have.
    let mut without_rotation = commit();
    without_rotation.rotation = None;
    bad.push((
        ProblemType::InvalidCommit,
        resigned(Operation::RemoveUsers, without_rotation.encode()),
    ));
    let mut other_signature = commit();
    other_signature.group_info.signature = opaque([5; 64]);
    bad.push((
        ProblemType::InvalidGroupInfo,
        resigned(Operation::RemoveUsers, other_signature.encode()),
    ));

    for (number, (expected, (operation, request))) in bad.into_iter().enumerate() {
        let problem = problem_of(&alice, operation, &request).await;
        assert_eq!(problem, Some(expected), "number {number}, {operation:?}");
    }
    for client in [&bob, &carol] {
        assert_eq!(events(client).await, []);
    }
    let answer = alice
        .post(kept.operation, &kept.request, &kept.tokens)
        .await;
    assert!(answer.is_ok(), "{answer:?}");
    talks(GROUP, &[&alice, &bob]).await;
}

#[tokio::test]
async fn nobody_is_added_before_they_accepted() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    alice.create_group(GROUP).await.unwrap();
    let before = alice.add_to_group(GROUP, &[BOB]).await.unwrap_err();
    assert_eq!(before.code(), "unknown-contact");
    // Asking is not enough.
    alice.connect(BOB).await.unwrap();
    bob.check_inbox().await.unwrap();
    alice.sync(0).await.unwrap();
    let asked = alice.add_to_group(GROUP, &[BOB]).await.unwrap_err();
    assert_eq!(asked.code(), "unknown-contact");

    // A client that does not play by the rules needs his KeyPackages, and for them his token.
    let claim = ClaimKeyPackagesRequest {
        pool: PoolToken::new(crypto::random().unwrap()).pool(),
        ciphersuite: 0x4f,
        sets: 1,
    };
    let request = signed_by_anybody(Operation::ClaimKeyPackages, &claim.encode());
    let token = alice.withdraw_tokens(1).await.unwrap();
    let answer = alice
        .post(Operation::ClaimKeyPackages, &request, &token)
        .await;
    let problem = answer.as_ref().err().and_then(Error::problem);
    assert_eq!(problem, Some(ProblemType::NoKeyPackages), "{answer:?}");

    let request = bob.incoming_requests().unwrap().remove(0);
    bob.decline_request(&request.id).await.unwrap();
    alice.sync(0).await.unwrap();
    let declined = alice.add_to_group(GROUP, &[BOB]).await.unwrap_err();
    assert_eq!(declined.code(), "unknown-contact");
    assert_eq!(bob.groups().unwrap(), []);

    // The same two, once he accepts.
    befriend(&bob, &alice).await;
    alice.add_to_group(GROUP, &[BOB]).await.unwrap();
    bob.sync(0).await.unwrap();
    talks(GROUP, &[&alice, &bob]).await;
}

#[tokio::test]
async fn the_delivery_service_is_reached_through_relay_and_gateway_only() {
    let stack = Stack::start(LogLevel::Info).await;
    let outer = Outer::of(&stack).await;
    let ds = stack.ports().of(Service::Ds);
    let reserve = ReserveGroupIdRequest {
        group_id: GroupId([7; 16]),
    };
    let body = signed_by_anybody(Operation::ReserveGroupId, &reserve.encode());
    for path in [
        "/v1/directory",
        Operation::ReserveGroupId.path(),
        "/nowhere",
    ] {
        for secret in [None, Some("guessed")] {
            let url = format!("http://{ds}{path}");
            for request in [
                outer.http().get(&url),
                outer.http().post(&url).body(body.clone()),
            ] {
                let request = match secret {
                    Some(secret) => request.bearer_auth(secret),
                    None => request,
                };
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status().as_u16(), 401, "{path}");
                let text = answer.text().await.unwrap();
                assert!(text.contains("gateway-only"), "{path}: {text}");
            }
        }
    }
    // The same request, the way that is meant: it lacks a token and nothing else.
    let answer = outer.post(Operation::ReserveGroupId, &body).await;
    assert_eq!(
        (answer.status, answer.problem().as_deref()),
        (401, Some("token-required"))
    );
    let challenge = answer
        .headers
        .iter()
        .find(|(name, _)| name == "www-authenticate");
    assert!(challenge.unwrap().1.starts_with("PrivateToken challenge="));
}

#[tokio::test]
async fn the_gateway_forwards_to_the_delivery_service_only() {
    let stack = Stack::start(LogLevel::Info).await;
    let outer = Outer::of(&stack).await;
    let ds = stack.ports().of(Service::Ds).to_string();
    let foreign = [
        (
            stack.ports().of(Service::Issuer).to_string(),
            "/v1/directory",
        ),
        (stack.ports().admin_of(Service::Ds).to_string(), "/metrics"),
        ("example.com".to_owned(), "/v1/directory"),
        (format!("{ds}@example.com"), "/v1/directory"),
        (ds.clone(), "/metrics"),
        (ds.clone(), "/v1/../metrics"),
    ];
    for (authority, path) in foreign {
        let target = format!("{authority}{path}");
        let answer = outer
            .exchange(&Envelope {
                authority,
                path,
                body: b"",
            })
            .await;
        assert!((400..500).contains(&answer.status), "{target}: {answer:?}");
        assert_ne!(answer.problem().as_deref(), Some("malformed"), "{target}");
        assert_ne!(
            answer.problem().as_deref(),
            Some("token-required"),
            "{target}"
        );
    }
}
