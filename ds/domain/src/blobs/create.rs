//! `CreateBlob`.

use protocol::blobs::{CreateBlobRequest, CreateBlobResponse, chunk_class};
use protocol::ids::Day;
use protocol::operation::Operation as Number;
use protocol::problem::ProblemType;

use super::{MAKING_DAYS, Record, making_days};
use crate::env::{Env, Prices};
use crate::operation::{Change, Cost, Operation};
use crate::refusal::Stop;
use crate::request::{Authenticated, SignedBy, Unauthenticated};
use crate::rows::OwnerOf;
use crate::store::{self, Transition};
use crate::view::View;

/// Makes room for a blob. [`ProblemType::LimitExceeded`] for more chunks than are allowed, or a
/// number that is no class; [`ProblemType::BlobComplete`] if that id is taken for the same last
/// day, or is being written; [`ProblemType::StorageFull`].
#[derive(Debug)]
pub struct CreateBlob;

impl Operation for CreateBlob {
    type Request = CreateBlobRequest;
    type Response = CreateBlobResponse;
    type Who = SignedBy;
    const OPERATION: Number = Number::CreateBlob;

    fn most_tokens(prices: &Prices) -> usize {
        usize::from(prices.create_blob)
    }

    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        _: &View,
        _: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, SignedBy>, Stop> {
        Ok(request.by_its_key()?)
    }

    fn cost(_: &Authenticated<'_, Self::Request, SignedBy>, env: &Env<'_>) -> Cost {
        Cost {
            tokens: env.settings.prices.create_blob,
            charges: Vec::new(),
        }
    }

    fn decide(
        request: &Authenticated<'_, Self::Request, SignedBy>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<CreateBlobResponse>, Stop> {
        let body = request.body();
        if body.chunks > env.settings.limits.blob_chunks
            || chunk_class(body.chunks.into()) != Some(body.chunks)
        {
            return Err(ProblemType::LimitExceeded.into());
        }
        let (rows, today) = (env.rows(), env.today());
        let row = rows.blob(&body.id);
        let last_day = Day(today.0.saturating_add(body.life.days()));
        let [today, tomorrow] = making_days(today);
        let taken = [row.making(today), row.making(tomorrow), row.key(last_day)];
        if view.all(&taken)?.iter().any(Option::is_some) {
            return Err(ProblemType::BlobComplete.into());
        }
        if u64::from(body.chunks) > env.blob_room {
            return Err(ProblemType::StorageFull.into());
        }
        let record = Record {
            writer: rows.owner(OwnerOf::Blob, &body.writer),
            chunks: body.chunks,
            last_day,
        };
        let create = store::CreateBlob {
            making: row.making(Day(env.today().0.saturating_add(MAKING_DAYS))),
            whole: row.key(last_day),
            record: record.encode(),
        };
        Ok(Change::of(
            Transition::CreateBlob(create),
            CreateBlobResponse { last_day },
        ))
    }
}
