//! `PseudonymousCredential` and identity links (draft-kohbrok-mimi-metadata-minimalization).

use protocol::Wire;
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::reporting::{LINK_SLOT, Padded};
use tls_codec::{DeserializeBytes, TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::keys::{ConnectionKey, IdentityLinkKey, IdentityLinkWrapperKey};
use crate::sign::{self, SignatureKeyPair};
use crate::{CryptoError, aead, kdf, random};

/// The MLS credential type of a [`PseudonymousCredential`] (RFC 9420 §17.5, private use).
pub const CREDENTIAL_TYPE: u16 = 0xf0c1;

/// The credential in a leaf: behind its type, these bytes as `opaque<V>`. Without the identity link
/// key it does not say who the leaf is.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PseudonymousCredential {
    /// IdentifierUri, unique to this credential.
    pub client_pseudonym: VLBytes,
    /// IdentifierUri, shared by a user's clients in one group, unique across groups.
    pub user_pseudonym: VLBytes,
    /// The leaf's signature key.
    pub signature_public_key: VLBytes,
    /// [`IdentityLinkTbe`], encrypted under the credential's identity link key.
    pub identity_link_ciphertext: VLBytes,
}

/// The content that the real credential's key signs.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PseudonymousCredentialTbs {
    /// As in the credential.
    pub client_pseudonym: VLBytes,
    /// As in the credential.
    pub user_pseudonym: VLBytes,
    /// As in the credential.
    pub signature_public_key: VLBytes,
}

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct IdentityLinkTbe {
    pseudonymous_credential_signature: VLBytes,
    client_credential: ClientCredential,
}

/// As [`IdentityLinkTbe`], in the connection group of somebody who answers a request.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct IntroducingLinkTbe {
    pseudonymous_credential_signature: VLBytes,
    client_credential: ClientCredential,
    introduction: Padded<LINK_SLOT>,
}

/// What an identity link says, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedLink {
    /// Whose credential it is.
    pub credential: ClientCredential,
    /// A [`protocol::reporting::SignedIntroduction`] that is still to be verified, or nothing.
    pub introduction: Padded<LINK_SLOT>,
}

/// Bytes of an [`IdentityLinkTbe`] with the zeros after it: room for the longest handle. A length
/// that followed from the name would be the same in all groups of a user, and be known of the
/// user's handle.
const LINK_SIZE: usize = 192;
/// As [`LINK_SIZE`], of an [`IntroducingLinkTbe`]: where it stands is seen anyway.
const INTRODUCING_LINK_SIZE: usize = LINK_SIZE + LINK_SLOT;

/// A link in its one size.
fn padded(mut link: Vec<u8>, size: usize) -> Result<Vec<u8>, CryptoError> {
    if link.len() > size {
        return Err(CryptoError::TooLong);
    }
    link.resize(size, 0);
    Ok(link)
}

/// What stands before the zeros.
fn unpadded<T: DeserializeBytes>(link: &[u8]) -> Result<T, CryptoError> {
    let (content, zeros) = T::tls_deserialize_bytes(link).map_err(|_| CryptoError::CannotOpen)?;
    if zeros.iter().all(|byte| *byte == 0) {
        Ok(content)
    } else {
        Err(CryptoError::CannotOpen)
    }
}

const SIGNATURE_LABEL: &str = "PseudonymousCredentialTBS";

/// A fresh pseudonym: a random UUID (version 4) qualified with the provider's domain.
///
/// # Errors
/// [`CryptoError::Backend`] without randomness.
pub fn random_pseudonym(domain: &str) -> Result<VLBytes, CryptoError> {
    let uuid =
        (u128::from_be_bytes(random()?) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{uuid:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    Ok(opaque(
        format!(
            "mimi://{domain}/p/{}-{}-{}-{}-{}",
            part(0..8),
            part(8..12),
            part(12..16),
            part(16..20),
            part(20..32)
        )
        .into_bytes(),
    ))
}

impl PseudonymousCredential {
    /// Makes a credential with a fresh client pseudonym, and its identity link key.
    ///
    /// # Errors
    /// [`CryptoError::Backend`] without randomness; [`CryptoError::TooLong`] for a name that is no
    /// handle.
    pub fn issue(
        domain: &str,
        user_pseudonym: VLBytes,
        leaf_signature_key: &[u8],
        credential: &ClientCredential,
        signer: &SignatureKeyPair,
        connection_key: &ConnectionKey,
    ) -> Result<(Self, IdentityLinkKey), CryptoError> {
        Self::issue_with(
            domain,
            user_pseudonym,
            leaf_signature_key,
            credential,
            signer,
            connection_key,
            None,
        )
    }

    /// As [`PseudonymousCredential::issue`], with a place in the identity link for an introduction
    /// to the one who can open it: for connection groups.
    ///
    /// # Errors
    /// As [`PseudonymousCredential::issue`].
    pub fn issue_introducing(
        domain: &str,
        user_pseudonym: VLBytes,
        leaf_signature_key: &[u8],
        credential: &ClientCredential,
        signer: &SignatureKeyPair,
        connection_key: &ConnectionKey,
        introduction: Padded<LINK_SLOT>,
    ) -> Result<(Self, IdentityLinkKey), CryptoError> {
        Self::issue_with(
            domain,
            user_pseudonym,
            leaf_signature_key,
            credential,
            signer,
            connection_key,
            Some(introduction),
        )
    }

    fn issue_with(
        domain: &str,
        user_pseudonym: VLBytes,
        leaf_signature_key: &[u8],
        credential: &ClientCredential,
        signer: &SignatureKeyPair,
        connection_key: &ConnectionKey,
        introduction: Option<Padded<LINK_SLOT>>,
    ) -> Result<(Self, IdentityLinkKey), CryptoError> {
        let tbs = PseudonymousCredentialTbs {
            client_pseudonym: random_pseudonym(domain)?,
            user_pseudonym,
            signature_public_key: opaque(leaf_signature_key),
        };
        let tbs_bytes = tbs.encode();
        let key = identity_link_key(connection_key, &tbs_bytes);
        let pseudonymous_credential_signature = opaque(signer.sign(SIGNATURE_LABEL, &tbs_bytes));
        let client_credential = credential.clone();
        let (link, size) = match introduction {
            None => {
                let link = IdentityLinkTbe {
                    pseudonymous_credential_signature,
                    client_credential,
                };
                (link.encode(), LINK_SIZE)
            }
            Some(introduction) => {
                let link = IntroducingLinkTbe {
                    pseudonymous_credential_signature,
                    client_credential,
                    introduction,
                };
                (link.encode(), INTRODUCING_LINK_SIZE)
            }
        };
        let mut link = padded(link, size)?;
        aead::seal(key.expose(), [0; 12], &tbs_bytes, &mut link)?;
        let credential = Self {
            client_pseudonym: tbs.client_pseudonym,
            user_pseudonym: tbs.user_pseudonym,
            signature_public_key: tbs.signature_public_key,
            identity_link_ciphertext: opaque(link),
        };
        Ok((credential, key))
    }

    fn tbs(&self) -> PseudonymousCredentialTbs {
        PseudonymousCredentialTbs {
            client_pseudonym: self.client_pseudonym.clone(),
            user_pseudonym: self.user_pseudonym.clone(),
            signature_public_key: self.signature_public_key.clone(),
        }
    }

    /// The key of this credential's identity link, for somebody who has its owner's connection key.
    #[must_use]
    pub fn link_key(&self, connection_key: &ConnectionKey) -> IdentityLinkKey {
        identity_link_key(connection_key, &self.tbs().encode())
    }

    /// Opens and verifies the identity link: whose credential this is.
    ///
    /// # Errors
    /// [`CryptoError::CannotOpen`] or [`CryptoError::InvalidSignature`].
    pub fn open_identity_link(
        &self,
        key: &IdentityLinkKey,
    ) -> Result<ClientCredential, CryptoError> {
        self.open_introducing_link(key).map(|link| link.credential)
    }

    /// Opens and verifies the identity link, and returns it with the introduction inside.
    ///
    /// # Errors
    /// [`CryptoError::CannotOpen`] or [`CryptoError::InvalidSignature`].
    pub fn open_introducing_link(&self, key: &IdentityLinkKey) -> Result<OpenedLink, CryptoError> {
        let tbs = self.tbs().encode();
        let mut link = self.identity_link_ciphertext.as_slice().to_vec();
        aead::open(key.expose(), [0; 12], &tbs, &mut link)?;
        let link = if link.len() == INTRODUCING_LINK_SIZE {
            unpadded::<IntroducingLinkTbe>(&link)?
        } else {
            let link = unpadded::<IdentityLinkTbe>(&link)?;
            IntroducingLinkTbe {
                pseudonymous_credential_signature: link.pseudonymous_credential_signature,
                client_credential: link.client_credential,
                introduction: Padded::empty(),
            }
        };
        sign::verify(
            link.client_credential.signature_public_key.as_slice(),
            SIGNATURE_LABEL,
            &tbs,
            link.pseudonymous_credential_signature.as_slice(),
        )?;
        Ok(OpenedLink {
            credential: link.client_credential,
            introduction: link.introduction,
        })
    }
}

fn identity_link_key(connection_key: &ConnectionKey, tbs: &[u8]) -> IdentityLinkKey {
    IdentityLinkKey::new(kdf::expand_with_label(
        connection_key.expose(),
        "IdentityLinkKey",
        tbs,
    ))
}

/// Encrypts a credential's identity link key for a group: `nonce(12) || ciphertext(32 + 16)`.
///
/// # Errors
/// [`CryptoError::Backend`] without randomness.
pub fn wrap_link_key(
    wrapper: &IdentityLinkWrapperKey,
    key: &IdentityLinkKey,
) -> Result<Vec<u8>, CryptoError> {
    let nonce = random::<12>()?;
    let mut body = Vec::with_capacity(48);
    body.extend_from_slice(key.expose());
    aead::seal(wrapper.expose(), nonce, b"identity link key", &mut body)?;
    Ok([&nonce[..], &body].concat())
}

/// Length of an encrypted identity link key.
pub const WRAPPED_LINK_KEY_LEN: usize = 12 + 32 + aead::TAG_LEN;

/// Opens what [`wrap_link_key`] made.
///
/// # Errors
/// [`CryptoError::CannotOpen`].
pub fn unwrap_link_key(
    wrapper: &IdentityLinkWrapperKey,
    wrapped: &[u8],
) -> Result<IdentityLinkKey, CryptoError> {
    let (nonce, body) = wrapped
        .split_first_chunk::<12>()
        .ok_or(CryptoError::CannotOpen)?;
    let mut body = Zeroizing::new(body.to_vec());
    aead::open(wrapper.expose(), *nonce, b"identity link key", &mut body)?;
    IdentityLinkKey::try_from(body.as_slice())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn issue() -> (
        PseudonymousCredential,
        IdentityLinkKey,
        ClientCredential,
        ConnectionKey,
    ) {
        issue_to("alice")
    }

    fn issue_to(
        name: &str,
    ) -> (
        PseudonymousCredential,
        IdentityLinkKey,
        ClientCredential,
        ConnectionKey,
    ) {
        let signer = SignatureKeyPair::random().unwrap();
        let real = ClientCredential {
            name: opaque(name.as_bytes()),
            signature_public_key: opaque(signer.public()),
        };
        let connection_key = ConnectionKey::new([5; 32]);
        let (credential, key) = PseudonymousCredential::issue(
            "example.org",
            random_pseudonym("example.org").unwrap(),
            &[1; 32],
            &real,
            &signer,
            &connection_key,
        )
        .unwrap();
        (credential, key, real, connection_key)
    }

    #[test]
    fn a_contact_derives_the_link_key_and_learns_who_it_is() {
        let (credential, key, real, connection_key) = issue();
        assert_eq!(credential.link_key(&connection_key), key);
        assert_eq!(credential.open_identity_link(&key).unwrap(), real);
    }

    #[test]
    fn a_credential_is_as_long_whatever_the_name_and_opens_with_the_longest() {
        let longest = "x".repeat(protocol::connections::MAX_HANDLE_BYTES);
        let lengths = ["a", "alice", &longest].map(|name| {
            let (credential, key, real, _) = issue_to(name);
            assert_eq!(credential.open_identity_link(&key).unwrap(), real);
            credential.encode().len()
        });
        assert_eq!(lengths[0], lengths[1]);
        assert_eq!(lengths[0], lengths[2]);
    }

    #[test]
    fn a_link_cannot_be_moved_to_another_leaf_key() {
        let (mut credential, key, _, connection_key) = issue();
        credential.signature_public_key = opaque([2; 32]);
        assert!(credential.open_identity_link(&key).is_err());
        assert!(
            credential
                .open_identity_link(&credential.link_key(&connection_key))
                .is_err()
        );
    }

    #[test]
    fn a_pseudonymous_credential_shows_neither_name_nor_real_key() {
        let (credential, _, real, _) = issue();
        let bytes = credential.encode();
        for secret in [real.name.as_slice(), real.signature_public_key.as_slice()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }

    #[test]
    fn a_wrapped_link_key_opens_with_the_wrapper_only() {
        let (_, key, _, _) = issue();
        let wrapper = IdentityLinkWrapperKey::new([1; 32]);
        let wrapped = wrap_link_key(&wrapper, &key).unwrap();
        assert_eq!(wrapped.len(), WRAPPED_LINK_KEY_LEN);
        assert_eq!(unwrap_link_key(&wrapper, &wrapped).unwrap(), key);
        assert!(unwrap_link_key(&IdentityLinkWrapperKey::new([2; 32]), &wrapped).is_err());
    }

    #[test]
    fn an_introducing_link_has_one_length_and_opens_as_any_other() {
        let signer = SignatureKeyPair::random().unwrap();
        let real = ClientCredential {
            name: opaque(*b"alice"),
            signature_public_key: opaque(signer.public()),
        };
        let issue = |introduction: Padded<LINK_SLOT>| {
            PseudonymousCredential::issue_introducing(
                "d",
                random_pseudonym("d").unwrap(),
                &[1; 32],
                &real,
                &signer,
                &ConnectionKey::new([2; 32]),
                introduction,
            )
            .unwrap()
        };
        let (without, _) = issue(Padded::empty());
        let (with, key) = issue(Padded::new([9; 300]).unwrap());
        assert_eq!(
            without.identity_link_ciphertext.as_slice().len(),
            with.identity_link_ciphertext.as_slice().len()
        );
        assert_eq!(with.open_identity_link(&key).unwrap(), real);
        let link = with.open_introducing_link(&key).unwrap();
        assert_eq!(link.introduction.content(), [9; 300]);
        assert!(!with.encode().windows(20).any(|window| window == [9; 20]));
    }

    #[test]
    fn pseudonyms_are_uuids_of_version_4() {
        let pseudonym = random_pseudonym("d").unwrap();
        let text = std::str::from_utf8(pseudonym.as_slice())
            .unwrap()
            .to_owned();
        let uuid = text.strip_prefix("mimi://d/p/").unwrap();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.chars().nth(14), Some('4'));
        assert!(matches!(uuid.chars().nth(19), Some('8' | '9' | 'a' | 'b')));
    }
}
