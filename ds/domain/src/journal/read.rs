//! Reading a segment: by capability, unsigned, from a rounded position.

use crypto::journal::End;
use protocol::follow::{FollowJournalRequest, FollowedStretch};
use protocol::ids::{ChainHead, Day, Digest, Position, SegmentId, Step};
use protocol::journal::{
    AnswerSize, Class, Entry, MOST_PIECES, Piece, ReadJournalRequest, ReadJournalResponse,
    SignedHead,
};
use protocol::operation::Operation;
use protocol::padding::{ANSWER_HEAD, ORDINARY_ANSWER};
use protocol::problem::ProblemType;
use protocol::{WIRE_VERSION, Wire as _, codec::opaque};

use super::head::{Head, ReadBuckets, StoredHead};
use crate::engine::{Range, Row, Table};
use crate::env::Env;
use crate::operation::UnsignedRead;
use crate::refusal::Stop;
use crate::rows::{Bucket, Rows, SegmentRow};
use crate::store::class_byte;
use crate::view::View;

/// Most entries in one answer.
const MAX_ENTRIES: usize = 1_024;

/// Days whose rows are read in one go: whoever was away for long costs few ways to the engine, and
/// a reader of yesterday few rows that are not shown.
const DAYS_AT_ONCE: usize = 8;

/// Of the last entries, so many are looked at, in so many bytes of each class: what one read pays
/// for. Where longer ones stand before the end, fewer.
const LAST_ENTRIES: [u64; 3] = [12, 4, 1];
const LAST_BYTES: usize = 16 * 1024;

/// [`Operation::ReadJournal`], without the wait.
#[derive(Debug)]
pub struct ReadJournal;

impl UnsignedRead for ReadJournal {
    type Request = ReadJournalRequest;
    type Response = ReadJournalResponse;
    const OPERATION: Operation = Operation::ReadJournal;

    fn bucket(request: &ReadJournalRequest, rows: &Rows<'_>) -> Bucket {
        rows.segment_bucket(&request.segment)
    }

    fn read(
        request: &ReadJournalRequest,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<ReadJournalResponse, Stop> {
        if request.version != WIRE_VERSION {
            return Err(ProblemType::UnsupportedVersion.into());
        }
        let is_slot = request.size == AnswerSize::Slot;
        let is_piece = request.piece > 0;
        if is_slot && request.wait_ms > 0
            || is_piece && (!is_slot || request.from == Position::LAST)
        {
            return Err(ProblemType::Malformed.into());
        }
        if request.segment == SegmentId::NOBODY {
            return nobodys(request, env.generation);
        }
        let stored =
            StoredHead::read(view, &request.segment, env)?.ok_or(ProblemType::UnknownSegment)?;
        let head = &stored.head;
        let bucket = bucket(head, request.from, request.size).saturating_sub(ANSWER_HEAD);
        let mut response = ReadJournalResponse {
            head: env.keys.journal_signing().sign(
                &head.segment,
                End {
                    generation: env.generation,
                    next: head.next,
                    chain: head.chain,
                },
            )?,
            step: head.step,
            closed: u8::from(head.closed),
            first: head.next,
            entries: Vec::new(),
            piece: None,
            padding: opaque(Vec::new()),
        };
        let room = room_in(&response, bucket);
        (response.first, response.entries) = match request.from {
            Position::LAST => last_entries(&stored, room, view)?,
            from => entries(&stored, from, room, view)?,
        };
        if is_slot {
            cut(&mut response, request.piece, room)?;
        }
        pad(&mut response, bucket);
        Ok(response)
    }
}

/// What nobody's journal has: nothing, in as many bytes as any that is read in a slot.
fn nobodys(request: &ReadJournalRequest, generation: u64) -> Result<ReadJournalResponse, Stop> {
    let is_slot = request.size == AnswerSize::Slot;
    if !is_slot || request.from != Position::LAST || request.known != Position(0) {
        return Err(ProblemType::Malformed.into());
    }
    let mut response = ReadJournalResponse {
        head: SignedHead {
            generation,
            next: Position(0),
            chain: ChainHead([0; 32]),
            signature: [0; 64],
        },
        step: Step(0),
        closed: 0,
        first: Position(0),
        entries: Vec::new(),
        piece: None,
        padding: opaque(Vec::new()),
    };
    pad(&mut response, ORDINARY_ANSWER.saturating_sub(ANSWER_HEAD));
    Ok(response)
}

/// [`Operation::FollowJournal`]: what is told first. Whatever comes later is told in the same way,
/// from the position that the follower has come to.
#[derive(Debug)]
pub struct FollowJournal;

impl UnsignedRead for FollowJournal {
    type Request = FollowJournalRequest;
    type Response = FollowedStretch;
    const OPERATION: Operation = Operation::FollowJournal;

    fn bucket(request: &FollowJournalRequest, rows: &Rows<'_>) -> Bucket {
        rows.segment_bucket(&request.segment)
    }

    fn read(
        request: &FollowJournalRequest,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<FollowedStretch, Stop> {
        if request.version != WIRE_VERSION {
            return Err(ProblemType::UnsupportedVersion.into());
        }
        if request.from != request.from.rounded_down() {
            // An exact position would tell one reader from the others.
            return Err(ProblemType::Malformed.into());
        }
        stretch(&request.segment, request.from, view, env)
    }
}

/// What is told to a follower who has come to this position, as much as an answer to a reader has.
///
/// # Errors
/// [`Stop::Need`], [`ProblemType::UnknownSegment`], [`Stop::Internal`].
pub fn stretch(
    segment: &SegmentId,
    from: Position,
    view: &View,
    env: &mut Env<'_>,
) -> Result<FollowedStretch, Stop> {
    let stored = StoredHead::read(view, segment, env)?.ok_or(ProblemType::UnknownSegment)?;
    let head = &stored.head;
    let (first, entries) = match from >= head.next {
        true => (from, Vec::new()),
        false => entries(&stored, from, bucket(head, from, AnswerSize::Segment), view)?,
    };
    let end = End {
        generation: env.generation,
        next: head.next,
        chain: head.chain,
    };
    Ok(FollowedStretch {
        head: env.keys.journal_signing().sign(segment, end)?,
        step: head.step,
        closed: u8::from(head.closed),
        first,
        entries,
    })
}

/// How long an answer from this position on is, on the network.
fn bucket(head: &Head, from: Position, size: AnswerSize) -> usize {
    if size != AnswerSize::Segment {
        return ORDINARY_ANSWER;
    }
    let is_tail = from.0.saturating_add(2 * Position::READ_GRANULE) > head.next.0;
    let bucket = if is_tail {
        head.read_buckets.tail
    } else {
        head.read_buckets.history
    };
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// What a read can know before it looks for its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Bytes of the answer, but for an entry that is larger alone.
    pub bytes: usize,
    /// Readers of the segment who may wait or follow at a time.
    pub waiting: usize,
    /// Bytes of a frame on a stream.
    pub frame_len: usize,
}

/// Computes [`Expected`] from the segment's head alone.
///
/// # Errors
/// [`Stop::Need`], [`ProblemType::UnknownSegment`], [`Stop::Internal`].
pub fn expected(
    segment: &SegmentId,
    (from, size): (Position, AnswerSize),
    view: &View,
    env: &Env<'_>,
) -> Result<Expected, Stop> {
    let stored = StoredHead::read(view, segment, env)?.ok_or(ProblemType::UnknownSegment)?;
    let ReadBuckets { waiting, .. } = stored.head.read_buckets;
    Ok(Expected {
        bytes: bucket(&stored.head, from, size),
        waiting: usize::try_from(waiting).unwrap_or(usize::MAX),
        frame_len: stored.head.read_buckets.frame_len(),
    })
}

/// Whether a reader who knows the segment up to a position has to wait for news.
#[must_use]
pub fn is_news(head: &Head, known: Position) -> bool {
    head.closed || head.next > known
}

/// The length of a vector takes four bytes at most: so many more than that of an empty one.
const LONGER_LENGTH: usize = 3;

/// What is left for entries in a bucket beside everything else that an answer says.
fn room_in(response: &ReadJournalResponse, bucket: usize) -> usize {
    use tls_codec::Size as _;
    let beside = response.tls_serialized_len();
    // The lengths of entries and padding.
    bucket.saturating_sub(beside.saturating_add(2 * LONGER_LENGTH))
}

/// In the place of an entry that is longer than an answer in a slot, the piece of it that is asked
/// for: what is read in a slot has one size, whatever it is.
fn cut(response: &mut ReadJournalResponse, piece: u16, room: usize) -> Result<(), Stop> {
    let [entry] = response.entries.as_slice() else {
        return Ok(());
    };
    // The number of pieces, and a length.
    let most = room.saturating_sub(2 + 2).max(1);
    let len = len_of(entry);
    if len <= room || len > most.saturating_mul(MOST_PIECES.into()) {
        return Ok(());
    }
    let encoded = entry.encode();
    let mut pieces = encoded.chunks(most);
    let of = u16::try_from(pieces.len()).unwrap_or(MOST_PIECES);
    let bytes = pieces.nth(piece.into()).ok_or(ProblemType::Malformed)?;
    response.piece = Some(Piece {
        of,
        bytes: opaque(bytes),
    });
    response.entries.clear();
    Ok(())
}

/// Up to the bucket, or the next one for an entry that is larger alone.
fn pad(response: &mut ReadJournalResponse, bucket: usize) {
    use tls_codec::Size as _;
    // With the one byte that says that there is no padding.
    let len = response.tls_serialized_len();
    let size = len.saturating_add(LONGER_LENGTH).div_ceil(bucket.max(1)) * bucket.max(1);
    let room = size.saturating_sub(len).saturating_add(1);
    response.padding = opaque(vec![0; zeros_in(room)]);
}

/// The length of the vector that takes this room, its own length included.
pub(super) fn zeros_in(room: usize) -> usize {
    [1, 2, 4]
        .into_iter()
        .map(|header| (header, room.saturating_sub(header)))
        .find(|(header, zeros)| length_of_length(*zeros) == *header)
        // Of 65, 16,386 and 16,387 bytes no vector is: one or two stay free, which the transport
        // pads.
        .map_or(if room < 100 { 63 } else { 16_383 }, |(_, zeros)| zeros)
}

/// Bytes of the length before a vector (RFC 9420 §2.1.2).
const fn length_of_length(len: usize) -> usize {
    match len {
        0..=63 => 1,
        64..=16_383 => 2,
        _ => 4,
    }
}

/// The last ones that have room together. None where the last one alone has not: as long as nothing
/// comes after it, each answer would be longer than others, whoever knows it.
fn last_entries(
    stored: &StoredHead,
    room: usize,
    view: &View,
) -> Result<(Position, Vec<Entry>), Stop> {
    let next = stored.head.next;
    for count in LAST_ENTRIES {
        let begin = Position(next.0.saturating_sub(count));
        let (first, mut some) = entries(stored, begin, LAST_BYTES, view)?;
        let found = u64::try_from(some.len()).unwrap_or(0);
        if first.0.saturating_add(found) < next.0 {
            continue;
        }
        let (mut fitting, mut bytes) = (0u64, 0usize);
        for entry in some.iter().rev() {
            bytes = bytes.saturating_add(len_of(entry));
            if bytes > room {
                break;
            }
            fitting += 1;
        }
        let left_out = found.saturating_sub(fitting);
        some.drain(..usize::try_from(left_out).unwrap_or(some.len()));
        return Ok((Position(first.0.saturating_add(left_out)), some));
    }
    Ok((next, Vec::new()))
}

/// Dense from `from` on, until there is no room; at least one.
fn entries(
    stored: &StoredHead,
    from: Position,
    room: usize,
    view: &View,
) -> Result<(Position, Vec<Entry>), Stop> {
    let (row, head) = (stored.row, &stored.head);
    let mut entries = Vec::new();
    // What comes before the first day that the head lists has expired.
    let oldest = head.days.first().map_or(head.next, |(_, first)| *first);
    let start = from.max(oldest);
    let (mut next, mut first) = (start, start);
    let mut bytes = 0usize;
    let days: Vec<_> = head
        .days
        .iter()
        .enumerate()
        .filter(|(at, _)| day_end(head, *at) > from)
        .map(|(_, (day, begins))| DayOfSegment {
            row,
            head,
            day: *day,
            from: start.max(*begins),
            room,
        })
        .collect();
    for days in days.chunks(DAYS_AT_ONCE) {
        let mut found = read_days(days, view)?.into_iter();
        for day in days {
            let entries_of_day = found.next().unwrap_or_default();
            for (position, entry) in day.entries(entries_of_day)? {
                if position != next {
                    if !entries.is_empty() {
                        return Err(DAMAGED);
                    }
                    // The day was dropped meanwhile.
                    (first, next) = (position, position);
                }
                let len = len_of(&entry);
                if !entries.is_empty() && bytes.saturating_add(len) > room {
                    return Ok((first, entries));
                }
                bytes = bytes.saturating_add(len);
                entries.push(entry);
                next = next.next();
                if next >= head.next || bytes >= room || entries.len() >= MAX_ENTRIES {
                    return Ok((first, entries));
                }
            }
        }
    }
    Ok((first, entries))
}

/// The rows of a day: handshakes, then messages.
type RowsOfDay<'v> = (&'v [Row], &'v [Row]);

/// The rows of several days, together.
fn read_days<'v>(days: &[DayOfSegment<'_>], view: &'v View) -> Result<Vec<RowsOfDay<'v>>, Stop> {
    let ranges: Vec<Range> = days
        .iter()
        .flat_map(|day| [Table::Handshakes, Table::Messages].map(|table| day.range(table)))
        .collect();
    let found = view.ranges(&ranges)?;
    Ok(found
        .chunks_exact(2)
        .filter_map(|rows| match rows {
            [handshakes, messages] => Some((*handshakes, *messages)),
            _ => None,
        })
        .collect())
}

/// The first position behind the day at this index.
fn day_end(head: &Head, at: usize) -> Position {
    head.days.get(at + 1).map_or(head.next, |(_, first)| *first)
}

fn len_of(entry: &Entry) -> usize {
    match entry {
        Entry::Handshake(row) | Entry::Message(row) => row.as_slice().len() + 5,
        Entry::Expired(_) => 33,
    }
}

struct DayOfSegment<'h> {
    row: SegmentRow,
    head: &'h Head,
    day: Day,
    from: Position,
    room: usize,
}

impl DayOfSegment<'_> {
    fn range(&self, table: Table) -> Range {
        let kept_until = match table {
            Table::Messages => self.head.kept.message(self.day),
            _ => self.head.kept.handshake(self.day),
        };
        let mut range = self.row.entries(table, kept_until, self.from, MAX_ENTRIES);
        range.max_bytes = self.room;
        range
    }

    fn entries(
        &self,
        (handshakes, messages): RowsOfDay<'_>,
    ) -> Result<Vec<(Position, Entry)>, Stop> {
        let mut entries = Vec::new();
        let last_message = messages
            .last()
            .and_then(|(name, _)| SegmentRow::position_in(name));
        for (name, value) in handshakes {
            let position = SegmentRow::position_in(name).ok_or(DAMAGED)?;
            if position >= self.head.next {
                // Appended after the head was read.
                break;
            }
            let (&class, row) = value.split_first().ok_or(DAMAGED)?;
            let entry = if class == class_byte(Class::Handshake) {
                Entry::Handshake(opaque(row))
            } else {
                match message_at(messages, position) {
                    Some(sealed) => Entry::Message(opaque(sealed)),
                    // Not read this time: the range of messages was full before it.
                    None if last_message.is_some_and(|last| last < position)
                        && messages_are_full(messages, self.room) =>
                    {
                        break;
                    }
                    None => Entry::Expired(Digest(row.try_into().map_err(|_| DAMAGED)?)),
                }
            };
            entries.push((position, entry));
        }
        Ok(entries)
    }
}

const DAMAGED: Stop = Stop::Internal("an entry of a journal");

fn message_at(messages: &[Row], position: Position) -> Option<&[u8]> {
    messages
        .iter()
        .find(|(name, _)| SegmentRow::position_in(name) == Some(position))
        .map(|(_, value)| value.as_slice())
}

/// Whether a range ended because it was full, not because nothing followed.
fn messages_are_full(messages: &[Row], max_bytes: usize) -> bool {
    let bytes: usize = messages.iter().map(|(_, value)| value.len()).sum();
    messages.len() >= MAX_ENTRIES || bytes >= max_bytes
}
