//! Two clients in one task: both wait for events, and both send meanwhile. Some messages are put
//! into the outbox; of others the answer is waited for, and not always long enough. It says on
//! standard output what it has done, and can be killed at any time.
//!
//! Arguments: two home directories whose users are in a group `team`, and a name for this run; with
//! the name `rest` it sends nothing and ends when nothing is left to be sent.

#![allow(clippy::print_stdout, reason = "it shows what it does")]

use std::path::Path;
use std::time::Duration;

use mimimi_client::{Client, Error, Event, Events, Options, Profile};
use rand::Rng as _;
use tokio::time::{sleep, timeout};

fn random_ms(most: u64) -> Duration {
    Duration::from_millis(rand::rng().random_range(0..most))
}

/// Shows messages as they come. One that was shown and not acknowledged comes again.
async fn show(name: &str, client: &Client, mut events: Events) -> Result<(), Error> {
    loop {
        let stored = events.next().await?;
        match &stored.event {
            Event::Message { text, .. } => println!("{name} read {text} {}", stored.id),
            Event::MessageFailed { text, reason, .. } => println!("{name} lost {text} {reason}"),
            _ => {}
        }
        client.acknowledge(&[stored])?;
    }
}

async fn send(clients: [&Client; 2], run: &str) -> Result<(), Error> {
    for number in 0.. {
        sleep(random_ms(120)).await;
        let (client, text) = (clients[number % 2], format!("{run}.{number}"));
        if rand::rng().random() {
            client.queue_message("team", &text)?;
            println!("queued {text}");
        } else if let Ok(sent) = timeout(random_ms(100), client.send_message("team", &text)).await {
            sent?;
            println!("sent {text}");
        }
    }
    Ok(())
}

async fn rest(clients: [&Client; 2]) -> Result<(), Error> {
    let mut quiet = 0;
    while quiet < 50 {
        let [one, two] = clients.map(Client::queued_messages);
        quiet = if one?.is_empty() && two?.is_empty() {
            quiet + 1
        } else {
            0
        };
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A conversation is on the screen: it is followed as it goes on.
fn options() -> Options {
    Options {
        profile: Profile::Live,
        ..Options::default()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, second, run] = &arguments[..] else {
        return Err("two home directories and a name are needed".into());
    };
    let one = Client::open(Path::new(first), options()).await?;
    let two = Client::open(Path::new(second), options()).await?;
    let clients = [&one, &two];
    for client in clients {
        client.bring_to_front("team").await?;
    }
    let ended = tokio::select! {
        ended = show("one", &one, one.event_stream()) => ended,
        ended = show("two", &two, two.event_stream()) => ended,
        ended = send(clients, run), if run != "rest" => ended,
        ended = rest(clients), if run == "rest" => ended,
    };
    Ok(ended?)
}
