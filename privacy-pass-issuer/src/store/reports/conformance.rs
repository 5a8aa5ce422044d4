//! One suite that judges every engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::thread;

use super::*;
use crate::store::RocksStore;

const TODAY: Day = Day(20_000);

fn every_engine(check: impl Fn(&dyn ReportStore)) {
    check(&MemoryReports::default());
    let directory = tempfile::tempdir().unwrap();
    check(&RocksStore::create(directory.path()).unwrap().reports());
}

fn report(id: u8, account: u8, reporter: u8) -> NewReport {
    NewReport {
        id: ReportId([id; 16]),
        account: AccountTag([account; 32]),
        reporter: ReporterTag([reporter; 32]),
        day: TODAY,
        unasked: true,
        sealed: vec![id; 40],
    }
}

fn after(reporters: u32) -> Automatic {
    Automatic {
        reporters,
        since: Day(TODAY.0 - 7),
        until: Day(TODAY.0 + 30),
    }
}

fn all(store: &dyn ReportStore) -> Vec<StoredReport> {
    store.reports(None, usize::MAX).unwrap()
}

fn withheld(store: &dyn ReportStore, account: u8) -> Option<Day> {
    store.withheld_until(&AccountTag([account; 32])).unwrap()
}

#[test]
fn the_same_evidence_is_one_report_whatever_was_decided() {
    every_engine(|store| {
        assert_eq!(store.file(&report(1, 1, 1), None).unwrap(), Filed::New);
        assert_eq!(store.file(&report(1, 1, 2), None).unwrap(), Filed::Known);
        assert!(store.decide(&ReportId([1; 16]), Decision::Dismiss).unwrap());
        assert_eq!(store.file(&report(1, 1, 1), None).unwrap(), Filed::Known);
        let reports = all(store);
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].status, Status::Dismissed);
        assert_eq!(reports[0].sealed, vec![1; 40]);
    });
}

#[test]
fn an_upheld_report_withholds_its_account_and_no_other_until_it_is_released() {
    every_engine(|store| {
        store.file(&report(1, 1, 1), None).unwrap();
        store.file(&report(2, 2, 1), None).unwrap();
        let until = Day(TODAY.0 + 30);
        let uphold = Decision::Uphold { until };
        assert!(store.decide(&ReportId([1; 16]), uphold).unwrap());
        assert_eq!(withheld(store, 1), Some(until));
        assert_eq!(withheld(store, 2), None);
        // A shorter one does not shorten it.
        let shorter = Decision::Uphold { until: TODAY };
        assert!(store.decide(&ReportId([1; 16]), shorter).unwrap());
        assert_eq!(withheld(store, 1), Some(until));
        assert!(store.decide(&ReportId([1; 16]), Decision::Release).unwrap());
        assert_eq!(withheld(store, 1), None);
        assert!(!store.decide(&ReportId([9; 16]), uphold).unwrap());
    });
}

#[test]
fn distinct_reporters_withhold_without_an_operator_and_one_who_reports_often_does_not() {
    every_engine(|store| {
        let automatic = after(3);
        let file = |report: &NewReport| store.file(report, Some(&automatic)).unwrap();
        for id in 1..5 {
            assert_eq!(file(&report(id, 1, 1)), Filed::New);
        }
        let asked_for = NewReport {
            unasked: false,
            ..report(5, 1, 5)
        };
        assert_eq!(file(&asked_for), Filed::New);
        let too_old = NewReport {
            day: Day(TODAY.0 - 8),
            ..report(6, 1, 6)
        };
        assert_eq!(file(&too_old), Filed::New);
        assert_eq!(file(&report(7, 1, 2)), Filed::New);
        assert!(store.decide(&ReportId([7; 16]), Decision::Dismiss).unwrap());
        assert_eq!(
            file(&report(8, 1, 3)),
            Filed::New,
            "a dismissed one does not count"
        );
        assert_eq!(withheld(store, 1), None);
        assert_eq!(file(&report(9, 1, 4)), Filed::Withheld);
        assert_eq!(withheld(store, 1), Some(automatic.until));
    });
}

#[test]
fn a_release_uncounts_the_reports_of_its_account_and_of_no_other() {
    every_engine(|store| {
        let automatic = after(2);
        let file = |report: &NewReport| store.file(report, Some(&automatic)).unwrap();
        assert_eq!(file(&report(1, 1, 1)), Filed::New);
        assert_eq!(file(&report(2, 1, 2)), Filed::Withheld);
        assert_eq!(file(&report(3, 2, 1)), Filed::New);
        assert!(store.decide(&ReportId([1; 16]), Decision::Release).unwrap());
        assert_eq!(withheld(store, 1), None);
        let reports = all(store);
        assert!(reports.iter().all(|it| it.status == Status::Open));
        let reporters: Vec<_> = reports.iter().map(|it| it.reporters).collect();
        assert_eq!(reporters, [0, 0, 1]);
        // It takes as many reporters again, and those of before may be among them.
        assert_eq!(file(&report(4, 1, 1)), Filed::New);
        assert_eq!(withheld(store, 1), None);
        assert_eq!(file(&report(5, 1, 3)), Filed::Withheld);
        assert_eq!(file(&report(6, 2, 2)), Filed::Withheld);
    });
}

#[test]
fn the_queue_is_read_page_by_page_oldest_day_first() {
    every_engine(|store| {
        for id in 0..10 {
            let of_day = NewReport {
                day: Day(TODAY.0 - u32::from(id % 3)),
                ..report(id, id % 2, id)
            };
            store.file(&of_day, None).unwrap();
        }
        let whole = all(store);
        assert_eq!(whole.len(), 10);
        assert!(whole.is_sorted_by_key(|it| (it.day, it.id)));
        assert!(whole.iter().all(|it| it.reporters == 5));
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let page = store.reports(after, 4).unwrap();
            let Some(last) = page.last() else {
                break;
            };
            assert!(page.len() <= 4);
            after = Some((last.day, last.id));
            pages.extend(page);
        }
        assert_eq!(pages, whole);
    });
}

#[test]
fn reports_and_withholdings_end() {
    every_engine(|store| {
        store.file(&report(1, 1, 1), None).unwrap();
        let later = NewReport {
            day: Day(TODAY.0 + 1),
            ..report(2, 1, 2)
        };
        store.file(&later, None).unwrap();
        let until = Day(TODAY.0 + 5);
        store
            .decide(&ReportId([1; 16]), Decision::Uphold { until })
            .unwrap();
        store
            .forget_reports(Day(TODAY.0 + 1), Day(TODAY.0 + 5))
            .unwrap();
        let left: Vec<_> = all(store).into_iter().map(|it| it.id).collect();
        assert_eq!(left, [ReportId([2; 16])]);
        assert_eq!(withheld(store, 1), Some(until));
        store
            .forget_reports(Day(TODAY.0 + 2), Day(TODAY.0 + 6))
            .unwrap();
        assert!(all(store).is_empty());
        assert_eq!(withheld(store, 1), None);
    });
}

#[test]
fn many_at_once_file_one_report() {
    every_engine(|store| {
        let new = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| store.file(&report(1, 1, 1), None).unwrap()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .filter(|filed| *filed == Filed::New)
                .count()
        });
        assert_eq!(new, 1);
    });
}

#[test]
fn what_was_withheld_is_withheld_after_a_restart_and_when_days_are_dropped() {
    use crate::store::IssuerStore as _;
    let directory = tempfile::tempdir().unwrap();
    let until = Day(TODAY.0 + 3);
    {
        let store = Arc::new(RocksStore::create(directory.path()).unwrap());
        let reports = store.reports();
        reports.file(&report(1, 1, 1), None).unwrap();
        let uphold = Decision::Uphold { until };
        assert!(reports.decide(&ReportId([1; 16]), uphold).unwrap());
        store.forget_days_before(Day(u32::MAX)).unwrap();
    }
    let store = RocksStore::open(directory.path()).unwrap();
    assert_eq!(withheld(&store.reports(), 1), Some(until));
    assert_eq!(all(&store.reports()).len(), 1);
}
