//! What the service is for.

use crate::support::client::Client;
use crate::support::commits::{JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::scenes::{Trio, pair, trio};
use crate::support::{Service, on_every_engine};
use protocol::Operation;
use protocol::delivery::PayloadKind;
use protocol::groups::{EpochAccepted, GroupKind};
use protocol::problem::ProblemType;

on_every_engine! {
    a_message_reaches_every_other_member_and_not_its_sender
    a_commit_reaches_every_member_the_committer_included
    whoever_is_added_gets_a_welcome_and_no_commit
    a_removed_member_learns_of_it_and_reads_nothing_more
    a_member_updates_its_leaf_with_and_without_a_new_credential
    a_connection_is_joined_by_external_commit
}

async fn a_message_reaches_every_other_member_and_not_its_sender(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&service).await;
    alice.send(&service, &id, b"hello").await;
    bob.send(&service, &id, b"hi").await;
    let (from_alice, from_bob) = (
        Event::Message {
            from: 0,
            text: b"hello".to_vec(),
        },
        Event::Message {
            from: 1,
            text: b"hi".to_vec(),
        },
    );
    let mut heard = carol.receive(&service).await;
    heard.sort_by_key(|event| matches!(event, Event::Message { from: 1, .. }));
    let both = [from_alice, from_bob];
    assert_eq!(heard, both);
    let [from_alice, from_bob] = both;
    assert_eq!(alice.receive(&service).await, [from_bob]);
    assert_eq!(bob.receive(&service).await, [from_alice]);
}

async fn a_commit_reaches_every_member_the_committer_included(service: Service) {
    let Trio {
        mut alice,
        bob,
        carol,
        id,
    } = trio(&service).await;
    alice.commit(&service, &id, Plan::update()).await;
    for client in [&alice, &bob, &carol] {
        let delivered = client.fetch(&service).await;
        assert_eq!(
            delivered.iter().map(|entry| entry.kind).collect::<Vec<_>>(),
            [PayloadKind::Commit]
        );
    }
}

async fn whoever_is_added_gets_a_welcome_and_no_commit(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    let mut carol = Client::new(&service).await;
    let invitee = carol.invitee(&service);
    bob.commit(&service, &id, Plan::add([invitee])).await;
    let kinds: Vec<_> = carol
        .fetch(&service)
        .await
        .iter()
        .map(|entry| entry.kind)
        .collect();
    assert_eq!(kinds, [PayloadKind::Welcome]);
    assert_eq!(carol.receive(&service).await, [Event::Joined]);
    assert_eq!(
        alice.receive(&service).await,
        [Event::Committed { epoch: 2 }]
    );
    assert_eq!(alice.members(&id), carol.members(&id));
}

async fn a_removed_member_learns_of_it_and_reads_nothing_more(service: Service) {
    let Trio {
        mut alice,
        mut bob,
        mut carol,
        id,
    } = trio(&service).await;
    let old_key = carol.group(&id).state_key;
    alice.commit(&service, &id, Plan::remove([2])).await;
    assert_eq!(bob.receive(&service).await, [Event::Committed { epoch: 2 }]);
    assert_eq!(carol.receive(&service).await, [Event::Removed]);
    assert_eq!(alice.group(&id).state_key, bob.group(&id).state_key);
    assert_ne!(alice.group(&id).state_key, old_key);

    alice.send(&service, &id, b"among us").await;
    assert_eq!(
        bob.receive(&service).await,
        [Event::Message {
            from: 0,
            text: b"among us".to_vec()
        }]
    );
    assert_eq!(carol.fetch(&service).await.len(), 0);
    // Her key opens nothing that was written since, and with the new one she is nobody.
    let request = carol.message_request(&service, &id, b"x".to_vec());
    assert_eq!(
        service.refused(Operation::SendMessage, &request).await,
        ProblemType::UnknownGroup
    );
    carol.group_mut(&id).state_key = bob.group(&id).state_key;
    let request = carol.message_request(&service, &id, b"x".to_vec());
    assert_eq!(
        service.refused(Operation::SendMessage, &request).await,
        ProblemType::BadSignature
    );
}

async fn a_member_updates_its_leaf_with_and_without_a_new_credential(service: Service) {
    let mut trio = trio(&service).await;
    let Trio {
        alice,
        bob,
        carol,
        id,
    } = &mut trio;
    bob.commit(&service, id, Plan::update()).await;
    let new_leaf = bob.leaf(&service);
    bob.commit(&service, id, Plan::update_credential(new_leaf))
        .await;
    for client in [&mut *alice, carol] {
        assert_eq!(
            client.receive(&service).await,
            [Event::Committed { epoch: 2 }, Event::Committed { epoch: 3 }]
        );
    }
    bob.receive(&service).await;
    // The new leaf key signs requests from now on, and the queue behind the new reference gets what comes.
    bob.send(&service, id, b"as somebody new").await;
    assert_eq!(
        alice.receive(&service).await,
        [Event::Message {
            from: 1,
            text: b"as somebody new".to_vec()
        }]
    );
    carol.receive(&service).await;
    trio.still_works(&service).await;
}

async fn a_connection_is_joined_by_external_commit(service: Service) {
    let (mut alice, mut bob) = (Client::new(&service).await, Client::new(&service).await);
    let id = alice.create_group(&service, GroupKind::Connection).await;
    let (state_key, wrapper) = (alice.group(&id).state_key, alice.group(&id).wrapper);
    let info = bob.external_commit_info(&service, &id, state_key).await;
    assert_eq!(info.leaves.len(), 1);
    let leaf = bob.leaf(&service);
    let plan = JoinPlan::connection(state_key, wrapper);
    let join = bob.external_join(
        (info.group_info.as_slice(), info.ratchet_tree.as_slice()),
        leaf,
        plan,
    );
    let request = join.signed(&service);
    let accepted: EpochAccepted = service
        .pay(Operation::ExternalJoin, &request)
        .await
        .accepted();
    assert_eq!(accepted.epoch, 1);
    bob.groups.insert(id, join.membership);

    assert_eq!(
        alice.receive(&service).await,
        [Event::Committed { epoch: 1 }]
    );
    alice.send(&service, &id, b"welcome").await;
    assert_eq!(
        bob.receive(&service).await,
        [Event::Message {
            from: 0,
            text: b"welcome".to_vec()
        }]
    );
    bob.send(&service, &id, b"thanks").await;
    assert_eq!(
        alice.receive(&service).await,
        [Event::Message {
            from: 1,
            text: b"thanks".to_vec()
        }]
    );
}
