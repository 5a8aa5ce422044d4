//! Every process real, on loopback: each module is about one promise, or one who breaks promises.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[path = "../../../service/tests/service/certificates.rs"]
mod certificates;

mod abuse;
mod access;
mod attachments;
mod backups;
mod bans;
mod chat;
mod clocks;
mod command_line;
mod consent;
mod copies;
mod damage;
mod devices;
mod errors;
mod faults;
mod feed;
mod groups;
mod guide;
mod histories;
mod home;
mod issuer;
mod key_consistency;
mod lying_answers;
mod lying_journals;
mod lying_outside;
mod lying_service;
mod messages;
mod observed;
mod other_clients;
mod pools;
mod push;
mod refusals;
mod rollback;
mod samples;
mod scene;
mod sdk;
mod slots;
mod soak;
mod storm;
mod strangers;
mod streams;
mod tokens;
mod traces;
mod unlinkability;
mod views;
mod wallet;
mod whole_path;
