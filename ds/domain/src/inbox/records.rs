//! Handles and inboxes as they are stored: sealed under keys of the service, found by PRFs of what
//! only their owners and those who know the handle say.

use crypto::kdf;
use crypto::sealing::{self, Place};
use protocol::ids::{Day, InboxId, Week};
use protocol::inbox::INBOX_CAPACITY;
use zeroize::Zeroizing;

use crate::env::{Env, Version};
use crate::refusal::Stop;
use crate::rows::{HandleRow, InboxRow, Owner};
use crate::store::Versioned;
use crate::view::View;

const FORMAT: u8 = 1;

/// A handle.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) owner: Owner,
    pub(super) inbox: InboxId,
    pub(super) expiry: Week,
    pub(super) record: Vec<u8>,
}

const DAMAGED: Stop = Stop::Internal("record of a handle or inbox");

fn key(env: &Env<'_>, purpose: &str) -> Zeroizing<[u8; 32]> {
    let storage = env.keys.rows().storage_key();
    Zeroizing::new(kdf::derive(storage.expose(), purpose, &[]))
}

fn handle_place(handle: &[u8]) -> Place<'_> {
    Place {
        table: "handles",
        row: handle,
        part: "record",
    }
}

fn inbox_place(inbox: &InboxId) -> Place<'_> {
    Place {
        table: "inboxes",
        row: &inbox.0,
        part: "record",
    }
}

fn sealed(
    key: &[u8; 32],
    place: Place<'_>,
    plain: &[u8],
    env: &mut Env<'_>,
) -> Result<Versioned, Stop> {
    let salt = env.salt();
    Ok(Versioned {
        sealed: sealing::seal_salted(key, salt, place, plain)?,
        version: env.version(),
    })
}

impl Handle {
    /// The handle as it is registered, also when it has expired.
    pub(super) fn read(
        view: &View,
        row: HandleRow,
        handle: &[u8],
        env: &Env<'_>,
    ) -> Result<Option<(Version, Self)>, Stop> {
        let Some(value) = view.row(&row.key())? else {
            return Ok(None);
        };
        let (version, sealed) = Versioned::read(value).ok_or(DAMAGED)?;
        let plain = sealing::open(&key(env, "handles"), handle_place(handle), sealed)?;
        Ok(Some((version, Self::decode(&plain).ok_or(DAMAGED)?)))
    }

    pub(super) fn seal(&self, handle: &[u8], env: &mut Env<'_>) -> Result<Versioned, Stop> {
        let mut plain = Zeroizing::new(vec![FORMAT]);
        plain.extend(self.owner.0);
        plain.extend(self.inbox.0);
        plain.extend(self.expiry.0.to_be_bytes());
        plain.extend(&self.record);
        sealed(&key(env, "handles"), handle_place(handle), &plain, env)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[FORMAT], rest) = bytes.split_first_chunk()? else {
            return None;
        };
        let (owner, rest) = rest.split_first_chunk()?;
        let (inbox, rest) = rest.split_first_chunk()?;
        let (expiry, record) = rest.split_first_chunk()?;
        Some(Self {
            owner: Owner(*owner),
            inbox: InboxId(*inbox),
            expiry: Week(u16::from_be_bytes(*expiry)),
            record: record.to_vec(),
        })
    }
}

/// An inbox: who reads it, and how many requests expire on which day.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    pub(super) owner: Owner,
    fill: Vec<(Day, u16)>,
}

impl Inbox {
    pub(super) fn new(owner: Owner) -> Self {
        Self {
            owner,
            fill: Vec::new(),
        }
    }

    /// The inbox as of today.
    pub(super) fn read(
        view: &View,
        row: InboxRow,
        id: &InboxId,
        env: &Env<'_>,
    ) -> Result<Option<(Version, Self)>, Stop> {
        let Some(value) = view.row(&row.key())? else {
            return Ok(None);
        };
        let (version, sealed) = Versioned::read(value).ok_or(DAMAGED)?;
        let plain = sealing::open(&key(env, "inboxes"), inbox_place(id), sealed)?;
        let mut inbox = Self::decode(&plain).ok_or(DAMAGED)?;
        let today = env.today();
        inbox.fill.retain(|(last_day, _)| *last_day >= today);
        Ok(Some((version, inbox)))
    }

    pub(super) fn seal(&self, id: &InboxId, env: &mut Env<'_>) -> Result<Versioned, Stop> {
        let mut plain = Zeroizing::new(vec![FORMAT]);
        plain.extend(self.owner.0);
        for (day, count) in &self.fill {
            plain.extend(day.0.to_be_bytes());
            plain.extend(count.to_be_bytes());
        }
        sealed(&key(env, "inboxes"), inbox_place(id), &plain, env)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[FORMAT], rest) = bytes.split_first_chunk()? else {
            return None;
        };
        let (owner, mut rest) = rest.split_first_chunk()?;
        let mut fill = Vec::new();
        while let Some((day, counts)) = rest.split_first_chunk() {
            let (count, after) = counts.split_first_chunk()?;
            fill.push((Day(u32::from_be_bytes(*day)), u16::from_be_bytes(*count)));
            rest = after;
        }
        rest.is_empty().then_some(Self {
            owner: Owner(*owner),
            fill,
        })
    }

    /// How many requests it holds.
    pub(super) fn len(&self) -> usize {
        self.fill.iter().map(|(_, count)| usize::from(*count)).sum()
    }

    pub(super) fn add(&mut self, last_day: Day) {
        match self.fill.iter_mut().find(|(day, _)| *day == last_day) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.fill.push((last_day, 1)),
        }
    }

    pub(super) fn remove(&mut self, last_day: Day) {
        for (day, count) in &mut self.fill {
            if *day == last_day {
                *count = count.saturating_sub(1);
            }
        }
        self.fill.retain(|(_, count)| *count > 0);
    }

    /// Days on which requests expire.
    pub(super) fn days(&self) -> impl Iterator<Item = Day> + '_ {
        self.fill.iter().map(|(day, _)| *day)
    }

    /// What a request costs now: it doubles with each quarter that is full.
    pub(super) fn price(&self, base: u8) -> u8 {
        let quarters = self.len().saturating_mul(4) / INBOX_CAPACITY;
        let factor = 1u8 << quarters.min(3);
        base.saturating_mul(factor)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::testing::Service;

    #[test]
    fn a_handle_and_its_inbox_are_read_as_they_were_written() {
        let mut service = Service::new(1);
        let (mut env, _) = service.env();
        let handle = Handle {
            owner: Owner([1; 16]),
            inbox: InboxId([2; 32]),
            expiry: Week(3),
            record: vec![4; 5],
        };
        let sealed = handle.seal(b"alice", &mut env).unwrap();
        fixtures::check("handle", &sealed.clone().into_value());
        let plain = sealing::open(
            &key(&env, "handles"),
            handle_place(b"alice"),
            &sealed.sealed,
        );
        let read = Handle::decode(&plain.unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{handle:?}"));

        let inbox = Inbox {
            owner: Owner([6; 16]),
            fill: vec![(Day(7), 8), (Day(9), 10)],
        };
        let id = InboxId([2; 32]);
        let sealed = inbox.seal(&id, &mut env).unwrap();
        fixtures::check("inbox", &sealed.clone().into_value());
        let plain = sealing::open(&key(&env, "inboxes"), inbox_place(&id), &sealed.sealed);
        let read = Inbox::decode(&plain.unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{inbox:?}"));
    }
}
