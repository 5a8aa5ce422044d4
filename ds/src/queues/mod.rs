//! Queues: where everything for a client waits, sealed to it, until it says that it has stored it.

pub(crate) mod backlog;
pub mod create;
pub mod deliver;
pub mod drained;
pub mod fetch;
pub mod owner;
pub mod polls;
pub mod sequence;
pub mod streams;
pub mod wakeups;

use crypto::rows::Row;
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
    /// Coarse, see [`coarse`]: when the owner was last here. Release 0.1 did not know.
    pub(crate) last_read_day: Option<u32>,
    /// Groups that nothing is taken from, by [`crypto::rows::RowKeys::blocked_group`].
    pub(crate) blocked: Vec<Row>,
}

const FORMAT: u8 = 2;

#[derive(Deserialize)]
struct QueueRecordV1 {
    #[expect(dead_code, reason = "read before")]
    format: u8,
    owner_key: [u8; 32],
    hpke_public_key: [u8; 32],
}

/// Days are kept to the week, which is enough to tell who has been away for months.
pub(crate) fn coarse(day: u32) -> u32 {
    day.saturating_sub(day % 7)
}

impl QueueRecord {
    pub(crate) fn new(owner_key: [u8; 32], hpke_public_key: [u8; 32], today: u32) -> Self {
        Self {
            format: FORMAT,
            owner_key,
            hpke_public_key,
            last_read_day: Some(coarse(today)),
            blocked: Vec::new(),
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

    pub(crate) fn open(
        service: &DeliveryService,
        queue: &QueueId,
        sealed: &[u8],
    ) -> Result<Self, DsError> {
        let internal = |_| DsError::Internal("queue record");
        let key = service.rows().storage_key().expose();
        let bytes = sealing::open(key, Self::place(queue), sealed)?;
        match bytes.first() {
            Some(&FORMAT) => postcard::from_bytes(&bytes).map_err(internal),
            Some(1) => {
                let old: QueueRecordV1 = postcard::from_bytes(&bytes).map_err(internal)?;
                Ok(Self {
                    format: FORMAT,
                    owner_key: old.owner_key,
                    hpke_public_key: old.hpke_public_key,
                    last_read_day: None,
                    blocked: Vec::new(),
                })
            }
            _ => Err(DsError::Internal("queue record format")),
        }
    }

    pub(crate) async fn load_many(
        service: &DeliveryService,
        queues: &[QueueId],
    ) -> Result<Vec<Option<Self>>, DsError> {
        let rows = queues.iter().map(|queue| service.rows().queue(queue));
        let stored = service.store.queues(rows.collect()).await?;
        stored
            .into_iter()
            .zip(queues)
            .map(|(sealed, queue)| {
                sealed
                    .map(|sealed| Self::open(service, queue, &sealed))
                    .transpose()
            })
            .collect()
    }
}
