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
use crate::request::{Authenticated, Unauthenticated};
use crate::rows::OwnerOf;
use crate::store::{self, Transition};
use crate::view::View;

/// Counts the sets that the signing key's pool can hand out. A pool that is not there gives
/// [`ProblemType::NotOwner`], like one of somebody else.
#[derive(Debug)]
pub struct CountKeyPackages;

/// Deletes the signing key's pool. Holders of its token then find nothing. A pool that is not there
/// gives [`ProblemType::NotOwner`], like one of somebody else.
#[derive(Debug)]
pub struct DeleteKeyPackages;

/// The owner of the pool that the request names. Contacts know the pool too, but draw on nothing of
/// it.
#[derive(Debug)]
pub struct PoolOwner(Pool);

fn by_owner<'r, T>(
    request: &'r Unauthenticated<T>,
    id: impl FnOnce(&T) -> &PoolId,
    view: &View,
    env: &Env<'_>,
) -> Result<Authenticated<'r, T, PoolOwner>, Stop> {
    let signed = request.by_its_key()?;
    let owner = env.rows().owner(OwnerOf::Pool, signed.who().key());
    let pool = Pool::read(view, pool::row(id(signed.body()), env))?
        .filter(|pool| pool.owner == owner)
        .ok_or(ProblemType::NotOwner)?;
    Ok(signed.map(|_| PoolOwner(pool)))
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
    type Who = PoolOwner;
    const OPERATION: Number = Number::CountKeyPackages;

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, PoolOwner>, Stop> {
        by_owner(request, |body| &body.pool, view, env)
    }

    fn cost(request: &Authenticated<'_, Self::Request, PoolOwner>, env: &Env<'_>) -> Cost {
        cost(&request.body().pool, env)
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, PoolOwner>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<CountKeyPackagesResponse>, Stop> {
        let id = &request.body().pool;
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
    type Who = PoolOwner;
    const OPERATION: Number = Number::DeleteKeyPackages;

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, PoolOwner>, Stop> {
        by_owner(request, |body| &body.pool, view, env)
    }

    fn cost(request: &Authenticated<'_, Self::Request, PoolOwner>, env: &Env<'_>) -> Cost {
        cost(&request.body().pool, env)
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, PoolOwner>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let id = &request.body().pool;
        let PoolOwner(stored) = request.who();
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
