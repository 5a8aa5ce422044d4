//! A group's journal: heads of its segments, appending, reading.

pub mod append;
pub mod head;
pub mod load;
pub mod read;
mod reader;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests;

pub use self::append::Journal;
pub use self::head::Head;
