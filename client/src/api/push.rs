//! Being woken.

use crate::api::{Client, call};
use crate::error::Error;
#[cfg(doc)]
use crate::error::UsageError;
use crate::push_address::{PushAddress, PushConsent};

impl Client {
    /// Has this device woken at `address` when there is news, until [`Client::remove_push`]. Again:
    /// at another address, which no group learns of. Groups that this client is in already bring
    /// handles at times of their own, in the next hours.
    ///
    /// The push sender learns when the device is woken, and with whom at about the same time.
    /// Without this call nobody does: the device then reads by its own clock.
    ///
    /// # Errors
    /// [`UsageError::NoPushSender`]; [`Error::Push`], [`Error::Unreachable`].
    pub async fn register_push(
        &self,
        address: PushAddress,
        consent: PushConsent,
    ) -> Result<(), Error> {
        call!(self, |engine| engine.register_push(&address, consent).await)
    }

    /// Has this device woken no more.
    ///
    /// # Errors
    /// [`UsageError::NotWoken`]; [`Error::Push`], [`Error::Unreachable`].
    pub async fn remove_push(&self) -> Result<(), Error> {
        call!(self, |engine| engine.remove_push().await)
    }

    /// Says to the push sender that this device reads by itself for so many seconds, an hour at
    /// most; with 0, that it sleeps again.
    ///
    /// # Errors
    /// [`UsageError::NotWoken`]; [`Error::Push`], [`Error::Unreachable`].
    pub async fn awake(&self, seconds: u16) -> Result<(), Error> {
        call!(self, |engine| engine.awake(seconds).await)
    }
}
