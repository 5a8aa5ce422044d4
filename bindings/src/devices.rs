//! A user's devices.

use crate::mirror::record;
use crate::{Answer, Client};

record! {
    /// A device as its user sees it.
    Device {
        /// As it was called when it was linked.
        name: String,
        /// This one.
        own: bool,
    }
}

record! {
    /// A link code and the number to compare.
    LinkCode {
        /// For the other device.
        code: String,
        /// The other device must be told this number too: from this device's screen, not from where
        /// the code came.
        number: String,
    }
}

#[uniffi::export]
impl Client {
    /// On a new device, without a handle of its own: shows the code that links it to a user.
    ///
    /// Fails with `already-in-use` for a client that is somebody already.
    pub async fn link_code(&self, name: String) -> Answer<LinkCode> {
        Ok(self.sdk.link_code(&name).await?.into())
    }

    /// On a device of the user: links the new device that shows this code and this number. Returns
    /// the number that the new device must be told.
    ///
    /// Fails with `invalid-link-code` or `numbers-differ`: nothing was sent then.
    pub async fn approve_link(&self, code: String, shown: String) -> Answer<String> {
        Ok(self.sdk.approve_link(&code, &shown).await?)
    }

    /// On the new device: becomes what the other device has sent, if it is what it showed the
    /// number of. Waits up to `wait_ms` for it. Returns the user's handle.
    ///
    /// Fails with `not-linking` without a code or a package, or `numbers-differ`.
    pub async fn complete_link(&self, shown: String, wait_ms: u32) -> Answer<String> {
        Ok(self.sdk.complete_link(&shown, wait_ms).await?)
    }

    /// This user's devices: this one first.
    pub fn devices(&self) -> Answer<Vec<Device>> {
        let devices = self.sdk.devices()?;
        Ok(devices.into_iter().map(Into::into).collect())
    }

    /// Removes another device of this user from all groups, from the KeyPackage sets and from the
    /// handle; contacts get a new connection token. What it had, it keeps: the identity key among
    /// it. What is cut off is gone on with by the next sync.
    ///
    /// Fails with `unknown-device`.
    pub async fn unlink_device(&self, name: String) -> Answer<()> {
        Ok(self.sdk.unlink_device(&name).await?)
    }

    /// As `unlink_device` for every other device, those too that have not said their names. Returns
    /// the names of the others. If it fails it can be called again.
    pub async fn unlink_other_devices(&self) -> Answer<Vec<String>> {
        Ok(self.sdk.unlink_other_devices().await?)
    }

    /// As `rejoin_group`, for the group of this user's devices.
    pub async fn rejoin_devices(&self) -> Answer<()> {
        Ok(self.sdk.rejoin_devices().await?)
    }
}
