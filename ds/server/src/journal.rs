//! `ReadJournal` with its wait. A long poll holds a place of its own and no token.

use std::time::Duration;

use ds_domain::execution::Failure;
use ds_domain::journal::read::ReadJournal;
use ds_domain::operation::{Charge, Level};
use ds_domain::refusal::Refusal;
use protocol::journal::{MAX_WAIT_MS, ReadJournalRequest, ReadJournalResponse};
use protocol::problem::ProblemType;

use crate::server::Server;

/// Whether there is nothing to wait for.
fn is_whole(request: &ReadJournalRequest, answer: &ReadJournalResponse) -> bool {
    answer.closed == 1 || answer.head.next > request.known || request.wait_ms == 0
}

impl Server {
    /// Reads a segment; where it has not gone on, after it has or after the wait.
    pub(crate) async fn read_journal(
        &self,
        request: &ReadJournalRequest,
    ) -> Result<ReadJournalResponse, Failure> {
        if request.wait_ms > MAX_WAIT_MS {
            return Err(Failure::Refused(ProblemType::LimitExceeded.into()));
        }
        let rows = ds_domain::rows::Rows(self.keys.rows());
        let row = rows.segment(&request.segment);
        let charge = Charge {
            level: Level::Segment,
            bucket: rows.segment_bucket(&request.segment),
            bytes: 0,
        };
        self.charge(&[charge])
            .map_err(|retry_after_ms| Failure::Refused(Refusal::Exhausted { retry_after_ms }))?;
        let answer = self.read::<ReadJournal>(request).await?;
        if is_whole(request, &answer) {
            return Ok(answer);
        }
        // Only now: ids that are no segment's, and reads that do not wait, leave nothing here.
        let woken = self.waits.subscribe(row);
        let patience = tokio::time::sleep(Duration::from_millis(request.wait_ms.into()));
        tokio::pin!(patience);
        loop {
            let news = woken.notified();
            tokio::pin!(news);
            // From here on a wake-up is not missed.
            news.as_mut().enable();
            let answer = self.read::<ReadJournal>(request).await?;
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
