//! Which of a group's external senders is the delivery service: whoever has a key that its directory announces. Only
//! the service's word removes somebody without a member who may; any other sender's is a wish.

use openmls::group::GroupContext;
use openmls::prelude::{Extensions, MlsGroup, QueuedProposal, Sender};
use protocol::directory::Directory;
use rusqlite::Connection;
use tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};

use crate::directory::decode_base64url;
use crate::error::{Error, LocalError, PeerError};

/// The service's external sender keys, as far as this client has heard of them.
pub(crate) struct ServiceKeys {
    current: Vec<Vec<u8>>,
    former: Vec<Vec<u8>>,
}

/// A sender's key, which openmls shows only encoded: it is the first field (RFC 9420 §12.1.8.1).
fn key_of(encoded: &[u8]) -> Option<Vec<u8>> {
    let (key, _) = VLBytes::tls_deserialize_bytes(encoded).ok()?;
    Some(key.into())
}

/// The external senders of a group, encoded, in their order.
pub(crate) fn senders_in(extensions: &Extensions<GroupContext>) -> Vec<Vec<u8>> {
    extensions
        .external_senders()
        .into_iter()
        .flatten()
        .map(|sender| sender.tls_serialize_detached().unwrap_or_default())
        .collect()
}

impl ServiceKeys {
    /// Of the directory that all views agreed on, and of the one that was last heard because of such a key; none before the
    /// first one. All members of a group have the same sender in it: it marks nobody.
    pub(crate) fn read(db: &Connection) -> Result<Self, Error> {
        let stored: [Option<String>; 2] = db.query_row(
            "SELECT directory, directory_heard FROM profile",
            (),
            |row| Ok([row.get(0)?, row.get(1)?]),
        )?;
        let decoded = |keys: &mut dyn Iterator<Item = &String>| {
            keys.filter(|key| !key.is_empty())
                .map(|key| decode_base64url(key))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut known = Self {
            current: Vec::new(),
            former: Vec::new(),
        };
        for stored in stored.into_iter().flatten() {
            let directory: Directory =
                serde_json::from_str(&stored).map_err(|_| LocalError::Damaged)?;
            let current = [
                directory.external_sender_key,
                directory.external_sender_key_p256,
            ];
            known.current.extend(decoded(&mut current.iter())?);
            let former = &directory.former_external_sender_keys;
            known.former.extend(decoded(&mut former.iter())?);
        }
        Ok(known)
    }

    fn is_of_service(&self, sender: &[u8]) -> bool {
        key_of(sender).is_some_and(|key| self.current.contains(&key) || self.former.contains(&key))
    }

    /// Whether the service made a proposal.
    pub(crate) fn sent(&self, mls_group: &MlsGroup, queued: &QueuedProposal) -> bool {
        let Sender::External(index) = queued.sender() else {
            return false;
        };
        // openmls shows the index only encoded: a uint32.
        index
            .tls_serialize_detached()
            .ok()
            .and_then(|bytes| <[u8; 4]>::try_from(bytes.as_slice()).ok())
            .and_then(|index| usize::try_from(u32::from_be_bytes(index)).ok())
            .and_then(|index| senders_in(mls_group.extensions()).get(index).cloned())
            .is_some_and(|sender| self.is_of_service(&sender))
    }

    /// The external senders change by the service's rotation only: to the key that its directory announces.
    ///
    /// # Errors
    /// [`PeerError::ExternalSenders`]; the directory may have moved on.
    pub(crate) fn check_change(
        &self,
        now: &Extensions<GroupContext>,
        next: &Extensions<GroupContext>,
    ) -> Result<(), PeerError> {
        self.check_senders(&senders_in(now), &senders_in(next))
    }

    /// As [`ServiceKeys::check_change`], for senders as [`senders_in`] gives them.
    pub(crate) fn check_senders(&self, now: &[Vec<u8>], next: &[Vec<u8>]) -> Result<(), PeerError> {
        let (own_now, others_now): (Vec<_>, Vec<_>) =
            now.iter().partition(|sender| self.is_of_service(sender));
        let (own_next, others_next): (Vec<_>, Vec<_>) =
            next.iter().partition(|sender| self.is_of_service(sender));
        let announced = own_next
            .iter()
            .any(|sender| key_of(sender).is_some_and(|key| self.current.contains(&key)));
        if others_now == others_next && (own_now == own_next || announced) {
            Ok(())
        } else {
            Err(PeerError::ExternalSenders)
        }
    }
}
