//! Histories that are drawn.

use super::*;

/// Beyond so many members nobody comes in: a long history is about what follows on what.
const CROWD: usize = 9;

/// One act each: which, by whom, and quarters of a day before it.
type Act = (u8, usize, u64);

/// Everybody ends at one epoch and end of the journal, and the same requests make the same store.
fn play(seed: u64, acts: Vec<Act>) {
    let mut world = World::new(seed);
    let mut clients = group(&mut world, 3);
    let mut accepted = 0;
    for (act, who, days) in acts {
        world.service.now_ms += days * DAY_MS / 4;
        catch_up(&mut world, &mut clients);
        clients.retain(|client| !client.is_out);
        if clients.is_empty() {
            break;
        }
        let who = who % clients.len();
        let pending: Vec<u32> = clients[who]
            .mls
            .pending_proposals()
            .filter_map(mls_rules::leaving)
            .collect();
        let is_leaving = pending.contains(&clients[who].index());
        // The library sends nothing while proposals are pending.
        let waits = match act {
            0..4 | 9 | 10 => !pending.is_empty(),
            _ => is_leaving,
        };
        if waits {
            continue;
        }
        let rotates = inspect(&clients[who], &mut world).rotation_due == 1
            || !pending.is_empty()
            || days % 3 == 0;
        match act {
            0..4 => accepted += u32::from(clients[who].send(&mut world, &[act]).is_ok()),
            4..7 => {
                let mut plan = Plan::update();
                plan.rotates = rotates;
                plan.new_user = (act == 6).then(|| clients[who].user.clone());
                clients[who].commit(&mut world, plan).unwrap();
            }
            7 | 8 if clients.len() < CROWD => {
                let invitee = Invitee::new(&world);
                let mut plan = Plan::add([invitee.key_package.clone()]);
                plan.rotates = rotates;
                clients[who].commit(&mut world, plan).unwrap();
                clients[who].catch_up(&mut world);
                let pointer = clients[who].pointers[0].clone();
                let mut joined = Client::join(&mut world, invitee, &pointer);
                joined.told_of(&clients[who]);
                joined.arrive(&mut world);
                clients.push(joined);
            }
            9 if who > 0 => {
                let gone = clients[who].index();
                let user = clients[0].user.clone();
                let may = clients[0].policy().capabilities(&user);
                if may.contain(protocol::policy::Capabilities::REMOVE) {
                    clients[0].commit(&mut world, Plan::remove([gone])).unwrap();
                }
            }
            10 if who > 0 => {
                let _ = clients[who].leave(&mut world);
            }
            11 if clients.len() < CROWD => {
                if let Ok((secret, _)) = make_code(&clients[who], &mut world) {
                    let joined = Client::join_from_outside(
                        &mut world,
                        &clients[who],
                        pseudonym(),
                        by_code(secret),
                        None,
                        false,
                    );
                    clients.push(joined.unwrap());
                }
            }
            _ => {}
        }
    }
    catch_up(&mut world, &mut clients);
    clients.retain(|client| !client.is_out);
    if let Some(first) = clients.first() {
        for client in &clients {
            assert_eq!(client.epoch(), first.epoch());
            assert_eq!(client.segment, first.segment);
            assert_eq!(client.next, first.next);
        }
    }
    let _ = accepted;
    assert!(again(&world, seed).engine == world.service.engine);
}

/// `HISTORY_STEPS` makes it long, `HISTORY_SEED` repeats one.
#[test]
#[allow(clippy::print_stdout, reason = "what repeats a history that failed")]
fn a_long_history_leaves_everybody_agreed_and_nobody_stuck() {
    use rand_core::{RngCore as _, SeedableRng as _};
    let number = |name: &str| std::env::var(name).ok().and_then(|it| it.parse().ok());
    let drawn = || u64::from_be_bytes(crypto::random().unwrap());
    let seed: u64 = number("HISTORY_SEED").unwrap_or_else(drawn);
    let steps = number("HISTORY_STEPS").unwrap_or(150);
    println!("HISTORY_SEED={seed} HISTORY_STEPS={steps}");
    let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(seed);
    let mut below = |bound: u32| rng.next_u32() % bound;
    let acts = (0..steps).map(|_| {
        let act = u8::try_from(below(12)).unwrap();
        (act, below(6) as usize, u64::from(below(20)))
    });
    play(seed, acts.collect());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn random_histories_keep_every_member_at_one_epoch_and_repeat_exactly(
        seed: u8,
        acts in proptest::collection::vec((0u8..12, 0usize..6, 0u64..20), 1..30),
    ) {
        play(seed.into(), acts);
    }
}
