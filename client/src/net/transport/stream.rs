//! An answer that goes on: a journal that is followed (draft-ietf-ohai-chunked-ohttp-08).

use std::time::Duration;

use http::StatusCode;
use oblivious::binary_http::{Decoder, Limits, ResponseHead};
use oblivious::chunked::{self, RequestEncoder, ResponseDecoder};
use oblivious::{Aead, PublicKey};
use protocol::follow::{
    FollowBegun, FollowJournalRequest, FollowedStretch, Frame, FrameKind, LONGEST_BEAT_MS,
    LONGEST_FRAME, LONGEST_MS, SHORTEST_FRAME,
};
use protocol::operation::Operation;
use protocol::{WIRE_VERSION, Wire as _};

use crate::net::clock::{Clock as _, SystemClock};
use crate::net::http as web;

use super::{Transport, date_of, encoded, inner};

/// What a network holds back without anybody's intent.
const GRACE_MS: u64 = 5_000;
/// What a stream brings at most, whatever it announces.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// As long as an answer to a read.
const LONGEST_STRETCH: usize = 4 * 1024 * 1024;

/// Why a stream brings nothing more: nothing that it said is in doubt, and reading goes on without
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamFault {
    /// There is no way to it now.
    Unreachable,
    /// Relay, gateway or service want none.
    Refused,
    /// No frame came in time.
    Stalled,
    /// It broke off.
    Broken,
    /// The service says something else than a stream.
    Malformed,
    /// The service has ended it: this client was too slow.
    Behind,
    /// The service has ended it long before the time that it had announced.
    Early,
    /// What it said is not in the journal that was read so far.
    Contradicts,
}

impl StreamFault {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Stalled => "stalled",
            Self::Broken => "broken",
            Self::Malformed => "malformed",
            Self::Behind => "behind",
            Self::Early => "early",
            Self::Contradicts => "contradicts",
        }
    }
}

/// What a stream says.
#[derive(Debug)]
pub(crate) enum Told {
    Stretch(FollowedStretch),
    /// It has ended as it should.
    Over,
}

/// An answer that goes on.
pub(crate) struct Stream {
    response: web::Response,
    /// None after the final chunk.
    opener: Option<ResponseDecoder>,
    http: Decoder<ResponseHead>,
    /// Content that was not read yet: less than a frame, between two calls.
    content: Vec<u8>,
    /// The parts of a stretch that have come.
    stretch: Vec<u8>,
    begun: Option<FollowBegun>,
    /// When the first frame must be there, as long as it is not: a path that holds an answer back
    /// until it is whole is none for a stream.
    first_by_ms: Option<u64>,
    /// When the last frame came.
    heard_ms: u64,
    /// The wall clock's lead before the other one at that time.
    lead_ms: u64,
    /// When all must be over.
    over_ms: u64,
}

impl Transport {
    /// Asks for a stream, once. Whatever comes of that is learned by those who read: there the same
    /// obstacles are met, and told.
    pub(crate) async fn follow_journal(
        &mut self,
        request: &FollowJournalRequest,
    ) -> Result<Stream, StreamFault> {
        if self.service.is_some() {
            return Err(StreamFault::Refused);
        }
        let attempt = self.budget.attempt();
        crate::runtime::timeout(attempt, self.begin_to_follow(request))
            .await
            .unwrap_or(Err(StreamFault::Unreachable))
    }

    async fn begin_to_follow(
        &mut self,
        request: &FollowJournalRequest,
    ) -> Result<Stream, StreamFault> {
        let config = self
            .current_key_config()
            .await
            .map_err(|_| StreamFault::Unreachable)?;
        let refused = |_| StreamFault::Refused;
        let (scheme, authority) = self.endpoints.ds_origin().map_err(refused)?;
        let path = Operation::FollowJournal.path();
        let date = date_of(self.time.now_unix_ms());
        let mut message = inner("POST", &scheme, &authority, path, &date);
        message.put_header("content-type", protocol::REQUEST_MEDIA_TYPE);
        message.write_content(request.encode());
        let encoded = encoded(&message, false).map_err(refused)?;
        let mut sealed = Vec::new();
        let opener = PublicKey::of_config(&config)
            .and_then(|key| RequestEncoder::new(&key, Aead::Aes128Gcm).ok())
            .and_then(|encoder| encoder.finish(&encoded, &mut sealed).ok())
            .ok_or(StreamFault::Refused)?;
        let now_ms = SystemClock.monotonic_ms();
        let longest = Duration::from_millis(LONGEST_MS.into()) + self.budget.attempt();
        let response = self
            .http
            .post(&self.endpoints.relay)
            .header("content-type", chunked::REQUEST)
            .header("incremental", "?1")
            .timeout(longest)
            .body(sealed)
            .send()
            .await
            .map_err(|_| StreamFault::Unreachable)?;
        let is_stream = response.status() == StatusCode::OK
            && response
                .headers()
                .get("content-type")
                .is_some_and(|kind| kind.as_bytes() == chunked::RESPONSE.as_bytes());
        if !is_stream {
            return Err(StreamFault::Refused);
        }
        Ok(Stream {
            response,
            opener: Some(opener),
            http: Decoder::new(Limits {
                max_content_bytes: MOST_BYTES,
                ..Limits::default()
            }),
            content: Vec::new(),
            stretch: Vec::new(),
            begun: None,
            first_by_ms: Some(now_ms.saturating_add(attempt_ms(self.budget.attempt()))),
            heard_ms: now_ms,
            lead_ms: lead_ms(),
            over_ms: now_ms.saturating_add(u64::from(LONGEST_MS) + GRACE_MS),
        })
    }
}

fn attempt_ms(attempt: Duration) -> u64 {
    u64::try_from(attempt.as_millis()).unwrap_or(u64::MAX)
}

/// How far the wall clock is before the one that nobody sets: more after this device has slept.
fn lead_ms() -> u64 {
    let unix_ms = SystemClock.now_unix_ms();
    unix_ms.saturating_sub(SystemClock.monotonic_ms())
}

impl Stream {
    /// When the last frame came, or the answer began.
    pub(crate) fn heard_ms(&self) -> u64 {
        self.heard_ms
    }

    /// Whether nothing of it waits to be taken in, as far as this client can know: it was awake
    /// since the last frame.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_at_rest_at(lead_ms())
    }

    fn is_at_rest_at(&self, lead_ms: u64) -> bool {
        let was_awake = lead_ms.abs_diff(self.lead_ms) <= GRACE_MS;
        was_awake && self.stretch.is_empty() && self.content.is_empty()
    }

    /// When it is given up, if no frame comes before.
    fn silent_ms(&self) -> u64 {
        // Bytes that are no frame are no sign of life.
        let beat_ms = self.begun.map_or(LONGEST_BEAT_MS, |begun| begun.beat_ms);
        let next_ms = self
            .heard_ms
            .saturating_add(2 * u64::from(beat_ms) + GRACE_MS);
        self.first_by_ms.unwrap_or(next_ms).min(self.over_ms)
    }

    /// What comes next. A future that is dropped takes nothing away.
    pub(crate) async fn next(&mut self) -> Result<Told, StreamFault> {
        loop {
            if let Some(told) = self.read()? {
                return Ok(told);
            }
            if self.opener.is_none() {
                return Err(StreamFault::Broken);
            }
            let left_ms = self.silent_ms().saturating_sub(SystemClock.monotonic_ms());
            let piece =
                crate::runtime::timeout(Duration::from_millis(left_ms), self.response.chunk())
                    .await
                    .map_err(|_| StreamFault::Stalled)?
                    .map_err(|_| StreamFault::Broken)?;
            let mut opened = Vec::new();
            match (piece, &mut self.opener) {
                (Some(piece), Some(opener)) => opener
                    .push(&piece, &mut opened)
                    .map_err(|_| StreamFault::Broken)?,
                (None, opener) => {
                    let opener = opener.take().ok_or(StreamFault::Broken)?;
                    opener
                        .finish(&mut opened)
                        .map_err(|_| StreamFault::Broken)?;
                }
                (Some(_), None) => return Err(StreamFault::Broken),
            }
            self.http
                .push(&opened, &mut self.content)
                .map_err(|_| StreamFault::Malformed)?;
        }
    }

    /// What has come as a whole.
    fn read(&mut self) -> Result<Option<Told>, StreamFault> {
        match self.http.head() {
            None => return Ok(None),
            Some(head) if head.status != StatusCode::OK => return Err(StreamFault::Refused),
            Some(_) => {}
        }
        let begun = match self.begun {
            Some(begun) => begun,
            None => {
                if self.content.len() < FollowBegun::LEN {
                    return Ok(None);
                }
                let frames = self.content.split_off(FollowBegun::LEN);
                let begun = std::mem::replace(&mut self.content, frames);
                let begun = FollowBegun::decode(&begun).map_err(|_| StreamFault::Malformed)?;
                self.begin(begun)?
            }
        };
        let frame_len = usize::from(begun.frame_len);
        while self.content.len() >= frame_len {
            let rest = self.content.split_off(frame_len);
            let frame = std::mem::replace(&mut self.content, rest);
            let frame = Frame::read(&frame).map_err(|_| StreamFault::Malformed)?;
            self.heard_ms = SystemClock.monotonic_ms();
            self.lead_ms = lead_ms();
            self.first_by_ms = None;
            match frame.kind {
                FrameKind::Over if self.stretch.is_empty() => {
                    let half_ms = u64::from(begun.lasts_ms) / 2 + GRACE_MS;
                    return match self.heard_ms.saturating_add(half_ms) < self.over_ms {
                        true => Err(StreamFault::Early),
                        false => Ok(Some(Told::Over)),
                    };
                }
                FrameKind::Behind => return Err(StreamFault::Behind),
                FrameKind::Over => return Err(StreamFault::Malformed),
                FrameKind::Part | FrameKind::Whole => {
                    self.stretch.extend_from_slice(frame.content);
                }
            }
            if self.stretch.len() > LONGEST_STRETCH {
                return Err(StreamFault::Malformed);
            }
            if frame.kind == FrameKind::Whole {
                let stretch = std::mem::take(&mut self.stretch);
                let stretch = FollowedStretch::decode(&stretch);
                let stretch = stretch.map_err(|_| StreamFault::Malformed)?;
                return Ok(Some(Told::Stretch(stretch)));
            }
        }
        Ok(None)
    }

    fn begin(&mut self, begun: FollowBegun) -> Result<FollowBegun, StreamFault> {
        let is_possible = begun.version == WIRE_VERSION
            && (SHORTEST_FRAME..=LONGEST_FRAME).contains(&begun.frame_len.into())
            && (1..=LONGEST_BEAT_MS).contains(&begun.beat_ms)
            && (1..=LONGEST_MS).contains(&begun.lasts_ms);
        if !is_possible {
            return Err(StreamFault::Malformed);
        }
        let now_ms = SystemClock.monotonic_ms();
        self.heard_ms = now_ms;
        self.over_ms = now_ms.saturating_add(u64::from(begun.lasts_ms) + GRACE_MS);
        self.begun = Some(begun);
        Ok(begun)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use http::HeaderMap;
    use oblivious::binary_http;

    use super::*;

    const BEGUN: FollowBegun = FollowBegun {
        version: WIRE_VERSION,
        frame_len: 2_048,
        beat_ms: 15_000,
        lasts_ms: 300_000,
    };

    /// A stream that has begun and told one frame.
    pub(crate) fn stream() -> Stream {
        let mut stream = before();
        stream.begin(BEGUN).unwrap();
        stream.first_by_ms = None;
        stream
    }

    /// Nothing has come.
    fn before() -> Stream {
        let mut head = Vec::new();
        binary_http::response_head(StatusCode::OK, &HeaderMap::new(), &mut head);
        let mut http = Decoder::new(Limits::default());
        http.push(&head, &mut Vec::new()).unwrap();
        let now_ms = SystemClock.monotonic_ms();
        Stream {
            response: http::Response::new("").into(),
            opener: None,
            http,
            content: Vec::new(),
            stretch: Vec::new(),
            begun: None,
            first_by_ms: Some(now_ms + 1_000),
            heard_ms: now_ms,
            lead_ms: lead_ms(),
            over_ms: now_ms + u64::from(LONGEST_MS) + GRACE_MS,
        }
    }

    fn last(kind: FrameKind) -> Vec<u8> {
        let mut frame = Vec::new();
        Frame::put_end(kind, BEGUN.frame_len.into(), &mut frame);
        frame
    }

    #[test]
    fn a_stream_begins_within_the_bounds_that_are_agreed_and_not_beyond() {
        let begins = |change: fn(&mut FollowBegun)| {
            let mut begun = BEGUN;
            change(&mut begun);
            before().begin(begun).is_ok()
        };
        assert!(begins(|_| {}));
        assert!(begins(|it| it.beat_ms = LONGEST_BEAT_MS));
        assert!(begins(|it| it.lasts_ms = LONGEST_MS));
        assert!(begins(|it| it.frame_len = u16::MAX));
        assert!(!begins(|it| it.version += 1));
        assert!(!begins(|it| it.frame_len = 511));
        assert!(!begins(|it| it.beat_ms = 0));
        assert!(!begins(|it| it.beat_ms = LONGEST_BEAT_MS + 1));
        assert!(!begins(|it| it.lasts_ms = 0));
        assert!(!begins(|it| it.lasts_ms = LONGEST_MS + 1));
    }

    #[test]
    fn a_stream_without_a_first_frame_in_an_attempt_is_given_up_and_one_that_misses_two_beats() {
        let mut stream = before();
        let first_by_ms = stream.first_by_ms.unwrap();
        assert_eq!(stream.silent_ms(), first_by_ms);
        // Its announcement alone is no frame.
        stream.content = BEGUN.encode();
        assert!(matches!(stream.read(), Ok(None)));
        assert!(stream.begun.is_some());
        assert_eq!(stream.silent_ms(), first_by_ms);
        let mut part = vec![1, 0, 1, 7];
        part.resize(BEGUN.frame_len.into(), 0);
        stream.content = part;
        assert!(matches!(stream.read(), Ok(None)));
        assert_eq!(stream.silent_ms(), stream.heard_ms + 2 * 15_000 + GRACE_MS);
        // Nor does it go on behind its announced end.
        stream.over_ms = stream.heard_ms + 1;
        assert_eq!(stream.silent_ms(), stream.over_ms);
    }

    #[test]
    fn a_stream_that_ends_in_the_first_half_of_its_announced_time_has_ended_early() {
        let mut early = stream();
        early.content = last(FrameKind::Over);
        assert_eq!(early.read().unwrap_err(), StreamFault::Early);
        let mut in_time = stream();
        in_time.over_ms = in_time.heard_ms + u64::from(BEGUN.lasts_ms) / 2;
        in_time.content = last(FrameKind::Over);
        assert!(matches!(in_time.read(), Ok(Some(Told::Over))));
        // In the middle of a stretch.
        in_time.content = last(FrameKind::Over);
        in_time.stretch = vec![7];
        assert_eq!(in_time.read().unwrap_err(), StreamFault::Malformed);
        in_time.content = last(FrameKind::Behind);
        assert_eq!(in_time.read().unwrap_err(), StreamFault::Behind);
    }

    #[test]
    fn a_stream_is_at_rest_where_nothing_of_it_waits_and_this_device_was_awake() {
        let mut stream = stream();
        let lead_ms = stream.lead_ms;
        assert!(stream.is_at_rest_at(lead_ms) && stream.is_at_rest_at(lead_ms + GRACE_MS));
        // It has slept, or its clock was set.
        assert!(!stream.is_at_rest_at(lead_ms + GRACE_MS + 1));
        assert!(!stream.is_at_rest_at(lead_ms - GRACE_MS - 1));
        stream.stretch = vec![7];
        assert!(!stream.is_at_rest_at(lead_ms));
        stream.stretch.clear();
        stream.content = vec![7];
        assert!(!stream.is_at_rest_at(lead_ms));
    }
}
