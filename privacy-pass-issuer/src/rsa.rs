//! The RSA private-key operation, by AWS-LC: constant-time, blinded, with the fault check of CRT.
//! `aws-lc-rs` offers padded signatures only, so the few calls that a blind signature needs (RFC
//! 9474 §4.3) go to the C library directly; this is the only unsafe code of the issuer.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use aws_lc_sys as c;

/// A modulus, a blinded message, a signature: 2048 bits.
pub const LENGTH: usize = 256;

/// The key cannot be used, or the operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the RSA operation failed")]
pub struct RsaError;

/// A 2048-bit RSA private key; the library wipes it when it is freed.
pub struct PrivateKey(NonNull<c::EVP_PKEY>);

// SAFETY: the key is never changed after it was parsed, and RSA_sign_raw takes locks of its own
// around the blinding factors that it caches (AWS-LC documents const RSA objects as usable from
// several threads).
unsafe impl Send for PrivateKey {}
// SAFETY: as above.
unsafe impl Sync for PrivateKey {}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        // SAFETY: the pointer came from EVP_parse_private_key and is freed once.
        unsafe { c::EVP_PKEY_free(self.0.as_ptr()) }
    }
}

impl PrivateKey {
    /// Reads a PKCS#8 key that is RSA of 2048 bits and consistent, with nothing after it.
    ///
    /// # Errors
    /// [`RsaError`].
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, RsaError> {
        let mut input = c::CBS {
            data: pkcs8.as_ptr(),
            len: pkcs8.len(),
        };
        // SAFETY: `input` describes a live slice; the parser only reads it and moves `input` on.
        let key = unsafe { c::EVP_parse_private_key(&raw mut input) };
        let key = Self(NonNull::new(key).ok_or(RsaError)?);
        // SAFETY: the RSA object belongs to `key`, which is alive.
        let sound = unsafe {
            let rsa = c::EVP_PKEY_get0_RSA(key.0.as_ptr());
            !rsa.is_null() && c::RSA_bits(rsa) == 2048 && c::RSA_check_key(rsa) == 1
        };
        if sound && input.len == 0 {
            Ok(key)
        } else {
            Err(RsaError)
        }
    }

    /// The modulus, big-endian.
    ///
    /// # Errors
    /// [`RsaError`] never for a key that was read.
    pub fn modulus(&self) -> Result<[u8; LENGTH], RsaError> {
        let mut modulus = [0; LENGTH];
        // SAFETY: the number belongs to the key, which is alive; the call writes exactly LENGTH
        // bytes.
        let written = unsafe {
            let n = c::RSA_get0_n(c::EVP_PKEY_get0_RSA(self.0.as_ptr()));
            c::BN_bn2bin_padded(modulus.as_mut_ptr(), LENGTH, n)
        };
        if written == 1 {
            Ok(modulus)
        } else {
            Err(RsaError)
        }
    }

    /// Whether the public exponent is 65537, as clients expect of token keys.
    #[must_use]
    pub fn has_common_exponent(&self) -> bool {
        // SAFETY: the number belongs to the key, which is alive.
        unsafe {
            let e = c::RSA_get0_e(c::EVP_PKEY_get0_RSA(self.0.as_ptr()));
            c::BN_is_word(e, 65537) == 1
        }
    }

    /// `message^d mod n`.
    ///
    /// # Errors
    /// [`RsaError`] when the message is not below the modulus.
    pub fn sign_raw(&self, message: &[u8; LENGTH]) -> Result<[u8; LENGTH], RsaError> {
        let mut signature = [0; LENGTH];
        let mut written = 0;
        // SAFETY: both buffers have LENGTH bytes, which is the size of the modulus; the key is
        // alive.
        let done = unsafe {
            c::RSA_sign_raw(
                c::EVP_PKEY_get0_RSA(self.0.as_ptr()),
                &raw mut written,
                signature.as_mut_ptr(),
                LENGTH,
                message.as_ptr(),
                LENGTH,
                c::RSA_NO_PADDING,
            )
        };
        if done == 1 && written == LENGTH {
            Ok(signature)
        } else {
            Err(RsaError)
        }
    }
}

/// SubjectPublicKeyInfo with id-RSASSA-PSS and the parameters of RFC 9578 §8.2.2: SHA-384, MGF1
/// with SHA-384, a salt of 48 bytes.
#[must_use]
pub fn spki(modulus: &[u8; LENGTH]) -> Vec<u8> {
    // Everything up to the modulus is the same for every key of 2048 bits with the exponent 65537.
    const HEAD: [u8; 76] = [
        0x30, 0x82, 0x01, 0x52, // SubjectPublicKeyInfo
        0x30, 0x3d, // AlgorithmIdentifier
        0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, // id-RSASSA-PSS
        0x30, 0x30, // RSASSA-PSS-params
        0xa0, 0x0d, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
        0x02, // hashAlgorithm: SHA-384
        0xa1, 0x1a, 0x30, 0x18, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01,
        0x08, // maskGenAlgorithm: MGF1
        0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
        0x02, // with SHA-384
        0xa2, 0x03, 0x02, 0x01, 0x30, // saltLength: 48
        0x03, 0x82, 0x01, 0x0f, 0x00, // BIT STRING
        0x30, 0x82, 0x01, 0x0a, // RSAPublicKey
    ];
    const MODULUS: [u8; 5] = [0x02, 0x82, 0x01, 0x01, 0x00];
    const EXPONENT: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];
    [&HEAD[..], &MODULUS, modulus, &EXPONENT].concat()
}
