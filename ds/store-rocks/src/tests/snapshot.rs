//! The snapshot game on RocksDB: [`ds_domain::conformance::snapshot`] says what is guessed.
//!
//! What the files do tell, as figures of a scene (14 groups, 24 handles and pools, 340 requests):
//! how many groups, handles, inboxes and pools there are; of each anonymous group its entries,
//! their sizes in steps and their order among those of all; which rows one request wrote, since a
//! batch is one record of the log, and so how many leaves have a rotation secret put for them; the
//! day of each row. A deleted row is in the files until they are rewritten, a week at most.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use ds_domain::conformance::snapshot::{self, Scene, SeenRow, Together};

use super::*;

/// Requests between two copies; in the end of a scene a copy follows each request.
const BETWEEN: usize = 40;
const WATCHED_CLOSELY: usize = 20;

/// Everything as of one moment: again, if a file went meanwhile.
fn copy(from: &Path, to: &Path) {
    let copied = || -> std::io::Result<()> {
        fs::create_dir(to)?;
        for file in fs::read_dir(from)? {
            let file = file?;
            fs::copy(file.path(), to.join(file.file_name()))?;
        }
        Ok(())
    };
    while copied().is_err() || open(to).is_err() {
        fs::remove_dir_all(to).unwrap();
    }
}

fn open(copy: &Path) -> Result<DB, rocksdb::Error> {
    let names = Table::ALL.map(Table::name);
    DB::open_cf_for_read_only(&rocksdb::Options::default(), copy, names, false)
}

fn seen(table: Table, stored: &[u8], value: &[u8]) -> SeenRow {
    SeenRow {
        table,
        name: stored[tables::prefix_len(table)..].to_vec(),
        value: value.to_vec(),
    }
}

/// The records of a log file: blocks of 32 KiB, in each `checksum(4) ‖ length(2) ‖ type(1) ‖
/// piece`.
fn records(log: &[u8]) -> Vec<Vec<u8>> {
    let mut records: Vec<Vec<u8>> = Vec::new();
    for block in log.chunks(32 << 10) {
        let mut left = block;
        while let Some((head, rest)) = left.split_first_chunk::<7>() {
            let len = usize::from(u16::from_le_bytes([head[4], head[5]]));
            let Some((piece, behind)) = rest.split_at_checked(len) else {
                break;
            };
            match head[6] {
                // whole, first
                1 | 2 => records.push(piece.to_vec()),
                // middle, last
                3 | 4 => records.last_mut().unwrap().extend(piece),
                _ => {}
            }
            if len == 0 {
                break;
            }
            left = behind;
        }
    }
    records
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(len);
        self.0 = left;
        taken
    }

    fn varint(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.take(1)[0];
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = self.varint();
        self.take(len)
    }
}

/// A record: `number of the first write(8) ‖ count(4) ‖ writes`.
fn batch_of(record: &[u8]) -> (u64, Together) {
    let mut reader = Reader(record);
    let number = u64::from_le_bytes(reader.take(8).try_into().unwrap());
    reader.take(4);
    let mut rows = Vec::new();
    while !reader.0.is_empty() {
        let tag = reader.take(1)[0];
        // Column families have the numbers in which they were made; 0 is unused.
        let table = match tag {
            4 | 5 | 14 => Table::ALL[reader.varint() - 1],
            13 => continue,
            other => panic!("a write of type {other}"),
        };
        let key = reader.bytes();
        match tag {
            4 => rows.push(seen(table, key, &[])),
            5 => rows.push(seen(table, key, reader.bytes())),
            _ => {
                reader.bytes();
            }
        }
    }
    (number, rows)
}

/// All rows of a copy, as whoever has RocksDB reads them.
fn rows_of(copy: &Path) -> BTreeSet<SeenRow> {
    let db = open(copy).unwrap();
    let mut rows = BTreeSet::new();
    for table in Table::ALL {
        let family = db.cf_handle(table.name()).unwrap();
        for row in db.iterator_cf(family, rocksdb::IteratorMode::Start) {
            let (key, value) = row.unwrap();
            rows.insert(seen(table, &key, &value));
        }
    }
    rows
}

/// Names that stand in files beside logs and tables: MANIFEST, LOG, OPTIONS and so on.
fn mentions(copy: &Path, rows: &BTreeSet<SeenRow>) -> Vec<Together> {
    let by_name: BTreeMap<&[u8], &SeenRow> = rows
        .iter()
        .filter_map(|row| row.name.get(..16).map(|name| (name, row)))
        .collect();
    let mut all = Vec::new();
    for file in fs::read_dir(copy).unwrap() {
        let path = file.unwrap().path();
        let kind = path
            .extension()
            .map(|kind| kind.to_string_lossy().into_owned());
        if matches!(kind.as_deref(), Some("sst" | "log")) {
            continue;
        }
        let content = fs::read(path).unwrap();
        let names = content.windows(16).filter_map(|name| by_name.get(name));
        let names: BTreeSet<&SeenRow> = names.copied().collect();
        all.push(
            names
                .into_iter()
                .map(|row| SeenRow {
                    value: Vec::new(),
                    ..row.clone()
                })
                .collect(),
        );
    }
    all
}

/// By the records of the log, and by what differs between copies.
async fn look(scene: &Scene) -> [Vec<Together>; 2] {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let rocks = Rocks::create(&path).unwrap();
    let mut copies = Vec::new();
    let (loosely, closely) = scene
        .batches
        .split_at(scene.batches.len() - WATCHED_CLOSELY);
    let between_copies = loosely.chunks(BETWEEN).chain(closely.chunks(1));
    for (number, batches) in between_copies.enumerate() {
        for batch in batches {
            snapshot::apply_one(&rocks, batch).await;
        }
        let to = directory.path().join(format!("copy-{number}"));
        copy(&path, &to);
        copies.push(to);
        // So that some rows are seen in logs, some in table files, and some in both.
        if number % 8 == 7 {
            rocks.flush().await.unwrap();
        }
    }
    let mut records_by_number = BTreeMap::new();
    let mut differences: Vec<Together> = Vec::new();
    // Files that did not change say the same again.
    let mut mentioned: BTreeSet<Together> = BTreeSet::from([Vec::new()]);
    let mut before = BTreeSet::new();
    for copy in &copies {
        for file in fs::read_dir(copy).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "log") {
                let log = fs::read(path).unwrap();
                records_by_number.extend(records(&log).iter().map(|record| batch_of(record)));
            }
        }
        let rows = rows_of(copy);
        differences.push(rows.symmetric_difference(&before).cloned().collect());
        mentioned.extend(mentions(copy, &rows));
        before = rows;
    }
    // The first one is the format; and 340 is what the figures above are of.
    assert_eq!(records_by_number.len(), scene.batches.len() + 1);
    assert_eq!(scene.batches.len(), 340);
    mentioned.remove(&Vec::new());
    differences.extend(mentioned);
    [records_by_number.into_values().collect(), differences]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_the_files_show_no_co_members_no_handle_of_a_member_and_no_sender() {
    let [logs, copies] = snapshot::play(false, look).await;
    logs.assert_guessing("logs");
    // Rows of several requests come together here, and six scenes have an order of acts by chance.
    for odds in [copies.co_members, copies.handles] {
        assert!((odds.won - 0.5).abs() < 0.1, "{copies:?}");
    }
}

/// The power of the matcher, on the logs of several copies. What merely differs between copies has
/// not told it the planted rows either (0.53 for co-members).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_for_each_recipient_would_show_who_is_in_which_groups_and_who_sends() {
    let [logs, _] = snapshot::play(true, look).await;
    logs.assert_won(0.85, "logs");
}
