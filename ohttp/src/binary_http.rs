//! Binary HTTP (RFC 9292), read strictly and in whatever pieces it comes.
//!
//! The end of a message is what the encapsulation around it says: [`Decoder::finish`] is to be
//! called only once that has ended properly.

mod decode;
mod encode;

use http::{HeaderMap, Method, StatusCode};

pub use decode::{Decoder, Head, Limits, Malformed, Message};
pub use encode::{content, end, request_head, response, response_head};

/// The head of a request: everything before its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    pub method: Method,
    pub scheme: String,
    pub authority: String,
    /// With its query. Printable, otherwise unchecked.
    pub path: String,
    pub fields: HeaderMap,
}

/// The head of a response: everything before its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub fields: HeaderMap,
}

#[cfg(test)]
mod tests;
