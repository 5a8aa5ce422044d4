//! Commits, honest ones and others.

use crypto::credential::wrap_link_key;
use crypto::keys::{IdentityLinkKey, IdentityLinkWrapperKey, StateKey};
use crypto::leaf_authorization::{self, AuthorizedJoin};
use crypto::sealing::{self, Place};
use openmls::group::GroupContext;
use openmls::prelude::group_info::{GroupInfo, VerifiableGroupInfo};
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _, VLBytes};
use openmls::prelude::{
    Extension, ExtensionType, Extensions, LeafNodeIndex, LeafNodeParameters, MlsGroup,
    MlsMessageBodyIn, MlsMessageIn, NewSignerBundle, OpenMlsProvider as _, ProtocolMessage,
    RatchetTreeIn,
};
use protocol::codec::{WireSecret, opaque};
use protocol::groups::{
    CommitAad, CommitRequest, EpochAccepted, ExternalCommitInfoRequest, ExternalCommitInfoResponse,
    ExternalJoinRequest, JoinPermit, LeafAuthorization, MessageAccepted, PartialGroupInfo,
    ProposalRequest, WelcomeUpload,
};
use protocol::ids::GroupId;
use protocol::policy::{GroupPolicy, POLICY_EXTENSION};
use protocol::problem::ProblemType;
use protocol::{Operation, Wire};

use super::Service;
use super::client::{
    Client, Invitee, Leaf, LeafSigner, Membership, capabilities, export, join_config,
    policy_extension,
};
use super::inbox::protocol_message;
use super::request::{Draft, copy, fresh_key};

pub const HOUR_MS: u64 = 3_600_000;

/// What a commit is to do.
pub struct Plan {
    pub operation: Operation,
    pub adds: Vec<Invitee>,
    pub removals: Vec<u32>,
    pub new_leaf: Option<Leaf>,
    pub self_update: bool,
    pub rotates: bool,
    pub context: Option<Extensions<GroupContext>>,
    /// Whether the pending proposals that the client knows are covered.
    pub covers_pending: bool,
    /// In place of the honest one.
    pub aad: Option<Vec<u8>>,
}

impl Plan {
    fn of(operation: Operation) -> Self {
        Self {
            operation,
            adds: Vec::new(),
            removals: Vec::new(),
            new_leaf: None,
            self_update: false,
            rotates: false,
            context: None,
            covers_pending: true,
            aad: None,
        }
    }

    pub fn add(adds: impl IntoIterator<Item = Invitee>) -> Self {
        Self {
            adds: adds.into_iter().collect(),
            ..Self::of(Operation::AddUsers)
        }
    }

    pub fn remove(removals: impl IntoIterator<Item = u32>) -> Self {
        Self {
            removals: removals.into_iter().collect(),
            rotates: true,
            ..Self::of(Operation::RemoveUsers)
        }
    }

    pub fn update() -> Self {
        Self {
            self_update: true,
            ..Self::of(Operation::UpdateClient)
        }
    }

    pub fn update_credential(leaf: Leaf) -> Self {
        Self {
            new_leaf: Some(leaf),
            ..Self::of(Operation::UpdateClient)
        }
    }

    pub fn add_clients(adds: impl IntoIterator<Item = Invitee>) -> Self {
        Self::add(adds).sent_as(Operation::AddClients)
    }

    pub fn remove_clients(removals: impl IntoIterator<Item = u32>) -> Self {
        Self::remove(removals).sent_as(Operation::RemoveClients)
    }

    pub fn delete(removals: impl IntoIterator<Item = u32>) -> Self {
        Self::remove(removals).sent_as(Operation::DeleteGroup)
    }

    pub fn set_context(context: Extensions<GroupContext>) -> Self {
        Self {
            context: Some(context),
            ..Self::of(Operation::SetRole)
        }
    }

    /// Covers nothing that is pending.
    pub fn alone(mut self) -> Self {
        self.covers_pending = false;
        self
    }

    pub fn rotating(mut self, rotates: bool) -> Self {
        self.rotates = rotates;
        self
    }

    pub fn with_aad(mut self, aad: Vec<u8>) -> Self {
        self.aad = Some(aad);
        self
    }

    pub fn sent_as(mut self, operation: Operation) -> Self {
        self.operation = operation;
        self
    }

    pub fn and_add(mut self, invitee: Invitee) -> Self {
        self.adds.push(invitee);
        self
    }
}

/// A commit that is staged and not yet sent: every field can be changed.
#[derive(Clone)]
pub struct Commit {
    pub operation: Operation,
    pub group: GroupId,
    pub state_key: [u8; 32],
    pub next_state_key: Option<[u8; 32]>,
    pub commit: Vec<u8>,
    pub extensions: Vec<u8>,
    pub signature: Vec<u8>,
    /// The whole GroupInfo.
    pub group_info: Vec<u8>,
    pub welcome: Option<Welcome>,
}

#[derive(Clone)]
pub struct Welcome {
    pub welcome: Vec<u8>,
    pub join_key: [u8; 32],
    pub sealed_join_info: Vec<u8>,
}

impl Commit {
    pub fn body(&self) -> Vec<u8> {
        CommitRequest {
            group_id: self.group,
            state_key: WireSecret::new(self.state_key),
            next_state_key: self.next_state_key.map(WireSecret::new),
            commit: opaque(self.commit.clone()),
            group_info: PartialGroupInfo {
                extensions: opaque(self.extensions.clone()),
                signature: opaque(self.signature.clone()),
            },
            welcome: self.welcome.as_ref().map(|welcome| WelcomeUpload {
                welcome: opaque(welcome.welcome.clone()),
                join_key: WireSecret::new(welcome.join_key),
                sealed_join_info: opaque(welcome.sealed_join_info.clone()),
            }),
        }
        .encode()
    }
}

fn signature(info: &GroupInfo) -> Vec<u8> {
    VLBytes::tls_deserialize_exact_bytes(&info.signature().tls_serialize_detached().unwrap())
        .unwrap()
        .into()
}

pub fn honest_aad(link_keys: Vec<Vec<u8>>, rotates: bool) -> CommitAad {
    CommitAad {
        encrypted_identity_link_keys: link_keys.into_iter().map(VLBytes::new).collect(),
        rotates_state_key: u8::from(rotates),
        encrypted_connection_response: opaque(*b""),
        leaf_authorization: None,
    }
}

/// The GroupInfo of a member, for an external commit that nobody asked for.
pub fn group_info_of(client: &Client, id: &GroupId) -> (Vec<u8>, Vec<u8>) {
    let group = client.group(id);
    let info = group
        .mls
        .export_group_info(client.provider.crypto(), &group.signer, false)
        .unwrap();
    (
        info.tls_serialize_detached().unwrap(),
        group
            .mls
            .export_ratchet_tree()
            .tls_serialize_detached()
            .unwrap(),
    )
}

pub struct ExternalJoin {
    pub request: ExternalJoinRequest,
    pub key: crypto::sign::LeafKeyPair,
    pub membership: Membership,
}

impl ExternalJoin {
    pub fn signed(&self, service: &Service) -> Vec<u8> {
        Draft::by_key(service, Operation::ExternalJoin, &self.key, &self.request).signed(&self.key)
    }
}

/// What an external commit into a group says beside MLS.
#[derive(Debug)]
pub struct JoinPlan {
    pub state_key: [u8; 32],
    pub wrapper: [u8; 32],
    pub link_keys: usize,
    pub response: Vec<u8>,
    pub permit: JoinPermit,
    pub rotates: bool,
    /// `MLSMessage`s that the commit covers.
    pub self_removes: Vec<Vec<u8>>,
}

impl JoinPlan {
    pub fn connection(state_key: [u8; 32], wrapper: [u8; 32]) -> Self {
        Self {
            response: b"response".to_vec(),
            ..Self::with(JoinPermit::Connection, state_key, wrapper)
        }
    }

    pub fn with(permit: JoinPermit, state_key: [u8; 32], wrapper: [u8; 32]) -> Self {
        Self {
            state_key,
            wrapper,
            link_keys: 1,
            response: Vec::new(),
            permit,
            rotates: false,
            self_removes: Vec::new(),
        }
    }

    pub fn rotating(mut self) -> Self {
        self.rotates = true;
        self
    }

    pub fn covering(mut self, self_removes: Vec<Vec<u8>>) -> Self {
        self.self_removes = self_removes;
        self
    }
}

/// The same permit once more.
pub fn again(permit: &JoinPermit) -> JoinPermit {
    match permit {
        JoinPermit::Connection => JoinPermit::Connection,
        JoinPermit::Client(authorization) => JoinPermit::Client(authorization.clone()),
        JoinPermit::Rejoin(authorization) => JoinPermit::Rejoin(authorization.clone()),
        JoinPermit::JoinCode(secret) => JoinPermit::JoinCode(WireSecret::new(*secret.expose())),
    }
}

impl Client {
    pub fn wrapped(&self, id: &GroupId, link_key: &[u8; 32]) -> Vec<u8> {
        let wrapper = IdentityLinkWrapperKey::new(self.group(id).wrapper);
        wrap_link_key(&wrapper, &IdentityLinkKey::new(*link_key)).unwrap()
    }

    /// Stages a commit; it is pending until it is merged or abandoned.
    pub fn stage(&mut self, id: &GroupId, plan: Plan) -> Commit {
        let keys = plan.adds.iter().map(|invitee| invitee.link_key);
        let keys = keys.chain(plan.new_leaf.iter().map(|leaf| *leaf.link_key.expose()));
        let wrapped = keys.map(|key| self.wrapped(id, &key)).collect();
        let aad = plan
            .aad
            .unwrap_or_else(|| honest_aad(wrapped, plan.rotates).encode());

        let Self {
            groups, provider, ..
        } = self;
        let group = groups.get_mut(id).unwrap();
        group.mls.set_aad(aad);
        let mut builder = group
            .mls
            .commit_builder()
            .force_self_update(plan.self_update)
            .consume_proposal_store(plan.covers_pending)
            .propose_adds(plan.adds.into_iter().map(|invitee| invitee.key_package))
            .propose_removals(plan.removals.into_iter().map(LeafNodeIndex::new));
        if let Some(context) = plan.context {
            builder = builder.propose_group_context_extensions(context).unwrap();
        }
        if let Some(leaf) = &plan.new_leaf {
            let parameters = LeafNodeParameters::builder()
                .with_capabilities(capabilities())
                .with_extensions(leaf.extensions.clone())
                .build();
            builder = builder.leaf_node_parameters(parameters);
        }
        let builder = builder
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true);
        let built = match &plan.new_leaf {
            None => builder.build(provider.rand(), provider.crypto(), &group.signer, |_| true),
            Some(leaf) => builder.build_with_new_signer(
                provider.rand(),
                provider.crypto(),
                &group.signer,
                NewSignerBundle {
                    signer: &leaf.signer,
                    credential_with_key: leaf.credential.clone(),
                },
                |_| true,
            ),
        };
        let bundle = built.unwrap().stage_commit(provider).unwrap();
        group.next_signer = plan.new_leaf.map(|leaf| leaf.signer);
        let staged = group.mls.pending_commit().unwrap();
        let export = |label| -> [u8; 32] {
            staged
                .export_secret(provider.crypto(), label, &[], 32)
                .unwrap()
                .try_into()
                .unwrap()
        };
        let info = bundle.group_info().unwrap();
        let join_info = Place {
            table: "join_info",
            row: b"",
            part: "info",
        };
        Commit {
            operation: plan.operation,
            group: *id,
            state_key: group.state_key,
            next_state_key: plan.rotates.then(|| export("state key")),
            commit: bundle.commit().tls_serialize_detached().unwrap(),
            extensions: info.extensions().tls_serialize_detached().unwrap(),
            signature: signature(info),
            group_info: info.tls_serialize_detached().unwrap(),
            welcome: bundle.to_welcome_msg().map(|welcome| Welcome {
                welcome: welcome.tls_serialize_detached().unwrap(),
                join_key: export("join record"),
                sealed_join_info: sealing::seal(&export("join info"), join_info, &group.wrapper)
                    .unwrap(),
            }),
        }
    }

    pub fn commit_request(&self, service: &Service, commit: &Commit) -> Vec<u8> {
        self.leaf_request(service, &commit.group, commit.operation, commit.body())
    }

    /// Posts a commit that must be refused and must change nothing, and gives it up.
    pub async fn refused(&mut self, service: &Service, id: &GroupId, plan: Plan) -> ProblemType {
        let commit = self.stage(id, plan);
        let request = self.commit_request(service, &commit);
        let problem = service.refused(commit.operation, &request).await;
        self.abandon(id);
        problem
    }

    /// Its leaf's word for another signature key, good for an hour.
    pub fn authorize(
        &self,
        service: &Service,
        id: &GroupId,
        join: AuthorizedJoin,
        new_key: &crypto::sign::LeafKeyPair,
    ) -> LeafAuthorization {
        let group = self.group(id);
        leaf_authorization::authorize(
            &group.signer.0,
            (id, &StateKey::new(group.state_key)),
            join,
            group.mls.own_leaf_index().u32(),
            service.now() + HOUR_MS,
            &new_key.public(),
        )
    }

    pub fn abandon(&mut self, id: &GroupId) {
        let Self {
            groups, provider, ..
        } = self;
        let group = groups.get_mut(id).unwrap();
        group.mls.clear_pending_commit(provider.storage()).unwrap();
        group.next_signer = None;
    }

    /// The service has accepted: merges and takes the new state key over.
    pub fn merge(&mut self, commit: &Commit) {
        let Self {
            groups, provider, ..
        } = self;
        let group = groups.get_mut(&commit.group).unwrap();
        group.merge_own(provider);
        if let Some(next) = commit.next_state_key {
            assert_eq!(
                next,
                super::client::export(&group.mls, provider, "state key")
            );
            group.state_key = next;
        }
    }

    /// Stages, sends and merges a commit that must be accepted.
    pub async fn commit(&mut self, service: &Service, id: &GroupId, plan: Plan) -> EpochAccepted {
        let commit = self.stage(id, plan);
        let request = self.commit_request(service, &commit);
        let accepted: EpochAccepted = service.post(commit.operation, &request).await.accepted();
        self.merge(&commit);
        assert_eq!(accepted.epoch, self.group(id).mls.epoch().as_u64());
        if commit.operation != Operation::DeleteGroup {
            super::state::check(service, id, self.group(id).state_key).await;
        }
        accepted
    }

    /// The group's context with another policy.
    pub fn context_with(
        &self,
        id: &GroupId,
        policy: Option<&GroupPolicy>,
    ) -> Extensions<GroupContext> {
        let now = self.group(id).mls.extensions().iter().cloned();
        let others: Vec<Extension> = now
            .filter(|extension| {
                extension.extension_type() != ExtensionType::Unknown(POLICY_EXTENSION)
            })
            .chain(policy.map(policy_extension))
            .collect();
        Extensions::from_vec(others).unwrap()
    }

    pub async fn set_policy(&mut self, service: &Service, id: &GroupId, policy: &GroupPolicy) {
        let context = self.context_with(id, Some(policy));
        self.commit(service, id, Plan::set_context(context)).await;
    }

    /// A SelfRemove that is not sent yet.
    pub fn self_remove(&mut self, id: &GroupId) -> Vec<u8> {
        let Self {
            groups, provider, ..
        } = self;
        let group = groups.get_mut(id).unwrap();
        let storage = provider.storage();
        let before: Vec<_> = group.mls.pending_proposals().cloned().collect();
        let message = group
            .mls
            .leave_group_via_self_remove(provider, &group.signer)
            .unwrap();
        // The own one counts when it comes out of the queue.
        group.mls.clear_pending_proposals(storage).unwrap();
        for pending in before {
            group.mls.store_pending_proposal(storage, pending).unwrap();
        }
        message.tls_serialize_detached().unwrap()
    }

    pub fn proposal_body(&self, id: &GroupId, proposal: Vec<u8>) -> ProposalRequest {
        ProposalRequest {
            group_id: *id,
            state_key: WireSecret::new(self.group(id).state_key),
            proposal: opaque(proposal),
            encrypted_identity_link_key: opaque(Vec::new()),
        }
    }

    pub fn self_remove_request(
        &self,
        service: &Service,
        id: &GroupId,
        proposal: Vec<u8>,
    ) -> Vec<u8> {
        let body = self.proposal_body(id, proposal);
        self.leaf_request(service, id, Operation::SelfRemove, body.encode())
    }

    /// Says that it leaves.
    pub async fn leave(&mut self, service: &Service, id: &GroupId) {
        let proposal = self.self_remove(id);
        let request = self.self_remove_request(service, id, proposal);
        let _: MessageAccepted = service
            .post(Operation::SelfRemove, &request)
            .await
            .accepted();
    }

    pub async fn external_commit_info(
        &self,
        service: &Service,
        id: &GroupId,
        state_key: [u8; 32],
    ) -> ExternalCommitInfoResponse {
        let key = fresh_key();
        self.external_commit_info_by(service, id, state_key, (&JoinPermit::Connection, &key))
            .await
    }

    pub async fn external_commit_info_by(
        &self,
        service: &Service,
        id: &GroupId,
        state_key: [u8; 32],
        (permit, key): (&JoinPermit, &crypto::sign::LeafKeyPair),
    ) -> ExternalCommitInfoResponse {
        let request = ExternalCommitInfoRequest {
            group_id: *id,
            state_key: WireSecret::new(state_key),
            permit: again(permit),
        };
        service
            .call(Operation::ExternalCommitInfo, key, &request)
            .await
    }

    /// Asks for what an external commit needs, and builds it.
    pub async fn join_externally(
        &self,
        service: &Service,
        id: &GroupId,
        leaf: Leaf,
        plan: JoinPlan,
    ) -> ExternalJoin {
        let permit = (&plan.permit, &leaf.signer.0);
        let info = self
            .external_commit_info_by(service, id, plan.state_key, permit)
            .await;
        let self_removes = info
            .self_removes
            .iter()
            .map(|message| message.as_slice().to_vec())
            .collect();
        self.external_join(
            (info.group_info.as_slice(), info.ratchet_tree.as_slice()),
            leaf,
            plan.covering(self_removes),
        )
    }

    /// Builds an external commit from a GroupInfo message and a tree.
    pub fn external_join(
        &self,
        (info, tree): (&[u8], &[u8]),
        leaf: Leaf,
        plan: JoinPlan,
    ) -> ExternalJoin {
        let MlsMessageBodyIn::GroupInfo(info) = MlsMessageIn::tls_deserialize_exact_bytes(info)
            .unwrap()
            .extract()
        else {
            panic!("not a GroupInfo");
        };
        let info: VerifiableGroupInfo = info;
        let id = GroupId(info.group_id().as_slice().try_into().unwrap());
        let wrapper = IdentityLinkWrapperKey::new(plan.wrapper);
        let wrapped = wrap_link_key(&wrapper, &leaf.link_key).unwrap();
        let aad = CommitAad {
            encrypted_connection_response: opaque(plan.response),
            leaf_authorization: plan.permit.authorization().cloned(),
            ..honest_aad(vec![wrapped; plan.link_keys], plan.rotates)
        };
        let self_removes =
            plan.self_removes
                .iter()
                .filter_map(|message| match protocol_message(message) {
                    ProtocolMessage::PublicMessage(message) => Some(*message),
                    ProtocolMessage::PrivateMessage(_) => None,
                });
        let Leaf {
            signer,
            credential,
            extensions,
            ..
        } = leaf;
        let suite = info.ciphersuite();
        assert_eq!(suite, self.suite);
        let parameters = LeafNodeParameters::builder()
            .with_capabilities(capabilities())
            .with_extensions(extensions)
            .build();
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact_bytes(tree).unwrap())
            .with_config(join_config())
            .with_aad(aad.encode())
            .with_proposals(self_removes.collect())
            .build_group(&self.provider, info, credential)
            .unwrap()
            .leaf_node_parameters(parameters)
            .load_psks(self.provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(
                self.provider.rand(),
                self.provider.crypto(),
                &signer,
                |_| true,
            )
            .unwrap()
            .finalize(&self.provider)
            .unwrap();
        let recovery: [u8; 32] = crypto::random().unwrap();
        let info = bundle.group_info().unwrap();
        let next = plan
            .rotates
            .then(|| export(&mls, &self.provider, "state key"));
        let request = ExternalJoinRequest {
            group_id: id,
            state_key: WireSecret::new(plan.state_key),
            next_state_key: next.map(WireSecret::new),
            commit: opaque(bundle.commit().tls_serialize_detached().unwrap()),
            group_info: PartialGroupInfo {
                extensions: opaque(info.extensions().tls_serialize_detached().unwrap()),
                signature: opaque(signature(info)),
            },
            recovery_secret: WireSecret::new(recovery),
            permit: plan.permit,
        };
        let key = copy(&signer.0);
        let membership = Membership {
            mls,
            signer: LeafSigner(signer.0),
            state_key: next.unwrap_or(plan.state_key),
            wrapper: plan.wrapper,
            recovery,
            next_signer: None,
        };
        ExternalJoin {
            request,
            key,
            membership,
        }
    }
}
