//! Scenes with real MLS clients that go through the decisions once, for what engines do with the
//! outcome.

#[cfg(feature = "conformance")]
mod crash_points;
#[cfg(feature = "conformance")]
pub mod large;
#[cfg(feature = "conformance")]
mod requests;
#[cfg(feature = "conformance")]
pub mod snapshot;

use protocol::group::GroupKind;

#[cfg(feature = "conformance")]
pub use self::crash_points::{
    a_history_of_requests_leaves_what_it_leaves_in_the_map,
    each_transition_has_one_effect_wherever_its_apply_fails,
};

use super::kit::{Client, Invitee, Plan, World};

/// A group of this many users, of whom each has been here.
pub(super) fn group(world: &mut World, users: usize) -> Vec<Client> {
    let mut creator = Client::create(world, GroupKind::Group);
    let invitees: Vec<Invitee> = (1..users).map(|_| Invitee::new(world)).collect();
    let mut clients = Vec::new();
    if !invitees.is_empty() {
        let adds = invitees.iter().map(|invitee| invitee.key_package.clone());
        creator.commit(world, Plan::add(adds)).unwrap();
        creator.catch_up(world);
        let pointers = creator.pointers.clone();
        for (invitee, pointer) in invitees.into_iter().zip(pointers) {
            let mut joined = Client::join(world, invitee, &pointer);
            joined.told_of(&creator);
            joined.arrive(world);
            clients.push(joined);
        }
    }
    clients.insert(0, creator);
    for client in &mut clients {
        client.catch_up(world);
    }
    clients
}
