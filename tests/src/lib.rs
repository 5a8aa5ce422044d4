//! What the end-to-end tests stand on: a stack of real processes and real clients.
//!
//! [`Stack`] runs `xtask stack` in a temporary directory, on ports of its own. Clients are either
//! `mimimi` processes ([`User`]) or the SDK in this process ([`device`]), where faults are to be
//! injected. Programs are looked for beside the test executable, where `make programs` puts them,
//! or in `MIMIMI_BIN_DIR`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "part of the tests: whatever is not as it must be ends the test, in real time"
)]

mod allowed;
mod broken_disk;
mod device;
mod false_group;
mod faults;
mod liar;
pub mod lies;
mod load;
pub mod month;
mod moved_clock;
mod node;
mod raw;
pub mod record;
mod requests;
mod screen;
mod secrets;
mod solo;
mod stack;
mod tap;
mod user;

pub use allowed::{check_log, check_metrics};
pub use broken_disk::{Breaks, BrokenDisk};
pub use device::{
    Said, at_once, befriend, blank, compares, database, device, device_with, devices, eager,
    events, group_with, link, messages, patient, reads, requests_of, settle, some_minutes_later,
    talks, usage,
};
pub use false_group::{FalseGroup, added_by, context_of};
pub use faults::{Fault, FaultyWay, Leg, Tally};
pub use liar::{Asked, Heard, Liar, Told};
pub use load::{Load, MUCH, Outcome};
pub use moved_clock::MovedClocks;
pub use node::Node;
pub use raw::{Answer, Envelope, Outer, asked_into, recovery_row_of};
pub use requests::{now_ms, reservation, signed_by_anybody};
pub use screen::Screen;
pub use secrets::{account_of, reporting_secrets_of, secrets_of};
pub use solo::{Kind, Solo, copy_over, issuer_table};
pub use stack::{Paused, Stack, free_address, program};
pub use tap::Tap;
pub use user::{Failure, User};
pub use xtask::stack::{LogLevel, Service, StoreEngine};

/// Whether this is `make soak`: a test that draws a sample elsewhere tries everything.
#[must_use]
pub fn thorough() -> bool {
    std::env::var_os("THOROUGH").is_some()
}
