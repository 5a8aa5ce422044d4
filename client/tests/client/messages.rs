//! What members say, change and take back, and what a liar among them could do.

use std::time::Duration;

use content::{Disposition, MimiContent, NestedPart};
use mimimi_client::{
    Client, Draft, Error, Event, Expiry, Gone, LocalError, Message, MessageId, MessageState,
    Receipts, TextFormat, UsageError,
};
use protocol::operation::Operation;

use crate::support::{Homes, settle, team, texts};

const DAY: Duration = Duration::from_secs(86_400);

/// The events of messages that a client has not acknowledged; they are then.
pub(crate) fn told(client: &Client) -> Vec<Event> {
    let stored = client.events().unwrap();
    client.acknowledge(&stored).unwrap();
    let events = stored.into_iter().map(|stored| stored.event);
    events
        .filter(|event| {
            matches!(
                event,
                Event::Message { .. }
                    | Event::MessageEdited { .. }
                    | Event::MessageDeleted { .. }
                    | Event::Reaction { .. }
                    | Event::ReactionTakenBack { .. }
                    | Event::ChangeRefused { .. }
                    | Event::Receipt { .. }
                    | Event::MessageExpired { .. }
                    | Event::MessageUnreadable { .. }
                    | Event::MessageFailed { .. }
            )
        })
        .collect()
}

/// The only one.
fn only(client: &Client) -> Event {
    let [event] = told(client).try_into().unwrap();
    event
}

pub(crate) fn history(client: &Client) -> Vec<Message> {
    client.messages("team", None, 100).unwrap()
}

pub(crate) fn said(client: &Client) -> Vec<String> {
    let mut messages = history(client);
    messages.reverse();
    messages.into_iter().map(|message| message.text).collect()
}

/// Says it, and lets everybody read it and forget what happened.
pub(crate) async fn say(from: &Client, draft: impl Into<Draft>, others: &[&Client]) -> MessageId {
    let id = from.send_message("team", draft).await.unwrap();
    settle(others).await;
    for client in others {
        told(client);
    }
    id
}

pub(crate) fn wire(id: MessageId) -> content::MessageId {
    id.0.try_into().unwrap()
}

#[tokio::test]
async fn answers_reactions_edits_and_deletions_are_the_same_for_everybody() {
    let homes = Homes::new(401);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    let first = say(&alice, "Hello wrold", &all).await;
    let answer = Draft::text("**yes**").as_markdown().reply_to(first);
    let second = bob.send_message("team", answer).await.unwrap();
    settle(&all).await;
    let Event::Message {
        message,
        details,
        text,
        ..
    } = only(&carol)
    else {
        panic!("a message");
    };
    assert_eq!((message, text.as_str()), (second, "**yes**"));
    assert_eq!(
        (details.reply_to, details.format),
        (Some(first), TextFormat::Markdown)
    );

    let heart = carol
        .send_message("team", Draft::reaction(first, "\u{2764}"))
        .await
        .unwrap();
    alice
        .send_message("team", Draft::edit(first, "Hello world"))
        .await
        .unwrap();
    settle(&all).await;
    let kinds = told(&bob);
    assert!(
        matches!(
            &kinds[..],
            [
                Event::Message { .. } | Event::Reaction { .. },
                Event::MessageEdited { text, message, .. },
            ] if text == "Hello world" && *message == first
        ),
        "{kinds:?}"
    );
    for client in all {
        let [answer, message] = history(client).try_into().unwrap();
        assert_eq!(
            (message.text.as_str(), message.edited),
            ("Hello world", true)
        );
        assert_eq!((answer.message, answer.edited), (second, false));
        let [reaction] = message.reactions.try_into().unwrap();
        assert_eq!(
            (reaction.message, reaction.sender.as_str()),
            (heart, "carol")
        );
        assert_eq!(reaction.reactions, ["\u{2764}"]);
        told(client);
    }

    carol
        .send_message("team", Draft::deletion(heart))
        .await
        .unwrap();
    bob.send_message("team", Draft::deletion(second))
        .await
        .unwrap();
    settle(&all).await;
    assert!(matches!(
        told(&alice)[..],
        [Event::ReactionTakenBack { to, .. }, Event::MessageDeleted { message, .. }]
            if to == first && message == second
    ));
    for client in all {
        let [answer, message] = history(client).try_into().unwrap();
        assert_eq!(
            (answer.gone, answer.text.as_str()),
            (Some(Gone::Deleted), "")
        );
        assert!(message.reactions.is_empty());
    }
    // What is gone cannot be answered, and not be changed again.
    let gone = |sent: Result<MessageId, Error>| {
        matches!(sent, Err(Error::Usage(UsageError::UnknownMessage(_))))
    };
    assert!(gone(
        bob.send_message("team", Draft::edit(second, "no")).await
    ));
    assert!(gone(
        bob.send_message("team", Draft::text("x").reply_to(second))
            .await
    ));
    assert!(gone(
        bob.send_message("team", Draft::reaction(heart, "x")).await
    ));
}

#[tokio::test]
async fn nobody_changes_what_others_have_said() {
    let homes = Homes::new(402);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    let first = say(&alice, "I owe you nothing", &all).await;
    let mark = say(&alice, Draft::reaction(first, "!"), &all).await;
    // A client that keeps to the rules does not even try.
    for draft in [
        Draft::edit(first, "I owe you"),
        Draft::deletion(first),
        Draft::deletion(mark),
    ] {
        let refused = bob.send_message("team", draft).await;
        assert!(
            matches!(refused, Err(Error::Usage(UsageError::NotOwnMessage(_)))),
            "{refused:?}"
        );
    }
    // A liar does.
    let salt = |byte| [byte; 16];
    let edit = MimiContent::text(salt(1), "I owe you a car").replacing(wire(first));
    let empty = MimiContent::delete(salt(2), wire(first));
    let unlike = MimiContent::unlike(salt(3), wire(mark), wire(first));
    let mut as_reaction = MimiContent::text(salt(4), "x").replacing(wire(mark));
    as_reaction.body.disposition = Disposition::Reaction;
    for lie in [edit, empty, unlike, as_reaction] {
        bob.say_by_hand("team", &lie.encode().unwrap())
            .await
            .unwrap();
        settle(&all).await;
        let Event::ChangeRefused { sender, .. } = only(&carol) else {
            panic!("refused");
        };
        assert_eq!(sender, "bob");
    }
    for client in [&alice, &carol] {
        let [message] = history(client).try_into().unwrap();
        assert_eq!(
            (message.text.as_str(), message.edited),
            ("I owe you nothing", false)
        );
        assert_eq!(message.reactions[0].reactions, ["!"]);
    }
    // What was never said, or is not known here, cannot be changed either: that accuses nobody.
    let never = MimiContent::text(salt(5), "x").replacing([1; 32].try_into().unwrap());
    bob.say_by_hand("team", &never.encode().unwrap())
        .await
        .unwrap();
    settle(&all).await;
    assert!(told(&carol).is_empty());
    // Both devices of a user may delete the same.
    let delete = MimiContent::delete(salt(6), wire(first)).encode().unwrap();
    let again = MimiContent::delete(salt(7), wire(first)).encode().unwrap();
    for deletion in [delete, again] {
        alice.say_by_hand("team", &deletion).await.unwrap();
    }
    settle(&all).await;
    assert!(matches!(only(&carol), Event::MessageDeleted { .. }));
}

#[tokio::test]
async fn nobody_speaks_for_others_or_twice() {
    let homes = Homes::new(403);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    for claim in [0, 1] {
        let mut lie = MimiContent::text([7; 16], "I quit");
        let uri = "mimi://example.org/u/alice".to_owned();
        match claim {
            0 => lie.extensions.sender_uri = Some(uri),
            _ => lie.extensions.room_uri = Some(uri),
        }
        bob.say_by_hand("team", &lie.encode().unwrap())
            .await
            .unwrap();
        settle(&all).await;
        assert!(matches!(
            told(&carol)[..],
            [Event::MessageUnreadable { .. }]
        ));
    }
    // The same again, and the same of somebody else: another message.
    let plain = MimiContent::text([7; 16], "hello").encode().unwrap();
    bob.say_by_hand("team", &plain).await.unwrap();
    bob.say_by_hand("team", &plain).await.unwrap();
    alice.say_by_hand("team", &plain).await.unwrap();
    settle(&all).await;
    assert_eq!(said(&carol), ["hello", "hello"]);
    let [one, other] = history(&carol).try_into().unwrap();
    assert_ne!(one.message, other.message);
    // What expires at a time that nobody means, and what is no message.
    let never = MimiContent::text([8; 16], "x").expiring(content::Expiration::At(1));
    bob.say_by_hand("team", &never.encode().unwrap())
        .await
        .unwrap();
    bob.say_by_hand("team", b"\x87").await.unwrap();
    settle(&all).await;
    assert_eq!(said(&carol).len(), 2);
}

#[tokio::test]
async fn an_edit_changes_the_words_and_nothing_else() {
    let homes = Homes::new(404);
    let [alice, bob, _] = team(&homes).await;
    let both = [&alice, &bob];
    let question = say(&bob, "when?", &both).await;
    let draft = Draft::text("at 8")
        .reply_to(question)
        .expires(Expiry::AfterReading(7 * 86_400));
    let answer = say(&alice, draft, &both).await;
    // By hand: it answers nothing, and would stay for good.
    let lie = MimiContent::text([7; 16], "at 9").replacing(wire(answer));
    alice
        .say_by_hand("team", &lie.encode().unwrap())
        .await
        .unwrap();
    settle(&both).await;
    let [message, _] = history(&bob).try_into().unwrap();
    assert_eq!(message.text, "at 9");
    assert_eq!(message.details.reply_to, Some(question));
    assert_eq!(
        message.details.expires,
        Some(Expiry::AfterReading(7 * 86_400))
    );
    homes.service.clock.advance(8 * DAY);
    assert_eq!(said(&bob), ["when?", ""]);
}

#[tokio::test]
async fn the_id_of_an_own_message_is_known_at_once_and_is_the_same_for_everybody() {
    let homes = Homes::new(405);
    let [alice, bob, carol] = team(&homes).await;
    homes.service.lose_request(Operation::SendMessage);
    let sent = alice.send_message("team", "hello").await;
    assert!(matches!(sent, Err(Error::Unreachable(_))));
    let [queued] = alice.queued_messages().unwrap().try_into().unwrap();
    let [waits] = history(&alice).try_into().unwrap();
    assert_eq!(
        (waits.message, waits.state),
        (queued.message, MessageState::Waiting)
    );
    // The group rotates: what was encrypted before is refused, and encrypted anew.
    carol.leave_group("team").await.unwrap();
    settle(&[&bob]).await;
    settle(&[&alice, &bob]).await;
    assert!(alice.queued_messages().unwrap().is_empty());
    for client in [&alice, &bob] {
        let [message] = history(client).try_into().unwrap();
        assert_eq!(
            (message.message, message.state),
            (queued.message, MessageState::Sent)
        );
    }
    assert_eq!(texts(&bob, "team"), ["hello"]);
}

#[tokio::test]
async fn a_history_is_read_page_by_page_and_outlives_the_client() {
    let homes = Homes::new(406);
    let [alice, bob, _] = team(&homes).await;
    for number in 0..7 {
        let (from, to) = if number % 2 == 0 {
            (&alice, &bob)
        } else {
            (&bob, &alice)
        };
        from.send_message("team", number.to_string()).await.unwrap();
        settle(&[to, from]).await;
    }
    drop(bob);
    let bob = Client::open(&homes.path("bob"), homes.options())
        .await
        .unwrap();
    let mut read = Vec::new();
    let mut before = None;
    loop {
        let page = bob.messages("team", before, 3).unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        before = Some(last.message);
        read.extend(page.into_iter().map(|message| message.text));
    }
    assert_eq!(read, ["6", "5", "4", "3", "2", "1", "0"]);
    let unknown = bob.messages("team", Some(MessageId([1; 32])), 3);
    assert!(matches!(
        unknown,
        Err(Error::Usage(UsageError::UnknownMessage(_)))
    ));
}

/// Whether a text stands anywhere in a client's files.
pub(crate) fn is_on_disk(homes: &Homes, name: &str, text: &str) -> bool {
    let entries = std::fs::read_dir(homes.path(name)).unwrap();
    entries.into_iter().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

#[tokio::test]
async fn of_a_message_that_has_expired_nothing_is_left() {
    const SECRET: &str = "the meeting is behind the old mill";
    let homes = Homes::new(407);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    let draft = Draft::text(SECRET).expires(Expiry::AfterReading(86_400));
    let id = alice.send_message("team", draft).await.unwrap();
    settle(&all).await;
    // Bob's user has seen it, and reacts; Carol's has not.
    assert_eq!(texts(&bob, "team"), [SECRET]);
    told(&bob);
    bob.send_message("team", Draft::reaction(id, "!"))
        .await
        .unwrap();
    settle(&all).await;
    homes.service.clock.advance(DAY - Duration::from_secs(60));
    assert_eq!(said(&bob), [SECRET]);
    assert!(is_on_disk(&homes, "bob", SECRET));
    homes.service.clock.advance(Duration::from_secs(120));
    // By whatever is asked first.
    assert!(matches!(told(&bob)[..], [Event::MessageExpired { message, .. }] if message == id));
    let [message] = history(&alice).try_into().unwrap();
    assert_eq!(
        (message.gone, message.text.as_str()),
        (Some(Gone::Expired), "")
    );
    assert!(message.reactions.is_empty());
    for name in ["alice", "bob"] {
        assert!(!is_on_disk(&homes, name, SECRET), "{name}");
    }
    // It begins when it is seen, and goes on while the client is not there.
    assert_eq!(texts(&carol, "team"), [SECRET]);
    carol.mark_read("team", &[id]).unwrap();
    drop(carol);
    homes.service.clock.advance(DAY);
    let carol = Client::open(&homes.path("carol"), homes.options())
        .await
        .unwrap();
    assert_eq!(texts(&carol, "team"), [""; 0]);
    assert_eq!(said(&carol), [""]);
    assert!(!is_on_disk(&homes, "carol", SECRET));
}

#[tokio::test]
async fn a_message_that_expires_at_a_time_does_so_whether_it_was_read_or_sent_or_not() {
    const SECRET: &str = "the meeting is behind the old mill";
    let homes = Homes::new(408);
    let [alice, bob, _] = team(&homes).await;
    let at = u32::try_from(
        homes
            .service
            .clock
            .0
            .load(std::sync::atomic::Ordering::Relaxed)
            / 1000,
    );
    let at = at.unwrap() + 3_600;
    let draft = || Draft::text(SECRET).expires(Expiry::At(at));
    alice.send_message("team", draft()).await.unwrap();
    settle(&[&alice, &bob]).await;
    // However often the client tries again by itself.
    for _ in 0..20 {
        homes.service.lose_request(Operation::SendMessage);
    }
    alice.send_message("team", draft()).await.unwrap_err();
    homes.service.clock.advance(Duration::from_secs(3_601));
    assert_eq!(texts(&bob, "team"), [""; 0]);
    assert_eq!(said(&alice), ["", ""]);
    assert!(alice.queued_messages().unwrap().is_empty());
    settle(&[&alice, &bob]).await;
    for name in ["alice", "bob"] {
        assert!(!is_on_disk(&homes, name, SECRET), "{name}");
    }
    assert_eq!(history(&bob).len(), 1);
    let year = Draft::text("x").expires(Expiry::AfterReading(u32::MAX));
    let refused = alice.send_message("team", year).await;
    assert!(matches!(
        refused,
        Err(Error::Usage(UsageError::InvalidExpiry))
    ));
}

#[tokio::test]
async fn nobody_hears_what_was_read_before_the_user_wants_that() {
    let homes = Homes::new(409);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    let sent = || homes.service.count(Operation::SendMessage);
    let first = alice.send_message("team", "hello").await.unwrap();
    settle(&all).await;
    let before = sent();
    bob.mark_read("team", &[first]).unwrap();
    settle(&all).await;
    assert_eq!(sent(), before);
    assert_eq!(bob.receipts("team").unwrap(), Receipts::Off);
    assert!(told(&alice).is_empty());
    // Carol tells that messages come, and not that they are read; Bob tells both.
    carol
        .set_receipts("team", Receipts::Delivery)
        .await
        .unwrap();
    bob.set_receipts("team", Receipts::Read).await.unwrap();
    told(&bob);
    told(&carol);
    let second = alice.send_message("team", "hello again").await.unwrap();
    settle(&all).await;
    for client in [&bob, &carol] {
        client.mark_read("team", &[second]).unwrap();
        client.mark_read("team", &[second]).unwrap();
    }
    settle(&all).await;
    let mut receipts: Vec<_> = told(&alice)
        .into_iter()
        .map(|event| match event {
            Event::Receipt {
                reader,
                read,
                messages,
                ..
            } => {
                assert_eq!(messages, [second]);
                (reader, read)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    receipts.sort();
    let both = [("bob", false), ("bob", true), ("carol", false)];
    assert_eq!(receipts, both.map(|(name, read)| (name.to_owned(), read)));
    let [message, _] = history(&alice).try_into().unwrap();
    let mut known: Vec<_> = message
        .receipts
        .iter()
        .map(|it| (it.reader.as_str(), it.read))
        .collect();
    known.sort_unstable();
    assert_eq!(known, [("bob", true), ("carol", false)]);
    // A receipt is no message, for nobody.
    for client in all {
        assert_eq!(said(client), ["hello", "hello again"]);
    }
    let only = told(&bob);
    assert!(matches!(only[..], [Event::Message { .. }]), "{only:?}");
    // Not any more.
    bob.set_receipts("team", Receipts::Off).await.unwrap();
    bob.mark_read("team", &[first]).unwrap();
    let before = sent();
    settle(&all).await;
    assert_eq!(sent(), before);
}

#[tokio::test]
async fn a_receipt_counts_for_the_messages_of_who_reads_it() {
    let homes = Homes::new(410);
    let [alice, bob, carol] = team(&homes).await;
    let all = [&alice, &bob, &carol];
    let of_bob = say(&bob, "hello", &all).await;
    let report = |id| {
        let report = MimiContent::report([7; 16], &[(wire(id), content::Status::Read)]);
        report.encode().unwrap()
    };
    carol.say_by_hand("team", &report(of_bob)).await.unwrap();
    bob.say_by_hand("team", &report(of_bob)).await.unwrap();
    settle(&all).await;
    assert!(told(&alice).is_empty());
    assert!(matches!(told(&bob)[..], [Event::Receipt { .. }]));
}

#[tokio::test]
async fn a_mention_names_the_user_and_no_pseudonym() {
    let homes = Homes::new(411);
    let [alice, bob, carol] = team(&homes).await;
    let members = alice.members("team").unwrap();
    let of = |name: &str| {
        members
            .iter()
            .find(|it| it.name == name)
            .unwrap()
            .user
            .unwrap()
    };
    let text = format!(
        "Kudos to [@Carol](user:{}), see [x](https://example.org)",
        of("carol")
    );
    let draft = Draft::text(text.clone()).as_markdown();
    alice.send_message("team", draft).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    let events = told(&bob);
    let [
        Event::Message {
            text: read,
            details,
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((read, &details.mentions[..]), (&text, &[of("carol")][..]));
    let stranger = Draft::text(format!("[x](user:{})", mimimi_client::UserId([1; 32])));
    let refused = alice.send_message("team", stranger.as_markdown()).await;
    assert!(matches!(
        refused,
        Err(Error::Usage(UsageError::NotInGroup(_)))
    ));
}

#[tokio::test]
async fn what_this_release_cannot_show_is_shown_as_such() {
    let homes = Homes::new(412);
    let [alice, bob, _] = team(&homes).await;
    let body = NestedPart::single("application/vnd.example-poll", b"\x01");
    let poll = MimiContent::new([7; 16], body).encode().unwrap();
    alice.say_by_hand("team", &poll).await.unwrap();
    settle(&[&alice, &bob]).await;
    let events = told(&bob);
    let [Event::Message { text, details, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(text, "");
    assert_eq!(
        details.unknown.as_deref(),
        Some("application/vnd.example-poll")
    );
}

#[tokio::test]
async fn another_device_of_the_user_changes_what_the_user_has_said() {
    let homes = Homes::new(413);
    let [alice, bob, carol] = team(&homes).await;
    let tablet = crate::support::link(&homes, &alice, "tablet", &[&bob, &carol]).await;
    let all = [&alice, &tablet, &bob];
    let id = say(&alice, "Hello wrold", &all).await;
    tablet
        .send_message("team", Draft::edit(id, "Hello world"))
        .await
        .unwrap();
    settle(&all).await;
    for client in all {
        assert_eq!(said(client), ["Hello world"]);
    }
    // What expires does so at the sender's other device as at the sender.
    let draft = Draft::text("soon gone").expires(Expiry::AfterReading(3_600));
    alice.send_message("team", draft).await.unwrap();
    settle(&all).await;
    assert_eq!(said(&tablet), ["Hello world", "soon gone"]);
    homes.service.clock.advance(Duration::from_secs(3_700));
    for client in [&alice, &tablet] {
        assert_eq!(said(client), ["Hello world", ""]);
    }
}

#[tokio::test]
async fn what_is_asked_of_a_client_that_was_closed_is_refused_and_nothing_of_it_is_done() {
    let homes = Homes::new(61);
    let [alice, bob, _] = team(&homes).await;
    let sent = alice.send_message("team", "read?").await.unwrap();
    settle(&[&bob]).await;
    let stream = bob.event_stream();
    bob.clone().close().await;
    let stopped = |done: Result<(), Error>| matches!(done, Err(Error::Local(LocalError::Stopped)));
    assert!(stopped(bob.queue_message("team", "twice?").map(drop)));
    assert!(stopped(bob.mark_read("team", &[sent])));
    assert!(stopped(bob.contacts().map(drop)));
    assert!(stopped(stream.after(0).await.map(drop)));
    assert!(stream.has_ended());
    drop((stream, bob));
    let bob = Client::open(&homes.path("bob"), homes.options())
        .await
        .unwrap();
    assert_eq!(bob.queued_messages().unwrap(), []);
    assert!(!bob.event_stream().has_ended());
}

#[tokio::test]
async fn an_event_whose_reader_has_not_got_it_comes_again_and_is_acknowledged_by_its_id() {
    let homes = Homes::new(62);
    let [alice, bob, _] = team(&homes).await;
    bob.acknowledge(&bob.events().unwrap()).unwrap();
    let draft = Draft::text("soon gone").expires(Expiry::AfterReading(1_000));
    alice.send_message("team", draft).await.unwrap();
    alice.send_message("team", "stays").await.unwrap();
    settle(&[&bob]).await;
    let stream = bob.event_stream();
    let first = stream.after(0).await.unwrap();
    assert_eq!(stream.after(0).await.unwrap(), first);
    let second = stream.after(first.id).await.unwrap();
    assert_ne!(second, first);
    // One that is not there is passed over.
    bob.acknowledge_by_id(&[first.id, second.id + 1]).unwrap();
    assert_eq!(bob.events().unwrap(), [second]);
    // Its time has begun.
    homes.service.clock.advance(Duration::from_secs(1_001));
    assert_eq!(said(&bob), ["", "stays"]);
}
