//! What is appended to a segment, handed to whoever follows it, as it was stored. A hint only: a
//! follower looks into the store for what it was not handed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use ds_domain::rows::SegmentRow;
use ds_domain::store::Stretch;
use protocol::Wire as _;
use protocol::follow::{FollowedStretch, Frame};
use protocol::journal::{Entry, SignedHead};
use tokio::sync::broadcast;

use crate::departures::{Departures, Passenger};

/// So many appends wait for a follower: whoever is further behind is told so and reads.
pub(crate) const MOST_WAITING: usize = 64;

/// Bytes of appends that wait for followers, of the whole process. What comes beyond is read from
/// the store.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Of one segment: one that nobody takes leaves room for others.
const MOST_BYTES_OF_SEGMENT: usize = 2 * 1024 * 1024;

/// Segments that somebody follows.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    topics: Mutex<HashMap<SegmentRow, Weak<Topic>>>,
    pub(crate) departures: Arc<Departures>,
    held: Arc<AtomicUsize>,
}

/// A segment that somebody follows.
#[derive(Debug)]
pub(crate) struct Topic {
    sender: broadcast::Sender<Handed>,
    /// Its live streams.
    live: Mutex<HashMap<usize, Arc<Passenger>>>,
    held: Arc<AtomicUsize>,
}

/// A live stream of a segment, until dropped.
#[derive(Debug)]
pub(crate) struct Aboard {
    topic: Arc<Topic>,
    passenger: Arc<Passenger>,
}

impl Topic {
    fn live(&self) -> MutexGuard<'_, HashMap<usize, Arc<Passenger>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on a departure follows on everything that is handed over.
    pub(crate) fn enter(self: &Arc<Self>) -> Aboard {
        let passenger = Arc::new(Passenger::default());
        let name = Arc::as_ptr(&passenger).addr();
        self.live().insert(name, Arc::clone(&passenger));
        Aboard {
            topic: Arc::clone(self),
            passenger,
        }
    }
}

impl Aboard {
    /// See [`Passenger::departs`].
    pub(crate) async fn departs(&self) {
        self.passenger.departs().await;
    }
}

impl Drop for Aboard {
    fn drop(&mut self) {
        let name = Arc::as_ptr(&self.passenger).addr();
        self.topic.live().remove(&name);
    }
}

/// What a follower is handed.
#[derive(Debug, Clone)]
pub(crate) enum Handed {
    /// What was appended.
    Append(Arc<Append>),
    /// Something was appended: it is in the store.
    Look,
}

/// An append, as followers are told it. Encoded once for all of them.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) stretch: FollowedStretch,
    frame_len: usize,
    frames: OnceLock<Bytes>,
    held: Arc<Held>,
}

/// Frames of an append: bytes that wait, whoever has them.
struct Frames {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Frames {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Append {
    /// In frames of this length.
    pub(crate) fn frames(&self, frame_len: usize) -> Bytes {
        let frames = || {
            Bytes::from_owner(Frames {
                bytes: in_frames(&self.stretch, frame_len),
                _held: Arc::clone(&self.held),
            })
        };
        if frame_len == self.frame_len {
            self.frames.get_or_init(frames).clone()
        } else {
            frames()
        }
    }
}

/// A stretch in frames.
pub(crate) fn in_frames(stretch: &FollowedStretch, frame_len: usize) -> Bytes {
    let mut frames = Vec::new();
    Frame::put_stretch(&stretch.encode(), frame_len, &mut frames);
    frames.into()
}

/// Bytes that wait, until dropped.
#[derive(Debug)]
struct Held {
    bytes: usize,
    of: Arc<AtomicUsize>,
    of_segment: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of_segment.fetch_sub(self.bytes, Ordering::Relaxed);
        show(self.of.fetch_sub(self.bytes, Ordering::Relaxed) - self.bytes);
    }
}

fn show(held: usize) {
    metrics::gauge!("ds_stream_bytes_waiting").set(held as f64);
}

fn len(entry: &Entry) -> usize {
    match entry {
        Entry::Handshake(row) | Entry::Message(row) => row.as_slice().len(),
        Entry::Expired(hash) => hash.0.len(),
    }
}

/// Beyond this number of segments, those that nobody follows any more are cleared out.
const SWEEP_AT: usize = 4096;

impl Streams {
    /// From here on everything that is appended is handed over. The topic is to be kept as long.
    pub(crate) fn subscribe(
        &self,
        segment: SegmentRow,
    ) -> (Arc<Topic>, broadcast::Receiver<Handed>) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if topics.len() >= SWEEP_AT && topics.len().is_power_of_two() {
            topics.retain(|_, topic| topic.strong_count() > 0);
        }
        if let Some(topic) = topics.get(&segment).and_then(Weak::upgrade) {
            let handed = topic.sender.subscribe();
            return (topic, handed);
        }
        let (sender, handed) = broadcast::channel(MOST_WAITING);
        let topic = Arc::new(Topic {
            sender,
            live: Mutex::default(),
            held: Arc::default(),
        });
        topics.insert(segment, Arc::downgrade(&topic));
        (topic, handed)
    }

    fn topic(&self, segment: &SegmentRow) -> Option<Arc<Topic>> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.get(segment)?.upgrade();
        if topic.is_none() {
            topics.remove(segment);
        }
        topic
    }

    /// Hands an append to whoever follows the segment; `sign` its end. Waits for nobody.
    pub(crate) fn publish(
        &self,
        segment: &SegmentRow,
        stretch: Option<Stretch>,
        sign: impl FnOnce(&Stretch) -> Option<SignedHead>,
    ) {
        let Some(topic) = self.topic(segment) else {
            return;
        };
        let handed = stretch.and_then(|stretch| {
            let head = sign(&stretch)?;
            self.hold(&topic, stretch, head)
        });
        // Whoever has gone meanwhile needs nothing.
        let _ = topic
            .sender
            .send(handed.map_or(Handed::Look, Handed::Append));
        let live = topic.live();
        if !live.is_empty() {
            self.departures.board(live.values().cloned());
        }
    }

    fn hold(&self, topic: &Topic, stretch: Stretch, head: SignedHead) -> Option<Arc<Append>> {
        let entries: usize = stretch.entries.iter().map(len).sum();
        // The entries, and their frames.
        let bytes = 2 * entries + 2 * stretch.frame_len;
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let before_of_segment = topic.held.fetch_add(bytes, Ordering::Relaxed);
        let held = Arc::new(Held {
            bytes,
            of: Arc::clone(&self.held),
            of_segment: Arc::clone(&topic.held),
        });
        show(before + bytes);
        let has_room =
            before + bytes <= MOST_BYTES && before_of_segment + bytes <= MOST_BYTES_OF_SEGMENT;
        has_room.then(|| {
            Arc::new(Append {
                stretch: FollowedStretch {
                    head,
                    step: stretch.step,
                    closed: u8::from(stretch.closed),
                    first: stretch.first,
                    entries: stretch.entries,
                },
                frame_len: stretch.frame_len,
                frames: OnceLock::new(),
                held,
            })
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use crypto::journal::End;
    use protocol::codec::opaque;
    use protocol::ids::{ChainHead, Position, SegmentId, Step};

    use super::*;

    fn stretch(first: u64, len: usize) -> Stretch {
        Stretch {
            segment: SegmentId([1; 32]),
            end: End {
                generation: 0,
                next: Position(first + 1),
                chain: ChainHead([2; 32]),
            },
            step: Step(0),
            closed: false,
            first: Position(first),
            entries: vec![Entry::Message(opaque(vec![3; len]))],
            frame_len: 2_048,
        }
    }

    fn signed(stretch: &Stretch) -> Option<SignedHead> {
        Some(SignedHead {
            generation: 0,
            next: stretch.end.next,
            chain: stretch.end.chain,
            signature: [0; 64],
        })
    }

    fn row(number: u8) -> SegmentRow {
        let keys = [&[1][..], &[3; 32], &[1], &[4; 32]].concat();
        let keys = crypto::service_keys::ServiceKeys::from_file(&keys).unwrap();
        ds_domain::rows::Rows(keys.rows()).segment(&SegmentId([number; 32]))
    }

    #[test]
    fn what_nobody_takes_is_bounded_and_what_is_beyond_is_to_be_looked_for() {
        let streams = Streams::default();
        let mut followed = Vec::new();
        // Of many segments, all followed by somebody who takes nothing.
        for number in 0..40 {
            let (topic, handed) = streams.subscribe(row(number));
            for at in 0..MOST_WAITING as u64 {
                streams.publish(&row(number), Some(stretch(at, 60_000)), signed);
                assert!(streams.held.load(Ordering::Relaxed) <= MOST_BYTES);
                assert!(topic.held.load(Ordering::Relaxed) <= MOST_BYTES_OF_SEGMENT);
            }
            followed.push((topic, handed));
        }
        // As long as there is room for all, a segment takes it from no other one.
        for (_, handed) in &mut followed[..30] {
            assert!(matches!(handed.try_recv(), Ok(Handed::Append(_))));
        }
        let (_, last) = followed.last_mut().unwrap();
        assert!(matches!(last.try_recv(), Ok(Handed::Look)));
        streams.publish(&row(39), Some(stretch(64, 60_000)), signed);
        streams.publish(&row(39), Some(stretch(65, 60_000)), signed);
        assert!(matches!(
            last.try_recv(),
            Err(broadcast::error::TryRecvError::Lagged(_))
        ));
        drop(followed);
        assert_eq!(streams.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn frames_count_for_as_long_as_somebody_has_them() {
        let streams = Streams::default();
        let (_topic, mut handed) = streams.subscribe(row(0));
        streams.publish(&row(0), Some(stretch(0, 60_000)), signed);
        let Ok(Handed::Append(append)) = handed.try_recv() else {
            panic!("not handed over")
        };
        // Of the stream's own length, and of another one.
        for frame_len in [2_048, 4_096] {
            let mut frames = append.frames(frame_len);
            let rest = frames.split_off(16 * 1024);
            drop(frames);
            assert!(streams.held.load(Ordering::Relaxed) > 0);
            drop(rest);
        }
        let frames = append.frames(4_096);
        drop((append, handed, _topic));
        assert!(streams.held.load(Ordering::Relaxed) > 0);
        drop(frames);
        assert_eq!(streams.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn nothing_is_kept_of_segments_that_nobody_follows_any_more() {
        let streams = Streams::default();
        let followed: Vec<_> = (0..3)
            .map(|number| streams.subscribe(row(number)))
            .collect();
        drop(followed);
        for number in 0..3 {
            streams.publish(&row(number), Some(stretch(0, 9)), |_| panic!("not signed"));
        }
        assert!(streams.topics.lock().unwrap().is_empty());
    }
}
