//! A group's journal: heads of its segments, appending, reading.

pub mod append;
pub mod head;
pub mod read;

pub use self::append::Journal;
pub use self::head::Head;
