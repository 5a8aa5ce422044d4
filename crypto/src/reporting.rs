//! Certificates and introductions as clients make and check them (`docs/abuse.md`). The issuer's
//! side, which knows accounts, has an implementation of its own.

use protocol::Wire;
use protocol::codec::opaque;
use protocol::reporting::{
    AbuseReport, CERTIFICATE_LABEL, CertificateRequest, INTRODUCTION_LABEL, Introduction,
    MAX_GREETING_BYTES, Occasion, REPORT_LABEL, ReportReason, ReportingCertificate,
    SignedIntroduction, VERSION, commitment_input,
};
use sha2::{Digest as _, Sha256};

use crate::sign::{self, SignatureKeyPair};
use crate::{CryptoError, random};

/// An introduction's day may differ from the recipient's by so much: clocks, and requests that
/// waited.
const DAYS_AHEAD: u32 = 1;

/// A certificate with what opens its commitment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    /// As the issuer gave it.
    pub certificate: ReportingCertificate,
    /// Shown to those only whom the holder introduces himself to.
    pub salt: [u8; 32],
}

/// A request for a certificate over `signature_key`, and the salt to keep for it.
///
/// # Errors
/// [`CryptoError::Backend`] without randomness.
pub fn request_certificate(
    signature_key: &[u8; 32],
) -> Result<(CertificateRequest, [u8; 32]), CryptoError> {
    let salt = random::<32>()?;
    let request = CertificateRequest {
        version: VERSION,
        commitment: commitment(&salt, signature_key),
    };
    Ok((request, salt))
}

fn commitment(salt: &[u8; 32], signature_key: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(commitment_input(salt, signature_key)).into()
}

/// How certificates name the issuer's key.
#[must_use]
pub fn key_id(certificate_key: &[u8]) -> [u8; 8] {
    let digest: [u8; 32] = Sha256::digest(certificate_key).into();
    let mut id = [0; 8];
    id.copy_from_slice(&digest[..8]);
    id
}

/// Verifies that one of the issuer's keys signed this certificate over a key, and that it is valid
/// on `today`.
///
/// # Errors
/// [`CryptoError::UnknownVersion`], [`CryptoError::InvalidKey`] for another key than the
/// certificate's, [`CryptoError::InvalidSignature`] for an unknown key of the issuer, a wrong
/// signature, or when it is too late.
pub fn verify_certificate(
    own: &OwnCertificate,
    signature_key: &[u8; 32],
    certificate_keys: &[[u8; 32]],
    today: u32,
) -> Result<(), CryptoError> {
    let certificate = &own.certificate;
    if certificate.version != VERSION {
        return Err(CryptoError::UnknownVersion);
    }
    if certificate.commitment != commitment(&own.salt, signature_key) {
        return Err(CryptoError::InvalidKey);
    }
    let key = certificate_keys
        .iter()
        .find(|key| key_id(*key) == certificate.key_id)
        .filter(|_| today <= certificate.not_after_day)
        .ok_or(CryptoError::InvalidSignature)?;
    sign::verify(
        key,
        CERTIFICATE_LABEL,
        &certificate.to_be_signed(),
        &certificate.signature,
    )
}

/// Introduces the holder of a certificate to one recipient.
///
/// # Errors
/// [`CryptoError::TooLong`] for a greeting of more than [`MAX_GREETING_BYTES`].
pub fn introduce(
    holder: &SignatureKeyPair,
    own: &OwnCertificate,
    occasion: Occasion,
    recipient_key: &[u8; 32],
    today: u32,
    greeting: &str,
) -> Result<SignedIntroduction, CryptoError> {
    if greeting.len() > MAX_GREETING_BYTES {
        return Err(CryptoError::TooLong);
    }
    let introduction = Introduction {
        version: VERSION,
        occasion,
        certificate: own.certificate.clone(),
        salt: own.salt,
        holder_key: holder.public(),
        recipient_key: *recipient_key,
        day: today,
        greeting: opaque(greeting.as_bytes()),
    };
    let signature = signature(holder, INTRODUCTION_LABEL, &introduction.encode())?;
    Ok(SignedIntroduction {
        introduction,
        signature,
    })
}

fn signature(key: &SignatureKeyPair, label: &str, content: &[u8]) -> Result<[u8; 64], CryptoError> {
    key.sign(label, content)
        .try_into()
        .map_err(|_| CryptoError::Backend)
}

/// Whom an introduction must come from and go to, and when.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The occasion that the introduction must be for.
    pub occasion: Occasion,
    /// From the owner of this real key.
    pub holder_key: &'a [u8],
    /// To the owner of this one.
    pub recipient_key: &'a [u8; 32],
    /// The certificate keys that the issuer publishes.
    pub certificate_keys: &'a [[u8; 32]],
    /// Days since 1970-01-01 (UTC).
    pub today: u32,
}

/// Verifies an introduction with every check that the issuer makes for a report. An introduction
/// that passes can be reported.
///
/// # Errors
/// [`CryptoError::CannotOpen`] for what is none, or another one than expected; else as
/// [`verify_certificate`].
pub fn verify_introduction(
    bytes: &[u8],
    expected: &Expected<'_>,
) -> Result<SignedIntroduction, CryptoError> {
    let signed = SignedIntroduction::decode(bytes).map_err(|_| CryptoError::CannotOpen)?;
    let introduction = &signed.introduction;
    if introduction.version != VERSION {
        return Err(CryptoError::UnknownVersion);
    }
    let as_expected = introduction.occasion == expected.occasion
        && introduction.holder_key == *expected.holder_key
        && introduction.recipient_key == *expected.recipient_key
        && introduction.day <= expected.today.saturating_add(DAYS_AHEAD)
        && introduction.day <= introduction.certificate.not_after_day
        && introduction.greeting.as_slice().len() <= MAX_GREETING_BYTES
        && std::str::from_utf8(introduction.greeting.as_slice()).is_ok();
    if !as_expected {
        return Err(CryptoError::CannotOpen);
    }
    let own = OwnCertificate {
        certificate: introduction.certificate.clone(),
        salt: introduction.salt,
    };
    verify_certificate(
        &own,
        &introduction.holder_key,
        expected.certificate_keys,
        expected.today,
    )?;
    sign::verify(
        &introduction.holder_key,
        INTRODUCTION_LABEL,
        &introduction.encode(),
        &signed.signature,
    )?;
    Ok(signed)
}

/// Reports whoever introduced himself to `reporter`, to be sent with this account token.
///
/// # Errors
/// [`CryptoError::Backend`] never in practice.
pub fn report(
    reporter: &SignatureKeyPair,
    account_token: &str,
    evidence: SignedIntroduction,
    reason: ReportReason,
) -> Result<AbuseReport, CryptoError> {
    let mut report = AbuseReport {
        version: VERSION,
        reason,
        account_token_digest: Sha256::digest(account_token).into(),
        evidence,
        signature: [0; 64],
    };
    report.signature = signature(reporter, REPORT_LABEL, &report.to_be_signed())?;
    Ok(report)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TODAY: u32 = 20_000;

    struct Issuer(SignatureKeyPair);

    impl Issuer {
        fn certify(&self, request: &CertificateRequest, salt: [u8; 32]) -> OwnCertificate {
            let mut certificate = ReportingCertificate {
                version: VERSION,
                key_id: key_id(&self.0.public()),
                commitment: request.commitment,
                account_handle: random().unwrap(),
                not_after_day: TODAY + 28,
                signature: [0; 64],
            };
            certificate.signature =
                signature(&self.0, CERTIFICATE_LABEL, &certificate.to_be_signed()).unwrap();
            OwnCertificate { certificate, salt }
        }
    }

    fn key() -> SignatureKeyPair {
        SignatureKeyPair::random().unwrap()
    }

    #[test]
    fn an_introduction_is_good_for_its_holder_recipient_occasion_and_time_only() {
        let (issuer, alice, bob, carol) = (Issuer(key()), key(), key(), key());
        let (request, salt) = request_certificate(&alice.public()).unwrap();
        let own = issuer.certify(&request, salt);
        let say = |holder: &SignatureKeyPair, own: &OwnCertificate, day| {
            introduce(holder, own, Occasion::Request, &bob.public(), day, "hello")
                .unwrap()
                .encode()
        };
        let introduction = say(&alice, &own, TODAY);
        let keys = [carol.public(), issuer.0.public()];
        let (holder, recipient) = (alice.public(), bob.public());
        let good = Expected {
            occasion: Occasion::Request,
            holder_key: &holder,
            recipient_key: &recipient,
            certificate_keys: &keys,
            today: TODAY,
        };
        let verified = verify_introduction(&introduction, &good).unwrap();
        assert_eq!(verified.introduction.greeting.as_slice(), b"hello");

        let stranger = carol.public();
        for wrong in [
            Expected {
                occasion: Occasion::Answer,
                ..good
            },
            Expected {
                holder_key: &stranger,
                ..good
            },
            Expected {
                recipient_key: &stranger,
                ..good
            },
            Expected {
                certificate_keys: &keys[..1],
                ..good
            },
            Expected {
                today: TODAY + 29,
                ..good
            },
            Expected {
                today: TODAY - 2,
                ..good
            },
        ] {
            assert!(
                verify_introduction(&introduction, &wrong).is_err(),
                "{wrong:?}"
            );
        }
        // Somebody else's certificate, or one that was changed, introduces nobody.
        let as_carol = Expected {
            holder_key: &stranger,
            ..good
        };
        assert_eq!(
            verify_introduction(&say(&carol, &own, TODAY), &as_carol),
            Err(CryptoError::InvalidKey)
        );
        let mut longer = own.clone();
        longer.certificate.not_after_day += 1;
        assert_eq!(
            verify_introduction(&say(&alice, &longer, TODAY), &good),
            Err(CryptoError::InvalidSignature)
        );
    }

    #[test]
    fn any_changed_byte_of_an_introduction_is_noticed() {
        let (issuer, alice, bob) = (Issuer(key()), key(), key());
        let (request, salt) = request_certificate(&alice.public()).unwrap();
        let own = issuer.certify(&request, salt);
        let introduction = introduce(&alice, &own, Occasion::Answer, &bob.public(), TODAY, "hi")
            .unwrap()
            .encode();
        let (holder, recipient, keys) = (alice.public(), bob.public(), [issuer.0.public()]);
        let expected = Expected {
            occasion: Occasion::Answer,
            holder_key: &holder,
            recipient_key: &recipient,
            certificate_keys: &keys,
            today: TODAY,
        };
        assert!(verify_introduction(&introduction, &expected).is_ok());
        for at in 0..introduction.len() {
            let mut changed = introduction.clone();
            changed[at] ^= 1;
            assert!(
                verify_introduction(&changed, &expected).is_err(),
                "byte {at}"
            );
        }
    }

    #[test]
    fn two_certificates_of_one_key_share_nothing_that_differs_between_users() {
        let issuer = Issuer(key());
        let alice = key();
        let mut certificates = Vec::new();
        for _ in 0..2 {
            let (request, salt) = request_certificate(&alice.public()).unwrap();
            certificates.push(issuer.certify(&request, salt));
        }
        assert_ne!(certificates[0].salt, certificates[1].salt);
        assert_ne!(
            certificates[0].certificate.commitment,
            certificates[1].certificate.commitment
        );
    }

    #[test]
    fn a_greeting_that_is_too_long_is_not_signed() {
        let (request, salt) = request_certificate(&[1; 32]).unwrap();
        let own = Issuer(key()).certify(&request, salt);
        let long = "a".repeat(MAX_GREETING_BYTES + 1);
        assert_eq!(
            introduce(&key(), &own, Occasion::Request, &[2; 32], TODAY, &long).unwrap_err(),
            CryptoError::TooLong
        );
    }
}
