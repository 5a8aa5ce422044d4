//! Chunked Oblivious HTTP (draft-ietf-ohai-chunked-ohttp-08): requests and responses that are
//! sealed chunk by chunk, so that one request can have a live stream of answers.
//!
//! Nothing here does I/O: encoders append bytes to send, decoders are pushed bytes in whatever
//! pieces they arrive and append what they opened.
//!
//! | | client | gateway |
//! |---|---|---|
//! | request | [`RequestEncoder`] | [`RequestDecoder`] |
//! | response | [`ResponseDecoder`] | [`ResponseEncoder`] |
//! | inside of both | [`binary_http`] | [`binary_http`] |
//!
//! What holds for every decoder:
//!
//! * What it appends has been authenticated, in its place in the sequence.
//! * `finish` is told that the outer stream has ended, and succeeds only if that was the final
//!   chunk. Without it a message is truncated, whatever was opened before.
//! * A chunk's length is checked before anything is kept for it. How the input was split changes
//!   neither what comes out nor the error.
//! * After an error it returns the same error for ever.
//!
//! A response can be encoded only once the request has ended, and decoded only once it was sent. So
//! no exchange is interactive, and the gateway cannot measure how far away a client is (§7.2 of the
//! draft).

pub mod binary_http;
mod error;
mod framing;
mod keys;
#[cfg(test)]
mod known_answers;
mod request;
mod response;
mod suite;
mod varint;

pub use error::{KeyError, OpenError, SealError};
pub use framing::{MAX_CHUNK_LEN, MAX_MESSAGE_LEN, MAX_REQUEST_CHUNKS};
pub use keys::{Encapsulation, GatewayKey, GatewayPublicKey, Keys, MIN_SEED_LEN};
pub use request::{OpenedRequest, RequestDecoder, RequestEncoder};
pub use response::{ResponseDecoder, ResponseEncoder};
pub use suite::{Aead, HEADER_LEN, Header, HpkeContext, Kem, REQUEST_LABEL, hpke};

/// The media type of an encapsulated request.
pub const CHUNKED_REQ: &str = "message/ohttp-chunked-req";
/// The media type of an encapsulated response.
pub const CHUNKED_RES: &str = "message/ohttp-chunked-res";
