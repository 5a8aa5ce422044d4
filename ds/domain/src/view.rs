//! The rows of the store that a decision has seen. A decision that needs a row that was not read
//! yet stops, and is made again when the row is there: so decisions are pure, and name what they
//! read by reading it.

use std::collections::BTreeMap;

use crate::engine::{Found, Key, Range, Read, Row};
use crate::refusal::Stop;

/// Rows that were read, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View {
    found: BTreeMap<Read, Found>,
}

impl View {
    /// Adds the result of a read to the view.
    pub fn add(&mut self, read: Read, found: Found) {
        self.found.insert(read, found);
    }

    /// A row's value.
    ///
    /// # Errors
    /// [`Stop::Need`].
    pub fn row(&self, key: &Key) -> Result<Option<&[u8]>, Stop> {
        let [value] = self.rows([key])?;
        Ok(value)
    }

    /// The values of several rows, read together.
    ///
    /// # Errors
    /// [`Stop::Need`] with all that are not there yet.
    pub fn rows<const N: usize>(&self, keys: [&Key; N]) -> Result<[Option<&[u8]>; N], Stop> {
        self.need(keys.iter().map(|key| Read::Row((*key).clone())))?;
        Ok(
            keys.map(|key| match self.found.get(&Read::Row(key.clone())) {
                Some(Found::Row(value)) => value.as_deref(),
                Some(Found::Range(_)) | None => None,
            }),
        )
    }

    /// As [`View::rows`], for any number of them.
    ///
    /// # Errors
    /// [`Stop::Need`] with all that are not there yet.
    pub fn all(&self, keys: &[Key]) -> Result<Vec<Option<&[u8]>>, Stop> {
        self.need(keys.iter().cloned().map(Read::Row))?;
        keys.iter()
            .map(|key| self.rows([key]).map(|[value]| value))
            .collect()
    }

    /// Ranges of rows, read together.
    ///
    /// # Errors
    /// [`Stop::Need`].
    pub fn ranges(&self, ranges: &[Range]) -> Result<Vec<&[Row]>, Stop> {
        self.need(ranges.iter().cloned().map(Read::Range))?;
        Ok(ranges
            .iter()
            .map(|range| match self.found.get(&Read::Range(range.clone())) {
                Some(Found::Range(rows)) => rows.as_slice(),
                Some(Found::Row(_)) | None => &[],
            })
            .collect())
    }

    fn need(&self, reads: impl Iterator<Item = Read>) -> Result<(), Stop> {
        let missing: Vec<Read> = reads
            .filter(|read| !self.found.contains_key(read))
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Stop::Need(missing))
        }
    }
}
