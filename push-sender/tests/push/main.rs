//! The push sender from outside: the real binary, and push services of our own that look at all
//! that it sends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apns;
#[path = "../../../service/tests/service/certificates.rs"]
mod certificates;
mod fcm;
mod process;
mod support;
mod tls;
mod web_push;
mod webhook;
