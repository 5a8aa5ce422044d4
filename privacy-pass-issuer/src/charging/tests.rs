#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{LazyLock, Mutex};
use std::thread;

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
    /// Every write fails.
    broken: AtomicBool,
    /// A request whose row cannot be read, and one at which the engine panics.
    unreadable: Option<RequestDigest>,
    panics_at: Option<RequestDigest>,
    slow: Duration,
    disk: Option<Disk>,
}

/// Tells when a write begins, which then waits until it is let go on, or fails.
struct Disk {
    begun: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Disk {
    fn write(&self) -> Result<(), StoreError> {
        self.begun.send(()).unwrap();
        let gone = |_| StoreError::Engine("IOError".to_owned());
        self.go_on.lock().unwrap().recv().map_err(gone)
    }
}

impl IssuerStore for TestStore {
    fn charge_all(
        &self,
        charges: &[Charge],
        decided: &mut dyn FnMut(Vec<ChargeResult>),
    ) -> Result<(), StoreError> {
        self.groups.lock().unwrap().push(charges.len());
        if self.broken.load(Ordering::Relaxed) {
            MemoryStore::default().charge_all(charges, decided)?;
            return Err(StoreError::Engine("IOError".to_owned()));
        }
        let unreadable = |charge: &Charge| Some(charge.request) == self.unreadable;
        let readable: Vec<_> = charges
            .iter()
            .filter(|it| !unreadable(it))
            .copied()
            .collect();
        self.rows.charge_all(&readable, &mut |decisions| {
            let mut decisions = decisions.into_iter();
            let decide = |charge| match unreadable(charge) {
                true => Err(StoreError::Format),
                false => decisions.next().unwrap(),
            };
            decided(charges.iter().map(decide).collect());
        })?;
        thread::sleep(self.slow);
        self.disk.as_ref().map_or(Ok(()), Disk::write)
    }

    fn is_charged(&self, day: Day, request: RequestDigest) -> Result<bool, StoreError> {
        assert_ne!(Some(request), self.panics_at);
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

fn start(ledger: Ledger, signers: &Signers) -> ChargeQueue {
    let signing = Arc::clone(signers.shared());
    ChargeQueue::start(ledger, signing, &Workers::default()).unwrap()
}

type Issuing = oneshot::Receiver<Result<Issued, IssuanceError>>;

fn waiting(order: Order) -> (Waiting, Issuing) {
    let (answer, outcome) = oneshot::channel();
    (Waiting { order, answer }, outcome)
}

/// The only one of a group.
fn alone(ledger: &Ledger, order: Order) -> Result<Issued, IssuanceError> {
    let (one, mut issuing) = waiting(order);
    assert!(decide(ledger, vec![one]).is_empty());
    issuing.try_recv().unwrap()
}

/// With nothing to sign, each that is decided has its answer when this returns.
fn decide(ledger: &Ledger, group: Vec<Waiting>) -> Vec<Waiting> {
    static NOBODY: LazyLock<Signers> =
        LazyLock::new(|| Signers::with_cores(0, &Workers::default()).unwrap());
    ledger.decide(group, NOBODY.shared())
}

fn said(outcome: &Result<Issued, IssuanceError>) -> String {
    let repeated = outcome.as_ref().map(|issued| issued.repeated);
    format!("{repeated:?}")
}

proptest! {
    /// Whatever comes together, and whoever has gone meanwhile: each gets what he would get alone,
    /// in the order in which they are decided.
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
        let (mut left, mut open) = (Vec::new(), Vec::new());
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
                    open.push((issuing, (*account, *request, *tokens)));
                }
            }
            let before = open.len();
            left = decide(&grouped, group);
            let mut undecided = Vec::new();
            for (mut issuing, asked) in open {
                match issuing.try_recv() {
                    Ok(outcome) => {
                        let expected = alone(&one_by_one, make(asked));
                        prop_assert_eq!(said(&outcome), said(&expected));
                    }
                    Err(_) => undecided.push((issuing, asked)),
                }
            }
            open = undecided;
            prop_assert!(before == 0 || open.len() < before, "each group decides something");
            prop_assert_eq!(open.len(), left.len(), "nobody is forgotten");
        }
        prop_assert!(open.is_empty(), "everybody gets an answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_at_once_share_a_write() {
    let store = Arc::new(TestStore {
        slow: Duration::from_millis(100),
        ..TestStore::default()
    });
    let signers = Signers::start(&Workers::default()).unwrap();
    let queue = start(ledger(store.clone()), &signers);
    let queue = Arc::new(queue);
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
fn a_failed_write_is_everybodys_error_and_takes_no_quota_and_no_burst() {
    let store = Arc::new(TestStore {
        broken: true.into(),
        ..TestStore::default()
    });
    let ledger = ledger(store.clone());
    // The second is the same request, the third one over the limit.
    let (group, issuing): (Vec<_>, Vec<_>) = [(1, 2), (1, 2), (2, 9), (3, 2)]
        .map(|(request, tokens)| waiting(order(1, request, tokens, 6, Some(60))))
        .into_iter()
        .unzip();
    assert!(decide(&ledger, group).is_empty());
    for mut issuing in issuing {
        let outcome = issuing.try_recv().unwrap();
        assert!(matches!(
            outcome,
            Err(IssuanceError::Store(StoreError::Engine(_)))
        ));
    }
    store.broken.store(false, Ordering::Relaxed);
    assert!(
        !alone(&ledger, order(1, 9, 6, 6, Some(60)))
            .unwrap()
            .repeated
    );
}

#[test]
fn a_row_that_cannot_be_read_and_a_panic_are_the_failure_of_their_requests_alone() {
    let orders = || (0..5).map(|request| order(1, request, 1, 5, Some(5)));
    let digest = |request: usize| orders().nth(request).unwrap().charge.request;
    let mut test = ledger(Arc::new(TestStore {
        unreadable: Some(digest(1)),
        panics_at: Some(digest(3)),
        ..TestStore::default()
    }));
    let (group, mut issuing): (Vec<_>, Vec<_>) = orders().map(waiting).unzip();
    assert!(decide(&test, group).is_empty());
    let outcomes: Vec<_> = issuing
        .iter_mut()
        .map(|it| it.try_recv().unwrap())
        .collect();
    for charged in [0, 2, 4] {
        assert!(outcomes[charged].is_ok());
    }
    assert!(matches!(
        outcomes[1],
        Err(IssuanceError::Store(StoreError::Format))
    ));
    assert!(matches!(outcomes[3], Err(IssuanceError::Worker)));
    // They have taken nothing: two of five are left.
    test.store = Arc::new(TestStore::default());
    assert!(alone(&test, order(1, 9, 2, 5, Some(5))).is_ok());
}

/// An order whose charge is being written and which has been signed meanwhile.
fn signed_during_the_write() -> (ChargeQueue, Issuing, Sender<()>) {
    let ((begun, writing), (go_on, disk)) = (channel(), channel());
    let store = TestStore {
        disk: Some(Disk {
            begun,
            go_on: Mutex::new(disk),
        }),
        ..TestStore::default()
    };
    let signers = Signers::start(&Workers::default()).unwrap();
    let queue = start(ledger(Arc::new(store)), &signers);
    let (order, issuing) = waiting(order_of_one_signature(1));
    let orders = queue.orders.as_ref().unwrap();
    assert!(orders.blocking_send(order).is_ok());
    writing.recv().unwrap();
    // They end when they have signed everything: afterwards nobody is there to do it.
    drop(signers);
    (queue, issuing, go_on)
}

#[test]
fn what_is_charged_is_signed_during_the_write_and_leaves_after_it() {
    let (queue, mut issuing, disk) = signed_during_the_write();
    assert!(issuing.try_recv().is_err());
    disk.send(()).unwrap();
    drop(queue);
    let issued = issuing.try_recv().unwrap().unwrap();
    assert_eq!(issued.signatures.len(), 1);
}

#[test]
fn a_signature_whose_charge_could_not_be_written_never_leaves() {
    let (queue, mut issuing, disk) = signed_during_the_write();
    drop(disk);
    drop(queue);
    assert!(matches!(
        issuing.try_recv().unwrap(),
        Err(IssuanceError::Store(StoreError::Engine(_)))
    ));
}

#[tokio::test]
async fn whoever_watches_the_threads_is_told_when_the_charging_one_ends() {
    let signers = Signers::start(&Workers::default()).unwrap();
    let workers = Workers::default();
    let signing = Arc::clone(signers.shared());
    drop(ChargeQueue::start(ledger(Arc::default()), signing, &workers).unwrap());
    // Returns: a test that hangs here has failed.
    workers.ended().await;
}

#[test]
fn what_is_refused_is_never_signed() {
    let ledger = ledger(Arc::default());
    let signers = Signers::with_cores(0, &Workers::default()).unwrap();
    let orders = [(1, 2), (2, 1), (3, 1)].map(|(request, limit)| {
        let mut order = order_of_one_signature(request);
        order.charge.limit = limit;
        order
    });
    let (group, _issuing): (Vec<_>, Vec<_>) = orders.map(waiting).into_iter().unzip();
    assert!(ledger.decide(group, signers.shared()).is_empty());
    assert_eq!(signers.shared().waiting(), 1);
}

#[test]
fn whoever_has_gone_before_it_was_decided_is_not_charged() {
    let ledger = ledger(Arc::default());
    let (gone, issuing) = waiting(order(1, 1, 1, 1, None));
    drop(issuing);
    assert!(decide(&ledger, vec![gone]).is_empty());
    assert!(alone(&ledger, order(1, 2, 1, 1, None)).is_ok());
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
    let signers = Signers::start(&Workers::default()).unwrap();
    let queue = start(ledger(store.clone()), &signers);
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
