//! External commits by `mls-rs` (RFC 9420 §12.4.3.2).

use crypto::leaf_authorization::AuthorizedJoin;
use protocol::Operation;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::groups::{
    CommitAad, EpochAccepted, ExternalCommitInfoRequest, ExternalCommitInfoResponse,
    ExternalJoinRequest, LEAF_AUTHORIZATION_LABEL, LeafAuthorization, LeafAuthorizationTbs,
    MessageAccepted, PartialGroupInfo, ProposalRequest,
};
use protocol::ids::GroupId;

use super::commits::partial;
use super::inbox::{message, tree};
use super::{OtherClient, OtherLeaf, OtherMembership, export, wrapped};
use crate::support::Service;
use crate::support::commits::{JoinPlan, again, honest_aad};

impl OtherClient {
    /// The word of the client's leaf for another one's key.
    pub fn authorize(
        &self,
        service: &Service,
        id: &GroupId,
        join: AuthorizedJoin,
        new_key: &[u8],
    ) -> LeafAuthorization {
        let group = self.group(id);
        let tbs = LeafAuthorizationTbs {
            group_id: *id,
            period: crypto::kdf::derive(&group.state_key, "leaf authorization", &id.0),
            permit: join as u8,
            leaf_index: group.mls.current_member_index(),
            not_after_ms: service.now() + 60_000,
            signature_key: opaque(new_key),
        };
        LeafAuthorization {
            leaf_index: tbs.leaf_index,
            not_after_ms: tbs.not_after_ms,
            signature: opaque(group.key.sign(LEAF_AUTHORIZATION_LABEL, &tbs.encode())),
        }
    }

    /// Joins by an external commit, in the place of the leaf `replaces`.
    pub async fn join_externally(
        &mut self,
        service: &Service,
        id: &GroupId,
        leaf: OtherLeaf,
        plan: JoinPlan,
        replaces: Option<u32>,
    ) {
        let info = self.external_commit_info(service, id, &leaf, &plan).await;
        let aad = CommitAad {
            encrypted_connection_response: opaque(plan.response),
            leaf_authorization: plan.permit.authorization().cloned(),
            ..honest_aad(vec![wrapped(&plan.wrapper, &leaf.link_key)], plan.rotates)
        };
        let mut builder = leaf
            .mls
            .external_commit_builder()
            .unwrap()
            .with_tree_data(tree(info.ratchet_tree.as_slice()))
            .with_leaf_node_extensions(leaf.extensions.clone())
            .with_authenticated_data(aad.encode());
        if let Some(replaces) = replaces {
            builder = builder.with_removal(replaces);
        }
        let (mls, commit) = builder.build(message(info.group_info.as_slice())).unwrap();
        let group_info = mls.group_info_message_allowing_ext_commit(false).unwrap();
        let (extensions, signature) = partial(&group_info);
        let recovery = crypto::random().unwrap();
        let next = plan.rotates.then(|| export(&mls, "state key"));
        let request = ExternalJoinRequest {
            group_id: *id,
            state_key: WireSecret::new(plan.state_key),
            next_state_key: next.map(WireSecret::new),
            commit: opaque(commit.to_bytes().unwrap()),
            group_info: PartialGroupInfo {
                extensions: opaque(extensions),
                signature: opaque(signature),
            },
            recovery_secret: WireSecret::new(recovery),
            permit: plan.permit,
        };
        let accepted: EpochAccepted = leaf
            .key
            .call(service, Operation::ExternalJoin, &request)
            .await;
        assert_eq!(accepted.epoch, mls.current_epoch());
        let membership = OtherMembership {
            mls,
            key: leaf.key,
            next_key: None,
            reinitialized: false,
            state_key: next.unwrap_or(plan.state_key),
            wrapper: plan.wrapper,
            recovery,
        };
        self.groups.insert(*id, membership);
    }

    async fn external_commit_info(
        &self,
        service: &Service,
        id: &GroupId,
        leaf: &OtherLeaf,
        plan: &JoinPlan,
    ) -> ExternalCommitInfoResponse {
        let request = ExternalCommitInfoRequest {
            group_id: *id,
            state_key: WireSecret::new(plan.state_key),
            permit: again(&plan.permit),
        };
        leaf.key
            .call(service, Operation::ExternalCommitInfo, &request)
            .await
    }

    /// Proposes to be added (RFC 9420 §12.1.8); the Welcome finds the leaf among those that were invited.
    pub async fn ask_to_be_added(&mut self, service: &Service, id: &GroupId, plan: JoinPlan) {
        let leaf = self.leaf(service);
        let info = self.external_commit_info(service, id, &leaf, &plan).await;
        let proposal = leaf
            .mls
            .external_add_proposal(
                &message(info.group_info.as_slice()),
                Some(tree(info.ratchet_tree.as_slice())),
                Vec::new(),
                Default::default(),
                leaf.extensions.clone(),
                Some(0.into()),
            )
            .unwrap();
        let request = ProposalRequest {
            group_id: *id,
            state_key: WireSecret::new(plan.state_key),
            proposal: opaque(proposal.to_bytes().unwrap()),
            encrypted_identity_link_key: opaque(wrapped(&plan.wrapper, &leaf.link_key)),
        };
        let _: MessageAccepted = leaf.key.call(service, Operation::Propose, &request).await;
        self.invited.push(leaf);
    }
}
