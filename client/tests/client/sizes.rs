//! How long requests and entries are, by ciphersuite and number of members.

use ds_domain::engine::Table;
use mimimi_client::Options;
use protocol::operation::Operation;

use crate::support::recording::Who;
use crate::support::{Homes, befriend};

const DOCUMENTED: &str = include_str!("../../../docs/performance.md");
/// Of an entry, in a slot.
const PIECE: usize = 7_542;

/// In a group whose members came one by one: bytes of the requests that add one, renew a leaf,
/// remove a user and come in by a code; of the entries of the first two; and the slots that the
/// last one takes.
async fn sizes(suite: u16, members: usize) -> [usize; 7] {
    let homes = Homes::in_memory(820);
    let options = || Options {
        service: Some(homes.service.seen_by(Who { user: 0, device: 0 })),
        ciphersuites: vec![0x4f, 1],
        ..homes.options()
    };
    let user = async |name: String| {
        let client = homes.client_with(&name, options()).await;
        client.register_handle(&name).await.unwrap();
        client
    };
    let (alice, bob) = (user("alice".into()).await, user("bob".into()).await);
    befriend(&alice, &bob).await;
    alice.create_group_with("group", suite).await.unwrap();
    let code = alice.invite("group", 7).await.unwrap();
    for number in 2..members {
        let other = user(format!("other-{number}")).await;
        other.join_by_code(&code).await.unwrap();
    }
    alice.sync(0).await.unwrap();
    homes.service.record();
    alice.add_to_group("group", &["bob"]).await.unwrap();
    alice.update_own_leaf("group").await.unwrap();
    let last = user("last".into()).await;
    last.join_by_code(&code).await.unwrap();
    alice.sync(0).await.unwrap();
    alice.remove_from_group("group", &["bob"]).await.unwrap();
    let recording = homes.service.recorded();
    let [add, update, remove, join] = [
        Operation::AddUsers,
        Operation::UpdateClient,
        Operation::RemoveUsers,
        Operation::ExternalJoin,
    ]
    .map(|operation| {
        let mut found = recording.iter().filter(|it| it.operation == operation);
        let exchange = found.next().unwrap();
        let mut rows = exchange.rows.iter();
        let entry = rows.find(|it| it.table == Table::Handshakes).unwrap();
        // The row says its class first.
        (exchange.request.len(), entry.value.len() - 1)
    });
    let slots = (update.1 + 5).div_ceil(PIECE);
    [add.0, update.0, remove.0, join.0, add.1, update.1, slots]
}

fn with_commas(number: usize) -> String {
    match number {
        1_000.. => format!("{},{:03}", number / 1_000, number % 1_000),
        _ => number.to_string(),
    }
}

#[tokio::test]
async fn requests_and_entries_are_as_long_as_the_documents_say() {
    for (name, suite) in [("X25519", 1), ("X-Wing", 0x4f)] {
        for members in [2, 10, 100] {
            let sizes = sizes(suite, members).await.map(with_commas).join(" | ");
            let row = format!("| {name}, n = {members} | {sizes} |");
            assert!(DOCUMENTED.contains(&row), "{row}");
        }
    }
}
