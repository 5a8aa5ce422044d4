//! Own KeyPackages: published ahead. Contacts' KeyPackages: claimed and checked.

use crypto::kdf;
use crypto::keys::{ConnectionToken, Lookup as _};
use crypto::sealing::{self, Place};
use crypto::sign::SignatureKeyPair;
use openmls::prelude::{
    Ciphersuite, KeyPackage, KeyPackageIn, OpenMlsProvider as _, ProtocolVersion,
};
use protocol::codec::opaque;
use protocol::directory::Directory;
use protocol::envelope::Sender;
use protocol::groups::Accepted;
use protocol::key_packages::{
    Claim, ClaimKeyPackagesRequest, ClaimKeyPackagesResponse, KeyPackageSet, KeyPackageSetUpload,
    PublishKeyPackagesRequest,
};
use protocol::time::day_of;
use protocol::{Operation, Wire as _};
use rusqlite::Connection;
use tls_codec::{DeserializeBytes as _, Serialize as _};

use crate::Client;
use crate::contacts::ContactKeys;
use crate::error::{Error, PeerError, mls};
use crate::leaf::{self, CIPHERSUITE, LIFETIME_S, NewLeaf};
use crate::profile::Profile;
use crate::provider::Provider;

/// So many sets are published at a time,
const BATCH: u32 = 20;
/// when fewer than so many are left.
const LOW: u32 = 8;
/// The last-resort set is replaced after so many days, well within its lifetime.
const LAST_RESORT_DAYS: u32 = 28;
const DAY_S: u64 = 24 * 60 * 60;

/// A KeyPackage that is valid and of the contact it was claimed for.
pub(crate) struct ClaimedKeyPackage {
    pub(crate) key_package: KeyPackage,
    pub(crate) link_key: crypto::keys::IdentityLinkKey,
}

fn set_key(token: &ConnectionToken) -> zeroize::Zeroizing<[u8; 32]> {
    zeroize::Zeroizing::new(kdf::derive(token.expose(), "key package sets", &[]))
}

fn seal_set(token: &ConnectionToken, set: &KeyPackageSet) -> Result<Vec<u8>, Error> {
    let lookup = token.lookup();
    let place = Place {
        table: "key_package_sets",
        row: &lookup.0,
        part: "set",
    };
    Ok(sealing::seal(&set_key(token), place, &set.encode())?)
}

fn open_set(token: &ConnectionToken, sealed: &[u8]) -> Result<KeyPackageSet, Error> {
    let lookup = token.lookup();
    let place = Place {
        table: "key_package_sets",
        row: &lookup.0,
        part: "set",
    };
    let opened =
        sealing::open(&set_key(token), place, sealed).map_err(|_| PeerError::KeyPackage)?;
    KeyPackageSet::decode(&opened).map_err(|_| PeerError::KeyPackage.into())
}

/// Makes a set of one KeyPackage: one client a user, for now.
fn make_set(
    db: &Connection,
    profile: &Profile,
    directory: &Directory,
    last_resort: bool,
    now_ms: u64,
) -> Result<KeyPackageSetUpload, Error> {
    let leaf = NewLeaf::make(profile, directory)?;
    leaf.store_key(db)?;
    let builder = KeyPackage::builder()
        .key_package_lifetime(leaf::lifetime(now_ms))
        .leaf_node_capabilities(leaf::capabilities())
        .leaf_node_extensions(leaf.extensions.clone());
    let builder = if last_resort {
        builder.mark_as_last_resort()
    } else {
        builder
    };
    let bundle = builder
        .build(
            CIPHERSUITE,
            &Provider::new(db),
            &leaf.signer,
            leaf.credential.clone(),
        )
        .map_err(mls)?;
    let key_package = bundle.key_package().tls_serialize_detached().map_err(mls)?;
    let set = KeyPackageSet {
        key_packages: vec![opaque(key_package)],
    };
    // Not handed out in its last days, so that whoever claims it has time to use it.
    let lifetime_days = u32::try_from(LIFETIME_S / DAY_S)
        .unwrap_or(0)
        .saturating_sub(4);
    Ok(KeyPackageSetUpload {
        ciphersuite: CIPHERSUITE as u16,
        expiry_day: day_of(now_ms).saturating_add(lifetime_days),
        last_resort: u8::from(last_resort),
        sealed: opaque(seal_set(&profile.connection_token, &set)?),
    })
}

impl Client {
    /// Publishes KeyPackages when few are left.
    pub(crate) async fn replenish_key_packages(&mut self) -> Result<(), Error> {
        let (left, last_resort_day): (u32, u32) = self.db.query_row(
            "SELECT key_packages_left, last_resort_day FROM profile",
            (),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let now_ms = self.transport.time.now_unix_ms();
        let today = day_of(now_ms);
        let last_resort_due = last_resort_day.saturating_add(LAST_RESORT_DAYS) <= today;
        if self.profile.handle.is_none() || (left >= LOW && !last_resort_due) {
            return Ok(());
        }
        let batch = if left < LOW { BATCH } else { 0 };
        let directory = self.directory().await?;
        // Their private keys are durable before anybody can claim them.
        let sets = self.transact(|db, profile| {
            let ordinary = (0..batch).map(|_| false);
            ordinary
                .chain(last_resort_due.then_some(true))
                .map(|last_resort| make_set(db, profile, &directory, last_resort, now_ms))
                .collect()
        })?;
        let request = PublishKeyPackagesRequest {
            lookup: self.profile.connection_token.lookup(),
            sets,
        };
        let owner = SignatureKeyPair::from_seed(&self.profile.pool_owner.seed());
        let _: Accepted = self
            .call(Operation::PublishKeyPackages, owner, &request)
            .await?;
        self.db.execute(
            "UPDATE profile SET key_packages_left = key_packages_left + ?, last_resort_day = ?",
            (
                batch,
                if last_resort_due {
                    today
                } else {
                    last_resort_day
                },
            ),
        )?;
        Ok(())
    }

    /// Claims one KeyPackage of each contact, in a ciphersuite: all or none.
    pub(crate) async fn claim(
        &mut self,
        contacts: &[ContactKeys],
        suite: Ciphersuite,
    ) -> Result<Vec<ClaimedKeyPackage>, Error> {
        let claims = contacts
            .iter()
            .map(|contact| Claim {
                lookup: contact.connection_token.lookup(),
                ciphersuite: u16::from(suite),
            })
            .collect();
        let request = ClaimKeyPackagesRequest { claims }.encode();
        let signer = SignatureKeyPair::random()?;
        let sender = Sender::Key(opaque(signer.public()));
        let claimed: ClaimKeyPackagesResponse = self
            .call_as(
                Operation::ClaimKeyPackages,
                sender,
                signer,
                request,
                contacts.len(),
            )
            .await?;
        if claimed.sets.len() != contacts.len() {
            return Err(Error::Protocol("an answer to another number of claims"));
        }
        contacts
            .iter()
            .zip(&claimed.sets)
            .map(|(contact, set)| check(&self.db, contact, suite, set.sealed.as_slice()))
            .collect()
    }
}

fn check(
    db: &Connection,
    contact: &ContactKeys,
    suite: Ciphersuite,
    sealed: &[u8],
) -> Result<ClaimedKeyPackage, Error> {
    let set = open_set(&contact.connection_token, sealed)?;
    let [key_package] = set.key_packages.as_slice() else {
        return Err(PeerError::KeyPackage.into());
    };
    let key_package = KeyPackageIn::tls_deserialize_exact_bytes(key_package.as_slice())
        .ok()
        .and_then(|it| {
            it.validate(Provider::new(db).crypto(), ProtocolVersion::Mls10)
                .ok()
        })
        .filter(|it| it.ciphersuite() == suite)
        .ok_or(PeerError::KeyPackage)?;
    let leaf = key_package.leaf_node();
    let pseudonymous = leaf::pseudonymous(leaf.credential(), leaf.signature_key().as_slice())
        .ok_or(PeerError::KeyPackage)?;
    let link_key = pseudonymous.link_key(&contact.connection_key);
    let credential = pseudonymous
        .open_identity_link(&link_key)
        .map_err(|_| PeerError::IdentityLink)?;
    if credential.signature_public_key.as_slice() != contact.signature_key {
        return Err(PeerError::IdentityLink.into());
    }
    Ok(ClaimedKeyPackage {
        key_package,
        link_key,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_set_opens_with_the_token_that_it_was_published_under() {
        let token = ConnectionToken::new([1; 32]);
        let set = KeyPackageSet {
            key_packages: vec![opaque(vec![5; 300])],
        };
        let sealed = seal_set(&token, &set).unwrap();
        assert_eq!(open_set(&token, &sealed).unwrap(), set);
        assert!(open_set(&ConnectionToken::new([2; 32]), &sealed).is_err());
    }
}
