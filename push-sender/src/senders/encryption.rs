//! Encryption of a Web Push message (RFC 8291) in one record of `aes128gcm` (RFC 8188).

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// The message could not be encrypted: the subscription's key is no point of the curve.
#[derive(Debug, thiserror::Error)]
#[error("a message cannot be encrypted to the subscription")]
pub(crate) struct EncryptionError;

impl From<Unspecified> for EncryptionError {
    fn from(Unspecified: Unspecified) -> Self {
        Self
    }
}

const RECORD_SIZE: u32 = 4096;
/// Ends the content of the last record; zeros follow (RFC 8188 §2).
const LAST: u8 = 2;

/// `content` and `padding` zeros, to the holder of `ua_public` and `auth`.
pub(crate) fn encrypt(
    ua_public: &[u8],
    auth: &[u8; 16],
    content: &[u8],
    padding: usize,
) -> Result<Vec<u8>, EncryptionError> {
    let private = PrivateKey::generate(&ECDH_P256)?;
    let salt = crypto::random().map_err(|_| EncryptionError)?;
    encrypt_with(&private, &salt, ua_public, auth, content, padding)
}

fn encrypt_with(
    private: &PrivateKey,
    salt: &[u8; 16],
    ua_public: &[u8],
    auth: &[u8; 16],
    content: &[u8],
    padding: usize,
) -> Result<Vec<u8>, EncryptionError> {
    let as_public = private.compute_public_key()?;
    let as_public = as_public.as_ref();
    let peer = UnparsedPublicKey::new(&ECDH_P256, ua_public);
    let key_material = agreement::agree(private, peer, EncryptionError, |shared| {
        let info = [b"WebPush: info\0", ua_public, as_public].concat();
        derive::<32>(auth, shared, &info)
    })?;
    let key = derive::<16>(salt, &*key_material, b"Content-Encoding: aes128gcm\0")?;
    let nonce = derive::<12>(salt, &*key_material, b"Content-Encoding: nonce\0")?;

    let mut record = content.to_vec();
    record.push(LAST);
    record.resize(record.len().saturating_add(padding), 0);
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &*key)?).seal_in_place_append_tag(
        Nonce::assume_unique_for_key(*nonce),
        Aad::empty(),
        &mut record,
    )?;
    let key_length = u8::try_from(as_public.len()).map_err(|_| EncryptionError)?;
    Ok([
        &salt[..],
        &RECORD_SIZE.to_be_bytes(),
        &[key_length],
        as_public,
        &record,
    ]
    .concat())
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive<const N: usize>(
    salt: &[u8],
    secret: &[u8],
    info: &[u8],
) -> Result<Zeroizing<[u8; N]>, EncryptionError> {
    let mut derived = Zeroizing::new([0; N]);
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[info], Length(N))?
        .fill(&mut *derived)?;
    Ok(derived)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn decoded(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    #[test]
    fn the_example_of_rfc_8291_comes_out() {
        let private = decoded("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw");
        let private = PrivateKey::from_private_key(&ECDH_P256, &private).unwrap();
        let encrypted = encrypt_with(
            &private,
            &decoded("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap(),
            &decoded(
                "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            ),
            &decoded("BTBZMqHH6r4Tts7J_aSIgg").try_into().unwrap(),
            b"When I grow up, I want to be a watermelon",
            0,
        )
        .unwrap();
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3\
                        vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXP\
                        XLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(URL_SAFE_NO_PAD.encode(encrypted), expected);
    }

    #[test]
    fn what_is_no_point_of_the_curve_is_refused() {
        assert!(encrypt(&[4; 65], &[0; 16], b"", 32).is_err());
        assert!(encrypt(&[], &[0; 16], b"", 32).is_err());
    }
}
