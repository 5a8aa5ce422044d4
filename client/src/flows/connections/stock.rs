//! Connection groups are made ahead, each with a code for whoever will be asked into it. A group
//! that is made with the request would tell the service by its time into which group the owner of a
//! handle was asked.

use crypto::schedule::JoinCodeSecret;
use protocol::group::GroupKind;
use protocol::ids::{GroupId, Week};

use crate::engine::Engine;
use crate::error::Error;
use crate::flows::invite::MOST_WEEKS;
use crate::leaf::CIPHERSUITE;
use crate::mls::plan::Plan;
use crate::store::acts::{self, Act};
use crate::store::connection_stock::{self, Prepared, ready, used};
use crate::store::{Group, Status};

/// So many groups are there: whoever asks two people one after the other waits for none.
const STOCK: u32 = 2;

impl Engine {
    /// Has groups in stock, made at times that have nothing to do with their use.
    pub(crate) fn plan_stock(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        if self.profile.handle.is_none() {
            return Ok(());
        }
        self.transact(|db, _| {
            let fresh: u32 = connection_stock::fresh(db, now_ms)?;
            match fresh < STOCK {
                true => acts::plan(db, Act::Stock, &[]),
                false => Ok(()),
            }
        })
    }

    /// Makes one group for the stock; before that one goes that is too old, or was not finished.
    pub(crate) async fn fill_stock(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let old: Option<[u8; 16]> = connection_stock::stale(&self.db, now_ms)?;
        if let Some(old) = old.map(GroupId) {
            if Group::find(&self.db, &old)?.is_some_and(|group| group.status == Status::Active) {
                self.commit(&old, |_| Ok(Plan::Delete)).await?;
            }
            self.transact(|db, _| {
                used(db, &old)?;
                Group::delete(db, &old)
            })?;
            if self.has_acted() {
                // It is planned again as long as the stock is short.
                return Ok(());
            }
        }
        self.prepare_group().await.map(drop)
    }

    pub(crate) fn has_stock(&self) -> Result<bool, Error> {
        Ok(ready(&self.db, self.transport.time.now_unix_ms())?.is_some())
    }

    /// A group of the stock; if that is empty, one that is made now. It stays in stock until the
    /// caller has used it.
    pub(crate) async fn connection_group(&mut self) -> Result<Prepared, Error> {
        match ready(&self.db, self.transport.time.now_unix_ms())? {
            Some(prepared) => Ok(prepared),
            None => self.prepare_group().await,
        }
    }

    async fn prepare_group(&mut self) -> Result<Prepared, Error> {
        let secret = crypto::random::<32>()?;
        let leaf = self.new_leaf(CIPHERSUITE).await?;
        let id = self.reserve(&leaf).await?;
        // Before the group is: what is broken off is found again.
        connection_stock::begin(&self.db, &id, &secret)?;
        self.create_reserved(id, GroupKind::Connection, None, CIPHERSUITE, leaf)
            .await?;
        let now_ms = self.transport.time.now_unix_ms();
        let expiry = Week(Week::of(now_ms).0.saturating_add(MOST_WEEKS));
        self.make_code(&id, &secret, expiry).await?;
        connection_stock::made(&self.db, &id, now_ms)?;
        Ok(Prepared {
            group: id,
            code: JoinCodeSecret::new(secret),
        })
    }
}
