//! Charges in groups: requests that wait at the same time share one synced write. One thread decides them in
//! the order in which they came, so each gets what it would get alone, and hands them on to be signed when the
//! group is on the disk.
//!
//! While enough charged requests wait for the cores to sign them, the next group is given time to grow: it
//! could not be signed sooner anyway. An issuer with nothing to sign makes nobody wait.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::issuance::{IssuanceError, Issued, require_good_standing};
use crate::plans::{Bursts, Plan};
use crate::signing::{Answer, Assignment, Shared as Signing};
use crate::store::reports::{AccountTag, ReportStore};
use crate::store::{BlockedAccount, Charge, ChargeOutcome, Day, IssuerStore};

/// Requests that are decided together.
const GROUP: usize = 256;
/// Requests that may wait to be decided; the next ones wait to be let in.
const QUEUE: usize = 1024;
/// How long a group may grow while the cores are busy: a few signatures.
const PATIENCE: Duration = Duration::from_millis(2);

/// A request that has been found good, and what has to be known of its account.
pub(crate) struct Order {
    pub(crate) charge: Charge,
    pub(crate) lasting: BlockedAccount,
    pub(crate) tag: AccountTag,
    pub(crate) plan: Plan,
    pub(crate) now_ms: u64,
    pub(crate) work: Vec<Assignment>,
}

type Outcome = Result<ChargeOutcome, IssuanceError>;

struct Waiting {
    order: Order,
    answer: Answer,
}

/// What has become of a group.
#[derive(Default)]
struct Decided {
    outcomes: Vec<(Waiting, Outcome)>,
    /// What depends on what has become of others in the group: the next one begins with it.
    left: Vec<Waiting>,
}

/// What decides: the accounts' standing, their bursts, their quota.
pub(crate) struct Ledger {
    pub(crate) store: Arc<dyn IssuerStore>,
    pub(crate) reports: Arc<dyn ReportStore>,
    pub(crate) bursts: Bursts,
}

/// The thread that charges, and the queue before it. Dropped, it decides what it has taken in, and ends.
pub(crate) struct ChargeQueue {
    /// `None` only while it is dropped.
    orders: Option<mpsc::Sender<Waiting>>,
    thread: Option<JoinHandle<()>>,
}

impl ChargeQueue {
    pub(crate) fn start(ledger: Ledger, signing: Arc<Signing>) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("charges".to_owned())
            .spawn(move || ledger.work_off(queue, &signing))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Charges an order, and has it signed when that is durable. Given up before it was decided, an order is
    /// not charged.
    pub(crate) async fn issue(&self, order: Order) -> Result<Issued, IssuanceError> {
        let (answer, issued) = oneshot::channel();
        let orders = self.orders.as_ref().ok_or(IssuanceError::Worker)?;
        let sent = orders.send(Waiting { order, answer }).await;
        sent.map_err(|_| IssuanceError::Worker)?;
        issued.await.map_err(|_| IssuanceError::Worker)?
    }
}

impl Drop for ChargeQueue {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that charges accounts ended early");
        }
    }
}

impl Ledger {
    fn work_off(self, mut queue: mpsc::Receiver<Waiting>, signing: &Signing) {
        let mut group = Vec::new();
        loop {
            if group.is_empty() {
                let Some(first) = queue.blocking_recv() else {
                    return;
                };
                group.push(first);
            }
            signing.wait_until_low(PATIENCE);
            while group.len() < GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            let Decided { outcomes, left } = self.decide(group);
            for (waiting, outcome) in outcomes {
                waiting.follow(outcome, signing);
            }
            group = left;
        }
    }

    fn decide(&self, group: Vec<Waiting>) -> Decided {
        let (mut taken, mut decided) = (Vec::with_capacity(group.len()), Decided::default());
        let mut undecided = HashSet::new();
        for waiting in group {
            if waiting.answer.is_closed() {
                continue;
            }
            let account = waiting.order.lasting;
            match self.take(&waiting.order) {
                Ok(None) => {
                    undecided.insert(account);
                    taken.push(waiting);
                }
                Ok(Some(outcome)) => decided.outcomes.push((waiting, Ok(outcome))),
                // What an earlier one has taken may come back, or it may be the same request.
                Err(IssuanceError::BurstExceeded { .. }) if undecided.contains(&account) => {
                    decided.left.push(waiting);
                }
                Err(error) => decided.outcomes.push((waiting, Err(error))),
            }
        }
        let charges: Vec<_> = taken.iter().map(|waiting| waiting.order.charge).collect();
        let outcomes = self.store.charge_all(&charges);
        for (at, waiting) in taken.into_iter().enumerate() {
            let outcome = match &outcomes {
                Ok(outcomes) => outcomes.get(at).copied().ok_or(IssuanceError::Worker),
                Err(error) => Err(error.repeated().into()),
            };
            if !matches!(outcome, Ok(ChargeOutcome::Charged)) {
                let tokens = waiting.order.charge.tokens;
                self.bursts.give_back(waiting.order.lasting, tokens);
            }
            decided.outcomes.push((waiting, outcome));
        }
        decided
    }

    /// Everything but the quota. `None`: that has the last word.
    fn take(&self, order: &Order) -> Result<Option<ChargeOutcome>, IssuanceError> {
        let Order {
            charge,
            lasting,
            tag,
            plan,
            now_ms,
            work: _,
        } = order;
        let standing = (*lasting, tag);
        require_good_standing(&*self.store, &*self.reports, standing, charge.day)?;
        if plan.burst.is_none() {
            return Ok(None);
        }
        // A repeated request costs nothing, so nothing can be lacking for it.
        if self.store.is_charged(charge.day, charge.request)? {
            return Ok(Some(ChargeOutcome::AlreadyIssued));
        }
        self.bursts.take(*lasting, *plan, charge.tokens, *now_ms)?;
        Ok(None)
    }
}

impl Waiting {
    fn follow(self, outcome: Outcome, signing: &Signing) {
        let Order {
            charge,
            work,
            now_ms,
            ..
        } = self.order;
        let refused = match outcome {
            Ok(ChargeOutcome::Charged) => {
                return signing.sign(charge.account, work, false, self.answer);
            }
            Ok(ChargeOutcome::AlreadyIssued) => {
                return signing.sign(charge.account, work, true, self.answer);
            }
            Ok(ChargeOutcome::LimitReached { left }) => IssuanceError::QuotaExhausted {
                available: left,
                retry_after_s: Day::seconds_left(now_ms / 1000),
            },
            Err(error) => error,
        };
        // Whoever has gone meanwhile asks again, and finds the same.
        let _ = self.answer.send(Err(refused));
    }
}

#[cfg(test)]
mod tests;
