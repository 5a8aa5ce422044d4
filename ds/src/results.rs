//! Result records: what makes a lost answer harmless. A request that was carried out is answered from
//! its record when it comes again, with no second effect.

use crypto::CryptoError;
use crypto::sealing::{self, Place};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Two digests of a request's bytes: one finds its record, the other opens it. Who has the request
/// has both; who has the database has neither.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RequestDigest {
    name: [u8; 32],
    key: [u8; 32],
}

impl std::fmt::Debug for RequestDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name: _, key: _ } = self;
        f.write_str("RequestDigest(..)")
    }
}

impl RequestDigest {
    /// Of the bytes as they came.
    #[must_use]
    pub fn of(request: &[u8]) -> Self {
        let once: [u8; 32] = Sha256::digest(request).into();
        let once = Zeroizing::new(once);
        Self {
            name: crypto::kdf::derive(&once, "result name", &[]),
            key: crypto::kdf::derive(&once, "result key", &[]),
        }
    }

    /// The name, before it goes through the PRF.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.name
    }

    fn place(&self) -> Place<'_> {
        Place {
            table: "results",
            row: &self.name,
            part: "response",
        }
    }

    /// Seals a response.
    ///
    /// # Errors
    /// As [`sealing::seal`].
    pub fn seal(&self, response: &[u8]) -> Result<Vec<u8>, CryptoError> {
        sealing::seal(&self.key, self.place(), response)
    }

    /// Opens a recorded response.
    ///
    /// # Errors
    /// As [`sealing::open`].
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        sealing::open(&self.key, self.place(), sealed).map(|opened| opened.to_vec())
    }
}
