//! Long random histories over everything that a group can go through. After every step the service's view is held
//! against the clients', and now and then everybody must be able to go on.
//!
//! `HISTORY_SEED` repeats a history, `HISTORY_STEPS` makes longer ones (`make soak`).

mod world;

use protocol::problem::ProblemType;
use world::{DEVICES, World};

use crate::support::Engine;

/// Small, reproducible, and good enough to choose by (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(sides).unwrap()).unwrap()
    }
}

/// After so many steps everybody comes online.
const CHECK_EVERY: usize = 25;
/// After so many steps another group begins.
const LIFE: usize = 250;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

async fn step(world: &mut World, dice: &mut Dice) {
    let (one, other) = (dice.roll(DEVICES), dice.roll(DEVICES));
    // Two requests of one client in one millisecond are told apart by what they say, not by when.
    world.service.clock.advance(1);
    match dice.roll(24) {
        0..=2 => world.add_user(one, other).await,
        3 => world.add_client(one).await,
        4 | 5 => world.join_as_client(one).await,
        6 => world.rejoin(one).await,
        7 => world.join_by_code(one).await,
        8 => world.remove_user(one, other).await,
        9 => world.remove_client(one).await,
        10 => world.leave(one).await,
        11 => world.update(one, dice.roll(2) == 0).await,
        12 => world.update_credential(one).await,
        13 => world.race(one, other).await,
        14 => world.lost_answer(one).await,
        15 => world.set_role(other, dice.roll(5)).await,
        16 => world.delete_queue(one).await,
        17 => world.forge(one, other).await,
        18..=20 => world.message(one).await,
        _ => {
            world.receive(one).await;
        }
    }
    world.compare().await;
}

/// Shown when the history fails, or with `--nocapture`.
#[allow(clippy::print_stdout)]
fn say(what: std::fmt::Arguments<'_>) {
    println!("{what}");
}

async fn play(engine: Engine, seed: u64, steps: usize) {
    let mut dice = Dice(seed);
    let mut taken = 0;
    while taken < steps {
        let mut world = World::new(engine).await;
        for at in 1..=LIFE.min(steps - taken) {
            step(&mut world, &mut dice).await;
            if at % CHECK_EVERY == 0 {
                world.everybody_goes_on().await;
            }
        }
        world.everybody_goes_on().await;
        taken += LIFE;
        say(format_args!("{:?}", world.taken));
    }
}

fn history(engine: Engine, default_steps: u64) {
    let seed = from_environment(
        "HISTORY_SEED",
        u64::from_be_bytes(crypto::random().unwrap()),
    );
    let steps = usize::try_from(from_environment("HISTORY_STEPS", default_steps)).unwrap();
    say(format_args!("HISTORY_SEED={seed} HISTORY_STEPS={steps}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(play(engine, seed, steps));
}

#[test]
fn on_memory_a_long_history_leaves_everybody_agreed_and_nobody_stuck() {
    history(Engine::Memory, 3000);
}

#[test]
fn on_rocksdb_a_long_history_leaves_everybody_agreed_and_nobody_stuck() {
    history(Engine::Rocks, 500);
}

/// What a member may be told when it asks for more than it may.
pub(crate) fn is_refusal_by_policy(problem: ProblemType) -> bool {
    matches!(
        problem,
        ProblemType::NotAllowed | ProblemType::PendingProposals
    )
}
