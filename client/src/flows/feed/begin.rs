//! Where following the feed begins, in which resolution, and whether others are shown the same.

use std::sync::Arc;

use crate::runtime::Instant;
use protocol::Wire as _;
use protocol::feed::{FeedPointer, Resolution, Tick};
use protocol::ids::TickNumber;

use super::{chance, checked, confirm, is_future, is_gone, is_overdue, reached};
use crate::engine::Engine;
use crate::engine::following::{Ended, Heard, lock};
use crate::error::Error;
use crate::net::feed::Shown;
use crate::purse::HEAD;
use crate::store::feed::{self, Place, Reached};
use crate::store::heads::{self, Signer};

/// Following is begun again after so long, at the earliest and at the latest.
const AGAIN_MS: std::ops::Range<u64> = 30_000..90_000;
const MONTH_S: u64 = 30 * 24 * 60 * 60;

/// The finest resolution, from this one on, that costs no more than this in a month.
fn affordable(
    pointer: &FeedPointer,
    (bytes_a_month, finest): (u64, Resolution),
) -> Option<(Resolution, TickNumber)> {
    pointer
        .ticks
        .iter()
        .filter_map(|tick| {
            let resolution = Resolution::of_seconds(tick.seconds)?;
            let ticks = MONTH_S / resolution.seconds();
            let bytes = ticks.saturating_mul(u64::from(tick.bytes).saturating_add(HEAD));
            (bytes <= bytes_a_month && resolution >= finest)
                .then_some((resolution, TickNumber(tick.number)))
        })
        .min()
}

impl Engine {
    /// Begins to follow the feed, if it is not followed and the relay shows one; and chooses the
    /// resolution, once for each opening and profile.
    pub(crate) async fn settle_feed(&mut self) -> Result<(), Error> {
        self.keep_heard()?;
        let now_ms = self.transport.time.now_unix_ms();
        let Some(bytes_a_month) = self.feed.bytes_a_month else {
            return feed::leave(&self.db);
        };
        // Before the first directory there is nothing to follow.
        let Ok(signer) = heads::signer(&self.db) else {
            return Ok(());
        };
        let place = feed::place(&self.db)?.filter(|it| it.generation == signer.generation);
        let finest = self.slots.finest();
        let is_chosen = self.feed.chosen.is_some_and(|(_, of)| of == finest);
        if (place.is_some() && is_chosen) || feed::is_forked(&self.db, signer.generation)? {
            return Ok(());
        }
        if place.is_none() {
            feed::leave(&self.db)?;
        }
        let not_before_ms = self.feed.not_before_ms;
        if now_ms < not_before_ms && not_before_ms - now_ms <= AGAIN_MS.end {
            return Ok(());
        }
        self.feed.not_before_ms = now_ms.saturating_add(chance(&AGAIN_MS)?);
        let Shown::Here(pointer) = self.transport.feed_pointer(&self.feed.purse).await else {
            return Ok(());
        };
        let least = finest.max(self.feed.finest);
        if place.is_some() {
            let chosen = affordable(&pointer, (bytes_a_month, least));
            self.feed.chosen = chosen.map(|(resolution, _)| (resolution, finest));
            return match chosen {
                Some(_) => Ok(()),
                None => feed::leave(&self.db),
            };
        }
        let begun = self.begin(&signer, pointer, (bytes_a_month, least)).await;
        match begun {
            Ok(None) => Ok(()),
            Ok(Some(reached)) => {
                self.feed.chosen = Some((reached.place.resolution, finest));
                *lock(&self.feed.heard) = Heard {
                    came_at: Some(Instant::now()),
                    ..Heard::default()
                };
                self.transact(|db, _| {
                    feed::set_reached(db, &reached)?;
                    // What came before the first tick is read once.
                    feed::all_may_have_news(db)
                })
            }
            Err(Ended::Forked(proof)) => {
                let generation = signer.generation;
                self.transact(|db, _| feed::forked(db, generation, (&proof.0, &proof.1)))
            }
            Err(Ended::Stopped | Ended::TooDear) => Ok(()),
        }
    }

    /// The last tick of the resolution to follow, as relay and service agree on it. A pointer that
    /// has said that a tick is smaller is not believed.
    async fn begin(
        &mut self,
        signer: &Signer,
        mut pointer: FeedPointer,
        affords: (u64, Resolution),
    ) -> Result<Option<Reached>, Ended> {
        let purse = self.feed.purse.clone();
        let now_ms = self.transport.time.now_unix_ms();
        while let Some(at) = affordable(&pointer, affords) {
            if is_future(at.0, at.1, now_ms) || is_overdue(at.0, at.1, now_ms) {
                return Ok(None);
            }
            let shown = match self.transport.tick_of_relay(at, &purse).await {
                Shown::Here(shown) => shown,
                Shown::TooDear => {
                    self.feed.follow_coarser_than(at.0);
                    return Err(Ended::TooDear);
                }
                Shown::Missing | Shown::Silence | Shown::Wrong => return Ok(None),
            };
            let signed = shown.encode();
            let bytes = u32::try_from(signed.len()).unwrap_or(u32::MAX);
            for said in &mut pointer.ticks {
                if said.seconds == at.0.seconds() {
                    said.bytes = said.bytes.max(bytes);
                }
            }
            if affordable(&pointer, affords) != Some(at) {
                continue;
            }
            let Some(tick) = checked(signer, at, &shown) else {
                return Ok(None);
            };
            let is_same = confirm(&mut self.transport, signer, (&tick, &signed), &purse).await?;
            return Ok(is_same.then(|| reached(&tick, signed)));
        }
        Ok(None)
    }

    /// Holds a tick that this client has followed to against another view of it. Whether they
    /// agree; if the service has signed both the feed is not followed any more.
    fn compare(&mut self, signer: &Signer, ours: &Reached, other: &Tick) -> Result<bool, Error> {
        let Place {
            resolution,
            number,
            hash,
            ..
        } = ours.place;
        let Some(tick) = checked(signer, (resolution, number), other) else {
            return Ok(false);
        };
        if tick.hash == hash {
            return Ok(true);
        }
        let other = other.encode();
        self.transact(|db, _| feed::forked(db, signer.generation, (&ours.tick, &other)))?;
        Ok(false)
    }

    /// Holds the last tick against what relay, mirrors and service show.
    ///
    /// # Errors
    /// [`Error::Protocol`]: they do not agree, or one of them does not show it.
    async fn compare_feed(&mut self) -> Result<(), Error> {
        const DIFFERS: Error = Error::Protocol("others are not shown the same activity feed");
        const HIDDEN: Error = Error::Protocol("the activity feed could not be compared");
        self.keep_heard()?;
        let signer = heads::signer(&self.db)?;
        if feed::is_forked(&self.db, signer.generation)? {
            return Err(DIFFERS);
        }
        let Some(ours) = feed::reached(&self.db)? else {
            return Ok(());
        };
        let place = ours.place;
        if place.generation != signer.generation {
            return Ok(());
        }
        let at = (place.resolution, place.number);
        if is_gone(at, self.transport.time.now_unix_ms()) {
            return Ok(());
        }
        let purse = self.feed.purse.clone();
        let Shown::Here(relays) = self.transport.tick_of_relay(at, &purse).await else {
            return Err(HIDDEN);
        };
        let mut views = self.transport.ticks_of_mirrors(at, &purse).await;
        views.push(Some(relays));
        let bytes = ours.tick.len();
        views.push(self.transport.tick_of_service(at, bytes, &purse).await?);
        let (mut agree, mut all) = (true, true);
        for view in views {
            match view {
                Some(view) => agree &= self.compare(&signer, &ours, &view)?,
                None => all = false,
            }
        }
        match (agree, all) {
            (true, true) => Ok(()),
            (true, false) => Err(HIDDEN),
            (false, _) => Err(DIFFERS),
        }
    }

    /// Why others are not shown the same feed, if they are not: nothing else waits for that.
    pub(crate) async fn feed_disagreement(&mut self) -> Result<Option<Arc<Error>>, Error> {
        match self.compare_feed().await {
            Ok(()) => Ok(None),
            Err(error @ Error::Local(_)) => Err(error),
            Err(error) => Ok(Some(Arc::new(error))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::feed::LastTick;

    use super::*;

    fn pointer(bytes: u32) -> FeedPointer {
        FeedPointer {
            generation: 0,
            ticks: Resolution::ALL
                .map(|resolution| LastTick {
                    seconds: resolution.seconds(),
                    number: 7,
                    bytes,
                })
                .to_vec(),
        }
    }

    #[test]
    fn the_finest_resolution_that_fits_is_taken() {
        let fits = |bytes, budget| {
            affordable(&pointer(bytes), (budget, Resolution::Seconds2))
                .map(|(resolution, _)| resolution)
        };
        assert_eq!(fits(120, 1 << 30), Some(Resolution::Seconds2));
        assert_eq!(fits(120, 100 << 20), Some(Resolution::Seconds20));
        assert_eq!(fits(4_000, 100 << 20), Some(Resolution::Minutes2));
        assert_eq!(fits(3 << 20, 100 << 20), Some(Resolution::Day));
        assert_eq!(fits(3 << 20, 10 << 20), None);
        let coarse = affordable(&pointer(120), (1 << 30, Resolution::Minutes2));
        assert_eq!(coarse.unwrap().0, Resolution::Minutes2);
        assert_eq!(
            affordable(
                &FeedPointer {
                    generation: 0,
                    ticks: Vec::new()
                },
                (1, Resolution::Seconds2)
            ),
            None
        );
    }
}
