//! Another implementation of MLS through the service: `mls-rs` by itself and in one group with openmls.
//!
//! What the two have in common is tried here. They differ in this:
//! * SelfRemove: `mls-rs` has it as 0xf003 and only as a build option, openmls as 0x000a. Whoever leaves a group with
//!   both proposes a Remove of itself, which the service takes in its place; a SelfRemove is refused there (RFC 9420
//!   §12.2: all members must support the type).
//! * The exporter of a Welcome's epoch: openmls has it before the tree is known, `mls-rs` after. The kit derives it
//!   (`support/other/wire.rs`), from what RFC 9420 §8 says.
//! * X-Wing suites: the RustCrypto provider of `mls-rs` has none.
//! * A rejoining client finds its old leaf by the same signature key in openmls; `mls-rs` is told the leaf.

use openmls::prelude::Ciphersuite;
use protocol::Operation;
use protocol::codec::WireSecret;
use protocol::groups::{
    EpochAccepted, GroupKind, JoinPermit, ReserveGroupIdRequest, ReserveGroupIdResponse,
};
use protocol::ids::GroupId;
use protocol::policy::{GroupPolicy, Standing};
use protocol::problem::ProblemType;

use crate::support::client::Client;
use crate::support::commits::{JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::other::OtherClient;
use crate::support::other::participant::{Implementation, Participant};
use crate::support::request::fresh_key;
use crate::support::{Service, on_every_engine};

use Implementation::{MlsRs, OpenMls};

on_every_engine! {
    members_of_either_implementation_come_in_by_welcome_and_talk
    a_member_of_either_implementation_updates_its_leaf_and_its_credential
    whoever_is_removed_by_either_implementation_has_no_key_for_what_comes_after
    roles_that_one_implementation_sets_bind_the_other
    a_member_that_leaves_by_a_remove_of_itself_is_let_go_by_the_other_implementation
    a_remove_of_itself_that_an_external_commit_cannot_cover_is_renewed_by_the_service
    a_self_remove_is_refused_where_a_member_does_not_support_it
    whoever_the_service_removes_goes_with_a_commit_of_either_implementation
    a_further_client_joins_by_an_external_commit_of_either_implementation
    a_client_of_either_implementation_rejoins_after_it_lost_its_state
    a_connection_is_joined_by_the_other_implementation
    a_newcomer_with_a_join_code_asks_or_joins_by_itself
    the_loser_of_a_race_of_implementations_goes_on
    a_group_is_reinitialized_and_deleted_by_another_implementation
}

/// What `mls-rs` has with its RustCrypto provider of what the service takes.
const SUITES: [Ciphersuite; 3] = [
    Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
    Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
];

/// Creator, and those whom it adds.
const MIXES: [[Implementation; 3]; 4] = [
    [MlsRs, MlsRs, MlsRs],
    [MlsRs, OpenMls, MlsRs],
    [OpenMls, MlsRs, MlsRs],
    [MlsRs, OpenMls, OpenMls],
];

const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;

/// A group with members of several implementations.
struct Room<'s> {
    service: &'s Service,
    suite: Ciphersuite,
    id: GroupId,
    members: Vec<Participant>,
}

/// Rooms of every suite, by every mix.
async fn rooms(service: &Service) -> Vec<Room<'_>> {
    let mut rooms = Vec::new();
    for suite in SUITES {
        for mix in MIXES {
            rooms.push(Room::with(service, suite, mix).await);
        }
    }
    rooms
}

impl<'s> Room<'s> {
    /// The first creates it and adds the others with one Welcome.
    async fn with(service: &'s Service, suite: Ciphersuite, mix: [Implementation; 3]) -> Self {
        let mut members = Vec::new();
        for implementation in mix {
            members.push(Participant::new(service, implementation, suite).await);
        }
        let [alice, bob, carol] = members.as_mut_slice() else {
            panic!("three members");
        };
        let id = alice.create_group(service, GroupKind::Group).await;
        let invitees = [bob.invitee(service), carol.invitee(service)];
        alice.commit(service, &id, Plan::add(invitees)).await;
        for joiner in [bob, carol] {
            assert_eq!(joiner.receive(service).await, [Event::Joined]);
        }
        let mut room = Self {
            service,
            suite,
            id,
            members,
        };
        room.settle().await;
        room
    }

    fn member(&mut self, at: usize) -> &mut Participant {
        &mut self.members[at]
    }

    async fn commit(&mut self, at: usize, plan: Plan) {
        let Self {
            service,
            id,
            members,
            ..
        } = self;
        members[at].commit(service, id, plan).await;
    }

    /// Everybody receives what there is; returns what each made of it.
    async fn receive(&mut self) -> Vec<Vec<Event>> {
        let mut events = Vec::new();
        for member in &mut self.members {
            events.push(member.receive(self.service).await);
        }
        events
    }

    /// Everybody receives what there is, and then sees the same group.
    async fn settle(&mut self) {
        self.receive().await;
        let views: Vec<_> = self
            .members
            .iter()
            .map(|member| member.view(&self.id))
            .collect();
        for view in &views {
            assert_eq!(*view, views[0]);
        }
        let leaves: Vec<u32> = self
            .members
            .iter()
            .map(|member| member.own_leaf(&self.id))
            .collect();
        for leaf in &leaves {
            assert!(views[0].members.contains(leaf));
        }
        assert_eq!(leaves.len(), views[0].members.len());
    }

    fn state_key(&self) -> [u8; 32] {
        self.members[ALICE].state_key(&self.id)
    }

    /// Everybody says something and everybody else hears it.
    async fn everybody_talks(&mut self) {
        self.settle().await;
        for speaker in 0..self.members.len() {
            let from = self.members[speaker].own_leaf(&self.id);
            let text = format!("from leaf {from}").into_bytes();
            self.says(speaker, &text).await.unwrap();
            let heard = self.receive().await;
            for (listener, events) in heard.into_iter().enumerate() {
                let message = Event::Message {
                    from,
                    text: text.clone(),
                };
                let expected = if listener == speaker {
                    vec![]
                } else {
                    vec![message]
                };
                assert_eq!(events, expected);
            }
        }
    }

    async fn says(&mut self, at: usize, text: &[u8]) -> Result<(), ProblemType> {
        let Self {
            service,
            id,
            members,
            ..
        } = self;
        let reply = members[at].try_send(service, id, text).await;
        if reply.status.is_success() {
            Ok(())
        } else {
            Err(reply.problem())
        }
    }

    async fn set_policy(&mut self, by: usize, policy: &GroupPolicy) {
        let Self {
            service,
            id,
            members,
            ..
        } = self;
        members[by].set_policy(service, id, policy).await;
    }

    async fn newcomer(&self, implementation: Implementation) -> Participant {
        Participant::new(self.service, implementation, self.suite).await
    }
}

async fn members_of_either_implementation_come_in_by_welcome_and_talk(service: Service) {
    for mut room in rooms(&service).await {
        room.everybody_talks().await;
        // Whoever was added adds in turn.
        for implementation in [OpenMls, MlsRs] {
            let mut dave = room.newcomer(implementation).await;
            let invitee = dave.invitee(&service);
            room.commit(BOB, Plan::add([invitee])).await;
            assert_eq!(dave.receive(&service).await, [Event::Joined]);
            room.members.push(dave);
            room.everybody_talks().await;
        }
    }
}

async fn a_member_of_either_implementation_updates_its_leaf_and_its_credential(service: Service) {
    for mut room in rooms(&service).await {
        for at in [ALICE, BOB, CAROL] {
            room.commit(at, Plan::update()).await;
            room.settle().await;
            let id = room.id;
            room.member(at).update_credential(&service, &id).await;
            // The credential is new, and requests are signed by its key.
            room.everybody_talks().await;
        }
    }
}

async fn whoever_is_removed_by_either_implementation_has_no_key_for_what_comes_after(
    service: Service,
) {
    for mut room in rooms(&service).await {
        let old_key = room.state_key();
        let mut carol = room.members.pop().unwrap();
        let farewell = carol.text_request(&service, &room.id, b"I am still here");
        let leaf = carol.own_leaf(&room.id);
        room.commit(ALICE, Plan::remove([leaf])).await;
        assert_eq!(carol.receive(&service).await, [Event::Removed]);
        room.everybody_talks().await;
        assert_ne!(room.state_key(), old_key);
        assert_eq!(
            service.refused(Operation::SendMessage, &farewell).await,
            ProblemType::UnknownGroup
        );
        assert_eq!(carol.receive(&service).await, []);
    }
}

async fn roles_that_one_implementation_sets_bind_the_other(service: Service) {
    for mut room in rooms(&service).await {
        let id = room.id;
        let (bob, carol) = (room.member(BOB).user(&id), room.member(CAROL).user(&id));
        let leaf = room.member(CAROL).own_leaf(&id);
        let policy =
            room.member(ALICE)
                .policy(&id)
                .with(&carol, GroupPolicy::MEMBER, Standing::Muted);
        room.set_policy(ALICE, &policy).await;
        room.settle().await;
        assert_eq!(room.member(BOB).policy(&id), policy);
        assert_eq!(
            room.says(CAROL, b"muted").await,
            Err(ProblemType::NotAllowed)
        );

        let policy = policy.with(&bob, GroupPolicy::ADMIN, Standing::Active);
        room.set_policy(ALICE, &policy).await;
        room.settle().await;
        room.commit(BOB, Plan::remove([leaf])).await;
        room.members.pop();
        room.everybody_talks().await;
    }
}

async fn a_member_that_leaves_by_a_remove_of_itself_is_let_go_by_the_other_implementation(
    service: Service,
) {
    for mut room in rooms(&service).await {
        let (id, old_key) = (room.id, room.state_key());
        room.member(CAROL).leave(&service, &id).await;
        for events in room.receive().await.iter().take(CAROL) {
            assert_eq!(*events, [Event::Proposed]);
        }
        // Who goes next covers it by reference.
        room.commit(BOB, Plan::update().rotating(true)).await;
        let mut carol = room.members.pop().unwrap();
        assert_eq!(carol.receive(&service).await.last(), Some(&Event::Removed));
        room.everybody_talks().await;
        assert_ne!(room.state_key(), old_key);
    }
}

async fn a_remove_of_itself_that_an_external_commit_cannot_cover_is_renewed_by_the_service(
    service: Service,
) {
    for implementation in [OpenMls, MlsRs] {
        for mut room in rooms(&service).await {
            let id = room.id;
            room.member(CAROL).leave(&service, &id).await;
            room.receive().await;
            let mut second = room.newcomer(implementation).await;
            second
                .join_as_client_of(&service, room.member(BOB), &id)
                .await;
            room.members.push(second);
            for events in room.receive().await {
                assert_eq!(events.last(), Some(&Event::Proposed));
            }
            // Nobody has committed it yet, and nobody who lost its state has to wait for that.
            room.member(BOB).rejoin(&service, &id).await;
            for events in room.receive().await {
                assert_eq!(events.last(), Some(&Event::Proposed));
            }
            room.commit(ALICE, Plan::update().rotating(true)).await;
            let mut carol = room.members.remove(CAROL);
            assert_eq!(carol.receive(&service).await, [Event::Removed]);
            room.everybody_talks().await;
        }
    }
}

async fn a_self_remove_is_refused_where_a_member_does_not_support_it(service: Service) {
    let mut room = Room::with(&service, SUITES[0], [MlsRs, OpenMls, OpenMls]).await;
    let id = room.id;
    let Participant::OpenMls(carol) = room.member(CAROL) else {
        panic!("an openmls client");
    };
    let proposal = carol.self_remove(&id);
    let request = carol.self_remove_request(&service, &id, proposal);
    assert_eq!(
        service.refused(Operation::SelfRemove, &request).await,
        ProblemType::InvalidMessage
    );
    room.everybody_talks().await;
}

async fn whoever_the_service_removes_goes_with_a_commit_of_either_implementation(service: Service) {
    for mut room in rooms(&service).await {
        let carol = room.members.pop().unwrap();
        carol.delete_queue(&service).await;
        assert_eq!(
            room.says(ALICE, b"to somebody who is gone").await,
            Err(ProblemType::PendingProposals)
        );
        for events in room.receive().await {
            assert_eq!(events, [Event::Proposed]);
        }
        // openmls takes one of its own, mls-rs the ones that it was handed: both by reference.
        room.commit(BOB, Plan::update().rotating(true)).await;
        room.everybody_talks().await;
    }
}

async fn a_further_client_joins_by_an_external_commit_of_either_implementation(service: Service) {
    for mut room in rooms(&service).await {
        for implementation in [OpenMls, MlsRs] {
            let mut second = room.newcomer(implementation).await;
            let id = room.id;
            second
                .join_as_client_of(&service, room.member(BOB), &id)
                .await;
            room.members.push(second);
            room.everybody_talks().await;
        }
        // And one by Welcome.
        let mut third = room.newcomer(MlsRs).await;
        let user = room.members[BOB].user(&room.id);
        let invitee = third.invitee_of_user(&service, &user);
        room.commit(BOB, Plan::add_clients([invitee])).await;
        assert_eq!(third.receive(&service).await, [Event::Joined]);
        room.members.push(third);
        room.everybody_talks().await;
        // All of them go with their user.
        let leaves: Vec<u32> = room
            .members
            .iter()
            .filter(|member| member.user(&room.id) == user)
            .map(|member| member.own_leaf(&room.id))
            .collect();
        assert_eq!(leaves.len(), 4);
        room.commit(ALICE, Plan::remove(leaves)).await;
        let carol = room.members.swap_remove(CAROL);
        room.members.truncate(1);
        room.members.push(carol);
        room.everybody_talks().await;
    }
}

async fn a_client_of_either_implementation_rejoins_after_it_lost_its_state(service: Service) {
    for mut room in rooms(&service).await {
        let (id, old_key) = (room.id, room.state_key());
        for at in [BOB, CAROL] {
            room.member(at).rejoin(&service, &id).await;
            room.everybody_talks().await;
        }
        assert_ne!(room.state_key(), old_key);
    }
}

async fn a_connection_is_joined_by_the_other_implementation(service: Service) {
    for suite in SUITES {
        for [asker, responder] in [[MlsRs, MlsRs], [MlsRs, OpenMls], [OpenMls, MlsRs]] {
            let mut alice = Participant::new(&service, asker, suite).await;
            let mut bob = Participant::new(&service, responder, suite).await;
            let id = alice.create_group(&service, GroupKind::Connection).await;
            let plan = JoinPlan::connection(alice.state_key(&id), alice.wrapper(&id));
            bob.join_with(&service, &id, plan).await;
            let mut room = Room {
                service: &service,
                suite,
                id,
                members: vec![alice, bob],
            };
            room.everybody_talks().await;
        }
    }
}

async fn a_newcomer_with_a_join_code_asks_or_joins_by_itself(service: Service) {
    for mut room in rooms(&service).await {
        let id = room.id;
        let code = crypto::random().unwrap();
        room.member(ALICE).set_join_code(&service, &id, code).await;
        let plan = |room: &Room<'_>| {
            let permit = JoinPermit::JoinCode(WireSecret::new(code));
            JoinPlan::with(permit, room.state_key(), room.members[ALICE].wrapper(&id))
        };
        for implementation in [OpenMls, MlsRs] {
            let mut newcomer = room.newcomer(implementation).await;
            newcomer.join_with(&service, &id, plan(&room)).await;
            room.members.push(newcomer);
            room.everybody_talks().await;
        }

        let Participant::MlsRs(mut newcomer) = room.newcomer(MlsRs).await else {
            panic!("an mls-rs client");
        };
        newcomer.ask_to_be_added(&service, &id, plan(&room)).await;
        for events in room.receive().await {
            assert_eq!(events, [Event::Proposed]);
        }
        let empty = crate::support::commits::honest_aad(vec![vec![]], false);
        let covering = Plan::add([]).with_aad(protocol::Wire::encode(&empty));
        room.commit(BOB, covering).await;
        assert_eq!(newcomer.receive(&service).await, [Event::Joined]);
        room.members.push(Participant::MlsRs(newcomer));
        room.everybody_talks().await;
    }
}

async fn the_loser_of_a_race_of_implementations_goes_on(service: Service) {
    for mut room in rooms(&service).await {
        let id = room.id;
        for (winner, loser) in [(ALICE, BOB), (BOB, ALICE)] {
            let first = room
                .member(winner)
                .commit_request(&service, &id, Plan::update());
            let second = room
                .member(loser)
                .commit_request(&service, &id, Plan::update());
            let _: EpochAccepted = service
                .post(Operation::UpdateClient, &first)
                .await
                .accepted();
            assert_eq!(
                service.refused(Operation::UpdateClient, &second).await,
                ProblemType::WrongEpoch
            );
            room.settle().await;
            room.commit(loser, Plan::update()).await;
            room.everybody_talks().await;
        }
    }
}

async fn a_group_is_reinitialized_and_deleted_by_another_implementation(service: Service) {
    for suite in SUITES {
        let mut alice =
            OtherClient::of_suite(&service, mls_rs::CipherSuite::new(suite.into())).await;
        let mut bob = Participant::new(&service, MlsRs, suite).await;
        let id = alice.create_group(&service, GroupKind::Group).await;
        let invitee = bob.invitee(&service);
        alice.commit(&service, &id, Plan::add([invitee])).await;
        alice.receive(&service).await;
        bob.receive(&service).await;

        let ReserveGroupIdResponse {
            group_id: successor,
        } = service
            .call(
                Operation::ReserveGroupId,
                &fresh_key(),
                &ReserveGroupIdRequest {},
            )
            .await;
        alice.reinitialize(&service, &id, successor).await;
        assert_eq!(
            alice.receive(&service).await,
            [Event::Committed { epoch: 2 }]
        );
        assert_eq!(bob.receive(&service).await, [Event::Committed { epoch: 2 }]);
        assert!(alice.group(&id).reinitialized);
        let reply = bob.try_send(&service, &id, b"too late").await;
        assert_eq!(reply.problem(), ProblemType::GroupReinitialized);

        let mut carol = Client::of_suite(&service, suite).await;
        let id = alice.create_group(&service, GroupKind::Group).await;
        let invitees = [bob.invitee(&service), carol.invitee(&service)];
        alice.commit(&service, &id, Plan::add(invitees)).await;
        alice.receive(&service).await;
        bob.receive(&service).await;
        carol.receive(&service).await;
        alice.commit(&service, &id, Plan::delete([1, 2])).await;
        assert_eq!(bob.receive(&service).await, [Event::Removed]);
        assert_eq!(carol.receive(&service).await, [Event::Removed]);
        alice.receive(&service).await;
        let gone = alice.text_request(&service, &id, b"is anybody there?");
        assert_eq!(
            service.refused(Operation::SendMessage, &gone).await,
            ProblemType::UnknownGroup
        );
    }
}
