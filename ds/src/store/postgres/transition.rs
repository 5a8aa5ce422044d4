//! How a transition is carried out: hold and look, decide, write, commit.

use std::time::Duration;

use super::session::{Failure, Outcome, Session, Sessions, Step, malformed, step};
use super::sql;
use crate::store::{Receipt, Spend, StoreError};

/// How often a transaction is tried that the server aborts in favour of another, or whose connection
/// is lost before its end was asked for.
const ATTEMPTS: u32 = 10;
/// The longest pause after the first attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// One atomic change, apart from its receipt.
pub(super) trait Transition: Send + Sync + 'static {
    /// Takes the locks that the decision needs, in an order that is the same for all, and reads. May
    /// write: a refusal takes everything back.
    fn conditions(&self) -> Vec<Step<'_>>;

    /// What else to write, or the refusal.
    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError>;
}

impl Sessions {
    /// `Ok` only after COMMIT was answered. [`StoreError::Engine`] when that answer did not come: then
    /// the transition is there as a whole or not at all, and the result record tells.
    pub(super) async fn carry_out(
        &self,
        transition: &impl Transition,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        for attempt in 0.. {
            match self.attempt(transition, receipt).await {
                Ok(()) => return Ok(()),
                Err(failure) => self.pause(failure, attempt).await?,
            }
        }
        Ok(())
    }

    pub(super) async fn is_spent(&self, spends: &[Spend]) -> Result<bool, StoreError> {
        if spends.is_empty() {
            return Ok(false);
        }
        let steps: Vec<_> = spends
            .iter()
            .map(|spend| step!(sql::IS_SPENT; &spend.issuer_key_id[..], &spend.row[..]))
            .collect();
        let found = self.run(&steps).await?;
        Ok(found.iter().any(|found| !found.rows.is_empty()))
    }

    /// Statements that need no transaction around them, and that may be run twice.
    pub(super) async fn run(&self, steps: &[Step<'_>]) -> Result<Vec<Outcome>, StoreError> {
        let mut attempt = 0;
        loop {
            let result = match self.session().await {
                Ok(mut session) => session.run(steps).await,
                Err(failure) => Err(failure),
            };
            match result {
                Ok(outcomes) => return Ok(outcomes),
                Err(failure) => self.pause(failure, attempt).await?,
            }
            attempt += 1;
        }
    }

    async fn attempt(
        &self,
        transition: &impl Transition,
        receipt: &Receipt,
    ) -> Result<(), Failure> {
        let mut session = self.session().await?;
        session.begin().await?;
        match decided(&mut session, transition, receipt).await {
            Ok(effects) => {
                let committed = session.commit(&effects).await;
                if matches!(committed, Err(Failure::Again(_))) {
                    session.roll_back().await;
                }
                committed
            }
            Err(failure) => {
                session.roll_back().await;
                Err(failure)
            }
        }
    }

    /// Waits before the next attempt, if there is one.
    async fn pause(&self, failure: Failure, attempt: u32) -> Result<(), StoreError> {
        let text = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again(text) => text,
        };
        if attempt.saturating_add(1) >= ATTEMPTS {
            return Err(StoreError::Engine(text));
        }
        metrics::counter!("ds_store_retries_total").increment(1);
        let longest = FIRST_PAUSE
            .saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX))
            .min(LONGEST_PAUSE);
        // Those who met shall not meet again.
        tokio::time::sleep(longest.mul_f64(random_fraction()?)).await;
        Ok(())
    }
}

/// The receipt's checks, in their order, then the transition's own; answers with what to write.
async fn decided<'a>(
    session: &mut Session,
    transition: &'a impl Transition,
    receipt: &Receipt,
) -> Result<Vec<Step<'a>>, Failure> {
    let mut steps = Vec::new();
    if let Some(result) = &receipt.result {
        let (day, row) = (i64::from(result.at.day), &result.at.row[..]);
        steps.push(step!(sql::RECORD_RESULT; day, row, &result.sealed[..]));
    }
    // Sorted, so that requests with several tokens in common wait for each other, not crosswise.
    let mut tokens: Vec<_> = receipt
        .spends
        .iter()
        .map(|spend| (&spend.issuer_key_id[..], &spend.row[..]))
        .collect();
    tokens.sort_unstable();
    if !tokens.is_empty() {
        let (issuers, rows): (Vec<_>, Vec<_>) = tokens.iter().copied().unzip();
        steps.push(step!(sql::SPEND; issuers.clone(), rows));
        // After the insert, and it sees what is committed by now: whoever drops a set closes its key before,
        // so a token whose row is gone meets a closed key.
        steps.push(step!(sql::CLOSED; issuers));
    }
    steps.extend(transition.conditions());

    // An insert that meets another transaction's uncommitted row waits for its end.
    let outcomes = session.run(&steps).await?;
    let mut outcomes = &outcomes[..];
    if let Some(result) = &receipt.result
        && let Some((recorded, rest)) = outcomes.split_first()
    {
        outcomes = rest;
        if recorded.affected == 0 {
            let (day, row) = (i64::from(result.at.day), &result.at.row[..]);
            let done = session.run(&[step!(sql::RESULT; day, row)]).await?;
            let done = done.first().map(Outcome::value).transpose()?.flatten();
            return Err(match done {
                Some(done) => Failure::Final(StoreError::AlreadyDone(done)),
                None => Failure::Again("a result expired meanwhile".to_owned()),
            });
        }
    }
    if !tokens.is_empty()
        && let Some((spent, rest)) = outcomes.split_first()
    {
        let (closed, rest) = rest.split_first().ok_or_else(malformed)?;
        outcomes = rest;
        if spent.affected != tokens.len() as u64 || !closed.rows.is_empty() {
            return Err(StoreError::TokenSpent.into());
        }
    }
    Ok(transition.decide(outcomes)?)
}

fn random_fraction() -> Result<f64, StoreError> {
    Ok(f64::from(u32::from_be_bytes(random()?)) / f64::from(u32::MAX))
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|_| StoreError::Engine("the system gives no randomness".to_owned()))?;
    Ok(bytes)
}

/// A receipt and nothing else.
pub(super) struct Nothing;

impl Transition for Nothing {
    fn conditions(&self) -> Vec<Step<'_>> {
        Vec::new()
    }

    fn decide(&self, _found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        Ok(Vec::new())
    }
}
