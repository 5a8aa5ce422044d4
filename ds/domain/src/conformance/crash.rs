//! What must be there after a crash. Workers apply batches one after the other, each worker on rows
//! of its own, until their engine dies. Then each worker's rows are those of all batches that were
//! acknowledged, or of one more, which was under way.

use std::collections::BTreeSet;

use super::*;

const DAY: u32 = 20_000;
/// Batches that a worker applies over and over, each round on rows of its own.
pub const STEPS: u64 = 5;

/// Who applies batches: which life of the engine, which worker in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worker {
    /// How many crashes before.
    pub run: u64,
    /// Its number.
    pub worker: u64,
}

/// What was found of a worker's batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Batches that happened.
    pub batches: u64,
}

impl Worker {
    /// A name of this round; the kind keeps rows of one table apart. Scattered like the output of a
    /// PRF.
    fn name(self, round: u64, kind: u8) -> Vec<u8> {
        let name = (u128::from(self.run) << 100)
            | (u128::from(self.worker) << 90)
            | (u128::from(round) << 8)
            | u128::from(kind);
        // Odd, so one to one.
        name.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            .to_be_bytes()
            .to_vec()
    }

    /// Up to 20 kB, so that a kill often falls into the middle of a record.
    fn value(self, number: u64, kind: u8) -> Vec<u8> {
        let name = self.name(number, kind);
        name.repeat(1 + usize::from(name[3]) * 5)
    }

    fn version(self, number: u64) -> [u8; VERSION_LEN] {
        self.name(number, 99).try_into().unwrap()
    }

    /// A versioned row's value after this batch.
    fn versioned(self, number: u64, kind: u8) -> Vec<u8> {
        [&self.version(number)[..], &self.value(number, kind)].concat()
    }

    /// The batch with this number: as of a group that is made, goes on, changes and ends.
    #[must_use]
    pub fn batch(self, number: u64) -> Batch {
        let (round, step) = (number / STEPS, number % STEPS);
        let row = |table: Table, kind: u8| {
            let day = if table.has_days() { DAY } else { 0 };
            key(table, day, &self.name(round, kind))
        };
        let group = row(Table::Groups, 0);
        let head = row(Table::Heads, 0);
        let part = |kind| row(Table::GroupParts, kind);
        let set = row(Table::PoolSets, 0);
        let mut batch = Batch::default();
        let receipt = row(Table::Results, 100 + step as u8);
        let spent = row(Table::Spent, 100 + step as u8);
        for once in [&receipt, &spent] {
            batch.conditions.push(Condition::Absent(once.clone()));
        }
        batch.puts.push((receipt, self.value(number, 100)));
        batch.puts.push((spent, Vec::new()));
        let mut puts = |rows: &[(&Key, u8)]| {
            for (key, kind) in rows {
                let value = match key.table {
                    Table::Groups | Table::Heads => self.versioned(number, *kind),
                    _ => self.value(number, *kind),
                };
                batch.puts.push(((*key).clone(), value));
            }
        };
        let follows = |key: &Key| Condition::Version(key.clone(), self.version(number - 1));
        let (conditions, deletes) = match step {
            0 => {
                puts(&[
                    (&group, 1),
                    (&head, 2),
                    (&part(3), 3),
                    (&part(4), 4),
                    (&set, 5),
                ]);
                let absent = [&group, &head].map(|key| Condition::Absent(key.clone()));
                (absent.to_vec(), Vec::new())
            }
            1 => {
                let (handshake, message) = (row(Table::Handshakes, 0), row(Table::Messages, 0));
                puts(&[(&group, 1), (&head, 2), (&handshake, 6), (&message, 7)]);
                (vec![follows(&group), follows(&head)], Vec::new())
            }
            2 => {
                let (record, welcome) = (row(Table::JoinRecords, 0), row(Table::Welcomes, 0));
                let handshake = row(Table::Handshakes, 1);
                puts(&[(&group, 1), (&head, 2), (&part(3), 3), (&handshake, 6)]);
                puts(&[(&record, 8), (&welcome, 9)]);
                (vec![follows(&group), follows(&head)], vec![part(4)])
            }
            3 => {
                puts(&[(&group, 1), (&head, 2)]);
                let conditions = vec![follows(&group), Condition::Present(set.clone())];
                (conditions, vec![set])
            }
            _ => {
                puts(&[(&group, 1)]);
                (vec![follows(&group), follows(&head)], vec![head, part(3)])
            }
        };
        batch.conditions.extend(conditions);
        batch.deletes = deletes;
        batch
    }

    /// How many batches happened, of which at least these were acknowledged; that none is there in
    /// part; and that the one that was under way, if it comes again, has one effect.
    pub async fn settle(self, engine: &dyn Engine, acknowledged: u64) -> Done {
        let mut map = MemoryEngine::default();
        let mut touched = BTreeSet::new();
        let batches: Vec<Batch> = (0..=acknowledged)
            .map(|number| self.batch(number))
            .collect();
        for batch in &batches {
            touched.extend(batch.puts.iter().map(|(key, _)| key.clone()));
            touched.extend(batch.deletes.iter().cloned());
        }
        let (under_way, before) = batches.split_last().unwrap();
        for batch in before {
            map.apply(batch.clone()).unwrap();
        }
        let reads: Vec<Read> = touched.into_iter().map(Read::Row).collect();
        let mut there = Vec::new();
        for some in reads.chunks(64) {
            there.extend(engine.read(some.to_vec()).await.unwrap());
        }
        let without = map.read(&reads);
        map.apply(under_way.clone()).unwrap();
        let with = map.read(&reads);
        let happened = there == with;
        assert!(
            happened || there == without,
            "{self:?}: of {acknowledged} acknowledged batches some are gone, or the next one is there in part: {}",
            reads
                .iter()
                .zip(there.iter().zip(&with))
                .filter(|(_, (there, with))| there != with)
                .count(),
        );
        let again = engine.apply(under_way.clone()).await;
        let (_, result) = &under_way.puts[0];
        let recorded = ApplyError::Condition {
            condition: 0,
            found: Some(result.clone()),
        };
        assert_eq!(again, if happened { Err(recorded) } else { Ok(()) });
        Done {
            batches: acknowledged + u64::from(happened),
        }
    }
}
