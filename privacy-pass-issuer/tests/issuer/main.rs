//! The issuer from outside: its routes over the memory store, and the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod batches;
mod issuance;
mod known_answers;
mod operation;
mod process;
mod reporting;
mod support;
