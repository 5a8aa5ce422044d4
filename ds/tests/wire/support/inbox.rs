//! What comes for a client: entries opened, Welcomes joined, commits merged.

use crypto::keys::{GroupLookup as _, JoinKey, PayloadKey};
use crypto::queue::{StreamKey, open_payload};
use crypto::sealing::{self, Place};
use openmls::group::ProcessedWelcome;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{
    ContentType, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, ProcessedMessageContent,
    ProtocolMessage, RatchetTreeIn,
};
use protocol::delivery::{Payload, PayloadKind, WelcomeDelivery};
use protocol::groups::{Accepted, CommitAad, JoinRecordContent, JoinRecordRequest, SealedRecord};
use protocol::ids::{EntryId, GroupId};
use protocol::queues::{AcknowledgeQueueRequest, FetchQueueRequest, FetchQueueResponse, MAX_FETCH};
use protocol::{Operation, Wire};

use super::Service;
use super::client::{Client, LeafSigner, Membership, export, join_config};
use super::request::{Draft, fresh_key};

/// An entry that was opened.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub id: EntryId,
    pub kind: PayloadKind,
    pub sequence: u64,
    pub payload: Payload,
}

/// What a client makes of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Message {
        from: u32,
        text: Vec<u8>,
    },
    Committed {
        epoch: u64,
    },
    Removed,
    Joined,
    /// A proposal is pending; by somebody else.
    Proposed,
    ConnectionRequest(Vec<u8>),
    /// Messages of this group did not fit into the queue.
    Dropped(GroupId),
}

pub fn protocol_message(bytes: &[u8]) -> ProtocolMessage {
    MlsMessageIn::tls_deserialize_exact_bytes(bytes)
        .unwrap()
        .try_into_protocol_message()
        .unwrap()
}

impl Client {
    pub fn fetch_request(&self, service: &Service, limit: u16, wait_ms: u32) -> Vec<u8> {
        let body = FetchQueueRequest {
            queue_id: self.queue,
            limit,
            wait_ms,
        };
        Draft::by_key(service, Operation::FetchQueue, &self.queue_owner, &body)
            .signed(&self.queue_owner)
    }

    /// What is in the queue; nothing is acknowledged.
    pub async fn fetch(&self, service: &Service) -> Vec<Delivered> {
        let request = self.fetch_request(service, MAX_FETCH, 0);
        let answer: FetchQueueResponse = service
            .post(Operation::FetchQueue, &request)
            .await
            .accepted();
        assert_eq!(answer.more, 0);
        answer
            .entries
            .iter()
            .map(|entry| self.open(entry))
            .collect()
    }

    pub fn open(&self, entry: &protocol::queues::QueueEntry) -> Delivered {
        let EntryId {
            day, incarnation, ..
        } = &entry.id;
        let stream = StreamKey::receive(
            &self.queue_hpke,
            &entry.encapsulated_key,
            &self.queue,
            incarnation,
            *day,
        )
        .unwrap();
        let content = stream.open(&entry.id, entry.sealed.as_slice()).unwrap();
        let key = PayloadKey::from(&content.payload_key);
        let payload = open_payload(&key, entry.sealed_payload.as_slice()).unwrap();
        assert_eq!(payload.kind(), content.kind);
        Delivered {
            id: entry.id,
            kind: content.kind,
            sequence: content.sequence,
            payload,
        }
    }

    pub async fn acknowledge(&self, service: &Service, entries: Vec<EntryId>) {
        let body = AcknowledgeQueueRequest {
            queue_id: self.queue,
            entries,
        };
        let _: Accepted = service
            .call(Operation::AcknowledgeQueue, &self.queue_owner, &body)
            .await;
    }

    /// Takes everything out of the queue and processes it in the order of `docs/protocol.md`.
    pub async fn receive(&mut self, service: &Service) -> Vec<Event> {
        let mut delivered = self.fetch(service).await;
        self.acknowledge(service, delivered.iter().map(|entry| entry.id).collect())
            .await;
        delivered.sort_by_key(|entry| match &entry.payload {
            Payload::Welcome(_) | Payload::ConnectionRequest(_) | Payload::Dropped(_) => {
                (0, 0, entry.sequence)
            }
            Payload::Message(bytes) | Payload::Proposal(bytes) => (
                protocol_message(bytes.as_slice()).epoch().as_u64(),
                1,
                entry.sequence,
            ),
            Payload::Commit(bytes) => (
                protocol_message(bytes.as_slice()).epoch().as_u64(),
                2,
                entry.sequence,
            ),
        });
        let mut events = Vec::new();
        for entry in delivered {
            match entry.payload {
                Payload::Welcome(welcome) => {
                    self.join(service, &welcome).await;
                    events.push(Event::Joined);
                }
                Payload::ConnectionRequest(sealed) => {
                    events.push(Event::ConnectionRequest(sealed.as_slice().to_vec()));
                }
                Payload::Dropped(group) => events.push(Event::Dropped(group)),
                Payload::Message(bytes) | Payload::Commit(bytes) | Payload::Proposal(bytes) => {
                    events.extend(self.process(bytes.as_slice()))
                }
            }
        }
        events
    }

    /// Processes a message or commit; commits that are merged already are passed over.
    pub fn process(&mut self, bytes: &[u8]) -> Option<Event> {
        let message = protocol_message(bytes);
        let id = GroupId(message.group_id().as_slice().try_into().unwrap());
        let Self {
            groups, provider, ..
        } = self;
        let group = groups.get_mut(&id)?;
        let is_handshake = message.content_type() != ContentType::Application;
        if is_handshake && message.epoch() < group.mls.epoch() {
            return None;
        }
        let processed = group.mls.process_message(provider, message).unwrap();
        let aad = processed.aad().to_vec();
        let sender = processed.sender().clone();
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => {
                let openmls::prelude::Sender::Member(from) = sender else {
                    panic!("a message of no member")
                };
                return Some(Event::Message {
                    from: from.u32(),
                    text: message.into_bytes(),
                });
            }
            ProcessedMessageContent::OwnPendingCommit => {
                group.merge_own(provider);
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                let removed = staged.self_removed();
                group.mls.merge_staged_commit(provider, *staged).unwrap();
                group.next_signer = None;
                if removed {
                    // Or the library would not let this client in again.
                    group.mls.delete(provider.storage()).unwrap();
                    return Some(Event::Removed);
                }
            }
            ProcessedMessageContent::ProposalMessage(proposal)
            | ProcessedMessageContent::ExternalJoinProposalMessage(proposal) => {
                let own = openmls::prelude::Sender::Member(group.mls.own_leaf_index());
                // The own one too: the commit that covers it refers to it.
                group
                    .mls
                    .store_pending_proposal(provider.storage(), *proposal)
                    .unwrap();
                return (sender != own).then_some(Event::Proposed);
            }
            other => panic!("not a message, proposal or commit: {other:?}"),
        }
        if CommitAad::decode(&aad).unwrap().rotates_state_key == 1 {
            group.state_key = export(&group.mls, provider, "state key");
        }
        Some(Event::Committed {
            epoch: group.mls.epoch().as_u64(),
        })
    }

    /// Joins by a Welcome, through the join record.
    pub async fn join(&mut self, service: &Service, delivery: &WelcomeDelivery) -> GroupId {
        let MlsMessageBodyIn::Welcome(welcome) =
            MlsMessageIn::tls_deserialize_exact_bytes(delivery.welcome.as_slice())
                .unwrap()
                .extract()
        else {
            panic!("not a Welcome");
        };
        let processed =
            ProcessedWelcome::new_from_welcome(&self.provider, &join_config(), welcome).unwrap();
        let exported = |label| {
            processed
                .export_secret(self.provider.crypto(), label, &[], 32)
                .unwrap()
        };
        let join_key = JoinKey::try_from(exported("join record").as_slice()).unwrap();
        // The kit's join info is the wrapper key alone.
        let info_key: [u8; 32] = exported("join info").try_into().unwrap();
        let place = Place {
            table: "join_info",
            row: b"",
            part: "info",
        };
        let wrapper =
            sealing::open(&info_key, place, delivery.sealed_join_info.as_slice()).unwrap();
        let id = processed.unverified_group_info().group_id().as_slice();
        let id = GroupId(id.try_into().unwrap());
        let record = self.join_record(service, &id, &join_key).await;
        let tree =
            RatchetTreeIn::tls_deserialize_exact_bytes(record.ratchet_tree.as_slice()).unwrap();
        let mls = processed
            .into_staged_welcome(&self.provider, Some(tree))
            .unwrap()
            .into_group(&self.provider)
            .unwrap();
        let own = mls
            .own_leaf_node()
            .unwrap()
            .signature_key()
            .as_slice()
            .to_vec();
        let at = self
            .leaf_keys
            .iter()
            .position(|key| key.public() == *own)
            .unwrap();
        let id = GroupId(mls.group_id().as_slice().try_into().unwrap());
        let members: Vec<u32> = mls.members().map(|member| member.index.u32()).collect();
        assert_eq!(
            members,
            record
                .leaves
                .iter()
                .map(|leaf| leaf.leaf_index)
                .collect::<Vec<_>>()
        );
        let membership = Membership {
            mls,
            signer: LeafSigner(self.leaf_keys.swap_remove(at)),
            state_key: *record.state_key.expose(),
            wrapper: wrapper.as_slice().try_into().unwrap(),
            recovery: crypto::random().unwrap(),
            next_signer: None,
        };
        self.groups.insert(id, membership);
        id
    }

    pub async fn join_record(
        &self,
        service: &Service,
        id: &GroupId,
        join_key: &JoinKey,
    ) -> JoinRecordContent {
        let lookup = join_key.lookup_in(id);
        let sealed: SealedRecord = service
            .call(
                Operation::JoinRecord,
                &fresh_key(),
                &JoinRecordRequest { lookup },
            )
            .await;
        let place = Place {
            table: "join_records",
            row: &lookup.0,
            part: "record",
        };
        let content = sealing::open(join_key.expose(), place, sealed.sealed.as_slice()).unwrap();
        JoinRecordContent::decode(&content).unwrap()
    }
}
