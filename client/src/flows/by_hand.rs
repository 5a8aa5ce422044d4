//! Requests that are made by hand, for tests of the service.

use protocol::operation::Operation;
use rusqlite::Connection;

use crate::engine::Engine;
use crate::envelope::sign;
use crate::error::{Error, LocalError};
use crate::ids::GroupRef;
use crate::options::PendingRequest;
use crate::store::{Group, Pending, leaf_keys, mls};

impl Engine {
    /// Takes tokens out of the wallet, for requests that are made by hand.
    ///
    /// # Errors
    /// [`IssuerError::WalletEmpty`].
    pub(crate) async fn withdraw_tokens(&mut self, count: usize) -> Result<Vec<Vec<u8>>, Error> {
        let _held = self.hold().await?;
        self.take_tokens(count)
    }
}

#[cfg(feature = "test-support")]
/// Signs a request by hand as the own leaf of a group, at the service's time.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn sign_as_member(
    db: &Connection,
    now_ms: u64,
    group: &GroupRef,
    operation: Operation,
    body: &[u8],
) -> Result<Vec<u8>, Error> {
    let group = Group::meant(db, group)?;
    let mls_group = mls::load_mls(db, &group.id)?;
    let leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf_keys::signer(db, leaf.signature_key().as_slice())?;
    let leaf_index = protocol::ids::LeafIndex(mls_group.own_leaf_index().u32());
    let sender = protocol::request::Sender::Leaf(leaf_index);
    Ok(protocol::Wire::encode(&sign(
        operation, now_ms, &sender, body, &signer.0,
    )?))
}

#[cfg(feature = "test-support")]
/// The kept request of a group, if one waits for its answer.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn pending_request(
    db: &Connection,
    group: &GroupRef,
) -> Result<Option<PendingRequest>, Error> {
    let group = Group::meant(db, group)?;
    Ok(Pending::read(db, &group.id)?.map(|pending| PendingRequest {
        operation: pending.envelope.operation,
        request: pending.envelope.request.to_vec(),
        tokens: pending.envelope.tokens,
    }))
}
