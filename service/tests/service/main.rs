//! What every service has in common, on the wire and in files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod certificates;
mod crowds;
mod fixtures;
mod floods;
mod http;
mod support;
mod tls;
