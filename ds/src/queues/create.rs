//! Creating a queue.

use protocol::Wire;
use protocol::ids::QueueId;
use protocol::problem::ProblemType;
use protocol::queues::{CreateQueueRequest, CreateQueueResponse};
use protocol::time::day_of;

use super::QueueRecord;
use crate::error::DsError;
use crate::request::Request;
use crate::service_state::DeliveryService;

/// Creates a queue owned by the signing key.
///
/// # Errors
/// [`ProblemType::Malformed`] for an HPKE key that is none.
pub async fn create_queue(
    service: &DeliveryService,
    request: Request<CreateQueueRequest>,
) -> Result<CreateQueueResponse, DsError> {
    let price = usize::from(service.settings.prices.create_queue);
    request.require_tokens(price)?;
    let owner = request.authenticate_key()?;
    let hpke_public_key: [u8; 32] = request
        .body
        .hpke_public_key
        .as_slice()
        .try_into()
        .map_err(|_| ProblemType::Malformed)?;
    // A key that nothing can be sealed to (a point of small order) would make every delivery fail.
    crypto::hpke::send_export(&hpke_public_key, b"check", "check")
        .map_err(|_| ProblemType::Malformed)?;
    let queue_id = QueueId(crypto::random()?);
    let response = CreateQueueResponse { queue_id };
    let sealed = QueueRecord::new(owner.0, hpke_public_key, day_of(request.now_ms))
        .seal(service, &queue_id)?;
    service
        .store
        .create_queue(
            service.rows().queue(&queue_id),
            sealed,
            request.receipt(service, price, &response.encode())?,
        )
        .await?;
    Ok(response)
}
