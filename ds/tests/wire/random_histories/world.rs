//! The users, their devices, and what can happen to them. User 0 made the group, is its admin and stays.

use std::collections::{BTreeMap, BTreeSet};

use crypto::keys::StateKey;
use crypto::leaf_authorization::AuthorizedJoin;
use http::StatusCode;
use openmls::prelude::OpenMlsProvider as _;
use protocol::Operation;
use protocol::Wire as _;
use protocol::codec::WireSecret;
use protocol::groups::{Accepted, EpochAccepted, GroupKind, JoinPermit, SetJoinCodeRequest};
use protocol::ids::GroupId;
use protocol::policy::{Capabilities, GroupPolicy, Standing};
use protocol::problem::ProblemType;
use protocol::queues::DeleteQueueRequest;
use protocol::time::day_of;

use super::is_refusal_by_policy;
use crate::support::client::{Client, Flaw, Leaf, user_of};
use crate::support::commits::{Commit, JoinPlan, Plan};
use crate::support::inbox::Event;
use crate::support::request::copy;
use crate::support::{Engine, FREE, Service, Setup};

/// Users have two devices each: 2n and 2n + 1.
pub(crate) const DEVICES: usize = 8;
const ADMIN: usize = 0;
const CODE: [u8; 32] = [7; 32];

pub(crate) struct World {
    pub(crate) service: Service,
    /// How often each kind of step did something.
    pub(crate) taken: BTreeMap<&'static str, usize>,
    clients: Vec<Client>,
    /// A user's pseudonym in this stay.
    users: Vec<Option<Vec<u8>>>,
    id: GroupId,
    /// Leaves that have said that they leave, or whose queue is gone.
    leaving: BTreeSet<u32>,
}

fn user(device: usize) -> usize {
    device / 2
}

impl World {
    pub(crate) async fn new(engine: Engine) -> Self {
        let service = Service::with(Setup {
            prices: FREE,
            ..Setup::on(engine)
        });
        let mut clients = Vec::new();
        for _ in 0..DEVICES {
            clients.push(Client::new(&service).await);
        }
        let id = clients[ADMIN]
            .create_group(&service, GroupKind::Group)
            .await;
        let mut users = vec![None; DEVICES / 2];
        users[user(ADMIN)] = Some(clients[ADMIN].user(&id));
        Self {
            service,
            taken: BTreeMap::new(),
            clients,
            users,
            id,
            leaving: BTreeSet::new(),
        }
    }

    fn took(&mut self, step: &'static str) {
        *self.taken.entry(step).or_default() += 1;
    }

    pub(crate) async fn receive(&mut self, who: usize) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        for event in self.clients[who].receive(&self.service).await {
            match event {
                Event::Message { text, .. } => heard.push(text),
                Event::Removed => {
                    self.clients[who].groups.remove(&self.id);
                }
                Event::Joined | Event::Committed { .. } | Event::Proposed => {}
                Event::ConnectionRequest(_) => panic!("nobody asked"),
                Event::Dropped(_) => panic!("nothing waits for so long"),
            }
        }
        heard
    }

    fn is_member(&self, who: usize) -> bool {
        self.clients[who].groups.contains_key(&self.id)
    }

    fn leaf_of(&self, who: usize) -> u32 {
        self.clients[who].own_leaf(&self.id)
    }

    /// Catches up, as a client does before it acts. Whether it is a member then that is not leaving.
    async fn ready(&mut self, who: usize) -> bool {
        self.receive(who).await;
        self.is_member(who) && !self.leaving.contains(&self.leaf_of(who))
    }

    /// Whether a device has no leaf in the group at all: not even one that waits to be removed.
    async fn is_out(&mut self, who: usize) -> bool {
        self.receive(who).await;
        self.receive(ADMIN).await;
        let absent = !self.is_member(who);
        let pseudonym = self.users[user(who)].clone();
        let leaves = self.leaves_of(pseudonym.as_deref());
        let other_is_in = usize::from(self.is_member(who ^ 1));
        // The rest are leaves that nobody is behind any more.
        absent && leaves.len() == other_is_in
    }

    /// Leaves of a pseudonym as the admin sees them.
    fn leaves_of(&self, pseudonym: Option<&[u8]>) -> Vec<u32> {
        self.clients[ADMIN]
            .group(&self.id)
            .mls
            .members()
            .filter(|member| Some(user_of(&member.credential).as_slice()) == pseudonym)
            .map(|member| member.index.u32())
            .collect()
    }

    fn may(&self, who: usize, capability: Capabilities) -> bool {
        let client = &self.clients[who];
        let policy = client.policy(&self.id).unwrap();
        policy
            .capabilities(&client.user(&self.id))
            .contain(capability)
    }

    fn is_banned(&self, who: usize) -> bool {
        let policy = self.clients[ADMIN].policy(&self.id).unwrap();
        self.users[user(who)]
            .as_deref()
            .is_some_and(|user| policy.bans(user))
    }

    /// Something is pending that only a rotation can cover.
    fn has_pending(&self, who: usize) -> bool {
        let group = self.clients[who].group(&self.id);
        group.mls.pending_proposals().next().is_some()
    }

    fn covering(&self, who: usize, plan: Plan) -> Plan {
        let rotates = plan.rotates || self.has_pending(who);
        plan.rotating(rotates)
    }

    fn a_leaf(&self, who: usize, user: &[u8]) -> Leaf {
        self.clients[who].leaf_of_user(&self.service, Flaw::None, user)
    }

    async fn commit(&mut self, by: usize, plan: Plan) {
        let plan = self.covering(by, plan);
        self.clients[by].commit(&self.service, &self.id, plan).await;
        self.forget_who_has_left(by);
    }

    fn forget_who_has_left(&mut self, seen_by: usize) {
        let members = self.clients[seen_by].members(&self.id);
        self.leaving.retain(|leaf| members.contains(leaf));
    }

    /// Pending removals, by the commit that covers them all, have happened: their places are free.
    fn covered(&mut self, by: usize) -> bool {
        self.has_pending(by)
    }

    pub(crate) async fn add_user(&mut self, by: usize, whom: usize) {
        if !self.ready(by).await || !self.may(by, Capabilities::ADD) {
            return;
        }
        if !self.is_out(whom).await || self.is_member(whom ^ 1) || self.is_banned(whom) {
            return;
        }
        // The admin has caught up meanwhile, and so must whoever adds.
        if !self.ready(by).await || self.covered(by) {
            return;
        }
        let leaf = self.clients[whom].leaf(&self.service);
        self.users[user(whom)] = Some(leaf.user.clone());
        let invitee = self.clients[whom].invitee_with(leaf);
        self.commit(by, Plan::add([invitee])).await;
        self.took("add user");
    }

    pub(crate) async fn add_client(&mut self, by: usize) {
        let whom = by ^ 1;
        if !self.ready(by).await || !self.is_out(whom).await || self.is_banned(by) {
            return;
        }
        if !self.ready(by).await || self.covered(by) {
            return;
        }
        let own = self.clients[by].user(&self.id);
        let leaf = self.a_leaf(whom, &own);
        let invitee = self.clients[whom].invitee_with(leaf);
        self.commit(by, Plan::add_clients([invitee])).await;
        self.took("add client");
    }

    /// Joins by an external commit, rotating: somebody may be leaving.
    async fn join(&mut self, who: usize, leaf: Leaf, permit: JoinPermit) {
        self.receive(ADMIN).await;
        let group = self.clients[ADMIN].group(&self.id);
        let plan = JoinPlan::with(permit, group.state_key, group.wrapper).rotating();
        let client = &self.clients[who];
        let join = client
            .join_externally(&self.service, &self.id, leaf, plan)
            .await;
        let request = join.signed(&self.service);
        let reply = self.service.post(Operation::ExternalJoin, &request).await;
        let _: EpochAccepted = reply.accepted();
        self.clients[who].groups.insert(self.id, join.membership);
        self.receive(ADMIN).await;
        self.forget_who_has_left(ADMIN);
        // A leaf that left may have made room: the newcomer is not the one who leaves.
        let own = self.leaf_of(who);
        self.leaving.remove(&own);
    }

    pub(crate) async fn join_as_client(&mut self, by: usize) {
        let whom = by ^ 1;
        if !self.ready(by).await || !self.is_out(whom).await || self.is_banned(by) {
            return;
        }
        if !self.ready(by).await {
            return;
        }
        let leaf = self.a_leaf(whom, &self.clients[by].user(&self.id));
        let word = self.clients[by].authorize(
            &self.service,
            &self.id,
            AuthorizedJoin::Client,
            &leaf.signer.0,
        );
        self.join(whom, leaf, JoinPermit::Client(word)).await;
        self.took("join as client");
    }

    pub(crate) async fn rejoin(&mut self, who: usize) {
        if who == ADMIN || !self.ready(who).await {
            return;
        }
        let pseudonym = self.clients[who].user(&self.id);
        let own = self.leaf_of(who);
        let client = &mut self.clients[who];
        let mut lost = client.groups.remove(&self.id).unwrap();
        lost.mls.delete(client.provider.storage()).unwrap();
        let key = lost.signer.0;
        let leaf =
            self.clients[who].leaf_for_key(&self.service, Flaw::None, &pseudonym, copy(&key));
        let word = crypto::leaf_authorization::authorize(
            &key,
            (&self.id, &StateKey::new(lost.state_key)),
            AuthorizedJoin::Rejoin,
            own,
            self.service.now() + 1000,
            &key.public(),
        );
        self.join(who, leaf, JoinPermit::Rejoin(word)).await;
        self.took("rejoin");
    }

    pub(crate) async fn join_by_code(&mut self, who: usize) {
        if !self.is_out(who).await || self.is_member(who ^ 1) || self.is_banned(who) {
            return;
        }
        // A removal ends every code: an admin makes one anew.
        self.receive(ADMIN).await;
        let body = SetJoinCodeRequest {
            group_id: self.id,
            state_key: WireSecret::new(self.clients[ADMIN].group(&self.id).state_key),
            secret: WireSecret::new(CODE),
            expiry_day: day_of(self.service.now()) + 300,
        };
        let request = self.clients[ADMIN].leaf_request(
            &self.service,
            &self.id,
            Operation::SetJoinCode,
            body.encode(),
        );
        let reply = self.service.post(Operation::SetJoinCode, &request).await;
        let _: Accepted = reply.accepted();
        let leaf = self.clients[who].leaf(&self.service);
        self.users[user(who)] = Some(leaf.user.clone());
        let permit = JoinPermit::JoinCode(WireSecret::new(CODE));
        self.join(who, leaf, permit).await;
        self.took("join by code");
    }

    pub(crate) async fn remove_user(&mut self, by: usize, whom: usize) {
        if user(by) == user(whom) || user(whom) == user(ADMIN) || !self.ready(by).await {
            return;
        }
        self.receive(ADMIN).await;
        let leaves = self.leaves_of(self.users[user(whom)].as_deref());
        if !self.ready(by).await || leaves.is_empty() || self.has_pending(by) {
            return;
        }
        if self.may(by, Capabilities::REMOVE) {
            self.commit(by, Plan::remove(leaves)).await;
            self.took("remove user");
        } else {
            let id = self.id;
            let problem = self.clients[by]
                .refused(&self.service, &id, Plan::remove(leaves))
                .await;
            assert!(is_refusal_by_policy(problem), "{problem:?}");
            self.took("removal refused");
        }
    }

    pub(crate) async fn remove_client(&mut self, by: usize) {
        let whom = by ^ 1;
        if whom == ADMIN || !self.ready(by).await || !self.ready(whom).await {
            return;
        }
        if self.has_pending(by) {
            return;
        }
        let leaf = self.leaf_of(whom);
        self.commit(by, Plan::remove_clients([leaf])).await;
        self.took("remove client");
    }

    pub(crate) async fn leave(&mut self, who: usize) {
        if user(who) == user(ADMIN) || !self.ready(who).await {
            return;
        }
        let id = self.id;
        self.clients[who].leave(&self.service, &id).await;
        let leaf = self.leaf_of(who);
        self.leaving.insert(leaf);
        self.took("leave");
    }

    pub(crate) async fn update(&mut self, by: usize, rotates: bool) {
        if self.ready(by).await {
            self.commit(by, Plan::update().rotating(rotates)).await;
            self.took("update");
        }
    }

    pub(crate) async fn update_credential(&mut self, by: usize) {
        if self.ready(by).await {
            let leaf = self.clients[by].renewed_leaf(&self.service, &self.id);
            self.commit(by, Plan::update_credential(leaf)).await;
            self.took("update credential");
        }
    }

    async fn post(&self, by: usize, commit: &Commit) -> crate::support::Reply {
        let request = self.clients[by].commit_request(&self.service, commit);
        self.service.post(commit.operation, &request).await
    }

    pub(crate) async fn race(&mut self, winner: usize, loser: usize) {
        if winner == loser || !self.ready(winner).await || !self.ready(loser).await {
            return;
        }
        let id = self.id;
        let plan = self.covering(loser, Plan::update());
        let lost = self.clients[loser].stage(&id, plan);
        let rotates = self.has_pending(winner);
        self.commit(winner, Plan::update()).await;
        let problem = self.post(loser, &lost).await.problem();
        // Under the former key it finds nothing; one that would rotate, neither.
        let expected = if rotates {
            ProblemType::UnknownGroup
        } else {
            ProblemType::WrongEpoch
        };
        assert_eq!(problem, expected);
        self.clients[loser].abandon(&id);
        self.took("race");
    }

    pub(crate) async fn lost_answer(&mut self, by: usize) {
        if !self.ready(by).await {
            return;
        }
        let id = self.id;
        let plan = self.covering(by, Plan::update());
        let commit = self.clients[by].stage(&id, plan);
        let first = self.post(by, &commit).await;
        self.service.clock.advance(1);
        let again = self.post(by, &commit).await;
        assert_eq!((first.status, &first), (StatusCode::OK, &again));
        self.clients[by].merge(&commit);
        self.forget_who_has_left(by);
        self.took("lost answer");
    }

    /// The admin gives a user another role or standing.
    pub(crate) async fn set_role(&mut self, whom: usize, choice: usize) {
        if user(whom) == user(ADMIN) || !self.ready(ADMIN).await {
            return;
        }
        let Some(pseudonym) = self.users[user(whom)].clone() else {
            return;
        };
        let (role, standing) = match choice {
            0 => (GroupPolicy::ADMIN, Standing::Active),
            1 => (GroupPolicy::MEMBER, Standing::Muted),
            2 => (GroupPolicy::MEMBER, Standing::Banned),
            3 => (GroupPolicy::MEMBER, Standing::Inactive),
            _ => (GroupPolicy::MEMBER, Standing::Active),
        };
        let policy = self.clients[ADMIN].policy(&self.id).unwrap();
        let policy = policy.with(&pseudonym, role, standing);
        let context = self.clients[ADMIN].context_with(&self.id, Some(&policy));
        self.commit(ADMIN, Plan::set_context(context)).await;
        self.took("set role");
    }

    /// A device is thrown away with its queue; it may come back as a new one.
    pub(crate) async fn delete_queue(&mut self, who: usize) {
        if user(who) == user(ADMIN) || !self.ready(who).await {
            return;
        }
        let leaf = self.leaf_of(who);
        let client = &mut self.clients[who];
        let body = DeleteQueueRequest {
            queue_id: client.queue,
        };
        let _: Accepted = self
            .service
            .call(Operation::DeleteQueue, &client.queue_owner, &body)
            .await;
        self.clients[who] = Client::new(&self.service).await;
        self.leaving.insert(leaf);
        self.took("delete queue");
    }

    /// Somebody asks for what is not his: with the right state key and the signature of his own leaf.
    pub(crate) async fn forge(&mut self, by: usize, whom: usize) {
        if by == whom || !self.ready(by).await || !self.ready(whom).await {
            return;
        }
        let id = self.id;
        let proposal = self.clients[whom].self_remove(&id);
        let request = self.clients[by].self_remove_request(&self.service, &id, proposal);
        assert_eq!(
            self.service.refused(Operation::SelfRemove, &request).await,
            ProblemType::InvalidMessage
        );
        self.took("forgery refused");
    }

    pub(crate) async fn message(&mut self, by: usize) {
        if !self.ready(by).await || self.has_pending(by) {
            return;
        }
        let id = self.id;
        let request = self.clients[by].text_request(&self.service, &id, b"a message");
        let reply = self.service.post(Operation::SendMessage, &request).await;
        if reply.status == StatusCode::OK {
            assert!(self.may(by, Capabilities::SEND));
            self.took("message");
        } else {
            assert!(is_refusal_by_policy(reply.problem()), "{reply:?}");
            self.took("message refused");
        }
    }

    /// The service's view is that of every client that is up to date.
    pub(crate) async fn compare(&mut self) {
        self.receive(ADMIN).await;
        let id = self.id;
        let admin = &self.clients[ADMIN];
        let seen = admin.inspect(&self.service, &id).await;
        crate::support::state::check(&self.service, &id, admin.group(&id).state_key).await;
        let mut compared = 0;
        for client in &self.clients {
            let Some(group) = client.groups.get(&id) else {
                continue;
            };
            if group.mls.epoch().as_u64() != seen.epoch {
                continue;
            }
            let policy = client.policy(&id).unwrap();
            let own: Vec<_> = group
                .mls
                .members()
                .map(|member| {
                    let user = user_of(&member.credential);
                    let capabilities = policy.capabilities(&user);
                    (member.index.u32(), user, capabilities)
                })
                .collect();
            let of_service: Vec<_> = seen
                .members
                .iter()
                .map(|member| {
                    let user = member.user_pseudonym.as_slice().to_vec();
                    (member.leaf_index, user, member.capabilities)
                })
                .collect();
            assert_eq!(own, of_service);
            compared += 1;
        }
        assert!(compared > 0, "the admin is up to date");
    }

    /// Everybody comes online, those who leave go, and then everybody is heard by everybody.
    pub(crate) async fn everybody_goes_on(&mut self) {
        for who in 0..DEVICES {
            self.receive(who).await;
        }
        // A message of the admin finds out whose queue is gone; then all who leave are let go.
        while self.has_pending(ADMIN) || !self.admin_speaks().await {
            self.receive(ADMIN).await;
            self.commit(ADMIN, Plan::update()).await;
            for who in 0..DEVICES {
                self.receive(who).await;
            }
        }
        for who in 0..DEVICES {
            self.receive(who).await;
        }
        assert_eq!(self.leaving, BTreeSet::new());
        let members: Vec<usize> = (0..DEVICES).filter(|who| self.is_member(*who)).collect();
        let first = self.clients[ADMIN].group(&self.id);
        assert_eq!(first.mls.members().count(), members.len());
        let authenticator = first.mls.epoch_authenticator().as_slice().to_vec();
        let state_key = first.state_key;
        for who in &members {
            let group = self.clients[*who].group(&self.id);
            assert_eq!(group.mls.epoch_authenticator().as_slice(), authenticator);
            assert_eq!(group.state_key, state_key);
        }
        for who in &members {
            let text = vec![u8::try_from(*who).unwrap(); 3];
            if !self.may(*who, Capabilities::SEND) {
                continue;
            }
            let id = self.id;
            self.clients[*who].send(&self.service, &id, &text).await;
            for other in members.iter().filter(|other| *other != who) {
                assert_eq!(
                    self.receive(*other).await,
                    [text.as_slice()],
                    "client {other}"
                );
            }
        }
        self.took("everybody went on");
    }

    async fn admin_speaks(&mut self) -> bool {
        let id = self.id;
        let request = self.clients[ADMIN].text_request(&self.service, &id, b"who is there?");
        let reply = self.service.post(Operation::SendMessage, &request).await;
        if reply.status == StatusCode::OK {
            return true;
        }
        assert_eq!(reply.problem(), ProblemType::PendingProposals);
        false
    }
}
