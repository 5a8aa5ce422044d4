//! The suite on PostgreSQL, and what is PostgreSQL's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use service::founding::Refusal;

use super::server::Server;
use super::{Postgres, PostgresSettings};
use crate::store::conformance::{durability, each_invariant};
use crate::store::{
    Advance, DayRow, Deliveries, FoundationError, NewGroup, Parts, ProposalsChange, Receipt,
    Reservation, ResultRecord, Spend, Store, StoreError,
};

pub(super) fn settings(server: &Server, database: &str) -> PostgresSettings {
    PostgresSettings {
        host: server.sockets.clone(),
        port: 5432,
        user: "mimimi".to_owned(),
        database: database.to_owned(),
        password_file: Some(server.password_file.clone()),
        connections: 8,
        acquire_ms: 20_000,
        statement_ms: 10_000,
    }
}

/// A store on a database of its own, if there is a server.
async fn fresh() -> Option<(Postgres, &'static Server, String)> {
    let server = Server::shared()?;
    let database = server.fresh_database().await;
    let store = Postgres::create(&settings(server, &database)).await;
    Some((store.unwrap(), server, database))
}

macro_rules! on_postgres {
    ($($module:ident: [$($invariant:ident),* $(,)?],)*) => {
        $(mod $module {
            use crate::store::conformance::$module as invariants;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $invariant() {
                    let Some((store, ..)) = super::fresh().await else { return };
                    invariants::$invariant(std::sync::Arc::new(store)).await;
                }
            )*
        })*
    };
}
each_invariant!(on_postgres);

#[tokio::test]
async fn everything_is_there_for_another_node() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    durability::write_one_of_everything(Arc::new(store)).await;
    let other = Postgres::open(&settings(server, &database)).await.unwrap();
    durability::find_one_of_everything(Arc::new(other)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_empty_database_is_refused_until_the_tables_are_made_and_then_by_who_makes_them() {
    let Some(server) = Server::shared() else {
        return;
    };
    let database = server.fresh_database().await;
    let settings = settings(server, &database);
    let refused = Postgres::open(&settings).await;
    assert!(matches!(
        refused,
        Err(FoundationError::Refused(Refusal::EmptyDatabase { .. }))
    ));
    Postgres::create(&settings).await.unwrap();
    let nodes: Vec<_> = (0..6)
        .map(|_| {
            let settings = settings.clone();
            tokio::spawn(async move { Postgres::open(&settings).await.unwrap() })
        })
        .collect();
    for node in nodes {
        node.await.unwrap().check().await.unwrap();
    }
    let again = Postgres::create(&settings).await;
    assert!(matches!(
        again,
        Err(FoundationError::Refused(Refusal::OccupiedDatabase))
    ));
    let versions = "SELECT max(version) - count(*) FROM schema_version";
    assert_eq!(server.number(&database, versions).await, 0);
}

#[tokio::test]
async fn a_schema_of_a_later_release_is_refused() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    drop(store);
    let later = "INSERT INTO schema_version (version) VALUES (99)";
    server.execute(&database, later).await;
    let refused = Postgres::open(&settings(server, &database)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("schema version 99"), "{refused}");
}

#[tokio::test]
async fn tables_of_something_else_are_refused_and_left_alone() {
    let Some(server) = Server::shared() else {
        return;
    };
    let database = server.fresh_database().await;
    let foreign = "CREATE TABLE handles (owner text); INSERT INTO handles VALUES ('somebody')";
    server.execute(&database, foreign).await;
    let settings = settings(server, &database);
    assert!(matches!(
        Postgres::open(&settings).await,
        Err(FoundationError::Refused(Refusal::EmptyDatabase { .. }))
    ));
    assert!(matches!(
        Postgres::create(&settings).await,
        Err(FoundationError::Refused(Refusal::OccupiedDatabase))
    ));
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(server.number(&database, tables).await, 1);
}

#[tokio::test]
async fn sessions_commit_to_the_disk_whatever_the_servers_default_is() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    drop(store);
    for (default, expected) in [
        ("off", "on"),
        ("local", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ] {
        let alter = format!("ALTER DATABASE {database} SET synchronous_commit = {default}");
        server.execute(&database, &alter).await;
        let store = Postgres::open(&settings(server, &database)).await.unwrap();
        let mut session = store.sessions.session().await.ok().unwrap();
        let show = "SELECT setting::bytea FROM pg_settings WHERE name = 'synchronous_commit'";
        let step = super::session::step!(show;);
        let found = session.run(&[step]).await.ok().unwrap();
        assert_eq!(
            found[0].value().unwrap().unwrap(),
            expected.as_bytes(),
            "{default}"
        );
    }
}

#[tokio::test]
async fn every_statement_is_prepared_with_the_connection() {
    let Some((store, ..)) = fresh().await else {
        return;
    };
    let session = store.sessions.session().await.ok().unwrap();
    assert_eq!(session.prepared(), super::sql::ALL.len());
    drop(session);
    durability::write_one_of_everything(Arc::new(store.clone())).await;
    durability::find_one_of_everything(Arc::new(store.clone())).await;
    let session = store.sessions.session().await.ok().unwrap();
    assert_eq!(session.prepared(), super::sql::ALL.len());
}

fn at(number: u8) -> DayRow {
    DayRow {
        day: 20_000,
        row: [number; 16],
    }
}

#[tokio::test]
async fn what_the_server_says_about_a_row_stays_out_of_the_error() {
    let Some((store, ..)) = fresh().await else {
        return;
    };
    let twice = || Deliveries {
        entries: vec![(at(0xab), b"entry".to_vec())],
        ..Deliveries::default()
    };
    store.deliver(twice(), Receipt::default()).await.unwrap();
    let refused = store.deliver(twice(), Receipt::default()).await;
    let refused = refused.unwrap_err().to_string();
    // unique_violation; the server's own detail is the key.
    assert!(
        refused.contains("23505") && !refused.contains("abab"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_an_engine_error_and_changes_nothing() {
    let Some((_, server, database)) = fresh().await else {
        return;
    };
    let mut settings = settings(server, &database);
    settings.statement_ms = 3_000;
    let store = Postgres::open(&settings).await.unwrap();
    // A connection that is there already: making one looks at every table.
    store.check().await.unwrap();
    let blocker = server.client(&database).await;
    blocker
        .batch_execute("BEGIN; LOCK TABLE queues IN SHARE MODE")
        .await
        .unwrap();
    let receipt = Receipt {
        spends: Vec::new(),
        result: Some(ResultRecord {
            at: at(1),
            sealed: b"result".to_vec(),
        }),
    };
    let create = || store.create_queue([1; 16], b"queue".to_vec(), receipt.clone());
    // query_canceled
    let late = create().await.unwrap_err().to_string();
    assert!(late.contains("57014"), "{late}");
    assert_eq!(store.result(at(1)).await.unwrap(), None);
    blocker.batch_execute("ROLLBACK").await.unwrap();
    create().await.unwrap();
}

#[tokio::test]
async fn a_full_pool_is_an_engine_error_in_time() {
    let Some((_, server, database)) = fresh().await else {
        return;
    };
    let mut settings = settings(server, &database);
    (settings.connections, settings.acquire_ms) = (1, 3_000);
    let store = Postgres::open(&settings).await.unwrap();
    store.check().await.unwrap();
    let held = store.sessions.session().await.ok().unwrap();
    let refused = store.check().await.unwrap_err().to_string();
    assert!(refused.contains("became free"), "{refused}");
    drop(held);
    store.check().await.unwrap();
}

#[tokio::test]
async fn lost_connections_are_replaced_without_an_error() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    for number in 0..5 {
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE application_name = 'mimimi ds' AND datname = current_database()";
        server.number(&database, kill).await;
        store
            .create_queue([number; 16], b"queue".to_vec(), Receipt::default())
            .await
            .unwrap();
        server.number(&database, kill).await;
        let queue = store.queue([number; 16]).await.unwrap();
        assert_eq!(queue, Some(b"queue".to_vec()));
    }
}

#[tokio::test]
async fn a_transition_whose_caller_went_away_is_carried_out() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    store.check().await.unwrap();
    let blocker = server.client(&database).await;
    blocker
        .batch_execute("BEGIN; LOCK TABLE queues IN SHARE MODE")
        .await
        .unwrap();
    let create = store.create_queue([1; 16], b"queue".to_vec(), Receipt::default());
    let gone = tokio::time::timeout(Duration::from_millis(200), create).await;
    assert!(gone.is_err(), "nothing can be written yet");
    blocker.batch_execute("ROLLBACK").await.unwrap();
    let mut queue = None;
    for _ in 0..200 {
        queue = store.queue([1; 16]).await.unwrap();
        if queue.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(queue, Some(b"queue".to_vec()));
}

/// A group at version 0.
async fn found(store: &Postgres) {
    let owner_tag = [1; 32];
    let reservation = Reservation {
        at: at(1),
        owner_tag,
    };
    store
        .reserve_group(reservation, Receipt::default())
        .await
        .unwrap();
    let group = NewGroup {
        group: at(1).row,
        reservation_days: vec![at(1).day],
        owner_tag,
        version: [0; 16],
        key_check: Vec::new(),
        roster: Vec::new(),
        tree: Vec::new(),
    };
    store.create_group(group, Receipt::default()).await.unwrap();
}

/// From version `epoch` to the next.
fn change(epoch: u8) -> Advance {
    Advance {
        group: at(1).row,
        expected: [epoch; 16],
        next: [epoch + 1; 16],
        key_check: Vec::new(),
        roster: Vec::new(),
        tree: None,
        proposals: ProposalsChange::Keep,
        join_record: None,
        dropped_join_records: Vec::new(),
        recovery_records: Vec::new(),
        dropped_recovery_records: Vec::new(),
        deliveries: Deliveries::default(),
    }
}

/// Large and of no pattern, so that the server stores it apart and cannot compress it.
fn large() -> Vec<u8> {
    let random = || super::transition::random::<64>().unwrap();
    std::iter::repeat_with(random)
        .take(4_000)
        .flatten()
        .collect()
}

/// An advance names the tree's column, brought along or not.
#[tokio::test]
async fn a_tree_that_an_epoch_change_does_not_bring_is_not_written_again() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    found(&store).await;
    let (tree, proposals) = (large(), large());
    let first = Advance {
        tree: Some(tree.clone()),
        proposals: ProposalsChange::Put(proposals.clone()),
        ..change(0)
    };
    store
        .advance_group(first, Receipt::default())
        .await
        .unwrap();
    let apart = "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'groups'";
    let before = server.number(&database, apart).await;
    assert!(before >= 2 * 256_000, "{before} bytes");
    for epoch in 1..10 {
        store
            .advance_group(change(epoch), Receipt::default())
            .await
            .unwrap();
    }
    assert_eq!(server.number(&database, apart).await, before);
    let stored = store.group(at(1).row, Parts::ALL).await.unwrap().unwrap();
    assert_eq!(
        (stored.tree, stored.proposals),
        (Some(tree), Some(proposals))
    );
}

/// A pool that is there when the publication begins may be gone when it is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_publication_that_waits_for_a_deletion_makes_the_pool_anew() {
    let Some((store, server, database)) = fresh().await else {
        return;
    };
    let publish = |owner: u8| {
        let store = store.clone();
        let sets = Vec::new();
        async move {
            store
                .publish_key_packages([1; 16], [owner; 32], sets, Receipt::default())
                .await
        }
    };
    publish(1).await.unwrap();
    let deleter = server.client(&database).await;
    deleter
        .batch_execute("BEGIN; SELECT id FROM pools FOR UPDATE")
        .await
        .unwrap();
    let waiting = tokio::spawn(publish(2));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    deleter
        .batch_execute("DELETE FROM pools; COMMIT")
        .await
        .unwrap();
    waiting.await.unwrap().unwrap();
    assert!(matches!(publish(1).await, Err(StoreError::Taken)));
}

/// Messages share the group's row: would an epoch change ever get it?
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_epoch_change_gets_through_a_flood_of_messages_from_two_nodes() {
    let Some((_, server, database)) = fresh().await else {
        return;
    };
    let mut settings = settings(server, &database);
    settings.statement_ms = 60_000;
    let store = Postgres::open(&settings).await.unwrap();
    let other = Postgres::open(&settings).await.unwrap();
    found(&store).await;
    let over = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = [&store, &other]
        .into_iter()
        .cycle()
        .take(24)
        .map(|node| {
            let (node, over) = (node.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut accepted = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    let Some(stored) = node.group(at(1).row, Parts::ROSTER).await.unwrap() else {
                        panic!("the group is gone");
                    };
                    let delivered = node
                        .deliver_to_group(
                            at(1).row,
                            stored.version,
                            Deliveries::default(),
                            Receipt::default(),
                        )
                        .await;
                    match delivered {
                        Ok(()) => accepted += 1,
                        Err(StoreError::Conflict) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                accepted
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let changes = async {
        for epoch in 0..40_u8 {
            store
                .advance_group(change(epoch), Receipt::default())
                .await
                .unwrap();
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(240), changes).await;
    over.store(true, Ordering::Relaxed);
    let mut accepted = 0;
    for sender in senders {
        accepted += sender.await.unwrap();
    }
    assert!(in_time.is_ok(), "epoch changes starve");
    assert!(accepted > 40, "{accepted} messages are no flood");
}

#[tokio::test]
async fn a_message_waits_for_no_other_message_and_an_epoch_change_for_each() {
    let Some((_, server, database)) = fresh().await else {
        return;
    };
    let mut settings = settings(server, &database);
    settings.statement_ms = 3_000;
    let store = Postgres::open(&settings).await.unwrap();
    found(&store).await;
    // As a message does that is not committed yet.
    let other = server.client(&database).await;
    let hold = "BEGIN; SELECT version FROM groups FOR SHARE";
    other.batch_execute(hold).await.unwrap();
    let deliver = || {
        let (deliveries, receipt) = (Deliveries::default(), Receipt::default());
        store.deliver_to_group(at(1).row, [0; 16], deliveries, receipt)
    };
    deliver().await.unwrap();
    let late = store.advance_group(change(0), Receipt::default()).await;
    // query_canceled
    let late = late.unwrap_err().to_string();
    assert!(late.contains("57014"), "{late}");
    other.batch_execute("COMMIT").await.unwrap();
    store
        .advance_group(change(0), Receipt::default())
        .await
        .unwrap();
    assert!(matches!(deliver().await, Err(StoreError::Conflict)));
}

/// Two requests that each hold what the other needs next would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transaction_that_the_server_aborts_for_a_deadlock_is_tried_again() {
    let Some(server) = Server::shared() else {
        return;
    };
    let database = server.fresh_database().await;
    // A session looks for a deadlock once, so long after it began to wait: time to make one.
    let patience = format!("ALTER DATABASE {database} SET deadlock_timeout = '5s'");
    server.execute(&database, &patience).await;
    let mut settings = settings(server, &database);
    settings.statement_ms = 60_000;
    let store = Postgres::create(&settings).await.unwrap();
    let spend = Spend {
        issuer_key_id: [1; 32],
        row: [1; 16],
    };
    let receipt = Receipt {
        spends: vec![spend],
        result: Some(ResultRecord {
            at: at(1),
            sealed: b"result".to_vec(),
        }),
    };
    // Somebody else holds the token and then wants the result: the wrong way round.
    let other = server.client(&database).await;
    other
        .batch_execute(
            "SET deadlock_timeout = '60s'; BEGIN; INSERT INTO spent \
             VALUES (decode(repeat('01', 32), 'hex'), decode(repeat('01', 16), 'hex'))",
        )
        .await
        .unwrap();
    let settled = tokio::spawn(async move { store.settle(receipt).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity \
        WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while server.number(&database, waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let crosswise = "INSERT INTO results \
        VALUES (20000, decode(repeat('01', 16), 'hex'), decode('00', 'hex')); ROLLBACK";
    other.batch_execute(crosswise).await.unwrap();
    settled.await.unwrap().unwrap();
}
