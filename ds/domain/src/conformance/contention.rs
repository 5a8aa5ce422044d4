//! Many at once, on as many nodes as there are: what races must not break.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use super::*;

/// Contenders of a race.
const MANY: u8 = 24;

/// Whether a batch was refused for this condition.
fn is_refused_for(applied: &Result<(), ApplyError>, condition: usize) -> bool {
    matches!(applied, Err(ApplyError::Condition { condition: at, .. }) if *at == condition)
}

/// The number of the only contender that was not refused for this condition.
fn only_winner(answers: &[Result<(), ApplyError>], condition: usize) -> u8 {
    let mut winners = (0..).zip(answers).filter(|(_, answer)| answer.is_ok());
    let (winner, _) = winners.next().unwrap();
    assert!(winners.next().is_none(), "{answers:?}");
    for (number, answer) in (0..).zip(answers) {
        assert!(
            number == winner || is_refused_for(answer, condition),
            "{answer:?}"
        );
    }
    winner
}

/// A read that needs no disk does not wait.
async fn let_others_go_on() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Each attempt would write something else; the request is the same. All are told what the first
/// wrote.
pub async fn a_request_that_comes_many_times_at_once_has_one_effect(engine: Shared) {
    for round in 0..8u8 {
        let result = key(Table::Results, 9, &[round]);
        let attempts = (0..MANY).map(|number| {
            let batch = Batch {
                conditions: vec![Condition::Absent(result.clone())],
                puts: vec![
                    (result.clone(), vec![round, number]),
                    (key(Table::Messages, 9, &[round, number]), vec![number]),
                ],
                deletes: Vec::new(),
            };
            engine.apply(batch)
        });
        let answers = join_all(attempts).await;
        let winner = only_winner(&answers, 0);
        let told = ApplyError::Condition {
            condition: 0,
            found: Some(vec![round, winner]),
        };
        for answer in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!(*answer, told);
        }
        let effects = names(&engine, range(Table::Messages, 9, &[round])).await;
        assert_eq!(effects, [vec![round, winner]]);
    }
}

/// Different requests with one token in common, and one of its own each: who loses keeps that.
pub async fn a_token_is_spent_once_by_racing_requests(engine: Shared) {
    for round in 0..8u8 {
        let common = key(Table::Spent, 0, &[round, 0, 0]);
        let own = |number: u8| key(Table::Spent, 0, &[round, 1, number]);
        let attempts = (0..MANY).map(|number| {
            let result = key(Table::Results, 9, &[round, number]);
            let tokens = [own(number), common.clone()];
            let mut conditions = vec![Condition::Absent(result.clone())];
            conditions.extend(tokens.clone().map(Condition::Absent));
            let mut puts = vec![(result, vec![number])];
            puts.extend(tokens.map(|token| (token, Vec::new())));
            engine.apply(Batch {
                conditions,
                puts,
                deletes: Vec::new(),
            })
        });
        let winner = only_winner(&join_all(attempts).await, 2);
        for number in 0..MANY {
            let is_spent = value(&engine, &own(number)).await.is_some();
            assert_eq!(is_spent, number == winner);
        }
    }
}

/// Whoever claims finds a set that nobody else gets, as long as there is one.
pub async fn each_of_many_sets_goes_to_one_of_more_claimers(engine: Shared) {
    const SETS: u8 = 16;
    for set in 0..SETS {
        engine
            .apply(put(&key(Table::PoolSets, 9, &[7, set]), &[set]))
            .await
            .unwrap();
    }
    let claimers = (0..MANY).map(|claimer| {
        let engine = Arc::clone(&engine);
        async move {
            loop {
                let sets = names(&engine, range(Table::PoolSets, 9, &[7])).await;
                let name = sets.get(usize::from(claimer) % sets.len().max(1))?;
                let set = key(Table::PoolSets, 9, name);
                let batch = Batch {
                    conditions: vec![Condition::Present(set.clone())],
                    puts: Vec::new(),
                    deletes: vec![set],
                };
                match engine.apply(batch).await {
                    Ok(()) => return Some(name.clone()),
                    Err(ApplyError::Condition { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    let mut claimed: Vec<_> = join_all(claimers).await.into_iter().flatten().collect();
    claimed.sort();
    assert_eq!(
        claimed,
        (0..SETS).map(|set| vec![7, set]).collect::<Vec<_>>()
    );
}

/// Who wants several rows may name them in any order.
pub async fn batches_that_want_rows_crosswise_do_not_block_each_other(engine: Shared) {
    for round in 0..10u8 {
        let mut sets: Vec<Key> = (0..6)
            .map(|set| key(Table::PoolSets, 9, &[round, set]))
            .collect();
        for set in &sets {
            engine.apply(put(set, b"set")).await.unwrap();
        }
        let claims = (0..MANY).map(|_| {
            sets.rotate_left(1);
            engine.apply(Batch {
                conditions: sets.iter().cloned().map(Condition::Present).collect(),
                puts: Vec::new(),
                deletes: sets.clone(),
            })
        });
        let claims: Vec<_> = claims.collect();
        let answers = join_all(claims).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        for answer in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert!(matches!(answer, ApplyError::Condition { .. }), "{answer}");
        }
    }
}

/// An entry stands on the version of its group as well as on the end of its segment.
pub async fn no_entry_lands_behind_the_change_of_its_group(engine: Shared) {
    const SENDERS: u8 = 8;
    for round in 0..3u8 {
        let group = key(Table::Groups, 0, &[round]);
        let head = key(Table::Heads, 0, &[round]);
        engine.apply(put(&group, &[1; 16])).await.unwrap();
        engine.apply(put(&head, &[0; 16])).await.unwrap();
        let is_changed = Arc::new(AtomicBool::new(false));
        let entries = range(Table::Messages, 9, &[round]);
        let senders = (0..SENDERS).map(|sender| {
            let (engine, is_changed) = (Arc::clone(&engine), Arc::clone(&is_changed));
            let (group, head) = (group.clone(), head.clone());
            async move {
                for message in 0..4u8 {
                    loop {
                        let before = value(&engine, &head).await.unwrap();
                        let mut next: [u8; VERSION_LEN] = before[..].try_into().unwrap();
                        let count = next[2].wrapping_add(1);
                        next[..3].copy_from_slice(&[sender + 1, message, count]);
                        let late = is_changed.load(Ordering::SeqCst);
                        let batch = Batch {
                            conditions: vec![
                                Condition::Version(group.clone(), [1; 16]),
                                Condition::Version(head.clone(), before[..].try_into().unwrap()),
                            ],
                            puts: vec![
                                (head.clone(), next.to_vec()),
                                (key(Table::Messages, 9, &[round, sender, message]), vec![1]),
                            ],
                            deletes: Vec::new(),
                        };
                        match engine.apply(batch).await {
                            Ok(()) => assert!(!late, "accepted behind the change"),
                            Err(ApplyError::Condition { condition: 0, .. }) => return,
                            Err(ApplyError::Condition { .. }) => continue,
                            Err(error) => panic!("{error}"),
                        }
                        break;
                    }
                }
            }
        });
        let change = async {
            let mut change = put(&group, &[2; 16]);
            change
                .conditions
                .push(Condition::Version(group.clone(), [1; 16]));
            while names(&engine, entries.clone()).await.len() < usize::from(SENDERS) {
                let_others_go_on().await;
            }
            engine.apply(change).await.unwrap();
            is_changed.store(true, Ordering::SeqCst);
            names(&engine, entries.clone()).await
        };
        let (_, seen) = futures::join!(join_all(senders), change);
        assert_eq!(names(&engine, entries.clone()).await, seen);
    }
}

/// A reservation wants its group absent, and does not write it: the group's creation uses a
/// reservation up, so that the one waits for the other.
pub async fn nothing_is_reserved_that_was_made_meanwhile(engine: Shared) {
    for round in 0..24u8 {
        let reservation = key(Table::Reservations, 9, &[round]);
        let group = key(Table::Groups, 0, &[round]);
        engine.apply(put(&reservation, b"mine")).await.unwrap();
        let create = Batch {
            conditions: vec![
                Condition::Present(reservation.clone()),
                Condition::Absent(group.clone()),
            ],
            puts: vec![(group.clone(), b"group".to_vec())],
            deletes: vec![reservation.clone()],
        };
        let reserve = || Batch {
            conditions: vec![
                Condition::Absent(group.clone()),
                Condition::Absent(reservation.clone()),
            ],
            puts: vec![(reservation.clone(), b"other".to_vec())],
            deletes: Vec::new(),
        };
        let others = join_all((0..4).map(|_| engine.apply(reserve())));
        let (created, others) = futures::join!(engine.apply(create), others);
        created.unwrap();
        for other in others {
            assert!(
                matches!(other, Err(ApplyError::Condition { .. })),
                "{other:?}"
            );
        }
        assert_eq!(value(&engine, &reservation).await, None);
    }
}

/// Whoever drops a spent-set closes its key before; who spends looks for the closed key last. So no
/// token is good again.
pub async fn a_token_whose_row_went_meets_a_closed_issuer_key(engine: Shared) {
    for round in 0..8u8 {
        let spent = key(Table::Spent, 0, &[round, 1]);
        let closed = key(Table::RetiredIssuerKeys, 0, &[round]);
        engine.apply(put(&spent, b"")).await.unwrap();
        let spend = || Batch {
            conditions: vec![
                Condition::Absent(closed.clone()),
                Condition::Absent(spent.clone()),
            ],
            puts: vec![(spent.clone(), Vec::new())],
            deletes: Vec::new(),
        };
        let spenders = join_all((0..8).map(|_| async {
            for _ in 0..8 {
                let again = engine.apply(spend()).await;
                assert!(
                    matches!(again, Err(ApplyError::Condition { .. })),
                    "{again:?}"
                );
            }
        }));
        let close = async {
            engine.apply(put(&closed, b"")).await.unwrap();
            engine.drop_prefix(Table::Spent, vec![round]).await.unwrap();
        };
        futures::join!(spenders, close);
        assert!(is_refused_for(&engine.apply(spend()).await, 0));
    }
}

/// Every writer gets through, also whoever changes many rows among those who change one.
pub async fn a_large_change_gets_through_a_flood_of_small_ones(engine: Shared) {
    let row = |number: u8| key(Table::Heads, 0, &[number]);
    for number in 0..8 {
        engine.apply(put(&row(number), &[0; 16])).await.unwrap();
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let flood = join_all((0..MANY).map(|number| {
        let (engine, is_over) = (Arc::clone(&engine), Arc::clone(&is_over));
        async move {
            let row = row(number % 8);
            let mut written = 0u64;
            while !is_over.load(Ordering::SeqCst) {
                let mut batch = put(&row, &[0; 16]);
                batch.conditions.push(Condition::Present(row.clone()));
                engine.apply(batch).await.unwrap();
                written += 1;
            }
            written
        }
    }));
    let changes = async {
        for _ in 0..20 {
            let all: BTreeMap<u8, Key> = (0..8).map(|number| (number, row(number))).collect();
            engine
                .apply(Batch {
                    conditions: all.values().cloned().map(Condition::Present).collect(),
                    puts: all.into_values().map(|row| (row, vec![0; 16])).collect(),
                    deletes: Vec::new(),
                })
                .await
                .unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
    };
    let (written, ()) = futures::join!(flood, changes);
    assert!(written.iter().all(|written| *written > 0), "{written:?}");
}
