//! Blobs: rows say which ones there are, of how many chunks, whose and until when. The chunks lie
//! outside the engine; whoever drives a decision reads and writes them.

mod chunks;
mod create;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests;

use protocol::blobs::BlobName;
use protocol::ids::Day;
use protocol::problem::ProblemType;

pub use self::chunks::{BlobRequest, Task};
pub use self::create::CreateBlob;
use crate::engine::{Batch, Key, Range, Table};
use crate::env::Env;
use crate::execution;
use crate::refusal::Stop;
use crate::rows::{BlobRow, Owner, Rows};
use crate::store::{CompleteBlob, DeleteBlob, Transition};
use crate::view::View;

const FORMAT: u8 = 1;

/// Days after today on which a blob can still be written.
const MAKING_DAYS: u32 = 1;

/// Longest row of a blob, bytes.
const ROW_LEN: usize = 1 + 16 + 2 + 4;

/// Where the chunks of a blob lie: nothing of it is known but to whoever has the blob's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// The last day on which they are kept.
    pub last_day: Day,
    /// The name of the blob's row.
    pub row: [u8; 16],
}

impl Location {
    /// Where the chunks of the blob with this row lie that is kept until this day.
    #[must_use]
    pub fn on(last_day: u32, row: [u8; 16]) -> Self {
        Self {
            last_day: Day(last_day),
            row,
        }
    }
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Location({})", self.last_day.0)
    }
}

/// What is kept of a blob: a keyed digest and two numbers that its chunks show anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) writer: Owner,
    pub(crate) chunks: u16,
    pub(crate) last_day: Day,
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(ROW_LEN);
        row.push(FORMAT);
        row.extend(self.writer.0);
        row.extend(self.chunks.to_be_bytes());
        row.extend(self.last_day.0.to_be_bytes());
        row
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let (&[FORMAT], rest) = row.split_first_chunk()? else {
            return None;
        };
        let (writer, rest) = rest.split_first_chunk()?;
        let (chunks, rest) = rest.split_first_chunk()?;
        let last_day = rest.try_into().ok()?;
        Some(Self {
            writer: Owner(*writer),
            chunks: u16::from_be_bytes(*chunks),
            last_day: Day(u32::from_be_bytes(last_day)),
        })
    }
}

/// A blob that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    row: BlobRow,
    record: Record,
    /// Until when it can be written; none if it is whole.
    making: Option<Day>,
}

impl Blob {
    /// The blob with this name that has not expired. [`ProblemType::UnknownBlob`].
    fn read(name: &BlobName, view: &View, env: &Env<'_>) -> Result<Self, Stop> {
        let (row, today) = (env.rows().blob(&name.id), env.today());
        if name.last_day < today {
            return Err(ProblemType::UnknownBlob.into());
        }
        let days = making_days(today);
        let keys = [
            row.key(name.last_day),
            row.making(days[0]),
            row.making(days[1]),
        ];
        let found = view.all(&keys)?;
        let making = [None, Some(days[0]), Some(days[1])];
        for (found, making) in found.into_iter().zip(making) {
            let Some(found) = found else { continue };
            let record = Record::decode(found).ok_or(Stop::Internal("row of a blob"))?;
            if record.last_day == name.last_day {
                return Ok(Self {
                    row,
                    record,
                    making,
                });
            }
        }
        Err(ProblemType::UnknownBlob.into())
    }

    /// How many chunks it has.
    #[must_use]
    pub fn chunks(&self) -> u16 {
        self.record.chunks
    }

    /// Whether all of them are there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.making.is_none()
    }

    /// Where its chunks lie.
    #[must_use]
    pub fn location(&self) -> Location {
        Location {
            last_day: self.record.last_day,
            row: self.row.name(),
        }
    }

    fn key(&self) -> Key {
        match self.making {
            Some(day) => self.row.making(day),
            None => self.row.key(self.record.last_day),
        }
    }

    /// Makes it whole, once its chunks are there: nothing of it is written any more. A condition
    /// that does not hold says that somebody else was first.
    #[must_use]
    pub fn completion(&self, rows: &Rows<'_>) -> Batch {
        let complete = CompleteBlob {
            making: self.key(),
            whole: self.row.key(self.record.last_day),
            record: self.record.encode(),
        };
        execution::unpaid(Transition::CompleteBlob(complete), rows)
    }

    /// Its row is gone; its chunks are deleted after that.
    #[must_use]
    pub fn deletion(&self, rows: &Rows<'_>) -> Batch {
        let delete = DeleteBlob { row: self.key() };
        execution::unpaid(Transition::DeleteBlob(delete), rows)
    }
}

/// The days on which a blob can be filed that is being written.
fn making_days(today: Day) -> [Day; 2] {
    [today, Day(today.0.saturating_add(MAKING_DAYS))]
}

/// Takes a blob back that is being written until the end of this day: of which nothing has come.
#[must_use]
pub fn given_up(day: u32, of: &Location, rows: &Rows<'_>) -> Batch {
    let row = Key {
        table: Table::BlobsInMaking,
        day,
        name: of.row.to_vec(),
    };
    execution::unpaid(Transition::DeleteBlob(DeleteBlob { row }), rows)
}

/// Rows of a table on one day, for whoever counts them or deletes what is unfinished.
#[must_use]
pub fn rows_on(table: Table, day: u32, after: &[u8], limit: usize) -> Range {
    let mut from = after.to_vec();
    if !from.is_empty() {
        from.push(0);
    }
    Range {
        table,
        day,
        prefix: Vec::new(),
        from,
        limit,
        max_bytes: usize::MAX,
    }
}

/// What a row of [`rows_on`] is of: where the chunks lie, and how many there are.
#[must_use]
pub fn counted(name: &[u8], value: &[u8]) -> Option<(Location, u16)> {
    let record = Record::decode(value)?;
    let location = Location {
        last_day: record.last_day,
        row: name.try_into().ok()?,
    };
    Some((location, record.chunks))
}
