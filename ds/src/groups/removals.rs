//! Removals by the service (draft-robert-mimi-delivery-service §DS-induced removals): it proposes, as an
//! external sender, the removal of leaves whose queue is gone or has not been read for too long, and of those that came
//! too late for their join record. It can read a
//! group only inside a request that brings the state key, so that is where they are found: by whoever delivers.

use crypto::sign::Scheme;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{Extensions, GroupContext, SignatureScheme};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::removal::ServiceRemoval;

use super::proposals::{Origin, PendingProposal};
use super::roster::{Roster, ServiceSender};
use super::tree::Tree;
use crate::error::DsError;
use crate::queues::deliver::Gone;
use crate::service_state::DeliveryService;

/// Most removals that are proposed at once: each goes into every member's queue. The others have their turn in
/// the next epoch.
pub const MOST_AT_ONCE: usize = 32;

/// The scheme of a group's signatures, if the service has a key for it.
#[must_use]
pub fn scheme(tree: &Tree) -> Option<Scheme> {
    match tree.group.ciphersuite().signature_algorithm() {
        SignatureScheme::ED25519 => Some(Scheme::Ed25519),
        SignatureScheme::ECDSA_SECP256R1_SHA256 => Some(Scheme::EcdsaP256),
        _ => None,
    }
}

/// Signature keys of the group's external senders, in their order. openmls shows them only encoded: the key is
/// the first field (RFC 9420 §12.1.8.1).
#[must_use]
pub fn external_sender_keys(tree: &Tree) -> Vec<Vec<u8>> {
    keys_in(tree.group.group_context().extensions())
}

fn keys_in(extensions: &Extensions<GroupContext>) -> Vec<Vec<u8>> {
    extensions
        .external_senders()
        .into_iter()
        .flatten()
        .map(|sender| {
            let encoded = sender.tls_serialize_detached().unwrap_or_default();
            VLBytes::tls_deserialize_bytes(&encoded)
                .map(|(key, _)| key.into())
                .unwrap_or_default()
        })
        .collect()
}

/// The service's place among the external senders of a group: under its newest key that the group knows.
#[must_use]
pub fn service_sender(service: &DeliveryService, tree: &Tree) -> Option<ServiceSender<'static>> {
    let scheme = scheme(tree)?;
    let listed = external_sender_keys(tree);
    service
        .keys
        .external_senders()
        .iter()
        .rev()
        .find_map(|key| {
            let public = key.of(scheme).public();
            let index = listed.iter().position(|key| *key == public)?;
            Some(ServiceSender {
                index: u32::try_from(index).ok()?,
                public_key: public.into(),
            })
        })
}

/// Proposals to remove these leaves in the roster's epoch. None for a group that does not list the service.
///
/// # Errors
/// [`DsError::Internal`].
pub fn propose(
    service: &DeliveryService,
    group_id: &GroupId,
    roster: &Roster<'_>,
    gone: &[Gone],
) -> Result<Vec<PendingProposal>, DsError> {
    let Some(sender) = &roster.service_sender else {
        return Ok(Vec::new());
    };
    let key = service.keys.external_senders().iter().find_map(|key| {
        [&key.ed25519, &key.p256]
            .into_iter()
            .find(|key| key.public() == sender.public_key.as_ref())
    });
    let Some(key) = key else {
        return Ok(Vec::new());
    };
    let proposals = gone.iter().map(|gone| {
        let removal = ServiceRemoval {
            group_id: *group_id,
            epoch: roster.epoch,
            sender: sender.index,
            leaf: gone.leaf,
            reason: gone.reason,
        };
        PendingProposal {
            message: removal.message(&key.sign_bytes(&removal.to_sign())),
            origin: Origin::Service(gone.leaf),
            new_member: None,
        }
    });
    Ok(proposals.collect())
}

/// A change of the group context must not unlist the service, nor change its key but to the one that it announces.
///
/// # Errors
/// [`ProblemType::InvalidCommit`].
pub fn check_listed(
    service: &DeliveryService,
    tree: &Tree,
    next: &Extensions<GroupContext>,
) -> Result<(), DsError> {
    let scheme = scheme(tree).ok_or(ProblemType::UnsupportedCiphersuite)?;
    let own: Vec<Vec<u8>> = service
        .keys
        .external_senders()
        .iter()
        .map(|key| key.of(scheme).public())
        .collect();
    let of_service = |mut keys: Vec<Vec<u8>>| {
        keys.retain(|key| own.contains(key));
        keys
    };
    let now = of_service(external_sender_keys(tree));
    let next = of_service(keys_in(next));
    let announced = own.last().is_some_and(|newest| next.contains(newest));
    if !next.is_empty() && (now == next || announced) {
        Ok(())
    } else {
        Err(ProblemType::InvalidCommit.into())
    }
}

/// The external senders but the service, encoded, in their order.
#[must_use]
pub fn other_senders(
    service: &DeliveryService,
    extensions: &Extensions<GroupContext>,
) -> Vec<Vec<u8>> {
    let own: Vec<Vec<u8>> = service
        .keys
        .external_senders()
        .iter()
        .flat_map(|key| [key.ed25519.public(), key.p256.public()])
        .collect();
    let keys = keys_in(extensions);
    extensions
        .external_senders()
        .into_iter()
        .flatten()
        .zip(keys)
        .filter(|(_, key)| !own.contains(key))
        .map(|(sender, _)| sender.tls_serialize_detached().unwrap_or_default())
        .collect()
}
