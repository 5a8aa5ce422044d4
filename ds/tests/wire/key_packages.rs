//! KeyPackage sets: published by their owner, handed out once.

use crate::support::request::{Draft, fresh_key};
use crate::support::samples::set;
use crate::support::{Engine, Service, on_every_engine, tokens};
use crypto::keys::{ConnectionToken, Lookup as _};
use http::StatusCode;
use protocol::Operation;
use protocol::groups::Accepted;
use protocol::key_packages::{
    Claim, ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, CountKeyPackagesRequest,
    CountKeyPackagesResponse, KeyPackageSetUpload, MAX_CLAIMS, MAX_SETS, PublishKeyPackagesRequest,
};
use protocol::problem::ProblemType;
use protocol::time::{DAY_MS, day_of};

on_every_engine! {
    a_set_is_handed_out_once_under_contention
    a_claim_takes_all_or_nothing
    a_last_resort_set_is_handed_out_when_nothing_else_is_left_and_stays
    the_owner_and_nobody_else_learns_what_a_pool_can_hand_out
}

async fn publish(
    service: &Service,
    owner: &crypto::sign::LeafKeyPair,
    token: &ConnectionToken,
    sets: Vec<KeyPackageSetUpload>,
) {
    let body = PublishKeyPackagesRequest {
        lookup: token.lookup(),
        sets,
    };
    let _: Accepted = service
        .call(Operation::PublishKeyPackages, owner, &body)
        .await;
}

fn claim_request(service: &Service, pools: &[&ConnectionToken]) -> Vec<u8> {
    let key = fresh_key();
    let claims = pools
        .iter()
        .map(|token| Claim {
            lookup: token.lookup(),
            ciphersuite: 1,
        })
        .collect();
    Draft::by_key(
        service,
        Operation::ClaimKeyPackages,
        &key,
        &ClaimKeyPackagesRequest { claims },
    )
    .signed(&key)
}

async fn claim(
    service: &Service,
    pools: &[&ConnectionToken],
) -> Result<Vec<(u8, Vec<u8>)>, ProblemType> {
    let paid: Vec<_> = pools.iter().map(|_| tokens::mint()).collect();
    let request = claim_request(service, pools);
    let reply = service
        .post_with(Operation::ClaimKeyPackages, &request, &paid)
        .await;
    if reply.status == StatusCode::OK {
        let response: ClaimKeyPackagesResponse = reply.accepted();
        Ok(response
            .sets
            .iter()
            .map(|set| (set.last_resort, set.sealed.as_slice().to_vec()))
            .collect())
    } else {
        Err(reply.problem())
    }
}

fn token() -> ConnectionToken {
    ConnectionToken::random().unwrap()
}

async fn a_set_is_handed_out_once_under_contention(service: Service) {
    let pool = token();
    let sets = (0..8u8).map(|i| set(&service, &[i])).collect();
    publish(&service, &fresh_key(), &pool, sets).await;
    let claims: Vec<_> = (0..12)
        .map(|_| {
            let body = claim_request(&service, &[&pool]);
            let request =
                service.http_request(Operation::ClaimKeyPackages.path(), body, &[tokens::mint()]);
            let router = service.router();
            tokio::spawn(async move {
                crate::support::Reply::read(
                    tower::ServiceExt::oneshot(router, request).await.unwrap(),
                )
                .await
            })
        })
        .collect();
    let mut handed_out = Vec::new();
    for claim in claims {
        let reply = claim.await.unwrap();
        if reply.status == StatusCode::OK {
            let response: ClaimKeyPackagesResponse = reply.accepted();
            handed_out.push(response.sets.first().unwrap().sealed.as_slice().to_vec());
        } else {
            assert_eq!(reply.problem(), ProblemType::NoKeyPackages);
        }
    }
    handed_out.sort();
    assert_eq!(handed_out, (0..8u8).map(|i| vec![i]).collect::<Vec<_>>());
}

async fn a_claim_takes_all_or_nothing(service: Service) {
    let (full, empty) = (token(), token());
    publish(&service, &fresh_key(), &full, vec![set(&service, b"one")]).await;
    let before = service.store.transitions();
    assert_eq!(
        claim(&service, &[&full, &empty]).await,
        Err(ProblemType::NoKeyPackages)
    );
    assert_eq!(service.store.transitions(), before);
    publish(&service, &fresh_key(), &empty, vec![set(&service, b"two")]).await;
    let claimed = claim(&service, &[&full, &empty]).await.unwrap();
    assert_eq!(claimed, [(0, b"one".to_vec()), (0, b"two".to_vec())]);
}

async fn a_last_resort_set_is_handed_out_when_nothing_else_is_left_and_stays(service: Service) {
    let (pool, owner) = (token(), fresh_key());
    let last = KeyPackageSetUpload {
        last_resort: 1,
        ..set(&service, b"last")
    };
    publish(&service, &owner, &pool, vec![set(&service, b"first"), last]).await;
    assert_eq!(
        claim(&service, &[&pool]).await.unwrap(),
        [(0, b"first".to_vec())]
    );
    for _ in 0..2 {
        assert_eq!(
            claim(&service, &[&pool]).await.unwrap(),
            [(1, b"last".to_vec())]
        );
    }
    let newer = KeyPackageSetUpload {
        last_resort: 1,
        ..set(&service, b"newer")
    };
    publish(&service, &owner, &pool, vec![newer]).await;
    assert_eq!(
        claim(&service, &[&pool]).await.unwrap(),
        [(1, b"newer".to_vec())]
    );
    service.clock.advance(31 * DAY_MS);
    assert_eq!(
        claim(&service, &[&pool]).await,
        Err(ProblemType::NoKeyPackages),
        "expired"
    );
}

async fn the_owner_and_nobody_else_learns_what_a_pool_can_hand_out(service: Service) {
    let (pool, owner) = (token(), fresh_key());
    let body = CountKeyPackagesRequest {
        lookup: pool.lookup(),
    };
    let operation = Operation::CountKeyPackages;
    assert_eq!(
        service.refusal(operation, &owner, &body).await,
        ProblemType::NotOwner,
        "not there"
    );
    let day = set(&service, b"").expiry_day;
    let upload = |ciphersuite, expiry_day, last_resort| KeyPackageSetUpload {
        ciphersuite,
        expiry_day,
        last_resort,
        ..set(&service, b"sealed")
    };
    let sets = vec![
        upload(1, day, 0),
        upload(1, day, 0),
        upload(1, day - 5, 0),
        upload(3, day, 0),
        upload(3, day, 1),
    ];
    publish(&service, &owner, &pool, sets).await;
    publish(&service, &fresh_key(), &token(), vec![upload(1, day, 0)]).await;
    assert_eq!(
        service.refusal(operation, &fresh_key(), &body).await,
        ProblemType::NotOwner
    );
    let counted = async || {
        let answer: CountKeyPackagesResponse = service.call(operation, &owner, &body).await;
        let mut counts: Vec<_> = answer
            .counts
            .iter()
            .map(|it| (it.ciphersuite, it.expiry_day, it.last_resort, it.sets))
            .collect();
        counts.sort_unstable();
        counts
    };
    assert_eq!(
        counted().await,
        [
            (1, day - 5, 0, 1),
            (1, day, 0, 2),
            (3, day, 0, 1),
            (3, day, 1, 1)
        ]
    );
    claim(&service, &[&pool]).await.unwrap();
    let left = counted().await;
    let of_first: u32 = left.iter().filter(|it| it.0 == 1).map(|it| it.3).sum();
    assert_eq!(of_first, 2, "{left:?}");
    // What has expired is not handed out, so it does not count.
    let today = day_of(service.now());
    service.clock.advance(u64::from(day - today) * DAY_MS);
    assert!(counted().await.iter().all(|it| it.1 == day));
    service.clock.advance(DAY_MS);
    assert_eq!(counted().await, []);
}

#[tokio::test]
async fn key_packages_that_are_not_in_order_are_refused() {
    let service = Service::start(Engine::Memory);
    let (pool, owner) = (token(), fresh_key());
    publish(&service, &owner, &pool, vec![set(&service, b"mine")]).await;
    let body = |sets| PublishKeyPackagesRequest {
        lookup: pool.lookup(),
        sets,
    };
    let problem = service
        .refusal(
            Operation::PublishKeyPackages,
            &fresh_key(),
            &body(vec![set(&service, b"x")]),
        )
        .await;
    assert_eq!(problem, ProblemType::NotOwner);
    let today = day_of(service.now());
    let good = set(&service, b"x");
    for (sets, expected) in [
        (vec![], ProblemType::LimitExceeded),
        (vec![good.clone(); MAX_SETS + 1], ProblemType::LimitExceeded),
        (
            vec![KeyPackageSetUpload {
                expiry_day: today - 1,
                ..good.clone()
            }],
            ProblemType::LimitExceeded,
        ),
        (
            vec![KeyPackageSetUpload {
                expiry_day: today + 367,
                ..good.clone()
            }],
            ProblemType::LimitExceeded,
        ),
        (
            vec![KeyPackageSetUpload {
                last_resort: 2,
                ..good.clone()
            }],
            ProblemType::Malformed,
        ),
        (
            vec![
                good.clone(),
                KeyPackageSetUpload {
                    ciphersuite: 5,
                    ..good
                },
            ],
            ProblemType::UnsupportedCiphersuite,
        ),
    ] {
        assert_eq!(
            service
                .refusal(Operation::PublishKeyPackages, &owner, &body(sets))
                .await,
            expected
        );
    }
    assert_eq!(claim(&service, &[]).await, Err(ProblemType::LimitExceeded));
    assert_eq!(
        claim(&service, &[&pool, &pool]).await,
        Err(ProblemType::Malformed)
    );
    let many: Vec<_> = (0..=MAX_CLAIMS).map(|_| token()).collect();
    let many: Vec<_> = many.iter().collect();
    assert_eq!(
        claim(&service, &many).await,
        Err(ProblemType::LimitExceeded)
    );
    assert_eq!(
        claim(&service, &[&pool]).await.unwrap(),
        [(0, b"mine".to_vec())]
    );
}

#[tokio::test]
async fn each_claim_costs_its_own_token() {
    let service = Service::start(Engine::Memory);
    let (one, other) = (token(), token());
    for pool in [&one, &other] {
        publish(&service, &fresh_key(), pool, vec![set(&service, b"x")]).await;
    }
    let request = claim_request(&service, &[&one, &other]);
    let paid = tokens::mint();
    let reply = service
        .post_with(
            Operation::ClaimKeyPackages,
            &request,
            std::slice::from_ref(&paid),
        )
        .await;
    assert_eq!(reply.problem(), ProblemType::TokenRequired);
    let reply = service
        .post_with(
            Operation::ClaimKeyPackages,
            &request,
            &[paid.clone(), paid.clone()],
        )
        .await;
    assert_eq!(reply.problem(), ProblemType::TokenRejected);
    let reply = service
        .post_with(
            Operation::ClaimKeyPackages,
            &request,
            &[paid, tokens::mint()],
        )
        .await;
    assert_eq!(reply.status, StatusCode::OK);
}
