//! What the issuer must not forget: how many tokens an account got today, and for which requests.

#[cfg(test)]
mod conformance;
mod database;
mod memory;
pub mod reports;
mod rocks;

pub use memory::MemoryStore;
pub use rocks::RocksStore;

/// Days since 1970-01-01 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub u32);

impl Day {
    const SECONDS: u64 = 86_400;

    #[must_use]
    pub fn of_unix_s(unix_s: u64) -> Self {
        Self(u32::try_from(unix_s / Self::SECONDS).unwrap_or(u32::MAX))
    }

    /// Seconds until the next day begins: 1 to 86,400.
    #[must_use]
    pub fn seconds_left(unix_s: u64) -> u64 {
        Self::SECONDS - unix_s % Self::SECONDS
    }

    #[must_use]
    pub fn yesterday(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// Keyed hash of an account, for one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AccountOfDay(pub(crate) [u8; 32]);

/// Keyed hash of an account that an operator has blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockedAccount(pub(crate) [u8; 32]);

/// Keyed digest of one account's token request, single or batched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestDigest(pub(crate) [u8; 32]);

/// One token request, single or batched, as the quota sees it.
#[derive(Debug, Clone, Copy)]
pub struct Charge {
    pub account: AccountOfDay,
    pub day: Day,
    pub request: RequestDigest,
    /// Tokens that it asks for.
    pub tokens: u32,
    /// Tokens that the account may get on this day.
    pub limit: u32,
}

/// What a charge came to. Only [`ChargeOutcome::LimitReached`] forbids an answer.
/// A batch is counted as a whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChargeOutcome {
    /// Counted now, durably.
    Charged,
    /// Counted before, today or yesterday: its answer was lost, or is asked for again.
    AlreadyIssued,
    /// Not counted: the account may get only `left` more tokens on this day.
    LimitReached { left: u32 },
}

/// What comes of one charge of a group. Rows that cannot be read are the failure of those charges
/// alone that need them; they are not counted.
pub type ChargeResult = Result<ChargeOutcome, StoreError>;

/// The engine failed; nothing is known to be counted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Refused(#[from] service::founding::Refusal),
    /// With the engine's word for the kind of failure only, as its text can quote rows; of files
    /// with its text.
    #[error("the quota database failed: {0}")]
    Engine(String),
    #[error("the quota database was written by another version of this program")]
    Format,
}

impl StoreError {
    /// The same failure, for each of those whom it concerns.
    pub(crate) fn repeated(&self) -> Self {
        match self {
            Self::Refused(_) => Self::Engine("not open".to_owned()),
            Self::Engine(kind) => Self::Engine(kind.clone()),
            Self::Format => Self::Format,
        }
    }
}

/// The quota database. Every engine passes the same conformance suite.
pub trait IssuerStore: Send + Sync + 'static {
    /// Counts requests against their accounts' days, each once: no account is ever charged twice
    /// for one request, nor gets more than `limit` tokens on one day, however many threads ask.
    /// What comes of each is what would come of it if it were counted alone, one after the other in
    /// this order.
    ///
    /// One transition with one synced write, durable when it returns. After a crash either all that
    /// it counted is there, or nothing of it; a repeated request then finds its record and costs
    /// nothing more. Requests of the day before are still known, so midnight does not charge a
    /// retry.
    ///
    /// `decided` is called once, with what comes of each, and before the write: what it begins goes
    /// on while the disk is waited for. None of it may be told to anybody before this has returned,
    /// and with an error it is void: nothing is known to be counted.
    fn charge_all(
        &self,
        charges: &[Charge],
        decided: &mut dyn FnMut(Vec<ChargeResult>),
    ) -> Result<(), StoreError>;

    /// [`IssuerStore::charge_all`] of one.
    fn charge(&self, charge: &Charge) -> Result<ChargeOutcome, StoreError> {
        let mut decision = None;
        self.charge_all(std::slice::from_ref(charge), &mut |mut decisions| {
            decision = decisions.pop();
        })?;
        decision.unwrap_or(Err(StoreError::Format))
    }

    /// Whether a charge for this request on this day would find it counted already. For what is
    /// decided before the charge; the charge itself decides again.
    fn is_charged(&self, day: Day, request: RequestDigest) -> Result<bool, StoreError>;

    /// Blocks an account, durably; blocking it again changes nothing.
    fn block(&self, account: BlockedAccount) -> Result<(), StoreError>;

    /// Ends the block of an account, durably. `false`: it was not blocked.
    fn unblock(&self, account: BlockedAccount) -> Result<bool, StoreError>;

    fn is_blocked(&self, account: BlockedAccount) -> Result<bool, StoreError>;

    /// Drops every day before `day`, and nothing else: blocks stay. After a crash some of them may
    /// be left, which the next call drops.
    fn forget_days_before(&self, day: Day) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_utc() {
        assert_eq!(Day::of_unix_s(86_399), Day(0));
        assert_eq!(Day::of_unix_s(86_400), Day(1));
        assert_eq!(Day::seconds_left(86_399), 1);
        assert_eq!(Day::seconds_left(86_400), 86_400);
        assert_eq!(Day(0).yesterday(), Day(0));
        assert_eq!(Day::of_unix_s(u64::MAX), Day(u32::MAX));
    }
}
