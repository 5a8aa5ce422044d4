use protocol::codec::opaque;
use protocol::ids::{PoolId, Week};
use protocol::key_packages::{
    ClaimKeyPackagesRequest, CountKeyPackagesRequest, DeleteKeyPackagesRequest,
    KeyPackageSetUpload, PublishKeyPackagesRequest,
};
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::{ClaimKeyPackages, CountKeyPackages, DeleteKeyPackages, PublishKeyPackages};
use crate::execution::Failure;
use crate::testing::{DAY_MS, Service, key, same};

const POOL: PoolId = PoolId([7; 32]);

fn refused(problem: ProblemType) -> Failure {
    Failure::Refused(problem.into())
}

fn publication(service: &Service, sets: &[(u8, u16)]) -> PublishKeyPackagesRequest {
    let week = Week::of(service.now_ms).0;
    PublishKeyPackagesRequest {
        pool: POOL,
        sets: sets
            .iter()
            .map(|(content, weeks)| KeyPackageSetUpload {
                ciphersuite: 1,
                expiry: Week(week + weeks),
                sealed: opaque(vec![*content; 8]),
            })
            .collect(),
    }
}

fn claim(sets: u8) -> ClaimKeyPackagesRequest {
    ClaimKeyPackagesRequest {
        pool: POOL,
        ciphersuite: 1,
        sets,
    }
}

#[test]
fn each_set_is_handed_out_once_also_to_claims_at_the_same_moment() {
    let mut service = Service::new(1);
    let sets: Vec<(u8, u16)> = (0..12).map(|content| (content, 3)).collect();
    let body = publication(&service, &sets);
    service.call::<PublishKeyPackages>(&key(1), &body).unwrap();
    // Six claims of two sets, all of which have decided before the first is applied.
    let pending: Vec<_> = (0..6)
        .map(|_| {
            let bytes = service.signed(Number::ClaimKeyPackages, &key(2), &claim(2));
            let tokens = service.tokens(2);
            service.until_apply::<ClaimKeyPackages>(&bytes, tokens)
        })
        .collect();
    let mut handed_out = Vec::new();
    for execution in pending {
        let outcome = service.finish(execution);
        assert_eq!(outcome.tokens, 2);
        let answer: protocol::key_packages::ClaimKeyPackagesResponse =
            protocol::Wire::decode(&outcome.answer.unwrap()).unwrap();
        handed_out.extend(answer.sets.iter().map(|set| set.as_slice()[0]));
    }
    handed_out.sort_unstable();
    assert_eq!(handed_out, (0..12).collect::<Vec<u8>>());
    assert_eq!(
        service
            .call::<ClaimKeyPackages>(&key(2), &claim(1))
            .unwrap_err(),
        refused(ProblemType::NoKeyPackages)
    );
}

#[test]
fn a_repeated_claim_is_answered_alike_and_takes_nothing_more() {
    let mut service = Service::new(2);
    let body = publication(&service, &[(1, 3), (2, 3)]);
    service.call::<PublishKeyPackages>(&key(1), &body).unwrap();
    let bytes = service.signed(Number::ClaimKeyPackages, &key(2), &claim(1));
    let token = service.token();
    let first = service
        .run::<ClaimKeyPackages>(&bytes, vec![same(&token)])
        .unwrap();
    let rows = service.engine.clone();
    let again = service
        .run::<ClaimKeyPackages>(&bytes, vec![same(&token)])
        .unwrap();
    assert_eq!(first, again);
    assert_eq!(service.engine, rows);
    // Another request with that token buys nothing.
    let other = service.signed(Number::ClaimKeyPackages, &key(2), &claim(1));
    assert_eq!(
        service
            .run::<ClaimKeyPackages>(&other, vec![token])
            .unwrap_err(),
        refused(ProblemType::TokenRejected)
    );
    assert_eq!(service.engine, rows);
}

#[test]
fn trying_pools_costs_a_token_each_time() {
    let mut service = Service::new(3);
    let bytes = service.signed(Number::ClaimKeyPackages, &key(2), &claim(1));
    let token = service.token();
    let no_token = service.run::<ClaimKeyPackages>(&bytes, Vec::new());
    assert_eq!(no_token.unwrap_err(), refused(ProblemType::TokenRequired));
    let refusal = refused(ProblemType::NoKeyPackages);
    for _ in 0..2 {
        let answer = service.run::<ClaimKeyPackages>(&bytes, vec![same(&token)]);
        assert_eq!(answer.unwrap_err(), refusal);
    }
    let other = service.signed(Number::ClaimKeyPackages, &key(2), &claim(1));
    let answer = service.run::<ClaimKeyPackages>(&other, vec![token]);
    assert_eq!(answer.unwrap_err(), refused(ProblemType::TokenRejected));
}

#[test]
fn only_its_owner_adds_to_counts_and_deletes_a_pool() {
    let mut service = Service::new(4);
    let body = publication(&service, &[(1, 3), (2, 5)]);
    service.call::<PublishKeyPackages>(&key(1), &body).unwrap();
    let not_owner = refused(ProblemType::NotOwner);
    let (count, delete) = (
        CountKeyPackagesRequest { pool: POOL },
        DeleteKeyPackagesRequest { pool: POOL },
    );
    assert_eq!(
        service
            .call::<PublishKeyPackages>(&key(2), &body)
            .unwrap_err(),
        not_owner
    );
    assert_eq!(
        service
            .call::<CountKeyPackages>(&key(2), &count)
            .unwrap_err(),
        not_owner
    );
    assert_eq!(
        service
            .call::<DeleteKeyPackages>(&key(2), &delete)
            .unwrap_err(),
        not_owner
    );
    let counts = service
        .call::<CountKeyPackages>(&key(1), &count)
        .unwrap()
        .counts;
    assert_eq!(
        counts.iter().map(|count| count.sets).collect::<Vec<_>>(),
        [1, 1]
    );
    service.call::<DeleteKeyPackages>(&key(1), &delete).unwrap();
    assert_eq!(
        service
            .call::<ClaimKeyPackages>(&key(2), &claim(1))
            .unwrap_err(),
        refused(ProblemType::NoKeyPackages)
    );
    assert_eq!(
        service
            .call::<CountKeyPackages>(&key(1), &count)
            .unwrap_err(),
        not_owner
    );
}

#[test]
fn sets_go_out_the_earliest_first_and_never_after_their_week() {
    let mut service = Service::new(5);
    let body = publication(&service, &[(1, 6), (2, 0), (3, 2)]);
    service.call::<PublishKeyPackages>(&key(1), &body).unwrap();
    let first = service
        .call::<ClaimKeyPackages>(&key(2), &claim(4))
        .unwrap();
    assert_eq!(first.sets.len(), 3);
    let body = publication(&service, &[(4, 1)]);
    service.call::<PublishKeyPackages>(&key(1), &body).unwrap();
    service.now_ms += 15 * DAY_MS;
    assert_eq!(
        service
            .call::<ClaimKeyPackages>(&key(2), &claim(1))
            .unwrap_err(),
        refused(ProblemType::NoKeyPackages)
    );
}

#[test]
fn a_pool_has_a_bound() {
    let mut service = Service::new(6);
    let sets: Vec<(u8, u16)> = (0..64).map(|content| (content, 3)).collect();
    let body = publication(&service, &sets);
    service.call::<PublishKeyPackages>(&key(1), &body).unwrap();
    service.call::<PublishKeyPackages>(&key(1), &body).unwrap();
    let one_more = publication(&service, &[(1, 3)]);
    assert_eq!(
        service
            .call::<PublishKeyPackages>(&key(1), &one_more)
            .unwrap_err(),
        refused(ProblemType::LimitExceeded)
    );
}
