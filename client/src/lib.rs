//! The client's side of the delivery service: a library that hides tokens, encapsulation, state
//! keys and their rotation, identity links, journals and their order, retries and recovery.
//!
//! A [`Client`] is one device of one user, kept in a home directory. Every request to the delivery
//! service goes through the relay and the gateway; the token issuer is asked directly. What a call
//! returns is durable.
//!
//! ```no_run
//! use client::{Client, Endpoints, Event, Options};
//!
//! # async fn example() -> Result<(), client::Error> {
//! let home = std::path::Path::new("/home/alice/.mimimi");
//! let endpoints = Endpoints::from_json(br#"{
//!     "relay": "https://relay.example/", "gateway": "https://gateway.example",
//!     "ohttp_keys": "https://relay.example/ohttp-keys",
//!     "ds": "https://ds.example", "issuer": "https://issuer.example",
//!     "issuer_name": "issuer.example", "token_origin": "ds.example"
//! }"#)?;
//! let mut alice = Client::init(home, &endpoints, "the account token", Options::default()).await?;
//! alice.register_handle("alice").await?;
//! alice.connect("bob").await?;
//!
//! // Once Bob has accepted:
//! alice.sync(20_000).await?;
//! println!("read this to Bob: {}", alice.safety_number("bob")?);
//! alice.create_group("climbing").await?;
//! alice.add_to_group("climbing", &["bob"]).await?;
//! alice.send_message("climbing", "Saturday?").await?;
//!
//! let events = alice.receive(20_000).await?;
//! for stored in &events {
//!     if let Event::Message { group, sender, text } = &stored.event {
//!         println!("[{group}] {sender}: {text}");
//!     }
//! }
//! alice.acknowledge(&events)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Who is at fault
//!
//! Every call returns [`Error`]; [`Error::fault`] says who has to act, [`Error::code`] is stable.
//! After [`Error::Unreachable`] it is not known whether the request had an effect. A commit that
//! was under way is kept with its exact bytes and brought to its end by the next [`Client::sync`].
//!
//! # Tokens
//!
//! What costs something is paid with tokens of which there is a stock. It is filled by
//! [`Client::sync`] when its time has come, never by anything that the user does: an action that
//! finds too few fails with [`IssuerError::WalletEmpty`]. Keep a client running, or call
//! [`Client::sync`] now and then, so that this does not happen; [`Client::fill_wallet`] is for
//! users who cannot wait.
//!
//! # What is kept where
//!
//! `client.sqlite` in the home directory (mode 0600 in a directory of mode 0700) holds everything,
//! private keys and unread messages too: protect it like a key. Several processes can use it: a
//! call waits for another one's call, not while that waits for news, and sees what it has changed.
//! [`Client::hold`] keeps the others out for longer.
//!
//! # For tests of the service
//!
//! [`Client::transport`] posts any bytes as a request, [`sign`] makes signed ones,
//! [`Client::group_access`] gives the id and state key of a group, [`Client::stage_remove`] and
//! [`Client::stage_add`] keep a commit without sending it, [`Client::pending_request`] shows the
//! bytes that would be sent, so that an answer can be dropped, and [`Client::submit`] sends them.

mod allowance;
mod backup;
mod clock;
mod connections;
mod contacts;
mod copies;
mod database;
mod devices;
mod directory;
mod error;
mod events;
#[cfg(test)]
mod fixtures;
mod groups;
mod handles;
mod home;
pub mod in_process;
mod inbox;
pub mod issuance;
mod issuer;
mod journal;
mod key_config;
mod key_packages;
mod leaf;
mod leaving;
mod profile;
mod provider;
mod reporting;
mod request;
mod schedule;
pub mod text;
mod transport;
mod trust;
mod views;
mod waits;
mod wallet;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use protocol::ids::GroupId;
use protocol::operation::Operation;
use rusqlite::Connection;

pub use backup::BackupKey;
pub use clock::{Clock, SharedClock, SystemClock};
pub use connections::IncomingRequest;
pub use contacts::Contact;
pub use devices::{Device, LinkCode};
pub use error::{
    DirectoryError, Error, Fault, FileError, IssuerError, LocalError, NoAnswer, PeerError, Refusal,
    UsageError,
};
pub use events::{Event, StoreChange, StoredEvent};
pub use groups::commit::CommitOutcome;
pub use groups::evidence::{Evidence, StopReason};
pub use groups::message::MAX_TEXT;
pub use groups::removals::RemovalReason;
pub use groups::{GroupAccess, GroupSummary, Member};
pub use in_process::SharedService;
pub use key_config::KeyView;
pub use profile::Endpoints;
pub use protocol::reporting::ReportReason;
pub use reporting::RequestPolicy;
pub use request::sign;
pub use transport::{Patience, Progress, Transport, Waiting};
pub use views::Pace;

use clock::ServiceTime;
use groups::{Group, Status};
pub use home::Held;
use home::Home;
use profile::Profile;
use request::Pending;
use transport::Budget;

/// How a client behaves.
#[derive(Clone)]
pub struct Options {
    /// Where the time comes from.
    pub clock: SharedClock,
    /// How long calls wait for answers.
    pub patience: Patience,
    /// Hears of calls that wait longer than usual.
    pub progress: Option<Progress>,
    /// How long a call waits for another process to leave the home directory.
    pub lock_patience: Duration,
    /// MLS ciphersuites that KeyPackages are published for. The first one is that of connections.
    pub ciphersuites: Vec<u16>,
    /// Which connection requests are shown.
    pub requests: RequestPolicy,
    /// When the views of independent operators are compared.
    pub pace: Pace,
    /// Answers in place of relay, gateway, service and issuer: for tests without sockets.
    pub service: Option<SharedService>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            patience: Patience::default(),
            progress: None,
            lock_patience: Duration::from_secs(60),
            ciphersuites: vec![0x0001, 0x0002, 0x0003, 0x004f],
            requests: RequestPolicy::default(),
            pace: Pace::default(),
            service: None,
        }
    }
}

/// One device of one user.
pub struct Client {
    pub(crate) db: Connection,
    pub(crate) profile: Profile,
    pub(crate) transport: Transport,
    /// The group that was last written in or read from: its journal is waited at.
    pub(crate) front: Option<GroupId>,
    /// Groups whose journals were read to their ends when all were read last.
    pub(crate) read_to_end: HashSet<GroupId>,
    /// What journals said about commits of ours.
    pub(crate) outcomes: HashMap<GroupId, CommitOutcome>,
    pub(crate) ciphersuites: Vec<u16>,
    pub(crate) requests: RequestPolicy,
    /// Why the wallet could not be filled when it was last tried in the background.
    pub(crate) filling_failure: Option<IssuerError>,
    /// Why views did not agree when they were last compared in the background.
    pub(crate) disagreement: Option<Error>,
    /// Changes with what other processes write to the database.
    data_version: i64,
    home: Home,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client(..)")
    }
}

/// A kept request, as it would be sent.
#[derive(Debug)]
pub struct PendingRequest {
    /// What it asks for.
    pub operation: Operation,
    /// The signed request.
    pub request: Vec<u8>,
    /// The tokens beside it.
    pub tokens: Vec<Vec<u8>>,
}

impl Client {
    /// Makes a client in a home directory: keys and tokens. On a home that has one: changes the
    /// addresses and the account token, and finishes what was cut off.
    ///
    /// # Errors
    /// [`UsageError::InvalidAccountToken`]; [`Error::Issuer`]; [`Error::Local`].
    pub async fn init(
        home: &Path,
        endpoints: &Endpoints,
        account_token: &str,
        options: Options,
    ) -> Result<Self, Error> {
        let account_token = account_token.trim();
        if account_token.is_empty() || !account_token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UsageError::InvalidAccountToken.into());
        }
        let home = Home::at(home, options.lock_patience)?;
        let _held = home.hold().await?;
        let db = database::open(&home.database()?)?;
        Profile::write(&db, endpoints, account_token)?;
        reporting::start_anew(&db)?;
        let mut client = Self::assemble(home, db, options)?;
        client.set_up_wallet().await?;
        client.refresh_reporting().await?;
        Ok(client)
    }

    /// Opens the client in a home directory.
    ///
    /// # Errors
    /// [`UsageError::NotInitialised`], [`LocalError::Busy`], [`Error::Local`].
    pub async fn open(home: &Path, options: Options) -> Result<Self, Error> {
        if !home.is_dir() {
            return Err(UsageError::NotInitialised.into());
        }
        let home = Home::at(home, options.lock_patience)?;
        let _held = home.hold().await?;
        let db = database::open(&home.database()?)?;
        Self::assemble(home, db, options)
    }

    fn assemble(home: Home, db: Connection, options: Options) -> Result<Self, Error> {
        let profile = Profile::read(&db)?;
        wallet::discard_doubtful(&db)?;
        let mut transport = Transport::new(
            profile.endpoints.clone(),
            profile.ohttp_key_config.clone(),
            ServiceTime::new(options.clock, profile.clock_offset_ms),
            Budget::new(options.patience, options.progress),
            profile.views.clone(),
            options.pace,
        )?;
        transport.answer_by(options.service);
        let mut client = Self {
            db,
            profile,
            transport,
            front: None,
            read_to_end: HashSet::new(),
            outcomes: HashMap::new(),
            ciphersuites: options.ciphersuites,
            requests: options.requests,
            filling_failure: None,
            disagreement: None,
            data_version: 0,
            home,
        };
        client.data_version = client.read_data_version()?;
        copies::check(client.home.directory(), &mut client.db)?;
        client.find_lost_state()?;
        Ok(client)
    }

    /// Catches up: finishes what was under way, reads the journals of all groups (waiting up to
    /// `wait_ms` for something if there is nothing, 4 seconds at most), and does what follows from
    /// it.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and whatever the requests meet.
    pub async fn sync(&mut self, wait_ms: u32) -> Result<(), Error> {
        let held = self.hold().await?;
        self.refresh_reporting().await?;
        self.resume().await?;
        if wait_ms == 0 {
            self.take_all_in().await?;
            return self.settle().await;
        }
        // Others may use the home while this one waits.
        drop(held);
        self.wait_for_news(wait_ms).await?;
        let _held = self.hold().await?;
        self.take_all_in().await?;
        self.settle().await
    }

    /// Reads journals and follows invitations, and does nothing else: kept requests stay kept. For
    /// tests.
    ///
    /// # Errors
    /// As [`Client::sync`].
    pub async fn take_in(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.take_all_in().await
    }

    async fn take_all_in(&mut self) -> Result<(), Error> {
        self.read_all().await?;
        self.follow_invitations().await
    }

    /// Catches up until there is an event or `wait_ms` have passed, and returns the events that
    /// have not been acknowledged.
    ///
    /// # Errors
    /// As [`Client::sync`].
    pub async fn receive(&mut self, wait_ms: u32) -> Result<Vec<StoredEvent>, Error> {
        let mut whole = std::pin::pin!(tokio::time::sleep(Duration::from_millis(wait_ms.into())));
        self.sync(0).await?;
        while self.events()?.is_empty() {
            let is_over = |cx: &mut std::task::Context<'_>| {
                std::task::Poll::Ready(whole.as_mut().poll(cx).is_ready())
            };
            // A client without groups waits for nobody: the timer would never be looked at.
            if wait_ms == 0 || std::future::poll_fn(is_over).await {
                break;
            }
            self.sync(wait_ms).await?;
        }
        self.events()
    }

    /// Waits for other processes to leave the home directory and keeps them out while the answer is
    /// there. Every call of this type does so by itself.
    ///
    /// # Errors
    /// [`LocalError::Busy`]; [`UsageError::NotInitialised`] if another process has deleted the
    /// client.
    pub async fn hold(&mut self) -> Result<Held, Error> {
        let held = self.home.hold().await?;
        if held.is_first() {
            self.home.check()?;
            self.transport.budget().begin();
            let version = self.read_data_version()?;
            if version != self.data_version {
                self.data_version = version;
                self.profile = Profile::read(&self.db)?;
                self.transport.follow(
                    &self.profile.endpoints,
                    self.profile.ohttp_key_config.as_deref(),
                    self.profile.clock_offset_ms,
                    &self.profile.views,
                );
            }
        }
        Ok(held)
    }

    /// Changes with every transaction of another connection than this client's.
    pub(crate) fn read_data_version(&self) -> Result<i64, Error> {
        Ok(self
            .db
            .pragma_query_value(None, "data_version", |row| row.get(0))?)
    }

    /// Runs `work` in one transaction: all of its effects or none.
    pub(crate) fn transact<T>(
        &mut self,
        work: impl FnOnce(&Connection, &Profile) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let transaction = database::begin(&mut self.db)?;
        let done = work(&transaction, &self.profile)?;
        transaction.commit()?;
        Ok(done)
    }

    /// Brings requests to their end whose answer this client does not know.
    async fn resume(&mut self) -> Result<(), Error> {
        let waiting = {
            let mut statement = self
                .db
                .prepare("SELECT group_id, operation FROM pending_requests")?;
            let rows =
                statement.query_map((), |row| Ok((GroupId(row.get(0)?), row.get::<_, u16>(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        for (group, operation) in waiting {
            let finished = if operation == Operation::CreateGroup.number() {
                self.submit_creation(&group).await
            } else if operation == Operation::ExternalJoin.number() {
                self.submit_entry(&group).await.map(|_| ())
            } else {
                self.submit_commit(&group).await.map(|_| ())
            };
            // It stays kept. Whether the service answers at all shows in what comes next.
            if matches!(finished, Err(Error::Unreachable(_))) {
                break;
            }
            // Refused after all: there is nobody left to tell, and the state is as before. Nor does
            // an empty wallet stop what comes after this, its filling included.
            refusals_can_wait(finished)?;
        }
        Ok(())
    }

    /// What follows from what was taken in: recovery keys, leaves whose key somebody else knows
    /// or knew, new KeyPackages. What is refused is tried again next time.
    async fn settle(&mut self) -> Result<(), Error> {
        for group in Group::all(&self.db)? {
            match self.settle_group(&group).await {
                // It has answered meanwhile: what it holds back of one group holds up no other one.
                Err(Error::Unreachable(_)) if !self.transport.budget().left().is_zero() => {}
                Err(Error::Unreachable(_)) => return Ok(()),
                other => other?,
            }
        }
        for group in self.upgrading()? {
            refusals_can_wait(self.go_on_upgrading(&group).await)?;
        }
        self.plan_claims()?;
        self.plan_stock()?;
        refusals_can_wait(self.act().await)?;
        refusals_can_wait(self.check_inbox_in_time().await)?;
        refusals_can_wait(self.replenish_key_packages().await)?;
        refusals_can_wait(self.settle_tokens().await)?;
        refusals_can_wait(self.go_on_removing().await)?;
        refusals_can_wait(self.settle_devices().await)?;
        refusals_can_wait(self.top_up().await)?;
        self.compare_views().await
    }

    async fn settle_group(&mut self, group: &Group) -> Result<(), Error> {
        if group.status == Status::Lost {
            refusals_can_wait(self.try_rejoin(&group.id).await)?;
        }
        if group.status != Status::Active {
            return Ok(());
        }
        refusals_can_wait(self.go_on_leaving(&group.id).await)?;
        refusals_can_wait(self.cover(&group.id).await)?;
        refusals_can_wait(self.keep_up(&group.id).await)?;
        refusals_can_wait(self.carry_out_decisions(&group.id).await)?;
        let group = Group::read(&self.db, &group.id)?;
        if group.status != Status::Active {
            return Ok(());
        }
        if !group.recovery_set {
            refusals_can_wait(self.set_leaf_extras(&group.id).await)?;
        }
        refusals_can_wait(self.settle_outbox(&group.id).await)?;
        self.plan_rows(&group.id)?;
        let waits = groups::heard::is_waiting(&self.db, &group.id)?;
        if !waits {
            self.renew_in_time(&group.id)?;
        }
        if group.update_due && !waits {
            refusals_can_wait(self.update_leaf(&group.id).await)?;
        }
        Ok(())
    }

    /// Forgets everything.
    pub(crate) fn wipe(self) -> Result<(), Error> {
        let Self { db, home, .. } = self;
        drop(db);
        home.wipe()
    }

    /// Tokens that can be spent.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn tokens(&self) -> Result<usize, Error> {
        self.spendable()
    }

    /// Takes tokens out of the wallet, for requests that are made by hand.
    ///
    /// # Errors
    /// [`IssuerError::WalletEmpty`].
    pub async fn withdraw_tokens(&mut self, count: usize) -> Result<Vec<Vec<u8>>, Error> {
        let _held = self.hold().await?;
        self.take_tokens(count)
    }

    /// The way to the delivery service, for requests that are made by hand.
    pub fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// Signs a request by hand as the own leaf of a group, at the service's time.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn sign_as_member(
        &self,
        group: &str,
        operation: Operation,
        body: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let group = Group::by_name(&self.db, group)?;
        let mls_group = groups::load_mls(&self.db, &group.id)?;
        let leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
        let signer = leaf::signer(&self.db, leaf.signature_key().as_slice())?;
        let leaf_index = protocol::ids::LeafIndex(mls_group.own_leaf_index().u32());
        let sender = protocol::request::Sender::Leaf(leaf_index);
        let now = self.transport.time.now_unix_ms();
        Ok(protocol::Wire::encode(&sign(
            operation, now, &sender, body, &signer.0,
        )?))
    }

    /// The kept request of a group, if one waits for its answer.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn pending_request(&self, group: &str) -> Result<Option<PendingRequest>, Error> {
        let group = Group::by_name(&self.db, group)?;
        Ok(
            Pending::read(&self.db, &group.id)?.map(|pending| PendingRequest {
                operation: pending.envelope.operation,
                request: pending.envelope.request.to_vec(),
                tokens: pending.envelope.tokens,
            }),
        )
    }
}

/// What one group, or one of the things that a client sees to by itself, meets must not keep it
/// from the others: a refusal, and what others have sent or answered.
pub(crate) fn refusals_can_wait(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(
            Error::Refused(_)
            | Error::Usage(_)
            | Error::Issuer(_)
            | Error::Peer(_)
            | Error::Protocol(_),
        ) => Ok(()),
        other => other,
    }
}

/// As [`refusals_can_wait`], for what follows from something that is done: the next
/// [`Client::sync`] sees to it.
pub(crate) fn all_can_wait(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(Error::Unreachable(_)) => Ok(()),
        other => refusals_can_wait(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_send<T: Send>(_: T) {}

    /// Never called: that it compiles is the test.
    #[allow(dead_code)]
    fn calls_can_be_spawned(client: &'static mut Client) {
        assert_send(async move {
            client.sync(0).await?;
            client.create_group("a").await?;
            client.connect("a").await?;
            client.accept_request("1").await?;
            client.add_to_group("a", &["b"]).await?;
            client.remove_from_group("a", &["b"]).await?;
            client.send_message("a", "b").await?;
            client.receive(0).await.map(|_| ())
        });
    }
}
