//! Commits that are refused: each a typed problem, nothing changed, everybody goes on.

use crate::message_refusals::{CONTENT_TYPE, public_application_message};
use crate::support::client::{
    CIPHERSUITES, Client, FLAWS, Flaw, Leaf, external_sender, lifetime, scheme_of,
};
use crate::support::commits::{Commit, Plan, honest_aad};
use crate::support::request::{copy, fresh_key};
use crate::support::scenes::{Trio, pair, trio};
use crate::support::{Engine, Service, on_every_engine};
use crypto::credential::PseudonymousCredential;
use crypto::sign::Scheme;
use http::StatusCode;
use openmls::prelude::group_info::GroupInfo;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{Extension, ExtensionType, Extensions, Lifetime, OpenMlsProvider as _};
use protocol::groups::{EpochAccepted, GroupKind};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::{Operation, Wire};
use service::Clock as _;

on_every_engine! {
    a_commit_for_a_past_epoch_is_rejected_and_changes_nothing
    a_removal_without_rotation_is_rejected_and_changes_nothing
    a_tampered_group_info_is_rejected_and_changes_nothing
}

/// Posts a staged commit of Alice's that must be refused, and gives it up.
async fn refused(service: &Service, client: &mut Client, commit: &Commit) -> ProblemType {
    let request = client.commit_request(service, commit);
    let problem = service.refused(commit.operation, &request).await;
    client.abandon(&commit.group);
    problem
}

async fn refused_plan(service: &Service, trio: &mut Trio, plan: Plan) -> ProblemType {
    let commit = trio.alice.stage(&trio.id, plan);
    refused(service, &mut trio.alice, &commit).await
}

async fn a_commit_for_a_past_epoch_is_rejected_and_changes_nothing(service: Service) {
    let mut trio = trio(&service).await;
    let late = trio.bob.stage(&trio.id, Plan::update());
    trio.alice.commit(&service, &trio.id, Plan::update()).await;
    let before = service.store.transitions();
    let request = trio.bob.commit_request(&service, &late);
    let reply = service.post(late.operation, &request).await;
    assert_eq!(reply.problem(), ProblemType::WrongEpoch);
    assert_eq!(reply.document()["epoch"], 2);
    assert_eq!(service.store.transitions(), before);
    trio.bob.abandon(&trio.id);
    for client in [&mut trio.alice, &mut trio.bob, &mut trio.carol] {
        client.receive(&service).await;
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_commit_endpoint_takes_public_commits_and_nothing_else() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let Trio { alice, id, .. } = &mut trio;
    let honest = alice.stage(id, Plan::update());
    alice.abandon(id);
    let mut private_commit = alice.encrypt(id, b"x");
    private_commit[CONTENT_TYPE] = 3;
    let message = alice.encrypt(id, b"x");
    let proposal = {
        let Client {
            groups, provider, ..
        } = alice;
        let group = groups.get_mut(id).unwrap();
        let (proposal, _) = group
            .mls
            .propose_remove_member(
                provider,
                &group.signer,
                openmls::prelude::LeafNodeIndex::new(1),
            )
            .unwrap();
        group
            .mls
            .clear_pending_proposals(provider.storage())
            .unwrap();
        proposal.tls_serialize_detached().unwrap()
    };
    let (mut dave, _, elsewhere) = pair(&service).await;
    let foreign = dave.stage(&elsewhere, Plan::update());
    for commit in [
        private_commit,
        message,
        proposal,
        public_application_message(id, 1),
        foreign.commit,
        [honest.commit.as_slice(), &[0]].concat(),
        honest.commit[..honest.commit.len() - 1].to_vec(),
        Vec::new(),
    ] {
        let request = alice.commit_request(
            &service,
            &Commit {
                commit,
                ..honest.clone()
            },
        );
        assert_eq!(
            service.refused(Operation::UpdateClient, &request).await,
            ProblemType::InvalidMessage
        );
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_commit_is_sent_by_its_committer() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let commit = trio.alice.stage(&trio.id, Plan::update());
    trio.alice.abandon(&trio.id);
    let request = trio.bob.commit_request(&service, &commit);
    assert_eq!(
        service.refused(Operation::UpdateClient, &request).await,
        ProblemType::InvalidCommit
    );
    trio.still_works(&service).await;
}

async fn a_removal_without_rotation_is_rejected_and_changes_nothing(service: Service) {
    let mut trio = trio(&service).await;
    let problem = refused_plan(&service, &mut trio, Plan::remove([2]).rotating(false)).await;
    assert_eq!(problem, ProblemType::RotationRequired);
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_rotation_brings_another_key() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let Trio { alice, id, .. } = &mut trio;
    let commit = alice.stage(id, Plan::remove([2]));
    alice.abandon(id);
    let same_key = Commit {
        next_state_key: Some(commit.state_key),
        ..commit
    };
    let request = alice.commit_request(&service, &same_key);
    assert_eq!(
        service.refused(Operation::RemoveUsers, &request).await,
        ProblemType::RotationRequired
    );
    trio.still_works(&service).await;
}

#[tokio::test]
async fn the_announced_rotation_is_the_one_that_happens() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let Trio { alice, id, .. } = &mut trio;
    // Announced and not brought; brought and not announced; a flag that is neither.
    let announced = alice.stage(id, Plan::update().rotating(true));
    let problem = refused(
        &service,
        alice,
        &Commit {
            next_state_key: None,
            ..announced
        },
    )
    .await;
    assert_eq!(problem, ProblemType::InvalidCommit);
    let silent = alice.stage(id, Plan::update());
    let problem = refused(
        &service,
        alice,
        &Commit {
            next_state_key: Some([7; 32]),
            ..silent
        },
    )
    .await;
    assert_eq!(problem, ProblemType::InvalidCommit);
    let mut aad = honest_aad(Vec::new(), true);
    aad.rotates_state_key = 2;
    let problem = refused_plan(
        &service,
        &mut trio,
        Plan::update().rotating(true).with_aad(aad.encode()),
    )
    .await;
    assert_eq!(problem, ProblemType::InvalidCommit);
    trio.still_works(&service).await;
}

#[tokio::test]
async fn link_keys_are_as_many_as_leaves_and_of_their_length() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let mut dave = Client::new(&service).await;
    let key = vec![0; crypto::credential::WRAPPED_LINK_KEY_LEN];
    let aads = [
        honest_aad(vec![], false).encode(),
        honest_aad(vec![key.clone(); 2], false).encode(),
        honest_aad(vec![key[1..].to_vec()], false).encode(),
        honest_aad(vec![[key.as_slice(), &[0]].concat()], false).encode(),
        {
            let mut aad = honest_aad(vec![key.clone()], false);
            aad.encrypted_connection_response = protocol::codec::opaque(*b"?");
            aad.encode()
        },
        [
            honest_aad(vec![key.clone()], false).encode().as_slice(),
            &[0],
        ]
        .concat(),
        Vec::new(),
    ];
    for aad in aads {
        let plan = Plan::add([dave.invitee(&service)]).with_aad(aad);
        assert_eq!(
            refused_plan(&service, &mut trio, plan).await,
            ProblemType::InvalidCommit
        );
    }
    let without = |plan: Plan, keys: usize, rotates| {
        plan.with_aad(
            honest_aad(
                vec![vec![0; crypto::credential::WRAPPED_LINK_KEY_LEN]; keys],
                rotates,
            )
            .encode(),
        )
    };
    let new_leaf = trio.alice.leaf(&service);
    for plan in [
        without(Plan::update(), 1, false),
        without(Plan::remove([2]), 1, true),
        without(Plan::update_credential(new_leaf), 0, false),
    ] {
        assert_eq!(
            refused_plan(&service, &mut trio, plan).await,
            ProblemType::InvalidCommit
        );
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn an_operation_takes_its_own_proposals_only() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let mut dave = Client::new(&service).await;
    let mut invitee = || dave.invitee(&service);
    let mut context: Vec<Extension> = trio
        .alice
        .group(&trio.id)
        .mls
        .extensions()
        .iter()
        .filter(|extension| extension.extension_type() != ExtensionType::ExternalSenders)
        .cloned()
        .collect();
    context.push(Extension::ExternalSenders(vec![external_sender(vec![
        3;
        32
    ])]));
    let mut changes_context = Plan::update();
    changes_context.context = Some(Extensions::from_vec(context).unwrap());
    for plan in [
        Plan::remove([2]).and_add(invitee()),
        Plan::remove([2]).sent_as(Operation::AddUsers),
        Plan::remove([2]).sent_as(Operation::UpdateClient),
        Plan::add([]),
        Plan::remove([]),
        Plan::update().sent_as(Operation::AddUsers),
        Plan::update()
            .rotating(true)
            .sent_as(Operation::RemoveUsers),
        Plan::add([invitee()]).sent_as(Operation::UpdateClient),
        Plan::add([invitee()])
            .rotating(true)
            .sent_as(Operation::RemoveUsers),
        changes_context,
    ] {
        let (operation, id) = (plan.operation, trio.id);
        let mut commit = trio.alice.stage(&id, plan);
        let request = trio.alice.commit_request(&service, &commit);
        assert_eq!(
            service.refused(operation, &request).await,
            ProblemType::InvalidCommit
        );
        // With and without a Welcome, so that it is not its absence alone.
        let add = {
            trio.alice.abandon(&id);
            let add = trio.alice.stage(&id, Plan::add([invitee()]));
            trio.alice.abandon(&id);
            add
        };
        commit.welcome = match commit.welcome {
            Some(_) => None,
            None => add.welcome,
        };
        let request = trio.alice.commit_request(&service, &commit);
        assert_eq!(
            service.refused(operation, &request).await,
            ProblemType::InvalidCommit
        );
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_user_who_is_in_already_is_not_added_again() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let pseudonym = {
        let leaf = trio.bob.group(&trio.id).mls.own_leaf_node().unwrap();
        let credential = crypto::credential::PseudonymousCredential::decode(
            leaf.credential().serialized_content(),
        )
        .unwrap();
        credential.user_pseudonym.as_slice().to_vec()
    };
    let leaf = trio.bob.leaf_of_user(&service, Flaw::None, &pseudonym);
    let invitee = trio.bob.invitee_with(leaf);
    assert_eq!(
        refused_plan(&service, &mut trio, Plan::add([invitee])).await,
        ProblemType::NotAllowed
    );
    // Nor may a member become somebody who is here.
    let leaf = trio.alice.leaf_of_user(&service, Flaw::None, &pseudonym);
    assert_eq!(
        refused_plan(&service, &mut trio, Plan::update_credential(leaf)).await,
        ProblemType::NotAllowed
    );
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_user_is_removed_with_all_its_clients() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let mut dave = Client::new(&service).await;
    let leaves =
        [0, 1].map(|_| dave.leaf_of_user(&service, Flaw::None, b"mimi://ds.example/p/dave"));
    let invitees = leaves.map(|leaf| dave.invitee_with(leaf));
    trio.alice
        .commit(&service, &trio.id, Plan::add(invitees))
        .await;
    assert_eq!(trio.alice.members(&trio.id), [0, 1, 2, 3, 4]);
    assert_eq!(
        refused_plan(&service, &mut trio, Plan::remove([4])).await,
        ProblemType::InvalidCommit
    );
    trio.alice
        .commit(&service, &trio.id, Plan::remove([3, 4]))
        .await;
    for client in [&mut trio.alice, &mut trio.bob, &mut trio.carol] {
        client.receive(&service).await;
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_group_info_by_which_nobody_could_join_is_refused() {
    let service = Service::start(Engine::Memory);
    for suite in CIPHERSUITES {
        let mut alice = Client::of_suite(&service, suite).await;
        let id = alice.create_group(&service, GroupKind::Group).await;
        let honest = alice.stage(&id, Plan::update());
        // extensions<V>, one: external_pub (4), extension_data<V>, HpkePublicKey<V>.
        let external_pub = |key: &[u8]| {
            let key = VLBytes::new(key.to_vec()).tls_serialize_detached().unwrap();
            let data = VLBytes::new(key).tls_serialize_detached().unwrap();
            let extension = [&[0, 4][..], &data].concat();
            VLBytes::new(extension).tls_serialize_detached().unwrap()
        };
        let extensions =
            Extensions::<GroupInfo>::tls_deserialize_exact_bytes(&honest.extensions).unwrap();
        let key = extensions.external_pub().unwrap().external_pub();
        let key = key.as_slice();
        assert_eq!(external_pub(key), honest.extensions);
        let mut wrong = vec![vec![0], external_pub(&[]), external_pub(&key[1..])];
        wrong.push(external_pub(&[key, &[0]].concat()));
        if scheme_of(suite) == Scheme::EcdsaP256 {
            wrong.push(external_pub(&[&[4][..], &[1; 64]].concat()));
        }
        for extensions in wrong {
            let commit = alice.sign_other_extensions(&honest, extensions);
            let request = alice.commit_request(&service, &commit);
            assert_eq!(
                service.refused(commit.operation, &request).await,
                ProblemType::InvalidGroupInfo
            );
        }
        // The same helper signs what is accepted: another key is one that only members can tell from the epoch's.
        let same = alice.sign_other_extensions(&honest, honest.extensions.clone());
        let request = alice.commit_request(&service, &same);
        let reply = service.post(same.operation, &request).await;
        assert_eq!(reply.accepted::<EpochAccepted>().epoch, 1);
    }
}

async fn a_tampered_group_info_is_rejected_and_changes_nothing(service: Service) {
    let mut trio = trio(&service).await;
    let honest = trio.alice.stage(&trio.id, Plan::update());
    let other = {
        trio.alice.abandon(&trio.id);
        trio.alice.stage(&trio.id, Plan::update())
    };
    trio.alice.abandon(&trio.id);
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let last_of_extensions = honest.extensions.len() - 1;
    // The membership tag is the last 33 bytes, the confirmation tag the 33 before (RFC 9420 §6.2).
    let in_confirmation_tag = honest.commit.len() - 34;
    let tampered = [
        Commit {
            signature: flipped(&honest.signature, 0),
            ..honest.clone()
        },
        Commit {
            signature: Vec::new(),
            ..honest.clone()
        },
        Commit {
            signature: other.signature,
            ..honest.clone()
        },
        Commit {
            extensions: flipped(&honest.extensions, last_of_extensions),
            ..honest.clone()
        },
        Commit {
            extensions: Vec::new(),
            ..honest.clone()
        },
        Commit {
            extensions: [honest.extensions.as_slice(), &[0]].concat(),
            ..honest.clone()
        },
        Commit {
            extensions: other.extensions,
            ..honest.clone()
        },
        // What the public group cannot check by itself, the GroupInfo signature covers.
        Commit {
            commit: flipped(&honest.commit, in_confirmation_tag),
            ..honest.clone()
        },
    ];
    for commit in tampered {
        let request = trio.alice.commit_request(&service, &commit);
        assert_eq!(
            service.refused(commit.operation, &request).await,
            ProblemType::InvalidGroupInfo
        );
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_commit_with_any_byte_changed_is_rejected() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let honest = trio.alice.stage(&trio.id, Plan::update());
    trio.alice.abandon(&trio.id);
    // All but the membership tag, which only members can check (RFC 9420 §6.2).
    for at in 0..honest.commit.len() - 33 {
        let mut commit = honest.clone();
        commit.commit[at] ^= 1;
        let request = trio.alice.commit_request(&service, &commit);
        let problem = service.refused(commit.operation, &request).await;
        assert!(
            matches!(
                problem,
                ProblemType::InvalidMessage
                    | ProblemType::InvalidCommit
                    | ProblemType::InvalidGroupInfo
                    | ProblemType::InvalidLeaf
                    | ProblemType::WrongEpoch
                    | ProblemType::ServiceBehind
            ),
            "{problem:?} at {at}"
        );
    }
    trio.still_works(&service).await;
}

/// A member whose clock is off, or who reads the commit after the KeyPackage has ended, would lose the group by it.
#[tokio::test]
async fn nobody_is_added_with_a_lifetime_that_a_readers_clock_could_find_bad() {
    const DAY: u64 = 24 * 60 * 60;
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let mut dave = Client::new(&service).await;
    let now = service.clock.now_unix_ms() / 1000;
    let (_, end) = protocol::lifetime::bounds(now + 84 * DAY);
    for (case, lifetime) in [
        (
            "as RFC 9420 has it",
            Lifetime::init(now - 3600, now + 84 * DAY),
        ),
        (
            "not good for clocks that are late",
            Lifetime::init(now - 3600, end),
        ),
        ("without an end", Lifetime::init(0, u64::MAX)),
        ("too long", lifetime(&service, 99 * DAY)),
        // The clock is 5 s further when it is judged.
        ("over", lifetime(&service, 4)),
    ] {
        service.clock.advance(5_000);
        let leaf = Leaf {
            lifetime,
            ..dave.leaf(&service)
        };
        let invitee = dave.invitee_with(leaf);
        assert_eq!(
            refused_plan(&service, &mut trio, Plan::add([invitee])).await,
            ProblemType::InvalidLeaf,
            "{case}"
        );
    }
    trio.still_works(&service).await;
}

#[tokio::test]
async fn a_leaf_that_is_not_as_leaves_are_here_does_not_come_in() {
    let service = Service::start(Engine::Memory);
    for flaw in FLAWS {
        // A group without RequiredCapabilities: the service's own rule is what refuses.
        let mut alice = Client::new(&service).await;
        let mut bob = Client::new(&service).await;
        let id = alice
            .create_group_requiring(&service, protocol::groups::GroupKind::Group, false)
            .await;
        let leaf = bob.leaf_with(&service, flaw);
        let invitee = bob.invitee_with(leaf);
        let add = alice.stage(&id, Plan::add([invitee]));
        assert_eq!(
            refused(&service, &mut alice, &add).await,
            ProblemType::InvalidLeaf,
            "{flaw:?} added"
        );

        let leaf = alice.leaf_with(&service, flaw);
        let update = alice.stage(&id, Plan::update_credential(leaf));
        assert_eq!(
            refused(&service, &mut alice, &update).await,
            ProblemType::InvalidLeaf,
            "{flaw:?} by update"
        );

        let invitee = bob.invitee(&service);
        alice.commit(&service, &id, Plan::add([invitee])).await;
    }
}

#[tokio::test]
async fn the_service_is_not_fooled_about_a_credential_that_changes_in_another_operation() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let mut plan = Plan::remove([2]);
    plan.new_leaf = Some(trio.alice.leaf(&service));
    let plan = plan.with_aad(honest_aad(Vec::new(), true).encode());
    assert_eq!(
        refused_plan(&service, &mut trio, plan).await,
        ProblemType::InvalidCommit
    );
    trio.still_works(&service).await;
}

#[tokio::test]
async fn refusals_of_members_cost_no_token() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let commit = trio
        .alice
        .stage(&trio.id, Plan::remove([2]).rotating(false));
    trio.alice.abandon(&trio.id);
    let token = crate::support::tokens::mint();
    let request = trio.alice.commit_request(&service, &commit);
    let reply = service
        .post_with(commit.operation, &request, std::slice::from_ref(&token))
        .await;
    assert_eq!(reply.problem(), ProblemType::RotationRequired);
    let key = fresh_key();
    let reserve = crate::support::request::Draft::by_key(
        &service,
        Operation::ReserveGroupId,
        &key,
        &protocol::groups::ReserveGroupIdRequest {},
    );
    let reply = service
        .post_with(Operation::ReserveGroupId, &reserve.signed(&key), &[token])
        .await;
    assert_eq!(reply.status, StatusCode::OK);
}

/// A leaf of the same key and user pseudonym with a new credential: another client pseudonym, another
/// identity link, which opens with a link key that nobody has.
fn relinked(service: &Service, client: &Client, id: &GroupId) -> Leaf {
    let group = client.group(id);
    let credential = group.mls.own_leaf_node().unwrap().credential();
    let credential = PseudonymousCredential::decode(credential.serialized_content()).unwrap();
    client.leaf_for_key(
        service,
        Flaw::None,
        credential.user_pseudonym.as_slice(),
        copy(&group.signer.0),
    )
}

#[tokio::test]
async fn a_credential_is_changed_by_an_update_with_its_link_key_only() {
    let service = Service::start(Engine::Memory);
    let mut trio = trio(&service).await;
    let plans: [fn(Leaf) -> Plan; 2] = [
        |leaf| Plan::update_credential(leaf).with_aad(honest_aad(Vec::new(), false).encode()),
        |leaf| {
            let mut plan = Plan::remove([2]).with_aad(honest_aad(Vec::new(), true).encode());
            plan.new_leaf = Some(leaf);
            plan
        },
    ];
    for plan in plans {
        let leaf = relinked(&service, &trio.alice, &trio.id);
        let problem = refused_plan(&service, &mut trio, plan(leaf)).await;
        assert_eq!(problem, ProblemType::InvalidCommit);
    }
    let leaf = relinked(&service, &trio.alice, &trio.id);
    trio.alice
        .commit(&service, &trio.id, Plan::update_credential(leaf))
        .await;
    for client in [&mut trio.alice, &mut trio.bob, &mut trio.carol] {
        client.receive(&service).await;
    }
    trio.still_works(&service).await;
}
