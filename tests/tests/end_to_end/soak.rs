//! A long run of many clients, while processes are killed and paused, clocks step, and readers are
//! slow or vanish: every text that was accepted is read by every client that was a member, in
//! order, and by nobody else. `end_to_end::record` judges, and knows nothing of how texts come.
//!
//! `make soak` has 200 groups and 2,000 clients for an hour. SOAK_SEED repeats what was drawn.

#![allow(clippy::disallowed_methods, reason = "how long it really takes")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::{Client, Event, MessageId, Options};
use end_to_end::record::{Record, Seen};
use end_to_end::{LogLevel, MUCH, MovedClocks, Service, Stack, device_with, patient};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

/// Workers, each with clients of its own.
const WORKERS: usize = 4;
/// As many clients of a worker are open at a time: the others are away.
const OPEN: usize = 8;
/// Rounds in which everybody catches up at the end.
const ROUNDS: usize = 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// What all workers share.
struct Run {
    stack: Stack,
    record: Mutex<Record>,
    /// The join code of each group, as long as it is good.
    codes: Mutex<BTreeMap<String, String>>,
    is_over: AtomicBool,
}

impl Run {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn codes(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.codes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn options() -> Options {
    Options {
        ciphersuites: vec![0x4f],
        ..patient()
    }
}

/// A user with one client, which comes and goes.
struct Person {
    name: String,
    client: Option<Client>,
    /// The group that it has made. It says nothing there, and removes others.
    makes: Option<String>,
    /// The group in which it is from the beginning, and says nothing.
    witnesses: Option<String>,
    /// Where it is a member.
    groups: BTreeSet<String>,
    /// Where it was one: nobody comes back.
    left: BTreeSet<String>,
    /// What it has said, of which the end is not known.
    waits: BTreeMap<MessageId, String>,
    said: usize,
}

impl Person {
    async fn register(run: &Run, number: usize) -> Self {
        let name = format!("user.{number}");
        let client = device_with(&run.stack, number, &name, options()).await;
        Self {
            name,
            client: Some(client),
            makes: None,
            witnesses: None,
            groups: BTreeSet::new(),
            left: BTreeSet::new(),
            waits: BTreeMap::new(),
            said: 0,
        }
    }

    async fn open(&mut self, run: &Run) -> Client {
        if let Some(client) = &self.client {
            return client.clone();
        }
        let home = run.stack.home(&self.name);
        let client = Client::open(&home, options()).await;
        let client = client.unwrap_or_else(|error| panic!("{}: {error:?}", self.name));
        self.client.insert(client).clone()
    }

    async fn goes_away(&mut self) {
        if let Some(client) = self.client.take() {
            client.close().await;
        }
    }

    async fn makes(&mut self, run: &Run, group: &str) {
        let client = self.open(run).await;
        client.create_group(group).await.expect("a group");
        self.makes = Some(group.to_owned());
        self.invites(run).await;
    }

    /// A code is good until somebody is removed.
    async fn invites(&mut self, run: &Run) {
        let Some(group) = self.makes.clone() else {
            return;
        };
        let client = self.open(run).await;
        if let Ok(code) = client.invite(group.as_str(), 30).await {
            run.codes().insert(group, code);
        }
    }

    async fn comes_in(&mut self, run: &Run, group: &str) {
        let was_there = self.groups.contains(group) || self.left.contains(group);
        let code = run.codes().get(group).cloned();
        let Some(code) = code.filter(|_| !was_there && !self.is_maker(group)) else {
            return;
        };
        let client = self.open(run).await;
        // If no answer came in time, it may be in all the same, and learns it later.
        let _ = client.join_by_code(&code).await;
        self.reads(run).await;
    }

    fn is_maker(&self, group: &str) -> bool {
        self.makes.as_deref() == Some(group)
    }

    /// Puts a text into the outbox. What becomes of it is an event.
    async fn says(&mut self, run: &Run, rng: &mut StdRng) {
        let silent = [&self.makes, &self.witnesses];
        let groups: Vec<_> = self.groups.iter().cloned().collect();
        let Some(group) = groups.choose(rng) else {
            return;
        };
        if silent.iter().any(|it| it.as_ref() == Some(group)) {
            return;
        }
        let client = self.open(run).await;
        let text = format!("{} says {} in {group}", self.name, self.said);
        if let Ok(message) = client.queue_message(group.as_str(), &text) {
            self.said += 1;
            self.waits.insert(message, text.clone());
            run.record().note(&self.name, group, Seen::Said(text));
        }
    }

    /// Removes somebody of its group who is neither this one nor the witness, and makes a new code.
    async fn removes(&mut self, run: &Run, witness: &str, rng: &mut StdRng) {
        let Some(group) = self.makes.clone() else {
            return;
        };
        let client = self.open(run).await;
        let members = client.members(group.as_str()).expect("members");
        let others: Vec<_> = members
            .iter()
            .filter(|it| it.name != self.name && it.name != witness)
            .collect();
        if let Some(member) = others.choose(rng).filter(|_| others.len() > 2) {
            run.codes().remove(&group);
            let _ = client
                .remove_from_group(group.as_str(), &[&member.name])
                .await;
            self.invites(run).await;
        }
    }

    /// Catches up for a while, and notes what has come. A reader may be slow, or be gone before it
    /// has its answer.
    async fn waits_for_news(&mut self, run: &Run, rng: &mut StdRng) {
        let client = self.open(run).await;
        let patience = Duration::from_millis(rng.random_range(20..4_000));
        let _ = timeout(patience, client.receive(20_000)).await;
        if rng.random_ratio(3, 4) {
            self.reads(run).await;
        }
    }

    /// Notes what has come, and forgets it. That it has come into a group shows first.
    async fn reads(&mut self, run: &Run) {
        let client = self.open(run).await;
        for group in client.groups().expect("groups") {
            let is_new = group.active
                && !self.is_maker(&group.name)
                && !self.left.contains(&group.name)
                && self.groups.insert(group.name.clone());
            if is_new {
                let members = client.members(group.name.as_str()).expect("members");
                let there = members.into_iter().map(|it| it.name).collect();
                let came = Seen::CameIn(there);
                run.record().note(&self.name, &group.name, came);
            }
        }
        let events = client.events().expect("events");
        for stored in &events {
            self.notes(run, &stored.event);
        }
        client.acknowledge(&events).expect("acknowledged");
    }

    fn notes(&mut self, run: &Run, event: &Event) {
        let (group, seen) = match event {
            Event::Message {
                group,
                sender,
                text,
                ..
            } => {
                let (sender, text) = (sender.clone(), text.clone());
                (group, Seen::Read { sender, text })
            }
            Event::MessageSent { group, message, .. } => {
                let text = self.waits.remove(message).expect("what it has said");
                (group, Seen::Accepted(text))
            }
            Event::MemberAdded { group, name, .. } => (group, Seen::Added(name.clone())),
            Event::MemberRemoved { group, name, .. } => (group, Seen::Removed(name.clone())),
            Event::Removed { group } => {
                self.groups.remove(group);
                self.left.insert(group.clone());
                return;
            }
            Event::MessageFailed { message, .. } => {
                self.waits.remove(message);
                return;
            }
            // Nothing of this comes of processes that die and of clocks that step.
            Event::GroupLost { .. }
            | Event::MessageWithheld { .. }
            | Event::MessagesDropped { .. }
            | Event::HomeCopied
            | Event::ServiceStoreChanged { .. }
            | Event::CommitRefused { .. }
            | Event::RemovedByService { .. } => panic!("{}: {event:?}", self.name),
            // A newcomer cannot read what was encrypted before it came in; what somebody had to
            // read is missing in the record.
            _ => return,
        };
        if !self.is_maker(group) {
            run.record().note(&self.name, group, seen);
        }
    }
}

/// Clients of one worker, one of which does something at a time.
async fn work(
    run: Arc<Run>,
    mut people: Vec<Person>,
    groups: Vec<String>,
    seed: u64,
) -> Vec<Person> {
    let mut rng = StdRng::seed_from_u64(seed);
    while !run.is_over.load(Ordering::Relaxed) {
        let open = people.iter().filter(|it| it.client.is_some()).count();
        let number = rng.random_range(0..people.len());
        let person = &mut people[number];
        match rng.random_range(0..100) {
            0..45 => person.says(&run, &mut rng).await,
            45..85 => person.waits_for_news(&run, &mut rng).await,
            85..92 => {
                let group = groups.choose(&mut rng).expect("a group");
                person.comes_in(&run, group).await;
            }
            92..95 => {
                let witness = witness_of(&run, person);
                person.removes(&run, &witness, &mut rng).await;
            }
            95..97 => {
                let client = person.open(&run).await;
                let own = person
                    .groups
                    .iter()
                    .next()
                    .cloned()
                    .or(person.makes.clone());
                if let Some(group) = own {
                    let _ = client.update_own_leaf(group.as_str()).await;
                }
            }
            _ => person.goes_away().await,
        }
        if open > OPEN {
            let number = rng.random_range(0..people.len());
            people[number].goes_away().await;
        }
    }
    people
}

fn witness_of(run: &Run, person: &Person) -> String {
    let group = person.makes.as_deref().unwrap_or_default();
    run.record()
        .witness_of(group)
        .unwrap_or_default()
        .to_owned()
}

/// Until it is over: kills a process, stops one for a moment, or has the clock of one leave the
/// time of the others.
async fn trouble(run: Arc<Run>, clocks: MovedClocks, seed: u64) -> [usize; 3] {
    const PROGRAMS: [(Service, &str); 4] = [
        (Service::Ds, "ds"),
        (Service::Gateway, "ohttp-gateway"),
        (Service::Relay, "ohttp-relay"),
        (Service::Issuer, "privacy-pass-issuer"),
    ];
    let mut rng = StdRng::seed_from_u64(seed);
    let mut done = [0; 3];
    while !run.is_over.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(rng.random_range(1_000..5_000))).await;
        let (service, program) = *PROGRAMS.choose(&mut rng).expect("a process");
        // In turn, so that each comes however slow the machine is.
        let kind = done.iter().sum::<usize>() % done.len();
        match kind {
            0 => {
                let before = run.stack.kill(service);
                run.stack.restarted(service, before).await;
            }
            1 => {
                let _paused = run.stack.pause(service);
                sleep(Duration::from_millis(rng.random_range(200..4_000))).await;
            }
            _ => {
                let steps = [-7_200, -90, -5, 5, 90, 7_200];
                clocks.set(program, *steps.choose(&mut rng).expect("a step"));
                sleep(Duration::from_millis(rng.random_range(200..4_000))).await;
                clocks.set(program, 0);
            }
        }
        done[kind] += 1;
    }
    done
}

/// Everybody catches up until nothing is new and nothing waits.
async fn calm_down(run: &Run, people: &mut [Person]) {
    let is_large = people.len() > WORKERS * OPEN;
    for _ in 0..ROUNDS {
        let mut is_calm = true;
        for person in people.iter_mut() {
            let client = person.open(run).await;
            let caught_up = client.receive(0).await;
            caught_up.unwrap_or_else(|error| panic!("{}: {error:?}", person.name));
            is_calm &= client.events().expect("events").is_empty() && person.waits.is_empty();
            person.reads(run).await;
            if is_large {
                person.goes_away().await;
            }
        }
        if is_calm {
            return;
        }
    }
    let waiting = people.iter().map(|it| it.waits.len()).sum::<usize>();
    panic!("{waiting} texts still wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_text_reaches_every_member_in_order_and_nobody_else() {
    let seed = setting("SOAK_SEED", 1);
    let groups = setting("SOAK_GROUPS", 4);
    let clients = usize::try_from(setting("SOAK_CLIENTS", 20)).expect("a number");
    let time = Duration::from_secs(setting("SOAK_SECONDS", 60));
    println!("SOAK_SEED={seed}");
    let groups: Vec<_> = (0..groups)
        .map(|number| format!("group {number}"))
        .collect();
    assert!(
        clients > 2 * groups.len(),
        "a maker and a witness for each group, and others"
    );
    let (stack, clocks) = Stack::start_for(LogLevel::Error, MUCH, clients).await;
    let run = Arc::new(Run {
        stack,
        record: Mutex::default(),
        codes: Mutex::default(),
        is_over: AtomicBool::new(false),
    });
    let mut people = Vec::new();
    for number in 0..clients {
        people.push(Person::register(&run, number).await);
        let made = groups.get(number);
        let seen = number
            .checked_sub(groups.len())
            .map(|number| groups.get(number));
        let person = people.last_mut().expect("one");
        if let Some(group) = made {
            person.makes(&run, group).await;
        } else if let Some(Some(group)) = seen {
            person.witnesses = Some(group.clone());
            run.record().witness(group, &person.name);
            person.comes_in(&run, group).await;
        } else {
            person.comes_in(&run, &groups[number % groups.len()]).await;
        }
        if clients > WORKERS * OPEN {
            person.goes_away().await;
        }
    }
    let mut shares: Vec<Vec<Person>> = (0..WORKERS).map(|_| Vec::new()).collect();
    for (number, person) in people.into_iter().enumerate() {
        shares[number % WORKERS].push(person);
    }
    let began = Instant::now();
    let working: Vec<_> = (seed..)
        .zip(shares)
        .map(|(seed, share)| tokio::spawn(work(Arc::clone(&run), share, groups.clone(), seed)))
        .collect();
    let troubled = tokio::spawn(trouble(Arc::clone(&run), clocks, seed));
    sleep(time.saturating_sub(began.elapsed())).await;
    run.is_over.store(true, Ordering::Relaxed);
    let [kills, pauses, steps] = troubled.await.expect("an end");
    let mut people = Vec::new();
    for worker in working {
        people.extend(worker.await.expect("an end"));
    }
    calm_down(&run, &mut people).await;
    let held = run.record().check();
    let held = held.unwrap_or_else(|faults| panic!("{} faults: {faults:#?}", faults.len()));
    println!("{kills} kills, {pauses} pauses, {steps} steps of clocks, {held:?}");
    assert!(kills > 0 && pauses > 0 && steps > 0);
    assert!(
        held.accepted > 20 && held.deliveries > held.accepted,
        "{held:?}"
    );
}
