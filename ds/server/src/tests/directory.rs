//! The directory, and answers that are no operation's.

use protocol::directory::Directory;
use protocol::operation::DIRECTORY_PATH;

use super::*;

async fn directory(running: &Running) -> Directory {
    let request = Request::get(DIRECTORY_PATH)
        .header(
            service::gateway_auth::GATEWAY_AUTHORIZATION,
            running.secret.header_value(),
        )
        .body(Body::empty())
        .unwrap();
    let reply = Reply::read(running.router.clone().oneshot(request).await.unwrap()).await;
    assert_eq!(reply.headers[header::CACHE_CONTROL], "max-age=600");
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test]
async fn the_directory_is_the_same_for_everybody_and_names_what_clients_need() {
    let mut setup = Setup::default();
    setup.decisions.prices.key_package_sets_per_token = 7;
    setup.owner = AllowanceLimits {
        nodes: 3,
        ..limits(300)
    };
    let running = running_with(setup);
    let shown = directory(&running).await;
    assert_eq!(shown, directory(&running).await);
    assert_eq!(shown.prices.key_package_sets_per_token, 7);
    // Of all nodes together.
    assert_eq!(shown.allowances.unwrap().owner.capacity, 300);
    let key = running.server.keys.journal_signing().public();
    use base64::Engine as _;
    let announced = base64::engine::general_purpose::URL_SAFE.decode(&shown.journal_signing_key);
    assert_eq!(announced.unwrap(), key);
    assert_eq!(shown.issuer.token_key_ids.len(), 1);
    assert_eq!(shown.clock_window_ms, 600_000);
}

#[tokio::test]
async fn whoever_is_not_the_gateway_sees_no_directory() {
    let running = running(10);
    let request = Request::get(DIRECTORY_PATH).body(Body::empty()).unwrap();
    let reply = Reply::read(running.router.clone().oneshot(request).await.unwrap()).await;
    assert_eq!(reply.problem(), ProblemType::GatewayOnly);
}

#[tokio::test]
async fn another_media_type_path_or_method_is_a_problem_too() {
    let running = running(10);
    for operation in [
        Number::ReserveGroupId,
        Number::JoinRecord,
        Number::ReadJournal,
    ] {
        let mut request = running.request(operation, reservation(1), &[]);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        let reply = Reply::read(running.router.clone().oneshot(request).await.unwrap()).await;
        assert_eq!(reply.problem(), ProblemType::UnsupportedMediaType);
    }
    let mut request = running.request(Number::ReserveGroupId, reservation(1), &[]);
    *request.uri_mut() = "/v1/queues/fetch".parse().unwrap();
    let reply = Reply::read(running.router.clone().oneshot(request).await.unwrap()).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(
        reply.headers[header::CONTENT_TYPE],
        "application/problem+json"
    );
    let mut request = running.request(Number::ReserveGroupId, reservation(1), &[]);
    *request.method_mut() = http::Method::GET;
    let reply = Reply::read(running.router.clone().oneshot(request).await.unwrap()).await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_end_too_early_or_go_on_are_refused_at_every_length() {
    let running = running(10_000);
    let before = running.memory.snapshot();
    let whole = reservation(1);
    for length in 0..whole.len() {
        let reply = running.reply(Number::ReserveGroupId, whole[..length].to_vec(), &[]);
        let problem = reply.await.problem();
        assert_eq!(problem, ProblemType::Malformed, "{length}");
    }
    let longer = [whole.as_slice(), &[0]].concat();
    let reply = running.reply(Number::ReserveGroupId, longer, &[]).await;
    assert_eq!(reply.problem(), ProblemType::Malformed);
    // Another version than ours is told which there are.
    let mut other = whole.clone();
    other[1] = 9;
    let reply = running.reply(Number::ReserveGroupId, other, &[]).await;
    assert_eq!(reply.problem(), ProblemType::UnsupportedVersion);
    // Another operation than that of the path.
    let reply = running.reply(Number::LookupHandle, whole, &[]).await;
    assert_eq!(reply.problem(), ProblemType::Malformed);
    assert_eq!(running.memory.snapshot(), before);
}

#[tokio::test]
async fn a_timestamp_outside_the_window_is_refused_either_way_with_our_time() {
    let running = running(10);
    let body = ReserveGroupIdRequest {
        group_id: protocol::ids::GroupId(crypto::random().unwrap()),
    };
    for (minutes, good) in [(-11_i64, false), (-10, true), (10, true), (11, false)] {
        let now = NOON_MS.checked_add_signed(minutes * 60_000).unwrap();
        let request = signed_at(now, Number::ReserveGroupId, 1, &body);
        let reply = running.reply(Number::ReserveGroupId, request, &[]).await;
        if good {
            assert_eq!(reply.problem(), ProblemType::TokenRequired);
        } else {
            assert_eq!(reply.problem(), ProblemType::StaleTimestamp);
            let document: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(document["now_ms"], NOON_MS);
        }
    }
}
