//! Result records: what makes a lost answer harmless. A request that was carried out is answered from
//! its record when it comes again, with no second effect.

use crypto::CryptoError;
use crypto::sealing::{self, Place};
use protocol::problem::ProblemType;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::DsError;

const RESPONSE: &str = "response";
const REFUSAL: &str = "refusal";

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

    fn place(&self, part: &'static str) -> Place<'_> {
        Place {
            table: "results",
            row: &self.name,
            part,
        }
    }

    /// Seals a response.
    ///
    /// # Errors
    /// As [`sealing::seal`].
    pub fn seal(&self, response: &[u8]) -> Result<Vec<u8>, CryptoError> {
        sealing::seal(&self.key, self.place(RESPONSE), response)
    }

    /// Seals a refusal that has cost something, so that the same request costs it once.
    ///
    /// # Errors
    /// As [`sealing::seal`].
    pub fn seal_refusal(&self, problem: ProblemType) -> Result<Vec<u8>, CryptoError> {
        sealing::seal(&self.key, self.place(REFUSAL), problem.slug().as_bytes())
    }

    /// Opens a recorded result: the response, or what was refused.
    ///
    /// # Errors
    /// [`DsError::Refused`] with the recorded refusal; [`DsError::Internal`].
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, DsError> {
        if let Ok(response) = sealing::open(&self.key, self.place(RESPONSE), sealed) {
            return Ok(response.to_vec());
        }
        let slug = sealing::open(&self.key, self.place(REFUSAL), sealed)?;
        let refusal = ProblemType::ALL
            .iter()
            .find(|problem| problem.slug().as_bytes() == slug.as_slice());
        Err(
            refusal.map_or(DsError::Internal("recorded refusal"), |problem| {
                (*problem).into()
            }),
        )
    }
}
