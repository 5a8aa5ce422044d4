//! Fan-out: one payload, one small entry of uniform size for each recipient, all pure inserts.

use std::collections::HashSet;
use std::sync::Arc;

use crypto::queue::seal_payload;
use protocol::codec::WireSecret;
use protocol::delivery::{EntryContent, Payload};
use protocol::ids::{GroupId, QueueId};
use protocol::removal::RemovalReason;
use protocol::time::day_of;

use super::backlog;
use super::streams::{BLOCK, Generation, Stream};
use crate::error::DsError;
use crate::service_state::DeliveryService;
use crate::store::{DayRow, Deliveries, NewPayload};

/// Where a delivery comes from.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    /// A group, which a queue can block.
    Group(GroupId),
    /// Whoever asks for a connection.
    ConnectionRequest,
}

/// A queue with the leaf that it belongs to (0 outside of groups).
#[derive(Debug, Clone, Copy)]
pub struct Recipient {
    /// For [`Prepared::take_gone`].
    pub leaf: u32,
    /// Where to.
    pub queue: QueueId,
}

/// A leaf that is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// The leaf.
    pub leaf: u32,
    /// Why.
    pub reason: RemovalReason,
}

/// Deliveries that wait for their transition.
#[derive(Default)]
pub struct Prepared {
    deliveries: Deliveries,
    delivered: Vec<(Arc<Stream>, u32)>,
    queues: Vec<QueueId>,
    gone: Vec<Gone>,
}

impl Prepared {
    /// For the store, in the order of the row names, which are pseudo-random: in the order of the roster the
    /// engine's own counters (sequence numbers, row addresses) would show which entries of two messages are
    /// for the same member. It also spares the engine a search from the top for each row.
    pub fn take_deliveries(&mut self) -> Deliveries {
        let mut deliveries = std::mem::take(&mut self.deliveries);
        deliveries
            .entries
            .sort_unstable_by_key(|(at, _)| (at.day, at.row));
        deliveries
            .blocks
            .sort_unstable_by_key(|at| (at.day, at.row));
        deliveries
    }

    /// After the transition is durable: remembers the markers and wakes the recipients.
    pub fn done(self, service: &DeliveryService) {
        for (stream, index) in &self.delivered {
            stream.mark(*index);
        }
        service.wakeups.wake(&self.queues);
    }

    /// Leaves whose queue is no longer there, or has not been read for too long, since the last call.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        std::mem::take(&mut self.gone)
    }
}

/// Adds `payload` for `recipients` to what is prepared. Queues that do not exist are passed over:
/// a member whose queue is gone cannot keep the others from talking.
///
/// # Errors
/// [`DsError::Storage`].
pub async fn prepare(
    service: &DeliveryService,
    prepared: &mut Prepared,
    origin: Origin,
    recipients: &[Recipient],
    payload: &Payload,
    now_ms: u64,
) -> Result<(), DsError> {
    if recipients.is_empty() {
        return Ok(());
    }
    service.drained.observe(service.clock.now_unix_ms());
    let day = day_of(now_ms);
    let generation = service.streams.generation(service, day).await?;
    let (payload_key, sealed) = seal_payload(payload)?;
    let at = DayRow {
        day,
        row: crypto::random()?,
    };
    let content = EntryContent {
        kind: payload.kind(),
        payload_key: WireSecret::new(*payload_key.expose()),
        sequence: service.sequence.next(now_ms),
    };
    let queues: Vec<QueueId> = recipients.iter().map(|recipient| recipient.queue).collect();
    let streams = generation.streams(service, &queues, now_ms).await?;
    let mut references: u32 = 0;
    let mut written = HashSet::new();
    for (recipient, found) in recipients.iter().zip(streams) {
        let queue = &recipient.queue;
        let leaf = recipient.leaf;
        let Some(open) = found else {
            let reason = RemovalReason::QueueGone;
            prepared.gone.push(Gone { leaf, reason });
            continue;
        };
        if let Some(idle_days) = open.abandoned_for(service.settings.inactivity_days) {
            let reason = RemovalReason::Inactive(day.saturating_sub(idle_days));
            prepared.gone.push(Gone { leaf, reason });
        }
        if let Origin::Group(group) = origin
            && open.blocks(service, queue, &group)
        {
            continue;
        }
        // Leaves that name one queue have one reader.
        if !written.insert(*queue) {
            continue;
        }
        let to = (queue, &open.stream);
        if let (Origin::Group(group), Payload::Message(_)) = (origin, payload) {
            backlog::make_room(service, &generation, to, &group, now_ms).await?;
            let index = push_entry(service, prepared, &generation, to, at, &content)?;
            open.stream.backlog.add(&group, index);
        } else {
            push_entry(service, prepared, &generation, to, at, &content)?;
        }
        references = references.saturating_add(1);
    }
    if references > 0 {
        prepared.deliveries.payloads.push(NewPayload {
            at,
            sealed,
            references,
        });
    }
    Ok(())
}

/// Adds a payload of its own for one queue.
pub(super) fn push_alone(
    service: &DeliveryService,
    prepared: &mut Prepared,
    generation: &Generation,
    to: (&QueueId, &Arc<Stream>),
    payload: &Payload,
    now_ms: u64,
) -> Result<u32, DsError> {
    let (payload_key, sealed) = seal_payload(payload)?;
    let at = DayRow {
        day: generation.day,
        row: crypto::random()?,
    };
    let content = EntryContent {
        kind: payload.kind(),
        payload_key: WireSecret::new(*payload_key.expose()),
        sequence: service.sequence.next(now_ms),
    };
    let index = push_entry(service, prepared, generation, to, at, &content)?;
    prepared.deliveries.payloads.push(NewPayload {
        at,
        sealed,
        references: 1,
    });
    Ok(index)
}

fn push_entry(
    service: &DeliveryService,
    prepared: &mut Prepared,
    generation: &Generation,
    (queue, stream): (&QueueId, &Arc<Stream>),
    payload: DayRow,
    content: &EntryContent,
) -> Result<u32, DsError> {
    let index = stream.take_index();
    let id = generation.entry_id(index);
    let row = service.rows().entry(queue, &id);
    let sealed = stream.key.seal(&id, content)?;
    let mut value = Vec::with_capacity(EntryValue::LEN);
    EntryValue {
        payload,
        encapsulated_key: stream.encapsulated_key,
        sealed: &sealed,
    }
    .write(&mut value);
    generation.cipher.seal(&row, &mut value)?;
    prepared.deliveries.entries.push((
        DayRow {
            day: generation.day,
            row,
        },
        value,
    ));
    for block in stream.unmarked_blocks(index) {
        prepared.deliveries.blocks.push(DayRow {
            day: generation.day,
            row: service.rows().block(
                queue,
                &generation.entry_id(block.saturating_mul(BLOCK)),
                block,
            ),
        });
    }
    prepared.delivered.push((Arc::clone(stream), index));
    prepared.queues.push(*queue);
    Ok(index)
}

/// The value of an entry row, before it is sealed under the row cipher:
/// `payload day(4) || payload row(16) || enc(32) || sealed content`.
pub struct EntryValue<'a> {
    /// Where the payload is.
    pub payload: DayRow,
    /// The stream's encapsulation.
    pub encapsulated_key: [u8; 32],
    /// Sealed in the stream.
    pub sealed: &'a [u8],
}

impl<'a> EntryValue<'a> {
    const LEN: usize = 4 + 16 + 32 + 41 + 16 + 16;

    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.payload.day.to_be_bytes());
        to.extend_from_slice(&self.payload.row);
        to.extend_from_slice(&self.encapsulated_key);
        to.extend_from_slice(self.sealed);
    }

    /// Reads an opened value.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (day, rest) = bytes.split_first_chunk::<4>()?;
        let (row, rest) = rest.split_first_chunk::<16>()?;
        let (encapsulated_key, sealed) = rest.split_first_chunk::<32>()?;
        Some(Self {
            payload: DayRow {
                day: u32::from_be_bytes(*day),
                row: *row,
            },
            encapsulated_key: *encapsulated_key,
            sealed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_leave_in_the_order_of_their_names_whoever_they_are_for() {
        let at = |row| DayRow {
            day: 7,
            row: [row; 16],
        };
        let mut prepared = Prepared::default();
        prepared.deliveries.entries = [3, 1, 2].map(|row| (at(row), vec![row])).to_vec();
        prepared.deliveries.blocks = [2, 1].map(at).to_vec();
        let deliveries = prepared.take_deliveries();
        assert_eq!(
            deliveries.entries,
            [1, 2, 3].map(|row| (at(row), vec![row])).to_vec()
        );
        assert_eq!(deliveries.blocks, [1, 2].map(at).to_vec());
        assert!(prepared.take_deliveries().entries.is_empty());
    }
}
