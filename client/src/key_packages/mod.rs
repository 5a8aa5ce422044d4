//! Own KeyPackages: published ahead. Contacts' KeyPackages: claimed and checked.

mod count;
mod publish;
pub(crate) mod stock;

pub(crate) use publish::{make_package, used};

use crypto::kdf;
use crypto::keys::ConnectionKey;
use crypto::schedule::PoolToken;
use crypto::sealing::{self, Place};
use crypto::sign::SignatureKeyPair;
use mls_rules::MAX_CLIENTS;
use openmls::prelude::{
    Ciphersuite, KeyPackage, KeyPackageIn, OpenMlsProvider as _, ProtocolVersion,
};
use protocol::ids::GroupId;
use protocol::key_packages::{ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, KeyPackageSet};
use protocol::operation::Operation;
use protocol::{Wire as _, lifetime};
use rusqlite::Connection;
use tls_codec::{DeserializeBytes as _, VLBytes};

use crate::Client;
use crate::contacts::{self, ContactKeys};
use crate::error::{Error, PeerError};
use crate::leaf;
use crate::provider::Provider;
use crate::schedule::{self, Act};

/// A KeyPackage that is valid and of the contact it was claimed for.
pub(crate) struct ClaimedKeyPackage {
    pub(crate) key_package: KeyPackage,
    pub(crate) link_key: crypto::keys::IdentityLinkKey,
}

fn set_key(token: &PoolToken) -> zeroize::Zeroizing<[u8; 32]> {
    zeroize::Zeroizing::new(kdf::derive(token.expose(), "key package sets", &[]))
}

fn seal_set(token: &PoolToken, set: &KeyPackageSet) -> Result<Vec<u8>, Error> {
    let pool = token.pool();
    let place = Place {
        table: "key_package_sets",
        row: &pool.0,
        part: "set",
    };
    Ok(sealing::seal(&set_key(token), place, &set.encode())?)
}

fn open_set(token: &PoolToken, sealed: &[u8]) -> Result<KeyPackageSet, Error> {
    let pool = token.pool();
    let place = Place {
        table: "key_package_sets",
        row: &pool.0,
        part: "set",
    };
    let opened =
        sealing::open(&set_key(token), place, sealed).map_err(|_| PeerError::KeyPackage)?;
    KeyPackageSet::decode(&opened).map_err(|_| PeerError::KeyPackage.into())
}

impl Client {
    /// KeyPackages of every client of each contact, for a group: kept ones first, the others are claimed, all or
    /// none.
    pub(crate) async fn claim(
        &mut self,
        group: &GroupId,
        contacts: &[ContactKeys],
        suite: Ciphersuite,
    ) -> Result<Vec<ClaimedKeyPackage>, Error> {
        // By the service's time, which judges them too when it takes the commit; never by this machine's.
        let now_ms = self.transport.time.now_unix_ms();
        let mut key_packages = Vec::new();
        let mut missing = Vec::new();
        for contact in contacts {
            match stock::find(&self.db, contact, suite, group, now_ms)? {
                Some(kept) => key_packages.extend(kept),
                None => missing.push(contact),
            }
        }
        // Claims of several users are requests of their own. All that are good are kept before one that is not ends this.
        let mut failed = None;
        for contact in missing {
            match self.claim_one(contact, suite, now_ms).await {
                Ok(packages) => key_packages.extend(packages),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(key_packages),
        }
    }

    /// Has a set of each contact in stock, in the usual ciphersuite: claimed at times that have nothing to do with its use.
    pub(crate) fn plan_claims(&mut self) -> Result<(), Error> {
        self.transact(|db, _| {
            for key in stock::missing(db, leaf::CIPHERSUITE)? {
                schedule::plan(db, Act::Claim, &key)?;
            }
            Ok(())
        })
    }

    /// Claims a set of a contact for the stock.
    pub(crate) async fn claim_ahead(&mut self, signature_key: &[u8]) -> Result<(), Error> {
        let Some(name) = contacts::name_of_key(&self.db, signature_key)? else {
            return Ok(());
        };
        let contact = contacts::by_name(&self.db, &name)?;
        let now_ms = self.transport.time.now_unix_ms();
        self.claim_one(&contact, leaf::CIPHERSUITE, now_ms)
            .await
            .map(drop)
    }

    async fn claim_one(
        &mut self,
        contact: &ContactKeys,
        suite: Ciphersuite,
        now_ms: u64,
    ) -> Result<Vec<ClaimedKeyPackage>, Error> {
        let request = ClaimKeyPackagesRequest {
            pool: contact.connection_token.pool(),
            ciphersuite: u16::from(suite),
            sets: 1,
        };
        let claimed: ClaimKeyPackagesResponse = self
            .call(
                Operation::ClaimKeyPackages,
                SignatureKeyPair::random()?,
                &request,
            )
            .await?;
        let [set] = claimed.sets.as_slice() else {
            return Err(Error::Protocol("an answer to another number of claims"));
        };
        let sealed = set.as_slice();
        let packages = check(&self.db, contact, suite, sealed, now_ms)?;
        stock::check_fresh(&self.db, &packages)?;
        stock::keep(&self.db, contact, suite, sealed, &packages)?;
        Ok(packages)
    }
}

/// Opens a claimed set: valid KeyPackages of different clients of the contact, all under one user pseudonym.
fn check(
    db: &Connection,
    contact: &ContactKeys,
    suite: Ciphersuite,
    sealed: &[u8],
    now_ms: u64,
) -> Result<Vec<ClaimedKeyPackage>, Error> {
    let set = open_set(&contact.connection_token, sealed)?;
    if set.key_packages.is_empty() || set.key_packages.len() > MAX_CLIENTS {
        return Err(PeerError::KeyPackage.into());
    }
    let mut user_pseudonym = None;
    let mut claimed: Vec<ClaimedKeyPackage> = Vec::with_capacity(set.key_packages.len());
    for key_package in &set.key_packages {
        let (package, user) = check_one(
            db,
            &contact.signature_key,
            &contact.connection_key,
            suite,
            key_package.as_slice(),
            now_ms,
        )?;
        let same_client = claimed.iter().any(|other| {
            other.key_package.leaf_node().signature_key()
                == package.key_package.leaf_node().signature_key()
        });
        if same_client || *user_pseudonym.get_or_insert_with(|| user.clone()) != user {
            return Err(PeerError::KeyPackage.into());
        }
        claimed.push(package);
    }
    Ok(claimed)
}

/// A KeyPackage of one client of a contact, or of this user, with the user pseudonym in it.
pub(crate) fn check_one(
    db: &Connection,
    signature_key: &[u8],
    connection_key: &ConnectionKey,
    suite: Ciphersuite,
    key_package: &[u8],
    now_ms: u64,
) -> Result<(ClaimedKeyPackage, VLBytes), Error> {
    let key_package = KeyPackageIn::tls_deserialize_exact_bytes(key_package)
        .ok()
        .and_then(|it| {
            it.validate(Provider::new(db).crypto(), ProtocolVersion::Mls10)
                .ok()
        })
        .filter(|it| it.ciphersuite() == suite)
        .filter(|it| {
            let shown = it.life_time();
            lifetime::is_good(shown.not_before(), shown.not_after(), now_ms / 1000)
        })
        .ok_or(PeerError::KeyPackage)?;
    let leaf = key_package.leaf_node();
    let pseudonymous = leaf::pseudonymous(leaf.credential(), leaf.signature_key().as_slice())
        .ok_or(PeerError::KeyPackage)?;
    let link_key = pseudonymous.link_key(connection_key);
    let credential = pseudonymous
        .open_identity_link(&link_key)
        .map_err(|_| PeerError::IdentityLink)?;
    if credential.signature_public_key.as_slice() != signature_key {
        return Err(PeerError::IdentityLink.into());
    }
    let claimed = ClaimedKeyPackage {
        key_package,
        link_key,
    };
    Ok((claimed, pseudonymous.user_pseudonym))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::opaque;

    use super::*;

    #[test]
    fn a_set_opens_with_the_token_that_it_was_published_under() {
        let token = PoolToken::new([1; 32]);
        let set = KeyPackageSet {
            key_packages: vec![opaque(vec![5; 300])],
        };
        let sealed = seal_set(&token, &set).unwrap();
        assert_eq!(open_set(&token, &sealed).unwrap(), set);
        assert!(open_set(&PoolToken::new([2; 32]), &sealed).is_err());
    }
}
