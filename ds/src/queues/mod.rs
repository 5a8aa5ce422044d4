//! Queues: where everything for a client waits, sealed to it, until it says that it has stored it.

pub mod create;
pub mod deliver;
pub mod drained;
pub mod fetch;
pub mod sequence;
pub mod streams;
pub mod wakeups;

use crypto::sealing::{self, Place};
use protocol::ids::QueueId;
use serde::{Deserialize, Serialize};

use crate::error::DsError;
use crate::service_state::DeliveryService;

/// What the service keeps of a queue, sealed under the storage key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct QueueRecord {
    format: u8,
    /// Ed25519: signs fetches and acknowledgements.
    pub(crate) owner_key: [u8; 32],
    /// X25519: entries are sealed to it.
    pub(crate) hpke_public_key: [u8; 32],
}

const FORMAT: u8 = 1;

impl QueueRecord {
    pub(crate) fn new(owner_key: [u8; 32], hpke_public_key: [u8; 32]) -> Self {
        Self {
            format: FORMAT,
            owner_key,
            hpke_public_key,
        }
    }

    fn place(queue: &QueueId) -> Place<'_> {
        Place {
            table: "queues",
            row: &queue.0,
            part: "record",
        }
    }

    pub(crate) fn seal(
        &self,
        service: &DeliveryService,
        queue: &QueueId,
    ) -> Result<Vec<u8>, DsError> {
        let bytes = postcard::to_stdvec(self).map_err(|_| DsError::Internal("queue record"))?;
        Ok(sealing::seal(
            service.rows().storage_key().expose(),
            Self::place(queue),
            &bytes,
        )?)
    }

    pub(crate) async fn load(
        service: &DeliveryService,
        queue: &QueueId,
    ) -> Result<Option<Self>, DsError> {
        let Some(sealed) = service.store.queue(service.rows().queue(queue)).await? else {
            return Ok(None);
        };
        let bytes = sealing::open(
            service.rows().storage_key().expose(),
            Self::place(queue),
            &sealed,
        )?;
        let record: Self =
            postcard::from_bytes(&bytes).map_err(|_| DsError::Internal("queue record"))?;
        if record.format == FORMAT {
            Ok(Some(record))
        } else {
            Err(DsError::Internal("queue record format"))
        }
    }
}
