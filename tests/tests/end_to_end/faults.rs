//! Relay and gateway as real processes under load, while messages go wrong, keys change and
//! processes end: every request is executed at most once, and every client is answered.
//!
//! `make faults` does it with 100,000 requests. FAULT_SEED repeats what was drawn.

use std::time::Duration;

use client::Error;
use end_to_end::{Fault, FaultyWay, Leg, Load, LogLevel, MUCH, Node, Outcome, Service, Stack};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;

/// As many as there are accounts, but for the reader's.
const SENDERS: usize = 9;
/// On the way to the relay and on the way to the gateway, there and back.
const PLACES: usize = 4;

/// One load at a time: two of them would measure each other.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

fn requests() -> usize {
    setting("FAULT_REQUESTS", 3_000).try_into().unwrap()
}

/// A stretch before the relay and one behind it, and a stack between whose gateway has short-lived
/// keys.
struct Stretches {
    stack: Stack,
    before: FaultyWay,
    behind: FaultyWay,
}

impl Stretches {
    async fn open(settings: &str) -> Self {
        let seed = setting("FAULT_SEED", 1);
        println!("FAULT_SEED={seed}");
        let (before, behind) = (FaultyWay::open(seed).await, FaultyWay::open(!seed).await);
        let settings = format!(
            "{MUCH}{settings}\n[[relay.gateways]]\npath = '/faulty'\nurl = 'http://{}/'\n",
            behind.address()
        );
        let stack = Stack::start_with(LogLevel::Info, &settings).await;
        before.lead_to(stack.ports().of(Service::Relay));
        behind.lead_to(stack.ports().of(Service::Gateway));
        Self {
            stack,
            before,
            behind,
        }
    }

    async fn load(&self) -> Load {
        let relay = format!("http://{}/faulty", self.before.address());
        Load::prepare(&self.stack, Some(&relay), SENDERS).await
    }

    /// Of a hundred requests, so many have a fault somewhere.
    fn begin(&self) {
        let percent = usize::try_from(setting("FAULT_PERCENT", 10)).unwrap();
        for way in [&self.before, &self.behind] {
            way.set_rate(percent * 1_000 / PLACES);
        }
    }

    /// Waits for what comes late, and shows what has happened.
    async fn end(&self) -> usize {
        let mut faults = 0;
        for (name, way) in [
            ("before the relay", &self.before),
            ("behind it", &self.behind),
        ] {
            way.set_rate(0);
            println!("{name}: {:?}", way.tally());
            println!("  what came late once more: {:?}", way.late().await);
            faults += way.tally().values().sum::<usize>();
        }
        faults
    }
}

fn show(outcome: &Outcome) {
    println!(
        "{} accepted, {} refused, {:.0} a second, the slowest after {:?}",
        outcome.accepted.len(),
        outcome.refused.len(),
        outcome.a_second(),
        outcome.slowest,
    );
    for (number, error) in &outcome.refused {
        println!("  {number}: {error:?}");
    }
}

/// The SDK tries again until it has a result. What is left for faults upon faults is that there was
/// no answer in time, which says that it may be tried again; nothing is taken for an attack or for
/// a fault of the service.
fn nearly_all_accepted(outcome: &Outcome) {
    let of = outcome.accepted.len() + outcome.refused.len();
    assert!(outcome.refused.len() <= of / 1_000, "{:?}", outcome.refused);
    for (_, error) in &outcome.refused {
        assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_requests_with_faults_on_their_way_each_is_executed_once_and_answered() {
    let _alone = alone().await;
    let stretches = Stretches::open("").await;
    let mut load = stretches.load().await;
    stretches.begin();
    let (outcome, ()) = load.run(requests(), async {}).await;
    let faults = stretches.end().await;
    show(&outcome);
    load.check(&[&outcome]).await;
    nearly_all_accepted(&outcome);

    assert!(faults >= requests() / 200, "{faults}");
    for way in [&stretches.before, &stretches.behind] {
        let tally = way.tally();
        for fault in Fault::ALL {
            for leg in [Leg::Request, Leg::Answer] {
                assert!(tally.contains_key(&(leg, fault)), "{leg:?} {fault:?}");
            }
        }
    }
    // The gateway itself opened none twice, however often and late it came.
    let (answered, most_often) = stretches.behind.answered();
    assert!(answered >= requests());
    assert_eq!(most_often, 1);
}

async fn rotates(stack: &Stack, argument: &'static str) {
    for _ in 0..100 {
        // It may have to wait for the one before.
        if stack.command(Service::Gateway, "rotate", argument).await.0 == 200 {
            return;
        }
        sleep(Duration::from_millis(300)).await;
    }
    panic!("the keys do not rotate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_change_under_a_load_with_faults_lose_nothing() {
    let _alone = alone().await;
    let calendar =
        "[gateway.keys]\nrotation_seconds = 15\noverlap_seconds = 4\nmax_age_seconds = 3";
    let stretches = Stretches::open(calendar).await;
    let mut load = stretches.load().await;
    stretches.begin();
    let stack = &stretches.stack;
    let made = || {
        let log = std::fs::read_to_string(stack.layout().log(Service::Gateway)).unwrap();
        let by_schedule = log.lines().filter(|line| line.ends_with("keys is made"));
        by_schedule.count()
    };
    let (outcome, ()) = load
        .run(requests() / 2, async {
            rotates(stack, "").await;
            // The first one was made at the start.
            while made() < 2 {
                sleep(Duration::from_millis(100)).await;
            }
            rotates(stack, "").await;
            sleep(Duration::from_secs(4)).await;
            rotates(stack, "now").await;
            // Nobody has the new keys, and everybody gets them.
            sleep(Duration::from_secs(2)).await;
        })
        .await;
    stretches.end().await;
    show(&outcome);
    load.check(&[&outcome]).await;
    nearly_all_accepted(&outcome);
    assert_eq!(stretches.behind.answered().1, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_a_gateway_of_two_nodes_loses_nothing() {
    let _alone = alone().await;
    let stack = Stack::start_with(LogLevel::Info, MUCH).await;
    // Time for each to answer what it has begun, however busy the machine is.
    let patient = "[service]\nlog_level = 'info'\ndrain_seconds = 20";
    let gateway = || Node::beside(&stack, Service::Gateway, "ohttp-gateway", patient);
    let mut nodes = [gateway().await, gateway().await];
    let settings = format!(
        "[[gateways]]\npath = '/nodes'\nurl = 'http://gateway.invalid/'\naddresses = ['{}', '{}']",
        nodes[0].address(),
        nodes[1].address()
    );
    let relay = Node::beside(&stack, Service::Relay, "ohttp-relay", &settings).await;
    let url = format!("http://{}/nodes", relay.address());
    let mut load = Load::prepare(&stack, Some(&url), SENDERS).await;
    let restarts = async {
        for _ in 0..3 {
            for node in &mut nodes {
                sleep(Duration::from_millis(500)).await;
                node.stop().await;
                sleep(Duration::from_millis(500)).await;
                node.start().await;
            }
        }
    };
    let (outcome, ()) = load.run(requests() / 2, restarts).await;
    show(&outcome);
    load.check(&[&outcome]).await;
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused);
    // Nobody waited for a node to come back.
    nodes[0].kill().await;
    let (without_one, ()) = load.run(100, async {}).await;
    show(&without_one);
    load.check(&[&outcome, &without_one]).await;
    assert!(without_one.refused.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_gateway_or_relay_that_is_restarted_or_killed_loses_nothing() {
    let _alone = alone().await;
    let stack = Stack::start_with(LogLevel::Info, MUCH).await;
    let mut load = Load::prepare(&stack, None, SENDERS).await;
    let ends = async {
        for service in [Service::Gateway, Service::Relay] {
            for end in [Stack::terminate, Stack::kill, Stack::terminate, Stack::kill] {
                sleep(Duration::from_millis(700)).await;
                let before = end(&stack, service);
                stack.restarted(service, before).await;
            }
        }
    };
    let (outcome, ()) = load.run(requests() / 2, ends).await;
    show(&outcome);
    load.check(&[&outcome]).await;
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused);
}
