#![allow(clippy::unwrap_used, clippy::panic)]

use client::{GroupId, GroupProfile};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::*;
use crate::chat::screen;

const LAB: &str = "lab";
const GARDEN: &str = "garden";

fn group(name: &str) -> GroupSummary {
    GroupSummary {
        id: GroupId([1; 16]),
        name: name.to_owned(),
        members: 2,
        epoch: 1,
        ciphersuite: 79,
        post_quantum: true,
        active: true,
        stopped: None,
        profile: GroupProfile::default(),
    }
}

fn id(number: u8) -> MessageId {
    MessageId([number; 32])
}

fn said(number: u8, sender: &str, text: &str) -> Message {
    serde_json::from_value(json!({
        "message": id(number), "sender": sender, "sender_id": null, "own": sender == "alice",
        "text": text, "at_ms": 1_800_000_000_000_u64 + u64::from(number), "state": "sent",
        "edited": false, "gone": null, "reactions": [], "receipts": [],
        "details": {
            "format": "plain", "reply_to": null, "mentions": [], "expires": null,
            "attachment": null, "unknown": null,
        },
    }))
    .unwrap()
}

fn event(id: i64, event: serde_json::Value) -> StoredEvent {
    let event = serde_json::from_value(event).unwrap();
    StoredEvent { id, event }
}

fn message_in(group: &str) -> serde_json::Value {
    let mut event = json!(said(9, "bob", "hi"));
    let fields = event.as_object_mut().unwrap();
    fields.insert("type".into(), "message".into());
    fields.insert("group".into(), group.into());
    fields.insert("group_id".into(), json!(GroupId([1; 16])));
    fields.insert("accepted_ms".into(), 1.into());
    fields.insert("position".into(), 1.into());
    event
}

fn pressed(code: KeyCode) -> Pressed {
    Pressed::Key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn write(chat: &mut Chat, text: &str) {
    for character in text.chars() {
        assert!(chat.input(&pressed(KeyCode::Char(character))).is_none());
    }
}

fn enter(chat: &mut Chat) -> Option<Action> {
    chat.input(&pressed(KeyCode::Enter))
}

fn in_lab() -> Chat {
    let mut chat = Chat::new(Place::Group(LAB.to_owned()));
    chat.set_groups(vec![group(GARDEN), group(LAB)]);
    chat.set_messages(vec![said(2, "alice", "mine"), said(1, "bob", "his")]);
    chat
}

fn screen_of(chat: &mut Chat, columns: u16, rows: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| screen::draw(frame, chat)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let row = |y| {
        (0..columns)
            .map(|x| buffer[(x, y)].symbol().to_owned())
            .collect()
    };
    (0..rows).map(row).collect()
}

#[test]
fn tab_leads_around_and_what_is_in_front_counts_as_seen() {
    let mut chat = in_lab();
    assert!(!chat.happened(event(1, message_in(GARDEN)), Vec::new()));
    assert!(!chat.happened(event(2, message_in(LAB)), Vec::new()));
    let asked = json!({ "type": "connection_request", "id": "5f", "name": "mallory" });
    assert!(chat.happened(event(3, asked), vec!["mallory asks".to_owned()]));
    let seen = |chat: &mut Chat| -> Vec<i64> { chat.seen().iter().map(|it| it.id).collect() };
    assert_eq!(seen(&mut chat), [2]);
    assert_eq!(chat.unseen(&Place::Group(GARDEN.to_owned())), 1);
    assert_eq!(chat.unseen(&Place::News), 1);
    for (place, new) in [(Place::News, 3), (Place::Group(GARDEN.to_owned()), 1)] {
        assert!(matches!(
            chat.input(&pressed(KeyCode::Tab)),
            Some(Action::Look)
        ));
        assert_eq!(*chat.place(), place);
        assert_eq!(seen(&mut chat), [new]);
    }
    chat.input(&pressed(KeyCode::BackTab));
    assert_eq!(*chat.place(), Place::News);
    assert_eq!(chat.news(), ["mallory asks"]);
}

#[test]
fn what_could_not_be_said_stays_in_its_line() {
    let mut chat = in_lab();
    write(&mut chat, "hello");
    let Some(Action::Say(group, draft)) = enter(&mut chat) else {
        panic!("nothing is said");
    };
    assert_eq!((group.as_str(), *draft), (LAB, Draft::text("hello")));
    chat.refused("no".to_owned());
    assert_eq!(chat.input.value(), "hello");
    chat.said();
    assert_eq!(chat.input.value(), "");
    assert!(enter(&mut chat).is_none());
}

#[test]
fn a_chosen_message_is_answered_and_only_an_own_one_is_changed() {
    let mut chat = in_lab();
    chat.input(&pressed(KeyCode::Up));
    chat.input(&pressed(KeyCode::Up));
    assert_eq!(chat.mode, Mode::Choose(1));
    for letter in ['e', 'd'] {
        chat.input(&pressed(KeyCode::Char(letter)));
        assert_eq!(chat.mode, Mode::Choose(1), "{letter}");
    }
    chat.input(&pressed(KeyCode::Char('r')));
    write(&mut chat, "yes");
    let answer = Draft::text("yes").reply_to(id(1));
    assert!(matches!(enter(&mut chat), Some(Action::Say(_, draft)) if *draft == answer));
    chat.said();

    chat.input(&pressed(KeyCode::Up));
    chat.input(&pressed(KeyCode::Char('e')));
    assert_eq!(chat.input.value(), "mine");
    write(&mut chat, "!");
    let edit = Draft::edit(id(2), "mine!");
    assert!(matches!(enter(&mut chat), Some(Action::Say(_, draft)) if *draft == edit));
    chat.said();

    for (key, deleted) in [(KeyCode::Char('n'), false), (KeyCode::Char('y'), true)] {
        chat.input(&pressed(KeyCode::Up));
        assert!(chat.input(&pressed(KeyCode::Char('d'))).is_none());
        let said = chat.input(&pressed(key));
        let deletion = Draft::deletion(id(2));
        assert_eq!(
            matches!(said, Some(Action::Say(_, draft)) if *draft == deletion),
            deleted
        );
    }
}

#[test]
fn commands_are_those_of_the_command_line_but_for_what_needs_its_own_client_or_keyboard() {
    let mut chat = in_lab();
    write(&mut chat, "/group add lab \"bob the builder\"");
    assert!(matches!(enter(&mut chat), Some(Action::Command(_))));
    assert_eq!(chat.news(), ["/group add lab \"bob the builder\""]);
    for not_here in [
        "/init --stack a --account-token b",
        "/receive",
        "/chat",
        "/send lab -",
        "/no",
    ] {
        chat.said();
        write(&mut chat, not_here);
        assert!(enter(&mut chat).is_none(), "{not_here}");
        assert_eq!(chat.input.value(), not_here);
        assert!(!chat.status().is_empty());
    }
    chat.said();
    write(&mut chat, "//half");
    let text = Draft::text("/half");
    assert!(matches!(enter(&mut chat), Some(Action::Say(_, draft)) if *draft == text));
    chat.said();
    write(&mut chat, "/help");
    assert!(matches!(enter(&mut chat), Some(Action::Look)));
    assert_eq!(*chat.place(), Place::News);
    assert!(chat.news().iter().any(|line| line.contains("connect")));
    write(&mut chat, "a text without a group");
    assert!(enter(&mut chat).is_none());
}

#[test]
fn the_screen_shows_conversations_who_said_what_and_where_it_stands() {
    let mut chat = in_lab();
    let mut answer = said(3, "bob", "hers");
    answer.details.reply_to = Some(id(2));
    answer.reactions = serde_json::from_value(json!([{
        "message": id(8), "sender": "carol", "sender_id": null, "reactions": ["👍"],
    }]))
    .unwrap();
    let mut waits = said(4, "alice", "soon");
    waits.state = client::MessageState::Waiting;
    chat.set_messages(vec![waits, answer, said(2, "alice", "mine")]);
    chat.happened(event(1, message_in(GARDEN)), Vec::new());
    let rows = screen_of(&mut chat, 70, 12);
    let all = rows.join("\n");
    for shown in [
        "news",
        "garden (1)",
        "alice: mine",
        "↳ alice: mine",
        "bob: hers",
        "👍",
        "carol",
        "alice (waits): soon",
    ] {
        assert!(all.contains(shown), "{shown} in\n{all}");
    }
}

#[test]
fn who_scrolls_back_sees_what_was_said_before_and_not_beyond() {
    let mut chat = in_lab();
    let many = (1..=40)
        .rev()
        .map(|it| said(it, "bob", &format!("number {it}.")));
    chat.set_messages(many.collect());
    let shows = |chat: &mut Chat, text: &str| screen_of(chat, 70, 14).join("\n").contains(text);
    assert!(shows(&mut chat, "number 40.") && !shows(&mut chat, "number 1."));
    for _ in 0..20 {
        chat.input(&pressed(KeyCode::PageUp));
    }
    assert!(!shows(&mut chat, "number 40.") && shows(&mut chat, "number 1."));
    for _ in 0..3 {
        chat.input(&pressed(KeyCode::PageDown));
    }
    assert!(shows(&mut chat, "number 40."));

    // As many as were asked for: there may be more.
    let read = (1..=100)
        .rev()
        .map(|it| said(it, "bob", &format!("number {it}.")));
    chat.set_messages(read.collect());
    assert_eq!(chat.wanted(), 100);
    while !shows(&mut chat, "number 1.") {
        assert!(chat.input(&pressed(KeyCode::PageUp)).is_none());
    }
    assert!(matches!(
        chat.input(&pressed(KeyCode::PageUp)),
        Some(Action::Look)
    ));
    assert_eq!(chat.wanted(), 200);
}

proptest! {
    #[test]
    fn no_text_or_name_makes_a_line_that_looks_like_another_message(
        text in "[\\x00-\\u{2fff}]{0,200}",
        name in "[\\x00-\\u{2fff}]{0,30}",
        columns in 40u16..120,
    ) {
        let mut chat = in_lab();
        chat.set_messages(vec![said(1, &name, &text)]);
        let rows = screen_of(&mut chat, columns, 30);
        // Right of the list and its line.
        let said = rows.iter().map(|row| row.chars().skip(24).collect::<String>());
        let said: Vec<String> = said.take(26).filter(|row| !row.trim().is_empty()).collect();
        for row in said.iter().skip(1) {
            prop_assert!(row.starts_with("  | "), "{said:?}");
        }
        prop_assert!(!rows.join("").contains(|it: char| it.is_control()), "{rows:?}");
    }

    #[test]
    fn a_screen_of_any_size_is_drawn(columns in 0u16..60, rows in 0u16..20, text in ".{0,80}") {
        let mut chat = in_lab();
        write(&mut chat, "half a text");
        chat.set_messages(vec![said(1, "bob", &text)]);
        screen_of(&mut chat, columns, rows);
        chat.input(&pressed(KeyCode::Up));
        screen_of(&mut chat, columns, rows);
    }
}
