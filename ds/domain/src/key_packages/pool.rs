//! A pool as it is stored: its owner's tag under its row, its sets under their last days.

use protocol::ids::{Day, PoolId, Week};
use protocol::key_packages::MAX_POOL;

use crate::engine::{Key, Range, Table};
use crate::env::{Env, Version};
use crate::refusal::Stop;
use crate::rows::{Owner, PoolRow};
use crate::store::Versioned;
use crate::view::View;

/// Most weeks that a set is good for.
pub(super) const MAX_WEEKS: u16 = 14;

/// Who owns a pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) version: Version,
    pub(super) owner: Owner,
}

const DAMAGED: Stop = Stop::Internal("record of a pool");

impl Pool {
    pub(super) fn read(view: &View, row: PoolRow) -> Result<Option<Self>, Stop> {
        let Some(value) = view.row(&row.key())? else {
            return Ok(None);
        };
        let (version, owner) = Versioned::read(value).ok_or(DAMAGED)?;
        Ok(Some(Self {
            version,
            owner: Owner(owner.try_into().map_err(|_| DAMAGED)?),
        }))
    }

    pub(super) fn record(owner: Owner, env: &mut Env<'_>) -> Versioned {
        Versioned {
            version: env.version(),
            sealed: owner.0.to_vec(),
        }
    }
}

/// Row of a pool.
pub(super) fn row(id: &PoolId, env: &Env<'_>) -> PoolRow {
    env.rows().pool(id)
}

/// The days on which sets that are good now expire, the earliest first.
pub(super) fn last_days(env: &Env<'_>) -> impl Iterator<Item = Day> + use<> {
    let week = env.week().0;
    (week..=week.saturating_add(MAX_WEEKS)).map(|week| Week(week).last_day())
}

/// A set as it was read.
#[derive(Debug)]
pub(super) struct StoredSet {
    pub(super) key: Key,
    pub(super) ciphersuite: u16,
    pub(super) last_day: Day,
    pub(super) sealed: Vec<u8>,
}

/// The sets of a pool, of one ciphersuite or all, the ones that expire first first.
pub(super) fn sets(
    view: &View,
    pool: PoolRow,
    ciphersuite: Option<u16>,
    env: &Env<'_>,
) -> Result<Vec<StoredSet>, Stop> {
    let days: Vec<Day> = last_days(env).collect();
    let ranges: Vec<Range> = days
        .iter()
        .map(|day| pool.sets(*day, ciphersuite, MAX_POOL))
        .collect();
    let mut sets = Vec::new();
    for (day, rows) in days.iter().zip(view.ranges(&ranges)?) {
        for (name, sealed) in rows {
            let ciphersuite = name
                .get(16..18)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u16::from_be_bytes)
                .ok_or(DAMAGED)?;
            sets.push(StoredSet {
                key: Key {
                    table: Table::PoolSets,
                    day: day.0,
                    name: name.clone(),
                },
                ciphersuite,
                last_day: *day,
                sealed: sealed.clone(),
            });
        }
    }
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Service;

    #[test]
    fn a_pool_is_stored_as_it_always_was() {
        let mut service = Service::new(1);
        let (mut env, _) = service.env();
        let record = Pool::record(Owner([1; 16]), &mut env);
        crate::fixtures::check("pool", &record.into_value());
    }
}
