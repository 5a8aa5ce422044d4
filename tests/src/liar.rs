//! A delivery service that lies. It stands between the gateway and the real service, where requests are
//! open: it hears everything, answers in the service's place, alters true answers, and puts entries of its
//! own into queues, sealed as the service seals them. It can do so by operation, or to any HTTP answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use crypto::queue::{StreamKey, seal_payload};
use http::{HeaderMap, StatusCode, header};
use protocol::codec::opaque;
use protocol::delivery::{EntryContent, Payload};
use protocol::envelope::SignedRequest;
use protocol::ids::{EntryId, Incarnation, QueueId};
use protocol::queues::{
    CreateQueueRequest, CreateQueueResponse, FetchQueueRequest, FetchQueueResponse, QueueEntry,
};
use protocol::{Operation, RESPONSE_MEDIA_TYPE, Wire as _};
use tokio::net::TcpListener;

/// More than any request or answer has.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// What it was asked, and what was answered.
#[derive(Clone)]
pub struct Heard {
    /// What for.
    pub operation: Operation,
    /// The operation's request type, encoded.
    pub body: Vec<u8>,
    /// The operation's answer type, encoded; empty for a refusal.
    pub answer: Vec<u8>,
}

/// A request of HTTP, the directory's too.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which operation, or the directory.
    pub path: String,
    /// The tokens that it is paid with.
    pub tokens: Vec<Vec<u8>>,
    /// The signed request.
    pub body: Vec<u8>,
}

/// An answer of HTTP, to be changed.
#[derive(Debug, Clone)]
pub struct Told {
    /// Of HTTP.
    pub status: StatusCode,
    /// All but those of the connection.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Vec<u8>,
}

type Lie = Box<dyn FnMut(&Asked, &mut Told) + Send>;
type Answerer = Box<dyn FnMut(&[u8]) -> Option<Vec<u8>> + Send>;
type Twister = Box<dyn FnMut(&[u8], &mut Vec<u8>) + Send>;

#[derive(Default)]
struct Mind {
    heard: Vec<Heard>,
    asked: Vec<Asked>,
    lie: Option<Lie>,
    /// HPKE keys of queues, in the order in which they were made.
    queues: Vec<(QueueId, Vec<u8>)>,
    answerers: HashMap<Operation, Answerer>,
    twisters: HashMap<Operation, Twister>,
    instead: HashMap<Operation, Told>,
    /// What the next fetch of a queue brings beside what is in it.
    put: HashMap<QueueId, Vec<QueueEntry>>,
    entries: u32,
}

/// Where the gateway is sent to.
#[derive(Clone)]
pub struct Liar {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    http: reqwest::Client,
    mind: Arc<Mutex<Mind>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Liar {
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("an HTTP client");
        let liar = Self {
            address: listener.local_addr().expect("an address"),
            target: Arc::default(),
            http,
            mind: Arc::default(),
        };
        let router = Router::new().fallback(pass).with_state(liar.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        liar
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *locked(&self.target) = Some(target);
    }

    /// Answers an operation itself from now on, where `answer` makes one from the request's body.
    pub fn answer(
        &self,
        operation: Operation,
        answer: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) {
        locked(&self.mind)
            .answerers
            .insert(operation, Box::new(answer));
    }

    /// Alters the true answers to an operation from now on.
    pub fn twist(
        &self,
        operation: Operation,
        twist: impl FnMut(&[u8], &mut Vec<u8>) + Send + 'static,
    ) {
        locked(&self.mind)
            .twisters
            .insert(operation, Box::new(twist));
    }

    /// Answers an operation with this from now on, and does not ask the real service.
    pub fn instead(&self, operation: Operation, told: Told) {
        locked(&self.mind).instead.insert(operation, told);
    }

    /// From now on answers of HTTP are what this makes of them.
    pub fn lies(&self, lie: impl FnMut(&Asked, &mut Told) + Send + 'static) {
        locked(&self.mind).lie = Some(Box::new(lie));
    }

    /// Requests of HTTP since the last call.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut locked(&self.mind).asked)
    }

    /// Tells the truth from now on.
    pub fn repent(&self) {
        let mut mind = locked(&self.mind);
        mind.lie = None;
        mind.answerers.clear();
        mind.twisters.clear();
        mind.instead.clear();
        mind.put.clear();
    }

    /// What was asked of one operation so far.
    #[must_use]
    pub fn heard(&self, operation: Operation) -> Vec<Heard> {
        let mind = locked(&self.mind);
        let heard = mind.heard.iter();
        heard
            .filter(|heard| heard.operation == operation)
            .cloned()
            .collect()
    }

    /// The queue that was made as the `number`th, from 0.
    #[must_use]
    pub fn queue(&self, number: usize) -> QueueId {
        locked(&self.mind).queues[number].0
    }

    /// Puts an entry into a queue, sealed as the service seals it.
    pub fn put(&self, queue: QueueId, payload: &Payload) {
        let mut mind = locked(&self.mind);
        let (_, key) = mind
            .queues
            .iter()
            .find(|(id, _)| *id == queue)
            .expect("a queue")
            .clone();
        mind.entries += 1;
        let id = EntryId {
            day: 20_000,
            incarnation: Incarnation(crypto::random().expect("randomness")),
            index: mind.entries,
        };
        let (encapsulated_key, stream) =
            StreamKey::start(&key, &queue, &id.incarnation, id.day).expect("a stream");
        let (payload_key, sealed_payload) = seal_payload(payload).expect("sealed");
        let content = EntryContent {
            kind: payload.kind(),
            payload_key: payload_key.to_wire(),
            // Later than what the real service writes.
            sequence: (1 << 62) + u64::from(mind.entries),
        };
        let entry = QueueEntry {
            id,
            encapsulated_key,
            sealed: opaque(stream.seal(&id, &content).expect("sealed")),
            sealed_payload: opaque(sealed_payload),
        };
        mind.put.entry(queue).or_default().push(entry);
    }

    /// What is answered without asking the real service.
    fn lie(&self, operation: Operation, body: &[u8]) -> Option<Vec<u8>> {
        let mut mind = locked(&self.mind);
        if operation == Operation::FetchQueue {
            let request = FetchQueueRequest::decode(body).ok()?;
            if let Some(entries) = mind.put.remove(&request.queue_id) {
                return Some(FetchQueueResponse { entries, more: 1 }.encode());
            }
        }
        let answerer = mind.answerers.remove(&operation);
        drop(mind);
        // It may hear of what is asked meanwhile.
        let mut answerer = answerer?;
        let answer = answerer(body);
        locked(&self.mind)
            .answerers
            .entry(operation)
            .or_insert(answerer);
        answer
    }

    fn learn(&self, operation: Operation, body: &[u8], answer: &mut Vec<u8>) {
        let twister = locked(&self.mind).twisters.remove(&operation);
        // It may look at what was heard meanwhile.
        if let Some(mut twist) = twister {
            twist(body, answer);
            let mut mind = locked(&self.mind);
            mind.twisters.entry(operation).or_insert(twist);
        }
        let mut mind = locked(&self.mind);
        if operation == Operation::CreateQueue
            && let (Ok(request), Ok(created)) = (
                CreateQueueRequest::decode(body),
                CreateQueueResponse::decode(answer),
            )
        {
            let key = request.hpke_public_key.as_slice().to_vec();
            mind.queues.push((created.queue_id, key));
        }
        mind.heard.push(Heard {
            operation,
            body: body.to_vec(),
            answer: answer.clone(),
        });
    }

    async fn forward(&self, request: Request) -> (StatusCode, HeaderMap, Vec<u8>) {
        let target = locked(&self.target).expect("the stack is starting");
        let (head, body) = request.into_parts();
        let body = to_bytes(body, MOST_BYTES).await.expect("a body");
        let path = head.uri.path_and_query().expect("a path");
        let mut headers = head.headers;
        for hop in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH] {
            headers.remove(hop);
        }
        let sent = self
            .http
            .request(head.method, format!("http://{target}{path}"))
            .headers(headers)
            .body(body)
            .send()
            .await;
        let Ok(answer) = sent else {
            return (StatusCode::BAD_GATEWAY, HeaderMap::new(), Vec::new());
        };
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        for hop in [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
        ] {
            headers.remove(hop);
        }
        let body = answer.bytes().await.unwrap_or_default();
        (status, headers, body.to_vec())
    }
}

fn tokens(headers: &HeaderMap) -> Vec<Vec<u8>> {
    headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .filter_map(|value| value.to_str().ok()?.split('"').nth(1))
        .map(|token| URL_SAFE.decode(token).expect("a token"))
        .collect()
}

async fn pass(State(liar): State<Liar>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let bytes = to_bytes(body, MOST_BYTES).await.expect("a body");
    let heard = Asked {
        path: head.uri.path().to_owned(),
        tokens: tokens(&head.headers),
        body: bytes.to_vec(),
    };
    locked(&liar.mind).asked.push(heard.clone());
    let asked = SignedRequest::decode(&bytes)
        .ok()
        .map(|request| (request.operation, request.body.as_slice().to_vec()));
    if let Some((operation, body)) = &asked
        && let Some(mut answer) = liar.lie(*operation, body)
    {
        liar.learn(*operation, body, &mut answer);
        return ([(header::CONTENT_TYPE, RESPONSE_MEDIA_TYPE)], answer).into_response();
    }
    if let Some((operation, _)) = &asked {
        let instead = locked(&liar.mind).instead.get(operation).cloned();
        if let Some(told) = instead {
            return (told.status, told.headers, told.body).into_response();
        }
    }
    let request = Request::from_parts(head, Body::from(bytes));
    let (status, headers, mut answer) = liar.forward(request).await;
    if let Some((operation, body)) = &asked {
        if status.is_success() {
            liar.learn(*operation, body, &mut answer);
        } else {
            locked(&liar.mind).heard.push(Heard {
                operation: *operation,
                body: body.clone(),
                answer: Vec::new(),
            });
        }
    }
    let mut told = Told {
        status,
        headers,
        body: answer,
    };
    if let Some(lie) = locked(&liar.mind).lie.as_mut() {
        lie(&heard, &mut told);
    }
    (told.status, told.headers, told.body).into_response()
}
