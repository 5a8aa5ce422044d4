//! What a careless client would show: each plants one thing of a user's own in what was kept of
//! honest ones. The matcher has to find it, else it proves nothing where it finds nothing.

use std::collections::BTreeMap;

use protocol::Wire;
use protocol::group::{
    CommitRequest, CreateGroupRequest, ExternalJoinRequest, SetLeafExtrasRequest,
};
use protocol::operation::Operation as Number;
use protocol::request::SignedRequest;

use super::attribution::{About, Thing, attribute, find};
use super::play::{Dice, Played};
use crate::support::recording::Who;

/// Something of a user's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Dummy push handles begin with sixteen bytes of the user's.
    PushHandle,
    /// Nonces of signed requests begin with eight bytes of the user's, and go on with eight of the
    /// device's.
    Nonce,
    /// KeyPackages are dated to the second in which their maker made all of them.
    LifetimeToTheSecond,
    /// Each user has the ciphersuites of its leaves in an order of its own.
    OrderOfCapabilities,
    /// A claim bears sixteen bytes of the key of who is added with it.
    ClaimNamesKey,
    /// Identity links are as long as the name makes them.
    LengthOfName,
}

/// The ciphersuites of a leaf, as they stand in its capabilities.
const SUITES: [u8; 11] = [10, 0, 1, 0, 2, 0, 3, 0, 0x4e, 0, 0x4f];
/// Where a nonce stands in an envelope.
const NONCE: std::ops::Range<usize> = 8..24;

type Substitutes = Vec<(Vec<u8>, Vec<u8>)>;

impl Plant {
    pub(crate) const ALL: [Self; 6] = [
        Self::PushHandle,
        Self::Nonce,
        Self::LifetimeToTheSecond,
        Self::OrderOfCapabilities,
        Self::ClaimNamesKey,
        Self::LengthOfName,
    ];

    /// Plants it in a run that was kept, and attributes what is there then.
    pub(crate) fn attributed(self, played: &Played, things: &[Thing]) -> Vec<Thing> {
        let played = &mut played.clone();
        let mut dice = Dice::new(7);
        let own: Vec<Vec<u8>> = (0..8).map(|_| dice.bytes(16)).collect();
        match self {
            Self::PushHandle => {
                let handles = push_handles(played);
                let substitutes = handles.into_iter().map(|(who, handle)| {
                    let planted = [&own[who.user], handle.get(16..).unwrap()].concat();
                    (handle, planted)
                });
                let substitutes: Substitutes = substitutes.collect();
                substitute(played, &substitutes);
            }
            Self::Nonce => {
                for exchange in &mut played.exchanges {
                    if SignedRequest::decode(&exchange.request).is_ok() {
                        let Who { user, device } = exchange.author;
                        let of_device = &own[4 + user][device * 8..][..8];
                        let nonce = [&own[user][..8], of_device].concat();
                        exchange.request.splice(NONCE, nonce);
                    }
                }
            }
            Self::LifetimeToTheSecond => {
                let seconds: Vec<u64> = (0..4)
                    .map(|_| u64::try_from(1 + dice.below(600_000)).unwrap())
                    .collect();
                let change = |who: Who, node: &mut [u8]| dated(node, seconds[who.user]);
                substitute_nodes(played, things, change);
            }
            Self::OrderOfCapabilities => {
                let orders: Vec<Vec<u8>> = (0..4).map(|_| order(&mut dice)).collect();
                let change = |who: Who, node: &mut [u8]| {
                    let at = find(node, &SUITES).unwrap();
                    node[at..at + SUITES.len()].copy_from_slice(&orders[who.user]);
                };
                substitute_nodes(played, things, change);
            }
            Self::ClaimNamesKey => {
                for thing in things {
                    if let About::Claim { exchange, keys } = &thing.about {
                        let nonce = keys[0][..16].to_vec();
                        played.exchanges[*exchange].request.splice(NONCE, nonce);
                    }
                }
            }
            Self::LengthOfName => {
                let mut planted = attribute(played);
                let handles = planted.iter().filter_map(|thing| match &thing.about {
                    About::Handle { name } => Some((thing.who, name.len())),
                    _ => None,
                });
                let handles: BTreeMap<Who, usize> = handles.collect();
                for thing in &mut planted {
                    let user = thing.who.user;
                    if matches!(thing.about, About::Leaf { .. }) {
                        let length = handles[&Who { user, device: 0 }];
                        thing.fields.length("identity link", 110 + length);
                    }
                }
                return planted;
            }
        }
        attribute(played)
    }
}

fn push_handles(played: &Played) -> Vec<(Who, Vec<u8>)> {
    let mut handles = Vec::new();
    for exchange in &played.exchanges {
        let Ok(envelope) = SignedRequest::decode(&exchange.request) else {
            continue;
        };
        let body = envelope.body.as_slice();
        let handle = match exchange.operation {
            Number::CreateGroup => CreateGroupRequest::decode(body)
                .ok()
                .map(|it| it.leaf.push_handle),
            Number::ExternalJoin => ExternalJoinRequest::decode(body)
                .ok()
                .map(|it| it.leaf.push_handle),
            Number::SetLeafExtras => SetLeafExtrasRequest::decode(body)
                .ok()
                .map(|it| it.push_handle),
            Number::UpdateClient => CommitRequest::decode(body)
                .ok()
                .and_then(|it| it.committer)
                .map(|it| it.push_handle),
            _ => None,
        };
        handles.extend(handle.map(|it| (exchange.author, it.as_slice().to_vec())));
    }
    handles
}

/// Puts other bytes in the place of some, wherever they stand in requests, answers and opened
/// state.
fn substitute(played: &mut Played, substitutes: &Substitutes) {
    let replace = |bytes: &mut Vec<u8>| {
        for (from, to) in substitutes {
            if let Some(at) = find(bytes, from) {
                bytes[at..at + from.len()].copy_from_slice(to);
            }
        }
    };
    for exchange in &mut played.exchanges {
        if exchange.operation == Number::ReadJournal {
            continue;
        }
        replace(&mut exchange.request);
        if let Some(answer) = &mut exchange.answer {
            replace(answer);
        }
        let leaves = exchange
            .opened
            .iter_mut()
            .flat_map(|(_, opened)| &mut opened.leaves);
        for leaf in leaves {
            replace(&mut leaf.encoded);
            replace(&mut leaf.node);
        }
    }
}

/// The same for leaf nodes of users who are known by their keys.
fn substitute_nodes(played: &mut Played, things: &[Thing], change: impl Fn(Who, &mut [u8])) {
    let mut owners: BTreeMap<&[u8], Who> = BTreeMap::new();
    for thing in things {
        if matches!(thing.about, About::Leaf { .. }) {
            owners.extend(thing.keys.iter().map(|key| (key.as_slice(), thing.who)));
        }
    }
    let mut nodes: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (_, opened) in played.exchanges.iter().filter_map(|it| it.opened.as_ref()) {
        for leaf in &opened.leaves {
            if let Some(who) = owners.get(leaf.record.signature_key.as_slice()) {
                let mut node = leaf.node.clone();
                change(*who, &mut node);
                nodes.insert(leaf.node.clone(), node);
            }
        }
    }
    let substitutes: Substitutes = nodes.into_iter().filter(|(from, to)| from != to).collect();
    substitute(played, &substitutes);
}

/// Dates a node that came in a KeyPackage.
fn dated(node: &mut [u8], seconds: u64) {
    // Four lists from the ciphersuites on, then how it came (RFC 9420 §7.2).
    let mut at = find(node, &SUITES).unwrap();
    for _ in 0..4 {
        at += 1 + usize::from(node[at]);
    }
    if node[at] != 1 {
        return;
    }
    for bound in node[at + 1..at + 17].chunks_mut(8) {
        let date = u64::from_be_bytes(bound.try_into().unwrap()) + seconds;
        bound.copy_from_slice(&date.to_be_bytes());
    }
}

/// An order of ciphersuites.
fn order(dice: &mut Dice) -> Vec<u8> {
    let mut suites: Vec<&[u8]> = SUITES[1..].chunks(2).collect();
    let mut order = vec![SUITES[0]];
    while !suites.is_empty() {
        let next = suites.swap_remove(dice.below(suites.len()));
        order.extend(next);
    }
    order
}
