use crypto::journal::{first_head, head_after, open_entry, verify_head};
use crypto::schedule::{JournalKey, StateKey};
use proptest::prelude::*;
use protocol::codec::opaque;
use protocol::group::GroupKind;
use protocol::ids::{Day, GroupId, Position, RotationEpoch, SegmentId, Step};
use protocol::journal::{
    AnswerSize, Class, CommitEvent, Entry, Event, ReadJournalRequest, ReadJournalResponse,
};
use protocol::padding::{ANSWER_HEAD, ORDINARY_ANSWER};
use protocol::problem::ProblemType;
use protocol::{WIRE_VERSION, Wire as _};
use tls_codec::Size as _;

use super::head::StoredHead;
use super::read::ReadJournal;
use super::{Head, Journal};
use crate::engine::Table;
use crate::execution::read;
use crate::operation::UnsignedRead as _;
use crate::refusal::Stop;
use crate::rows::SegmentRow;
use crate::store::{Kept, NewEntry, NextHead};
use crate::testing::{DAY_MS, NOON_MS, Service};
use crate::view::View;

fn segment() -> SegmentId {
    StateKey::new([1; 32]).segment(&GroupId([2; 16]), RotationEpoch(0))
}

fn message(content: u8, len: usize) -> Event {
    Event::Message(opaque(vec![content; len]))
}

fn commit() -> Event {
    Event::Commit(CommitEvent {
        commit: opaque(*b"commit"),
        link_keys: Vec::new(),
        former_wrapper_key: None,
    })
}

fn begin(service: &mut Service, message_days: u16) {
    begin_of(GroupKind::Group, service, message_days);
}

fn begin_of(kind: GroupKind, service: &mut Service, message_days: u16) {
    let (mut env, engine) = service.env();
    let tag = JournalKey::new([3; 32]).tag_key();
    let today = env.today();
    let kept = Kept::of(kind, message_days);
    let head = Head::new(segment(), RotationEpoch(0), tag, (kept, 2), today);
    let (head, _) = Journal::begin(head, &env).into_new(&mut env).unwrap();
    let mut batch = crate::engine::Batch::default();
    batch
        .puts
        .push((head.segment.key(), head.head.into_value()));
    engine.apply(batch).unwrap();
}

/// What a transition does with what was appended.
fn store(service: &mut Service, head: NextHead, entries: Vec<NewEntry>) {
    let mut batch = crate::engine::Batch::default();
    head.lower(&mut batch);
    for entry in entries {
        entry.puts(&mut batch);
    }
    service.engine.apply(batch).unwrap();
}

fn stored(service: &mut Service) -> StoredHead {
    let (env, engine) = service.env();
    let row = env.rows().segment(&segment());
    let mut view = View::default();
    let needed = crate::engine::Read::Row(row.key());
    let found = engine.read(std::slice::from_ref(&needed));
    view.add(needed, found.into_iter().next().unwrap());
    StoredHead::read(&view, &segment(), &env).unwrap().unwrap()
}

fn append(service: &mut Service, events: impl IntoIterator<Item = Event>) {
    let mut journal = Journal::of(stored(service));
    let (mut env, _) = service.env();
    for event in events {
        let key = JournalKey::new([3; 32]).ahead(journal.head().step.0);
        journal.append(&key, event, &mut env).unwrap();
    }
    let (head, entries) = journal.into_next(&mut env).unwrap();
    store(service, head, entries);
}

fn read_as(
    service: &mut Service,
    from: u64,
    (size, piece): (AnswerSize, u16),
) -> Result<ReadJournalResponse, Stop> {
    let (mut env, engine) = service.env();
    let request = ReadJournalRequest {
        version: WIRE_VERSION,
        segment: segment(),
        from: Position(from),
        known: Position(from),
        wait_ms: 0,
        size,
        piece,
    };
    read::<ReadJournal>(&request, engine, &mut env)
}

fn read_from(service: &mut Service, from: u64) -> Result<ReadJournalResponse, Stop> {
    read_as(service, from, (AnswerSize::Segment, 0))
}

/// Reads to the end, as a member does, and verifies what it reads.
fn read_all(service: &mut Service) -> Vec<(Position, Option<u8>)> {
    let mut chain = first_head(&segment());
    let mut next = Position(0);
    let mut step = Step(0);
    let mut contents = Vec::new();
    let mut from = next.rounded_down();
    loop {
        let answer = read_from(service, from.0).unwrap();
        let key = service.keys().journal_signing().public();
        verify_head(&key, &segment(), &answer.head).unwrap();
        let mut position = answer.first;
        let before = next;
        for entry in &answer.entries {
            if position >= next {
                let content = match entry {
                    Entry::Handshake(row) | Entry::Message(row) => {
                        let class = match entry {
                            Entry::Handshake(_) => Class::Handshake,
                            _ => Class::Message,
                        };
                        let key = JournalKey::new([3; 32]).ahead(step.0);
                        let content =
                            open_entry(&key, &segment(), step, class, row.as_slice()).unwrap();
                        Some(match content.event {
                            Event::Message(bytes) | Event::Proposal(bytes) => bytes.as_slice()[0],
                            Event::Commit(_) => {
                                step = step.next();
                                0
                            }
                        })
                    }
                    Entry::Expired(_) => None,
                };
                chain = head_after(&chain, position, entry);
                contents.push((position, content));
                next = position.next();
            }
            position = position.next();
        }
        if next == answer.head.next {
            assert_eq!(chain, answer.head.chain);
            assert_eq!(step, answer.step);
            return contents;
        }
        assert!(next > before, "reading goes on");
        from = next;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_reader_gets_every_entry_once_in_order_with_an_unbroken_chain(
        kinds in proptest::collection::vec((0u8..10, 1usize..3000, 0u64..2), 0..150),
    ) {
        let mut service = Service::new(1);
        begin(&mut service, 30);
        let mut expected = Vec::new();
        for (kind, len, days) in kinds {
            service.now_ms += days * DAY_MS / 8;
            let event = if kind == 0 { commit() } else { message(kind, len) };
            append(&mut service, [event]);
            expected.push((Position(expected.len() as u64), Some(kind)));
        }
        prop_assert_eq!(read_all(&mut service), expected);
    }
}

#[test]
fn a_message_that_has_expired_leaves_its_place_and_the_chain_whole() {
    let mut service = Service::new(2);
    begin(&mut service, 7);
    append(&mut service, [message(1, 10), commit(), message(2, 10)]);
    service.now_ms += 8 * DAY_MS;
    let today = Day::of(service.now_ms).0;
    service.engine.drop_days(Table::Messages, today);
    service.engine.drop_days(Table::Handshakes, today);
    append(&mut service, [message(3, 10)]);
    assert_eq!(
        read_all(&mut service),
        [
            (Position(0), None),
            (Position(1), Some(0)),
            (Position(2), None),
            (Position(3), Some(3))
        ]
    );
}

#[test]
fn entries_of_a_day_after_a_clock_that_went_back_stay_in_order() {
    let mut service = Service::new(3);
    begin(&mut service, 30);
    service.now_ms += 3 * DAY_MS;
    append(&mut service, [message(1, 10)]);
    service.now_ms -= 2 * DAY_MS;
    append(&mut service, [message(2, 10)]);
    service.now_ms += 5 * DAY_MS;
    append(&mut service, [message(3, 10)]);
    assert_eq!(
        read_all(&mut service),
        [
            (Position(0), Some(1)),
            (Position(1), Some(2)),
            (Position(2), Some(3))
        ]
    );
}

#[test]
fn answers_with_the_end_of_a_segment_have_one_size_whatever_they_hold() {
    let mut service = Service::new(4);
    begin(&mut service, 30);
    let mut sizes = Vec::new();
    for count in 0..6 {
        let answer = read_from(&mut service, 0).unwrap();
        assert_eq!(answer.entries.len(), count);
        sizes.push(answer.tls_serialized_len());
        append(&mut service, [message(1, 300)]);
    }
    sizes.dedup();
    assert_eq!(sizes, [8192 - ANSWER_HEAD]);
}

fn read_ordinary(service: &mut Service, from: Position) -> ReadJournalResponse {
    let (mut env, engine) = service.env();
    let request = ReadJournalRequest {
        version: WIRE_VERSION,
        segment: segment(),
        from,
        known: Position(0),
        wait_ms: 0,
        size: AnswerSize::Ordinary,
        piece: 0,
    };
    read::<ReadJournal>(&request, engine, &mut env).unwrap()
}

fn read_last(service: &mut Service) -> ReadJournalResponse {
    read_ordinary(service, Position::LAST)
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (0u8..4, 1usize..5_000).prop_map(|(kind, len)| match kind {
        0 => Event::Proposal(opaque(vec![1; len])),
        1 => Event::Commit(CommitEvent {
            commit: opaque(vec![0; len]),
            link_keys: Vec::new(),
            former_wrapper_key: None,
        }),
        _ => message(2, len),
    });
    proptest::collection::vec(event, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_answer_of_ordinary_size_has_it_whatever_entries_there_are(
        old in events(),
        new in events(),
    ) {
        let mut service = Service::new(6);
        begin(&mut service, 7);
        append(&mut service, old);
        service.now_ms += 8 * DAY_MS;
        let today = Day::of(service.now_ms).0;
        service.engine.drop_days(Table::Messages, today);
        let ordinary = ORDINARY_ANSWER - ANSWER_HEAD;
        for event in new {
            append(&mut service, [event]);
            let last = read_last(&mut service);
            prop_assert_eq!(last.tls_serialized_len(), ordinary);
            let next = last.head.next.0;
            let shown = u64::try_from(last.entries.len()).unwrap();
            prop_assert_eq!(last.first.0 + shown, next);
            let alone = read_ordinary(&mut service, Position(next - 1));
            prop_assert_eq!(shown > 0, alone.tls_serialized_len() == ordinary);
            for from in 0..next {
                let answer = read_ordinary(&mut service, Position(from));
                let is_ordinary = answer.tls_serialized_len() == ordinary;
                prop_assert!(is_ordinary || answer.entries.len() == 1);
            }
        }
    }
}

#[test]
fn who_asks_for_the_last_entries_gets_those_that_fit_in_one_size_whatever_the_group() {
    let mut service = Service::new(6);
    begin(&mut service, 30);
    let ordinary = ORDINARY_ANSWER - ANSWER_HEAD;
    let mut whole = 0;
    for count in 0..40u64 {
        let answer = read_last(&mut service);
        let shown = u64::try_from(answer.entries.len()).unwrap();
        assert_eq!(answer.tls_serialized_len(), ordinary);
        assert_eq!(
            (answer.first.0 + shown, answer.head.next),
            (count, Position(count))
        );
        whole = whole.max(shown);
        // As many as fit, as from where they begin.
        assert_eq!(
            answer.entries,
            read_from(&mut service, answer.first.0).unwrap().entries
        );
        assert!(shown == count || shown >= 5, "{shown} of {count}");
        append(&mut service, [message(1, 300)]);
    }
    assert!(whole < 13);
    // One that is longer alone is asked for by its place, and short ones after it are shown.
    append(&mut service, [message(2, 100_000)]);
    let answer = read_last(&mut service);
    assert_eq!((answer.first, answer.entries.len()), (Position(41), 0));
    assert_eq!(answer.tls_serialized_len(), ordinary);
    let answer = read_ordinary(&mut service, Position(40));
    assert_eq!((answer.first, answer.entries.len()), (Position(40), 1));
    append(&mut service, [message(3, 10)]);
    let answer = read_last(&mut service);
    assert_eq!((answer.first, answer.entries.len()), (Position(41), 1));
    assert_eq!(answer.tls_serialized_len(), ordinary);
}

#[test]
fn nobodys_journal_is_answered_as_any_that_is_read_in_a_slot_and_asked_for_in_no_other_way() {
    let mut service = Service::new(7);
    begin(&mut service, 30);
    append(&mut service, [message(1, 300), commit()]);
    let slot = |segment| ReadJournalRequest {
        version: WIRE_VERSION,
        segment,
        from: Position::LAST,
        known: Position(0),
        wait_ms: 0,
        size: AnswerSize::Slot,
        piece: 0,
    };
    let (mut env, engine) = service.env();
    let some = read::<ReadJournal>(&slot(segment()), engine, &mut env).unwrap();
    assert_eq!(some.entries.len(), 2);
    let nobodys = slot(SegmentId::NOBODY);
    // No row is looked for.
    let none = ReadJournal::read(&nobodys, &View::default(), &mut env).unwrap();
    assert_eq!(none.tls_serialized_len(), some.tls_serialized_len());
    assert_eq!((none.head.next, none.entries.len()), (Position(0), 0));
    let mut others = vec![slot(segment()), nobodys.clone(), nobodys.clone()];
    others[0].wait_ms = 1;
    others[1].from = Position(0);
    others[2].known = Position(1);
    for size in [AnswerSize::Ordinary, AnswerSize::Segment] {
        others.push(ReadJournalRequest {
            size,
            ..nobodys.clone()
        });
    }
    others.push(ReadJournalRequest {
        wait_ms: 1,
        ..nobodys
    });
    for other in others {
        let answer = read::<ReadJournal>(&other, engine, &mut env);
        let is_malformed = |stop: &Stop| match stop {
            Stop::Refused(refusal) => refusal.problem() == ProblemType::Malformed,
            _ => false,
        };
        assert!(answer.is_err_and(|stop| is_malformed(&stop)), "{other:?}");
    }
}

/// A read in a slot.
fn in_slot(
    service: &mut Service,
    from: u64,
    piece: u16,
) -> Result<ReadJournalResponse, ProblemType> {
    let answer = read_as(service, from, (AnswerSize::Slot, piece));
    answer.map_err(|stop| match stop {
        Stop::Refused(refusal) => refusal.problem(),
        other => panic!("{other:?}"),
    })
}

#[test]
fn an_entry_that_is_longer_than_a_slot_comes_in_pieces_of_one_size() {
    let mut service = Service::new(8);
    begin(&mut service, 30);
    let long = [6_000, 12_000, 60_000];
    for (content, len) in (1..).zip(long) {
        append(&mut service, [message(content, len), message(content, 10)]);
    }
    let one_size = in_slot(&mut service, 1, 0).unwrap().tls_serialized_len();
    let mut counts = Vec::new();
    for at in [0, 2, 4] {
        let (mut bytes, mut of) = (Vec::new(), 1);
        let mut piece = 0;
        while piece < of {
            let answer = in_slot(&mut service, at, piece).unwrap();
            assert_eq!(answer.tls_serialized_len(), one_size);
            assert_eq!((answer.first, answer.entries.len()), (Position(at), 0));
            let found = answer.piece.unwrap();
            of = found.of;
            bytes.extend(found.bytes.as_slice());
            piece += 1;
        }
        let entry = Entry::decode(&bytes).unwrap();
        assert_eq!(entry, read_from(&mut service, at).unwrap().entries[0]);
        assert_eq!(in_slot(&mut service, at, of), Err(ProblemType::Malformed));
        counts.push(of);
    }
    assert_eq!(counts, [2, 3, 9]);
    // Of no other answers there are pieces.
    let last = in_slot(&mut service, u64::MAX, 1);
    assert_eq!(last, Err(ProblemType::Malformed));
    assert_eq!(in_slot(&mut service, 1, 0).unwrap().piece, None);
    assert!(read_ordinary(&mut service, Position(0)).piece.is_none());
    // Nobody reads for hours what stands before this one.
    append(&mut service, [message(9, 200_000)]);
    let whole = in_slot(&mut service, 6, 0).unwrap();
    assert_eq!((whole.piece, whole.entries.len()), (None, 1));
}

/// What a gateway passes.
const PASSES: usize = 4 << 20;

#[test]
fn no_answer_is_longer_than_a_gateway_passes_however_long_the_entries_are() {
    let mut service = Service::new(1);
    begin(&mut service, 30);
    // Short ones between the longest that any service can be set to take.
    for content in 1..=6 {
        append(
            &mut service,
            [message(content, 3 << 19), message(content, 1)],
        );
    }
    let mut next = 0;
    while next < 12 {
        let answer = read_from(&mut service, next).unwrap();
        let bytes = answer.tls_serialized_len();
        assert!(bytes < PASSES, "{bytes}");
        assert_eq!(answer.first, Position(next));
        assert!(!answer.entries.is_empty());
        next += u64::try_from(answer.entries.len()).unwrap();
    }
}

#[test]
fn a_journal_of_many_days_is_read_in_few_goes() {
    let mut service = Service::new(5);
    begin(&mut service, 30);
    for _ in 0..11 {
        append(&mut service, [message(1, 10)]);
        service.now_ms += DAY_MS;
    }
    let (mut env, engine) = service.env();
    let request = ReadJournalRequest {
        version: WIRE_VERSION,
        segment: segment(),
        from: Position(0),
        known: Position(0),
        wait_ms: 0,
        size: AnswerSize::Segment,
        piece: 0,
    };
    let (mut view, mut goes) = (View::default(), 0);
    let answer = loop {
        match ReadJournal::read(&request, &view, &mut env) {
            Err(Stop::Need(reads)) => {
                goes += 1;
                for (read, found) in reads.clone().into_iter().zip(engine.read(&reads)) {
                    view.add(read, found);
                }
            }
            answer => break answer.unwrap(),
        }
    };
    assert_eq!(answer.entries.len(), 11);
    // The head, eight days, and the rest.
    assert_eq!(goes, 3);
}

#[test]
fn padding_takes_exactly_the_room_that_there_is_or_leaves_what_no_vector_takes() {
    for room in (1..200).chain(16_300..16_500) {
        let zeros = super::read::zeros_in(room);
        let taken = opaque(vec![0; zeros]).tls_serialized_len();
        let free = match room {
            65 | 16_386 => 1,
            16_387 => 2,
            _ => 0,
        };
        assert_eq!(taken + free, room);
    }
}

#[test]
fn a_closed_segment_takes_nothing_more() {
    let mut service = Service::new(6);
    begin(&mut service, 30);
    let mut journal = Journal::of(stored(&mut service));
    let (mut env, _) = service.env();
    let key = JournalKey::new([3; 32]);
    journal.append(&key, commit(), &mut env).unwrap();
    journal.close();
    assert!(journal.append(&key, message(1, 1), &mut env).is_err());
    let (head, entries) = journal.into_next(&mut env).unwrap();
    store(&mut service, head, entries);
    assert_eq!(read_from(&mut service, 0).unwrap().closed, 1);
}

#[test]
fn nothing_is_left_of_a_closed_segment_when_its_last_handshake_has_expired() {
    closed_segment_lasts(GroupKind::Group, [0, 100, 140]);
}

#[test]
fn the_handshakes_of_a_connection_are_there_for_a_year() {
    closed_segment_lasts(GroupKind::Connection, [141, 200, 371]);
}

/// Until the last of these days, and no longer than its shelf.
fn closed_segment_lasts(kind: GroupKind, readable: [u64; 3]) {
    let mut service = Service::new(9);
    begin_of(kind, &mut service, 30);
    let mut journal = Journal::of(stored(&mut service));
    let (mut env, _) = service.env();
    let key = JournalKey::new([3; 32]);
    journal.append(&key, commit(), &mut env).unwrap();
    journal.close();
    let (head, entries) = journal.into_next(&mut env).unwrap();
    store(&mut service, head, entries);
    for days in readable {
        service.now_ms = NOON_MS + days * DAY_MS;
        let today = Day::of(service.now_ms).0;
        for table in Table::ALL.into_iter().filter(|table| table.has_days()) {
            service.engine.drop_days(table, today);
        }
        let read = read_from(&mut service, 0).unwrap();
        assert_eq!((read.closed, read.entries.len()), (1, 1), "{days}");
    }
    let today = Day::of(NOON_MS + (readable[2] + 28) * DAY_MS).0;
    for table in Table::ALL.into_iter().filter(|table| table.has_days()) {
        service.engine.drop_days(table, today);
    }
    // Notes go with the next tick of the feed.
    let left = service.engine.rows();
    assert_eq!(
        left.filter(|(key, _)| key.table != Table::FeedNotes)
            .count(),
        0
    );
}

#[test]
fn tag_keys_of_former_days_are_forgotten() {
    let mut service = Service::new(7);
    begin(&mut service, 30);
    let first = Day::of(service.now_ms);
    service.now_ms += 2 * DAY_MS;
    append(&mut service, [message(1, 1)]);
    let head = stored(&mut service).head;
    assert_eq!(head.tag_day, Day(first.0 + 2));
    assert_eq!(head.tag_key, JournalKey::new([3; 32]).tag_key().ahead(2));
}

#[test]
fn two_segments_share_no_part_of_a_row() {
    let service = Service::new(8);
    let rows = crate::rows::Rows(service.keys().rows());
    let (a, b): (SegmentRow, SegmentRow) =
        (rows.segment(&segment()), rows.segment(&SegmentId([9; 32])));
    let name = |row: SegmentRow| row.handshake(Day(1), Position(0)).name;
    assert_ne!(name(a)[..16], name(b)[..16]);
}
