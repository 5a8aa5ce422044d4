//! From nothing to the first message: two users make clients, become contacts, and one writes to
//! the other in a group.
//!
//! Arguments: the `stack.json` of a running system, two files with account tokens, and an empty
//! directory for the two homes.

#![allow(clippy::print_stdout, reason = "it shows what it does")]

use std::path::PathBuf;

use mimimi_client::{Client, Endpoints, Event, Options, Profile};

type Failure = Box<dyn std::error::Error>;

/// A conversation is on the screen: it is followed as it goes on.
fn options() -> Options {
    Options {
        profile: Profile::Live,
        ..Options::default()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [stack, account_of_ann, account_of_ben, homes] = &arguments[..] else {
        return Err("stack.json, two account tokens and a directory are needed".into());
    };
    let endpoints = Endpoints::from_json(&std::fs::read(stack)?)?;
    let start = async |name: &str, account: &PathBuf| -> Result<Client, Failure> {
        let token = std::fs::read_to_string(account)?;
        let client = Client::init(&homes.join(name), &endpoints, &token, options()).await?;
        client.register_handle(name).await?;
        Ok(client)
    };
    let ann = start("ann", account_of_ann).await?;
    let ben = start("ben", account_of_ben).await?;

    // Ben is asked, and accepts.
    ann.connect("ben").await?;
    ben.check_inbox().await?;
    let request = ben.incoming_requests()?.pop().ok_or("nobody asks")?;
    let name = ben.accept_request(&request.id).await?;

    // Whoever cannot wait catches up at once: relay and service see that.
    while ann.contacts()?.is_empty() {
        ann.sync(1_000).await?;
    }
    // To be compared over another channel: then no service has given them wrong keys.
    assert_eq!(ann.safety_number("ben")?, ben.safety_number(&name)?);

    ann.create_group("climbing").await?;
    ann.add_to_group("climbing", &["ben"]).await?;
    ann.queue_message("climbing", "Saturday?")?;

    ben.sync(0).await?;
    ben.bring_to_front("climbing").await?;
    let mut events = ben.event_stream();
    loop {
        let stored = events.next().await?;
        if let Event::Message { sender, text, .. } = &stored.event {
            println!("{sender}: {text}");
            return Ok(());
        }
    }
}
