//! HTTP: extract, call, encode. Knows no store.

mod directory;
mod problem;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use protocol::operation::DIRECTORY_PATH;
use protocol::problem::ProblemType;
use protocol::{Operation, REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, Wire};
use service::gateway_auth::{GatewaySecret, require_gateway};
use service::http::RequestBody;

use crate::error::DsError;
use crate::load::{BUSY_MS, Place};
use crate::request::{Envelope, Request};
use crate::results::RequestDigest;
use crate::service_state::DeliveryService;
use crate::store::DayRow;
use crate::tokens::in_flight::InUse;
use crate::tokens::{self, Offered};
use crate::{connections, groups, key_packages, queues};

type Service = Arc<DeliveryService>;

/// One POST route: the operation's number, its body and response types, and the domain call.
macro_rules! operation {
    ($router:expr, $operation:expr, |$service:ident, $request:ident| $call:block) => {
        $router.route(
            $operation.path(),
            post(
                |State($service): State<Service>,
                 headers: HeaderMap,
                 RequestBody(body): RequestBody| async move {
                    answer(
                        &$service.clone(),
                        $operation,
                        &headers,
                        &body,
                        |$request| async move {
                            let $service = &$service;
                            $call
                        },
                    )
                    .await
                },
            ),
        )
    };
}

/// All routes, for the gateway only.
pub fn router(service: Service, gateway: GatewaySecret) -> Router {
    let mut router =
        service::http::router::<Service>().route(DIRECTORY_PATH, get(directory::directory));
    router = operation!(router, Operation::ReserveGroupId, |service, request| {
        groups::create::reserve_group_id(service, request).await
    });
    router = operation!(router, Operation::CreateGroup, |service, request| {
        groups::create::create_group(service, request).await
    });
    router = commits(router);
    router = operation!(router, Operation::ExternalJoin, |service, request| {
        groups::commit::external_join(service, request).await
    });
    router = operation!(router, Operation::SelfRemove, |service, request| {
        groups::propose::propose(service, Operation::SelfRemove, request).await
    });
    router = operation!(router, Operation::Propose, |service, request| {
        groups::propose::propose(service, Operation::Propose, request).await
    });
    router = operation!(router, Operation::InspectGroup, |service, request| {
        groups::members::inspect_group(service, request).await
    });
    router = operation!(router, Operation::OwnLeaf, |service, request| {
        groups::members::own_leaf(service, request).await
    });
    router = operation!(router, Operation::SetJoinCode, |service, request| {
        groups::members::set_join_code(service, request).await
    });
    router = operation!(
        router,
        Operation::UpdateQueueReference,
        |service, request| { groups::members::update_queue_reference(service, request).await }
    );
    router = operation!(router, Operation::SendMessage, |service, request| {
        groups::message::send_message(service, request).await
    });
    router = operation!(router, Operation::JoinRecord, |service, request| {
        groups::join::join_record(service, request).await
    });
    router = operation!(router, Operation::ExternalCommitInfo, |service, request| {
        groups::join::external_commit_info(service, request).await
    });
    router = operation!(router, Operation::SetRecoverySecret, |service, request| {
        groups::members::set_recovery_secret(service, request).await
    });
    router = operation!(router, Operation::RecoveryRecord, |service, request| {
        groups::join::recovery_record(service, request).await
    });
    router = operation!(router, Operation::PublishKeyPackages, |service, request| {
        key_packages::publish_key_packages(service, request).await
    });
    router = operation!(router, Operation::ClaimKeyPackages, |service, request| {
        key_packages::claim_key_packages(service, request).await
    });
    router = operation!(router, Operation::DeleteKeyPackages, |service, request| {
        key_packages::delete_key_packages(service, request).await
    });
    router = operation!(router, Operation::CountKeyPackages, |service, request| {
        key_packages::count_key_packages(service, request).await
    });
    router = operation!(router, Operation::RegisterHandle, |service, request| {
        connections::register_handle(service, request).await
    });
    router = operation!(router, Operation::LookupHandle, |service, request| {
        connections::lookup_handle(service, request).await
    });
    router = operation!(router, Operation::RequestConnection, |service, request| {
        connections::request_connection(service, request).await
    });
    router = operation!(router, Operation::DeleteHandle, |service, request| {
        connections::delete_handle(service, request).await
    });
    router = operation!(router, Operation::CreateQueue, |service, request| {
        queues::create::create_queue(service, request).await
    });
    router = operation!(router, Operation::FetchQueue, |service, request| {
        queues::fetch::fetch_queue(service, request).await
    });
    router = operation!(router, Operation::AcknowledgeQueue, |service, request| {
        queues::fetch::acknowledge_queue(service, request).await
    });
    router = operation!(router, Operation::DeleteQueue, |service, request| {
        queues::owner::delete_queue(service, request).await
    });
    router = operation!(router, Operation::BlockGroup, |service, request| {
        queues::owner::block_group(service, request).await
    });
    require_gateway(router.with_state(service), gateway)
}

/// The commits of members: one body, one path, rules of their own.
fn commits(mut router: Router<Service>) -> Router<Service> {
    macro_rules! commits {
        ($($operation:ident),+) => {
            $(router = operation!(router, Operation::$operation, |service, request| {
                groups::commit::commit(service, Operation::$operation, request).await
            });)+
        };
    }
    commits!(
        AddUsers,
        RemoveUsers,
        AddClients,
        RemoveClients,
        UpdateClient,
        SetRole,
        DeleteGroup,
        ReInitializeGroup
    );
    router
}

async fn answer<T: Wire, R: Wire, F: Future<Output = Result<R, DsError>>>(
    service: &Service,
    operation: Operation,
    headers: &HeaderMap,
    body: &Bytes,
    call: impl FnOnce(Request<T>) -> F,
) -> Response {
    // The body is here: nobody holds a place by sending slowly.
    let place = service.load.admit(operation, service.clock.now_unix_ms());
    let answered = match place {
        Ok(place) => carry_out(service, operation, headers, body, place, call).await,
        Err(busy) => Err(busy),
    };
    match answered {
        Ok(response) => {
            metrics::counter!("ds_requests_total", "operation" => operation_label(operation), "outcome" => "ok").increment(1);
            (
                [(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static(RESPONSE_MEDIA_TYPE),
                )],
                response,
            )
                .into_response()
        }
        Err(error) => {
            metrics::counter!("ds_requests_total", "operation" => operation_label(operation), "outcome" => problem::slug(&error)).increment(1);
            problem::respond(service, error)
        }
    }
}

fn operation_label(operation: Operation) -> &'static str {
    operation.path()
}

async fn carry_out<T: Wire, R: Wire, F: Future<Output = Result<R, DsError>>>(
    service: &Service,
    operation: Operation,
    headers: &HeaderMap,
    body: &Bytes,
    mut place: Place<'_>,
    call: impl FnOnce(Request<T>) -> F,
) -> Result<Vec<u8>, DsError> {
    if headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes)
        != Some(REQUEST_MEDIA_TYPE.as_bytes())
    {
        return Err(ProblemType::UnsupportedMediaType.into());
    }
    let envelope = Envelope::decode(body, operation, service.clock.now_unix_ms())?;
    let row = envelope.result_row(service);
    if let Some(sealed) = service.store.result(row).await? {
        return envelope.digest().open(&sealed);
    }
    let offered = Offered::read(service, operation, envelope.body(), headers)?;
    let releases = service.tokens_in_flight.releases();
    if offered.is_spent(service).await? {
        return spent(service, row, body).await;
    }
    let tokens = offered.verify(service)?;
    let request = envelope.into_request::<T>(tokens)?;
    // A fetch pays before its work, and then waits: it would keep its token from everything else.
    let _held = if operation == Operation::FetchQueue {
        None
    } else {
        Some(match service.tokens_in_flight.try_hold(request.paid_by()) {
            Some(held) => held,
            None => {
                let busy = DsError::Busy {
                    retry_after_ms: BUSY_MS,
                };
                drop(place);
                let held = service.tokens_in_flight.hold(request.paid_by()).await;
                let held = held.map_err(|InUse| busy)?;
                place = service.load.place(operation)?;
                held
            }
        })
    };
    // Another request may have spent a token since we looked, and was perhaps this very one.
    if service.tokens_in_flight.releases() != releases && request.is_spent(service).await? {
        return spent(service, row, body).await;
    }
    let _place = place;
    let spent = request.spent();
    match call(request).await {
        Ok(response) => {
            tokens::count_redeemed(spent.swap(0, Ordering::Relaxed));
            Ok(response.encode())
        }
        // The same request came twice at once, and the other was first: its transition says so, or what it
        // left behind looked like a reason to refuse.
        Err(DsError::AlreadyDone(sealed)) => RequestDigest::of(body).open(&sealed),
        Err(error) => match service.store.result(row).await? {
            Some(sealed) => RequestDigest::of(body).open(&sealed),
            None => {
                // Those that are none were refused above.
                if matches!(error, DsError::Refused(ProblemType::TokenRejected)) {
                    tokens::count_refused("spent");
                }
                Err(error)
            }
        },
    }
}

/// A token of the request is spent: by the request itself, if it was carried out since its record was looked
/// for.
async fn spent(service: &Service, row: DayRow, body: &Bytes) -> Result<Vec<u8>, DsError> {
    match service.store.result(row).await? {
        Some(sealed) => RequestDigest::of(body).open(&sealed),
        None => {
            tokens::count_refused("spent");
            Err(ProblemType::TokenRejected.into())
        }
    }
}

/// The status of a problem type; the numbers in `protocol` are statuses.
fn status(problem: ProblemType) -> StatusCode {
    StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
