//! Many requests that change something, each of which can be counted: messages in journals.
//!
//! Senders are SDK clients, each in a group with one reader; what they send is signed by their leaf
//! and goes by the SDK's own transport with its retries. Its content is a number, so that the
//! entries of a journal tell how often each request was executed. The reader reads them by hand:
//! the SDK would pass over what came twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use client::{Client, Endpoints, Error, GroupAccess, Options, Patience, sign};
use crypto::journal::open_entry;
use crypto::schedule::JournalKey;
use crypto::secret::Secret;
use crypto::sign::{LeafKeyPair, Scheme, verify};
use protocol::codec::opaque;
use protocol::group::{EntryAccepted, GroupKey, SendMessageRequest};
use protocol::ids::{GroupId, LeafIndex, Position, SegmentId, Step};
use protocol::journal::{AnswerSize, Class, Entry, Event, ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::request::{REQUEST_LABEL, ReceivedRequest, Sender};
use protocol::{WIRE_VERSION, Wire as _};
use rusqlite::Connection;

use crate::device;
use crate::requests::now_ms;
use crate::stack::Stack;

/// Settings of a stack whose delivery service lets a few clients do what many do.
pub const MUCH: &str = "
[ds.allowances]
leaf = { capacity = 100000000, refill_per_minute = 0 }
group = { capacity = 100000000, refill_per_minute = 0 }
segment = { capacity = 100000000, refill_per_minute = 0 }
owner = { capacity = 100000000, refill_per_minute = 0 }
[ds.limits]
max_messages_a_day = 1000000
max_message_bytes_a_day = 68719476736
";

/// Nothing goes on for longer than this without an answer: attempts and pauses, and what they
/// overlap.
const BOUND: Duration = Duration::from_secs(240);
const GROUP: &str = "the load";
/// Between two readings.
const PAUSE: Duration = Duration::from_millis(100);

/// Senders and a reader.
pub struct Load {
    senders: Vec<SendingClient>,
    reader: Reader,
    next: Arc<AtomicUsize>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests that were answered with a result.
    pub accepted: Vec<usize>,
    /// Requests that were answered with an error, which may or may not have been executed.
    pub refused: Vec<(usize, Error)>,
    /// The longest that a client was kept waiting.
    pub slowest: Duration,
    /// How long all of it took.
    pub took: Duration,
}

struct SendingClient {
    client: Client,
    access: GroupAccess,
    key: LeafKeyPair,
}

struct Reader {
    client: Client,
    journals: Vec<Journal>,
    /// How often each number stood in a journal.
    read: BTreeMap<usize, usize>,
}

/// A group's, whose epoch does not change meanwhile.
struct Journal {
    segment: SegmentId,
    step: Step,
    key: JournalKey,
    next: Position,
}

fn options() -> Options {
    Options {
        patience: Patience {
            attempt: Duration::from_secs(4),
            call: Duration::from_secs(60),
        },
        pace: device::at_once(),
        ..Options::default()
    }
}

impl Load {
    /// So many senders, whose way begins at `relay`, or at the stack's own relay.
    pub async fn prepare(stack: &Stack, relay: Option<&str>, senders: usize) -> Self {
        let mut endpoints = device::endpoints(stack);
        if let Some(relay) = relay {
            endpoints.relay = relay.to_owned();
            endpoints.ohttp_keys = format!("{}/ohttp-keys", relay.trim_end_matches('/'));
        }
        let reader = a_client(stack, &endpoints, 0, "reader").await;
        let mut ready = Vec::new();
        for number in 1..=senders {
            let name = format!("sender.{number}");
            let sender = a_client(stack, &endpoints, number, &name).await;
            let group = format!("{GROUP} {number}");
            device::group_with(&group, &sender, &[&reader]).await;
            ready.push(SendingClient {
                access: sender.group_access(&group).expect("the group"),
                key: leaf_key(&sender, &group, &stack.home(&name)),
                client: sender,
            });
        }
        let journals = journals(&device::database(&stack.home("reader")));
        Self {
            senders: ready,
            reader: Reader {
                client: reader,
                journals,
                read: BTreeMap::new(),
            },
            next: Arc::default(),
        }
    }

    /// A message of a group with a number in it, as it is asked to be sent.
    #[must_use]
    pub fn message(access: &GroupAccess, number: usize) -> Vec<u8> {
        let request = SendMessageRequest {
            group: GroupKey {
                group_id: access.id,
                state_key: access.state_key.to_wire(),
            },
            message: opaque(message(&access.id, access.epoch, number)),
        };
        request.encode()
    }

    /// Sends until there are `requests` of them and `goes_on` is over.
    pub async fn run<T>(
        &mut self,
        requests: usize,
        goes_on: impl Future<Output = T>,
    ) -> (Outcome, T) {
        let began = Instant::now();
        let last = self.next.load(Ordering::SeqCst) + requests;
        let is_over = Arc::new(AtomicBool::new(false));
        let sending: Vec<_> = self
            .senders
            .drain(..)
            .map(|sender| {
                let (next, is_over) = (Arc::clone(&self.next), Arc::clone(&is_over));
                tokio::spawn(sender.sends(next, last, is_over))
            })
            .collect();
        let mut outcome = Outcome::default();
        let sends = async {
            let watched = goes_on.await;
            is_over.store(true, Ordering::SeqCst);
            for sender in sending {
                let (sender, sent) = sender.await.expect("a sender ends");
                self.senders.push(sender);
                outcome.accepted.extend(sent.accepted);
                outcome.refused.extend(sent.refused);
                outcome.slowest = outcome.slowest.max(sent.slowest);
            }
            watched
        };
        let watched = self.reader.reads_while(sends).await;
        outcome.took = began.elapsed();
        (outcome, watched)
    }

    /// Whether every request that was answered stands in the journal once, and every other one at
    /// most once.
    ///
    /// # Panics
    /// It is not so.
    pub async fn check(&mut self, outcomes: &[&Outcome]) {
        self.reader.read_on().await;
        let read = &self.reader.read;
        let twice: Vec<_> = read.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "executed more than once: {twice:?}");
        let mut asked = 0;
        for outcome in outcomes {
            let lost: Vec<_> = outcome
                .accepted
                .iter()
                .filter(|number| !read.contains_key(number))
                .collect();
            assert!(lost.is_empty(), "answered and not executed: {lost:?}");
            asked += outcome.accepted.len() + outcome.refused.len();
        }
        assert_eq!(asked, self.next.load(Ordering::SeqCst), "all were answered");
        assert!(read.len() <= asked);
    }
}

impl Outcome {
    /// How many requests were answered in a second.
    #[must_use]
    pub fn a_second(&self) -> f64 {
        (self.accepted.len() + self.refused.len()) as f64 / self.took.as_secs_f64()
    }
}

impl SendingClient {
    async fn sends(
        self,
        next: Arc<AtomicUsize>,
        last: usize,
        is_over: Arc<AtomicBool>,
    ) -> (Self, Outcome) {
        let mut outcome = Outcome::default();
        loop {
            if next.load(Ordering::SeqCst) >= last && is_over.load(Ordering::SeqCst) {
                return (self, outcome);
            }
            let number = next.fetch_add(1, Ordering::SeqCst);
            let request = self.request(number);
            let began = Instant::now();
            let posted = self.client.post(Operation::SendMessage, &request, &[]);
            let answered = tokio::time::timeout(BOUND, posted)
                .await
                .expect("an answer in bounded time");
            outcome.slowest = outcome.slowest.max(began.elapsed());
            match answered {
                Ok(answer) => {
                    EntryAccepted::decode(&answer).expect("a result");
                    outcome.accepted.push(number);
                }
                Err(error) => outcome.refused.push((number, error)),
            }
        }
    }

    fn request(&self, number: usize) -> Vec<u8> {
        let body = Load::message(&self.access, number);
        let sender = Sender::Leaf(LeafIndex(self.access.leaf_index));
        let operation = Operation::SendMessage;
        let signed = sign(operation, now_ms(), &sender, &body, &self.key);
        signed.expect("signed").encode()
    }
}

impl Reader {
    async fn reads_while<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                value = &mut other => return value,
                // What a reading that is broken off has seen is seen again.
                () = self.read_on() => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Reads what has come, each journal to its end.
    async fn read_on(&mut self) {
        for journal in &mut self.journals {
            // As everybody; and from there on page by page: one of them may not hold what lies
            // between.
            let mut from = journal.next.rounded_down();
            loop {
                let request = ReadJournalRequest {
                    version: WIRE_VERSION,
                    segment: journal.segment,
                    from,
                    known: from,
                    wait_ms: 0,
                    size: AnswerSize::Segment,
                    piece: 0,
                };
                let page = ask(&self.client, &request).await;
                assert_eq!(page.first, from, "a stretch begins where it was asked for");
                for entry in &page.entries {
                    let at = from;
                    from = from.next();
                    if at < journal.next {
                        continue;
                    }
                    journal.next = from;
                    if let Entry::Message(sealed) = entry
                        && let Some(number) = number(&journal.open(sealed.as_slice()))
                    {
                        *self.read.entry(number).or_default() += 1;
                    }
                }
                if journal.next >= page.head.next {
                    break;
                }
                assert!(!page.entries.is_empty(), "{:?} are missing", page.head.next);
            }
        }
    }
}

/// Until it is answered: it changes nothing.
async fn ask(client: &Client, request: &ReadJournalRequest) -> ReadJournalResponse {
    let operation = Operation::ReadJournal;
    loop {
        let bytes = request.encode();
        let posted = client.post(operation, &bytes, &[]);
        let answered = tokio::time::timeout(BOUND, posted).await;
        match answered.expect("an answer in bounded time") {
            Ok(answer) => return ReadJournalResponse::decode(&answer).expect("a stretch"),
            Err(Error::Refused(refusal)) => panic!("{operation:?}: {refusal:?}"),
            Err(_) => {}
        }
    }
}

impl Journal {
    fn open(&self, sealed: &[u8]) -> Event {
        let content = open_entry(&self.key, &self.segment, self.step, Class::Message, sealed);
        content.expect("an entry of ours").event
    }
}

/// Of the groups that the client of this database is in.
fn journals(database: &Connection) -> Vec<Journal> {
    let mut statement = database
        .prepare(
            "SELECT segment_id, step, journal_key, next FROM segments JOIN groups USING (group_id)
             WHERE kind = 1",
        )
        .expect("a query");
    let rows = statement.query_map((), |row| {
        Ok(Journal {
            segment: SegmentId(row.get(0)?),
            step: Step(row.get(1)?),
            key: JournalKey::new(row.get(2)?),
            next: Position(u64::from(row.get::<_, u32>(3)?)),
        })
    });
    rows.expect("rows").map(|row| row.expect("a row")).collect()
}

/// What the service can see of an application message: group and epoch. The number is the
/// ciphertext.
fn message(group: &GroupId, epoch: u64, number: usize) -> Vec<u8> {
    // MLSMessage: version mls10, wire format mls_private_message (RFC 9420 §6).
    let mut message = vec![0, 1, 0, 2];
    message.extend(opaque(group.0).encode());
    message.extend(epoch.to_be_bytes());
    message.push(1);
    let mut ciphertext = vec![7; 40];
    ciphertext.extend((number as u64).to_be_bytes());
    for part in [vec![], vec![1; 28], ciphertext] {
        message.extend(opaque(part).encode());
    }
    message
}

fn number(event: &Event) -> Option<usize> {
    let Event::Message(message) = event else {
        return None;
    };
    let bytes = message.as_slice().last_chunk()?;
    usize::try_from(u64::from_be_bytes(*bytes)).ok()
}

async fn a_client(stack: &Stack, endpoints: &Endpoints, number: usize, name: &str) -> Client {
    let client = device::by(stack, endpoints, number, name, options()).await;
    client
        .register_handle(name)
        .await
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    client
}

/// The key of the own leaf: of those that are kept, the one that signs as the leaf does.
fn leaf_key(client: &Client, group: &str, home: &Path) -> LeafKeyPair {
    let operation = Operation::InspectGroup;
    let signed = client
        .sign_as_member(group, operation, b"who am I?")
        .expect("a member");
    let received = ReceivedRequest::decode(&signed).expect("a request");
    let signature = received.request.signature.as_slice();
    let database = device::database(home);
    let mut statement = database
        .prepare("SELECT seed FROM leaf_keys")
        .expect("a query");
    let seeds = statement.query_map((), |row| row.get::<_, [u8; 32]>(0));
    seeds
        .expect("rows")
        .map(|seed| ed25519(&Secret::new(seed.expect("a seed"))))
        .find(|key| {
            let signed = received.signed_bytes;
            verify(&key.public(), REQUEST_LABEL, signed, signature).is_ok()
        })
        .expect("the key of the leaf")
}

fn ed25519(seed: &Secret<32>) -> LeafKeyPair {
    LeafKeyPair::from_seed(Scheme::Ed25519, seed).expect("a key")
}
