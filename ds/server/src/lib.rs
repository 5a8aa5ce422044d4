//! The delivery service: routes to the operations, one loop that carries them out, and the life
//! of the process.
//!
//! What is decided stands in `ds-domain`; this crate reads and applies for it, charges allowances,
//! verifies tokens, wakes long polls and answers.

mod agreed_clock;
mod blob_room;
mod blobs;
mod chance;
mod charges;
pub mod config;
mod departures;
mod directory;
mod error;
mod execute;
mod feed;
mod follow;
pub mod foundation;
mod init;
mod issuer_directory;
mod journal;
pub mod limits;
mod load;
mod looks;
mod news;
mod problem;
mod push;
mod routes;
mod run;
mod server;
mod streams;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
pub mod tokens;
mod waits;

pub use self::blob_room::{BlobLimits, Blobs};
pub use self::init::init;
pub use self::limits::StreamSettings;
pub use self::routes::router;
pub use self::run::{RunError, command, run};
pub use self::server::{Allowed, Server, ServerSettings};
