//! Rows by which members come back, and the keys that lie beside commits.

use super::*;

#[test]
fn rows_of_the_last_rotation_only_are_kept_and_put_by_any_member_once() {
    let mut world = World::new(21);
    let mut clients = group(&mut world, 3);
    let ids: Vec<_> = clients
        .iter()
        .map(|client| recovery_row_id(&client.id, &client.recovery))
        .collect();
    let has_rows = |world: &mut World, client: &Client| -> Vec<u8> {
        inspect(client, world)
            .leaves
            .iter()
            .map(|leaf| leaf.has_row)
            .collect()
    };
    assert_eq!(has_rows(&mut world, &clients[0]), [0, 1, 1]);
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    assert_eq!(has_rows(&mut world, &clients[0]), [0, 0, 0]);
    let put = |client: &Client, content: u8, rotation: u64| PutRecoveryRowsRequest {
        group: client.key(),
        rotation_epoch: RotationEpoch(rotation),
        rows: [ids[0], ids[2]]
            .map(|id| RecoveryRow {
                id,
                sealed: opaque(vec![content; 80]),
            })
            .to_vec(),
    };
    let rotation = clients[0].rotation.0;
    let body = put(&clients[1], 1, rotation - 1);
    assert!(
        clients[1]
            .call::<PutRecoveryRows>(&mut world, &body)
            .is_err()
    );
    let body = put(&clients[1], 1, rotation);
    clients[1]
        .call::<PutRecoveryRows>(&mut world, &body)
        .unwrap();
    let body = put(&clients[2], 2, rotation);
    clients[2]
        .call::<PutRecoveryRows>(&mut world, &body)
        .unwrap();
    assert_eq!(has_rows(&mut world, &clients[0]), [1, 0, 1]);
    let mut content = |id| {
        let request = RecoveryRowRequest {
            version: protocol::WIRE_VERSION,
            id,
        };
        let (mut env, engine) = world.service.env();
        let row = read::<records::RecoveryRow>(&request, engine, &mut env).unwrap();
        assert_eq!(row.rotation_epoch.0, rotation);
        row.sealed.as_slice()[0]
    };
    // Those that were there stay, but for the own one.
    assert_eq!((content(ids[0]), content(ids[2])), (1, 2));
    let stranger = PutRecoveryRowsRequest {
        rows: vec![RecoveryRow {
            id: protocol::ids::RecoveryRowId([9; 32]),
            sealed: opaque(vec![1; 80]),
        }],
        ..put(&clients[2], 2, rotation)
    };
    let answer = clients[2].call::<PutRecoveryRows>(&mut world, &stranger);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    // Nor one whose id only begins as a leaf's: nothing would ever drop it.
    let mut similar = ids[0];
    similar.0[31] ^= 1;
    let rows = |world: &World| {
        let rows = world.service.engine.rows();
        rows.filter(|(key, _)| key.table == Table::RecoveryRows)
            .count()
    };
    let before = rows(&world);
    for beside in [false, true] {
        let mut request = put(&clients[2], 2, rotation);
        request.rows.truncate(usize::from(beside));
        request.rows.push(RecoveryRow {
            id: similar,
            sealed: opaque(vec![1; 80]),
        });
        let answer = clients[2].call::<PutRecoveryRows>(&mut world, &request);
        assert_eq!(answer.is_ok(), beside);
        assert_eq!(rows(&world), before);
    }
}

#[test]
fn nobody_takes_the_recovery_key_of_another_leaf_or_of_a_code() {
    let mut world = World::new(43);
    let mut clients = group(&mut world, 3);
    let (secret, of_code) = make_code(&clients[0], &mut world).unwrap();
    // No row stands in the way: a rotation has taken all.
    let mut request = clients[2].stage(Plan::update().rotating());
    let code_row = recovery_row_id(&clients[0].id, &of_code);
    request.rotation.as_mut().unwrap().code_rows = vec![RecoveryRow {
        id: code_row,
        sealed: opaque(vec![5; 80]),
    }];
    clients[2]
        .send_commit(&mut world, Number::UpdateClient, &request)
        .unwrap();
    catch_up(&mut world, &mut clients);
    let of_leaf = clients[1].recovery.clone();
    let (id, own) = (clients[0].id, clients[0].recovery.clone());
    for key in [&of_leaf, &of_code] {
        let extras = SetLeafExtrasRequest {
            group: clients[0].key(),
            recovery_key: sign_recovery_key(&clients[0].signer.0, &id, key),
            push_handle: opaque(vec![1; PUSH_HANDLE_BYTES]),
            row: RecoveryRow {
                id: recovery_row_id(&id, key),
                sealed: opaque(vec![2; 80]),
            },
        };
        let answer = clients[0].call::<SetLeafExtras>(&mut world, &extras);
        assert_eq!(problem(answer), ProblemType::NotAllowed);
        let mut update = clients[0].stage(Plan::update());
        update.committer.as_mut().unwrap().recovery_key = extras.recovery_key;
        let answer = clients[0].send_commit(&mut world, Number::UpdateClient, &update);
        assert_eq!(problem(answer), ProblemType::NotAllowed);
        clients[0].abandon();
        world.outsiders_recovery = Some(key.clone());
        let joined = Client::join_from_outside(
            &mut world,
            &clients[0],
            pseudonym(),
            by_code(secret),
            None,
            false,
        );
        world.outsiders_recovery = None;
        assert_eq!(problem(joined.map(|_| ())), ProblemType::NotAllowed);
    }
    clients[0].recovery = own;
    let answer = make_code_with(&clients[0], &mut world, of_leaf);
    assert_eq!(problem(answer), ProblemType::NotAllowed);
    // Who proposes itself comes in, without a key that is another's.
    let invitee = Invitee::new(&world);
    let (mut request, _) = invitee.proposes(&mut world, &clients[0]);
    request.new_member.as_mut().unwrap().recovery_key =
        sign_recovery_key(&invitee.signer.0, &id, &clients[1].recovery);
    let bytes = invitee.signs(&mut world, &request);
    world.run::<Propose>(&bytes).unwrap();
    catch_up(&mut world, &mut clients);
    clients[0].commit_pending_adds(&mut world, 1).unwrap();
    catch_up(&mut world, &mut clients);
    let leaves = inspect(&clients[0], &mut world).leaves;
    assert!(leaves[1].recovery_key.is_some() && leaves[3].recovery_key.is_none());
    let code = by_code(secret);
    let joined = Client::join_from_outside(&mut world, &clients[0], pseudonym(), code, None, false);
    joined.unwrap();
}

#[test]
fn a_page_of_rows_is_written_whatever_one_leaf_does_with_its_key() {
    let mut world = World::new(44);
    let mut clients = group(&mut world, 3);
    clients[0]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    let row = |key: &[u8]| RecoveryRow {
        id: recovery_row_id(&clients[0].id, key),
        sealed: opaque(vec![3; 80]),
    };
    // Named twice, and one that a leaf has no more.
    let (first, second) = (row(&clients[1].recovery), row(&clients[2].recovery));
    let body = PutRecoveryRowsRequest {
        group: clients[0].key(),
        rotation_epoch: clients[0].rotation,
        rows: vec![row(&[1; 32]), first.clone(), first, second],
    };
    clients[0]
        .call::<PutRecoveryRows>(&mut world, &body)
        .unwrap();
    let leaves = inspect(&clients[0], &mut world).leaves;
    let has_rows: Vec<u8> = leaves.iter().map(|leaf| leaf.has_row).collect();
    assert_eq!(has_rows, [0, 1, 1]);
}

#[test]
fn the_chain_of_wrapper_keys_goes_back_as_far_as_a_link_key_needs() {
    let mut world = World::new(22);
    let mut clients = group(&mut world, 2);
    for _ in 0..2 {
        clients[0]
            .commit(&mut world, Plan::update().rotating())
            .unwrap();
        catch_up(&mut world, &mut clients);
    }
    let chain = |world: &mut World, client: &mut Client| {
        let invitee = Invitee::new(world);
        let key_package = invitee.key_package.clone();
        client.commit(world, Plan::add([key_package])).unwrap();
        let Pointer {
            group, join_key, ..
        } = client.pointers[0].clone();
        let record = Client::join_record(world, &group, &join_key);
        record
            .wrapper_chain
            .iter()
            .map(|link| link.former.of.0)
            .collect::<Vec<_>>()
    };
    // The second leaf's link key is of the first segment.
    assert_eq!(chain(&mut world, &mut clients[0]), [2, 0]);
    catch_up(&mut world, &mut clients);
    clients[1]
        .commit(&mut world, Plan::update().rotating())
        .unwrap();
    catch_up(&mut world, &mut clients);
    // Its own update brings one of the present segment; those of the segment before are left.
    assert_eq!(chain(&mut world, &mut clients[0]), [3]);
}

#[test]
fn who_has_the_leaf_key_finds_its_leaf() {
    let mut world = World::new(25);
    let clients = group(&mut world, 2);
    let body = OwnLeafRequest {
        group: clients[1].key(),
    };
    let crypto::sign::LeafKeyPair::Ed25519(key) = &clients[1].signer.0 else {
        panic!("another scheme")
    };
    let answer = world.service.call::<OwnLeaf>(key, &body).unwrap();
    assert_eq!(answer.leaf.leaf_index, LeafIndex(1));
    let other = crate::testing::key(1);
    assert_eq!(
        problem(world.service.call::<OwnLeaf>(&other, &body)),
        ProblemType::NotAllowed
    );
}

#[test]
fn link_keys_are_exactly_those_that_a_commit_needs() {
    let mut world = World::new(26);
    let mut clients = group(&mut world, 2);
    let twists: [fn(&mut protocol::group::CommitRequest); 4] = [
        |request| request.link_keys.clear(),
        |request| request.link_keys[0].leaf_index = LeafIndex(1),
        |request| request.link_keys.push(request.link_keys[0].clone()),
        |request| {
            let mut other = request.link_keys[0].clone();
            other.leaf_index = LeafIndex(0);
            request.link_keys.push(other);
        },
    ];
    for twist in twists {
        let key_package = Invitee::new(&world).key_package;
        let plan = Plan::add([key_package]).twisted(twist);
        let answer = clients[0].commit(&mut world, plan);
        assert_eq!(problem(answer), ProblemType::InvalidCommit);
    }
    let plan = Plan::update().twisted(|request| request.committer = None);
    assert_eq!(
        problem(clients[0].commit(&mut world, plan)),
        ProblemType::InvalidCommit
    );
    // A rotation re-seals older ones.
    let plan = Plan::update().rotating().twisted(|request| {
        request.link_keys.push(protocol::join::LinkKeyUpload {
            leaf_index: LeafIndex(1),
            sealed: opaque(vec![3; 60]),
        });
    });
    clients[0].commit(&mut world, plan).unwrap();
    catch_up(&mut world, &mut clients);
    for leaf in inspect(&clients[0], &mut world).leaves {
        assert_eq!(leaf.link_key.wrapper, clients[0].rotation);
    }
}
