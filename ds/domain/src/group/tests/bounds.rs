//! What requests cost, and how many of them a group takes.

use super::*;

#[test]
fn no_user_has_more_leaves_than_a_commit_removes_and_a_group_of_any_size_is_deleted() {
    let mut world = World::new(40);
    // Fewer than there are leaves to remove.
    world.service.settings.limits.proposals = mls_rules::MAX_CLIENTS;
    let mut clients = group(&mut world, 2);
    let user = clients[1].user.clone();
    let own = (1..mls_rules::MAX_CLIENTS).map(|_| Invitee::of_user(&world, user.clone()));
    let plan = Plan {
        operation: Number::AddClients,
        ..Plan::add(own.map(|invitee| invitee.key_package))
    };
    clients[1]
        .commit(&mut world, plan.twisted(short_welcomes))
        .unwrap();
    catch_up(&mut world, &mut clients);
    let word = Some((AuthorizedJoin::Client, LeafSigner::new()));
    let client = || JoinPermit::Client;
    let further =
        Client::join_from_outside(&mut world, &clients[1], user.clone(), client, word, false);
    assert_eq!(problem(further.map(|_| ())), ProblemType::LimitExceeded);
    let last = u32::try_from(mls_rules::MAX_CLIENTS).unwrap();
    let invitee = Invitee::new(&world).key_package;
    clients[0].commit(&mut world, Plan::add([invitee])).unwrap();
    catch_up(&mut world, &mut clients);
    let plan = Plan {
        operation: Number::DeleteGroup,
        rotates: false,
        ..Plan::remove(1..=last + 1)
    };
    clients[0].commit(&mut world, plan).unwrap();
}

#[test]
fn a_record_that_is_there_is_neither_written_over_nor_worked_for() {
    for (twist, table) in [
        (
            (|request| {
                let upload = request.welcome.as_mut().unwrap();
                upload.welcomes[0].id = WelcomeId([5; 32]);
            }) as fn(&mut CommitRequest),
            Table::Welcomes,
        ),
        (
            |request| {
                let upload = request.welcome.as_mut().unwrap();
                upload.join_key = WireSecret::new([6; 32]);
            },
            Table::JoinRecords,
        ),
    ] {
        let mut world = World::new(41);
        let mut clients = group(&mut world, 2);
        let plan = |world: &World| Plan::add([Invitee::new(world).key_package]).twisted(twist);
        let first = plan(&world);
        clients[0].commit(&mut world, first).unwrap();
        catch_up(&mut world, &mut clients);
        let rows = |world: &World| -> Vec<_> {
            let rows = world.service.engine.rows();
            rows.filter(|(key, _)| key.table == table)
                .map(|(key, value)| (key.clone(), value.to_vec()))
                .collect()
        };
        let before = rows(&world);
        let again = plan(&world);
        let answer = clients[1].commit(&mut world, again);
        assert_eq!(problem(answer), ProblemType::InvalidCommit);
        assert_eq!(rows(&world), before);
    }
}

/// How often a request is charged whose change is never the first one, and how much at last. One
/// token stands in for the allowances.
fn charges_in_vain<O: Operation>(world: &mut World, bytes: &[u8]) -> (u32, usize) {
    let tokens = world.service.tokens(1);
    world.service.settings.prices.bytes_a_token = bytes.len();
    let (mut env, engine) = world.service.env();
    let mut execution = crate::execution::Execution::<O>::new(bytes, tokens, &env).unwrap();
    let (mut charged, mut drawn) = (0, 0);
    let mut step = execution.start();
    loop {
        let input = match step {
            Step::Read(reads) => crate::execution::Input::Found(engine.read(&reads)),
            Step::Charge(charges) => {
                charged += 1;
                drawn = charges.iter().map(|charge| charge.bytes).max().unwrap();
                crate::execution::Input::Charged(Err(None))
            }
            Step::Apply(_) => crate::execution::Input::Applied(Err(ApplyError::Condition {
                condition: 3,
                found: None,
            })),
            Step::Done(outcome) => {
                let problem = problem::<Vec<u8>>(outcome.answer);
                assert_eq!(problem, ProblemType::Conflict);
                return (charged, drawn);
            }
        };
        step = execution.next(input, &mut env);
    }
}

#[test]
fn each_look_at_a_tree_is_charged_by_its_size_and_a_message_once() {
    let mut world = World::new(42);
    let mut clients = group(&mut world, 3);
    let body = clients[0].message(b"text");
    let bytes = clients[0].sign(&mut world, Number::SendMessage, &body);
    let (charged, _) = charges_in_vain::<SendMessage>(&mut world, &bytes);
    assert_eq!(charged, 1);
    let update = |clients: &mut [Client], world: &mut World| {
        let request = clients[0].stage(Plan::update());
        let bytes = clients[0].sign(world, Number::UpdateClient, &request);
        clients[0].abandon();
        let (charged, drawn) = charges_in_vain::<UpdateClient>(world, &bytes);
        assert_eq!(charged, crate::execution::ATTEMPTS);
        drawn - request.commit.as_slice().len()
    };
    let few = update(&mut clients, &mut world);
    assert!(few > 0);
    let adds: Vec<_> = (0..60).map(|_| Invitee::new(&world).key_package).collect();
    let request = clients[0].stage(Plan::add(adds).twisted(short_welcomes));
    let bytes = clients[0].sign(&mut world, Number::AddUsers, &request);
    let (_, drawn) = charges_in_vain::<AddUsers>(&mut world, &bytes);
    let sent = request.commit.as_slice().len() + 60 * 100;
    // And the join record.
    assert!(drawn > sent + few);
    let answer = clients[0].send_commit(&mut world, Number::AddUsers, &request);
    answer.unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(update(&mut clients, &mut world), 21 * few);
}

#[test]
fn a_group_takes_so_much_in_a_day_and_handshakes_all_the_same() {
    let mut world = World::new(23);
    world.service.settings.limits.group_messages_a_day = 2;
    let mut clients = group(&mut world, 2);
    clients[0].send(&mut world, b"1").unwrap();
    clients[1].send(&mut world, b"2").unwrap();
    let answer = clients[0].send(&mut world, b"3");
    assert_eq!(
        answer.unwrap_err(),
        Failure::Refused(Refusal::Exhausted {
            retry_after_ms: Some(DAY_MS / 2)
        })
    );
    clients[0].commit(&mut world, Plan::remove([1])).unwrap();
    catch_up(&mut world, &mut clients);
    world.service.now_ms += DAY_MS / 2;
    clients[0].send(&mut world, b"3").unwrap();
}

#[test]
fn one_users_flood_silences_that_user_whatever_it_is_called_and_nobody_else() {
    let mut world = World::new(46);
    let limits = &mut world.service.settings.limits;
    (
        limits.group_messages_a_day,
        limits.group_message_bytes_a_day,
    ) = (80, 80_000);
    let mut clients = group(&mut world, 3);
    let sent = (0..80)
        .take_while(|_| clients[1].send(&mut world, b"flood").is_ok())
        .count();
    assert_eq!(sent, 10);
    catch_up(&mut world, &mut clients);
    let rename = Plan {
        new_user: Some(pseudonym()),
        ..Plan::update()
    };
    for plan in [Plan::update().rotating(), rename] {
        clients[1].commit(&mut world, plan).unwrap();
        catch_up(&mut world, &mut clients);
        let answer = clients[1].send(&mut world, b"flood");
        assert_eq!(problem(answer), ProblemType::TooManyRequests);
        clients[0].send(&mut world, b"text").unwrap();
        clients[2].send(&mut world, b"text").unwrap();
        catch_up(&mut world, &mut clients);
    }
    world.service.now_ms += DAY_MS / 2;
    clients[1].send(&mut world, b"flood").unwrap();
}

#[test]
fn a_user_writes_only_so_many_handshakes_in_a_day_and_who_must_go_goes() {
    let mut world = World::new(47);
    // Two for each user; one was the creator's Add.
    world.service.settings.limits.group_handshakes_a_day = 16;
    let mut clients = group(&mut world, 4);
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    let exhausted = Failure::Refused(Refusal::Exhausted {
        retry_after_ms: Some(DAY_MS / 2),
    });
    for plan in [Plan::update(), Plan::update().rotating()] {
        let answer = clients[0].commit(&mut world, plan);
        assert_eq!(answer.unwrap_err(), exhausted);
    }
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    // Another segment is no other day.
    let answer = clients[0].commit(&mut world, Plan::update());
    assert_eq!(answer.unwrap_err(), exhausted);
    clients[0].commit(&mut world, Plan::remove([3])).unwrap();
    catch_up(&mut world, &mut clients);
    clients[2].leave(&mut world).unwrap();
    catch_up(&mut world, &mut clients);
    let covers = Plan::update().rotating();
    clients[0].commit(&mut world, covers).unwrap();
    catch_up(&mut world, &mut clients);
    world.service.now_ms += DAY_MS / 2;
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    // What is written beside a commit counts, too: without it there would be room.
    world.service.now_ms += DAY_MS;
    world.service.settings.limits.group_handshakes_a_day = 1_000_000;
    clients[0].commit(&mut world, Plan::update()).unwrap();
    catch_up(&mut world, &mut clients);
    let adds: Vec<_> = (0..3).map(|_| Invitee::new(&world).key_package).collect();
    let request = clients[0].stage(Plan::add(adds).twisted(short_welcomes));
    let share = u64::try_from(request.commit.as_slice().len() + 2_500).unwrap();
    world.service.settings.limits.group_handshake_bytes_a_day = 8 * share;
    let answer = clients[0].send_commit(&mut world, Number::AddUsers, &request);
    assert_eq!(problem(answer), ProblemType::TooManyRequests);
    clients[0].abandon();
    clients[0].commit(&mut world, Plan::update()).unwrap();
}

#[test]
fn nobody_is_added_to_a_group_that_could_then_not_commit() {
    let mut world = World::new(48);
    let mut clients = group(&mut world, 3);
    world.service.settings.limits.commit_bytes = 32 * 1024 + 5 * 84;
    for (adds, fits) in [(3, false), (2, true)] {
        let adds: Vec<_> = (0..adds)
            .map(|_| Invitee::new(&world).key_package)
            .collect();
        let answer = clients[0].commit(&mut world, Plan::add(adds));
        assert_eq!(answer.is_ok(), fits);
    }
    catch_up(&mut world, &mut clients);
    clients[1].commit(&mut world, Plan::update()).unwrap();
}

#[test]
fn a_creation_that_is_refused_for_its_tree_uses_the_reservation_up() {
    let mut world = World::new(24);
    let mut refused = |twist: fn(&mut protocol::group::CreateGroupRequest)| {
        let answer = Client::create_with(&mut world, GroupKind::Group, twist);
        problem(answer.map(|_| ()))
    };
    assert_eq!(
        refused(|request| request.message_days = 31),
        ProblemType::InvalidGroupInfo
    );
    assert_eq!(
        refused(|request| request.leaf.push_handle = opaque(vec![1; 95])),
        ProblemType::InvalidLeaf
    );
    assert_eq!(
        refused(|request| request.leaf.recovery_key.public_key = opaque(vec![1; 32])),
        ProblemType::InvalidLeaf
    );
    assert_eq!(
        refused(|request| request.group_id = GroupId([1; 16])),
        ProblemType::InvalidGroupId
    );
    let reserved = world.service.engine.rows();
    let reserved = reserved.filter(|(key, _)| key.table == Table::Reservations);
    // Those of the first and the last one.
    assert_eq!(reserved.count(), 2);
}

/// What a request reads and writes: names and bytes.
fn work<O: Operation>(world: &mut World, bytes: &[u8]) -> (usize, usize, Batch) {
    let (mut env, engine) = world.service.env();
    let mut execution = crate::execution::Execution::<O>::new(bytes, Vec::new(), &env).unwrap();
    let (mut rows, mut read) = (0, 0);
    let mut step = execution.start();
    loop {
        let input = match step {
            Step::Read(reads) => {
                let found = engine.read(&reads);
                rows += reads.len();
                read += found
                    .iter()
                    .map(|found| match found {
                        crate::engine::Found::Row(value) => value.as_ref().map_or(0, Vec::len),
                        crate::engine::Found::Range(_) => panic!("a range"),
                    })
                    .sum::<usize>();
                crate::execution::Input::Found(found)
            }
            Step::Charge(_) => crate::execution::Input::Charged(Ok(())),
            Step::Apply(batch) => return (rows, read, batch),
            Step::Done(outcome) => panic!("{outcome:?}"),
        };
        step = execution.next(input, &mut env);
    }
}

#[test]
fn a_message_reads_and_writes_the_same_whatever_the_number_of_members() {
    let mut measured = Vec::new();
    for users in [64, 192] {
        let mut world = World::new(27);
        world.service.settings.self_check = false;
        let mut creator = Client::create(&mut world, GroupKind::Group);
        let adds: Vec<_> = (1..users)
            .map(|_| Invitee::new(&world).key_package)
            .collect();
        creator
            .commit(&mut world, Plan::add(adds).twisted(short_welcomes))
            .unwrap();
        creator.catch_up(&mut world);
        let body = creator.message(b"text");
        let bytes = creator.sign(&mut world, Number::SendMessage, &body);
        let (rows, read, batch) = work::<SendMessage>(&mut world, &bytes);
        let written: usize = batch.puts.iter().map(|(_, value)| value.len()).sum();
        measured.push((rows, read, batch.puts.len(), written));
    }
    let [few, many] = measured[..] else { panic!() };
    assert_eq!((few.0, few.2, few.3), (many.0, many.2, many.3));
    // Versions of two pages more.
    assert!(many.1 - few.1 <= 64, "{few:?} {many:?}");
}

#[test]
fn an_update_of_one_leaf_reseals_its_page_only() {
    let mut world = World::new(28);
    world.service.settings.self_check = false;
    let mut creator = Client::create(&mut world, GroupKind::Group);
    let adds: Vec<_> = (1..130).map(|_| Invitee::new(&world).key_package).collect();
    creator
        .commit(&mut world, Plan::add(adds).twisted(short_welcomes))
        .unwrap();
    creator.catch_up(&mut world);
    let request = creator.stage(Plan::update());
    let bytes = creator.sign(&mut world, Number::UpdateClient, &request);
    let (_, _, batch) = work::<UpdateClient>(&mut world, &bytes);
    let parts = batch
        .puts
        .iter()
        .filter(|(key, _)| key.table == Table::GroupParts);
    // One page of three; control, marks and tree.
    assert_eq!(parts.count(), 4);
    // So does an Add, which reads all of them.
    creator.abandon();
    let plan = Plan::add([Invitee::new(&world).key_package]).twisted(short_welcomes);
    let request = creator.stage(plan);
    let bytes = creator.sign(&mut world, Number::AddUsers, &request);
    let (_, _, batch) = work::<AddUsers>(&mut world, &bytes);
    let parts = batch
        .puts
        .iter()
        .filter(|(key, _)| key.table == Table::GroupParts);
    assert_eq!(parts.count(), 4);
}
