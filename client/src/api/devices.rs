//! A user's devices.

use crate::api::{Client, call};
use crate::error::Error;
#[cfg(doc)]
use crate::error::UsageError;
use crate::flows::devices::link::LinkCode;
use crate::store::devices::{self, Device};

impl Client {
    /// On a new device, without a handle of its own: shows the code that links it to a user.
    ///
    /// # Errors
    /// [`UsageError::AlreadyInUse`] for a client that is somebody already.
    pub async fn link_code(&self, name: &str) -> Result<LinkCode, Error> {
        let name = name.to_owned();
        call!(self, |engine| engine.link_code(&name).await)
    }

    /// On a device of the user: links the new device that shows this code and this number. Returns
    /// the number that the new device must be told.
    ///
    /// # Errors
    /// [`UsageError::InvalidLinkCode`], [`UsageError::NumbersDiffer`]: nothing was sent then.
    pub async fn approve_link(&self, code: &str, shown: &str) -> Result<String, Error> {
        let code = code.to_owned();
        let shown = shown.to_owned();
        call!(self, |engine| engine.approve_link(&code, &shown).await)
    }

    /// On the new device: becomes what the other device has sent, if it is what it showed the
    /// number of. Waits up to `wait_ms` for it. Returns the user's handle.
    ///
    /// # Errors
    /// [`UsageError::NotLinking`] without a code or a package; [`UsageError::NumbersDiffer`].
    pub async fn complete_link(&self, shown: &str, wait_ms: u32) -> Result<String, Error> {
        let shown = shown.to_owned();
        call!(self, |engine| engine.complete_link(&shown, wait_ms).await)
    }

    /// This user's devices: this one first.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn devices(&self) -> Result<Vec<Device>, Error> {
        self.read(|db, profile, _| devices::devices(db, profile))
    }

    /// Removes another device of this user from all groups, from the KeyPackage sets and from the
    /// handle; contacts get a new connection token. What it had, it keeps: the identity key among
    /// it. What is cut off is gone on with by [`Client::sync`].
    ///
    /// # Errors
    /// [`UsageError::UnknownDevice`].
    pub async fn unlink_device(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        call!(self, |engine| engine.unlink_device(&name).await)
    }

    /// As [`Client::unlink_device`] for every other device, those too that have not said their
    /// names. Returns the names of the others.
    ///
    /// # Errors
    /// Whatever the requests meet; it can be called again then.
    pub async fn unlink_other_devices(&self) -> Result<Vec<String>, Error> {
        call!(self, |engine| engine.unlink_other_devices().await)
    }
}
