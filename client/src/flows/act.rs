//! When this client does what it does by itself, where it concerns several groups: each at a time
//! of its own, so that what it does together is not known to be one client's by its time. What the
//! user does is never put off.

use protocol::ids::GroupId;

use crate::engine::Engine;
use crate::error::{Error, Fault, LocalError, UsageError, refusals_can_wait};
use crate::store::acts::{Act, done, due, put_off};
use crate::store::{Group, Status, push};

/// An order that is nobody's. One that is the same each time would tell a client, or its devices,
/// apart.
pub(crate) fn in_any_order<T>(some: impl IntoIterator<Item = T>) -> Result<Vec<T>, Error> {
    let mut drawn = some
        .into_iter()
        .map(|one| Ok((crypto::random::<16>()?, one)))
        .collect::<Result<Vec<_>, Error>>()?;
    drawn.sort_by_key(|(random, _)| *random);
    Ok(drawn.into_iter().map(|(_, one)| one).collect())
}

impl Engine {
    /// In a slot for what follows from reading: whether something was asked for in it. Nothing else
    /// is then, in no other group and of no other contact: one moment would show that one client
    /// has both.
    pub(crate) fn has_acted(&self) -> bool {
        let before = self.between_slots.settling;
        before.is_some_and(|before| self.transport.posted() > before)
    }

    /// Does what is due; what is new gets its time.
    pub(crate) async fn act(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        push::plan_upkeep(&self.db, now_ms)?;
        for (act, about) in in_any_order(due(&mut self.db, now_ms)?)? {
            if self.has_acted() {
                break;
            }
            // A leaf that is to get a handle waits until there is one.
            let (act, about) = if act == Act::Extras && push::is_out_of_stock(&self.db, now_ms)? {
                put_off(&self.db, act, &about)?;
                (Act::Handles, Vec::new())
            } else {
                (act, about)
            };
            let outcome = self.carry_out(act, &about).await;
            // A push sender that is away holds nothing up.
            if let (Act::Handles, Err(error)) = (act, &outcome)
                && error.fault() != Fault::Local
            {
                tracing::warn!(code = error.code(), "push handles were not fetched");
                put_off(&self.db, act, &about)?;
                continue;
            }
            if matches!(outcome, Err(Error::Unreachable(_))) {
                return outcome;
            }
            if act == Act::Pointer && outcome.is_ok() && self.has_pointers_to_tell(&about)? {
                continue;
            }
            // Nothing may be sent there yet: it is done when somebody was heard.
            if matches!(outcome, Err(Error::Usage(UsageError::NobodyHeard(_)))) {
                continue;
            }
            refusals_can_wait(outcome)?;
            done(&self.db, act, &about)?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, act: Act, about: &[u8]) -> Result<(), Error> {
        match act {
            Act::Token => return self.settle_tokens().await,
            Act::Claim => return self.claim_ahead(about).await,
            Act::Stock => return self.fill_stock().await,
            Act::Handle => return self.renew_handle().await,
            Act::Handles => return self.fill_handles().await,
            Act::Greet | Act::Pointer | Act::Rows | Act::OwnRow | Act::Renew | Act::Extras => {}
        }
        let id = GroupId(about.try_into().map_err(|_| LocalError::Damaged)?);
        // In a group that is gone there is nothing left to do.
        let group = Group::find(&self.db, &id)?;
        if group.is_none_or(|group| group.status != Status::Active) {
            return Ok(());
        }
        match act {
            Act::Greet => self.say_hello(&id).await,
            Act::Pointer => self.tell_pointers(&id).await,
            Act::Rows => self.write_rows(&id).await,
            Act::OwnRow => {
                // Whoever has rotated may have written none, or wrong ones: of all that others
                // know.
                let written = self.write_rows(&id).await;
                self.mend_own_row(&id).await?;
                written
            }
            Act::Renew => self.update_leaf(&id).await,
            Act::Extras => self.set_leaf_extras(&id).await,
            Act::Token | Act::Claim | Act::Stock | Act::Handle | Act::Handles => Ok(()),
        }
    }
}
