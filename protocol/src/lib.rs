//! The wire protocol of the delivery service: what a client developer reads beside
//! `docs/protocol.md`.
//!
//! Every body is TLS presentation language (RFC 8446 §3) with the variable-length vectors of MLS
//! (`<V>`, RFC 9420 §2.1.2). This crate knows shapes only: it holds no cryptography and does no
//! I/O.

pub mod blobs;
pub mod codec;
pub mod connections;
pub mod directory;
pub mod feed;
pub mod follow;
pub mod group;
pub mod ids;
pub mod inbox;
pub mod join;
pub mod journal;
pub mod key_packages;
pub mod keys;
pub mod lifetime;
pub mod operation;
pub mod padding;
pub mod policy;
pub mod problem;
pub mod push;
pub mod removal;
pub mod reporting;
pub mod request;
pub mod time;
pub mod welcome;

pub use codec::{DecodeError, Wire};
pub use operation::Operation;

/// The version that this crate speaks. Every request carries it.
pub const WIRE_VERSION: u16 = 1;

/// Media type of every request body.
pub const REQUEST_MEDIA_TYPE: &str = "application/mimi-ds-request";
/// Media type of every response body but problems and the directory.
pub const RESPONSE_MEDIA_TYPE: &str = "application/mimi-ds-response";
