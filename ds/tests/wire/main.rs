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
mod crash_points;
mod creation_refusals;
mod endings;
mod envelope;
mod external_joins;
mod formats;
mod good_path;
mod handles;
mod histories;
mod join_codes;
mod key_packages;
mod leaving;
mod levels;
mod limits;
mod listener;
mod members;
mod message_refusals;
mod nodes;
mod other_implementation;
mod outsiders;
mod places;
mod queues;
mod random_histories;
mod recovery;
mod redemption;
mod results;
mod roles;
mod service_removals;
mod suites;
mod users_and_clients;
