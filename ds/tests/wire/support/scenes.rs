//! Situations that many tests begin with.

use protocol::groups::GroupKind;
use protocol::ids::GroupId;

use super::Service;
use super::client::{Client, Flaw};
use super::commits::Plan;
use super::inbox::Event;

/// Alice (leaf 0), Bob (1) and Carol (2) in one group, all up to date.
pub struct Trio {
    pub alice: Client,
    pub bob: Client,
    pub carol: Client,
    pub id: GroupId,
}

/// A group with Alice and Bob.
pub async fn pair(service: &Service) -> (Client, Client, GroupId) {
    let (mut alice, mut bob) = (Client::new(service).await, Client::new(service).await);
    let id = alice.create_group(service, GroupKind::Group).await;
    let invitee = bob.invitee(service);
    alice.commit(service, &id, Plan::add([invitee])).await;
    assert_eq!(bob.receive(service).await, [Event::Joined]);
    alice.receive(service).await;
    (alice, bob, id)
}

pub async fn trio(service: &Service) -> Trio {
    let (mut alice, mut bob) = (Client::new(service).await, Client::new(service).await);
    let mut carol = Client::new(service).await;
    let id = alice.create_group(service, GroupKind::Group).await;
    let invitees = [bob.invitee(service), carol.invitee(service)];
    alice.commit(service, &id, Plan::add(invitees)).await;
    for client in [&mut alice, &mut bob, &mut carol] {
        client.receive(service).await;
    }
    Trio {
        alice,
        bob,
        carol,
        id,
    }
}

/// A further client of a member's user, in the group, with everybody up to date.
pub async fn with_second_client(
    service: &Service,
    first: &mut Client,
    others: &mut [&mut Client],
    id: &GroupId,
) -> Client {
    let mut second = Client::of_suite(service, first.suite).await;
    let leaf = second.leaf_of_user(service, Flaw::None, &first.user(id));
    let invitee = second.invitee_with(leaf);
    first
        .commit(service, id, Plan::add_clients([invitee]))
        .await;
    assert_eq!(second.receive(service).await, [Event::Joined]);
    first.receive(service).await;
    for other in others {
        other.receive(service).await;
    }
    second
}

impl Trio {
    /// Everybody talks and everybody hears it: nothing that was refused has harmed the group.
    pub async fn still_works(&mut self, service: &Service) {
        let Self {
            alice,
            bob,
            carol,
            id,
        } = self;
        for client in [&mut *alice, bob, carol] {
            assert_eq!(client.receive(service).await, [], "something was delivered");
        }
        alice.send(service, id, b"probe").await;
        let heard = [Event::Message {
            from: 0,
            text: b"probe".to_vec(),
        }];
        assert_eq!(bob.receive(service).await, heard);
        assert_eq!(carol.receive(service).await, heard);
        bob.commit(service, id, Plan::update()).await;
        for client in [alice, bob, carol] {
            client.receive(service).await;
        }
    }
}
