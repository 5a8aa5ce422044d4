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

use super::parts::open_group;
use super::propose::propose_removals;
use super::roster::{Leaf, Roster, Today};
use super::{ATTEMPTS, authenticate, charge_allowance, recipients, refill};
use crate::error::DsError;
use crate::limits::within;
use crate::queues::deliver::{self, Origin, Prepared};
use crate::request::Request;
use crate::service_state::DeliveryService;

/// Puts a message into every other member's queue.
///
/// # Errors
/// [`ProblemType::LimitExceeded`], [`ProblemType::UnknownGroup`], [`ProblemType::BadSignature`],
/// [`ProblemType::InvalidMessage`], [`DsError::WrongEpoch`], [`ProblemType::NotAllowed`] for whoever could not send
/// in the epoch that the message names, [`ProblemType::PendingProposals`], [`ProblemType::GroupReinitialized`],
/// [`DsError::TooManyRequests`].
pub async fn send_message(
    service: &DeliveryService,
    request: Request<SendMessageRequest>,
) -> Result<MessageAccepted, DsError> {
    let body = &request.body;
    let (group_id, message) = (body.group_id, body.message.as_slice());
    let key = &StateKey::from(&body.state_key);
    within(message.len(), service.settings.limits.message_bytes)?;
    let row = service.rows().group(&group_id);
    let mut charged = None;
    // A commit between our reading and writing makes us look again: the roster has changed.
    for _ in 0..ATTEMPTS {
        let opened = open_group(service, row, &group_id, &[key]).await?;
        let roster = Roster::read(&opened.roster)?;
        let sender = authenticate(&request, &roster)?;
        check_message(message, &group_id, &roster, sender)?;
        let is_recipient = |leaf: &&Leaf<'_>| leaf.index != sender.index;
        let to = recipients(service, roster.leaves().iter().filter(is_recipient))?;
        let price = match charged {
            Some(price) => price,
            None => *charged.insert(charge_allowance(
                service,
                &request,
                &group_id,
                sender.index,
            )?),
        };
        let mut prepared = Prepared::default();
        let payload = Payload::Message(opaque(message));
        let origin = Origin::Group(group_id);
        deliver::prepare(
            service,
            &mut prepared,
            origin,
            &to,
            &payload,
            request.now_ms,
        )
        .await?;
        let mut gone = prepared.take_gone();
        gone.extend(roster.never_came(Today::at(service, request.now_ms)));
        gone.retain(|gone| gone.leaf != sender.index);
        if !gone.is_empty()
            && propose_removals(
                service,
                (&group_id, row, key),
                &opened.stored,
                &gone,
                request.now_ms,
            )
            .await?
        {
            // Nothing is sent before they are gone: the next look finds what is pending.
            continue;
        }
        let response = MessageAccepted {
            accepted_timestamp_ms: request.now_ms,
        };
        let receipt = request.receipt(service, price, &response.encode())?;
        let expected = opened.stored.version;
        let deliveries = prepared.take_deliveries();
        match service
            .store
            .deliver_to_group(row, expected, deliveries, receipt)
            .await
            .map_err(DsError::from)
        {
            Ok(()) => {
                prepared.done(service);
                refill(service, &group_id, sender.index, price);
                return Ok(response);
            }
            Err(DsError::Conflict) => {}
            Err(other) => return Err(other),
        }
    }
    Err(ProblemType::Conflict.into())
}

/// The endpoint takes a PrivateMessage of content type application, of the current epoch or an allowed
/// earlier one, from who could send in that epoch, and nothing else (RFC 9420 §6.3).
fn check_message(
    message: &[u8],
    group: &GroupId,
    roster: &Roster<'_>,
    sender: &Leaf<'_>,
) -> Result<(), DsError> {
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
    if roster.reinitialized {
        return Err(ProblemType::GroupReinitialized.into());
    }
    let epoch = message.epoch().as_u64();
    if epoch < roster.oldest_message_epoch || epoch > roster.epoch {
        return Err(DsError::other_epoch(epoch, roster.epoch));
    }
    if !roster.could_send(sender, epoch) {
        return Err(ProblemType::NotAllowed.into());
    }
    if roster.pending_removals.is_empty() {
        Ok(())
    } else {
        Err(ProblemType::PendingProposals.into())
    }
}
