//! The decisions of the delivery service. Nothing here waits, reads a clock, draws randomness or
//! knows an engine: it is all handed in. A seed repeats a history exactly.
//!
//! A request goes through these rooms, in this order:
//!
//! ```text
//! request     bytes → Unauthenticated<T> → Authenticated<T, Who>
//! operation   one file each: how it is authenticated, what it costs, what it decides
//! table       one line each: the operation of a number
//! view        the rows that were read so far; to ask for another one stops the decision
//! store       Transition: what a decision does, named for its invariant; lowered to a batch
//! execution   the loop as a state machine: read → decide → apply → on conflict again
//! engine      the port: a batch of conditions and writes, atomic and durable
//! ```

pub mod blobs;
#[cfg(feature = "conformance")]
#[allow(clippy::unwrap_used, clippy::panic)]
pub mod conformance;
pub mod engine;
pub mod env;
pub mod execution;
pub mod feed;
#[cfg(test)]
mod fixtures;
pub mod group;
pub mod inbox;
pub mod journal;
pub mod key_packages;
pub mod memory;
pub mod operation;
pub mod refusal;
pub mod request;
pub mod rows;
pub mod store;
pub mod table;
#[cfg(any(test, feature = "conformance"))]
#[allow(clippy::unwrap_used)]
pub mod testing;
pub mod tokens;
pub mod view;
