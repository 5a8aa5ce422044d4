//! Application messages: the hot path. Opens the roster, verifies one signature, inserts entries.

use crypto::keys::StateKey;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{ContentType, MlsMessageIn, ProtocolMessage};
use protocol::Wire;
use protocol::codec::opaque;
use protocol::delivery::Payload;
use protocol::groups::{MessageAccepted, SendMessageRequest};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;

use super::roster::Roster;
use super::{ATTEMPTS, authenticate, charge_allowance, open_roster, queues};
use crate::error::DsError;
use crate::limits::within;
use crate::queues::deliver::{self, Prepared};
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::Parts;

/// Puts a message into every other member's queue.
///
/// # Errors
/// [`ProblemType::LimitExceeded`], [`ProblemType::UnknownGroup`], [`ProblemType::BadSignature`],
/// [`ProblemType::InvalidMessage`], [`DsError::WrongEpoch`], [`DsError::TooManyRequests`].
pub async fn send_message(
    service: &DeliveryService,
    request: Request<SendMessageRequest>,
) -> Result<MessageAccepted, DsError> {
    within(
        request.body.message.as_slice().len(),
        service.settings.limits.message_bytes,
    )?;
    let group_id = request.body.group_id;
    let row = service.rows().group(&group_id);
    let key = StateKey::from(&request.body.state_key);
    let mut charged = None;
    // A commit between our reading and writing makes us look again: the roster has changed.
    for _ in 0..ATTEMPTS {
        let stored = service.store.group(row, Parts::ROSTER).await?;
        let opened = open_roster(&group_id, &key, stored.as_ref())?;
        let roster = Roster::read(&opened)?;
        let sender = authenticate(&request, &roster)?.index;
        let message = request.body.message.as_slice();
        check_message(message, &group_id, &roster)?;
        let price = match charged {
            Some(price) => price,
            None => *charged.insert(charge_allowance(service, &request, &group_id, sender).await?),
        };
        let recipients = queues(
            service,
            roster.leaves().iter().filter(|leaf| leaf.index != sender),
        )?;
        let mut prepared = Prepared::default();
        let payload = Payload::Message(opaque(message));
        deliver::prepare(
            service,
            &mut prepared,
            &recipients,
            &payload,
            request.now_ms,
        )
        .await?;
        let response = MessageAccepted {
            accepted_timestamp_ms: request.now_ms,
        };
        let receipt = request.receipt(service, price, &response.encode())?;
        let expected = stored
            .map(|stored| stored.version)
            .ok_or(ProblemType::UnknownGroup)?;
        let deliveries = std::mem::take(&mut prepared.deliveries);
        match service
            .store
            .deliver_to_group(row, expected, deliveries, receipt)
            .await
            .map_err(DsError::from)
        {
            Ok(()) => {
                prepared.done(service);
                if price > 0 {
                    service
                        .leaf_allowances
                        .refill(service.rows().allowance(&group_id, sender));
                }
                return Ok(response);
            }
            Err(DsError::Conflict) => {}
            Err(other) => return Err(other),
        }
    }
    Err(ProblemType::Conflict.into())
}

/// The endpoint takes a PrivateMessage of content type application, of the current epoch or an allowed
/// earlier one, and nothing else (RFC 9420 §6.3).
fn check_message(message: &[u8], group: &GroupId, roster: &Roster<'_>) -> Result<(), DsError> {
    let (message, rest) =
        MlsMessageIn::tls_deserialize_bytes(message).map_err(|_| ProblemType::InvalidMessage)?;
    if !rest.is_empty() {
        return Err(ProblemType::InvalidMessage.into());
    }
    let Ok(ProtocolMessage::PrivateMessage(message)) = message.try_into_protocol_message() else {
        return Err(ProblemType::InvalidMessage.into());
    };
    let message = ProtocolMessage::PrivateMessage(message);
    if message.content_type() != ContentType::Application
        || message.group_id().as_slice() != group.0
    {
        return Err(ProblemType::InvalidMessage.into());
    }
    let epoch = message.epoch().as_u64();
    if epoch < roster.oldest_message_epoch || epoch > roster.epoch {
        return Err(DsError::WrongEpoch {
            current: roster.epoch,
        });
    }
    Ok(())
}
