//! The indeterminate-length form (RFC 9292 §3.2).

use http::{HeaderMap, StatusCode};

use super::RequestHead;
use crate::varint;

const INDETERMINATE_REQUEST: u64 = 2;
const INDETERMINATE_RESPONSE: u64 = 3;
const TERMINATOR: u64 = 0;

/// Appends a request up to its content.
pub fn request_head(head: &RequestHead, out: &mut Vec<u8>) {
    varint::put(INDETERMINATE_REQUEST, out);
    for control in [
        head.method.as_str(),
        &head.scheme,
        &head.authority,
        &head.path,
    ] {
        string(control.as_bytes(), out);
    }
    field_section(&head.fields, out);
}

/// Appends a response up to its content.
pub fn response_head(status: StatusCode, fields: &HeaderMap, out: &mut Vec<u8>) {
    varint::put(INDETERMINATE_RESPONSE, out);
    varint::put(u64::from(status.as_u16()), out);
    field_section(fields, out);
}

/// Appends a piece of the content. An empty one is nothing, since it would be the end.
pub fn content(piece: &[u8], out: &mut Vec<u8>) {
    if !piece.is_empty() {
        string(piece, out);
    }
}

/// Appends the end of the content, and no trailers. Zeros may follow as padding.
pub fn end(out: &mut Vec<u8>) {
    varint::put(TERMINATOR, out);
    varint::put(TERMINATOR, out);
}

fn field_section(fields: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in fields {
        string(name.as_str().as_bytes(), out);
        string(value.as_bytes(), out);
    }
    varint::put(TERMINATOR, out);
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    varint::put(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
