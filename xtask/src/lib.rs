//! Tasks of this repository: a stack on loopback, the demo, and checks that no compiler makes.
//!
//! A library so that the end-to-end tests use the same [`scan`] and the same [`stack`] as the demo.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for a terminal: it waits in real time and prints for people"
)]

pub mod claims;
pub mod demo;
pub mod deps;
pub mod docs;
mod headings;
pub mod http;
pub mod launch;
mod modules;
pub mod ports;
pub mod scan;
pub mod stack;
mod validation;
pub mod wire;
