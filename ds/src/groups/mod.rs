//! Groups: decides from (sealed state, request, now) what the next state is. Nothing decrypted
//! outlives the request.

pub mod commit;
pub mod create;
pub mod join;
pub mod members;
pub mod message;
pub mod parts;
pub mod permits;
pub mod proposals;
pub mod propose;
pub mod removals;
pub mod roster;
pub mod rules;
pub mod transition;
pub mod tree;

use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::error::DsError;
use crate::queues::deliver::Recipient;
use crate::request::Request;
use crate::service_state::DeliveryService;
use roster::{Leaf, Roster};

/// The ciphersuites of openmls' RustCrypto provider with a signature scheme that requests here are signed
/// with: Ed25519 and ECDSA over P-256 (RFC 9420 §17.1, draft-ietf-mls-pq-ciphersuites).
pub const SUPPORTED_CIPHERSUITES: &[u16] = &[
    // MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519
    0x0001, // MLS_128_DHKEMP256_AES128GCM_SHA256_P256
    0x0002, // MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519
    0x0003,
    // MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519: X-Wing, the post-quantum hybrid
    0x004e, // MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519: X-Wing
    0x004f,
];

/// How often a decision that met a concurrent one is made again.
const ATTEMPTS: usize = 8;

/// Epochs that a message may lag behind, as long as the state key has not rotated since.
const MESSAGE_LAG_EPOCHS: u64 = 4;

/// Authenticates the leaf that a request claims, against the roster.
fn authenticate<'r, 'a, T>(
    request: &Request<T>,
    roster: &'r Roster<'a>,
) -> Result<&'r Leaf<'a>, DsError> {
    let leaf = roster
        .leaf(request.claimed_leaf()?)
        .ok_or(ProblemType::BadSignature)?;
    request.authenticate_leaf(&leaf.signature_key)?;
    Ok(leaf)
}

/// Charges the allowances of leaf and group, after authentication. When either is used up, a token
/// pays instead: returns how many tokens the request must spend.
fn charge_allowance<T>(
    service: &DeliveryService,
    request: &Request<T>,
    group: &GroupId,
    leaf: u32,
) -> Result<usize, DsError> {
    let leaf = service.rows().allowance(group, leaf);
    let whole = service.rows().group_allowance(group);
    let (leaves, groups) = (&service.leaf_allowances, &service.group_allowances);
    let empty = match leaves.take(leaf, request.now_ms) {
        Ok(()) => match groups.take(whole, request.now_ms) {
            Ok(()) => return Ok(0),
            Err(empty) => {
                leaves.give_back(leaf);
                empty
            }
        },
        Err(empty) => empty,
    };
    if request.tokens() > 0 {
        return Ok(1);
    }
    Err(DsError::TooManyRequests {
        retry_after_ms: empty.retry_after_ms,
    })
}

/// What a token bought.
fn refill(service: &DeliveryService, group: &GroupId, leaf: u32, price: usize) {
    if price > 0 {
        service
            .leaf_allowances
            .refill(service.rows().allowance(group, leaf));
    }
}

/// Tree work takes milliseconds in a large group: other requests of this thread go on meanwhile.
fn without_starving_others<T>(work: impl FnOnce() -> T) -> T {
    match several_threads() {
        Some(_) => tokio::task::block_in_place(work),
        None => work(),
    }
}

/// The runtime, if it goes on while this thread is busy.
fn several_threads() -> Option<Handle> {
    Handle::try_current()
        .ok()
        .filter(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// The queues behind the handles of these leaves.
fn recipients<'l, 'a: 'l>(
    service: &DeliveryService,
    leaves: impl Iterator<Item = &'l Leaf<'a>>,
) -> Result<Vec<Recipient>, DsError> {
    leaves
        .map(|leaf| {
            Ok(Recipient {
                leaf: leaf.index,
                queue: leaf.queue(service)?,
            })
        })
        .collect()
}
