//! One run: a few users who connect, found groups, come in by codes, write, renew, remove and come
//! back. Who does what is drawn anew in each run and for each act, so that nobody is known by what
//! they do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crypto::schedule::PoolToken;
use mimimi_client::{Client, Clock, Error, Options, UsageError};
use protocol::ids::PoolId;
use protocol::problem::ProblemType;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::support::Homes;
use crate::support::recording::{Exchange, Who};

const USERS: usize = 4;
const GROUPS: usize = 3;
/// Nobody needs longer to be ready to be added.
const MOST_HOURS: usize = 48;

/// What a run has left.
#[derive(Clone)]
pub(crate) struct Played {
    pub(crate) exchanges: Vec<Exchange>,
    /// How many each user has.
    pub(crate) devices: [usize; USERS],
    /// Opens what was claimed: for the truth.
    pub(crate) tokens: Arc<BTreeMap<PoolId, PoolToken>>,
    /// When it was, by the service's clock, in milliseconds.
    pub(crate) time: std::ops::RangeInclusive<u64>,
}

/// Draws.
pub(crate) struct Dice(ChaCha12Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha12Rng::seed_from_u64(seed))
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u64() % u64::try_from(end).unwrap()).unwrap()
    }

    pub(crate) fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    /// A name of any length that is allowed for a handle.
    fn name(&mut self) -> String {
        // As long as an id it could be written like one, which no group may be called.
        let length = match 3 + self.below(50) {
            22 => 23,
            length => length,
        };
        let letters = self.bytes(length).into_iter();
        letters.map(|byte| char::from(b'a' + byte % 26)).collect()
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}

/// A clock that is a little wrong.
struct Wrong {
    clock: Arc<dyn Clock>,
    ahead_ms: u64,
}

impl Clock for Wrong {
    fn now_unix_ms(&self) -> u64 {
        self.clock.now_unix_ms() + self.ahead_ms
    }
}

struct Run {
    homes: Homes,
    dice: Dice,
    /// Of the users.
    names: Vec<String>,
    who: Vec<Who>,
    paths: Vec<std::path::PathBuf>,
    options: Vec<Options>,
    clients: Vec<Client>,
    tokens: BTreeMap<PoolId, PoolToken>,
}

/// Plays a run; users have this many devices.
pub(crate) async fn play(seed: u64, devices: [usize; 4]) -> Played {
    let homes = Homes::in_memory(seed);
    let mut dice = Dice::new(seed);
    let ahead = Duration::from_secs(u64::try_from(dice.below(40 * 86_400)).unwrap());
    homes.service.clock.advance(ahead);
    let begin_ms = homes.service.clock.now_unix_ms();
    homes.service.record();
    let names: Vec<String> = (0..USERS).map(|_| dice.name()).collect();
    let mut run = Run {
        homes,
        dice,
        names: names.clone(),
        who: Vec::new(),
        paths: Vec::new(),
        options: Vec::new(),
        clients: Vec::new(),
        tokens: BTreeMap::new(),
    };
    for (user, name) in names.iter().enumerate() {
        let client = run.client(Who { user, device: 0 }).await;
        run.clients.push(client);
        let client = run.clients.last_mut().unwrap();
        client.register_handle(name).await.unwrap();
    }
    // One that comes later comes into all groups in one sitting, in the order in which it and those
    // of others come: places, epochs and lengths say that again. Order is not what is asked here.
    for (user, count) in devices.into_iter().enumerate() {
        for device in 1..count {
            run.link(Who { user, device }).await;
            run.settle_users(&[user], 2).await;
        }
    }
    run.connect().await;
    let mut groups = Vec::new();
    for _ in 0..GROUPS {
        groups.push(run.group().await);
    }
    run.settle(1, Duration::from_secs(700)).await;
    for _ in 0..4 {
        run.say(&groups).await;
    }
    run.renew(&groups).await;
    run.remove(&groups).await;
    run.come_back(&groups).await;
    run.say(&groups).await;
    run.settle(1, Duration::from_secs(700)).await;
    Played {
        exchanges: run.homes.service.recorded(),
        devices,
        tokens: Arc::new(run.tokens),
        time: begin_ms..=run.homes.service.clock.now_unix_ms(),
    }
}

struct Founded {
    name: String,
    founder: usize,
    /// Contacts of the founder.
    added: [usize; 2],
}

impl Run {
    async fn client(&mut self, who: Who) -> Client {
        let home = format!("{}-{}", who.user, who.device);
        // Within what nobody's clock is mended for.
        let wrong = Wrong {
            clock: Arc::new(self.homes.service.clock.clone()),
            ahead_ms: u64::try_from(self.dice.below(240_000)).unwrap(),
        };
        let options = Options {
            clock: Arc::new(wrong),
            service: Some(self.homes.service.seen_by(who)),
            ..self.homes.options()
        };
        self.who.push(who);
        self.paths.push(self.homes.path(&home));
        self.options.push(options.clone());
        self.homes.client_with(&home, options).await
    }

    /// Some device of a user.
    fn some_device(&mut self, user: usize) -> usize {
        let of_user: Vec<usize> = (0..self.who.len())
            .filter(|at| self.who[*at].user == user)
            .collect();
        of_user[self.dice.below(of_user.len())]
    }

    fn pair(&mut self, one: usize, other: usize) -> (&Client, &Client) {
        let [one, other] = self.clients.get_disjoint_mut([one, other]).unwrap();
        (one, other)
    }

    /// Keeps the keys to what is going to be claimed.
    fn learn_tokens(&mut self) {
        for path in &self.paths {
            let db = rusqlite::Connection::open(path.join("client.sqlite")).unwrap();
            let mut rows = db.prepare("SELECT connection_token FROM contacts").unwrap();
            let tokens = rows.query_map((), |row| row.get::<_, [u8; 32]>(0)).unwrap();
            for token in tokens {
                let token = PoolToken::new(token.unwrap());
                self.tokens.insert(token.pool(), token);
            }
        }
    }

    async fn settle(&mut self, rounds: usize, wait: Duration) {
        let everybody: Vec<usize> = (0..USERS).collect();
        for _ in 0..rounds {
            self.homes.service.clock.advance(wait);
            self.settle_users(&everybody, 1).await;
        }
    }

    /// As [`Run::settle`], with what follows at once. Who comes first would be first in each
    /// journal: it is drawn.
    async fn settle_users(&mut self, users: &[usize], rounds: usize) {
        let clients: Vec<usize> = (0..self.clients.len())
            .filter(|at| users.contains(&self.who[*at].user))
            .collect();
        for _ in 0..rounds {
            self.settle_clients(&clients).await;
        }
    }

    async fn settle_clients(&mut self, clients: &[usize]) {
        let mut order = clients.to_vec();
        while !order.is_empty() {
            let at = order.swap_remove(self.dice.below(order.len()));
            self.clients[at].sync(0).await.unwrap();
        }
    }

    async fn link(&mut self, who: Who) {
        let client = self.client(who).await;
        self.clients.push(client);
        let (old, new) = (who.user, self.clients.len() - 1);
        let name = format!("device {}", who.device);
        let (old, new) = self.pair(old, new);
        let code = new.link_code(&name).await.unwrap();
        let number = old.approve_link(&code.code, &code.number).await.unwrap();
        new.complete_link(&number, 0).await.unwrap();
    }

    /// Everybody is a contact of two others.
    async fn connect(&mut self) {
        let mut order: Vec<usize> = (0..USERS).collect();
        while !order.is_empty() {
            let user = order.swap_remove(self.dice.below(order.len()));
            let next = (user + 1) % USERS;
            let (asks, asked) = if self.dice.flip() {
                (user, next)
            } else {
                (next, user)
            };
            let one = self.some_device(asks);
            let name = self.names[asked].clone();
            let (one, other) = self.pair(one, asked);
            one.connect(&name).await.unwrap();
            other.check_inbox().await.unwrap();
            let request = other.incoming_requests().unwrap().pop().unwrap();
            other.accept_request(&request.id).await.unwrap();
        }
        let everybody: Vec<usize> = (0..USERS).collect();
        self.settle_users(&everybody, 2).await;
        // Where several devices make KeyPackages, each takes part in what is claimed.
        let several: Vec<usize> = self
            .who
            .iter()
            .filter(|it| it.device > 0)
            .map(|it| it.user)
            .collect();
        self.settle_users(&several, 3).await;
        self.settle(1, Duration::from_secs(2 * 3_600)).await;
        self.learn_tokens();
        self.settle(1, Duration::from_secs(12 * 3_600)).await;
    }

    /// Somebody founds a group and adds both contacts; the fourth comes in by a code.
    async fn group(&mut self) -> Founded {
        self.learn_tokens();
        let name = self.dice.name();
        let founder = self.dice.below(4);
        let mut added = [(founder + 1) % 4, (founder + 3) % 4];
        if self.dice.flip() {
            added.swap(0, 1);
        }
        let at = self.some_device(founder);
        let names = added.map(|user| self.names[user].clone());
        let names = names.each_ref().map(String::as_str);
        self.clients[at].create_group(&name).await.unwrap();
        self.add(at, &name, &names).await;
        let days = 7 * (1 + u32::try_from(self.dice.below(8)).unwrap());
        let code = self.clients[at].invite(&name, days).await.unwrap();
        let fourth = self.some_device((founder + 2) % 4);
        self.clients[fourth].join_by_code(&code).await.unwrap();
        let wait = Duration::from_secs(u64::try_from(self.dice.below(300)).unwrap());
        self.settle(1, wait).await;
        Founded {
            name,
            founder,
            added,
        }
    }

    /// What a contact has to tell first, and to publish, comes in its time.
    async fn add(&mut self, at: usize, group: &str, names: &[&str]) {
        for _ in 0..MOST_HOURS {
            match self.clients[at].add_to_group(group, names).await {
                Ok(_) => return,
                Err(Error::Usage(UsageError::UnknownContact(_))) => {}
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::NoKeyPackages => {}
                Err(error) => panic!("{error:?}"),
            }
            self.settle(1, Duration::from_secs(3_600)).await;
            self.learn_tokens();
        }
        panic!("a contact cannot be added");
    }

    async fn say(&mut self, groups: &[Founded]) {
        let group = &groups[self.dice.below(groups.len())];
        let at = self.dice.below(self.clients.len());
        let length = 1 + self.dice.below(300);
        // Who is not in it, or has heard nobody yet, says nothing.
        let _ = self.clients[at]
            .send_message(&group.name, &"a".repeat(length))
            .await;
    }

    async fn renew(&mut self, groups: &[Founded]) {
        let group = &groups[self.dice.below(groups.len())];
        let at = self.dice.below(self.clients.len());
        let _ = self.clients[at].update_own_leaf(&group.name).await;
    }

    async fn remove(&mut self, groups: &[Founded]) {
        let group = &groups[self.dice.below(groups.len())];
        let at = self.some_device(group.founder);
        let gone = self.names[group.added[self.dice.below(2)]].clone();
        let _ = self.clients[at]
            .remove_from_group(&group.name, &[&gone])
            .await;
        self.settle(1, Duration::from_secs(660)).await;
    }

    /// Somebody loses the state of one group, and comes back.
    async fn come_back(&mut self, groups: &[Founded]) {
        let at = self.dice.below(self.clients.len());
        let name = &groups[self.dice.below(groups.len())].name;
        let client = self.clients.remove(at);
        drop(client);
        let db = rusqlite::Connection::open(self.paths[at].join("client.sqlite")).unwrap();
        let id = db.query_row(
            "SELECT group_id FROM groups WHERE name = ?",
            [name],
            |row| row.get::<_, Vec<u8>>(0),
        );
        if let Ok(id) = id {
            let lost = "DELETE FROM openmls_group_data WHERE instr(group_id, ?)";
            let lost = db.execute(lost, [id]).unwrap();
            assert!(lost > 0);
        }
        drop(db);
        let opened = Client::open(&self.paths[at], self.options[at].clone()).await;
        self.clients.insert(at, opened.unwrap());
        self.settle(1, Duration::from_secs(600)).await;
    }
}
