//! What the service can say instead of the truth to whoever reads a journal.

use client::StopReason;
use crypto::journal::{head_after, row_hash};
use protocol::codec::opaque;
use protocol::ids::{ChainHead, Digest, Position, SegmentId, Step};
use protocol::journal::{Entry, ReadJournalResponse};
use tls_codec::VLBytes;

use crate::liar::Liar;

/// What comes of a lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Everything is read, as it was said.
    All,
    /// Nothing is read before the truth is told again; then everything is.
    Waits,
    /// As before; what was shown is kept as evidence.
    Evidence,
    /// The message is not read; the client says that one has expired.
    Expired,
    /// The client follows the group no further, and says so and why.
    Stops(StopReason),
}

use Reads::{All, Evidence, Expired, Stops, Waits};

/// What is read, in the hands of the service.
pub struct Page<'a> {
    liar: &'a Liar,
    segment: SegmentId,
    /// The answer.
    pub page: ReadJournalResponse,
}

impl<'a> Page<'a> {
    /// The true one.
    #[must_use]
    pub fn of(liar: &'a Liar, segment: SegmentId, page: ReadJournalResponse) -> Self {
        Self {
            liar,
            segment,
            page,
        }
    }

    /// Signs the end as it is said to be.
    fn sign(&mut self) {
        let head = &self.page.head;
        self.page.head = self.liar.sign_end(&self.segment, head.next, head.chain);
    }

    fn last(&mut self) -> &mut Entry {
        self.page.entries.last_mut().expect("the message")
    }

    /// What is shown in the place of the last entry, with an end that goes with it.
    fn replace_last(&mut self, entry: Entry) {
        let length = self.page.entries.len();
        let mut at = self.page.first;
        // The chain before the last entry is known to whoever has read all.
        let before = self.liar.chain_before_end(&self.segment);
        at.0 += length as u64 - 1;
        self.page.head.chain = head_after(&before, at, &entry);
        *self.last() = entry;
        self.sign();
    }
}

/// The sealed row of an entry.
fn row(entry: &Entry) -> VLBytes {
    match entry {
        Entry::Handshake(row) | Entry::Message(row) => row.clone(),
        Entry::Expired(_) => panic!("an entry that is there"),
    }
}

/// What is changed, how, and what comes of it. The last entry is a message.
pub type Lie = (&'static str, fn(&mut Page<'_>), Reads);

/// Every field of [`ReadJournalResponse`].
pub const READ_JOURNAL: &[Lie] = &[
    (
        "head.next: one less",
        |it| it.page.head.next.0 -= 1,
        Evidence,
    ),
    (
        "head.next: one less, signed",
        |it| {
            it.page.head.next.0 -= 1;
            it.sign();
        },
        // Another chain than the one that was read to there.
        Stops(StopReason::Split),
    ),
    (
        "head.next: one more, signed",
        |it| {
            it.page.head.next.0 += 1;
            it.sign();
        },
        All,
    ),
    (
        "head.next: 0, signed",
        |it| {
            it.page.head.next = Position(0);
            it.sign();
        },
        Stops(StopReason::Behind),
    ),
    (
        "head.next: the highest number, signed",
        |it| {
            it.page.head.next = Position(u64::MAX);
            it.sign();
        },
        All,
    ),
    (
        "head.chain: another one",
        |it| it.page.head.chain = ChainHead([9; 32]),
        Evidence,
    ),
    (
        "head.chain: another one, signed",
        |it| {
            it.page.head.chain = ChainHead([9; 32]);
            it.sign();
        },
        Stops(StopReason::Split),
    ),
    (
        "head.generation: a later one",
        |it| it.page.head.generation += 1,
        Evidence,
    ),
    (
        "head.signature: none",
        |it| it.page.head.signature = [0; 64],
        Evidence,
    ),
    (
        "head: of another segment",
        |it| {
            let head = &it.page.head;
            let elsewhere = SegmentId([3; 32]);
            it.page.head = it.liar.sign_end(&elsewhere, head.next, head.chain);
        },
        Evidence,
    ),
    ("step: 0", |it| it.page.step = Step(0), All),
    (
        "step: the highest number",
        |it| it.page.step = Step(u32::MAX),
        All,
    ),
    ("closed: 1", |it| it.page.closed = 1, All),
    ("closed: no such number", |it| it.page.closed = 255, All),
    (
        "first: one less",
        |it| it.page.first.0 = it.page.first.0.saturating_sub(1),
        All,
    ),
    (
        "first: one more",
        |it| it.page.first.0 += 1,
        Stops(StopReason::Unprocessable),
    ),
    (
        "first: the highest number",
        |it| it.page.first = Position(u64::MAX),
        Stops(StopReason::Missing),
    ),
    ("entries: none", |it| it.page.entries.clear(), Waits),
    ("entries: one less", |it| drop(it.page.entries.pop()), Waits),
    (
        "entries: the last one twice",
        |it| {
            let last = it.last().clone();
            it.page.entries.push(last);
        },
        // Beyond the end that is signed nothing stands.
        All,
    ),
    (
        "entries: in another order",
        |it| it.page.entries.reverse(),
        Stops(StopReason::Unprocessable),
    ),
    (
        "entries: a row of garbage, signed",
        |it| it.replace_last(Entry::Message(opaque([0xa5; 300]))),
        Stops(StopReason::Unprocessable),
    ),
    (
        "entries: a row of garbage",
        |it| *it.last() = Entry::Message(opaque([0xa5; 300])),
        Stops(StopReason::Unprocessable),
    ),
    (
        "entries: nothing in a row, signed",
        |it| it.replace_last(Entry::Message(opaque(*b""))),
        Stops(StopReason::Unprocessable),
    ),
    (
        "entries: of the other class, signed",
        |it| {
            let row = row(it.last());
            it.replace_last(Entry::Handshake(row));
        },
        Stops(StopReason::Unprocessable),
    ),
    (
        "entries: expired, as its hash says",
        |it| {
            let hash = row_hash(row(it.last()).as_slice());
            *it.last() = Entry::Expired(hash);
        },
        Expired,
    ),
    (
        "entries: expired, by another hash",
        |it| *it.last() = Entry::Expired(Digest([3; 32])),
        Stops(StopReason::Split),
    ),
    (
        "padding: a megabyte",
        |it| it.page.padding = opaque(vec![0; 1 << 20]),
        All,
    ),
    ("padding: none", |it| it.page.padding = opaque(*b""), All),
];
