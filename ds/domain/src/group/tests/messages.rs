//! Messages, and the commits between them.

use super::*;

#[test]
fn members_hear_what_is_sent_and_follow_commits_with_and_without_rotation() {
    let mut world = World::new(1);
    let mut clients = group(&mut world, 4);
    for round in 0..3u8 {
        for sender in 0..4 {
            clients[sender].send(&mut world, &[round]).unwrap();
            let mut plan = Plan::update();
            plan.rotates = round == 1 && sender == 2;
            clients[sender].commit(&mut world, plan).unwrap();
            catch_up(&mut world, &mut clients);
        }
    }
    for client in &clients {
        assert_eq!(client.epoch(), 13);
        assert_eq!(client.texts.len(), 12);
    }
    let gone = clients[3].index();
    clients[0].commit(&mut world, Plan::remove([gone])).unwrap();
    catch_up(&mut world, &mut clients);
    assert!(clients[3].is_out);
    assert_eq!(clients[1].rotation.0, 14);
    assert_eq!(clients[1].segment, clients[0].segment);
}

#[test]
fn unknown_groups_and_wrong_keys_are_one_problem() {
    let mut world = World::new(2);
    let mut client = Client::create(&mut world, GroupKind::Group);
    let mut wrong = client.message(b"text");
    wrong.group.state_key = WireSecret::new([1; 32]);
    let mut unknown = client.message(b"text");
    unknown.group.group_id = GroupId([1; 16]);
    for body in [wrong, unknown] {
        let answer = client.call::<SendMessage>(&mut world, &body);
        assert_eq!(
            answer.unwrap_err(),
            Failure::Refused(Refusal::Problem(ProblemType::UnknownGroup))
        );
    }
}

#[test]
fn a_committer_that_lost_its_answer_gets_it_again() {
    for (rotates, renews) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut world = World::new(9);
        let mut clients = group(&mut world, 2);
        let mut plan = Plan::update();
        plan.rotates = rotates;
        plan.new_user = renews.then(|| clients[1].user.clone());
        let request = clients[1].stage(plan);
        let first = clients[1]
            .send_commit(&mut world, Number::UpdateClient, &request)
            .unwrap();
        // Another envelope, days later, when the record of the result is gone.
        world.service.now_ms += 3 * DAY_MS;
        let before = world.service.engine.clone();
        let second = clients[1]
            .send_commit(&mut world, Number::UpdateClient, &request)
            .unwrap();
        assert_eq!(first, second);
        assert!(world.service.engine == before);
        // Nobody else is told, and another commit under the old key is not taken.
        clients[0].catch_up(&mut world);
        catch_up(&mut world, &mut clients);
        clients[0].commit(&mut world, Plan::update()).unwrap();
    }
}

#[test]
fn of_two_commits_of_one_epoch_the_second_is_told_the_epoch() {
    let mut world = World::new(10);
    let mut clients = group(&mut world, 2);
    let losing = clients[1].stage(Plan::update());
    clients[0].commit(&mut world, Plan::update()).unwrap();
    let answer = clients[1].send_commit(&mut world, Number::UpdateClient, &losing);
    assert_eq!(problem(answer), ProblemType::WrongEpoch);
    catch_up(&mut world, &mut clients);
    clients[1].commit(&mut world, Plan::update()).unwrap();
}

#[test]
fn a_message_that_meets_a_commit_is_sealed_again_for_the_step_that_it_stands_at() {
    let mut world = World::new(11);
    let mut clients = group(&mut world, 2);
    let body = clients[1].message(b"late");
    let bytes = clients[1].sign(&mut world, Number::SendMessage, &body);
    let waiting = world.service.until_apply::<SendMessage>(&bytes, Vec::new());
    assert!(matches!(waiting.1, Step::Apply(_)));
    clients[0].commit(&mut world, Plan::update()).unwrap();
    let outcome = world.service.finish(waiting);
    outcome.answer.unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(clients[0].texts, [b"late"]);
}

#[test]
fn a_message_lags_four_epochs_at_most_and_none_over_a_rotation() {
    let mut world = World::new(12);
    let mut clients = group(&mut world, 2);
    let bodies: Vec<_> = (0..3).map(|_| clients[1].message(b"late")).collect();
    for _ in 0..4 {
        clients[0].commit(&mut world, Plan::update()).unwrap();
        clients[0].catch_up(&mut world);
    }
    clients[1]
        .call::<SendMessage>(&mut world, &bodies[0])
        .unwrap();
    clients[0].commit(&mut world, Plan::update()).unwrap();
    clients[0].catch_up(&mut world);
    let answer = clients[1].call::<SendMessage>(&mut world, &bodies[1]);
    assert_eq!(problem(answer), ProblemType::UnknownGroup);
    clients[1].catch_up(&mut world);
    let body = clients[1].message(b"late");
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    let answer = clients[1].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::UnknownGroup);
}

#[test]
fn the_message_endpoint_takes_nothing_but_messages_of_the_epoch_whose_key_it_gets() {
    let mut world = World::new(13);
    let mut clients = group(&mut world, 2);
    let mut body = clients[1].message(b"text");
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    body.group = clients[1].key();
    let answer = clients[1].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::WrongEpoch);
    let commit = clients[1].stage(Plan::update());
    body.message = commit.commit;
    let answer = clients[1].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::InvalidMessage);
    body.message = opaque(vec![0; 300_000]);
    let answer = clients[1].call::<SendMessage>(&mut world, &body);
    assert_eq!(problem(answer), ProblemType::LimitExceeded);
}

#[test]
fn who_is_muted_is_not_heard_and_messages_of_the_epoch_before_still_are() {
    let mut world = World::new(14);
    let mut clients = group(&mut world, 2);
    let late = clients[1].message(b"late");
    let policy = clients[0]
        .policy()
        .with(&clients[1].user, GroupPolicy::MEMBER, Standing::Muted);
    let mut plan = Plan::of(Number::SetRole);
    plan.context = Some(clients[0].context_with(&policy));
    clients[0].commit(&mut world, plan).unwrap();
    clients[1].call::<SendMessage>(&mut world, &late).unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(
        problem(clients[1].send(&mut world, b"text")),
        ProblemType::NotAllowed
    );
    // And members without that right change no policy.
    let mut plan = Plan::of(Number::SetRole);
    plan.context = Some(clients[1].context_with(&clients[0].policy().with(
        &clients[1].user,
        GroupPolicy::ADMIN,
        Standing::Active,
    )));
    assert_eq!(
        problem(clients[1].commit(&mut world, plan)),
        ProblemType::NotAllowed
    );
}
