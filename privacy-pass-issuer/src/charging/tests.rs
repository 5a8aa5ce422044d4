#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::num::NonZeroU32;
use std::sync::{LazyLock, Mutex};

use proptest::prelude::*;

use super::*;
use crate::signing::Signers;
use crate::store::reports::{Decision, MemoryReports, NewReport, ReportId, ReporterTag};
use crate::store::{AccountOfDay, Day, MemoryStore, RequestDigest, StoreError};
use crate::token_keys::TokenKeys;
use crate::token_request::TokenRequest;

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
        work: Vec::new(),
    }
}

/// Of an account that may have 60.
fn order_of_one_signature(request: u8) -> Order {
    static KEYS: LazyLock<(tempfile::TempDir, TokenKeys)> = LazyLock::new(|| {
        let directory = tempfile::tempdir().unwrap();
        let keys = TokenKeys::load_or_create(&directory.path().join("keys"), 1).unwrap();
        (directory, keys)
    });
    let keys = KEYS.1.current();
    let (key, ..) = keys.states(1).next().unwrap();
    let mut bytes = [0; 259];
    (bytes[1], bytes[2], bytes[258]) = (2, key.truncated_id(), 2);
    let token_request = TokenRequest::from_bytes(&bytes).unwrap();
    Order {
        work: vec![(Arc::clone(key), token_request)],
        ..order(1, request, 1, 60, None)
    }
}

type Issuing = oneshot::Receiver<Result<Issued, IssuanceError>>;

fn waiting(order: Order) -> (Waiting, Issuing) {
    let (answer, outcome) = oneshot::channel();
    (Waiting { order, answer }, outcome)
}

/// The only one of a group.
fn alone(ledger: &Ledger, order: Order) -> Outcome {
    let (one, _issuing) = waiting(order);
    let mut decided = ledger.decide(vec![one]);
    assert!(decided.left.is_empty());
    decided.outcomes.pop().unwrap().1
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
        let (grouped, one_by_one) = (ledger(Arc::default()), ledger(Arc::default()));
        let (mut left, mut waiting_for, mut answered) = (Vec::new(), Vec::new(), 0);
        let mut groups = orders.chunks(size);
        loop {
            let next = groups.next();
            if next.is_none() && left.is_empty() {
                break;
            }
            let mut group = std::mem::take(&mut left);
            for (account, request, tokens, gone) in next.unwrap_or_default() {
                let (waiting, issuing) = waiting(make((*account, *request, *tokens)));
                group.push(waiting);
                if !gone {
                    waiting_for.push(issuing);
                }
            }
            let some = group.iter().any(|waiting| !waiting.answer.is_closed());
            let decided = grouped.decide(group);
            prop_assert!(!some || !decided.outcomes.is_empty(), "each group decides something");
            for (waiting, outcome) in decided.outcomes {
                answered += 1;
                let Charge { account, request, tokens, .. } = waiting.order.charge;
                let expected = alone(&one_by_one, make((account.0[0], request.0[0], tokens)));
                prop_assert_eq!(format!("{outcome:?}"), format!("{expected:?}"));
            }
            left = decided.left;
        }
        prop_assert_eq!(answered, waiting_for.len(), "everybody gets an answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_at_once_share_a_write() {
    let store = Arc::new(TestStore {
        slow: Duration::from_millis(20),
        ..TestStore::default()
    });
    let signers = Signers::start().unwrap();
    let queue = ChargeQueue::start(ledger(store.clone()), Arc::clone(signers.shared()));
    let queue = Arc::new(queue.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for request in 0..100 {
        let queue = Arc::clone(&queue);
        tasks.spawn(async move { queue.issue(order_of_one_signature(request)).await });
    }
    let outcomes = tasks.join_all().await;
    let charged = outcomes.iter().filter(|it| it.is_ok());
    assert_eq!(charged.count(), 60, "the limit is exact within a group");
    let groups = store.groups.lock().unwrap();
    assert_eq!(groups.iter().sum::<usize>(), 100);
    assert!(groups.len() < 20, "{groups:?}");
}

#[test]
fn a_failed_write_is_everybodys_error_and_takes_no_burst() {
    let broken = ledger(Arc::new(TestStore {
        broken: true,
        ..TestStore::default()
    }));
    let (group, issuing): (Vec<_>, Vec<_>) = (0..3)
        .map(|request| waiting(order(1, request, 2, 10, Some(6))))
        .unzip();
    let decided = broken.decide(group);
    assert_eq!(decided.outcomes.len(), issuing.len());
    for (_, outcome) in decided.outcomes {
        assert!(matches!(
            outcome,
            Err(IssuanceError::Store(StoreError::Engine(_)))
        ));
    }
    let mended = Ledger {
        store: Arc::new(MemoryStore::default()),
        ..broken
    };
    let all = alone(&mended, order(1, 9, 6, 10, Some(6)));
    assert!(matches!(all, Ok(ChargeOutcome::Charged)));
}

#[test]
fn whoever_has_gone_before_it_was_decided_is_not_charged() {
    let ledger = ledger(Arc::default());
    let (gone, issuing) = waiting(order(1, 1, 1, 1, None));
    drop(issuing);
    assert!(ledger.decide(vec![gone]).outcomes.is_empty());
    let other = alone(&ledger, order(1, 2, 1, 1, None));
    assert!(matches!(other, Ok(ChargeOutcome::Charged)));
}

#[test]
fn a_block_or_a_withholding_counts_for_the_next_group() {
    let store = Arc::new(TestStore::default());
    let ledger = ledger(store.clone());
    let ask = |account, request| alone(&ledger, order(account, request, 1, 10, None));
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
    let signers = Signers::start().unwrap();
    let queue = ChargeQueue::start(ledger(store.clone()), Arc::clone(signers.shared())).unwrap();
    let (orders, outcomes): (Vec<_>, Vec<_>) = (0..20)
        .map(|request| waiting(order_of_one_signature(request)))
        .unzip();
    for order in orders {
        assert!(queue.orders.as_ref().unwrap().send(order).await.is_ok());
    }
    tokio::task::spawn_blocking(move || drop(queue))
        .await
        .unwrap();
    for outcome in outcomes {
        assert!(outcome.await.unwrap().is_ok());
    }
    assert_eq!(
        Arc::strong_count(&store),
        1,
        "the thread has let the database go"
    );
}
