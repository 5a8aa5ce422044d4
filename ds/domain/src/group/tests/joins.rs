//! External commits that are refused, each with its permit; and what bounds join codes.

use crypto::leaf_authorization;
use protocol::group::{ExternalJoinRequest, MAX_JOIN_CODE_WEEKS, MAX_JOIN_CODES};
use protocol::ids::{Epoch, SegmentId};
use protocol::join::LeafAuthorization;
use protocol::policy::Capabilities;

use super::commits::still_works;
use super::kit::{Flaw, Outside, copy};
use super::*;

const HOUR_MS: u64 = 3_600_000;

/// Of no code.
fn unknown_code() -> JoinPermit {
    by_code([9; 32])()
}

fn client() -> JoinPermit {
    JoinPermit::Client
}

fn rejoin() -> JoinPermit {
    JoinPermit::Rejoin
}

#[test]
fn a_join_that_is_not_as_joins_are_is_refused_and_an_honest_one_still_works() {
    let mut world = World::new(100);
    let mut one = Client::create(&mut world, GroupKind::Connection);
    let (code, _) = make_code(&one, &mut world).unwrap();
    let connection = by_code(code);
    let outside = |by| Outside::new(by, pseudonym(), LeafSigner::new(), &connection);
    let silent = Outside {
        response: Some(Vec::new()),
        ..outside(&one)
    };
    let silent = silent.join(&mut world).map(|_| ());
    assert_eq!(problem(silent), ProblemType::InvalidCommit);
    for flaw in Flaw::ALL {
        let flawed = Outside {
            flaw: Some(flaw),
            ..outside(&one)
        };
        let flawed = flawed.join(&mut world).map(|_| ());
        assert_eq!(problem(flawed), ProblemType::InvalidLeaf, "{flaw:?}");
    }
    type Twist = fn(&mut ExternalJoinRequest);
    let twists: [(Twist, ProblemType); 4] = [
        (
            |request| {
                let mut signature = request.group_info.signature.as_slice().to_vec();
                signature[0] ^= 1;
                request.group_info.signature = opaque(signature);
            },
            ProblemType::InvalidGroupInfo,
        ),
        (
            |request| request.leaf.wrapped_link_key = opaque(Vec::new()),
            ProblemType::InvalidLeaf,
        ),
        (
            |request| request.leaf.recovery_key.public_key = opaque(vec![1; 32]),
            ProblemType::InvalidLeaf,
        ),
        (
            |request| request.commit = opaque(vec![1; 9]),
            ProblemType::InvalidMessage,
        ),
    ];
    for (twist, expected) in twists {
        let twisted = Outside {
            twist: Some(twist),
            ..outside(&one)
        };
        let answer = twisted.join(&mut world).map(|_| ());
        assert_eq!(problem(answer), expected);
    }
    // Signed by another key than that of the leaf that comes in.
    let honest = outside(&one);
    let staged = honest.stage(one.told());
    let answer = outside(&one).send(&mut world, &staged.request);
    assert_eq!(problem(answer.map(|_| ())), ProblemType::BadSignature);
    outside(&one).join(&mut world).unwrap();
    one.catch_up(&mut world);
    assert_eq!(one.members(), [0, 1]);
}

/// As long as its handshakes are kept, but for a week.
#[test]
fn nobody_is_due_in_a_connection_before_a_year_has_passed() {
    let mut world = World::new(17);
    let mut one = Client::create(&mut world, GroupKind::Connection);
    let (code, _) = make_code(&one, &mut world).unwrap();
    Client::join_from_outside(&mut world, &one, pseudonym(), by_code(code), None, false).unwrap();
    one.catch_up(&mut world);
    for (days, due) in [(300, 0), (60, 0), (7, 1)] {
        world.service.now_ms += days * DAY_MS;
        one.commit(&mut world, Plan::update().rotating()).unwrap();
        one.catch_up(&mut world);
        assert_eq!(one.proposals.len(), due, "after {days} days more");
    }
}

#[test]
fn a_members_commit_is_no_join_and_a_join_is_no_members_commit() {
    let mut world = World::new(101);
    let mut one = Client::create(&mut world, GroupKind::Connection);
    let (code, _) = make_code(&one, &mut world).unwrap();
    let connection = by_code(code);
    let outside = Outside::new(&one, pseudonym(), LeafSigner::new(), &connection);
    let join = outside.stage(one.told()).request;
    let update = one.stage(Plan::update());
    one.abandon();
    let as_member = protocol::group::CommitRequest {
        commit: join.commit.clone(),
        group_info: join.group_info.clone(),
        ..copy(&update)
    };
    let answer = one.send_commit(&mut world, Number::UpdateClient, &as_member);
    assert_eq!(problem(answer), ProblemType::InvalidCommit);
    let as_join = ExternalJoinRequest {
        commit: update.commit,
        ..join
    };
    let outside = Outside::new(&one, pseudonym(), LeafSigner::new(), &connection);
    let answer = outside.send(&mut world, &as_join);
    assert_eq!(problem(answer.map(|_| ())), ProblemType::InvalidCommit);
}

#[test]
fn who_has_no_permit_comes_into_no_group() {
    let mut world = World::new(102);
    let mut clients = group(&mut world, 2);
    for asks in [true, false] {
        let outside = Outside {
            asks,
            ..Outside::new(&clients[0], pseudonym(), LeafSigner::new(), &unknown_code)
        };
        let answer = outside.join(&mut world).map(|_| ());
        assert!(
            matches!(
                problem(answer),
                ProblemType::NotAllowed | ProblemType::InvalidCommit
            ),
            "{asks}"
        );
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn an_authorization_that_is_not_exactly_this_one_lets_nobody_in() {
    let mut world = World::new(103);
    let mut clients = group(&mut world, 2);
    let stranger = Client::create(&mut world, GroupKind::Group);
    let (alice, bob) = (&clients[0], &clients[1]);
    let later = world.service.now_ms + HOUR_MS;
    type Word<'w> = Box<dyn Fn(&[u8]) -> LeafAuthorization + 'w>;
    let by =
        |signer: &Client, group: &GroupId, segment: &SegmentId, join, leaf, until, key: &[u8]| {
            leaf_authorization::authorize(&signer.signer.0, group, segment, join, leaf, until, key)
        };
    let as_client = AuthorizedJoin::Client;
    let now = world.service.now_ms;
    let forgeries: [(&str, Word<'_>); 9] = [
        (
            "by somebody else",
            Box::new(|key| by(&stranger, &bob.id, &bob.segment, as_client, 1, later, key)),
        ),
        (
            "expired",
            Box::new(|key| by(bob, &bob.id, &bob.segment, as_client, 1, now - 1, key)),
        ),
        (
            "for another purpose",
            Box::new(|key| {
                by(
                    bob,
                    &bob.id,
                    &bob.segment,
                    AuthorizedJoin::Rejoin,
                    1,
                    later,
                    key,
                )
            }),
        ),
        (
            "for another group",
            Box::new(|key| by(bob, &stranger.id, &bob.segment, as_client, 1, later, key)),
        ),
        (
            "for another segment",
            Box::new(|key| by(bob, &bob.id, &SegmentId([9; 32]), as_client, 1, later, key)),
        ),
        (
            "for another key",
            Box::new(|_| by(bob, &bob.id, &bob.segment, as_client, 1, later, &[7; 32])),
        ),
        (
            "in the name of another leaf",
            Box::new(|key| by(bob, &bob.id, &bob.segment, as_client, 0, later, key)),
        ),
        (
            "in the name of a leaf that is free",
            Box::new(|key| by(bob, &bob.id, &bob.segment, as_client, 9, later, key)),
        ),
        (
            "made longer afterwards",
            Box::new(|key| LeafAuthorization {
                not_after_ms: later + 1,
                ..by(bob, &bob.id, &bob.segment, as_client, 1, later, key)
            }),
        ),
    ];
    for (what, forge) in forgeries {
        for asks in [true, false] {
            let signer = LeafSigner::new();
            let outside = Outside {
                word: Some(forge(&signer.0.public())),
                asks,
                ..Outside::new(alice, bob.user.clone(), signer, &client)
            };
            let answer = outside.join(&mut world).map(|_| ());
            assert_eq!(problem(answer), ProblemType::NotAllowed, "{what}, {asks}");
        }
    }
    still_works(&mut world, &mut clients);
}

#[test]
fn an_authorization_for_more_than_a_week_is_refused() {
    let mut world = World::new(104);
    let clients = group(&mut world, 2);
    let bob = &clients[1];
    let longest = world.service.now_ms + mls_rules::commit::MAX_AUTHORIZATION_MS;
    for (until, good) in [(u64::MAX, false), (longest + 1, false), (longest, true)] {
        let signer = LeafSigner::new();
        let word = leaf_authorization::authorize(
            &bob.signer.0,
            &bob.id,
            &bob.segment,
            AuthorizedJoin::Client,
            1,
            until,
            &signer.0.public(),
        );
        let outside = Outside {
            word: Some(word),
            ..Outside::new(bob, bob.user.clone(), signer, &client)
        };
        let answer = outside.join(&mut world).map(|_| ());
        match good {
            true => answer.unwrap(),
            false => assert_eq!(problem(answer), ProblemType::LimitExceeded),
        }
    }
}

#[test]
fn a_client_comes_in_for_the_user_whose_leaf_has_authorized_it_and_not_for_a_banned_one() {
    let mut world = World::new(105);
    let mut clients = group(&mut world, 2);
    let by_bob = |world: &World, bob: &Client, user: Vec<u8>| {
        let signer = LeafSigner::new();
        let word = bob.authorize(world, AuthorizedJoin::Client, &signer.0.public());
        (signer, word, user)
    };
    for user in [clients[0].user.clone(), pseudonym()] {
        let (signer, word, user) = by_bob(&world, &clients[1], user);
        let outside = Outside {
            word: Some(word),
            ..Outside::new(&clients[0], user, signer, &client)
        };
        let answer = outside.join(&mut world).map(|_| ());
        assert_eq!(problem(answer), ProblemType::NotAllowed);
    }
    let bob = clients[1].user.clone();
    let policy = clients[0].policy();
    let banned = policy.with(&bob, GroupPolicy::MEMBER, Standing::Banned);
    let plan = Plan::set_context(clients[0].context_with(&banned));
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let (signer, word, user) = by_bob(&world, &clients[1], bob);
    let outside = Outside {
        word: Some(word),
        ..Outside::new(&clients[0], user, signer, &client)
    };
    let answer = outside.join(&mut world).map(|_| ());
    assert_eq!(problem(answer), ProblemType::NotAllowed);
}

#[test]
fn a_rejoin_replaces_exactly_the_own_leaf_and_rotates() {
    let mut world = World::new(106);
    let mut clients = group(&mut world, 2);
    let (alice, bob) = (&clients[0], &clients[1]);
    let word = |signer: &LeafSigner, join| bob.authorize(&world, join, &signer.0.public());
    let own = bob.same_signer();
    let rejoins = word(&own, AuthorizedJoin::Rejoin);
    let comes = word(&own, AuthorizedJoin::Client);
    let fresh = LeafSigner::new();
    let fresh_rejoins = word(&fresh, AuthorizedJoin::Rejoin);
    let hers = leaf_authorization::authorize(
        &bob.signer.0,
        &bob.id,
        &bob.segment,
        AuthorizedJoin::Rejoin,
        0,
        world.service.now_ms + HOUR_MS,
        &own.0.public(),
    );
    let base = |signer: LeafSigner, word: &LeafAuthorization| Outside {
        word: Some(word.clone()),
        rotates: true,
        asks: false,
        ..Outside::new(alice, bob.user.clone(), signer, &rejoin)
    };
    let without_rotation = Outside {
        rotates: false,
        ..base(own.again(), &rejoins)
    };
    let as_another_user = Outside {
        user: pseudonym(),
        ..base(own.again(), &rejoins)
    };
    // A fresh key, so that the library removes nobody.
    let beside = base(fresh, &fresh_rejoins);
    // A removal without that permit.
    let as_client = Outside {
        permit: &client,
        ..base(own.again(), &comes)
    };
    let in_her_place = base(own.again(), &hers);
    let mut problems = Vec::new();
    for outside in [
        without_rotation,
        as_another_user,
        beside,
        as_client,
        in_her_place,
    ] {
        problems.push(problem(outside.join(&mut world).map(|_| ())));
    }
    assert_eq!(problems[0], ProblemType::RotationRequired);
    for problem in &problems[1..] {
        assert!(
            matches!(
                problem,
                ProblemType::NotAllowed | ProblemType::InvalidCommit
            ),
            "{problems:?}"
        );
    }
    // What is as it should be goes through, also a second time when the answer was lost.
    let honest = base(own.again(), &rejoins);
    let staged = honest.stage(clients[0].told());
    let (_, first) = honest.send(&mut world, &staged.request).unwrap();
    let before = world.service.engine.clone();
    let tokens = world.service.tokens(1);
    let bytes = honest.signed(&mut world, &staged.request);
    let again = world.service.run::<ExternalJoin>(&bytes, tokens).unwrap();
    assert_eq!(again.encode(), first.encode());
    let entries = |engine: &crate::memory::MemoryEngine| {
        let rows = engine.rows();
        rows.filter(|(key, _)| key.table == Table::Handshakes)
            .count()
    };
    assert_eq!(entries(&before), entries(&world.service.engine));
    clients[0].catch_up(&mut world);
    assert_eq!(clients[0].members(), [0, 1]);
}

#[test]
fn a_code_is_for_new_users_whom_the_policy_does_not_know() {
    let mut world = World::new(107);
    let mut clients = group(&mut world, 2);
    let banned = pseudonym();
    let policy = clients[0].policy();
    let policy = policy.with(&banned, GroupPolicy::MEMBER, Standing::Banned);
    let plan = Plan::set_context(clients[0].context_with(&policy));
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let (secret, _) = make_code(&clients[0], &mut world).unwrap();
    for user in [banned, clients[1].user.clone()] {
        let by = &clients[0];
        let joined = Client::join_from_outside(&mut world, by, user, by_code(secret), None, false);
        assert_eq!(problem(joined.map(|_| ())), ProblemType::NotAllowed);
    }
    let by = &clients[0];
    Client::join_from_outside(&mut world, by, pseudonym(), by_code(secret), None, false).unwrap();
}

#[test]
fn a_code_is_made_by_who_may_add_in_a_group_that_is_joined_by_codes() {
    let mut world = World::new(108);
    let mut clients = group(&mut world, 2);
    let mut policy = clients[0].policy();
    policy.roles[1].capabilities = Capabilities::SEND;
    let plan = Plan::set_context(clients[0].context_with(&policy));
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let answer = make_code(&clients[1], &mut world).map(|_| ());
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    let of_one = Client::create(&mut world, GroupKind::SingleUser);
    let answer = make_code(&of_one, &mut world).map(|_| ());
    assert_eq!(problem(answer), ProblemType::NotAllowed);
}

/// A code that expires so many weeks from now.
fn code_for(client: &Client, world: &World, weeks: u16, key: &[u8]) -> SetJoinCodeRequest {
    let bytes: [u8; 32] = crypto::random().unwrap();
    let mut code = JoinCode {
        permit_hash: JoinCodeSecret::new(bytes).permit().hash(),
        public_key: opaque(key),
        expiry: Week(Week::of(world.service.now_ms).0.wrapping_add(weeks)),
        epoch: Epoch(client.epoch()),
        maker: LeafIndex(client.index()),
        signature: opaque(Vec::new()),
    };
    let tbs = crypto::journal::join_code_tbs(&client.id, &code);
    code.signature = opaque(client.signer.0.sign(JOIN_CODE_LABEL, &tbs));
    SetJoinCodeRequest {
        group: client.key(),
        change: JoinCodeChange::Make(NewJoinCode {
            code,
            row: RecoveryRow {
                id: recovery_row_id(&client.id, key),
                sealed: opaque(vec![4; 80]),
            },
        }),
    }
}

#[test]
fn codes_are_bounded_in_number_and_time_and_signed_by_their_maker() {
    let mut world = World::new(109);
    let clients = group(&mut world, 2);
    let alice = &clients[0];
    for weeks in [u16::MAX, MAX_JOIN_CODE_WEEKS + 1] {
        let body = code_for(alice, &world, weeks, &[99; 32]);
        let answer = alice.call::<SetJoinCode>(&mut world, &body);
        assert_eq!(problem(answer), ProblemType::LimitExceeded, "{weeks}");
    }
    // Made by Bob, sent by Alice.
    let of_bob = code_for(&clients[1], &world, 1, &[98; 32]);
    assert!(alice.call::<SetJoinCode>(&mut world, &of_bob).is_err());
    for number in 0..u8::try_from(MAX_JOIN_CODES).unwrap() {
        let body = code_for(alice, &world, 1, &[number; 32]);
        alice.call::<SetJoinCode>(&mut world, &body).unwrap();
    }
    let body = code_for(alice, &world, 1, &[99; 32]);
    let answer = alice.call::<SetJoinCode>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::LimitExceeded);
}

#[test]
fn nobody_replaces_or_deletes_a_codes_row_through_another_group() {
    let mut world = World::new(110);
    let clients = group(&mut world, 2);
    let mallory = Client::create(&mut world, GroupKind::Group);
    let key = [5; 32];
    let body = code_for(&clients[0], &world, 1, &key);
    clients[0].call::<SetJoinCode>(&mut world, &body).unwrap();
    let row = |world: &mut World| {
        let request = RecoveryRowRequest {
            version: protocol::WIRE_VERSION,
            id: recovery_row_id(&clients[0].id, &key),
        };
        let (mut env, engine) = world.service.env();
        read::<records::RecoveryRow>(&request, engine, &mut env).unwrap()
    };
    let before = row(&mut world);
    // The same key in another group has another row; the row of the first one cannot be named
    // there.
    let theirs = code_for(&mallory, &world, 1, &key);
    mallory.call::<SetJoinCode>(&mut world, &theirs).unwrap();
    let mut named = code_for(&mallory, &world, 1, &[6; 32]);
    if let JoinCodeChange::Make(new) = &mut named.change {
        new.row.id = recovery_row_id(&clients[0].id, &key);
    }
    assert!(mallory.call::<SetJoinCode>(&mut world, &named).is_err());
    for id in [
        recovery_row_id(&clients[0].id, &key),
        recovery_row_id(&mallory.id, &key),
    ] {
        let revoke = SetJoinCodeRequest {
            group: mallory.key(),
            change: JoinCodeChange::Revoke(id),
        };
        let _ = mallory.call::<SetJoinCode>(&mut world, &revoke);
        assert_eq!(row(&mut world), before);
    }
}
