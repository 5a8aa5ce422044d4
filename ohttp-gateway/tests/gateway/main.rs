//! The gateway between a relay and a delivery service, on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chunked;
mod end_to_end;
mod keys;
mod path;
mod process;
mod shared;
mod support;
