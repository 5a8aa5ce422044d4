//! What a client knows and does: its database, its way to the service, and every call, one at a
//! time. A driver owns it ([`crate::driver`]); the handle [`crate::Client`] asks the driver.

pub(crate) mod following;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use openmls::prelude::MlsGroup;
use protocol::ids::{GroupId, Position, SegmentId};
use rusqlite::Connection;

use crate::engine::following::Feed;
use crate::error::{Error, IssuerError};
use crate::home::{Held, Home};
use crate::net::streams::Streams;
use crate::net::transport::Transport;
use crate::outcomes::CommitOutcome;
use crate::slots::{Bundle, Slots};
use crate::store::loaded::Loaded;
use crate::store::reporting::RequestPolicy;
use crate::store::uploads::InUse;
use crate::store::{Profile, database};

/// The end of a journal at which the service has said last that there is news.
pub(crate) type Promised = Arc<Mutex<Option<(SegmentId, Position)>>>;

/// What one slot leaves to the next.
#[derive(Default)]
pub(crate) struct BetweenSlots {
    /// So many requests have had a place among slots.
    pub(crate) counted: u64,
    /// Where reading a group goes on that has more than one page, and in which segment.
    pub(crate) cursors: HashMap<GroupId, (SegmentId, Position)>,
    /// What has come of an entry that comes in pieces.
    pub(crate) pieces: HashMap<GroupId, Pieces>,
    /// Groups of which the last read came to nothing.
    pub(crate) held_up: HashSet<GroupId>,
    /// Groups whose readers' allowance was used up: the next read pays.
    pub(crate) to_pay: HashSet<GroupId>,
    /// Groups with an entry that cannot be judged before the directory is heard, and when that was
    /// accepted.
    pub(crate) undecided: HashMap<GroupId, u64>,
    /// Groups for which it was heard.
    pub(crate) looked_up: HashSet<GroupId>,
    /// When groups were read because the feed had named them, by the clock that nobody sets.
    pub(crate) reacted_ms: HashMap<GroupId, u64>,
    /// In a slot for what follows from reading: so many requests had gone out before it.
    pub(crate) settling: Option<u64>,
}

/// The first pieces of an entry.
pub(crate) struct Pieces {
    pub(crate) of_entry: (SegmentId, Position),
    /// So many have come.
    pub(crate) count: u16,
    pub(crate) bytes: Vec<u8>,
}

/// One device of one user.
pub(crate) struct Engine {
    pub(crate) db: Connection,
    pub(crate) profile: Profile,
    pub(crate) transport: Transport,
    /// The group that was last written in or read from: its journal is waited at.
    pub(crate) front: Option<GroupId>,
    /// Groups whose journals were read to their ends when all were read last.
    pub(crate) read_to_end: HashSet<GroupId>,
    /// Groups for the end of whose journals this process has asked once, and come to it.
    pub(crate) asked: HashSet<GroupId>,
    /// The end at which the service has said last that there is news.
    pub(crate) promised: Promised,
    pub(crate) streams: Streams,
    /// Following the activity feed.
    pub(crate) feed: Feed,
    /// When journals are read while somebody looks.
    pub(crate) slots: Slots,
    pub(crate) bundle: Bundle,
    pub(crate) between_slots: BetweenSlots,
    /// What journals said about commits of ours.
    pub(crate) outcomes: HashMap<GroupId, CommitOutcome>,
    pub(crate) ciphersuites: Vec<u16>,
    pub(crate) requests: RequestPolicy,
    /// Why the wallet could not be filled when it was last tried in the background.
    pub(crate) filling_failure: Option<IssuerError>,
    /// Why views did not agree when they were last compared in the background.
    pub(crate) disagreement: Option<Arc<Error>>,
    /// What was loaded of the MLS library's state.
    pub(crate) loaded: Rc<Loaded>,
    /// Changes with what other processes write to the database.
    pub(crate) data_version: i64,
    pub(crate) home: Home,
    /// Uploads that this process sends.
    pub(crate) uploads: InUse,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine(..)")
    }
}

impl Engine {
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

    /// The MLS library's state of a group, to look at.
    pub(crate) fn mls(&self, id: &GroupId) -> Result<Rc<MlsGroup>, Error> {
        self.loaded.get(&self.db, id)
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
}
