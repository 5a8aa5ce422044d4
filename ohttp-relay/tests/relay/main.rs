//! The relay before gateways of all kinds, on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../service/tests/service/certificates.rs"]
mod certificates;

mod faults;
mod nodes;
mod observed;
mod process;
mod relay;
mod slots;
mod streaming;
mod support;
mod tls;
