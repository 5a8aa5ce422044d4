//! The evidence that a report must show before anything is done about it.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use protocol::Wire as _;
use protocol::codec::sign_content;
use protocol::reporting::{
    AbuseReport, CERTIFICATE_LABEL, INTRODUCTION_LABEL, MAX_GREETING_BYTES, REPORT_LABEL, VERSION,
    commitment_input,
};
use sha2::{Digest as _, Sha256};

use super::keys::CertificateKeys;
use crate::store::Day;
use crate::store::reports::AccountTag;

/// Why a report is refused: always the fault of the reporter or of the reporter's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    #[error("the report is of a version that is not known here")]
    UnknownVersion,
    #[error("the report is not signed by the recipient of the introduction for this account token")]
    NotTheRecipient,
    #[error("the certificate is not ours, or not for the key that signed the introduction")]
    Certificate,
    #[error("the certificate has expired")]
    CertificateExpired,
    #[error("the introduction is not signed by the key of the certificate")]
    Introduction,
}

/// A report that holds: the account stands behind the key that approached the one who signed the
/// report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct VerifiedReport {
    pub(crate) account: AccountTag,
}

/// Verifies a report with all that it is about.
pub(crate) fn verify(
    report: &AbuseReport,
    account_token_digest: &[u8; 32],
    keys: &CertificateKeys,
    today: Day,
) -> Result<VerifiedReport, EvidenceError> {
    let introduction = &report.evidence.introduction;
    let certificate = &introduction.certificate;
    if [report.version, introduction.version, certificate.version] != [VERSION; 3] {
        return Err(EvidenceError::UnknownVersion);
    }
    // Who was not approached has not the recipient's key; who has only got hold of the report,
    // another account.
    let by_recipient = signed(
        &introduction.recipient_key,
        REPORT_LABEL,
        &report.to_be_signed(),
        &report.signature,
    );
    if report.account_token_digest != *account_token_digest || !by_recipient {
        return Err(EvidenceError::NotTheRecipient);
    }
    let key = keys
        .find(&certificate.key_id)
        .ok_or(EvidenceError::Certificate)?;
    let commitment: [u8; 32] = Sha256::digest(commitment_input(
        &introduction.salt,
        &introduction.holder_key,
    ))
    .into();
    let ours = signed(
        key.public(),
        CERTIFICATE_LABEL,
        &certificate.to_be_signed(),
        &certificate.signature,
    );
    if !ours || certificate.commitment != commitment {
        return Err(EvidenceError::Certificate);
    }
    if today.0 > certificate.not_after_day {
        return Err(EvidenceError::CertificateExpired);
    }
    let by_holder = signed(
        &introduction.holder_key,
        INTRODUCTION_LABEL,
        &introduction.encode(),
        &report.evidence.signature,
    );
    let possible = introduction.day <= today.0.saturating_add(1)
        && introduction.greeting.as_slice().len() <= MAX_GREETING_BYTES
        && introduction.holder_key != introduction.recipient_key;
    if !by_holder || !possible {
        return Err(EvidenceError::Introduction);
    }
    let account = key
        .open(&certificate.account_handle)
        .ok_or(EvidenceError::Certificate)?;
    Ok(VerifiedReport { account })
}

fn signed(public: &[u8; 32], label: &str, content: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, public)
        .verify(&sign_content(label, content), signature)
        .is_ok()
}
