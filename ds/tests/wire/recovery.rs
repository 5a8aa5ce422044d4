//! Whoever was away finds the way back: join records, recovery records, rotations.

use crate::support::client::Client;
use crate::support::commits::Plan;
use crate::support::inbox::Event;
use crate::support::request::{Draft, fresh_key};
use crate::support::scenes::{Trio, pair, trio};
use crate::support::{Service, on_every_engine};
use crypto::keys::GroupLookup as _;
use crypto::sealing::{self, Place};
use protocol::Operation;
use protocol::codec::WireSecret;
use protocol::groups::{Accepted, RecoveryRecordRequest, SealedRecord, SetRecoverySecretRequest};
use protocol::problem::ProblemType;

on_every_engine! {
    a_recovery_record_opens_with_the_recovery_secret_and_gives_the_new_key
    a_new_recovery_secret_counts_at_once_and_the_one_before_no_more
    a_join_record_fetched_two_rotations_late_opens_and_its_state_key_does_not
    a_message_of_an_earlier_epoch_is_taken_as_long_as_nothing_rotated
    an_offline_member_crosses_several_rotations
}

pub(crate) async fn recovered_key(
    service: &Service,
    id: &protocol::ids::GroupId,
    secret: &crypto::keys::RecoverySecret,
) -> Option<[u8; 32]> {
    key_in_record(service, secret, secret.lookup_in(id)).await
}

pub(crate) async fn key_in_record(
    service: &Service,
    secret: &crypto::keys::RecoverySecret,
    lookup: protocol::ids::LookupId,
) -> Option<[u8; 32]> {
    let key = fresh_key();
    let request = Draft::by_key(
        service,
        Operation::RecoveryRecord,
        &key,
        &RecoveryRecordRequest { lookup },
    );
    let reply = service
        .post(Operation::RecoveryRecord, &request.signed(&key))
        .await;
    if reply.status != http::StatusCode::OK {
        assert_eq!(reply.problem(), ProblemType::UnknownRecord);
        return None;
    }
    let record: SealedRecord = reply.accepted();
    let place = Place {
        table: "recovery_records",
        row: &lookup.0,
        part: "record",
    };
    let opened = sealing::open(secret.expose(), place, record.sealed.as_slice()).unwrap();
    Some(opened.as_slice().try_into().unwrap())
}

pub(crate) async fn set_recovery_secret(
    service: &Service,
    client: &Client,
    id: &protocol::ids::GroupId,
) {
    let body = SetRecoverySecretRequest {
        group_id: *id,
        state_key: WireSecret::new(client.group(id).state_key),
        recovery_secret: WireSecret::new(client.group(id).recovery),
    };
    let request = client.leaf_request(
        service,
        id,
        Operation::SetRecoverySecret,
        protocol::Wire::encode(&body),
    );
    let _: Accepted = service
        .post(Operation::SetRecoverySecret, &request)
        .await
        .accepted();
}

async fn a_recovery_record_opens_with_the_recovery_secret_and_gives_the_new_key(service: Service) {
    let Trio {
        mut alice,
        bob,
        carol,
        id,
    } = trio(&service).await;
    set_recovery_secret(&service, &bob, &id).await;
    set_recovery_secret(&service, &carol, &id).await;

    alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    let first = alice.group(&id).state_key;
    for client in [&alice, &bob, &carol] {
        assert_eq!(
            recovered_key(&service, &id, &client.recovery_secret(&id)).await,
            Some(first)
        );
    }
    alice.commit(&service, &id, Plan::remove([2])).await;
    let second = alice.group(&id).state_key;
    assert_eq!(
        recovered_key(&service, &id, &alice.recovery_secret(&id)).await,
        Some(second)
    );
    assert_eq!(
        recovered_key(&service, &id, &bob.recovery_secret(&id)).await,
        Some(second)
    );
    assert_eq!(
        recovered_key(&service, &id, &carol.recovery_secret(&id)).await,
        None,
        "she was removed"
    );
}

async fn a_new_recovery_secret_counts_at_once_and_the_one_before_no_more(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        id,
        ..
    } = trio(&service).await;
    set_recovery_secret(&service, &bob, &id).await;
    alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    bob.receive(&service).await;
    let former = bob.recovery_secret(&id);
    bob.group_mut(&id).recovery = crypto::random().unwrap();
    set_recovery_secret(&service, &bob, &id).await;
    let current = bob.group(&id).state_key;
    assert_eq!(recovered_key(&service, &id, &former).await, None);
    assert_eq!(
        recovered_key(&service, &id, &bob.recovery_secret(&id)).await,
        Some(current)
    );
    // The same secret again, minutes later, keeps its record.
    service.clock.advance(60_000);
    set_recovery_secret(&service, &bob, &id).await;
    assert_eq!(
        recovered_key(&service, &id, &bob.recovery_secret(&id)).await,
        Some(current)
    );
    alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    let next = alice.group(&id).state_key;
    assert_eq!(
        recovered_key(&service, &id, &bob.recovery_secret(&id)).await,
        Some(next)
    );
}

async fn a_join_record_fetched_two_rotations_late_opens_and_its_state_key_does_not(
    service: Service,
) {
    let (mut alice, mut bob, id) = pair(&service).await;
    let mut carol = Client::new(&service).await;
    let invitee = carol.invitee(&service);
    alice.commit(&service, &id, Plan::add([invitee])).await;
    for _ in 0..2 {
        alice
            .commit(&service, &id, Plan::update().rotating(true))
            .await;
    }
    let welcome = carol
        .fetch(&service)
        .await
        .into_iter()
        .find_map(|entry| match entry.payload {
            protocol::delivery::Payload::Welcome(welcome) => Some(welcome),
            _ => None,
        })
        .unwrap();
    carol.join(&service, &welcome).await;
    let request = carol.text_request(&service, &id, b"too early");
    assert_eq!(
        service.refused(Operation::SendMessage, &request).await,
        ProblemType::UnknownGroup
    );

    // Nothing was lost: what happened since stands in her queue.
    let entries = carol.fetch(&service).await;
    for entry in &entries {
        if let protocol::delivery::Payload::Commit(commit) = &entry.payload {
            carol.process(commit.as_slice());
        }
    }
    carol.send(&service, &id, b"here I am").await;
    let heard = bob.receive(&service).await;
    assert_eq!(
        heard.last(),
        Some(&Event::Message {
            from: 2,
            text: b"here I am".to_vec()
        })
    );
}

async fn a_message_of_an_earlier_epoch_is_taken_as_long_as_nothing_rotated(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&service).await;
    let late = bob.text_request(&service, &id, b"late");
    let too_late = carol.text_request(&service, &id, b"too late");
    alice.commit(&service, &id, Plan::update()).await;
    let _: protocol::groups::MessageAccepted =
        service.post(Operation::SendMessage, &late).await.accepted();
    assert!(alice.receive(&service).await.contains(&Event::Message {
        from: 1,
        text: b"late".to_vec()
    }));

    alice
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    let key = alice.group(&id).state_key;
    assert_eq!(
        service.refused(Operation::SendMessage, &too_late).await,
        ProblemType::UnknownGroup
    );
    // Nor under the new key: it is of an epoch before the rotation.
    let message = carol.encrypt(&id, b"too late again");
    carol.group_mut(&id).state_key = key;
    let request = carol.message_request(&service, &id, message);
    let reply = service.post(Operation::SendMessage, &request).await;
    assert_eq!(reply.problem(), ProblemType::WrongEpoch);
    assert_eq!(reply.document()["epoch"], 3);
}

async fn an_offline_member_crosses_several_rotations(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&service).await;
    alice.send(&service, &id, b"before").await;
    for _ in 0..3 {
        alice
            .commit(&service, &id, Plan::update().rotating(true))
            .await;
        alice.send(&service, &id, b"in between").await;
    }
    bob.receive(&service).await;
    let heard = carol.receive(&service).await;
    assert_eq!(
        heard
            .iter()
            .filter(|event| matches!(event, Event::Message { .. }))
            .count(),
        4
    );
    assert_eq!(carol.group(&id).state_key, alice.group(&id).state_key);
    carol.send(&service, &id, b"back").await;
    assert_eq!(
        bob.receive(&service).await,
        [Event::Message {
            from: 2,
            text: b"back".to_vec()
        }]
    );
}
