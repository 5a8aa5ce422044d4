//! What comes for a client on `mls-rs`.

use crypto::keys::JoinKey;
use crypto::sealing::{self, Place};
use mls_rs::MlsMessage;
use mls_rs::group::{CommitEffect, ExportedTree, ReceivedMessage};
use mls_rs::mls_rs_codec::MlsDecode as _;
use protocol::Wire as _;
use protocol::delivery::{Payload, WelcomeDelivery};
use protocol::groups::CommitAad;
use protocol::ids::GroupId;

use super::wire::WelcomeExporter;
use super::{OtherClient, OtherMembership, export};
use crate::support::Service;
use crate::support::inbox::Event;

pub fn message(bytes: &[u8]) -> MlsMessage {
    MlsMessage::from_bytes(bytes).unwrap()
}

/// MLS `ratchet_tree`.
pub fn tree(bytes: &[u8]) -> ExportedTree<'static> {
    let mut rest = bytes;
    let tree = ExportedTree::mls_decode(&mut rest).unwrap();
    assert_eq!(rest, b"");
    tree
}

impl OtherClient {
    /// Takes everything out of the queue and processes it in the order of `docs/protocol.md`.
    pub async fn receive(&mut self, service: &Service) -> Vec<Event> {
        let mut delivered = self.kit.fetch(service).await;
        let ids = delivered.iter().map(|entry| entry.id).collect();
        self.kit.acknowledge(service, ids).await;
        delivered.sort_by_key(|entry| match &entry.payload {
            Payload::Welcome(_) | Payload::ConnectionRequest(_) | Payload::Dropped(_) => {
                (0, 0, entry.sequence)
            }
            Payload::Message(bytes) | Payload::Proposal(bytes) => (
                message(bytes.as_slice()).epoch().unwrap(),
                1,
                entry.sequence,
            ),
            Payload::Commit(bytes) => (
                message(bytes.as_slice()).epoch().unwrap(),
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
                Payload::Message(bytes) | Payload::Proposal(bytes) | Payload::Commit(bytes) => {
                    events.extend(self.process(bytes.as_slice()));
                }
            }
        }
        events
    }

    /// Processes a message, proposal or commit. Of earlier epochs than its own only messages count: it joined by
    /// what ended them.
    fn process(&mut self, bytes: &[u8]) -> Option<Event> {
        let message = message(bytes);
        let id = GroupId(message.group_id().unwrap().try_into().unwrap());
        let group = self.groups.get_mut(&id)?;
        let is_handshake = message.wire_format() == mls_rs::WireFormat::PublicMessage;
        if is_handshake && message.epoch().unwrap() < group.mls.current_epoch() {
            return None;
        }
        let own_commit_is_pending = group.mls.has_pending_commit();
        match group.mls.process_incoming_message(message).unwrap() {
            ReceivedMessage::ApplicationMessage(message) => Some(Event::Message {
                from: message.sender_index,
                text: message.data().to_vec(),
            }),
            ReceivedMessage::Proposal(_) => Some(Event::Proposed),
            ReceivedMessage::Commit(commit) => {
                let is_own = own_commit_is_pending
                    && !commit.is_external
                    && commit.committer == group.mls.current_member_index();
                match group.next_key.take() {
                    Some(next_key) if is_own => group.key = next_key,
                    _ => {}
                }
                match commit.effect {
                    CommitEffect::NewEpoch(_) => {}
                    CommitEffect::Removed { .. } => {
                        self.groups.remove(&id);
                        return Some(Event::Removed);
                    }
                    CommitEffect::ReInit(_) => group.reinitialized = true,
                }
                let aad = CommitAad::decode(&commit.authenticated_data).unwrap();
                if aad.rotates_state_key == 1 {
                    group.state_key = export(&group.mls, "state key");
                }
                Some(Event::Committed {
                    epoch: group.mls.current_epoch(),
                })
            }
            other => panic!("not a message, proposal or commit: {other:?}"),
        }
    }

    /// Joins by a Welcome, with the tree from the join record.
    async fn join(&mut self, service: &Service, delivery: &WelcomeDelivery) {
        let welcome = delivery.welcome.as_slice();
        let mut exporters = self
            .invited
            .iter()
            .enumerate()
            .filter_map(|(at, leaf)| Some((at, WelcomeExporter::new(leaf, welcome)?)));
        let (at, exporter) = exporters.next().unwrap();
        let place = Place {
            table: "join_info",
            row: b"",
            part: "info",
        };
        let wrapper = sealing::open(
            &exporter.export("join info"),
            place,
            delivery.sealed_join_info.as_slice(),
        )
        .unwrap();
        let join_key = exporter.export("join record");
        drop(exporters);
        let leaf = self.invited.swap_remove(at);
        let info = leaf.mls.examine_welcome_message(&message(welcome)).unwrap();
        let id = GroupId(info.group_context().group_id.as_slice().try_into().unwrap());
        let record = self
            .kit
            .join_record(service, &id, &JoinKey::new(join_key))
            .await;
        let (mls, _) = leaf
            .mls
            .join_group(
                Some(tree(record.ratchet_tree.as_slice())),
                &message(welcome),
                None,
            )
            .unwrap();
        assert_eq!(export(&mls, "join record"), join_key);
        let members: Vec<u32> = mls
            .roster()
            .members_iter()
            .map(|member| member.index)
            .collect();
        let listed: Vec<u32> = record.leaves.iter().map(|leaf| leaf.leaf_index).collect();
        assert_eq!(members, listed);
        assert_eq!(mls.group_id(), id.0);
        let membership = OtherMembership {
            mls,
            key: leaf.key,
            next_key: None,
            reinitialized: false,
            state_key: *record.state_key.expose(),
            wrapper: wrapper.as_slice().try_into().unwrap(),
            recovery: crypto::random().unwrap(),
        };
        self.groups.insert(id, membership);
    }
}
