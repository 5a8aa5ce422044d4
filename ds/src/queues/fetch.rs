//! Fetching and acknowledging.

use std::time::Duration;

use crypto::rows::EntryRowCipher;
use protocol::codec::opaque;
use protocol::groups::Accepted;
use protocol::ids::{EntryId, Incarnation, QueueId};
use protocol::problem::ProblemType;
use protocol::queues::{
    AcknowledgeQueueRequest, FetchQueueRequest, FetchQueueResponse, MAX_ACKNOWLEDGE, MAX_FETCH,
    MAX_WAIT_MS, QueueEntry,
};

use super::deliver::EntryValue;
use super::owner::owned;
use super::streams::BLOCK;
use crate::error::DsError;
use crate::request::Request;
use crate::service_state::DeliveryService;
use crate::store::DayRow;

/// Bytes of an answer, unless its first entry alone is longer. A gateway passes 4 MiB; no payload is so
/// long that it would not fit into an answer of its own (`limits`).
const RESPONSE_BYTES: usize = 768 * 1024;

/// Of an entry beside its payload: id, encapsulation, sealed content, lengths.
const ENTRY_BYTES: usize = 192;

/// A long poll looks again after this time even when nothing woke it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Entries that are not acknowledged yet; waits for one if the request says so.
///
/// # Errors
/// [`ProblemType::UnknownQueue`], also for a queue of another owner; [`ProblemType::LimitExceeded`];
/// [`DsError::TooManyRequests`].
pub async fn fetch_queue(
    service: &DeliveryService,
    request: Request<FetchQueueRequest>,
) -> Result<FetchQueueResponse, DsError> {
    let FetchQueueRequest {
        queue_id,
        limit,
        wait_ms,
    } = request.body;
    if limit == 0 || limit > MAX_FETCH || wait_ms > MAX_WAIT_MS {
        return Err(ProblemType::LimitExceeded.into());
    }
    owned(service, &request, &queue_id)
        .await?
        .note_presence(service, &queue_id, request.now_ms)
        .await?;
    charge_allowance(service, &request, &queue_id).await?;
    // By a clock that nobody sets: a step back would hold the request for as long.
    let deadline = service
        .clock
        .monotonic_ms()
        .saturating_add(u64::from(wait_ms));
    let poll = service.polls.begin(queue_id);
    loop {
        // Taken before looking: what arrives in between wakes us.
        let notify = service.wakeups.subscribe(queue_id);
        let mut woken = std::pin::pin!(notify.notified());
        woken.as_mut().enable();
        let response = collect(service, &queue_id, usize::from(limit)).await?;
        let left = deadline.saturating_sub(service.clock.monotonic_ms());
        if !response.entries.is_empty()
            || left == 0
            || poll.gives_way()
            || service.shutdown.is_requested()
        {
            return Ok(response);
        }
        tokio::select! {
            () = woken => {}
            () = poll.gave_way() => {}
            () = tokio::time::sleep(LOOK_AGAIN.min(Duration::from_millis(left))) => {}
            () = service.shutdown.requested() => {}
        }
    }
}

/// A walk through a queue is work. When the allowance is used up a token fills it; a fetch has no result
/// that could be recorded, so a repeated one costs again.
async fn charge_allowance<T>(
    service: &DeliveryService,
    request: &Request<T>,
    queue: &QueueId,
) -> Result<(), DsError> {
    let bucket = service.rows().queue(queue);
    let Err(empty) = service.queue_allowances.take(bucket, request.now_ms) else {
        return Ok(());
    };
    if request.tokens() == 0 {
        return Err(DsError::TooManyRequests {
            retry_after_ms: empty.retry_after_ms,
        });
    }
    let paid = request.unrecorded_receipt(service, 1)?;
    service.store.settle(paid).await?;
    // Now, since who waits for messages may be gone before the answer.
    request.count_spent();
    service.queue_allowances.refill(bucket);
    Ok(())
}

async fn collect(
    service: &DeliveryService,
    queue: &QueueId,
    limit: usize,
) -> Result<FetchQueueResponse, DsError> {
    let mut answer = Answer {
        limit,
        bytes: 0,
        response: FetchQueueResponse {
            entries: Vec::new(),
            more: 0,
        },
    };
    let row = service.rows().queue(queue);
    let now_ms = service.clock.now_unix_ms();
    let first_day = service.drained.first_day(&row, now_ms);
    let mut first_entry: Option<u32> = None;
    for (day, incarnation) in present_streams(service, queue, first_day).await? {
        for block in 0u32.. {
            let id = |index| EntryId {
                day,
                incarnation,
                index,
            };
            let first = block.saturating_mul(BLOCK);
            let marker = DayRow {
                day,
                row: service.rows().block(queue, &id(first), block),
            };
            // Markers have no gaps: no marker, no entry in this block or a later one.
            if block > 0
                && !service
                    .store
                    .blocks(vec![marker])
                    .await?
                    .first()
                    .copied()
                    .unwrap_or(false)
            {
                break;
            }
            let found =
                block_entries(service, queue, (first..first.saturating_add(BLOCK)).map(id)).await?;
            if !found.is_empty() {
                first_entry = Some(first_entry.map_or(day, |first| first.min(day)));
            }
            if !answer.add(service, found).await? {
                return Ok(answer.response);
            }
        }
    }
    service.drained.walked(row, first_entry, now_ms);
    Ok(answer.response)
}

/// An entry as stored, opened with the storage key.
struct Found {
    id: EntryId,
    at: DayRow,
    value: Vec<u8>,
}

impl Found {
    fn entry(&self) -> Result<EntryValue<'_>, DsError> {
        EntryValue::read(&self.value).ok_or(DsError::Internal("entry value"))
    }
}

/// Those of these entries that are there.
async fn block_entries(
    service: &DeliveryService,
    queue: &QueueId,
    ids: impl Iterator<Item = EntryId>,
) -> Result<Vec<Found>, DsError> {
    let named: Vec<(EntryId, DayRow)> = ids
        .map(|id| {
            (
                id,
                DayRow {
                    day: id.day,
                    row: service.rows().entry(queue, &id),
                },
            )
        })
        .collect();
    let values = service
        .store
        .entries(named.iter().map(|(_, at)| *at).collect())
        .await?;
    let mut found = Vec::new();
    let mut last: Option<(EntryId, EntryRowCipher)> = None;
    for ((id, at), value) in named.into_iter().zip(values) {
        let Some(mut value) = value else { continue };
        // They come stream by stream.
        let (_, cipher) = match last.take() {
            Some((of, cipher)) if (of.day, of.incarnation) == (id.day, id.incarnation) => {
                last.insert((of, cipher))
            }
            _ => last.insert((id, service.rows().entry_cipher(id.day, &id.incarnation)?)),
        };
        cipher.open(&at.row, &mut value)?;
        found.push(Found { id, at, value });
    }
    Ok(found)
}

/// Payloads that are read at once: bounds the memory of an answer by this many requests' bodies.
const PAYLOADS_AT_ONCE: usize = 16;

struct Answer {
    limit: usize,
    bytes: usize,
    response: FetchQueueResponse,
}

impl Answer {
    /// Adds entries with their payloads; `false` once the answer is full.
    async fn add(&mut self, service: &DeliveryService, found: Vec<Found>) -> Result<bool, DsError> {
        for found in found.chunks(PAYLOADS_AT_ONCE) {
            let entries = found
                .iter()
                .map(Found::entry)
                .collect::<Result<Vec<_>, _>>()?;
            let payloads = service
                .store
                .payloads(entries.iter().map(|entry| entry.payload).collect())
                .await?;
            for ((found, entry), payload) in found.iter().zip(entries).zip(payloads) {
                // The payload expires with its day, as the entry does.
                let Some(sealed_payload) = payload else {
                    continue;
                };
                let bytes = self
                    .bytes
                    .saturating_add(sealed_payload.len())
                    .saturating_add(ENTRY_BYTES);
                let entries = self.response.entries.len();
                if entries >= self.limit || (entries > 0 && bytes > RESPONSE_BYTES) {
                    self.response.more = 1;
                    return Ok(false);
                }
                self.bytes = bytes;
                self.response.entries.push(QueueEntry {
                    id: found.id,
                    encapsulated_key: entry.encapsulated_key,
                    sealed: opaque(entry.sealed),
                    sealed_payload: opaque(sealed_payload),
                });
            }
        }
        Ok(true)
    }
}

/// Streams of this queue that have ever had an entry, from a day on: those with a marker for their first
/// block.
async fn present_streams(
    service: &DeliveryService,
    queue: &QueueId,
    first_day: u32,
) -> Result<Vec<(u32, Incarnation)>, DsError> {
    let mut all = service.store.incarnations().await?;
    all.retain(|(day, _)| *day >= first_day);
    let markers = all
        .iter()
        .map(|(day, incarnation)| DayRow {
            day: *day,
            row: service.rows().block(
                queue,
                &EntryId {
                    day: *day,
                    incarnation: *incarnation,
                    index: 0,
                },
                0,
            ),
        })
        .collect();
    let present = service.store.blocks(markers).await?;
    Ok(all
        .into_iter()
        .zip(present)
        .filter_map(|(stream, present)| present.then_some(stream))
        .collect())
}

/// Deletes entries that the client has stored.
///
/// # Errors
/// As [`fetch_queue`].
pub async fn acknowledge_queue(
    service: &DeliveryService,
    request: Request<AcknowledgeQueueRequest>,
) -> Result<Accepted, DsError> {
    if request.body.entries.len() > MAX_ACKNOWLEDGE {
        return Err(ProblemType::LimitExceeded.into());
    }
    let queue = request.body.queue_id;
    owned(service, &request, &queue).await?;
    // Of any day: a clock may have gone back since they were written.
    let mut ids = request.body.entries.clone();
    ids.sort_unstable();
    ids.dedup();
    let mut entries = Vec::with_capacity(ids.len());
    for found in block_entries(service, &queue, ids.into_iter()).await? {
        entries.push((found.at, found.entry()?.payload));
    }
    if !entries.is_empty() {
        service.store.acknowledge(entries).await?;
        service.streams.acknowledged(&queue, &request.body.entries);
    }
    Ok(Accepted {})
}
