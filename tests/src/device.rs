//! Clients in this process, by the SDK.

use std::fs;
use std::path::Path;
use std::time::Duration;

use client::{Client, Endpoints, Error, Event, Options, Pace, Patience, Profile, UsageError};
use rusqlite::Connection;

use crate::stack::Stack;

/// Sender and text.
pub type Said = (String, String);

/// Options of a client that goes on trying longer than a service takes to start.
#[must_use]
pub fn patient() -> Options {
    Options {
        patience: Patience {
            attempt: Duration::from_secs(30),
            call: Duration::from_secs(120),
        },
        pace: at_once(),
        profile: Profile::Live,
        // Most tests are not about when a slot comes.
        slots_faster: 30,
        ..Options::default()
    }
}

/// Follows at once what relay and mirrors show all their clients: most tests are not about the
/// times of that.
#[must_use]
pub fn at_once() -> Pace {
    Pace {
        soon: Duration::ZERO..Duration::ZERO,
        adoption: Duration::ZERO..Duration::ZERO,
        ..Pace::default()
    }
}

/// Compares the views of the service whenever it can.
#[must_use]
pub fn eager() -> Options {
    let moment = Duration::from_millis(1);
    Options {
        pace: Pace {
            between: moment..2 * moment,
            soon: moment..2 * moment,
            adoption: Duration::ZERO..Duration::ZERO,
        },
        ..patient()
    }
}

/// Syncs an [`eager`] client until it has compared the views. A comparison that is late is put off
/// for a moment: syncs that follow each other faster than that compare nothing.
pub async fn compares(client: &Client) {
    for _ in 0..4 {
        client.sync(0).await.expect("synced");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A new client with account `number`, which nobody can find yet.
pub async fn blank(stack: &Stack, number: usize, home: &str) -> Client {
    by(stack, &endpoints(stack), number, home, patient()).await
}

/// Where the services of a stack are.
pub(crate) fn endpoints(stack: &Stack) -> Endpoints {
    let description = stack.description().to_string();
    Endpoints::from_json(description.as_bytes()).expect("stack.json")
}

/// A new client with account `number` that goes by these endpoints.
pub(crate) async fn by(
    stack: &Stack,
    endpoints: &Endpoints,
    number: usize,
    home: &str,
    options: Options,
) -> Client {
    let token = fs::read_to_string(stack.account_token(number)).expect("an account token");
    Client::init(&stack.home(home), endpoints, &token, options)
        .await
        .unwrap_or_else(|error| panic!("{home}: {error:?}"))
}

/// A new client with account `number` and a handle.
pub async fn device(stack: &Stack, number: usize, handle: &str) -> Client {
    let client = blank(stack, number, handle).await;
    client
        .register_handle(handle)
        .await
        .unwrap_or_else(|error| panic!("{handle}: {error:?}"));
    client
}

/// As [`device`], with these options.
pub async fn device_with(stack: &Stack, number: usize, handle: &str, options: Options) -> Client {
    let client = by(stack, &endpoints(stack), number, handle, options).await;
    client.register_handle(handle).await.expect("registered");
    client
}

/// Clients with these handles, on the first accounts.
pub async fn devices<const N: usize>(stack: &Stack, handles: [&str; N]) -> [Client; N] {
    let mut clients = Vec::new();
    for (number, handle) in handles.into_iter().enumerate() {
        clients.push(device(stack, number, handle).await);
    }
    clients.try_into().expect("as many as handles")
}

/// `new` becomes a device of the user of `old`.
pub async fn link(old: &Client, new: &Client, name: &str) {
    let link = new.link_code(name).await.expect("a code");
    let number = old.approve_link(&link.code, &link.number).await;
    let handle = new.complete_link(&number.expect("approved"), 0).await;
    assert_eq!(handle.expect("linked"), self::handle(old));
    settle(&[old, new]).await;
}

/// What a client keeps in its home directory.
#[must_use]
pub fn database(home: &Path) -> Connection {
    Connection::open(home.join("client.sqlite")).expect("a database")
}

/// An error that says what the caller cannot do.
#[must_use]
pub fn usage(error: Error) -> UsageError {
    match error {
        Error::Usage(usage) => usage,
        other => panic!("{other:?}"),
    }
}

fn handle(client: &Client) -> String {
    client.handle().expect("a profile").expect("a handle")
}

/// Catches up as often as it takes for everything that follows from everything.
pub async fn settle(clients: &[&Client]) {
    for _ in 0..4 {
        for client in clients.iter() {
            client.sync(0).await.expect("in step");
        }
    }
}

/// Looks into the inbox now, and returns the ids of the requests that are there.
pub async fn requests_of(client: &Client) -> Vec<String> {
    client.check_inbox().await.expect("an inbox");
    let requests = client.incoming_requests().expect("requests");
    requests.into_iter().map(|request| request.id).collect()
}

/// `asker` asks for a connection, `other` accepts.
pub async fn befriend(asker: &Client, other: &Client) {
    asker.connect(&handle(other)).await.expect("asked");
    other.check_inbox().await.expect("an inbox");
    let requests = other.incoming_requests().expect("requests");
    let request = requests
        .iter()
        .find(|request| request.name == handle(asker));
    let id = request.expect("the request").id.clone();
    other.accept_request(&id).await.expect("accepted");
    settle(&[asker, other]).await;
    for client in [asker, other] {
        let events = client.events().expect("events");
        client.acknowledge(&events).expect("acknowledged");
    }
}

/// A group of `founder` and `others`, all of whom have joined.
pub async fn group_with(name: &str, founder: &Client, others: &[&Client]) {
    for other in others.iter() {
        befriend(founder, other).await;
    }
    founder.create_group(name).await.expect("created");
    let handles: Vec<_> = others.iter().map(|other| handle(other)).collect();
    let handles: Vec<_> = handles.iter().map(String::as_str).collect();
    founder.add_to_group(name, &handles).await.expect("added");
    founder.sync(0).await.expect("in step");
    for other in others {
        other.sync(0).await.expect("joined");
        let events = other.events().expect("events");
        other.acknowledge(&events).expect("acknowledged");
    }
}

/// What has happened since the last call.
pub async fn events(client: &Client) -> Vec<Event> {
    let events = client.receive(0).await.expect("events");
    client.acknowledge(&events).expect("acknowledged");
    events.into_iter().map(|stored| stored.event).collect()
}

/// The messages among the events since the last call.
pub async fn messages(client: &Client) -> Vec<Said> {
    let events = events(client).await.into_iter();
    events
        .filter_map(|event| match event {
            Event::Message { sender, text, .. } => Some((sender, text)),
            _ => None,
        })
        .collect()
}

/// The messages that have arrived must be these, in order.
pub async fn reads(client: &Client, expected: &[(&str, &str)]) {
    let read = messages(client).await;
    let read: Vec<_> = read
        .iter()
        .map(|(sender, text)| (sender.as_str(), text.as_str()))
        .collect();
    assert_eq!(read, expected, "{}", handle(client));
}

/// Time passes in which a client that has begun a segment writes the rows that others, and this
/// one, come back by.
///
/// # Panics
/// If it had none to write.
pub async fn some_minutes_later(home: &Path, client: &Client) {
    // What is done by itself is planned then.
    client.sync(0).await.unwrap();
    let db = database(home);
    let planned = "UPDATE acts SET due_ms = 1 WHERE act = 'rows'";
    assert!(db.execute(planned, ()).unwrap() > 0, "no rows to write");
    for _ in 0..8 {
        client.sync(0).await.unwrap();
        if db.execute(planned, ()).unwrap() == 0 {
            return;
        }
    }
    panic!("rows were not written");
}

/// Each of them says something and all others read it; all are in one epoch at the end. What
/// arrived before is passed over.
pub async fn talks(group: &str, members: &[&Client]) {
    for member in members.iter() {
        messages(member).await;
    }
    for speaker in 0..members.len() {
        let name = handle(members[speaker]);
        let text = format!("is everybody there? asks {name}");
        members[speaker]
            .send_message(group, &text)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        for (index, member) in members.iter().enumerate() {
            if index != speaker {
                reads(member, &[(&name, &text)]).await;
            }
        }
    }
    // Whoever has read the last of it may have renewed a leaf since.
    for member in members.iter().chain(members) {
        member.sync(0).await.expect("in step");
    }
    let epochs: Vec<_> = members
        .iter()
        .map(|member| member.group_access(group).expect("the group").epoch)
        .collect();
    assert!(
        epochs.windows(2).all(|pair| pair[0] == pair[1]),
        "{epochs:?}"
    );
}
