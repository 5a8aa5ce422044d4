//! Groups: decides from (sealed state, request, now) what the next state is. Nothing decrypted
//! outlives the request.

pub mod commit;
pub mod create;
pub mod join;
pub mod message;
pub mod roster;
pub mod rules;
pub mod tree;

use crypto::keys::StateKey;
use crypto::rows::Row;
use crypto::sealing::{self, Place};
use protocol::ids::{GroupId, QueueId};
use protocol::problem::ProblemType;
use zeroize::Zeroizing;

use crate::error::DsError;
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::{StoredGroup, Version};
use roster::{Leaf, Roster};

/// MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519 (RFC 9420 §17.1).
pub const SUPPORTED_CIPHERSUITES: &[u16] = &[1];

/// How often a decision that met a concurrent one is made again.
const ATTEMPTS: usize = 8;

/// Epochs that a message may lag behind, as long as the state key has not rotated since.
const MESSAGE_LAG_EPOCHS: u64 = 4;

/// Where the parts of one version of a group belong: they open under their own version only, so that
/// who can write to the database cannot put an earlier part beside a later one.
struct PartRow([u8; 32]);

impl PartRow {
    fn new(group: &GroupId, version: &Version) -> Self {
        let mut row = [0; 32];
        let (id, of_version) = row.split_at_mut(16);
        id.copy_from_slice(&group.0);
        of_version.copy_from_slice(version);
        Self(row)
    }

    fn place(&self, part: &'static str) -> Place<'_> {
        Place {
            table: "groups",
            row: &self.0,
            part,
        }
    }
}

/// Opens the roster. Unknown group, deleted group and wrong key are one answer after the same work.
fn open_roster(
    group: &GroupId,
    key: &StateKey,
    stored: Option<&StoredGroup>,
) -> Result<Zeroizing<Vec<u8>>, DsError> {
    match stored {
        Some(stored) => sealing::open(
            key.expose(),
            PartRow::new(group, &stored.version).place("roster"),
            &stored.roster,
        )
        .map_err(|_| ProblemType::UnknownGroup.into()),
        None => {
            let row = PartRow::new(group, &[0; 16]);
            sealing::open_absent(key.expose(), row.place("roster"));
            Err(ProblemType::UnknownGroup.into())
        }
    }
}

/// The opened version with its tree, which is read only once a key has opened the roster: an unknown
/// group and a wrong key cost the same reads, whatever the size of the group. `None` if the group has
/// moved on in between.
async fn with_tree(
    service: &DeliveryService,
    row: Row,
    opened: Option<StoredGroup>,
) -> Result<Option<StoredGroup>, DsError> {
    let opened = opened.ok_or(ProblemType::UnknownGroup)?;
    let stored = service.store.group(row, true).await?;
    Ok(stored.filter(|stored| stored.version == opened.version))
}

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

/// Charges a leaf's allowance, after authentication. When it is used up, a token buys more, one that is
/// not spent: returns how many tokens the request must spend.
async fn charge_allowance<T>(
    service: &DeliveryService,
    request: &Request<T>,
    group: &GroupId,
    leaf: u32,
) -> Result<usize, DsError> {
    let bucket = service.rows().allowance(group, leaf);
    match service.leaf_allowances.take(bucket, request.now_ms) {
        Ok(()) => Ok(0),
        Err(_) if request.tokens() > 0 => {
            request.require_unspent_tokens(service, 1).await?;
            Ok(1)
        }
        Err(empty) => Err(DsError::TooManyRequests {
            retry_after_ms: empty.retry_after_ms,
        }),
    }
}

/// Tree work takes milliseconds in a large group: other requests of this thread go on meanwhile.
fn without_starving_others<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Queue ids behind the handles of these leaves.
fn queues<'l, 'a: 'l>(
    service: &DeliveryService,
    leaves: impl Iterator<Item = &'l Leaf<'a>>,
) -> Result<Vec<QueueId>, DsError> {
    leaves.map(|leaf| leaf.queue(service)).collect()
}
