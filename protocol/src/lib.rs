//! The wire protocol of the delivery service: what a client developer reads beside `docs/protocol.md`.
//!
//! Every body is TLS presentation language (RFC 8446 §3) with the variable-length vectors of MLS
//! (`<V>`, RFC 9420 §2.1.2). This crate knows shapes only: it holds no cryptography and does no I/O.

pub mod codec;
pub mod connections;
pub mod delivery;
pub mod directory;
pub mod envelope;
pub mod groups;
pub mod ids;
pub mod key_packages;
pub mod lifetime;
pub mod next;
pub mod operation;
pub mod padding;
pub mod policy;
pub mod problem;
pub mod queues;
pub mod removal;
pub mod reporting;
pub mod time;

pub use codec::{DecodeError, Wire};
pub use operation::Operation;

/// The version that this crate speaks; it stands in every request.
pub const WIRE_VERSION: u16 = 1;

/// Media type of every request body.
pub const REQUEST_MEDIA_TYPE: &str = "application/mimi-ds-request";
/// Media type of every response body but problems and the directory.
pub const RESPONSE_MEDIA_TYPE: &str = "application/mimi-ds-response";
