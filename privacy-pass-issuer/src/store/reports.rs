//! What is kept of reports: minimal, under keyed hashes, for a limited time; and whose tokens are
//! withheld.

#[cfg(test)]
mod conformance;
mod memory;
mod rocks;

pub use memory::MemoryReports;
pub use rocks::RocksReports;

use super::{Day, StoreError};

/// Keyed hash of an account, the same on every day. It is also what an account handle hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountTag(pub(crate) [u8; 32]);

/// Keyed hash of a reporter's account and the account that he reports: two reports of one account
/// by one reporter are seen to be that, and nothing else is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReporterTag(pub(crate) [u8; 32]);

/// Names a report by its evidence: the same evidence is one report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportId(pub(crate) [u8; 16]);

/// What an operator has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Open = 0,
    Upheld = 1,
    Dismissed = 2,
}

/// A report whose certificate and evidence were found good.
#[derive(Debug, Clone)]
pub struct NewReport {
    pub id: ReportId,
    pub account: AccountTag,
    pub reporter: ReporterTag,
    pub day: Day,
    /// Whether it may count for withholding without an operator: nobody had asked for the contact.
    pub unasked: bool,
    /// The rest, encrypted under a key outside the database.
    pub sealed: Vec<u8>,
}

/// Withholding without an operator.
#[derive(Debug, Clone, Copy)]
pub struct Automatic {
    /// Distinct reporters that it takes: at least one.
    pub reporters: u32,
    /// Reports of earlier days do not count.
    pub since: Day,
    /// The last day of withholding.
    pub until: Day,
}

/// What came of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filed {
    /// It is in the queue now.
    New,
    /// It is in the queue, and enough others are: the account's tokens are withheld.
    Withheld,
    /// It was there before, whatever came of it: nothing has changed.
    Known,
}

/// Where a report stands in the queue.
pub type Place = (Day, ReportId);

/// A report in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    pub id: ReportId,
    pub account: AccountTag,
    pub day: Day,
    pub status: Status,
    /// Distinct reporters of the account whose reports count.
    pub reporters: u32,
    pub sealed: Vec<u8>,
}

/// What an operator does with a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The account gets no tokens up to this day.
    Uphold { until: Day },
    /// The report counts no more; nothing else changes.
    Dismiss,
    /// The account gets tokens again. Its reports stay as they are, and count no more: none of them
    /// is a reason to withhold again.
    Release,
}

/// Reports and withholdings. Every engine passes the same conformance suite; each method that
/// changes something is one transition, durable when it returns, of which a crash leaves all or
/// nothing.
pub trait ReportStore: Send + Sync + 'static {
    /// Files a report once, however often it comes. An account that has as many distinct
    /// unasked-for reporters as `automatic` says is withheld from then on.
    fn file(&self, report: &NewReport, automatic: Option<&Automatic>) -> Result<Filed, StoreError>;

    /// The first `limit` reports behind `after`, in the order of day and id: oldest day first.
    fn reports(&self, after: Option<Place>, limit: usize) -> Result<Vec<StoredReport>, StoreError>;

    /// Carries an operator's decision out; `false` if there is no such report.
    fn decide(&self, id: &ReportId, decision: Decision) -> Result<bool, StoreError>;

    /// The last day on which the account gets no tokens.
    fn withheld_until(&self, account: &AccountTag) -> Result<Option<Day>, StoreError>;

    /// Drops reports of days before `reports` and withholdings that ended before `today`.
    fn forget_reports(&self, reports: Day, today: Day) -> Result<(), StoreError>;
}

impl Status {
    fn from_byte(byte: u8) -> Result<Self, StoreError> {
        match byte {
            0 => Ok(Self::Open),
            1 => Ok(Self::Upheld),
            2 => Ok(Self::Dismissed),
            _ => Err(StoreError::Format),
        }
    }
}
