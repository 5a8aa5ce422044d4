//! Nobody is in anybody's way who has taken consent back; who leaves for good leaves nothing
//! behind.

use std::collections::BTreeMap;

use client::{Client, Event, UsageError};
use ds_domain::engine::{Engine as _, Found, Range, Read, Table};
use ds_store_rocks::Rocks;
use end_to_end::{
    LogLevel, Service, Stack, StoreEngine, befriend, blank, database, device, group_with, talks,
    usage,
};
use protocol::problem::ProblemType;

const ALICE: &str = "alice";
const BOB: &str = "bob";
const CAROL: &str = "carol";
const GROUP: &str = "expedition";

fn contacts(client: &Client) -> Vec<String> {
    let contacts = client.contacts().unwrap();
    contacts.into_iter().map(|contact| contact.name).collect()
}

#[tokio::test]
async fn a_request_that_was_cancelled_leads_nowhere() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    alice.connect(BOB).await.unwrap();
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().remove(0);
    alice.cancel_request(BOB).await.unwrap();
    let gone = bob.accept_request(&request.id).await.unwrap_err();
    assert_eq!(usage(gone), UsageError::RequestExpired);
    assert!(contacts(&alice).is_empty() && contacts(&bob).is_empty());
    let twice = alice.cancel_request(BOB).await.unwrap_err();
    assert_eq!(usage(twice), UsageError::UnknownRequest(BOB.to_owned()));
    // It can be asked again.
    befriend(&alice, &bob).await;
    assert_eq!(contacts(&bob), [ALICE]);
    let too_late = alice.cancel_request(BOB).await.unwrap_err();
    assert_eq!(
        usage(too_late),
        UsageError::AlreadyConnected(BOB.to_owned())
    );
}

#[tokio::test]
async fn a_declined_request_is_forgotten_and_the_requester_learns_nothing() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    alice.connect(BOB).await.unwrap();
    bob.check_inbox().await.unwrap();
    let request = bob.incoming_requests().unwrap().remove(0);
    bob.decline_request(&request.id).await.unwrap();
    assert!(bob.incoming_requests().unwrap().is_empty());
    let gone = bob.accept_request(&request.id).await.unwrap_err();
    assert_eq!(usage(gone), UsageError::UnknownRequest(request.id));
    assert!(alice.receive(0).await.unwrap().is_empty());
    assert!(contacts(&alice).is_empty());
}

fn secret_count(stack: &Stack, home: &str, sql: &str) -> u32 {
    database(&stack.home(home))
        .query_row(sql, (), |row| row.get(0))
        .unwrap()
}

#[tokio::test]
async fn a_request_holds_nothing_that_adds_the_requester_anywhere() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    alice.connect(BOB).await.unwrap();
    bob.check_inbox().await.unwrap();
    // Bob keeps the request, and declines it or not, or alice cancels it: it is all the same.
    let pools = secret_count(&stack, ALICE, "SELECT count(*) FROM contacts");
    assert_eq!(
        pools, 0,
        "nothing is published before somebody has accepted"
    );

    let id = bob.incoming_requests().unwrap().remove(0).id;
    bob.accept_request(&id).await.unwrap();
    bob.create_group(GROUP).await.unwrap();
    let early = bob.add_to_group(GROUP, &[ALICE]).await.unwrap_err();
    assert_eq!(early.problem(), Some(ProblemType::NoKeyPackages));
    // Once alice's client has seen who has accepted, he can.
    alice.sync(0).await.unwrap();
    bob.add_to_group(GROUP, &[ALICE]).await.unwrap();
    alice.sync(0).await.unwrap();
    talks(GROUP, &[&alice, &bob]).await;
}

#[tokio::test]
async fn who_is_added_by_somebody_who_is_no_contact_any_more_does_not_come() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    befriend(&alice, &bob).await;
    bob.create_group("trap").await.unwrap();
    // He has a KeyPackage of hers in hand when she ends it.
    bob.stage_add("trap", &[ALICE]).await.unwrap();
    alice.disconnect(BOB).await.unwrap();
    bob.submit("trap").await.unwrap();
    bob.sync(0).await.unwrap();
    // Nothing leads from him to her any more, the word where her Welcome is neither.
    assert_eq!(alice.receive(0).await.unwrap(), []);
    assert!(alice.groups().unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_that_was_withdrawn_gives_no_way_to_add_anybody() {
    let stack = Stack::start(LogLevel::Info).await;
    let alice = device(&stack, 0, ALICE).await;
    let bob = device(&stack, 1, BOB).await;
    let carol = device(&stack, 2, CAROL).await;
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    // Bob keeps what he knew of alice.
    let home = stack.home(BOB);
    let copy = stack.home("bob-before");
    drop(bob);
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&home).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let bob = Client::open(&home, end_to_end::patient()).await.unwrap();

    alice.disconnect(BOB).await.unwrap();
    assert_eq!(contacts(&alice), [CAROL]);
    let events = bob.receive(0).await.unwrap();
    let ended = Event::Disconnected { name: ALICE.into() };
    assert!(
        events.iter().any(|stored| stored.event == ended),
        "{events:?}"
    );
    assert!(contacts(&bob).is_empty());

    // Carol has the new token; bob's old one finds nothing.
    carol.create_group(GROUP).await.unwrap();
    carol.add_to_group(GROUP, &[ALICE]).await.unwrap();
    alice.sync(0).await.unwrap();
    talks(GROUP, &[&carol, &alice]).await;
    drop(bob);
    let kept = copy.join("client.sqlite");
    let kept = kept.to_str().unwrap();
    database(&home)
        .execute_batch(&format!(
            "ATTACH '{kept}' AS kept; INSERT INTO contacts SELECT * FROM kept.contacts;"
        ))
        .unwrap();
    let bob = Client::open(&home, end_to_end::patient()).await.unwrap();
    bob.create_group("trap").await.unwrap();
    let refused = bob.add_to_group("trap", &[ALICE]).await.unwrap_err();
    assert_eq!(refused.problem(), Some(ProblemType::NoKeyPackages));
}

/// How many rows there are of what has no day on which it goes.
async fn rows(stack: &Stack) -> BTreeMap<&'static str, usize> {
    let store = Rocks::open(stack.layout().data(Service::Ds)).unwrap();
    let tables = Table::ALL.into_iter().filter(|table| !table.has_days());
    let mut counts = BTreeMap::new();
    for table in tables {
        let all = Range {
            table,
            day: 0,
            prefix: Vec::new(),
            from: Vec::new(),
            limit: usize::MAX,
            max_bytes: usize::MAX,
        };
        match store.read(vec![Read::Range(all)]).await.unwrap().remove(0) {
            Found::Range(rows) => counts.insert(table.name(), rows.len()),
            Found::Row(_) => panic!("a range"),
        };
    }
    counts
}

#[tokio::test]
async fn who_deletes_the_account_leaves_nothing_behind() {
    if Stack::engine() == StoreEngine::Postgres {
        // Rows are counted in RocksDB's files; that deletions are the same everywhere, the
        // conformance suite shows.
        return;
    }
    let mut stack = Stack::start(LogLevel::Info).await;
    let bob = device(&stack, 0, BOB).await;
    stack.stop().await;
    let before = rows(&stack).await;
    stack.restart().await;

    let alice = device(&stack, 1, ALICE).await;
    group_with(GROUP, &bob, &[&alice]).await;
    alice.create_group("diary").await.unwrap();
    let laptop = blank(&stack, 2, "laptop").await;
    let link = laptop.link_code("laptop").await.unwrap();
    let number = alice.approve_link(&link.code, &link.number).await.unwrap();
    laptop.complete_link(&number, 0).await.unwrap();
    for _ in 0..4 {
        alice.sync(0).await.unwrap();
        laptop.sync(0).await.unwrap();
    }
    assert_eq!(laptop.groups().unwrap().len(), 2);
    laptop.delete_account().await.unwrap();
    drop(alice);
    assert!(!stack.home("laptop").join("client.sqlite").exists());
    // What goes with the next commit.
    for _ in 0..2 {
        bob.sync(0).await.unwrap();
    }
    assert_eq!(bob.members(GROUP).unwrap().len(), 1);
    assert!(contacts(&bob).is_empty());
    let lookup = bob.connect(ALICE).await.unwrap_err();
    assert_eq!(lookup.problem(), Some(ProblemType::UnknownHandle));
    bob.delete_group(GROUP).await.unwrap();

    stack.stop().await;
    let after = rows(&stack).await;
    for table in [
        "handles",
        "inboxes",
        "pools",
        "group_parts",
        "recovery_rows",
    ] {
        assert_eq!(after[table], before[table], "{table}");
    }
}
