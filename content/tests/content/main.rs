//! The format, held against the drafts' own examples, random messages and random damage.
#![allow(clippy::unwrap_used, clippy::panic)]

mod damage;
mod draft;
mod generated;
mod vectors;
