//! Clients in a directory, and what tests have them do with one another.

use super::*;

/// A directory for homes, and clients in it.
pub(crate) struct Homes {
    directory: tempfile::TempDir,
    pub(crate) service: Arc<InProcess>,
    /// What the activity feed may cost each client in a month.
    pub(crate) feed_bytes: Option<u64>,
}

impl Homes {
    pub(crate) fn new(seed: u64) -> Self {
        Self::in_directory(tempfile::tempdir().unwrap(), seed)
    }

    /// Where nothing is written to a disk, if the system has such a place: for many short runs.
    pub(crate) fn in_memory(seed: u64) -> Self {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        Self::in_directory(directory.unwrap(), seed)
    }

    fn in_directory(directory: tempfile::TempDir, seed: u64) -> Self {
        Self {
            directory,
            service: InProcess::new(seed),
            feed_bytes: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            clock: Arc::new(self.service.clock.clone()),
            ciphersuites: vec![0x4f],
            service: Some(Arc::clone(&self.service) as Arc<dyn Service>),
            feed_bytes: self.feed_bytes,
            profile: Profile::LowData,
            ..Options::default()
        }
    }

    pub(crate) async fn client(&self, name: &str) -> Client {
        self.client_with(name, self.options()).await
    }

    pub(crate) async fn client_with(&self, name: &str, options: Options) -> Client {
        let endpoints = Endpoints::from_json(
            br#"{"relay": "http://127.0.0.1:1/", "gateway": "http://127.0.0.1:2",
                "ohttp_keys": "http://127.0.0.1:1/ohttp-keys", "ds": "http://ds:3",
                "issuer": "http://127.0.0.1:4",
                "operators": {"relay": "A", "gateway": "B", "issuer": "C"}}"#,
        )
        .unwrap();
        Client::init(&self.path(name), &endpoints, "token", options)
            .await
            .unwrap()
    }

    /// With a handle.
    pub(crate) async fn user(&self, name: &str) -> Client {
        let client = self.client(name).await;
        client.register_handle(name).await.unwrap();
        client
    }
}

/// Has one ask the other for a connection, and the other accept.
pub(crate) async fn befriend(one: &Client, other: &Client) {
    let name = other.handle().unwrap().unwrap();
    one.connect(&name).await.unwrap();
    other.check_inbox().await.unwrap();
    let request = other.incoming_requests().unwrap().pop().unwrap();
    other.accept_request(&request.id).await.unwrap();
    settle(&[one, other]).await;
}

/// Catches up until nobody has more to say.
pub(crate) async fn settle(clients: &[&Client]) {
    for _ in 0..4 {
        for client in clients.iter() {
            client.sync(0).await.unwrap();
        }
    }
}

/// Links a device, which comes into all groups.
pub(crate) async fn link(homes: &Homes, user: &Client, name: &str, others: &[&Client]) -> Client {
    let device = homes.client(name).await;
    let code = device.link_code(name).await.unwrap();
    let number = user.approve_link(&code.code, &code.number).await.unwrap();
    device.complete_link(&number, 0).await.unwrap();
    for _ in 0..4 {
        settle(&[user, &device]).await;
        settle(others).await;
    }
    device
}

/// Lets hours pass in which clients catch up now and then: what they do by themselves has its time.
pub(crate) async fn pass(homes: &Homes, hours: u32, clients: &[&Client]) {
    for _ in 0..hours {
        homes.service.clock.advance(Duration::from_secs(3_600));
        for client in clients.iter() {
            client.sync(0).await.unwrap();
        }
    }
}

/// What a client is kept in.
pub(crate) fn database(homes: &Homes, name: &str) -> rusqlite::Connection {
    rusqlite::Connection::open(homes.path(name).join("client.sqlite")).unwrap()
}

/// Alice, Bob and Carol, in one group.
pub(crate) async fn team(homes: &Homes) -> [Client; 3] {
    let alice = homes.user("alice").await;
    let (bob, carol) = (homes.user("bob").await, homes.user("carol").await);
    befriend(&alice, &bob).await;
    befriend(&alice, &carol).await;
    alice.create_group("team").await.unwrap();
    alice.add_to_group("team", &["bob", "carol"]).await.unwrap();
    settle(&[&alice, &bob, &carol]).await;
    [alice, bob, carol]
}

/// The texts that a client has read in a group.
pub(crate) fn texts(client: &Client, group: &str) -> Vec<String> {
    client
        .events()
        .unwrap()
        .into_iter()
        .filter_map(|stored| match stored.event {
            mimimi_client::Event::Message {
                group: of, text, ..
            } if of == group => Some(text),
            _ => None,
        })
        .collect()
}

/// What the MLS library has of the one group is gone from a home, and nothing else.
pub(crate) fn lose_state_of_team(homes: &Homes, home: &str) {
    let db = database(homes, home);
    let id: Vec<u8> = db
        .query_row(
            "SELECT group_id FROM groups WHERE name = 'team'",
            (),
            |row| row.get(0),
        )
        .unwrap();
    let lost = "DELETE FROM openmls_group_data WHERE instr(group_id, ?)";
    assert!(db.execute(lost, [id]).unwrap() > 0);
}
