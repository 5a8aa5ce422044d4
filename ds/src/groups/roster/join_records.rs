//! Join records whose joiners have not all been here.

use protocol::removal::RemovalReason;
use protocol::time::day_of;
use serde::{Deserialize, Serialize};

use super::{Leaf, Roster};
use crate::queues::deliver::Gone;
use crate::service_state::DeliveryService;
use crate::store::DayRow;

/// What makes a join record too old.
#[derive(Clone, Copy)]
pub struct Today {
    /// Days since the Unix epoch.
    pub day: u32,
    /// How long records are kept.
    pub retention_days: u32,
}

impl Today {
    /// By the service's clock and settings.
    #[must_use]
    pub fn at(service: &DeliveryService, now_ms: u64) -> Self {
        Self {
            day: service.settled_day(day_of(now_ms)),
            retention_days: service.settings.retention_days,
        }
    }
}

/// A join record that is stored, or whose joiners came too late.
#[derive(Clone, Serialize, Deserialize)]
pub struct OpenJoinRecord {
    day: u32,
    row: [u8; 16],
    /// Leaves that were added with it and have not been here since.
    waiting: Vec<u32>,
    /// Their KeyPackages' last day.
    expiry_day: u32,
}

impl OpenJoinRecord {
    /// A record that these leaves wait to read.
    #[must_use]
    pub fn new(at: DayRow, waiting: Vec<u32>, expiry_day: u32) -> Self {
        Self {
            day: at.day,
            row: at.row,
            waiting,
            expiry_day,
        }
    }

    /// In place of a leaf that has gone without having been here: it waits until its KeyPackage expires.
    const GONE: u32 = u32::MAX;

    /// Nobody can read it any more.
    fn is_expired(&self, on: Today) -> bool {
        self.expiry_day < on.day || self.day.saturating_add(on.retention_days) < on.day
    }

    fn at(&self) -> DayRow {
        DayRow {
            day: self.day,
            row: self.row,
        }
    }
}

impl Roster<'_> {
    /// A leaf has been here: whoever authenticates has joined. Returns the join records that nobody waits for
    /// any more.
    pub fn has_joined(&mut self, index: u32, today: Today) -> Vec<DayRow> {
        for record in &mut self.join_records {
            record.waiting.retain(|waiting| *waiting != index);
        }
        self.take_finished_join_records(today)
    }

    /// Rows of the join records whose joiners have come, gone, or can't come any more. Who can't come any more stays
    /// noted until its leaf is gone: [`Roster::never_came`].
    pub fn take_finished_join_records(&mut self, today: Today) -> Vec<DayRow> {
        let mut finished = Vec::new();
        for record in &mut self.join_records {
            let expired = record.is_expired(today);
            if expired {
                record.waiting.retain(|leaf| *leaf != OpenJoinRecord::GONE);
            }
            if expired || record.waiting.is_empty() {
                finished.push(record.at());
            }
        }
        self.join_records
            .retain(|record| !record.waiting.is_empty());
        finished
    }

    /// Leaves that were added and had not been here when their join record expired: they cannot come in any more.
    #[must_use]
    pub fn never_came(&self, today: Today) -> Vec<Gone> {
        self.join_records
            .iter()
            .filter(|record| record.is_expired(today))
            .flat_map(|record| &record.waiting)
            .copied()
            .filter(|leaf| *leaf != OpenJoinRecord::GONE)
            .map(|leaf| Gone {
                leaf,
                reason: RemovalReason::NeverCame,
            })
            .collect()
    }

    /// All join records that are stored.
    pub fn join_record_rows(&self) -> impl Iterator<Item = DayRow> {
        self.join_records.iter().map(OpenJoinRecord::at)
    }

    /// The join records of the next epoch, which has these leaves, sorted by index.
    pub(super) fn join_records_after(
        &self,
        leaves: &[Leaf<'_>],
        epoch: u64,
    ) -> Vec<OpenJoinRecord> {
        let mut join_records = self.join_records.clone();
        for record in &mut join_records {
            // Whoever was removed before coming may still read what was said to it; a leaf that came in later at
            // the same place waits for another record.
            for waiting in &mut record.waiting {
                // By index, as the leaves are sorted: after a bulk Add nearly everybody is waited for.
                let is_here = leaves
                    .binary_search_by_key(waiting, |leaf| leaf.index)
                    .ok()
                    .and_then(|at| leaves.get(at))
                    .is_some_and(|leaf| leaf.since_epoch < epoch);
                if !is_here {
                    *waiting = OpenJoinRecord::GONE;
                }
            }
        }
        join_records
    }
}
