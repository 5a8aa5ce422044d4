//! What every operation refuses alike, before it looks at anything of its own.

use http::{Request, StatusCode, header};
use protocol::codec::opaque;
use protocol::envelope::Sender;
use protocol::operation::DIRECTORY_PATH;
use protocol::problem::ProblemType;
use protocol::time::CLOCK_WINDOW_MS;
use protocol::{Operation, REQUEST_MEDIA_TYPE};
use service::gateway_auth::GATEWAY_AUTHORIZATION;

use crate::support::request::fresh_key;
use crate::support::samples::{Sample, samples};
use crate::support::{Engine, FREE, Service, Setup, meter};

fn free_service() -> Service {
    Service::with(Setup {
        prices: FREE,
        ..Setup::on(Engine::Memory)
    })
}

/// Every sample is acceptable as it is, or the tests below would show nothing.
async fn all_are_acceptable(service: &Service, samples: &[Sample]) {
    for sample in samples {
        let reply = service.pay(sample.operation(), &sample.signed()).await;
        assert_eq!(
            reply.status,
            StatusCode::OK,
            "{:?}: {}",
            sample.operation(),
            String::from_utf8_lossy(&reply.body)
        );
    }
}

#[tokio::test]
async fn bytes_that_end_too_early_or_go_on_are_refused_at_every_length() {
    let service = free_service();
    let samples = samples(&service).await;
    let before = service.store.transitions();
    for sample in &samples {
        let operation = sample.operation();
        let request = sample.signed();
        for len in 0..request.len() {
            let reply = service.post(operation, request.get(..len).unwrap()).await;
            assert_eq!(
                reply.problem(),
                ProblemType::Malformed,
                "{operation:?} at {len}"
            );
        }
        let trailing = [request.as_slice(), &[0]].concat();
        assert_eq!(
            service.post(operation, &trailing).await.problem(),
            ProblemType::Malformed
        );

        let mut draft = sample.draft.clone();
        let body = std::mem::take(&mut draft.body);
        for len in 0..body.len() {
            draft.body = body.get(..len).unwrap().to_vec();
            let reply = service.post(operation, &draft.signed(&sample.key)).await;
            assert_eq!(
                reply.problem(),
                ProblemType::Malformed,
                "body of {operation:?} at {len}"
            );
        }
        draft.body = [body.as_slice(), &[0]].concat();
        let reply = service.post(operation, &draft.signed(&sample.key)).await;
        assert_eq!(reply.problem(), ProblemType::Malformed);
    }
    assert_eq!(service.store.transitions(), before);
    all_are_acceptable(&service, &samples).await;
}

/// The handlers run on this thread, where the meter measures.
#[tokio::test(flavor = "current_thread")]
async fn a_length_field_decides_neither_about_memory_nor_about_our_fault() {
    const HUGE: [u8; 4] = [0xbf, 0xff, 0xff, 0xff];
    let service = free_service();
    for sample in samples(&service).await {
        let operation = sample.operation();
        let envelope = sample.signed();
        let in_envelope = (0..envelope.len().saturating_sub(4)).map(|at| {
            let mut request = envelope.clone();
            request[at..at + 4].copy_from_slice(&HUGE);
            request
        });
        let body = &sample.draft.body;
        let in_body = (0..body.len().saturating_sub(4)).map(|at| {
            let mut draft = sample.draft.clone();
            draft.body[at..at + 4].copy_from_slice(&HUGE);
            draft.signed(&sample.key)
        });
        for request in in_envelope.chain(in_body) {
            let request = service.http_request(operation.path(), request, &[]);
            meter::reset();
            let reply = service.http(request).await;
            // The largest honest allocation is a multiple of the request, which is a few kilobytes.
            assert!(
                meter::largest() < 1 << 20,
                "{operation:?} allocated {} bytes",
                meter::largest()
            );
            assert!(
                reply.status.as_u16() < 500,
                "{operation:?}: {}",
                reply.status
            );
        }
    }
}

#[tokio::test]
async fn a_signature_counts_for_exactly_what_was_signed() {
    let service = Service::start(Engine::Memory);
    let samples = samples(&service).await;
    for sample in &samples {
        let (operation, draft, key) = (sample.operation(), &sample.draft, &sample.key);
        let mut other = draft.clone();
        other.timestamp_ms += 1;
        let mut other_body = draft.clone();
        other_body.body.push(1);
        let mut other_operation = draft.clone();
        other_operation.operation = Operation::ALL
            .iter()
            .copied()
            .find(|candidate| *candidate != operation)
            .unwrap();
        let mut other_sender = draft.clone();
        other_sender.sender = match draft.sender {
            Sender::Leaf(_) => Sender::Key(opaque(key.public())),
            Sender::Key(_) => Sender::Leaf(0),
        };
        let right = signature_of(&draft.signed(key));
        let forgeries = [
            draft.signed(&fresh_key()),
            draft.with_signature(signature_of(&other.signed(key))),
            draft.with_signature(signature_of(&other_body.signed(key))),
            draft.with_signature(signature_of(&other_operation.signed(key))),
            draft.with_signature(signature_of(&other_sender.signed(key))),
            draft.with_signature(Vec::new()),
            draft.with_signature(right[..63].to_vec()),
            draft.with_signature([right.as_slice(), &[0]].concat()),
        ];
        for forgery in forgeries {
            assert_eq!(
                service.refused(operation, &forgery).await,
                ProblemType::BadSignature,
                "{operation:?}"
            );
        }
    }
    all_are_acceptable(&service, &samples).await;
}

fn signature_of(request: &[u8]) -> Vec<u8> {
    request[request.len() - 64..].to_vec()
}

#[tokio::test]
async fn a_leaf_signs_where_a_leaf_is_asked_for_and_a_key_where_a_key_is() {
    let service = Service::start(Engine::Memory);
    let samples = samples(&service).await;
    for sample in &samples {
        let mut draft = sample.draft.clone();
        let senders = match draft.sender {
            Sender::Leaf(_) => vec![
                Sender::Key(opaque(sample.key.public())),
                // Another member, and a leaf that is none.
                Sender::Leaf(1),
                Sender::Leaf(77),
                Sender::Leaf(u32::MAX),
            ],
            Sender::Key(_) => vec![
                Sender::Leaf(0),
                Sender::Key(opaque(Vec::new())),
                Sender::Key(opaque(vec![0; 32])),
                Sender::Key(opaque([sample.key.public().as_slice(), &[0]].concat())),
            ],
        };
        for sender in senders {
            draft.sender = sender;
            assert_eq!(
                service
                    .refused(draft.operation, &draft.signed(&sample.key))
                    .await,
                ProblemType::BadSignature,
                "{draft:?}",
                draft = (draft.operation, &draft.sender)
            );
        }
    }
    all_are_acceptable(&service, &samples).await;
}

#[tokio::test]
async fn a_request_is_for_one_operation_and_one_version() {
    let service = Service::start(Engine::Memory);
    for sample in samples(&service).await {
        let (operation, request) = (sample.operation(), sample.signed());
        for elsewhere in Operation::ALL.iter().filter(|other| **other != operation) {
            assert_eq!(
                service.refused(*elsewhere, &request).await,
                ProblemType::Malformed
            );
        }
        let mut draft = sample.draft.clone();
        draft.version = 2;
        let reply = service.post(operation, &draft.signed(&sample.key)).await;
        assert_eq!(reply.problem(), ProblemType::UnsupportedVersion);
        assert_eq!(reply.document()["supported"], serde_json::json!([1]));
        // Of a later version nothing else need be as we know it.
        assert_eq!(
            service.refused(operation, &[0, 2, 0xff]).await,
            ProblemType::UnsupportedVersion
        );
    }
}

#[tokio::test]
async fn a_timestamp_outside_the_window_is_refused_either_way() {
    let service = Service::start(Engine::Memory);
    let samples = samples(&service).await;
    for sample in &samples {
        let mut draft = sample.draft.clone();
        for timestamp in [
            0,
            service.now() - CLOCK_WINDOW_MS - 1,
            service.now() + CLOCK_WINDOW_MS + 1,
            u64::MAX,
        ] {
            draft.timestamp_ms = timestamp;
            let reply = service
                .post(draft.operation, &draft.signed(&sample.key))
                .await;
            assert_eq!(reply.problem(), ProblemType::StaleTimestamp);
            assert_eq!(reply.document()["now_ms"], service.now());
        }
        draft.timestamp_ms = service.now() - CLOCK_WINDOW_MS;
        let reply = service
            .pay(draft.operation, &draft.signed(&sample.key))
            .await;
        assert_eq!(reply.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn another_media_type_is_refused() {
    let service = Service::start(Engine::Memory);
    for sample in samples(&service).await {
        for media_type in [
            None,
            Some("application/octet-stream"),
            Some("application/mimi-ds-request; v=2"),
        ] {
            let mut request = service.http_request(sample.operation().path(), sample.signed(), &[]);
            request.headers_mut().remove(header::CONTENT_TYPE);
            if let Some(media_type) = media_type {
                request
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, media_type.parse().unwrap());
            }
            assert_eq!(
                service.http(request).await.problem(),
                ProblemType::UnsupportedMediaType
            );
        }
    }
}

#[tokio::test]
async fn whoever_is_not_the_gateway_gets_one_answer_everywhere() {
    let service = Service::start(Engine::Memory);
    let before = service.store.transitions();
    let mut replies = Vec::new();
    for sample in samples(&service).await {
        let mut request = service.http_request(sample.operation().path(), sample.signed(), &[]);
        request.headers_mut().remove(GATEWAY_AUTHORIZATION);
        replies.push(service.http(request).await);
    }
    for request in [
        Request::get(DIRECTORY_PATH)
            .body(axum::body::Body::empty())
            .unwrap(),
        Request::get("/nowhere")
            .body(axum::body::Body::empty())
            .unwrap(),
        Request::get(DIRECTORY_PATH)
            .header(
                GATEWAY_AUTHORIZATION,
                "Bearer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            )
            .body(axum::body::Body::empty())
            .unwrap(),
    ] {
        replies.push(service.http(request).await);
    }
    let first = replies.first().unwrap();
    assert_eq!(first.problem(), ProblemType::GatewayOnly);
    assert!(replies.iter().all(|reply| reply == first));
    assert!(
        service.store.transitions() > before,
        "the samples were made"
    );
}

#[tokio::test]
async fn the_directory_is_the_same_for_everybody_and_names_what_clients_need() {
    let service = Service::start(Engine::Memory);
    let directory = || async {
        let request = Request::get(DIRECTORY_PATH)
            .header(GATEWAY_AUTHORIZATION, service.gateway())
            .body(axum::body::Body::empty())
            .unwrap();
        service.http(request).await
    };
    let (one, other) = (directory().await, directory().await);
    assert_eq!(one, other);
    let directory: protocol::directory::Directory = serde_json::from_slice(&one.body).unwrap();
    assert_eq!(directory.domain, crate::support::DOMAIN);
    assert_eq!(directory.wire_versions, [1]);
    assert_eq!(directory.prices, service.prices);
    assert_eq!(
        directory.queue_service_key.key_id,
        service.queue_service_key().0
    );
    assert_eq!(directory.issuer.token_key_ids.len(), 1);
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_a_problem_too() {
    let service = Service::start(Engine::Memory);
    let at = |method: &str, path: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .header(GATEWAY_AUTHORIZATION, service.gateway())
            .header(header::CONTENT_TYPE, REQUEST_MEDIA_TYPE)
            .body(axum::body::Body::empty())
            .unwrap()
    };
    let reply = service.http(at("POST", "/v1/groups/unheard-of")).await;
    assert_eq!(
        (reply.status, reply.document()["status"].clone()),
        (StatusCode::NOT_FOUND, 404.into())
    );
    let reply = service.http(at("GET", Operation::SendMessage.path())).await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
}

/// `make fuzz` sets it.
fn cases() -> usize {
    std::env::var("PROPTEST_CASES").map_or(60, |cases| cases.parse().unwrap())
}

/// A body with bytes changed, cut out or doubled somewhere.
fn damaged(body: &[u8]) -> Vec<u8> {
    let roll = |sides: usize| {
        let random = u64::from_be_bytes(crypto::random().unwrap());
        usize::try_from(random % u64::try_from(sides.max(1)).unwrap()).unwrap()
    };
    let mut damaged = body.to_vec();
    for _ in 0..=roll(3) {
        let at = roll(damaged.len());
        let end = (at + roll(9)).min(damaged.len());
        match roll(4) {
            0 => damaged.truncate(at),
            1 => {
                damaged.drain(at..end);
            }
            2 => {
                let again = damaged[at..end].to_vec();
                damaged.splice(at..at, again);
            }
            _ => {
                let changed: [u8; 8] = crypto::random().unwrap();
                for (byte, new) in damaged[at..end].iter_mut().zip(changed) {
                    *byte = new;
                }
            }
        }
    }
    damaged
}

#[tokio::test]
async fn arbitrary_bodies_in_a_valid_envelope_are_refused_without_a_trace() {
    let service = free_service();
    let samples = samples(&service).await;
    for sample in &samples {
        for _ in 0..cases() {
            let mut draft = sample.draft.clone();
            draft.body = damaged(&draft.body);
            let before = service.store.transitions();
            let reply = service
                .post(draft.operation, &draft.signed(&sample.key))
                .await;
            assert!(
                reply.status.as_u16() < 500,
                "{:?}: {}",
                draft.operation,
                reply.status
            );
            if reply.status != StatusCode::OK {
                assert_eq!(service.store.transitions(), before, "{:?}", draft.operation);
            }
        }
    }
}
