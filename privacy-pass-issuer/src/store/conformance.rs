//! One suite that judges every engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::thread;

use proptest::prelude::*;

use super::ChargeOutcome::{AlreadyIssued, Charged};
use super::{
    AccountOfDay, BlockedAccount, Charge, ChargeOutcome, ChargeResult, Day, IssuerStore,
    MemoryStore, RequestDigest, RocksStore,
};

const TODAY: Day = Day(20_000);
const LIMIT_REACHED: ChargeOutcome = ChargeOutcome::LimitReached { left: 0 };

fn every_engine(check: impl Fn(&dyn IssuerStore)) {
    check(&MemoryStore::default());
    let directory = tempfile::tempdir().unwrap();
    check(&RocksStore::create(directory.path()).unwrap());
}

fn charge(
    store: &dyn IssuerStore,
    account: u8,
    day: Day,
    request: u32,
    limit: u32,
) -> ChargeOutcome {
    charge_batch(store, account, day, request, 1, limit)
}

fn charge_batch(
    store: &dyn IssuerStore,
    account: u8,
    day: Day,
    request: u32,
    tokens: u32,
    limit: u32,
) -> ChargeOutcome {
    let mut digest = [account; 32];
    digest[..4].copy_from_slice(&request.to_be_bytes());
    store
        .charge(&Charge {
            account: AccountOfDay([account; 32]),
            day,
            request: RequestDigest(digest),
            tokens,
            limit,
        })
        .unwrap()
}

fn charge_group(store: &dyn IssuerStore, group: &[Charge]) -> Vec<ChargeOutcome> {
    let mut outcomes = None;
    let told_once = &mut |decisions: Vec<ChargeResult>| {
        let decisions = decisions.into_iter().map(Result::unwrap).collect();
        assert!(outcomes.replace(decisions).is_none());
    };
    store.charge_all(group, told_once).unwrap();
    outcomes.unwrap()
}

#[test]
fn an_account_gets_its_limit_and_no_more() {
    every_engine(|store| {
        for request in 0..3 {
            assert_eq!(charge(store, 1, TODAY, request, 3), Charged);
        }
        assert_eq!(charge(store, 1, TODAY, 3, 3), LIMIT_REACHED);
        assert_eq!(
            charge(store, 2, TODAY, 3, 3),
            Charged,
            "another account has its own limit"
        );
    });
}

#[test]
fn the_same_request_is_counted_once_even_at_the_limit() {
    every_engine(|store| {
        assert_eq!(charge(store, 1, TODAY, 0, 1), Charged);
        assert_eq!(charge(store, 1, TODAY, 0, 1), AlreadyIssued);
        assert_eq!(charge(store, 1, TODAY, 1, 1), LIMIT_REACHED);
        assert_eq!(
            charge(store, 1, TODAY, 1, 2),
            Charged,
            "a refused request left no record"
        );
    });
}

#[test]
fn a_new_day_brings_a_new_limit_and_remembers_the_requests_of_the_day_before() {
    every_engine(|store| {
        let (tomorrow, later) = (Day(TODAY.0 + 1), Day(TODAY.0 + 2));
        assert_eq!(charge(store, 1, TODAY, 0, 1), Charged);
        assert_eq!(charge(store, 1, tomorrow, 0, 1), AlreadyIssued);
        assert_eq!(charge(store, 1, tomorrow, 1, 1), Charged);
        assert_eq!(charge(store, 1, tomorrow, 2, 1), LIMIT_REACHED);
        assert_eq!(
            charge(store, 1, later, 0, 1),
            Charged,
            "two days on it is a new request"
        );
    });
}

#[test]
fn a_clock_that_goes_back_finds_the_counts_of_that_day() {
    every_engine(|store| {
        assert_eq!(charge(store, 1, TODAY, 0, 1), Charged);
        assert_eq!(charge(store, 1, Day(TODAY.0 + 1), 1, 1), Charged);
        assert_eq!(charge(store, 1, TODAY, 2, 1), LIMIT_REACHED);
    });
}

#[test]
fn forgetting_drops_the_days_before_and_nothing_else() {
    every_engine(|store| {
        let days = [TODAY.yesterday(), TODAY, Day(TODAY.0 + 1)];
        for (request, day) in (0..).zip(days) {
            assert_eq!(charge(store, 1, day, request, 1), Charged);
        }
        store.forget_days_before(TODAY).unwrap();
        store.forget_days_before(Day(0)).unwrap();
        assert_eq!(
            charge(store, 1, days[0], 9, 1),
            Charged,
            "this day was dropped"
        );
        assert_eq!(charge(store, 1, days[1], 8, 1), LIMIT_REACHED);
        assert_eq!(charge(store, 1, days[2], 7, 1), LIMIT_REACHED);
    });
}

#[test]
fn threads_together_never_pass_the_limit() {
    every_engine(|store| {
        let charged: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    scope.spawn(move || {
                        (0..20)
                            .filter(|i| charge(store, 1, TODAY, thread * 20 + i, 50) == Charged)
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(charged, 50);
    });
}

#[test]
fn threads_with_the_same_request_are_charged_once() {
    every_engine(|store| {
        let outcomes: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| charge(store, 1, TODAY, 0, 5)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(
            outcomes
                .iter()
                .filter(|outcome| **outcome == Charged)
                .count(),
            1
        );
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, Charged | AlreadyIssued))
        );
    });
}

#[test]
fn a_batch_is_counted_as_a_whole_or_not_at_all() {
    every_engine(|store| {
        assert_eq!(charge_batch(store, 1, TODAY, 0, 7, 10), Charged);
        assert_eq!(
            charge_batch(store, 1, TODAY, 1, 4, 10),
            ChargeOutcome::LimitReached { left: 3 }
        );
        assert_eq!(charge_batch(store, 1, TODAY, 0, 7, 10), AlreadyIssued);
        assert_eq!(charge_batch(store, 1, TODAY, 2, 3, 10), Charged);
        assert_eq!(
            charge_batch(store, 1, TODAY, 3, u32::MAX, 10),
            LIMIT_REACHED
        );
        // A limit that was lowered meanwhile.
        assert_eq!(charge(store, 1, TODAY, 4, 5), LIMIT_REACHED);
    });
}

#[test]
fn what_is_charged_can_be_looked_up_without_charging() {
    every_engine(|store| {
        let request = RequestDigest([9; 32]);
        let charge = Charge {
            account: AccountOfDay([1; 32]),
            day: TODAY,
            request,
            tokens: 1,
            limit: 1,
        };
        assert!(!store.is_charged(TODAY, request).unwrap());
        assert_eq!(store.charge(&charge).unwrap(), Charged);
        assert!(store.is_charged(TODAY, request).unwrap());
        assert!(store.is_charged(Day(TODAY.0 + 1), request).unwrap());
        assert!(!store.is_charged(Day(TODAY.0 + 2), request).unwrap());
    });
}

#[test]
fn an_account_is_blocked_until_it_is_unblocked() {
    every_engine(|store| {
        let (blocked, other) = (BlockedAccount([1; 32]), BlockedAccount([2; 32]));
        assert!(!store.unblock(blocked).unwrap());
        store.block(blocked).unwrap();
        store.block(blocked).unwrap();
        assert!(store.is_blocked(blocked).unwrap());
        assert!(!store.is_blocked(other).unwrap());
        assert!(store.unblock(blocked).unwrap());
        assert!(!store.is_blocked(blocked).unwrap());
    });
}

fn arbitrary_charges() -> impl Strategy<Value = Vec<Charge>> {
    let one = (0_u8..3, 0_u32..3, 0_u8..8, 1_u32..5, 1_u32..12);
    let one = one.prop_map(|(account, day, request, tokens, limit)| Charge {
        account: AccountOfDay([account; 32]),
        day: Day(TODAY.0 + day),
        request: RequestDigest([16 * account + request; 32]),
        tokens,
        limit,
    });
    prop::collection::vec(one, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn charges_in_any_groups_come_to_what_they_come_to_one_at_a_time(
        charges in arbitrary_charges(),
        cuts in prop::collection::vec(1_usize..12, 60),
    ) {
        let alone = MemoryStore::default();
        let expected: Vec<_> = charges.iter().map(|it| alone.charge(it).unwrap()).collect();
        every_engine(|store| {
            let (mut rest, mut outcomes) = (charges.as_slice(), Vec::new());
            for cut in &cuts {
                let (group, others) = rest.split_at((*cut).min(rest.len()));
                outcomes.extend(charge_group(store, group));
                rest = others;
            }
            assert_eq!(outcomes, expected);
        });
    }
}

#[test]
fn threads_with_groups_together_never_pass_the_limit() {
    every_engine(|store| {
        let charged: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..8_u8)
                .map(|thread| {
                    scope.spawn(move || {
                        let group: Vec<_> = (0..20)
                            .map(|number| Charge {
                                account: AccountOfDay([1; 32]),
                                day: TODAY,
                                request: RequestDigest([thread * 20 + number; 32]),
                                tokens: 1,
                                limit: 50,
                            })
                            .collect();
                        let outcomes = charge_group(store, &group);
                        outcomes.iter().filter(|it| **it == Charged).count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(charged, 50);
    });
}
