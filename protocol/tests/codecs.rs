//! Wire types: what is encoded decodes to the same, and no bytes whatsoever do harm.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use protocol::codec::opaque;
use protocol::group::{CommitAad, InspectGroupResponse, LeafExtras, RecoveryKey};
use protocol::ids::{
    ChainHead, Digest, LeafIndex, Minute, Position, RecoveryRowId, RotationEpoch, SegmentId, Step,
};
use protocol::inbox::{InboxEntry, ReadInboxResponse};
use protocol::join::LeafAuthorization;
use protocol::join::{JoinRecordResponse, LinkKeyUpload, RecoveryRow, SealedFormerWrapperKey};
use protocol::journal::{
    CommitEvent, Entry, EntryContent, Event, ReadJournalRequest, ReadJournalResponse, SeenHead,
    SignedHead,
};
use protocol::operation::Operation;
use protocol::request::{ReceivedRequest, Sender, SignedRequest};
use protocol::{DecodeError, WIRE_VERSION, Wire};
use tls_codec::VLBytes;

/// Lengths on both sides of where the length field grows (RFC 9420 §2.1.2).
fn bytes() -> impl Strategy<Value = VLBytes> {
    prop_oneof![vec(any::<u8>(), 0..80), vec(any::<u8>(), 16_380..16_390)].prop_map(opaque)
}

fn head() -> impl Strategy<Value = SignedHead> {
    let numbers = (any::<u64>(), any::<u64>());
    (numbers, any::<[u8; 32]>(), any::<u8>()).prop_map(|((generation, next), chain, byte)| {
        SignedHead {
            generation,
            next: Position(next),
            chain: ChainHead(chain),
            signature: [byte; 64],
        }
    })
}

fn link_key() -> impl Strategy<Value = LinkKeyUpload> {
    (any::<u32>(), bytes()).prop_map(|(leaf, sealed)| LinkKeyUpload {
        leaf_index: LeafIndex(leaf),
        sealed,
    })
}

fn former() -> impl Strategy<Value = SealedFormerWrapperKey> {
    (any::<u64>(), bytes()).prop_map(|(of, sealed)| SealedFormerWrapperKey {
        of: RotationEpoch(of),
        sealed,
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        bytes().prop_map(Event::Message),
        bytes().prop_map(Event::Proposal),
        (bytes(), vec(link_key(), 0..4), option::of(former())).prop_map(
            |(commit, link_keys, former_wrapper_key)| Event::Commit(CommitEvent {
                commit,
                link_keys,
                former_wrapper_key,
            })
        ),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        bytes().prop_map(Entry::Handshake),
        bytes().prop_map(Entry::Message),
        any::<[u8; 32]>().prop_map(|hash| Entry::Expired(Digest(hash))),
    ]
}

fn read() -> impl Strategy<Value = ReadJournalResponse> {
    (
        head(),
        any::<u32>(),
        0u8..2,
        any::<u64>(),
        vec(entry(), 0..5),
        bytes(),
    )
        .prop_map(
            |(head, step, closed, first, entries, padding)| ReadJournalResponse {
                head,
                step: Step(step),
                closed,
                first: Position(first),
                entries,
                padding,
            },
        )
}

fn commit_aad() -> impl Strategy<Value = CommitAad> {
    let authorization =
        (any::<u32>(), any::<u64>(), bytes()).prop_map(|(leaf_index, not_after_ms, signature)| {
            LeafAuthorization {
                leaf_index,
                not_after_ms,
                signature,
            }
        });
    (0u8..2, option::of(authorization), bytes()).prop_map(
        |(rotates, authorization, encrypted_connection_response)| CommitAad {
            rotates,
            authorization,
            encrypted_connection_response,
        },
    )
}

fn extras() -> impl Strategy<Value = LeafExtras> {
    (bytes(), bytes(), bytes(), bytes()).prop_map(|(link, key, signature, push_handle)| {
        LeafExtras {
            wrapped_link_key: link,
            recovery_key: RecoveryKey {
                public_key: key,
                signature,
            },
            push_handle,
        }
    })
}

fn request() -> impl Strategy<Value = SignedRequest> {
    let sender = prop_oneof![
        any::<u32>().prop_map(|leaf| Sender::Leaf(LeafIndex(leaf))),
        bytes().prop_map(Sender::Key),
    ];
    let operation = proptest::sample::select(Operation::ALL);
    (
        operation,
        any::<u32>(),
        any::<[u8; 16]>(),
        sender,
        bytes(),
        bytes(),
    )
        .prop_map(
            |(operation, minute, nonce, sender, body, signature)| SignedRequest {
                version: WIRE_VERSION,
                operation,
                minute: Minute(minute),
                nonce,
                sender,
                body,
                signature,
            },
        )
}

fn one_exact_encoding<T: Wire + PartialEq + std::fmt::Debug>(
    value: &T,
) -> Result<(), TestCaseError> {
    let encoded = value.encode();
    prop_assert_eq!(&T::decode(&encoded).unwrap(), value);
    let longer = [&encoded[..], &[0]].concat();
    prop_assert_eq!(T::decode(&longer).unwrap_err(), DecodeError::TrailingBytes);
    let shorter = &encoded[..encoded.len() - 1];
    prop_assert!(T::decode(shorter).is_err());
    Ok(())
}

fn no_harm<T: Wire>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(value) = T::decode(bytes) {
        prop_assert_eq!(value.encode(), bytes);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_encoded_decodes_to_the_same_and_to_nothing_else(
        accepted_ms: u64, event in event(), read in read(), aad in commit_aad(), extras in extras(),
        request in request(), id: [u8; 32], sealed in bytes(), pages: u16, head in head(),
    ) {
        one_exact_encoding(&EntryContent { accepted_ms, event })?;
        one_exact_encoding(&read)?;
        one_exact_encoding(&aad)?;
        one_exact_encoding(&extras)?;
        one_exact_encoding(&request)?;
        one_exact_encoding(&SeenHead { segment: SegmentId(id), head })?;
        one_exact_encoding(&RecoveryRow { id: RecoveryRowId(id), sealed: sealed.clone() })?;
        one_exact_encoding(&JoinRecordResponse { pages, sealed })?;
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..300)) {
        no_harm::<SignedRequest>(&bytes)?;
        no_harm::<EntryContent>(&bytes)?;
        no_harm::<ReadJournalRequest>(&bytes)?;
        no_harm::<ReadJournalResponse>(&bytes)?;
        no_harm::<CommitAad>(&bytes)?;
        no_harm::<InspectGroupResponse>(&bytes)?;
        no_harm::<ReadInboxResponse>(&bytes)?;
        no_harm::<InboxEntry>(&bytes)?;
    }

    #[test]
    fn the_signed_bytes_are_the_received_ones_before_the_signature(request in request()) {
        let encoded = request.encode();
        let received = ReceivedRequest::decode(&encoded).unwrap();
        let signature = request.signature.encode();
        prop_assert_eq!([received.signed_bytes, &signature[..]].concat(), encoded.clone());
    }
}

#[test]
fn numbers_and_paths_of_operations_are_unique() {
    let numbers: BTreeSet<_> = Operation::ALL.iter().map(|o| o.number()).collect();
    let paths: BTreeSet<_> = Operation::ALL.iter().map(|o| o.path()).collect();
    assert_eq!(numbers.len(), Operation::ALL.len());
    assert_eq!(paths.len(), Operation::ALL.len());
}
