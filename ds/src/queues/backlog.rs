//! How much of which group waits in a queue, as far as this process has put it there, so that one group
//! cannot fill a member's queue.
//!
//! Stored entries name no group, and nothing is counted in the store: a row for each (queue, group) that
//! every message writes would show in the write-ahead log, message after message, which rows belong to
//! one group. So each process counts what it has written itself, in the memory of a stream (a queue's
//! entries of one day and process): the bounds hold for each of them, each with its share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::delivery::Payload;
use protocol::ids::{EntryId, GroupId, QueueId};

use super::deliver::{self, EntryValue, Prepared};
use super::streams::{Generation, Stream};
use crate::error::DsError;
use crate::limits::QueueLimits;
use crate::service_state::DeliveryService;
use crate::store::DayRow;

/// When room is made, this part of a share goes at once.
const PART: usize = 8;

/// Application entries of one stream that were not acknowledged here, by their index.
#[derive(Debug, Default)]
pub(super) struct Backlog(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    shares: Vec<Share>,
    total: usize,
}

#[derive(Debug)]
struct Share {
    group: GroupId,
    /// Oldest first.
    indices: VecDeque<u32>,
    /// The marker that was put into the queue last.
    marker: Option<u32>,
}

/// The oldest entries of a group, out of the backlog already: nobody else drops them.
#[derive(Debug, PartialEq, Eq)]
struct Surplus {
    group: GroupId,
    indices: Vec<u32>,
    marker: Option<u32>,
}

impl Waiting {
    fn share(&mut self, group: &GroupId) -> &mut Share {
        let found = self.shares.iter().position(|share| share.group == *group);
        let at = found.unwrap_or_else(|| {
            self.shares.push(Share {
                group: *group,
                indices: VecDeque::new(),
                marker: None,
            });
            self.shares.len().saturating_sub(1)
        });
        &mut self.shares[at]
    }

    /// Of the group that is about to add an entry, if its share is full; else of the one with most, if the
    /// queue is.
    fn surplus(&mut self, adding: &GroupId, limits: QueueLimits) -> Option<Surplus> {
        let full = |share: &&mut Share| share.indices.len() >= limits.entries_of_group;
        let own = self.shares.iter_mut().find(|share| share.group == *adding);
        let share = match own.filter(full) {
            Some(share) => share,
            None if self.total < limits.entries => return None,
            None => self
                .shares
                .iter_mut()
                .max_by_key(|share| share.indices.len())?,
        };
        let count = limits
            .entries_of_group
            .min(share.indices.len())
            .div_ceil(PART);
        let indices: Vec<u32> = share.indices.drain(..count).collect();
        self.total = self.total.saturating_sub(indices.len());
        Some(Surplus {
            group: share.group,
            indices,
            marker: share.marker,
        })
    }
}

impl Backlog {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry of this index is about to be written.
    pub(super) fn add(&self, group: &GroupId, index: u32) {
        let mut waiting = self.waiting();
        waiting.share(group).indices.push_back(index);
        waiting.total = waiting.total.saturating_add(1);
    }

    /// Entries that the client has stored. `indices` is sorted.
    pub(super) fn acknowledged(&self, indices: &[u32]) {
        let mut waiting = self.waiting();
        for share in &mut waiting.shares {
            share
                .indices
                .retain(|index| indices.binary_search(index).is_err());
            share.marker = share
                .marker
                .filter(|marker| indices.binary_search(marker).is_err());
        }
        waiting
            .shares
            .retain(|share| !share.indices.is_empty() || share.marker.is_some());
        waiting.total = waiting.shares.iter().map(|share| share.indices.len()).sum();
    }
}

/// Before an application message of `group` goes into a queue: makes room, if its share or the queue is
/// full. First a marker becomes durable, then the oldest entries go; after a crash in between the client
/// is told of a loss that did not happen.
///
/// # Errors
/// [`DsError::Storage`].
pub(super) async fn make_room(
    service: &DeliveryService,
    generation: &Generation,
    (queue, stream): (&QueueId, &Arc<Stream>),
    group: &GroupId,
    now_ms: u64,
) -> Result<(), DsError> {
    let limits = service.settings.queue_limits;
    let Some(surplus) = stream.backlog.waiting().surplus(group, limits) else {
        return Ok(());
    };
    let ids: Vec<EntryId> = surplus
        .indices
        .iter()
        .chain(&surplus.marker)
        .map(|index| generation.entry_id(*index))
        .collect();
    let rows: Vec<DayRow> = ids
        .iter()
        .map(|id| DayRow {
            day: id.day,
            row: service.rows().entry(queue, id),
        })
        .collect();
    let stored = service.store.entries(rows.clone()).await?;
    let (entries, marker) = stored.split_at(surplus.indices.len());
    let mut dropped = Vec::new();
    for (at, value) in rows.iter().zip(entries) {
        // What another node was told of, or was never written, is gone already.
        let Some(mut value) = value.clone() else {
            continue;
        };
        generation.cipher.open(&at.row, &mut value)?;
        let entry = EntryValue::read(&value).ok_or(DsError::Internal("entry value"))?;
        dropped.push((*at, entry.payload));
    }
    if dropped.is_empty() {
        return Ok(());
    }
    metrics::counter!("ds_queue_entries_dropped_total").increment(dropped.len() as u64);
    if !marker.iter().any(Option::is_some) {
        put_marker(service, generation, (queue, stream), surplus.group, now_ms).await?;
    }
    Ok(service.store.acknowledge(dropped).await?)
}

async fn put_marker(
    service: &DeliveryService,
    generation: &Generation,
    to: (&QueueId, &Arc<Stream>),
    group: GroupId,
    now_ms: u64,
) -> Result<(), DsError> {
    let (_, stream) = to;
    let mut prepared = Prepared::default();
    let payload = Payload::Dropped(group);
    let index = deliver::push_alone(service, &mut prepared, generation, to, &payload, now_ms)?;
    let deliveries = prepared.take_deliveries();
    service
        .store
        .deliver(deliveries, crate::store::Receipt::default())
        .await?;
    prepared.done(service);
    stream.backlog.waiting().share(&group).marker = Some(index);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const LIMITS: QueueLimits = QueueLimits {
        entries: 40,
        entries_of_group: 16,
    };
    const LOUD: GroupId = GroupId([1; 16]);
    const QUIET: GroupId = GroupId([2; 16]);

    fn filled(counts: &[(GroupId, u32)]) -> Backlog {
        let backlog = Backlog::default();
        let mut index = 0;
        for (group, count) in counts {
            for _ in 0..*count {
                backlog.add(group, index);
                index += 1;
            }
        }
        backlog
    }

    #[test]
    fn a_group_whose_share_is_full_gives_up_its_own_oldest_entries() {
        let backlog = filled(&[(QUIET, 3), (LOUD, 16)]);
        assert_eq!(backlog.waiting().surplus(&QUIET, LIMITS), None);
        let surplus = backlog.waiting().surplus(&LOUD, LIMITS).unwrap();
        assert_eq!((surplus.group, surplus.indices), (LOUD, vec![3, 4]));
        assert_eq!(backlog.waiting().surplus(&LOUD, LIMITS), None);
    }

    #[test]
    fn in_a_full_queue_the_group_with_most_gives_way_whoever_adds() {
        let other = GroupId([3; 16]);
        let backlog = filled(&[(QUIET, 10), (LOUD, 15), (other, 15)]);
        backlog.acknowledged(&[39]);
        backlog.add(&LOUD, 40);
        let surplus = backlog.waiting().surplus(&QUIET, LIMITS).unwrap();
        assert_eq!((surplus.group, surplus.indices), (LOUD, vec![10, 11]));
        assert_eq!(backlog.waiting().surplus(&QUIET, LIMITS), None);
    }

    #[test]
    fn what_the_client_has_stored_does_not_count() {
        let backlog = filled(&[(LOUD, 16)]);
        backlog.acknowledged(&[0, 5, 99]);
        assert_eq!(backlog.waiting().surplus(&LOUD, LIMITS), None);
        assert_eq!(backlog.waiting().total, 14);
        backlog.acknowledged(&(0..16).collect::<Vec<_>>());
        assert!(backlog.waiting().shares.is_empty());
    }

    #[test]
    fn nodes_share_the_bounds() {
        let shared = QueueLimits {
            entries: 100,
            entries_of_group: 7,
        };
        let expected = QueueLimits {
            entries: 34,
            entries_of_group: 3,
        };
        assert_eq!(shared.share_of(3), expected);
        assert_eq!(shared.share_of(1_000).entries_of_group, 1);
    }
}
