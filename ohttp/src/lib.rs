//! Oblivious HTTP (RFC 9458) with whole messages and in chunks (draft-ietf-ohai-chunked-ohttp-08),
//! and what is inside of both. Nothing here does I/O.
//!
//! | | client | gateway |
//! |---|---|---|
//! | a message | [`whole::seal`] | [`whole::open`] |
//! | its answer | [`whole::ResponseOpener`] | [`whole::ResponseSealer`] |
//! | a request in chunks | [`chunked::RequestEncoder`] | [`chunked::RequestDecoder`] |
//! | a response in chunks | [`chunked::ResponseDecoder`] | [`chunked::ResponseEncoder`] |
//! | key configurations | [`configs::usable`] | [`configs::list`] |
//! | one of them | [`PublicKey::of_config`] | [`Key::config`] |
//! | inside | the `bhttp` crate | [`binary_http`] |

pub mod binary_http;
pub mod chunked;
pub mod configs;
mod engine;
mod error;
mod kem;
mod keys;
#[cfg(test)]
mod known_answers;
mod response_key;
mod session;
mod suite;
mod varint;
pub mod whole;

pub use error::{KeyError, OpenError, SealError};
pub use keys::{Key, Keys, MIN_SEED_LEN, PublicKey};
pub use suite::{Aead, HEADER_LEN, Header, Kem};
