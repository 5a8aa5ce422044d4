//! Chunks of blobs, in the place of the service's blob store.

use std::collections::HashMap;

use ds_domain::blobs::{BlobRequest, Location, Task};
use ds_domain::env::Env;
use ds_domain::execution::Failure;
use ds_domain::refusal::Stop;
use ds_domain::rows::Rows;
use ds_domain::view::View;
use mimimi_client::{Clock as _, Error};
use protocol::Wire as _;
use protocol::blobs::{BlobChunksResponse, ReadChunkResponse};
use protocol::codec::opaque;
use protocol::group::Accepted;
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::{InProcess, refusal, refused, stopped};

/// What lies outside the engine.
pub(crate) type Chunks = HashMap<(Location, u16), Vec<u8>>;

impl InProcess {
    /// Does what is about chunks.
    pub(super) fn blob(&self, number: Number, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let request = BlobRequest::decode(number, bytes);
        let request = request.map_err(|it| refused(Failure::Refused(it)))?;
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut view = View::default();
        let (blob, task) = loop {
            let mut env = Env {
                now_ms: self.clock.now_unix_ms(),
                generation: 0,
                rng: &mut inner.rng,
                keys: &self.keys,
                settings: &self.settings,
                blob_room: u64::MAX,
            };
            match request.decide(&view, &mut env) {
                Err(Stop::Need(reads)) => {
                    let found = inner.engine.read(&reads);
                    for (read, found) in reads.into_iter().zip(found) {
                        view.add(read, found);
                    }
                }
                decided => break decided.map_err(stopped)?,
            }
        };
        let (rows, at) = (Rows(self.keys.rows()), blob.location());
        match (task, &request) {
            (Task::Put { index, completes }, BlobRequest::Put(put)) => {
                let chunk = put.chunk.as_slice().to_vec();
                let is_free = !blob.is_whole() && !inner.chunks.contains_key(&(at, index));
                if is_free {
                    inner.chunks.insert((at, index), chunk.clone());
                }
                if inner.chunks.get(&(at, index)) != Some(&chunk) {
                    return Err(refusal(ProblemType::BlobComplete));
                }
                if completes && !blob.is_whole() {
                    let is_there = |index| inner.chunks.contains_key(&(at, index));
                    if !(0..blob.chunks()).all(is_there) {
                        return Err(refusal(ProblemType::BlobIncomplete));
                    }
                    inner.engine.apply(blob.completion(&rows)).unwrap();
                }
                Ok(Accepted {}.encode())
            }
            (Task::Read(index), _) => match inner.chunks.get(&(at, index)) {
                Some(chunk) => {
                    let chunk = opaque(chunk.as_slice());
                    Ok(ReadChunkResponse { chunk }.encode())
                }
                None => Err(refusal(ProblemType::BlobDamaged)),
            },
            (Task::Delete, _) => {
                inner.engine.apply(blob.deletion(&rows)).unwrap();
                inner.chunks.retain(|(of, _), _| *of != at);
                Ok(Accepted {}.encode())
            }
            (Task::List | Task::Put { .. }, _) => {
                let is_there = |index| inner.chunks.contains_key(&(at, index));
                Ok(BlobChunksResponse::of(blob.chunks(), blob.is_whole(), is_there).encode())
            }
        }
    }

    /// Changes what lies there.
    pub(crate) fn with_chunks(&self, change: impl FnOnce(&mut Chunks)) {
        change(&mut self.inner().chunks);
    }
}
