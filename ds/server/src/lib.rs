//! The delivery service's HTTP: one table of operations, one loop that carries them out.
//!
//! What is decided stands in `ds-domain`; this crate reads and applies for it, charges allowances,
//! verifies tokens, wakes long polls and answers.

mod charges;
mod execute;
mod journal;
mod problem;
mod server;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
mod waits;

pub use self::server::{Allowed, Server, ServerSettings};
pub use self::table::router;
