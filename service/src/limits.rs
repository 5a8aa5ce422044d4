//! The requests that a listener accepts, and its resources for all of them.

use std::sync::Arc;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;

use crate::problem::Problem;
use crate::uploads::Uploads;

/// The table `[limits]` of a configuration file: what one listener accepts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest request body.
    pub max_body_bytes: usize,
    /// The most bytes of request bodies that are being collected at once.
    pub max_collected_bytes: u32,
    /// The most request bodies that are being collected at once.
    pub max_uploads: usize,
    /// How long a client may take to send a body.
    pub body_read_seconds: u64,
    /// After a few seconds a body must have come at this rate on the average, or it is given up; 0
    /// for any.
    pub least_body_bytes_per_second: u32,
    /// How long a client may take for a TLS handshake, to send a request head, or to take a part of
    /// an answer. Idle connections end after it too: those of HTTP/2, and those that send nothing,
    /// after twice that at the latest.
    pub header_read_seconds: u64,
    /// The longest request head: path, names and values of fields.
    pub max_header_bytes: usize,
    /// The most header fields of a request.
    pub max_headers: usize,
    /// The most connections at once; when all of them are busy, others are told so.
    pub max_connections: usize,
    /// The most requests at once on one HTTP/2 connection.
    pub max_streams: u32,
}

/// Requests at once on one HTTP/2 connection, where nothing else is configured.
pub(crate) const MAX_STREAMS: u32 = 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The largest size bucket of a padded request, 2 MiB, and its encapsulation.
            max_body_bytes: 2 * 1024 * 1024 + 4096,
            max_collected_bytes: 512 * 1024 * 1024,
            max_uploads: 4096,
            body_read_seconds: 30,
            least_body_bytes_per_second: 1024,
            header_read_seconds: 30,
            max_header_bytes: 16 * 1024,
            max_headers: 64,
            max_connections: 4096,
            max_streams: MAX_STREAMS,
        }
    }
}

impl Limits {
    /// Those of the listener that `request` came to.
    #[must_use]
    pub fn of<B>(request: &http::Request<B>) -> Self {
        let accepting = request.extensions().get::<Arc<Accepting>>();
        accepting.map_or_else(Self::default, |accepting| accepting.limits)
    }
}

/// What a listener has for all of its requests.
pub(crate) struct Accepting {
    pub(crate) limits: Limits,
    pub(crate) uploads: Arc<Uploads>,
}

/// There is no place for a request now.
pub(crate) fn busy() -> Problem {
    Problem::plain(StatusCode::SERVICE_UNAVAILABLE)
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
}
