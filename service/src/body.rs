//! Reading what another server answers: never more than was said, whatever length it announces.

use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is longer than what is taken")]
    TooLong,
    #[error("the body broke off")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

/// The whole of `body`, of at most `limit` bytes.
///
/// # Errors
/// [`BodyError`].
pub async fn read_at_most<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLong);
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLong),
        Err(error) => Err(BodyError::Broken(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body_util::Full;
    use hyper::body::Frame;

    use super::*;

    #[tokio::test]
    async fn no_more_is_read_than_was_said_whether_or_not_a_length_is_announced() {
        let whole = |len| Full::new(Bytes::from(vec![7; len]));
        assert_eq!(read_at_most(whole(10), 10).await.unwrap().len(), 10);
        let longer = read_at_most(whole(11), 10).await;
        assert!(matches!(longer, Err(BodyError::TooLong)));
        assert!(matches!(
            read_at_most(Endless, 10).await,
            Err(BodyError::TooLong)
        ));
    }

    /// A byte at a time, for ever.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }
}
