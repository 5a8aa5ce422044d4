//! The activity feed: which ticks are to be made, and of what.
//!
//! An append leaves a *note* in its own batch, so that no crash and no other node loses it. Whoever
//! makes the next tick takes all notes that are there, announces their segments in it, and deletes
//! them, in one batch on the condition that nobody else has made a tick meanwhile. So there is one
//! chain of ticks, whatever the number of nodes. A note that comes later is in the next tick.
//!
//! A tick leaves its segments for the next coarser one, and so on up to the day.
//!
//! Whoever copies ticks keeps them for ever by resolution and number. So no two generations of a
//! store make the same one: a generation is the time at which a store was put back, and makes no
//! tick that began before.

use std::collections::BTreeMap;

use crypto::feed::{NO_TICK, tick_hash};
use crypto::kdf;
use crypto::schedule::{FeedKey, TagKey};
use crypto::sealing::{self, Place};
use protocol::feed::{FeedTickTbs, MAX_TAGS, Resolution, code};
use protocol::ids::{Day, Digest, TickNumber};
use protocol::{WIRE_VERSION, Wire as _};
use zeroize::Zeroizing;

use crate::engine::{Batch, Condition, Key, Range, Row, Table};
use crate::env::{Env, Version};
use crate::refusal::Stop;
use crate::store::Versioned;

/// Notes that one tick takes at most; the others are in the next one.
pub const NOTES_AT_ONCE: usize = 1 << 16;
/// A note is looked for in the ticks before the last one too, so many: a write that has not ended
/// after two minutes does not end. Rows that were deleted before that are not passed again.
const LATE_TICKS: u64 = 64;

const STATE: &[u8] = b"state";
const DAMAGED: Stop = Stop::Internal("a row of the feed");

/// The key that rows of the feed are sealed under.
fn sealing_key(env: &Env<'_>) -> Zeroizing<[u8; 32]> {
    let storage = env.keys.rows().storage_key();
    Zeroizing::new(kdf::derive(storage.expose(), "rows of the feed", &[]))
}

fn place<'n>(table: &'static str, name: &'n [u8]) -> Place<'n> {
    Place {
        table,
        row: name,
        part: "segments",
    }
}

/// That a segment has gone on, with its tag key of a day.
///
/// # Errors
/// [`Stop::Internal`].
pub fn note(day: Day, key: &TagKey, env: &mut Env<'_>) -> Result<(Key, Vec<u8>), Stop> {
    let tick = Resolution::Seconds2.tick_at(env.now_ms);
    // Random: it says nothing of the segment, and two appends never wait for each other.
    let name = [&tick.0.to_be_bytes()[..], &env.version().0].concat();
    let plain = Zeroizing::new([&day.0.to_be_bytes()[..], key.expose()].concat());
    let salt = env.salt();
    let sealed = sealing::seal_salted(&sealing_key(env), salt, place("feed_notes", &name), &plain)?;
    let key = Key {
        table: Table::FeedNotes,
        day: 0,
        name,
    };
    Ok((key, sealed))
}

/// The feed key of the day of a tick. None of a day before the note's, whose key is gone, nor of
/// days after the next one: a note does not lie for so long.
fn opened(row: &Row, day: Day, env: &Env<'_>) -> Result<Option<FeedKey>, Stop> {
    let (name, sealed) = row;
    let plain = sealing::open(&sealing_key(env), place("feed_notes", name), sealed)?;
    let (of, key) = plain.split_first_chunk::<4>().ok_or(DAMAGED)?;
    let key = TagKey::try_from(key)?;
    let ahead = day.0.checked_sub(u32::from_be_bytes(*of));
    let key = ahead.filter(|days| *days <= 1).map(|days| key.ahead(days));
    Ok(key.map(|key| key.feed_key()))
}

/// The last tick of a resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// Which one.
    pub number: TickNumber,
    pub hash: Digest,
    pub bytes: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Level {
    last: Option<Last>,
    /// The tick that will be made next, if it has begun.
    open: Option<TickNumber>,
}

/// How far the feed has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    levels: [Level; Resolution::ALL.len()],
}

/// A state as it was read. None was there before the first tick.
#[derive(Debug, Clone, Default)]
pub struct StoredState {
    version: Option<Version>,
    pub state: State,
}

impl StoredState {
    /// The key of its row.
    #[must_use]
    pub fn key() -> Key {
        Key {
            table: Table::FeedPeriods,
            day: 0,
            name: STATE.to_vec(),
        }
    }

    /// From the value of that row.
    ///
    /// # Errors
    /// [`Stop::Internal`] for one that is damaged.
    pub fn read(value: Option<&[u8]>) -> Result<Self, Stop> {
        let Some(value) = value else {
            return Ok(Self::default());
        };
        let (version, encoded) = Versioned::read(value).ok_or(DAMAGED)?;
        Ok(Self {
            version: Some(version),
            state: State::decode(encoded).ok_or(DAMAGED)?,
        })
    }
}

/// A level's bytes: whether there is a last tick and an open one, and which.
const LEVEL: usize = 1 + 8 + 32 + 4 + 1 + 8;

impl State {
    /// The last tick of a resolution.
    #[must_use]
    pub fn last(&self, resolution: Resolution) -> Option<Last> {
        self.level(resolution).last
    }

    fn level(&self, resolution: Resolution) -> Level {
        let at = usize::from(resolution as u8).saturating_sub(1);
        self.levels.get(at).copied().unwrap_or_default()
    }

    fn level_mut(&mut self, resolution: Resolution) -> &mut Level {
        let at = usize::from(resolution as u8).saturating_sub(1);
        &mut self.levels[at]
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEVEL * self.levels.len());
        for Level { last, open } in &self.levels {
            let shown = last.unwrap_or(Last {
                number: TickNumber(0),
                hash: NO_TICK,
                bytes: 0,
            });
            out.push(u8::from(last.is_some()));
            out.extend(shown.number.0.to_be_bytes());
            out.extend(shown.hash.0);
            out.extend(shown.bytes.to_be_bytes());
            out.push(u8::from(open.is_some()));
            out.extend(open.unwrap_or_default().0.to_be_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut state = Self::default();
        let (levels, rest) = bytes.as_chunks::<LEVEL>();
        if levels.len() != state.levels.len() || !rest.is_empty() {
            return None;
        }
        for (level, bytes) in state.levels.iter_mut().zip(levels) {
            let (is_there, bytes) = bytes.split_first()?;
            let (number, bytes) = bytes.split_first_chunk::<8>()?;
            let (hash, bytes) = bytes.split_first_chunk::<32>()?;
            let (size, bytes) = bytes.split_first_chunk::<4>()?;
            let (is_open, open) = bytes.split_first()?;
            level.last = (*is_there == 1).then_some(Last {
                number: TickNumber(u64::from_be_bytes(*number)),
                hash: Digest(*hash),
                bytes: u32::from_be_bytes(*size),
            });
            let open = TickNumber(u64::from_be_bytes(open.try_into().ok()?));
            level.open = (*is_open == 1).then_some(open);
        }
        Some(state)
    }

    /// The tick that is to be made now, if one is. Ticks in which no service ran are left out.
    #[must_use]
    pub fn due(&self, now_ms: u64, generation: u64) -> Option<Due> {
        let fine = Resolution::Seconds2;
        let number = TickNumber(fine.tick_at(now_ms).0.checked_sub(1)?);
        let last = self.last(fine).map(|last| last.number);
        let is_made = last.is_some_and(|last| last >= number);
        // Nothing more comes into what has ended by then.
        let until_ms = match last {
            Some(last) if is_made => fine.ends_ms(last),
            _ => fine.begins_ms(number),
        };
        let ended = Resolution::ALL.into_iter().skip(1).find_map(|resolution| {
            let open = self.level(resolution).open?;
            let is_over = resolution.ends_ms(open) <= until_ms;
            is_over.then_some(Due {
                resolution,
                number: open,
            })
        });
        ended.or_else(|| {
            let due = Due {
                resolution: fine,
                number,
            };
            (!is_made && due.is_of(generation)).then_some(due)
        })
    }
}

/// A tick that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// How long it is.
    pub resolution: Resolution,
    /// Which one.
    pub number: TickNumber,
}

/// Begins the names of what a tick of a coarser resolution will have.
fn period(resolution: Resolution, number: TickNumber) -> Vec<u8> {
    [&[resolution as u8][..], &number.0.to_be_bytes()].concat()
}

impl Due {
    /// Whether it began in this generation of the store, so that no other one has made it.
    fn is_of(self, generation: u64) -> bool {
        self.resolution.begins_ms(self.number) >= generation.saturating_mul(1_000)
    }

    /// The rows that it is made of. `after_absence`: also what was left from before the last tick.
    #[must_use]
    pub fn rows(self, state: &State, after_absence: bool) -> Range {
        match self.resolution {
            Resolution::Seconds2 => {
                let last = state.last(self.resolution);
                let from = match last.filter(|_| !after_absence) {
                    Some(last) => last.number.0.saturating_sub(LATE_TICKS),
                    None => 0,
                };
                Range {
                    table: Table::FeedNotes,
                    day: 0,
                    prefix: Vec::new(),
                    from: from.to_be_bytes().to_vec(),
                    limit: NOTES_AT_ONCE,
                    max_bytes: usize::MAX >> 1,
                }
            }
            _ => Range {
                table: Table::FeedPeriods,
                day: 0,
                prefix: period(self.resolution, self.number),
                from: period(self.resolution, self.number),
                limit: 64,
                max_bytes: usize::MAX >> 1,
            },
        }
    }

    /// Makes the tick of these rows. The batch happens unless another tick was made meanwhile. Of
    /// one that began in another generation only the rows are passed on.
    ///
    /// # Errors
    /// [`Stop::Internal`].
    pub fn make(self, stored: StoredState, rows: &[Row], env: &mut Env<'_>) -> Result<Made, Stop> {
        let Self { resolution, number } = self;
        // What was accepted after the end of the tick waits for its own: it may be of another day.
        let of_later = |(name, _): &Row| {
            let tick = name.first_chunk().copied().map_or(0, u64::from_be_bytes);
            resolution == Resolution::Seconds2 && tick > number.0
        };
        let end = rows.partition_point(|row| !of_later(row));
        let rows = rows.get(..end).unwrap_or(rows);
        let StoredState { version, mut state } = stored;
        let day = resolution.day_of(number);
        let mut segments = BTreeMap::new();
        let mut dropped = 0;
        for row in rows {
            match self.segments_in(row, day, env) {
                // A note that is good for no tick any more.
                Ok(found) if found.is_empty() => dropped += 1,
                Ok(found) => {
                    for key in found {
                        segments.insert(*key.expose(), key);
                    }
                }
                // One bad row costs its own hint, and not the feed.
                Err(_) => dropped += 1,
            }
        }
        let mut batch = Batch {
            conditions: vec![match version {
                Some(version) => Condition::Version(StoredState::key(), version.0),
                None => Condition::Absent(StoredState::key()),
            }],
            ..Batch::default()
        };
        let mut announced = 0;
        let level = state.level_mut(resolution);
        level.open = None;
        if self.is_of(env.generation) {
            let tags = segments
                .values()
                .take(MAX_TAGS)
                .map(|key| key.tag(resolution, number))
                .collect();
            let (count, coded) = code(&tags);
            let tick = env.keys.journal_signing().sign_tick(FeedTickTbs {
                version: WIRE_VERSION,
                generation: env.generation,
                resolution,
                number,
                previous: level.last.map_or(NO_TICK, |last| last.hash),
                count,
                coded,
            })?;
            let bytes = tick.encode();
            level.last = Some(Last {
                number,
                hash: tick_hash(&tick),
                bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            });
            batch.puts.push((tick_key(resolution, number), bytes));
            announced = tags.len();
        }
        let range = self.rows(&state, false);
        batch.deletes.extend(rows.iter().map(|(name, _)| Key {
            table: range.table,
            day: 0,
            name: name.clone(),
        }));
        if let Some(coarser) = resolution.coarser() {
            let outer = coarser.tick_at(resolution.begins_ms(number));
            state.level_mut(coarser).open = Some(outer);
            if !segments.is_empty() {
                let name = [&period(coarser, outer)[..], &number.0.to_be_bytes()].concat();
                let salt = env.salt();
                let plain = Zeroizing::new(
                    segments
                        .keys()
                        .take(MAX_TAGS)
                        .flatten()
                        .copied()
                        .collect::<Vec<u8>>(),
                );
                let place = place("feed_periods", &name);
                let sealed = sealing::seal_salted(&sealing_key(env), salt, place, &plain)?;
                let key = Key {
                    table: Table::FeedPeriods,
                    day: 0,
                    name,
                };
                batch.puts.push((key, sealed));
            }
        }
        let next = Versioned {
            version: env.version(),
            sealed: state.encode(),
        };
        batch.puts.push((StoredState::key(), next.into_value()));
        Ok(Made {
            batch,
            announced,
            left_out: segments.len().saturating_sub(MAX_TAGS) + dropped,
        })
    }

    fn segments_in(self, row: &Row, day: Day, env: &Env<'_>) -> Result<Vec<FeedKey>, Stop> {
        if self.resolution == Resolution::Seconds2 {
            return Ok(opened(row, day, env)?.into_iter().collect());
        }
        let (name, sealed) = row;
        let plain = sealing::open(&sealing_key(env), place("feed_periods", name), sealed)?;
        let (keys, rest) = plain.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(DAMAGED);
        }
        Ok(keys.iter().map(|key| FeedKey::new(*key)).collect())
    }
}

/// A tick, before it is written.
#[derive(Debug)]
pub struct Made {
    /// What writes it.
    pub batch: Batch,
    /// Segments that it announces.
    pub announced: usize,
    /// Segments that it should announce and does not.
    pub left_out: usize,
}

/// The row of a tick.
#[must_use]
pub fn tick_key(resolution: Resolution, number: TickNumber) -> Key {
    let day = resolution.day_of(number).0;
    Key {
        table: Table::FeedTicks,
        day: day.saturating_add(resolution.kept_days()),
        name: period(resolution, number),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
