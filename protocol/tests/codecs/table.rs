//! Every wire type, a line each: its fields in their order, or its variants.

use std::fmt::Debug;

use protocol::blobs::*;
use protocol::codec::WireSecret;
use protocol::connections::*;
use protocol::feed::*;
use protocol::follow::*;
use protocol::group::*;
use protocol::ids::*;
use protocol::inbox::*;
use protocol::join::*;
use protocol::journal::*;
use protocol::key_packages::*;
use protocol::policy::*;
use protocol::push::*;
use protocol::removal::RemovalReason;
use protocol::reporting::*;
use protocol::request::{Sender, SignedRequest};
use protocol::welcome::*;
use protocol::{DecodeError, Operation, Wire};
use tls_codec::VLBytes;

use crate::allocation::allocated_by;
use crate::sample::{Sample, Source};

/// What can be compared of every value. Secrets show nothing but their encoding.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) encoding: Vec<u8>,
    debug: String,
}

impl Shown {
    fn of(value: &(impl Wire + Debug)) -> Self {
        Self {
            encoding: value.encode(),
            debug: format!("{value:?}"),
        }
    }
}

pub(crate) struct WireType {
    pub(crate) name: &'static str,
    pub(crate) sample: fn(&mut Source) -> Shown,
    pub(crate) decode: fn(&[u8]) -> Result<Shown, DecodeError>,
}

impl WireType {
    pub(crate) const fn of<T: Wire + Sample + Debug>(name: &'static str) -> Self {
        Self {
            name,
            sample: |from| Shown::of(&T::sample(from)),
            decode: |bytes| {
                let (decoded, allocated) = allocated_by(|| T::decode(bytes));
                // A byte can stand for a whole empty vector, and vectors grow in steps.
                let bound = 256 + 128 * bytes.len();
                assert!(allocated <= bound, "{allocated} bytes for {}", bytes.len());
                decoded.map(|value| Shown::of(&value))
            },
        }
    }
}

macro_rules! wire_types {
    (
        numbers: $($number:ident)+;
        structs: $($name:ident { $($field:ident),* })+;
        enums: $($enum:ident { $($variant:ident $(($content:ty))?),+ })+;
        others: $($other:ident $(<$size:literal>)?)+;
    ) => {
        $(impl Sample for $number {
            fn sample(from: &mut Source) -> Self {
                Self(from.take())
            }
        })+
        $(impl Sample for $name {
            fn sample(_from: &mut Source) -> Self {
                Self { $($field: _from.take()),* }
            }
        })+
        $(impl Sample for $enum {
            fn sample(from: &mut Source) -> Self {
                let _all_are_here = |value| match value {
                    $(Self::$variant { .. })|+ => {}
                };
                let variants: &[fn(&mut Source) -> Self] = &[
                    $(|_from| Self::$variant $((_from.take::<$content>()))?),+
                ];
                variants[from.choose(variants.len())](from)
            }
        })+
        pub(crate) const ALL: &[WireType] = &[
            $(WireType::of::<$number>(stringify!($number)),)+
            $(WireType::of::<$name>(stringify!($name)),)+
            $(WireType::of::<$enum>(stringify!($enum)),)+
            $(WireType::of::<$other $(<$size>)?>(stringify!($other)),)+
        ];
    };
}

wire_types! {
    numbers:
        GroupId SegmentId PoolId JoinRecordId RecoveryRowId WelcomeId InboxId InboxEntryId BlobId
        Digest ChainHead Epoch RotationEpoch Step Position LeafIndex Day Week Minute TickNumber Capabilities;
    structs:
        SignedRequest { version, operation, minute, nonce, sender, body, signature }
        PartialGroupInfo { extensions, signature }
        Accepted {}
        ReserveGroupIdRequest { group_id }
        ReserveGroupIdResponse { group_id }
        GroupKey { group_id, state_key }
        NextSegment { state_key, journal_key, former_wrapper_key, code_rows }
        LeafExtras { wrapped_link_key, recovery_key, push_handle }
        RecoveryKey { public_key, signature }
        RecoveryKeyTbs { group_id, leaf_key, public_key }
        CreateGroupRequest { group_id, kind, message_days, segment, ratchet_tree, group_info, leaf }
        CommitRequest { group, commit, group_info, rotation, link_keys, committer, welcome }
        JoinersUpload { join_key, welcomes }
        CommitAad { rotates, authorization, encrypted_connection_response }
        ExternalJoinRequest { group, commit, group_info, rotation, leaf, permit }
        CommitAccepted { epoch, place, accepted_ms }
        JoinAccepted { accepted, journal }
        JournalKeys { rotation_epoch, journal_key, tag_key, tag_day }
        SendMessageRequest { group, message }
        EntryAccepted { place, accepted_ms }
        ProposalRequest { group, proposal, new_member }
        SetLeafExtrasRequest { group, recovery_key, push_handle, row }
        SetJoinCodeRequest { group, change }
        NewJoinCode { code, row }
        JoinCode { permit_hash, public_key, expiry, epoch, maker, signature }
        JoinCodeTbs { group_id, permit_hash, public_key, expiry, epoch, maker }
        InspectGroupRequest { group, from }
        InspectGroupResponse {
            epoch, rotation_epoch, rotation_due, leaves, places, codes, pending_proposals
        }
        LeafRecord {
            leaf_index, user_pseudonym, capabilities, link_key, recovery_key, has_row, active
        }
        OwnLeafRequest { group }
        OwnLeafResponse { epoch, leaf }
        PutRecoveryRowsRequest { group, rotation_epoch, rows }
        LeafAuthorization { leaf_index, not_after_ms, signature }
        LeafAuthorizationTbs { group_id, segment, purpose, leaf_index, not_after_ms, signature_key }
        WrappedLinkKey { wrapper, sealed }
        LinkKeyUpload { leaf_index, sealed }
        SealedFormerWrapperKey { of, sealed }
        RecoveryRow { id, sealed }
        RecoveryRowRequest { version, id }
        RecoveryRowResponse { rotation_epoch, sealed }
        JoinRecordRequest { version, id, page }
        JoinRecordResponse { pages, sealed }
        JoinRecordContent {
            ratchet_tree, state_key, journal, segment, place, chain, leaves, wrapper_chain
        }
        WrapperChainLink { under, former }
        LeafLinkKey { leaf_index, link_key }
        ExternalCommitInfoRequest { group, permit, authorization }
        ExternalCommitInfoResponse { epoch, group_info, ratchet_tree, leaves, wrapper_chain, codes }
        EntryContent { accepted_ms, event }
        CommitEvent { commit, link_keys, former_wrapper_key }
        ReadJournalRequest { version, segment, from, known, wait_ms, size, piece }
        ReadJournalResponse { head, step, closed, first, entries, piece, padding }
        Piece { of, bytes }
        FollowJournalRequest { version, segment, from, pace }
        FollowBegun { version, frame_len, beat_ms, lasts_ms }
        FollowedStretch { head, step, closed, first, entries }
        SignedHead { generation, next, chain, signature }
        JournalHeadTbs { generation, segment, next, chain }
        Tick { version, generation, resolution, number, previous, count, coded, signature }
        FeedTickTbs { version, generation, resolution, number, previous, count, coded }
        Place { rotation_epoch, position }
        SeenHead { segment, head }
        WelcomeUpload { id, sealed }
        WelcomeContent { welcome, join_info }
        JoinInfo { wrapper_key, group_name, codes_since, attribution }
        FetchWelcomeRequest { version, id }
        FetchWelcomeResponse { sealed }
        WelcomePointer { group_id, epoch, segment, place, chain, devices }
        DevicePointer { key_package_ref, id, key }
        Attribution { signature_public_key, signature }
        Role { number, name, capabilities }
        Participant { user_pseudonym, role, standing, person }
        GroupPolicy { version, roles, default_role, participants, profile }
        PublishKeyPackagesRequest { pool, sets }
        KeyPackageSetUpload { ciphersuite, expiry, sealed }
        KeyPackageSet { key_packages }
        DeleteKeyPackagesRequest { pool }
        CountKeyPackagesRequest { pool }
        CountKeyPackagesResponse { counts }
        KeyPackageCount { ciphersuite, expiry, sets }
        ClaimKeyPackagesRequest { pool, ciphersuite, sets }
        ClaimKeyPackagesResponse { sets }
        RegisterHandleRequest { handle, record, inbox, inbox_owner, expiry }
        LookupHandleRequest { handle }
        LookupHandleResponse { record, price }
        DeleteHandleRequest { handle }
        RequestConnectionRequest { handle, encrypted_request }
        ReadInboxRequest { inbox, limit }
        ReadInboxResponse { requests, more }
        InboxEntry { day, id, encrypted_request }
        DeleteFromInboxRequest { inbox, entries }
        InboxEntryName { day, id }
        BlobName { id, last_day }
        CreateBlobRequest { id, chunks, life, writer }
        CreateBlobResponse { last_day }
        PutChunkRequest { version, blob, write_key, index, completes, chunk }
        BlobChunksRequest { version, blob }
        BlobChunksResponse { chunks, whole, present }
        ReadChunkRequest { version, blob, index }
        ReadChunkResponse { chunk }
        DeleteBlobRequest { version, blob, write_key }
        HandleRecord { credential, connection_establishment_key, signature }
        ClientCredential { name, signature_public_key }
        ConnectionRequest {
            requester_client_credential, connection_room_id, requester_connection_key,
            connection_response_key, extensions, signature
        }
        ConnectionRequestExtensions { version, code, introduction }
        ConnectionResponse { responder_connection_key, version, connection_token }
        CertificateRequest { version, commitment }
        ReportingCertificate {
            version, key_id, commitment, account_handle, not_after_day, signature
        }
        Introduction {
            version, occasion, certificate, salt, holder_key, recipient_key, day, greeting
        }
        SignedIntroduction { introduction, signature }
        AbuseReport { version, reason, account_token_digest, evidence, signature }
        WebPushAddress { endpoint, p256dh, auth }
        WebhookAddress { url, secret }
        AppAddress { app, token }
        Consent { pace, decoys }
        Registration { address, consent }
        DeviceRequestTbs { version, owner_key, number, act }
        DeviceRequest { request, signature }
        DeviceResponse { handles }
        WakeRequest { version, handles };
    enums:
        BlobLife { Day, Week, Month, Quarter }
        Resolution { Seconds2, Seconds20, Minutes2, Minutes20, Hours2, Day }
        Sender { Leaf(LeafIndex), Key(VLBytes) }
        GroupKind { Group, Connection, SingleUser }
        JoinCodeChange { Make(NewJoinCode), Revoke(RecoveryRowId) }
        JoinPermit { Client, Rejoin, JoinCode(WireSecret) }
        Class { Handshake, Message }
        Pace { Live, Even }
        AnswerSize { Ordinary, Segment, Slot }
        Event { Message(VLBytes), Proposal(VLBytes), Commit(CommitEvent) }
        Entry { Handshake(VLBytes), Message(VLBytes), Expired(Digest) }
        RemovalReason { Inactive(Week), NeverCame, OwnWish }
        Standing { Active, Inactive, Muted, Banned }
        Occasion { Request, Answer }
        ReportReason { Spam, Abuse, Other }
        Address {
            WebPush(WebPushAddress), Webhook(WebhookAddress), Apns(AppAddress), Fcm(AppAddress)
        }
        WakePace { Prompt, Batched }
        DeviceAct {
            Register(Registration), SetConsent(Consent), IssueHandles(u16),
            RevokeHandles(Vec<Handle>), RevokeAllHandles, Remove, Awake(u16)
        };
    others: Operation WireSecret Padded<24>;
}
