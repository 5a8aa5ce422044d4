use std::collections::BTreeSet;

use crypto::feed::{CheckedTick, check};
use crypto::schedule::JournalKey;
use protocol::codec::opaque;
use protocol::feed::Tick;
use protocol::group::GroupKind;
use protocol::ids::{RotationEpoch, SegmentId};
use protocol::journal::Event;
use rand_core::RngCore as _;

use super::*;
use crate::engine::{ApplyError, Found, Read};
use crate::journal::head::StoredHead;
use crate::journal::{Head, Journal};
use crate::store::Kept;
use crate::testing::{DAY_MS, Service};
use crate::view::View;

const SEGMENTS: u8 = 5;
const FINE: Resolution = Resolution::Seconds2;

fn key_of(segment: u8) -> JournalKey {
    JournalKey::new([segment; 32])
}

/// A member's tag key of a day: it began with the segment, on the day that the service runs from.
fn tag_key(segment: u8, began: Day, day: Day) -> TagKey {
    key_of(segment).tag_key().ahead(day.0 - began.0)
}

fn begin(service: &mut Service, segment: u8) {
    let (mut env, engine) = service.env();
    let kept = Kept::of(GroupKind::Group, 30);
    let (id, tag) = (SegmentId([segment; 32]), key_of(segment).tag_key());
    let today = env.today();
    let head = Head::new(id, RotationEpoch(0), tag, (kept, 2), today);
    let (head, _) = Journal::begin(head, &env).into_new(&mut env).unwrap();
    let mut batch = Batch::default();
    batch
        .puts
        .push((head.segment.key(), head.head.into_value()));
    engine.apply(batch).unwrap();
}

fn append(service: &mut Service, segment: u8) {
    let (mut env, engine) = service.env();
    let id = SegmentId([segment; 32]);
    let read = Read::Row(env.rows().segment(&id).key());
    let mut view = View::default();
    let found = engine.read(std::slice::from_ref(&read)).pop().unwrap();
    view.add(read, found);
    let mut journal = Journal::of(StoredHead::read(&view, &id, &env).unwrap().unwrap());
    let message = Event::Message(opaque(*b"message"));
    journal.append(&key_of(segment), message, &mut env).unwrap();
    let (head, entries) = journal.into_next(&mut env).unwrap();
    let mut batch = Batch::default();
    head.lower(&mut batch);
    for entry in entries {
        entry.puts(&mut batch);
    }
    engine.apply(batch).unwrap();
}

fn state(service: &mut Service) -> StoredState {
    let (_, engine) = service.env();
    let found = engine.read(&[Read::Row(StoredState::key())]).pop();
    let Some(Found::Row(value)) = found else {
        panic!("a row was asked for");
    };
    StoredState::read(value.as_deref()).unwrap()
}

/// What a node makes next.
fn prepare(service: &mut Service, after_absence: bool) -> Option<(Due, Made)> {
    let stored = state(service);
    let (mut env, engine) = service.env();
    let due = stored.state.due(env.now_ms, env.generation)?;
    let range = due.rows(&stored.state, after_absence);
    let Some(Found::Range(rows)) = engine.read(&[Read::Range(range)]).pop() else {
        panic!("a range was asked for");
    };
    Some((due, due.make(stored, &rows, &mut env).unwrap()))
}

/// All that is due.
fn make(service: &mut Service, after_absence: bool) -> Vec<CheckedTick> {
    let mut ticks = Vec::new();
    while let Some((due, made)) = prepare(service, after_absence) {
        let key = tick_key(due.resolution, due.number);
        let is_shown = made.batch.puts.iter().any(|(of, _)| *of == key);
        service.engine.apply(made.batch).unwrap();
        if is_shown {
            ticks.push(shown(service, due.resolution, due.number));
        }
    }
    ticks
}

fn shown(service: &mut Service, resolution: Resolution, number: TickNumber) -> CheckedTick {
    let key = service.keys().journal_signing().public();
    let (_, engine) = service.env();
    let found = engine.read(&[Read::Row(tick_key(resolution, number))]);
    let [Found::Row(Some(bytes))] = found.as_slice() else {
        panic!("there is no such tick");
    };
    let tick = check(&key, &Tick::decode(bytes).unwrap()).unwrap();
    assert_eq!((tick.resolution, tick.number), (resolution, number));
    tick
}

/// The segments that members find in a tick.
fn found_in(tick: &CheckedTick, began: Day) -> BTreeSet<u8> {
    let day = tick.resolution.day_of(tick.number);
    (1..=SEGMENTS)
        .filter(|segment| {
            let key = tag_key(*segment, began, day).feed_key();
            tick.tags.contains(key.tag(tick.resolution, tick.number))
        })
        .collect()
}

/// A service from ten minutes before midnight on.
fn at_night(seed: u64) -> (Service, Day) {
    let mut service = Service::new(seed);
    service.now_ms = (service.now_ms / DAY_MS + 1) * DAY_MS - 600_000;
    for segment in 1..=SEGMENTS {
        begin(&mut service, segment);
    }
    let began = Day::of(service.now_ms);
    (service, began)
}

#[test]
fn what_is_accepted_is_in_the_next_tick_and_in_each_coarser_one_over_midnight_and_absences() {
    for seed in 0..6 {
        let (mut service, began) = at_night(seed);
        let mut all: Vec<CheckedTick> = Vec::new();
        let mut accepted = BTreeSet::new();
        for step in 0..1_500u64 {
            service.now_ms += 2_000;
            let before = accepted.clone();
            // Also in the moment before the tick that has ended is made.
            if service.rng.next_u32() % 3 == 0 {
                let segment = 1 + u8::try_from(service.rng.next_u32() % 5).unwrap();
                append(&mut service, segment);
                accepted.insert((segment, service.now_ms / 2_000));
            }
            // Nobody runs for half an hour; and at times nobody makes a tick.
            if (700..800).contains(&step) {
                service.now_ms += 18_000;
                continue;
            }
            if service.rng.next_u32() % 20 == 0 {
                continue;
            }
            let made = make(&mut service, step == 800);
            let fine: Vec<_> = made.iter().filter(|it| it.resolution == FINE).collect();
            assert_eq!(fine.len(), 1);
            // A note of the day before is good for one more day.
            let expected = before.iter().map(|(segment, _)| *segment).collect();
            assert_eq!(found_in(fine[0], began), expected, "step {step}");
            accepted.retain(|(_, tick)| *tick > fine[0].number.0);
            all.extend(made);
        }
        for resolution in Resolution::ALL {
            let of: Vec<_> = all
                .iter()
                .filter(|it| it.resolution == resolution)
                .collect();
            assert!(!of.is_empty());
            // One chain.
            let mut before = NO_TICK;
            for pair in of.windows(2) {
                assert!(pair[0].number < pair[1].number);
            }
            for tick in of {
                assert_eq!(tick.previous, before);
                before = tick.hash;
                // What a coarse tick has is what the fine ones in it have.
                let inside = all.iter().filter(|it| {
                    it.resolution == FINE
                        && resolution.tick_at(FINE.begins_ms(it.number)) == tick.number
                });
                let expected: BTreeSet<_> = inside.flat_map(|it| found_in(it, began)).collect();
                assert_eq!(found_in(tick, began), expected, "{resolution:?}");
            }
        }
    }
}

#[test]
fn a_store_that_was_put_back_makes_no_tick_that_others_may_have_copied() {
    let (mut service, began) = at_night(7);
    let run = |service: &mut Service, steps: u64| -> Vec<CheckedTick> {
        let mut all = Vec::new();
        for _ in 0..steps {
            service.now_ms += 2_000;
            append(service, 1);
            all.extend(make(service, false));
        }
        all
    };
    run(&mut service, 200);
    let backup = service.engine.clone();
    // Over midnight; what the store has lost then is copied somewhere.
    let copied: BTreeSet<_> = run(&mut service, 200)
        .iter()
        .map(|tick| (tick.resolution, tick.number))
        .collect();
    assert!(copied.iter().any(|(of, _)| *of == Resolution::Day));
    service.engine = backup;
    service.now_ms += 700;
    service.generation = service.now_ms / 1_000;
    let made = run(&mut service, 7_200);
    for resolution in [FINE, Resolution::Minutes20, Resolution::Hours2] {
        assert!(made.iter().any(|tick| tick.resolution == resolution));
    }
    for tick in &made {
        assert!(!copied.contains(&(tick.resolution, tick.number)));
        assert_eq!(tick.generation, service.generation);
        assert_eq!(found_in(tick, began), [1].into());
    }
}

#[test]
fn of_two_nodes_that_make_a_tick_at_once_one_does_and_the_chain_goes_on_from_it() {
    let (mut service, began) = at_night(1);
    append(&mut service, 1);
    service.now_ms += 2_000;
    let (due, one) = prepare(&mut service, false).unwrap();
    append(&mut service, 2);
    let (_, other) = prepare(&mut service, false).unwrap();
    service.engine.apply(one.batch).unwrap();
    let refused = service.engine.apply(other.batch);
    assert!(matches!(refused, Err(ApplyError::Condition { .. })));
    let first = shown(&mut service, FINE, due.number);
    assert_eq!(found_in(&first, began), [1].into());
    // What the other node accepted is not lost.
    service.now_ms += 2_000;
    let second = make(&mut service, false).remove(0);
    assert_eq!(found_in(&second, began), [2].into());
    assert_eq!(second.previous, first.hash);
}

#[test]
fn a_write_that_ends_late_is_in_the_tick_after_that() {
    let (mut service, began) = at_night(2);
    append(&mut service, 1);
    let (mut env, _) = service.env();
    let late = note(began, &tag_key(2, began, began), &mut env).unwrap();
    service.now_ms += 2_000;
    assert_eq!(found_in(&make(&mut service, false)[0], began), [1].into());
    for _ in 0..40 {
        service.now_ms += 2_000;
        make(&mut service, false);
    }
    let batch = Batch {
        puts: vec![late],
        ..Batch::default()
    };
    service.engine.apply(batch).unwrap();
    service.now_ms += 2_000;
    let made = make(&mut service, false);
    let fine = made.iter().find(|it| it.resolution == FINE).unwrap();
    assert_eq!(found_in(fine, began), [2].into());
}

#[test]
fn a_service_where_nothing_happens_shows_so_and_keeps_no_key_of_a_day_that_is_over() {
    let (mut service, _) = at_night(3);
    append(&mut service, 1);
    for _ in 0..1_000 {
        service.now_ms += 2_000;
        make(&mut service, false);
    }
    let last = state(&mut service).state.last(FINE).unwrap();
    let tick = shown(&mut service, FINE, last.number);
    assert_eq!(tick.tags.count(), 0);
    let in_use: Vec<_> = service
        .engine
        .rows()
        .filter(|(key, _)| matches!(key.table, Table::FeedNotes | Table::FeedPeriods))
        .map(|(key, _)| key.name.clone())
        .collect();
    assert_eq!(in_use, [STATE.to_vec()]);
}

#[test]
fn a_damaged_note_costs_its_own_hint_and_not_the_feed() {
    let (mut service, began) = at_night(4);
    for segment in [1, 2] {
        append(&mut service, segment);
    }
    let (key, mut value) = service
        .engine
        .rows()
        .find(|(key, _)| key.table == Table::FeedNotes)
        .map(|(key, value)| (key.clone(), value.to_vec()))
        .unwrap();
    value[70] ^= 1;
    let batch = Batch {
        puts: vec![(key, value)],
        ..Batch::default()
    };
    service.engine.apply(batch).unwrap();
    service.now_ms += 2_000;
    let (_, made) = prepare(&mut service, false).unwrap();
    assert_eq!((made.announced, made.left_out), (1, 1));
    let tick = make(&mut service, false).remove(0);
    assert_eq!(found_in(&tick, began).len(), 1);
    service.now_ms += 2_000;
    assert_eq!(found_in(&make(&mut service, false)[0], began).len(), 0);
}

#[test]
fn a_note_that_comes_days_late_is_counted_as_left_out() {
    let (mut service, began) = at_night(5);
    append(&mut service, 1);
    service.now_ms += 3 * DAY_MS;
    let made = loop {
        let (_, made) = prepare(&mut service, true).unwrap();
        if made.left_out > 0 || made.announced > 0 {
            break made;
        }
        service.engine.apply(made.batch).unwrap();
    };
    assert_eq!((made.announced, made.left_out), (0, 1));
    assert!(began < Day::of(service.now_ms));
}

#[test]
fn a_state_is_read_as_it_was_written() {
    let mut state = State::default();
    for (resolution, number) in Resolution::ALL.into_iter().zip(1u64..) {
        *state.level_mut(resolution) = Level {
            last: (number != 2).then_some(Last {
                number: TickNumber(number),
                hash: Digest([7; 32]),
                bytes: 9,
            }),
            open: (number % 2 == 0).then_some(TickNumber(number * 100)),
        };
    }
    let encoded = state.encode();
    crate::fixtures::check("state of the feed", &encoded);
    assert_eq!(State::decode(&encoded), Some(state));
    assert_eq!(State::decode(&encoded[1..]), None);
}
