//! Every body, answer and record of the wire protocol: the first byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::Wire;
use protocol::blobs::*;
use protocol::connections::*;
use protocol::feed::{TagSet, Tick};
use protocol::follow::*;
use protocol::group::*;
use protocol::inbox::*;
use protocol::join::*;
use protocol::journal::*;
use protocol::key_packages::*;
use protocol::policy::GroupPolicy;
use protocol::request::{ReceivedRequest, SignedRequest};
use protocol::welcome::*;

fn decode<T: Wire>(bytes: &[u8]) {
    if let Ok(value) = T::decode(bytes) {
        assert_eq!(value.encode(), bytes);
    }
}

macro_rules! decoders {
    ($($type:ty),+ $(,)?) => { &[$(decode::<$type>),+] };
}

const DECODERS: &[fn(&[u8])] = decoders![
    SignedRequest,
    CreateGroupRequest,
    CommitRequest,
    CommitAad,
    CommitAccepted,
    ExternalJoinRequest,
    JoinAccepted,
    SendMessageRequest,
    EntryAccepted,
    ProposalRequest,
    SetLeafExtrasRequest,
    SetJoinCodeRequest,
    InspectGroupRequest,
    InspectGroupResponse,
    OwnLeafRequest,
    OwnLeafResponse,
    PutRecoveryRowsRequest,
    JoinRecordRequest,
    JoinRecordResponse,
    JoinRecordContent,
    RecoveryRowRequest,
    RecoveryRowResponse,
    ExternalCommitInfoRequest,
    ExternalCommitInfoResponse,
    EntryContent,
    ReadJournalRequest,
    ReadJournalResponse,
    FollowJournalRequest,
    FollowBegun,
    FollowedStretch,
    SeenHead,
    Tick,
    WelcomeContent,
    JoinInfo,
    WelcomePointer,
    PublishKeyPackagesRequest,
    ClaimKeyPackagesRequest,
    ClaimKeyPackagesResponse,
    CountKeyPackagesResponse,
    RegisterHandleRequest,
    LookupHandleResponse,
    RequestConnectionRequest,
    ReadInboxRequest,
    ReadInboxResponse,
    DeleteFromInboxRequest,
    CreateBlobRequest,
    CreateBlobResponse,
    PutChunkRequest,
    BlobChunksRequest,
    BlobChunksResponse,
    ReadChunkRequest,
    ReadChunkResponse,
    DeleteBlobRequest,
    GroupPolicy,
    HandleRecord,
    ConnectionRequest,
    ConnectionResponse,
];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    if let Some(decode) = DECODERS.get(usize::from(*choice) % DECODERS.len()) {
        decode(bytes);
    }
    if let Ok(frame) = Frame::read(bytes) {
        assert!(frame.content.len() < bytes.len());
    }
    if let Ok(received) = ReceivedRequest::decode(bytes) {
        assert!(bytes.starts_with(received.signed_bytes));
    }
    if let Some((count, coded)) = bytes.split_first_chunk::<4>() {
        let _ = TagSet::decode(u32::from_be_bytes(*count), coded);
    }
});
