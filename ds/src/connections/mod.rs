//! Handles and connection requests: nobody is added to anything before having agreed.

use crypto::sealing::{self, Place};
use protocol::Wire;
use protocol::codec::opaque;
use protocol::connections::{
    DeleteHandleRequest, HandleRecord, LookupHandleRequest, LookupHandleResponse,
    RegisterHandleRequest, RequestConnectionRequest, is_valid_handle,
};
use protocol::delivery::Payload;
use protocol::groups::Accepted;
use protocol::ids::QueueId;
use protocol::problem::ProblemType;
use serde::{Deserialize, Serialize};

use crate::error::DsError;
use crate::queues::deliver::{self, Origin, Prepared, Recipient};
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::StoreError;

/// Longest record, bytes.
const MAX_RECORD: usize = 1024;
/// Longest encrypted connection request, bytes.
const MAX_CONNECTION_REQUEST: usize = 8 * 1024;

const HANDLE_OWNER: &str = "handle owner";

#[derive(Serialize, Deserialize)]
struct StoredHandle {
    format: u8,
    record: Vec<u8>,
    request_queue: [u8; 16],
}

const FORMAT: u8 = 1;

fn place(handle: &[u8]) -> Place<'_> {
    Place {
        table: "handles",
        row: handle,
        part: "record",
    }
}

/// Registers a handle for the signing key, or replaces its own record.
///
/// # Errors
/// [`ProblemType::InvalidHandle`], [`ProblemType::InvalidLeaf`] for a queue reference that does not open;
/// [`ProblemType::HandleTaken`]: the token is spent all the same, or trying names would be free.
pub async fn register_handle(
    service: &DeliveryService,
    request: Request<RegisterHandleRequest>,
) -> Result<Accepted, DsError> {
    let price = usize::from(service.settings.prices.register_handle);
    request.require_tokens(price)?;
    let owner = request.authenticate_key()?;
    let body = &request.body;
    let handle = body.handle.as_slice();
    if !is_valid_handle(handle) {
        return Err(ProblemType::InvalidHandle.into());
    }
    let record = body.record.as_slice();
    if record.len() > MAX_RECORD {
        return Err(ProblemType::LimitExceeded.into());
    }
    let decoded = HandleRecord::decode(record).map_err(|_| ProblemType::Malformed)?;
    crypto::connection::verify_handle_record(handle, &decoded)
        .map_err(|_| ProblemType::BadSignature)?;
    let queue = service
        .keys
        .open_reference(&owner.0, body.queue_reference.as_slice())
        .map_err(|_| ProblemType::InvalidLeaf)?;
    let stored = StoredHandle {
        format: FORMAT,
        record: record.to_vec(),
        request_queue: queue.0,
    };
    let bytes = postcard::to_stdvec(&stored).map_err(|_| DsError::Internal("handle record"))?;
    let sealed = sealing::seal(service.rows().storage_key().expose(), place(handle), &bytes)?;
    let receipt = request.receipt(service, price, &Accepted {}.encode())?;
    let registered = service
        .store
        .register_handle(
            service.rows().handle(handle),
            owner.tag(service, HANDLE_OWNER),
            sealed,
            receipt,
        )
        .await;
    match registered {
        Ok(()) => Ok(Accepted {}),
        Err(StoreError::Taken) => {
            let taken = ProblemType::HandleTaken.into();
            Err(request.refuse_at_cost(service, price, taken).await)
        }
        Err(other) => Err(other.into()),
    }
}

/// Gives a handle up: anybody may register it then.
///
/// # Errors
/// [`ProblemType::UnknownHandle`], also for another's: one and the same.
pub async fn delete_handle(
    service: &DeliveryService,
    request: Request<DeleteHandleRequest>,
) -> Result<Accepted, DsError> {
    let owner = request.authenticate_key()?;
    let handle = request.body.handle.as_slice();
    if !is_valid_handle(handle) {
        return Err(ProblemType::InvalidHandle.into());
    }
    let receipt = request.receipt(service, 0, &Accepted {}.encode())?;
    service
        .store
        .delete_handle(
            service.rows().handle(handle),
            owner.tag(service, HANDLE_OWNER),
            receipt,
        )
        .await
        .map_err(|error| match error {
            StoreError::Taken | StoreError::Absent => ProblemType::UnknownHandle.into(),
            other => DsError::from(other),
        })?;
    Ok(Accepted {})
}

async fn load(service: &DeliveryService, handle: &[u8]) -> Result<StoredHandle, DsError> {
    if !is_valid_handle(handle) {
        return Err(ProblemType::InvalidHandle.into());
    }
    let sealed = service
        .store
        .handle(service.rows().handle(handle))
        .await?
        .ok_or(ProblemType::UnknownHandle)?;
    let bytes = sealing::open(
        service.rows().storage_key().expose(),
        place(handle),
        &sealed,
    )?;
    let stored: StoredHandle =
        postcard::from_bytes(&bytes).map_err(|_| DsError::Internal("handle record"))?;
    if stored.format == FORMAT {
        Ok(stored)
    } else {
        Err(DsError::Internal("handle record format"))
    }
}

/// The record behind a handle.
///
/// # Errors
/// [`ProblemType::UnknownHandle`]: the token is spent all the same, or trying names would be free.
pub async fn lookup_handle(
    service: &DeliveryService,
    request: Request<LookupHandleRequest>,
) -> Result<LookupHandleResponse, DsError> {
    let price = usize::from(service.settings.prices.lookup_handle);
    request.require_tokens(price)?;
    request.authenticate_key()?;
    match load(service, request.body.handle.as_slice()).await {
        Ok(stored) => {
            let response = LookupHandleResponse {
                record: opaque(stored.record),
            };
            service
                .store
                .settle(request.receipt(service, price, &response.encode())?)
                .await?;
            Ok(response)
        }
        Err(unknown @ DsError::Refused(ProblemType::UnknownHandle)) => {
            Err(request.refuse_at_cost(service, price, unknown).await)
        }
        Err(other) => Err(other),
    }
}

/// Puts a connection request into the queue behind a handle.
///
/// # Errors
/// [`ProblemType::UnknownHandle`], [`ProblemType::LimitExceeded`].
pub async fn request_connection(
    service: &DeliveryService,
    request: Request<RequestConnectionRequest>,
) -> Result<Accepted, DsError> {
    let price = usize::from(service.settings.prices.request_connection);
    request.require_tokens(price)?;
    request.authenticate_key()?;
    let encrypted = request.body.encrypted_request.as_slice();
    if encrypted.len() > MAX_CONNECTION_REQUEST {
        return Err(ProblemType::LimitExceeded.into());
    }
    // As in a look-up: trying names is not free.
    let stored = match load(service, request.body.handle.as_slice()).await {
        Err(unknown @ DsError::Refused(ProblemType::UnknownHandle)) => {
            return Err(request.refuse_at_cost(service, price, unknown).await);
        }
        stored => stored?,
    };
    let mut prepared = Prepared::default();
    deliver::prepare(
        service,
        &mut prepared,
        Origin::ConnectionRequest,
        &[Recipient {
            leaf: 0,
            queue: QueueId(stored.request_queue),
        }],
        &Payload::ConnectionRequest(opaque(encrypted)),
        request.now_ms,
    )
    .await?;
    let receipt = request.receipt(service, price, &Accepted {}.encode())?;
    service
        .store
        .deliver(prepared.take_deliveries(), receipt)
        .await?;
    prepared.done(service);
    Ok(Accepted {})
}
