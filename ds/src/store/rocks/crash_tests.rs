//! kill -9 in the middle of writing. A child process (this test binary again) writes transitions and
//! reports each one that was acknowledged; the parent kills it, opens the directory and looks.
//!
//! This proves that a transition is a whole in the log and that an answer waits for the log. That the
//! log is on the disk by then is up to `fsync`, which a killed process can't show: the page cache
//! survives it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use crypto::rows::Row;

use super::Rocks;
use super::tables::Table;
use crate::store::{
    Advance, ConsumedSet, DayRow, Deliveries, GroupDeletion, NewGroup, NewKeyPackageSet,
    NewPayload, Parts, ProposalsChange, Receipt, Reservation, ResultRecord, Spend, Store,
    StoreError, StoredGroup,
};

/// Where the child writes; its presence makes this process the child.
const DIRECTORY: &str = "STORE_CRASH_TEST_DIRECTORY";
/// Which child it is: rows of different children differ.
const RUN: &str = "STORE_CRASH_TEST_RUN";
const RUNS: u64 = 8;
pub(in crate::store) const WORKERS: u64 = 4;
const DAY: u32 = 20_000;
/// Transitions that a worker does over and over, each round on rows of its own.
pub(in crate::store) const STEPS: u64 = 13;

/// One transition: which child, which worker, how many before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Place {
    pub(in crate::store) run: u64,
    pub(in crate::store) worker: u64,
    pub(in crate::store) number: u64,
}

/// What the port does not tell without a change.
#[async_trait]
pub(in crate::store) trait Inspected: Store {
    /// Whether the group's row is there, or the tombstone in its place.
    async fn has_group_row(&self, group: &Row) -> bool;
    /// Whether the group was deleted, by each part that it has left: all of them must say the same.
    async fn deletion_traces(&self, group: &Row) -> Vec<bool>;
    async fn has_pool(&self, pool: &Row) -> bool;
}

#[async_trait]
impl Inspected for Rocks {
    async fn has_group_row(&self, group: &Row) -> bool {
        self.engine.has(Table::Groups, group).unwrap()
    }

    async fn deletion_traces(&self, group: &Row) -> Vec<bool> {
        let left = self.engine.value(Table::Groups, group).unwrap();
        let mut traces = vec![left.unwrap() == super::tables::TOMBSTONE];
        for table in [Table::Trees, Table::Proposals] {
            traces.push(!self.engine.has(table, group).unwrap());
        }
        traces
    }

    async fn has_pool(&self, pool: &Row) -> bool {
        self.engine.has(Table::Pools, pool).unwrap()
    }
}

impl Place {
    fn step(self) -> u64 {
        self.number % STEPS
    }

    /// A row of this round; the kind keeps rows of one table apart.
    fn row(self, kind: u8) -> [u8; 16] {
        let round = u128::from(self.number / STEPS);
        let name = (u128::from(self.run) << 100)
            | (u128::from(self.worker) << 90)
            | (round << 8)
            | u128::from(kind);
        // Odd, so one to one: scattered like the output of a PRF.
        name.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            .to_be_bytes()
    }

    fn at(self, kind: u8) -> DayRow {
        DayRow {
            day: DAY,
            row: self.row(kind),
        }
    }

    /// Up to 20 kB, so that a kill often falls into the middle of a record.
    fn value(self, kind: u8) -> Vec<u8> {
        let row = self.row(kind);
        row.repeat(1 + usize::from(row[3]) * 5)
    }

    fn receipt(self) -> Receipt {
        let kind = 100 + self.step() as u8;
        Receipt {
            spends: vec![Spend {
                issuer_key_id: [7; 32],
                row: self.row(kind),
            }],
            result: Some(ResultRecord {
                at: self.at(kind),
                sealed: self.value(kind),
            }),
        }
    }

    /// One payload with two entries.
    fn deliveries(self, kind: u8) -> Deliveries {
        Deliveries {
            payloads: vec![NewPayload {
                at: self.at(kind),
                sealed: self.value(kind),
                references: 2,
            }],
            entries: [kind, kind + 1]
                .map(|kind| (self.at(kind), self.value(kind)))
                .to_vec(),
            blocks: vec![self.at(kind)],
        }
    }

    fn set(self) -> ConsumedSet {
        ConsumedSet {
            pool: self.row(1),
            ciphersuite: 1,
            expiry_day: DAY,
            id: self.row(2),
        }
    }

    pub(in crate::store) async fn carry_out(self, store: &dyn Store) -> Result<(), StoreError> {
        let (group, owner_tag, receipt) = (self.row(0), [1; 32], self.receipt());
        match self.step() {
            0 => {
                store
                    .reserve_group(
                        Reservation {
                            at: self.at(0),
                            owner_tag,
                        },
                        receipt,
                    )
                    .await
            }
            1 => {
                let (roster, tree) = (self.value(10), self.value(11));
                let reservation_days = vec![DAY];
                let version = self.row(10);
                let group = NewGroup {
                    group,
                    reservation_days,
                    owner_tag,
                    version,
                    key_check: self.value(12),
                    roster,
                    tree,
                };
                store.create_group(group, receipt).await
            }
            2 => {
                let advance = Advance {
                    group,
                    expected: self.row(10),
                    next: self.row(20),
                    key_check: self.value(28),
                    roster: self.value(20),
                    tree: Some(self.value(21)),
                    proposals: ProposalsChange::Put(self.value(27)),
                    join_record: Some((self.at(20), self.value(22))),
                    recovery_records: vec![(self.row(20), self.value(23))],
                    dropped_recovery_records: Vec::new(),
                    dropped_join_records: Vec::new(),
                    deliveries: self.deliveries(24),
                };
                store.advance_group(advance, receipt).await
            }
            3 => {
                store
                    .deliver_to_group(group, self.row(20), self.deliveries(30), receipt)
                    .await
            }
            4 => {
                store
                    .acknowledge([24, 25].map(|entry| (self.at(entry), self.at(24))).to_vec())
                    .await
            }
            5 => {
                let ConsumedSet {
                    pool,
                    ciphersuite,
                    expiry_day,
                    id,
                } = self.set();
                let sealed = self.value(50);
                let set = NewKeyPackageSet {
                    id,
                    ciphersuite,
                    expiry_day,
                    last_resort: false,
                    sealed,
                };
                let last_resort = NewKeyPackageSet {
                    ciphersuite: 2,
                    last_resort: true,
                    sealed: self.value(51),
                    ..set.clone()
                };
                store
                    .publish_key_packages(pool, owner_tag, vec![set, last_resort], receipt)
                    .await
            }
            6 => store.claim_key_packages(vec![self.set()], receipt).await,
            7 => {
                store
                    .register_handle(self.row(0), owner_tag, self.value(70), receipt)
                    .await
            }
            8 => {
                store
                    .create_queue(self.row(0), self.value(80), receipt)
                    .await
            }
            9 => {
                let next = Some(self.value(90));
                store
                    .replace_queue(self.row(0), self.value(80), next, receipt)
                    .await
            }
            10 => {
                store
                    .delete_key_packages(self.row(1), owner_tag, receipt)
                    .await
            }
            11 => store.delete_handle(self.row(0), owner_tag, receipt).await,
            _ => {
                let deletion = GroupDeletion {
                    group,
                    expected: self.row(20),
                    dropped_recovery_records: vec![self.row(20)],
                    dropped_join_records: vec![self.at(20)],
                    deliveries: self.deliveries(60),
                };
                store.delete_group(deletion, receipt).await
            }
        }
    }

    /// Whether this later step of the round, which takes the traces of others along, happened.
    async fn went_on_to(self, step: u64, store: &dyn Inspected) -> bool {
        let later = Place {
            number: self.number - self.step() + step,
            ..self
        };
        let result = later.receipt().result.unwrap();
        store.result(result.at).await.unwrap().is_some()
    }

    /// Whether the transition happened, by each of its traces: all of them must say the same.
    pub(in crate::store) async fn traces(self, store: &dyn Inspected) -> Vec<bool> {
        let mut traces = Vec::new();
        if self.step() != 4 {
            let Receipt { spends, result } = self.receipt();
            let result = result.unwrap();
            let recorded = store.result(result.at).await.unwrap();
            assert!(
                recorded
                    .as_ref()
                    .is_none_or(|recorded| *recorded == result.sealed)
            );
            traces.push(recorded.is_some());
            traces.push(store.is_spent(spends).await.unwrap());
        }
        match self.step() {
            0 => {
                // Consumed by the next step; the row of the group stays for ever.
                let reserved = store.reservation(vec![self.at(0)]).await.unwrap();
                traces.push(reserved.is_some() || store.has_group_row(&self.row(0)).await);
            }
            1 => {
                let first = self.is_group(store, (10, 10, 11), None).await;
                let second = self.is_group(store, (20, 20, 21), Some(27)).await;
                traces.push(first || second || self.went_on_to(12, store).await);
            }
            2 => {
                let deleted = self.went_on_to(12, store).await;
                let group = self.is_group(store, (20, 20, 21), Some(27)).await;
                traces.push(deleted || group);
                let record = store.join_record(vec![self.at(20)]).await.unwrap();
                traces.push(deleted || record == Some(self.value(22)));
                let record = store.recovery_record(self.row(20)).await.unwrap();
                traces.push(deleted || record == Some(self.value(23)));
                traces.push(store.blocks(vec![self.at(24)]).await.unwrap()[0]);
                let entries = self.entries(store, 24).await;
                assert_eq!(
                    entries[0], entries[1],
                    "one acknowledgement takes both entries"
                );
                let acknowledged = traces[0] && !entries[0];
                let payload = store.payloads(vec![self.at(24)]).await.unwrap().remove(0);
                assert!(
                    payload
                        .as_ref()
                        .is_none_or(|payload| *payload == self.value(24))
                );
                // Without its entries a payload may stay; entries without their payload may not.
                traces.push(payload.is_some() || acknowledged);
            }
            3 => {
                traces.extend(self.entries(store, 30).await);
                traces.push(store.blocks(vec![self.at(30)]).await.unwrap()[0]);
                traces.push(
                    store.payloads(vec![self.at(30)]).await.unwrap()[0] == Some(self.value(30)),
                );
            }
            4 => traces.extend(self.entries(store, 24).await.map(|there| !there)),
            5 => {
                let set = store.claimable_set(self.row(1), 1, DAY, 0).await.unwrap();
                assert!(set.as_ref().is_none_or(|set| set.sealed == self.value(50)));
                let claim = Place {
                    number: self.number + 1,
                    ..self
                }
                .receipt();
                let claimed = store
                    .result(claim.result.unwrap().at)
                    .await
                    .unwrap()
                    .is_some();
                assert!(!(claimed && set.is_some()), "a claimed set is there again");
                traces.push(claimed || set.is_some());
                let last_resort = store.claimable_set(self.row(1), 2, DAY, 0).await.unwrap();
                let last_resort = last_resort.is_some_and(|set| set.sealed == self.value(51));
                traces.push(last_resort || self.went_on_to(10, store).await);
            }
            6 => traces.push(
                traces[0]
                    && store
                        .claimable_set(self.row(1), 1, DAY, 0)
                        .await
                        .unwrap()
                        .is_none(),
            ),
            7 => {
                let record = store.handle(self.row(0)).await.unwrap();
                traces.push(record == Some(self.value(70)) || self.went_on_to(11, store).await);
            }
            8 => {
                let record = store.queue(self.row(0)).await.unwrap();
                traces.push(record == Some(self.value(80)) || self.went_on_to(9, store).await);
            }
            9 => traces.push(store.queue(self.row(0)).await.unwrap() == Some(self.value(90))),
            10 => {
                traces.push(!store.has_pool(&self.row(1)).await);
                let last_resort = store.claimable_set(self.row(1), 2, DAY, 0).await.unwrap();
                traces.push(last_resort.is_none());
            }
            11 => traces.push(store.handle(self.row(0)).await.unwrap().is_none()),
            _ => {
                traces.extend(store.deletion_traces(&self.row(0)).await);
                let record = store.join_record(vec![self.at(20)]).await.unwrap();
                traces.push(record.is_none());
                let record = store.recovery_record(self.row(20)).await.unwrap();
                traces.push(record.is_none());
                traces.extend(self.entries(store, 60).await);
            }
        }
        traces
    }

    async fn entries(self, store: &dyn Inspected, kind: u8) -> [bool; 2] {
        let there = store
            .entries(vec![self.at(kind), self.at(kind + 1)])
            .await
            .unwrap();
        [0, 1].map(|entry| {
            let value = &there[usize::from(entry)];
            assert!(
                value
                    .as_ref()
                    .is_none_or(|value| *value == self.value(kind + entry))
            );
            value.is_some()
        })
    }

    /// Whether the group is there with this version, roster and tree, and these proposals.
    async fn is_group(
        self,
        store: &dyn Inspected,
        parts: (u8, u8, u8),
        proposals: Option<u8>,
    ) -> bool {
        let (version, roster, tree) = parts;
        let (roster, tree) = (self.value(roster), Some(self.value(tree)));
        let proposals = proposals.map(|kind| self.value(kind));
        store.group(self.row(0), Parts::ALL).await.unwrap()
            == Some(StoredGroup {
                version: self.row(version),
                roster,
                tree,
                proposals,
            })
    }
}

/// The child: does nothing in an ordinary run of the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_child_writes_until_it_is_killed() {
    let (Ok(directory), Ok(run)) = (std::env::var(DIRECTORY), std::env::var(RUN)) else {
        return;
    };
    let run: u64 = run.parse().unwrap();
    let store = if run == 0 {
        Rocks::create(directory)
    } else {
        Rocks::open(directory)
    };
    let store = store.unwrap();
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0.. {
                    Place {
                        run,
                        worker,
                        number,
                    }
                    .carry_out(&store)
                    .await
                    .unwrap();
                    // Past the capture of the test harness; one write, so a line is never torn.
                    writeln!(std::io::stdout(), "acknowledged {worker} {number}").unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
}

/// Starts a child, kills it after this time of writing or, on a slow machine, when it has written enough
/// to mean anything, and returns how many transitions of each worker were acknowledged.
fn write_and_kill(directory: &Path, run: u64, after: Duration) -> BTreeMap<u64, u64> {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("{module}::a_child_writes_until_it_is_killed"),
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .env(RUN, run.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (each, written) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut acknowledged = BTreeMap::new();
        for line in lines.map_while(Result::ok) {
            let Some((_, place)) = line.split_once("acknowledged ") else {
                continue;
            };
            let Some((worker, number)) = place.split_once(' ') else {
                continue;
            };
            // Of a line that the kill tore nothing but the number could be short; it is a prefix of
            // the right one and would claim less, never more.
            let (Ok(worker), Ok(number)) = (worker.parse(), number.parse::<u64>()) else {
                continue;
            };
            let count = acknowledged.entry(worker).or_insert(0);
            *count = (*count).max(number + 1);
            let _ = each.send(());
        }
        acknowledged
    });
    written.recv().unwrap();
    std::thread::sleep(after);
    for _ in 0..WORKERS * STEPS {
        written.recv().unwrap();
    }
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_every_acknowledged_transition_is_there_and_no_other_in_part() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged_by_run = Vec::new();
    let (mut seed, mut undecided_happened) = (0x5eed_u64, 0);
    for run in 0..RUNS {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let after = Duration::from_millis(150 + (seed >> 33) % 500);
        acknowledged_by_run.push(write_and_kill(directory.path(), run, after));

        let store = Rocks::open(directory.path()).unwrap();
        for (run, acknowledged) in (0..).zip(&acknowledged_by_run) {
            for worker in 0..WORKERS {
                let count = acknowledged.get(&worker).copied().unwrap_or(0);
                for number in 0..count {
                    let place = Place {
                        run,
                        worker,
                        number,
                    };
                    let traces = place.traces(&store).await;
                    assert!(
                        traces.iter().all(|trace| *trace),
                        "{place:?} was acknowledged: {traces:?}"
                    );
                }
                // Under way when the process died.
                let place = Place {
                    run,
                    worker,
                    number: count,
                };
                let traces = place.traces(&store).await;
                assert!(
                    traces.iter().all(|trace| *trace == traces[0]),
                    "half of {place:?}: {traces:?}"
                );
                undecided_happened +=
                    u64::from(traces[0] && run + 1 == acknowledged_by_run.len() as u64);
            }
        }
    }
    let total: u64 = acknowledged_by_run.iter().flat_map(BTreeMap::values).sum();
    assert!(
        total > RUNS * WORKERS * STEPS,
        "too little was written to mean anything: {total}"
    );
    writeln!(
        std::io::stdout(),
        "{total} transitions were acknowledged, {undecided_happened} more found"
    )
    .unwrap();
}
