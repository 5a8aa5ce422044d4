//! Inboxes: of the handle, and of a link code. What comes there is from those who are no contacts
//! yet. It is read by a clock of its own, in hours and never because the user has come; an explicit
//! word of the user reads at once, and says to the service when.

use crypto::sign::SignatureKeyPair;
use protocol::group::Accepted;
use protocol::ids::InboxId;
use protocol::inbox::{
    DeleteFromInboxRequest, InboxEntryName, MAX_READ, ReadInboxRequest, ReadInboxResponse,
};
use protocol::operation::Operation;
use protocol::problem::ProblemType;

use crate::engine::Engine;
use crate::error::Error;
use crate::flows::connections;
use crate::store::database::begin;
use crate::store::profile;

/// The inbox is read every so often, on average, at random times.
const INTERVAL_MS: u64 = 3 * 60 * 60 * 1000;
/// So many pages a call reads, whatever a service says that there is more: an inbox holds fewer
/// requests.
const MOST_PAGES: u32 = 100;

impl Engine {
    /// Looks for connection requests now. In the background this happens every few hours; whoever
    /// asks for it tells the service when somebody looks.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and whatever the requests meet.
    pub(crate) async fn check_inbox(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        if self.profile.handle.is_none() {
            return Ok(());
        }
        let owner = SignatureKeyPair::from_seed(&self.profile.inbox_owner.seed());
        self.read_inbox(self.profile.inbox, &owner).await?;
        self.plan_inbox()
    }

    /// Reads the inbox when its time has come.
    pub(crate) async fn check_inbox_in_time(&mut self) -> Result<(), Error> {
        let due_ms: i64 = profile::inbox_due_ms(&self.db)?;
        let now_ms = self.transport.time.now_unix_ms();
        // No draw gives a later one: another clock did.
        let latest_ms = now_ms.saturating_add(INTERVAL_MS.saturating_mul(2));
        match u64::try_from(due_ms).unwrap_or(0) {
            due_ms if due_ms == 0 || due_ms > latest_ms => self.plan_inbox(),
            due_ms if due_ms <= now_ms => self.check_inbox().await,
            _ => Ok(()),
        }
    }

    fn plan_inbox(&mut self) -> Result<(), Error> {
        let random = u64::from(u16::from_be_bytes(crypto::random()?));
        let wait_ms = (INTERVAL_MS / 2).saturating_add(INTERVAL_MS.saturating_mul(random) / 65_535);
        let due_ms = self.transport.time.now_unix_ms().saturating_add(wait_ms);
        profile::set_inbox_due_ms(&self.db, i64::try_from(due_ms).unwrap_or(i64::MAX))
    }

    /// Takes everything out of an inbox: stored first, deleted then.
    pub(crate) async fn read_inbox(
        &mut self,
        inbox: InboxId,
        owner: &SignatureKeyPair,
    ) -> Result<(), Error> {
        let key = || SignatureKeyPair::from_seed(&owner.seed());
        for _ in 0..MOST_PAGES {
            let request = ReadInboxRequest {
                inbox,
                limit: MAX_READ,
            };
            let page: ReadInboxResponse = match self
                .call(Operation::ReadInbox, key(), &request)
                .await
            {
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownInbox => {
                    return Ok(());
                }
                page => page?,
            };
            let mut names = Vec::new();
            for entry in &page.requests {
                self.take_request(entry.encrypted_request.as_slice())?;
                names.push(InboxEntryName {
                    day: entry.day,
                    id: entry.id,
                });
            }
            if names.is_empty() {
                return Ok(());
            }
            let request = DeleteFromInboxRequest {
                inbox,
                entries: names,
            };
            let _: Accepted = self
                .call(Operation::DeleteFromInbox, key(), &request)
                .await?;
            if page.more == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    fn take_request(&mut self, sealed: &[u8]) -> Result<(), Error> {
        let (policy, today) = (self.requests, self.today());
        let transaction = begin(&mut self.db)?;
        let received =
            connections::receive_request(&transaction, &self.profile, sealed, policy, today);
        match received {
            Ok(()) => transaction.commit()?,
            Err(error) => {
                transaction.rollback()?;
                error.of_content()?;
            }
        }
        Ok(())
    }
}
