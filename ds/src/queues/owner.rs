//! What only a queue's owner may do: show that it is his, delete it, block groups.

use protocol::Wire;
use protocol::groups::Accepted;
use protocol::ids::QueueId;
use protocol::problem::ProblemType;
use protocol::queues::{BlockGroupRequest, DeleteQueueRequest, MAX_BLOCKED_GROUPS};
use protocol::time::day_of;

use super::{QueueRecord, coarse};
use crate::error::DsError;
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::Receipt;

/// How often a change that met a concurrent one is made again.
const ATTEMPTS: usize = 8;

/// A queue's record as it is stored and opened.
pub(super) struct Owned {
    stored: Vec<u8>,
    record: QueueRecord,
}

/// The record of a queue that the signing key owns.
///
/// # Errors
/// [`ProblemType::UnknownQueue`], also for a queue of another owner.
pub(super) async fn owned<T>(
    service: &DeliveryService,
    request: &Request<T>,
    queue: &QueueId,
) -> Result<Owned, DsError> {
    let key = request.authenticate_key()?;
    let stored = service
        .store
        .queue(service.rows().queue(queue))
        .await?
        .ok_or(ProblemType::UnknownQueue)?;
    let record = QueueRecord::open(service, queue, &stored)?;
    if record.owner_key == key.0 {
        Ok(Owned { stored, record })
    } else {
        Err(ProblemType::UnknownQueue.into())
    }
}

impl Owned {
    /// Notes, to the week, that the owner is here. A concurrent change may be first: it has seen the owner too.
    pub(super) async fn note_presence(
        self,
        service: &DeliveryService,
        queue: &QueueId,
        now_ms: u64,
    ) -> Result<(), DsError> {
        let week = coarse(day_of(now_ms));
        if self.record.last_read_day >= Some(week) {
            return Ok(());
        }
        let mut record = self.record;
        record.last_read_day = Some(week);
        let sealed = record.seal(service, queue)?;
        let row = service.rows().queue(queue);
        let replaced = service
            .store
            .replace_queue(row, self.stored, Some(sealed), Receipt::default())
            .await;
        service.streams.record_changed(queue);
        match replaced.map_err(DsError::from) {
            Ok(()) | Err(DsError::Conflict) => Ok(()),
            Err(other) => Err(other),
        }
    }
}

/// Deletes a queue.
///
/// # Errors
/// [`ProblemType::UnknownQueue`], also for a queue of another owner.
pub async fn delete_queue(
    service: &DeliveryService,
    request: Request<DeleteQueueRequest>,
) -> Result<Accepted, DsError> {
    change(service, &request, request.body.queue_id, |_| Ok(None)).await
}

/// Deletes a queue on the operator's word.
///
/// # Errors
/// [`ProblemType::UnknownQueue`].
pub async fn delete_by_operator(service: &DeliveryService, queue: QueueId) -> Result<(), DsError> {
    let row = service.rows().queue(&queue);
    for _ in 0..ATTEMPTS {
        let stored = service.store.queue(row).await?;
        let stored = stored.ok_or(ProblemType::UnknownQueue)?;
        let replaced = service
            .store
            .replace_queue(row, stored, None, Receipt::default())
            .await;
        match replaced.map_err(DsError::from) {
            Ok(()) => {
                service.streams.record_changed(&queue);
                return Ok(());
            }
            Err(DsError::Conflict) => {}
            Err(other) => return Err(other),
        }
    }
    Err(ProblemType::Conflict.into())
}

/// Blocks a group at a queue, or takes from it again.
///
/// # Errors
/// [`ProblemType::UnknownQueue`], also for a queue of another owner; [`ProblemType::LimitExceeded`].
pub async fn block_group(
    service: &DeliveryService,
    request: Request<BlockGroupRequest>,
) -> Result<Accepted, DsError> {
    let BlockGroupRequest {
        queue_id,
        group_id,
        blocked,
    } = request.body;
    if blocked > 1 {
        return Err(ProblemType::Malformed.into());
    }
    let tag = service.rows().blocked_group(&queue_id, &group_id);
    change(service, &request, queue_id, |mut record| {
        record.blocked.retain(|other| *other != tag);
        if blocked == 1 {
            record.blocked.push(tag);
        }
        if record.blocked.len() > MAX_BLOCKED_GROUPS {
            return Err(ProblemType::LimitExceeded.into());
        }
        Ok(Some(record))
    })
    .await
}

/// Replaces the record of an own queue, or deletes it.
async fn change<T>(
    service: &DeliveryService,
    request: &Request<T>,
    queue: QueueId,
    next: impl Fn(QueueRecord) -> Result<Option<QueueRecord>, DsError>,
) -> Result<Accepted, DsError> {
    for _ in 0..ATTEMPTS {
        let Owned { stored, record } = owned(service, request, &queue).await?;
        let sealed = next(record)?
            .map(|record| record.seal(service, &queue))
            .transpose()?;
        let receipt = request.receipt(service, 0, &Accepted {}.encode())?;
        let row = service.rows().queue(&queue);
        let replaced = service
            .store
            .replace_queue(row, stored, sealed, receipt)
            .await;
        // Also after a failure: it may have happened all the same.
        service.streams.record_changed(&queue);
        match replaced.map_err(DsError::from) {
            Ok(()) => return Ok(Accepted {}),
            Err(DsError::Conflict) => {}
            Err(other) => return Err(other),
        }
    }
    Err(ProblemType::Conflict.into())
}
