//! What a journal took on one day: for the bounds of its group, and for each user's share of them.
//! One user's flood silences that user, and nobody else.

use crypto::kdf;
use crypto::schedule::DataKey;
use protocol::ids::Day;
use protocol::journal::Class;
use protocol::time::DAY_MS;

use super::reader::Reader;
use crate::env::Limits;
use crate::refusal::Refusal;

/// The part of a bound that one user may use.
const SHARE: u64 = 8;

/// Users that are counted at a time, so that the head has one size whoever writes. With so many,
/// each user's count is too low by a 33rd of the whole at most, and never too high (Misra and
/// Gries, "Finding repeated elements", 1982): nobody is refused for what others wrote.
const COUNTED: usize = 32;

/// What every group may write of handshakes in a day, and so many join records beside that: each
/// has all leaves, and theirs are longer or shorter by the ciphersuite.
const HANDSHAKE_BYTES: u64 = 16 * 1024 * 1024;
const JOIN_RECORDS: u64 = 120;

/// The most that a journal takes of one class in a day.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    bytes: u64,
    entries: u64,
}

impl Bound {
    /// The bound of messages.
    #[must_use]
    pub fn of_messages(limits: &Limits) -> Self {
        Self {
            bytes: limits.group_message_bytes_a_day,
            entries: limits.group_messages_a_day,
        }
    }

    /// The bound of handshakes, with the records that they bring, in a group with a join record of
    /// about this length.
    #[must_use]
    pub fn of_handshakes(limits: &Limits, join_record: usize) -> Self {
        let join_record = u64::try_from(join_record).unwrap_or(u64::MAX);
        let bytes = HANDSHAKE_BYTES.saturating_add(join_record.saturating_mul(JOIN_RECORDS));
        Self {
            bytes: bytes.min(limits.group_handshake_bytes_a_day),
            entries: limits.group_handshakes_a_day,
        }
    }

    /// What an entry uses of a user's share: many short ones are as much as few long ones.
    fn weight(&self, bytes: u64) -> u64 {
        let average = self.bytes.checked_div(self.entries).unwrap_or(self.bytes);
        bytes.max(average).max(1)
    }
}

/// Names a user within one segment. The head's key alone does not tell who wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserTag([u8; 8]);

impl UserTag {
    /// Of a user of a group; of nobody, who comes from outside.
    #[must_use]
    pub fn of(key: &DataKey, user_pseudonym: &[u8]) -> Self {
        Self(kdf::derive(key.expose(), "share of a day", user_pseudonym))
    }
}

/// The rule by which an entry finds room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// While the user and the group have some left.
    Bounded,
    /// While the user has some left: nobody is kept in by what others did.
    OwnShare,
    /// Always: a removal must find room. What came in was bounded, so what goes is bounded too.
    Always,
}

/// What an entry adds.
#[derive(Debug, Clone, Copy)]
pub struct Addition {
    /// The class of the entry.
    pub class: Class,
    /// The user who writes the entry.
    pub user: UserTag,
    /// Bytes of the entry and of the records beside it.
    pub bytes: usize,
    /// The rule by which it finds room.
    pub room: Room,
}

/// Everything that the journal took on one day.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DayLoad {
    day: u32,
    messages: Load,
    handshakes: Load,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Load {
    bytes: u64,
    entries: u64,
    shares: Vec<(UserTag, u64)>,
}

impl DayLoad {
    /// Counts an addition, on the day of its entry.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`] until the next day: senders are pushed back, nothing accepted goes
    /// early.
    pub fn admit(
        &mut self,
        day: Day,
        added: &Addition,
        bound: &Bound,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        if self.day != day.0 {
            *self = Self {
                day: day.0,
                ..Self::default()
            };
        }
        let load = match added.class {
            Class::Message => &mut self.messages,
            Class::Handshake => &mut self.handshakes,
        };
        let bytes = u64::try_from(added.bytes).unwrap_or(u64::MAX);
        let fits = match added.room {
            Room::Bounded => load.fits(bytes, bound) && load.fits_share(added.user, bytes, bound),
            Room::OwnShare => load.fits_share(added.user, bytes, bound),
            Room::Always => true,
        };
        if fits {
            load.add(added.user, bytes, bound);
            return Ok(());
        }
        let next_day = u64::from(day.0).saturating_add(1).saturating_mul(DAY_MS);
        Err(Refusal::Exhausted {
            retry_after_ms: Some(next_day.saturating_sub(now_ms)),
        })
    }

    /// Users by the tags that they have from now on; who has none has gone.
    pub fn rename(&mut self, next: impl Fn(UserTag) -> Option<UserTag>) {
        for load in [&mut self.messages, &mut self.handshakes] {
            load.shares = std::mem::take(&mut load.shares)
                .into_iter()
                .filter_map(|(user, load)| Some((next(user)?, load)))
                .collect();
        }
    }

    /// `day || (bytes || entries || number of users || (tag || weight)…) twice`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            day,
            messages,
            handshakes,
        } = self;
        out.extend(day.to_be_bytes());
        for load in [messages, handshakes] {
            out.extend(load.bytes.to_be_bytes());
            out.extend(load.entries.to_be_bytes());
            out.push(u8::try_from(load.shares.len()).unwrap_or(u8::MAX));
            for (user, weight) in &load.shares {
                out.extend(user.0);
                out.extend(weight.to_be_bytes());
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let day = u32::from_be_bytes(reader.take()?);
        Some(Self {
            day,
            messages: Load::decode(reader)?,
            handshakes: Load::decode(reader)?,
        })
    }
}

impl Load {
    fn fits(&self, bytes: u64, bound: &Bound) -> bool {
        self.entries < bound.entries && self.bytes.saturating_add(bytes) <= bound.bytes
    }

    /// The first entry of a day always fits its user's share.
    fn fits_share(&self, user: UserTag, bytes: u64, bound: &Bound) -> bool {
        let share = self.shares.iter().find(|(of, _)| *of == user);
        share
            .is_none_or(|(_, used)| used.saturating_add(bound.weight(bytes)) <= bound.bytes / SHARE)
    }

    fn add(&mut self, user: UserTag, bytes: u64, bound: &Bound) {
        self.entries = self.entries.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        let weight = bound.weight(bytes);
        if let Some((_, used)) = self.shares.iter_mut().find(|(of, _)| *of == user) {
            *used = used.saturating_add(weight);
            return;
        }
        let mut rest = weight;
        if self.shares.len() >= COUNTED {
            let least = self.shares.iter().map(|(_, used)| *used).min();
            let least = least.unwrap_or_default().min(weight);
            for (_, used) in &mut self.shares {
                *used = used.saturating_sub(least);
            }
            self.shares.retain(|(_, used)| *used > 0);
            rest = weight.saturating_sub(least);
        }
        if rest > 0 {
            self.shares.push((user, rest));
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut load = Self {
            bytes: u64::from_be_bytes(reader.take()?),
            entries: u64::from_be_bytes(reader.take()?),
            shares: Vec::new(),
        };
        let [users] = reader.take()?;
        for _ in 0..users {
            let user = UserTag(reader.take()?);
            load.shares.push((user, u64::from_be_bytes(reader.take()?)));
        }
        Some(load)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DAY: Day = Day(20_000);
    const BOUND: Bound = Bound {
        bytes: 800_000,
        entries: 8_000,
    };

    fn says(user: u16, bytes: usize) -> Addition {
        Addition {
            class: Class::Message,
            user: UserTag::of(&DataKey::new([1; 32]), &user.to_be_bytes()),
            bytes,
            room: Room::Bounded,
        }
    }

    fn admits(load: &mut DayLoad, added: &Addition) -> bool {
        load.admit(DAY, added, &BOUND, 0).is_ok()
    }

    #[test]
    fn one_user_has_an_eighth_and_as_many_others_as_there_are_have_theirs() {
        let mut load = DayLoad::default();
        // A thousand users, each little: nobody is refused for what others write.
        for user in 0..1_000 {
            assert!(admits(&mut load, &says(user, 100)), "{user}");
        }
        let flood = (0..)
            .take_while(|_| admits(&mut load, &says(7, 1_000)))
            .count();
        assert!((90..=125).contains(&flood), "{flood}");
        for user in 1_000..2_000 {
            assert!(admits(&mut load, &says(user, 100)), "{user}");
            assert!(!admits(&mut load, &says(7, 100_000)), "{user}");
        }
        // Many short ones are as much.
        let flood = (0..).take_while(|_| admits(&mut load, &says(8, 1))).count();
        assert!((900..=1_250).contains(&flood), "{flood}");
        // Handshakes have bounds of their own, and another day begins anew.
        let handshake = Addition {
            class: Class::Handshake,
            ..says(7, 1_000)
        };
        assert!(admits(&mut load, &handshake));
        assert!(load.admit(Day(20_001), &says(7, 1_000), &BOUND, 0).is_ok());
    }

    #[test]
    fn it_is_read_as_it_was_written_and_has_one_size_at_most() {
        let mut load = DayLoad::default();
        for user in 0..500 {
            admits(&mut load, &says(user, usize::from(user)));
            let mut bytes = Vec::new();
            load.encode(&mut bytes);
            assert!(bytes.len() <= 4 + 2 * 17 + 32 * 16);
            let mut reader = Reader(&bytes);
            assert_eq!(DayLoad::decode(&mut reader).unwrap(), load);
            assert!(reader.0.is_empty());
        }
    }
}
