//! The one type for secret bytes.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes: on the heap so that moves leave no copy, wiped on drop, compared in constant
/// time, never cloned, serialized or shown.
///
/// ```
/// let secret = crypto::secret::Secret::new([0; 32]);
/// let moved = secret;
/// ```
///
/// There is one of each:
///
/// ```compile_fail
/// let secret = crypto::secret::Secret::new([0; 32]);
/// let copy = secret.clone();
/// ```
///
/// And nothing writes it into a message or file by mistake:
///
/// ```compile_fail
/// fn write(value: impl tls_codec::Serialize) {}
/// write(crypto::secret::Secret::new([0; 32]));
/// ```
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize> {
    bytes: Box<[u8; N]>,
}

impl<const N: usize> Secret<N> {
    /// Takes the bytes over; the caller's array is wiped.
    #[must_use]
    pub fn new(mut bytes: [u8; N]) -> Self {
        let boxed = Box::new(bytes);
        bytes.zeroize();
        Self { bytes: boxed }
    }

    /// Fresh random bytes.
    ///
    /// # Errors
    /// [`crate::CryptoError::Backend`] if the operating system has none.
    pub fn random() -> Result<Self, crate::CryptoError> {
        let mut secret = Self {
            bytes: Box::new([0; N]),
        };
        getrandom::fill(secret.bytes.as_mut_slice()).map_err(|_| crate::CryptoError::Backend)?;
        Ok(secret)
    }

    /// The bytes, for the primitive that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.bytes
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes.as_slice().ct_eq(other.bytes.as_slice()).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

impl<const N: usize> std::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes: _ } = self;
        write!(f, "Secret<{N}>(..)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new([0x41; 32])), "Secret<32>(..)");
    }

    #[test]
    fn equality_is_by_content() {
        assert_eq!(Secret::new([1; 32]), Secret::new([1; 32]));
        assert_ne!(Secret::new([1; 32]), Secret::new([2; 32]));
    }
}
