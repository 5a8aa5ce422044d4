//! A leaf of `mls-rs` before it is in a group: its keys and its identity.

use super::*;

/// The signature key of a leaf, in the hands of `mls-rs`.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) suite: CipherSuite,
    pub(super) secret: SignatureSecretKey,
    pub(super) public: SignaturePublicKey,
}

fn provider(suite: CipherSuite) -> impl mls_rs::CipherSuiteProvider {
    RustCryptoProvider::new()
        .cipher_suite_provider(suite)
        .unwrap()
}

impl Key {
    pub(super) fn random(suite: CipherSuite) -> Self {
        let (secret, public) = provider(suite).signature_key_generate().unwrap();
        Self {
            suite,
            secret,
            public,
        }
    }

    /// `SignWithLabel` of this protocol.
    pub(super) fn sign(&self, label: &str, content: &[u8]) -> Vec<u8> {
        let content = sign_content(label, content);
        provider(self.suite).sign(&self.secret, &content).unwrap()
    }

    pub(super) fn request(
        &self,
        world: &mut World,
        operation: Number,
        body: &impl protocol::Wire,
    ) -> Vec<u8> {
        let sender = Sender::Key(opaque(self.public.as_bytes()));
        let minute = Minute::of(world.service.now_ms);
        let nonce = world.nonce();
        signed(operation, minute, nonce, sender, body, |tbs| {
            self.sign(REQUEST_LABEL, tbs)
        })
    }

    pub(super) fn recovery_key(&self, id: &GroupId, public_key: &[u8]) -> RecoveryKey {
        let tbs = RecoveryKeyTbs {
            group_id: *id,
            leaf_key: opaque(self.public.as_bytes()),
            public_key: opaque(public_key),
        };
        RecoveryKey {
            public_key: opaque(public_key),
            signature: opaque(self.sign(RECOVERY_KEY_LABEL, &tbs.encode())),
        }
    }

    pub(super) fn extras(&self, id: &GroupId) -> (LeafExtras, Vec<u8>) {
        let recovery = crypto::random::<32>().unwrap().to_vec();
        let extras = LeafExtras {
            wrapped_link_key: opaque(vec![8; 60]),
            recovery_key: self.recovery_key(id, &recovery),
            push_handle: opaque(vec![9; PUSH_HANDLE_BYTES]),
        };
        (extras, recovery)
    }
}

/// A leaf that is about to come in.
pub(crate) struct OtherLeaf {
    pub(super) key: Key,
    pub(super) identity: SigningIdentity,
    pub(super) mls: Mls,
    pub(super) user: Vec<u8>,
}

/// Everything that the service wants to see in a commit: GroupInfo for external commits, a path;
/// and no tree in a Welcome, since joiners get it from the service.
fn rules() -> DefaultMlsRules {
    DefaultMlsRules::new().with_commit_options(
        CommitOptions::new()
            .with_path_required(true)
            .with_ratchet_tree_extension(false)
            .with_allow_external_commit(true),
    )
}

pub(super) fn scheme_of(suite: CipherSuite) -> Scheme {
    if suite == CipherSuite::P256_AES128 {
        Scheme::EcdsaP256
    } else {
        Scheme::Ed25519
    }
}

impl OtherLeaf {
    pub(crate) fn new(world: &World, user: Vec<u8>) -> Self {
        let suite = CipherSuite::new(world.suite.into());
        Self::for_key(world, user, Key::random(suite))
    }

    pub(super) fn for_key(world: &World, user: Vec<u8>, key: Key) -> Self {
        let real_key = SignatureKeyPair::random().unwrap();
        let real = ClientCredential {
            name: opaque(*b"a name"),
            signature_public_key: opaque(real_key.public()),
        };
        let (credential, _) = PseudonymousCredential::issue(
            DOMAIN,
            opaque(user.as_slice()),
            &key.public,
            &real,
            &real_key,
            &ConnectionKey::new(crypto::random().unwrap()),
        )
        .unwrap();
        let credential =
            CustomCredential::new(CredentialType::new(CREDENTIAL_TYPE), credential.encode());
        let identity = SigningIdentity::new(Credential::Custom(credential), key.public.clone());
        // It counts from the time that is given when the package is made: 0.
        let (_, end) = lifetime::bounds(world.service.now_ms / 1000 + 84 * 24 * 60 * 60);
        let mls = mls_rs::Client::builder()
            .key_package_lifetime(Duration::from_secs(end))
            .crypto_provider(RustCryptoProvider::new())
            .mls_rules(rules())
            .identity_provider(Pseudonymous)
            .extension_type(ExtensionType::new(POLICY_EXTENSION))
            .signing_identity(identity.clone(), key.secret.clone(), key.suite)
            .build();
        Self {
            key,
            identity,
            mls,
            user,
        }
    }

    pub(crate) fn key_package(&self) -> openmls::prelude::KeyPackage {
        let none = ExtensionList::new;
        let message = self
            .mls
            .generate_key_package_message(none(), none(), Some(0.into()))
            .unwrap();
        key_package_of(&message.to_bytes().unwrap())
    }
}
