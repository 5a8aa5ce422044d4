//! What a group context says: its policy, and who its external senders are.

use openmls::group::GroupContext;
use openmls::prelude::{ExtensionType, Extensions, QueuedProposal, Sender};
use protocol::Wire as _;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};

use crate::Refusal;

/// The policy among a group context's extensions.
///
/// # Errors
/// [`Refusal::Policy`] for one that is malformed.
pub fn policy_in(extensions: &Extensions<GroupContext>) -> Result<Option<GroupPolicy>, Refusal> {
    let Some(extension) = extensions.unknown(POLICY_EXTENSION) else {
        return Ok(None);
    };
    let policy = GroupPolicy::decode(&extension.0).map_err(|_| Refusal::Policy)?;
    policy.check().map_err(|_| Refusal::Policy)?;
    Ok(Some(policy))
}

/// What may not change with the policy; of the external senders see
/// [`ServiceSenders::check_change`].
pub(crate) fn others(extensions: &Extensions<GroupContext>) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut encoded = Vec::new();
    for extension in extensions.iter() {
        if !matches!(
            extension.extension_type(),
            ExtensionType::ExternalSenders | ExtensionType::Unknown(POLICY_EXTENSION)
        ) {
            let bytes = extension.tls_serialize_detached();
            encoded.push(bytes.map_err(|_| Refusal::Commit)?);
        }
    }
    encoded.sort_unstable();
    Ok(encoded)
}

/// A sender's key, which openmls shows only encoded: it is the first field (RFC 9420 §12.1.8.1).
fn key_of(encoded: &[u8]) -> Option<Vec<u8>> {
    let (key, _) = VLBytes::tls_deserialize_bytes(encoded).ok()?;
    Some(key.into())
}

/// The external senders of a group, encoded, in their order.
#[must_use]
pub fn senders_in(extensions: &Extensions<GroupContext>) -> Vec<Vec<u8>> {
    extensions
        .external_senders()
        .into_iter()
        .flatten()
        .map(|sender| sender.tls_serialize_detached().unwrap_or_default())
        .collect()
}

/// Signature keys of a group's external senders, in their order.
#[must_use]
pub fn sender_keys(extensions: &Extensions<GroupContext>) -> Vec<Vec<u8>> {
    senders_in(extensions)
        .iter()
        .map(|sender| key_of(sender).unwrap_or_default())
        .collect()
}

/// Which external sender made a proposal. openmls shows the index only encoded: a uint32.
#[must_use]
pub fn external_index(queued: &QueuedProposal) -> Option<usize> {
    let Sender::External(index) = queued.sender() else {
        return None;
    };
    let bytes = index.tls_serialize_detached().ok()?;
    let index = <[u8; 4]>::try_from(bytes.as_slice()).ok()?;
    usize::try_from(u32::from_be_bytes(index)).ok()
}

/// The keys by which the service is known among a group's external senders: only its word removes
/// somebody without a member who may; any other sender's is a wish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceSenders {
    /// Those that it announces: one for each scheme.
    pub current: Vec<Vec<u8>>,
    /// Those that it announced before.
    pub former: Vec<Vec<u8>>,
}

impl ServiceSenders {
    fn has(&self, sender: &[u8]) -> bool {
        key_of(sender).is_some_and(|key| self.current.contains(&key) || self.former.contains(&key))
    }

    /// Whether the service made a proposal.
    #[must_use]
    pub fn sent(&self, extensions: &Extensions<GroupContext>, queued: &QueuedProposal) -> bool {
        external_index(queued)
            .and_then(|index| senders_in(extensions).get(index).cloned())
            .is_some_and(|sender| self.has(&sender))
    }

    /// The external senders change by the service's rotation only: to the key that it announces. It
    /// is never unlisted.
    ///
    /// # Errors
    /// [`Refusal::Senders`].
    pub fn check_change(
        &self,
        now: &Extensions<GroupContext>,
        next: &Extensions<GroupContext>,
    ) -> Result<(), Refusal> {
        self.check_senders(&senders_in(now), &senders_in(next))
    }

    /// As [`ServiceSenders::check_change`], for senders as [`senders_in`] gives them.
    ///
    /// # Errors
    /// [`Refusal::Senders`].
    pub fn check_senders(&self, now: &[Vec<u8>], next: &[Vec<u8>]) -> Result<(), Refusal> {
        let (own_now, others_now): (Vec<_>, Vec<_>) =
            now.iter().partition(|sender| self.has(sender));
        let (own_next, others_next): (Vec<_>, Vec<_>) =
            next.iter().partition(|sender| self.has(sender));
        let announced = own_next
            .iter()
            .any(|sender| key_of(sender).is_some_and(|key| self.current.contains(&key)));
        if others_now == others_next
            && (own_now == own_next || announced)
            && (own_now.is_empty() || !own_next.is_empty())
        {
            Ok(())
        } else {
            Err(Refusal::Senders)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::opaque;

    use super::*;

    fn sender(key: &[u8]) -> Vec<u8> {
        [opaque(key).encode(), b"credential".to_vec()].concat()
    }

    fn service() -> ServiceSenders {
        ServiceSenders {
            current: vec![b"new".to_vec()],
            former: vec![b"old".to_vec()],
        }
    }

    #[test]
    fn external_senders_change_by_the_services_rotation_only() {
        let (old, new) = (sender(b"old"), sender(b"new"));
        let (other, another) = (sender(b"other"), sender(b"another"));
        let check = |now: &[&Vec<u8>], next: &[&Vec<u8>]| {
            let owned = |senders: &[&Vec<u8>]| senders.iter().map(|s| (*s).clone()).collect();
            let (now, next): (Vec<_>, Vec<_>) = (owned(now), owned(next));
            service().check_senders(&now, &next)
        };
        assert_eq!(check(&[&old, &other], &[&old, &other]), Ok(()));
        assert_eq!(check(&[&old, &other], &[&new, &other]), Ok(()));
        assert_eq!(
            check(&[&new, &other], &[&old, &other]),
            Err(Refusal::Senders)
        );
        assert_eq!(check(&[&old], &[]), Err(Refusal::Senders));
        assert_eq!(check(&[&old], &[&old, &other]), Err(Refusal::Senders));
        assert_eq!(
            check(&[&old, &other], &[&old, &another]),
            Err(Refusal::Senders)
        );
    }
}
