//! Commits that are refused: each a typed problem, nothing changed, everybody goes on.

use crypto::sign::Scheme;
use openmls::prelude::group_info::GroupInfo;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{Ciphersuite, Extension, ExtensionType, Extensions, Lifetime};
use protocol::group::CommitRequest;

use super::by_hand::{sign_other_extensions, with_encryption_key};
use super::kit::{Flaw, Invitee, SUITES, aad, copy, credential};
use super::*;

/// A commit must be refused, and is given up.
pub(super) fn refused(world: &mut World, client: &mut Client, plan: Plan) -> ProblemType {
    problem(client.commit(world, plan))
}

/// A staged commit, changed before it is signed, must be refused.
fn refused_with(
    world: &mut World,
    client: &mut Client,
    plan: Plan,
    change: impl FnOnce(&mut CommitRequest),
) -> ProblemType {
    let operation = plan.operation;
    let mut request = client.stage(plan);
    change(&mut request);
    let answer = client.send_commit(world, operation, &request);
    client.abandon();
    problem(answer)
}

/// Everybody commits and hears the others.
pub(super) fn still_works(world: &mut World, clients: &mut [Client]) {
    catch_up(world, clients);
    for at in 0..clients.len() {
        clients[at].send(world, b"still here").unwrap();
        clients[at].commit(world, Plan::update()).unwrap();
        catch_up(world, clients);
    }
    let heard: Vec<usize> = clients.iter().map(|client| client.texts.len()).collect();
    assert!(
        heard.iter().all(|count| *count >= clients.len()),
        "{heard:?}"
    );
}

#[test]
fn a_commit_endpoint_takes_public_commits_and_nothing_else() {
    let mut world = World::new(50);
    let mut clients = group(&mut world, 3);
    let mut elsewhere = Client::create(&mut world, GroupKind::Group);
    let foreign = elsewhere.stage(Plan::update()).commit;
    let honest = clients[0].stage(Plan::update());
    clients[0].abandon();
    let whole = honest.commit.as_slice().to_vec();
    let message = clients[0].message(b"x").message;
    let mut private_commit = message.as_slice().to_vec();
    // Behind version, wire format, group id and epoch (RFC 9420 §6.3).
    private_commit[4 + 17 + 8] = 3;
    let leaving = clients[0].leaving().proposal;
    for commit in [
        private_commit,
        message.as_slice().to_vec(),
        leaving.as_slice().to_vec(),
        foreign.as_slice().to_vec(),
        [whole.as_slice(), &[0]].concat(),
        whole[..whole.len() - 1].to_vec(),
        Vec::new(),
    ] {
        let request = CommitRequest {
            commit: opaque(commit),
            ..copy(&honest)
        };
        let answer = clients[0].send_commit(&mut world, Number::UpdateClient, &request);
        assert_eq!(problem(answer), ProblemType::InvalidMessage);
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn a_commit_is_sent_by_its_committer() {
    let mut world = World::new(51);
    let mut clients = group(&mut world, 2);
    let request = clients[0].stage(Plan::update());
    clients[0].abandon();
    let answer = clients[1].send_commit(&mut world, Number::UpdateClient, &request);
    assert_eq!(problem(answer), ProblemType::InvalidCommit);
    still_works(&mut world, &mut clients);
}

#[test]
fn a_rotation_brings_other_keys_and_the_wrapper_key_before() {
    let mut world = World::new(52);
    let mut clients = group(&mut world, 3);
    let (state_key, journal_key) = (
        clients[0].state_key.to_wire(),
        clients[0].journal_key.to_wire(),
    );
    let [alice, ..] = clients.as_mut_slice() else {
        panic!()
    };
    let plan = || Plan::remove([2]);
    let same = refused_with(&mut world, alice, plan(), |request| {
        request.rotation.as_mut().unwrap().state_key = state_key;
    });
    assert_eq!(same, ProblemType::RotationRequired);
    let same = refused_with(&mut world, alice, plan(), |request| {
        request.rotation.as_mut().unwrap().journal_key = journal_key;
    });
    assert_eq!(same, ProblemType::RotationRequired);
    let changes: [fn(&mut CommitRequest); 2] = [
        |request| request.rotation.as_mut().unwrap().former_wrapper_key = None,
        |request| {
            let next = request.rotation.as_mut().unwrap();
            next.former_wrapper_key.as_mut().unwrap().of = RotationEpoch(7);
        },
    ];
    for change in changes {
        let other = refused_with(&mut world, alice, plan(), change);
        assert_eq!(other, ProblemType::InvalidCommit);
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn the_announced_rotation_is_the_one_that_happens() {
    let mut world = World::new(53);
    let mut clients = group(&mut world, 2);
    let [alice, ..] = clients.as_mut_slice() else {
        panic!()
    };
    // Announced and not brought; brought and not announced; a flag that is neither.
    let next = alice.stage(Plan::update().rotating()).rotation;
    alice.abandon();
    let announced = refused_with(&mut world, alice, Plan::update().rotating(), |request| {
        request.rotation = None;
    });
    let silent = refused_with(&mut world, alice, Plan::update(), |request| {
        request.rotation = next;
    });
    let mut flag = aad(true);
    flag.rotates = 2;
    let neither = Plan {
        aad: Some(flag.encode()),
        ..Plan::update().rotating()
    };
    let neither = refused(&mut world, alice, neither);
    assert_eq!(
        [announced, silent, neither],
        [ProblemType::InvalidCommit; 3]
    );
    still_works(&mut world, &mut clients);
}

#[test]
fn what_a_member_authenticates_with_its_commit_is_the_rotation_and_nothing_else() {
    let mut world = World::new(54);
    let mut clients = group(&mut world, 2);
    let mut answers = aad(false);
    answers.encrypted_connection_response = opaque(b"?".to_vec());
    let mut speaks = aad(false);
    let word = clients[0].authorize(&world, AuthorizedJoin::Client, &[1; 32]);
    speaks.authorization = Some(word);
    for bytes in [
        answers.encode(),
        speaks.encode(),
        [aad(false).encode().as_slice(), &[0]].concat(),
        Vec::new(),
    ] {
        let plan = Plan {
            aad: Some(bytes),
            ..Plan::update()
        };
        assert_eq!(
            refused(&mut world, &mut clients[0], plan),
            ProblemType::InvalidCommit
        );
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn welcomes_are_one_for_each_joiner_all_of_one_size_and_found_by_different_names() {
    let mut world = World::new(55);
    let mut clients = group(&mut world, 2);
    let changes: [fn(&mut CommitRequest); 5] = [
        |request| request.welcome = None,
        |request| {
            request.welcome.as_mut().unwrap().welcomes.pop();
        },
        |request| {
            let welcomes = &mut request.welcome.as_mut().unwrap().welcomes;
            welcomes.push(welcomes[0].clone());
        },
        |request| {
            let welcomes = &mut request.welcome.as_mut().unwrap().welcomes;
            welcomes[1].id = welcomes[0].id;
        },
        |request| request.welcome.as_mut().unwrap().welcomes[1].sealed = opaque(vec![1; 9]),
    ];
    for change in changes {
        let invitees = [0, 1].map(|_| Invitee::new(&world).key_package);
        let problem = refused_with(&mut world, &mut clients[0], Plan::add(invitees), change);
        assert_eq!(problem, ProblemType::InvalidCommit);
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn an_operation_takes_its_own_proposals_only() {
    let mut world = World::new(56);
    let mut clients = group(&mut world, 3);
    let invitee = || Invitee::new(&World::new(1)).key_package;
    let mut extensions = clients[0].extensions();
    extensions.retain(|extension| extension.extension_type() != ExtensionType::ExternalSenders);
    let changes_context = Plan {
        context: Some(Extensions::from_vec(extensions).unwrap()),
        ..Plan::update()
    };
    let mut both = Plan::remove([2]);
    both.adds = vec![invitee()];
    for plan in [
        both,
        Plan::remove([2]).sent_as(Number::AddUsers),
        Plan::remove([2]).sent_as(Number::UpdateClient),
        Plan::remove([2]).sent_as(Number::RemoveClients),
        Plan::add([]),
        Plan::remove([]),
        Plan::update().rotating().sent_as(Number::RemoveUsers),
        Plan::update().rotating().sent_as(Number::RemoveClients),
        Plan::add([invitee()]).sent_as(Number::UpdateClient),
        Plan::add([invitee()])
            .rotating()
            .sent_as(Number::RemoveUsers),
        Plan::update().sent_as(Number::SetRole),
        Plan::update().sent_as(Number::DeleteGroup),
        Plan::update().sent_as(Number::ReInitializeGroup),
        changes_context,
    ] {
        let operation = plan.operation;
        let mut request = clients[0].stage(plan);
        let answer = clients[0].send_commit(&mut world, operation, &request);
        let problem_is = |answer, found: Option<ProblemType>| {
            let problem = problem(answer);
            assert!(
                matches!(
                    problem,
                    ProblemType::InvalidCommit | ProblemType::NotAllowed
                ),
                "{operation:?}: {problem:?} {found:?}"
            );
            problem
        };
        let first = problem_is(answer, None);
        // With and without a Welcome, so that it is not its absence alone.
        clients[0].abandon();
        let add = clients[0].stage(Plan::add([invitee()]));
        clients[0].abandon();
        request.welcome = match request.welcome {
            Some(_) => None,
            None => add.welcome,
        };
        let answer = clients[0].send_commit(&mut world, operation, &request);
        problem_is(answer, Some(first));
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn a_user_who_is_in_already_is_not_added_again_and_nobody_becomes_him() {
    let mut world = World::new(57);
    let mut clients = group(&mut world, 2);
    let user = clients[1].user.clone();
    let again = Invitee::of_user(&world, user.clone()).key_package;
    assert_eq!(
        refused(&mut world, &mut clients[0], Plan::add([again])),
        ProblemType::NotAllowed
    );
    let becomes = Plan {
        new_user: Some(user),
        ..Plan::update()
    };
    assert_eq!(
        refused(&mut world, &mut clients[0], becomes),
        ProblemType::NotAllowed
    );
    still_works(&mut world, &mut clients);
}

/// Adds a further client of a user's by the user's own commit; the client itself is not played.
pub(super) fn add_client(world: &mut World, clients: &mut [Client], at: usize) -> u32 {
    let invitee = Invitee::of_user(world, clients[at].user.clone());
    let before = clients[at].members();
    let plan = Plan::add([invitee.key_package]).sent_as(Number::AddClients);
    clients[at].commit(world, plan).unwrap();
    catch_up(world, clients);
    let added = clients[at].members();
    *added.iter().find(|leaf| !before.contains(leaf)).unwrap()
}

#[test]
fn a_user_goes_with_all_its_clients_and_by_others_only() {
    let mut world = World::new(58);
    let mut clients = group(&mut world, 2);
    let of_bob = add_client(&mut world, &mut clients, 1);
    let of_alice = add_client(&mut world, &mut clients, 0);
    let [alice, bob] = clients.as_mut_slice() else {
        panic!()
    };
    for incomplete in [1, of_bob] {
        assert_eq!(
            refused(&mut world, alice, Plan::remove([incomplete])),
            ProblemType::NotAllowed
        );
    }
    // Not as a user, by itself; nor as own clients, by others; nor without rotation.
    let itself = refused(&mut world, alice, Plan::remove([of_alice]));
    assert_eq!(itself, ProblemType::InvalidCommit);
    let others = Plan::remove([of_alice]).sent_as(Number::RemoveClients);
    assert_eq!(refused(&mut world, bob, others), ProblemType::NotAllowed);
    let own = || Plan::remove([of_alice]).sent_as(Number::RemoveClients);
    assert_eq!(
        refused(&mut world, alice, own().without_rotation()),
        ProblemType::RotationRequired
    );
    alice.commit(&mut world, own()).unwrap();
    catch_up(&mut world, &mut clients);
    clients[0]
        .commit(&mut world, Plan::remove([1, of_bob]))
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[1].is_out);
    assert_eq!(clients[0].members(), [0]);
}

#[test]
fn a_group_info_by_which_nobody_could_join_is_refused() {
    for suite in SUITES {
        let mut world = World::new(59);
        world.suite = suite;
        let mut alice = Client::create(&mut world, GroupKind::Group);
        let (honest, info) = alice.stage_with_info(Plan::update());
        let sent = honest.group_info.extensions.as_slice().to_vec();
        // extensions<V>, one: external_pub (4), extension_data<V>, HpkePublicKey<V>.
        let external_pub = |key: &[u8]| {
            let key = VLBytes::new(key.to_vec()).tls_serialize_detached().unwrap();
            let data = VLBytes::new(key).tls_serialize_detached().unwrap();
            let extension = [&[0, 4][..], &data].concat();
            VLBytes::new(extension).tls_serialize_detached().unwrap()
        };
        let extensions = Extensions::<GroupInfo>::tls_deserialize_exact_bytes(&sent).unwrap();
        let key = extensions.external_pub().unwrap().external_pub();
        let key = key.as_slice();
        assert_eq!(external_pub(key), sent);
        let mut wrong = vec![vec![0], external_pub(&[]), external_pub(&key[1..])];
        wrong.push(external_pub(&[key, &[0]].concat()));
        if world.scheme() == Scheme::EcdsaP256 {
            wrong.push(external_pub(&[&[4][..], &[1; 64]].concat()));
        }
        for extensions in wrong {
            let request = sign_other_extensions(&alice, &honest, &info, extensions);
            let answer = alice.send_commit(&mut world, Number::UpdateClient, &request);
            assert_eq!(problem(answer), ProblemType::InvalidGroupInfo);
        }
        // The same helper signs what is accepted: another key is one that only members can tell
        // from the epoch's.
        let same = sign_other_extensions(&alice, &honest, &info, sent);
        let answer = alice.send_commit(&mut world, Number::UpdateClient, &same);
        assert_eq!(answer.unwrap().epoch.0, 1);
    }
}

/// It would stop whoever commits with a path after that.
#[test]
fn a_leaf_that_nothing_can_be_encrypted_to_is_refused() {
    let mut world = World::new(61);
    world.suite = Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519;
    let mut alice = Client::create(&mut world, GroupKind::Group);
    let invitee = Invitee::new(&world);
    // The first coefficients of ML-KEM are beyond its modulus (FIPS 203 §7.2).
    let bad = with_encryption_key(&invitee, |key| [&[0xff; 3], &key[3..]].concat());
    let request = alice.stage(Plan::add([bad]));
    alice.abandon();
    let answer = alice.send_commit(&mut world, Number::AddUsers, &request);
    assert_eq!(problem(answer), ProblemType::InvalidCommit);
    // The same helper signs what is accepted.
    let good = with_encryption_key(&invitee, |key| key);
    alice.commit(&mut world, Plan::add([good])).unwrap();
}

#[test]
fn a_tampered_group_info_is_refused() {
    let mut world = World::new(60);
    let mut clients = group(&mut world, 2);
    let honest = clients[0].stage(Plan::update());
    clients[0].abandon();
    let other = clients[0].stage(Plan::update());
    clients[0].abandon();
    let flip = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        opaque(bytes)
    };
    let info = |change: &dyn Fn(&mut CommitRequest)| {
        let mut request = copy(&honest);
        change(&mut request);
        request
    };
    let last = honest.group_info.extensions.as_slice().len() - 1;
    // The membership tag is the last 33 bytes, the confirmation tag the 33 before (RFC 9420 §6.2).
    let in_confirmation_tag = honest.commit.as_slice().len() - 34;
    let tampered = [
        info(&|it| it.group_info.signature = flip(honest.group_info.signature.as_slice(), 0)),
        info(&|it| it.group_info.signature = opaque(Vec::new())),
        info(&|it| it.group_info.signature = other.group_info.signature.clone()),
        info(&|it| it.group_info.extensions = flip(honest.group_info.extensions.as_slice(), last)),
        info(&|it| it.group_info.extensions = opaque(Vec::new())),
        info(&|it| {
            let longer = [honest.group_info.extensions.as_slice(), &[0]].concat();
            it.group_info.extensions = opaque(longer);
        }),
        info(&|it| it.group_info.extensions = other.group_info.extensions.clone()),
        // What the public group cannot check by itself, the GroupInfo signature covers.
        info(&|it| it.commit = flip(honest.commit.as_slice(), in_confirmation_tag)),
    ];
    for request in tampered {
        let answer = clients[0].send_commit(&mut world, Number::UpdateClient, &request);
        assert_eq!(problem(answer), ProblemType::InvalidGroupInfo);
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn a_commit_with_any_byte_changed_is_refused() {
    let mut world = World::new(61);
    let mut clients = group(&mut world, 3);
    let honest = clients[0].stage(Plan::update());
    clients[0].abandon();
    // All but the membership tag, which only members can check (RFC 9420 §6.2).
    for at in 0..honest.commit.as_slice().len() - 33 {
        let mut request = copy(&honest);
        let mut bytes = honest.commit.as_slice().to_vec();
        bytes[at] ^= 1;
        request.commit = opaque(bytes);
        let answer = clients[0].send_commit(&mut world, Number::UpdateClient, &request);
        let problem = problem(answer);
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
    still_works(&mut world, &mut clients);
}

/// A member whose clock is off, or who reads the commit after the KeyPackage has ended, would lose
/// the group by it.
#[test]
fn nobody_is_added_with_a_lifetime_that_a_readers_clock_could_find_bad() {
    const DAY: u64 = 24 * 60 * 60;
    let mut world = World::new(62);
    let mut clients = group(&mut world, 2);
    let now = world.service.now_ms / 1000;
    let bounds = |end| protocol::lifetime::bounds(end);
    let (_, end) = bounds(now + 84 * DAY);
    let lifetime = |(from, until)| Lifetime::init(from, until);
    for (case, lifetime) in [
        // The library goes by the clock of the machine, which must find them good.
        (
            "with a beginning",
            lifetime((now - 60 * DAY, now + 84 * DAY)),
        ),
        (
            "not good for clocks that are late",
            lifetime((now - 60 * DAY, end)),
        ),
        ("without an end", lifetime((0, u64::MAX))),
        ("too long", lifetime(bounds(now + 99 * DAY))),
        ("over", lifetime(bounds(now - 1))),
    ] {
        let (user, signer) = (pseudonym(), LeafSigner::new());
        let credential = credential(&signer, &user);
        let invitee = Invitee::with(world.suite, user, signer, credential, lifetime);
        assert_eq!(
            refused(
                &mut world,
                &mut clients[0],
                Plan::add([invitee.key_package])
            ),
            ProblemType::InvalidLeaf,
            "{case}"
        );
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn a_leaf_that_is_not_as_leaves_are_here_does_not_come_in() {
    for flaw in Flaw::ALL {
        let mut world = World::new(63);
        // A group without RequiredCapabilities: the service's own rule is what refuses.
        let drops = |context: &mut Vec<Extension>, _: &[u8]| {
            context.retain(|one| matches!(one, Extension::ExternalSenders(_)));
        };
        let kind = GroupKind::Group;
        let mut alice = Client::create_in(&mut world, kind, drops, None, |_| {}).unwrap();
        let invitee = Invitee::flawed(&world, flaw);
        assert_eq!(
            refused(&mut world, &mut alice, Plan::add([invitee.key_package])),
            ProblemType::InvalidLeaf,
            "{flaw:?} added"
        );
        let signer = LeafSigner::new();
        let credential = flaw.credential(&signer);
        let update = Plan {
            new_leaf: Some((signer, credential)),
            ..Plan::update()
        };
        assert_eq!(
            refused(&mut world, &mut alice, update),
            ProblemType::InvalidLeaf,
            "{flaw:?} by update"
        );
        let invitee = Invitee::new(&world);
        alice
            .commit(&mut world, Plan::add([invitee.key_package]))
            .unwrap();
    }
}

#[test]
fn a_credential_is_changed_by_an_update_only() {
    let mut world = World::new(64);
    let mut clients = group(&mut world, 3);
    let user = clients[0].user.clone();
    let removes = Plan {
        new_user: Some(user.clone()),
        ..Plan::remove([2])
    };
    assert_eq!(
        refused(&mut world, &mut clients[0], removes),
        ProblemType::InvalidCommit
    );
    // A leaf of the same key with a new credential, too.
    let signer = clients[0].same_signer();
    let relinked = credential(&signer, &user);
    let removes = Plan {
        new_leaf: Some((signer, relinked)),
        ..Plan::remove([2])
    };
    assert_eq!(
        refused(&mut world, &mut clients[0], removes),
        ProblemType::InvalidCommit
    );
    let updates = Plan {
        new_user: Some(user),
        ..Plan::update()
    };
    clients[0].commit(&mut world, updates).unwrap();
    still_works(&mut world, &mut clients);
}

#[test]
fn a_commit_with_any_part_above_its_bound_is_refused_and_the_group_goes_on() {
    let mut world = World::new(65);
    let mut clients = group(&mut world, 2);
    let limits = world.service.settings.limits.clone();
    let changes: [&dyn Fn(&mut CommitRequest); 4] = [
        &|request| request.commit = opaque(vec![0; limits.commit_bytes + 1]),
        &|request| request.group_info.extensions = opaque(vec![0; limits.group_info_bytes]),
        &|request| {
            let welcomes = &mut request.welcome.as_mut().unwrap().welcomes;
            welcomes[0].sealed = opaque(vec![0; limits.welcome_bytes + 1]);
        },
        &|request| {
            request.link_keys[0].sealed = opaque(vec![0; 300]);
        },
    ];
    for change in changes {
        let invitee = Invitee::new(&world).key_package;
        let problem = refused_with(&mut world, &mut clients[0], Plan::add([invitee]), change);
        assert_eq!(problem, ProblemType::LimitExceeded);
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn a_group_has_no_more_members_than_its_bound_however_they_come() {
    let mut world = World::new(66);
    world.service.settings.limits.members = 2;
    let mut clients = group(&mut world, 2);
    let add = Plan::add([Invitee::new(&world).key_package]);
    assert_eq!(
        refused(&mut world, &mut clients[0], add),
        ProblemType::LimitExceeded
    );
    let (secret, _) = make_code(&clients[0], &mut world).unwrap();
    let by = &clients[0];
    let joined =
        Client::join_from_outside(&mut world, by, pseudonym(), by_code(secret), None, false);
    assert_eq!(problem(joined.map(|_| ())), ProblemType::LimitExceeded);
    clients[0].commit(&mut world, Plan::remove([1])).unwrap();
    catch_up(&mut world, &mut clients);
    let add = Plan::add([Invitee::new(&world).key_package]);
    clients[0].commit(&mut world, add).unwrap();
}

#[test]
fn nobody_is_added_to_a_group_whose_tree_could_not_be_fetched() {
    let mut world = World::new(67);
    let mut clients = group(&mut world, 2);
    world.service.settings.limits.tree_bytes = 1_000;
    let add = Plan::add([Invitee::new(&world).key_package]);
    assert_eq!(
        refused(&mut world, &mut clients[0], add),
        ProblemType::LimitExceeded
    );
    still_works(&mut world, &mut clients);
}

#[test]
fn a_commit_covers_no_more_proposals_and_joiners_than_their_bounds() {
    for bound in [
        |limits: &mut crate::env::Limits| limits.proposals = 1,
        |limits: &mut crate::env::Limits| limits.joiners = 1,
    ] {
        let mut world = World::new(68);
        let mut clients = group(&mut world, 2);
        bound(&mut world.service.settings.limits);
        let two = [0, 1].map(|_| Invitee::new(&world).key_package);
        assert_eq!(
            refused(&mut world, &mut clients[0], Plan::add(two)),
            ProblemType::LimitExceeded
        );
        let add = Plan::add([Invitee::new(&world).key_package]);
        clients[0].commit(&mut world, add).unwrap();
    }
}

#[test]
fn groups_of_every_suite_live_side_by_side_and_take_leaves_of_their_own_only() {
    let mut world = World::new(69);
    let mut of_suites = Vec::new();
    for suite in SUITES {
        world.suite = suite;
        of_suites.push(group(&mut world, 2));
    }
    for (at, clients) in of_suites.iter_mut().enumerate() {
        still_works(&mut world, clients);
        world.suite = SUITES[(at + 1) % SUITES.len()];
        let other = Invitee::new(&world).key_package;
        let added = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            clients[0].stage(Plan::add([other]))
        }));
        // The library does not even make such a commit.
        assert!(added.is_err());
    }
}

#[test]
fn a_removed_leaf_and_a_free_one_neither_speak_nor_are_removed() {
    let mut world = World::new(70);
    let mut clients = group(&mut world, 3);
    clients[0].commit(&mut world, Plan::remove([2])).unwrap();
    catch_up(&mut world, &mut clients);
    // With the key of who is there, in the name of the leaf that is gone, and of one that never
    // was.
    for leaf in [2, 77] {
        let body = clients[0].message(b"text");
        let bytes = clients[0].sign_as(&mut world, LeafIndex(leaf), Number::SendMessage, &body);
        let answer = world.run::<SendMessage>(&bytes);
        assert_eq!(problem(answer), ProblemType::BadSignature);
    }
}
