//! Whom a message wakes.

use std::collections::BTreeSet;

use protocol::push::Handle;

use super::*;
use crate::group::handles::{AcceptedMessage, Whose};
use crate::refusal::Stop;
use crate::view::View;

/// What the service finds after it has carried `request` out, and how many rows it read for it.
fn found(world: &mut World, request: &[u8], whose: Whose) -> (Result<Vec<Handle>, Stop>, usize) {
    let accepted = AcceptedMessage::of(request).unwrap();
    let (env, engine) = world.service.env();
    let (mut view, mut rows) = (View::default(), 0);
    loop {
        match accepted.handles(whose, &view, &env) {
            Err(Stop::Need(reads)) => {
                rows += reads.len();
                let read = engine.read(&reads);
                for (read, found) in reads.into_iter().zip(read) {
                    view.add(read, found);
                }
            }
            answer => return (answer, rows),
        }
    }
}

fn sent(world: &mut World, client: &mut Client) -> Vec<u8> {
    let body = client.message(b"text");
    let request = client.sign(world, Number::SendMessage, &body);
    world.run::<SendMessage>(&request).unwrap();
    request
}

#[test]
fn a_message_wakes_all_but_its_sender_and_a_removed_leafs_handle_goes_with_it() {
    let mut world = World::new(41);
    let mut clients = group(&mut world, 4);
    let request = sent(&mut world, &mut clients[1]);
    let sender = clients[1].index();
    assert_eq!(AcceptedMessage::of(&request).unwrap().sender, sender);
    let mut only = BTreeSet::new();
    for client in &clients {
        let of_leaf = found(&mut world, &request, Whose::Only(client.index()))
            .0
            .unwrap();
        assert_eq!(of_leaf.len(), 1);
        only.insert(of_leaf[0]);
    }
    assert_eq!(only.len(), 4, "each leaf has its own");
    let others: BTreeSet<Handle> = found(&mut world, &request, Whose::AllBut(sender))
        .0
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(others.len(), 3);
    let own = found(&mut world, &request, Whose::Only(sender)).0.unwrap();
    assert!(!others.contains(&own[0]));

    let gone = clients[3].index();
    let handle = found(&mut world, &request, Whose::Only(gone)).0.unwrap()[0];
    clients[0].commit(&mut world, Plan::remove([gone])).unwrap();
    catch_up(&mut world, &mut clients[..3]);
    let request = sent(&mut world, &mut clients[1]);
    let others = found(&mut world, &request, Whose::AllBut(sender))
        .0
        .unwrap();
    assert_eq!(others.len(), 2);
    assert!(!others.contains(&handle), "who was removed is not woken");
}

#[test]
fn the_key_of_a_message_leads_to_no_handle_after_a_rotation() {
    let mut world = World::new(42);
    let mut clients = group(&mut world, 2);
    let request = sent(&mut world, &mut clients[1]);
    let mut plan = Plan::update();
    plan.rotates = true;
    clients[0].commit(&mut world, plan).unwrap();
    let sender = clients[1].index();
    assert!(matches!(
        found(&mut world, &request, Whose::AllBut(sender)).0,
        Err(Stop::Refused(Refusal::Problem(ProblemType::UnknownGroup)))
    ));
}

#[test]
fn who_has_not_come_yet_has_no_handle_and_a_single_leaf_costs_a_single_page() {
    let mut world = World::new(43);
    world.service.settings.self_check = false;
    let mut creator = Client::create(&mut world, GroupKind::Group);
    let adds: Vec<_> = (1..130).map(|_| Invitee::new(&world).key_package).collect();
    let plan = Plan::add(adds).twisted(super::short_welcomes);
    creator.commit(&mut world, plan).unwrap();
    creator.catch_up(&mut world);
    let request = sent(&mut world, &mut creator);
    let (handles, rows) = found(&mut world, &request, Whose::AllBut(0));
    assert_eq!((handles.unwrap(), rows), (Vec::new(), 1 + 3));
    let (handles, rows) = found(&mut world, &request, Whose::Only(0));
    assert_eq!((handles.unwrap().len(), rows), (1, 1 + 1));
}
