//! When a client reads: in *slots*, at random times of its own. Each slot is one request of one
//! size with an answer of one size. Whether there is news changes neither the time of a slot nor
//! that it is taken; it only chooses which journal is read. So the relay, which sees times and
//! sizes, sees the same of a client that is written to and of one that is not.
//!
//! The times are those of a Poisson process. It has no memory, which answers three questions. After
//! a restart, a pause or a slow answer the next time is drawn anew, and nothing is caught up. A
//! slot that reads a journal which is drawn evenly from all makes the reads of each journal a
//! Poisson process too, independent of those of the others: their times tell the service of no two
//! journals that one client reads both. And a message of the user's goes out at once and takes the
//! place of the slot that comes next: what the relay sees of somebody who writes at random times is
//! again a Poisson process of the slots' rate (N. O'Connell and M. Yor, "Brownian analogues of
//! Burke's theorem", 2001, theorem 3: arrivals and unused services of a queue together).
//!
//! Nothing here looks at a clock or draws: time and randomness are handed in.

use protocol::feed::Resolution;
use protocol::follow::Pace;

/// How a client reads while somebody looks at its events ([`Client::event_stream`]). Costs are
/// those of a day without a pause and 40 groups; `docs/performance.md` has them in full.
///
/// [`Client::event_stream`]: crate::Client::event_stream
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The group in front on a stream, on which an entry comes within a fraction of a second; the
    /// others in a slot every 30 seconds. By the times of what it passes on, the relay can see who
    /// is in one conversation with the group in front, and who speaks in it.
    Live,
    /// The group in front on a stream with a frame every second, whether there is an entry or not;
    /// the others in a slot every 30 seconds. The relay sees that there is a stream.
    Even,
    /// All groups in a slot every minute. The relay sees that the client is there. For what runs
    /// while nobody looks at one conversation, and the default: who chooses nothing shows nothing.
    #[default]
    Batched,
    /// A group is read when the activity feed names it, and every few hours; a client without news
    /// makes no other request than for the feed. Cheapest. The relay sees who has news, and after a
    /// few messages from whom. Where no feed is followed: as [`Profile::Batched`].
    LowData,
    /// The client sleeps, wakes every half hour at a random time, takes eight slots within a minute
    /// and sleeps again, for a device that nobody is to wake. The relay sees that the client is
    /// there. Nobody is told when there is news.
    Periodic,
}

/// How many journals a slot reads. What is asked together is linked: the service sees it come at
/// one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bundle {
    /// One. No time tells the service which journals one client reads.
    #[default]
    Separate,
    /// Four, one after the other, whatever is due. News come sooner, for four times the bytes of a
    /// slot. The service sees reads of four segments at one moment, again and again, and can tell
    /// which segments one client reads.
    Bundled,
}

impl Bundle {
    /// Journals for each slot.
    #[must_use]
    pub const fn journals(self) -> usize {
        match self {
            Self::Separate => 1,
            Self::Bundled => 4,
        }
    }
}

/// Mean time from one slot to the next, by profile.
const STREAMED_MS: u64 = 30_000;
const BATCHED_MS: u64 = 60_000;
const AWAKE_MS: u64 = 5_000;
/// Mean time that a client of [`Profile::Periodic`] sleeps.
const ASLEEP_MS: u64 = 30 * 60_000;
/// Slots of a waking, whatever is due: one that ended when all was read would tell how much there
/// was.
const OF_A_WAKING: u32 = 8;
/// Mean time between the slots in which a client does what follows from what it has read.
const SETTLE_MS: u64 = 60_000;
/// Slots that give way to other requests, at most: whoever writes much reads all the same.
const MOST_TAKEN: u32 = 4;

/// A wait of an exponential distribution.
#[must_use]
pub fn exponential(mean_ms: u64, random: u64) -> u64 {
    // 53 bits, from 2^-53 to 1.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    {
        let part = ((random >> 11) + 1) as f64 / (1u64 << 53) as f64;
        (-part.ln() * mean_ms as f64) as u64
    }
}

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Another request had its place.
    Taken,
    /// A journal is read.
    Read,
    /// What follows from journals that were read is done. If no request comes of it, a journal is
    /// read: the slot shows as any other.
    Settle,
    /// The same without a read: no slot is shown.
    SettleOnly,
}

/// A journal that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Since when there is news, or it should have been looked into, by any clock.
    pub due_since_ms: Option<u64>,
}

/// The slots of a client.
#[derive(Debug, Clone)]
pub struct Slots {
    profile: Profile,
    /// By the clock that nobody sets; none while nobody looks.
    next_ms: Option<u64>,
    settle_ms: u64,
    /// What is left of a waking.
    left: u32,
    taken: u32,
    /// By how much means are shorter, in tests.
    divisor: u64,
    /// News bring the next slot forward.
    reacts: bool,
}

impl Slots {
    /// None is planned.
    #[must_use]
    pub const fn new(profile: Profile) -> Self {
        Self {
            profile,
            next_ms: None,
            settle_ms: 0,
            left: 0,
            taken: 0,
            divisor: 1,
            reacts: matches!(profile, Profile::LowData),
        }
    }

    /// For tests: as many times faster.
    #[must_use]
    pub const fn faster(self, divisor: u64) -> Self {
        Self { divisor, ..self }
    }

    /// For tests: as if the profile read when there is news. What hides it is lost.
    #[cfg(any(test, feature = "test-support"))]
    #[must_use]
    pub const fn weakened(self) -> Self {
        Self {
            reacts: true,
            ..self
        }
    }

    /// Whether it reads when there is news.
    #[must_use]
    pub const fn reacts(&self) -> bool {
        self.reacts
    }

    /// How the group in front is followed.
    pub(crate) const fn pace(&self) -> Option<Pace> {
        match self.profile {
            Profile::Live => Some(Pace::Live),
            Profile::Even => Some(Pace::Even),
            Profile::Batched | Profile::LowData | Profile::Periodic => None,
        }
    }

    /// Whether the feed is followed now: who sleeps fetches nothing.
    pub(crate) const fn is_awake(&self) -> bool {
        !matches!(self.profile, Profile::Periodic) || self.left < OF_A_WAKING.saturating_sub(1)
    }

    /// The finest resolution of the feed that is of use: over most of a sleep no more ticks are
    /// missed than are fetched one by one.
    pub(crate) const fn finest(&self) -> Resolution {
        match self.profile {
            Profile::Periodic => Resolution::Minutes2,
            _ => Resolution::Seconds2,
        }
    }

    /// How they are planned.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Another profile from now on. What was planned is planned anew.
    pub fn choose_profile(&mut self, profile: Profile) {
        *self = Self {
            taken: self.taken,
            settle_ms: self.settle_ms,
            ..Self::new(profile).faster(self.divisor)
        };
    }

    /// Somebody begins to look. The first slot is no sooner than any other.
    pub fn begin(&mut self, now_ms: u64, random: u64) {
        if self.next_ms.is_none() {
            self.plan(now_ms, now_ms, random);
        }
    }

    /// Nobody looks any more.
    pub fn end(&mut self) {
        self.next_ms = None;
    }

    /// When the next slot is.
    #[must_use]
    pub const fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }

    /// Requests went out that were no slot's.
    pub fn spent(&mut self, requests: u64) {
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        self.taken = self.taken.saturating_add(requests).min(MOST_TAKEN);
    }

    /// The feed has named a journal.
    pub fn hear(&mut self, now_ms: u64) {
        if self.reacts {
            self.next_ms = self.next_ms.map(|next_ms| next_ms.min(now_ms));
            self.taken = 0;
        }
    }

    /// What is to be done now; none before the next slot. `follows`: the feed is followed, `named`:
    /// it has named a journal that was not read yet.
    pub fn turn(
        &mut self,
        now_ms: u64,
        (follows, named): (bool, bool),
        random: [u64; 2],
    ) -> Option<Turn> {
        let planned_ms = self.next_ms.filter(|next_ms| *next_ms <= now_ms)?;
        self.plan(planned_ms, now_ms, random[0]);
        let is_shown = self.profile != Profile::LowData || !follows;
        if !is_shown && named {
            return Some(Turn::Read);
        }
        if is_shown && self.taken > 0 {
            self.taken = self.taken.saturating_sub(1);
            return Some(Turn::Taken);
        }
        if now_ms >= self.settle_ms {
            let wait_ms = exponential(SETTLE_MS / self.divisor, random[1]);
            self.settle_ms = now_ms.saturating_add(wait_ms);
            return Some(match is_shown {
                true => Turn::Settle,
                false => Turn::SettleOnly,
            });
        }
        Some(match is_shown {
            true => Turn::Read,
            false => Turn::Taken,
        })
    }

    /// Draws the next one after the one that was planned for then; after now, if that has passed
    /// too.
    fn plan(&mut self, planned_ms: u64, now_ms: u64, random: u64) {
        let mean_ms = match self.profile {
            Profile::Live | Profile::Even => STREAMED_MS,
            Profile::Batched | Profile::LowData => BATCHED_MS,
            Profile::Periodic if self.left > 0 => AWAKE_MS,
            Profile::Periodic => ASLEEP_MS,
        };
        self.left = match self.left {
            0 => OF_A_WAKING.saturating_sub(1),
            left => left.saturating_sub(1),
        };
        let wait_ms = exponential(mean_ms / self.divisor, random);
        let next_ms = match planned_ms.saturating_add(wait_ms) {
            next_ms if next_ms > now_ms => next_ms,
            _ => now_ms.saturating_add(wait_ms),
        };
        self.next_ms = Some(next_ms);
    }
}

/// The journals that a slot reads, by their index: those first in which there has been news for
/// longest; of the others each is as likely. As many as the bundle says, whatever is due; a journal
/// comes again where there are fewer.
#[must_use]
pub fn choose(candidates: &[Candidate], bundle: Bundle, random: [u64; 4]) -> Vec<usize> {
    let mut left: Vec<(usize, Option<u64>)> = Vec::new();
    let mut chosen = Vec::new();
    for random in random.iter().take(bundle.journals()) {
        if left.is_empty() {
            left = (candidates.iter().map(|it| it.due_since_ms).enumerate()).collect();
        }
        let oldest = left.iter().filter_map(|(_, since_ms)| *since_ms).min();
        let first: Vec<usize> = (0..left.len())
            .filter(|at| {
                left.get(*at)
                    .is_some_and(|(_, since_ms)| *since_ms == oldest)
            })
            .collect();
        let count = u64::try_from(first.len()).unwrap_or(u64::MAX);
        let drawn = random
            .checked_rem(count)
            .and_then(|it| usize::try_from(it).ok());
        let Some(at) = drawn.and_then(|drawn| first.get(drawn)) else {
            return chosen;
        };
        let (index, _) = left.swap_remove(*at);
        chosen.push(index);
    }
    chosen
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_precision_loss)]
mod tests {
    use super::*;

    /// Draws, the same each time.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self) -> u64 {
            // SplitMix64.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }

        fn pair(&mut self) -> [u64; 2] {
            [self.roll(), self.roll()]
        }
    }

    const FOLLOWS: (bool, bool) = (true, false);

    /// When a client's requests go out, whose messages go out at these times.
    fn shown(mut slots: Slots, messages: &[u64], end_ms: u64, dice: &mut Dice) -> Vec<u64> {
        let mut messages = messages.iter().copied().peekable();
        let mut shown = Vec::new();
        slots.begin(0, dice.roll());
        loop {
            let next_ms = slots.next_ms().unwrap();
            if let Some(message_ms) = messages.next_if(|it| *it < next_ms) {
                shown.push(message_ms);
                slots.spent(1);
                continue;
            }
            if next_ms > end_ms {
                return shown;
            }
            match slots.turn(next_ms, FOLLOWS, dice.pair()).unwrap() {
                Turn::Taken | Turn::SettleOnly => {}
                Turn::Read | Turn::Settle => shown.push(next_ms),
            }
        }
    }

    /// How far gaps are from an exponential distribution (Kolmogorov and Smirnov), times the root
    /// of their number: 1.63 is exceeded by one in a hundred.
    fn distance(times: &[u64], mean_ms: u64) -> f64 {
        let mut gaps: Vec<u64> = times.windows(2).map(|it| it[1] - it[0]).collect();
        gaps.sort_unstable();
        let count = gaps.len() as f64;
        let farthest = gaps.iter().enumerate().map(|(at, gap)| {
            let expected = 1.0 - (-(*gap as f64) / mean_ms as f64).exp();
            let found = at as f64 / count;
            (expected - found)
                .abs()
                .max((expected - found - 1.0 / count).abs())
        });
        farthest.fold(0.0, f64::max) * count.sqrt()
    }

    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    #[test]
    fn slots_come_at_the_times_of_a_poisson_process_of_the_profiles_rate() {
        for (profile, mean_ms) in [
            (Profile::Live, STREAMED_MS),
            (Profile::Even, STREAMED_MS),
            (Profile::Batched, BATCHED_MS),
        ] {
            let times = shown(Slots::new(profile), &[], 10 * DAY_MS, &mut Dice(1));
            assert!(distance(&times, mean_ms) < 1.63, "{profile:?}");
            assert!(distance(&times, mean_ms * 9 / 10) > 1.63, "{profile:?}");
        }
    }

    #[test]
    fn a_message_goes_at_once_and_what_is_shown_has_the_times_of_a_client_that_says_nothing() {
        let mut dice = Dice(2);
        let mut at_ms = 0;
        let messages: Vec<u64> = std::iter::from_fn(|| {
            at_ms += exponential(6 * BATCHED_MS, dice.roll());
            (at_ms < 10 * DAY_MS).then_some(at_ms)
        })
        .collect();
        let times = shown(
            Slots::new(Profile::Batched),
            &messages,
            10 * DAY_MS,
            &mut dice,
        );
        assert!(messages.iter().all(|at| times.binary_search(at).is_ok()));
        assert!(distance(&times, BATCHED_MS) < 1.63);
        // Slots that gave way to nothing would show it.
        let idle = shown(Slots::new(Profile::Batched), &[], 10 * DAY_MS, &mut dice);
        let mut both = [messages, idle].concat();
        both.sort_unstable();
        assert!(distance(&both, BATCHED_MS) > 1.63);
    }

    #[test]
    fn whoever_writes_much_reads_all_the_same() {
        let mut slots = Slots::new(Profile::Batched);
        slots.begin(0, 1 << 60);
        slots.spent(1_000);
        let mut dice = Dice(3);
        let mut turns = Vec::new();
        for _ in 0..=MOST_TAKEN {
            let now_ms = slots.next_ms().unwrap();
            turns.push(slots.turn(now_ms, FOLLOWS, dice.pair()).unwrap());
        }
        let (last, before) = turns.split_last().unwrap();
        assert!(before.iter().all(|turn| *turn == Turn::Taken));
        assert_ne!(*last, Turn::Taken);
    }

    #[test]
    fn news_change_no_time_but_in_the_profile_that_says_so() {
        for profile in [
            Profile::Live,
            Profile::Even,
            Profile::Batched,
            Profile::LowData,
            Profile::Periodic,
        ] {
            let mut slots = Slots::new(profile);
            slots.begin(0, 1 << 60);
            let before = slots.next_ms();
            slots.hear(7);
            assert_eq!(slots.next_ms() == before, profile != Profile::LowData);
        }
        let mut weak = Slots::new(Profile::Batched).weakened();
        weak.begin(0, 1 << 60);
        weak.hear(7);
        assert_eq!(weak.next_ms(), Some(7));
    }

    #[test]
    fn after_a_pause_nothing_is_caught_up() {
        let mut dice = Dice(4);
        for profile in [Profile::Live, Profile::Batched, Profile::Periodic] {
            let mut slots = Slots::new(profile);
            slots.begin(0, dice.roll());
            // A session begins no sooner than another slot.
            assert!(slots.next_ms().unwrap() > 0);
            let now_ms = DAY_MS;
            assert!(slots.turn(now_ms, FOLLOWS, dice.pair()).is_some());
            assert!(slots.next_ms().unwrap() > now_ms);
            assert_eq!(slots.turn(now_ms, FOLLOWS, dice.pair()), None);
            slots.end();
            assert_eq!(slots.turn(2 * DAY_MS, FOLLOWS, dice.pair()), None);
        }
    }

    #[test]
    fn a_client_with_little_data_has_no_slot_of_its_own_while_the_feed_is_followed() {
        let mut dice = Dice(5);
        let mut slots = Slots::new(Profile::LowData);
        slots.begin(0, dice.roll());
        let mut turns = Vec::new();
        for _ in 0..1_000 {
            let now_ms = slots.next_ms().unwrap();
            turns.push(slots.turn(now_ms, FOLLOWS, dice.pair()).unwrap());
        }
        assert!(!turns.contains(&Turn::Read) && !turns.contains(&Turn::Settle));
        assert!(turns.contains(&Turn::SettleOnly));
        slots.hear(slots.next_ms().unwrap() - 1);
        let now_ms = slots.next_ms().unwrap();
        assert_eq!(
            slots.turn(now_ms, (true, true), dice.pair()),
            Some(Turn::Read)
        );
        // Without a feed it is as any other.
        let times = (0..1_000).filter(|_| {
            let now_ms = slots.next_ms().unwrap();
            let turn = slots.turn(now_ms, (false, false), dice.pair()).unwrap();
            turn == Turn::Read || turn == Turn::Settle
        });
        assert_eq!(times.count(), 1_000);
    }

    #[test]
    fn a_waking_has_as_many_slots_whatever_is_due() {
        let mut dice = Dice(6);
        let times = shown(Slots::new(Profile::Periodic), &[], 20 * DAY_MS, &mut dice);
        // Gaps that only a sleep has, and such that hardly any sleep has.
        let wakings = times.chunk_by(|one, next| next - one < 60_000);
        let lengths: Vec<usize> = wakings.map(<[u64]>::len).collect();
        let whole = usize::try_from(OF_A_WAKING).unwrap();
        // One sleep in thirty is shorter than a minute.
        let of_one = lengths.iter().filter(|length| *length % whole == 0).count();
        assert!(of_one * 100 > lengths.len() * 95, "{lengths:?}");
        let days = times.len() as f64 / 20.0;
        assert!((370.0..400.0).contains(&days), "{days}");
    }

    fn candidates(due: &[Option<u64>]) -> Vec<Candidate> {
        let due = due.iter();
        due.map(|due_since_ms| Candidate {
            due_since_ms: *due_since_ms,
        })
        .collect()
    }

    #[test]
    fn the_oldest_news_are_read_first_and_one_journal_in_a_slot() {
        let some = candidates(&[None, Some(9), Some(5), None, Some(5)]);
        let mut dice = Dice(7);
        let mut seen = [0; 5];
        for _ in 0..1_000 {
            let random = [dice.roll(), dice.roll(), dice.roll(), dice.roll()];
            let one = choose(&some, Bundle::Separate, random);
            assert_eq!(one.len(), 1);
            seen[one[0]] += 1;
            let four = choose(&some, Bundle::Bundled, random);
            assert_eq!(four.len(), 4);
            assert_eq!(four[2], 1);
        }
        assert_eq!([seen[0], seen[1], seen[3]], [0; 3]);
        assert!((400..600).contains(&seen[2]) && seen[2] + seen[4] == 1_000);
    }

    #[test]
    fn the_times_of_one_journal_say_nothing_of_those_of_another() {
        const JOURNALS: u64 = 8;
        let mut dice = Dice(9);
        let times = shown(Slots::new(Profile::Batched), &[], 40 * DAY_MS, &mut dice);
        let idle = candidates(&[None; 8]);
        let drawn: Vec<usize> = (times.iter())
            .map(|_| choose(&idle, Bundle::Separate, [dice.roll(); 4])[0])
            .collect();
        let round: Vec<usize> = (0..8).cycle().take(times.len()).collect();
        let of = |reads: &[usize], journal| -> Vec<u64> {
            let reads = times.iter().zip(reads);
            reads
                .filter(|it| *it.1 == journal)
                .map(|it| *it.0)
                .collect()
        };
        // How far the times from a read of one to the next read of the other are from a wait that
        // knows nothing of the first.
        let apart = |reads: &[usize]| {
            let (one, other) = (of(reads, 0), of(reads, 1));
            let mut all = vec![0];
            for from in &one {
                if let Some(next) = other.iter().find(|it| *it > from) {
                    all.push(all[all.len() - 1] + (next - from));
                }
            }
            distance(&all, JOURNALS * BATCHED_MS)
        };
        assert!(distance(&of(&drawn, 0), JOURNALS * BATCHED_MS) < 1.63);
        let (drawn, round) = (apart(&drawn), apart(&round));
        assert!(drawn < 2.0, "{drawn}");
        assert!(round > 10.0, "{round}");
    }

    #[test]
    fn without_news_each_journal_is_as_likely_and_as_many_are_read() {
        let mut dice = Dice(8);
        let four = candidates(&[None; 4]);
        let mut seen = [0; 4];
        for _ in 0..4_000 {
            let random = [dice.roll(), dice.roll(), dice.roll(), dice.roll()];
            seen[choose(&four, Bundle::Separate, random)[0]] += 1;
        }
        assert!(seen.iter().all(|it| (850..1_150).contains(it)), "{seen:?}");
        let random = [dice.roll(), dice.roll(), dice.roll(), dice.roll()];
        let two = candidates(&[None, Some(1)]);
        let mut bundled = choose(&two, Bundle::Bundled, random);
        bundled.sort_unstable();
        assert_eq!(bundled, [0, 0, 1, 1]);
        assert!(choose(&[], Bundle::Bundled, random).is_empty());
    }
}
