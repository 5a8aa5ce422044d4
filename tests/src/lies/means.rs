//! What a lying service has at hand.

use crypto::hpke::HpkeKeyPair;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::ids::GroupId;

use super::{Does, Outcome};
use crate::liar::Liar;

/// What the service has at hand.
pub struct Means {
    /// Another group that the client who is lied to is in.
    pub other: GroupId,
    /// The encoded ratchet tree of another group.
    pub tree: Vec<u8>,
    /// The name that a first look-up is of.
    pub handle: &'static str,
    /// The record of somebody else.
    pub record: Vec<u8>,
    /// A set that was claimed of the same contact before.
    pub claimed: Vec<u8>,
}

/// The service's own identity, which it passes off as a user's.
#[must_use]
pub fn own_identity() -> SignatureKeyPair {
    SignatureKeyPair::from_seed(&Secret::new([7; 32]))
}

/// The service's own key for connection requests.
///
/// # Panics
/// When the library refuses.
#[must_use]
pub fn own_key() -> HpkeKeyPair {
    HpkeKeyPair::from_seed(&Secret::new([8; 32])).expect("a key")
}

/// What is changed; what the client does meanwhile; how the service does it; what comes of it.
pub type Lie = (&'static str, Does, fn(&Liar, &Means), Outcome);

pub(super) const GARBAGE: [u8; 60] = [0xa5; 60];
