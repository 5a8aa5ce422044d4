//! Verification of presented tokens with the issuer's public keys (RFC 9578 §6.4).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PSS_2048_8192_SHA384};
use sha2::{Digest as _, Sha256};

use super::authorization::PresentedToken;
use super::challenge::Challenge;

/// A token key as RFC 9578 §6.5 wants it published: SubjectPublicKeyInfo of RSASSA-PSS with
/// SHA-384, MGF1-SHA-384 and a salt of 48 bytes, around a 2048-bit modulus. With the usual public
/// exponent everything before the modulus is constant, so the one accepted form needs no DER
/// parser.
const SPKI_UP_TO_THE_MODULUS: [u8; 81] = [
    0x30, 0x82, 0x01, 0x52, 0x30, 0x3d, // SubjectPublicKeyInfo, AlgorithmIdentifier
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, // id-RSASSA-PSS
    0x30, 0x30, 0xa0, 0x0d, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
    0x02, // hash: id-sha384
    0xa1, 0x1a, 0x30, 0x18, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30,
    0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
    0x02, // mask generation: id-mgf1 with id-sha384
    0xa2, 0x03, 0x02, 0x01, 0x30, // salt length: 48
    0x03, 0x82, 0x01, 0x0f, 0x00, // BIT STRING around RSAPublicKey
    0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00, // modulus of 2048 bits
];
const EXPONENT_65537: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];
const SPKI_LENGTH: usize = SPKI_UP_TO_THE_MODULUS.len() + 256 + EXPONENT_65537.len();
const RSA_PUBLIC_KEY_OFFSET: usize = 72;

/// Separates the digests in the spent-set from every other use of SHA-256 over a nonce.
const NONCE_DIGEST_LABEL: &[u8] = b"mimimi redeemed token 1";

/// The issuer's public keys that are accepted now.
pub struct IssuerKeys {
    keys: Vec<IssuerKey>,
    verified: AtomicU64,
}

struct IssuerKey {
    /// SHA-256 of the SPKI: the full `token_key_id` (RFC 9578 §6.5).
    id: [u8; 32],
    spki: Box<[u8; SPKI_LENGTH]>,
    public_key: ParsedPublicKey,
    /// When clients begin to use it, seconds since the Unix epoch.
    not_before_s: u64,
}

/// The configured issuer keys cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerKeyError {
    #[error("the issuer directory names no key")]
    NoKey,
    #[error("an issuer key is not a 2048-bit RSASSA-PSS SPKI as RFC 9578 section 6.5 has it")]
    UnsupportedKey,
}

/// Why a token buys nothing: always the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token was issued under a key that is not accepted")]
    UnknownIssuerKey,
    #[error("the token was made for another challenge")]
    OtherChallenge,
    #[error("the token's authenticator is not a signature of its issuer")]
    InvalidAuthenticator,
    #[error("one token is presented twice in the same request")]
    PresentedTwice,
}

impl TokenError {
    /// A name for the metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownIssuerKey => "unknown_key",
            Self::OtherChallenge => "other_challenge",
            Self::InvalidAuthenticator => "invalid_signature",
            Self::PresentedTwice => "twice_in_a_request",
        }
    }
}

/// A token of a key that is accepted, for this service. That its issuer has signed it is not known.
pub struct IdentifiedToken {
    presented: PresentedToken,
    issuer_key_id: [u8; 32],
    nonce_digest: [u8; 32],
}

impl IdentifiedToken {
    /// As of the [`VerifiedToken`] that it may be.
    pub fn issuer_key_id(&self) -> &[u8; 32] {
        &self.issuer_key_id
    }

    /// As of the [`VerifiedToken`] that it may be.
    pub fn nonce_digest(&self) -> &[u8; 32] {
        &self.nonce_digest
    }
}

impl fmt::Debug for IdentifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            presented: _,
            issuer_key_id: _,
            nonce_digest: _,
        } = self;
        f.write_str("IdentifiedToken(…)")
    }
}

/// Proof that the issuer signed this token for this service. It pays once: the store takes it by
/// value, and spends it in the same transition as the effect.
#[derive(PartialEq, Eq)]
pub struct VerifiedToken {
    issuer_key_id: [u8; 32],
    nonce_digest: [u8; 32],
}

impl VerifiedToken {
    /// SHA-256 of the issuer key's SPKI: the partition of the spent-set.
    pub fn issuer_key_id(&self) -> &[u8; 32] {
        &self.issuer_key_id
    }

    /// Digest of issuer key and nonce: what the spent-set keeps.
    pub fn nonce_digest(&self) -> &[u8; 32] {
        &self.nonce_digest
    }

    /// One of many, for tests of what is done with them.
    #[cfg(any(test, feature = "conformance"))]
    #[must_use]
    pub fn of_test(number: u16) -> Self {
        let mut nonce_digest = [0; 32];
        for (to, from) in nonce_digest.iter_mut().zip(number.to_be_bytes()) {
            *to = from;
        }
        Self {
            issuer_key_id: [0; 32],
            nonce_digest,
        }
    }
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            issuer_key_id: _,
            nonce_digest: _,
        } = self;
        f.write_str("VerifiedToken(…)")
    }
}

impl IssuerKeys {
    /// As [`IssuerKeys::from_directory`], of keys that are all good from the beginning.
    ///
    /// # Errors
    /// [`IssuerKeyError`].
    pub fn from_directory_keys<K: AsRef<[u8]>>(
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Self, IssuerKeyError> {
        Self::from_directory(keys.into_iter().map(|spki| (spki, 0)))
    }

    /// Takes the keys of an issuer directory, decoded from base64url to SPKI DER, each with its
    /// `not-before`. A key that is not in use yet is accepted too: the issuer's clock may be ahead.
    ///
    /// # Errors
    /// [`IssuerKeyError`].
    pub fn from_directory<K: AsRef<[u8]>>(
        keys: impl IntoIterator<Item = (K, u64)>,
    ) -> Result<Self, IssuerKeyError> {
        let keys = keys
            .into_iter()
            .map(|(spki, not_before_s)| IssuerKey::from_spki(spki.as_ref(), not_before_s))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(IssuerKeyError::NoKey);
        }
        Ok(Self {
            keys,
            verified: AtomicU64::new(0),
        })
    }

    /// SPKI of the key that a client without a token should ask for: the newest that is in use.
    pub fn challenge_key(&self, now_ms: u64) -> &[u8] {
        let in_use = |key: &&IssuerKey| key.not_before_s <= now_ms / 1000;
        let newest = self.keys.iter().filter(in_use).reduce(|newest, key| {
            if key.not_before_s > newest.not_before_s {
                key
            } else {
                newest
            }
        });
        // No constructor admits an empty list.
        newest
            .or(self.keys.first())
            .map_or(&[], |key| key.spki.as_slice())
    }

    /// Without the keys of these ids.
    ///
    /// # Errors
    /// [`IssuerKeyError::NoKey`] if none is left.
    pub fn without(mut self, closed: &[[u8; 32]]) -> Result<Self, IssuerKeyError> {
        self.keys.retain(|key| !closed.contains(&key.id));
        if self.keys.is_empty() {
            return Err(IssuerKeyError::NoKey);
        }
        Ok(self)
    }

    /// The full ids of the accepted keys: a spent-set partition of any other key can be dropped.
    pub fn ids(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.keys.iter().map(|key| &key.id)
    }

    /// From when the accepted keys are in use, Unix seconds, in the order of [`IssuerKeys::ids`].
    pub fn not_before_s(&self) -> impl Iterator<Item = u64> {
        self.keys.iter().map(|key| key.not_before_s)
    }

    /// Checks the *full* key id and the challenge digest: which token it would be, if its issuer
    /// has signed it.
    ///
    /// # Errors
    /// [`TokenError::UnknownIssuerKey`], [`TokenError::OtherChallenge`].
    pub fn identify(
        &self,
        token: PresentedToken,
        challenge: &Challenge,
    ) -> Result<IdentifiedToken, TokenError> {
        let key = self
            .keys
            .iter()
            .find(|key| key.id.as_slice() == token.token_key_id())
            .ok_or(TokenError::UnknownIssuerKey)?;
        if token.challenge_digest() != challenge.digest() {
            return Err(TokenError::OtherChallenge);
        }
        let nonce_digest = Sha256::new()
            .chain_update(NONCE_DIGEST_LABEL)
            .chain_update(key.id)
            .chain_update(token.nonce())
            .finalize()
            .into();
        Ok(IdentifiedToken {
            presented: token,
            issuer_key_id: key.id,
            nonce_digest,
        })
    }

    /// Verifies the issuer's signature. It does not know whether the token was spent before: only
    /// the store does.
    ///
    /// # Errors
    /// [`TokenError::InvalidAuthenticator`]; [`TokenError::UnknownIssuerKey`] for a key that is
    /// gone by now.
    pub fn verify(&self, token: IdentifiedToken) -> Result<VerifiedToken, TokenError> {
        let IdentifiedToken {
            presented,
            issuer_key_id,
            nonce_digest,
        } = token;
        let key = self
            .keys
            .iter()
            .find(|key| key.id == issuer_key_id)
            .ok_or(TokenError::UnknownIssuerKey)?;
        self.verified.fetch_add(1, Ordering::Relaxed);
        key.public_key
            .verify_sig(presented.authenticator_input(), presented.authenticator())
            .map_err(|_| TokenError::InvalidAuthenticator)?;
        Ok(VerifiedToken {
            issuer_key_id,
            nonce_digest,
        })
    }

    /// How many signatures were verified, good ones and others: what tokens cost.
    #[must_use]
    pub fn signatures_verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }
}

impl IssuerKey {
    fn from_spki(spki: &[u8], not_before_s: u64) -> Result<Self, IssuerKeyError> {
        let spki: Box<[u8; SPKI_LENGTH]> = spki
            .to_vec()
            .try_into()
            .map_err(|_| IssuerKeyError::UnsupportedKey)?;
        let (head, rest) = spki.split_at(SPKI_UP_TO_THE_MODULUS.len());
        let (modulus, exponent) = rest.split_at(256);
        let modulus_is_2048_bits = modulus[0] & 0x80 != 0;
        if head != SPKI_UP_TO_THE_MODULUS || exponent != EXPONENT_65537 || !modulus_is_2048_bits {
            return Err(IssuerKeyError::UnsupportedKey);
        }
        // The parameters above are the ones of this algorithm (its salt is as long as its hash), so
        // the engine needs the inner RSAPublicKey only.
        let public_key =
            ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, &spki[RSA_PUBLIC_KEY_OFFSET..])
                .map_err(|_| IssuerKeyError::UnsupportedKey)?;
        Ok(Self {
            id: Sha256::digest(spki.as_slice()).into(),
            spki,
            public_key,
            not_before_s,
        })
    }
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, verified: _ } = self;
        f.debug_struct("IssuerKeys")
            .field("keys", &keys.len())
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::LazyLock;

    use blind_rsa_signatures::{Deterministic, KeyPair, PSS, Sha384, reexports::rand};
    use privacypass::TokenType;
    use privacypass::auth::authenticate::TokenChallenge;
    use privacypass::auth::authorize::build_authorization_header;
    use privacypass::public_tokens::{PublicToken, TokenRequest, TokenResponse};
    use privacypass::{Deserialize as _, Serialize as _};

    use super::*;
    use crate::tokens::authorization;

    type IssuerKeyPair = KeyPair<Sha384, PSS, Deterministic>;

    static ISSUER: LazyLock<IssuerKeyPair> =
        LazyLock::new(|| KeyPair::generate(&mut rand::rng(), 2048).unwrap());
    static OTHER_ISSUER: LazyLock<IssuerKeyPair> =
        LazyLock::new(|| KeyPair::generate(&mut rand::rng(), 2048).unwrap());

    const ORIGIN: &str = "ds.example";

    fn challenge() -> Challenge {
        Challenge::new("issuer.example", ORIGIN).unwrap()
    }

    fn spki(issuer: &IssuerKeyPair) -> Vec<u8> {
        issuer.pk.to_spki().unwrap()
    }

    fn keys() -> IssuerKeys {
        IssuerKeys::from_directory_keys([spki(&OTHER_ISSUER), spki(&ISSUER)]).unwrap()
    }

    /// A token as the reference implementation makes it.
    fn reference_token(issuer: &IssuerKeyPair, origin: &str) -> PublicToken {
        let challenge = TokenChallenge::new(
            TokenType::Public,
            "issuer.example",
            None,
            &[origin.to_owned()],
        );
        let (request, state) =
            TokenRequest::new(&mut rand::rng(), issuer.pk.clone(), &challenge).unwrap();
        let request = request.tls_serialize_detached().unwrap();
        let signature = issuer.sk.blind_sign(&request[3..]).unwrap();
        let response = TokenResponse::tls_deserialize_exact(&signature.0).unwrap();
        response.issue_token(&state).unwrap()
    }

    /// The whole way of a token.
    fn verify(keys: &IssuerKeys, token: PresentedToken) -> Result<VerifiedToken, TokenError> {
        keys.verify(keys.identify(token, &challenge())?)
    }

    fn presented(token: &PublicToken) -> PresentedToken {
        let (_, value) = build_authorization_header(token).unwrap();
        authorization::parse([value]).unwrap().remove(0)
    }

    #[test]
    fn a_token_of_the_reference_implementation_verifies_once_its_key_is_known() {
        let token = reference_token(&ISSUER, ORIGIN);
        let verified = verify(&keys(), presented(&token)).unwrap();
        assert_eq!(verified.issuer_key_id(), token.token_key_id());
        let again = verify(&keys(), presented(&token)).unwrap();
        assert_eq!(verified.nonce_digest(), again.nonce_digest());
        let other = reference_token(&ISSUER, ORIGIN);
        let other = verify(&keys(), presented(&other)).unwrap();
        assert_ne!(verified.nonce_digest(), other.nonce_digest());
    }

    #[test]
    fn a_token_of_an_unknown_issuer_is_refused() {
        let keys = IssuerKeys::from_directory_keys([spki(&OTHER_ISSUER)]).unwrap();
        let token = presented(&reference_token(&ISSUER, ORIGIN));
        assert_eq!(verify(&keys, token), Err(TokenError::UnknownIssuerKey));
    }

    #[test]
    fn a_key_id_that_agrees_in_the_truncated_byte_only_is_refused() {
        let mut bytes = reference_token(&ISSUER, ORIGIN)
            .tls_serialize_detached()
            .unwrap();
        bytes[66] ^= 1;
        let token = PresentedToken::from_bytes(&bytes).unwrap();
        assert_eq!(verify(&keys(), token), Err(TokenError::UnknownIssuerKey));
    }

    #[test]
    fn a_token_for_another_origin_is_refused() {
        let token = presented(&reference_token(&ISSUER, "elsewhere.example"));
        assert_eq!(verify(&keys(), token), Err(TokenError::OtherChallenge));
    }

    #[test]
    fn a_token_with_any_part_changed_is_refused() {
        let bytes = reference_token(&ISSUER, ORIGIN)
            .tls_serialize_detached()
            .unwrap();
        for changed in [2, 33, 34, 65, 66, 97, 98, 353] {
            let mut bytes = bytes.clone();
            bytes[changed] ^= 0x10;
            let token = PresentedToken::from_bytes(&bytes).unwrap();
            assert!(verify(&keys(), token).is_err(), "byte {changed}");
        }
    }

    #[test]
    fn a_signature_by_another_accepted_key_is_refused() {
        let mut bytes = reference_token(&ISSUER, ORIGIN)
            .tls_serialize_detached()
            .unwrap();
        bytes[66..98].copy_from_slice(&Sha256::digest(spki(&OTHER_ISSUER)));
        let token = PresentedToken::from_bytes(&bytes).unwrap();
        assert_eq!(
            verify(&keys(), token),
            Err(TokenError::InvalidAuthenticator)
        );
    }

    #[test]
    fn the_challenge_names_the_newest_key_that_is_in_use() {
        let keys =
            IssuerKeys::from_directory([(spki(&ISSUER), 200), (spki(&OTHER_ISSUER), 100)]).unwrap();
        assert_eq!(keys.challenge_key(199_999), spki(&OTHER_ISSUER));
        assert_eq!(keys.challenge_key(200_000), spki(&ISSUER));
        // None is in use yet: the clocks differ.
        assert_eq!(keys.challenge_key(0), spki(&ISSUER));
        let token = presented(&reference_token(&ISSUER, ORIGIN));
        assert!(verify(&keys, token).is_ok());
    }

    #[test]
    fn only_the_key_format_of_the_standard_is_accepted() {
        let accepted = spki(&ISSUER);
        assert_eq!(keys().challenge_key(0), spki(&OTHER_ISSUER));
        let plain_rsa = ISSUER.pk.to_der().unwrap();
        let mut other_salt = accepted.clone();
        other_salt[66] = 32;
        let mut trailing = accepted.clone();
        trailing.push(0);
        for refused in [
            plain_rsa,
            other_salt,
            trailing,
            accepted[..341].to_vec(),
            vec![],
        ] {
            let refused = IssuerKeys::from_directory_keys([refused]);
            assert_eq!(
                refused.map(|_| ()).unwrap_err(),
                IssuerKeyError::UnsupportedKey
            );
        }
        let none = IssuerKeys::from_directory_keys::<Vec<u8>>([]);
        assert_eq!(none.map(|_| ()).unwrap_err(), IssuerKeyError::NoKey);
    }
}
