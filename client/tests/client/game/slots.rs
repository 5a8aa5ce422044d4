//! The game of times: a relay that sees when each client's requests go out, and nothing else, looks
//! for the one to whom somebody writes. Clients have the SDK's scheduler of slots; what is
//! simulated is the time. The relay knows how they are made, and when the messages are sent.
//!
//! `client/benches/slots.rs` plays it with up to 10^5 clients.

use mimimi_client::Profile;
use mimimi_client::slots::{Slots, Turn, exponential};

pub(crate) const MINUTE_MS: u64 = 60_000;
/// A message every ten minutes, on the average.
const SEND_MS: u64 = 10 * MINUTE_MS;
/// Each other client has news every half hour.
const NEWS_MS: u64 = 30 * MINUTE_MS;
/// Ticks of the feed.
const TICK_MS: u64 = 2_000;
/// When the service's tick is at the client, after its end.
const TICK_LATE_MS: u64 = 400;
/// How long an entry waits on a live stream.
const LIVE_MS: u64 = 200;

/// Draws, the same each time (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn pair(&mut self) -> [u64; 2] {
        [self.roll(), self.roll()]
    }

    /// Random times with this mean between them.
    pub(crate) fn times(&mut self, mean_ms: u64, end_ms: u64) -> Vec<u64> {
        let mut at_ms = 0;
        let times = std::iter::from_fn(|| {
            at_ms += exponential(mean_ms, self.roll());
            (at_ms < end_ms).then_some(at_ms)
        });
        times.collect()
    }
}

/// How a client shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By the slots of a profile, in a group that is not in front.
    Slots(Profile),
    /// The same, weakened: a slot comes with news.
    Weakened(Profile),
    /// By the frames of a live stream, in the group in front.
    Front,
    /// By a read at a random time within so long after news, and by nothing else: what others do,
    /// to compare.
    Reacting(u64),
    /// As the first one, by somebody who answers every other message of the one who is looked for,
    /// within a minute of having read it. No scheduler hides that.
    Answering(Profile),
}

/// When a client shows itself, to whom something is written at these times.
pub(crate) fn shown(kind: Kind, written: &[u64], end_ms: u64, dice: &mut Dice) -> Vec<u64> {
    let news = |at_ms: u64| (at_ms / TICK_MS + 1) * TICK_MS + TICK_LATE_MS;
    match kind {
        Kind::Front => {
            let late = written.iter();
            let mut shown: Vec<u64> = late.map(|at| at + dice.roll() % LIVE_MS).collect();
            shown.sort_unstable();
            shown
        }
        Kind::Reacting(within_ms) => {
            let late = written.iter();
            let mut shown: Vec<u64> = late
                .map(|at| news(*at) + dice.roll() % within_ms.max(1))
                .collect();
            shown.sort_unstable();
            shown
        }
        Kind::Slots(profile) => scheduled(Slots::new(profile), written, news, end_ms, false, dice),
        Kind::Weakened(profile) => {
            let slots = Slots::new(profile).weakened();
            scheduled(slots, written, news, end_ms, false, dice)
        }
        Kind::Answering(profile) => {
            scheduled(Slots::new(profile), written, news, end_ms, true, dice)
        }
    }
}

/// As the SDK drives its slots.
fn scheduled(
    mut slots: Slots,
    written: &[u64],
    news: impl Fn(u64) -> u64,
    end_ms: u64,
    answers: bool,
    dice: &mut Dice,
) -> Vec<u64> {
    let mut news = written.iter().map(|at| news(*at)).peekable();
    let mut shown = Vec::new();
    let mut named = false;
    let mut answer_ms = u64::MAX;
    slots.begin(0, dice.roll());
    while let Some(next_ms) = slots.next_ms() {
        let soonest = next_ms.min(news.peek().copied().unwrap_or(u64::MAX));
        if soonest.min(answer_ms) > end_ms {
            break;
        }
        if answer_ms < soonest {
            shown.push(answer_ms);
            slots.spent(1);
            answer_ms = u64::MAX;
            continue;
        }
        if let Some(heard_ms) = news.next_if(|heard_ms| *heard_ms <= next_ms) {
            named = true;
            slots.hear(heard_ms);
            continue;
        }
        match slots.turn(next_ms, true, dice.pair()) {
            None | Some(Turn::Taken) => {}
            Some(Turn::React { .. }) if !named => {}
            Some(Turn::Read | Turn::Settle | Turn::React { .. }) => {
                shown.push(next_ms);
                if named && answers && dice.roll().is_multiple_of(2) {
                    answer_ms = next_ms + dice.roll() % MINUTE_MS;
                }
                named = false;
            }
        }
    }
    shown
}

/// Times after a message that the relay tells apart, ms.
const BINS: [u64; 13] = [
    200, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000,
    1_024_000,
];

/// In which of them a client showed itself, as bits, for each message.
fn seen(shown: &[u64], sent: &[u64]) -> Vec<u16> {
    let mut first = 0;
    let mut masks = Vec::with_capacity(sent.len());
    for at in sent {
        while shown.get(first).is_some_and(|shown| shown < at) {
            first += 1;
        }
        let mut mask = 0;
        for shown in &shown[first..] {
            let Some(bin) = BINS.iter().position(|end| shown - at < *end) else {
                break;
            };
            mask |= 1 << bin;
        }
        masks.push(mask);
    }
    masks
}

/// What the relay knows of how clients are made: by how much more likely each observation is of the
/// one who is written to than of another one (the logarithm of their ratio, for each set of bins).
pub(crate) struct Attack(Vec<f64>);

impl Attack {
    /// Learns by watching pairs of its own.
    pub(crate) fn learn(kind: Kind, dice: &mut Dice) -> Self {
        const PAIRS: usize = 400;
        let end_ms = 100 * SEND_MS;
        // One of each at first: nothing is impossible.
        let mut counts = [[1.0f64; BINS.len()]; 2];
        let mut all = [2.0f64; 2];
        for _ in 0..PAIRS {
            let sent = dice.times(SEND_MS, end_ms);
            for (is_right, (counts, all)) in counts.iter_mut().zip(&mut all).enumerate() {
                let shown = client(kind, &sent, is_right == 1, end_ms, dice);
                for mask in seen(&shown, &sent) {
                    *all += 1.0;
                    for (bin, count) in counts.iter_mut().enumerate() {
                        *count += f64::from(mask >> bin & 1);
                    }
                }
            }
        }
        let part = |which: usize, bin: usize| counts[which][bin] / all[which];
        let ratio = |mask: u16| -> f64 {
            let bins = (0..BINS.len()).map(|bin| match mask >> bin & 1 {
                1 => (part(1, bin) / part(0, bin)).ln(),
                _ => ((1.0 - part(1, bin)) / (1.0 - part(0, bin))).ln(),
            });
            bins.sum()
        };
        Self((0..1 << BINS.len()).map(ratio).collect())
    }

    /// The score of a client after each message.
    fn scores(&self, shown: &[u64], sent: &[u64]) -> Vec<f64> {
        let mut sum = 0.0;
        let masks = seen(shown, sent).into_iter();
        masks
            .map(|mask| {
                sum += self.0[usize::from(mask)];
                sum
            })
            .collect()
    }
}

/// A client that is written to by others, and by the one who is looked for or not.
fn client(kind: Kind, sent: &[u64], is_right: bool, end_ms: u64, dice: &mut Dice) -> Vec<u64> {
    let mut written = dice.times(NEWS_MS, end_ms);
    if is_right {
        written.extend(sent);
        written.sort_unstable();
    }
    shown(kind, &written, end_ms, dice)
}

/// After how many messages the relay has the right one of so many clients on top, and keeps it
/// there; none if it has not by the last message.
pub(crate) fn linked_after(
    kind: Kind,
    attack: &Attack,
    (clients, messages): (usize, usize),
    dice: &mut Dice,
) -> Option<usize> {
    let end_ms = SEND_MS * u64::try_from(messages).unwrap();
    let sent = dice.times(SEND_MS, end_ms);
    let right = attack.scores(&client(kind, &sent, true, end_ms, dice), &sent);
    // Up to here somebody else was as good.
    let mut after = 0;
    for _ in 1..clients {
        let other = attack.scores(&client(kind, &sent, false, end_ms, dice), &sent);
        let beaten = right
            .iter()
            .zip(&other)
            .rposition(|(right, other)| other >= right);
        after = after.max(beaten.map_or(0, |at| at + 1));
    }
    (after < sent.len()).then_some(after + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of ten pairs among a hundred clients: after how many messages half of them are linked.
    fn half_linked(kind: Kind, messages: usize, seed: u64) -> Option<usize> {
        let mut dice = Dice(seed);
        let attack = Attack::learn(kind, &mut dice);
        let mut after: Vec<_> = (0..11)
            .map(|_| linked_after(kind, &attack, (100, messages), &mut dice))
            .map(|after| after.unwrap_or(usize::MAX))
            .collect();
        after.sort_unstable();
        (after[5] < usize::MAX).then_some(after[5])
    }

    #[test]
    fn a_relay_links_who_reads_when_there_is_news_after_a_few_messages() {
        for kind in [
            Kind::Slots(Profile::LowData),
            Kind::Weakened(Profile::Batched),
            Kind::Weakened(Profile::Live),
            Kind::Front,
            Kind::Reacting(60_000),
        ] {
            let after = half_linked(kind, 200, 1);
            assert!(after.is_some_and(|after| after < 20), "{kind:?}: {after:?}");
        }
    }

    #[test]
    fn a_relay_does_not_link_who_reads_in_slots_however_much_is_written() {
        for kind in [
            Kind::Slots(Profile::Live),
            Kind::Slots(Profile::Even),
            Kind::Slots(Profile::Batched),
            Kind::Slots(Profile::Periodic),
        ] {
            assert_eq!(half_linked(kind, 1_000, 2), None, "{kind:?}");
        }
    }

    #[test]
    fn who_answers_at_once_is_linked_in_whatever_profile() {
        let after = half_linked(Kind::Answering(Profile::Batched), 1_000, 3);
        assert!(after.is_some(), "{after:?}");
    }
}
