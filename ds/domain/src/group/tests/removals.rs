//! Who goes, by whose word, and what stays of it.

use super::*;

#[test]
fn a_removed_member_opens_neither_the_state_nor_the_segment_that_follows() {
    let mut world = World::new(3);
    let mut clients = group(&mut world, 3);
    let gone = clients[2].index();
    clients[0].commit(&mut world, Plan::remove([gone])).unwrap();
    catch_up(&mut world, &mut clients);
    let body = clients[2].key();
    let inspect = InspectGroupRequest {
        group: body,
        from: LeafIndex(0),
    };
    let answer = clients[2].call::<InspectGroup>(&mut world, &inspect);
    assert_eq!(problem(answer), ProblemType::UnknownGroup);
    assert_ne!(clients[2].segment, clients[1].segment);
}

#[test]
fn a_leaf_that_leaves_holds_everything_up_until_a_rotating_commit_lets_it_go() {
    let mut world = World::new(4);
    let mut clients = group(&mut world, 3);
    clients[2].leave(&mut world).unwrap();
    let again = clients[2].leaving();
    let first = clients[2].call::<SelfRemove>(&mut world, &again).unwrap();
    assert_eq!(inspect(&clients[0], &mut world).pending_proposals.len(), 1);
    assert_eq!(
        problem(clients[0].send(&mut world, b"text")),
        ProblemType::PendingProposals
    );
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].proposals.len(), 1);
    assert_eq!(first.place.position.next(), clients[0].next);
    let mut not_covering = Plan::update().rotating();
    not_covering.covers = false;
    let answer = clients[0].commit(&mut world, not_covering);
    assert_eq!(problem(answer), ProblemType::PendingProposals);
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    // A member without the right to remove may cover it.
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
    assert_eq!(clients[0].members().len(), 2);
    clients[0].send(&mut world, b"text").unwrap();
}

#[test]
fn a_removal_without_rotation_is_refused() {
    let mut world = World::new(5);
    let mut clients = group(&mut world, 3);
    let mut plan = Plan::remove([clients[2].index()]);
    plan.rotates = false;
    let answer = clients[0].commit(&mut world, plan);
    assert_eq!(problem(answer), ProblemType::RotationRequired);
}

#[test]
fn members_must_rotate_an_old_segment_and_messages_need_not() {
    let mut world = World::new(6);
    let mut clients = group(&mut world, 2);
    world.service.now_ms += 31 * DAY_MS;
    clients[0].send(&mut world, b"text").unwrap();
    assert_eq!(inspect(&clients[0], &mut world).rotation_due, 1);
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(inspect(&clients[0], &mut world).rotation_due, 0);
    clients[1].commit(&mut world, Plan::update()).unwrap();
}

#[test]
fn whoever_never_came_is_proposed_for_removal_in_the_next_commit() {
    let mut world = World::new(7);
    let mut clients = group(&mut world, 2);
    let invitee = Invitee::new(&world);
    let key_package = invitee.key_package.clone();
    clients[0]
        .commit(&mut world, Plan::add([key_package]))
        .unwrap();
    catch_up(&mut world, &mut clients);
    world.service.now_ms += 85 * DAY_MS;
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(reasons(&clients[0]), [(2, RemovalReason::NeverCame)]);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[1].members(), [0, 1]);
    clients[0].send(&mut world, b"text").unwrap();
}

/// What the service proposed, as a member holds it.
fn reasons(client: &Client) -> Vec<(u32, RemovalReason)> {
    client
        .mls
        .pending_proposals()
        .map(|queued| mls_rules::leaving(queued).unwrap())
        .zip(client.proposals.iter().map(|message| {
            // Behind version, wire format, group id, epoch and sender.
            let aad = &message[4 + 17 + 8 + 5..];
            let len = usize::from(aad[0]);
            RemovalReason::decode(&aad[1..=len]).unwrap()
        }))
        .collect()
}

#[test]
fn who_has_not_committed_for_long_is_proposed_with_the_week() {
    let mut world = World::new(8);
    let mut clients = group(&mut world, 3);
    let since = Week::of(world.service.now_ms);
    world.service.now_ms += 80 * DAY_MS;
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[0].proposals.is_empty());
    world.service.now_ms += 60 * DAY_MS;
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(reasons(&clients[0]), [(2, RemovalReason::Inactive(since))]);
    // The service's proposals are the first entries of the segment that the commit began.
    assert_eq!(clients[1].next.0, 1);
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
}

#[test]
fn nothing_is_left_of_a_deleted_group_but_its_closed_journal() {
    let mut world = World::new(15);
    let mut clients = group(&mut world, 3);
    let mut plan = Plan::remove([1, 2]);
    plan.rotates = false;
    plan.operation = Number::DeleteGroup;
    let answer = clients[1].commit(
        &mut world,
        Plan {
            operation: Number::DeleteGroup,
            rotates: false,
            ..Plan::remove([0, 2])
        },
    );
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    let body = clients[0].message(b"text");
    clients[0].commit(&mut world, plan).unwrap();
    let answer = clients[0].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::UnknownGroup);
    for client in &mut clients[1..] {
        client.catch_up(&mut world);
        assert!(client.is_out);
    }
    let rows = |table| {
        world
            .service
            .engine
            .rows()
            .filter(|(key, _)| key.table == table)
            .count()
    };
    assert_eq!(rows(Table::Groups), 1);
    assert_eq!(rows(Table::GroupParts), 0);
    assert_eq!(rows(Table::RecoveryRows), 0);
    assert_eq!(rows(Table::Heads), 0);
    assert_eq!(rows(Table::ClosedHeads), 1);
}

#[test]
fn an_external_commit_covers_nothing_and_the_service_proposes_it_again() {
    let mut world = World::new(20);
    let mut clients = group(&mut world, 3);
    let (secret, _) = make_code(&clients[0], &mut world).unwrap();
    clients[2].leave(&mut world).unwrap();
    catch_up(&mut world, &mut clients);
    let joined = Client::join_from_outside(
        &mut world,
        &clients[0],
        pseudonym(),
        by_code(secret),
        None,
        false,
    );
    clients.push(joined.unwrap());
    for client in &mut clients {
        client.proposals.clear();
    }
    catch_up(&mut world, &mut clients);
    assert_eq!(reasons(&clients[1]), [(2, RemovalReason::OwnWish)]);
    assert_eq!(reasons(&clients[3]), [(2, RemovalReason::OwnWish)]);
    clients[3]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
}

#[test]
fn clients_of_a_user_come_and_go_by_the_users_own_commits() {
    let mut world = World::new(29);
    let mut clients = group(&mut world, 2);
    let own = |world: &World, user: &[u8]| Invitee::of_user(world, user.to_vec());
    let (invitee, user) = (own(&world, &clients[1].user), clients[1].user.clone());
    let add = |key_package, operation| Plan {
        operation,
        ..Plan::add([key_package])
    };
    // As another user's, or as a user, it is not taken.
    for (by, operation) in [(0, Number::AddClients), (1, Number::AddUsers)] {
        let key_package = own(&world, &user).key_package;
        let answer = clients[by].commit(&mut world, add(key_package, operation));
        assert_eq!(problem(answer), ProblemType::NotAllowed);
    }
    let plan = add(invitee.key_package.clone(), Number::AddClients);
    clients[1].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let pointer = clients[1].pointers[0].clone();
    let mut joined = Client::join(&mut world, invitee, &pointer);
    joined.told_of(&clients[1]);
    joined.arrive(&mut world);
    clients.push(joined);
    catch_up(&mut world, &mut clients);
    let (code, _) = make_code(&clients[0], &mut world).unwrap();
    let mut plan = Plan::remove([2]);
    plan.operation = Number::RemoveClients;
    let request = clients[1].stage(plan);
    clients[1]
        .send_commit(&mut world, Number::RemoveClients, &request)
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[2].is_out);
    let _ = code;
}
