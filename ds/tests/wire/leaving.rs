//! Whoever leaves says so, and nothing else happens in the group until a commit has let him go.

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{GroupEpoch, JoinProposal, LeafNodeIndex, OpenMlsProvider as _};
use protocol::Operation;
use protocol::codec::WireSecret;
use protocol::groups::{EpochAccepted, JoinPermit, MessageAccepted};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;

use crate::support::client::Client;
use crate::support::commits::{ExternalJoin, JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::scenes::{Trio, trio};
use crate::support::{Engine, Service, on_every_engine};

on_every_engine! {
    nothing_happens_before_the_one_who_leaves_is_gone
    whoever_leaves_is_removed_by_value_too
}

async fn with_carol_leaving(service: &Service) -> Trio {
    let mut trio = trio(service).await;
    says_that_she_leaves(service, &mut trio).await;
    trio
}

/// Carol has said that she leaves, and everybody knows.
async fn says_that_she_leaves(service: &Service, trio: &mut Trio) {
    trio.carol.leave(service, &trio.id).await;
    for client in [&mut trio.alice, &mut trio.bob] {
        assert_eq!(client.receive(service).await, [Event::Proposed]);
    }
    trio.carol.receive(service).await;
}

async fn goes_on_without_carol(service: &Service, mut trio: Trio) {
    assert_eq!(
        trio.alice.receive(service).await,
        [Event::Committed { epoch: 2 }]
    );
    assert_eq!(trio.carol.receive(service).await, [Event::Removed]);
    trio.bob.receive(service).await;
    trio.bob.send(service, &trio.id, b"goes on").await;
    assert_eq!(
        trio.alice.receive(service).await,
        [Event::Message {
            from: 1,
            text: b"goes on".to_vec()
        }]
    );
    let seen = trio.alice.inspect(service, &trio.id).await;
    assert_eq!(seen.members.len(), 2);
    assert_eq!(seen.pending_proposals, []);
}

async fn nothing_happens_before_the_one_who_leaves_is_gone(service: Service) {
    let mut trio = trio(&service).await;
    let id = trio.id;
    let messages = [
        trio.alice.text_request(&service, &id, b"too early"),
        trio.carol.text_request(&service, &id, b"too late"),
    ];
    says_that_she_leaves(&service, &mut trio).await;
    let Trio { alice, bob, id, .. } = &mut trio;
    let seen = alice.inspect(&service, id).await;
    assert_eq!((seen.members.len(), seen.pending_proposals.len()), (3, 1));
    for message in messages {
        assert_eq!(
            service.refused(Operation::SendMessage, &message).await,
            ProblemType::PendingProposals
        );
    }
    let mut dave = Client::new(&service).await;
    let add = Plan::add([dave.invitee(&service)]);
    for uncovering in [Plan::update(), add, Plan::remove([1])] {
        assert_eq!(
            alice.refused(&service, id, uncovering.alone()).await,
            ProblemType::PendingProposals
        );
    }
    assert_eq!(
        alice.refused(&service, id, Plan::update()).await,
        ProblemType::RotationRequired,
        "a leaf goes with it"
    );
    // Whoever may do no more than update lets her go.
    bob.commit(&service, id, Plan::update().rotating(true))
        .await;
    goes_on_without_carol(&service, trio).await;
}

async fn whoever_leaves_is_removed_by_value_too(service: Service) {
    let mut trio = with_carol_leaving(&service).await;
    let Trio { alice, bob, id, .. } = &mut trio;
    // Members could not tell it from a removal that Bob may not make.
    assert_eq!(
        bob.refused(&service, id, Plan::remove([2]).alone()).await,
        ProblemType::NotAllowed
    );
    alice.commit(&service, id, Plan::remove([2]).alone()).await;
    assert_eq!(
        trio.bob.receive(&service).await,
        [Event::Committed { epoch: 2 }]
    );
    assert_eq!(trio.carol.receive(&service).await, [Event::Removed]);
    trio.alice.receive(&service).await;
    trio.alice.send(&service, &trio.id, b"goes on").await;
    let heard = trio.bob.receive(&service).await;
    assert!(matches!(heard.as_slice(), [Event::Message { from: 0, .. }]));
}

#[tokio::test]
async fn a_remove_of_the_own_leaf_is_a_way_to_leave() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let Client {
        groups, provider, ..
    } = &mut trio.carol;
    let group = groups.get_mut(&id).unwrap();
    let proposal = group
        .mls
        .leave_group(provider, &group.signer)
        .unwrap()
        .tls_serialize_detached()
        .unwrap();
    let request = trio.carol.self_remove_request(&service, &id, proposal);
    let _: MessageAccepted = service
        .post(Operation::SelfRemove, &request)
        .await
        .accepted();
    assert_eq!(trio.bob.receive(&service).await, [Event::Proposed]);
    trio.bob
        .commit(&service, &id, Plan::update().rotating(true))
        .await;
    assert_eq!(trio.bob.members(&id), [0, 1]);
}

#[tokio::test]
async fn who_says_twice_that_he_leaves_has_said_it_once() {
    let service = Service::start(Engine::Memory);
    let mut trio = with_carol_leaving(&service).await;
    service.clock.advance(1);
    let before = service.store.transitions();
    trio.carol.leave(&service, &trio.id).await;
    assert_eq!(service.store.transitions(), before);
    assert_eq!(trio.alice.receive(&service).await, []);
}

#[tokio::test]
async fn nobody_leaves_in_somebody_elses_name_or_by_another_proposal() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let id = trio.id;
    let of_bob = trio.bob.self_remove(&id);
    let of_carol = trio.carol.self_remove(&id);
    let mut dave = Client::new(&service).await;
    let newcomer = dave.invitee(&service).key_package;
    let (remove_bob, add) = {
        let Client {
            groups, provider, ..
        } = &mut trio.carol;
        let group = groups.get_mut(&id).unwrap();
        let bob = LeafNodeIndex::new(1);
        let (remove, _) = group
            .mls
            .propose_remove_member(provider, &group.signer, bob)
            .unwrap();
        let (add, _) = group
            .mls
            .propose_add_member(provider, &group.signer, &newcomer)
            .unwrap();
        let storage = provider.storage();
        group.mls.clear_pending_proposals(storage).unwrap();
        (remove, add)
    };
    let encoded =
        |message: openmls::prelude::MlsMessageOut| message.tls_serialize_detached().unwrap();
    let of_newcomer = JoinProposal::new::<openmls_rust_crypto::MemoryStorage>(
        newcomer,
        openmls::prelude::GroupId::from_slice(&id.0),
        GroupEpoch::from(1),
        &crate::support::client::LeafSigner(crate::support::request::copy(&dave.leaf_keys[0])),
    )
    .unwrap();
    let commit = trio.carol.stage(&id, Plan::update());
    trio.carol.abandon(&id);
    let message = trio.carol.encrypt(&id, b"goodbye");
    for proposal in [
        of_bob,
        encoded(remove_bob),
        encoded(add),
        encoded(of_newcomer),
        commit.commit,
        message,
        [of_carol.as_slice(), &[0]].concat(),
        of_carol[..of_carol.len() - 1].to_vec(),
        Vec::new(),
    ] {
        let request = trio.carol.self_remove_request(&service, &id, proposal);
        assert_eq!(
            service.refused(Operation::SelfRemove, &request).await,
            ProblemType::InvalidMessage
        );
    }
    trio.still_works(&service).await;
    // Of an epoch that is over.
    let request = trio.carol.self_remove_request(&service, &id, of_carol);
    let before = service.store.transitions();
    let reply = service.post(Operation::SelfRemove, &request).await;
    assert_eq!(reply.problem(), ProblemType::WrongEpoch);
    assert_eq!(reply.document()["epoch"], 2);
    assert_eq!(service.store.transitions(), before);
}

#[tokio::test]
async fn the_one_who_leaves_commits_nothing_any_more() {
    let service = Service::start(Engine::Memory);
    let mut trio = with_carol_leaving(&service).await;
    assert_eq!(
        trio.carol
            .refused(&service, &trio.id, Plan::update().rotating(true).alone())
            .await,
        ProblemType::PendingProposals
    );
}

/// Bob's tablet comes in, with these SelfRemoves covered.
async fn tablet_joins(
    service: &Service,
    (alice, bob, id): (&Client, &Client, &GroupId),
    covered: Vec<Vec<u8>>,
    rotating: bool,
) -> ExternalJoin {
    let tablet = Client::new(service).await;
    let leaf = tablet.leaf_of_user(service, crate::support::client::Flaw::None, &bob.user(id));
    let join = crypto::leaf_authorization::AuthorizedJoin::Client;
    let permit = JoinPermit::Client(bob.authorize(service, id, join, &leaf.signer.0));
    let group = alice.group(id);
    let mut plan = JoinPlan::with(permit, group.state_key, group.wrapper).covering(covered);
    plan.rotates = rotating;
    let (info, tree) = crate::support::commits::group_info_of(alice, id);
    tablet.external_join((&info, &tree), leaf, plan)
}

#[tokio::test]
async fn an_external_joiner_lets_those_go_who_leave() {
    let service = Service::start(Engine::Memory);
    for covers in [true, false] {
        let mut trio = trio(&service).await;
        let Trio {
            alice,
            bob,
            carol,
            id,
        } = &mut trio;
        let leaving = carol.self_remove(id);
        let request = carol.self_remove_request(&service, id, leaving.clone());
        let _: MessageAccepted = service
            .post(Operation::SelfRemove, &request)
            .await
            .accepted();
        for client in [&mut *alice, &mut *bob] {
            assert_eq!(client.receive(&service).await, [Event::Proposed]);
        }
        if !covers {
            let join = tablet_joins(&service, (alice, bob, id), Vec::new(), false).await;
            let request = join.signed(&service);
            let reply = service.pay(Operation::ExternalJoin, &request).await;
            assert_eq!(reply.accepted::<EpochAccepted>().epoch, 2);
            // She has not been forgotten.
            let events = [Event::Committed { epoch: 2 }, Event::Proposed];
            assert_eq!(alice.receive(&service).await, events);
            alice
                .commit(&service, id, Plan::update().rotating(true))
                .await;
            assert_eq!(alice.members(id), [0, 1, 3]);
            continue;
        }
        let keeps_key =
            tablet_joins(&service, (alice, bob, id), vec![leaving.clone()], false).await;
        assert_eq!(
            service
                .refused_at_cost(Operation::ExternalJoin, &keeps_key.signed(&service))
                .await,
            ProblemType::RotationRequired
        );
        let join = tablet_joins(&service, (alice, bob, id), vec![leaving], true).await;
        let request = join.signed(&service);
        let reply = service.pay(Operation::ExternalJoin, &request).await;
        assert_eq!(reply.accepted::<EpochAccepted>().epoch, 2);
        assert_eq!(
            alice.receive(&service).await,
            [Event::Committed { epoch: 2 }]
        );
        // The place that became free is the joiner's.
        assert_eq!(alice.members(id), [0, 1, 2]);
        let seen = alice.inspect(&service, id).await;
        assert_eq!(seen.members[2].user_pseudonym.as_slice(), bob.user(id));
        assert_eq!(
            WireSecret::new(alice.group(id).state_key).expose(),
            &join.membership.state_key
        );
    }
}

#[tokio::test]
async fn a_self_remove_with_a_wrong_membership_tag_keeps_nobody_from_joining() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let Trio {
        alice,
        bob,
        carol,
        id,
    } = &mut trio;
    let mut leaving = carol.self_remove(id);
    *leaving.last_mut().unwrap() ^= 1;
    let request = carol.self_remove_request(&service, id, leaving);
    let _: MessageAccepted = service
        .post(Operation::SelfRemove, &request)
        .await
        .accepted();
    // Members do not take it; only the service knows it.
    for client in [&mut *alice, &mut *bob] {
        let entries = client.fetch(&service).await;
        let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids.len(), 1);
        client.acknowledge(&service, ids).await;
    }
    let tablet = Client::new(&service).await;
    let leaf = tablet.leaf_of_user(&service, crate::support::client::Flaw::None, &bob.user(id));
    let join = crypto::leaf_authorization::AuthorizedJoin::Client;
    let permit = JoinPermit::Client(bob.authorize(&service, id, join, &leaf.signer.0));
    let group = alice.group(id);
    // With what the service hands out, whatever that is.
    let plan = JoinPlan::with(permit, group.state_key, group.wrapper);
    let join = tablet.join_externally(&service, id, leaf, plan).await;
    let request = join.signed(&service);
    let reply = service.pay(Operation::ExternalJoin, &request).await;
    assert_eq!(reply.accepted::<EpochAccepted>().epoch, 2);
    for client in [&mut *alice, &mut *bob] {
        let events = [Event::Committed { epoch: 2 }, Event::Proposed];
        assert_eq!(client.receive(&service).await, events, "members follow");
    }
    alice
        .commit(&service, id, Plan::update().rotating(true))
        .await;
    assert_eq!(alice.members(id), [0, 1, 3]);
}
