//! Random histories: whatever happens, the service and every client agree on who is a member.

use std::collections::BTreeSet;

use http::StatusCode;
use proptest::prelude::*;
use protocol::Operation;
use protocol::codec::WireSecret;
use protocol::groups::{
    ExternalCommitInfoRequest, ExternalCommitInfoResponse, GroupKind, JoinPermit,
};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;

use crate::support::client::Client;
use crate::support::commits::{Commit, Plan};
use crate::support::inbox::Event;
use crate::support::request::{Draft, fresh_key};
use crate::support::{Engine, FREE, Service, Setup};

const CLIENTS: usize = 5;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// One commits, another hears of it late and loses the race.
    Race {
        winner: usize,
        loser: usize,
    },
    Add {
        by: usize,
        whom: usize,
    },
    Remove {
        by: usize,
        whom: usize,
    },
    Update {
        by: usize,
        rotates: bool,
    },
    UpdateCredential {
        by: usize,
    },
    Message {
        by: usize,
    },
    /// The answer is lost; the same commit is signed again later.
    LostAnswer {
        by: usize,
        rotates: bool,
    },
    /// Reads everything in its queue. Clients that never do are offline.
    Receive {
        who: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..CLIENTS;
    prop_oneof![
        1 => (who(), who()).prop_map(|(winner, loser)| Step::Race { winner, loser }),
        3 => (who(), who()).prop_map(|(by, whom)| Step::Add { by, whom }),
        2 => (who(), who()).prop_map(|(by, whom)| Step::Remove { by, whom }),
        2 => (who(), any::<bool>()).prop_map(|(by, rotates)| Step::Update { by, rotates }),
        1 => who().prop_map(|by| Step::UpdateCredential { by }),
        3 => who().prop_map(|by| Step::Message { by }),
        1 => (who(), any::<bool>()).prop_map(|(by, rotates)| Step::LostAnswer { by, rotates }),
        4 => who().prop_map(|who| Step::Receive { who }),
    ]
}

/// The clients, what they know, and what is true.
struct World {
    service: Service,
    clients: Vec<Client>,
    id: GroupId,
    /// Who is a member by what the service has accepted.
    members: BTreeSet<usize>,
    /// Messages that each client must have heard in the end.
    owed: Vec<Vec<Vec<u8>>>,
    heard: Vec<Vec<Vec<u8>>>,
    sent: u64,
}

impl World {
    async fn new(engine: Engine) -> Self {
        let service = Service::with(Setup {
            prices: FREE,
            ..Setup::on(engine)
        });
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Client::new(&service).await);
        }
        let id = clients[0].create_group_without_policy(&service).await;
        let none = || (0..CLIENTS).map(|_| Vec::new()).collect();
        Self {
            service,
            clients,
            id,
            members: BTreeSet::from([0]),
            owed: none(),
            heard: none(),
            sent: 0,
        }
    }

    async fn receive(&mut self, who: usize) {
        for event in self.clients[who].receive(&self.service).await {
            match event {
                Event::Message { text, .. } => self.heard[who].push(text),
                Event::Removed => {
                    self.clients[who].groups.remove(&self.id);
                }
                Event::Joined | Event::Committed { .. } | Event::Proposed => {}
                Event::ConnectionRequest(_) => panic!("nobody asked"),
                Event::Dropped(_) => panic!("nothing waits for so long"),
            }
        }
    }

    /// Catches up, as a client does before it acts. Whether it is a member then.
    async fn ready(&mut self, who: usize) -> bool {
        self.receive(who).await;
        let is_member = self.clients[who].groups.contains_key(&self.id);
        assert_eq!(is_member, self.members.contains(&who));
        is_member
    }

    fn leaf_of(&self, who: usize) -> u32 {
        self.clients[who].group(&self.id).mls.own_leaf_index().u32()
    }

    async fn commit(&mut self, by: usize, plan: Plan) {
        self.clients[by].commit(&self.service, &self.id, plan).await;
    }

    async fn post(&self, by: usize, commit: &Commit) -> crate::support::Reply {
        let request = self.clients[by].commit_request(&self.service, commit);
        self.service.post(commit.operation, &request).await
    }

    async fn take(&mut self, step: Step) {
        // Two requests of one client in one millisecond are told apart by what they say, not by when.
        self.service.clock.advance(1);
        match step {
            Step::Receive { who } => self.receive(who).await,
            Step::Add { by, whom } => {
                if self.ready(by).await && !self.members.contains(&whom) {
                    self.receive(whom).await;
                    let invitee = self.clients[whom].invitee(&self.service);
                    self.commit(by, Plan::add([invitee])).await;
                    self.members.insert(whom);
                }
            }
            Step::Remove { by, whom } => {
                // He is online, so that his leaf index is known; the others need not be.
                if by != whom && self.ready(by).await && self.ready(whom).await {
                    let leaf = self.leaf_of(whom);
                    self.commit(by, Plan::remove([leaf])).await;
                    self.members.remove(&whom);
                }
            }
            Step::Update { by, rotates } => {
                if self.ready(by).await {
                    self.commit(by, Plan::update().rotating(rotates)).await;
                }
            }
            Step::UpdateCredential { by } => {
                if self.ready(by).await {
                    let leaf = self.clients[by].leaf(&self.service);
                    self.commit(by, Plan::update_credential(leaf)).await;
                }
            }
            Step::Message { by } => {
                if self.ready(by).await {
                    self.message(by).await;
                }
            }
            Step::LostAnswer { by, rotates } => {
                if self.ready(by).await {
                    let commit = self.clients[by].stage(&self.id, Plan::update().rotating(rotates));
                    let first = self.post(by, &commit).await;
                    self.service.clock.advance(1);
                    let again = self.post(by, &commit).await;
                    assert_eq!((first.status, &first), (StatusCode::OK, &again));
                    self.clients[by].merge(&commit);
                }
            }
            Step::Race { winner, loser } => {
                if winner != loser && self.ready(winner).await && self.ready(loser).await {
                    let lost = self.clients[loser].stage(&self.id, Plan::update());
                    self.commit(winner, Plan::update()).await;
                    assert_eq!(
                        self.post(loser, &lost).await.problem(),
                        ProblemType::WrongEpoch
                    );
                    self.clients[loser].abandon(&self.id);
                }
            }
        }
    }

    async fn message(&mut self, by: usize) {
        self.sent += 1;
        let text = self.sent.to_be_bytes().to_vec();
        self.clients[by].send(&self.service, &self.id, &text).await;
        for member in self.members.iter().filter(|member| **member != by) {
            self.owed[*member].push(text.clone());
        }
    }

    /// Everybody comes online: trees, keys and the service's view (who gets what) are the same.
    async fn check(&mut self) {
        let speaker = *self.members.first().unwrap();
        for who in 0..CLIENTS {
            self.receive(who).await;
        }
        self.message(speaker).await;
        for who in 0..CLIENTS {
            self.receive(who).await;
            let is_member = self.clients[who].groups.contains_key(&self.id);
            assert_eq!(is_member, self.members.contains(&who), "client {who}");
            self.heard[who].sort();
            self.owed[who].sort();
            assert_eq!(self.heard[who], self.owed[who], "client {who}");
        }
        let first = self.clients[speaker].group(&self.id);
        for member in &self.members {
            let group = self.clients[*member].group(&self.id);
            assert_eq!(
                group.mls.epoch_authenticator().as_slice(),
                first.mls.epoch_authenticator().as_slice()
            );
            assert_eq!(group.state_key, first.state_key);
            assert_eq!(group.mls.members().count(), self.members.len());
        }
    }
}

fn play(engine: Engine, steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(engine).await;
        for step in steps {
            world.take(*step).await;
        }
        world.check().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn on_memory_every_history_ends_in_agreement(steps in prop::collection::vec(step(), 1..40)) {
        play(Engine::Memory, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 16, ..ProptestConfig::default() })]

    #[test]
    fn on_rocksdb_every_history_ends_in_agreement(steps in prop::collection::vec(step(), 1..40)) {
        play(Engine::Rocks, &steps);
    }
}

#[tokio::test]
async fn an_earlier_tree_that_is_put_beside_a_later_roster_does_not_open() {
    let service = Service::start(Engine::Memory);
    let mut alice = Client::new(&service).await;
    let id = alice.create_group(&service, GroupKind::Connection).await;
    let info = ExternalCommitInfoRequest {
        group_id: id,
        state_key: WireSecret::new(alice.group(&id).state_key),
        permit: JoinPermit::Connection,
    };
    let ask = async || {
        let key = fresh_key();
        let request =
            Draft::by_key(&service, Operation::ExternalCommitInfo, &key, &info).signed(&key);
        service.post(Operation::ExternalCommitInfo, &request).await
    };
    let first: ExternalCommitInfoResponse = ask().await.accepted();
    // The state key stays: it would open the earlier tree.
    alice.commit(&service, &id, Plan::update()).await;
    service.store.put_last_tree_back();
    assert_eq!(ask().await.problem(), ProblemType::Internal);
    let now: ExternalCommitInfoResponse = ask().await.accepted();
    assert_ne!(now.ratchet_tree, first.ratchet_tree);
}
