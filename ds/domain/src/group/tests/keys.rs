//! The key game: all that a party can derive and open from what it holds, computed by trying,
//! beside what the table of `docs/journals.md` says. The attack knows every format, every segment
//! id and every label; each 32 bytes of whatever it opens are tried as a key of every kind.

use std::collections::BTreeSet;

use crypto::journal::open_entry;
use crypto::kdf;
use crypto::records::open_join_page;
use crypto::schedule::{DataKey, JoinKey, JournalKey, RotationSecret, StateKey};
use protocol::group::GroupKind;
use protocol::ids::{Day, GroupId, Position, SegmentId, Step};
use protocol::journal::Class;

use super::kit::{Client, Invitee, Plan, World};
use crate::engine::{Batch, Key, Table};
use crate::env::Version;
use crate::group::parts;
use crate::group::short::Short;
use crate::memory::MemoryEngine;
use crate::rows::{Part, Rows, SegmentRow};
use crate::store::Versioned;

/// What was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Opened {
    /// The state of this epoch.
    State(u64),
    /// The entry of this segment at this position.
    Entry(u64, u64),
    /// A page of a join record.
    JoinRecord,
}
use Opened::{Entry, JoinRecord, State};

/// Steps and ratchets that are tried.
const FAR: u32 = 6;

/// The copies of the disk that there are, and what everybody is taken to know.
struct Disk<'w> {
    group: GroupId,
    rows: Rows<'w>,
    segments: Vec<(u64, SegmentId)>,
    copies: Vec<&'w MemoryEngine>,
}

/// A party: the keys that it holds, and all that it comes to.
struct Party<'d> {
    disk: &'d Disk<'d>,
    entries: Vec<SealedEntry>,
    tried: BTreeSet<[u8; 32]>,
    /// With how far each is ratcheted: what stands anywhere in an opened text less than a key that
    /// is one for certain.
    waiting: Vec<([u8; 32], u32)>,
    opened: BTreeSet<Opened>,
}

/// As it is stored.
struct SealedEntry {
    rotation: u64,
    segment: SegmentId,
    position: u64,
    class: Class,
    sealed: Vec<u8>,
}

/// All that the holder of these keys opens.
fn opens(disk: &Disk<'_>, keys: &[[u8; 32]]) -> BTreeSet<Opened> {
    let mut party = Party {
        disk,
        entries: entries(disk),
        tried: BTreeSet::new(),
        waiting: keys.iter().map(|key| (*key, FAR)).collect(),
        opened: BTreeSet::new(),
    };
    while let Some((key, far)) = party.waiting.pop() {
        if party.tried.insert(key) {
            party.try_key(key, far);
        }
    }
    party.opened
}

impl Party<'_> {
    /// A key, and all that follows from it by the labels that there are.
    fn try_key(&mut self, key: [u8; 32], far: u32) {
        let begun: [u8; 32] = kdf::derive(&key, "state key", &[]);
        for first in [key, begun] {
            let mut ratcheted = first;
            for _ in 0..=far {
                self.try_state_key(ratcheted);
                self.try_journal_key(ratcheted);
                ratcheted = kdf::derive(&ratcheted, "next", &[]);
            }
        }
        self.try_join_key(key);
    }

    fn try_state_key(&mut self, key: [u8; 32]) {
        let disk = self.disk;
        for copy in &disk.copies {
            for (name, value) in copy.rows() {
                if name.table != Table::Groups {
                    continue;
                }
                let Some((version, sealed)) = Versioned::read(value) else {
                    continue;
                };
                let key = StateKey::new(key);
                if let Some(short) = parts::open_short(&disk.group, &key, &version, sealed) {
                    let short = Short::decode(&short).unwrap();
                    self.open_state(copy, &short);
                }
            }
        }
    }

    fn open_state(&mut self, copy: &MemoryEngine, short: &Short) {
        if !self.opened.insert(State(short.epoch.0)) {
            return;
        }
        self.waiting.push((*short.journal_key.expose(), FAR));
        let all = (0u16..)
            .zip(&short.pages)
            .map(|(page, version)| (Part::Roster(page), *version))
            .chain([
                (Part::Control, short.control),
                (Part::Marks, short.marks),
                (Part::Tree, short.tree),
            ])
            .chain(
                short
                    .tree_changes
                    .map(|version| (Part::TreeChanges, version)),
            );
        for (part, version) in all {
            let plain = self.part(copy, &short.data_key, part, version);
            self.look_for_keys(&plain);
        }
    }

    fn part(&self, copy: &MemoryEngine, key: &DataKey, part: Part, version: Version) -> Vec<u8> {
        let row = self.disk.rows.group(&self.disk.group).part(part);
        let sealed = copy.rows().find(|(name, _)| **name == row);
        let sealed = sealed.map(|(_, value)| value);
        parts::open(&self.disk.group, key, (part, &version), sealed)
            .unwrap()
            .to_vec()
    }

    /// Whatever it has opened may hold a key anywhere.
    fn look_for_keys(&mut self, plain: &[u8]) {
        for window in plain.windows(32) {
            // Text, numbers and padding are no keys.
            let distinct: BTreeSet<_> = window.iter().collect();
            if distinct.len() > 20 {
                self.waiting.push((window.try_into().unwrap(), 1));
            }
        }
    }

    fn try_journal_key(&mut self, key: [u8; 32]) {
        let key = JournalKey::new(key);
        for entry in &self.entries {
            let opened = Entry(entry.rotation, entry.position);
            if !self.opened.contains(&opened)
                && (0..=FAR).any(|step| {
                    let (segment, sealed) = (&entry.segment, &entry.sealed);
                    open_entry(&key, segment, Step(step), entry.class, sealed).is_ok()
                })
            {
                self.opened.insert(opened);
            }
        }
    }

    fn try_join_key(&mut self, key: [u8; 32]) {
        let key = JoinKey::new(key);
        let id = key.record_id(&self.disk.group);
        let mut opened = Vec::new();
        for copy in &self.disk.copies {
            for (name, value) in copy.rows() {
                // The number of pages stands before the first one.
                if name.table == Table::JoinRecords
                    && let Some((&pages, sealed)) = value.split_first_chunk()
                    && let number = u16::from_be_bytes(pages)
                    && let Ok(plain) = open_join_page(&key, &id, (0, number), sealed)
                {
                    opened.push(plain);
                }
            }
        }
        for plain in opened {
            self.opened.insert(JoinRecord);
            self.look_for_keys(&plain);
        }
    }
}

/// Every entry that is on one of the copies, once.
fn entries(disk: &Disk<'_>) -> Vec<SealedEntry> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (rotation, segment) in &disk.segments {
        let row: SegmentRow = disk.rows.segment(segment);
        let begins = row.handshake(Day(0), Position(0)).name;
        for (name, value) in disk.copies.iter().flat_map(|copy| copy.rows()) {
            let (class, sealed) = match (name.table, value.split_first()) {
                (Table::Messages, _) => (Class::Message, value),
                (Table::Handshakes, Some((1, sealed))) => (Class::Handshake, sealed),
                _ => continue,
            };
            let position = SegmentRow::position_in(&name.name).unwrap().0;
            if name.name.starts_with(&begins[..16]) && seen.insert((*rotation, position)) {
                found.push(SealedEntry {
                    rotation: *rotation,
                    segment: *segment,
                    position,
                    class,
                    sealed: sealed.to_vec(),
                });
            }
        }
    }
    found
}

/// A history, the disk on three days of it, and what each party holds.
struct Game {
    world: World,
    days: [MemoryEngine; 3],
    group: GroupId,
    segments: Vec<(u64, SegmentId)>,
    /// Keys of the removed member, from its coming on.
    removed: Vec<[u8; 32]>,
    /// Of who joined last.
    joiner: Vec<[u8; 32]>,
    /// Of a member who was there from the first Add on.
    member: Vec<[u8; 32]>,
    /// What the service saw in the last request of the second day.
    service: Vec<[u8; 32]>,
    /// The rotation secret, which holders of codes and recovery keys get.
    rotation: [u8; 32],
}

fn held(client: &Client) -> [[u8; 32]; 2] {
    [*client.state_key.expose(), *client.journal_key.expose()]
}

impl Game {
    fn new() -> Self {
        let mut world = World::new(77);
        let mut alice = Client::create(&mut world, GroupKind::Group);
        let first = alice.segment;
        let invitees = [Invitee::new(&world), Invitee::new(&world)];
        let packages = invitees.each_ref().map(|one| one.key_package.clone());
        alice.commit(&mut world, Plan::add(packages)).unwrap();
        alice.catch_up(&mut world);
        let pointers = alice.pointers.clone();
        let [mut bob, mut carol] = {
            let mut pointers = pointers.iter();
            invitees.map(|one| {
                let mut client = Client::join(&mut world, one, pointers.next().unwrap());
                client.told_of(&alice);
                client.arrive(&mut world);
                client
            })
        };
        let mut removed = held(&carol).to_vec();
        let mut member = held(&bob).to_vec();
        // Positions 1 to 3: a message, an update, a message.
        alice.send(&mut world, b"one").unwrap();
        bob.commit(&mut world, Plan::update()).unwrap();
        for client in [&mut alice, &mut bob, &mut carol] {
            client.catch_up(&mut world);
        }
        bob.send(&mut world, b"two").unwrap();
        removed.extend(held(&carol));
        member.extend(held(&bob));
        let one = world.service.engine.clone();

        // Position 4 closes the segment: carol goes. Then a message, an update, a message.
        let gone = carol.index();
        alice.commit(&mut world, Plan::remove([gone])).unwrap();
        for client in [&mut alice, &mut bob, &mut carol] {
            client.catch_up(&mut world);
        }
        let second = alice.segment;
        let rotation = alice.rotation_secret();
        member.extend(held(&bob));
        bob.send(&mut world, b"three").unwrap();
        alice.commit(&mut world, Plan::update()).unwrap();
        bob.catch_up(&mut world);
        alice.catch_up(&mut world);
        bob.send(&mut world, b"four").unwrap();
        let service = held(&bob).to_vec();
        let two = world.service.engine.clone();

        // Position 3: dave comes. Then a message.
        let dave = Invitee::new(&world);
        alice
            .commit(&mut world, Plan::add([dave.key_package.clone()]))
            .unwrap();
        alice.catch_up(&mut world);
        let pointer = alice.pointers[0].clone();
        let mut dave = Client::join(&mut world, dave, &pointer);
        dave.told_of(&alice);
        bob.catch_up(&mut world);
        bob.send(&mut world, b"five").unwrap();
        let three = world.service.engine.clone();
        let rotation_epoch = alice.rotation.0;
        Self {
            days: [one, two, three],
            group: alice.id,
            segments: vec![(0, first), (rotation_epoch, second)],
            removed,
            joiner: [&held(&dave)[..], &[pointer.join_key]].concat(),
            member,
            service,
            rotation,
            world,
        }
    }

    fn disk<'g>(&'g self, days: &'g [MemoryEngine]) -> Disk<'g> {
        Disk {
            group: self.group,
            rows: Rows(self.world.service.keys().rows()),
            segments: self.segments.clone(),
            copies: days.iter().collect(),
        }
    }
}

/// Entries of a segment.
fn entries_of(rotation: u64, positions: impl IntoIterator<Item = u64>) -> BTreeSet<Opened> {
    positions
        .into_iter()
        .map(|position| Entry(rotation, position))
        .collect()
}

fn all(parts: impl IntoIterator<Item = BTreeSet<Opened>>) -> BTreeSet<Opened> {
    parts.into_iter().flatten().collect()
}

#[test]
fn each_party_opens_what_the_table_of_keys_says_and_nothing_more() {
    let game = Game::new();
    let disk = game.disk(&game.days);
    // Epochs: 1 both come, 2 an update, 3 carol goes, 4 an update, 5 dave comes.
    let of_removed = all([entries_of(0, 1..=4), [State(2)].into()]);
    let of_service = all([entries_of(3, 2..=4), [State(4), State(5)].into()]);
    let second_segment = all([entries_of(3, 0..=4), [State(4), State(5)].into()]);

    // A thief, a follower with every entry and every segment id: nothing.
    assert_eq!(opens(&disk, &[]), BTreeSet::new());
    let ids: Vec<[u8; 32]> = game.segments.iter().map(|(_, id)| id.0).collect();
    assert_eq!(opens(&disk, &ids), BTreeSet::new());

    // A removed member, with the disk of every day: nothing of what came after.
    assert_eq!(opens(&disk, &game.removed), of_removed);

    // Who joined: from the own epoch on, also with every copy.
    assert_eq!(
        opens(&disk, &game.joiner),
        all([entries_of(3, [4]), [State(5), JoinRecord].into()])
    );

    // A member, from its coming on.
    assert_eq!(
        opens(&disk, &game.member),
        all([entries_of(0, 1..=4), [State(2)].into(), second_segment])
    );

    // The service in one request: from that step of that segment on.
    assert_eq!(opens(&disk, &game.service), of_service);

    // Who has the rotation secret (a code, a recovery key): the segment's state, and what that
    // holds.
    let by_rotation = all([entries_of(3, 2..=4), [State(4), State(5)].into()]);
    assert_eq!(opens(&disk, &[game.rotation]), by_rotation);
    // Without a copy of the state: no entry. The journal key is told to who was let in.
    let without_state = game.days.clone().map(|day| {
        let mut day = day;
        day.drop_prefix(Table::Groups, &[]);
        day
    });
    assert_eq!(
        opens(&game.disk(&without_state), &[game.rotation]),
        BTreeSet::new()
    );

    // Together they have what each has.
    for (one, other) in [
        (&game.removed, &game.service),
        (&game.removed, &game.joiner),
        (&game.joiner, &game.service),
    ] {
        let both = [&one[..], other].concat();
        assert_eq!(
            opens(&disk, &both),
            all([opens(&disk, one), opens(&disk, other)])
        );
    }
}

#[test]
fn the_game_is_won_where_the_roster_holds_a_secret_that_later_keys_are_sealed_to() {
    let game = Game::new();
    let secret: [u8; 32] = kdf::derive(&[7; 32], "planted", &[]);
    // The first day's roster has it, and a later row has the next segment's key under it.
    let mut days = game.days.clone();
    let state = StateKey::new(*game.removed.last_chunk::<2>().unwrap().first().unwrap());
    plant(&game, &mut days[0], &state, &secret);
    let rotation = RotationSecret::new(game.rotation);
    let id = JoinKey::new(secret).record_id(&game.group);
    let sealed = crypto::records::seal_join_page(
        &JoinKey::new(secret),
        [5; 32],
        &id,
        (0, 1),
        rotation.expose(),
    );
    let row = Rows(game.world.service.keys().rows()).join_record(&id);
    let page = [&1u16.to_be_bytes()[..], &sealed.unwrap()].concat();
    days[1]
        .apply(Batch {
            puts: vec![(row.page(Day(0), 0), page)],
            ..Batch::default()
        })
        .unwrap();
    let opened = opens(&game.disk(&days), &game.removed);
    assert!(opened.contains(&State(4)), "{opened:?}");
    assert!(opened.contains(&Entry(3, 2)));
}

/// Puts a secret into the first page of the roster of a copy.
fn plant(game: &Game, day: &mut MemoryEngine, state: &StateKey, secret: &[u8; 32]) {
    let rows = Rows(game.world.service.keys().rows());
    let group = rows.group(&game.group);
    let row = |wanted: &Key| {
        let found = day.rows().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.to_vec()).unwrap()
    };
    let short = row(&group.key());
    let (version, sealed) = Versioned::read(&short).unwrap();
    let short = parts::open_short(&game.group, state, &version, sealed).unwrap();
    let short = Short::decode(&short).unwrap();
    let (part, version) = short.page(0).unwrap();
    let sealed = row(&group.part(part));
    let page = parts::open(
        &game.group,
        &short.data_key,
        (part, &version),
        Some(&sealed),
    )
    .unwrap();
    let mut service = crate::testing::Service::new(1);
    let (mut env, _) = service.env();
    let plain = [page.as_slice(), secret].concat();
    let sealed = parts::seal(
        &game.group,
        &short.data_key,
        (part, &version),
        &plain,
        &mut env,
    );
    day.apply(Batch {
        puts: vec![(group.part(part), sealed.unwrap())],
        ..Batch::default()
    })
    .unwrap();
}
