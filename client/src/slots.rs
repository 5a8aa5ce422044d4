//! When a client reads: in *slots*, at random times of its own. Each slot is one request of one
//! size with an answer of one size. Whether there is news changes neither the time of a slot nor
//! that it is taken; it only chooses which journal is read. Without news that is nobody's journal,
//! but for a look now and then: the service, too, sees nothing of who has no news. The relay, which
//! sees times and sizes, sees the same of a client that is written to and of one that is not.
//!
//! The times are those of a Poisson process. It has no memory, which answers three questions. After
//! a restart, a pause or a slow answer the next time is drawn anew, and nothing is caught up. A
//! slot that looks into a journal which is drawn evenly from all makes the looks into each journal
//! a Poisson process too, independent of those of the others: their times tell the service of no
//! two journals that one client reads both. And a message of the user's goes out at once and takes
//! the place of the slot that comes next: what the relay sees of somebody who writes at random
//! times is again a Poisson process of the slots' rate (N. O'Connell and M. Yor, "Brownian
//! analogues of Burke's theorem", 2001, theorem 3: arrivals and unused services of a queue
//! together). That holds as far as a message is one request. The first one in a group since the
//! process began is two, if the group was not read before.
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
    /// A group is read when the activity feed names it, once a minute at most, and every few hours.
    /// Without news a client makes hardly another request than for the feed. Cheapest. The relay
    /// sees who has news, and after a few messages from whom. Where no feed is followed: as
    /// [`Profile::Batched`].
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
    /// Four, one after the other, or nobody's. News come hardly sooner, for four times the bytes of
    /// a slot. The service sees reads of several segments at one moment, and can tell which
    /// segments one client reads.
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
/// A slot that is noticed later than this is not taken: timers that were held would show their end.
const LATE_MS: u64 = 1_000;
/// Mean time between looks into a group of which the feed says nothing.
const LOOK_MS: u64 = 270 * 60_000;

/// A number from 2^-53 to 1.
#[allow(clippy::cast_precision_loss)]
fn part(random: u64) -> f64 {
    ((random >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// A wait of an exponential distribution.
#[must_use]
pub fn exponential(mean_ms: u64, random: u64) -> u64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    {
        (-part(random).ln() * mean_ms as f64) as u64
    }
}

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Another request had its place.
    Taken,
    /// A journal is read, or nobody's.
    Read,
    /// What follows from journals that were read is done. If no request comes of it, a journal is
    /// read: the slot shows as any other.
    Settle,
    /// No slot is shown. Journals with news are read; before that, what follows from others is done
    /// if it is time for that.
    React {
        /// It is.
        settles: bool,
    },
}

/// The slots of a client.
#[derive(Debug, Clone)]
pub struct Slots {
    profile: Profile,
    /// By the clock that nobody sets; none while nobody looks.
    next_ms: Option<u64>,
    /// The mean of the wait for it.
    mean_ms: u64,
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
            mean_ms: 0,
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
            self.next_ms = self.next_ms.map(|_| now_ms);
            self.taken = 0;
        }
    }

    /// What is to be done now; none before the next slot. `follows`: the feed is followed.
    pub fn turn(&mut self, now_ms: u64, follows: bool, random: [u64; 2]) -> Option<Turn> {
        let planned_ms = self.next_ms.filter(|next_ms| *next_ms <= now_ms)?;
        if now_ms - planned_ms > LATE_MS {
            self.next_ms = Some(now_ms.saturating_add(exponential(self.mean_ms, random[0])));
            return None;
        }
        self.plan(planned_ms, now_ms, random[0]);
        let is_shown = self.profile != Profile::LowData || !follows;
        if is_shown && self.taken > 0 {
            self.taken = self.taken.saturating_sub(1);
            return Some(Turn::Taken);
        }
        let settles = now_ms >= self.settle_ms;
        if settles {
            let wait_ms = exponential(SETTLE_MS / self.divisor, random[1]);
            self.settle_ms = now_ms.saturating_add(wait_ms);
        }
        Some(match (is_shown, settles) {
            (true, true) => Turn::Settle,
            (true, false) => Turn::Read,
            (false, settles) => Turn::React { settles },
        })
    }

    /// Whether a slot without news looks into one of so many groups, each as likely as the others.
    /// Without a feed there is nothing else to go by.
    #[must_use]
    pub fn looks(&self, groups: usize, follows: bool, random: u64) -> bool {
        let slot_ms = match self.profile {
            Profile::Live | Profile::Even => STREAMED_MS,
            Profile::Batched | Profile::LowData => BATCHED_MS,
            Profile::Periodic => {
                let awake = u64::from(OF_A_WAKING) - 1;
                (ASLEEP_MS + awake * AWAKE_MS) / u64::from(OF_A_WAKING)
            }
        };
        #[allow(clippy::cast_precision_loss)]
        let chance = groups as f64 * slot_ms as f64 / LOOK_MS as f64;
        !follows || part(random) <= chance
    }

    /// A group is not read more often than this because the feed names it.
    #[must_use]
    pub const fn least_ms(&self) -> u64 {
        BATCHED_MS / self.divisor
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
        self.mean_ms = mean_ms / self.divisor;
        self.left = match self.left {
            0 => OF_A_WAKING.saturating_sub(1),
            left => left.saturating_sub(1),
        };
        let wait_ms = exponential(self.mean_ms, random);
        let next_ms = match planned_ms.saturating_add(wait_ms) {
            next_ms if next_ms > now_ms => next_ms,
            _ => now_ms.saturating_add(wait_ms),
        };
        self.next_ms = Some(next_ms);
    }
}

/// The journal that is read next, by its index, of those that are to be read: each has its place in
/// the queue of those with news, or none where nothing is known of it. The first of the queue and
/// any of the others come every other time, so that neither holds up the other.
#[must_use]
pub fn choose(places: &[Option<u64>], random: [u64; 2]) -> Option<usize> {
    let named = (places.iter().enumerate()).filter_map(|(at, place)| Some((place.as_ref()?, at)));
    let first = named.min().map(|(_, at)| at);
    let unknown: Vec<usize> = (0..places.len())
        .filter(|at| matches!(places.get(*at), Some(None)))
        .collect();
    let count = u64::try_from(unknown.len()).unwrap_or(u64::MAX);
    let drawn = random[1]
        .checked_rem(count)
        .and_then(|it| usize::try_from(it).ok())
        .and_then(|at| unknown.get(at).copied());
    match random[0] % 2 {
        0 => first.or(drawn),
        _ => drawn.or(first),
    }
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
            match slots.turn(next_ms, true, dice.pair()).unwrap() {
                Turn::Taken | Turn::React { .. } => {}
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
        // Two requests to a message would show it, whatever gives way to them;
        let twice: Vec<u64> = messages.iter().flat_map(|at| [*at, *at + 50]).collect();
        let times = shown(Slots::new(Profile::Batched), &twice, 10 * DAY_MS, &mut dice);
        assert!(distance(&times, BATCHED_MS) > 1.63);
        // so would slots that gave way to nothing.
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
            turns.push(slots.turn(now_ms, true, dice.pair()).unwrap());
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
    fn after_a_pause_nothing_is_caught_up_and_the_next_slot_is_as_far_as_from_any_other_moment() {
        let mut dice = Dice(4);
        for profile in [Profile::Live, Profile::Batched, Profile::Periodic] {
            let mut slots = Slots::new(profile);
            slots.begin(0, dice.roll());
            // A session begins no sooner than another slot.
            assert!(slots.next_ms().unwrap() > 0);
            // Timers were held: what they missed shows nothing of when that ends.
            let now_ms = DAY_MS;
            assert_eq!(slots.turn(now_ms, true, dice.pair()), None);
            let next_ms = slots.next_ms().unwrap();
            assert!(next_ms > now_ms);
            assert!(slots.turn(next_ms + LATE_MS, true, dice.pair()).is_some());
            slots.end();
            assert_eq!(slots.turn(2 * DAY_MS, true, dice.pair()), None);
        }
        let mut slots = Slots::new(Profile::Batched);
        slots.begin(0, dice.roll());
        let mut waits = vec![0];
        for _ in 0..4_000 {
            let now_ms = slots.next_ms().unwrap() + 10 * BATCHED_MS;
            assert_eq!(slots.turn(now_ms, true, dice.pair()), None);
            waits.push(waits[waits.len() - 1] + slots.next_ms().unwrap() - now_ms);
        }
        assert!(distance(&waits, BATCHED_MS) < 1.63);
    }

    #[test]
    fn a_client_with_little_data_has_no_slot_of_its_own_while_the_feed_is_followed() {
        let mut dice = Dice(5);
        let mut slots = Slots::new(Profile::LowData);
        slots.begin(0, dice.roll());
        let mut turns = Vec::new();
        for _ in 0..1_000 {
            let now_ms = slots.next_ms().unwrap();
            turns.push(slots.turn(now_ms, true, dice.pair()).unwrap());
        }
        assert!(!turns.contains(&Turn::Read) && !turns.contains(&Turn::Settle));
        // With news in each tick of the feed: what follows from them is done all the same, once a
        // minute.
        let begin_ms = slots.next_ms().unwrap();
        let settled = (0..1_000).filter(|tick| {
            let now_ms = begin_ms + tick * 2_000;
            slots.hear(now_ms);
            slots.turn(now_ms, true, dice.pair()) == Some(Turn::React { settles: true })
        });
        let settled = settled.count();
        assert!((15..60).contains(&settled), "{settled}");
        // Without a feed it is as any other.
        let times = (0..1_000).filter(|_| {
            let now_ms = slots.next_ms().unwrap();
            let turn = slots.turn(now_ms, false, dice.pair()).unwrap();
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

    #[test]
    fn the_news_that_have_waited_for_longest_come_first_and_hold_up_nothing_unknown() {
        let some = [None, Some(9), Some(5), None, Some(6)];
        let mut dice = Dice(7);
        let mut seen = [0; 5];
        for _ in 0..4_000 {
            seen[choose(&some, dice.pair()).unwrap()] += 1;
            assert_eq!(choose(&some[..1], dice.pair()), Some(0));
            assert_eq!(choose(&some[1..3], dice.pair()), Some(1));
        }
        assert_eq!([seen[1], seen[4]], [0; 2]);
        assert!((1_850..2_150).contains(&seen[2]), "{seen:?}");
        assert!((850..1_150).contains(&seen[0]), "{seen:?}");
        assert!((850..1_150).contains(&seen[3]), "{seen:?}");
        assert_eq!(choose(&[], dice.pair()), None);
    }

    #[test]
    fn a_group_without_news_is_looked_into_every_few_hours_in_each_profile() {
        const GROUPS: usize = 40;
        for profile in [
            Profile::Live,
            Profile::Batched,
            Profile::LowData,
            Profile::Periodic,
        ] {
            let mut dice = Dice(10);
            let mut slots = Slots::new(profile);
            slots.begin(0, dice.roll());
            let mut looks = 0;
            while let Some(now_ms) = slots.next_ms().filter(|it| *it < 20 * DAY_MS) {
                slots.turn(now_ms, true, dice.pair()).unwrap();
                looks += usize::from(slots.looks(GROUPS, true, dice.roll()));
            }
            let expected = GROUPS as f64 * 20.0 * DAY_MS as f64 / LOOK_MS as f64;
            let looks = looks as f64 / expected;
            assert!((0.88..1.12).contains(&looks), "{profile:?}: {looks}");
            // Without a feed each slot reads.
            assert!(slots.looks(1, false, u64::MAX));
        }
    }

    #[test]
    fn the_times_of_looks_into_one_journal_say_nothing_of_those_into_another() {
        const JOURNALS: usize = 8;
        let mut dice = Dice(9);
        let times = shown(Slots::new(Profile::Live), &[], 1_000 * DAY_MS, &mut dice);
        let slots = Slots::new(Profile::Live);
        let looks: Vec<(u64, u64)> = times
            .iter()
            .filter(|_| slots.looks(JOURNALS, true, dice.roll()))
            .zip(0..)
            .map(|(at, number)| (*at, number))
            .collect();
        let drawn: Vec<(u64, u64)> = looks.iter().map(|(at, _)| (*at, dice.roll() % 8)).collect();
        let round: Vec<(u64, u64)> = looks.iter().map(|(at, number)| (*at, number % 8)).collect();
        let of = |reads: &[(u64, u64)], journal| -> Vec<u64> {
            let reads = reads.iter().filter(|it| it.1 == journal);
            reads.map(|it| it.0).collect()
        };
        // How far the times from a look into one to the next look into the other are from a wait
        // that knows nothing of the first.
        let apart = |reads: &[(u64, u64)]| {
            let (one, other) = (of(reads, 0), of(reads, 1));
            let mut all = vec![0];
            for from in &one {
                let next = other.partition_point(|it| it <= from);
                if let Some(next) = other.get(next) {
                    all.push(all[all.len() - 1] + (next - from));
                }
            }
            distance(&all, LOOK_MS)
        };
        assert!(distance(&of(&drawn, 0), LOOK_MS) < 1.63);
        let (drawn, round) = (apart(&drawn), apart(&round));
        assert!(drawn < 2.0, "{drawn}");
        assert!(round > 5.0, "{round}");
    }
}
