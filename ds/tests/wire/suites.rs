//! Ciphersuites side by side.

use crypto::leaf_authorization::AuthorizedJoin;
use protocol::Operation;
use protocol::groups::{EpochAccepted, GroupKind, JoinPermit};
use protocol::problem::ProblemType;

use crate::support::client::{CIPHERSUITES, Client, Flaw};
use crate::support::commits::{JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::{Engine, Service, on_every_engine};

on_every_engine! {
    groups_of_every_suite_live_side_by_side
}

async fn groups_of_every_suite_live_side_by_side(service: Service) {
    let mut groups = Vec::new();
    for suite in CIPHERSUITES {
        let mut alice = Client::of_suite(&service, suite).await;
        let mut bob = Client::of_suite(&service, suite).await;
        let id = alice.create_group(&service, GroupKind::Group).await;
        let invitee = bob.invitee(&service);
        alice.commit(&service, &id, Plan::add([invitee])).await;
        assert_eq!(bob.receive(&service).await, [Event::Joined]);
        alice.receive(&service).await;
        groups.push((alice, bob, id));
    }
    for (alice, bob, id) in &mut groups {
        // A message, a new credential, an external commit, a self-remove, a rotation.
        bob.send(&service, id, b"hello").await;
        assert_eq!(alice.receive(&service).await.len(), 1);
        let leaf = alice.renewed_leaf(&service, id);
        alice
            .commit(&service, id, Plan::update_credential(leaf))
            .await;
        alice.receive(&service).await;
        bob.receive(&service).await;
        let mut tablet = Client::of_suite(&service, bob.suite).await;
        let leaf = tablet.leaf_of_user(&service, Flaw::None, &bob.user(id));
        let word = bob.authorize(&service, id, AuthorizedJoin::Client, &leaf.signer.0);
        let group = bob.group(id);
        let plan = JoinPlan::with(JoinPermit::Client(word), group.state_key, group.wrapper);
        let join = tablet.join_externally(&service, id, leaf, plan).await;
        let request = join.signed(&service);
        let reply = service.pay(Operation::ExternalJoin, &request).await;
        let _: EpochAccepted = reply.accepted();
        tablet.groups.insert(*id, join.membership);
        alice.receive(&service).await;
        bob.receive(&service).await;
        bob.leave(&service, id).await;
        tablet.receive(&service).await;
        tablet
            .commit(&service, id, Plan::update().rotating(true))
            .await;
        alice.receive(&service).await;
        assert_eq!(bob.receive(&service).await.last(), Some(&Event::Removed));
        alice.send(&service, id, b"goes on").await;
        assert_eq!(
            tablet.receive(&service).await.last(),
            Some(&Event::Message {
                from: 0,
                text: b"goes on".to_vec()
            })
        );
    }
}

#[tokio::test]
async fn a_key_package_of_another_suite_does_not_come_in() {
    let service = Service::start(Engine::Memory);
    let [suite, _, other, ..] = CIPHERSUITES;
    let mut alice = Client::of_suite(&service, suite).await;
    let mut bob = Client::of_suite(&service, other).await;
    let id = alice.create_group(&service, GroupKind::Group).await;
    let invitee = bob.invitee(&service);
    let proposal =
        crate::support::samples::newcomer_proposal(&alice, &invitee, &bob.leaf_keys[0], &id);
    let body = alice.proposal_body(&id, proposal);
    let key = &bob.leaf_keys[0];
    let request = crate::support::request::Draft::by_key(&service, Operation::Propose, key, &body)
        .signed(key);
    assert_eq!(
        service.refused_at_cost(Operation::Propose, &request).await,
        ProblemType::InvalidMessage
    );
}
