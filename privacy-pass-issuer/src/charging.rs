//! Charges in groups: requests that wait at the same time share one synced write. One thread decides them in
//! the order in which they came, so each gets what it would get alone; a signature is made only after the
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

use crate::issuance::{IssuanceError, require_good_standing};
use crate::plans::{Bursts, Plan};
use crate::signing::Backlog;
use crate::store::reports::{AccountTag, ReportStore};
use crate::store::{BlockedAccount, Charge, ChargeOutcome, IssuerStore};

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
}

type Outcome = Result<ChargeOutcome, IssuanceError>;

struct Waiting {
    order: Order,
    answer: oneshot::Sender<Outcome>,
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
    pub(crate) fn start(ledger: Ledger, backlog: Arc<Backlog>) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("charges".to_owned())
            .spawn(move || ledger.work_off(queue, &backlog))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// What comes of an order, once it is durable. Dropped before it was decided, the order is not charged.
    pub(crate) async fn charge(&self, order: Order) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        let orders = self.orders.as_ref().ok_or(IssuanceError::Worker)?;
        let sent = orders.send(Waiting { order, answer }).await;
        sent.map_err(|_| IssuanceError::Worker)?;
        outcome.await.map_err(|_| IssuanceError::Worker)?
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
    fn work_off(self, mut queue: mpsc::Receiver<Waiting>, backlog: &Backlog) {
        let mut group = Vec::new();
        loop {
            if group.is_empty() {
                let Some(first) = queue.blocking_recv() else {
                    return;
                };
                group.push(first);
            }
            backlog.wait_until_low(PATIENCE);
            while group.len() < GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            group = self.decide(group);
        }
    }

    /// Decides a group, but for what depends on what becomes of others in it: that is left for the next one.
    fn decide(&self, group: Vec<Waiting>) -> Vec<Waiting> {
        let (mut taken, mut left) = (Vec::with_capacity(group.len()), Vec::new());
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
                Ok(Some(outcome)) => waiting.answer(Ok(outcome)),
                // What an earlier one has taken may come back, or it may be the same request.
                Err(IssuanceError::BurstExceeded { .. }) if undecided.contains(&account) => {
                    left.push(waiting);
                }
                Err(error) => waiting.answer(Err(error)),
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
            waiting.answer(outcome);
        }
        left
    }

    /// Everything but the quota. `None`: that has the last word.
    fn take(&self, order: &Order) -> Result<Option<ChargeOutcome>, IssuanceError> {
        let Order {
            charge,
            lasting,
            tag,
            plan,
            now_ms,
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
    fn answer(self, outcome: Outcome) {
        // Whoever has gone meanwhile asks again, and finds what was decided.
        let _ = self.answer.send(outcome);
    }
}

#[cfg(test)]
mod tests;
