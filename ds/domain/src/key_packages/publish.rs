//! `PublishKeyPackages`.

use protocol::group::Accepted;
use protocol::key_packages::{MAX_POOL, MAX_SETS, PublishKeyPackagesRequest};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::pool::{self, MAX_WEEKS, Pool};
use crate::env::{Env, Prices};
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, SignedBy, Unauthenticated};
use crate::rows::OwnerOf;
use crate::store::{self, Transition};
use crate::view::View;

/// Adds sets to the signing key's pool; the first publication binds the pool to it.
/// [`ProblemType::NotOwner`], [`ProblemType::LimitExceeded`].
#[derive(Debug)]
pub struct PublishKeyPackages;

impl Operation for PublishKeyPackages {
    type Request = PublishKeyPackagesRequest;
    type Response = Accepted;
    type Who = SignedBy;
    const OPERATION: Number = Number::PublishKeyPackages;

    fn most_tokens(prices: &Prices) -> usize {
        prices.of_publication(MAX_SETS).into()
    }

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(request: &Authenticated<'_, Self::Request, SignedBy>, env: &Env<'_>) -> Cost {
        let sets = request.body().sets.len().min(MAX_SETS);
        Cost {
            tokens: env.settings.prices.of_publication(sets),
            charges: Vec::new(),
        }
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Accepted>, Stop> {
        let body = request.body();
        if body.sets.is_empty() || body.sets.len() > MAX_SETS {
            return Err(ProblemType::LimitExceeded.into());
        }
        let weeks = env.week().0..=env.week().0.saturating_add(MAX_WEEKS);
        for set in &body.sets {
            if !weeks.contains(&set.expiry.0)
                || set.sealed.as_slice().len() > env.settings.limits.key_package_set_bytes
            {
                return Err(ProblemType::LimitExceeded.into());
            }
        }
        let row = pool::row(&body.pool, env);
        let owner = env.rows().owner(OwnerOf::Pool, request.who().key());
        let stored = Pool::read(view, row)?;
        if stored.as_ref().is_some_and(|pool| pool.owner != owner) {
            return Err(ProblemType::NotOwner.into());
        }
        let there = pool::sets(view, row, None, env)?.len();
        if there.saturating_add(body.sets.len()) > MAX_POOL {
            return Err(ProblemType::LimitExceeded.into());
        }
        let sets = body
            .sets
            .iter()
            .map(|set| {
                (
                    set.expiry.last_day(),
                    set.ciphersuite,
                    env.random(),
                    set.sealed.as_slice().to_vec(),
                )
            })
            .collect();
        let publication = store::PublishKeyPackages {
            pool: row,
            expected: stored.map(|pool| pool.version),
            record: Pool::record(owner, env),
            sets,
        };
        Ok(Change::of(
            Transition::PublishKeyPackages(publication),
            Accepted {},
        ))
    }
}
