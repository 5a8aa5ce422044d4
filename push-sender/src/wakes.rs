//! When which address is woken: coalesced, delayed by chance, and never more often than was
//! promised. Without I/O and clock.
//!
//! What counts is the address, not the record: several records with one address do not make it ring
//! more often.

use std::collections::{BTreeSet, HashMap};

use protocol::push::{MAX_DELAY_MS, WakePace};

use crate::config::PaceSettings;
use crate::devices::Reachable;
use crate::keys::{DeviceId, Lane, Tag};

/// A wake that came so short before its device went to sleep may be of news that the device has not
/// read.
const UNREAD_MS: u64 = 30_000;

/// What became of a wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Waits,
    /// One that waits already is for it too.
    Coalesced,
    /// A decoy that is not needed: a wake was or will be sent anyway.
    Needless,
    Full,
}

impl Asked {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::Coalesced => "coalesced",
            Self::Needless => "needless",
            Self::Full => "full",
        }
    }
}

/// An address to be woken now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) tag: Tag,
    pub(crate) lane: Lane,
    /// Whose wakes these are: the same address, in different records.
    pub(crate) devices: Vec<DeviceId>,
    /// How often it was tried.
    pub(crate) tried: u32,
    /// Of the push, once it was sent.
    pub(crate) id: Option<PushId>,
}

/// Tells a push that is sent again from another one.
pub(crate) type PushId = [u8; 16];

struct Pending {
    due_ms: u64,
    /// By its pace it is not woken before.
    allowed_ms: u64,
    lane: Lane,
    /// When the last wake for it came.
    asked_ms: u64,
    devices: Vec<DeviceId>,
    tried: u32,
    id: Option<PushId>,
}

pub(crate) struct Wakes {
    pace: PaceSettings,
    most: usize,
    /// Records that may stand behind one wake.
    most_devices: usize,
    pending: HashMap<Tag, Pending>,
    order: BTreeSet<(u64, Tag)>,
    /// When each address was last woken.
    woken: HashMap<Tag, u64>,
    /// Until when each device that said so is awake.
    awake: HashMap<DeviceId, u64>,
}

impl Wakes {
    pub(crate) fn new(pace: PaceSettings, most: usize, most_devices: u32) -> Self {
        Self {
            pace,
            most,
            most_devices: usize::try_from(most_devices).unwrap_or(usize::MAX).max(1),
            pending: HashMap::new(),
            order: BTreeSet::new(),
            woken: HashMap::new(),
            awake: HashMap::new(),
        }
    }

    /// Has `reachable` woken in `delay_ms` and somewhat later, by `chance`.
    pub(crate) fn ask(
        &mut self,
        reachable: Reachable,
        delay_ms: u32,
        is_decoy: bool,
        now_ms: u64,
        chance: u64,
    ) -> Asked {
        let Reachable {
            device,
            tag,
            lane,
            pace,
        } = reachable;
        let (interval_ms, jitter_ms) = self.pace_of(pace);
        let last_ms = self.woken.get(&tag).copied();
        if is_decoy {
            let is_woken_lately =
                last_ms.is_some_and(|last| now_ms < last.saturating_add(self.pace.batched_ms));
            if is_woken_lately || self.pending.contains_key(&tag) {
                return Asked::Needless;
            }
        }
        let delay_ms = u64::from(delay_ms.min(MAX_DELAY_MS));
        let jitter = chance % jitter_ms.saturating_add(1);
        let wanted = now_ms.saturating_add(delay_ms).saturating_add(jitter);
        let allowed = last_ms.map_or(0, |last| last.saturating_add(interval_ms));
        let asleep = self.awake.get(&device).copied().unwrap_or(0);
        let due_ms = wanted.max(allowed).max(asleep);
        if let Some(pending) = self.pending.get_mut(&tag) {
            pending.asked_ms = now_ms;
            pending.allowed_ms = pending.allowed_ms.min(allowed);
            if !pending.devices.contains(&device) && pending.devices.len() < self.most_devices {
                pending.devices.push(device);
            }
            // One that is tried again waits as long as it was told.
            if pending.tried == 0 && due_ms < pending.due_ms {
                self.order.remove(&(pending.due_ms, tag));
                pending.due_ms = due_ms;
                self.order.insert((due_ms, tag));
            }
            return Asked::Coalesced;
        }
        if self.pending.len() >= self.most {
            return Asked::Full;
        }
        let pending = Pending {
            due_ms,
            allowed_ms: allowed,
            lane,
            asked_ms: now_ms,
            devices: vec![device],
            tried: 0,
            id: None,
        };
        self.insert(tag, pending);
        Asked::Waits
    }

    /// The next address whose time has come. From now on it counts as woken.
    pub(crate) fn take_due(&mut self, now_ms: u64) -> Option<Due> {
        let &(due_ms, tag) = self.order.first()?;
        if due_ms > now_ms {
            return None;
        }
        self.order.pop_first();
        let Pending {
            lane,
            devices,
            tried,
            id,
            ..
        } = self.pending.remove(&tag)?;
        self.woken.insert(tag, now_ms);
        Some(Due {
            tag,
            lane,
            devices,
            tried,
            id,
        })
    }

    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.order.first().map(|(due_ms, _)| *due_ms)
    }

    /// Tries again later what could not be sent.
    pub(crate) fn retry(&mut self, due: Due, after_ms: u64, now_ms: u64) {
        let tried = due.tried.saturating_add(1);
        self.put_back(Due { tried, ..due }, after_ms, now_ms);
    }

    /// Has what could not be sent wait for so long, without having been tried.
    pub(crate) fn put_back(&mut self, due: Due, after_ms: u64, now_ms: u64) {
        let Due {
            tag,
            lane,
            devices,
            tried,
            id,
        } = due;
        let mut due_ms = now_ms.saturating_add(after_ms);
        let mut all = devices;
        let mut asked_ms = now_ms;
        if let Some(pending) = self.pending.remove(&tag) {
            self.order.remove(&(pending.due_ms, tag));
            due_ms = due_ms.max(pending.due_ms);
            asked_ms = pending.asked_ms;
            for device in pending.devices {
                if !all.contains(&device) && all.len() < self.most_devices {
                    all.push(device);
                }
            }
        }
        let pending = Pending {
            due_ms,
            // By its pace it might be woken now.
            allowed_ms: now_ms,
            lane,
            asked_ms,
            devices: all,
            tried,
            id,
        };
        self.insert(tag, pending);
    }

    /// `device` reads by itself for so long. With 0 it sleeps from now on, and has read what it was
    /// to be woken for, but for the last moments. `tag` is its address.
    pub(crate) fn awake(&mut self, device: DeviceId, tag: Option<Tag>, seconds: u16, now_ms: u64) {
        let until_ms = now_ms.saturating_add(u64::from(seconds) * 1000);
        if seconds > 0 {
            self.awake.insert(device, until_ms);
        } else {
            self.awake.remove(&device);
        }
        // A wake that is another record's too stays as it is.
        let Some((tag, pending)) = tag.and_then(|tag| Some((tag, self.pending.get_mut(&tag)?)))
        else {
            return;
        };
        if pending.devices != [device] {
            return;
        }
        self.order.remove(&(pending.due_ms, tag));
        if seconds == 0 && pending.asked_ms.saturating_add(UNREAD_MS) <= now_ms {
            self.pending.remove(&tag);
            return;
        }
        pending.due_ms = if seconds > 0 {
            pending.due_ms.max(until_ms)
        } else if pending.tried > 0 {
            // It waits as long as the push service asked for.
            pending.due_ms
        } else {
            let soon_ms = now_ms.saturating_add(UNREAD_MS).max(pending.allowed_ms);
            pending.due_ms.min(soon_ms)
        };
        self.order.insert((pending.due_ms, tag));
    }

    /// Forgets what binds nobody any more.
    pub(crate) fn tidy(&mut self, now_ms: u64) {
        let longest = self.pace.prompt_ms.max(self.pace.batched_ms);
        self.woken
            .retain(|_, last_ms| now_ms < last_ms.saturating_add(longest));
        self.awake.retain(|_, until_ms| now_ms < *until_ms);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    fn insert(&mut self, tag: Tag, pending: Pending) {
        self.order.insert((pending.due_ms, tag));
        self.pending.insert(tag, pending);
    }

    fn pace_of(&self, pace: WakePace) -> (u64, u64) {
        match pace {
            WakePace::Prompt => (self.pace.prompt_ms, self.pace.prompt_jitter_ms),
            WakePace::Batched => (self.pace.batched_ms, self.pace.batched_jitter_ms),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId([1; 16]);
    const OTHER: DeviceId = DeviceId([2; 16]);
    const TAG: Tag = Tag([1; 32]);

    fn wakes() -> Wakes {
        Wakes::new(PaceSettings::default(), 3, 2)
    }

    fn reachable(device: DeviceId, tag: Tag) -> Reachable {
        Reachable {
            device,
            tag,
            lane: crate::keys::Keys::new(&[1; 32]).lane(&protocol::push::Address::Apns(
                protocol::push::AppAddress {
                    app: protocol::codec::opaque(*b"chat"),
                    token: protocol::codec::opaque([1; 32]),
                },
            )),
            pace: WakePace::Prompt,
        }
    }

    /// The times at which the address is woken until `end_ms`, looked at each second.
    fn woken(wakes: &mut Wakes, from_ms: u64, end_ms: u64) -> Vec<u64> {
        (from_ms..end_ms)
            .step_by(1000)
            .filter(|now| wakes.take_due(*now).is_some())
            .collect()
    }

    #[test]
    fn many_wakes_of_a_device_become_one_push_an_interval() {
        let mut wakes = wakes();
        let mut pushes = 0;
        for now in (0..600_000).step_by(1000) {
            wakes.ask(reachable(DEVICE, TAG), 0, false, now, 0);
            pushes += usize::from(wakes.take_due(now).is_some());
        }
        assert_eq!(pushes, 10, "one a minute, as documented");
    }

    #[test]
    fn many_records_with_one_address_do_not_have_it_woken_more_often() {
        let mut wakes = wakes();
        for device in 0..50 {
            wakes.ask(reachable(DeviceId([device; 16]), TAG), 0, false, 0, 0);
        }
        let due = wakes.take_due(0).unwrap();
        assert_eq!(due.devices.len(), 2, "bounded");
        assert!(wakes.take_due(0).is_none());
        wakes.ask(reachable(OTHER, TAG), 0, false, 1, 0);
        assert_eq!(woken(&mut wakes, 0, 70_000), [60_000]);
    }

    #[test]
    fn a_wake_comes_after_its_delay_and_a_chance_within_the_documented_jitter() {
        let jitter = PaceSettings::default().prompt_jitter_ms;
        let mut seen = BTreeSet::new();
        for chance in 0..1000 {
            let mut wakes = wakes();
            wakes.ask(reachable(DEVICE, TAG), 7_000, false, 100, chance * 7919);
            let due = wakes.next_due_ms().unwrap();
            assert!((7_100..=7_100 + jitter).contains(&due));
            seen.insert(due);
        }
        assert!(seen.len() > 500, "the chance spreads");
    }

    #[test]
    fn a_delay_is_bounded_and_so_is_the_number_of_those_that_wait() {
        let mut wakes = wakes();
        wakes.ask(reachable(DEVICE, TAG), u32::MAX, false, 0, 0);
        assert_eq!(wakes.next_due_ms(), Some(MAX_DELAY_MS.into()));
        for tag in 2..4 {
            let asked = wakes.ask(reachable(DEVICE, Tag([tag; 32])), 0, false, 0, 0);
            assert_eq!(asked, Asked::Waits);
        }
        let asked = wakes.ask(reachable(DEVICE, Tag([9; 32])), 0, false, 0, 0);
        assert_eq!(asked, Asked::Full);
        let asked = wakes.ask(reachable(DEVICE, TAG), 0, false, 0, 0);
        assert_eq!(asked, Asked::Coalesced);
    }

    #[test]
    fn a_device_that_is_awake_is_not_woken_and_after_a_crash_it_is() {
        let mut wakes = wakes();
        wakes.awake(DEVICE, Some(TAG), 60, 0);
        wakes.ask(reachable(DEVICE, TAG), 0, false, 10_000, 0);
        assert_eq!(woken(&mut wakes, 10_000, 90_000), [60_000]);
        // One that waits when the device wakes up by itself.
        wakes.ask(reachable(DEVICE, TAG), 0, false, 200_000, 0);
        wakes.awake(DEVICE, Some(TAG), 60, 200_000);
        assert_eq!(woken(&mut wakes, 200_000, 300_000), [260_000]);
    }

    #[test]
    fn a_device_that_goes_to_sleep_is_woken_only_for_what_it_may_not_have_read() {
        let mut wakes = wakes();
        wakes.awake(DEVICE, Some(TAG), 600, 0);
        wakes.ask(reachable(DEVICE, TAG), 0, false, 10_000, 0);
        wakes.awake(DEVICE, Some(TAG), 0, 50_000);
        assert_eq!(woken(&mut wakes, 50_000, 700_000), [0; 0]);
        wakes.awake(DEVICE, Some(TAG), 600, 700_000);
        wakes.ask(reachable(DEVICE, TAG), 0, false, 740_000, 0);
        wakes.awake(DEVICE, Some(TAG), 0, 750_000);
        assert_eq!(woken(&mut wakes, 750_000, 900_000), [780_000]);
    }

    #[test]
    fn going_to_sleep_neither_shortens_the_pace_nor_the_wait_that_a_push_service_asked_for() {
        let mut wakes = wakes();
        wakes.ask(reachable(DEVICE, TAG), 0, false, 0, 0);
        wakes.take_due(0).unwrap();
        wakes.ask(reachable(DEVICE, TAG), 0, false, 1_000, 0);
        wakes.awake(DEVICE, Some(TAG), 0, 2_000);
        assert_eq!(wakes.next_due_ms(), Some(60_000), "once a minute");
        let due = wakes.take_due(60_000).unwrap();
        wakes.retry(due, 3_600_000, 60_000);
        wakes.awake(DEVICE, Some(TAG), 0, 61_000);
        assert_eq!(wakes.next_due_ms(), Some(3_660_000));
    }

    #[test]
    fn nobody_makes_another_records_device_seem_awake() {
        let mut wakes = wakes();
        wakes.awake(OTHER, Some(TAG), 3600, 0);
        wakes.ask(reachable(DEVICE, TAG), 0, false, 10_000, 0);
        assert_eq!(woken(&mut wakes, 10_000, 20_000), [10_000]);
    }

    #[test]
    fn a_decoy_is_sent_only_where_no_wake_was_or_will_be_lately() {
        let mut wakes = wakes();
        let it = reachable(DEVICE, TAG);
        assert_eq!(wakes.ask(it, 0, true, 0, 0), Asked::Waits);
        assert_eq!(wakes.ask(it, 0, true, 0, 0), Asked::Needless);
        assert!(wakes.take_due(0).is_some());
        assert_eq!(wakes.ask(it, 0, true, 1_000_000, 0), Asked::Needless);
        assert_eq!(wakes.ask(it, 0, true, 1_300_000, 0), Asked::Waits);
    }

    #[test]
    fn what_is_tried_again_waits_as_long_as_it_was_told_also_when_there_is_more_news() {
        let mut wakes = wakes();
        wakes.ask(reachable(DEVICE, TAG), 0, false, 0, 0);
        let due = wakes.take_due(0).unwrap();
        wakes.ask(reachable(OTHER, TAG), 0, false, 1, 0);
        wakes.retry(due, 120_000, 2);
        wakes.ask(reachable(DEVICE, TAG), 0, false, 3, 0);
        assert_eq!(wakes.next_due_ms(), Some(120_002));
        let due = wakes.take_due(120_002).unwrap();
        assert_eq!((due.tried, due.devices.len()), (1, 2));
    }

    #[test]
    fn what_binds_nobody_is_forgotten() {
        let mut wakes = wakes();
        wakes.ask(reachable(DEVICE, TAG), 0, false, 0, 0);
        wakes.awake(OTHER, Some(TAG), 60, 0);
        wakes.take_due(0);
        wakes.tidy(59_999);
        assert_eq!((wakes.woken.len(), wakes.awake.len()), (1, 1));
        wakes.tidy(1_200_000);
        assert_eq!((wakes.woken.len(), wakes.awake.len()), (0, 0));
    }
}
