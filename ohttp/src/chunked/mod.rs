//! Chunked Oblivious HTTP (draft-ietf-ohai-chunked-ohttp-08): requests and responses that are
//! sealed chunk by chunk, so that one request can have a live stream of answers.
//!
//! Encoders append bytes to send, decoders are pushed bytes in whatever pieces they arrive and
//! append what they opened. What holds for every decoder:
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

mod framing;
mod request;
mod response;

pub use framing::{MAX_CHUNK_LEN, MAX_MESSAGE_LEN, MAX_REQUEST_CHUNKS};
pub use request::{OpenedRequest, RequestDecoder, RequestEncoder};
pub use response::{ResponseDecoder, ResponseEncoder};

/// The media type of an encapsulated request.
pub const REQUEST: &str = "message/ohttp-chunked-req";
/// The media type of an encapsulated response.
pub const RESPONSE: &str = "message/ohttp-chunked-res";
