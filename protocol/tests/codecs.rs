//! Every wire type: what is encoded decodes to the same, and no bytes whatsoever do harm.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use protocol::codec::{WireSecret, opaque};
use protocol::connections::{
    ClientCredential, ConnectionRequest, ConnectionRequestExtensions, ConnectionResponse,
    DeleteHandleRequest, HandleRecord, LookupHandleRequest, LookupHandleResponse,
    RegisterHandleRequest, RequestConnectionRequest,
};
use protocol::delivery::{
    Attribution, EntryContent, JoinInfo, Payload, PayloadKind, WelcomeDelivery,
};
use protocol::envelope::{ReceivedRequest, Sender, SignedRequest};
use protocol::groups::*;
use protocol::ids::{EntryId, GroupId, Incarnation, LookupId, QueueId};
use protocol::key_packages::{
    Claim, ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, ClaimedSet, CountKeyPackagesRequest,
    CountKeyPackagesResponse, DeleteKeyPackagesRequest, KeyPackageCount, KeyPackageSet,
    KeyPackageSetUpload, PublishKeyPackagesRequest,
};
use protocol::policy::{Capabilities, GroupPolicy, Participant, Role, Standing};
use protocol::queues::{
    AcknowledgeQueueRequest, BlockGroupRequest, CreateQueueRequest, CreateQueueResponse,
    DeleteQueueRequest, FetchQueueRequest, FetchQueueResponse, QueueEntry,
};
use protocol::reporting::{
    AbuseReport, CertificateRequest, Introduction, Occasion, Padded, ReportReason,
    ReportingCertificate, SignedIntroduction,
};
use protocol::{DecodeError, Operation, Wire};
use tls_codec::VLBytes;

/// Lengths on both sides of where the length field grows (RFC 9420 §2.1.2).
fn bytes() -> impl Strategy<Value = VLBytes> {
    prop_oneof![vec(any::<u8>(), 0..80), vec(any::<u8>(), 16_380..16_390)].prop_map(opaque)
}

fn secret() -> impl Strategy<Value = WireSecret> {
    any::<[u8; 32]>().prop_map(WireSecret::new)
}

fn group_id() -> impl Strategy<Value = GroupId> {
    any::<[u8; 16]>().prop_map(GroupId)
}

fn queue_id() -> impl Strategy<Value = QueueId> {
    any::<[u8; 16]>().prop_map(QueueId)
}

fn lookup() -> impl Strategy<Value = LookupId> {
    any::<[u8; 32]>().prop_map(LookupId)
}

fn entry_id() -> impl Strategy<Value = EntryId> {
    (any::<u32>(), any::<[u8; 16]>(), any::<u32>()).prop_map(|(day, incarnation, index)| EntryId {
        day,
        incarnation: Incarnation(incarnation),
        index,
    })
}

fn sender() -> impl Strategy<Value = Sender> {
    prop_oneof![
        any::<u32>().prop_map(Sender::Leaf),
        bytes().prop_map(Sender::Key)
    ]
}

fn envelope() -> impl Strategy<Value = SignedRequest> {
    (
        any::<u16>(),
        select(Operation::ALL),
        any::<u64>(),
        sender(),
        bytes(),
        bytes(),
    )
        .prop_map(
            |(version, operation, timestamp_ms, sender, body, signature)| SignedRequest {
                version,
                operation,
                timestamp_ms,
                sender,
                body,
                signature,
            },
        )
}

fn kind() -> impl Strategy<Value = GroupKind> {
    select(&[
        GroupKind::Group,
        GroupKind::Connection,
        GroupKind::SingleUser,
    ])
}

fn partial() -> impl Strategy<Value = PartialGroupInfo> {
    (bytes(), bytes()).prop_map(|(extensions, signature)| PartialGroupInfo {
        extensions,
        signature,
    })
}

fn create_group() -> impl Strategy<Value = CreateGroupRequest> {
    (
        group_id(),
        secret(),
        kind(),
        bytes(),
        bytes(),
        bytes(),
        secret(),
    )
        .prop_map(
            |(
                group_id,
                state_key,
                kind,
                ratchet_tree,
                group_info,
                encrypted_identity_link_key,
                recovery_secret,
            )| {
                CreateGroupRequest {
                    group_id,
                    state_key,
                    kind,
                    ratchet_tree,
                    group_info,
                    encrypted_identity_link_key,
                    recovery_secret,
                }
            },
        )
}

fn welcome_upload() -> impl Strategy<Value = WelcomeUpload> {
    (bytes(), secret(), bytes()).prop_map(|(welcome, join_key, sealed_join_info)| WelcomeUpload {
        welcome,
        join_key,
        sealed_join_info,
    })
}

fn commit() -> impl Strategy<Value = CommitRequest> {
    (
        group_id(),
        secret(),
        option::of(secret()),
        bytes(),
        partial(),
        option::of(welcome_upload()),
    )
        .prop_map(
            |(group_id, state_key, next_state_key, commit, group_info, welcome)| CommitRequest {
                group_id,
                state_key,
                next_state_key,
                commit,
                group_info,
                welcome,
            },
        )
}

fn commit_aad() -> impl Strategy<Value = CommitAad> {
    let authorization = option::of(authorization());
    (vec(bytes(), 0..4), any::<u8>(), bytes(), authorization).prop_map(
        |(
            encrypted_identity_link_keys,
            rotates_state_key,
            encrypted_connection_response,
            leaf_authorization,
        )| {
            CommitAad {
                encrypted_identity_link_keys,
                rotates_state_key,
                encrypted_connection_response,
                leaf_authorization,
            }
        },
    )
}

fn authorization() -> impl Strategy<Value = LeafAuthorization> {
    (any::<u32>(), any::<u64>(), bytes()).prop_map(|(leaf_index, not_after_ms, signature)| {
        LeafAuthorization {
            leaf_index,
            not_after_ms,
            signature,
        }
    })
}

fn permit() -> impl Strategy<Value = JoinPermit> {
    prop_oneof![
        Just(()).prop_map(|()| JoinPermit::Connection),
        authorization().prop_map(JoinPermit::Client),
        authorization().prop_map(JoinPermit::Rejoin),
        secret().prop_map(JoinPermit::JoinCode),
    ]
}

fn external_join() -> impl Strategy<Value = ExternalJoinRequest> {
    (
        group_id(),
        secret(),
        option::of(secret()),
        bytes(),
        partial(),
        secret(),
        permit(),
    )
        .prop_map(
            |(group_id, state_key, next_state_key, commit, group_info, recovery_secret, permit)| {
                ExternalJoinRequest {
                    group_id,
                    state_key,
                    next_state_key,
                    commit,
                    group_info,
                    recovery_secret,
                    permit,
                }
            },
        )
}

fn member() -> impl Strategy<Value = MemberRecord> {
    (any::<u32>(), bytes(), any::<u16>(), bytes()).prop_map(
        |(leaf_index, user_pseudonym, capabilities, encrypted_identity_link_key)| MemberRecord {
            leaf_index,
            user_pseudonym,
            capabilities: Capabilities(capabilities),
            encrypted_identity_link_key,
        },
    )
}

fn inspected() -> impl Strategy<Value = InspectGroupResponse> {
    (any::<u64>(), vec(member(), 0..4), vec(bytes(), 0..4)).prop_map(
        |(epoch, members, pending_proposals)| InspectGroupResponse {
            epoch,
            members,
            pending_proposals,
        },
    )
}

fn policy() -> impl Strategy<Value = GroupPolicy> {
    let role = (any::<u8>(), bytes(), any::<u16>()).prop_map(|(number, name, capabilities)| Role {
        number,
        name,
        capabilities: Capabilities(capabilities),
    });
    let standing = select(vec![
        Standing::Active,
        Standing::Inactive,
        Standing::Muted,
        Standing::Banned,
    ]);
    let participant = (bytes(), any::<u8>(), standing, bytes()).prop_map(
        |(user_pseudonym, role, standing, person)| Participant {
            user_pseudonym,
            role,
            standing,
            person,
        },
    );
    (
        any::<u16>(),
        vec(role, 0..4),
        any::<u8>(),
        vec(participant, 0..4),
    )
        .prop_map(|(version, roles, default_role, participants)| GroupPolicy {
            version,
            roles,
            default_role,
            participants,
        })
}

fn leaves() -> impl Strategy<Value = Vec<LeafLinkKey>> {
    let leaf =
        (any::<u32>(), bytes()).prop_map(|(leaf_index, encrypted_identity_link_key)| LeafLinkKey {
            leaf_index,
            encrypted_identity_link_key,
        });
    vec(leaf, 0..4)
}

fn join_record() -> impl Strategy<Value = JoinRecordContent> {
    (bytes(), secret(), leaves()).prop_map(|(ratchet_tree, state_key, leaves)| JoinRecordContent {
        ratchet_tree,
        state_key,
        leaves,
    })
}

fn external_commit_info() -> impl Strategy<Value = ExternalCommitInfoResponse> {
    (bytes(), bytes(), leaves(), vec(bytes(), 0..4)).prop_map(
        |(group_info, ratchet_tree, leaves, self_removes)| ExternalCommitInfoResponse {
            group_info,
            ratchet_tree,
            leaves,
            self_removes,
        },
    )
}

fn upload() -> impl Strategy<Value = KeyPackageSetUpload> {
    (any::<u16>(), any::<u32>(), any::<u8>(), bytes()).prop_map(
        |(ciphersuite, expiry_day, last_resort, sealed)| KeyPackageSetUpload {
            ciphersuite,
            expiry_day,
            last_resort,
            sealed,
        },
    )
}

fn publication() -> impl Strategy<Value = PublishKeyPackagesRequest> {
    (lookup(), vec(upload(), 0..4))
        .prop_map(|(lookup, sets)| PublishKeyPackagesRequest { lookup, sets })
}

fn claims() -> impl Strategy<Value = ClaimKeyPackagesRequest> {
    vec(
        (lookup(), any::<u16>()).prop_map(|(lookup, ciphersuite)| Claim {
            lookup,
            ciphersuite,
        }),
        0..4,
    )
    .prop_map(|claims| ClaimKeyPackagesRequest { claims })
}

fn claimed() -> impl Strategy<Value = ClaimKeyPackagesResponse> {
    vec(
        (any::<u8>(), bytes()).prop_map(|(last_resort, sealed)| ClaimedSet {
            last_resort,
            sealed,
        }),
        0..4,
    )
    .prop_map(|sets| ClaimKeyPackagesResponse { sets })
}

fn credential() -> impl Strategy<Value = ClientCredential> {
    (bytes(), bytes()).prop_map(|(name, signature_public_key)| ClientCredential {
        name,
        signature_public_key,
    })
}

fn handle_record() -> impl Strategy<Value = HandleRecord> {
    (credential(), bytes(), bytes()).prop_map(
        |(credential, connection_establishment_key, signature)| HandleRecord {
            credential,
            connection_establishment_key,
            signature,
        },
    )
}

fn certificate() -> impl Strategy<Value = ReportingCertificate> {
    (
        any::<[u8; 8]>(),
        any::<[u8; 32]>(),
        vec(any::<u8>(), 124),
        any::<u32>(),
    )
        .prop_map(
            |(key_id, commitment, rest, not_after_day)| ReportingCertificate {
                version: 1,
                key_id,
                commitment,
                account_handle: rest[..60].try_into().unwrap(),
                not_after_day,
                signature: rest[60..].try_into().unwrap(),
            },
        )
}

fn introduction() -> impl Strategy<Value = SignedIntroduction> {
    let occasion = select(vec![Occasion::Request, Occasion::Answer]);
    (
        certificate(),
        occasion,
        any::<[u8; 32]>(),
        any::<u32>(),
        vec(any::<u8>(), 0..=256),
    )
        .prop_map(
            |(certificate, occasion, bytes, day, greeting)| SignedIntroduction {
                signature: certificate.signature,
                introduction: Introduction {
                    version: 1,
                    occasion,
                    certificate,
                    salt: bytes,
                    holder_key: bytes,
                    recipient_key: bytes,
                    day,
                    greeting: opaque(greeting),
                },
            },
        )
}

fn abuse_report() -> impl Strategy<Value = AbuseReport> {
    let reason = select(ReportReason::NAMES.map(|(_, reason)| reason).to_vec());
    (introduction(), reason, any::<[u8; 32]>()).prop_map(
        |(evidence, reason, account_token_digest)| AbuseReport {
            version: 1,
            reason,
            account_token_digest,
            signature: evidence.signature,
            evidence,
        },
    )
}

fn connection_request() -> impl Strategy<Value = ConnectionRequest> {
    let extensions = (option::of(introduction()), any::<u16>(), secret()).prop_map(
        |(introduction, version, state_key)| ConnectionRequestExtensions {
            version,
            state_key,
            introduction: introduction
                .and_then(|introduction| Padded::new(introduction.encode()))
                .unwrap_or_else(Padded::empty),
        },
    );
    (
        credential(),
        group_id(),
        secret(),
        secret(),
        bytes(),
        extensions,
        bytes(),
    )
        .prop_map(
            |(credential, room, wrapper, key, connection_response_key, extensions, signature)| {
                ConnectionRequest {
                    requester_client_credential: credential,
                    connection_room_id: room,
                    connection_room_identity_link_wrapper_key: wrapper,
                    requester_connection_key: key,
                    connection_response_key,
                    extensions,
                    signature,
                }
            },
        )
}

fn fetched() -> impl Strategy<Value = FetchQueueResponse> {
    let entry = (entry_id(), any::<[u8; 32]>(), bytes(), bytes()).prop_map(
        |(id, encapsulated_key, sealed, sealed_payload)| QueueEntry {
            id,
            encapsulated_key,
            sealed,
            sealed_payload,
        },
    );
    (vec(entry, 0..4), any::<u8>()).prop_map(|(entries, more)| FetchQueueResponse { entries, more })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        bytes().prop_map(Payload::Message),
        bytes().prop_map(Payload::Commit),
        (bytes(), bytes()).prop_map(|(welcome, sealed_join_info)| {
            Payload::Welcome(WelcomeDelivery {
                welcome,
                sealed_join_info,
            })
        }),
        bytes().prop_map(Payload::ConnectionRequest),
        bytes().prop_map(Payload::Proposal),
    ]
}

fn entry_content() -> impl Strategy<Value = EntryContent> {
    let kinds = [
        PayloadKind::Message,
        PayloadKind::Commit,
        PayloadKind::Welcome,
        PayloadKind::ConnectionRequest,
        PayloadKind::Proposal,
    ];
    (select(kinds.to_vec()), secret(), any::<u64>()).prop_map(|(kind, payload_key, sequence)| {
        EntryContent {
            kind,
            payload_key,
            sequence,
        }
    })
}

fn join_info() -> impl Strategy<Value = JoinInfo> {
    (secret(), bytes(), bytes(), bytes()).prop_map(
        |(key, group_name, signature_public_key, signature)| JoinInfo {
            identity_link_wrapper_key: key,
            group_name,
            attribution: Attribution {
                signature_public_key,
                signature,
            },
        },
    )
}

/// Bytes that no type has in full: every proper prefix and every longer string is refused.
fn one_exact_encoding<T: Wire>(value: &T) -> Result<Vec<u8>, TestCaseError> {
    let encoded = value.encode();
    let decoded = T::decode(&encoded);
    prop_assert!(decoded.is_ok());
    prop_assert_eq!(&decoded.unwrap().encode(), &encoded);
    let trailing = [encoded.as_slice(), &[0]].concat();
    prop_assert_eq!(T::decode(&trailing).err(), Some(DecodeError::TrailingBytes));
    // Long ones are cut at their ends only: each cut costs a decoding.
    let cuts = (0..encoded.len()).filter(|cut| *cut < 256 || encoded.len() - cut < 64);
    for cut in cuts {
        prop_assert_eq!(
            T::decode(encoded.get(..cut).unwrap()).err(),
            Some(DecodeError::Malformed),
            "cut at {}",
            cut
        );
    }
    Ok(encoded)
}

/// Whatever it is, it is refused or it is exactly what encodes to it.
fn no_harm<T: Wire>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(value) = T::decode(bytes) {
        prop_assert_eq!(value.encode(), bytes);
    }
    Ok(())
}

fn changed(mut encoded: Vec<u8>, at: Index, byte: u8) -> Vec<u8> {
    if !encoded.is_empty() {
        let at = at.index(encoded.len());
        if let Some(place) = encoded.get_mut(at) {
            *place = byte;
        }
    }
    encoded
}

macro_rules! wire_types {
    ($($name:ident: $type:ty = $strategy:expr;)+) => {
        $(mod $name {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(64))]

                #[test]
                fn has_one_exact_encoding(value in $strategy, at: Index, byte: u8) {
                    let encoded = one_exact_encoding::<$type>(&value)?;
                    no_harm::<$type>(&changed(encoded, at, byte))?;
                }

                #[test]
                fn takes_no_harm_from_arbitrary_bytes(bytes in vec(any::<u8>(), 0..400)) {
                    no_harm::<$type>(&bytes)?;
                }
            }
        })+
    };
}

wire_types! {
    signed_request: SignedRequest = envelope();
    sender_of_a_request: Sender = sender();
    reserve_group_id_request: ReserveGroupIdRequest = Just(ReserveGroupIdRequest {});
    reserve_group_id_response: ReserveGroupIdResponse = group_id().prop_map(|group_id| ReserveGroupIdResponse { group_id });
    create_group_request: CreateGroupRequest = create_group();
    commit_request: CommitRequest = commit();
    commit_aad_of_a_group: CommitAad = commit_aad();
    external_join_request: ExternalJoinRequest = external_join();
    leaf_authorization_tbs: LeafAuthorizationTbs = (group_id(), any::<[u8; 32]>(), any::<u8>(), any::<u32>(), any::<u64>(), bytes())
        .prop_map(|(group_id, period, permit, leaf_index, not_after_ms, signature_key)| LeafAuthorizationTbs { group_id, period, permit, leaf_index, not_after_ms, signature_key });
    proposal_request: ProposalRequest = (group_id(), secret(), bytes(), bytes())
        .prop_map(|(group_id, state_key, proposal, link_key)| ProposalRequest { group_id, state_key, proposal, encrypted_identity_link_key: link_key });
    set_join_code_request: SetJoinCodeRequest = (group_id(), secret(), secret(), any::<u32>())
        .prop_map(|(group_id, state_key, secret, expiry_day)| SetJoinCodeRequest { group_id, state_key, secret, expiry_day });
    inspect_group_request: InspectGroupRequest = (group_id(), secret())
        .prop_map(|(group_id, state_key)| InspectGroupRequest { group_id, state_key });
    inspect_group_response: InspectGroupResponse = inspected();
    own_leaf_request: OwnLeafRequest = (group_id(), secret())
        .prop_map(|(group_id, state_key)| OwnLeafRequest { group_id, state_key });
    own_leaf_response: OwnLeafResponse = (any::<u64>(), member())
        .prop_map(|(epoch, member)| OwnLeafResponse { epoch, member });
    update_queue_reference_request: UpdateQueueReferenceRequest = (group_id(), secret(), bytes())
        .prop_map(|(group_id, state_key, queue_reference)| UpdateQueueReferenceRequest { group_id, state_key, queue_reference });
    policy_of_a_group: GroupPolicy = policy();
    delete_queue_request: DeleteQueueRequest = queue_id().prop_map(|queue_id| DeleteQueueRequest { queue_id });
    block_group_request: BlockGroupRequest = (queue_id(), group_id(), any::<u8>())
        .prop_map(|(queue_id, group_id, blocked)| BlockGroupRequest { queue_id, group_id, blocked });
    delete_handle_request: DeleteHandleRequest = bytes().prop_map(|handle| DeleteHandleRequest { handle });
    count_key_packages_request: CountKeyPackagesRequest = lookup().prop_map(|lookup| CountKeyPackagesRequest { lookup });
    count_key_packages_response: CountKeyPackagesResponse =
        vec((any::<u16>(), any::<u32>(), any::<u8>(), any::<u32>()).prop_map(|(ciphersuite, expiry_day, last_resort, sets)| {
            KeyPackageCount { ciphersuite, expiry_day, last_resort, sets }
        }), 0..4).prop_map(|counts| CountKeyPackagesResponse { counts });
    delete_key_packages_request: DeleteKeyPackagesRequest = lookup().prop_map(|lookup| DeleteKeyPackagesRequest { lookup });
    epoch_accepted: EpochAccepted = (any::<u64>(), any::<u64>())
        .prop_map(|(epoch, accepted_timestamp_ms)| EpochAccepted { epoch, accepted_timestamp_ms });
    send_message_request: SendMessageRequest = (group_id(), secret(), bytes())
        .prop_map(|(group_id, state_key, message)| SendMessageRequest { group_id, state_key, message });
    message_accepted: MessageAccepted = any::<u64>()
        .prop_map(|accepted_timestamp_ms| MessageAccepted { accepted_timestamp_ms });
    join_record_request: JoinRecordRequest = lookup().prop_map(|lookup| JoinRecordRequest { lookup });
    recovery_record_request: RecoveryRecordRequest = lookup().prop_map(|lookup| RecoveryRecordRequest { lookup });
    sealed_record: SealedRecord = bytes().prop_map(|sealed| SealedRecord { sealed });
    join_record_content: JoinRecordContent = join_record();
    external_commit_info_request: ExternalCommitInfoRequest = (group_id(), secret(), permit())
        .prop_map(|(group_id, state_key, permit)| ExternalCommitInfoRequest { group_id, state_key, permit });
    external_commit_info_response: ExternalCommitInfoResponse = external_commit_info();
    set_recovery_secret_request: SetRecoverySecretRequest = (group_id(), secret(), secret())
        .prop_map(|(group_id, state_key, recovery_secret)| SetRecoverySecretRequest { group_id, state_key, recovery_secret });
    accepted: Accepted = Just(Accepted {});
    publish_key_packages_request: PublishKeyPackagesRequest = publication();
    key_package_set: KeyPackageSet = vec(bytes(), 0..4).prop_map(|key_packages| KeyPackageSet { key_packages });
    claim_key_packages_request: ClaimKeyPackagesRequest = claims();
    claim_key_packages_response: ClaimKeyPackagesResponse = claimed();
    register_handle_request: RegisterHandleRequest = (bytes(), bytes(), bytes())
        .prop_map(|(handle, record, queue_reference)| RegisterHandleRequest { handle, record, queue_reference });
    lookup_handle_request: LookupHandleRequest = bytes().prop_map(|handle| LookupHandleRequest { handle });
    lookup_handle_response: LookupHandleResponse = bytes().prop_map(|record| LookupHandleResponse { record });
    handle_record_of_a_user: HandleRecord = handle_record();
    request_connection_request: RequestConnectionRequest = (bytes(), bytes())
        .prop_map(|(handle, encrypted_request)| RequestConnectionRequest { handle, encrypted_request });
    connection_request_of_a_user: ConnectionRequest = connection_request();
    connection_response: ConnectionResponse = (secret(), any::<u16>(), secret())
        .prop_map(|(key, version, connection_token)| ConnectionResponse { responder_connection_key: key, version, connection_token });
    create_queue_request: CreateQueueRequest = bytes().prop_map(|hpke_public_key| CreateQueueRequest { hpke_public_key });
    create_queue_response: CreateQueueResponse = queue_id().prop_map(|queue_id| CreateQueueResponse { queue_id });
    fetch_queue_request: FetchQueueRequest = (queue_id(), any::<u16>(), any::<u32>())
        .prop_map(|(queue_id, limit, wait_ms)| FetchQueueRequest { queue_id, limit, wait_ms });
    fetch_queue_response: FetchQueueResponse = fetched();
    acknowledge_queue_request: AcknowledgeQueueRequest = (queue_id(), vec(entry_id(), 0..4))
        .prop_map(|(queue_id, entries)| AcknowledgeQueueRequest { queue_id, entries });
    entry_content_of_a_queue: EntryContent = entry_content();
    payload_of_a_queue: Payload = payload();
    join_info_of_a_group: JoinInfo = join_info();
    certificate_request: CertificateRequest = any::<[u8; 32]>()
        .prop_map(|commitment| CertificateRequest { version: 1, commitment });
    reporting_certificate: ReportingCertificate = certificate();
    signed_introduction: SignedIntroduction = introduction();
    report_of_abuse: AbuseReport = abuse_report();
}

proptest! {
    #[test]
    fn the_signed_bytes_are_the_received_ones_before_the_signature(request in envelope()) {
        let encoded = request.encode();
        let received = ReceivedRequest::decode(&encoded).unwrap();
        prop_assert_eq!(&received.request, &request);
        let signature = request.signature.encode();
        prop_assert_eq!([received.signed_bytes, &signature].concat(), encoded.clone());
        prop_assert_eq!(ReceivedRequest::version_of(&encoded), Some(request.version));
    }
}

#[test]
fn a_length_in_more_bytes_than_it_needs_is_refused() {
    // Three bytes, their length in two and in four bytes (RFC 9420 §2.1.2: the minimum must be used).
    for header in [&[0x40, 3][..], &[0x80, 0, 0, 3]] {
        assert_eq!(
            VLBytes::decode(&[header, b"abc"].concat()).err(),
            Some(DecodeError::Malformed)
        );
    }
    assert_eq!(
        VLBytes::decode(&[3, b'a', b'b', b'c']).unwrap(),
        opaque(*b"abc")
    );
}

#[test]
fn numbers_that_no_operation_has_are_refused() {
    let known: Vec<u16> = Operation::ALL
        .iter()
        .map(|operation| operation.number())
        .collect();
    for number in 0..=u16::MAX {
        assert_eq!(
            Operation::decode(&number.to_be_bytes()).is_ok(),
            known.contains(&number)
        );
    }
}

#[test]
fn numbers_and_paths_of_operations_are_unique() {
    for (at, one) in Operation::ALL.iter().enumerate() {
        for other in Operation::ALL.iter().skip(at + 1) {
            assert_ne!(one.number(), other.number());
            assert_ne!(one.path(), other.path());
        }
    }
}
