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
    /// A stream whose client does something else meanwhile.
    pub(crate) parked: Option<Follower>,
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
    pub(crate) fn take(
        &mut self,
        group: &Group,
    ) -> (Option<Follower>, Option<FollowJournalRequest>) {
        let parked = self.parked.take();
        if let Some(follower) = parked.filter(|it| it.is_of(group)) {
            return (Some(follower), None);
        }
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
        follower.is_some_and(|it| it.at_end && it.is_of(group))
    }

    /// A stream has ended. When the next one begins is nobody's to choose.
    pub(crate) fn ended(&mut self, fault: Option<StreamFault>) -> Result<(), Error> {
        let [high, low] = crypto::random::<2>()?;
        let part = |whole: u64| whole * u64::from(u16::from_be_bytes([high, low])) / 65_536;
        let now_ms = SystemClock.monotonic_ms();
        if now_ms.saturating_sub(self.began_ms) > LONG_MS {
            self.failures = 0;
        }
        let pause_ms = match fault {
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
    pub(crate) fn is_of(&self, group: &Group) -> bool {
        self.group == group.id && self.segment == group.segment.id && group.status == Status::Active
    }
}
