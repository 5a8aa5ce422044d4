//! The snapshot game. Many users run many groups, handles and pools, with real MLS clients and the
//! real decisions. Whoever has copies of an engine's files, and no key, guesses
//!
//! * which groups share a member,
//! * which handle belongs to a member of which group,
//! * which messages of a group are from one sender.
//!
//! Each guess is a score for pairs, judged by how often a pair that is linked has a higher score
//! than one that is not: a half is guessing, one is certainty. A scene that is planted writes a row
//! for each recipient of a message, named for the recipient: then the same matcher must win.
//!
//! What is not in the game, since everybody acts at random times of their own here: what times and
//! order of acts tell when a user's acts in several groups follow each other.

use std::collections::{BTreeMap, BTreeSet};

use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::{ClientCredential, HandleRecord};
use protocol::ids::{InboxId, PoolId, Week};
use protocol::inbox::{REQUEST_SIZE, RegisterHandleRequest, RequestConnectionRequest};
use protocol::key_packages::{
    ClaimKeyPackagesRequest, KeyPackageSetUpload, PublishKeyPackagesRequest,
};
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

use super::group as group_of;
use super::requests::call;
use crate::engine::{Batch, Engine, Key, Read, Table};
use crate::group::kit::{Client, Plan, World};
use crate::inbox::{RegisterHandle, RequestConnection};
use crate::key_packages::{ClaimKeyPackages, PublishKeyPackages};
use crate::testing::key as key_pair;

const USERS: usize = 24;
const GROUPS: usize = 14;
const MEMBERS: usize = 3;
const ACTS: usize = 10;
/// Of each run. Their spread gives the interval of the result.
const SCENES: u64 = 6;

/// What happened in a scene, and the truth about it.
pub struct Scene {
    /// What was applied, in this order.
    pub batches: Vec<Batch>,
    members: Vec<Vec<usize>>,
    /// Groups by the names of their rows.
    groups: BTreeMap<Vec<u8>, usize>,
    /// Users by the names of their handles' rows.
    handles: BTreeMap<Vec<u8>, usize>,
    /// Senders by the names of their messages' rows.
    senders: BTreeMap<Vec<u8>, usize>,
}

enum Act {
    Group(usize),
    Handle(usize),
    Pool(usize),
}

/// As a service with queues would name a user's queue.
fn queue(user: usize) -> Vec<u8> {
    Sha256::digest(user.to_be_bytes())[..16].to_vec()
}

impl Scene {
    /// Plays one.
    #[must_use]
    pub fn play(seed: u64, is_planted: bool) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut below = |bound: usize| rng.next_u32() as usize % bound;
        let mut world = World::new(seed);
        world.service.settings.self_check = false;
        let mut scene = Self {
            batches: Vec::new(),
            members: Vec::new(),
            groups: BTreeMap::new(),
            handles: BTreeMap::new(),
            senders: BTreeMap::new(),
        };
        for _ in 0..GROUPS {
            let mut members = Vec::new();
            while members.len() < MEMBERS {
                let user = below(USERS);
                if !members.contains(&user) {
                    members.push(user);
                }
            }
            scene.members.push(members);
        }
        let mut clients: Vec<Vec<Client>> = (0..GROUPS).map(|_| Vec::new()).collect();
        let mut acts: Vec<Act> = Vec::new();
        for _ in 0..ACTS {
            acts.extend((0..GROUPS).map(Act::Group));
        }
        for _ in 0..3 {
            acts.extend((0..USERS).flat_map(|user| [Act::Handle(user), Act::Pool(user)]));
        }
        for at in (1..acts.len()).rev() {
            acts.swap(at, below(at + 1));
        }
        let mut begun = BTreeSet::new();
        for act in acts {
            world.service.now_ms += 1_000 * below(600) as u64;
            world.service.applied.clear();
            match act {
                Act::Group(group) => {
                    let mine = &mut clients[group];
                    let who = below(MEMBERS);
                    let sender = scene.members[group][who];
                    let is_message = below(4) > 0;
                    if mine.is_empty() {
                        *mine = group_of(&mut world, MEMBERS);
                        for batch in &world.service.applied {
                            for key in names_of(batch, Table::Groups) {
                                scene.groups.insert(key, group);
                            }
                        }
                    } else if is_message {
                        let text = vec![b'a'; 20 + below(2_000)];
                        mine[who].send(&mut world, &text).unwrap();
                        for batch in &mut world.service.applied {
                            for key in names_of(batch, Table::Messages) {
                                scene.senders.insert(key, sender);
                            }
                            if is_planted {
                                let others =
                                    scene.members[group].iter().filter(|user| **user != sender);
                                for user in others {
                                    let name =
                                        [queue(*user), scene.batches.len().to_be_bytes().to_vec()];
                                    batch.puts.push((
                                        key(Table::Welcomes, 20_900, &name.concat()),
                                        vec![7; 40],
                                    ));
                                }
                            }
                        }
                    } else {
                        let plan = Plan::update();
                        let plan = if below(2) == 0 { plan.rotating() } else { plan };
                        mine[who].commit(&mut world, plan).unwrap();
                    }
                    for client in mine {
                        client.catch_up(&mut world);
                    }
                }
                Act::Handle(user) => {
                    handle(&mut world, user, begun.insert((0, user)));
                    for batch in &mut world.service.applied {
                        for name in names_of(batch, Table::Handles) {
                            scene.handles.insert(name, user);
                            if is_planted {
                                batch.puts.push((
                                    key(Table::Welcomes, 20_900, &queue(user)),
                                    vec![7; 40],
                                ));
                            }
                        }
                    }
                }
                Act::Pool(user) => pool(&mut world, user, begun.insert((1, user))),
            }
            scene.batches.append(&mut world.service.applied);
        }
        scene
    }

    /// Applies it.
    pub async fn apply(&self, engine: &dyn Engine) {
        for batch in &self.batches {
            apply_one(engine, batch).await;
        }
    }
}

/// Reads what it stands on, and applies it.
pub async fn apply_one(engine: &dyn Engine, batch: &Batch) {
    let reads = batch.conditions.iter();
    let reads = reads.map(|condition| Read::Row(condition.key().clone()));
    engine.read(reads.collect()).await.unwrap();
    engine.apply(batch.clone()).await.unwrap();
}

fn names_of(batch: &Batch, table: Table) -> Vec<Vec<u8>> {
    let of_table = batch.puts.iter().filter(|(key, _)| key.table == table);
    of_table.map(|(key, _)| key.name.clone()).collect()
}

fn user_key(user: usize, purpose: u8) -> crypto::sign::SignatureKeyPair {
    key_pair(purpose * 30 + user as u8)
}

/// A handle is registered; later it gets requests.
fn handle(world: &mut World, user: usize, is_first: bool) {
    let handle = format!("user{user}");
    if !is_first {
        let request = RequestConnectionRequest {
            handle: opaque(handle.as_bytes()),
            encrypted_request: opaque(vec![user as u8; REQUEST_SIZE]),
        };
        let stranger = user_key(user, 3);
        call::<RequestConnection>(world, &stranger, &request).unwrap();
        return;
    }
    let credential = user_key(user, 1);
    let record = crypto::connection::sign_handle_record(
        handle.as_bytes(),
        &ClientCredential {
            name: opaque(*b"name"),
            signature_public_key: opaque(credential.public()),
        },
        &credential,
        &[1; 32],
    );
    let mut inbox = [user as u8; 32];
    inbox[0] ^= 0x55;
    let body = RegisterHandleRequest {
        handle: opaque(handle.as_bytes()),
        record: opaque(HandleRecord::encode(&record)),
        inbox: InboxId(inbox),
        inbox_owner: user_key(user, 2).public(),
        expiry: Week(Week::of(world.service.now_ms).0 + 8),
    };
    call::<RegisterHandle>(world, &user_key(user, 0), &body).unwrap();
}

/// KeyPackages are published; later they are claimed.
fn pool(world: &mut World, user: usize, is_first: bool) {
    let pool = PoolId([user as u8; 32]);
    if !is_first {
        let body = ClaimKeyPackagesRequest {
            pool,
            ciphersuite: 1,
            sets: 1,
        };
        call::<ClaimKeyPackages>(world, &user_key(user, 3), &body).unwrap();
        return;
    }
    let week = Week::of(world.service.now_ms).0;
    let sets = (0..4).map(|_| KeyPackageSetUpload {
        ciphersuite: 1,
        expiry: Week(week + 6),
        sealed: opaque(crypto::random::<200>().unwrap()),
    });
    let body = PublishKeyPackagesRequest {
        pool,
        sets: sets.collect(),
    };
    call::<PublishKeyPackages>(world, &user_key(user, 0), &body).unwrap();
}

/// A row that somebody found in a copy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenRow {
    pub table: Table,
    pub name: Vec<u8>,
    /// Its value, or a piece of it.
    pub value: Vec<u8>,
}

/// Rows that were written, or went, together: one transaction, or all between two copies.
pub type Together = Vec<SeenRow>;

/// How often a linked pair has the higher score.
#[derive(Debug, Clone, Copy)]
pub struct Odds {
    /// 1/2 is guessing.
    pub won: f64,
}

/// What was guessed of one scene.
#[derive(Debug, Clone, Copy)]
pub struct Guesses {
    /// Which groups share a member.
    pub co_members: Odds,
    /// Whose handle is that of a member.
    pub handles: Odds,
    /// Which messages of a group have one sender; none where transactions cannot be told apart.
    pub senders: Option<Odds>,
}

/// The part of a name that a PRF has given.
fn name_of(row: &SeenRow) -> Option<&[u8]> {
    match row.table {
        Table::Store | Table::RetiredIssuerKeys => None,
        Table::Spent => row.name.get(32..48),
        _ => row.name.get(..16),
    }
}

/// A name, or a piece of a value.
type Mark = u64;

fn mark(bytes: &[u8]) -> Mark {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^ (hash >> 29)
}

/// Pieces of twelve bytes, chosen by their content, so that what two values have in common is
/// found.
fn pieces(value: &[u8]) -> impl Iterator<Item = Mark> {
    value.windows(12).map(mark).filter(|piece| piece % 8 == 0)
}

/// What acts are recognised by: groups and handles.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Anchor {
    Group(Vec<u8>),
    Handle(Vec<u8>),
}

/// To whom rows belong that are written without their group's or handle's own.
fn owners(seen: &[Together]) -> BTreeMap<Vec<u8>, Anchor> {
    let mut owners = BTreeMap::new();
    for together in seen {
        let of = |tables: &[Table]| {
            let rows = together.iter().filter(|row| tables.contains(&row.table));
            let names = rows.filter_map(|row| row.name.get(..16));
            names.map(<[u8]>::to_vec).collect::<BTreeSet<_>>()
        };
        let groups = of(&[Table::Groups, Table::GroupParts]);
        if let (1, Some(group)) = (groups.len(), groups.first()) {
            for head in of(&[Table::Heads, Table::Handshakes, Table::Messages]) {
                owners.insert(head, Anchor::Group(group.clone()));
            }
        }
        let handles = of(&[Table::Handles]);
        if let (1, Some(handle)) = (handles.len(), handles.first()) {
            for inbox in of(&[Table::Inboxes, Table::InboxEntries]) {
                owners.insert(inbox, Anchor::Handle(handle.clone()));
            }
        }
    }
    owners
}

fn anchors(together: &Together, owners: &BTreeMap<Vec<u8>, Anchor>) -> BTreeSet<Anchor> {
    let anchor = |row: &SeenRow| {
        let name = row.name.get(..16)?;
        match row.table {
            Table::Groups | Table::GroupParts => Some(Anchor::Group(name.to_vec())),
            Table::Handles => Some(Anchor::Handle(name.to_vec())),
            _ => owners.get(name).cloned(),
        }
    };
    together.iter().filter_map(anchor).collect()
}

fn marks(together: &Together) -> BTreeSet<Mark> {
    let names = together.iter().filter_map(name_of).map(mark);
    names
        .chain(together.iter().flat_map(|row| pieces(&row.value)))
        .collect()
}

/// How much more often than by chance each mark comes with each anchor. A mark of nearly all is
/// none.
fn lifts(seen: &[Together]) -> Vec<BTreeMap<Anchor, f64>> {
    let owners = owners(seen);
    let sets: Vec<(BTreeSet<Anchor>, BTreeSet<Mark>)> = seen
        .iter()
        .map(|together| (anchors(together, &owners), marks(together)))
        .collect();
    let mut often: BTreeMap<&Anchor, f64> = BTreeMap::new();
    let mut together: BTreeMap<Mark, (f64, BTreeMap<&Anchor, f64>)> = BTreeMap::new();
    for (anchors, marks) in &sets {
        for anchor in anchors {
            *often.entry(anchor).or_default() += 1.0;
        }
        for mark in marks {
            let (count, with) = together.entry(*mark).or_default();
            *count += 1.0;
            for anchor in anchors {
                *with.entry(anchor).or_default() += 1.0;
            }
        }
    }
    let all = sets.len() as f64;
    together
        .into_values()
        .filter(|(count, with)| *count < all / 3.0 && with.len() > 1)
        .map(|(count, with)| {
            let lift = |(anchor, times): (&Anchor, f64)| {
                let more = times / count - often.get(anchor).copied().unwrap_or(0.0) / all;
                (more > 0.0).then(|| (anchor.clone(), more))
            };
            with.into_iter().filter_map(lift).collect()
        })
        .collect()
}

/// How often a score of the first is higher than one of the second; equal ones count half.
fn odds(linked: &[f64], others: &[f64]) -> Odds {
    let mut won = 0.0;
    for score in linked {
        for other in others {
            won += match score.total_cmp(other) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    Odds {
        won: won / (linked.len() * others.len()).max(1) as f64,
    }
}

/// The matcher, and the judge.
#[must_use]
pub fn guess(scene: &Scene, seen: &[Together]) -> Guesses {
    let mut scores: BTreeMap<(Anchor, Anchor), f64> = BTreeMap::new();
    for lift in lifts(seen) {
        for (one, first) in &lift {
            for (other, second) in &lift {
                if one < other {
                    *scores.entry((one.clone(), other.clone())).or_default() += first * second;
                }
            }
        }
    }
    let score = |one: Anchor, other: Anchor| {
        let pair = if one < other {
            (one, other)
        } else {
            (other, one)
        };
        scores.get(&pair).copied().unwrap_or(0.0)
    };
    let (mut linked, mut others) = (Vec::new(), Vec::new());
    for (one, first) in &scene.groups {
        for (other, second) in scene.groups.iter().filter(|(other, _)| one < *other) {
            let score = score(Anchor::Group(one.clone()), Anchor::Group(other.clone()));
            let second = &scene.members[*second];
            let share = scene.members[*first]
                .iter()
                .any(|user| second.contains(user));
            if share { &mut linked } else { &mut others }.push(score);
        }
    }
    let co_members = odds(&linked, &others);
    linked.clear();
    others.clear();
    for (handle, user) in &scene.handles {
        for (group, number) in &scene.groups {
            let score = score(Anchor::Handle(handle.clone()), Anchor::Group(group.clone()));
            let is_member = scene.members[*number].contains(user);
            if is_member { &mut linked } else { &mut others }.push(score);
        }
    }
    Guesses {
        co_members,
        handles: odds(&linked, &others),
        senders: guess_senders(scene, seen),
    }
}

/// Messages of one group: names that both have, of those that not all have; then their sizes.
fn guess_senders(scene: &Scene, seen: &[Together]) -> Option<Odds> {
    struct Message {
        sender: usize,
        names: BTreeSet<Mark>,
        size: usize,
    }
    let owners = owners(seen);
    let mut messages: BTreeMap<Anchor, Vec<Message>> = BTreeMap::new();
    for together in seen {
        let mut senders = together.iter().filter_map(|row| {
            let of_table = row.table == Table::Messages;
            of_table.then(|| scene.senders.get(&row.name)).flatten()
        });
        let mut groups = anchors(together, &owners).into_iter();
        let (Some(sender), None) = (senders.next(), senders.next()) else {
            continue;
        };
        let (Some(group), None) = (groups.next(), groups.next()) else {
            continue;
        };
        messages.entry(group).or_default().push(Message {
            sender: *sender,
            names: together.iter().filter_map(name_of).map(mark).collect(),
            size: together.iter().map(|row| row.value.len()).sum(),
        });
    }
    let (mut linked, mut others) = (Vec::new(), Vec::new());
    for mut messages in messages.into_values() {
        let mut count: BTreeMap<Mark, usize> = BTreeMap::new();
        for mark in messages.iter().flat_map(|message| &message.names) {
            *count.entry(*mark).or_default() += 1;
        }
        let all = messages.len();
        for message in &mut messages {
            message
                .names
                .retain(|mark| (2..all).contains(&count.get(mark).copied().unwrap_or(0)));
        }
        for (at, one) in messages.iter().enumerate() {
            for other in &messages[at + 1..] {
                let both = one.names.intersection(&other.names).count() as f64;
                let any = one.names.union(&other.names).count().max(1) as f64;
                let near = 1e-6 / (1.0 + one.size.abs_diff(other.size) as f64);
                let is_linked = one.sender == other.sender;
                if is_linked { &mut linked } else { &mut others }.push(both / any + near);
            }
        }
    }
    (!linked.is_empty() && !others.is_empty()).then(|| odds(&linked, &others))
}

/// The mean of some scenes, and how far it may be off (95 %).
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Mean of [`Odds::won`].
    pub won: f64,
    /// Half the width of its interval.
    pub within: f64,
}

impl Outcome {
    /// Of these scenes.
    #[must_use]
    pub fn of(odds: &[Odds]) -> Self {
        let count = odds.len() as f64;
        let won = odds.iter().map(|odds| odds.won).sum::<f64>() / count;
        let squares: f64 = odds.iter().map(|odds| (odds.won - won).powi(2)).sum();
        // Student's t for five degrees of freedom.
        let within = 2.571 * (squares / (count - 1.0) / count).sqrt();
        Self { won, within }
    }

    /// Whether it may be guessing.
    #[must_use]
    pub fn is_guessing(self) -> bool {
        (self.won - 0.5).abs() <= self.within + 1e-9
    }
}

/// What all scenes gave.
#[derive(Debug)]
pub struct Results {
    /// Which groups share a member.
    pub co_members: Outcome,
    /// Whose handle is that of a member.
    pub handles: Outcome,
    /// Which messages have one sender.
    pub senders: Option<Outcome>,
}

impl Results {
    fn of(guesses: &[Guesses]) -> Self {
        let all =
            |part: fn(&Guesses) -> Odds| Outcome::of(&guesses.iter().map(part).collect::<Vec<_>>());
        let senders: Vec<Odds> = guesses.iter().filter_map(|guess| guess.senders).collect();
        Self {
            co_members: all(|guess| guess.co_members),
            handles: all(|guess| guess.handles),
            senders: (senders.len() == guesses.len()).then(|| Outcome::of(&senders)),
        }
    }

    fn named(&self) -> Vec<(&'static str, Outcome)> {
        let mut named = vec![("co-members", self.co_members), ("handles", self.handles)];
        named.extend(self.senders.map(|senders| ("senders", senders)));
        named
    }

    /// Nothing is better than guessing.
    pub fn assert_guessing(&self, what: &str) {
        for (part, result) in self.named() {
            assert!(result.is_guessing(), "{what}, {part}: {result:?}");
        }
    }

    /// Everything is better than guessing, and won at least so often.
    pub fn assert_won(&self, least: f64, what: &str) {
        for (part, result) in self.named() {
            let sure = result.won - result.within;
            assert!(
                sure > 0.5 && result.won >= least,
                "{what}, {part}: {result:?}"
            );
        }
    }
}

/// Plays all scenes. `look` applies one to an engine, and says what it found in some ways of
/// looking.
pub async fn play<const WAYS: usize>(
    is_planted: bool,
    look: impl AsyncFn(&Scene) -> [Vec<Together>; WAYS],
) -> [Results; WAYS] {
    let mut guesses: [Vec<Guesses>; WAYS] = std::array::from_fn(|_| Vec::new());
    for seed in 0..SCENES {
        let scene = Scene::play(100 + seed, is_planted);
        for (guesses, seen) in guesses.iter_mut().zip(look(&scene).await) {
            guesses.push(guess(&scene, &seen));
        }
    }
    guesses.map(|guesses| Results::of(&guesses))
}

fn key(table: Table, day: u32, name: &[u8]) -> Key {
    Key {
        table,
        day,
        name: name.to_vec(),
    }
}
