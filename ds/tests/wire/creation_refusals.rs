//! What is refused when a group is created, and when somebody joins a connection.

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{Ciphersuite, OpenMlsProvider as _};
use protocol::Operation;
use protocol::codec::{WireSecret, opaque};
use protocol::groups::{
    CreateGroupRequest, EpochAccepted, ExternalCommitInfoRequest, GroupKind, JoinPermit,
    ReserveGroupIdRequest, ReserveGroupIdResponse,
};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::time::DAY_MS;

use crate::support::client::{Client, FLAWS, Flaw, LeafSigner};
use crate::support::commits::{ExternalJoin, JoinPlan, Plan, group_info_of};
use crate::support::request::{Draft, copy, fresh_key};
use crate::support::{Engine, Service, on_every_engine};

on_every_engine! {
    a_refused_creation_uses_its_reservation_up_once_a_tree_was_looked_at
}

async fn reserve(service: &Service, key: &crypto::sign::LeafKeyPair) -> GroupId {
    service
        .call::<ReserveGroupIdResponse>(Operation::ReserveGroupId, key, &ReserveGroupIdRequest {})
        .await
        .group_id
}

/// A creation by a fresh client, changed before it is signed by its leaf key.
async fn refused_creation(
    service: &Service,
    change: impl FnOnce(&mut CreateGroupRequest, &Client, &LeafSigner),
) -> ProblemType {
    let client = Client::new(service).await;
    let leaf = client.leaf(service);
    let key = copy(&leaf.signer.0);
    let id = reserve(service, &key).await;
    let mut creation = client.draft_group(service, id, GroupKind::Group, leaf, true);
    change(&mut creation.request, &client, &creation.membership.signer);
    service.refused_creation(&key, &creation.request).await.0
}

#[tokio::test]
async fn a_group_id_is_used_once_by_whoever_reserved_it() {
    let service = Service::start(Engine::Memory);
    let client = Client::new(&service).await;
    // Never reserved; reserved by another key.
    let unreserved = GroupId([7; 16]);
    let foreign = reserve(&service, &fresh_key()).await;
    for id in [unreserved, foreign] {
        let leaf = client.leaf(&service);
        let key = copy(&leaf.signer.0);
        let creation = client.draft_group(&service, id, GroupKind::Group, leaf, true);
        let problem = service
            .refusal(Operation::CreateGroup, &key, &creation.request)
            .await;
        assert_eq!(problem, ProblemType::InvalidGroupId);
    }
    // In use.
    let leaf = client.leaf(&service);
    let key = copy(&leaf.signer.0);
    let id = reserve(&service, &key).await;
    let creation = client.draft_group(&service, id, GroupKind::Group, leaf, true);
    let _: EpochAccepted = service
        .call(Operation::CreateGroup, &key, &creation.request)
        .await;
    service.clock.advance(1);
    let problem = service
        .refusal(Operation::CreateGroup, &key, &creation.request)
        .await;
    assert_eq!(problem, ProblemType::InvalidGroupId);
}

#[tokio::test]
async fn a_reservation_is_good_until_the_end_of_the_next_day() {
    let service = Service::start(Engine::Memory);
    for (days, good) in [(1, true), (2, false)] {
        let client = Client::new(&service).await;
        let leaf = client.leaf(&service);
        let key = copy(&leaf.signer.0);
        let id = reserve(&service, &key).await;
        service.clock.advance(days * DAY_MS);
        ds::run::expire(&service.domain).await.unwrap();
        let creation = client.draft_group(&service, id, GroupKind::Group, leaf, true);
        if good {
            let _: EpochAccepted = service
                .call(Operation::CreateGroup, &key, &creation.request)
                .await;
        } else {
            let problem = service
                .refusal(Operation::CreateGroup, &key, &creation.request)
                .await;
            assert_eq!(problem, ProblemType::InvalidGroupId);
        }
    }
}

#[tokio::test]
async fn a_creation_whose_group_info_or_tree_does_not_verify_is_refused() {
    let service = Service::start(Engine::Memory);
    let flip = |bytes: &[u8], from_end: usize| {
        let mut bytes = bytes.to_vec();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        opaque(bytes)
    };
    let append = |bytes: &[u8]| opaque([bytes, &[0]].concat());
    type Change<'a> = Box<dyn Fn(&mut CreateGroupRequest) + 'a>;
    let changes: [Change<'_>; 8] = [
        // The signature is the end of the GroupInfo.
        Box::new(|request| request.group_info = flip(request.group_info.as_slice(), 1)),
        Box::new(|request| request.group_info = append(request.group_info.as_slice())),
        Box::new(|request| request.group_info = opaque(Vec::new())),
        Box::new(|request| request.ratchet_tree = flip(request.ratchet_tree.as_slice(), 1)),
        Box::new(|request| request.ratchet_tree = append(request.ratchet_tree.as_slice())),
        Box::new(|request| request.ratchet_tree = opaque(Vec::new())),
        Box::new(|request| request.encrypted_identity_link_key = opaque(vec![0; 59])),
        Box::new(|request| request.encrypted_identity_link_key = opaque(vec![0; 61])),
    ];
    for change in changes {
        let problem = refused_creation(&service, |request, _, _| change(request)).await;
        assert_eq!(problem, ProblemType::InvalidGroupInfo);
    }
    // In order, but of another group than the reserved one.
    let client = Client::new(&service).await;
    let leaf = client.leaf(&service);
    let key = copy(&leaf.signer.0);
    let id = reserve(&service, &key).await;
    let mut creation = client.draft_group(&service, GroupId([1; 16]), GroupKind::Group, leaf, true);
    creation.request.group_id = id;
    let problem = service.refused_creation(&key, &creation.request).await.0;
    assert_eq!(problem, ProblemType::InvalidGroupInfo);
}

#[tokio::test]
async fn a_tree_is_not_looked_at_before_the_reservation_was_found() {
    let service = Service::start(Engine::Memory);
    let problem = refused_creation(&service, |request, _, _| {
        request.group_id = GroupId([7; 16]);
        request.group_info = opaque(Vec::new());
        request.ratchet_tree = opaque(Vec::new());
    })
    .await;
    assert_eq!(problem, ProblemType::InvalidGroupId);
}

async fn a_refused_creation_uses_its_reservation_up_once_a_tree_was_looked_at(service: Service) {
    let client = Client::new(&service).await;
    let broken = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        opaque(bytes)
    };
    for tree_is_broken in [true, false] {
        let leaf = client.leaf(&service);
        let key = copy(&leaf.signer.0);
        let id = reserve(&service, &key).await;
        let mut request = client
            .draft_group(&service, id, GroupKind::Group, leaf, true)
            .request;
        let right = [
            request.ratchet_tree.clone(),
            request.encrypted_identity_link_key.clone(),
        ];
        if tree_is_broken {
            request.ratchet_tree = broken(request.ratchet_tree.as_slice());
        } else {
            // Seen before the tree is.
            request.encrypted_identity_link_key = opaque(vec![0; 59]);
        }
        assert_eq!(
            service.refused_creation(&key, &request).await,
            (ProblemType::InvalidGroupInfo, tree_is_broken)
        );
        [request.ratchet_tree, request.encrypted_identity_link_key] = right;
        let right = Draft::by_key(&service, Operation::CreateGroup, &key, &request);
        let reply = service
            .post(Operation::CreateGroup, &right.signed(&key))
            .await;
        if tree_is_broken {
            assert_eq!(reply.problem(), ProblemType::InvalidGroupId);
        } else {
            assert_eq!(reply.accepted::<EpochAccepted>().epoch, 0);
        }
    }
}

#[tokio::test]
async fn a_group_begins_with_its_creators_leaf_alone() {
    let service = Service::start(Engine::Memory);
    // Somebody else's signature over a creation that is in order.
    let client = Client::new(&service).await;
    let leaf = client.leaf(&service);
    let stranger = fresh_key();
    let id = reserve(&service, &stranger).await;
    let creation = client.draft_group(&service, id, GroupKind::Group, leaf, true);
    let problem = service
        .refused_creation(&stranger, &creation.request)
        .await
        .0;
    assert_eq!(problem, ProblemType::BadSignature);

    // Two leaves: a group that has moved on before anybody heard of it.
    let mut client = Client::new(&service).await;
    let mut other = Client::new(&service).await;
    let leaf = client.leaf(&service);
    let key = copy(&leaf.signer.0);
    let id = reserve(&service, &key).await;
    let mut creation = client.draft_group(&service, id, GroupKind::Group, leaf, true);
    client.groups.insert(id, creation.membership);
    let invitee = other.invitee(&service);
    let add = client.stage(&id, Plan::add([invitee]));
    client.merge(&add);
    let (info, tree) = group_info_of(&client, &id);
    creation.request.group_info = opaque(info);
    creation.request.ratchet_tree = opaque(tree);
    let problem = service.refused_creation(&key, &creation.request).await.0;
    assert_eq!(problem, ProblemType::InvalidGroupInfo);
}

#[tokio::test]
async fn a_creators_leaf_is_as_every_leaf_here() {
    let service = Service::start(Engine::Memory);
    for flaw in FLAWS {
        let client = Client::new(&service).await;
        let leaf = client.leaf_with(&service, flaw);
        let key = copy(&leaf.signer.0);
        let id = reserve(&service, &key).await;
        let creation = client.draft_group(&service, id, GroupKind::Group, leaf, false);
        let problem = service.refused_creation(&key, &creation.request).await.0;
        assert_eq!(problem, ProblemType::InvalidLeaf, "{flaw:?}");
    }
}

#[tokio::test]
async fn another_ciphersuite_is_refused() {
    let service = Service::start(Engine::Memory);
    let problem = refused_creation(&service, |request, _, signer| {
        let provider = openmls_rust_crypto::OpenMlsRustCrypto::default();
        let mls = openmls::prelude::MlsGroup::builder()
            .with_group_id(openmls::prelude::GroupId::from_slice(&request.group_id.0))
            .ciphersuite(Ciphersuite::MLS_128_MLKEM768_AES256GCM_SHA384_Ed25519)
            .build(
                &provider,
                signer,
                openmls::prelude::CredentialWithKey {
                    credential: openmls::prelude::BasicCredential::new(b"x".to_vec()).into(),
                    signature_key: signer.0.public().into(),
                },
            )
            .unwrap();
        let info = mls
            .export_group_info(provider.crypto(), signer, false)
            .unwrap();
        request.group_info = opaque(info.tls_serialize_detached().unwrap());
        request.ratchet_tree = opaque(mls.export_ratchet_tree().tls_serialize_detached().unwrap());
    })
    .await;
    assert_eq!(problem, ProblemType::UnsupportedCiphersuite);
}

/// A connection group of Alice's and Bob's external commit into it.
async fn joining(
    service: &Service,
    leaf: Flaw,
    change: impl FnOnce(&mut JoinPlan),
) -> (Client, Client, GroupId, ExternalJoin) {
    let (mut alice, bob) = (Client::new(service).await, Client::new(service).await);
    // Without RequiredCapabilities: the service's own rules are what refuses.
    let id = alice
        .create_group_requiring(service, GroupKind::Connection, false)
        .await;
    let join = join_of(service, &alice, &bob, &id, leaf, change);
    (alice, bob, id, join)
}

fn join_of(
    service: &Service,
    member: &Client,
    joiner: &Client,
    id: &GroupId,
    flaw: Flaw,
    change: impl FnOnce(&mut JoinPlan),
) -> ExternalJoin {
    let (state_key, wrapper) = (member.group(id).state_key, member.group(id).wrapper);
    let mut plan = JoinPlan::connection(state_key, wrapper);
    change(&mut plan);
    let (info, tree) = group_info_of(member, id);
    joiner.external_join((&info, &tree), joiner.leaf_with(service, flaw), plan)
}

/// The work on the tree was done, and costs its token.
async fn refused_join(service: &Service, join: &ExternalJoin) -> ProblemType {
    service
        .refused_at_cost(Operation::ExternalJoin, &join.signed(service))
        .await
}

/// No permit, no work: it costs nothing.
async fn refused_early(service: &Service, join: &ExternalJoin) -> ProblemType {
    service
        .refused(Operation::ExternalJoin, &join.signed(service))
        .await
}

#[tokio::test]
async fn a_join_that_is_not_as_joins_are_is_refused_and_an_honest_one_still_works() {
    let service = Service::start(Engine::Memory);
    let changes: [fn(&mut JoinPlan); 3] = [
        |plan| plan.link_keys = 0,
        |plan| plan.link_keys = 2,
        |plan| plan.response = Vec::new(),
    ];
    for change in changes {
        let (alice, bob, id, join) = joining(&service, Flaw::None, change).await;
        assert_eq!(
            refused_join(&service, &join).await,
            ProblemType::InvalidCommit
        );
        let honest = join_of(&service, &alice, &bob, &id, Flaw::None, |_| {});
        let reply = service
            .pay(Operation::ExternalJoin, &honest.signed(&service))
            .await;
        assert_eq!(reply.accepted::<EpochAccepted>().epoch, 1);
    }
    for flaw in FLAWS {
        let (_, _, _, join) = joining(&service, flaw, |_| {}).await;
        assert_eq!(
            refused_join(&service, &join).await,
            ProblemType::InvalidLeaf,
            "{flaw:?}"
        );
    }
    let (_, _, _, mut join) = joining(&service, Flaw::None, |_| {}).await;
    let mut signature = join.request.group_info.signature.as_slice().to_vec();
    signature[0] ^= 1;
    join.request.group_info.signature = opaque(signature);
    assert_eq!(
        refused_join(&service, &join).await,
        ProblemType::InvalidGroupInfo
    );
    // Signed by another key than that of the leaf that comes in.
    let (_, _, _, mut join) = joining(&service, Flaw::None, |_| {}).await;
    join.key = fresh_key();
    assert_eq!(
        refused_join(&service, &join).await,
        ProblemType::BadSignature
    );
}

#[tokio::test]
async fn two_users_are_a_connection_and_no_third_comes_in() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mut bob, id, join) = joining(&service, Flaw::None, |_| {}).await;
    let _: EpochAccepted = service
        .pay(Operation::ExternalJoin, &join.signed(&service))
        .await
        .accepted();
    bob.groups.insert(id, join.membership);
    alice.receive(&service).await;

    let mut carol = Client::new(&service).await;
    let third = join_of(&service, &alice, &carol, &id, Flaw::None, |_| {});
    assert_eq!(
        refused_early(&service, &third).await,
        ProblemType::NotAllowed
    );
    let info = ExternalCommitInfoRequest {
        group_id: id,
        state_key: WireSecret::new(alice.group(&id).state_key),
        permit: JoinPermit::Connection,
    };
    let problem = service
        .refusal(Operation::ExternalCommitInfo, &fresh_key(), &info)
        .await;
    assert_eq!(problem, ProblemType::NotAllowed);

    // Nobody is added to a connection or removed from it.
    let invitee = carol.invitee(&service);
    for plan in [Plan::add([invitee]), Plan::remove([1])] {
        let commit = alice.stage(&id, plan);
        let request = alice.commit_request(&service, &commit);
        assert_eq!(
            service.refused(commit.operation, &request).await,
            ProblemType::NotAllowed
        );
        alice.abandon(&id);
    }
    alice.commit(&service, &id, Plan::update()).await;
    bob.receive(&service).await;
    assert_eq!(alice.members(&id), bob.members(&id));
}

#[tokio::test]
async fn an_external_commit_into_an_ordinary_group_is_refused() {
    let service = Service::start(Engine::Memory);
    let (mut alice, mallory) = (Client::new(&service).await, Client::new(&service).await);
    let id = alice.create_group(&service, GroupKind::Group).await;
    let join = join_of(&service, &alice, &mallory, &id, Flaw::None, |_| {});
    assert_eq!(
        refused_early(&service, &join).await,
        ProblemType::NotAllowed
    );
    let info = ExternalCommitInfoRequest {
        group_id: id,
        state_key: WireSecret::new(alice.group(&id).state_key),
        permit: JoinPermit::Connection,
    };
    let problem = service
        .refusal(Operation::ExternalCommitInfo, &fresh_key(), &info)
        .await;
    assert_eq!(problem, ProblemType::NotAllowed);
}

#[tokio::test]
async fn a_members_commit_is_no_join_and_a_join_is_no_members_commit() {
    let service = Service::start(Engine::Memory);
    let (mut alice, _, id, mut join) = joining(&service, Flaw::None, |_| {}).await;
    let update = alice.stage(&id, Plan::update());
    let as_member = crate::support::commits::Commit {
        commit: join.request.commit.as_slice().to_vec(),
        extensions: join.request.group_info.extensions.as_slice().to_vec(),
        signature: join.request.group_info.signature.as_slice().to_vec(),
        ..update.clone()
    };
    let request = alice.commit_request(&service, &as_member);
    assert_eq!(
        service.refused(Operation::UpdateClient, &request).await,
        ProblemType::InvalidCommit
    );
    join.request.commit = opaque(update.commit);
    assert_eq!(
        service
            .refused(Operation::ExternalJoin, &join.signed(&service))
            .await,
        ProblemType::InvalidCommit
    );
}

/// A creation with this context, which must be refused.
pub(crate) async fn refused_context(
    service: &Service,
    client: &mut Client,
    kind: GroupKind,
    leaf: crate::support::client::Leaf,
    context: Vec<openmls::prelude::Extension>,
) -> ProblemType {
    let key = copy(&leaf.signer.0);
    let id = reserve(service, &key).await;
    let creation = client.draft_group_with(id, kind, leaf, context);
    service.refused_creation(&key, &creation.request).await.0
}
