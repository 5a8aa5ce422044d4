//! KeyPackage pools: the service hands out what it cannot read.

use crypto::rows::Row;
use protocol::codec::opaque;
use protocol::groups::Accepted;
use protocol::key_packages::{
    ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, ClaimedSet, CountKeyPackagesRequest,
    CountKeyPackagesResponse, DeleteKeyPackagesRequest, KeyPackageCount, MAX_CLAIMS, MAX_SETS,
    PublishKeyPackagesRequest,
};
use protocol::problem::ProblemType;
use protocol::time::day_of;
use protocol::{Operation, Wire};

use crate::error::DsError;
use crate::groups::SUPPORTED_CIPHERSUITES;
use crate::limits::within;
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::{NewKeyPackageSet, StoreError};

/// Longest life of a set in days.
const MAX_LIFETIME_DAYS: u32 = 366;

const POOL_OWNER: &str = "key package pool owner";

/// How often a claim that met a concurrent one tries again.
const ATTEMPTS: usize = 16;

/// Publishes sets in the signing key's pool.
///
/// # Errors
/// [`ProblemType::NotOwner`], [`ProblemType::LimitExceeded`], [`ProblemType::UnsupportedCiphersuite`].
pub async fn publish_key_packages(
    service: &DeliveryService,
    request: Request<PublishKeyPackagesRequest>,
) -> Result<Accepted, DsError> {
    let sets = request.body.sets.len();
    let price = service
        .settings
        .prices
        .of(Operation::PublishKeyPackages, sets);
    request.require_tokens(price)?;
    let owner = request.authenticate_key()?;
    let today = day_of(request.now_ms);
    if request.body.sets.is_empty() || request.body.sets.len() > MAX_SETS {
        return Err(ProblemType::LimitExceeded.into());
    }
    let mut sets = Vec::with_capacity(request.body.sets.len());
    for set in &request.body.sets {
        if !SUPPORTED_CIPHERSUITES.contains(&set.ciphersuite) {
            return Err(ProblemType::UnsupportedCiphersuite.into());
        }
        if set.expiry_day < today || set.expiry_day.saturating_sub(today) > MAX_LIFETIME_DAYS {
            return Err(ProblemType::LimitExceeded.into());
        }
        within(
            set.sealed.as_slice().len(),
            service.settings.limits.key_package_set_bytes,
        )?;
        sets.push(NewKeyPackageSet {
            id: crypto::random()?,
            ciphersuite: set.ciphersuite,
            expiry_day: set.expiry_day,
            last_resort: match set.last_resort {
                0 => false,
                1 => true,
                _ => return Err(ProblemType::Malformed.into()),
            },
            sealed: set.sealed.as_slice().to_vec(),
        });
    }
    let receipt = request.receipt(service, price, &Accepted {}.encode())?;
    let pool = service.rows().key_package_pool(&request.body.lookup);
    service
        .store
        .publish_key_packages(pool, owner.tag(service, POOL_OWNER), sets, receipt)
        .await
        .map_err(|error| match error {
            StoreError::Taken => ProblemType::NotOwner.into(),
            other => DsError::from(other),
        })?;
    Ok(Accepted {})
}

/// Deletes the signing key's pool: whoever has its connection token finds nothing any more.
///
/// # Errors
/// [`ProblemType::NotOwner`], also for a pool that is not there: one and the same.
pub async fn delete_key_packages(
    service: &DeliveryService,
    request: Request<DeleteKeyPackagesRequest>,
) -> Result<Accepted, DsError> {
    let owner = request.authenticate_key()?;
    let receipt = request.receipt(service, 0, &Accepted {}.encode())?;
    let pool = service.rows().key_package_pool(&request.body.lookup);
    service
        .store
        .delete_key_packages(pool, owner.tag(service, POOL_OWNER), receipt)
        .await
        .map_err(|error| match error {
            StoreError::Taken | StoreError::Absent => ProblemType::NotOwner.into(),
            other => DsError::from(other),
        })?;
    Ok(Accepted {})
}

/// Says what the signing key's pool can hand out.
///
/// # Errors
/// [`ProblemType::NotOwner`], also for a pool that is not there: one and the same.
pub async fn count_key_packages(
    service: &DeliveryService,
    request: Request<CountKeyPackagesRequest>,
) -> Result<CountKeyPackagesResponse, DsError> {
    let owner = request.authenticate_key()?.tag(service, POOL_OWNER);
    let pool = service.rows().key_package_pool(&request.body.lookup);
    let today = day_of(request.now_ms);
    let counts = service
        .store
        .count_key_packages(pool, owner, today)
        .await
        .map_err(|error| match error {
            StoreError::Taken | StoreError::Absent => ProblemType::NotOwner.into(),
            other => DsError::from(other),
        })?;
    let counts = counts
        .into_iter()
        .map(|count| KeyPackageCount {
            ciphersuite: count.ciphersuite,
            expiry_day: count.expiry_day,
            last_resort: u8::from(count.last_resort),
            sets: count.sets,
        })
        .collect();
    Ok(CountKeyPackagesResponse { counts })
}

/// Claims one set for each of several users: all of them, or none.
///
/// # Errors
/// [`ProblemType::NoKeyPackages`], [`ProblemType::LimitExceeded`].
pub async fn claim_key_packages(
    service: &DeliveryService,
    request: Request<ClaimKeyPackagesRequest>,
) -> Result<ClaimKeyPackagesResponse, DsError> {
    let claims = &request.body.claims;
    if claims.is_empty() || claims.len() > MAX_CLAIMS {
        return Err(ProblemType::LimitExceeded.into());
    }
    let price = usize::from(service.settings.prices.claim_key_package).saturating_mul(claims.len());
    request.require_tokens(price)?;
    request.authenticate_key()?;
    let today = day_of(request.now_ms);
    let pools: Vec<(Row, u16)> = claims
        .iter()
        .map(|claim| {
            (
                service.rows().key_package_pool(&claim.lookup),
                claim.ciphersuite,
            )
        })
        .collect();
    // The same pool twice would be promised the same set twice.
    if pools
        .iter()
        .enumerate()
        .any(|(at, pool)| pools.iter().take(at).any(|other| other == pool))
    {
        return Err(ProblemType::Malformed.into());
    }
    for _ in 0..ATTEMPTS {
        let mut response = ClaimKeyPackagesResponse {
            sets: Vec::with_capacity(pools.len()),
        };
        let mut consumed = Vec::with_capacity(pools.len());
        for (pool, ciphersuite) in &pools {
            let pick = u64::from_be_bytes(crypto::random()?);
            let set = service
                .store
                .claimable_set(*pool, *ciphersuite, today, pick)
                .await?
                .ok_or(ProblemType::NoKeyPackages)?;
            response.sets.push(ClaimedSet {
                last_resort: u8::from(set.consume.is_none()),
                sealed: opaque(set.sealed),
            });
            consumed.extend(set.consume);
        }
        let receipt = request.receipt(service, price, &response.encode())?;
        match service.store.claim_key_packages(consumed, receipt).await {
            Ok(()) => return Ok(response),
            Err(StoreError::Conflict) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(ProblemType::Conflict.into())
}
