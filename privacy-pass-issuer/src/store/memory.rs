//! For tests: forgets everything at the end of the process.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    AccountOfDay, BlockedAccount, Charge, ChargeOutcome, ChargeResult, Day, IssuerStore,
    RequestDigest, StoreError,
};

#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    counts: HashMap<(Day, AccountOfDay), u32>,
    requests: HashSet<(Day, RequestDigest)>,
    blocked: HashSet<BlockedAccount>,
}

impl Rows {
    fn is_charged(&self, day: Day, request: RequestDigest) -> bool {
        [day, day.yesterday()]
            .iter()
            .any(|day| self.requests.contains(&(*day, request)))
    }

    fn charge(&mut self, charge: &Charge) -> ChargeOutcome {
        let Charge {
            account,
            day,
            request,
            tokens,
            limit,
        } = *charge;
        if self.is_charged(day, request) {
            return ChargeOutcome::AlreadyIssued;
        }
        let count = self.counts.entry((day, account)).or_default();
        let left = limit.saturating_sub(*count);
        if left < tokens {
            return ChargeOutcome::LimitReached { left };
        }
        *count += tokens;
        self.requests.insert((day, request));
        ChargeOutcome::Charged
    }
}

impl MemoryStore {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IssuerStore for MemoryStore {
    fn charge_all(
        &self,
        charges: &[Charge],
        decided: &mut dyn FnMut(Vec<ChargeResult>),
    ) -> Result<(), StoreError> {
        let mut rows = self.rows();
        let charge = |charge| Ok(rows.charge(charge));
        decided(charges.iter().map(charge).collect());
        Ok(())
    }

    fn is_charged(&self, day: Day, request: RequestDigest) -> Result<bool, StoreError> {
        Ok(self.rows().is_charged(day, request))
    }

    fn block(&self, account: BlockedAccount) -> Result<(), StoreError> {
        self.rows().blocked.insert(account);
        Ok(())
    }

    fn unblock(&self, account: BlockedAccount) -> Result<bool, StoreError> {
        Ok(self.rows().blocked.remove(&account))
    }

    fn is_blocked(&self, account: BlockedAccount) -> Result<bool, StoreError> {
        Ok(self.rows().blocked.contains(&account))
    }

    fn forget_days_before(&self, day: Day) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.counts.retain(|(kept, _), _| *kept >= day);
        rows.requests.retain(|(kept, _)| *kept >= day);
        Ok(())
    }
}
