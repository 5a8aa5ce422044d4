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
mod waits;

pub use self::server::{Allowed, Server, ServerSettings};
pub use self::table::router;
