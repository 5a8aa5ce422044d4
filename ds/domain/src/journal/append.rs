//! Appending: entries get the next positions, their day, their seal and their place in the chain.

use crypto::journal::{End, next_head, row_hash, seal_entry};
use crypto::schedule::JournalKey;
use protocol::ids::Position;
use protocol::journal::{Class, EntryContent, Event, Place};
use protocol::problem::ProblemType;

use super::head::{Head, StoredHead, shelf};
use crate::env::{Env, Version};
use crate::feed;
use crate::refusal::Stop;
use crate::rows::SegmentRow;
use crate::store::{Appended, NewEntry, NewHead, NextHead, Stretch, class_byte};

/// A segment that is appended to in one transition.
#[derive(Debug)]
pub struct Journal {
    row: SegmentRow,
    /// None for a segment that begins.
    expected: Option<Version>,
    head: Head,
    entries: Vec<NewEntry>,
}

impl Journal {
    /// A segment that goes on.
    #[must_use]
    pub fn of(stored: StoredHead) -> Self {
        Self {
            row: stored.row,
            expected: Some(stored.version),
            head: stored.head,
            entries: Vec::new(),
        }
    }

    /// A segment that begins.
    #[must_use]
    pub fn begin(head: Head, env: &Env<'_>) -> Self {
        Self {
            row: env.rows().segment(&head.segment),
            expected: None,
            head,
            entries: Vec::new(),
        }
    }

    /// The segment's head after the appended entries.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Like [`Journal::head`], for the fields that a commit changes: read buckets, tag day, load.
    pub fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    /// The name of the segment's row.
    #[must_use]
    pub fn row(&self) -> SegmentRow {
        self.row
    }

    /// Appends an entry, sealed under the entry key of the head's step. A commit counts as a step
    /// after that.
    ///
    /// # Errors
    /// [`ProblemType::Conflict`] where the segment is closed: the group has gone on.
    /// [`Stop::Internal`].
    pub fn append(
        &mut self,
        key: &JournalKey,
        event: Event,
        env: &mut Env<'_>,
    ) -> Result<Place, Stop> {
        if self.head.closed {
            return Err(ProblemType::Conflict.into());
        }
        let is_commit = matches!(event, Event::Commit(_));
        let class = event.class();
        let content = EntryContent {
            accepted_ms: env.now_ms,
            event,
        };
        let salt = env.salt();
        let sealed = seal_entry(key, salt, &self.head.segment, self.head.step, &content)?;
        let day = self.head.day_of_next(env.today());
        self.head.begin_day(day);
        let position = self.head.next;
        let hash = row_hash(&sealed);
        self.head.chain = next_head(&self.head.chain, position, class, &hash);
        self.head.next = Position(position.0.saturating_add(1));
        if is_commit {
            self.head.step = self.head.step.next();
        }
        let class_first = class_byte(class);
        let entry = match class {
            Class::Handshake => NewEntry {
                segment: self.row,
                position,
                day,
                handshake: [&[class_first], sealed.as_slice()].concat(),
                message: None,
                kept: self.head.kept,
            },
            Class::Message => NewEntry {
                segment: self.row,
                position,
                day,
                handshake: [&[class_first], hash.0.as_slice()].concat(),
                message: Some(sealed),
                kept: self.head.kept,
            },
        };
        self.entries.push(entry);
        Ok(Place {
            rotation_epoch: self.head.rotation_epoch,
            position,
        })
    }

    /// What this appends to the segment, for whoever follows it.
    #[must_use]
    pub fn appended(&self, env: &Env<'_>) -> Appended {
        let Head {
            segment,
            next,
            step,
            chain,
            closed,
            read_buckets,
            ..
        } = &self.head;
        let bytes: usize = self.entries.iter().map(NewEntry::len).sum();
        let first = self.entries.first().map(|entry| entry.position);
        let is_short = bytes <= Stretch::MOST_BYTES;
        let stretch = first.filter(|_| is_short).map(|first| Stretch {
            segment: *segment,
            end: End {
                generation: env.generation,
                next: *next,
                chain: *chain,
            },
            step: *step,
            closed: *closed,
            first,
            entries: self.entries.iter().map(NewEntry::shown).collect(),
            frame_len: read_buckets.frame_len(),
        });
        Appended {
            segment: self.row,
            stretch,
        }
    }

    /// Closes the segment: no entry follows the last one.
    pub fn close(&mut self) {
        self.head.closed = true;
    }

    /// The head and the entries for a transition in which the segment goes on.
    ///
    /// # Errors
    /// [`Stop::Internal`] for one that begins.
    pub fn into_next(self, env: &mut Env<'_>) -> Result<(NextHead, Vec<NewEntry>), Stop> {
        let expected = self
            .expected
            .ok_or(Stop::Internal("a segment that begins does not go on"))?;
        let last_day = self.head.days.last();
        let last_day = last_day.map(|(day, _)| shelf(self.head.kept.handshake(*day)));
        let note = match self.entries.is_empty() {
            true => None,
            false => Some(feed::note(self.head.tag_day, &self.head.tag_key, env)?),
        };
        let head = NextHead {
            segment: self.row,
            expected,
            head: self.head.seal(env)?,
            closed_until: last_day.filter(|_| self.head.closed),
            note,
        };
        Ok((head, self.entries))
    }

    /// The head and the entries for a transition in which the segment begins.
    ///
    /// # Errors
    /// [`Stop::Internal`].
    pub fn into_new(self, env: &mut Env<'_>) -> Result<(NewHead, Vec<NewEntry>), Stop> {
        let head = NewHead {
            segment: self.row,
            head: self.head.seal(env)?,
        };
        Ok((head, self.entries))
    }
}
