//! Join codes: whom they let in, and when they end.

use super::*;

#[test]
fn a_join_code_lets_in_until_it_is_revoked_and_then_the_next_commit_rotates() {
    let mut world = World::new(18);
    let mut clients = group(&mut world, 2);
    let (secret, public_key) = make_code(&clients[1], &mut world).unwrap();
    let joined = Client::join_from_outside(
        &mut world,
        &clients[0],
        pseudonym(),
        by_code(secret),
        None,
        false,
    );
    clients.push(joined.unwrap());
    catch_up(&mut world, &mut clients);
    let wrong = Client::join_from_outside(
        &mut world,
        &clients[0],
        pseudonym(),
        by_code([7; 32]),
        None,
        false,
    );
    assert_eq!(problem(wrong.map(|_| ())), ProblemType::NotAllowed);
    assert_eq!(inspect(&clients[0], &mut world).codes.len(), 1);
    let request = SetJoinCodeRequest {
        group: clients[0].key(),
        change: JoinCodeChange::Revoke(recovery_row_id(&clients[0].id, &public_key)),
    };
    clients[0]
        .call::<SetJoinCode>(&mut world, &request)
        .unwrap();
    let late = Client::join_from_outside(
        &mut world,
        &clients[0],
        pseudonym(),
        by_code(secret),
        None,
        false,
    );
    assert_eq!(problem(late.map(|_| ())), ProblemType::NotAllowed);
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
}

#[test]
fn codes_end_by_time_by_a_removal_and_by_a_rotation_that_does_not_seal_to_them() {
    let mut world = World::new(19);
    let mut clients = group(&mut world, 3);
    make_code(&clients[0], &mut world).unwrap();
    world.service.now_ms += 28 * DAY_MS;
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert!(inspect(&clients[0], &mut world).codes.is_empty());
    for plan in [Plan::update().rotating(), Plan::remove([2])] {
        let (_, public_key) = make_code(&clients[0], &mut world).unwrap();
        let removes = plan.operation == Number::RemoveUsers;
        let mut request = clients[0].stage(plan);
        if removes {
            // Even if the committer seals to it.
            request.rotation.as_mut().unwrap().code_rows = vec![RecoveryRow {
                id: recovery_row_id(&clients[0].id, &public_key),
                sealed: opaque(vec![5; 80]),
            }];
        }
        let operation = if removes {
            Number::RemoveUsers
        } else {
            Number::UpdateClient
        };
        clients[0]
            .send_commit(&mut world, operation, &request)
            .unwrap();
        catch_up(&mut world, &mut clients);
        assert!(inspect(&clients[0], &mut world).codes.is_empty());
        let request = RecoveryRowRequest {
            version: protocol::WIRE_VERSION,
            id: recovery_row_id(&clients[0].id, &public_key),
        };
        let (mut env, engine) = world.service.env();
        assert!(read::<records::RecoveryRow>(&request, engine, &mut env).is_err());
    }
}

#[test]
fn a_code_ends_when_its_maker_may_not_add_any_more_or_is_gone() {
    let mut world = World::new(45);
    let mut clients = group(&mut world, 2);
    let (secret, _) = make_code(&clients[1], &mut world).unwrap();
    make_code(&clients[0], &mut world).unwrap();
    // A commit that takes no right away ends none.
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(inspect(&clients[0], &mut world).codes.len(), 2);
    let mut plan = Plan::of(Number::SetRole);
    plan.context = Some(clients[0].context_with(&clients[0].policy().with(
        &clients[1].user,
        GroupPolicy::MEMBER,
        Standing::Inactive,
    )));
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let late = |world: &mut World, by: &Client, secret| {
        let joined =
            Client::join_from_outside(world, by, pseudonym(), by_code(secret), None, false);
        problem(joined.map(|_| ()))
    };
    assert_eq!(
        late(&mut world, &clients[0], secret),
        ProblemType::NotAllowed
    );
    // Who has it knows the segment. The other code stays.
    assert_eq!(inspect(&clients[0], &mut world).codes.len(), 1);
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(problem(answer), ProblemType::RotationRequired);
    // A client that made one goes, and its user stays.
    let invitee = Invitee::of_user(&world, clients[0].user.clone());
    let mut plan = Plan::add([invitee.key_package.clone()]).rotating();
    plan.operation = Number::AddClients;
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    let pointer = clients[0].pointers[0].clone();
    let mut second = Client::join(&mut world, invitee, &pointer);
    second.told_of(&clients[0]);
    second.arrive(&mut world);
    let (own, _) = make_code(&second, &mut world).unwrap();
    clients.push(second);
    catch_up(&mut world, &mut clients);
    let codes = inspect(&clients[0], &mut world).codes;
    let mut plan = Plan::remove([2]);
    plan.operation = Number::RemoveClients;
    let mut request = clients[0].stage(plan);
    // Even if the committer seals to it.
    request.rotation.as_mut().unwrap().code_rows = codes
        .iter()
        .map(|code| RecoveryRow {
            id: recovery_row_id(&clients[0].id, code.public_key.as_slice()),
            sealed: opaque(vec![5; 80]),
        })
        .collect();
    clients[0]
        .send_commit(&mut world, Number::RemoveClients, &request)
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(late(&mut world, &clients[0], own), ProblemType::NotAllowed);
}
