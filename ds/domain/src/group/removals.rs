//! Removals by the service (draft-robert-mimi-delivery-service §DS-induced removals): it proposes,
//! as an external sender, the removal of leaves that have not committed for too long, of those that
//! never came, and of those that wanted to go when somebody came in from outside. It can read a
//! group only inside a request, so that is found in commits.

use crypto::service_keys::ServiceKeys;
use crypto::sign::{LeafKeyPair, Scheme};
use mls_rules::ServiceSenders;
use mls_rules::context::sender_keys;
use openmls::prelude::SignatureScheme;
use protocol::Wire as _;
use protocol::ids::{Epoch, GroupId, LeafIndex};
use protocol::removal::{RemovalReason, ServiceRemoval};

use super::proposals::Origin;
use super::tree::Tree;

/// Most removals that are proposed at once. The others have their turn in the next epoch.
pub(super) const MOST_AT_ONCE: usize = 32;

/// The scheme of a group's signatures, if the service has a key for it.
fn scheme(tree: &Tree) -> Option<Scheme> {
    match tree.group.ciphersuite().signature_algorithm() {
        SignatureScheme::ED25519 => Some(Scheme::Ed25519),
        SignatureScheme::ECDSA_SECP256R1_SHA256 => Some(Scheme::EcdsaP256),
        _ => None,
    }
}

/// The service's place among the external senders of a group: under its newest key that the group
/// knows.
pub(super) fn service_sender<'k>(
    keys: &'k ServiceKeys,
    tree: &Tree,
) -> Option<(u32, &'k LeafKeyPair)> {
    let scheme = scheme(tree)?;
    let listed = sender_keys(tree.group.group_context().extensions());
    keys.external_senders().iter().rev().find_map(|key| {
        let key = key.of(scheme);
        let public = key.public();
        let index = listed.iter().position(|listed| *listed == public)?;
        Some((u32::try_from(index).ok()?, key))
    })
}

/// By which keys the service is known.
pub(super) fn senders(keys: &ServiceKeys) -> ServiceSenders {
    let publics = |generations: &[crypto::service_keys::ExternalSenderKey]| -> Vec<Vec<u8>> {
        generations
            .iter()
            .flat_map(|key| [key.ed25519.public(), key.p256.public()])
            .collect()
    };
    match keys.external_senders() {
        [former @ .., last] => ServiceSenders {
            current: publics(std::slice::from_ref(last)),
            former: publics(former),
        },
        [] => ServiceSenders::default(),
    }
}

/// Proposals to remove these leaves in an epoch. None for a group that does not list the service.
pub(super) fn propose(
    keys: &ServiceKeys,
    group_id: &GroupId,
    epoch: Epoch,
    tree: &Tree,
    gone: &[(u32, RemovalReason)],
) -> Vec<(Vec<u8>, Origin)> {
    let Some((sender, key)) = service_sender(keys, tree) else {
        return Vec::new();
    };
    gone.iter()
        .map(|(leaf, reason)| {
            let removal = ServiceRemoval {
                group_id: *group_id,
                epoch,
                sender,
                leaf: LeafIndex(*leaf),
                reason: *reason,
            };
            let message = removal.message(&key.sign_bytes(&removal.to_sign()));
            (message, Origin::Service(*leaf, reason.encode()))
        })
        .collect()
}
