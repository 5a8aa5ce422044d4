//! Requests and frames as they are on the wire.

use std::time::Duration;

/// Longer than anything here takes, and less than the 30 s for which an idle connection is kept.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A request that is answered with its body, on a connection of its own.
pub(crate) fn echo(body: &str) -> String {
    let len = body.len();
    format!(
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n{body}"
    )
}

/// HTTP/2 by hand (RFC 9113): a frame of some type on some stream.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}
