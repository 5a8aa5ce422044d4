//! Leaves: a key and a pseudonymous credential of its own for every one.

use crypto::credential::{
    CREDENTIAL_TYPE, PseudonymousCredential, random_pseudonym, wrap_link_key,
};
use crypto::keys::{IdentityLinkKey, IdentityLinkWrapperKey};
use crypto::sign::{LeafKeyPair, Scheme};
use openmls::prelude::{
    Capabilities, Ciphersuite, Credential, CredentialType, CredentialWithKey, ExtensionType,
    LeafNodeParameters, Lifetime, MlsGroup, ProposalType, SignatureScheme,
};
use protocol::directory::Directory;
use protocol::policy::POLICY_EXTENSION;
use protocol::reporting::{LINK_SLOT, Padded};
use protocol::{Wire as _, lifetime};
use rusqlite::Connection;
use tls_codec::VLBytes;

use crate::error::{Error, LocalError};
use crate::store::Profile;
use crate::store::leaf_keys::store_key;
use crate::store::provider::LeafSigner;

/// The ciphersuite of connections, and of groups unless another one is chosen: X25519, AES-128-GCM,
/// SHA-256, Ed25519.
pub(crate) const CIPHERSUITE: Ciphersuite =
    Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// One with P-256.
pub(crate) const P256_SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256;

/// One with X-Wing.
pub(crate) const HYBRID_SUITE: Ciphersuite =
    Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519;

/// The ciphersuites that groups may have; the last two with X-Wing, the post-quantum hybrid.
pub(crate) const CIPHERSUITES: &[Ciphersuite] = &[
    CIPHERSUITE,
    Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519,
    Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
];

/// The ciphersuite with this number, if groups may have it.
pub(crate) fn ciphersuite(number: u16) -> Option<Ciphersuite> {
    CIPHERSUITES
        .iter()
        .copied()
        .find(|suite| u16::from(*suite) == number)
}

/// What the leaves of a ciphersuite sign with.
pub(crate) fn scheme(suite: Ciphersuite) -> Scheme {
    match suite.signature_algorithm() {
        SignatureScheme::ECDSA_SECP256R1_SHA256 => Scheme::EcdsaP256,
        _ => Scheme::Ed25519,
    }
}

/// KeyPackages are good for twelve weeks at least, and until the end of a week: the second in which
/// one was made would tell its maker's packages apart from others.
pub(crate) const LIFETIME_S: u64 = 12 * WEEK_S;
const WEEK_S: u64 = 7 * 24 * 60 * 60;

/// A leaf that is about to be published.
pub(crate) struct NewLeaf {
    pub(crate) signer: LeafSigner,
    pub(crate) credential: CredentialWithKey,
    pub(crate) pseudonymous: PseudonymousCredential,
    link_key: IdentityLinkKey,
}

impl NewLeaf {
    /// Of a user who is new in the group, in the usual ciphersuite.
    #[cfg(test)]
    pub(crate) fn make(profile: &Profile, directory: &Directory) -> Result<Self, Error> {
        let pseudonym = random_pseudonym(&directory.domain)?;
        Self::of_user(profile, directory, CIPHERSUITE, pseudonym)
    }

    /// With a fresh key, of the user who goes by `pseudonym` in the group.
    pub(crate) fn of_user(
        profile: &Profile,
        directory: &Directory,
        suite: Ciphersuite,
        pseudonym: VLBytes,
    ) -> Result<Self, Error> {
        let key = LeafKeyPair::random(scheme(suite))?;
        Self::with_key(profile, directory, key, pseudonym)
    }

    /// With this key, of the user who goes by `pseudonym` in the group.
    pub(crate) fn with_key(
        profile: &Profile,
        directory: &Directory,
        key: LeafKeyPair,
        pseudonym: VLBytes,
    ) -> Result<Self, Error> {
        let real = profile.credential()?;
        let link = PseudonymousCredential::issue(
            &directory.domain,
            pseudonym,
            &key.public(),
            &real,
            &profile.identity,
            &profile.connection_key,
        )?;
        Ok(Self::with_link(key, link))
    }

    /// In the connection group of somebody whose request is answered: the identity link, which
    /// nobody else can open, has a place for an introduction.
    pub(crate) fn introducing(
        profile: &Profile,
        directory: &Directory,
        introduction: Padded<LINK_SLOT>,
    ) -> Result<Self, Error> {
        let key = LeafKeyPair::random(scheme(CIPHERSUITE))?;
        let real = profile.credential()?;
        let link = PseudonymousCredential::issue_introducing(
            &directory.domain,
            random_pseudonym(&directory.domain)?,
            &key.public(),
            &real,
            &profile.identity,
            &profile.connection_key,
            introduction,
        )?;
        Ok(Self::with_link(key, link))
    }

    fn with_link(
        key: LeafKeyPair,
        (pseudonymous, link_key): (PseudonymousCredential, IdentityLinkKey),
    ) -> Self {
        Self {
            credential: CredentialWithKey {
                credential: Credential::new(
                    CredentialType::Other(CREDENTIAL_TYPE),
                    pseudonymous.encode(),
                ),
                signature_key: key.public().into(),
            },
            signer: LeafSigner(key),
            pseudonymous,
            link_key,
        }
    }

    /// The link key for the members of one group.
    pub(crate) fn wrapped_link_key(
        &self,
        wrapper: &IdentityLinkWrapperKey,
    ) -> Result<Vec<u8>, Error> {
        Ok(wrap_link_key(wrapper, &self.link_key)?)
    }

    pub(crate) fn parameters(&self) -> LeafNodeParameters {
        LeafNodeParameters::builder()
            .with_capabilities(capabilities())
            .build()
    }

    pub(crate) fn store_key(&self, db: &Connection) -> Result<(), Error> {
        store_key(db, &self.signer.0)
    }
}

pub(crate) fn capabilities() -> Capabilities {
    Capabilities::new(
        None,
        Some(CIPHERSUITES),
        Some(&[
            ExtensionType::Unknown(POLICY_EXTENSION),
            ExtensionType::LastResort,
        ]),
        Some(&[ProposalType::SelfRemove]),
        // Basic is the external senders', which members on other MLS libraries insist on.
        Some(&[
            CredentialType::Other(CREDENTIAL_TYPE),
            CredentialType::Basic,
        ]),
    )
}

/// Of a KeyPackage or a group's first leaf that is made now, by the service's time; no reader's
/// clock finds it bad.
pub(crate) fn lifetime(now_ms: u64) -> Lifetime {
    let end = (now_ms / 1000).saturating_add(LIFETIME_S);
    let (not_before, not_after) = lifetime::bounds(end.div_ceil(WEEK_S).saturating_mul(WEEK_S));
    Lifetime::init(not_before, not_after)
}

/// The pseudonymous credential of a leaf; it must be for the leaf's own key.
pub(crate) fn pseudonymous(
    credential: &Credential,
    signature_key: &[u8],
) -> Option<PseudonymousCredential> {
    if credential.credential_type() != CredentialType::Other(CREDENTIAL_TYPE) {
        return None;
    }
    PseudonymousCredential::decode(credential.serialized_content())
        .ok()
        .filter(|pseudonymous| pseudonymous.signature_public_key.as_slice() == signature_key)
}

/// The user pseudonym in a leaf's credential.
pub(crate) fn pseudonym_of(credential: &Credential) -> Option<Vec<u8>> {
    PseudonymousCredential::decode(credential.serialized_content())
        .ok()
        .map(|credential| credential.user_pseudonym.as_slice().to_vec())
}

pub(crate) fn own_pseudonym(mls_group: &MlsGroup) -> Result<Vec<u8>, Error> {
    mls_group
        .own_leaf_node()
        .and_then(|leaf| pseudonym_of(leaf.credential()))
        .ok_or_else(|| LocalError::Damaged.into())
}
