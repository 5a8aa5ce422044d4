//! Connection requests, contacts, reports.

use protocol::reporting::ReportReason;

use crate::api::{Client, call};
use crate::error::Error;
#[cfg(doc)]
use crate::error::{PeerError, UsageError};
use crate::store::connections;
use crate::store::connections::IncomingRequest;
use crate::store::contacts::{self, Contact};
use crate::store::profile::Profile;

impl Client {
    /// Accepts a request and returns the new contact's name.
    ///
    /// # Errors
    /// [`UsageError::UnknownRequest`], [`UsageError::RequestExpired`],
    /// [`UsageError::AlreadyConnected`]; [`PeerError`] when the group is not the requester's.
    pub async fn accept_request(&self, id: &str) -> Result<String, Error> {
        let id = id.to_owned();
        call!(self, |engine| engine.accept_request(&id).await)
    }

    /// Asks the owner of a handle for a connection; again, if it was asked before.
    ///
    /// # Errors
    /// [`UsageError::AlreadyConnected`], [`UsageError::OwnHandle`]; the problem `unknown-handle`;
    /// [`PeerError::HandleRecord`] if the handle is another one's since it was asked.
    pub async fn connect(&self, handle: &str) -> Result<(), Error> {
        let handle = handle.to_owned();
        call!(self, |engine| engine.connect(&handle).await)
    }

    /// As [`Client::connect`], with up to 256 bytes of greeting, which the recipient can report. It
    /// travels with the certificate: without one, there is no greeting.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`UsageError::InvalidGreeting`].
    pub async fn connect_with(&self, handle: &str, greeting: &str) -> Result<(), Error> {
        let handle = handle.to_owned();
        let greeting = greeting.to_owned();
        call!(self, |engine| engine.connect_with(&handle, &greeting).await)
    }

    /// Requests that wait for an answer.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn incoming_requests(&self) -> Result<Vec<IncomingRequest>, Error> {
        self.read(connections::incoming_requests)
    }

    /// Declines a request: it is forgotten, and the requester is told nothing.
    ///
    /// # Errors
    /// [`UsageError::UnknownRequest`].
    pub async fn decline_request(&self, id: &str) -> Result<(), Error> {
        let id = id.to_owned();
        call!(self, |engine| engine.decline_request(&id))
    }

    /// Takes back a request of this user's that nobody has accepted: its group is deleted, so that
    /// it leads nowhere.
    ///
    /// # Errors
    /// [`UsageError::UnknownRequest`]; [`UsageError::AlreadyConnected`] if it was accepted
    /// meanwhile.
    pub async fn cancel_request(&self, handle: &str) -> Result<(), Error> {
        let handle = handle.to_owned();
        call!(self, |engine| engine.cancel_request(&handle).await)
    }

    /// Ends a connection: its group is deleted, both sides forget each other, and the token that
    /// the former contact knows finds nothing any more. The groups that both are in stay.
    ///
    /// # Errors
    /// [`UsageError::UnknownContact`].
    pub async fn disconnect(&self, contact: &str) -> Result<(), Error> {
        let contact = contact.to_owned();
        call!(self, |engine| engine.disconnect(&contact).await)
    }

    /// All contacts by name.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn contacts(&self) -> Result<Vec<Contact>, Error> {
        self.read(|db, _, today| contacts::contacts(db, today))
    }

    /// Calls a contact something else on this user's devices: by that name it is shown, in groups
    /// too. `None`: by its handle. Its handle still finds it.
    ///
    /// # Errors
    /// [`UsageError::UnknownContact`], [`UsageError::InvalidContactName`];
    /// [`UsageError::AlreadyConnected`] if another contact or this user has that name or handle.
    pub async fn rename_contact(&self, contact: &str, name: Option<&str>) -> Result<(), Error> {
        let contact = contact.to_owned();
        let name = name.map(str::to_owned);
        call!(self, |engine| {
            let rename = |db: &rusqlite::Connection, profile: &Profile| {
                contacts::rename(db, profile, &contact, name.as_deref())
            };
            engine.transact(rename)
        })
    }

    /// The safety number with a contact: the same on both sides if and only if neither service gave
    /// them wrong keys. To be compared over another channel.
    ///
    /// # Errors
    /// [`UsageError::UnknownContact`].
    pub fn safety_number(&self, contact: &str) -> Result<String, Error> {
        self.read(|db, profile, _| contacts::safety_number_with(db, profile, contact))
    }

    /// Looks for connection requests now. In the background this happens every few hours; whoever
    /// asks for it tells the service when somebody looks.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and whatever the requests meet.
    pub async fn check_inbox(&self) -> Result<(), Error> {
        call!(self, |engine| engine.check_inbox().await)
    }

    /// Reports a contact, or the sender of a connection request (by name or by the request's id),
    /// to the token issuer: with what they signed for this user, and nothing else. Again: nothing
    /// more happens.
    ///
    /// # Errors
    /// [`UsageError::UnknownContact`]; [`UsageError::NotReportable`] for somebody who has shown no
    /// certificate, or whose certificate has expired; [`Error::Issuer`].
    pub async fn report(&self, who: &str, reason: ReportReason) -> Result<(), Error> {
        let who = who.to_owned();
        call!(self, |engine| engine.report(&who, reason).await)
    }
}
