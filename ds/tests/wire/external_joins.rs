//! External commits, each with its permit: by a user's new client, again after a loss of state, by a join code.

use crypto::keys::StateKey;
use crypto::leaf_authorization::{self, AuthorizedJoin};
use crypto::sign::LeafKeyPair;
use protocol::Operation;
use protocol::codec::WireSecret;
use protocol::groups::{EpochAccepted, ExternalCommitInfoRequest, JoinPermit, LeafAuthorization};
use protocol::ids::GroupId;
use protocol::policy::{GroupPolicy, Standing};
use protocol::problem::ProblemType;

use crate::recovery::recovered_key;
use crate::support::client::{Client, Flaw, Leaf};
use crate::support::commits::{ExternalJoin, HOUR_MS, JoinPlan, Plan, again, group_info_of};
use crate::support::inbox::Event;
use crate::support::request::copy;
use crate::support::scenes::{pair, trio};
use crate::support::{Engine, Service, on_every_engine};

on_every_engine! {
    a_users_new_client_joins_by_the_word_of_another_one
    a_client_that_lost_its_state_takes_its_own_place_again
}

/// What a member tells a joiner.
fn plan(member: &Client, id: &GroupId, permit: JoinPermit) -> JoinPlan {
    let group = member.group(id);
    JoinPlan::with(permit, group.state_key, group.wrapper)
}

fn build(
    member: &Client,
    joiner: &Client,
    id: &GroupId,
    leaf: Leaf,
    plan: JoinPlan,
) -> ExternalJoin {
    let (info, tree) = group_info_of(member, id);
    joiner.external_join((&info, &tree), leaf, plan)
}

async fn accepted(service: &Service, joiner: &mut Client, join: ExternalJoin) -> u64 {
    let request = join.signed(service);
    let answer: EpochAccepted = service
        .pay(Operation::ExternalJoin, &request)
        .await
        .accepted();
    let id = join.request.group_id;
    crate::support::state::check(service, &id, join.membership.state_key).await;
    joiner.groups.insert(id, join.membership);
    answer.epoch
}

/// Refused by the permit alone, before any work, as is the question for what a join needs.
async fn not_permitted(service: &Service, join: &ExternalJoin, why: &str) {
    let info = ExternalCommitInfoRequest {
        group_id: join.request.group_id,
        state_key: WireSecret::new(*join.request.state_key.expose()),
        permit: again(&join.request.permit),
    };
    assert_eq!(
        service
            .refusal(Operation::ExternalCommitInfo, &join.key, &info)
            .await,
        ProblemType::NotAllowed,
        "{why}"
    );
    assert_eq!(
        service
            .refused(Operation::ExternalJoin, &join.signed(service))
            .await,
        ProblemType::NotAllowed,
        "{why}"
    );
}

/// Refused after the work on the tree, which a token paid for.
async fn refused(service: &Service, join: &ExternalJoin) -> ProblemType {
    service
        .refused_at_cost(Operation::ExternalJoin, &join.signed(service))
        .await
}

async fn a_users_new_client_joins_by_the_word_of_another_one(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    let mut tablet = Client::new(&service).await;
    let leaf = tablet.leaf_of_user(&service, Flaw::None, &bob.user(&id));
    let permit =
        JoinPermit::Client(bob.authorize(&service, &id, AuthorizedJoin::Client, &leaf.signer.0));
    let join = tablet
        .join_externally(&service, &id, leaf, plan(&bob, &id, permit))
        .await;
    assert_eq!(accepted(&service, &mut tablet, join).await, 2);
    assert_eq!(
        alice.receive(&service).await,
        [Event::Committed { epoch: 2 }]
    );
    bob.receive(&service).await;
    // What it needs after a loss is there at once.
    assert_eq!(
        recovered_key(&service, &id, &tablet.recovery_secret(&id)).await,
        Some(alice.group(&id).state_key)
    );
    tablet.send(&service, &id, b"from the tablet").await;
    let heard = [Event::Message {
        from: 2,
        text: b"from the tablet".to_vec(),
    }];
    assert_eq!(alice.receive(&service).await, heard);
    assert_eq!(bob.receive(&service).await, heard);
    let seen = alice.inspect(&service, &id).await;
    let [_, of_bob, of_tablet] = seen.members.as_slice() else {
        panic!("three leaves");
    };
    assert_eq!(of_bob.user_pseudonym, of_tablet.user_pseudonym);
}

#[tokio::test]
async fn an_authorization_for_years_is_refused() {
    let service = Service::start(Engine::Memory);
    let (_, bob, id) = pair(&service).await;
    let tablet = Client::new(&service).await;
    let longest = 35 * protocol::time::DAY_MS + protocol::time::CLOCK_WINDOW_MS;
    for (not_after_ms, good) in [
        (u64::MAX, false),
        (service.now() + longest + 1, false),
        (service.now() + longest, true),
    ] {
        let leaf = tablet.leaf_of_user(&service, Flaw::None, &bob.user(&id));
        let word = leaf_authorization::authorize(
            &bob.group(&id).signer.0,
            (&id, &state_key(&bob, &id)),
            AuthorizedJoin::Client,
            1,
            not_after_ms,
            &leaf.signer.0.public(),
        );
        let (info, tree) = crate::support::commits::group_info_of(&bob, &id);
        let plan = plan(&bob, &id, JoinPermit::Client(word));
        let join = tablet.external_join((&info, &tree), leaf, plan);
        let request = join.signed(&service);
        if good {
            let reply = service.pay(Operation::ExternalJoin, &request).await;
            assert_eq!(reply.accepted::<EpochAccepted>().epoch, 2);
        } else {
            assert_eq!(
                service.refused(Operation::ExternalJoin, &request).await,
                ProblemType::LimitExceeded
            );
        }
    }
}

#[tokio::test]
async fn an_authorization_that_is_not_exactly_this_one_lets_nobody_in() {
    let service = Service::start(Engine::Memory);
    let (mut alice, bob, id) = pair(&service).await;
    let (mut dave, _, elsewhere) = pair(&service).await;
    let tablet = Client::new(&service).await;
    let user = bob.user(&id);
    let later = service.now() + HOUR_MS;
    let now = state_key(&bob, &id);
    let by_bob = |group: &GroupId, join, leaf, not_after, key: &LeafKeyPair| {
        let own = &bob.group(&id).signer.0;
        let group = (group, &now);
        leaf_authorization::authorize(own, group, join, leaf, not_after, &key.public())
    };
    type Forgery<'a> = Box<dyn Fn(&LeafKeyPair) -> LeafAuthorization + 'a>;
    let forgeries: [(&str, Forgery<'_>); 9] = [
        (
            "by somebody else",
            Box::new(|key| {
                let stranger = &dave.group(&elsewhere).signer.0;
                let public = key.public();
                leaf_authorization::authorize(
                    stranger,
                    (&id, &now),
                    AuthorizedJoin::Client,
                    1,
                    later,
                    &public,
                )
            }),
        ),
        (
            "expired",
            Box::new(|key| by_bob(&id, AuthorizedJoin::Client, 1, service.now() - 1, key)),
        ),
        (
            "for another purpose",
            Box::new(|key| by_bob(&id, AuthorizedJoin::Rejoin, 1, later, key)),
        ),
        (
            "for another group",
            Box::new(|key| by_bob(&elsewhere, AuthorizedJoin::Client, 1, later, key)),
        ),
        (
            "under a former state key",
            Box::new(|key| {
                let own = &bob.group(&id).signer.0;
                let former = StateKey::new([9; 32]);
                let client = AuthorizedJoin::Client;
                let group = (&id, &former);
                leaf_authorization::authorize(own, group, client, 1, later, &key.public())
            }),
        ),
        (
            "for another key",
            Box::new(|_| {
                let other = crate::support::request::fresh_key();
                by_bob(&id, AuthorizedJoin::Client, 1, later, &other)
            }),
        ),
        (
            "in the name of another leaf",
            Box::new(|key| by_bob(&id, AuthorizedJoin::Client, 0, later, key)),
        ),
        (
            "in the name of a leaf that is free",
            Box::new(|key| by_bob(&id, AuthorizedJoin::Client, 9, later, key)),
        ),
        (
            "made longer afterwards",
            Box::new(|key| LeafAuthorization {
                not_after_ms: later + 1,
                ..by_bob(&id, AuthorizedJoin::Client, 1, later, key)
            }),
        ),
    ];
    for (what, forge) in forgeries {
        let leaf = tablet.leaf_of_user(&service, Flaw::None, &user);
        let permit = JoinPermit::Client(forge(&leaf.signer.0));
        let join = build(&alice, &tablet, &id, leaf, plan(&alice, &id, permit));
        not_permitted(&service, &join, what).await;
    }
    alice.commit(&service, &id, Plan::update()).await;
    dave.commit(&service, &elsewhere, Plan::update()).await;
}

#[tokio::test]
async fn an_authorized_client_is_one_of_the_user_who_authorized_it() {
    let service = Service::start(Engine::Memory);
    let (mut alice, bob, id) = pair(&service).await;
    let tablet = Client::new(&service).await;
    for user in [alice.user(&id), b"mimi://ds.example/p/nobody".to_vec()] {
        let leaf = tablet.leaf_of_user(&service, Flaw::None, &user);
        let word = bob.authorize(&service, &id, AuthorizedJoin::Client, &leaf.signer.0);
        let plan = plan(&alice, &id, JoinPermit::Client(word));
        let join = build(&alice, &tablet, &id, leaf, plan);
        assert_eq!(refused(&service, &join).await, ProblemType::NotAllowed);
    }
    alice.commit(&service, &id, Plan::update()).await;
}

#[tokio::test]
async fn a_banned_user_brings_no_further_client_in() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    let policy = alice.policy(&id).unwrap();
    let user = bob.user(&id);
    let banned = policy.with(&user, GroupPolicy::MEMBER, Standing::Banned);
    alice.set_policy(&service, &id, &banned).await;
    bob.receive(&service).await;
    let mut tablet = Client::new(&service).await;
    let leaf = tablet.leaf_of_user(&service, Flaw::None, &user);
    let word = bob.authorize(&service, &id, AuthorizedJoin::Client, &leaf.signer.0);
    let plan = plan(&alice, &id, JoinPermit::Client(word));
    let join = build(&alice, &tablet, &id, leaf, plan);
    assert_eq!(refused(&service, &join).await, ProblemType::NotAllowed);
    let leaf = tablet.leaf_of_user(&service, Flaw::None, &user);
    let invitee = tablet.invitee_with(leaf);
    assert_eq!(
        bob.refused(&service, &id, Plan::add_clients([invitee]))
            .await,
        ProblemType::NotAllowed
    );
}

/// The client has nothing of the group left but its leaf's key, and what others tell it.
fn lose_state(client: &mut Client, id: &GroupId) -> LeafKeyPair {
    use openmls::prelude::OpenMlsProvider as _;
    let mut membership = client.groups.remove(id).unwrap();
    membership.mls.delete(client.provider.storage()).unwrap();
    membership.signer.0
}

fn state_key(client: &Client, id: &GroupId) -> StateKey {
    StateKey::new(client.group(id).state_key)
}

/// Of a client that has lost its state, with the state key that `other` knows.
fn rejoin_permit(
    service: &Service,
    (other, id): (&Client, &GroupId),
    leaf: u32,
    key: &LeafKeyPair,
) -> JoinPermit {
    let until = service.now() + HOUR_MS;
    let join = AuthorizedJoin::Rejoin;
    JoinPermit::Rejoin(leaf_authorization::authorize(
        key,
        (id, &state_key(other, id)),
        join,
        leaf,
        until,
        &key.public(),
    ))
}

async fn a_client_that_lost_its_state_takes_its_own_place_again(service: Service) {
    let mut trio = trio(&service).await;
    let id = trio.id;
    let user = trio.bob.user(&id);
    let key = lose_state(&mut trio.bob, &id);
    let leaf = trio
        .bob
        .leaf_for_key(&service, Flaw::None, &user, copy(&key));
    let permit = rejoin_permit(&service, (&trio.alice, &id), 1, &key);
    let join = trio
        .bob
        .join_externally(
            &service,
            &id,
            leaf,
            plan(&trio.alice, &id, permit).rotating(),
        )
        .await;
    assert_eq!(accepted(&service, &mut trio.bob, join).await, 2);
    for client in [&mut trio.alice, &mut trio.bob, &mut trio.carol] {
        client.receive(&service).await;
    }
    assert_eq!(trio.alice.members(&id), [0, 1, 2]);
    assert_eq!(
        trio.alice.group(&id).state_key,
        trio.bob.group(&id).state_key
    );
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_rejoin_replaces_exactly_the_own_leaf_and_rotates() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    let user = bob.user(&id);
    let key = lose_state(&mut bob, &id);
    let own_leaf = |user: &[u8]| bob.leaf_for_key(&service, Flaw::None, user, copy(&key));
    let rejoin = || plan(&alice, &id, rejoin_permit(&service, (&alice, &id), 1, &key));

    let join = build(&alice, &bob, &id, own_leaf(&user), rejoin());
    assert_eq!(
        refused(&service, &join).await,
        ProblemType::RotationRequired
    );
    // As another user.
    let other = own_leaf(b"mimi://ds.example/p/other");
    let join = build(&alice, &bob, &id, other, rejoin().rotating());
    assert_eq!(refused(&service, &join).await, ProblemType::NotAllowed);
    // Beside the leaf that it should replace: a fresh key, so that the library removes nobody.
    let fresh = bob.leaf_of_user(&service, Flaw::None, &user);
    let word = leaf_authorization::authorize(
        &key,
        (&id, &state_key(&alice, &id)),
        AuthorizedJoin::Rejoin,
        1,
        service.now() + HOUR_MS,
        &fresh.signer.0.public(),
    );
    let beside = plan(&alice, &id, JoinPermit::Rejoin(word));
    let join = build(&alice, &bob, &id, fresh, beside.rotating());
    assert_eq!(refused(&service, &join).await, ProblemType::InvalidCommit);
    // A removal without that permit.
    let word = leaf_authorization::authorize(
        &key,
        (&id, &state_key(&alice, &id)),
        AuthorizedJoin::Client,
        1,
        service.now() + HOUR_MS,
        &key.public(),
    );
    let as_client = plan(&alice, &id, JoinPermit::Client(word));
    let join = build(&alice, &bob, &id, own_leaf(&user), as_client.rotating());
    assert_eq!(refused(&service, &join).await, ProblemType::InvalidCommit);
    // In the place of somebody else.
    let own_word = rejoin_permit(&service, (&alice, &id), 0, &key);
    let in_her_place = plan(&alice, &id, own_word).rotating();
    let join = build(&alice, &bob, &id, own_leaf(&user), in_her_place);
    not_permitted(&service, &join, "in the place of somebody else").await;
    alice.commit(&service, &id, Plan::update()).await;
}

#[tokio::test]
async fn who_lost_the_answer_to_a_rejoin_asks_again() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    let user = bob.user(&id);
    let key = lose_state(&mut bob, &id);
    let leaf = bob.leaf_for_key(&service, Flaw::None, &user, copy(&key));
    let permit = rejoin_permit(&service, (&alice, &id), 1, &key);
    let join = build(
        &alice,
        &bob,
        &id,
        leaf,
        plan(&alice, &id, permit).rotating(),
    );
    let first: EpochAccepted = service
        .pay(Operation::ExternalJoin, &join.signed(&service))
        .await
        .accepted();
    service.clock.advance(1);
    let before = service.store.transitions();
    let again: EpochAccepted = service
        .pay(Operation::ExternalJoin, &join.signed(&service))
        .await
        .accepted();
    assert_eq!(again, first);
    assert_eq!(service.store.transitions(), before);
    alice.receive(&service).await;
    alice.commit(&service, &id, Plan::update()).await;
}
