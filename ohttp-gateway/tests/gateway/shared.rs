//! Clients of one relay share its connections to the gateway, and those of the gateway to the
//! delivery service. What one of them gives up costs the others nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use oblivious::chunked::{REQUEST, RequestEncoder, ResponseDecoder};
use oblivious::{Aead, PublicKey, configs};
use service::gateway_auth::{GatewaySecret, require_gateway};
use service::{MovedClock, Shutdown, ShutdownTrigger};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::chunked::{Reading, dated};
use crate::support::{NOW, Served, gateway_config, http_client, serve, serve_within};

/// Relay, gateway and delivery service, with a connection or a few from one to the next.
struct Path {
    relay: Served,
    _gateway: Served,
    _target: Served,
    /// Requests for `/v1/never` that have come to the delivery service.
    come: Arc<AtomicUsize>,
    key: PublicKey,
    _triggers: [ShutdownTrigger; 2],
    _directory: tempfile::TempDir,
}

async fn path(relay_connections: usize) -> Path {
    let directory = tempfile::tempdir().unwrap();
    let secret = GatewaySecret::load_or_create(&directory.path().join("gateway-secret")).unwrap();
    let come = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&come);
    let never = move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    };
    let ticks = || async {
        Body::from_stream(futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, Infallible>("tick"), ()))
        }))
    };
    let router = Router::new()
        .route("/v1/never", post(never))
        .route("/v1/ticks", post(ticks));
    let target = serve(require_gateway(router, secret)).await;
    let relay_secret = directory.path().join("relay-secret");
    let settings = format!(
        "target_http = '2'\nhttp2_connections = 1\nrelays = [{{ secret_file = '{}' }}]",
        relay_secret.display()
    );
    let listen = "127.0.0.1:0";
    let text = gateway_config(directory.path(), listen, listen, &target.url(""), &settings);
    let config: ohttp_gateway::Config = service::config::parse(&text).unwrap();
    let (trigger, shutdown) = Shutdown::channel();
    let router = ohttp_gateway::router(&config, MovedClock::at(NOW), shutdown).unwrap();
    let gateway = serve_within(config.limits, router).await;
    let text = format!(
        "listen = '{listen}'\ngateway = '{}'\nrelay_secret_file = '{}'\n\
         http2_connections = {relay_connections}\n[service]\nadmin_listen = '{listen}'",
        gateway.url("/"),
        relay_secret.display()
    );
    let config: ohttp_relay::Config = service::config::parse(&text).unwrap();
    let (relay_trigger, shutdown) = Shutdown::channel();
    let router = ohttp_relay::router(&config, MovedClock::at(NOW), shutdown).unwrap();
    let relay = serve(router).await;
    let keys = http_client().get(relay.url("/ohttp-keys")).send().await;
    let keys = keys.unwrap().bytes().await.unwrap();
    let config = configs::usable(&keys).unwrap().remove(0);
    Path {
        relay,
        _gateway: gateway,
        _target: target,
        come,
        key: PublicKey::of_config(&config).unwrap(),
        _triggers: [trigger, relay_trigger],
        _directory: directory,
    }
}

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

impl Path {
    fn encapsulate(&self, path: &str) -> (Vec<u8>, ResponseDecoder) {
        let encoder = RequestEncoder::new(&self.key, Aead::Aes128Gcm).unwrap();
        let mut bytes = Vec::new();
        let decoder = encoder.finish(&dated(path), &mut bytes).unwrap();
        (bytes, decoder)
    }

    async fn ask(&self, path: &str) -> Reading {
        let (body, decoder) = self.encapsulate(path);
        let asked = http_client()
            .post(self.relay.url("/"))
            .header(CONTENT_TYPE, REQUEST)
            .body(body);
        Reading::of(asked.send().await.unwrap(), decoder)
    }

    /// Has requests come to the delivery service, and gives them up. False: the relay has cut it.
    async fn gives_up(&self, sender: &mut SendRequest<Full<Bytes>>, requests: usize) -> bool {
        let before = self.come.load(Ordering::SeqCst);
        let mut begun = JoinSet::new();
        for _ in 0..requests {
            let (body, _) = self.encapsulate("/v1/never");
            let request = http::Request::post(self.relay.url("/"))
                .header(CONTENT_TYPE, REQUEST)
                .body(body.into());
            if sender.ready().await.is_err() {
                return false;
            }
            begun.spawn(sender.send_request(request.unwrap()));
        }
        let all_come = async {
            while self.come.load(Ordering::SeqCst) < before + requests {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let come = tokio::time::timeout(Duration::from_secs(10), all_come).await;
        begun.shutdown().await;
        come.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_strangers_give_up_cut_no_connection_that_others_use() {
    let path = path(1).await;
    let mut reading = path.ask("/v1/ticks").await;
    assert!(reading.read().await.unwrap());
    for _ in 0..5 {
        let mut sender = connect(path.relay.address).await;
        for _ in 0..3 {
            assert!(path.gives_up(&mut sender, 100).await);
            assert!(reading.read().await.expect("the stream goes on"));
        }
    }
    // Its own connection is no such one.
    let mut sender = connect(path.relay.address).await;
    let mut rounds = 0;
    while rounds < 15 && path.gives_up(&mut sender, 100).await {
        rounds += 1;
    }
    assert!((5..15).contains(&rounds), "{rounds}");
    assert!(reading.read().await.expect("the stream goes on"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_more_than_the_connections_take_is_told_so_and_does_not_wait() {
    let path = path(2).await;
    let mut begun = JoinSet::new();
    for _ in 0..2 {
        let mut sender = connect(path.relay.address).await;
        for _ in 0..512 {
            let (body, _) = path.encapsulate("/v1/never");
            let request = http::Request::post(path.relay.url("/"))
                .header(CONTENT_TYPE, REQUEST)
                .body(body.into());
            sender.ready().await.unwrap();
            begun.spawn(sender.send_request(request.unwrap()));
        }
    }
    while path.come.load(Ordering::SeqCst) < 1024 {
        assert!(begun.try_join_next().is_none());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told = async { path.ask("/v1/ticks").await.whole().await };
    let told = tokio::time::timeout(Duration::from_secs(5), told).await;
    let (head, _, _) = told.expect("at once");
    assert_eq!(head.status, 503);
    assert_eq!(head.fields["retry-after"], "1");
    // As soon as there is a place again, it is served.
    begun.shutdown().await;
    let served = async { while path.ask("/v1/ticks").await.head().await.status != 200 {} };
    let served = tokio::time::timeout(Duration::from_secs(5), served).await;
    served.expect("a place");
}
