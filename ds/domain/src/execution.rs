//! The loop of every signed request, as a state machine without I/O: read → decide → apply → on
//! conflict again; charge once; record the result. A server drives it with an engine and a clock, a
//! test with a map.

use crypto::sealing::{self, Place};
use protocol::Wire as _;
use protocol::ids::{Day, Minute};
use protocol::problem::ProblemType;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::engine::{ApplyError, Batch, EngineError, Found, Key, Read};
use crate::env::Env;
use crate::memory::MemoryEngine;
use crate::operation::{Change, Charge, Cost, Operation, UnsignedRead};
use crate::refusal::{Refusal, Stop};
use crate::request::{Known, Unauthenticated};
use crate::rows::Rows;
use crate::store::{Appended, Failed, Receipt, TOKEN_SPENT, Transition};
use crate::tokens::{Spend, VerifiedToken};
use crate::view::View;

/// How often a decision that met another change is made again.
pub const ATTEMPTS: u32 = 16;

/// The attempts at one decision.
#[derive(Debug, Default)]
pub struct Attempts {
    made: u32,
    /// Rows that did not fit each other.
    unfitting: Option<View>,
}

impl Attempts {
    /// Another change was first. Reading begins anew.
    ///
    /// # Errors
    /// [`ProblemType::Conflict`] where there were [`ATTEMPTS`].
    pub fn again(&mut self) -> Result<(), Failure> {
        self.made += 1;
        if self.made < ATTEMPTS {
            Ok(())
        } else {
            Err(Failure::Refused(ProblemType::Conflict.into()))
        }
    }

    /// These rows do not fit each other: they were read at different moments. Reading begins anew.
    ///
    /// # Errors
    /// [`Failure::Internal`] for the very rows of the time before: nobody has changed them
    /// meanwhile, they never fitted. Else as [`Attempts::again`].
    pub fn moved(&mut self, view: View) -> Result<(), Failure> {
        if self.unfitting.as_ref() == Some(&view) {
            return Err(Failure::Internal("rows that do not fit each other"));
        }
        self.unfitting = Some(view);
        self.again()
    }
}

/// Days that a result is kept beyond the day of its request's minute.
const RESULT_DAYS: u32 = 1;

/// The next step that a driver has to do.
#[derive(Debug)]
pub enum Step {
    /// Read these, in this order.
    Read(Vec<Read>),
    /// Draw on these allowances: all of them, or none.
    Charge(Vec<Charge>),
    /// Apply this batch, durably.
    Apply(Batch),
    /// The execution has ended.
    Done(Outcome),
}

/// The result of the step before.
#[derive(Debug)]
pub enum Input {
    /// The rows that were read, in the order asked for.
    Found(Vec<Found>),
    /// The allowances had enough. Otherwise, when they have enough again, if ever.
    Charged(Result<(), Option<u64>>),
    /// The batch has happened, or why not.
    Applied(Result<(), ApplyError>),
    /// The engine could not read.
    Failed(EngineError),
}

/// The end of an execution.
#[derive(Debug)]
pub struct Outcome {
    /// The encoded response, or the reason why there is none.
    pub answer: Result<Vec<u8>, Failure>,
    /// What was appended to segments: their long polls end, and their followers are told.
    pub wake: Vec<Appended>,
    /// Tokens that were spent.
    pub tokens: usize,
    /// Allowances that are refilled, since a token was spent in their place.
    pub refill: Vec<Charge>,
    /// The transition that has happened ([`Transition::name`]).
    pub transition: Option<&'static str>,
    /// How often the decision was made again since another change was first.
    pub conflicts: u32,
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The request was refused, see [`Refusal`].
    Refused(Refusal),
    /// Our fault: the clock is not believed, and nothing is written by it.
    Clock,
    /// Our fault: the store.
    Engine(String),
    /// Our fault: what must not happen.
    Internal(&'static str),
}

enum Phase {
    /// The record of an earlier execution is looked for.
    Start,
    Decide,
    Charging,
    Applying(Box<Applying>),
    Over,
}

struct Applying {
    name: &'static str,
    receipt: Receipt,
    answer: Result<Vec<u8>, Refusal>,
    wake: Vec<Appended>,
}

/// One signed request on its way.
pub struct Execution<O: Operation> {
    request: Unauthenticated<O::Request>,
    /// Bytes of the request.
    len: usize,
    record: Record,
    tokens: Vec<VerifiedToken>,
    view: View,
    /// Who asks, as this view tells.
    known: Option<Known<O::Who>>,
    asked: Vec<Read>,
    phase: Phase,
    attempts: Attempts,
    /// What it costs, once that was charged: tokens, and allowances that a token stands for.
    charged: Option<(usize, Vec<Charge>)>,
    charging: Cost,
}

impl<O: Operation> std::fmt::Debug for Execution<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Execution({:?})", O::OPERATION)
    }
}

impl<O: Operation> Execution<O> {
    /// Decodes a request that came with these tokens.
    ///
    /// # Errors
    /// As [`Unauthenticated::decode`].
    pub fn new(bytes: &[u8], tokens: Vec<VerifiedToken>, env: &Env<'_>) -> Result<Self, Refusal> {
        let request = Unauthenticated::decode(bytes, O::OPERATION, env.now_ms)?;
        Ok(Self {
            record: Record::of(bytes, request.minute(), env),
            len: bytes.len(),
            request,
            tokens,
            view: View::default(),
            known: None,
            asked: Vec::new(),
            phase: Phase::Start,
            attempts: Attempts::default(),
            charged: None,
            charging: Cost::default(),
        })
    }

    /// The first step.
    pub fn start(&mut self) -> Step {
        self.read(vec![Read::Row(self.record.key.clone())])
    }

    /// The name of the transition that is to be applied.
    #[must_use]
    pub fn transition(&self) -> Option<&'static str> {
        match &self.phase {
            Phase::Applying(applying) => Some(applying.name),
            _ => None,
        }
    }

    /// Whether the next step may be the decision itself: it is charged for, and nothing that it
    /// asked for is missing.
    #[must_use]
    pub fn decides_next(&self) -> bool {
        match self.phase {
            Phase::Decide => self.charged.is_some(),
            Phase::Charging => true,
            Phase::Start | Phase::Applying(_) | Phase::Over => false,
        }
    }

    /// The next step, after the last one was done.
    pub fn next(&mut self, input: Input, env: &mut Env<'_>) -> Step {
        match (std::mem::replace(&mut self.phase, Phase::Over), input) {
            (_, Input::Failed(error)) => self.over(Err(Failure::Engine(error.0))),
            (Phase::Start, Input::Found(found)) => {
                if let Some(Found::Row(Some(sealed))) = found.first() {
                    let answer = self.record.open(sealed);
                    return self.over(answer);
                }
                self.decide(env)
            }
            (Phase::Decide, Input::Found(found)) => {
                for (read, found) in std::mem::take(&mut self.asked).into_iter().zip(found) {
                    self.view.add(read, found);
                }
                self.decide(env)
            }
            (Phase::Charging, Input::Charged(charged)) => self.charged(charged, env),
            (Phase::Applying(applying), Input::Applied(applied)) => {
                self.applied(*applying, applied, env)
            }
            _ => self.over(Err(Failure::Internal("a step was answered out of turn"))),
        }
    }

    fn read(&mut self, reads: Vec<Read>) -> Step {
        self.asked.clone_from(&reads);
        Step::Read(reads)
    }

    fn over(&mut self, answer: Result<Vec<u8>, Failure>) -> Step {
        Step::Done(Outcome {
            answer,
            wake: Vec::new(),
            tokens: 0,
            refill: Vec::new(),
            transition: None,
            conflicts: self.attempts.made,
        })
    }

    fn refuse(&mut self, refusal: Refusal) -> Step {
        self.over(Err(Failure::Refused(refusal)))
    }

    fn decide(&mut self, env: &mut Env<'_>) -> Step {
        match self.decided(env) {
            Ok(step) => step,
            Err(Stop::Need(reads)) => {
                self.phase = Phase::Decide;
                self.read(reads)
            }
            Err(Stop::Moved) => {
                let view = std::mem::take(&mut self.view);
                let goes_on = self.attempts.moved(view);
                self.again(goes_on, env)
            }
            Err(Stop::Refused(refusal)) => self.refuse(refusal),
            Err(Stop::RefusedAtCost(refusal)) => self.settle(refusal, env),
            Err(Stop::RefusedUsingUp(refusal, reserved)) => {
                self.record(refusal, Transition::UseUpReservation(reserved), env)
            }
            Err(Stop::Internal(what)) => self.over(Err(Failure::Internal(what))),
        }
    }

    fn decided(&mut self, env: &mut Env<'_>) -> Result<Step, Stop> {
        let known = self.known.take();
        let request = match known.and_then(|known| self.request.again(known)) {
            Some(request) => request,
            None => O::authenticate(&self.request, &self.view, env)?,
        };
        let price = match &self.charged {
            Some((price, _)) => *price,
            None => {
                let cost = O::cost(&request, env);
                if self.tokens.len() < usize::from(cost.tokens) {
                    return Err(ProblemType::TokenRequired.into());
                }
                let charges = cost.charges.clone();
                self.known = Some(request.known());
                self.charging = cost;
                self.phase = Phase::Charging;
                return Ok(Step::Charge(charges));
            }
        };
        let decided = O::decide(&request, &self.view, env);
        self.known = Some(request.known());
        let Change {
            transition,
            response,
            wake,
            surcharge,
        } = decided?;
        let price = price + usize::from(surcharge);
        if self.tokens.len() < price {
            return Err(ProblemType::TokenRequired.into());
        }
        let response = response.encode();
        if transition.is_none() && price == 0 {
            return Ok(Step::Done(Outcome {
                answer: Ok(response),
                wake,
                tokens: 0,
                refill: Vec::new(),
                transition: None,
                conflicts: self.attempts.made,
            }));
        }
        let sealed = self.record.seal(&Ok(response.clone()), env)?;
        self.apply(
            transition.unwrap_or(Transition::Settle),
            price,
            sealed,
            Ok(response),
            (wake, env),
        )
    }

    fn apply(
        &mut self,
        transition: Transition,
        price: usize,
        sealed: Vec<u8>,
        answer: Result<Vec<u8>, Refusal>,
        (wake, env): (Vec<Appended>, &Env<'_>),
    ) -> Result<Step, Stop> {
        let spends = self
            .tokens
            .get(..price)
            .ok_or(Stop::Internal("fewer tokens than the price"))?;
        let key = &self.record;
        let spends = spends.iter().map(Spend::of).collect();
        let receipt = Receipt::new(spends, Some((key.row, key.last_day, sealed)));
        let name = transition.name();
        let batch = receipt.batch(&env.rows(), transition);
        self.phase = Phase::Applying(Box::new(Applying {
            name,
            receipt,
            answer,
            wake,
        }));
        Ok(Step::Apply(batch))
    }

    /// A refusal after work that tokens pay for: they are spent, and the same request is answered
    /// alike and costs nothing more. What an allowance paid for is only refused.
    fn settle(&mut self, refusal: Refusal, env: &mut Env<'_>) -> Step {
        let price = self.charged.as_ref().map_or(0, |(price, _)| *price);
        if price == 0 {
            return self.refuse(refusal);
        }
        self.record(refusal, Transition::Settle, env)
    }

    /// A refusal that has an effect.
    fn record(&mut self, refusal: Refusal, transition: Transition, env: &mut Env<'_>) -> Step {
        let price = self.charged.as_ref().map_or(0, |(price, _)| *price);
        let settled = self.record.seal(&Err(refusal), env).and_then(|sealed| {
            self.apply(transition, price, sealed, Err(refusal), (Vec::new(), env))
        });
        match settled {
            Ok(step) => step,
            Err(_) => self.over(Err(Failure::Internal("a refusal cannot be recorded"))),
        }
    }

    fn charged(&mut self, charged: Result<(), Option<u64>>, env: &mut Env<'_>) -> Step {
        let cost = std::mem::take(&mut self.charging);
        let price = usize::from(cost.tokens);
        self.charged = Some(match charged {
            Ok(()) => (price, Vec::new()),
            Err(retry_after_ms) => {
                let bytes = cost.charges.iter().map(|charge| charge.bytes).max();
                // By what the client knows: the bytes that it sends, not the work on them.
                let instead = bytes
                    .unwrap_or_default()
                    .min(self.len)
                    .div_ceil(env.settings.prices.bytes_a_token.max(1))
                    .max(1);
                let price = price.saturating_add(instead);
                if self.tokens.len() < price {
                    return self.refuse(Refusal::Exhausted { retry_after_ms });
                }
                (price, cost.charges)
            }
        });
        self.decide(env)
    }

    fn applied(
        &mut self,
        applying: Applying,
        applied: Result<(), ApplyError>,
        env: &mut Env<'_>,
    ) -> Step {
        let Applying {
            name,
            receipt,
            answer,
            wake,
        } = applying;
        match applied {
            Ok(()) => Step::Done(Outcome {
                answer: answer.map_err(Failure::Refused),
                wake,
                tokens: receipt.tokens(),
                refill: self
                    .charged
                    .take()
                    .map(|(_, refill)| refill)
                    .unwrap_or_default(),
                transition: Some(name),
                conflicts: self.attempts.made,
            }),
            Err(ApplyError::Condition { condition, found }) => match receipt.failed(condition) {
                Failed::AlreadyDone => {
                    let answer = self.record.open(&found.unwrap_or_default());
                    self.over(answer)
                }
                Failed::TokenSpent => self.refuse(TOKEN_SPENT.into()),
                Failed::Conflict => {
                    if O::IS_DEAR {
                        self.charged = None;
                    }
                    let goes_on = self.attempts.again();
                    self.again(goes_on, env)
                }
            },
            Err(ApplyError::Engine(error)) => self.over(Err(Failure::Engine(error.0))),
        }
    }

    fn again(&mut self, goes_on: Result<(), Failure>, env: &mut Env<'_>) -> Step {
        self.view = View::default();
        self.known = None;
        match goes_on {
            Ok(()) => self.decide(env),
            Err(failure) => self.over(Err(failure)),
        }
    }
}

/// What spends tokens for something that has no other effect. A condition that does not hold says
/// that one of them was spent before.
#[must_use]
pub fn payment(tokens: &[VerifiedToken], rows: &Rows<'_>) -> Batch {
    let spends = tokens.iter().map(Spend::of).collect();
    Receipt::new(spends, None).batch(rows, Transition::Settle)
}

/// A transition that costs no token and whose result is not recorded: to do it again does no harm.
#[must_use]
pub fn unpaid(transition: Transition, rows: &Rows<'_>) -> Batch {
    Receipt::new(Vec::new(), None).batch(rows, transition)
}

/// Carries a request out on the engine in memory, with allowances that never end.
///
/// # Errors
/// [`Failure`].
pub fn run<O: Operation>(
    bytes: &[u8],
    tokens: Vec<VerifiedToken>,
    engine: &mut MemoryEngine,
    env: &mut Env<'_>,
) -> Result<Vec<u8>, Failure> {
    let mut execution = Execution::<O>::new(bytes, tokens, env).map_err(Failure::Refused)?;
    let mut step = execution.start();
    loop {
        let input = match step {
            Step::Read(reads) => Input::Found(engine.read(&reads)),
            Step::Charge(_) => Input::Charged(Ok(())),
            Step::Apply(batch) => Input::Applied(engine.apply(batch)),
            Step::Done(outcome) => return outcome.answer,
        };
        step = execution.next(input, env);
    }
}

/// Carries an unsigned read out on the engine in memory.
///
/// # Errors
/// [`Stop`], never [`Stop::Need`].
pub fn read<R: UnsignedRead>(
    request: &R::Request,
    engine: &MemoryEngine,
    env: &mut Env<'_>,
) -> Result<R::Response, Stop> {
    let mut view = View::default();
    loop {
        match R::read(request, &view, env) {
            Err(Stop::Need(reads)) => {
                let found = engine.read(&reads);
                for (read, found) in reads.into_iter().zip(found) {
                    view.add(read, found);
                }
            }
            answer => return answer,
        }
    }
}

/// Where and how the result of a request is recorded. Who has the request finds and opens it; who
/// has the database does neither.
struct Record {
    row: crate::rows::ResultRow,
    last_day: Day,
    key: Key,
    name: [u8; 32],
    secret: Zeroizing<[u8; 32]>,
}

impl Record {
    fn of(bytes: &[u8], minute: Minute, env: &Env<'_>) -> Self {
        let digest: Zeroizing<[u8; 32]> = Zeroizing::new(Sha256::digest(bytes).into());
        let name = crypto::kdf::derive(&digest, "result name", &[]);
        let row = env.rows().result(&name);
        let last_day = Day(Day::of(minute.start_ms()).0.saturating_add(RESULT_DAYS));
        Self {
            row,
            last_day,
            key: row.key(last_day),
            name,
            secret: Zeroizing::new(crypto::kdf::derive(&digest, "result key", &[])),
        }
    }

    fn place(&self) -> Place<'_> {
        Place {
            table: "results",
            row: &self.name,
            part: "result",
        }
    }

    /// `0 || response`, or `1 || slug of the problem`.
    fn seal(&self, answer: &Result<Vec<u8>, Refusal>, env: &mut Env<'_>) -> Result<Vec<u8>, Stop> {
        let plain = Zeroizing::new(match answer {
            Ok(response) => [&[0], response.as_slice()].concat(),
            Err(refusal) => [&[1], refusal.problem().slug().as_bytes()].concat(),
        });
        let salt = env.salt();
        Ok(sealing::seal_salted(
            &self.secret,
            salt,
            self.place(),
            &plain,
        )?)
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Failure> {
        let internal = Failure::Internal("a recorded result");
        let plain =
            sealing::open(&self.secret, self.place(), sealed).map_err(|_| internal.clone())?;
        match plain.split_first() {
            Some((0, response)) => Ok(response.to_vec()),
            Some((1, slug)) => Err(ProblemType::ALL
                .iter()
                .find(|problem| problem.slug().as_bytes() == slug)
                .map_or(internal, |problem| Failure::Refused((*problem).into()))),
            _ => Err(internal),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::testing::Service;

    #[test]
    fn a_result_is_read_as_it_was_written() {
        let mut service = Service::new(1);
        let (mut env, _) = service.env();
        let record = Record::of(b"request", Minute(30_000_000), &env);
        fixtures::check("name of a result", &record.key.name);
        fixtures::check("last day of a result", &record.key.day.to_be_bytes());
        let sealed = record.seal(&Ok(b"response".to_vec()), &mut env).unwrap();
        fixtures::check("response", &sealed);
        assert_eq!(record.open(&sealed).unwrap(), b"response");
        let refusal = Refusal::from(ProblemType::UnknownGroup);
        let sealed = record.seal(&Err(refusal), &mut env).unwrap();
        fixtures::check("refusal", &sealed);
        assert_eq!(record.open(&sealed), Err(Failure::Refused(refusal)));
    }
}
