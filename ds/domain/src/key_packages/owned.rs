//! `CountKeyPackages` and `DeleteKeyPackages`: for the pool's owner.

use protocol::group::Accepted;
use protocol::ids::PoolId;
use protocol::key_packages::{
    CountKeyPackagesRequest, CountKeyPackagesResponse, DeleteKeyPackagesRequest, KeyPackageCount,
};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::pool::{self, Pool};
use crate::env::Env;
use crate::operation::{Change, Charge, Cost, Level, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, SignedBy, Unauthenticated};
use crate::rows::OwnerOf;
use crate::store::{self, Transition};
use crate::view::View;

/// What the signing key's pool can hand out. [`ProblemType::NotOwner`], also for a pool that is not
/// there: one and the same.
#[derive(Debug)]
pub struct CountKeyPackages;

/// Deletes the signing key's pool: whoever has its token finds nothing any more.
/// [`ProblemType::NotOwner`], also for a pool that is not there.
#[derive(Debug)]
pub struct DeleteKeyPackages;

/// The pool, if the signing key owns it.
fn owned(view: &View, id: &PoolId, who: &SignedBy, env: &Env<'_>) -> Result<Pool, Stop> {
    let owner = env.rows().owner(OwnerOf::Pool, who.key());
    Pool::read(view, pool::row(id, env))?
        .filter(|pool| pool.owner == owner)
        .ok_or_else(|| ProblemType::NotOwner.into())
}

fn cost(id: &PoolId, env: &Env<'_>) -> Cost {
    Cost {
        tokens: 0,
        charges: vec![Charge {
            level: Level::Owner,
            bucket: env.rows().pool_bucket(id),
            bytes: 0,
        }],
    }
}

impl Operation for CountKeyPackages {
    type Request = CountKeyPackagesRequest;
    type Response = CountKeyPackagesResponse;
    type Who = SignedBy;
    const OPERATION: Number = Number::CountKeyPackages;

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(request: &Authenticated<'_, Self::Request, SignedBy>, env: &Env<'_>) -> Cost {
        cost(&request.body().pool, env)
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<CountKeyPackagesResponse>, Stop> {
        let id = &request.body().pool;
        owned(view, id, request.who(), env)?;
        let mut counts: Vec<KeyPackageCount> = Vec::new();
        for set in pool::sets(view, pool::row(id, env), None, env)? {
            let expiry = protocol::ids::Week::of(u64::from(set.last_day.0) * 86_400_000);
            match counts
                .iter_mut()
                .find(|count| count.ciphersuite == set.ciphersuite && count.expiry == expiry)
            {
                Some(count) => count.sets = count.sets.saturating_add(1),
                None => counts.push(KeyPackageCount {
                    ciphersuite: set.ciphersuite,
                    expiry,
                    sets: 1,
                }),
            }
        }
        Ok(Change::nothing(CountKeyPackagesResponse { counts }))
    }
}

impl Operation for DeleteKeyPackages {
    type Request = DeleteKeyPackagesRequest;
    type Response = Accepted;
    type Who = SignedBy;
    const OPERATION: Number = Number::DeleteKeyPackages;

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(request: &Authenticated<'_, Self::Request, SignedBy>, env: &Env<'_>) -> Cost {
        cost(&request.body().pool, env)
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let id = &request.body().pool;
        let stored = owned(view, id, request.who(), env)?;
        let row = pool::row(id, env);
        let deletion = store::DeletePool {
            pool: row,
            expected: stored.version,
            sets: pool::sets(view, row, None, env)?
                .into_iter()
                .map(|set| set.key)
                .collect(),
        };
        Ok(Change::of(Transition::DeletePool(deletion), Accepted {}))
    }
}
