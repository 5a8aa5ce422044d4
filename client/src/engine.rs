//! What a client knows and does: its database, its way to the service, and every call, one at a
//! time. A driver owns it ([`crate::driver`]); the handle [`crate::Client`] asks the driver.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use protocol::ids::GroupId;
use protocol::operation::Operation;
use rusqlite::{Connection, OptionalExtension as _};

use crate::clock::ServiceTime;
use crate::error::{Error, IssuerError, LocalError, UsageError};
use crate::groups::commit::CommitOutcome;
use crate::groups::{self, Group, Status};
use crate::home::{Held, Home};
use crate::journal::news::{Promised, Watch};
use crate::profile::{Endpoints, Profile};
use crate::reporting::{self, RequestPolicy};
use crate::request::{Pending, sign};
use crate::transport::{Budget, Transport};
use crate::{Options, PendingRequest, copies, database, leaf, wallet};

/// One device of one user.
pub(crate) struct Engine {
    pub(crate) db: Connection,
    pub(crate) profile: Profile,
    pub(crate) transport: Transport,
    /// The group that was last written in or read from: its journal is waited at.
    pub(crate) front: Option<GroupId>,
    /// Groups whose journals were read to their ends when all were read last.
    pub(crate) read_to_end: HashSet<GroupId>,
    /// The end at which the service has said last that there is news.
    pub(crate) promised: Promised,
    /// What journals said about commits of ours.
    pub(crate) outcomes: HashMap<GroupId, CommitOutcome>,
    pub(crate) ciphersuites: Vec<u16>,
    pub(crate) requests: RequestPolicy,
    /// Why the wallet could not be filled when it was last tried in the background.
    pub(crate) filling_failure: Option<IssuerError>,
    /// Why views did not agree when they were last compared in the background.
    pub(crate) disagreement: Option<Arc<Error>>,
    /// Changes with what other processes write to the database.
    data_version: i64,
    pub(crate) home: Home,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine(..)")
    }
}

impl Engine {
    /// Makes a client in a home directory: keys and tokens. On a home that has one: changes the
    /// addresses and the account token, and finishes what was cut off.
    ///
    /// # Errors
    /// [`UsageError::InvalidAccountToken`]; [`Error::Issuer`]; [`Error::Local`].
    pub(crate) async fn init(
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
    pub(crate) async fn open(home: &Path, options: Options) -> Result<Self, Error> {
        if !home.is_dir() {
            return Err(UsageError::NotInitialised.into());
        }
        let home = Home::at(home, options.lock_patience)?;
        let _held = home.hold().await?;
        let db = database::open(&home.database()?)?;
        Self::assemble(home, db, options)
    }

    pub(crate) fn assemble(home: Home, db: Connection, options: Options) -> Result<Self, Error> {
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
            promised: Promised::default(),
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

    /// Catches up: finishes what was under way, reads the journals of all groups, and does what
    /// follows from it.
    pub(crate) async fn sync(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.prepare_to_read().await?;
        self.take_all_in().await?;
        self.settle().await
    }

    /// The first half of [`Engine::sync`], with a wait for news behind it. Others may use home and
    /// engine meanwhile.
    pub(crate) async fn begin_sync(&mut self, wait_ms: u32) -> Result<Watch, Error> {
        let _held = self.hold().await?;
        self.prepare_to_read().await?;
        self.watch(wait_ms)
    }

    /// The second half.
    pub(crate) async fn finish_sync(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.take_all_in().await?;
        self.settle().await
    }

    async fn prepare_to_read(&mut self) -> Result<(), Error> {
        self.refresh_reporting().await?;
        self.resume().await
    }

    /// Reads journals and follows invitations, and does nothing else: kept requests stay kept.
    #[cfg(feature = "test-support")]
    pub(crate) async fn take_in(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.take_all_in().await
    }

    async fn take_all_in(&mut self) -> Result<(), Error> {
        self.read_all().await?;
        self.follow_invitations().await
    }

    /// Waits for other processes to leave the home directory and keeps them out while the answer is
    /// there. Every call of this type does so by itself.
    ///
    /// # Errors
    /// [`LocalError::Busy`]; [`UsageError::NotInitialised`] if another process has deleted the
    /// client.
    pub(crate) async fn hold(&mut self) -> Result<Held, Error> {
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
            let mut statement = self.db.prepare("SELECT group_id FROM pending_requests")?;
            let rows = statement.query_map((), |row| Ok(GroupId(row.get(0)?)))?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        for group in waiting {
            // It stays kept. Whether the service answers at all shows in what comes next.
            match self.resume_group(&group).await {
                Err(Error::Unreachable(_)) => break,
                // Refused after all: there is nobody left to tell, and the state is as before. Nor
                // does an empty wallet stop what comes after this, its filling included.
                other => refusals_can_wait(other)?,
            }
        }
        Ok(())
    }

    /// The same in one group.
    pub(crate) async fn resume_group(&mut self, group: &GroupId) -> Result<(), Error> {
        let operation: Option<u16> = self
            .db
            .prepare_cached("SELECT operation FROM pending_requests WHERE group_id = ?")?
            .query_row([group.0], |row| row.get(0))
            .optional()?;
        let Some(operation) = operation else {
            return Ok(());
        };
        if operation == Operation::CreateGroup.number() {
            self.submit_creation(group).await
        } else if operation == Operation::ExternalJoin.number() {
            self.submit_entry(group).await.map(|_| ())
        } else {
            self.submit_commit(group).await.map(|_| ())
        }
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
        all_can_wait(self.send_all_queued().await)?;
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
        self.settle_outbox(&group.id)?;
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

    /// Removes what is kept here.
    pub(crate) fn wipe(self) -> Result<(), Error> {
        let Self { db, home, .. } = self;
        drop(db);
        home.wipe()
    }

    /// Takes tokens out of the wallet, for requests that are made by hand.
    ///
    /// # Errors
    /// [`IssuerError::WalletEmpty`].
    pub(crate) async fn withdraw_tokens(&mut self, count: usize) -> Result<Vec<Vec<u8>>, Error> {
        let _held = self.hold().await?;
        self.take_tokens(count)
    }
}

#[cfg(feature = "test-support")]
/// Signs a request by hand as the own leaf of a group, at the service's time.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn sign_as_member(
    db: &Connection,
    now_ms: u64,
    group: &str,
    operation: Operation,
    body: &[u8],
) -> Result<Vec<u8>, Error> {
    let group = Group::by_name(db, group)?;
    let mls_group = groups::load_mls(db, &group.id)?;
    let leaf = mls_group.own_leaf_node().ok_or(LocalError::Damaged)?;
    let signer = leaf::signer(db, leaf.signature_key().as_slice())?;
    let leaf_index = protocol::ids::LeafIndex(mls_group.own_leaf_index().u32());
    let sender = protocol::request::Sender::Leaf(leaf_index);
    Ok(protocol::Wire::encode(&sign(
        operation, now_ms, &sender, body, &signer.0,
    )?))
}

#[cfg(feature = "test-support")]
/// The kept request of a group, if one waits for its answer.
///
/// # Errors
/// [`UsageError::UnknownGroup`].
pub(crate) fn pending_request(
    db: &Connection,
    group: &str,
) -> Result<Option<PendingRequest>, Error> {
    let group = Group::by_name(db, group)?;
    Ok(Pending::read(db, &group.id)?.map(|pending| PendingRequest {
        operation: pending.envelope.operation,
        request: pending.envelope.request.to_vec(),
        tokens: pending.envelope.tokens,
    }))
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
