//! Kinds of links, who guesses them how well, and how sure that is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::attribution::{About, ORDINARY, Thing, WayIn};
use super::fields::{Fields, Listed};
use super::matcher::{Learned, Shared, varying};
use super::play::Dice;

/// What is guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A handle with its inbox, to a member of a group.
    HandleToMember,
    /// The link code of a new device, to its user's handle.
    LinkCodeToHandle,
    /// A member of a group, to the same user in another one.
    MemberToMember,
    /// The same, to connections and groups of devices.
    MemberToConnection,
    /// A device in a group, to the same device in another one, among the devices of its user.
    DeviceToDevice,
    /// A pool, to its owner in a group.
    PoolToMember,
    /// A pool, to its owner's handle.
    PoolToHandle,
    /// A pool, to another one of its owner.
    PoolToPool,
    /// A claim, to the one who was added with what was claimed.
    ClaimToAdd,
    /// A look-up or a request for a connection, to its sender in a group.
    QuestionToMember,
    /// The same to its sender's handle.
    QuestionToHandle,
    /// A read of a Welcome, a join record or a recovery row, to the reader in another group.
    RecordToMember,
    /// The same to the reader's handle.
    RecordToHandle,
}

/// How many kinds there are.
pub(crate) const KINDS: usize = 13;

/// What is matched: a thing, or the leaves of a user in one group.
struct Subject {
    things: Vec<usize>,
    fields: Listed,
}

/// One guess: who of the candidates is it?
#[derive(Debug)]
struct Question {
    kind: Kind,
    of: usize,
    /// Subjects with the truth.
    candidates: Vec<(usize, bool)>,
    /// Lengths that tell them apart.
    varying: BTreeSet<u32>,
}

/// One run, ready for guesses.
pub(crate) struct Run {
    subjects: Vec<Subject>,
    shared: Shared,
    questions: Vec<Question>,
}

/// What the service sees of a member that tells it from members of other kinds: the kind of the
/// group, how it came in with each of its leaves; and in a connection how much it has said, since
/// whoever adds contacts to groups says so there.
type Alike = (u8, Vec<WayIn>, usize);

struct Member {
    group: usize,
    user: usize,
    alike: Alike,
    leaves: Vec<usize>,
}

fn members(things: &[Thing]) -> Vec<Member> {
    let mut found: BTreeMap<(usize, Vec<u8>), Member> = BTreeMap::new();
    for (number, thing) in things.iter().enumerate() {
        let About::Leaf {
            group,
            kind,
            pseudonym,
            way,
            ..
        } = &thing.about
        else {
            continue;
        };
        let member = found
            .entry((*group, pseudonym.clone()))
            .or_insert_with(|| Member {
                group: *group,
                user: thing.who.user,
                alike: (*kind, Vec::new(), 0),
                leaves: Vec::new(),
            });
        member.leaves.push(number);
        member.alike.1.push(*way);
        member.alike.1.sort_unstable();
        if *kind != ORDINARY {
            member.alike.2 += thing.messages;
        }
    }
    found.into_values().collect()
}

/// Gathers subjects and questions.
#[derive(Default)]
struct Asking {
    numbers: HashMap<Vec<usize>, usize>,
    subjects: Vec<Subject>,
    questions: Vec<Question>,
}

impl Asking {
    fn subject(&mut self, things: &[Thing], of: &[usize]) -> usize {
        let next = self.subjects.len();
        let number = *self.numbers.entry(of.to_vec()).or_insert(next);
        if number == next {
            let mut fields = Fields::default();
            for thing in of {
                fields.extend(&things[*thing].fields);
            }
            self.subjects.push(Subject {
                things: of.to_vec(),
                fields: fields.listed(),
            });
        }
        number
    }

    /// Asks, unless all or none of the candidates are right.
    fn ask(
        &mut self,
        things: &[Thing],
        kind: Kind,
        of: &[usize],
        candidates: Vec<(Vec<usize>, bool)>,
    ) {
        let right = candidates.iter().filter(|(_, is_it)| *is_it).count();
        if right == 0 || right == candidates.len() {
            return;
        }
        let of = self.subject(things, of);
        let candidates: Vec<(usize, bool)> = candidates
            .into_iter()
            .map(|(candidate, is_it)| (self.subject(things, &candidate), is_it))
            .collect();
        let fields = candidates.iter().map(|it| &self.subjects[it.0].fields);
        let varying = varying(&fields.collect::<Vec<_>>());
        self.questions.push(Question {
            kind,
            of,
            candidates,
            varying,
        });
    }
}

impl Run {
    /// Of users with so many devices.
    pub(crate) fn new(things: &[Thing], devices: [usize; 4]) -> Self {
        let bytes: Vec<&[Vec<u8>]> = things.iter().map(|thing| thing.bytes.as_slice()).collect();
        let asked = questions(things, devices);
        Self {
            shared: Shared::of(&bytes),
            subjects: asked.subjects,
            questions: asked.questions,
        }
    }

    fn shared(&self, one: usize, other: usize) -> f32 {
        let others = &self.subjects[other].things;
        let pairs = self.subjects[one]
            .things
            .iter()
            .flat_map(|one| others.iter().map(move |other| (*one, *other)));
        pairs
            .map(|(one, other)| self.shared.score(one, other))
            .sum()
    }
}

fn questions(things: &[Thing], devices: [usize; 4]) -> Asking {
    let members = members(things);
    let mut alike: BTreeMap<Alike, Vec<&Member>> = BTreeMap::new();
    for member in &members {
        alike.entry(member.alike.clone()).or_default().push(member);
    }
    let all_of = |wanted: fn(&About) -> bool| {
        let all = things.iter().enumerate();
        all.filter(move |(_, thing)| wanted(&thing.about))
    };
    // Handles of users, and of link codes: the service sees by their form which is which.
    let handles: Vec<_> = all_of(|about| matches!(about, About::Handle { .. }))
        .filter(|(_, thing)| thing.who.device == 0)
        .collect();
    let mut asked = Asking::default();
    let mut ask = |kind: Kind, of: &[usize], candidates: Vec<(Vec<usize>, bool)>| {
        asked.ask(things, kind, of, candidates);
    };
    // How many devices somebody has is seen: who has as many looks alike.
    let among = |user: usize, members: &[&Member], but: Option<usize>| {
        members
            .iter()
            .filter(|member| Some(member.group) != but && devices[member.user] == devices[user])
            .map(|member| (member.leaves.clone(), member.user == user))
            .collect::<Vec<_>>()
    };
    // So is how often somebody was asked for a connection.
    let most = handles.iter().map(|(_, thing)| thing.taken).max();
    let to_handles = |user: usize, but: Option<&Vec<u8>>| -> Vec<Vec<(Vec<usize>, bool)>> {
        let alike = |taken: usize| {
            handles
                .iter()
                .filter(|(_, thing)| thing.taken == taken)
                .filter(|(_, thing)| devices[thing.who.user] == devices[user])
                .filter(|(_, thing)| match &thing.about {
                    About::Handle { name } => Some(name) != but,
                    _ => false,
                })
                .map(|(number, thing)| (vec![*number], thing.who.user == user))
                .collect()
        };
        (0..=most.unwrap_or_default()).map(alike).collect()
    };
    for (number, thing) in things.iter().enumerate() {
        let (own, user) = ([number], thing.who.user);
        match &thing.about {
            About::Handle { .. } if thing.who.device == 0 => {
                for members in alike.values() {
                    ask(Kind::HandleToMember, &own, among(user, members, None));
                }
            }
            About::Handle { .. } => {
                for handles in to_handles(user, None) {
                    ask(Kind::LinkCodeToHandle, &own, handles);
                }
            }
            About::Pool => {
                for handles in to_handles(user, None) {
                    ask(Kind::PoolToHandle, &own, handles);
                }
                // The number of devices is seen by the length of what is published.
                let pools = all_of(|about| matches!(about, About::Pool))
                    .filter(|(other, _)| *other != number)
                    .filter(|(_, other)| devices[other.who.user] == devices[user])
                    .map(|(other, thing)| (vec![other], thing.who.user == user));
                ask(Kind::PoolToPool, &own, pools.collect());
                for members in alike.values() {
                    ask(Kind::PoolToMember, &own, among(user, members, None));
                }
            }
            About::Claim { keys, .. } => {
                for ((_, ways, _), members) in &alike {
                    if !ways.contains(&WayIn::Added) {
                        continue;
                    }
                    let is_claimed = |member: &Member| {
                        let mut all = member.leaves.iter().flat_map(|leaf| &things[*leaf].keys);
                        all.any(|key| keys.contains(key))
                    };
                    let Some(owner) = members.iter().find(|member| is_claimed(member)) else {
                        continue;
                    };
                    let added = members
                        .iter()
                        .filter(|member| devices[member.user] == devices[owner.user])
                        .map(|member| (member.leaves.clone(), is_claimed(member)));
                    ask(Kind::ClaimToAdd, &own, added.collect());
                }
            }
            About::Question { handle } => {
                for handles in to_handles(user, Some(handle)) {
                    ask(Kind::QuestionToHandle, &own, handles);
                }
                for members in alike.values() {
                    ask(Kind::QuestionToMember, &own, among(user, members, None));
                }
            }
            About::Record { group } => {
                for handles in to_handles(user, None) {
                    ask(Kind::RecordToHandle, &own, handles);
                }
                for members in alike.values() {
                    let members = among(user, members, Some(*group));
                    ask(Kind::RecordToMember, &own, members);
                }
            }
            About::Leaf { .. } => {}
        }
    }
    for member in members.iter().filter(|member| member.alike.0 == ORDINARY) {
        for ((group, ..), others) in &alike {
            let kind = match *group {
                ORDINARY => Kind::MemberToMember,
                _ => Kind::MemberToConnection,
            };
            let others = among(member.user, others, Some(member.group));
            ask(kind, &member.leaves, others);
        }
        for other in &members {
            if other.group == member.group || other.user != member.user {
                continue;
            }
            for leaf in &member.leaves {
                let device = things[*leaf].who.device;
                let way = |leaf: &usize| match things[*leaf].about {
                    About::Leaf { way, .. } => Some(way),
                    _ => None,
                };
                // A new device comes into all groups, and is seen to be the one that has come.
                if other
                    .leaves
                    .iter()
                    .any(|it| way(it) != way(&other.leaves[0]))
                {
                    continue;
                }
                let leaves = other.leaves.iter();
                let leaves =
                    leaves.map(|other| (vec![*other], things[*other].who.device == device));
                ask(Kind::DeviceToDevice, &[*leaf], leaves.collect());
            }
        }
    }
    asked
}

/// How much better than guessing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Advantage {
    runs: usize,
    questions: usize,
    /// The mean over runs of right answers beyond those of a blind guess.
    mean: f64,
    /// The standard deviation of it.
    deviation: f64,
}

/// An interval of so many standard deviations holds the truth in 95 % of all cases.
const OF_ONE: f64 = 1.96;
/// The same for the intervals of all kinds together.
const OF_ALL: f64 = 2.89;

impl Advantage {
    /// Whether this may be a blind guess, as one of the results of all kinds.
    pub(crate) fn may_be_blind(&self) -> bool {
        self.mean.abs() <= OF_ALL * self.deviation
    }

    /// Whether both are off, and on the same side.
    pub(crate) fn agrees(&self, again: &Self) -> bool {
        again.mean.abs() > OF_ONE * again.deviation && (self.mean > 0.0) == (again.mean > 0.0)
    }

    /// Surely better than a blind guess by this much.
    pub(crate) fn exceeds(&self, least: f64) -> bool {
        self.mean - OF_ONE * self.deviation > least
    }
}

impl fmt::Display for Advantage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:+.3} ± {:.3} ({} questions in {} runs)",
            self.mean,
            OF_ONE * self.deviation,
            self.questions,
            self.runs
        )
    }
}

/// Answers all questions of all runs: each half of the runs by what was learned in the other half.
pub(crate) fn guess(runs: &[Run]) -> BTreeMap<Kind, Advantage> {
    let halves: Vec<BTreeMap<Kind, Learned>> = (0..2).map(|half| learn(runs, half)).collect();
    let mut dice = Dice::new(0);
    let mut results: BTreeMap<Kind, Vec<(f64, usize)>> = BTreeMap::new();
    for (number, run) in runs.iter().enumerate() {
        let learned = &halves[1 - number / 16 % 2];
        let mut of_run: BTreeMap<Kind, (f64, usize)> = BTreeMap::new();
        for question in &run.questions {
            let result = of_run.entry(question.kind).or_default();
            result.0 += answer(run, question, learned, &mut dice);
            result.1 += 1;
        }
        for (kind, (sum, count)) in of_run {
            results
                .entry(kind)
                .or_default()
                .push((sum / float(count), count));
        }
    }
    results
        .into_iter()
        .map(|(kind, of_runs)| (kind, advantage(&of_runs)))
        .collect()
}

fn learn(runs: &[Run], half: usize) -> BTreeMap<Kind, Learned> {
    let mut learned: BTreeMap<Kind, Learned> = BTreeMap::new();
    let runs = runs.iter().enumerate();
    for (_, run) in runs.filter(|(number, _)| number / 16 % 2 == half) {
        for question in &run.questions {
            let learned = learned.entry(question.kind).or_default();
            let own = &run.subjects[question.of].fields;
            for (candidate, is_it) in &question.candidates {
                let candidate = &run.subjects[*candidate].fields;
                learned.learn(own, candidate, &question.varying, *is_it);
            }
        }
    }
    learned.values_mut().for_each(Learned::conclude);
    learned
}

/// 1 if it is right, less what a blind guess would be on average.
fn answer(
    run: &Run,
    question: &Question,
    learned: &BTreeMap<Kind, Learned>,
    dice: &mut Dice,
) -> f64 {
    let own = &run.subjects[question.of].fields;
    let mut best: Vec<(f32, bool)> = Vec::new();
    for (candidate, is_it) in &question.candidates {
        let mut score = run.shared(question.of, *candidate);
        if let Some(learned) = learned.get(&question.kind) {
            let candidate = &run.subjects[*candidate].fields;
            score += learned.score(own, candidate, &question.varying);
        }
        match best.first() {
            Some((highest, _)) if score < highest - 1e-4 => {}
            Some((highest, _)) if score <= highest + 1e-4 => best.push((score, *is_it)),
            _ => best = vec![(score, *is_it)],
        }
    }
    let (_, is_right) = best[dice.below(best.len())];
    let right = question.candidates.iter().filter(|it| it.1).count();
    f64::from(u8::from(is_right)) - float(right) / float(question.candidates.len())
}

#[allow(clippy::cast_precision_loss)]
fn float(count: usize) -> f64 {
    count as f64
}

/// Questions of one run hang together, runs do not.
fn advantage(of_runs: &[(f64, usize)]) -> Advantage {
    let runs = float(of_runs.len());
    let mean = of_runs.iter().map(|it| it.0).sum::<f64>() / runs;
    let squares: f64 = of_runs.iter().map(|it| (it.0 - mean).powi(2)).sum();
    let deviation = (squares / (runs - 1.0).max(1.0)).sqrt();
    Advantage {
        runs: of_runs.len(),
        questions: of_runs.iter().map(|it| it.1).sum(),
        mean,
        deviation: deviation / runs.sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_wide_as_runs_differ_and_narrows_with_their_number() {
        let few: Vec<(f64, usize)> = (0..20).map(|it| (f64::from(it % 2) - 0.5, 3)).collect();
        let many: Vec<(f64, usize)> = (0..2_000).map(|it| (f64::from(it % 2) - 0.5, 3)).collect();
        let (few, many) = (advantage(&few), advantage(&many));
        assert!(few.may_be_blind() && many.may_be_blind());
        assert!((few.deviation / many.deviation - 10.0).abs() < 0.5);
        assert!(advantage(&[(0.4, 1), (0.5, 1), (0.6, 1)]).exceeds(0.3));
    }
}
