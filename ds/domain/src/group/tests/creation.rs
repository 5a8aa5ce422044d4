//! Creations that are refused, and reservations.

use openmls::prelude::{Extension, ExtensionType};
use protocol::group::{CreateGroupRequest, ReserveGroupIdRequest};
use protocol::policy::POLICY_EXTENSION;

use super::kit::{Flaw, copy, policy_extension};
use super::*;

fn refused(world: &mut World, twist: impl FnOnce(&mut CreateGroupRequest)) -> ProblemType {
    let created = Client::create_with(world, GroupKind::Group, twist);
    problem(created.map(|_| ()))
}

fn reservations(world: &World) -> usize {
    let rows = world.service.engine.rows();
    rows.filter(|(key, _)| key.table == Table::Reservations)
        .count()
}

#[test]
fn a_group_id_is_used_once_by_whoever_reserved_it() {
    let mut world = World::new(140);
    let key = crate::testing::key(7);
    let body = ReserveGroupIdRequest {
        group_id: protocol::ids::GroupId(crypto::random().unwrap()),
    };
    let reserved = world.service.call::<ReserveGroupId>(&key, &body).unwrap();
    // By somebody else.
    let id = reserved.group_id;
    assert_eq!(
        refused(&mut world, |request| request.group_id = id),
        ProblemType::InvalidGroupId
    );
    // For somebody else.
    let again = ReserveGroupIdRequest { group_id: id };
    let answer = world
        .service
        .call::<ReserveGroupId>(&crate::testing::key(8), &again);
    assert_eq!(problem(answer), ProblemType::InvalidGroupId);
    // In use.
    let mut kept = None;
    let created = Client::create_with(&mut world, GroupKind::Group, |request| {
        kept = Some(copy(request));
    });
    let (client, request) = (created.unwrap(), kept.unwrap());
    let crypto::sign::LeafKeyPair::Ed25519(key) = &client.signer.0 else {
        panic!()
    };
    let answer = world.service.call::<CreateGroup>(key, &request);
    assert_eq!(problem(answer), ProblemType::InvalidGroupId);
    let again = ReserveGroupIdRequest {
        group_id: request.group_id,
    };
    let answer = world.service.call::<ReserveGroupId>(key, &again);
    assert_eq!(problem(answer), ProblemType::InvalidGroupId);
}

#[test]
fn a_reservation_is_good_until_the_end_of_the_next_day() {
    for (days, good) in [(1, true), (2, false)] {
        let mut world = World::new(141);
        let mut kept = None;
        // Not carried out: its group info is none.
        refused(&mut world, |request| {
            kept = Some(copy(request));
            request.message_days = 0;
        });
        // A refusal before the tree was looked at uses nothing up.
        assert_eq!(reservations(&world), 1);
        let request: CreateGroupRequest = kept.unwrap();
        world.service.now_ms += days * DAY_MS;
        let today = protocol::ids::Day::of(world.service.now_ms).0;
        world.service.engine.drop_days(Table::Reservations, today);
        assert_eq!(reservations(&world), usize::from(good));
        let _ = request;
    }
}

#[test]
fn a_creation_whose_group_info_or_tree_does_not_verify_is_refused() {
    let mut world = World::new(142);
    let flip = |bytes: &[u8], from_end: usize| {
        let mut bytes = bytes.to_vec();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        opaque(bytes)
    };
    let append = |bytes: &[u8]| opaque([bytes, &[0]].concat());
    type Change<'a> = Box<dyn Fn(&mut CreateGroupRequest) + 'a>;
    let changes: [Change<'_>; 6] = [
        // The signature is the end of the GroupInfo.
        Box::new(|request| request.group_info = flip(request.group_info.as_slice(), 1)),
        Box::new(|request| request.group_info = append(request.group_info.as_slice())),
        Box::new(|request| request.group_info = opaque(Vec::new())),
        Box::new(|request| request.ratchet_tree = flip(request.ratchet_tree.as_slice(), 1)),
        Box::new(|request| request.ratchet_tree = append(request.ratchet_tree.as_slice())),
        Box::new(|request| request.ratchet_tree = opaque(Vec::new())),
    ];
    for change in changes {
        assert_eq!(
            refused(&mut world, |request| change(request)),
            ProblemType::InvalidGroupInfo
        );
    }
    // In order, but of another group than the reserved one.
    let mut of_another = None;
    Client::create_with(&mut world, GroupKind::Group, |request| {
        of_another = Some(copy(request));
    })
    .unwrap();
    let of_another: CreateGroupRequest = of_another.unwrap();
    assert_eq!(
        refused(&mut world, |request| {
            request.group_info = of_another.group_info.clone();
            request.ratchet_tree = of_another.ratchet_tree.clone();
        }),
        ProblemType::InvalidGroupInfo
    );
    // And somebody else's: whoever signs the request is in it.
    let limits = world.service.settings.limits.clone();
    let changes: [Change<'_>; 2] = [
        Box::new(|request| request.ratchet_tree = opaque(vec![0; limits.tree_bytes + 1])),
        Box::new(|request| request.group_info = opaque(vec![0; limits.group_info_bytes + 1])),
    ];
    for change in changes {
        assert_eq!(
            refused(&mut world, |request| change(request)),
            ProblemType::LimitExceeded
        );
    }
}

#[test]
fn a_tree_is_not_looked_at_before_the_reservation_was_found() {
    let mut world = World::new(143);
    let problem = refused(&mut world, |request| {
        request.group_id = GroupId([7; 16]);
        request.group_info = opaque(Vec::new());
        request.ratchet_tree = opaque(Vec::new());
    });
    assert_eq!(problem, ProblemType::InvalidGroupId);
}

#[test]
fn a_group_begins_with_its_creators_leaf_alone() {
    let mut world = World::new(144);
    // Two leaves: a group that has moved on before anybody heard of it.
    let clients = group(&mut world, 2);
    let (info, tree) = {
        use openmls::prelude::OpenMlsProvider as _;
        use openmls::prelude::tls_codec::Serialize as _;
        let alice = &clients[0];
        let info = alice
            .mls
            .export_group_info(alice.provider.crypto(), &alice.signer, false);
        let tree = alice.mls.export_ratchet_tree();
        (
            info.unwrap().tls_serialize_detached().unwrap(),
            tree.tls_serialize_detached().unwrap(),
        )
    };
    assert_eq!(
        refused(&mut world, |request| {
            request.group_info = opaque(info);
            request.ratchet_tree = opaque(tree);
        }),
        ProblemType::InvalidGroupInfo
    );
}

#[test]
fn a_creators_leaf_is_as_every_leaf_here() {
    for flaw in Flaw::ALL {
        let mut world = World::new(145);
        let drops = |context: &mut Vec<Extension>, _: &[u8]| {
            context.retain(|one| matches!(one, Extension::ExternalSenders(_)));
        };
        let kind = GroupKind::Group;
        let created = Client::create_in(&mut world, kind, drops, Some(flaw), |_| {});
        assert_eq!(
            problem(created.map(|_| ())),
            ProblemType::InvalidLeaf,
            "{flaw:?}"
        );
    }
}

#[test]
fn a_context_that_a_group_cannot_begin_with_is_refused() {
    let mut world = World::new(146);
    let is_policy =
        |one: &Extension| one.extension_type() == ExtensionType::Unknown(POLICY_EXTENSION);
    type Change = Box<dyn Fn(&mut Vec<Extension>, &[u8])>;
    let replaced = move |policy: fn(&[u8]) -> GroupPolicy| -> Change {
        Box::new(move |context, user| {
            context.retain(|one| !is_policy(one));
            context.push(policy_extension(&policy(user)));
        })
    };
    let disordered = replaced(|user| {
        let mut policy = GroupPolicy::of_creator(opaque(user));
        policy.roles.reverse();
        policy
    });
    let others = replaced(|_| GroupPolicy::of_creator(opaque(pseudonym())));
    let own = || replaced(|user| GroupPolicy::of_creator(opaque(user)));
    // One that members need not support; a group that does not list the service.
    let without = |kind: ExtensionType| -> Change {
        Box::new(move |context, _| context.retain(|one| one.extension_type() != kind))
    };
    for (kind, change) in [
        (GroupKind::Group, disordered),
        (GroupKind::Group, others),
        (GroupKind::Connection, own()),
        (GroupKind::SingleUser, own()),
        (
            GroupKind::Group,
            without(ExtensionType::RequiredCapabilities),
        ),
        (GroupKind::Group, without(ExtensionType::ExternalSenders)),
    ] {
        let created = Client::create_in(&mut world, kind, change, None, |_| {});
        assert_eq!(
            problem(created.map(|_| ())),
            ProblemType::InvalidGroupInfo,
            "{kind:?}"
        );
    }
}

#[test]
fn another_ciphersuite_is_refused() {
    use openmls::prelude::OpenMlsProvider as _;
    use openmls::prelude::tls_codec::Serialize as _;
    let mut world = World::new(147);
    let other = openmls::prelude::Ciphersuite::MLS_128_MLKEM768_AES256GCM_SHA384_Ed25519;
    let problem = refused(&mut world, |request| {
        let provider = openmls_rust_crypto::OpenMlsRustCrypto::default();
        let signer = LeafSigner::new();
        let mls = openmls::prelude::MlsGroup::builder()
            .with_group_id(openmls::prelude::GroupId::from_slice(&request.group_id.0))
            .ciphersuite(other)
            .build(
                &provider,
                &signer,
                Flaw::BasicCredential.credential(&signer),
            )
            .unwrap();
        let info = mls
            .export_group_info(provider.crypto(), &signer, false)
            .unwrap();
        request.group_info = opaque(info.tls_serialize_detached().unwrap());
        let tree = mls.export_ratchet_tree();
        request.ratchet_tree = opaque(tree.tls_serialize_detached().unwrap());
    });
    assert_eq!(problem, ProblemType::UnsupportedCiphersuite);
}
