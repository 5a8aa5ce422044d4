//! KeyPackage pools and handles.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::groups::nth;
use super::session::{Outcome, Sessions, Step, day, malformed, name, step};
use super::sql;
use super::transition::Transition;
use crate::store::{
    CLAIM_CANDIDATES, ClaimableSet, ConsumedSet, MAX_COUNTED, NewKeyPackageSet, SetCount,
    StoreError,
};

pub(super) struct Publish {
    pub(super) pool: [u8; 16],
    pub(super) owner_tag: [u8; 32],
    pub(super) sets: Vec<NewKeyPackageSet>,
}

impl Transition for Publish {
    fn conditions(&self) -> Vec<Step<'_>> {
        vec![step!(sql::OWN_POOL; &self.pool[..], &self.owner_tag[..])]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 {
            return Err(StoreError::Taken);
        }
        let mut steps = Vec::new();
        let (last_resort, sets): (Vec<_>, Vec<_>) =
            self.sets.iter().partition(|set| set.last_resort);
        if !sets.is_empty() {
            let pools = vec![&self.pool[..]; sets.len()];
            let suites: Vec<i64> = sets.iter().map(|set| i64::from(set.ciphersuite)).collect();
            let days: Vec<i64> = sets.iter().map(|set| i64::from(set.expiry_day)).collect();
            let ids: Vec<&[u8]> = sets.iter().map(|set| &set.id[..]).collect();
            let values: Vec<&[u8]> = sets.iter().map(|set| &set.sealed[..]).collect();
            steps.push(step!(sql::ADD_SETS; pools, suites, days, ids, values));
        }
        // The last one of a ciphersuite stays.
        let last_resort: BTreeMap<u16, &NewKeyPackageSet> = last_resort
            .into_iter()
            .map(|set| (set.ciphersuite, set))
            .collect();
        for (suite, set) in last_resort {
            let (suite, day) = (i64::from(suite), i64::from(set.expiry_day));
            steps.push(step!(sql::PUT_LAST_RESORT; &self.pool[..], suite, day, &set.sealed[..]));
        }
        Ok(steps)
    }
}

/// Only the owner of a row may go on.
fn expect_owner(found: &[Outcome], owner_tag: &[u8; 32]) -> Result<(), StoreError> {
    match nth(found, 0)?.value()? {
        None => Err(StoreError::Absent),
        Some(owner) if owner != owner_tag => Err(StoreError::Taken),
        Some(_) => Ok(()),
    }
}

pub(super) struct DeletePool {
    pub(super) pool: [u8; 16],
    pub(super) owner_tag: [u8; 32],
}

impl Transition for DeletePool {
    /// The pool keeps publications out, its sets' rows the claims that would come crosswise.
    fn conditions(&self) -> Vec<Step<'_>> {
        vec![
            step!(sql::HOLD_POOL; &self.pool[..]),
            step!(sql::HOLD_SETS; &self.pool[..]),
        ]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        expect_owner(found, &self.owner_tag)?;
        Ok(
            [sql::DELETE_POOL, sql::DELETE_SETS, sql::DELETE_LAST_RESORT]
                .map(|sql| step!(sql; &self.pool[..]))
                .into(),
        )
    }
}

pub(super) struct Claim {
    sets: Vec<ConsumedSet>,
}

impl Claim {
    /// Sorted: claims that have sets in common wait for each other, not crosswise.
    pub(super) fn new(mut sets: Vec<ConsumedSet>) -> Self {
        sets.sort_unstable();
        Self { sets }
    }
}

impl Transition for Claim {
    /// One statement for each, since within one nothing tells the order of its locks. A set that is
    /// named twice is gone at the second.
    fn conditions(&self) -> Vec<Step<'_>> {
        self.sets
            .iter()
            .map(|set| set_step(sql::TAKE_SET, set))
            .collect()
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if found.iter().any(|taken| taken.affected == 0) {
            return Err(StoreError::Conflict);
        }
        Ok(Vec::new())
    }
}

fn set_step<'a>(sql: &'static str, set: &'a ConsumedSet) -> Step<'a> {
    let ConsumedSet {
        pool,
        ciphersuite,
        expiry_day,
        id,
    } = set;
    let (suite, day) = (i64::from(*ciphersuite), i64::from(*expiry_day));
    step!(sql; &pool[..], suite, day, &id[..])
}

pub(super) struct RegisterHandle {
    pub(super) row: [u8; 16],
    pub(super) owner_tag: [u8; 32],
    pub(super) sealed: Vec<u8>,
}

impl Transition for RegisterHandle {
    fn conditions(&self) -> Vec<Step<'_>> {
        let (row, owner) = (&self.row[..], &self.owner_tag[..]);
        vec![step!(sql::PUT_HANDLE; row, owner, &self.sealed[..])]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        if nth(found, 0)?.affected == 0 {
            return Err(StoreError::Taken);
        }
        Ok(Vec::new())
    }
}

pub(super) struct DeleteHandle {
    pub(super) row: [u8; 16],
    pub(super) owner_tag: [u8; 32],
}

impl Transition for DeleteHandle {
    fn conditions(&self) -> Vec<Step<'_>> {
        vec![step!(sql::HOLD_HANDLE; &self.row[..])]
    }

    fn decide(&self, found: &[Outcome]) -> Result<Vec<Step<'_>>, StoreError> {
        expect_owner(found, &self.owner_tag)?;
        Ok(vec![step!(sql::DELETE_HANDLE; &self.row[..])])
    }
}

/// A column that holds a ciphersuite.
fn suite(row: &Row, column: usize) -> Result<u16, StoreError> {
    u16::try_from(day(row, column)?).map_err(|_| malformed())
}

impl Sessions {
    pub(super) async fn count_key_packages(
        &self,
        pool: [u8; 16],
        owner_tag: [u8; 32],
        today: u32,
    ) -> Result<Vec<SetCount>, StoreError> {
        let today = i64::from(today);
        let limit = i64::try_from(MAX_COUNTED).unwrap_or(i64::MAX);
        let found = self
            .run(&[
                step!(sql::POOL; &pool[..]),
                step!(sql::COUNTED_SETS; &pool[..], today, limit),
                step!(sql::COUNTED_LAST_RESORT; &pool[..], today),
            ])
            .await?;
        expect_owner(&found, &owner_tag)?;
        let mut counts = Vec::new();
        for row in &nth(&found, 1)?.rows {
            SetCount::add(&mut counts, suite(row, 0)?, day(row, 1)?);
        }
        for row in &nth(&found, 2)?.rows {
            counts.push(SetCount {
                ciphersuite: suite(row, 0)?,
                expiry_day: day(row, 1)?,
                last_resort: true,
                sets: 1,
            });
        }
        Ok(counts)
    }

    pub(super) async fn claimable_set(
        &self,
        pool: [u8; 16],
        ciphersuite: u16,
        today: u32,
        pick: u64,
    ) -> Result<Option<ClaimableSet>, StoreError> {
        let (suite, today) = (i64::from(ciphersuite), i64::from(today));
        let limit = i64::try_from(CLAIM_CANDIDATES).unwrap_or(i64::MAX);
        let candidates = self
            .run(&[step!(sql::CANDIDATES; &pool[..], suite, today, limit)])
            .await?;
        let candidates = &nth(&candidates, 0)?.rows;
        let start = pick
            .checked_rem(candidates.len() as u64)
            .and_then(|start| usize::try_from(start).ok())
            .unwrap_or(0);
        // From there on round, past those that were claimed since they were listed.
        for row in candidates.iter().cycle().skip(start).take(candidates.len()) {
            let set = ConsumedSet {
                pool,
                ciphersuite,
                expiry_day: day(row, 0)?,
                id: name(row, 1)?,
            };
            let found = self.run(&[set_step(sql::SET, &set)]).await?;
            if let Some(sealed) = nth(&found, 0)?.value()? {
                return Ok(Some(ClaimableSet {
                    consume: Some(set),
                    sealed,
                }));
            }
        }
        let found = self
            .run(&[step!(sql::LAST_RESORT; &pool[..], suite, today)])
            .await?;
        Ok(nth(&found, 0)?.value()?.map(|sealed| ClaimableSet {
            consume: None,
            sealed,
        }))
    }
}
