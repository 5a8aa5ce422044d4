//! The handle: what an application calls. A call goes to the [`driver`](crate::driver), which does
//! one after the other; what is only looked up is read here, so that it never waits.

mod account;
mod attachments;
mod contacts;
mod devices;
mod events;
mod groups;
mod messages;
mod push;
#[cfg(feature = "test-support")]
mod testing;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::backup_key::BackupKey;
use crate::driver::{Driver, Job, Order};
use crate::endpoints::Endpoints;
use crate::engine::Engine;
#[cfg(doc)]
use crate::error::UsageError;
use crate::error::{Error, LocalError};
use crate::home::Held;
use crate::ids::GroupRef;
use crate::net::clock::{ServiceTime, SharedClock};
use crate::options::Options;
use crate::store::database;
use crate::store::profile::Profile;

pub use events::Events;

/// One device of one user: a handle, which is cheap to clone and can be used from anywhere, in any
/// executor.
///
/// All calls through the handles of one client are done one after the other, in the order in which
/// they were made. A future that is dropped before its call was begun takes the call back; one that
/// is dropped later loses the answer, and the call is done. When the last handle is dropped, what
/// is under way ends where it stands, as with the end of the process: nothing is lost, and the next
/// [`Client::open`] goes on with it. [`Client::close`] waits instead.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    // Dropped first: it ends the thread, which has the database open too.
    driver: Driver,
    /// `None` once the client has ended.
    desk: Mutex<Option<Connection>>,
    clock: SharedClock,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client(..)")
    }
}

/// Has the driver evaluate an expression in which `$engine` is the engine.
macro_rules! call {
    ($client:expr, |$engine:ident| $work:expr) => {
        $client
            .call(move |$engine| Box::pin(async move { $work }))
            .await
    };
}
pub(crate) use call;

/// As [`call`], with the group that is meant.
macro_rules! in_group {
    ($client:expr, $group:expr, |$engine:ident, $meant:ident| $work:expr) => {{
        let $meant: GroupRef = $group.into();
        call!($client, |$engine| $work)
    }};
}
pub(crate) use in_group;

type Work<'e, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + 'e>>;

impl Client {
    /// Makes a client in a home directory: keys and tokens. On a home that has one: changes the
    /// addresses and the account token, and finishes what was cut off.
    ///
    /// # Errors
    /// [`UsageError::InvalidAccountToken`];
    /// [`Error::Issuer`]; [`Error::Local`].
    pub async fn init(
        home: &Path,
        endpoints: &Endpoints,
        account_token: &str,
        options: Options,
    ) -> Result<Self, Error> {
        let (home, endpoints) = (home.to_owned(), endpoints.clone());
        let account_token = zeroize::Zeroizing::new(account_token.to_owned());
        Self::start(options, async move |options| {
            Engine::init(&home, &endpoints, &account_token, options).await
        })
        .await
    }

    /// Opens the client in a home directory.
    ///
    /// # Errors
    /// [`UsageError::NotInitialised`], [`LocalError::Busy`],
    /// [`Error::Local`].
    pub async fn open(home: &Path, options: Options) -> Result<Self, Error> {
        let home = home.to_owned();
        Self::start(options, async move |options| {
            Engine::open(&home, options).await
        })
        .await
    }

    /// Makes a client out of a backup, in an empty home directory: with a new inbox, new
    /// KeyPackages and a new leaf in each group. The client that the backup was made of, if it is
    /// still there, cannot follow its groups after that.
    ///
    /// # Errors
    /// Of [`UsageError`]: `NotABackup`, `WrongBackupKey`, `NewerBackup`;
    /// `AlreadyInUse` for a home directory that has a client; `PartlyRestored` names the groups
    /// that it could not come back into: the client is there all the same, and can be opened.
    pub async fn restore(
        home: &Path,
        bytes: &[u8],
        key: &BackupKey,
        options: Options,
    ) -> Result<Self, Error> {
        let (home, bytes, key) = (home.to_owned(), bytes.to_vec(), key.copy());
        Self::start(options, async move |options| {
            Engine::restore(&home, &bytes, &key, options).await
        })
        .await
    }

    async fn start(
        options: Options,
        make: impl AsyncFnOnce(Options) -> Result<Engine, Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let clock = options.clock.clone();
        let (driver, desk) = Driver::start(move || async move {
            let engine = make(options).await?;
            let desk = database::open_beside(&engine.home.database()?)?;
            Ok((engine, desk))
        })
        .await?;
        let shared = Shared {
            driver,
            desk: Mutex::new(Some(desk)),
            clock,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Does with the engine what no other call does meanwhile.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl for<'e> FnOnce(&'e mut Engine) -> Work<'e, T> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |engine| {
            Box::pin(async move {
                if !reply.is_closed() {
                    let done = work(engine).await;
                    // Before anybody is told that something is gone. Where it fails the driver
                    // tries it again, and tells that.
                    drop(database::scour(&engine.db));
                    // Whoever does not wait any more has lost the answer.
                    drop(reply.send(done));
                }
            })
        });
        self.order(Order::Do(job))?;
        answer.await.map_err(|_| LocalError::Stopped)?
    }

    /// Has the driver see to what was written. It is there: a client that has ended since does so
    /// after the next start.
    fn look_again(&self) {
        drop(self.order(Order::Look));
    }

    fn order(&self, order: Order) -> Result<(), Error> {
        let orders = &self.shared.driver.orders;
        Ok(orders.send(order).map_err(|_| LocalError::Stopped)?)
    }

    /// Looks something up, with the profile and the day.
    pub(crate) fn read<T>(
        &self,
        look: impl FnOnce(&Connection, &Profile, u32) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.at_desk(|desk| {
            let profile = Profile::read(desk)?;
            look(desk, &profile, self.time(&profile).today())
        })
    }

    /// Looks something up in a group.
    fn read_group<T>(
        &self,
        group: impl Into<GroupRef>,
        look: impl FnOnce(&Connection, &Profile, &GroupRef) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let group = group.into();
        self.read(|db, profile, _| look(db, profile, &group))
    }

    /// The time at the service.
    fn time(&self, profile: &Profile) -> ServiceTime {
        ServiceTime::new(self.shared.clock.clone(), profile.clock_offset_ms)
    }

    fn at_desk<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut desk = self
            .shared
            .desk
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.shared.driver.orders.is_closed() {
            return Err(LocalError::Stopped.into());
        }
        work(desk.as_mut().ok_or(LocalError::Stopped)?)
    }

    fn leave_desk(&self) {
        let desk = self.shared.desk.lock();
        *desk.unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Catches up: finishes what was under way, reads the journals of all groups (waiting up to
    /// `wait_ms` for something if there is nothing, 4 seconds at most), and does what follows from
    /// it. While it waits, other calls are done. Whoever looks at [`Client::event_stream`] need not
    /// call it, and is not hidden by slots where it does: the relay sees how many groups are read
    /// in one go, the service which ones, and both see when.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and whatever the requests meet.
    pub async fn sync(&self, wait_ms: u32) -> Result<(), Error> {
        if wait_ms == 0 {
            return call!(self, |engine| engine.sync().await);
        }
        let watch = call!(self, |engine| {
            let watch = engine.begin_sync(wait_ms).await?;
            Ok(Beside(crate::runtime::spawn(watch.wait())))
        })?;
        watch.end().await?;
        call!(self, |engine| engine.finish_sync().await)
    }

    /// Waits for other processes to leave the home directory and keeps them out while the answer is
    /// there. Every call does so by itself.
    ///
    /// # Errors
    /// [`LocalError::Busy`]; [`UsageError::NotInitialised`] if
    /// another process has deleted the client.
    pub async fn hold(&self) -> Result<Held, Error> {
        call!(self, |engine| engine.hold().await)
    }

    /// Ends this client when all calls that were made before have been done; what is called later
    /// fails with [`LocalError::Stopped`]. Queued messages are sent after the next
    /// [`Client::open`].
    pub async fn close(self) {
        self.shared.driver.interest.end_all();
        self.leave_desk();
        let (reply, done) = oneshot::channel();
        if self.order(Order::Close(reply)).is_ok() {
            // Whoever has stopped it has ended it too.
            let _ = done.await;
        }
        #[cfg(target_arch = "wasm32")]
        crate::home::all_closed().await;
    }

    /// Leaves every group, takes back every connection and request, deletes handle, inbox and
    /// KeyPackages, and forgets everything. The user's other devices are removed first. Where
    /// others are left in a group, the last trace of this user goes with their next commit.
    ///
    /// # Errors
    /// Whatever the requests meet; it can be called again then.
    pub async fn delete_account(&self) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        self.order(Order::Delete(reply))?;
        done.await.map_err(|_| LocalError::Stopped)??;
        self.leave_desk();
        #[cfg(target_arch = "wasm32")]
        crate::home::all_closed().await;
        Ok(())
    }
}

/// What the driver's thread does beside calls; it ends with this.
struct Beside<T>(crate::runtime::JoinHandle<Result<T, Error>>);

impl<T> Beside<T> {
    async fn end(mut self) -> Result<T, Error> {
        (&mut self.0).await.map_err(|_| LocalError::Stopped)?
    }
}

impl<T> Drop for Beside<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
