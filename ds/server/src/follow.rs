//! `FollowJournal`: an answer that goes on, in frames of one size. It reads the store when it
//! begins, when it was not handed what was appended, and once in a while, in case a hint was lost.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use ds_domain::execution::Failure;
use ds_domain::journal::read::{self, FollowJournal};
use ds_domain::operation::{Charge, Level, UnsignedRead as _};
use ds_domain::rows::Rows;
use ds_domain::tokens::IdentifiedToken;
use ds_domain::view::View;
use futures::stream;
use protocol::follow::{
    FollowBegun, FollowJournalRequest, FollowedStretch, Frame, FrameKind, Pace,
};
use protocol::ids::Position;
use protocol::journal::AnswerSize;
use protocol::{WIRE_VERSION, Wire as _};
use service::shutdown::Shutdown;
use service::stream_limits::EndsBy;
use tls_codec::Size as _;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{Notify, OwnedSemaphorePermit, broadcast};
use tokio::time::Interval;

use crate::departures::delay;
use crate::load::{Busy, Place};
use crate::looks::{Looked, Looking, look};
use crate::server::Server;
use crate::streams::{Aboard, Append, Handed, MOST_WAITING, Topic, in_frames};

/// Frames of a live stream that go out together, for a piece each costs more than a few bytes.
const MOST_TOGETHER: usize = 16 * 1024;

/// Why a stream does not begin.
pub(crate) enum NoStream {
    Busy(Busy),
    Failed(Failure),
}

impl From<Failure> for NoStream {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Busy> for NoStream {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

/// A stream that goes on.
struct Follower {
    server: Arc<Server>,
    request: FollowJournalRequest,
    /// The first position that was not told yet.
    next: Position,
    /// The end that was told last, without entries.
    end: FollowedStretch,
    frame_len: usize,
    /// Frames that are ready.
    ready: VecDeque<Bytes>,
    /// Appends that wait for a frame of an even stream.
    waiting: VecDeque<Arc<Append>>,
    /// There is something in the store that was not handed over.
    looks: bool,
    /// There was no place to look for it.
    waits_to_look: bool,
    /// An even stream looks beside its beats, from this position on.
    looking: Option<Looking>,
    /// It was told everything that there was, at some time. What is told since then is new, and
    /// told once for each seat: nobody pays for it, handed over or looked for. Otherwise whoever
    /// empties the readers' allowance would end all streams of a segment at one moment.
    was_up_to_date: bool,
    beats: u32,
    beat: Interval,
    /// Where other nodes write, too: when a live stream looks for that.
    again: Option<Interval>,
    /// The announced time, or that of this process.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
    handed: broadcast::Receiver<Handed>,
    /// Of a live stream.
    aboard: Option<Aboard>,
    _topic: Arc<Topic>,
    /// As of a read that waits.
    _seat: Arc<Notify>,
    _place: OwnedSemaphorePermit,
}

impl Server {
    /// Begins to tell what is appended to a segment.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        request: FollowJournalRequest,
        offered: Vec<IdentifiedToken>,
        place: Place<'_>,
    ) -> Result<(EndsBy, Body), NoStream> {
        let rows = Rows(self.keys.rows());
        let mut view = View::default();
        let expected = self.look(&mut view, |view, env| {
            let begins = (request.from, AnswerSize::Segment);
            read::expected(&request.segment, begins, view, env)
        });
        let expected = self.of_something(expected.await)?;
        let settings = self.settings.streams;
        let beat_ms = match request.pace {
            Pace::Live => settings.live_beat_ms,
            Pace::Even => settings.even_beat_ms,
        };
        let beats = settings.seconds.saturating_mul(1_000) / beat_ms.max(1);
        let frames = usize::try_from(beats).unwrap_or(usize::MAX);
        let bytes = frames
            .saturating_mul(expected.frame_len)
            .saturating_add(expected.bytes);
        let row = rows.segment(&request.segment);
        let busy = Busy {
            retry_after_ms: crate::load::BUSY_MS,
        };
        // Nobody pays for a stream that is not to be had.
        let seat = self.waits.subscribe(row, expected.waiting).ok_or(busy)?;
        let stream_place = self.load.stream()?;
        let bucket = FollowJournal::bucket(&request, &rows);
        self.draw(bucket, bytes, offered).await?;
        // Before the store is read: from here on nothing is missed.
        let (topic, handed) = self.streams.subscribe(row);
        let aboard = (request.pace == Pace::Live).then(|| topic.enter());
        let first = self
            .look(&mut View::default(), |view, env| {
                FollowJournal::read(&request, view, env)
            })
            .await?;
        drop(place);
        let (ends_by, over) = over(self.shutdown.clone(), settings.seconds);
        let frame_len = expected.frame_len;
        let mut follower = Follower {
            server: Arc::clone(self),
            next: first.first,
            end: FollowedStretch {
                entries: Vec::new(),
                ..first.clone()
            },
            request,
            frame_len,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            looks: false,
            waits_to_look: false,
            looking: None,
            was_up_to_date: false,
            beats: 0,
            beat: self.streams.departures.interval(beat_ms),
            again: match self.settings.look_again_ms {
                Some(ms) => {
                    let ms = u32::try_from(ms).unwrap_or(u32::MAX);
                    Some(self.streams.departures.interval(ms))
                }
                None => None,
            },
            over: Box::pin(over),
            is_over: false,
            handed,
            aboard,
            _topic: topic,
            _seat: seat,
            _place: stream_place,
        };
        let begun = FollowBegun {
            version: WIRE_VERSION,
            frame_len: u16::try_from(frame_len).unwrap_or(u16::MAX),
            beat_ms,
            lasts_ms: settings.seconds.saturating_mul(1_000),
        };
        let mut opening = begun.encode();
        follower.tell(first);
        let frames = follower.take_ready();
        opening.extend_from_slice(&frames);
        metrics::counter!("ds_streams_total").increment(1);
        let frames = stream::unfold((Some(Bytes::from(opening)), follower), |state| async {
            let (opening, mut follower) = state;
            let piece = match opening {
                Some(opening) => Some(opening),
                None => follower.next().await,
            };
            piece.map(|piece| (Ok::<_, Infallible>(piece), (None, follower)))
        });
        Ok((ends_by, Body::from_stream(frames)))
    }
}

/// The end of a stream that begins now.
fn over(shutdown: Shutdown, seconds: u32) -> (EndsBy, impl Future<Output = ()>) {
    let end = tokio::time::sleep(Duration::from_secs(seconds.into()));
    let ends_by = EndsBy(end.deadline());
    let over = async move {
        tokio::select! {
            () = shutdown.requested() => {}
            () = end => {}
        }
    };
    (ends_by, over)
}

/// What a look into the store makes ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tell {
    /// A frame at least.
    All,
    /// Nothing where there is nothing new.
    News,
}

/// What a live stream waits for.
enum News {
    Beat,
    Again,
    Departure,
    Over,
}

impl Follower {
    /// The next frames. None: that was all.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.is_over && self.ready.is_empty() {
                return None;
            }
            match self.request.pace {
                Pace::Live => {
                    if !self.ready.is_empty() {
                        return Some(self.take_ready());
                    }
                    self.live().await;
                }
                Pace::Even => {
                    self.even().await;
                    if let Some(frame) = self.ready.pop_front() {
                        return Some(frame);
                    }
                }
            }
        }
    }

    /// Live: short ones together; even: a frame. Longer ones are those of all streams, and are not
    /// copied for each.
    fn take_ready(&mut self) -> Bytes {
        let first = self.ready.pop_front().unwrap_or_default();
        let mut together = Vec::new();
        while self.request.pace == Pace::Live
            && let Some(next) = self.ready.front()
            && first.len().max(together.len()) + next.len() <= MOST_TOGETHER
        {
            if together.is_empty() {
                together.extend_from_slice(&first);
            }
            together.extend_from_slice(next);
            self.ready.pop_front();
        }
        match together.is_empty() {
            true => first,
            false => together.into(),
        }
    }

    /// Makes something ready, or waits.
    async fn live(&mut self) {
        if self.looks && !self.waits_to_look {
            return self.look(Tell::News).await;
        }
        let waits_to_look = self.waits_to_look;
        let later = async move {
            match waits_to_look {
                true => tokio::time::sleep(delay()).await,
                false => std::future::pending().await,
            }
        };
        let again = async {
            match &mut self.again {
                Some(again) => drop(again.tick().await),
                None => std::future::pending().await,
            }
        };
        let aboard = &self.aboard;
        let departure = async {
            match aboard {
                Some(aboard) => aboard.departs().await,
                None => std::future::pending().await,
            }
        };
        let news = tokio::select! {
            biased;
            () = &mut self.over => News::Over,
            () = departure => News::Departure,
            _ = self.beat.tick() => News::Beat,
            () = again => News::Again,
            () = later => News::Again,
        };
        match news {
            News::Over => self.end(FrameKind::Over),
            // It is looked for, whoever was to hand something over.
            News::Beat => self.look(Tell::All).await,
            News::Again => self.look(Tell::News).await,
            News::Departure => {
                while !self.is_over {
                    match self.handed.try_recv() {
                        // A look finds all that was handed over before it.
                        Ok(_) if self.looks => {}
                        Ok(handed) => self.handed(handed),
                        Err(TryRecvError::Lagged(_)) => self.end(FrameKind::Behind),
                        Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                    }
                }
            }
        }
    }

    /// Live: makes ready what was handed over.
    fn handed(&mut self, handed: Handed) {
        match handed {
            Handed::Append(append) if append.stretch.first == self.next => {
                self.ready.push_back(append.frames(self.frame_len));
                self.told(&append.stretch);
            }
            // It was told already.
            Handed::Append(append) if append.stretch.head.next <= self.next => {}
            // Something before it was not handed over.
            Handed::Append(_) | Handed::Look => self.looks = true,
        }
    }

    /// After the beat: makes one frame ready. The store is looked into beside the beats, so that no
    /// frame waits for it.
    async fn even(&mut self) {
        self.begin_to_look();
        let is_over = loop {
            tokio::select! {
                biased;
                () = &mut self.over => break true,
                looked = Looking::found(&mut self.looking) => self.found(looked),
                _ = self.beat.tick() => break false,
            }
        };
        if self.is_over && (!is_over || self.ready.len() == 1) {
            // The last frames come like all others.
            return;
        }
        self.collect();
        if is_over {
            // What is left would come after the announced time: it is read.
            let is_all = self.ready.is_empty()
                && self.waiting.is_empty()
                && !self.looks
                && self.looking.is_none();
            self.ready.clear();
            return self.end(match is_all {
                true => FrameKind::Over,
                false => FrameKind::Behind,
            });
        }
        self.beats += 1;
        if self.ready.is_empty() {
            let stretch = self.gathered().unwrap_or_else(|| self.end.clone());
            self.tell(stretch);
        }
    }

    /// Even: looks for what was not handed over, if that is due and nothing else is to be told.
    fn begin_to_look(&mut self) {
        let settings = &self.server.settings;
        let look_ms = u64::from(settings.streams.live_beat_ms);
        let look_ms = settings.look_again_ms.unwrap_or(look_ms);
        let beats_ms = u64::from(self.beats) * u64::from(settings.streams.even_beat_ms);
        let is_due = self.looks || beats_ms >= look_ms;
        let tells = self.is_over || !self.ready.is_empty() || !self.waiting.is_empty();
        if is_due && !tells && self.looking.is_none() {
            (self.looks, self.beats) = (false, 0);
            let server = Arc::clone(&self.server);
            self.looking = Some(Looking::begin(server, self.request.segment, self.next));
        }
    }

    /// Even: takes what was found.
    fn found(&mut self, looked: Looked) {
        let from = self.looking.take().map(|looking| looking.from);
        if from == Some(self.next) && self.ready.is_empty() && self.waiting.is_empty() {
            return self.looked(looked, Tell::News);
        }
        // Something was handed over meanwhile, and is told first.
        self.looks = true;
    }

    /// Even: takes what was handed over.
    fn collect(&mut self) {
        loop {
            let told_to = match self.waiting.back() {
                Some(append) => append.stretch.head.next,
                None => self.next,
            };
            match self.handed.try_recv() {
                Ok(Handed::Append(append)) if append.stretch.head.next <= told_to => {}
                Ok(Handed::Append(append))
                    if append.stretch.first == told_to && self.waiting.len() < MOST_WAITING =>
                {
                    self.waiting.push_back(append);
                }
                // What was too much to be handed over is in the store, and no reason to end: that
                // would be the end of all streams of the segment.
                Ok(Handed::Append(_) | Handed::Look) | Err(TryRecvError::Lagged(_)) => {
                    self.looks = true;
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Even: what waits, as much as fits into one frame, and one append at least.
    fn gathered(&mut self) -> Option<FollowedStretch> {
        let first = self.waiting.pop_front()?;
        let mut stretch = first.stretch.clone();
        let room = Frame::room(self.frame_len);
        while let Some(append) = self.waiting.front() {
            let more = append.stretch.entries.tls_serialized_len();
            if stretch.tls_serialized_len() + more > room {
                break;
            }
            let FollowedStretch {
                head, step, closed, ..
            } = &append.stretch;
            (stretch.head, stretch.step, stretch.closed) = (head.clone(), *step, *closed);
            stretch
                .entries
                .extend(append.stretch.entries.iter().cloned());
            self.waiting.pop_front();
        }
        Some(stretch)
    }

    /// Live: makes ready what the store has beyond what was told.
    async fn look(&mut self, tell: Tell) {
        (self.looks, self.waits_to_look) = (false, false);
        let looking = look(Arc::clone(&self.server), self.request.segment, self.next);
        let looked = looking.await;
        self.looked(looked, tell);
    }

    fn looked(&mut self, looked: Looked, tell: Tell) {
        let stretch = match looked {
            Looked::Found(stretch) => stretch,
            // Whoever reads on finds out why there is nothing.
            Looked::Gone => return self.end(FrameKind::Over),
            Looked::Nothing => {
                // All followers of a segment look for an entry that is not handed over.
                (self.looks, self.waits_to_look) = (true, true);
                if tell == Tell::All {
                    self.tell(self.end.clone());
                }
                return;
            }
        };
        let is_news = !stretch.entries.is_empty() || stretch.closed == 1;
        if tell == Tell::News && !is_news {
            return self.told(&stretch);
        }
        if !stretch.entries.is_empty() && !self.was_up_to_date {
            let server = &self.server;
            let bucket = Rows(server.keys.rows()).segment_bucket(&self.request.segment);
            let charge = Charge {
                level: Level::Segment,
                bucket,
                bytes: stretch.tls_serialized_len(),
            };
            if server.charge(&[charge]).is_err() {
                return self.end(FrameKind::Behind);
            }
        }
        self.tell(stretch);
    }

    /// Makes a stretch ready.
    fn tell(&mut self, stretch: FollowedStretch) {
        let mut frames = in_frames(&stretch, self.frame_len);
        match self.request.pace {
            Pace::Live => self.ready.push_back(frames),
            Pace::Even => {
                while !frames.is_empty() {
                    let frame = frames.split_to(self.frame_len.min(frames.len()));
                    self.ready.push_back(frame);
                }
            }
        }
        self.told(&stretch);
    }

    /// A stretch is ready: goes on behind it.
    fn told(&mut self, stretch: &FollowedStretch) {
        let entries = u64::try_from(stretch.entries.len()).unwrap_or(u64::MAX);
        self.next = Position(stretch.first.0.saturating_add(entries));
        self.end = FollowedStretch {
            first: self.next,
            entries: Vec::new(),
            head: stretch.head.clone(),
            ..*stretch
        };
        let is_all = self.next >= stretch.head.next;
        self.was_up_to_date |= is_all;
        self.looks |= !is_all && !stretch.entries.is_empty();
        if is_all && stretch.closed == 1 {
            self.end(FrameKind::Over);
        }
    }

    fn end(&mut self, kind: FrameKind) {
        let outcome = match kind {
            FrameKind::Behind => "behind",
            _ => "over",
        };
        metrics::counter!("ds_streams_ended_total", "outcome" => outcome).increment(1);
        let mut frame = Vec::new();
        Frame::put_end(kind, self.frame_len, &mut frame);
        self.ready.push_back(frame.into());
        self.is_over = true;
    }
}
