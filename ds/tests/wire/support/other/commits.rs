//! Commits by `mls-rs`.

use crypto::sealing::{self, Place};
use mls_rs::mls_rs_codec::MlsDecode as _;
use mls_rs::{ExtensionList, MlsMessage, ProtocolVersion};
use openmls::prelude::tls_codec::Serialize as _;
use protocol::codec::{WireSecret, opaque};
use protocol::groups::{EpochAccepted, MessageAccepted, ProposalRequest};
use protocol::ids::GroupId;
use protocol::policy::GroupPolicy;
use protocol::{Operation, Wire};
use tls_codec::DeserializeBytes as _;

use super::wire::{GroupInfoMessage, key_package_message};
use super::{OtherClient, OtherLeaf, export, policy_extension, wrapped};
use crate::support::Service;
use crate::support::commits::{Commit, Plan, Welcome, honest_aad};

/// Extensions and signature of a GroupInfo, as a committer sends them.
pub fn partial(group_info: &MlsMessage) -> (Vec<u8>, Vec<u8>) {
    let bytes = group_info.to_bytes().unwrap();
    let info = GroupInfoMessage::tls_deserialize_exact_bytes(&bytes).unwrap();
    let extensions = tls_codec::Serialize::tls_serialize_detached(&info.extensions).unwrap();
    (extensions, info.signature.into())
}

/// What a [`Plan`] has no word for.
#[derive(Default)]
struct Further {
    new_leaf: Option<OtherLeaf>,
    reinit: Option<GroupId>,
}

impl OtherClient {
    fn stage(&mut self, id: &GroupId, plan: Plan, further: Further) -> Commit {
        let group = self.groups.get_mut(id).unwrap();
        let link_keys = plan.adds.iter().map(|invitee| invitee.link_key);
        let link_keys = link_keys.chain(further.new_leaf.iter().map(|leaf| leaf.link_key));
        let wrapped = link_keys.map(|key| wrapped(&group.wrapper, &key)).collect();
        let aad = plan
            .aad
            .unwrap_or_else(|| honest_aad(wrapped, plan.rotates).encode());
        let suite = group.mls.cipher_suite();
        let mut builder = group.mls.commit_builder().authenticated_data(aad);
        for invitee in plan.adds {
            builder = builder
                .add_member(key_package_message(invitee.key_package))
                .unwrap();
        }
        for removed in plan.removals {
            builder = builder.remove_member(removed).unwrap();
        }
        if let Some(context) = plan.context {
            let bytes = context.tls_serialize_detached().unwrap();
            let context = ExtensionList::mls_decode(&mut bytes.as_slice()).unwrap();
            builder = builder.set_group_context_ext(context).unwrap();
        }
        if let Some(successor) = further.reinit {
            let successor = Some(successor.0.to_vec());
            builder = builder
                .reinit(
                    successor,
                    ProtocolVersion::MLS_10,
                    suite,
                    ExtensionList::new(),
                )
                .unwrap();
        }
        if let Some(leaf) = further.new_leaf {
            builder = builder
                .set_new_signing_identity(leaf.key.secret.clone(), leaf.identity)
                .set_leaf_node_extensions(leaf.extensions);
            group.next_key = Some(leaf.key);
        }
        let output = builder.build().unwrap();
        // It exports of epochs that it is in: a copy goes ahead.
        let mut ahead = group.mls.clone();
        ahead.apply_pending_commit().unwrap();
        let (extensions, signature) = partial(output.external_commit_group_info().unwrap());
        let join_info = Place {
            table: "join_info",
            row: b"",
            part: "info",
        };
        Commit {
            operation: plan.operation,
            group: *id,
            state_key: group.state_key,
            next_state_key: plan.rotates.then(|| export(&ahead, "state key")),
            commit: output.commit_message().to_bytes().unwrap(),
            extensions,
            signature,
            group_info: Vec::new(),
            welcome: output.welcome_messages().first().map(|welcome| Welcome {
                welcome: welcome.to_bytes().unwrap(),
                join_key: export(&ahead, "join record"),
                sealed_join_info: sealing::seal(
                    &export(&ahead, "join info"),
                    join_info,
                    &group.wrapper,
                )
                .unwrap(),
            }),
        }
    }

    /// The request of a commit that is pending until it comes back in the queue, or another one does.
    pub fn commit_request(&mut self, service: &Service, id: &GroupId, plan: Plan) -> Vec<u8> {
        let commit = self.stage(id, plan, Further::default());
        self.leaf_request(service, id, commit.operation, commit.body())
    }

    async fn send_commit(&self, service: &Service, commit: Commit) -> EpochAccepted {
        let request = self.leaf_request(service, &commit.group, commit.operation, commit.body());
        service.post(commit.operation, &request).await.accepted()
    }

    /// Sends a commit that must be accepted. It is merged when it comes back in the queue.
    pub async fn commit(&mut self, service: &Service, id: &GroupId, plan: Plan) -> EpochAccepted {
        let commit = self.stage(id, plan, Further::default());
        self.send_commit(service, commit).await
    }

    /// Changes its signature key, its pseudonyms but the user's, and its queue reference.
    pub async fn update_credential(&mut self, service: &Service, id: &GroupId) -> EpochAccepted {
        let new_leaf = Some(self.leaf_of_user(service, &self.user(id)));
        let further = Further {
            new_leaf,
            ..Further::default()
        };
        let commit = self.stage(id, Plan::update(), further);
        self.send_commit(service, commit).await
    }

    pub async fn reinitialize(
        &mut self,
        service: &Service,
        id: &GroupId,
        successor: GroupId,
    ) -> EpochAccepted {
        let plan = Plan::update().sent_as(Operation::ReInitializeGroup);
        let further = Further {
            reinit: Some(successor),
            ..Further::default()
        };
        let commit = self.stage(id, plan, further);
        self.send_commit(service, commit).await
    }

    pub async fn set_policy(&mut self, service: &Service, id: &GroupId, policy: &GroupPolicy) {
        use mls_rs::mls_rs_codec::MlsEncode as _;
        use openmls::prelude::tls_codec::DeserializeBytes as _;
        let mut context = self.group(id).mls.context().extensions.clone();
        context.set(policy_extension(policy));
        let bytes = context.mls_encode_to_vec().unwrap();
        let context = openmls::prelude::Extensions::tls_deserialize_exact_bytes(&bytes).unwrap();
        self.commit(service, id, Plan::set_context(context)).await;
    }

    /// Says that it leaves, by a Remove of itself: its SelfRemove has another number than everybody else's.
    pub async fn leave(&mut self, service: &Service, id: &GroupId) {
        let group = self.groups.get_mut(id).unwrap();
        let own = group.mls.current_member_index();
        let proposal = group.mls.propose_remove(own, Vec::new()).unwrap();
        group.mls.clear_proposal_cache();
        let body = ProposalRequest {
            group_id: *id,
            state_key: WireSecret::new(group.state_key),
            proposal: opaque(proposal.to_bytes().unwrap()),
            encrypted_identity_link_key: opaque(Vec::new()),
        };
        let request = self.leaf_request(service, id, Operation::SelfRemove, body.encode());
        let _: MessageAccepted = service
            .post(Operation::SelfRemove, &request)
            .await
            .accepted();
    }
}
