//! For tests: forgets everything at the end of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::{
    AccountTag, Automatic, Decision, Filed, NewReport, Place, ReportId, ReportStore, Status,
    StoredReport,
};
use crate::store::{Day, StoreError};

#[derive(Debug, Default)]
pub struct MemoryReports(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    reports: BTreeMap<ReportId, (NewReport, Status)>,
    withheld: BTreeMap<AccountTag, Day>,
}

impl Rows {
    fn reporters(&self, account: AccountTag, since: Day) -> u32 {
        let counting = self.reports.values().filter(|(report, status)| {
            report.account == account
                && report.unasked
                && *status != Status::Dismissed
                && report.day >= since
        });
        let distinct: BTreeSet<_> = counting.map(|(report, _)| report.reporter).collect();
        u32::try_from(distinct.len()).unwrap_or(u32::MAX)
    }

    fn withhold(&mut self, account: AccountTag, until: Day) {
        let day = self.withheld.entry(account).or_insert(until);
        *day = (*day).max(until);
    }
}

impl ReportStore for MemoryReports {
    fn file(&self, report: &NewReport, automatic: Option<&Automatic>) -> Result<Filed, StoreError> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.reports.contains_key(&report.id) {
            return Ok(Filed::Known);
        }
        rows.reports
            .insert(report.id, (report.clone(), Status::Open));
        match automatic {
            Some(automatic)
                if report.unasked
                    && rows.reporters(report.account, automatic.since) >= automatic.reporters =>
            {
                rows.withhold(report.account, automatic.until);
                Ok(Filed::Withheld)
            }
            _ => Ok(Filed::New),
        }
    }

    fn reports(&self, after: Option<Place>, limit: usize) -> Result<Vec<StoredReport>, StoreError> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reports: Vec<_> = rows
            .reports
            .values()
            .filter(|(report, _)| after.is_none_or(|after| (report.day, report.id) > after))
            .map(|(report, status)| StoredReport {
                id: report.id,
                account: report.account,
                day: report.day,
                status: *status,
                reporters: rows.reporters(report.account, Day(0)),
                sealed: report.sealed.clone(),
            })
            .collect();
        reports.sort_by_key(|report| (report.day, report.id));
        reports.truncate(limit);
        Ok(reports)
    }

    fn decide(&self, id: &ReportId, decision: Decision) -> Result<bool, StoreError> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((report, status)) = rows.reports.get_mut(id) else {
            return Ok(false);
        };
        let account = report.account;
        match decision {
            Decision::Uphold { until } => {
                *status = Status::Upheld;
                rows.withhold(account, until);
            }
            Decision::Dismiss => *status = Status::Dismissed,
            Decision::Release => {
                rows.withheld.remove(&account);
                for (report, _) in rows.reports.values_mut() {
                    report.unasked &= report.account != account;
                }
            }
        }
        Ok(true)
    }

    fn withheld_until(&self, account: &AccountTag) -> Result<Option<Day>, StoreError> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(rows.withheld.get(account).copied())
    }

    fn forget_reports(&self, reports: Day, today: Day) -> Result<(), StoreError> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.reports.retain(|_, (report, _)| report.day >= reports);
        rows.withheld.retain(|_, until| *until >= today);
        Ok(())
    }
}
