//! Following a journal: its entries come as they are accepted, in frames of one size, on one answer
//! that goes on for minutes (`message/ohttp-chunked-res` on the way to the client).
//!
//! An answer is [`FollowBegun`] and then frames of `frame_len` bytes each. What is told is cut into
//! frames; a frame that has less to say is filled up with zeros. So whoever passes it on sees a
//! number of frames and when they came.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::DecodeError;
use crate::ids::{Position, SegmentId, Step};
use crate::journal::{Entry, SignedHead};

/// Body of `FollowJournal`. It is not signed.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct FollowJournalRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// The segment to follow.
    pub segment: SegmentId,
    /// A multiple of [`Position::READ_GRANULE`]: the first entry that is told.
    pub from: Position,
    /// When frames are sent.
    pub pace: Pace,
}

/// When frames are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Pace {
    /// An entry goes out within [`LONGEST_DELAY_MS`]; without any, a frame every `beat_ms`.
    Live = 1,
    /// One frame every `beat_ms`, whatever there is to say. Entries wait for the next one.
    Even = 2,
}

/// An entry waits for a random time below this before it goes out on a live stream, milliseconds.
pub const LONGEST_DELAY_MS: u32 = 200;
/// Frames of a stream are no further apart than this, milliseconds.
pub const LONGEST_BEAT_MS: u32 = 60_000;
/// A stream is announced to go on for no longer than this, milliseconds.
pub const LONGEST_MS: u32 = 15 * 60 * 1000;
/// The longest frame, bytes.
pub const LONGEST_FRAME: usize = 64 * 1024 - 1;
/// The shortest frame, bytes.
pub const SHORTEST_FRAME: usize = 512;

/// The beginning of an answer. The same on all streams of a segment at one pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct FollowBegun {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// Bytes of each frame: from [`SHORTEST_FRAME`] to [`LONGEST_FRAME`].
    pub frame_len: u16,
    /// At the latest so long after a frame comes the next one, milliseconds: from 1 to
    /// [`LONGEST_BEAT_MS`].
    pub beat_ms: u32,
    /// At the latest so long after this the answer ends, milliseconds: from 1 to [`LONGEST_MS`].
    pub lasts_ms: u32,
}

impl FollowBegun {
    /// Bytes of its encoding.
    pub const LEN: usize = 12;
}

/// What a stream says: the segment's end, and what comes before it that was not told yet.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct FollowedStretch {
    /// The segment's end when this was made.
    pub head: SignedHead,
    /// As in `ReadJournalResponse`.
    pub step: Step,
    /// As in `ReadJournalResponse`. Nothing follows on this stream then.
    pub closed: u8,
    /// The position of the first of `entries`: the one after the last that was told, or a later one
    /// where entries have expired altogether.
    pub first: Position,
    /// Dense from `first` on. None where there is nothing new.
    pub entries: Vec<Entry>,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A part of a stretch that goes on in the next frame.
    Part = 1,
    /// The last part of a stretch, or all of it.
    Whole = 2,
    /// No frame follows: the time is over, the service ends, or the segment is closed.
    Over = 3,
    /// No frame follows: the reader has fallen behind, and reads the rest in pages.
    Behind = 4,
}

/// Bytes before the content of a frame: its kind, and the length of its content (`uint16`).
const FRAME_HEAD: usize = 3;

/// [`Frame`] in the presentation language, for the documents; a test holds the codec to it.
pub const FRAME_PRESENTATION: &str = "enum {
    part(1),    // of a stretch that goes on in the next frame
    whole(2),   // the last part of a stretch, or all of it
    over(3),    // no frame follows: the time is over, the service ends, or the segment is closed
    behind(4),  // no frame follows: the reader has fallen behind, and reads the rest in pages
    (255)
} FrameKind;
struct {
    FrameKind kind;
    Padded<frame_len - 1> content;  // a part of a stretch; nothing where no frame follows
} Frame;";

/// What one frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: FrameKind,
    /// A part of a stretch; nothing where no frame follows.
    pub content: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The most that a frame of this length holds.
    #[must_use]
    pub const fn room(frame_len: usize) -> usize {
        frame_len.saturating_sub(FRAME_HEAD)
    }

    /// Appends it, filled up with zeros. Content beyond the room is left out.
    fn put(&self, frame_len: usize, out: &mut Vec<u8>) {
        let end = out.len().saturating_add(frame_len);
        let content = self.content.get(..Self::room(frame_len));
        let content = content.unwrap_or(self.content);
        out.push(self.kind as u8);
        out.extend(u16::try_from(content.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(content);
        out.resize(end, 0);
    }

    /// Appends an encoded stretch, in as many frames as it takes.
    pub fn put_stretch(stretch: &[u8], frame_len: usize, out: &mut Vec<u8>) {
        let mut rest = stretch.chunks(Self::room(frame_len).max(1)).peekable();
        while let Some(content) = rest.next() {
            let kind = match rest.peek() {
                Some(_) => FrameKind::Part,
                None => FrameKind::Whole,
            };
            Frame { kind, content }.put(frame_len, out);
        }
    }

    /// Appends the last frame of a stream.
    pub fn put_end(kind: FrameKind, frame_len: usize, out: &mut Vec<u8>) {
        let content = &[];
        Frame { kind, content }.put(frame_len, out);
    }

    /// Reads all of a frame.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`]: the kind is none, the content is longer than the frame, what
    /// fills it up is not zero, or a last frame says something.
    pub fn read(frame: &'a [u8]) -> Result<Self, DecodeError> {
        let (head, rest) = frame
            .split_first_chunk::<FRAME_HEAD>()
            .ok_or(DecodeError::Malformed)?;
        let [kind, length @ ..] = *head;
        let kind = match kind {
            1 => FrameKind::Part,
            2 => FrameKind::Whole,
            3 => FrameKind::Over,
            4 => FrameKind::Behind,
            _ => return Err(DecodeError::Malformed),
        };
        let (content, zeros) = rest
            .split_at_checked(u16::from_be_bytes(length).into())
            .ok_or(DecodeError::Malformed)?;
        let says_something = !content.is_empty();
        if zeros.iter().any(|byte| *byte != 0)
            || says_something != matches!(kind, FrameKind::Part | FrameKind::Whole)
        {
            return Err(DecodeError::Malformed);
        }
        Ok(Self { kind, content })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Wire as _;

    #[test]
    fn the_beginning_has_the_length_that_readers_wait_for() {
        let begun = FollowBegun {
            version: 1,
            frame_len: 2,
            beat_ms: 3,
            lasts_ms: 4,
        };
        assert_eq!(begun.encode().len(), FollowBegun::LEN);
    }

    #[test]
    fn a_last_frame_says_nothing_and_any_other_something() {
        for (bytes, is_read) in [
            (&[3, 0, 0, 0, 0][..], true),
            (&[4, 0, 0, 0, 0], true),
            (&[3, 0, 1, 7, 0], false),
            (&[2, 0, 1, 7, 0], true),
            (&[2, 0, 0, 0, 0], false),
            (&[2, 0, 1, 7, 1], false),
            (&[2, 0, 3, 7, 7], false),
            (&[0, 0, 1, 7, 0], false),
            (&[5, 0, 1, 7, 0], false),
            (&[2, 0], false),
        ] {
            assert_eq!(Frame::read(bytes).is_ok(), is_read, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_stretch_is_put_together_again_from_frames_of_one_length(
            stretch in proptest::collection::vec(any::<u8>(), 1..5_000),
            frame_len in SHORTEST_FRAME..2_000,
        ) {
            let mut sent = Vec::new();
            Frame::put_stretch(&stretch, frame_len, &mut sent);
            prop_assert_eq!(sent.len(), stretch.len().div_ceil(frame_len - 3) * frame_len);
            let mut read = Vec::new();
            let mut frames = sent.chunks(frame_len).map(|frame| Frame::read(frame).unwrap());
            for frame in frames.by_ref() {
                read.extend_from_slice(frame.content);
                if frame.kind == FrameKind::Whole {
                    break;
                }
                prop_assert_eq!(frame.kind, FrameKind::Part);
            }
            prop_assert!(frames.next().is_none());
            prop_assert_eq!(read, stretch);
        }

        #[test]
        fn a_frame_that_is_read_is_written_to_the_same_bytes(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..5, any::<u8>()], 3..40),
        ) {
            if let Ok(frame) = Frame::read(&bytes) {
                let mut written = Vec::new();
                frame.put(bytes.len(), &mut written);
                prop_assert_eq!(written, bytes);
            }
        }
    }
}
