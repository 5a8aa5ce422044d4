#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::num::NonZeroU32;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::signing::Signers;
use crate::store::reports::{Decision, MemoryReports, NewReport, ReportId, ReporterTag};
use crate::store::{AccountOfDay, Day, MemoryStore, RequestDigest, StoreError};

const TODAY: Day = Day(20_000);

/// Fails or waits when told to, and notes how large the groups were.
#[derive(Default)]
struct TestStore {
    rows: MemoryStore,
    groups: Mutex<Vec<usize>>,
    broken: bool,
    slow: Duration,
}

impl IssuerStore for TestStore {
    fn charge_all(&self, charges: &[Charge]) -> Result<Vec<ChargeOutcome>, StoreError> {
        self.groups.lock().unwrap().push(charges.len());
        thread::sleep(self.slow);
        if self.broken {
            return Err(StoreError::Engine("IOError".to_owned()));
        }
        self.rows.charge_all(charges)
    }

    fn is_charged(&self, day: Day, request: RequestDigest) -> Result<bool, StoreError> {
        self.rows.is_charged(day, request)
    }

    fn block(&self, account: BlockedAccount) -> Result<(), StoreError> {
        self.rows.block(account)
    }

    fn unblock(&self, account: BlockedAccount) -> Result<bool, StoreError> {
        self.rows.unblock(account)
    }

    fn is_blocked(&self, account: BlockedAccount) -> Result<bool, StoreError> {
        self.rows.is_blocked(account)
    }

    fn forget_days_before(&self, day: Day) -> Result<(), StoreError> {
        self.rows.forget_days_before(day)
    }
}

fn ledger(store: Arc<TestStore>) -> Ledger {
    Ledger {
        store,
        reports: Arc::new(MemoryReports::default()),
        bursts: Bursts::default(),
    }
}

fn order(account: u8, request: u8, tokens: u32, limit: u32, burst: Option<u32>) -> Order {
    let mut digest = [account; 32];
    digest[0] = request;
    Order {
        charge: Charge {
            account: AccountOfDay([account; 32]),
            day: TODAY,
            request: RequestDigest(digest),
            tokens,
            limit,
        },
        lasting: BlockedAccount([account; 32]),
        tag: AccountTag([account; 32]),
        plan: Plan {
            tokens_per_day: NonZeroU32::new(limit).unwrap(),
            burst: burst.and_then(NonZeroU32::new),
        },
        now_ms: 0,
    }
}

fn waiting(order: Order) -> (Waiting, oneshot::Receiver<Outcome>) {
    let (answer, outcome) = oneshot::channel();
    (Waiting { order, answer }, outcome)
}

fn said(outcome: &Outcome) -> String {
    format!("{outcome:?}")
}

proptest! {
    /// Whatever comes together, and whoever has gone meanwhile: each gets what he would get alone, in the
    /// order in which they are decided.
    #[test]
    fn orders_in_any_groups_come_to_what_they_come_to_one_at_a_time(
        orders in prop::collection::vec((0_u8..3, 0_u8..6, 1_u32..5, any::<bool>()), 1..40),
        size in 1_usize..12,
        burst in prop::option::of(1_u32..9),
        limit in 1_u32..20,
    ) {
        let make = |(account, request, tokens): (u8, u8, u32)| {
            order(account, request, tokens, limit, burst)
        };
        let grouped = ledger(Arc::default());
        let alone = ledger(Arc::default());
        let mut open: Vec<((u8, u8, u32), oneshot::Receiver<Outcome>)> = Vec::new();
        let mut left: Vec<Waiting> = Vec::new();
        for group in orders.chunks(size) {
            let mut taken = std::mem::take(&mut left);
            for (account, request, tokens, gone) in group {
                let (waiting, outcome) = waiting(make((*account, *request, *tokens)));
                taken.push(waiting);
                if !gone {
                    open.push(((*account, *request, *tokens), outcome));
                }
            }
            left = grouped.decide(taken);
            // Those that are decided now, one at a time; the rest stays open.
            open.retain_mut(|(what, outcome)| match outcome.try_recv() {
                Ok(outcome) => {
                    let (one, mut expected) = waiting(make(*what));
                    assert!(alone.decide(vec![one]).is_empty());
                    assert_eq!(said(&outcome), said(&expected.try_recv().unwrap()));
                    false
                }
                Err(_) => true,
            });
        }
        while !left.is_empty() {
            let before = left.len();
            left = grouped.decide(left);
            prop_assert!(left.len() < before, "each group decides something");
        }
        for (_, mut outcome) in open {
            prop_assert!(outcome.try_recv().is_ok(), "everybody gets an answer");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_at_once_share_a_write() {
    let store = Arc::new(TestStore {
        slow: Duration::from_millis(20),
        ..TestStore::default()
    });
    let signers = Signers::new();
    let queue = ChargeQueue::start(ledger(store.clone()), Arc::clone(signers.backlog()));
    let queue = Arc::new(queue.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for request in 0..100 {
        let queue = Arc::clone(&queue);
        tasks.spawn(async move { queue.charge(order(1, request, 1, 60, None)).await });
    }
    let outcomes = tasks.join_all().await;
    let charged = outcomes
        .iter()
        .filter(|it| matches!(it, Ok(ChargeOutcome::Charged)));
    assert_eq!(charged.count(), 60, "the limit is exact within a group");
    let groups = store.groups.lock().unwrap();
    assert_eq!(groups.iter().sum::<usize>(), 100);
    assert!(groups.len() < 20, "{groups:?}");
}

#[test]
fn a_failed_write_is_everybodys_error_and_takes_no_burst() {
    let mut store = TestStore {
        broken: true,
        ..TestStore::default()
    };
    let broken = ledger(Arc::new(std::mem::take(&mut store)));
    let (group, outcomes): (Vec<_>, Vec<_>) = (0..3)
        .map(|request| waiting(order(1, request, 2, 10, Some(6))))
        .unzip();
    assert!(broken.decide(group).is_empty());
    for mut outcome in outcomes {
        assert!(matches!(
            outcome.try_recv().unwrap(),
            Err(IssuanceError::Store(StoreError::Engine(_)))
        ));
    }
    let mended = Ledger {
        store: Arc::new(MemoryStore::default()),
        ..broken
    };
    let (all, mut outcome) = waiting(order(1, 9, 6, 10, Some(6)));
    assert!(mended.decide(vec![all]).is_empty());
    assert!(matches!(
        outcome.try_recv().unwrap(),
        Ok(ChargeOutcome::Charged)
    ));
}

#[test]
fn whoever_has_gone_before_it_was_decided_is_not_charged() {
    let store = Arc::new(TestStore::default());
    let ledger = ledger(store.clone());
    let (gone, outcome) = waiting(order(1, 1, 1, 1, None));
    drop(outcome);
    let (other, mut outcome) = waiting(order(1, 2, 1, 1, None));
    assert!(ledger.decide(vec![gone, other]).is_empty());
    assert!(matches!(
        outcome.try_recv().unwrap(),
        Ok(ChargeOutcome::Charged)
    ));
}

#[test]
fn a_block_or_a_withholding_counts_for_the_next_group() {
    let store = Arc::new(TestStore::default());
    let ledger = ledger(store.clone());
    let ask = |account, request| {
        let (one, mut outcome) = waiting(order(account, request, 1, 10, None));
        assert!(ledger.decide(vec![one]).is_empty());
        outcome.try_recv().unwrap()
    };
    assert!(ask(1, 1).is_ok());
    store.block(BlockedAccount([1; 32])).unwrap();
    assert!(matches!(ask(1, 1), Err(IssuanceError::Blocked)));
    assert!(ask(2, 1).is_ok());
    let report = NewReport {
        id: ReportId([1; 16]),
        account: AccountTag([2; 32]),
        reporter: ReporterTag([3; 32]),
        day: TODAY,
        unasked: true,
        sealed: Vec::new(),
    };
    ledger.reports.file(&report, None).unwrap();
    let uphold = Decision::Uphold { until: TODAY };
    assert!(ledger.reports.decide(&report.id, uphold).unwrap());
    assert!(matches!(ask(2, 2), Err(IssuanceError::Withheld)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_ends_decides_what_it_has_taken_in() {
    let store = Arc::new(TestStore {
        slow: Duration::from_millis(5),
        ..TestStore::default()
    });
    let signers = Signers::new();
    let queue = ChargeQueue::start(ledger(store.clone()), Arc::clone(signers.backlog())).unwrap();
    let (orders, outcomes): (Vec<_>, Vec<_>) = (0..20)
        .map(|request| waiting(order(1, request, 1, 100, None)))
        .unzip();
    for order in orders {
        assert!(queue.orders.as_ref().unwrap().send(order).await.is_ok());
    }
    tokio::task::spawn_blocking(move || drop(queue))
        .await
        .unwrap();
    for outcome in outcomes {
        assert!(matches!(outcome.await.unwrap(), Ok(ChargeOutcome::Charged)));
    }
    assert_eq!(
        Arc::strong_count(&store),
        1,
        "the thread has let the database go"
    );
}
