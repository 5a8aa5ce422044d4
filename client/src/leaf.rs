//! What all leaves have: ciphersuites, capabilities, a lifetime, a pseudonymous credential.

use crypto::credential::{CREDENTIAL_TYPE, PseudonymousCredential};
use crypto::sign::Scheme;
use openmls::prelude::{
    Capabilities, Ciphersuite, Credential, CredentialType, ExtensionType, Lifetime, MlsGroup,
    ProposalType, SignatureScheme,
};
use protocol::policy::POLICY_EXTENSION;
use protocol::{Wire as _, lifetime};

use crate::error::{Error, LocalError};

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
