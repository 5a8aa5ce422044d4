//! What is kept of a device, sealed.

use crypto::sealing::{self, Place};
use protocol::Wire;
use protocol::push::{Address, Consent};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::keys::{DeviceId, HandleId, Keys};

const VERSION: u16 = 1;

/// A device's record.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Record {
    version: u16,
    /// Of the last request with an effect.
    pub(crate) number: u64,
    /// Handles of another one have ended.
    pub(crate) generation: u32,
    /// 1: its owner has removed it. What is left keeps an earlier request from bringing it back.
    pub(crate) removed: u8,
    /// `None`: what was there is gone.
    pub(crate) address: Option<Address>,
    pub(crate) consent: Consent,
    /// Handles that were ended and have not expired.
    pub(crate) revoked: Vec<Revoked>,
    /// In this week so many handles were issued.
    pub(crate) issued_week: u16,
    pub(crate) issued: u32,
}

#[derive(Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Revoked {
    pub(crate) id: HandleId,
    pub(crate) last_week: u16,
}

impl Record {
    pub(crate) fn new(number: u64, address: Address, consent: Consent) -> Self {
        Self {
            version: VERSION,
            number,
            generation: 0,
            removed: 0,
            address: Some(address),
            consent,
            revoked: Vec::new(),
            issued_week: 0,
            issued: 0,
        }
    }

    pub(crate) fn seal(&self, device: DeviceId, keys: &Keys) -> Result<Vec<u8>, SealError> {
        let plain = Zeroizing::new(self.encode());
        sealing::seal(keys.records(), place(&device), &plain).map_err(|_| SealError)
    }

    pub(crate) fn open(device: DeviceId, keys: &Keys, sealed: &[u8]) -> Result<Self, SealError> {
        let plain = sealing::open(keys.records(), place(&device), sealed).map_err(|_| SealError)?;
        let record = Self::decode(&plain).map_err(|_| SealError)?;
        (record.version == VERSION)
            .then_some(record)
            .ok_or(SealError)
    }
}

/// A record could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "a device's record cannot be sealed or opened: the key file is another one, or the row is damaged"
)]
pub(crate) struct SealError;

fn place(device: &DeviceId) -> Place<'_> {
    Place {
        table: "push_devices",
        row: &device.0,
        part: "record",
    }
}

/// Bytes that nobody needs to see in a debug line.
pub(crate) fn text(bytes: &VLBytes) -> Option<&str> {
    std::str::from_utf8(bytes.as_slice()).ok()
}
