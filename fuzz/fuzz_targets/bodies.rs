//! Every body, response and structure of the wire protocol: the first byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::Wire;
use protocol::connections::*;
use protocol::delivery::*;
use protocol::groups::*;
use protocol::key_packages::*;
use protocol::policy::GroupPolicy;
use protocol::queues::*;

fn decode<T: Wire>(bytes: &[u8]) {
    if let Ok(value) = T::decode(bytes) {
        assert_eq!(value.encode(), bytes);
    }
}

macro_rules! decoders {
    ($($type:ty),+ $(,)?) => { &[$(decode::<$type>),+] };
}

const DECODERS: &[fn(&[u8])] = decoders![
    ReserveGroupIdRequest,
    ReserveGroupIdResponse,
    CreateGroupRequest,
    CommitRequest,
    CommitAad,
    ExternalJoinRequest,
    ProposalRequest,
    SetJoinCodeRequest,
    InspectGroupRequest,
    InspectGroupResponse,
    OwnLeafRequest,
    OwnLeafResponse,
    UpdateQueueReferenceRequest,
    GroupPolicy,
    EpochAccepted,
    SendMessageRequest,
    MessageAccepted,
    JoinRecordRequest,
    RecoveryRecordRequest,
    SealedRecord,
    JoinRecordContent,
    ExternalCommitInfoRequest,
    ExternalCommitInfoResponse,
    SetRecoverySecretRequest,
    Accepted,
    PublishKeyPackagesRequest,
    KeyPackageSet,
    ClaimKeyPackagesRequest,
    ClaimKeyPackagesResponse,
    RegisterHandleRequest,
    LookupHandleRequest,
    LookupHandleResponse,
    HandleRecord,
    RequestConnectionRequest,
    ConnectionRequest,
    ConnectionResponse,
    CreateQueueRequest,
    CreateQueueResponse,
    FetchQueueRequest,
    FetchQueueResponse,
    AcknowledgeQueueRequest,
    DeleteQueueRequest,
    BlockGroupRequest,
    DeleteHandleRequest,
    CountKeyPackagesRequest,
    CountKeyPackagesResponse,
    DeleteKeyPackagesRequest,
    EntryContent,
    Payload,
    WelcomeDelivery,
    JoinInfo,
];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    DECODERS[usize::from(*choice) % DECODERS.len()](bytes);
});
