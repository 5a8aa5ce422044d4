//! What the MLS library needs: cryptography, storage in our database, and a signer.

use crypto::CryptoError;
use crypto::sign::{LeafKeyPair, Scheme};
use openmls::prelude::SignatureScheme;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;
use openmls_traits::signatures::{Signer, SignerError};
use rusqlite::Connection;

use crate::store::storage::Storage;

/// The library's view of one connection or transaction.
pub(crate) struct Provider<'a> {
    crypto: RustCrypto,
    storage: Storage<'a>,
}

impl<'a> Provider<'a> {
    pub(crate) fn new(connection: &'a Connection) -> Self {
        Self {
            crypto: RustCrypto::default(),
            storage: Storage::new(connection),
        }
    }
}

impl<'a> OpenMlsProvider for Provider<'a> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = Storage<'a>;

    fn storage(&self) -> &Self::StorageProvider {
        &self.storage
    }

    fn crypto(&self) -> &Self::CryptoProvider {
        &self.crypto
    }

    fn rand(&self) -> &Self::RandProvider {
        &self.crypto
    }
}

/// A leaf's signature key.
pub(crate) struct LeafSigner(pub(crate) LeafKeyPair);

impl LeafSigner {
    /// The same key, for a request that takes one over.
    pub(crate) fn key(&self) -> Result<LeafKeyPair, CryptoError> {
        LeafKeyPair::from_seed(self.0.scheme(), &self.0.seed())
    }
}

impl Signer for LeafSigner {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_bytes(payload))
    }

    fn signature_scheme(&self) -> SignatureScheme {
        match self.0.scheme() {
            Scheme::Ed25519 => SignatureScheme::ED25519,
            Scheme::EcdsaP256 => SignatureScheme::ECDSA_SECP256R1_SHA256,
        }
    }
}
