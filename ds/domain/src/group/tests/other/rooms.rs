//! Groups whose members are on `mls-rs` and on openmls.
//!
//! What the two have in common is tried here. They differ in this:
//! * SelfRemove: `mls-rs` has it as 0xf003 and only as a build option, openmls as 0x000a. Whoever
//!   leaves a group with both proposes a Remove of itself, which the service takes in its place; a
//!   SelfRemove is refused there (RFC 9420 §12.2: all members must support the type).
//! * X-Wing suites: the RustCrypto provider of `mls-rs` has none.
//! * A rejoining client finds its old leaf by the same signature key in openmls; `mls-rs` is told
//!   the leaf.

use openmls::prelude::OpenMlsProvider as _;
use openmls::prelude::tls_codec::Serialize as _;

use super::*;
use crate::group::tests::kit::{Outside, SUITES};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Implementation {
    OpenMls,
    MlsRs,
}
use Implementation::{MlsRs, OpenMls};

/// Creator, and those whom it adds.
const MIXES: [[Implementation; 3]; 4] = [
    [MlsRs, MlsRs, MlsRs],
    [MlsRs, OpenMls, MlsRs],
    [OpenMls, MlsRs, MlsRs],
    [MlsRs, OpenMls, OpenMls],
];

const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;

enum Participant {
    OpenMls(Box<Client>),
    MlsRs(Box<OtherClient>),
}

/// Who can be added.
enum Guest {
    OpenMls(Box<Invitee>),
    MlsRs(Box<OtherLeaf>),
}

macro_rules! either {
    ($self:expr, $member:ident => $work:expr) => {
        match $self {
            Participant::OpenMls($member) => $work,
            Participant::MlsRs($member) => $work,
        }
    };
}

impl Guest {
    fn new(world: &World, implementation: Implementation, user: Vec<u8>) -> Self {
        match implementation {
            OpenMls => Self::OpenMls(Box::new(Invitee::of_user(world, user))),
            MlsRs => Self::MlsRs(Box::new(OtherLeaf::new(world, user))),
        }
    }

    fn key_package(&self) -> openmls::prelude::KeyPackage {
        match self {
            Self::OpenMls(invitee) => invitee.key_package.clone(),
            Self::MlsRs(leaf) => leaf.key_package(),
        }
    }

    fn join(self, world: &mut World, pointer: &Pointer, segment: SegmentId) -> Participant {
        match self {
            Self::OpenMls(invitee) => {
                let mut joined = Client::join(world, *invitee, pointer);
                joined.segment = segment;
                joined.arrive(world);
                Participant::OpenMls(Box::new(joined))
            }
            Self::MlsRs(leaf) => {
                let mut joined = OtherClient::join(world, *leaf, pointer);
                joined.told_of(segment);
                joined.arrive(world);
                Participant::MlsRs(Box::new(joined))
            }
        }
    }
}

impl Participant {
    fn create(world: &mut World, implementation: Implementation, kind: GroupKind) -> Self {
        match implementation {
            OpenMls => Self::OpenMls(Box::new(Client::create(world, kind))),
            MlsRs => Self::MlsRs(Box::new(OtherClient::create(world, kind))),
        }
    }

    fn index(&self) -> u32 {
        either!(self, member => member.index())
    }

    fn user(&self) -> Vec<u8> {
        either!(self, member => member.user.clone())
    }

    fn members(&self) -> Vec<u32> {
        either!(self, member => member.members())
    }

    fn view(&self) -> (u64, SegmentId, RotationEpoch, Vec<u32>) {
        let (epoch, segment, rotation) =
            either!(self, member => (member.epoch(), member.segment, member.rotation));
        (epoch, segment, rotation, self.members())
    }

    fn group_key(&self) -> GroupKey {
        match self {
            Self::OpenMls(member) => member.key(),
            Self::MlsRs(member) => member.group_key(),
        }
    }

    fn is_out(&self) -> bool {
        either!(self, member => member.is_out)
    }

    fn texts(&self) -> &[Vec<u8>] {
        either!(self, member => &member.texts)
    }

    fn pointers(&self) -> Vec<Pointer> {
        either!(self, member => member.pointers.clone())
    }

    fn proposals(&self) -> usize {
        match self {
            Self::OpenMls(member) => member.proposals.len(),
            Self::MlsRs(member) => member.proposals,
        }
    }

    fn catch_up(&mut self, world: &mut World) {
        either!(self, member => member.catch_up(world));
    }

    fn message(&mut self, text: &[u8]) -> SendMessageRequest {
        either!(self, member => member.message(text))
    }

    fn call<O: Operation>(
        &self,
        world: &mut World,
        body: &O::Request,
    ) -> Result<O::Response, Failure> {
        either!(self, member => member.call::<O>(world, body))
    }

    fn say(&mut self, world: &mut World, text: &[u8]) -> Result<(), ProblemType> {
        let body = self.message(text);
        match self.call::<SendMessage>(world, &body) {
            Ok(_) => Ok(()),
            Err(failure) => Err(problem::<()>(Err(failure))),
        }
    }

    fn stage(&mut self, world: &World, plan: Plan) -> CommitRequest {
        match self {
            Self::OpenMls(member) => member.stage(plan),
            Self::MlsRs(member) => member.stage(world, plan, None),
        }
    }

    fn send_commit(
        &mut self,
        world: &mut World,
        operation: Number,
        request: &CommitRequest,
    ) -> Result<CommitAccepted, Failure> {
        either!(self, member => member.send_commit(world, operation, request))
    }

    fn commit(&mut self, world: &mut World, plan: Plan) {
        let operation = plan.operation;
        let request = self.stage(world, plan);
        self.send_commit(world, operation, &request).unwrap();
    }

    fn abandon(&mut self) {
        either!(self, member => member.abandon());
    }

    fn policy(&self) -> GroupPolicy {
        either!(self, member => member.policy())
    }

    fn set_policy(&mut self, world: &mut World, policy: &GroupPolicy) {
        let context = either!(&*self, member => member.context_with(policy));
        self.commit(world, Plan::set_context(context));
    }

    /// Says that it leaves, by a Remove of itself.
    fn leave(&mut self, world: &mut World) {
        match self {
            Self::OpenMls(member) => {
                let proposal = member
                    .mls
                    .leave_group(&member.provider, &member.signer)
                    .unwrap();
                let storage = member.provider.storage();
                member.mls.clear_pending_proposals(storage).unwrap();
                let body = ProposalRequest {
                    group: member.key(),
                    proposal: opaque(proposal.tls_serialize_detached().unwrap()),
                    new_member: None,
                };
                member.call::<SelfRemove>(world, &body).unwrap();
            }
            Self::MlsRs(member) => member.leave(world),
        }
    }

    fn authorize(&self, world: &World, join: AuthorizedJoin, key: &[u8]) -> LeafAuthorization {
        either!(self, member => member.authorize(world, join, key))
    }
}

/// A group with members of several implementations.
struct Room {
    world: World,
    members: Vec<Participant>,
}

/// What `mls-rs` has with its RustCrypto provider of what the service takes.
fn rooms() -> impl Iterator<Item = Room> {
    SUITES[..3].iter().flat_map(|suite| {
        MIXES.into_iter().map(|mix| {
            let mut world = World::new(200);
            world.suite = *suite;
            Room::with(world, mix)
        })
    })
}

impl Room {
    /// The first creates it and adds the others with one Welcome.
    fn with(mut world: World, mix: [Implementation; 3]) -> Self {
        let [first, others @ ..] = mix;
        let alice = Participant::create(&mut world, first, GroupKind::Group);
        let mut room = Self {
            world,
            members: vec![alice],
        };
        let guests = others.map(|one| Guest::new(&room.world, one, pseudonym()));
        room.add(ALICE, guests, Number::AddUsers);
        room.settle();
        room
    }

    fn add(&mut self, by: usize, guests: impl IntoIterator<Item = Guest>, operation: Number) {
        let guests: Vec<Guest> = guests.into_iter().collect();
        let plan = Plan::add(guests.iter().map(Guest::key_package)).sent_as(operation);
        let Self { world, members } = self;
        members[by].commit(world, plan);
        members[by].catch_up(world);
        let (_, segment, ..) = members[by].view();
        let pointers = members[by].pointers();
        for (guest, pointer) in guests.into_iter().zip(pointers) {
            members.push(guest.join(world, &pointer, segment));
        }
    }

    fn commit(&mut self, at: usize, plan: Plan) {
        self.members[at].commit(&mut self.world, plan);
    }

    /// Everybody reads what there is, and then sees the same group.
    fn settle(&mut self) {
        let Self { world, members } = self;
        for member in members.iter_mut() {
            member.catch_up(world);
        }
        let views: Vec<_> = members.iter().map(Participant::view).collect();
        for view in &views {
            assert_eq!(*view, views[0]);
        }
        let mut leaves: Vec<u32> = members.iter().map(Participant::index).collect();
        leaves.sort_unstable();
        assert_eq!(leaves, views[0].3);
    }

    /// Everybody says something and everybody else hears it.
    fn everybody_talks(&mut self) {
        self.settle();
        for speaker in 0..self.members.len() {
            let text = format!("from leaf {}", self.members[speaker].index()).into_bytes();
            self.members[speaker].say(&mut self.world, &text).unwrap();
            self.settle();
            for (at, member) in self.members.iter().enumerate() {
                let heard: &[u8] = if at == speaker { b"own" } else { &text };
                assert_eq!(member.texts().last().unwrap(), heard);
            }
        }
    }

    /// Comes in as a further client of a member's user, or in its place.
    fn come_in(&mut self, implementation: Implementation, of: usize, join: AuthorizedJoin) {
        let Self { world, members } = self;
        let member = &members[of];
        let (_, segment, rotation, _) = member.view();
        let by = (member.group_key(), rotation, segment);
        let permit = move || match join {
            AuthorizedJoin::Client => JoinPermit::Client,
            AuthorizedJoin::Rejoin => JoinPermit::Rejoin,
        };
        let replaces = (join == AuthorizedJoin::Rejoin).then(|| member.index());
        let joined = match (implementation, member) {
            (MlsRs, _) => {
                let leaf = match (replaces, member) {
                    (Some(_), Participant::MlsRs(member)) => member.lost(world),
                    _ => OtherLeaf::new(world, member.user()),
                };
                let word = member.authorize(world, join, &leaf.key.public);
                let joined =
                    OtherClient::join_from_outside(world, by, leaf, &permit, Some(word), replaces);
                Participant::MlsRs(Box::new(joined))
            }
            (OpenMls, Participant::OpenMls(member)) => {
                let signer = match replaces {
                    Some(_) => member.same_signer(),
                    None => LeafSigner::of(world.scheme()),
                };
                let outside = Outside {
                    word: Some(member.authorize(world, join, &signer.0.public())),
                    rotates: replaces.is_some(),
                    ..Outside::new(member, member.user.clone(), signer, &permit)
                };
                Participant::OpenMls(Box::new(outside.join(world).unwrap()))
            }
            // What it is told comes from a member of the other implementation.
            (OpenMls, Participant::MlsRs(_)) => return,
        };
        match replaces {
            Some(_) => members[of] = joined,
            None => members.push(joined),
        }
    }
}

#[test]
fn members_of_either_implementation_come_in_by_welcome_and_talk() {
    for mut room in rooms() {
        room.everybody_talks();
        // Whoever was added adds in turn.
        for implementation in [OpenMls, MlsRs] {
            let guest = Guest::new(&room.world, implementation, pseudonym());
            room.add(BOB, [guest], Number::AddUsers);
            room.everybody_talks();
        }
    }
}

#[test]
fn a_member_of_either_implementation_updates_its_leaf_and_its_credential() {
    for mut room in rooms() {
        for at in [ALICE, BOB, CAROL] {
            room.commit(at, Plan::update());
            room.settle();
            let user = room.members[at].user();
            let renews = Plan {
                new_user: Some(user),
                ..Plan::update()
            };
            room.commit(at, renews);
            // The credential is new, and requests are signed by its key.
            room.everybody_talks();
        }
    }
}

#[test]
fn whoever_is_removed_by_either_implementation_has_no_key_for_what_comes_after() {
    for mut room in rooms() {
        let mut carol = room.members.pop().unwrap();
        let farewell = carol.message(b"I am still here");
        let before = carol.view();
        room.commit(ALICE, Plan::remove([carol.index()]));
        carol.catch_up(&mut room.world);
        assert!(carol.is_out());
        room.everybody_talks();
        assert_ne!(room.members[ALICE].view().1, before.1);
        let answer = carol.call::<SendMessage>(&mut room.world, &farewell);
        assert_eq!(problem(answer), ProblemType::UnknownGroup);
    }
}

#[test]
fn roles_that_one_implementation_sets_bind_the_other() {
    for mut room in rooms() {
        let (bob, carol) = (room.members[BOB].user(), room.members[CAROL].user());
        let leaf = room.members[CAROL].index();
        let policy = room.members[ALICE].policy();
        let policy = policy.with(&carol, GroupPolicy::MEMBER, Standing::Muted);
        room.members[ALICE].set_policy(&mut room.world, &policy);
        room.settle();
        assert_eq!(room.members[BOB].policy(), policy);
        assert_eq!(
            room.members[CAROL].say(&mut room.world, b"muted"),
            Err(ProblemType::NotAllowed)
        );
        let policy = policy.with(&bob, GroupPolicy::ADMIN, Standing::Active);
        room.members[ALICE].set_policy(&mut room.world, &policy);
        room.settle();
        room.commit(BOB, Plan::remove([leaf]));
        room.members.pop();
        room.everybody_talks();
    }
}

#[test]
fn a_member_that_leaves_by_a_remove_of_itself_is_let_go_by_the_other_implementation() {
    for mut room in rooms() {
        let before = room.members[ALICE].view();
        room.members[CAROL].leave(&mut room.world);
        room.settle();
        assert!(
            room.members[..CAROL]
                .iter()
                .all(|member| member.proposals() == 1)
        );
        // Who goes next covers it by reference.
        room.commit(BOB, Plan::update().rotating());
        let mut carol = room.members.pop().unwrap();
        carol.catch_up(&mut room.world);
        assert!(carol.is_out());
        room.everybody_talks();
        assert_ne!(room.members[ALICE].view().1, before.1);
    }
}

#[test]
fn a_remove_of_itself_that_an_external_commit_cannot_cover_is_renewed_by_the_service() {
    for implementation in [OpenMls, MlsRs] {
        for mut room in rooms() {
            let is_openmls = matches!(room.members[BOB], Participant::OpenMls(_));
            if implementation == OpenMls && !is_openmls {
                continue;
            }
            room.members[CAROL].leave(&mut room.world);
            room.settle();
            room.come_in(implementation, BOB, AuthorizedJoin::Client);
            room.settle();
            assert!(
                room.members[..CAROL]
                    .iter()
                    .all(|member| member.proposals() == 2)
            );
            room.commit(ALICE, Plan::update().rotating());
            let mut carol = room.members.remove(CAROL);
            carol.catch_up(&mut room.world);
            assert!(carol.is_out());
            room.everybody_talks();
        }
    }
}

#[test]
fn a_self_remove_is_refused_where_a_member_does_not_support_it() {
    let mut room = Room::with(World::new(201), [MlsRs, OpenMls, OpenMls]);
    let Participant::OpenMls(carol) = &mut room.members[CAROL] else {
        panic!("an openmls client");
    };
    let body = carol.leaving();
    let answer = carol.call::<SelfRemove>(&mut room.world, &body);
    assert_eq!(problem(answer), ProblemType::InvalidMessage);
    room.everybody_talks();
}

#[test]
fn whoever_the_service_removes_goes_with_a_commit_of_either_implementation() {
    for mut room in rooms() {
        room.world.service.now_ms += 140 * DAY_MS;
        // Carol has not committed for so long; Bob has just now, and Alice does.
        room.commit(BOB, Plan::update().rotating());
        room.settle();
        let mut carol = room.members.pop().unwrap();
        let waiting = room.members[BOB].proposals();
        assert!(waiting > 0);
        // openmls takes one of its own, mls-rs the ones that it was handed: both by reference.
        room.commit(BOB, Plan::update().rotating());
        let Room { world, members } = &mut room;
        for member in members.iter_mut() {
            member.catch_up(world);
        }
        carol.catch_up(world);
        assert!(carol.is_out());
        members.retain(|member| !member.is_out());
        room.everybody_talks();
    }
}

#[test]
fn a_further_client_and_who_lost_its_state_come_in_by_external_commits_of_either_implementation() {
    for mut room in rooms() {
        for implementation in [OpenMls, MlsRs] {
            room.come_in(implementation, BOB, AuthorizedJoin::Client);
            room.everybody_talks();
        }
        // And one by Welcome.
        let user = room.members[BOB].user();
        let third = Guest::new(&room.world, MlsRs, user.clone());
        room.add(BOB, [third], Number::AddClients);
        room.everybody_talks();
        let before = room.members[ALICE].view();
        for at in [BOB, CAROL] {
            let implementation = match room.members[at] {
                Participant::OpenMls(_) => OpenMls,
                Participant::MlsRs(_) => MlsRs,
            };
            room.come_in(implementation, at, AuthorizedJoin::Rejoin);
            room.everybody_talks();
        }
        assert_ne!(room.members[ALICE].view().1, before.1);
        // All of them go with their user.
        let is_bobs = |member: &Participant| member.user() == user;
        let leaves: Vec<u32> = room
            .members
            .iter()
            .filter(|member| is_bobs(member))
            .map(Participant::index)
            .collect();
        assert!(leaves.len() >= 3);
        room.commit(ALICE, Plan::remove(leaves));
        room.members.retain(|member| !is_bobs(member));
        room.everybody_talks();
    }
}

#[test]
fn a_connection_is_joined_by_the_other_implementation() {
    for suite in &SUITES[..3] {
        for [asker, responder] in [[MlsRs, MlsRs], [MlsRs, OpenMls], [OpenMls, MlsRs]] {
            let mut world = World::new(202);
            world.suite = *suite;
            let alice = Participant::create(&mut world, asker, GroupKind::Connection);
            let code = match &alice {
                Participant::OpenMls(member) => make_code(member, &mut world).unwrap().0,
                Participant::MlsRs(member) => member.make_code(&mut world),
            };
            let connect = by_code(code);
            let (_, segment, rotation, _) = alice.view();
            let bob = match (responder, &alice) {
                (OpenMls, Participant::OpenMls(_)) => panic!("not in these"),
                (MlsRs, _) => {
                    let leaf = OtherLeaf::new(&world, pseudonym());
                    let by = (alice.group_key(), rotation, segment);
                    let world = &mut world;
                    let joined =
                        OtherClient::join_from_outside(world, by, leaf, &connect, None, None);
                    Participant::MlsRs(Box::new(joined))
                }
                // openmls joins by what the service says of a group of the other's.
                (OpenMls, Participant::MlsRs(_)) => continue,
            };
            let mut room = Room {
                world,
                members: vec![alice, bob],
            };
            room.everybody_talks();
        }
    }
}

#[test]
fn the_loser_of_a_race_of_implementations_goes_on() {
    for mut room in rooms() {
        for (winner, loser) in [(ALICE, BOB), (BOB, ALICE)] {
            let losing = room.members[loser].stage(&room.world, Plan::update());
            room.commit(winner, Plan::update());
            let Room { world, members } = &mut room;
            let answer = members[loser].send_commit(world, Number::UpdateClient, &losing);
            assert_eq!(problem(answer), ProblemType::WrongEpoch);
            members[loser].abandon();
            room.everybody_talks();
        }
    }
}

#[test]
fn a_group_is_reinitialized_and_deleted_by_another_implementation() {
    for suite in &SUITES[..3] {
        let mut world = World::new(203);
        world.suite = *suite;
        let mut room = Room::with(world, [MlsRs, MlsRs, OpenMls]);
        let key = crate::testing::key(5);
        let body = ReserveGroupIdRequest {
            group_id: protocol::ids::GroupId(crypto::random().unwrap()),
        };
        let reserved = room.world.service.call::<ReserveGroupId>(&key, &body);
        let successor = reserved.unwrap().group_id;
        let Room { world, members } = &mut room;
        let Participant::MlsRs(alice) = &mut members[ALICE] else {
            panic!("on mls-rs");
        };
        let plan = Plan::update().sent_as(Number::ReInitializeGroup);
        let request = alice.stage(world, plan, Some(successor));
        alice
            .send_commit(world, Number::ReInitializeGroup, &request)
            .unwrap();
        let before = members[BOB].message(b"too late");
        for member in &mut members[..CAROL] {
            member.catch_up(world);
        }
        let Participant::MlsRs(bob) = &members[BOB] else {
            panic!("on mls-rs");
        };
        assert!(bob.reinitialized);
        let late = SendMessageRequest {
            group: bob.group_key(),
            ..before
        };
        let answer = members[BOB].call::<SendMessage>(world, &late);
        assert_eq!(problem(answer), ProblemType::GroupReinitialized);

        let mut world = World::new(204);
        world.suite = *suite;
        let mut room = Room::with(world, [MlsRs, MlsRs, OpenMls]);
        let gone = room.members[ALICE].message(b"is anybody there?");
        let plan = Plan::remove([1, 2])
            .without_rotation()
            .sent_as(Number::DeleteGroup);
        room.commit(ALICE, plan);
        let Room { world, members } = &mut room;
        for member in &mut members[BOB..] {
            member.catch_up(world);
            assert!(member.is_out());
        }
        let answer = members[ALICE].call::<SendMessage>(world, &gone);
        assert_eq!(problem(answer), ProblemType::UnknownGroup);
    }
}
