//! A stretch of the way between a client and a gateway on which requests and answers go wrong.
//!
//! It takes HTTP messages whole, and with each of them, either way, may happen one thing, drawn by
//! a seeded generator: [`Fault`]. What it was told to lead to decides which stretch it is: before
//! the relay or behind it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Whoever waits for others waits no longer than this.
const HELD_BACK: Duration = Duration::from_millis(300);
/// Longer than anybody waits for an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// After how much time a request comes once more.
const LATEST: Duration = Duration::from_secs(10);

/// What can happen to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It never arrives: the connection breaks off, or nothing more is heard of it.
    Dropped,
    /// Only the first part arrives: with an end that looks like one, or without.
    Truncated,
    /// A request arrives twice: at once, or again when it was answered long ago. An answer comes
    /// once more, in the place of another one.
    Duplicated,
    /// It arrives after later ones.
    Reordered,
    /// Some of its bits arrive flipped.
    Corrupted,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Dropped,
        Self::Truncated,
        Self::Duplicated,
        Self::Reordered,
        Self::Corrupted,
    ];
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leg {
    /// To the gateway.
    Request,
    /// To the client.
    Answer,
}

/// How often each thing happened.
pub type Tally = BTreeMap<(Leg, Fault), usize>;

/// A stretch of the way, at an address of its own.
#[derive(Clone)]
pub struct FaultyWay {
    address: SocketAddr,
    way: Arc<Way>,
}

struct Way {
    target: Mutex<Option<SocketAddr>>,
    http: Client<HttpConnector, Pieces>,
    dice: Mutex<StdRng>,
    /// Of a hundred thousand messages, each way.
    rate: AtomicUsize,
    tally: Mutex<Tally>,
    passed: AtomicUsize,
    /// The last answer of an exchange.
    last: Mutex<Option<Answer>>,
    /// How often each encapsulated request was answered as if it were new, by digest.
    answered: Mutex<BTreeMap<[u8; 32], usize>>,
    /// What came of the requests that came late once more.
    late: Mutex<BTreeMap<u16, usize>>,
    late_left: AtomicUsize,
}

/// The sender sees its connection break off.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("lost")
    }
}

impl std::error::Error for Lost {}

#[derive(Clone)]
struct Message {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl FaultyWay {
    /// Without faults, until it is told. `seed` is for this one among several.
    pub async fn open(seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let way = Arc::new(Way {
            target: Mutex::default(),
            http: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(64)
                .build(connector),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            rate: AtomicUsize::new(0),
            tally: Mutex::default(),
            passed: AtomicUsize::new(0),
            last: Mutex::default(),
            answered: Mutex::default(),
            late: Mutex::default(),
            late_left: AtomicUsize::new(0),
        });
        let this = Self {
            address: listener.local_addr().expect("an address"),
            way: Arc::clone(&way),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let way = Arc::clone(&way);
                tokio::spawn(async move {
                    let service = service_fn(move |request| Arc::clone(&way).pass(request));
                    let connection = http1::Builder::new();
                    let _ = connection
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        this
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it ends.
    pub fn lead_to(&self, target: SocketAddr) {
        *locked(&self.way.target) = Some(target);
    }

    /// Of a hundred thousand messages, each way, so many have a fault.
    pub fn set_rate(&self, of_100_000: usize) {
        self.way.rate.store(of_100_000, Ordering::Relaxed);
    }

    /// What has happened.
    #[must_use]
    pub fn tally(&self) -> Tally {
        locked(&self.way.tally).clone()
    }

    /// What came of the requests that came late once more, by status; 0: nothing. Waits for all of
    /// them.
    pub async fn late(&self) -> BTreeMap<u16, usize> {
        while self.way.late_left.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        locked(&self.way.late).clone()
    }

    /// How many encapsulated requests were answered, and how often the one that was answered most
    /// often.
    #[must_use]
    pub fn answered(&self) -> (usize, usize) {
        let answered = locked(&self.way.answered);
        (
            answered.len(),
            answered.values().copied().max().unwrap_or(0),
        )
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Way {
    async fn pass(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Pieces>, Lost> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
        let message = Message {
            method: head.method,
            path: head.uri.path().to_owned(),
            headers: end_to_end(head.headers),
            body,
        };
        let is_exchange = message.method == Method::POST;
        let answer = self.pass_request(message).await?;
        self.pass_answer(answer, is_exchange).await
    }

    async fn pass_request(self: &Arc<Self>, mut message: Message) -> Result<Answer, Lost> {
        match self.draw(Leg::Request, &message.method) {
            None => {}
            Some(Fault::Dropped) => return self.lose().await,
            Some(Fault::Truncated) => {
                let cut = self.roll(message.body.len());
                if self.roll(2) == 0 {
                    return self.send(&message, Pieces::torn(&message.body, cut)).await;
                }
                message.body.truncate(cut);
            }
            Some(Fault::Duplicated) if self.roll(2) == 0 => {
                let (first, second) =
                    tokio::join!(self.send_whole(&message), self.send_whole(&message));
                return if self.roll(2) == 0 { first } else { second };
            }
            Some(Fault::Duplicated) => self.send_again_late(message.clone()),
            Some(Fault::Reordered) => self.wait_for_others().await,
            Some(Fault::Corrupted) => message.body = self.corrupted(&message.body),
        }
        self.send_whole(&message).await
    }

    async fn pass_answer(
        &self,
        mut answer: Answer,
        is_exchange: bool,
    ) -> Result<Response<Pieces>, Lost> {
        let earlier = if is_exchange {
            locked(&self.last).replace(answer.clone())
        } else {
            None
        };
        let method = if is_exchange {
            Method::POST
        } else {
            Method::GET
        };
        let mut body = None;
        match self.draw(Leg::Answer, &method) {
            None => {}
            Some(Fault::Dropped) => return self.lose().await,
            Some(Fault::Truncated) => {
                let cut = self.roll(answer.body.len());
                if self.roll(2) == 0 {
                    body = Some(Pieces::torn(&answer.body, cut));
                } else {
                    answer.body.truncate(cut);
                }
            }
            Some(Fault::Duplicated) => answer = earlier.unwrap_or(answer),
            Some(Fault::Reordered) => self.wait_for_others().await,
            Some(Fault::Corrupted) => answer.body = self.corrupted(&answer.body),
        }
        let mut response = Response::new(body.unwrap_or_else(|| Pieces::whole(answer.body)));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }

    async fn send_whole(&self, message: &Message) -> Result<Answer, Lost> {
        self.send(message, Pieces::whole(message.body.clone()))
            .await
    }

    async fn send(&self, message: &Message, body: Pieces) -> Result<Answer, Lost> {
        self.passed.fetch_add(1, Ordering::SeqCst);
        let target = locked(&self.target).expect("the stack is starting");
        let mut request = Request::new(body);
        *request.method_mut() = message.method.clone();
        *request.headers_mut() = message.headers.clone();
        *request.uri_mut() = format!("http://{target}{}", message.path)
            .parse::<Uri>()
            .map_err(|_| Lost)?;
        let response = self.http.request(request).await.map_err(|_| Lost)?;
        let (head, body) = response.into_parts();
        if message.method == Method::POST && head.status == StatusCode::OK {
            let digest: [u8; 32] = Sha256::digest(&message.body).into();
            *locked(&self.answered).entry(digest).or_default() += 1;
        }
        Ok(Answer {
            status: head.status,
            headers: end_to_end(head.headers),
            body: body.collect().await.map_err(|_| Lost)?.to_bytes(),
        })
    }

    /// By then it may have been answered, and the keys that it is sealed to may have been replaced.
    fn send_again_late(self: &Arc<Self>, message: Message) {
        let latest = usize::try_from(LATEST.as_millis()).unwrap_or(usize::MAX);
        let after = Duration::from_millis(self.roll(latest) as u64);
        let way = Arc::clone(self);
        way.late_left.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            sleep(after).await;
            let status = match way.send_whole(&message).await {
                Ok(answer) => answer.status.as_u16(),
                Err(Lost) => 0,
            };
            *locked(&way.late).entry(status).or_default() += 1;
            way.late_left.fetch_sub(1, Ordering::SeqCst);
        });
    }

    async fn lose<T>(&self) -> Result<T, Lost> {
        if self.roll(4) == 0 {
            sleep(SILENCE).await;
        }
        Err(Lost)
    }

    async fn wait_for_others(&self) {
        let others = self.passed.load(Ordering::SeqCst) + 1 + self.roll(8);
        let wait = async {
            while self.passed.load(Ordering::SeqCst) < others {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(HELD_BACK, wait).await;
    }

    fn corrupted(&self, body: &Bytes) -> Bytes {
        let mut body = body.to_vec();
        for _ in 0..=self.roll(3) {
            let bit = self.roll(body.len() * 8);
            if let Some(byte) = body.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
        body.into()
    }

    fn roll(&self, sides: usize) -> usize {
        locked(&self.dice).random_range(0..sides.max(1))
    }

    /// What key configurations are is not for whoever is on the way to say: they can be late or
    /// missing, as behind TLS.
    fn draw(&self, leg: Leg, method: &Method) -> Option<Fault> {
        if self.roll(100_000) >= self.rate.load(Ordering::Relaxed) {
            return None;
        }
        let fault = Fault::ALL[self.roll(Fault::ALL.len())];
        if method != Method::POST && !matches!(fault, Fault::Dropped | Fault::Reordered) {
            return None;
        }
        *locked(&self.tally).entry((leg, fault)).or_default() += 1;
        Some(fault)
    }
}

/// What each connection says anew.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}

/// A body of a known length, which may break off before.
struct Pieces {
    first: Option<Bytes>,
    announced: u64,
    is_torn: bool,
}

impl Pieces {
    fn whole(body: Bytes) -> Self {
        Self {
            announced: body.len() as u64,
            first: Some(body),
            is_torn: false,
        }
    }

    fn torn(body: &Bytes, after: usize) -> Self {
        Self {
            announced: body.len() as u64,
            first: Some(body.slice(..after)),
            is_torn: true,
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match self.first.take() {
            Some(first) if !first.is_empty() => Some(Ok(Frame::data(first))),
            _ if std::mem::take(&mut self.is_torn) => Some(Err(io::ErrorKind::BrokenPipe.into())),
            _ => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.announced == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}
