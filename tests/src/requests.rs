//! Requests of senders whom no service knows.

use client::sign;
use crypto::sign::{LeafKeyPair, Scheme};
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::ReserveGroupIdRequest;
use protocol::ids::GroupId;
use protocol::operation::Operation;
use protocol::request::Sender;

/// The services' clock.
#[must_use]
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.expect("after 1970").as_millis()).expect("a time")
}

/// A request of a sender of its own, whom nobody knows.
#[must_use]
pub fn signed_by_anybody(operation: Operation, body: &[u8]) -> Vec<u8> {
    let key = LeafKeyPair::random(Scheme::Ed25519).expect("a key");
    let sender = Sender::Key(opaque(key.public()));
    let signed = sign(operation, now_ms(), &sender, body, &key);
    signed.expect("signed").encode()
}

/// A request that costs one token, of a sender of its own.
#[must_use]
pub fn reservation() -> Vec<u8> {
    let body = ReserveGroupIdRequest {
        group_id: GroupId(crypto::random().expect("randomness")),
    };
    signed_by_anybody(Operation::ReserveGroupId, &body.encode())
}
