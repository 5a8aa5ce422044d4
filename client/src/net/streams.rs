//! The streams of a client: one at a time, of the group in front.

use protocol::WIRE_VERSION;
use protocol::follow::{FollowJournalRequest, FollowedStretch, Pace};
use protocol::ids::{GroupId, SegmentId};
use protocol::journal::SignedHead;

use crate::error::Error;
use crate::net::clock::{Clock as _, SystemClock};
use crate::net::transport::stream::{Stream, StreamFault, Told};
use crate::store::{Group, Status};

/// After a stream that has ended as announced the next one begins within so long, milliseconds; at
/// a random time, since all others of the group have ended too.
const STAGGER_MS: u64 = 2_000;
/// After one that has failed, in half of this to this; twice as long each time.
const FIRST_PAUSE_MS: u64 = 4_000;
const LONGEST_PAUSE_MS: u64 = 5 * 60 * 1000;
/// Failures of streams that went on for longer are no sign that there is none to be had.
const LONG_MS: u64 = 60_000;

/// What a client knows of its streams.
#[derive(Default)]
pub(crate) struct Streams {
    /// How it follows; none for not at all.
    pub(crate) pace: Option<Pace>,
    /// A stream that goes on while journals are read because of it, and no longer: there its group
    /// is left out.
    pub(crate) parked: Option<Follower>,
    /// The segment whose stream goes on, once everything that it has told was taken in.
    telling: Option<SegmentId>,
    /// In succession, of streams that were short.
    failures: u32,
    /// When the last one was asked for, by the clock that nobody sets.
    began_ms: u64,
    /// No stream begins before, by the clock that nobody sets.
    pub(crate) not_before_ms: u64,
}

/// A stream of a group's segment.
pub(crate) struct Follower {
    stream: Stream,
    pub(crate) group: GroupId,
    segment: SegmentId,
    /// The end that the stream has told last.
    pub(crate) told: Option<SignedHead>,
    /// Everything before that end was taken in.
    pub(crate) at_end: bool,
}

/// How a stream has ended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ending {
    /// None if it has ended as announced.
    pub(crate) fault: Option<StreamFault>,
    /// When its last frame came, by the clock that nobody sets.
    pub(crate) heard_ms: Option<u64>,
}

impl Follower {
    pub(crate) fn new(stream: Stream, group: GroupId, segment: SegmentId) -> Self {
        Self {
            stream,
            group,
            segment,
            told: None,
            at_end: false,
        }
    }

    /// What the stream says that is new; none at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<FollowedStretch>, StreamFault> {
        loop {
            let Told::Stretch(stretch) = self.stream.next().await? else {
                return Ok(None);
            };
            let is_new = !stretch.entries.is_empty() || self.told.as_ref() != Some(&stretch.head);
            if is_new {
                return Ok(Some(stretch));
            }
        }
    }
}

impl Streams {
    pub(crate) fn of(pace: Option<Pace>) -> Self {
        Self {
            pace,
            ..Self::default()
        }
    }

    /// A stream of this segment that goes on, or a request for one, if it is time for that.
    pub(crate) fn go_on(
        &mut self,
        parked: Option<Follower>,
        group: &Group,
    ) -> (Option<Follower>, Option<FollowJournalRequest>) {
        if let Some(follower) = parked.filter(|it| it.is_of(group)) {
            return (Some(follower), None);
        }
        self.telling = None;
        let now_ms = SystemClock.monotonic_ms();
        let is_time = now_ms >= self.not_before_ms;
        let request = self
            .pace
            .filter(|_| is_time)
            .map(|pace| FollowJournalRequest {
                version: WIRE_VERSION,
                segment: group.segment.id,
                from: group
                    .segment
                    .joined
                    .unwrap_or(group.segment.next)
                    .rounded_down(),
                pace,
            });
        if request.is_some() {
            self.began_ms = now_ms;
        }
        (None, request)
    }

    /// Whether a stream has told everything of a group that there is.
    pub(crate) fn has_all_of(&self, group: &Group) -> bool {
        let follower = self.parked.as_ref();
        follower.is_some_and(|it| it.has_all() && it.is_of(group))
    }

    /// What a stream has told was taken in, and it goes on.
    pub(crate) fn goes_on(&mut self, follower: &Follower) {
        self.telling = follower.at_end.then_some(follower.segment);
    }

    /// Whether a stream goes on that tells what comes into a group's journal.
    pub(crate) fn tells_of(&self, group: &Group) -> bool {
        self.telling == Some(group.segment.id)
    }

    /// At this pace from now on: one of another pace does not go on.
    pub(crate) fn follow_at(&mut self, pace: Option<Pace>) {
        if pace != self.pace {
            self.stop();
            self.pace = pace;
        }
    }

    /// Nobody takes in any longer what a stream tells.
    pub(crate) fn stop(&mut self) {
        self.parked = None;
        self.telling = None;
    }

    /// A stream has ended. When the next one begins is nobody's to choose.
    pub(crate) fn ended(&mut self, ending: Ending) -> Result<(), Error> {
        self.telling = None;
        let [high, low] = crypto::random::<2>()?;
        let part = |whole: u64| whole * u64::from(u16::from_be_bytes([high, low])) / 65_536;
        let now_ms = SystemClock.monotonic_ms();
        // What was silent for long was none for long.
        let heard_ms = ending.heard_ms.unwrap_or(self.began_ms);
        if heard_ms.saturating_sub(self.began_ms) > LONG_MS {
            self.failures = 0;
        }
        let pause_ms = match ending.fault {
            None => {
                self.failures = 0;
                part(STAGGER_MS)
            }
            Some(fault) => {
                let doubled = FIRST_PAUSE_MS
                    .checked_shl(self.failures)
                    .unwrap_or(u64::MAX);
                let longest = doubled.min(LONGEST_PAUSE_MS);
                self.failures = self.failures.saturating_add(1).min(16);
                tracing::debug!(code = fault.code(), "a stream has ended");
                longest / 2 + part(longest / 2)
            }
        };
        self.not_before_ms = now_ms.saturating_add(pause_ms);
        Ok(())
    }
}

impl Follower {
    /// Whether it has told everything that there is: nothing of it is left to be taken in.
    fn has_all(&self) -> bool {
        self.at_end && self.stream.is_at_rest()
    }

    /// How it ends here.
    pub(crate) fn ending(&self, fault: Option<StreamFault>) -> Ending {
        let heard_ms = Some(self.stream.heard_ms());
        Ending { fault, heard_ms }
    }

    pub(crate) fn is_of(&self, group: &Group) -> bool {
        self.group == group.id && self.segment == group.segment.id && group.status == Status::Active
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::ids::Position;

    use super::*;
    use crate::net::transport::stream::tests::stream;
    use crate::store::groups::tests::group;

    #[test]
    fn a_parked_stream_has_all_of_its_own_segment_once_its_end_was_taken_in() {
        let group = group(1, "team");
        let mut streams = Streams::of(Some(Pace::Live));
        assert!(!streams.has_all_of(&group));
        let mut follower = Follower::new(stream(), group.id, group.segment.id);
        assert!(!follower.has_all());
        follower.at_end = true;
        streams.parked = Some(follower);
        assert!(streams.has_all_of(&group));
        let mut other = crate::store::groups::tests::group(2, "camp");
        assert!(!streams.has_all_of(&other));
        // Its next segment.
        other.id = group.id;
        assert!(!streams.has_all_of(&other));
        let lost = Group {
            status: Status::Lost,
            ..crate::store::groups::tests::group(1, "team")
        };
        assert!(!streams.has_all_of(&lost));
    }

    #[test]
    fn a_stream_of_another_pace_tells_of_nothing_any_more() {
        let group = group(1, "team");
        let mut streams = Streams::of(Some(Pace::Live));
        let mut follower = Follower::new(stream(), group.id, group.segment.id);
        follower.at_end = true;
        streams.goes_on(&follower);
        streams.parked = Some(follower);
        streams.follow_at(Some(Pace::Live));
        assert!(streams.tells_of(&group) && streams.parked.is_some());
        streams.follow_at(None);
        assert!(!streams.tells_of(&group) && streams.parked.is_none());
        assert_eq!(streams.pace, None);
    }

    #[test]
    fn a_stream_goes_on_in_its_own_segment_and_elsewhere_another_one_begins_in_time() {
        let mut team = group(1, "team");
        team.segment.next = Position(70);
        let mut streams = Streams::of(Some(Pace::Even));
        let parked = || Some(Follower::new(stream(), team.id, team.segment.id));
        assert!(matches!(streams.go_on(parked(), &team), (Some(_), None)));
        let (None, Some(request)) = streams.go_on(None, &team) else {
            unreachable!("it is asked for");
        };
        assert_eq!((request.from, request.pace), (Position(64), Pace::Even));
        assert_eq!(request.segment, team.segment.id);
        let camp = group(2, "camp");
        let (None, Some(request)) = streams.go_on(parked(), &camp) else {
            unreachable!("another one is asked for");
        };
        assert_eq!(request.segment, camp.segment.id);
        streams.ended(Ending::default()).unwrap();
        streams.not_before_ms = SystemClock.monotonic_ms() + 60_000;
        assert!(matches!(streams.go_on(None, &team), (None, None)));
        let mut reading = Streams::of(None);
        assert!(matches!(reading.go_on(None, &team), (None, None)));
    }

    #[test]
    fn pauses_double_up_to_the_longest_until_a_stream_was_heard_for_long() {
        let mut streams = Streams::of(Some(Pace::Live));
        let mut pause = |heard_for_ms: Option<u64>, fault| {
            let now_ms = SystemClock.monotonic_ms();
            let heard_ms = heard_for_ms.map(|ms| streams.began_ms + ms);
            streams.ended(Ending { fault, heard_ms }).unwrap();
            streams.not_before_ms - now_ms
        };
        // A few milliseconds pass meanwhile.
        let late_ms = 1_000;
        let mut longest = FIRST_PAUSE_MS;
        for _ in 0..10 {
            // One that is silent was not heard for long, however long it was.
            let paused = pause(Some(LONG_MS), Some(StreamFault::Stalled));
            assert!(
                (longest / 2..=longest + late_ms).contains(&paused),
                "{paused}"
            );
            longest = (longest * 2).min(LONGEST_PAUSE_MS);
        }
        let paused = pause(None, Some(StreamFault::Refused));
        assert!(paused >= LONGEST_PAUSE_MS / 2);
        let paused = pause(Some(LONG_MS + 1), Some(StreamFault::Broken));
        assert!(paused <= FIRST_PAUSE_MS + late_ms, "{paused}");
        let paused = pause(None, Some(StreamFault::Broken));
        assert!(paused >= FIRST_PAUSE_MS, "{paused}");
        // As announced: at a random time soon after.
        let pauses: Vec<_> = (0..20).map(|_| pause(None, None)).collect();
        assert!(pauses.iter().all(|ms| *ms < STAGGER_MS + late_ms));
        assert!(pauses.iter().max().unwrap() - pauses.iter().min().unwrap() > STAGGER_MS / 10);
        let paused = pause(None, Some(StreamFault::Broken));
        assert!(paused <= FIRST_PAUSE_MS + late_ms, "{paused}");
    }
}
