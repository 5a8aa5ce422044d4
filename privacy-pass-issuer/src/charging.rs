//! Charges in groups: requests that wait at the same time share one synced write. One thread
//! decides them in the order in which they came, so each gets what it would get alone. What is
//! granted is signed while the group is being written, and leaves when the group is on the disk: if
//! the write fails or the process ends in it, nobody has seen a signature that was not counted.
//!
//! While enough charged requests wait for the cores to sign them, the next group is given time to
//! grow: it could not be signed sooner anyway. An issuer with nothing to sign makes nobody wait.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::outcome::{IssuanceError, Issued};
use crate::plans::{Bursts, Plan};
use crate::signing::{Answer, Assignment, Job, Shared as Signing};
use crate::store::reports::{AccountTag, ReportStore};
use crate::store::{BlockedAccount, Charge, ChargeOutcome, ChargeResult, Day, IssuerStore};
use crate::worker::{Workers, contained};

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

/// What a request has come to, unless the write fails. Nobody is told before that.
enum Decided {
    /// Being signed.
    Granted(Arc<Job>),
    Refused(Answer, IssuanceError),
}

/// What decides: the accounts' standing, their bursts, their quota.
pub(crate) struct Ledger {
    pub(crate) store: Arc<dyn IssuerStore>,
    pub(crate) reports: Arc<dyn ReportStore>,
    pub(crate) bursts: Bursts,
}

/// The thread that charges, and the queue before it. Dropped, it decides what it has taken in, and
/// ends.
pub(crate) struct ChargeQueue {
    /// `None` only while it is dropped.
    orders: Option<mpsc::Sender<Waiting>>,
    thread: Option<JoinHandle<()>>,
}

impl ChargeQueue {
    pub(crate) fn start(
        ledger: Ledger,
        signing: Arc<Signing>,
        workers: &Workers,
    ) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel(QUEUE);
        let thread = workers.spawn("charges", move || ledger.work_off(queue, &signing))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Charges an order and has it signed; returns when both are done. Given up before it was
    /// decided, an order is not charged.
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
            group = self.decide(group, signing);
        }
    }

    /// Decides a group, and tells everybody in it; but those who depend on what becomes of others
    /// in it are left, and the next group begins with them.
    fn decide(&self, group: Vec<Waiting>, signing: &Signing) -> Vec<Waiting> {
        let (mut taken, mut left) = (Vec::with_capacity(group.len()), Vec::new());
        let mut undecided = HashSet::new();
        for waiting in group {
            if waiting.answer.is_closed() {
                continue;
            }
            let account = waiting.order.lasting;
            match contained(|| self.take(&waiting.order)) {
                Ok(None) => {
                    undecided.insert(account);
                    taken.push(waiting);
                }
                Ok(Some(outcome)) => waiting.follow(Ok(outcome), signing).tell(Ok(())),
                // What an earlier one has taken may come back, or it may be the same request.
                Err(IssuanceError::BurstExceeded { .. }) if undecided.contains(&account) => {
                    left.push(waiting);
                }
                Err(error) => waiting.follow(Err(error), signing).tell(Ok(())),
            }
        }
        self.charge(taken, signing);
        left
    }

    /// The quota, for those who have everything else: what is charged is signed during the write,
    /// and told after it.
    fn charge(&self, mut taken: Vec<Waiting>, signing: &Signing) {
        let charges: Vec<_> = taken.iter().map(|waiting| waiting.order.charge).collect();
        let accounts: Vec<_> = taken.iter().map(|waiting| waiting.order.lasting).collect();
        let mut decided = Vec::with_capacity(taken.len());
        let written = contained(|| {
            let hand_on = &mut |decisions: Vec<ChargeResult>| {
                for (waiting, decision) in taken.drain(..).zip(decisions) {
                    let outcome = decision.map_err(IssuanceError::from);
                    decided.push(waiting.follow(outcome, signing));
                }
            };
            Ok(self.store.charge_all(&charges, hand_on)?)
        });
        let mut decided = decided.into_iter();
        for (charge, account) in charges.iter().zip(accounts) {
            let decided = decided.next();
            if written.is_err() || !decided.as_ref().is_some_and(Decided::is_charged) {
                self.bursts.give_back(account, charge.tokens);
            }
            if let Some(decided) = decided {
                decided.tell(written.as_ref().copied().map_err(again));
            }
        }
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
    fn follow(self, outcome: Outcome, signing: &Signing) -> Decided {
        let Order {
            charge,
            work,
            now_ms,
            ..
        } = self.order;
        let repeated = match outcome {
            Ok(ChargeOutcome::Charged) => false,
            Ok(ChargeOutcome::AlreadyIssued) => true,
            Ok(ChargeOutcome::LimitReached { left }) => {
                let refusal = IssuanceError::QuotaExhausted {
                    available: left,
                    retry_after_s: Day::seconds_left(now_ms / 1000),
                };
                return Decided::Refused(self.answer, refusal);
            }
            Err(error) => return Decided::Refused(self.answer, error),
        };
        Decided::Granted(signing.sign(charge.account, work, repeated, self.answer))
    }
}

/// The failure of a write, for each of those whom it concerns.
fn again(error: &IssuanceError) -> IssuanceError {
    match error {
        IssuanceError::Store(error) => IssuanceError::Store(error.repeated()),
        _ => IssuanceError::Worker,
    }
}

impl Decided {
    fn is_charged(&self) -> bool {
        matches!(self, Self::Granted(job) if !job.is_repeated())
    }

    /// Whoever has gone meanwhile asks again, and finds the same.
    fn tell(self, written: Result<(), IssuanceError>) {
        match (self, written) {
            (Self::Granted(job), Ok(())) => job.release(),
            (Self::Granted(job), Err(error)) => job.fail(error),
            (Self::Refused(answer, error), Ok(())) | (Self::Refused(answer, _), Err(error)) => {
                let _ = answer.send(Err(error));
            }
        }
    }
}

pub(crate) fn require_good_standing(
    store: &dyn IssuerStore,
    reports: &dyn ReportStore,
    (lasting, tag): (BlockedAccount, &AccountTag),
    today: Day,
) -> Result<(), IssuanceError> {
    if store.is_blocked(lasting)? {
        return Err(IssuanceError::Blocked);
    }
    let withheld_until = reports.withheld_until(tag)?;
    if withheld_until.is_some_and(|until| today <= until) {
        return Err(IssuanceError::Withheld);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
