//! A type for each role that a key plays. None can stand in for another.
//!
//! ```
//! use crypto::keys::{IdentityLinkWrapperKey, StorageKey};
//! fn store(key: &StorageKey) {}
//! store(&StorageKey::new([0; 32]));
//! ```
//!
//! ```compile_fail
//! use crypto::keys::{IdentityLinkWrapperKey, StorageKey};
//! fn store(key: &StorageKey) {}
//! store(&IdentityLinkWrapperKey::new([0; 32]));
//! ```
//!
//! There is one of each key, and nothing writes it by mistake:
//!
//! ```compile_fail
//! let key = crypto::keys::StorageKey::new([0; 32]);
//! let copy = key.clone();
//! ```
//!
//! ```compile_fail
//! fn write(value: impl tls_codec::Serialize) {}
//! write(crypto::keys::StorageKey::new([0; 32]));
//! ```

use protocol::codec::WireSecret;

use crate::CryptoError;
use crate::secret::Secret;

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, PartialEq, Eq)]
            pub struct $name(Secret<32>);

            impl $name {
                /// Takes key bytes over.
                #[must_use]
                pub fn new(bytes: [u8; 32]) -> Self {
                    Self(Secret::new(bytes))
                }

                /// The bytes, for the primitive that needs them.
                #[must_use]
                pub fn expose(&self) -> &[u8; 32] {
                    self.0.expose()
                }

                /// The key as a wire type, for sending to a recipient who may have it.
                #[must_use]
                pub fn to_wire(&self) -> WireSecret {
                    WireSecret::new(*self.0.expose())
                }
            }

            impl From<[u8; 32]> for $name {
                fn from(bytes: [u8; 32]) -> Self {
                    Self::new(bytes)
                }
            }

            impl From<&WireSecret> for $name {
                fn from(secret: &WireSecret) -> Self {
                    Self::new(*secret.expose())
                }
            }

            impl TryFrom<&[u8]> for $name {
                type Error = CryptoError;
                fn try_from(bytes: &[u8]) -> Result<Self, CryptoError> {
                    <[u8; 32]>::try_from(bytes).map(Self::new).map_err(|_| CryptoError::InvalidKey)
                }
            }
        )+
    };
}

pub(crate) use keys;

keys! {
    /// Derives the identity link keys of its owner's credentials.
    ConnectionKey;
    /// Opens the identity link of one credential.
    IdentityLinkKey;
    /// Opens the encrypted identity link keys of one group.
    IdentityLinkWrapperKey;
    /// Root of row names and of the keys under which the service seals for itself. It lies outside
    /// the database.
    StorageKey;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_every_role_shows_no_bytes() {
        assert_eq!(
            format!("{:?}", StorageKey::new([0x41; 32])),
            "StorageKey(Secret<32>(..))"
        );
    }
}
