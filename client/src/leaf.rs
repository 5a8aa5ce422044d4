//! What all leaves have: ciphersuites, capabilities, a lifetime, a pseudonymous credential.

use crypto::credential::{CREDENTIAL_TYPE, PseudonymousCredential};
use crypto::hpke::Kem;
use crypto::sign::Scheme;
use openmls::prelude::{
    Capabilities, Ciphersuite, Credential, CredentialType, ExtensionType, LeafNode, Lifetime,
    MlsGroup, ProposalType, SignatureScheme,
};
use protocol::policy::POLICY_EXTENSION;
use protocol::{Wire as _, lifetime};

use crate::error::{Error, LocalError};

/// The ciphersuite of connections and devices' groups, always, and of groups unless another one is
/// chosen: X-Wing, AES-128-GCM, SHA-256, Ed25519.
pub(crate) const CIPHERSUITE: Ciphersuite =
    Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519;

/// The ciphersuite of a group in which somebody does not have X-Wing: X25519 in its place.
pub(crate) const CLASSICAL_SUITE: Ciphersuite =
    Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// The ciphersuites that groups may have; the last two with X-Wing, the post-quantum hybrid.
pub(crate) const CIPHERSUITES: &[Ciphersuite] = &[
    CLASSICAL_SUITE,
    Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    Ciphersuite::MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519,
    CIPHERSUITE,
];

/// The ciphersuite with this number, if groups may have it.
pub(crate) fn ciphersuite(number: u16) -> Option<Ciphersuite> {
    CIPHERSUITES
        .iter()
        .copied()
        .find(|suite| u16::from(*suite) == number)
}

/// Whether what is recorded of a group with this ciphersuite stays closed to a quantum computer.
pub(crate) fn is_post_quantum(suite: Ciphersuite) -> bool {
    Kem::of_ciphersuite(suite.into()) == Some(Kem::XWing)
}

/// Whether a leaf says that its client takes groups with [`CIPHERSUITE`].
pub(crate) fn takes_post_quantum(leaf: &LeafNode) -> bool {
    let suites = leaf.capabilities().ciphersuites();
    suites.contains(&CIPHERSUITE.into())
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

/// What a leaf of a group with ciphersuite `suite` says that its client can do. A client that takes
/// no X-Wing in groups of its contacts says so here: the service cannot say it in its place.
pub(crate) fn capabilities(suite: Ciphersuite, takes_post_quantum: bool) -> Capabilities {
    // In one order whatever the options: another one would mark a client.
    let suites: Vec<_> = CIPHERSUITES
        .iter()
        .copied()
        .filter(|it| takes_post_quantum || *it == suite || !is_post_quantum(*it))
        .collect();
    Capabilities::new(
        None,
        Some(&suites),
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
