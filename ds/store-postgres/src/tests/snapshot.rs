//! The snapshot game on PostgreSQL: [`ds_domain::conformance::snapshot`] says what is guessed. The
//! files of its tables are read past the server, dead rows and all.
//!
//! What the files do tell, as figures of a scene (14 groups, 24 handles and pools, 340 requests):
//! the same as those of RocksDB. Each version of a row names the transactions that wrote it and
//! that deleted or locked it last, so that the rows of one request are known; dead versions are
//! there until the server's vacuum, and their bytes until the page is used again.

use std::collections::{BTreeMap, BTreeSet};

use ds_domain::conformance::snapshot::{self, Scene, SeenRow, Together};

use super::*;

/// Requests between two copies.
const BETWEEN: usize = 60;
const PAGE: usize = 8_192;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A variable-length column at this place, and where the next one begins. Empty if it is stored
/// apart.
fn column(data: &[u8], at: usize) -> (&[u8], usize) {
    let first = data[at];
    if first == 1 {
        return (&[], at + 18);
    }
    if first & 1 == 1 {
        let end = at + usize::from(first >> 1);
        return (&data[at + 1..end], end);
    }
    let at = at.next_multiple_of(4);
    let end = at + (u32_at(data, at) >> 2) as usize;
    (&data[at + 4..end], end)
}

/// A version of a row, live or dead.
struct Tuple<'a> {
    written_by: u32,
    /// Or locked.
    deleted_by: u32,
    data: &'a [u8],
}

/// All versions in a file of pages: line pointers behind a header of 24 bytes, tuples from the end.
fn tuples(file: &[u8]) -> Vec<Tuple<'_>> {
    let mut all = Vec::new();
    for page in file.chunks_exact(PAGE) {
        let lower = u16_at(page, 12);
        for pointer in (24..lower).step_by(4) {
            let pointer = u32_at(page, pointer);
            let (offset, len) = ((pointer & 0x7fff) as usize, (pointer >> 17) as usize);
            if len == 0 {
                continue;
            }
            let tuple = &page[offset..offset + len];
            let is_multiple = u16_at(tuple, 20) & 0x1000 != 0;
            all.push(Tuple {
                written_by: u32_at(tuple, 0),
                deleted_by: if is_multiple { 0 } else { u32_at(tuple, 4) },
                data: &tuple[usize::from(tuple[22])..],
            });
        }
    }
    all
}

/// Rows by the transaction that wrote, deleted or locked them.
type Transactions = BTreeMap<u32, BTreeSet<SeenRow>>;

async fn copy(server: &Server, database: &str, transactions: &mut Transactions) {
    let client = server.client(database).await;
    client.batch_execute("CHECKPOINT").await.unwrap();
    for table in Table::ALL {
        let files = "SELECT pg_relation_filepath(oid), \
            coalesce(pg_relation_filepath(nullif(reltoastrelid, 0)), '') \
            FROM pg_class WHERE relname = $1";
        let files = client.query_one(files, &[&table.name()]).await.unwrap();
        let read = |path: &str| std::fs::read(server.data().join(path)).unwrap();
        for tuple in tuples(&read(files.get(0))) {
            // A day of eight bytes, then name and value.
            let (name, next) = column(tuple.data, 8);
            let (value, _) = column(tuple.data, next);
            let row = |value: &[u8]| SeenRow {
                table,
                name: name.to_vec(),
                value: value.to_vec(),
            };
            let written = transactions.entry(tuple.written_by).or_default();
            written.insert(row(value));
            if tuple.deleted_by != 0 {
                let touched = transactions.entry(tuple.deleted_by).or_default();
                touched.insert(row(&[]));
            }
        }
        // Large values are stored apart, in chunks: id(4) ‖ number(4) ‖ bytes.
        for tuple in tuples(&read(files.get(1))) {
            let written = transactions.entry(tuple.written_by).or_default();
            written.insert(SeenRow {
                table,
                name: Vec::new(),
                value: column(tuple.data, 8).0.to_vec(),
            });
        }
    }
}

fn together(transactions: Transactions) -> Vec<Together> {
    let rows = transactions.into_values();
    rows.map(|rows| rows.into_iter().collect()).collect()
}

/// By the last copy, and by several.
async fn look(server: &Server, scene: &Scene) -> [Vec<Together>; 2] {
    let database = server.fresh_database().await;
    let store = Postgres::create(&settings(server, &database))
        .await
        .unwrap();
    let mut all = Transactions::new();
    for batches in scene.batches.chunks(BETWEEN) {
        for batch in batches {
            snapshot::apply_one(&store, batch).await;
        }
        copy(server, &database, &mut all).await;
    }
    let mut last = Transactions::new();
    copy(server, &database, &mut last).await;
    // Nothing is missing: each request is a transaction.
    assert!(all.len() >= scene.batches.len(), "{}", all.len());
    [together(last), together(all)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_the_files_show_no_co_members_no_handle_of_a_member_and_no_sender() {
    let Some(server) = Server::shared() else {
        return;
    };
    let [last, all] = snapshot::play(false, async |scene| look(server, scene).await).await;
    last.assert_guessing("one copy");
    all.assert_guessing("copies");
}

/// The power of the matcher.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_for_each_recipient_would_show_who_is_in_which_groups_and_who_sends() {
    let Some(server) = Server::shared() else {
        return;
    };
    let [last, all] = snapshot::play(true, async |scene| look(server, scene).await).await;
    last.assert_won(0.85, "one copy");
    all.assert_won(0.85, "copies");
}
