//! `ClaimKeyPackages`.

use protocol::codec::opaque;
use protocol::key_packages::{ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, MAX_CLAIM};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::pool;
use crate::env::{Env, Prices};
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, SignedBy, Unauthenticated};
use crate::store::{self, Transition};
use crate::view::View;

/// Hands out sets of one pool, each once: as many as are asked for and there, at least one.
/// [`ProblemType::NoKeyPackages`], also for a pool that is not there: the token is spent all the
/// same, or trying pools would be free.
#[derive(Debug)]
pub struct ClaimKeyPackages;

/// Sets, of those that expire first, that a claim chooses from: two claims at one moment seldom
/// meet.
const CANDIDATES: usize = 64;

impl Operation for ClaimKeyPackages {
    type Request = ClaimKeyPackagesRequest;
    type Response = ClaimKeyPackagesResponse;
    type Who = SignedBy;
    const OPERATION: Number = Number::ClaimKeyPackages;

    fn most_tokens(prices: &Prices) -> usize {
        usize::from(prices.claim_key_package) * usize::from(MAX_CLAIM)
    }

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(request: &Authenticated<'_, Self::Request, SignedBy>, env: &Env<'_>) -> Cost {
        let sets = request.body().sets.clamp(1, MAX_CLAIM);
        Cost {
            tokens: env.settings.prices.claim_key_package.saturating_mul(sets),
            charges: Vec::new(),
        }
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<ClaimKeyPackagesResponse>, Stop> {
        let body = request.body();
        if body.sets == 0 || body.sets > MAX_CLAIM {
            return Err(ProblemType::LimitExceeded.into());
        }
        let row = pool::row(&body.pool, env);
        let mut candidates = pool::sets(view, row, Some(body.ciphersuite), env)?;
        candidates.truncate(CANDIDATES);
        let mut claimed = Vec::new();
        while claimed.len() < usize::from(body.sets) && !candidates.is_empty() {
            let pick = u64::from_be_bytes(env.random());
            let len = u64::try_from(candidates.len()).unwrap_or(u64::MAX);
            let at = usize::try_from(pick % len).unwrap_or_default();
            claimed.push(candidates.swap_remove(at));
        }
        if claimed.is_empty() {
            return Err(Stop::from(ProblemType::NoKeyPackages).at_cost());
        }
        let response = ClaimKeyPackagesResponse {
            sets: claimed
                .iter()
                .map(|set| opaque(set.sealed.as_slice()))
                .collect(),
        };
        let claim = store::ClaimKeyPackages {
            sets: claimed.into_iter().map(|set| set.key).collect(),
        };
        Ok(Change::of(Transition::ClaimKeyPackages(claim), response))
    }
}
