//! `ReadJournal` with its wait. A read that waits holds a place for waiting only, and no token. A
//! read in a slot waits for nothing; when its answer leaves does not depend on what was done for
//! it.

use std::time::Duration;

use ds_domain::execution::Failure;
use ds_domain::journal::read::{self, ReadJournal};
use ds_domain::operation::UnsignedRead as _;
use ds_domain::tokens::IdentifiedToken;
use ds_domain::view::View;
use protocol::ids::SegmentId;
use protocol::journal::{MAX_WAIT_MS, ReadJournalRequest, ReadJournalResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use tokio::time::{Instant, sleep_until};

use crate::load::Place;
use crate::problem::is_behind;
use crate::server::Server;

/// Whether there is nothing to wait for.
fn is_whole(request: &ReadJournalRequest, answer: &ReadJournalResponse) -> bool {
    answer.closed == 1 || answer.head.next > request.known || request.wait_ms == 0
}

/// When a request came whose answer leaves at a step.
pub(crate) struct Came(Instant);

impl Came {
    #[allow(
        clippy::disallowed_methods,
        reason = "the time that work takes, by no clock that anybody sets"
    )]
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }

    /// Waits until an answer leaves: so many milliseconds after the request came, or a multiple of
    /// that. Whoever waits holds no place.
    pub(crate) async fn leaves(self, step_ms: u32) {
        let step = Duration::from_millis(step_ms.into());
        let steps = self.0.elapsed().as_millis() / step.as_millis() + 1;
        sleep_until(self.0 + step * u32::try_from(steps).unwrap_or(u32::MAX)).await;
    }
}

impl Server {
    /// Reads a segment; where it has not gone on, after it has or after the wait. Where too many
    /// wait, here or for this segment, at once: whoever is answered without news comes again later.
    pub(crate) async fn read_journal(
        &self,
        request: &ReadJournalRequest,
        offered: Vec<IdentifiedToken>,
        place: Place<'_>,
    ) -> Result<ReadJournalResponse, Failure> {
        if request.wait_ms > MAX_WAIT_MS {
            return Err(Failure::Refused(ProblemType::LimitExceeded.into()));
        }
        let mut view = View::default();
        if request.segment == SegmentId::NOBODY {
            // It is nobody's, and free: a token that is offered stays.
            return self
                .look(&mut view, |view, env| ReadJournal::read(request, view, env))
                .await;
        }
        let rows = ds_domain::rows::Rows(self.keys.rows());
        let expected = self.look(&mut view, |view, env| {
            read::expected(&request.segment, (request.from, request.size), view, env)
        });
        let expected = self.of_something(expected.await)?;
        let bucket = ReadJournal::bucket(request, &rows);
        self.draw(bucket, expected.bytes, offered).await?;
        let mut answer = self
            .look(&mut view, |view, env| ReadJournal::read(request, view, env))
            .await?;
        drop(place);
        if request.known > answer.head.next {
            is_behind();
        }
        if is_whole(request, &answer) {
            return Ok(answer);
        }
        // Only now: ids that are no segment's, and reads that do not wait, leave nothing here.
        let woken = self
            .waits
            .subscribe(rows.segment(&request.segment), expected.waiting);
        let (Some(woken), Some(_waiting)) = (woken, self.load.wait()) else {
            metrics::counter!("ds_waits_refused_total").increment(1);
            return Ok(answer);
        };
        let patience = tokio::time::sleep(Duration::from_millis(request.wait_ms.into()));
        tokio::pin!(patience);
        loop {
            let news = woken.notified();
            tokio::pin!(news);
            // From here on a wake-up is not missed.
            news.as_mut().enable();
            let Ok(place) = self.load.place(Operation::ReadJournal) else {
                return Ok(answer);
            };
            answer = self.read::<ReadJournal>(request).await?;
            drop(place);
            if is_whole(request, &answer) {
                return Ok(answer);
            }
            let look_again = async {
                match self.settings.look_again_ms {
                    Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = news => {}
                () = look_again => {}
                () = &mut patience => return Ok(answer),
                () = self.shutdown.requested() => return Ok(answer),
            }
        }
    }
}
