//! Connection requests, contacts, reports.

use crate::ids::UserId;
use crate::mirror::{choice, record};
use crate::{Answer, Client};

record! {
    /// Somebody whom this user is connected to.
    Contact {
        /// Who.
        user: UserId,
        /// What this user calls them: their handle, or another name.
        name: String,
        /// The handle that they registered.
        handle: String,
        /// Whether they can be reported to the token issuer.
        reportable: bool,
    }
}

record! {
    /// Somebody who asks for a connection.
    IncomingRequest {
        /// For accepting or declining it.
        id: String,
        /// The handle that they claim. Compare safety numbers before trusting it.
        name: String,
        /// What they say with it, if anything.
        greeting: Option<String>,
        /// Whether they can be reported to the token issuer.
        reportable: bool,
    }
}

choice! {
    /// Why somebody is reported.
    ReportReason {
        /// Unasked-for advertising and the like.
        Spam,
        /// Threats, insults, worse.
        Abuse,
        /// Something else.
        Other,
    }
}

#[uniffi::export]
impl Client {
    /// Asks the owner of a handle for a connection; again, if it was asked before. With up to 256
    /// bytes of greeting, which the recipient can report: it travels with this user's certificate,
    /// and without one there is no greeting.
    ///
    /// Fails with `already-connected`, `own-handle`, `invalid-greeting`, refused with
    /// `unknown-handle`, or `peer` if the handle is another one's since it was asked.
    #[uniffi::method(default(greeting = None))]
    pub async fn connect(&self, handle: String, greeting: Option<String>) -> Answer<()> {
        let asked = match greeting {
            Some(greeting) => self.sdk.connect_with(&handle, &greeting).await,
            None => self.sdk.connect(&handle).await,
        };
        Ok(asked?)
    }

    /// Takes back a request of this user's that nobody has accepted.
    ///
    /// Fails with `unknown-request`, or `already-connected` if it was accepted meanwhile.
    pub async fn cancel_request(&self, handle: String) -> Answer<()> {
        Ok(self.sdk.cancel_request(&handle).await?)
    }

    /// Looks for connection requests now. In the background this happens every few hours; whoever
    /// asks for it tells the service when somebody looks.
    pub async fn check_inbox(&self) -> Answer<()> {
        Ok(self.sdk.check_inbox().await?)
    }

    /// Requests that wait for an answer.
    pub fn incoming_requests(&self) -> Answer<Vec<IncomingRequest>> {
        let requests = self.sdk.incoming_requests()?;
        Ok(requests.into_iter().map(Into::into).collect())
    }

    /// Accepts a request and returns the new contact's name.
    ///
    /// Fails with `unknown-request`, `request-expired`, `already-connected`, or `peer` when what
    /// came is not the requester's.
    pub async fn accept_request(&self, id: String) -> Answer<String> {
        Ok(self.sdk.accept_request(&id).await?)
    }

    /// Declines a request: it is forgotten, and the requester is told nothing.
    ///
    /// Fails with `unknown-request`.
    pub async fn decline_request(&self, id: String) -> Answer<()> {
        Ok(self.sdk.decline_request(&id).await?)
    }

    /// All contacts by name.
    pub fn contacts(&self) -> Answer<Vec<Contact>> {
        let contacts = self.sdk.contacts()?;
        Ok(contacts.into_iter().map(Into::into).collect())
    }

    /// Calls a contact something else on this user's devices; without a name, by its handle, which
    /// finds it in any case.
    ///
    /// Fails with `unknown-contact`, `invalid-contact-name`, `already-connected` if another contact
    /// or this user has that name.
    #[uniffi::method(default(name = None))]
    pub async fn rename_contact(&self, contact: String, name: Option<String>) -> Answer<()> {
        Ok(self.sdk.rename_contact(&contact, name.as_deref()).await?)
    }

    /// Ends a connection: both sides forget each other. The groups that both are in stay.
    ///
    /// Fails with `unknown-contact`.
    pub async fn disconnect(&self, contact: String) -> Answer<()> {
        Ok(self.sdk.disconnect(&contact).await?)
    }

    /// The safety number with a contact: the same on both sides if and only if neither service gave
    /// them wrong keys. To be compared over another channel.
    ///
    /// Fails with `unknown-contact`.
    pub fn safety_number(&self, contact: String) -> Answer<String> {
        Ok(self.sdk.safety_number(&contact)?)
    }

    /// Reports a contact, or the sender of a connection request (by name or by the request's id),
    /// to the token issuer: with what they signed for this user, and nothing else.
    ///
    /// Fails with `unknown-contact`, or `not-reportable` for somebody who has shown no valid
    /// certificate.
    pub async fn report(&self, who: String, reason: ReportReason) -> Answer<()> {
        Ok(self.sdk.report(&who, reason.into()).await?)
    }
}
