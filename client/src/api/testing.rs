//! For tests of the service: requests that are made by hand, and commits that are kept.

use protocol::operation::Operation;

use crate::api::{Client, borrowed, call, in_group, owned};
use crate::error::Error;
#[cfg(doc)]
use crate::error::{IssuerError, UsageError};
use crate::flows::by_hand;
use crate::flows::view::{self, GroupAccess};
use crate::ids::GroupRef;
use crate::mls::content::Content;
use crate::options::PendingRequest;
use crate::outcomes::CommitOutcome;
use crate::store::Group;

impl Client {
    /// Posts any bytes as a request.
    ///
    /// # Errors
    /// [`Error::Refused`] with the service's problem; [`Error::Unreachable`] when the call's
    /// patience has ended.
    pub async fn post(
        &self,
        operation: Operation,
        request: &[u8],
        tokens: &[Vec<u8>],
    ) -> Result<Vec<u8>, Error> {
        let (request, tokens) = (request.to_vec(), tokens.to_vec());
        call!(self, |engine| {
            engine.transport.post(operation, &request, &tokens).await
        })
    }

    /// Says any bytes as a message for people: what a liar says.
    ///
    /// # Errors
    /// As [`Client::send_message`].
    pub async fn say_by_hand(
        &self,
        group: impl Into<GroupRef>,
        message: &[u8],
    ) -> Result<(), Error> {
        let content = Content::Message(message.to_vec().into());
        in_group!(self, group, |engine, group| {
            let id = Group::usable(&engine.db, &group)?.id;
            let _held = engine.hold().await?;
            engine.send_content(&id, &content).await
        })
    }

    /// Signs a request by hand as the own leaf of a group, at the service's time.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn sign_as_member(
        &self,
        group: impl Into<GroupRef>,
        operation: Operation,
        body: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.read_group(group, |db, profile, group| {
            let now_ms = self.time(profile).now_unix_ms();
            by_hand::sign_as_member(db, now_ms, group, operation, body)
        })
    }

    /// Reads journals and follows invitations, and does nothing else: kept requests stay kept. For
    /// tests.
    ///
    /// # Errors
    /// As [`Client::sync`].
    pub async fn take_in(&self) -> Result<(), Error> {
        call!(self, |engine| engine.take_in().await)
    }

    /// Takes tokens out of the wallet, for requests that are made by hand.
    ///
    /// # Errors
    /// [`IssuerError::WalletEmpty`].
    pub async fn withdraw_tokens(&self, count: usize) -> Result<Vec<Vec<u8>>, Error> {
        call!(self, |engine| engine.withdraw_tokens(count).await)
    }

    /// The kept request of a group, if one waits for its answer.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn pending_request(
        &self,
        group: impl Into<GroupRef>,
    ) -> Result<Option<PendingRequest>, Error> {
        self.read_group(group, |db, _, group| by_hand::pending_request(db, group))
    }

    /// Stages and keeps an Add without sending it: for tests of races and lost answers. The next
    /// [`Client::sync`] or [`Client::submit`] sends it. Does not ask whether somebody is banned.
    ///
    /// # Errors
    /// As [`Client::add_to_group`].
    pub async fn stage_add(&self, group: impl Into<GroupRef>, names: &[&str]) -> Result<(), Error> {
        let names = owned(names);
        in_group!(self, group, |engine, group| engine
            .stage_add(&group, &borrowed(&names))
            .await)
    }

    /// As [`Client::stage_add`], for a removal.
    ///
    /// # Errors
    /// As [`Client::remove_from_group`].
    pub async fn stage_remove(
        &self,
        group: impl Into<GroupRef>,
        names: &[&str],
    ) -> Result<(), Error> {
        let names = owned(names);
        in_group!(self, group, |engine, group| engine
            .stage_remove(&group, &borrowed(&names)))
    }

    /// Sends what was staged in a group; does not stage it again if another commit was first.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`], or as the staged operation.
    pub async fn submit(&self, group: impl Into<GroupRef>) -> Result<CommitOutcome, Error> {
        in_group!(self, group, |engine, group| engine.submit(&group).await)
    }

    /// Id, keys and position in a group, for requests that are made by hand.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn group_access(&self, group: impl Into<GroupRef>) -> Result<GroupAccess, Error> {
        self.read_group(group, |db, _, group| view::group_access(db, group))
    }
}
