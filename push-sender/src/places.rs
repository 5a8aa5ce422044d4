//! How many pushes are under way at once: each kind of sender has its own places, and one push
//! service or server has a part of them. So what does not answer holds up nobody else.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::keys::{Kind, Lane};

/// An origin that a device has chosen has this part of the places of its kind.
const PART: usize = 4;

pub(crate) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    kinds: HashMap<Kind, usize>,
    lanes: HashMap<Lane, usize>,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            taken: Mutex::default(),
        }
    }

    /// Whether there was a place. It is to be given back.
    pub(crate) fn take(&self, lane: Lane) -> bool {
        let mut taken = self.taken();
        let most = match lane.kind {
            Kind::WebPush | Kind::Webhook => (self.most / PART).max(1),
            Kind::Apns | Kind::Fcm => self.most,
        };
        let of_kind = taken.kinds.get(&lane.kind).copied().unwrap_or(0);
        let of_lane = taken.lanes.get(&lane).copied().unwrap_or(0);
        // An app is the operator's own: each has all places.
        let is_kind_full = most < self.most && of_kind >= self.most;
        if is_kind_full || of_lane >= most {
            return false;
        }
        taken.kinds.insert(lane.kind, of_kind + 1);
        taken.lanes.insert(lane, of_lane + 1);
        true
    }

    pub(crate) fn give_back(&self, lane: Lane) {
        let mut taken = self.taken();
        if let Some(of_kind) = taken.kinds.get_mut(&lane.kind) {
            *of_kind = of_kind.saturating_sub(1);
        }
        if let Some(of_lane) = taken.lanes.get_mut(&lane) {
            *of_lane = of_lane.saturating_sub(1);
            if *of_lane == 0 {
                taken.lanes.remove(&lane);
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use protocol::codec::{WireSecret, opaque};
    use protocol::push::{Address, AppAddress, WebhookAddress};

    use super::*;
    use crate::keys::Keys;

    fn webhook(host: u8) -> Lane {
        Keys::new(&[1; 32]).lane(&Address::Webhook(WebhookAddress {
            url: opaque(format!("https://{host}.example/")),
            secret: WireSecret::new([1; 32]),
        }))
    }

    fn apple(app: u8) -> Lane {
        Keys::new(&[1; 32]).lane(&Address::Apns(AppAddress {
            app: opaque([app; 4]),
            token: opaque([1; 32]),
        }))
    }

    #[test]
    fn a_service_that_does_not_answer_leaves_places_for_others() {
        let places = Places::new(8);
        assert_eq!((0..10).filter(|_| places.take(webhook(1))).count(), 2);
        assert_eq!((0..10).filter(|_| places.take(webhook(2))).count(), 2);
        for host in 3..100 {
            places.take(webhook(host));
        }
        assert!(!places.take(webhook(100)), "all of their kind");
        assert_eq!((0..10).filter(|_| places.take(apple(1))).count(), 8);
        assert_eq!((0..10).filter(|_| places.take(apple(2))).count(), 8);
        places.give_back(webhook(1));
        assert!(places.take(webhook(1)));
        assert!(!places.take(webhook(1)));
    }
}
