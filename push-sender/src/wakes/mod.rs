//! When which address is woken: coalesced, delayed by chance, and never more often than was
//! promised. Without I/O and clock.
//!
//! What counts is the address, not the record: several records with one address do not make it ring
//! more often.
//!
//! A decoy is a wake as any other, but for three things: it is dropped where news is under way, it
//! is not for a device that is awake, and its device must have agreed.

mod decoys;

use std::collections::{BTreeSet, HashMap};

use protocol::push::WakePace;

use crate::config::PaceSettings;
use crate::keys::{DeviceId, Lane, Tag};
use decoys::Decoys;

/// A wake that came so short before its device went to sleep may be of news that the device has not
/// read.
const UNREAD_MS: u64 = 30_000;

/// A device that may be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reachable {
    pub(crate) device: DeviceId,
    pub(crate) tag: Tag,
    pub(crate) lane: Lane,
    pub(crate) pace: WakePace,
    /// Whether it agreed to be woken without news.
    pub(crate) decoys: bool,
}

/// What became of a wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Waits,
    /// One that waits already is for it too.
    Coalesced,
    /// A decoy for a device that is awake.
    Awake,
    Full,
}

impl Asked {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::Coalesced => "coalesced",
            Self::Awake => "awake",
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
    /// There is no news.
    pub(crate) is_decoy: bool,
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
    is_decoy: bool,
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
    decoys: Decoys,
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
            decoys: Decoys::new(pace.decoy_mean_ms, most),
        }
    }

    /// A device was reached, or has said something: from now on it gets decoys, if it agreed.
    pub(crate) fn heard(&mut self, reachable: Reachable, now_ms: u64, chance: u64) {
        self.decoys.heard(reachable, now_ms, chance);
    }

    /// An address leads nowhere any more, or nobody agreed to its decoys.
    pub(crate) fn forget_decoys(&mut self, tag: Tag) {
        self.decoys.forget(tag);
    }

    /// Has the next decoy wait whose time has come, and plans another one for its address.
    pub(crate) fn ask_decoy(&mut self, now_ms: u64, chances: [u64; 2]) -> Option<Asked> {
        let [until_next, jitter] = chances;
        let reachable = self.decoys.take_due(now_ms, until_next)?;
        Some(if self.pending.contains_key(&reachable.tag) {
            Asked::Coalesced
        } else if self.is_awake(reachable.device, now_ms) {
            Asked::Awake
        } else {
            self.wait(reachable, true, now_ms, jitter)
        })
    }

    /// Has `reachable` woken soon, by `chance`: there is news.
    pub(crate) fn ask(&mut self, reachable: Reachable, now_ms: u64, chance: u64) -> Asked {
        self.wait(reachable, false, now_ms, chance)
    }

    fn wait(&mut self, reachable: Reachable, is_decoy: bool, now_ms: u64, chance: u64) -> Asked {
        let Reachable {
            device,
            tag,
            lane,
            pace,
            decoys: _,
        } = reachable;
        let (interval_ms, jitter_ms) = self.pace_of(pace);
        let last_ms = self.woken.get(&tag).copied();
        let wanted = now_ms.saturating_add(chance % jitter_ms.saturating_add(1));
        let allowed = last_ms.map_or(0, |last| last.saturating_add(interval_ms));
        let asleep = self.awake.get(&device).copied().unwrap_or(0);
        let due_ms = wanted.max(allowed).max(asleep);
        if let Some(pending) = self.pending.get_mut(&tag) {
            pending.asked_ms = now_ms;
            pending.allowed_ms = pending.allowed_ms.min(allowed);
            if !pending.devices.contains(&device) && pending.devices.len() < self.most_devices {
                pending.devices.push(device);
            }
            // News takes the place of a decoy. One that is tried again waits as long as it was
            // told.
            let was_decoy = std::mem::replace(&mut pending.is_decoy, false);
            if pending.tried == 0 && (was_decoy || due_ms < pending.due_ms) {
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
            is_decoy,
        };
        self.insert(tag, pending);
        Asked::Waits
    }

    /// The next address whose time has come. From now on it counts as woken.
    pub(crate) fn take_due(&mut self, now_ms: u64) -> Option<Due> {
        while let Some(&(due_ms, tag)) = self.order.first()
            && due_ms <= now_ms
        {
            self.order.pop_first();
            let Some(pending) = self.pending.remove(&tag) else {
                continue;
            };
            let are_awake =
                |devices: &[DeviceId]| devices.iter().all(|device| self.is_awake(*device, now_ms));
            if pending.is_decoy && are_awake(&pending.devices) {
                continue;
            }
            self.woken.insert(tag, now_ms);
            return Some(Due {
                tag,
                lane: pending.lane,
                devices: pending.devices,
                tried: pending.tried,
                id: pending.id,
                is_decoy: pending.is_decoy,
            });
        }
        None
    }

    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let due_ms = self.order.first().map(|(due_ms, _)| *due_ms);
        due_ms.into_iter().chain(self.decoys.next_ms()).min()
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
            mut is_decoy,
        } = due;
        let mut due_ms = now_ms.saturating_add(after_ms);
        let mut all = devices;
        let mut asked_ms = now_ms;
        if let Some(pending) = self.pending.remove(&tag) {
            self.order.remove(&(pending.due_ms, tag));
            due_ms = due_ms.max(pending.due_ms);
            asked_ms = pending.asked_ms;
            is_decoy &= pending.is_decoy;
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
            is_decoy,
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
        // A decoy is dropped when it is due, if its device is still awake.
        if pending.devices != [device] || pending.is_decoy {
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

    fn is_awake(&self, device: DeviceId, now_ms: u64) -> bool {
        self.awake
            .get(&device)
            .is_some_and(|until_ms| now_ms < *until_ms)
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
mod tests;
