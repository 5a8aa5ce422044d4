//! New leaves: a key and a pseudonymous credential of its own for every one.

use crypto::credential::{
    CREDENTIAL_TYPE, PseudonymousCredential, random_pseudonym, wrap_link_key,
};
use crypto::keys::{IdentityLinkKey, IdentityLinkWrapperKey};
use crypto::sign::LeafKeyPair;
use openmls::prelude::{
    Ciphersuite, Credential, CredentialType, CredentialWithKey, LeafNodeParameters,
};
use protocol::Wire as _;
use protocol::directory::Directory;
use protocol::reporting::{LINK_SLOT, Padded};
use rusqlite::Connection;
use tls_codec::VLBytes;

use crate::error::Error;
use crate::leaf::{CIPHERSUITE, capabilities, scheme};
use crate::store::Profile;
use crate::store::leaf_keys::store_key;
use crate::store::provider::LeafSigner;

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

    /// Of a leaf in a group with this ciphersuite.
    pub(crate) fn parameters(profile: &Profile, suite: Ciphersuite) -> LeafNodeParameters {
        LeafNodeParameters::builder()
            .with_capabilities(capabilities(suite, profile.takes_post_quantum))
            .build()
    }

    pub(crate) fn store_key(&self, db: &Connection) -> Result<(), Error> {
        store_key(db, &self.signer.0)
    }
}
