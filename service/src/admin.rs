//! The admin listener: metrics, health and the operator's commands, on an address of its own that
//! is never public.

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::routing::{get, post};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, StatusCode};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::process::{Commands, Readiness};

/// The media type of a command's body: a web page can't send it to another origin unasked.
pub(crate) const COMMAND_MEDIA_TYPE: &str = "application/x-mimimi-admin";

const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 90.0,
];
const BYTES: [f64; 9] = [
    512.0,
    1024.0,
    2048.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
];

const COUNTS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];

/// Installs the recorder of the process, once.
pub(crate) fn metrics_handle() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_tokens".into()), &COUNTS)
        })
        .and_then(PrometheusBuilder::install_recorder)?;
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Histograms grow until they are drained: this does it, also when nobody scrapes.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        handle.run_upkeep();
    }
}

pub(crate) fn router(handle: PrometheusHandle, readiness: Readiness, commands: Commands) -> Router {
    let command = move |UrlPath(name): UrlPath<String>, headers: HeaderMap, argument: String| async move {
        if headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)
            != Some(COMMAND_MEDIA_TYPE.as_bytes())
        {
            return (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("Content-Type must be {COMMAND_MEDIA_TYPE}\n"),
            );
        }
        // A web page whose name was made to lead here (DNS rebinding) is of this origin.
        if !headers.get(HOST).is_some_and(is_own_name) {
            return (
                StatusCode::MISDIRECTED_REQUEST,
                "Host must be an address or localhost\n".to_owned(),
            );
        }
        commands.carry_out(&name, argument).await
    };
    let healthy = || async { "ok\n" };
    let ready = |State(readiness): State<Readiness>| async move {
        match readiness.asked().await {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(why) if why.is_empty() => {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
            }
            Err(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {why}\n"),
            ),
        }
    };
    let metrics = move || async move {
        (
            [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            handle.render(),
        )
    };
    crate::http::router()
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/commands/{name}", post(command))
        .with_state(readiness)
}

/// An IP address or `localhost`, with or without a port.
fn is_own_name(host: &HeaderValue) -> bool {
    let Some(authority) = host
        .to_str()
        .ok()
        .and_then(|host| host.parse::<http::uri::Authority>().ok())
    else {
        return false;
    };
    let name = authority.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, RwLock};

    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;

    async fn post_command(commands: Commands, name: &str, media_type: &str) -> StatusCode {
        post_command_to("127.0.0.1:4211", commands, name, media_type).await
    }

    async fn post_command_to(
        host: &str,
        commands: Commands,
        name: &str,
        media_type: &str,
    ) -> StatusCode {
        let handle = PrometheusBuilder::new().build_recorder().handle();
        let request = http::Request::post(format!("/commands/{name}"))
            .header(CONTENT_TYPE, media_type)
            .header(HOST, host)
            .body(Body::from("argument\n"))
            .unwrap();
        let answer = router(handle, Readiness::default(), commands).oneshot(request);
        answer.await.unwrap().status()
    }

    #[tokio::test]
    async fn a_command_is_carried_out_with_its_argument_for_the_operator_and_no_web_page() {
        let commands = Commands::default();
        let seen = Arc::new(RwLock::new(Vec::new()));
        let kept = Arc::clone(&seen);
        commands.offer("note", move |argument| {
            kept.write().unwrap().push(argument);
            async { Ok(()) }
        });
        commands.offer("fail", |_| async { Err("as always") });
        let post = |name, media_type| post_command(commands.clone(), name, media_type);
        assert_eq!(post("note", COMMAND_MEDIA_TYPE).await, StatusCode::OK);
        assert_eq!(
            post("note", "text/plain").await,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
        assert_eq!(
            post("fail", COMMAND_MEDIA_TYPE).await,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            post("other", COMMAND_MEDIA_TYPE).await,
            StatusCode::NOT_FOUND
        );
        for host in ["localhost", "[::1]:4211"] {
            let answer = post_command_to(host, commands.clone(), "fail", COMMAND_MEDIA_TYPE);
            assert_eq!(answer.await, StatusCode::BAD_REQUEST, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:4211",
            "127.0.0.1.evil.example",
            "",
        ] {
            let answer = post_command_to(host, commands.clone(), "note", COMMAND_MEDIA_TYPE);
            assert_eq!(answer.await, StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
        assert_eq!(*seen.read().unwrap(), ["argument"]);
    }
}
