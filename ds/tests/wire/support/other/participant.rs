//! A client on either implementation of MLS.

use crypto::keys::StateKey;
use crypto::leaf_authorization::{AuthorizedJoin, authorize};
use mls_rs::CipherSuite;
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{Ciphersuite, OpenMlsProvider as _};
use protocol::codec::WireSecret;
use protocol::groups::{
    Accepted, EpochAccepted, GroupKind, JoinPermit, LeafAuthorization, MessageAccepted,
    SetJoinCodeRequest,
};
use protocol::ids::GroupId;
use protocol::policy::GroupPolicy;
use protocol::queues::DeleteQueueRequest;
use protocol::time::day_of;
use protocol::{Operation, Wire as _};

use super::{OtherClient, export};
use crate::support::client::{self, Client, Flaw, Invitee};
use crate::support::commits::{JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::request::copy;
use crate::support::{Reply, Service};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    OpenMls,
    MlsRs,
}

pub enum Participant {
    OpenMls(Box<Client>),
    MlsRs(Box<OtherClient>),
}

impl Participant {
    pub async fn new(
        service: &Service,
        implementation: Implementation,
        suite: Ciphersuite,
    ) -> Self {
        match implementation {
            Implementation::OpenMls => {
                Self::OpenMls(Box::new(Client::of_suite(service, suite).await))
            }
            Implementation::MlsRs => {
                let suite = CipherSuite::new(suite.into());
                Self::MlsRs(Box::new(OtherClient::of_suite(service, suite).await))
            }
        }
    }

    /// Queue and identity are the kit's client's for both.
    fn kit(&self) -> &Client {
        match self {
            Self::OpenMls(client) => client,
            Self::MlsRs(client) => &client.kit,
        }
    }

    pub async fn create_group(&mut self, service: &Service, kind: GroupKind) -> GroupId {
        match self {
            Self::OpenMls(client) => client.create_group(service, kind).await,
            Self::MlsRs(client) => client.create_group(service, kind).await,
        }
    }

    pub fn invitee(&mut self, service: &Service) -> Invitee {
        match self {
            Self::OpenMls(client) => client.invitee(service),
            Self::MlsRs(client) => client.invitee(service),
        }
    }

    pub fn invitee_of_user(&mut self, service: &Service, user: &[u8]) -> Invitee {
        match self {
            Self::OpenMls(client) => {
                let leaf = client.leaf_of_user(service, Flaw::None, user);
                client.invitee_with(leaf)
            }
            Self::MlsRs(client) => {
                let leaf = client.leaf_of_user(service, user);
                client.invitee_with(leaf)
            }
        }
    }

    pub async fn commit(&mut self, service: &Service, id: &GroupId, plan: Plan) -> EpochAccepted {
        match self {
            Self::OpenMls(client) => client.commit(service, id, plan).await,
            Self::MlsRs(client) => client.commit(service, id, plan).await,
        }
    }

    /// A commit that is sent by the test.
    pub fn commit_request(&mut self, service: &Service, id: &GroupId, plan: Plan) -> Vec<u8> {
        match self {
            Self::OpenMls(client) => {
                let commit = client.stage(id, plan);
                client.commit_request(service, &commit)
            }
            Self::MlsRs(client) => client.commit_request(service, id, plan),
        }
    }

    pub async fn update_credential(&mut self, service: &Service, id: &GroupId) {
        match self {
            Self::OpenMls(client) => {
                let leaf = client.leaf_of_user(service, Flaw::None, &client.user(id));
                let plan = Plan::update_credential(leaf);
                client.commit(service, id, plan).await;
            }
            Self::MlsRs(client) => {
                client.update_credential(service, id).await;
            }
        }
    }

    pub async fn set_policy(&mut self, service: &Service, id: &GroupId, policy: &GroupPolicy) {
        match self {
            Self::OpenMls(client) => client.set_policy(service, id, policy).await,
            Self::MlsRs(client) => client.set_policy(service, id, policy).await,
        }
    }

    pub fn policy(&self, id: &GroupId) -> GroupPolicy {
        match self {
            Self::OpenMls(client) => client.policy(id).unwrap(),
            Self::MlsRs(client) => client.policy(id),
        }
    }

    /// Says that it leaves, by a Remove of itself.
    pub async fn leave(&mut self, service: &Service, id: &GroupId) {
        match self {
            Self::OpenMls(client) => {
                let Client {
                    groups, provider, ..
                } = client.as_mut();
                let group = groups.get_mut(id).unwrap();
                let proposal = group.mls.leave_group(provider, &group.signer).unwrap();
                let proposal = proposal.tls_serialize_detached().unwrap();
                let request = client.self_remove_request(service, id, proposal);
                let reply = service.post(Operation::SelfRemove, &request).await;
                let _: MessageAccepted = reply.accepted();
            }
            Self::MlsRs(client) => client.leave(service, id).await,
        }
    }

    pub fn text_request(&mut self, service: &Service, id: &GroupId, text: &[u8]) -> Vec<u8> {
        match self {
            Self::OpenMls(client) => client.text_request(service, id, text),
            Self::MlsRs(client) => client.text_request(service, id, text),
        }
    }

    /// Says something, whether the service takes it or not.
    pub async fn try_send(&mut self, service: &Service, id: &GroupId, text: &[u8]) -> Reply {
        let request = self.text_request(service, id, text);
        service.post(Operation::SendMessage, &request).await
    }

    pub async fn receive(&mut self, service: &Service) -> Vec<Event> {
        match self {
            Self::OpenMls(client) => client.receive(service).await,
            Self::MlsRs(client) => client.receive(service).await,
        }
    }

    pub fn own_leaf(&self, id: &GroupId) -> u32 {
        match self {
            Self::OpenMls(client) => client.own_leaf(id),
            Self::MlsRs(client) => client.group(id).mls.current_member_index(),
        }
    }

    pub fn user(&self, id: &GroupId) -> Vec<u8> {
        match self {
            Self::OpenMls(client) => client.user(id),
            Self::MlsRs(client) => client.user(id),
        }
    }

    pub fn state_key(&self, id: &GroupId) -> [u8; 32] {
        match self {
            Self::OpenMls(client) => client.group(id).state_key,
            Self::MlsRs(client) => client.group(id).state_key,
        }
    }

    pub fn wrapper(&self, id: &GroupId) -> [u8; 32] {
        match self {
            Self::OpenMls(client) => client.group(id).wrapper,
            Self::MlsRs(client) => client.group(id).wrapper,
        }
    }

    /// Everything that members agree on.
    pub fn view(&self, id: &GroupId) -> View {
        let (epoch, members, exporter) = match self {
            Self::OpenMls(client) => {
                let mls = &client.group(id).mls;
                let exporter = client::export(mls, &client.provider, "a secret of the epoch");
                (mls.epoch().as_u64(), client.members(id), exporter)
            }
            Self::MlsRs(client) => {
                let mls = &client.group(id).mls;
                let exporter = export(mls, "a secret of the epoch");
                (mls.current_epoch(), client.members(id), exporter)
            }
        };
        View {
            epoch,
            members,
            exporter,
            state_key: self.state_key(id),
            wrapper: self.wrapper(id),
        }
    }

    fn leaf_request(
        &self,
        service: &Service,
        id: &GroupId,
        operation: Operation,
        body: Vec<u8>,
    ) -> Vec<u8> {
        match self {
            Self::OpenMls(client) => client.leaf_request(service, id, operation, body),
            Self::MlsRs(client) => client.leaf_request(service, id, operation, body),
        }
    }

    pub async fn set_join_code(&self, service: &Service, id: &GroupId, secret: [u8; 32]) {
        let body = SetJoinCodeRequest {
            group_id: *id,
            state_key: WireSecret::new(self.state_key(id)),
            secret: WireSecret::new(secret),
            expiry_day: day_of(service.now()) + 1,
        };
        let request = self.leaf_request(service, id, Operation::SetJoinCode, body.encode());
        let _: Accepted = service
            .post(Operation::SetJoinCode, &request)
            .await
            .accepted();
    }

    pub async fn delete_queue(&self, service: &Service) {
        let kit = self.kit();
        let body = DeleteQueueRequest {
            queue_id: kit.queue,
        };
        let _: Accepted = service
            .call(Operation::DeleteQueue, &kit.queue_owner, &body)
            .await;
    }

    fn authorize(
        &self,
        service: &Service,
        id: &GroupId,
        join: AuthorizedJoin,
        new_key: &[u8],
    ) -> LeafAuthorization {
        match self {
            Self::OpenMls(client) => authorize(
                &client.group(id).signer.0,
                (id, &StateKey::new(client.group(id).state_key)),
                join,
                client.own_leaf(id),
                service.now() + 60_000,
                new_key,
            ),
            Self::MlsRs(client) => client.authorize(service, id, join, new_key),
        }
    }

    /// Joins by an external commit as a further client of `first`'s user, at its word.
    pub async fn join_as_client_of(&mut self, service: &Service, first: &Self, id: &GroupId) {
        let plan = |authorization| {
            let permit = JoinPermit::Client(authorization);
            JoinPlan::with(permit, first.state_key(id), first.wrapper(id))
        };
        let vouch = |key: &[u8]| first.authorize(service, id, AuthorizedJoin::Client, key);
        match self {
            Self::OpenMls(client) => {
                let leaf = client.leaf_of_user(service, Flaw::None, &first.user(id));
                let plan = plan(vouch(&leaf.signer.0.public()));
                join(client, service, id, leaf, plan).await;
            }
            Self::MlsRs(client) => {
                let leaf = client.leaf_of_user(service, &first.user(id));
                let plan = plan(vouch(&leaf.key.public));
                client.join_externally(service, id, leaf, plan, None).await;
            }
        }
    }

    /// Joins as a new user, with a join code or into a connection group.
    pub async fn join_with(&mut self, service: &Service, id: &GroupId, plan: JoinPlan) {
        match self {
            Self::OpenMls(client) => {
                let leaf = client.leaf(service);
                join(client, service, id, leaf, plan).await;
            }
            Self::MlsRs(client) => {
                let leaf = client.leaf(service);
                client.join_externally(service, id, leaf, plan, None).await;
            }
        }
    }

    /// Comes again in the place of its leaf after it lost its MLS state.
    pub async fn rejoin(&mut self, service: &Service, id: &GroupId) {
        let (own, user) = (self.own_leaf(id), self.user(id));
        let (state_key, wrapper) = (self.state_key(id), self.wrapper(id));
        let plan = |authorization| {
            JoinPlan::with(JoinPermit::Rejoin(authorization), state_key, wrapper).rotating()
        };
        let rejoin = AuthorizedJoin::Rejoin;
        match self {
            Self::OpenMls(client) => {
                // openmls knows its old leaf by the key.
                let key = copy(&client.group(id).signer.0);
                let until = service.now() + 60_000;
                let word = authorize(
                    &key,
                    (id, &StateKey::new(state_key)),
                    rejoin,
                    own,
                    until,
                    &key.public(),
                );
                let leaf = client.leaf_for_key(service, Flaw::None, &user, key);
                let mut lost = client.groups.remove(id).unwrap();
                lost.mls.delete(client.provider.storage()).unwrap();
                join(client, service, id, leaf, plan(word)).await;
            }
            Self::MlsRs(client) => {
                let leaf = client.leaf_of_user(service, &user);
                let word = client.authorize(service, id, rejoin, &leaf.key.public);
                client.groups.remove(id);
                client
                    .join_externally(service, id, leaf, plan(word), Some(own))
                    .await;
            }
        }
        assert_eq!(self.own_leaf(id), own);
    }
}

async fn join(
    client: &mut Client,
    service: &Service,
    id: &GroupId,
    leaf: client::Leaf,
    plan: JoinPlan,
) {
    let join = client.join_externally(service, id, leaf, plan).await;
    let request = join.signed(service);
    let _: EpochAccepted = service
        .pay(Operation::ExternalJoin, &request)
        .await
        .accepted();
    client.groups.insert(*id, join.membership);
}

/// What a member sees of a group; all see the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub epoch: u64,
    pub members: Vec<u32>,
    exporter: [u8; 32],
    pub state_key: [u8; 32],
    wrapper: [u8; 32],
}
