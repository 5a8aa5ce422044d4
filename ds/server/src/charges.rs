//! Allowances: all that a request draws on, or none.

use ds_domain::engine::ApplyError;
use ds_domain::execution::{self, Failure};
use ds_domain::operation::{Charge, Level};
use ds_domain::refusal::Refusal;
use ds_domain::rows::{Bucket, Rows};
use ds_domain::tokens::IdentifiedToken;
use protocol::problem::ProblemType;

use crate::server::Server;
use crate::tokens::{count_redeemed, count_refused};

/// Bytes that count as one more request.
const BYTES_A_UNIT: usize = 16 * 1024;

fn units(charge: &Charge) -> usize {
    charge.bytes.div_ceil(BYTES_A_UNIT).max(1)
}

impl Server {
    /// Draws on all of these, or on none; then says when one has enough again.
    pub(crate) fn charge(&self, charges: &[Charge]) -> Result<(), Option<u64>> {
        let now_ms = self.clock.now_unix_ms();
        let mut taken: Vec<&Charge> = Vec::new();
        for charge in charges {
            let Some(allowances) = self.allowances(charge.level) else {
                continue;
            };
            for _ in 0..units(charge) {
                if let Err(empty) = allowances.take(charge.bucket.0, now_ms) {
                    for charge in taken {
                        if let Some(allowances) = self.allowances(charge.level) {
                            allowances.give_back(charge.bucket.0);
                        }
                    }
                    return Err(empty.retry_after_ms);
                }
                taken.push(charge);
            }
        }
        Ok(())
    }

    /// Draws on the allowance of all who read the same. Where it is used up, the first of these
    /// tokens pays, and for this read alone: whoever reads too much must not be able to keep the
    /// others out.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`]; [`ProblemType::TokenRejected`].
    pub(crate) async fn draw(
        &self,
        bucket: Bucket,
        bytes: usize,
        offered: Vec<IdentifiedToken>,
    ) -> Result<(), Failure> {
        let charge = Charge {
            level: Level::Segment,
            bucket,
            bytes,
        };
        let Err(retry_after_ms) = self.charge(&[charge]) else {
            return Ok(());
        };
        let offered: Vec<_> = offered.into_iter().take(1).collect();
        if offered.is_empty() {
            return Err(Failure::Refused(Refusal::Exhausted { retry_after_ms }));
        }
        let is_spent = || {
            count_refused("spent");
            Failure::Refused(ProblemType::TokenRejected.into())
        };
        if self.is_spent(&offered).await? {
            return Err(is_spent());
        }
        let tokens = self.verified(offered)?;
        let batch = execution::payment(&tokens, &Rows(self.keys.rows()));
        match self.engine.apply(batch).await {
            Ok(()) => {
                count_redeemed(tokens.len());
                Ok(())
            }
            Err(ApplyError::Condition { .. }) => Err(is_spent()),
            Err(ApplyError::Engine(error)) => Err(Failure::Engine(error.0)),
        }
    }

    /// Whoever looks for what is not there draws on one allowance with all others who do: names
    /// that nothing has are as many as anybody likes.
    pub(crate) fn of_something<T>(&self, found: Result<T, Failure>) -> Result<T, Failure> {
        let is_nothing = |refusal: &Refusal| {
            let problem = refusal.problem();
            matches!(
                problem,
                ProblemType::UnknownSegment | ProblemType::UnknownRecord | ProblemType::UnknownBlob
            )
        };
        match found {
            Err(Failure::Refused(refusal)) if is_nothing(&refusal) => {
                let charge = Charge {
                    level: Level::Segment,
                    bucket: Rows(self.keys.rows()).nothing_bucket(),
                    bytes: 0,
                };
                Err(Failure::Refused(match self.charge(&[charge]) {
                    Ok(()) => refusal,
                    Err(retry_after_ms) => Refusal::Exhausted { retry_after_ms },
                }))
            }
            other => other,
        }
    }

    /// A token was spent in the place of these.
    pub(crate) fn refill(&self, charges: &[Charge]) {
        for charge in charges {
            if let Some(allowances) = self.allowances(charge.level) {
                allowances.refill(charge.bucket.0);
            }
        }
    }
}
