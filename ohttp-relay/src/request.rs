//! The client's request on its way to the gateway.
//!
//! It is collected whole before anything of it goes on: who sends slowly, or never ends, holds a
//! few bytes here and nothing at the gateway. No gateway of ours begins with less than a whole
//! request anyway.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::Request;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame};
use service::Problem;
use service::http::{CollectError, Collected, Limits};

use crate::Form;
use crate::padding::Padding;

/// A request goes on in blocks of this size, however it arrived: by its pieces the gateway could
/// tell networks and clients apart.
const BLOCK: usize = 16 * 1024;

/// What is wrong with a request, by the client's fault, or why there is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    MediaType,
    TooLarge,
    TooSlow,
    Broken,
    Unpadded,
    NoRoom,
}

impl Fault {
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::MediaType => "media_type",
            Self::TooLarge => "request_too_large",
            Self::TooSlow => "request_too_slow",
            Self::Broken => "request_broken",
            Self::Unpadded => "request_unpadded",
            Self::NoRoom => "request_no_room",
        }
    }

    pub(crate) fn problem(self) -> Problem {
        match self {
            Self::MediaType => Problem::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::TooLarge => CollectError::TooLarge.problem(),
            Self::TooSlow => CollectError::TooSlow.problem(),
            Self::Broken => CollectError::Broken.problem(),
            Self::NoRoom => CollectError::NoRoom.problem(),
            Self::Unpadded => Problem::new(
                StatusCode::BAD_REQUEST,
                "urn:mimi-ds:problem:ohttp-unpadded",
                "The encapsulated request is not padded",
            ),
        }
    }
}

impl From<CollectError> for Fault {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::TooLarge => Self::TooLarge,
            CollectError::TooSlow => Self::TooSlow,
            CollectError::Broken => Self::Broken,
            CollectError::NoRoom => Self::NoRoom,
        }
    }
}

/// A whole request, as the gateway's connection takes it. Its length is never announced, so that a
/// client that announces one and a client that does not look the same.
pub(crate) struct Upload(Collected);

impl Upload {
    /// Checks what can be told by the head, then collects. Streams are not judged by their padding.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) async fn collect(
        request: Request,
        padding: Option<&Padding>,
    ) -> Result<(Self, Form), Fault> {
        let form = Form::of(request.headers()).ok_or(Fault::MediaType)?;
        let padding = padding.filter(|_| form == Form::Whole);
        let is_padded = |length| padding.is_none_or(|padding| padding.allows(length));
        let announced = request.body().size_hint();
        if announced.lower() > Limits::of(&request).max_body_bytes as u64 {
            return Err(Fault::TooLarge);
        }
        if announced.exact().is_some_and(|length| !is_padded(length)) {
            return Err(Fault::Unpadded);
        }
        let collected = Collected::read(request).await?;
        if is_padded(collected.body.len() as u64) {
            Ok((Self(collected), form))
        } else {
            Err(Fault::Unpadded)
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.body.len()
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let left = &mut self.0.body;
        let block = left.split_to(left.len().min(BLOCK));
        Poll::Ready((!block.is_empty()).then_some(Ok(Frame::data(block))))
    }
}
