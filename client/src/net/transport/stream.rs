//! An answer that goes on: a journal that is followed (draft-ietf-ohai-chunked-ohttp-08).

use std::time::Duration;

use http::StatusCode;
use oblivious::binary_http::{Decoder, Limits, ResponseHead};
use oblivious::chunked::{self, RequestEncoder, ResponseDecoder};
use oblivious::{Aead, PublicKey};
use protocol::follow::{
    FollowBegun, FollowJournalRequest, FollowedStretch, Frame, FrameKind, LONGEST_FRAME,
    SHORTEST_FRAME,
};
use protocol::operation::Operation;
use protocol::{WIRE_VERSION, Wire as _};

use crate::net::clock::{Clock as _, SystemClock};

use super::{Transport, date_of, encoded, inner};

/// The service says when a stream ends. Later than this it does not.
const LONGEST_MS: u32 = 15 * 60 * 1000;
/// Nor are frames further apart than this.
const LONGEST_BEAT_MS: u32 = 60_000;
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
    response: reqwest::Response,
    /// None after the final chunk.
    opener: Option<ResponseDecoder>,
    http: Decoder<ResponseHead>,
    /// Content that was not read yet: less than a frame, between two calls.
    content: Vec<u8>,
    /// The parts of a stretch that have come.
    stretch: Vec<u8>,
    begun: Option<FollowBegun>,
    /// When the last frame came.
    heard_ms: u64,
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
        tokio::time::timeout(attempt, self.begin_to_follow(request))
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
        let encoded = encoded(&message).map_err(refused)?;
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
            heard_ms: now_ms,
            over_ms: now_ms.saturating_add(u64::from(LONGEST_MS) + GRACE_MS),
        })
    }
}

impl Stream {
    /// What comes next. A future that is dropped takes nothing away.
    pub(crate) async fn next(&mut self) -> Result<Told, StreamFault> {
        loop {
            if let Some(told) = self.read()? {
                return Ok(told);
            }
            if self.opener.is_none() {
                return Err(StreamFault::Broken);
            }
            // Bytes that are no frame are no sign of life.
            let beat_ms = self.begun.map_or(LONGEST_BEAT_MS, |begun| begun.beat_ms);
            let silent_ms = self
                .heard_ms
                .saturating_add(2 * u64::from(beat_ms) + GRACE_MS)
                .min(self.over_ms);
            let left_ms = silent_ms.saturating_sub(SystemClock.monotonic_ms());
            let piece = tokio::time::timeout(Duration::from_millis(left_ms), self.response.chunk())
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
