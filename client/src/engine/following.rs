//! How the activity feed is followed: what engine and follower both see.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::runtime::Instant;
use protocol::feed::{FeedPointer, Resolution};
use protocol::ids::{Digest, GroupId, SegmentId, TickNumber};

use crate::purse::SharedPurse;
use crate::store::feed::{Place, Reached};

/// Following the activity feed.
pub(crate) struct Feed {
    /// What it may cost; none: it is not followed.
    pub(crate) bytes_a_month: Option<u64>,
    pub(crate) purse: SharedPurse,
    pub(crate) heard: Arc<Mutex<Heard>>,
    /// It is not begun again before this time.
    pub(crate) not_before_ms: u64,
    /// The resolution that this process follows, and the finest that was of use when it was chosen.
    pub(crate) chosen: Option<(Resolution, Resolution)>,
    /// Finer ones have turned out to cost too much.
    pub(crate) finest: Resolution,
}

impl Feed {
    pub(crate) fn new(bytes_a_month: Option<u64>, purse: SharedPurse) -> Self {
        Self {
            bytes_a_month,
            purse,
            heard: Arc::default(),
            not_before_ms: 0,
            chosen: None,
            finest: Resolution::Seconds2,
        }
    }

    /// This resolution has cost more than it may.
    pub(crate) fn follow_coarser_than(&mut self, resolution: Resolution) {
        self.finest = resolution.coarser().unwrap_or(resolution);
        self.chosen = None;
        tracing::warn!(
            seconds = self.finest.seconds(),
            "the activity feed costs more than it may: it is followed by coarser ticks"
        );
    }
}

/// What was read of the activity feed and is not kept yet: while it is waited for, the engine does
/// other things.
#[derive(Default)]
pub(crate) struct Heard {
    /// The last tick that was checked.
    pub(crate) at: Option<Reached>,
    /// Groups that were named.
    pub(crate) news: HashSet<GroupId>,
    /// What was fetched of the ticks between the last one and what the relay shows.
    pub(crate) missed: Option<Missed>,
    /// Segments that were looked for in all of these ticks.
    pub(crate) searched: Option<HashSet<SegmentId>>,
    /// Why it is not followed on from there.
    pub(crate) ended: Option<Ended>,
    /// When the next tick is looked for.
    pub(crate) next_at: Option<Instant>,
    /// When the last one came.
    pub(crate) came_at: Option<Instant>,
    /// Since when the relay does not answer at all.
    pub(crate) silent_since: Option<Instant>,
}

pub(crate) fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts segments as searched only if they were in everything that was searched before.
pub(crate) fn search_too(all: &mut Option<HashSet<SegmentId>>, segments: &HashSet<SegmentId>) {
    match all {
        Some(all) => all.retain(|segment| segments.contains(segment)),
        unknown => *unknown = Some(segments.clone()),
    }
}

/// What was missed, as far as it was fetched and searched. Waits that end in between do not begin
/// again. Nothing of it counts before all was searched.
pub(crate) struct Missed {
    /// The last tick that was taken.
    pub(crate) after: Place,
    /// The resolution that is followed from then on.
    pub(crate) to: Resolution,
    /// What the relay has said that there is.
    pub(crate) last: FeedPointer,
    /// All ticks before this time were searched.
    pub(crate) until_ms: u64,
    /// The resolution that was walked last.
    pub(crate) walked: Option<Resolution>,
    pub(crate) walk: Option<Walk>,
    pub(crate) named: HashSet<GroupId>,
    pub(crate) searched: Option<HashSet<SegmentId>>,
}

/// Ticks of one resolution, walked through from the newest one back: each names the one before it.
pub(crate) struct Walk {
    pub(crate) resolution: Resolution,
    /// The first tick that is to be searched.
    pub(crate) first: TickNumber,
    /// The tick before the first one, where it is known: it ends the walk. Else a tick does that is
    /// no later than the first one.
    pub(crate) known: Option<Digest>,
    /// The newest one, once it is there.
    pub(crate) newest: Option<Reached>,
    /// The one that is fetched next.
    pub(crate) next: TickNumber,
    /// The one that was fetched last.
    pub(crate) later: Option<Later>,
}

/// A tick whose predecessor is looked for.
pub(crate) struct Later {
    pub(crate) number: TickNumber,
    pub(crate) previous: Digest,
    /// As the service has signed it.
    pub(crate) tick: Vec<u8>,
}

/// Why the activity feed is not followed any more.
pub(crate) enum Ended {
    /// No tick came when one was due, or one that can't be used; or too many were missed.
    Stopped,
    /// It costs more than it may.
    TooDear,
    /// The service has signed two ticks that contradict each other.
    Forked(Box<(Vec<u8>, Vec<u8>)>),
}
