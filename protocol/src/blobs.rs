//! Blobs: what is too long for a message, sealed by its sender, in chunks of one size. Neither a
//! blob's id nor its chunks say which group, sender or other blob they belong to.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::codec::WireSecret;
use crate::ids::{BlobId, Day};
use crate::padding::BULK;

/// What a bulk exchange takes beside its chunk at most: the heads of HTTP, names, a token.
pub const BULK_HEAD: usize = 2 * 1024;

/// Bytes of every chunk as it is sent and stored. A chunk and what it takes beside it are padded to
/// [`BULK`].
pub const CHUNK: usize = BULK - BULK_HEAD;

/// Most chunks of a blob, whatever the service's settings: indices are `u16`.
pub const MAX_CHUNKS: u16 = 16_384;

/// Answers to bulk exchanges leave so many milliseconds after their requests came, or a multiple of
/// that: to write a chunk takes longer than to read one.
pub const BULK_ANSWER_MS: u32 = 50;

/// How long the service keeps a whole blob: few classes, so that they tell little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum BlobLife {
    /// 1 day.
    Day = 1,
    /// 7 days.
    Week = 7,
    /// 30 days.
    Month = 30,
    /// 90 days.
    Quarter = 90,
}

impl BlobLife {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Quarter];

    /// Days after today on which it is still kept.
    #[must_use]
    pub const fn days(self) -> u32 {
        self as u32
    }

    /// The shortest class that lasts so many days; the longest one if none does.
    #[must_use]
    pub fn of_at_least(days: u32) -> Self {
        let lasts = |life: &Self| life.days() >= days;
        Self::ALL.into_iter().find(lasts).unwrap_or(Self::Quarter)
    }
}

/// How many chunks a blob has that needs so many: up to 16 just these, then the next number with
/// four significant bits, eight in each doubling. At most an eighth more than it needs.
///
/// `None` for more than [`MAX_CHUNKS`].
#[must_use]
pub fn chunk_class(needed: u32) -> Option<u16> {
    let needed = needed.max(1);
    let step = 1u32
        << needed
            .saturating_sub(1)
            .checked_ilog2()
            .unwrap_or(0)
            .saturating_sub(3);
    let class = needed.checked_next_multiple_of(step)?;
    u16::try_from(class)
        .ok()
        .filter(|class| *class <= MAX_CHUNKS)
}

/// Where a blob is. Who knows it may read the sealed chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct BlobName {
    /// Derived from the capability in the message.
    pub id: BlobId,
    /// The last day on which it is kept: the service files it there.
    pub last_day: Day,
}

/// Body of `CreateBlob`, signed by a key made for it. Costs a token.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CreateBlobRequest {
    /// No blob's that is being written, or has the same last day.
    pub id: BlobId,
    /// A class of sizes, in chunks.
    pub chunks: u16,
    /// How long it is kept once it is whole.
    pub life: BlobLife,
    /// SHA-256 of the secret that whoever writes shows.
    pub writer: [u8; 32],
}

/// The blob can be written, until the end of the next day at most.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CreateBlobResponse {
    /// The last day on which it is kept once it is whole.
    pub last_day: Day,
}

/// Body of `PutChunk`, which is not signed: the secret may write, and no more once the blob is
/// whole.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PutChunkRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// The blob that the chunk is of.
    pub blob: BlobName,
    /// What [`CreateBlobRequest::writer`] is the hash of.
    pub write_key: WireSecret,
    /// From 0. A chunk that is there is not written over; the same again is no error.
    pub index: u16,
    /// 1 if this is what was still missing: the blob is whole then, or the answer is
    /// `blob-incomplete`.
    pub completes: u8,
    /// [`CHUNK`] bytes.
    pub chunk: VLBytes,
}

/// Body of `BlobChunks`, which is not signed.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct BlobChunksRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// The blob.
    pub blob: BlobName,
}

/// Which chunks of a blob are there.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct BlobChunksResponse {
    /// How many it has.
    pub chunks: u16,
    /// 1 if it is whole: it can be read, and nothing of it written any more.
    pub whole: u8,
    /// A bit for each chunk, the first one the highest of the first byte: 1 if it is there.
    pub present: VLBytes,
}

impl BlobChunksResponse {
    /// The answer for these chunks.
    #[must_use]
    pub fn of(chunks: u16, whole: bool, is_there: impl Fn(u16) -> bool) -> Self {
        let mut present = vec![0u8; usize::from(chunks).div_ceil(8)];
        for index in (0..chunks).filter(|index| is_there(*index)) {
            if let Some(byte) = present.get_mut(usize::from(index / 8)) {
                *byte |= 0x80 >> (index % 8);
            }
        }
        Self {
            chunks,
            whole: whole.into(),
            present: VLBytes::new(present),
        }
    }

    /// Whether the chunk with this index is there.
    #[must_use]
    pub fn is_there(&self, index: u16) -> bool {
        let byte = self.present.as_slice().get(usize::from(index / 8));
        index < self.chunks && byte.is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
    }
}

/// Body of `ReadChunk`, which is not signed.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReadChunkRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// The blob that the chunk is of.
    pub blob: BlobName,
    /// From 0.
    pub index: u16,
}

/// A chunk as its sender sealed it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReadChunkResponse {
    /// [`CHUNK`] bytes.
    pub chunk: VLBytes,
}

/// Body of `DeleteBlob`, which is not signed: the secret that wrote it deletes it, whole or not.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeleteBlobRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// The blob.
    pub blob: BlobName,
    /// What [`CreateBlobRequest::writer`] is the hash of.
    pub write_key: WireSecret,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Wire as _;
    use crate::codec::opaque;

    #[test]
    fn classes_of_sizes_are_few() {
        let classes: std::collections::BTreeSet<u16> = (1..=u32::from(MAX_CHUNKS))
            .filter_map(chunk_class)
            .collect();
        assert_eq!(classes.len(), 16 + 8 * 10);
        let first: Vec<u16> = classes.into_iter().take(26).collect();
        let expected: Vec<u16> = (1..=16)
            .chain([18, 20, 22, 24, 26, 28, 30, 32, 36, 40])
            .collect();
        assert_eq!(first, expected);
        assert_eq!(chunk_class(0), Some(1));
        assert_eq!(chunk_class(385), Some(416));
        assert_eq!(chunk_class(u32::from(MAX_CHUNKS) + 1), None);
        assert_eq!(chunk_class(u32::MAX), None);
    }

    #[test]
    fn a_put_and_an_answer_with_a_chunk_leave_room_for_what_is_beside_it() {
        let blob = BlobName {
            id: BlobId([0; 32]),
            last_day: Day(0),
        };
        let put = PutChunkRequest {
            version: 1,
            blob,
            write_key: WireSecret::new([0; 32]),
            index: 0,
            completes: 0,
            chunk: opaque(vec![0; CHUNK]),
        };
        // Scheme, authority (up to 255 bytes), path, fields.
        assert!(put.encode().len() + 1024 <= BULK);
        let answer = ReadChunkResponse {
            chunk: opaque(vec![0; CHUNK]),
        };
        assert!(answer.encode().len() + crate::padding::ANSWER_HEAD <= BULK);
    }

    proptest! {
        #[test]
        fn a_class_holds_what_it_is_for_and_an_eighth_more_at_most(needed in 1u32..=16_384) {
            let class = u32::from(chunk_class(needed).unwrap());
            prop_assert!(class >= needed && (class - needed) * 8 <= needed);
            prop_assert_eq!(chunk_class(class), u16::try_from(class).ok());
        }

        #[test]
        fn it_is_read_which_chunks_are_there(chunks in 1u16..500, there in any::<u64>()) {
            let is_there = |index: u16| there >> (index % 61) & 1 == 1;
            let answer = BlobChunksResponse::of(chunks, false, is_there);
            for index in 0..chunks + 9 {
                prop_assert_eq!(answer.is_there(index), index < chunks && is_there(index));
            }
        }

        #[test]
        fn a_life_lasts_as_long_as_it_should(days in 0u32..200) {
            let life = BlobLife::of_at_least(days);
            prop_assert!(life.days() >= days.min(90));
            prop_assert!(BlobLife::ALL.iter().all(|it| it.days() < days || it.days() >= life.days()));
        }
    }
}
