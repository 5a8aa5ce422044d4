//! The delivery service on the wire: real MLS clients, real bytes, every engine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]
#![allow(unreachable_pub)]

mod support;

mod commit_refusals;
mod creation_refusals;
mod envelope;
mod good_path;
mod handles;
mod histories;
mod key_packages;
mod limits;
mod listener;
mod message_refusals;
mod nodes;
mod queues;
mod recovery;
mod redemption;
mod results;
