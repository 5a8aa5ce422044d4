//! Requests and responses of indeterminate length (RFC 9292 §3.2), and responses of known length
//! (§3.1).

use http::{HeaderMap, StatusCode};

use super::RequestHead;
use crate::varint;

const KNOWN_RESPONSE: u64 = 1;
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
    field_lines(&head.fields, out);
    varint::put(TERMINATOR, out);
}

/// Appends a response up to its content.
pub fn response_head(status: StatusCode, fields: &HeaderMap, out: &mut Vec<u8>) {
    varint::put(INDETERMINATE_RESPONSE, out);
    varint::put(u64::from(status.as_u16()), out);
    field_lines(fields, out);
    varint::put(TERMINATOR, out);
}

/// Appends a response as a whole, without trailers. Zeros may follow as padding.
pub fn response(status: StatusCode, fields: &HeaderMap, content: &[u8], out: &mut Vec<u8>) {
    varint::put(KNOWN_RESPONSE, out);
    varint::put(u64::from(status.as_u16()), out);
    let mut lines = Vec::new();
    field_lines(fields, &mut lines);
    string(&lines, out);
    string(content, out);
    varint::put(0, out);
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

fn field_lines(fields: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in fields {
        string(name.as_str().as_bytes(), out);
        string(value.as_bytes(), out);
    }
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    varint::put(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
