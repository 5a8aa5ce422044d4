//! Making and opening a client in a home directory.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use rusqlite::Connection;

use crate::endpoints::Endpoints;
use crate::engine::following::Feed;
use crate::engine::{BetweenSlots, Engine, Promised};
use crate::error::{Error, UsageError};
#[cfg(not(target_arch = "wasm32"))]
use crate::flows::copies;
use crate::home::Home;
use crate::leaf;
use crate::net::clock::ServiceTime;
use crate::net::streams::Streams;
use crate::net::transport::Transport;
use crate::net::transport::patience::Budget;
use crate::options::Options;
use crate::purse::SharedPurse;
use crate::store::uploads::InUse;
use crate::store::{Profile, database, feed, profile, reporting, tokens};

impl Engine {
    /// Makes a client in a home directory: keys and tokens. On a home that has one: changes the
    /// addresses and the account token, and finishes what was cut off.
    ///
    /// # Errors
    /// [`UsageError::InvalidAccountToken`], [`UsageError::InvalidStack`],
    /// [`UsageError::SameOperator`]; [`Error::Issuer`]; [`Error::Local`].
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
        endpoints.check()?;
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
        #[cfg(not(target_arch = "wasm32"))]
        if !home.is_dir() {
            return Err(UsageError::NotInitialised.into());
        }
        let home = Home::at(home, options.lock_patience)?;
        let _held = home.hold().await?;
        #[cfg(target_arch = "wasm32")]
        home.check()?;
        let db = database::open(&home.database()?)?;
        Self::assemble(home, db, options)
    }

    pub(crate) fn assemble(home: Home, db: Connection, options: Options) -> Result<Self, Error> {
        let takes = options.ciphersuites.contains(&leaf::CIPHERSUITE.into());
        profile::set_takes_post_quantum(&db, takes)?;
        let profile = Profile::read(&db)?;
        let slots = options.slots();
        tokens::discard_doubtful(&db)?;
        let mut transport = Transport::new(
            profile.endpoints.clone(),
            profile.ohttp_key_config.clone(),
            ServiceTime::new(options.clock, profile.clock_offset_ms),
            Budget::new(options.patience, options.progress),
            profile.views.clone(),
            options.pace,
        )?;
        transport.answer_by(options.service);
        let a_month = options.feed_bytes.unwrap_or(0);
        let purse = feed::purse(&db, a_month, transport.time.now_unix_ms())?;
        let mut client = Self {
            db,
            profile,
            transport,
            front: None,
            read_to_end: HashSet::new(),
            asked: HashSet::new(),
            promised: Promised::default(),
            streams: Streams::of(slots.pace()),
            feed: Feed::new(options.feed_bytes, SharedPurse::new(purse)),
            slots,
            bundle: options.bundle,
            between_slots: BetweenSlots::default(),
            uploads: InUse::default(),
            outcomes: HashMap::new(),
            ciphersuites: options.ciphersuites,
            requests: options.requests,
            filling_failure: None,
            disagreement: None,
            loaded: Rc::default(),
            data_version: 0,
            home,
        };
        client.data_version = client.read_data_version()?;
        // In a browser nobody copies a home: pages see no files of others.
        #[cfg(not(target_arch = "wasm32"))]
        copies::check(client.home.directory(), &mut client.db)?;
        client.find_lost_state()?;
        Ok(client)
    }

    /// Removes what is kept here.
    pub(crate) fn wipe(self) -> Result<(), Error> {
        let Self { db, home, .. } = self;
        drop(db);
        home.wipe()
    }
}
