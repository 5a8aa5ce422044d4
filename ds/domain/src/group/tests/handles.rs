//! Whom a message wakes.

use std::collections::BTreeSet;

use protocol::push::Handle;

use super::*;
use crate::group::handles::AcceptedMessage;
use crate::refusal::Stop;
use crate::view::View;

/// What the service finds after it has carried `request` out, and how many rows it read for it.
fn found(world: &mut World, request: &[u8]) -> (Result<Vec<Handle>, Stop>, usize) {
    let accepted = AcceptedMessage::of(request).unwrap();
    let (env, engine) = world.service.env();
    let (mut view, mut rows) = (View::default(), 0);
    loop {
        match accepted.handles(&view, &env) {
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
fn a_message_wakes_everybody_and_a_removed_leafs_handle_goes_with_it() {
    let mut world = World::new(41);
    let mut clients = group(&mut world, 4);
    let request = sent(&mut world, &mut clients[1]);
    let all = |world: &mut World, request: &[u8]| -> BTreeSet<Handle> {
        found(world, request).0.unwrap().into_iter().collect()
    };
    let before = all(&mut world, &request);
    assert_eq!(before.len(), 4, "each leaf has its own, the sender too");
    let of_another = sent(&mut world, &mut clients[2]);
    assert_eq!(all(&mut world, &of_another), before, "whoever has sent");

    let gone = clients[3].index();
    clients[0].commit(&mut world, Plan::remove([gone])).unwrap();
    catch_up(&mut world, &mut clients[..3]);
    let request = sent(&mut world, &mut clients[1]);
    let after = all(&mut world, &request);
    assert_eq!(after.len(), 3, "who was removed is not woken");
    assert!(after.is_subset(&before));
}

#[test]
fn the_key_of_a_message_leads_to_no_handle_after_a_rotation() {
    let mut world = World::new(42);
    let mut clients = group(&mut world, 2);
    let request = sent(&mut world, &mut clients[1]);
    let mut plan = Plan::update();
    plan.rotates = true;
    clients[0].commit(&mut world, plan).unwrap();
    assert!(matches!(
        found(&mut world, &request).0,
        Err(Stop::Refused(Refusal::Problem(ProblemType::UnknownGroup)))
    ));
}

#[test]
fn who_has_not_come_yet_has_no_handle() {
    let mut world = World::new(43);
    world.service.settings.self_check = false;
    let mut creator = Client::create(&mut world, GroupKind::Group);
    let adds: Vec<_> = (1..130).map(|_| Invitee::new(&world).key_package).collect();
    let plan = Plan::add(adds).twisted(super::short_welcomes);
    creator.commit(&mut world, plan).unwrap();
    creator.catch_up(&mut world);
    let request = sent(&mut world, &mut creator);
    let (handles, rows) = found(&mut world, &request);
    assert_eq!((handles.unwrap().len(), rows), (1, 1 + 3));
}
