//! Client → relay → gateway → delivery service with chunked requests, on real sockets.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use oblivious::binary_http::{Decoder, Limits, RequestHead, ResponseHead, content, end};
use oblivious::chunked::{REQUEST, RESPONSE, RequestEncoder, ResponseDecoder};
use oblivious::{Aead, Kem, OpenError, PublicKey, binary_http};
use service::{MovedClock, Shutdown, ShutdownTrigger};
use tokio::sync::mpsc;

use crate::support::{
    DATE, NOW, OHTTP_KEY, Served, Target, gateway_config, http_client, http_date, inner, serve,
    serve_within, target,
};

type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// A delivery service whose one answer the test makes, piece by piece.
async fn live_target() -> (Served, mpsc::Sender<io::Result<Bytes>>) {
    let (sender, receiver) = mpsc::channel(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let router = Router::new().fallback(live).with_state(receiver);
    (serve(router).await, sender)
}

async fn live(State(pieces): State<Arc<Mutex<Option<Pieces>>>>) -> Response {
    let pieces = pieces.lock().unwrap().take().unwrap();
    let pieces = futures::stream::unfold(pieces, |mut pieces| async {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    (
        [
            (CONTENT_TYPE, "application/live"),
            (http::header::SERVER, "target"),
        ],
        Body::from_stream(pieces),
    )
        .into_response()
}

/// Passes the answer of the gateway on as it comes: what a relay does, and no more.
async fn forwarder(gateway: String) -> Served {
    let client = http_client();
    let forward = move |request: Request| {
        let (client, gateway) = (client.clone(), gateway.clone());
        async move {
            let content_type = request.headers()[CONTENT_TYPE].clone();
            let body = axum::body::to_bytes(request.into_body(), 1 << 22).await;
            let answer = client
                .post(gateway)
                .header(CONTENT_TYPE, content_type)
                .body(body.unwrap())
                .send()
                .await
                .unwrap();
            let status = answer.status();
            let content_type = answer.headers()[CONTENT_TYPE].clone();
            let pieces = futures::stream::unfold(Some(answer), |answer| async {
                let mut answer = answer?;
                match answer.chunk().await {
                    Ok(piece) => piece.map(|piece| (Ok(piece), Some(answer))),
                    Err(_) => Some((Err(io::Error::from(io::ErrorKind::BrokenPipe)), None)),
                }
            });
            let headers = [(CONTENT_TYPE, content_type)];
            (status, headers, Body::from_stream(pieces)).into_response()
        }
    };
    serve(Router::new().route("/", post(forward))).await
}

struct Path {
    gateway: Served,
    relay: Served,
    key: PublicKey,
    http: reqwest::Client,
    trigger: ShutdownTrigger,
    _directory: tempfile::TempDir,
}

async fn path_to(target: &Served, settings: &str) -> Path {
    let directory = tempfile::tempdir().unwrap();
    let forward_to = target.url("");
    let listen = "127.0.0.1:0";
    let text = gateway_config(directory.path(), listen, listen, &forward_to, settings);
    let config: ohttp_gateway::Config = service::config::parse(&text).unwrap();
    let (trigger, shutdown) = Shutdown::channel();
    let router = ohttp_gateway::router(&config, MovedClock::at(NOW), shutdown).unwrap();
    let gateway = serve_within(config.limits, router).await;
    let http = http_client();
    let keys = http.get(gateway.url("/ohttp-keys")).send().await.unwrap();
    let keys = keys.bytes().await.unwrap();
    // Of the first configuration: its length, its id, the KEM and the key.
    let kem = Kem::from_id(u16::from_be_bytes([keys[3], keys[4]])).unwrap();
    let key = PublicKey::new(keys[2], kem, &keys[5..5 + kem.public_key_len()]).unwrap();
    Path {
        relay: forwarder(gateway.url("/")).await,
        gateway,
        key,
        http,
        trigger,
        _directory: directory,
    }
}

/// A request of indeterminate length, its content in two pieces.
fn indeterminate(path: &str) -> Vec<u8> {
    let mut fields = http::HeaderMap::new();
    fields.append("date", http_date(NOW).parse().unwrap());
    let head = RequestHead {
        method: http::Method::POST,
        scheme: "https".into(),
        authority: "ds.example".into(),
        path: path.into(),
        fields,
    };
    let mut out = Vec::new();
    binary_http::request_head(&head, &mut out);
    content(b"two ", &mut out);
    content(b"pieces", &mut out);
    end(&mut out);
    out
}

pub(crate) fn dated(path: &str) -> Vec<u8> {
    inner(path, &[("date", &http_date(NOW))], b"question")
}

impl Path {
    fn encapsulate(&self, aead: Aead, inner: &[u8]) -> (Vec<u8>, ResponseDecoder) {
        let mut encoder = RequestEncoder::new(&self.key, aead).unwrap();
        let mut bytes = Vec::new();
        let (first, last) = inner.split_at(inner.len() / 2);
        encoder.push(first, &mut bytes).unwrap();
        let decoder = encoder.finish(last, &mut bytes).unwrap();
        (bytes, decoder)
    }

    async fn post_to(&self, served: &Served, body: Vec<u8>) -> reqwest::Response {
        self.http
            .post(served.url("/"))
            .header(CONTENT_TYPE, REQUEST)
            .body(body)
            .send()
            .await
            .unwrap()
    }

    async fn ask(&self, inner: &[u8]) -> Reading {
        let (bytes, decoder) = self.encapsulate(Aead::Aes128Gcm, inner);
        Reading::of(self.post_to(&self.relay, bytes).await, decoder)
    }

    async fn refusal(&self, body: Vec<u8>) -> (StatusCode, String) {
        let answer = self.post_to(&self.gateway, body).await;
        let status = answer.status();
        let document: serde_json::Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        (status, document["type"].as_str().unwrap().to_owned())
    }
}

/// A client that reads an answer as it comes.
pub(crate) struct Reading {
    response: reqwest::Response,
    decoder: ResponseDecoder,
    message: Decoder<ResponseHead>,
    content: Vec<u8>,
    inner_len: usize,
}

/// How the outer stream and the encapsulation ended.
#[derive(Debug, PartialEq)]
struct Ended {
    connection_is_intact: bool,
    encapsulation: Result<(), OpenError>,
}

impl Reading {
    pub(crate) fn of(response: reqwest::Response, decoder: ResponseDecoder) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[CONTENT_TYPE], RESPONSE);
        Self {
            response,
            decoder,
            message: Decoder::new(Limits::default()),
            content: Vec::new(),
            inner_len: 0,
        }
    }

    /// Reads the next bytes that the connection has. False: there are no more.
    pub(crate) async fn read(&mut self) -> Result<bool, reqwest::Error> {
        let Some(bytes) = self.response.chunk().await? else {
            return Ok(false);
        };
        let mut inner = Vec::new();
        self.decoder.push(&bytes, &mut inner).unwrap();
        self.inner_len += inner.len();
        self.message.push(&inner, &mut self.content).unwrap();
        Ok(true)
    }

    pub(crate) async fn head(&mut self) -> ResponseHead {
        while self.message.head().is_none() {
            assert!(self.read().await.unwrap());
        }
        self.message.head().unwrap().clone()
    }

    async fn until(&mut self, content: &[u8]) {
        let read = async {
            while self.content != content {
                assert!(self.read().await.unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .expect("what was sent arrives");
    }

    async fn until_cut(mut self) -> Ended {
        let mut read = self.read().await;
        while let Ok(true) = read {
            read = self.read().await;
        }
        Ended {
            connection_is_intact: read.is_ok(),
            encapsulation: self.decoder.finish(&mut Vec::new()),
        }
    }

    /// Head, content and the length with the padding.
    pub(crate) async fn whole(mut self) -> (ResponseHead, Vec<u8>, usize) {
        while self.read().await.unwrap() {}
        let mut inner = Vec::new();
        self.decoder.finish(&mut inner).unwrap();
        self.message.push(&inner, &mut self.content).unwrap();
        let message = self.message.finish().unwrap();
        (message.head, self.content, self.inner_len + inner.len())
    }
}

const CUT: Ended = Ended {
    connection_is_intact: false,
    encapsulation: Err(OpenError::Truncated),
};

#[tokio::test]
async fn the_first_piece_of_an_answer_reaches_the_client_before_the_last_is_made() {
    let (target, pieces) = live_target().await;
    let path = path_to(&target, "").await;
    let mut reading = path.ask(&indeterminate("/v1/live")).await;
    // The head comes before there is any content.
    let head = reading.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(head.fields["content-type"], "application/live");
    assert!(!head.fields.contains_key("server"));
    // Each next piece is made only when the one before it has arrived.
    let mut expected = Vec::new();
    for piece in [&b"first"[..], b"second", &[7; 40_000], b"last"] {
        pieces
            .send(Ok(Bytes::copy_from_slice(piece)))
            .await
            .unwrap();
        expected.extend_from_slice(piece);
        reading.until(&expected).await;
    }
    drop(pieces);
    let (_, content, _) = reading.whole().await;
    assert_eq!(content, expected);
}

#[tokio::test]
async fn an_answer_of_known_length_comes_in_one_padded_piece_with_either_aead() {
    let Target { served, seen } = target().await;
    let path = path_to(&served, "").await;
    for aead in [Aead::Aes128Gcm, Aead::ChaCha20Poly1305] {
        for request in [dated("/v1/echo"), indeterminate("/v1/echo")] {
            let (bytes, decoder) = path.encapsulate(aead, &request);
            let reading = Reading::of(path.post_to(&path.gateway, bytes).await, decoder);
            assert_eq!(reading.response.headers()["incremental"], "?1");
            let (head, content, len) = reading.whole().await;
            assert_eq!((head.status, len), (StatusCode::OK, 8192));
            assert_eq!(content, seen.lock().unwrap().last().unwrap().body);
        }
    }
    assert_eq!(seen.lock().unwrap()[0].body, b"question");
    assert_eq!(seen.lock().unwrap()[1].body, b"two pieces");
    // In several chunks.
    let (_, content, len) = path.ask(&dated("/v1/size/60000")).await.whole().await;
    assert_eq!((content.len(), len), (60_000, 65_536));
}

#[tokio::test]
async fn what_the_gateway_refuses_is_told_under_the_encapsulation() {
    let Target { served, seen } = target().await;
    let path = path_to(&served, "").await;
    for (request, status) in [
        (dated("/unknown"), 403),
        (dated("/v1/redirect"), 502),
        (inner("/v1/echo", &[], b""), 400),
        (b"garbage".to_vec(), 400),
    ] {
        let (head, _, len) = path.ask(&request).await.whole().await;
        assert_eq!((head.status.as_u16(), len), (status, 8192));
    }
    let (head, content, _) = path.ask(&inner("/v1/echo", &[], b"")).await.whole().await;
    let document: serde_json::Value = serde_json::from_slice(&content).unwrap();
    assert_eq!(document["type"], DATE);
    assert_eq!(head.fields["date"], http_date(NOW).as_str());
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_chunked_request_that_is_repeated_cut_or_changed_reaches_nobody() {
    let Target { served, seen } = target().await;
    let path = path_to(&served, "").await;
    let (bytes, decoder) = path.encapsulate(Aead::Aes128Gcm, &dated("/v1/echo"));
    for len in 0..bytes.len() {
        let (status, _) = path.refusal(bytes[..len].to_vec()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{len}");
    }
    let key_problem = (StatusCode::BAD_REQUEST, OHTTP_KEY.to_owned());
    for at in [0, 2, 5, 8, 45, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert_eq!(path.refusal(changed).await, key_problem, "{at}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(path.refusal(longer).await, key_problem);
    // As a request of the other kind it opens nothing.
    let other_kind = path
        .http
        .post(path.gateway.url("/"))
        .header(CONTENT_TYPE, "message/ohttp-req")
        .body(bytes.clone());
    assert_eq!(other_kind.send().await.unwrap().status(), 400);
    assert!(seen.lock().unwrap().is_empty());

    let answer = path.post_to(&path.gateway, bytes.clone()).await;
    let (_, content, _) = Reading::of(answer, decoder).whole().await;
    assert_eq!(content, b"question");
    let (status, problem) = path.refusal(bytes).await;
    assert_eq!(
        (status, problem.as_str()),
        (StatusCode::CONFLICT, "urn:mimi-ds:problem:ohttp-replayed")
    );
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let (target, pieces) = live_target().await;
    let path = path_to(&target, "").await;
    let mut reading = path.ask(&dated("/v1/live")).await;
    pieces.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
    reading.until(b"some").await;
    let broken = io::Error::from(io::ErrorKind::BrokenPipe);
    pieces.send(Err(broken)).await.unwrap();
    assert_eq!(reading.until_cut().await, CUT);
}

#[tokio::test]
async fn a_stream_is_cut_at_each_of_its_limits() {
    for settings in [
        "stream = { idle_seconds = 3 }",
        "stream = { total_seconds = 3 }",
        "stream = { max_bytes = 3 }",
    ] {
        let (target, pieces) = live_target().await;
        let path = path_to(&target, settings).await;
        let reading = path.ask(&dated("/v1/live")).await;
        pieces.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
        let cut = tokio::time::timeout(Duration::from_secs(10), reading.until_cut()).await;
        assert_eq!(cut.expect(settings), CUT, "{settings}");
        // And the target is let go.
        pieces.closed().await;
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_lets_go_of_the_target_in_time() {
    let (target, pieces) = live_target().await;
    let path = path_to(&target, "stream = { total_seconds = 3 }").await;
    let _unread = path.ask(&dated("/v1/live")).await;
    // More than the buffers on the way hold, until nobody takes it any more.
    let endless = async { while pieces.send(Ok(vec![7; 100_000].into())).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), endless)
        .await
        .expect("the target is let go");
}

#[tokio::test]
async fn a_client_that_goes_away_lets_go_of_the_target() {
    let (target, pieces) = live_target().await;
    let path = path_to(&target, "").await;
    let mut reading = path.ask(&dated("/v1/live")).await;
    pieces.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
    reading.until(b"some").await;
    drop(reading);
    tokio::time::timeout(Duration::from_secs(10), pieces.closed())
        .await
        .expect("the target is let go");
}

#[tokio::test]
async fn a_gateway_that_ends_cuts_its_streams_in_time() {
    let (target, pieces) = live_target().await;
    let path = path_to(&target, "").await;
    let mut reading = path.ask(&dated("/v1/live")).await;
    pieces.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
    reading.until(b"some").await;
    // Half of `drain_seconds`, which is 12.
    path.trigger.request();
    let cut = tokio::time::timeout(Duration::from_secs(11), reading.until_cut()).await;
    assert_eq!(cut.expect("in half of the time"), CUT);
}
