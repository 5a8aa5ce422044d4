//! The MLS library's state on the disk and what of it is in memory: one is never ahead of the
//! other, and what is deleted is not found again.

use std::collections::HashSet;

use mimimi_client::{Client, Error, Event};

use crate::support::{Homes, befriend, database, settle, texts};

async fn pair(homes: &Homes) -> (Client, Client) {
    let (alice, bob) = (homes.user("alice").await, homes.user("bob").await);
    befriend(&alice, &bob).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob"]).await.unwrap();
    settle(&[&alice, &bob]).await;
    (alice, bob)
}

fn unreadable(client: &Client) -> usize {
    let events = client.events().unwrap().into_iter();
    events
        .filter(|stored| matches!(stored.event, Event::MessageUnreadable { .. }))
        .count()
}

#[tokio::test]
async fn two_processes_that_take_turns_in_one_home_use_no_message_key_twice_and_miss_none() {
    let homes = Homes::new(71);
    let (alice, bob) = pair(&homes).await;
    let again = Client::open(&homes.path("bob"), homes.options()).await;
    let turns = [bob, again.unwrap()];
    let (mut told, mut heard) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let bob = &turns[round % 2];
        heard.push(format!("to bob {round}"));
        alice
            .send_message("team", heard.last().unwrap())
            .await
            .unwrap();
        bob.sync(0).await.unwrap();
        told.push(format!("from bob {round}"));
        bob.send_message("team", told.last().unwrap())
            .await
            .unwrap();
        alice.sync(0).await.unwrap();
        // And a commit now and then, which moves the other one on.
        if round % 3 == 2 {
            bob.update_own_leaf("team").await.unwrap();
            alice.sync(0).await.unwrap();
        }
    }
    settle(&[&alice, &turns[0], &turns[1]]).await;
    assert_eq!(texts(&alice, "team"), told);
    assert_eq!(texts(&turns[0], "team"), heard);
    assert_eq!((unreadable(&alice), unreadable(&turns[0])), (0, 0));
}

#[tokio::test]
async fn a_message_that_could_not_be_kept_is_read_when_it_can() {
    let homes = Homes::new(72);
    let (alice, bob) = pair(&homes).await;
    alice.send_message("team", "one").await.unwrap();
    bob.sync(0).await.unwrap();
    let db = database(&homes, "bob");
    db.execute_batch(
        "CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .unwrap();
    alice.send_message("team", "two").await.unwrap();
    alice.send_message("team", "three").await.unwrap();
    for _ in 0..2 {
        assert!(matches!(bob.sync(0).await, Err(Error::Local(_))));
    }
    db.execute_batch("DROP TRIGGER full").unwrap();
    bob.sync(0).await.unwrap();
    assert_eq!(texts(&bob, "team"), ["one", "two", "three"]);
    assert_eq!(unreadable(&bob), 0);
}

#[tokio::test]
async fn a_message_whose_key_could_not_be_kept_is_nobodys_fault_and_read_when_it_can() {
    let homes = Homes::new(73);
    let (alice, bob) = pair(&homes).await;
    alice.send_message("team", "one").await.unwrap();
    bob.sync(0).await.unwrap();
    let db = database(&homes, "bob");
    let rename = |from: &str, to: &str| {
        db.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}"))
            .unwrap();
    };
    rename("mls_secret_pieces", "away");
    alice.send_message("team", "two").await.unwrap();
    for _ in 0..2 {
        assert!(matches!(bob.sync(0).await, Err(Error::Local(_))));
    }
    rename("away", "mls_secret_pieces");
    bob.sync(0).await.unwrap();
    assert_eq!(bob.stop_reason("team").unwrap(), None);
    assert_eq!(texts(&bob, "team"), ["one", "two"]);
    assert_eq!(unreadable(&bob), 0);
}

/// All that stands in a home, file by file.
fn files(homes: &Homes, home: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(homes.path(home)).unwrap();
    files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect()
}

/// What the library keeps to read messages of all groups.
fn message_secrets(homes: &Homes, home: &str) -> Vec<Vec<u8>> {
    let db = database(homes, home);
    let mut secrets = db
        .prepare("SELECT piece FROM mls_secret_pieces ORDER BY group_id, number")
        .unwrap();
    let rows = secrets.query_map((), |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

const SECRET: usize = 32;

fn windows(of: &[Vec<u8>]) -> HashSet<&[u8]> {
    of.iter().flat_map(|bytes| bytes.windows(SECRET)).collect()
}

/// The secrets in what the library keeps, whole: what stands around them is in other rows too.
fn secrets(of: &[Vec<u8>]) -> HashSet<&[u8]> {
    // MessagePack: a field called `vec`, and so many bytes.
    const HEAD: &[u8] = b"\xa3vec\xc4\x20";
    of.iter()
        .flat_map(|bytes| bytes.windows(HEAD.len() + SECRET))
        .filter_map(|window| window.strip_prefix(HEAD))
        .collect()
}

#[tokio::test]
async fn a_home_holds_no_key_of_messages_that_were_read_or_sent_a_while_ago() {
    let homes = Homes::new(73);
    let (alice, bob) = pair(&homes).await;
    alice.send_message("team", "first").await.unwrap();
    bob.sync(0).await.unwrap();
    bob.send_message("team", "first of bob").await.unwrap();
    let before = message_secrets(&homes, "bob");
    bob.send_message("team", "second of bob").await.unwrap();
    for number in 0..30 {
        alice
            .send_message("team", &number.to_string())
            .await
            .unwrap();
        bob.sync(0).await.unwrap();
    }
    let after = message_secrets(&homes, "bob");
    let known = secrets(&after);
    let gone: HashSet<&[u8]> = secrets(&before).difference(&known).copied().collect();
    // At least the chain keys of both.
    assert!(gone.len() >= 2, "{}", gone.len());
    let files = files(&homes, "bob");
    let found = windows(&files).intersection(&gone).count();
    assert_eq!(found, 0);
}
