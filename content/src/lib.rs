//! What messages say: the MIMI content format (draft-ietf-mimi-content-08), and reports of what
//! became of messages (draft-mahy-mimi-message-status).
//!
//! Reading is strict. There is one encoding of each message (RFC 8949 §4.2.1), and another one is
//! refused, as is what follows the end, what is nested too deep and what is too long. Nothing is
//! allocated for lengths that are only announced. What is not known survives: dispositions, media
//! types, statuses and extensions come out as they went in.
//!
//! Nothing is drawn or looked up here: salts, senders and rooms are handed in.

mod cbor;
mod error;
mod extensions;
mod id;
mod markdown;
mod message;
mod part;
mod status;

pub use error::ContentError;
pub use extensions::{Extensions, Key, MAX_EXTENSIONS, MAX_VALUE};
pub use id::MessageId;
pub use markdown::{Link, link, links, without_html};
pub use message::{Expiration, MimiContent, SENSIBLE_S};
pub use part::{Disposition, ExternalPart, NestedPart, Part, Semantics};
pub use status::{MAX_STATUSES, STATUS_TYPE, Status, decode_report, encode_report};

/// Of an encoded message, in bytes.
pub const MAX_LEN: usize = 256 * 1024;
/// Levels of parts, and of tags, maps and arrays in extensions.
pub const MAX_DEPTH: usize = 4;
/// Of one message.
pub const MAX_PARTS: usize = 1024;
/// In bytes.
pub const MAX_TOPIC: usize = 4096;

/// Media type of a message.
pub const CONTENT_TYPE: &str = "application/mimi-content";
/// Media type of plain text.
pub const TEXT_TYPE: &str = "text/plain;charset=utf-8";
/// Media type of the markdown that every reader takes.
pub const MARKDOWN_TYPE: &str = "text/markdown;variant=GFM-MIMI";
