//! Drives the domain's loop on an engine, a clock and allowances.

use ds_domain::engine::{EngineError, Found, Read};
use ds_domain::env::Env;
use ds_domain::execution::{Attempts, Execution, Failure, Input, Outcome, Step};
use ds_domain::operation::{Operation, UnsignedRead};
use ds_domain::refusal::Stop;
use ds_domain::store::Appended;
use ds_domain::table::Work;
use ds_domain::tokens::VerifiedToken;
use ds_domain::view::View;
use protocol::operation::Operation as Number;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::chance::fresh_rng;
use crate::server::Server;

/// Heavy work lets other requests of this thread go on meanwhile.
fn at_work<T>(work: Work, decide: impl FnOnce() -> T) -> T {
    let can_block = || {
        Handle::try_current()
            .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
    };
    if work == Work::Heavy && can_block() {
        tokio::task::block_in_place(decide)
    } else {
        decide()
    }
}

fn no_randomness(_: crypto::CryptoError) -> Failure {
    Failure::Internal("randomness")
}

impl Server {
    /// Carries a signed request out.
    pub(crate) async fn execute<O: Operation>(
        &self,
        work: Work,
        bytes: &[u8],
        tokens: Vec<VerifiedToken>,
    ) -> Result<Vec<u8>, Failure>
    where
        Execution<O>: Send,
    {
        let mut rng = fresh_rng().map_err(no_randomness)?;
        let mut execution =
            Execution::<O>::new(bytes, tokens, &self.env(&mut rng)).map_err(Failure::Refused)?;
        let mut step = execution.start();
        loop {
            let input = match step {
                Step::Read(reads) => match self.engine.read(reads).await {
                    Ok(found) => Input::Found(found),
                    Err(error) => Input::Failed(error),
                },
                Step::Charge(charges) => Input::Charged(self.charge(&charges)),
                Step::Apply(_) if !self.now().may_write() => return Err(Failure::Clock),
                Step::Apply(batch) => Input::Applied(self.engine.apply(batch).await),
                Step::Done(outcome) => {
                    if outcome.transition.is_some() && outcome.answer.is_ok() {
                        self.is_new::<O>(&outcome, bytes);
                    }
                    return self.done(outcome);
                }
            };
            // A thread that steps aside wakes another one: not for a step that finds out what to
            // read.
            let work = match execution.decides_next() {
                true => work,
                false => Work::Light,
            };
            step = at_work(work, || execution.next(input, &mut self.env(&mut rng)));
        }
    }

    /// Wakes whoever waits for a segment to go on, and hands what was appended to its followers.
    pub(crate) fn tell(&self, appended: Vec<Appended>) {
        let rows: Vec<_> = appended.iter().map(|appended| appended.segment).collect();
        self.waits.wake(&rows);
        for Appended { segment, stretch } in appended {
            self.streams.publish(&segment, stretch, |stretch| {
                let signer = self.keys.journal_signing();
                signer.sign(&stretch.segment, stretch.end).ok()
            });
        }
    }

    /// What was accepted just now, and not once more: a message wakes devices, a blob takes room.
    fn is_new<O: Operation>(&self, outcome: &Outcome, request: &[u8]) {
        match O::OPERATION {
            Number::CreateBlob => self.blob_created(request),
            Number::SendMessage => {
                if let (Some(push), Some(appended)) = (self.push.get(), outcome.wake.first()) {
                    push.message(appended.segment, request);
                }
            }
            _ => {}
        }
    }

    fn done(&self, outcome: Outcome) -> Result<Vec<u8>, Failure> {
        let Outcome {
            answer,
            wake,
            tokens,
            refill,
            transition,
            conflicts,
        } = outcome;
        if let Some(transition) = transition {
            metrics::counter!("ds_transitions_total", "transition" => transition).increment(1);
        }
        if conflicts > 0 {
            metrics::counter!("ds_conflicts_total").increment(conflicts.into());
        }
        self.tell(wake);
        self.refill(&refill);
        crate::tokens::count_redeemed(tokens);
        answer
    }

    /// Carries an unsigned read out.
    pub(crate) async fn read<R: UnsignedRead>(
        &self,
        request: &R::Request,
    ) -> Result<R::Response, Failure> {
        let mut view = View::default();
        self.look(&mut view, |view, env| R::read(request, view, env))
            .await
    }

    /// Reads what somebody wants to know who changes nothing, until it is known; what is in the
    /// view is not read again.
    pub(crate) async fn look<T>(
        &self,
        view: &mut View,
        mut decide: impl FnMut(&View, &mut Env<'_>) -> Result<T, Stop>,
    ) -> Result<T, Failure> {
        let mut rng = fresh_rng().map_err(no_randomness)?;
        let mut attempts = Attempts::default();
        loop {
            let reads = match decide(view, &mut self.env(&mut rng)) {
                Ok(response) => return Ok(response),
                Err(Stop::Need(reads)) => reads,
                Err(Stop::Moved) => {
                    attempts.moved(std::mem::take(view))?;
                    continue;
                }
                Err(
                    Stop::Refused(refusal)
                    | Stop::RefusedAtCost(refusal)
                    | Stop::RefusedUsingUp(refusal, _),
                ) => return Err(Failure::Refused(refusal)),
                Err(Stop::Internal(what)) => return Err(Failure::Internal(what)),
            };
            for (read, found) in self.found(reads).await? {
                view.add(read, found);
            }
        }
    }

    async fn found(
        &self,
        reads: Vec<Read>,
    ) -> Result<impl Iterator<Item = (Read, Found)>, Failure> {
        let found = self
            .engine
            .read(reads.clone())
            .await
            .map_err(|EngineError(text)| Failure::Engine(text))?;
        Ok(reads.into_iter().zip(found))
    }
}
