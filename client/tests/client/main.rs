//! The SDK against the decisions of the service, in one process.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod absence;
mod attachments;
mod catch_up;
mod feed;
mod game;
mod history;
mod identifiers;
mod journals;
mod lies;
mod messages;
mod post_quantum;
mod prices;
mod profiles;
mod sizes;
mod slots;
mod state;
mod support;
mod take_along;
