//! How a stream looks into the store.

use std::sync::Arc;

use ds_domain::execution::Failure;
use ds_domain::journal::read;
use ds_domain::view::View;
use protocol::follow::FollowedStretch;
use protocol::ids::{Position, SegmentId};
use tokio::task::JoinHandle;

use crate::server::Server;

/// What a look into the store has found.
pub(crate) enum Looked {
    Found(FollowedStretch),
    /// The segment is no more.
    Gone,
    /// There was no place to look, or the store did not answer.
    Nothing,
}

/// Looks for what there is from `next` on.
pub(crate) async fn look(server: Arc<Server>, segment: SegmentId, next: Position) -> Looked {
    let Some(_place) = server.load.look() else {
        return Looked::Nothing;
    };
    let mut view = View::default();
    let found = server.look(&mut view, |view, env| {
        read::stretch(&segment, next, view, env)
    });
    match found.await {
        Ok(stretch) => Looked::Found(stretch),
        Err(Failure::Refused(_)) => Looked::Gone,
        Err(_) => Looked::Nothing,
    }
}

/// A look that goes on beside what its stream does.
pub(crate) struct Looking {
    pub(crate) from: Position,
    look: JoinHandle<Looked>,
}

impl Looking {
    pub(crate) fn begin(server: Arc<Server>, segment: SegmentId, from: Position) -> Self {
        Self {
            from,
            look: tokio::spawn(look(server, segment, from)),
        }
    }

    /// What it has found. Of none, nothing ever.
    pub(crate) async fn found(looking: &mut Option<Self>) -> Looked {
        match looking {
            Some(looking) => (&mut looking.look).await.unwrap_or(Looked::Nothing),
            None => std::future::pending().await,
        }
    }
}
