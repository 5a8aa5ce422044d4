//! Pseudonymous credentials to `mls-rs`: each for its own signature key. Whose they are is the
//! identity links' to say.

use crypto::credential::{CREDENTIAL_TYPE, PseudonymousCredential};
use mls_rs::error::IntoAnyError;
use mls_rs::identity::{CredentialType, SigningIdentity};
use mls_rs::time::MlsTime;
use mls_rs::{ExtensionList, IdentityProvider};
use mls_rs_core::identity::MemberValidationContext;
use protocol::Wire as _;

#[derive(Debug, Clone)]
pub(super) struct Pseudonymous;

#[derive(Debug)]
pub(super) struct NotPseudonymous;

impl IntoAnyError for NotPseudonymous {}

pub(super) fn pseudonyms(
    identity: &SigningIdentity,
) -> Result<PseudonymousCredential, NotPseudonymous> {
    let credential = identity
        .credential
        .as_custom()
        .filter(|custom| custom.credential_type() == CredentialType::new(CREDENTIAL_TYPE))
        .and_then(|custom| PseudonymousCredential::decode(custom.data()).ok())
        .ok_or(NotPseudonymous)?;
    if credential.signature_public_key.as_slice() == identity.signature_key.as_bytes() {
        Ok(credential)
    } else {
        Err(NotPseudonymous)
    }
}

impl IdentityProvider for Pseudonymous {
    type Error = NotPseudonymous;

    fn validate_member(
        &self,
        identity: &SigningIdentity,
        _: Option<MlsTime>,
        _: MemberValidationContext<'_>,
    ) -> Result<(), NotPseudonymous> {
        pseudonyms(identity).map(|_| ())
    }

    fn validate_external_sender(
        &self,
        identity: &SigningIdentity,
        _: Option<MlsTime>,
        _: Option<&ExtensionList>,
    ) -> Result<(), NotPseudonymous> {
        identity
            .credential
            .as_basic()
            .map(|_| ())
            .ok_or(NotPseudonymous)
    }

    fn identity(
        &self,
        identity: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<Vec<u8>, NotPseudonymous> {
        Ok(pseudonyms(identity)?.client_pseudonym.into())
    }

    fn valid_successor(
        &self,
        predecessor: &SigningIdentity,
        successor: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<bool, NotPseudonymous> {
        Ok(pseudonyms(predecessor)?.user_pseudonym == pseudonyms(successor)?.user_pseudonym)
    }

    /// `mls-rs` wants every leaf to support the external senders' type too.
    fn supported_types(&self) -> Vec<CredentialType> {
        vec![CredentialType::new(CREDENTIAL_TYPE), CredentialType::BASIC]
    }
}
