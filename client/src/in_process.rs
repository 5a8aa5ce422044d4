//! A service in this process, in place of relay, gateway and service: for tests and games that run
//! many clients against the service's decisions without sockets.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use protocol::directory::Directory;
use protocol::operation::Operation;

use crate::error::Error;

/// What a [`Service`] answers with, in time.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, Error>> + Send + 'a>>;

/// Answers requests.
pub trait Service: Send + Sync {
    /// Answers the exact bytes of a request with the tokens beside it; a refusal is
    /// [`Error::Refused`], no answer [`Error::Unreachable`].
    fn answer<'a>(
        &'a self,
        operation: Operation,
        request: &'a [u8],
        tokens: &'a [Vec<u8>],
    ) -> Answer<'a>;

    /// What all views of the service show.
    fn directory(&self) -> Directory;

    /// A part of the activity feed, `latest` or `SECONDS/NUMBER`, as one of those who show it does.
    /// Without it there is no feed.
    fn feed(&self, path: &str, view: FeedView) -> Option<Vec<u8>> {
        let _ = (path, view);
        None
    }
}

/// Who shows the activity feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedView {
    /// Whom it is followed at.
    Relay,
    /// The service itself, which does not know who asks.
    Service,
    /// Somebody else.
    Mirror,
}

/// A service that several clients share.
pub type SharedService = Arc<dyn Service>;
