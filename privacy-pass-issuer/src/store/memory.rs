//! For tests: forgets everything at the end of the process.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::{AccountOfDay, Charge, ChargeOutcome, Day, IssuerStore, RequestDigest, StoreError};

#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    counts: HashMap<(Day, AccountOfDay), u32>,
    requests: HashSet<(Day, RequestDigest)>,
}

impl IssuerStore for MemoryStore {
    fn charge(&self, charge: &Charge) -> Result<ChargeOutcome, StoreError> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Charge {
            account,
            day,
            request,
            limit,
        } = *charge;
        if [day, day.yesterday()]
            .iter()
            .any(|day| rows.requests.contains(&(*day, request)))
        {
            return Ok(ChargeOutcome::AlreadyIssued);
        }
        let count = rows.counts.entry((day, account)).or_default();
        if *count >= limit {
            return Ok(ChargeOutcome::LimitReached);
        }
        *count += 1;
        rows.requests.insert((day, request));
        Ok(ChargeOutcome::Charged)
    }

    fn forget_days_before(&self, day: Day) -> Result<(), StoreError> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.counts.retain(|(kept, _), _| *kept >= day);
        rows.requests.retain(|(kept, _)| *kept >= day);
        Ok(())
    }
}
