//! A type for each role that a key plays. None can stand in for another.

use protocol::codec::WireSecret;
use protocol::ids::{GroupId, LookupId};

use crate::CryptoError;
use crate::kdf;
use crate::secret::Secret;

macro_rules! role_keys {
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

                /// A fresh random key.
                ///
                /// # Errors
                /// [`CryptoError::Backend`] if the operating system has no randomness.
                pub fn random() -> Result<Self, CryptoError> {
                    Secret::random().map(Self)
                }

                /// The bytes, for the primitive that needs them.
                #[must_use]
                pub fn expose(&self) -> &[u8; 32] {
                    self.0.expose()
                }

                /// For sending to whoever may have it.
                #[must_use]
                pub fn to_wire(&self) -> WireSecret {
                    WireSecret::new(*self.0.expose())
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

role_keys! {
    /// Seals a group's state; supplied by members with every request.
    StateKey;
    /// Exporter "join record" of an epoch: seals what its joiners need.
    JoinKey;
    /// Exporter "join info" of an epoch: seals what the service must not read.
    JoinInfoKey;
    /// Known to one leaf and the service (sealed in the roster): opens that leaf's recovery records.
    RecoverySecret;
    /// Bearer secret that contacts hold: finds and opens the owner's KeyPackage sets.
    ConnectionToken;
    /// Derives the identity link keys of its owner's credentials.
    ConnectionKey;
    /// Opens the identity link of one credential.
    IdentityLinkKey;
    /// Opens the encrypted identity link keys of one group.
    IdentityLinkWrapperKey;
    /// Opens one payload.
    PayloadKey;
    /// Root of row names and of what the service seals for itself; outside the database.
    StorageKey;
}

/// What a secret's holder shows to find a record without showing what opens it.
pub trait Lookup {
    /// `HKDF(secret, "lookup")`.
    fn lookup(&self) -> LookupId;
}

impl Lookup for ConnectionToken {
    fn lookup(&self) -> LookupId {
        LookupId(kdf::derive(self.expose(), "connection token lookup", &[]))
    }
}

/// As [`Lookup`], for records of a group: whoever knows the secret can write no record of another group through
/// a group of its own.
pub trait GroupLookup {
    /// `HKDF(secret, "lookup", group id)`.
    fn lookup_in(&self, group: &GroupId) -> LookupId;

    /// What release 0.1 wrote under: not bound to the group. For reading and dropping only.
    fn older_lookup(&self) -> LookupId;
}

macro_rules! group_lookups {
    ($($name:ident => $label:literal;)+) => {
        $(impl GroupLookup for $name {
            fn lookup_in(&self, group: &GroupId) -> LookupId {
                LookupId(kdf::derive(self.expose(), $label, &group.0))
            }

            fn older_lookup(&self) -> LookupId {
                LookupId(kdf::derive(self.expose(), $label, &[]))
            }
        })+
    };
}

group_lookups! {
    JoinKey => "join record lookup";
    RecoverySecret => "recovery record lookup";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_with_the_same_bytes_have_different_lookups() {
        let group = GroupId([2; 16]);
        let lookups = [
            JoinKey::new([1; 32]).lookup_in(&group),
            JoinKey::new([1; 32]).older_lookup(),
            RecoverySecret::new([1; 32]).lookup_in(&group),
            RecoverySecret::new([1; 32]).older_lookup(),
            ConnectionToken::new([1; 32]).lookup(),
        ];
        for (at, lookup) in lookups.iter().enumerate() {
            assert!(!lookups.iter().skip(at + 1).any(|other| other == lookup));
        }
    }

    #[test]
    fn a_groups_records_are_found_under_that_group_only() {
        let [one, other] = [GroupId([1; 16]), GroupId([2; 16])];
        let (join_key, secret) = (JoinKey::new([3; 32]), RecoverySecret::new([3; 32]));
        assert_ne!(join_key.lookup_in(&one), join_key.lookup_in(&other));
        assert_ne!(secret.lookup_in(&one), secret.lookup_in(&other));
    }

    #[test]
    fn debug_of_every_role_shows_no_bytes() {
        assert_eq!(
            format!("{:?}", StateKey::new([0x41; 32])),
            "StateKey(Secret<32>(..))"
        );
    }
}
