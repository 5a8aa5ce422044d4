//! Join codes: made by members, good for whoever has the secret, kept up over rotations.

use crypto::keys::RecoverySecret;
use protocol::Operation;
use protocol::Wire as _;
use protocol::codec::WireSecret;
use protocol::groups::{
    Accepted, EpochAccepted, GroupKind, JoinPermit, MAX_JOIN_CODE_DAYS, MAX_JOIN_CODES,
    SetJoinCodeRequest,
};
use protocol::ids::GroupId;
use protocol::policy::{Capabilities, GroupPolicy, Standing};
use protocol::problem::ProblemType;
use protocol::time::{DAY_MS, day_of};

use crate::recovery::{recovered_key, set_recovery_secret};
use crate::support::client::{Client, Flaw};
use crate::support::commits::{ExternalJoin, JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::scenes::pair;
use crate::support::{Engine, Service, on_every_engine};

on_every_engine! {
    a_join_code_lets_whoever_has_it_in_after_any_number_of_rotations
}

const SECRET: [u8; 32] = [9; 32];

fn request(
    service: &Service,
    member: &Client,
    id: &GroupId,
    secret: [u8; 32],
    day: u32,
) -> Vec<u8> {
    let body = SetJoinCodeRequest {
        group_id: *id,
        state_key: WireSecret::new(member.group(id).state_key),
        secret: WireSecret::new(secret),
        expiry_day: day,
    };
    member.leaf_request(service, id, Operation::SetJoinCode, body.encode())
}

async fn set(service: &Service, member: &Client, id: &GroupId, secret: [u8; 32], day: u32) {
    let request = request(service, member, id, secret, day);
    let _: Accepted = service
        .post(Operation::SetJoinCode, &request)
        .await
        .accepted();
}

fn in_a_week(service: &Service) -> u32 {
    day_of(service.now()) + 7
}

/// An external commit with a code, by a fresh user or a known one.
async fn joining(
    service: &Service,
    member: &Client,
    joiner: &Client,
    id: &GroupId,
    user: Option<&[u8]>,
) -> ExternalJoin {
    let group = member.group(id);
    let permit = JoinPermit::JoinCode(WireSecret::new(SECRET));
    let plan = JoinPlan::with(permit, group.state_key, group.wrapper);
    let leaf = match user {
        Some(user) => joiner.leaf_of_user(service, Flaw::None, user),
        None => joiner.leaf(service),
    };
    let (info, tree) = crate::support::commits::group_info_of(member, id);
    joiner.external_join((&info, &tree), leaf, plan)
}

async fn a_join_code_lets_whoever_has_it_in_after_any_number_of_rotations(service: Service) {
    let (mut alice, mut bob, id) = pair(&service).await;
    set(&service, &alice, &id, SECRET, in_a_week(&service)).await;
    for _ in 0..2 {
        alice
            .commit(&service, &id, Plan::update().rotating(true))
            .await;
    }
    // Who has the secret finds the key that is good now.
    let state_key = recovered_key(&service, &id, &RecoverySecret::new(SECRET)).await;
    assert_eq!(state_key, Some(alice.group(&id).state_key));
    let mut carol = Client::new(&service).await;
    let permit = JoinPermit::JoinCode(WireSecret::new(SECRET));
    let plan = JoinPlan::with(permit, state_key.unwrap(), alice.group(&id).wrapper);
    let leaf = carol.leaf(&service);
    let join = carol.join_externally(&service, &id, leaf, plan).await;
    let _: EpochAccepted = service
        .pay(Operation::ExternalJoin, &join.signed(&service))
        .await
        .accepted();
    carol.groups.insert(id, join.membership);
    for client in [&mut alice, &mut bob] {
        client.receive(&service).await;
    }
    carol.send(&service, &id, b"by the code").await;
    assert_eq!(
        bob.receive(&service).await,
        [Event::Message {
            from: 2,
            text: b"by the code".to_vec()
        }]
    );
}

#[tokio::test]
async fn a_code_that_is_unknown_revoked_or_expired_lets_nobody_in() {
    let service = Service::start(Engine::Memory);
    let (alice, _, id) = pair(&service).await;
    let carol = Client::new(&service).await;
    let join = joining(&service, &alice, &carol, &id, None).await;
    let refused = async || {
        service
            .refused(Operation::ExternalJoin, &join.signed(&service))
            .await
    };
    assert_eq!(refused().await, ProblemType::NotAllowed, "unknown");
    set(&service, &alice, &id, SECRET, in_a_week(&service)).await;
    set(&service, &alice, &id, SECRET, 0).await;
    assert_eq!(refused().await, ProblemType::NotAllowed, "revoked");
    let record = recovered_key(&service, &id, &RecoverySecret::new(SECRET)).await;
    assert_eq!(record, None, "its record went with it");
    set(&service, &alice, &id, SECRET, in_a_week(&service)).await;
    service.clock.advance(8 * DAY_MS);
    assert_eq!(refused().await, ProblemType::NotAllowed, "expired");
}

#[tokio::test]
async fn who_knows_a_code_cannot_replace_or_delete_its_record_through_another_group() {
    let service = Service::start(Engine::Memory);
    let (alice, _, id) = pair(&service).await;
    let (mallory, _, other) = pair(&service).await;
    set(&service, &alice, &id, SECRET, in_a_week(&service)).await;
    let state_key = Some(alice.group(&id).state_key);
    let recovered = async || recovered_key(&service, &id, &RecoverySecret::new(SECRET)).await;
    // As a code of that group, and as a leaf's recovery secret there.
    set(&service, &mallory, &other, SECRET, in_a_week(&service)).await;
    assert_eq!(recovered().await, state_key, "replaced");
    set(&service, &mallory, &other, SECRET, 0).await;
    assert_eq!(recovered().await, state_key, "deleted");
    let mut mallory = mallory;
    for secret in [SECRET, [1; 32]] {
        mallory.group_mut(&other).recovery = secret;
        set_recovery_secret(&service, &mallory, &other).await;
        assert_eq!(recovered().await, state_key);
    }
}

#[tokio::test]
async fn a_code_is_for_new_users_who_are_not_banned() {
    let service = Service::start(Engine::Memory);
    let (mut alice, bob, id) = pair(&service).await;
    set(&service, &alice, &id, SECRET, in_a_week(&service)).await;
    let banned = b"mimi://ds.example/p/banned";
    let policy = alice.policy(&id).unwrap();
    let policy = policy.with(banned, GroupPolicy::MEMBER, Standing::Banned);
    alice.set_policy(&service, &id, &policy).await;
    let carol = Client::new(&service).await;
    for user in [&banned[..], &bob.user(&id)] {
        let join = joining(&service, &alice, &carol, &id, Some(user)).await;
        assert_eq!(
            service
                .refused_at_cost(Operation::ExternalJoin, &join.signed(&service))
                .await,
            ProblemType::NotAllowed
        );
    }
    let join = joining(&service, &alice, &carol, &id, None).await;
    let reply = service
        .pay(Operation::ExternalJoin, &join.signed(&service))
        .await;
    assert_eq!(reply.accepted::<EpochAccepted>().epoch, 3);
}

#[tokio::test]
async fn a_code_is_made_by_who_may_add_in_a_group_that_is_joined_by_codes() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id) = pair(&service).await;
    let week = in_a_week(&service);
    let mut policy = alice.policy(&id).unwrap();
    policy.roles[1].capabilities = Capabilities::SEND;
    alice.set_policy(&service, &id, &policy).await;
    bob.receive(&service).await;
    let by_bob = request(&service, &bob, &id, SECRET, week);
    assert_eq!(
        service.refused(Operation::SetJoinCode, &by_bob).await,
        ProblemType::NotAllowed
    );
    for kind in [GroupKind::Connection, GroupKind::SingleUser] {
        let id = alice.create_group(&service, kind).await;
        let request = request(&service, &alice, &id, SECRET, week);
        assert_eq!(
            service.refused(Operation::SetJoinCode, &request).await,
            ProblemType::NotAllowed
        );
    }
}

#[tokio::test]
async fn codes_are_bounded_in_number_and_time() {
    let service = Service::start(Engine::Memory);
    let (alice, _, id) = pair(&service).await;
    let today = day_of(service.now());
    for day in [1, today - 1, today + MAX_JOIN_CODE_DAYS + 1] {
        let request = request(&service, &alice, &id, SECRET, day);
        assert_eq!(
            service.refused(Operation::SetJoinCode, &request).await,
            ProblemType::LimitExceeded,
            "day {day}"
        );
    }
    for number in 0..u8::try_from(MAX_JOIN_CODES).unwrap() {
        set(&service, &alice, &id, [number; 32], today + 1).await;
    }
    let more = request(&service, &alice, &id, [99; 32], today + 1);
    assert_eq!(
        service.refused(Operation::SetJoinCode, &more).await,
        ProblemType::LimitExceeded
    );
    // The same code again is none more, and what has expired makes room.
    set(&service, &alice, &id, [3; 32], today + 2).await;
    service.clock.advance(2 * DAY_MS);
    set(&service, &alice, &id, [99; 32], today + 3).await;
}
