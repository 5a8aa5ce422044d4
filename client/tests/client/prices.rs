//! What a user spends. Clients carry out each act against the service's decisions, at the default
//! prices, and what they spend is what docs/prices.md says of it; the sum of a busy day is held
//! against the issuer's default quota.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mimimi_client::in_process::{Answer, Service};
use mimimi_client::{BackupKey, Client, Options};
use protocol::directory::Directory;
use protocol::operation::Operation;

use crate::support::{Homes, InProcess};

/// How many requests there were of an operation, by its name, and how many tokens came with them.
type Spent = BTreeMap<String, (usize, usize)>;

/// The service for all devices of one user. Tokens that come to it are spent, whatever it answers.
struct Purse {
    service: Arc<InProcess>,
    spent: Mutex<Spent>,
}

impl Service for Purse {
    fn answer<'a>(
        &'a self,
        operation: Operation,
        request: &'a [u8],
        tokens: &'a [Vec<u8>],
    ) -> Answer<'a> {
        {
            let mut spent = self.spent.lock().unwrap();
            let (requests, sum) = spent.entry(format!("{operation:?}")).or_default();
            *requests += 1;
            *sum += tokens.len();
        }
        self.service.answer(operation, request, tokens)
    }

    fn directory(&self) -> Directory {
        self.service.directory()
    }
}

/// What an act has cost.
struct Receipt(Spent);

impl Receipt {
    fn requests(&self, operation: Operation) -> usize {
        let of = self.0.get(&format!("{operation:?}"));
        of.map_or(0, |(requests, _)| *requests)
    }

    fn tokens(&self, operation: Operation) -> usize {
        let of = self.0.get(&format!("{operation:?}"));
        of.map_or(0, |(_, tokens)| *tokens)
    }

    /// What one request cost on average.
    fn of_one(&self, operation: Operation) -> usize {
        let requests = self.requests(operation);
        assert_eq!(self.tokens(operation) % requests, 0);
        self.tokens(operation) / requests
    }

    fn sum(&self) -> usize {
        self.0.values().map(|(_, tokens)| tokens).sum()
    }

    fn without(&self, operation: Operation) -> usize {
        self.sum() - self.tokens(operation)
    }
}

/// Alice with her devices, and her contacts.
struct World {
    homes: Homes,
    purse: Arc<Purse>,
    devices: Vec<Client>,
    /// The homes of her devices, in the same order.
    names: Vec<String>,
    contacts: Vec<Client>,
    /// Other devices of contacts.
    theirs: Vec<Client>,
}

impl World {
    /// With so many contacts, and a group with each. The last of her devices is linked when they
    /// are there; it is said what that costs.
    async fn new(size: usize) -> (Self, Receipt) {
        let homes = Homes::in_memory(u64::try_from(size).unwrap());
        let purse = Arc::new(Purse {
            service: Arc::clone(&homes.service),
            spent: Mutex::default(),
        });
        let mut world = Self {
            homes,
            purse,
            devices: Vec::new(),
            names: vec!["laptop".into()],
            contacts: Vec::new(),
            theirs: Vec::new(),
        };
        let laptop = world.client("laptop").await;
        laptop.register_handle("alice").await.unwrap();
        world.devices.push(laptop);
        world.link("phone").await;
        for number in 0..size {
            world.connect_with_somebody().await;
            let group = format!("group {number}");
            world.devices[0].create_group(&group).await.unwrap();
            let contact = world.contact_names()[number].clone();
            let added = world.devices[0].add_to_group(&group, &[&contact]).await;
            added.unwrap();
        }
        world.rest().await;
        world.spent("before");
        world.link("tablet").await;
        world.rest().await;
        let spent = world.spent("link a device");
        (world, spent)
    }

    fn options(&self) -> Options {
        Options {
            service: Some(Arc::clone(&self.purse) as Arc<dyn Service>),
            ..self.homes.options()
        }
    }

    async fn client(&self, name: &str) -> Client {
        self.homes.client_with(name, self.options()).await
    }

    /// Somebody without contacts.
    async fn somebody(&self) -> (Client, String) {
        let name = format!("contact-{}", self.contacts.len());
        (self.homes.user(&name).await, name)
    }

    fn contact_names(&self) -> Vec<String> {
        let names = self.contacts.iter();
        names.map(|it| it.handle().unwrap().unwrap()).collect()
    }

    /// Days pass, in which everybody is there, until nobody has more to do.
    async fn rest(&mut self) {
        let mut quiet = 0;
        for _ in 0..200 {
            self.homes
                .service
                .clock
                .advance(Duration::from_secs(6 * 3_600));
            for _ in 0..2 {
                let contacts = self.contacts.iter_mut().chain(&mut self.theirs);
                for client in self.devices.iter_mut().chain(contacts) {
                    client.sync(0).await.unwrap();
                }
            }
            quiet = if self.is_quiet() { quiet + 1 } else { 0 };
            if quiet == 3 {
                return;
            }
        }
        panic!("there is always something to do");
    }

    /// Whether nothing is planned that is not done.
    fn is_quiet(&self) -> bool {
        let contacts = self.contact_names();
        self.names.iter().chain(&contacts).all(|home| {
            let home = self.homes.path(home).join("client.sqlite");
            let db = rusqlite::Connection::open(home).unwrap();
            let count = db.query_row(
                "SELECT (SELECT count(*) FROM acts) + (SELECT count(*) FROM key_package_batch)",
                (),
                |row| row.get(0),
            );
            count.unwrap_or(0) == 0
        })
    }

    /// What was spent since it was asked last.
    fn spent(&self, act: &str) -> Receipt {
        let spent = std::mem::take(&mut *self.purse.spent.lock().unwrap());
        let shown: Vec<_> = spent
            .iter()
            .filter(|(_, (_, tokens))| *tokens > 0)
            .collect();
        println!("{act}: {shown:?}");
        Receipt(spent)
    }

    async fn link(&mut self, name: &str) {
        let device = self.client(name).await;
        let code = device.link_code(name).await.unwrap();
        let first = &mut self.devices[0];
        let number = first.approve_link(&code.code, &code.number).await.unwrap();
        device.complete_link(&number, 0).await.unwrap();
        self.devices.push(device);
        self.names.push(name.into());
        self.rest().await;
    }

    /// Alice asks somebody, who accepts.
    async fn connect_with_somebody(&mut self) {
        let (contact, name) = self.somebody().await;
        self.devices[0].connect(&name).await.unwrap();
        contact.check_inbox().await.unwrap();
        let request = contact.incoming_requests().unwrap().pop().unwrap();
        contact.accept_request(&request.id).await.unwrap();
        self.contacts.push(contact);
        self.rest().await;
    }

    /// Somebody asks Alice, who accepts.
    async fn be_connected(&mut self) {
        let (contact, _) = self.somebody().await;
        contact.connect("alice").await.unwrap();
        self.devices[0].check_inbox().await.unwrap();
        let request = self.devices[0].incoming_requests().unwrap().pop().unwrap();
        let accepted = self.devices[0].accept_request(&request.id).await;
        accepted.unwrap();
        self.contacts.push(contact);
        self.rest().await;
    }

    /// With all contacts in it.
    async fn create_group(&mut self, name: &str) {
        let names = self.contact_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.devices[0].create_group(name).await.unwrap();
        self.devices[0].add_to_group(name, &names).await.unwrap();
        self.rest().await;
    }

    async fn restore(&mut self, device: usize, home: &str) {
        let key = BackupKey::RecoveryKey(mimimi_client::new_recovery_key().unwrap());
        let backup = self.devices[device].backup(&key).await.unwrap();
        let path = self.homes.path(home);
        let restored = Client::restore(&path, &backup, &key, self.options()).await;
        self.devices[device] = restored.unwrap();
        self.names[device] = home.into();
        self.rest().await;
        for device in &self.devices {
            assert_eq!(device.devices().unwrap().len(), self.devices.len());
        }
    }
}

/// What is spent at two sizes, from which it is known at any.
struct Line([(usize, usize); 2]);

impl Line {
    fn at(&self, size: usize) -> usize {
        let [(small, less), (large, more)] = self.0;
        let slope = (more - less) / (large - small);
        assert_eq!(less + slope * (large - small), more, "a straight line");
        less + slope * (size - small)
    }
}

/// Of acts whose price grows with contacts and groups, and of the others.
type Measured = BTreeMap<&'static str, usize>;

const CREATE: &str = "create a group";
const ASK: &str = "ask for a connection that is accepted";
const ACCEPT: &str = "accept a connection";
const CODE: &str = "come in by a join code";
const FREE: &str = "be added to a group; say, remove, leave, renew, change roles; read";
const LACKING: &str = "be added with a set that lacks a device";
const PUBLISH: &str = "publish again for a contact";
const STOCK_SET: &str = "replace a set in stock that has expired";
const STOCK_GROUP: &str = "replace a connection group in stock";
const KEEP: &str = "keep the handle";
const CLAIM: &str = "claim for a stock that is empty, in a day";
const LINK: &str = "link a device";
const REMOVE: &str = "remove a lost device";
const RESTORE: &str = "restore a device from a backup";

/// What grows: with a price for each of so many contacts, groups and users added.
async fn measure(world: &mut World, linked: &Receipt, size: usize) -> Measured {
    let mut measured = Measured::new();
    // The claims for the stock come one after the other in the days that follow.
    assert_eq!(linked.tokens(Operation::ClaimKeyPackages), size);
    measured.insert(LINK, linked.without(Operation::ClaimKeyPackages));
    // The device that publishes for all, and another one.
    for (device, home) in [(0, "restored laptop"), (1, "restored phone")] {
        world.restore(device, home).await;
        let restored = world.spent(home);
        assert_eq!(restored.tokens(Operation::ClaimKeyPackages), size);
        let cost = restored.without(Operation::ClaimKeyPackages);
        let before = measured.insert(RESTORE, cost);
        assert!(before.is_none_or(|it| it == cost), "{before:?}, {cost}");
    }
    world.create_group("all").await;
    measured.insert(CREATE, world.spent("create").sum());
    world.devices[0].unlink_device("tablet").await.unwrap();
    world.devices.remove(2);
    world.names.remove(2);
    world.rest().await;
    let removed = world.spent("remove");
    // Contacts make pools anew too, and what the two devices have in stock is claimed again.
    assert!(removed.tokens(Operation::ClaimKeyPackages) <= 2 * size);
    measured.insert(REMOVE, removed.without(Operation::ClaimKeyPackages));
    measured
}

/// Contacts and groups that are there when it is measured.
const SIZES: [usize; 2] = [1, 3];

/// What costs the same, however many contacts and groups there are.
async fn measure_once(world: &mut World) -> Measured {
    let mut measured = Measured::new();
    world.connect_with_somebody().await;
    let asked = world.spent("ask");
    measured.insert(ASK, asked.sum());
    // What grows old is replaced by one of these.
    measured.insert(STOCK_SET, asked.of_one(Operation::ClaimKeyPackages));
    measured.insert(STOCK_GROUP, asked.of_one(Operation::ReserveGroupId));
    world.be_connected().await;
    measured.insert(ACCEPT, world.spent("accept").sum());
    world.contacts[0].create_group("open").await.unwrap();
    let code = world.contacts[0].invite("open", 7).await.unwrap();
    world.devices[1].join_by_code(&code).await.unwrap();
    world.rest().await;
    measured.insert(CODE, world.spent("code").sum());
    world.devices[2].register_handle("alice").await.unwrap();
    world.rest().await;
    measured.insert(KEEP, world.spent("keep").sum());

    // What the contact has in stock is from before the tablet was there.
    be_added(world, 0).await;
    measured.insert(LACKING, world.spent("lacking").sum());
    link_device_of_contact(world).await;
    assert_eq!(world.spent("device of a contact").sum(), 0);
    for number in 1..4 {
        be_added(world, number).await;
    }
    do_what_is_free(world).await;
    let free = world.spent("free");
    // Sets were used up meanwhile.
    measured.insert(FREE, free.without(Operation::PublishKeyPackages));
    measured.insert(PUBLISH, free.of_one(Operation::PublishKeyPackages));
    measured
}

async fn be_added(world: &mut World, number: usize) {
    let group = format!("of another one {number}");
    world.contacts[0].create_group(&group).await.unwrap();
    let added = world.contacts[0].add_to_group(&group, &["alice"]).await;
    added.unwrap();
    world.rest().await;
    for device in &world.devices {
        let members = 1 + world.theirs.len() + world.devices.len();
        assert_eq!(device.members(&group).unwrap().len(), members);
    }
}

async fn link_device_of_contact(world: &mut World) {
    let device = world.homes.client("another device").await;
    let code = device.link_code("another device").await.unwrap();
    let approved = world.contacts[0].approve_link(&code.code, &code.number);
    let number = approved.await.unwrap();
    device.complete_link(&number, 0).await.unwrap();
    world.theirs.push(device);
    world.rest().await;
}

async fn do_what_is_free(world: &mut World) {
    for device in &mut world.devices {
        device.send_message("group 0", "hello").await.unwrap();
        device.update_own_leaf("group 0").await.unwrap();
    }
    world.rest().await;
    let alice = &mut world.devices[1];
    let role = alice.set_role("group 0", "contact-0", "admin").await;
    role.unwrap();
    let removed = alice.remove_from_group("group 0", &["contact-0"]).await;
    removed.unwrap();
    alice.leave_group("of another one 0").await.unwrap();
    world.rest().await;
}

const DOCUMENT: &str = include_str!("../../../docs/prices.md");
const ISSUER: &str = include_str!("../../../privacy-pass-issuer/sample.toml");

/// The rows of a table of the document, by its head.
fn table(head: &[&str]) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&str> {
        let inner = line
            .trim()
            .strip_prefix('|')
            .and_then(|it| it.strip_suffix('|'));
        inner
            .unwrap_or_default()
            .split('|')
            .map(str::trim)
            .collect()
    };
    let mut lines = DOCUMENT
        .lines()
        .map(cells)
        .skip_while(|cells| cells != head);
    assert!(lines.next().is_some(), "there is no table {head:?}");
    lines
        .skip(1)
        .take_while(|cells| cells.len() == head.len())
        .collect()
}

fn number(cell: &str) -> usize {
    let digits = cell.trim_matches('*');
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{cell} is no number"))
}

fn quota() -> usize {
    let line = ISSUER
        .lines()
        .find_map(|line| line.strip_prefix("tokens_per_account_per_day = "));
    number(line.unwrap())
}

/// Runs beside others on a thread of its own.
fn beside<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(work())
    })
}

/// What each act costs a user with so many contacts and groups, who adds so many users to a group.
fn measured(contacts: usize, users: usize) -> Measured {
    let worlds = SIZES.map(|size| {
        beside(async move || {
            let (mut world, linked) = World::new(size).await;
            measure(&mut world, &linked, size).await
        })
    });
    let others = beside(async || {
        let (mut world, _) = World::new(SIZES[0]).await;
        measure_once(&mut world).await
    });
    let [small, large] = worlds.map(|world| world.join().unwrap());
    let mut measured = others.join().unwrap();
    for (act, less) in &small {
        let line = Line([(SIZES[0], *less), (SIZES[1], large[act])]);
        let size = if *act == CREATE { users } else { contacts };
        measured.insert(act, line.at(size));
    }
    // One after the other, at times that are drawn: a unit test counts them over many days.
    measured.insert(CLAIM, 12);
    measured
}

#[test]
fn a_user_with_forty_groups_and_three_devices_stays_under_half_of_the_default_quota() {
    let measured = measured(40, 10);
    let costs = table(&["act", "tokens", ""]);
    let documented: Vec<(&str, usize)> = costs.iter().map(|row| (row[0], number(row[1]))).collect();
    println!("{measured:?}");
    for (act, tokens) in &documented {
        assert_eq!(measured.get(act), Some(tokens), "{act}");
    }
    assert_eq!(documented.len(), measured.len(), "each act has its row");

    let rows = table(&["act", "times", "tokens"]);
    let (together, acts) = rows.split_last().unwrap();
    let mut day = 0;
    for row in acts {
        let tokens = measured[row[0]] * number(row[1]);
        assert_eq!(number(row[2]), tokens, "{}", row[0]);
        day += tokens;
    }
    assert_eq!(number(together[2]), day);
    let half = quota() / 2;
    assert!(day < half, "{day} of {half} on an ordinary day");

    let beside_the_day = [
        measured[LINK] + measured[CLAIM],
        measured[RESTORE] + measured[CLAIM],
        // Of both devices that are left.
        measured[REMOVE] + 2 * measured[CLAIM],
    ];
    let rows = table(&["act", "tokens", "with the day"]);
    assert_eq!(rows.len(), beside_the_day.len());
    for (row, tokens) in rows.iter().zip(beside_the_day) {
        assert_eq!(number(row[1]), tokens, "{}", row[0]);
        assert_eq!(number(row[2]), day + tokens, "{}", row[0]);
        assert!(
            day + tokens < half,
            "{}: {} of {half}",
            row[0],
            day + tokens
        );
    }
}
