//! Every field of what is read in a journal, told otherwise than it is
//! (`end_to_end::lies::journals` has the table): the client reads nothing false, loses nothing in
//! silence, and its other groups go on.

#![allow(clippy::disallowed_methods, reason = "how long a call really takes")]

use std::time::{Duration, Instant};

use client::{Client, Event};
use end_to_end::lies::journals::{Page, READ_JOURNAL, Reads};
use end_to_end::{Liar, LogLevel, MUCH, Stack, device, group_with, settle, talks};
use protocol::Wire as _;
use protocol::ids::SegmentId;
use protocol::journal::{ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;

const GROUP: &str = "expedition";
const OTHER: &str = "camp";
const ALICE: &str = "alice.adebayo";
const BOB: &str = "bob.bergstrom";
/// For two looks.
const DEADLINE: Duration = Duration::from_secs(20);

/// Lies to whoever reads one segment.
fn tell(liar: &Liar, segment: SegmentId, change: fn(&mut Page<'_>)) {
    let this = liar.clone();
    liar.twist(Operation::ReadJournal, move |body, answer| {
        if ReadJournalRequest::decode(body).unwrap().segment != segment {
            return;
        }
        let page = ReadJournalResponse::decode(answer).unwrap();
        // The rest of the journal is read as it is.
        if page.entries.is_empty() {
            return;
        }
        let mut page = Page::of(&this, segment, page);
        change(&mut page);
        *answer = page.page.encode();
    });
}

fn take_events(client: &Client) -> Vec<Event> {
    let events = client.events().unwrap();
    client.acknowledge(&events).unwrap();
    events.into_iter().map(|stored| stored.event).collect()
}

fn says(events: &[Event], group: &str, said: &str) -> bool {
    events.iter().any(|event| {
        matches!(event, Event::Message { group: of, text, .. } if of == group && text == said)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_field_of_a_journal_tells_anything_false_or_loses_anything_in_silence() {
    let (stack, liar) = Stack::start_with_liar_and(LogLevel::Error, MUCH).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    group_with(OTHER, &alice, &[&bob]).await;
    let mut fell = Vec::new();
    for (number, (field, change, expected)) in READ_JOURNAL.iter().enumerate() {
        // A group for each: what was signed once is proof for ever.
        let group = format!("{GROUP} {number}");
        alice.create_group(&group).await.unwrap();
        alice.add_to_group(&group, &[BOB]).await.unwrap();
        settle(&[&alice, &bob]).await;
        take_events(&bob);
        let said = format!("number {number}");
        alice.send_message(&group, &said).await.unwrap();
        alice.send_message(OTHER, &said).await.unwrap();

        tell(&liar, bob.group_access(&group).unwrap().segment, *change);
        let began = Instant::now();
        for _ in 0..2 {
            if let Err(error) = bob.sync(0).await {
                fell.push(format!("{field}: all groups are held up: {error:?}"));
            }
        }
        if began.elapsed() > DEADLINE {
            fell.push(format!("{field}: it takes {:?}", began.elapsed()));
        }
        let told = take_events(&bob);
        let evidence = bob.evidence(&group).unwrap().len();
        let stopped = bob.stop_reason(&group).unwrap();
        liar.repent();
        bob.sync(0).await.unwrap();
        let later = take_events(&bob);

        let was_told = |wanted: &Event| told.contains(wanted);
        let dropped =
            |it: &Event| matches!(it, Event::MessagesDropped { group: of, .. } if *of == group);
        let seen = match stopped {
            Some(why) => {
                let lost = Event::GroupLost {
                    group: group.clone(),
                    why,
                };
                if !was_told(&lost) {
                    fell.push(format!("{field}: stopped in silence: {told:?}"));
                }
                Reads::Stops(why)
            }
            None if says(&told, &group, &said) => Reads::All,
            None if told.iter().any(dropped) => Reads::Expired,
            None if says(&later, &group, &said) && evidence > 0 => Reads::Evidence,
            None if says(&later, &group, &said) => Reads::Waits,
            None => {
                fell.push(format!("{field}: lost in silence: {told:?} {later:?}"));
                continue;
            }
        };
        if seen != *expected {
            fell.push(format!("{field}: {seen:?}, not {expected:?}: {told:?}"));
        }
        let texts = |event: &&Event| matches!(event, Event::Message { .. });
        let all = told.iter().chain(&later).filter(texts);
        let is_false = |event: &&Event| !matches!(event, Event::Message { sender, text, .. } if sender == ALICE && *text == said);
        if all.clone().any(|event| is_false(&event)) || all.count() > 2 {
            fell.push(format!("{field}: something false: {told:?} {later:?}"));
        }
        if !says(&told, OTHER, &said) {
            fell.push(format!("{field}: the other group does not go on: {told:?}"));
        }
        // By the user's word it goes on.
        if stopped.is_some() {
            if let Err(error) = bob.rejoin_group(&group).await {
                fell.push(format!("{field}: no way back: {error:?}"));
                continue;
            }
            settle(&[&alice, &bob]).await;
        }
        let before = fell.len();
        if alice.stop_reason(&group).unwrap().is_some() {
            // She hears of what he was shown.
            continue;
        }
        if before == fell.len() {
            talks(&group, &[&alice, &bob]).await;
        }
    }
    assert!(fell.is_empty(), "{}", fell.join("\n"));
    talks(OTHER, &[&alice, &bob]).await;
}
