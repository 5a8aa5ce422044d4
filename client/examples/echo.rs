//! A bot: it accepts every request for a connection, and says again what is said to it in a group.
//!
//! Arguments: its home directory, and how many messages it answers before it ends.

use std::path::PathBuf;

use mimimi_client::{Client, Event, Options, Profile};

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
    let mut arguments = std::env::args().skip(1);
    let home = PathBuf::from(arguments.next().ok_or("a home directory is needed")?);
    let mut left: usize = arguments.next().ok_or("a number is needed")?.parse()?;
    let bot = Client::open(&home, options()).await?;
    let mut own = Vec::new();
    let mut events = bot.event_stream();
    while left > 0 {
        let stored = events.next().await?;
        match &stored.event {
            // It may have been accepted before the event was shown.
            Event::ConnectionRequest { id, .. }
                if bot.incoming_requests()?.iter().any(|it| it.id == *id) =>
            {
                bot.accept_request(id).await?;
            }
            Event::Message { group_id, text, .. } => {
                // It is kept when this returns: the event is not needed any more.
                own.push(bot.queue_message(*group_id, text)?);
            }
            Event::MessageSent { message, .. } if own.contains(message) => left -= 1,
            _ => {}
        }
        bot.acknowledge(&[stored])?;
    }
    Ok(())
}
