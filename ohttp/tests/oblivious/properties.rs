//! What an adversary on the way, and the way itself, can do to a stream of chunks.

use std::ops::Range;
use std::sync::LazyLock;

use oblivious::chunked::{
    MAX_REQUEST_CHUNKS, OpenedRequest, RequestDecoder, RequestEncoder, ResponseDecoder,
};
use oblivious::{Aead, Kem, Key, KeyError, OpenError, SealError};
use proptest::prelude::*;

static KEY: LazyLock<Key> = LazyLock::new(|| key(Kem::X25519));

fn key(kem: Kem) -> Key {
    Key::derive(5, kem, &[9; 32]).unwrap()
}

/// A message as it was sealed, with the places of its parts.
#[derive(Clone, Debug)]
struct Sealed {
    bytes: Vec<u8>,
    /// Header and encapsulated key, or nonce.
    prefix_len: usize,
    chunks: Vec<Range<usize>>,
}

/// Each piece in a chunk of its own, the last one in the final one.
fn seal_pieces<T>(
    pieces: &[Vec<u8>],
    prefix_len: usize,
    mut encoder: T,
    push: impl Fn(&mut T, &[u8], &mut Vec<u8>),
) -> (Sealed, T) {
    let mut bytes = Vec::new();
    let mut chunks = Vec::new();
    for piece in &pieces[..pieces.len() - 1] {
        let start = bytes.len().max(prefix_len);
        push(&mut encoder, piece, &mut bytes);
        chunks.push(start..bytes.len());
    }
    let sealed = Sealed {
        bytes,
        prefix_len,
        chunks,
    };
    (sealed, encoder)
}

impl Sealed {
    fn ended(mut self) -> Self {
        let start = self.chunks.last().map_or(self.prefix_len, |last| last.end);
        self.chunks.push(start..self.bytes.len());
        self
    }

    fn with_chunks(&self, order: &[usize]) -> Vec<u8> {
        let mut bytes = self.bytes[..self.prefix_len].to_vec();
        for chunk in order {
            bytes.extend_from_slice(&self.bytes[self.chunks[*chunk].clone()]);
        }
        bytes
    }
}

fn request(pieces: &[Vec<u8>]) -> (Sealed, ResponseDecoder) {
    let encoder = RequestEncoder::new(KEY.public(), Aead::Aes128Gcm).unwrap();
    let (mut sealed, encoder) = seal_pieces(pieces, 39, encoder, |encoder, piece, out| {
        encoder.push(piece, out).unwrap();
    });
    let last = pieces.last().unwrap();
    let response = encoder.finish(last, &mut sealed.bytes).unwrap();
    (sealed.ended(), response)
}

fn response(pieces: &[Vec<u8>], opened: OpenedRequest) -> Sealed {
    let (mut sealed, encoder) = seal_pieces(pieces, 16, opened.response, |encoder, piece, out| {
        encoder.push(piece, out).unwrap();
    });
    let last = pieces.last().unwrap();
    encoder.finish(last, &mut sealed.bytes).unwrap();
    sealed.ended()
}

/// What was opened, and how it ended.
type Opened<T> = (Vec<u8>, Result<T, OpenError>);

fn open_request(pieces: &[&[u8]]) -> Opened<OpenedRequest> {
    let mut decoder = RequestDecoder::new(&*KEY);
    let mut out = Vec::new();
    for piece in pieces {
        if let Err(error) = decoder.push(piece, &mut out) {
            assert_eq!(decoder.push(b"", &mut out), Err(error), "it is for ever");
            assert_eq!(decoder.finish(&mut out).unwrap_err(), error);
            return (out, Err(error));
        }
    }
    let ended = decoder.finish(&mut out);
    (out, ended)
}

fn open_response(mut decoder: ResponseDecoder, pieces: &[&[u8]]) -> Opened<()> {
    let mut out = Vec::new();
    for piece in pieces {
        if let Err(error) = decoder.push(piece, &mut out) {
            assert_eq!(decoder.push(b"", &mut out), Err(error), "it is for ever");
            return (out, Err(error));
        }
    }
    let ended = decoder.finish(&mut out);
    (out, ended)
}

fn outcome<T>(opened: Opened<T>) -> Opened<()> {
    (opened.0, opened.1.map(|_| ()))
}

/// A request and a response to it, and the client that reads it.
fn exchange(pieces: &[Vec<u8>]) -> (Sealed, Sealed, ResponseDecoder) {
    let (request, decoder) = request(pieces);
    let (out, opened) = open_request(&[&request.bytes]);
    assert_eq!(out, pieces.concat());
    let response = response(pieces, opened.unwrap());
    (request, response, decoder)
}

/// Of a chunk that is not the final one; an empty one cannot be made.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..120)
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    (
        proptest::collection::vec(piece(), 0..5),
        proptest::collection::vec(any::<u8>(), 0..60),
    )
        .prop_map(|(mut pieces, last)| {
            pieces.push(last);
            pieces
        })
}

fn split_at<'a>(bytes: &'a [u8], splits: &[proptest::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = splits.iter().map(|at| at.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|at| &bytes[at[0]..at[1]]).collect()
}

/// What the chunks before the damage held is authentic; nothing else may come out.
fn is_prefix(out: &[u8], pieces: &[Vec<u8>]) -> bool {
    let mut whole = Vec::new();
    let mut ends = vec![0];
    for piece in pieces {
        whole.extend_from_slice(piece);
        ends.push(whole.len());
    }
    whole.starts_with(out) && ends.contains(&out.len())
}

#[test]
fn every_split_in_two_gives_the_same() {
    let pieces = [b"one".to_vec(), vec![2; 100], b"three".to_vec()];
    let (sealed, response, _) = exchange(&pieces);
    for at in 0..=sealed.bytes.len() {
        let (head, tail) = sealed.bytes.split_at(at);
        let (out, ended) = open_request(&[head, tail]);
        assert_eq!((out, ended.is_ok()), (pieces.concat(), true), "{at}");
    }
    // Each response needs its client: the nonce is all that differs.
    for at in 0..=response.bytes.len() {
        let (_, response, decoder) = exchange(&pieces);
        let (head, tail) = response.bytes.split_at(at);
        assert_eq!(
            open_response(decoder, &[head, tail]),
            (pieces.concat(), Ok(())),
            "{at}"
        );
    }
}

#[test]
fn every_truncation_is_an_error_and_gives_whole_chunks_only() {
    let pieces = [b"one".to_vec(), vec![2; 100], b"three".to_vec()];
    let (sealed, response, _) = exchange(&pieces);
    for len in 0..sealed.bytes.len() {
        let (out, ended) = open_request(&[&sealed.bytes[..len]]);
        assert!(ended.is_err() && is_prefix(&out, &pieces[..2]), "{len}");
    }
    for len in 0..response.bytes.len() {
        let (_, response, decoder) = exchange(&pieces);
        let (out, ended) = open_response(decoder, &[&response.bytes[..len]]);
        assert!(ended.is_err() && is_prefix(&out, &pieces[..2]), "{len}");
    }
}

#[test]
fn all_suites_carry_an_exchange() {
    for kem in [Kem::X25519, Kem::P256, Kem::XWing] {
        for aead in [Aead::Aes128Gcm, Aead::ChaCha20Poly1305] {
            let key = key(kem);
            let mut bytes = Vec::new();
            let encoder = RequestEncoder::new(key.public(), aead).unwrap();
            let mut client = encoder.finish(b"question", &mut bytes).unwrap();
            let (mut gateway, mut out) = (RequestDecoder::new(&key), Vec::new());
            gateway.push(&bytes, &mut out).unwrap();
            let opened = gateway.finish(&mut out).unwrap();
            assert_eq!(out, b"question");
            assert_eq!(opened.encapsulated_key.len(), kem.encapsulated_key_len());
            let mut bytes = Vec::new();
            opened.response.finish(b"answer", &mut bytes).unwrap();
            let mut out = Vec::new();
            client.push(&bytes, &mut out).unwrap();
            client.finish(&mut out).unwrap();
            assert_eq!(out, b"answer");
        }
    }
}

#[test]
fn a_key_or_suite_that_is_not_ours_is_told_apart_from_a_damaged_chunk() {
    let (sealed, _) = request(&[b"x".to_vec()]);
    for (at, error) in [
        (0, OpenError::UnknownKey),
        (1, OpenError::UnknownKey),
        (2, OpenError::UnknownKey),
        (4, OpenError::UnknownKey),
        (6, OpenError::UnknownKey),
        (7, OpenError::CannotOpen),
        (40, OpenError::CannotOpen),
    ] {
        let mut bytes = sealed.bytes.clone();
        bytes[at] ^= 0x04;
        assert_eq!(open_request(&[&bytes]).1.unwrap_err(), error, "{at}");
    }
    // An encapsulated key for which every shared secret is zero.
    let mut bytes = sealed.bytes;
    bytes[7..39].fill(0);
    assert_eq!(
        open_request(&[&bytes]).1.unwrap_err(),
        OpenError::CannotOpen
    );
}

#[test]
fn a_seed_that_is_too_short_and_a_key_that_is_none_are_refused() {
    let short = Key::derive(1, Kem::X25519, &[1; 31]);
    assert_eq!(short.unwrap_err(), KeyError::ShortSeed);
    let length = oblivious::PublicKey::new(1, Kem::XWing, &[1; 32]);
    assert_eq!(length.unwrap_err(), KeyError::Length);
    for kem in [Kem::X25519, Kem::P256] {
        let zero = vec![0; kem.public_key_len()];
        let zero = oblivious::PublicKey::new(1, kem, &zero).unwrap();
        let encoder = RequestEncoder::new(&zero, Aead::Aes128Gcm);
        assert_eq!(encoder.unwrap_err(), SealError::InvalidKey);
    }
}

#[test]
fn a_request_has_no_more_chunks_than_a_gateway_takes() {
    let mut encoder = RequestEncoder::new(KEY.public(), Aead::Aes128Gcm).unwrap();
    let mut bytes = Vec::new();
    for _ in 0..MAX_REQUEST_CHUNKS {
        encoder.push(b"x", &mut bytes).unwrap();
    }
    assert_eq!(encoder.push(b"x", &mut bytes), Err(SealError::Exhausted));
    let (out, ended) = open_request(&[&bytes]);
    assert_eq!(out.len() as u64, MAX_REQUEST_CHUNKS);
    assert_eq!(ended.unwrap_err(), OpenError::Truncated);
    // One more length, and it is refused when its chunk has come.
    bytes.extend([17; 18]);
    assert_eq!(open_request(&[&bytes]).1.unwrap_err(), OpenError::Exhausted);
}

#[test]
fn debug_shows_no_secret() {
    let (sealed, decoder) = request(&[b"x".to_vec()]);
    let opened = open_request(&[&sealed.bytes]).1.unwrap();
    assert_eq!(format!("{:?}", *KEY), "Key { id: 5, kem: X25519, .. }");
    assert_eq!(format!("{decoder:?}"), "ResponseDecoder(..)");
    assert_eq!(format!("{:?}", opened.response), "ResponseEncoder(..)");
    let encoder = RequestEncoder::new(KEY.public(), Aead::Aes128Gcm).unwrap();
    assert_eq!(format!("{encoder:?}"), "RequestEncoder(..)");
    let decoder = RequestDecoder::new(&*KEY);
    assert_eq!(format!("{decoder:?}"), "RequestDecoder(..)");
}

proptest! {
    #[test]
    fn no_split_changes_what_is_opened(
        pieces in pieces(), splits in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        damage in proptest::option::of((any::<proptest::sample::Index>(), 1u8..)),
    ) {
        let (mut request, mut response, decoder) = exchange(&pieces);
        let whole = |bytes: &mut Vec<u8>| if let Some((at, change)) = &damage {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
        };
        whole(&mut request.bytes);
        whole(&mut response.bytes);
        let expected = outcome(open_request(&[&request.bytes]));
        prop_assert_eq!(&outcome(open_request(&split_at(&request.bytes, &splits))), &expected);
        let single: Vec<&[u8]> = request.bytes.chunks(1).collect();
        prop_assert_eq!(&outcome(open_request(&single)), &expected);
        let (out, ended) = open_response(decoder, &split_at(&response.bytes, &splits));
        prop_assert_eq!(ended.is_ok(), damage.is_none());
        prop_assert!(is_prefix(&out, &pieces));
        prop_assert_eq!(damage.is_some() || out == pieces.concat(), true);
    }

    #[test]
    fn no_changed_byte_goes_unnoticed(
        pieces in pieces(), at: proptest::sample::Index, change in 1u8..,
    ) {
        let (mut request, mut response, decoder) = exchange(&pieces);
        for bytes in [&mut request.bytes, &mut response.bytes] {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
        }
        let (out, ended) = open_request(&[&request.bytes]);
        prop_assert!(ended.is_err() && is_prefix(&out, &pieces));
        let (out, ended) = open_response(decoder, &[&response.bytes]);
        prop_assert!(ended.is_err() && is_prefix(&out, &pieces));
    }

    #[test]
    fn chunks_that_are_dropped_repeated_or_swapped_are_an_error(
        pieces in pieces(), order in proptest::collection::vec(0usize..6, 0..8),
    ) {
        let (request, response, decoder) = exchange(&pieces);
        let order: Vec<usize> = order.into_iter().filter(|n| *n < pieces.len()).collect();
        prop_assume!(!order.iter().copied().eq(0..pieces.len()));
        let (out, ended) = open_request(&[&request.with_chunks(&order)]);
        prop_assert!(ended.is_err() && is_prefix(&out, &pieces));
        let (out, ended) = open_response(decoder, &[&response.with_chunks(&order)]);
        prop_assert!(ended.is_err() && is_prefix(&out, &pieces));
    }

    #[test]
    fn nothing_comes_after_the_final_chunk(pieces in pieces(), more in proptest::collection::vec(any::<u8>(), 1..50)) {
        let (request, response, decoder) = exchange(&pieces);
        let (out, ended) = open_request(&[&request.bytes, &more]);
        prop_assert_eq!(ended.unwrap_err(), OpenError::CannotOpen);
        prop_assert_eq!(&out, &pieces[..pieces.len() - 1].concat());
        let (out, ended) = open_response(decoder, &[&response.bytes, &more]);
        prop_assert_eq!(ended.unwrap_err(), OpenError::CannotOpen);
        prop_assert_eq!(&out, &pieces[..pieces.len() - 1].concat());
    }

    #[test]
    fn a_response_is_for_its_request_only(pieces in pieces()) {
        let (_, response, _) = exchange(&pieces);
        let (_, _, stranger) = exchange(&pieces);
        let (out, ended) = open_response(stranger, &[&response.bytes]);
        prop_assert_eq!((out, ended), (Vec::new(), Err(OpenError::CannotOpen)));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), ours: bool) {
        let header = [5, 0, 0x20, 0, 1, 0, 1];
        let bytes = if ours { [&header, &bytes[..]].concat() } else { bytes };
        let (out, ended) = open_request(&[&bytes]);
        prop_assert!(out.is_empty() && ended.is_err());
        let (_, decoder) = request(&[b"x".to_vec()]);
        let (out, ended) = open_response(decoder, &[&bytes]);
        prop_assert!(out.is_empty() && ended.is_err());
    }
}
