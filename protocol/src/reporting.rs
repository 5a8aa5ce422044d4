//! Reporting abuse to the token issuer without telling anybody else an account (`docs/abuse.md`):
//! certificates, introductions and reports. They travel sealed between clients, and from clients to
//! the issuer; the delivery service sees none of them.

use tls_codec::{
    DeserializeBytes, Serialize, Size, TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes,
};

use crate::Wire;
use crate::codec::opaque;

/// Path at which the issuer says what it offers. The answer is JSON, see [`ReportingDirectory`].
pub const DIRECTORY_PATH: &str = "/.well-known/mimimi-reporting";
/// Where [`CertificateRequest`]s are posted.
pub const CERTIFICATE_PATH: &str = "/reporting-certificate";
/// Where [`AbuseReport`]s are posted.
pub const REPORT_PATH: &str = "/abuse-report";
/// Media type of a [`CertificateRequest`].
pub const CERTIFICATE_REQUEST_MEDIA_TYPE: &str = "application/mimimi-certificate-request";
/// Media type of a [`ReportingCertificate`].
pub const CERTIFICATE_MEDIA_TYPE: &str = "application/mimimi-certificate";
/// Media type of an [`AbuseReport`].
pub const REPORT_MEDIA_TYPE: &str = "application/mimimi-abuse-report";

/// The version of everything here.
pub const VERSION: u16 = 1;
/// Bytes of an account handle: nonce (12), keyed hash of the account (32), tag (16).
pub const ACCOUNT_HANDLE_LEN: usize = 60;
/// Longest greeting in bytes (UTF-8).
pub const MAX_GREETING_BYTES: usize = 256;
/// Bytes of an introduction's place in a connection request, the same for any content.
pub const REQUEST_SLOT: usize = 640;
/// Bytes of an introduction's place in an identity link, the same for any content.
pub const LINK_SLOT: usize = 384;

/// Labels of the signatures here, after the prefix of [`crate::codec::sign_content`].
pub const CERTIFICATE_LABEL: &str = "ReportingCertificateTBS";
/// Signature label of an [`Introduction`].
pub const INTRODUCTION_LABEL: &str = "IntroductionTBS";
/// Signature label of an [`AbuseReport`].
pub const REPORT_LABEL: &str = "AbuseReportTBS";

const SECONDS_PER_DAY: u64 = 86_400;

/// Days since 1970-01-01 (UTC).
#[must_use]
pub fn day_of_unix_s(unix_s: u64) -> u32 {
    u32::try_from(unix_s / SECONDS_PER_DAY).unwrap_or(u32::MAX)
}

/// What an issuer offers; the same for everybody.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReportingDirectory {
    /// Whether clients are asked to take no connection request without a certificate.
    pub required: bool,
    /// Ed25519 keys that certificates are signed with: base64url. New ones stand here before they
    /// are used.
    pub certificate_keys: Vec<String>,
}

/// Asks for a certificate over a key that the issuer does not see. Authenticated by the account
/// token.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CertificateRequest {
    /// [`VERSION`].
    pub version: u16,
    /// SHA-256 of [`commitment_input`].
    pub commitment: [u8; 32],
}

/// The bytes that are hashed for a commitment to a real signature key. Before the salt is shown,
/// nobody can tell from the hash whose key it is.
#[must_use]
pub fn commitment_input(salt: &[u8; 32], signature_key: &[u8; 32]) -> Vec<u8> {
    [
        b"MIMIMI 1.0 reporting commitment\0",
        &salt[..],
        signature_key,
    ]
    .concat()
}

/// The issuer's word that some account stands behind a signature key. Only the issuer can read
/// which account. Only holders of the salt know which key.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ReportingCertificate {
    /// [`VERSION`].
    pub version: u16,
    /// The first eight bytes of SHA-256 of the issuer's key.
    pub key_id: [u8; 8],
    /// The commitment from the [`CertificateRequest`].
    pub commitment: [u8; 32],
    /// Encrypted under a key that only the issuer has, with a fresh nonce.
    pub account_handle: [u8; ACCOUNT_HANDLE_LEN],
    /// The last day of validity, at the end of a week.
    pub not_after_day: u32,
    /// Ed25519, label [`CERTIFICATE_LABEL`], over all above.
    pub signature: [u8; 64],
}

impl ReportingCertificate {
    /// The bytes that the issuer signs: every field before the signature.
    #[must_use]
    pub fn to_be_signed(&self) -> Vec<u8> {
        without_signature(self.encode())
    }
}

/// On which occasion somebody introduced himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Occasion {
    /// He asked for a connection.
    Request = 1,
    /// He answered a request.
    Answer = 2,
}

/// A statement that the holder of a certificate makes to one recipient, and for which it can be
/// reported.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Introduction {
    /// [`VERSION`].
    pub version: u16,
    /// Whether the holder asked for the connection or answered.
    pub occasion: Occasion,
    /// The certificate of the holder's key.
    pub certificate: ReportingCertificate,
    /// Opens the certificate's commitment.
    pub salt: [u8; 32],
    /// The holder's real signature key.
    pub holder_key: [u8; 32],
    /// The recipient's real signature key: nobody else can report this.
    pub recipient_key: [u8; 32],
    /// When: days since 1970-01-01 (UTC).
    pub day: u32,
    /// UTF-8, at most [`MAX_GREETING_BYTES`]; may be empty.
    pub greeting: VLBytes,
}

/// An [`Introduction`] as it travels.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SignedIntroduction {
    /// The statement to the recipient.
    pub introduction: Introduction,
    /// Ed25519 by `holder_key`, label [`INTRODUCTION_LABEL`].
    pub signature: [u8; 64],
}

/// Why somebody is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum ReportReason {
    /// Unasked-for advertising and the like.
    Spam = 1,
    /// Threats, insults, worse.
    Abuse = 2,
    /// Something else.
    Other = 3,
}

impl ReportReason {
    /// All, by their names.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("spam", Self::Spam),
        ("abuse", Self::Abuse),
        ("other", Self::Other),
    ];

    /// The name in lists and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Spam => "spam",
            Self::Abuse => "abuse",
            Self::Other => "other",
        }
    }
}

/// A report to the issuer, authenticated by the reporter's account token.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct AbuseReport {
    /// [`VERSION`].
    pub version: u16,
    /// The reason that the reporter gives.
    pub reason: ReportReason,
    /// SHA-256 of the account token that the report is sent with: under another account it is worth
    /// nothing.
    pub account_token_digest: [u8; 32],
    /// The introduction that the reported user signed.
    pub evidence: SignedIntroduction,
    /// Ed25519 by the recipient named in the evidence, label [`REPORT_LABEL`], over all above.
    pub signature: [u8; 64],
}

impl AbuseReport {
    /// The bytes that the reporter signs: every field before the signature.
    #[must_use]
    pub fn to_be_signed(&self) -> Vec<u8> {
        without_signature(self.encode())
    }
}

fn without_signature(mut encoded: Vec<u8>) -> Vec<u8> {
    encoded.truncate(encoded.len().saturating_sub(64));
    encoded
}

/// Up to `N - 2` bytes in exactly `N`: length (2), content, zeros. Nobody can tell from the length
/// of a ciphertext whether something stands here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padded<const N: usize>(VLBytes);

/// [`Padded`] in the presentation language, for the documents; tests hold the codec to it.
pub const PADDED_PRESENTATION: &str = "struct {
    uint16 length;
    opaque content[Padded.length];
    opaque zeros[N - 2 - Padded.length];
} Padded<N>;";

impl<const N: usize> Padded<N> {
    /// A slot without content, all zeros.
    #[must_use]
    pub fn empty() -> Self {
        Self(opaque([]))
    }

    /// `None` for content that is too long.
    #[must_use]
    pub fn new(content: impl Into<Vec<u8>>) -> Option<Self> {
        let content = content.into();
        (content.len().saturating_add(2) <= N).then(|| Self(opaque(content)))
    }

    /// The content of the slot; empty if there is none.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl<const N: usize> Size for Padded<N> {
    fn tls_serialized_len(&self) -> usize {
        N
    }
}

impl<const N: usize> Serialize for Padded<N> {
    fn tls_serialize<W: std::io::Write>(&self, writer: &mut W) -> Result<usize, tls_codec::Error> {
        let content = self.content();
        let length =
            u16::try_from(content.len()).map_err(|_| tls_codec::Error::InvalidVectorLength)?;
        let zeros = N
            .checked_sub(content.len().saturating_add(2))
            .ok_or(tls_codec::Error::InvalidVectorLength)?;
        writer.write_all(&length.to_be_bytes())?;
        writer.write_all(content)?;
        writer.write_all(&vec![0; zeros])?;
        Ok(N)
    }
}

impl<const N: usize> DeserializeBytes for Padded<N> {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), tls_codec::Error> {
        let (slot, rest) = bytes
            .split_at_checked(N)
            .ok_or(tls_codec::Error::EndOfStream)?;
        let (length, slot) = slot
            .split_first_chunk::<2>()
            .ok_or(tls_codec::Error::EndOfStream)?;
        let (content, padding) = slot
            .split_at_checked(usize::from(u16::from_be_bytes(*length)))
            .ok_or(tls_codec::Error::InvalidVectorLength)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(tls_codec::Error::InvalidInput);
        }
        Ok((Self(opaque(content)), rest))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_length_whatever_stands_in_it_and_nothing_hides_behind_the_content() {
        for length in [0, 1, 61, 62] {
            let slot = Padded::<64>::new(vec![7; length]).unwrap();
            let encoded = slot.encode();
            assert_eq!(encoded.len(), 64);
            assert_eq!(Padded::<64>::decode(&encoded).unwrap(), slot);
        }
        assert!(Padded::<64>::new(vec![7; 63]).is_none());
        let mut hidden = Padded::<64>::new([7]).unwrap().encode();
        *hidden.last_mut().unwrap() = 1;
        assert!(Padded::<64>::decode(&hidden).is_err());
        assert!(Padded::<64>::decode(&[&[0, 63][..], &[0; 62]].concat()).is_err());
    }

    #[test]
    fn the_longest_introduction_fits_into_its_place() {
        let certificate = ReportingCertificate {
            version: 1,
            key_id: [0; 8],
            commitment: [0; 32],
            account_handle: [0; ACCOUNT_HANDLE_LEN],
            not_after_day: 0,
            signature: [0; 64],
        };
        let mut signed = SignedIntroduction {
            introduction: Introduction {
                version: 1,
                occasion: Occasion::Request,
                certificate,
                salt: [0; 32],
                holder_key: [0; 32],
                recipient_key: [0; 32],
                day: 0,
                greeting: opaque(vec![b'a'; MAX_GREETING_BYTES]),
            },
            signature: [0; 64],
        };
        assert!(Padded::<REQUEST_SLOT>::new(signed.encode()).is_some());
        signed.introduction.greeting = opaque([]);
        assert!(Padded::<LINK_SLOT>::new(signed.encode()).is_some());
    }

    #[test]
    fn every_reason_has_a_name() {
        for (name, reason) in ReportReason::NAMES {
            assert_eq!(reason.name(), name);
        }
    }
}
