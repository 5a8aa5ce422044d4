//! A delivery service that lies. It stands between the gateway and the real service, where requests
//! are open: it hears everything, answers in the service's place, alters true answers, and puts
//! entries of its own into journals, sealed and signed as the service does it. It can do so by
//! operation, or to any HTTP answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use crypto::journal::{End, first_head, head_after, seal_entry};
use crypto::schedule::{JournalKey, StateKey};
use crypto::sealing::SALT;
use crypto::service_keys::ServiceKeys;
use http::{HeaderMap, StatusCode, header};
use protocol::codec::opaque;
use protocol::follow::{FollowBegun, FollowJournalRequest, FollowedStretch, Frame, FrameKind};
use protocol::group::{
    CommitAccepted, CommitRequest, CreateGroupRequest, ExternalJoinRequest, GroupKind,
    JoinAccepted, NextSegment,
};
use protocol::ids::{ChainHead, GroupId, Position, RotationEpoch, SegmentId, Step};
use protocol::journal::{
    Class, Entry, EntryContent, Event, ReadJournalRequest, ReadJournalResponse, SignedHead,
};
use protocol::operation::Operation;
use protocol::request::SignedRequest;
use protocol::{RESPONSE_MEDIA_TYPE, Wire};
use tls_codec::VLBytes;
use tokio::net::TcpListener;

use crate::requests::now_ms;

/// More than any request or answer has.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Takes a stream apart.
#[derive(Default)]
struct StretchReader {
    held: Vec<u8>,
    frame_len: usize,
    stretch: Vec<u8>,
}

impl StretchReader {
    /// Appends what is said in the place of what is in `piece`.
    fn push(
        &mut self,
        piece: &[u8],
        out: &mut Vec<u8>,
        mut lie: impl FnMut(FollowedStretch) -> Vec<FollowedStretch>,
    ) {
        self.held.extend_from_slice(piece);
        if self.frame_len == 0 {
            if self.held.len() < FollowBegun::LEN {
                return;
            }
            let begun: Vec<u8> = self.held.drain(..FollowBegun::LEN).collect();
            let begun_ = FollowBegun::decode(&begun).expect("a beginning");
            self.frame_len = begun_.frame_len.into();
            out.extend_from_slice(&begun);
        }
        while self.held.len() >= self.frame_len {
            let frame: Vec<u8> = self.held.drain(..self.frame_len).collect();
            let read = Frame::read(&frame).expect("a frame");
            match read.kind {
                FrameKind::Part => self.stretch.extend_from_slice(read.content),
                FrameKind::Whole => {
                    self.stretch.extend_from_slice(read.content);
                    let stretch = std::mem::take(&mut self.stretch);
                    let stretch = FollowedStretch::decode(&stretch).expect("a stretch");
                    for told in lie(stretch) {
                        Frame::put_stretch(&told.encode(), self.frame_len, out);
                    }
                }
                FrameKind::Over | FrameKind::Behind => out.extend_from_slice(&frame),
            }
        }
    }
}

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
    /// The request, signed or not.
    pub body: Vec<u8>,
}

impl Asked {
    /// What it asks for, and the operation's request type, encoded; none for the directory and for
    /// what is no request.
    #[must_use]
    pub fn request(&self) -> Option<(Operation, Vec<u8>)> {
        let mut all = Operation::ALL.iter();
        let operation = *all.find(|operation| operation.path() == self.path)?;
        if is_signed(operation) {
            let request = SignedRequest::decode(&self.body).ok()?;
            Some((request.operation, request.body.as_slice().to_vec()))
        } else {
            Some((operation, self.body.clone()))
        }
    }
}

/// Whether its requests are signed.
#[must_use]
const fn is_signed(operation: Operation) -> bool {
    !matches!(
        operation,
        Operation::ReadJournal
            | Operation::FollowJournal
            | Operation::JoinRecord
            | Operation::FetchWelcome
            | Operation::RecoveryRow
            | Operation::PutChunk
            | Operation::BlobChunks
            | Operation::ReadChunk
            | Operation::DeleteBlob
    )
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
/// What is told on a stream of a segment in the place of this.
type StreamLie = Arc<Mutex<dyn FnMut(SegmentId, FollowedStretch) -> Vec<FollowedStretch> + Send>>;
type Twister = Box<dyn FnMut(&[u8], &mut Vec<u8>) + Send>;

/// A segment of a group's journal, as its keys came with a commit.
struct Segment {
    group: GroupId,
    id: SegmentId,
    first_key: [u8; 32],
}

/// Entries of the service's own at the end of a segment, in the place of all that truly follow.
struct Fork {
    segment: SegmentId,
    content: Vec<EntryContent>,
    /// Since it was shown: where it begins, and what.
    shown: Option<(Position, ChainHead, Vec<Entry>)>,
}

#[derive(Default)]
struct Mind {
    heard: Vec<Heard>,
    asked: Vec<Asked>,
    lie: Option<Lie>,
    keys: Option<ServiceKeys>,
    /// In the order in which they were begun.
    segments: Vec<Segment>,
    forks: Vec<Fork>,
    /// By segment: the chain before the last entry.
    chains: Vec<(SegmentId, ChainHead)>,
    answerers: HashMap<Operation, Answerer>,
    twisters: HashMap<Operation, Twister>,
    instead: HashMap<Operation, Told>,
    stream_lie: Option<StreamLie>,
}

impl Mind {
    fn begin_segment(&mut self, group: GroupId, rotation: RotationEpoch, next: &NextSegment) {
        let state_key = StateKey::from(&next.state_key);
        self.segments.push(Segment {
            group,
            id: state_key.segment(&group, rotation),
            first_key: *JournalKey::from(&next.journal_key).expose(),
        });
    }

    /// What the service is told of segments stands in requests that it has accepted.
    fn learn_segment(&mut self, operation: Operation, body: &[u8], answer: &[u8]) {
        match operation {
            Operation::CreateGroup => {
                if let Ok(request) = CreateGroupRequest::decode(body) {
                    self.begin_segment(request.group_id, RotationEpoch(0), &request.segment);
                }
            }
            Operation::ExternalJoin => {
                if let (Ok(request), Ok(joined)) = (
                    ExternalJoinRequest::decode(body),
                    JoinAccepted::decode(answer),
                ) && let Some(next) = &request.rotation
                {
                    let rotation = RotationEpoch(joined.accepted.epoch.0);
                    self.begin_segment(request.group.group_id, rotation, next);
                }
            }
            Operation::AddUsers
            | Operation::RemoveUsers
            | Operation::AddClients
            | Operation::RemoveClients
            | Operation::UpdateClient
            | Operation::SetRole => {
                if let (Ok(request), Ok(accepted)) =
                    (CommitRequest::decode(body), CommitAccepted::decode(answer))
                    && let Some(next) = &request.rotation
                {
                    let rotation = RotationEpoch(accepted.epoch.0);
                    self.begin_segment(request.group.group_id, rotation, next);
                }
            }
            _ => {}
        }
    }

    fn journal_key(&self, segment: &SegmentId, step: Step) -> JournalKey {
        let mut segments = self.segments.iter();
        let known = segments.find(|known| known.id == *segment);
        JournalKey::new(known.expect("a segment").first_key).ahead(step.0)
    }

    fn sign(&self, segment: &SegmentId, next: Position, chain: ChainHead) -> SignedHead {
        let keys = self.keys.as_ref().expect("the service's keys");
        let end = End {
            generation: 0,
            next,
            chain,
        };
        keys.journal_signing().sign(segment, end).expect("signed")
    }

    /// Chains of segments that fit into one answer from their beginning.
    fn follow_chain(&mut self, body: &[u8], answer: &[u8]) {
        let (Ok(request), Ok(page)) = (
            ReadJournalRequest::decode(body),
            ReadJournalResponse::decode(answer),
        ) else {
            return;
        };
        if page.first != Position(0) {
            return;
        }
        let mut chain = first_head(&request.segment);
        let mut at = Position(0);
        for entry in page
            .entries
            .iter()
            .take(page.entries.len().saturating_sub(1))
        {
            chain = head_after(&chain, at, entry);
            at = at.next();
        }
        self.chains.retain(|(known, _)| *known != request.segment);
        self.chains.push((request.segment, chain));
    }

    /// Has the reader see a journal that goes on with entries of the service's own.
    fn show_fork(&mut self, body: &[u8], answer: &mut Vec<u8>) {
        let (Ok(request), Ok(mut page)) = (
            ReadJournalRequest::decode(body),
            ReadJournalResponse::decode(answer),
        ) else {
            return;
        };
        let mut forks = self.forks.iter();
        let Some(at) = forks.position(|fork| fork.segment == request.segment) else {
            return;
        };
        let mut fork = self.forks.swap_remove(at);
        let (begins, before, entries) = match fork.shown.take() {
            Some(shown) => shown,
            None => {
                let key = self.journal_key(&fork.segment, page.step);
                let seal = |content: &EntryContent| {
                    let salt = crypto::random::<SALT>().expect("randomness");
                    let sealed = seal_entry(&key, salt, &fork.segment, page.step, content);
                    let sealed = opaque(sealed.expect("sealed"));
                    match content.event.class() {
                        Class::Handshake => Entry::Handshake(sealed),
                        Class::Message => Entry::Message(sealed),
                    }
                };
                let entries = fork.content.iter().map(seal).collect();
                (page.head.next, page.head.chain, entries)
            }
        };
        let end = page.first.0 + page.entries.len() as u64;
        if end >= begins.0 {
            let kept = usize::try_from(begins.0.saturating_sub(page.first.0)).expect("a few");
            page.entries.truncate(kept);
            let from = usize::try_from(page.first.0.saturating_sub(begins.0)).expect("a few");
            page.entries.extend(entries.iter().skip(from).cloned());
        }
        let (mut next, mut chain) = (begins, before);
        for entry in &entries {
            chain = head_after(&chain, next, entry);
            next = next.next();
        }
        page.head = self.sign(&fork.segment, next, chain);
        page.closed = 0;
        page.padding = VLBytes::new(Vec::new());
        *answer = page.encode();
        fork.shown = Some((begins, before, entries));
        self.forks.push(fork);
    }
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

    /// From now on streams say what this makes of what they would say.
    pub fn lies_on_streams(
        &self,
        lie: impl FnMut(SegmentId, FollowedStretch) -> Vec<FollowedStretch> + Send + 'static,
    ) {
        locked(&self.mind).stream_lie = Some(Arc::new(Mutex::new(lie)));
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
        mind.forks.clear();
        mind.stream_lie = None;
    }

    /// Passes a stream on, stretch by stretch.
    async fn stream(&self, segment: SegmentId, request: Request) -> Response {
        let answer = self.ask(request).await.expect("an answer");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let kind = headers.get(header::CONTENT_TYPE).cloned();
        if status != StatusCode::OK {
            let body = answer.bytes().await.unwrap_or_default();
            let kind = kind.expect("a problem document");
            return (status, [(header::CONTENT_TYPE, kind)], body).into_response();
        }
        let state = (self.clone(), answer, StretchReader::default());
        let pieces =
            futures::stream::unfold(state, move |(liar, mut answer, mut reader)| async move {
                let piece = answer.chunk().await.ok()??;
                let mut out = Vec::new();
                reader.push(&piece, &mut out, |stretch| {
                    let lie = locked(&liar.mind).stream_lie.clone();
                    match lie {
                        Some(lie) => {
                            lie.lock().unwrap_or_else(PoisonError::into_inner)(segment, stretch)
                        }
                        None => vec![stretch],
                    }
                });
                Some((
                    Ok::<_, std::convert::Infallible>(out),
                    (liar, answer, reader),
                ))
            });
        let kind = [(header::CONTENT_TYPE, RESPONSE_MEDIA_TYPE)];
        (kind, Body::from_stream(pieces)).into_response()
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

    /// How many clients have come into groups by themselves so far.
    #[must_use]
    pub fn joins(&self) -> usize {
        self.heard(Operation::ExternalJoin).len()
    }

    /// The creations of groups of this kind so far.
    #[must_use]
    pub fn created(&self, kind: GroupKind) -> Vec<CreateGroupRequest> {
        let heard = self.heard(Operation::CreateGroup).into_iter();
        let created = heard.map(|heard| CreateGroupRequest::decode(&heard.body));
        let created = created.map(|created| created.expect("a creation"));
        created.filter(|created| created.kind == kind).collect()
    }

    /// Takes the service's keys, which it signs with.
    pub(crate) fn take_keys(&self, file: &[u8]) {
        locked(&self.mind).keys = Some(ServiceKeys::from_file(file).expect("keys"));
    }

    /// The segment that a group is in.
    #[must_use]
    pub fn segment(&self, group: GroupId) -> SegmentId {
        let mind = locked(&self.mind);
        let mut segments = mind.segments.iter().rev();
        segments.find(|it| it.group == group).expect("a segment").id
    }

    /// Whoever reads a group's journal from now on sees it go on with this, sealed and signed as
    /// the service does it, and not as it truly does.
    pub fn put(&self, group: GroupId, event: Event) {
        let segment = self.segment(group);
        let mut mind = locked(&self.mind);
        let content = EntryContent {
            accepted_ms: now_ms(),
            event,
        };
        let mut forks = mind.forks.iter_mut();
        match forks.find(|fork| fork.segment == segment && fork.shown.is_none()) {
            Some(fork) => fork.content.push(content),
            None => mind.forks.push(Fork {
                segment,
                content: vec![content],
                shown: None,
            }),
        }
    }

    /// The end of a segment as it was read last.
    ///
    /// # Panics
    /// It was not read.
    #[must_use]
    pub fn end_read_last(&self, segment: SegmentId) -> SignedHead {
        let heard = self.heard(Operation::ReadJournal);
        let mut pages = heard.iter().rev().filter_map(|heard| {
            let request = ReadJournalRequest::decode(&heard.body).ok()?;
            let page = ReadJournalResponse::decode(&heard.answer).ok()?;
            (request.segment == segment).then_some(page.head)
        });
        pages.next().expect("a reading")
    }

    /// Shows a segment from now on as if it ended there.
    pub fn withhold(&self, segment: SegmentId, end: SignedHead) {
        self.twist(Operation::ReadJournal, move |body, answer| {
            let request = ReadJournalRequest::decode(body).expect("a request");
            if request.segment != segment {
                return;
            }
            let mut page = ReadJournalResponse::decode(answer).expect("a stretch");
            let shown = end.next.0.saturating_sub(page.first.0);
            page.entries
                .truncate(usize::try_from(shown).expect("a few"));
            page.head = end.clone();
            page.closed = 0;
            *answer = page.encode();
        });
    }

    /// Signs the end of a segment as the service would.
    #[must_use]
    pub fn sign_end(&self, segment: &SegmentId, next: Position, chain: ChainHead) -> SignedHead {
        locked(&self.mind).sign(segment, next, chain)
    }

    /// The chain of a segment before its last entry, as it was truly read last.
    #[must_use]
    pub fn chain_before_end(&self, segment: &SegmentId) -> ChainHead {
        let mind = locked(&self.mind);
        let mut chains = mind.chains.iter();
        chains
            .find(|(known, _)| known == segment)
            .expect("a chain")
            .1
    }

    /// The key that entries of a step of a segment are sealed under.
    #[must_use]
    pub fn journal_key(&self, segment: &SegmentId, step: Step) -> JournalKey {
        locked(&self.mind).journal_key(segment, step)
    }

    /// What is answered without asking the real service.
    fn lie(&self, operation: Operation, body: &[u8]) -> Option<Vec<u8>> {
        let mut mind = locked(&self.mind);
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
        if operation == Operation::ReadJournal {
            locked(&self.mind).follow_chain(body, answer);
        }
        let twister = locked(&self.mind).twisters.remove(&operation);
        // It may look at what was heard meanwhile.
        if let Some(mut twist) = twister {
            twist(body, answer);
            let mut mind = locked(&self.mind);
            mind.twisters.entry(operation).or_insert(twist);
        }
        let mut mind = locked(&self.mind);
        mind.learn_segment(operation, body, answer);
        if operation == Operation::ReadJournal {
            mind.show_fork(body, answer);
        }
        mind.heard.push(Heard {
            operation,
            body: body.to_vec(),
            answer: answer.clone(),
        });
    }

    async fn ask(&self, request: Request) -> Result<reqwest::Response, reqwest::Error> {
        let target = locked(&self.target).expect("the stack is starting");
        let (head, body) = request.into_parts();
        let body = to_bytes(body, MOST_BYTES).await.expect("a body");
        let path = head.uri.path_and_query().expect("a path");
        let mut headers = head.headers;
        for hop in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH] {
            headers.remove(hop);
        }
        self.http
            .request(head.method, format!("http://{target}{path}"))
            .headers(headers)
            .body(body)
            .send()
            .await
    }

    async fn forward(&self, request: Request) -> (StatusCode, HeaderMap, Vec<u8>) {
        let Ok(answer) = self.ask(request).await else {
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
    let asked = heard.request();
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
    if let Some((Operation::FollowJournal, body)) = &asked
        && let Ok(FollowJournalRequest { segment, .. }) = Wire::decode(body)
    {
        return liar.stream(segment, request).await;
    }
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
