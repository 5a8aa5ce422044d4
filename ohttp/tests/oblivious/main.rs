//! Oblivious HTTP in chunks, against other software and against whoever is in the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod other_implementation;
mod properties;
