//! RocksDB: rows behind every day, so that dropping days does not touch them. All begin with
//! `ffffffff`, then:
//!
//! | key | value |
//! |---|---|
//! | `01` ‖ report id (16) | day (4) ‖ status (1) ‖ account tag (32) ‖ sealed |
//! | `02` ‖ account tag (32) ‖ report id (16) | day (4) ‖ counts (1) ‖ reporter tag (32) |
//! | `03` ‖ account tag (32) | the last day of withholding (4) |

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rocksdb::{Direction, IteratorMode, WriteBatch};

use super::{
    AccountTag, Automatic, Decision, Filed, NewReport, Place, ReportId, ReportStore, ReporterTag,
    Status, StoredReport,
};
use crate::store::database::Database;
use crate::store::{Day, StoreError};

const BEHIND_EVERY_DAY: [u8; 4] = [0xff; 4];
const REPORT: u8 = 1;
const OF_ACCOUNT: u8 = 2;
const WITHHELD: u8 = 3;

pub struct RocksReports {
    db: Arc<Database>,
    /// Reports are few: one changes something at a time.
    writing: Mutex<()>,
}

type KeyAndValue = (Vec<u8>, Vec<u8>);

struct OfAccount {
    id: ReportId,
    day: Day,
    counts: bool,
    reporter: ReporterTag,
}

struct Row {
    day: Day,
    status: Status,
    account: AccountTag,
    sealed: Vec<u8>,
}

impl Row {
    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let (day, rest) = take(bytes)?;
        let ([status], rest) = take(rest)?;
        let (account, sealed) = take(rest)?;
        Ok(Self {
            day: Day(u32::from_be_bytes(day)),
            status: Status::from_byte(status)?,
            account: AccountTag(account),
            sealed: sealed.to_vec(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let day = self.day.0.to_be_bytes();
        [
            &day[..],
            &[self.status as u8],
            &self.account.0,
            &self.sealed,
        ]
        .concat()
    }
}

impl RocksReports {
    pub(crate) fn new(db: Arc<Database>) -> Self {
        Self {
            db,
            writing: Mutex::new(()),
        }
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(&self, id: &ReportId) -> Result<Option<Row>, StoreError> {
        let row = self.db.get(key(REPORT, &[&id.0]))?;
        row.map(|row| Row::decode(&row)).transpose()
    }

    /// Every row whose key begins so: the rest of the key, and the value, one after the other.
    fn rows(&self, prefix: Vec<u8>) -> impl Iterator<Item = Result<KeyAndValue, StoreError>> {
        let rows = self
            .db
            .iterator(IteratorMode::From(&prefix, Direction::Forward));
        rows.map_while(move |row| match row {
            Ok((key, value)) => {
                let rest = key.strip_prefix(&prefix[..])?;
                Some(Ok((rest.to_vec(), value.to_vec())))
            }
            Err(error) => Some(Err(error.into())),
        })
    }

    fn scan(&self, prefix: Vec<u8>) -> Result<Vec<KeyAndValue>, StoreError> {
        self.rows(prefix).collect()
    }

    fn of_account(&self, account: &AccountTag) -> Result<Vec<OfAccount>, StoreError> {
        let rows = self.scan(key(OF_ACCOUNT, &[&account.0]))?;
        rows.into_iter()
            .map(|(id, value)| {
                let (id, _) = take(&id)?;
                let (day, rest) = take(&value)?;
                let ([counts], rest) = take(rest)?;
                let (reporter, _) = take(rest)?;
                Ok(OfAccount {
                    id: ReportId(id),
                    day: Day(u32::from_be_bytes(day)),
                    counts: counts == 1,
                    reporter: ReporterTag(reporter),
                })
            })
            .collect()
    }

    fn withhold(
        &self,
        batch: &mut WriteBatch,
        account: &AccountTag,
        until: Day,
    ) -> Result<(), StoreError> {
        let until = self
            .withheld_until(account)?
            .map_or(until, |day| day.max(until));
        batch.put(key(WITHHELD, &[&account.0]), until.0.to_be_bytes());
        Ok(())
    }
}

impl OfAccount {
    fn put_uncounted(&self, batch: &mut WriteBatch, account: &AccountTag) {
        let day = self.day.0.to_be_bytes();
        batch.put(
            key(OF_ACCOUNT, &[&account.0, &self.id.0]),
            [&day[..], &[0], &self.reporter.0].concat(),
        );
    }
}

fn distinct(rows: &[OfAccount], since: Day) -> BTreeSet<ReporterTag> {
    rows.iter()
        .filter(|row| row.counts && row.day >= since)
        .map(|row| row.reporter)
        .collect()
}

fn count(reporters: &BTreeSet<ReporterTag>) -> u32 {
    u32::try_from(reporters.len()).unwrap_or(u32::MAX)
}

impl ReportStore for RocksReports {
    fn file(&self, report: &NewReport, automatic: Option<&Automatic>) -> Result<Filed, StoreError> {
        let _alone = self.writing();
        if self.row(&report.id)?.is_some() {
            return Ok(Filed::Known);
        }
        let row = Row {
            day: report.day,
            status: Status::Open,
            account: report.account,
            sealed: report.sealed.clone(),
        };
        let day = report.day.0.to_be_bytes();
        let mut batch = WriteBatch::default();
        batch.put(key(REPORT, &[&report.id.0]), row.encode());
        batch.put(
            key(OF_ACCOUNT, &[&report.account.0, &report.id.0]),
            [&day[..], &[u8::from(report.unasked)], &report.reporter.0].concat(),
        );
        let mut filed = Filed::New;
        if let Some(automatic) = automatic.filter(|_| report.unasked) {
            let mut reporters = distinct(&self.of_account(&report.account)?, automatic.since);
            if report.day >= automatic.since {
                reporters.insert(report.reporter);
            }
            if count(&reporters) >= automatic.reporters {
                self.withhold(&mut batch, &report.account, automatic.until)?;
                filed = Filed::Withheld;
            }
        }
        self.db.write(batch)?;
        Ok(filed)
    }

    /// One pass over all reports that keeps `limit` of them: rows are not in the order of days, and
    /// there are few enough.
    fn reports(&self, after: Option<Place>, limit: usize) -> Result<Vec<StoredReport>, StoreError> {
        let mut first = BTreeMap::new();
        for row in self.rows(key(REPORT, &[])) {
            let (id, value) = row?;
            let (id, _) = take(&id)?;
            let row = Row::decode(&value)?;
            let place = (row.day, ReportId(id));
            if after.is_some_and(|after| place <= after) {
                continue;
            }
            first.insert(place, row);
            if first.len() > limit {
                first.pop_last();
            }
        }
        let mut reporters = BTreeMap::new();
        first
            .into_iter()
            .map(|((day, id), row)| {
                // Once for each account: its reports may be many.
                let reporters = match reporters.entry(row.account) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        *new.insert(count(&distinct(&self.of_account(&row.account)?, Day(0))))
                    }
                };
                Ok(StoredReport {
                    id,
                    account: row.account,
                    day,
                    status: row.status,
                    reporters,
                    sealed: row.sealed,
                })
            })
            .collect()
    }

    fn decide(&self, id: &ReportId, decision: Decision) -> Result<bool, StoreError> {
        let _alone = self.writing();
        let Some(mut row) = self.row(id)? else {
            return Ok(false);
        };
        let mut batch = WriteBatch::default();
        match decision {
            Decision::Uphold { until } => {
                row.status = Status::Upheld;
                self.withhold(&mut batch, &row.account, until)?;
            }
            Decision::Dismiss => {
                row.status = Status::Dismissed;
                for report in self.of_account(&row.account)? {
                    if report.id == *id {
                        report.put_uncounted(&mut batch, &row.account);
                    }
                }
            }
            Decision::Release => {
                batch.delete(key(WITHHELD, &[&row.account.0]));
                for report in self.of_account(&row.account)? {
                    report.put_uncounted(&mut batch, &row.account);
                }
            }
        }
        batch.put(key(REPORT, &[&id.0]), row.encode());
        self.db.write(batch)?;
        Ok(true)
    }

    fn withheld_until(&self, account: &AccountTag) -> Result<Option<Day>, StoreError> {
        let row = self.db.get_pinned(key(WITHHELD, &[&account.0]))?;
        row.map(|row| {
            let (day, _) = take(&row)?;
            Ok(Day(u32::from_be_bytes(day)))
        })
        .transpose()
    }

    fn forget_reports(&self, reports: Day, today: Day) -> Result<(), StoreError> {
        let _alone = self.writing();
        let mut batch = WriteBatch::default();
        for (id, value) in self.scan(key(REPORT, &[]))? {
            let row = Row::decode(&value)?;
            if row.day < reports {
                batch.delete(key(REPORT, &[&id]));
                batch.delete(key(OF_ACCOUNT, &[&row.account.0, &id]));
            }
        }
        for (account, until) in self.scan(key(WITHHELD, &[]))? {
            let (until, _) = take(&until)?;
            if Day(u32::from_be_bytes(until)) < today {
                batch.delete(key(WITHHELD, &[&account]));
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.db.write(batch)?;
        // Deleted is not gone until it is compacted away.
        self.db.compact_range(Some(BEHIND_EVERY_DAY), None::<&[u8]>);
        Ok(())
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), StoreError> {
    bytes
        .split_first_chunk::<N>()
        .map(|(head, rest)| (*head, rest))
        .ok_or(StoreError::Format)
}

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&BEHIND_EVERY_DAY[..], &[kind], &parts.concat()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_what_it_always_was() {
        let row = Row {
            day: Day(0x0102_0304),
            status: Status::Dismissed,
            account: AccountTag([5; 32]),
            sealed: vec![6; 3],
        };
        let fixture = [&[1, 2, 3, 4, 2][..], &[5; 32], &[6; 3]].concat();
        assert_eq!(row.encode(), fixture);
        assert_eq!(key(REPORT, &[&[7; 2]]), [0xff, 0xff, 0xff, 0xff, 1, 7, 7]);
        assert_eq!([REPORT, OF_ACCOUNT, WITHHELD], [1, 2, 3]);
    }
}
