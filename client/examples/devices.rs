//! Links a second device to a user's first one, and shows that both read a group.
//!
//! Arguments: the home of the first device, an empty one for the second, `stack.json`, a file with
//! the account token, and the name of a group that the first one is in.

#![allow(clippy::print_stdout, reason = "it shows what it does")]

use std::path::Path;

use mimimi_client::{Client, Endpoints, Options};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, second, stack, account, group] = &arguments[..] else {
        return Err("two homes, stack.json, an account token and a group are needed".into());
    };
    let endpoints = Endpoints::from_json(&std::fs::read(stack)?)?;
    let token = std::fs::read_to_string(account)?;
    let old = Client::open(Path::new(first), Options::default()).await?;
    let new = Client::init(Path::new(second), &endpoints, &token, Options::default()).await?;

    // The new device shows a code and a number. The user types both on the old one, which shows a
    // number in its turn.
    let shown = new.link_code("tablet").await?;
    let number = old.approve_link(&shown.code, &shown.number).await?;
    let handle = new.complete_link(&number, 30_000).await?;
    println!("the tablet is one of {handle}'s devices");

    // The first one lets the second one into each group.
    while new.group(group).is_err() {
        old.sync(0).await?;
        new.sync(0).await?;
    }
    println!("the tablet is in {group}");
    Ok(())
}
