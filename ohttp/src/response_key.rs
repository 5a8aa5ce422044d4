//! The keys of a response (RFC 9458 §4.4, §4 of the draft on chunks): the same for both kinds, of
//! which whole messages use the first nonce only.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use crate::error::{OpenError, SealError};
use crate::suite::{Aead, NONCE_LEN, TAG_LEN};

/// The key of a response, its nonce and the number of the next message. Wiped on drop.
pub(crate) struct ResponseKey {
    key: LessSafeKey,
    nonce: Zeroizing<[u8; NONCE_LEN]>,
    counter: u64,
}

type Derived = (Zeroizing<Vec<u8>>, Zeroizing<[u8; NONCE_LEN]>);

/// Key and nonce. `None`: the library failed.
pub(crate) fn derive(
    aead: Aead,
    secret: &[u8],
    encapsulated_key: &[u8],
    response_nonce: &[u8],
) -> Option<Derived> {
    let salt = [encapsulated_key, response_nonce].concat();
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt).extract(secret);
    let mut key = Zeroizing::new(vec![0; aead.key_len()]);
    let mut nonce = Zeroizing::new([0; NONCE_LEN]);
    expand(&prk, b"key", &mut key)?;
    expand(&prk, b"nonce", &mut *nonce)?;
    Some((key, nonce))
}

/// `None`: longer than HKDF gives.
pub(crate) fn expand(prk: &hkdf::Prk, info: &[u8], output: &mut [u8]) -> Option<()> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    prk.expand(&[info], Length(output.len()))
        .and_then(|okm| okm.fill(output))
        .ok()
}

impl ResponseKey {
    /// `None`: the library failed.
    pub(crate) fn derive(
        aead: Aead,
        secret: &[u8],
        encapsulated_key: &[u8],
        response_nonce: &[u8],
    ) -> Option<Self> {
        let (key, nonce) = derive(aead, secret, encapsulated_key, response_nonce)?;
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(aead.algorithm(), &key).ok()?),
            nonce,
            counter: 0,
        })
    }

    /// The nonce of the next message, which is never given out again. `None`: there are no more.
    fn next_nonce(&mut self) -> Option<Nonce> {
        let next = self.counter.checked_add(1)?;
        let mut nonce = *self.nonce;
        for (byte, count) in nonce.iter_mut().rev().zip(self.counter.to_le_bytes()) {
            *byte ^= count;
        }
        self.counter = next;
        Some(Nonce::assume_unique_for_key(nonce))
    }

    pub(crate) fn seal(
        &mut self,
        aad: &[u8],
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let nonce = self.next_nonce().ok_or(SealError::Exhausted)?;
        let start = out.len();
        out.reserve_exact(plaintext.len() + TAG_LEN);
        out.extend_from_slice(plaintext);
        let content = out.get_mut(start..).unwrap_or_default();
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(aad), content);
        match sealed {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            Err(_) => {
                out.truncate(start);
                return Err(SealError::Backend);
            }
        }
        Ok(())
    }

    pub(crate) fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let nonce = self.next_nonce().ok_or(OpenError::Exhausted)?;
        let mut opened = sealed.to_vec();
        let len = self
            .key
            .open_in_place(nonce, Aad::from(aad), &mut opened)
            .map_err(|_| OpenError::CannotOpen)?
            .len();
        opened.truncate(len);
        Ok(opened)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key() -> ResponseKey {
        ResponseKey::derive(Aead::Aes128Gcm, &[1; 16], &[2; 32], &[3; 16]).unwrap()
    }

    #[test]
    fn no_nonce_is_used_after_the_last_one() {
        let mut key = key();
        key.counter = u64::MAX - 1;
        let mut sealed = Vec::new();
        key.seal(b"", b"last", &mut sealed).unwrap();
        assert_eq!(
            key.seal(b"", b"one more", &mut Vec::new()),
            Err(SealError::Exhausted)
        );
        assert_eq!(key.open(b"", &sealed), Err(OpenError::Exhausted));
    }

    #[test]
    fn the_counter_goes_into_the_last_bytes_of_the_nonce() {
        let mut key = key();
        let mut expected = *key.next_nonce().unwrap().as_ref();
        key.counter = 0x0102;
        expected[NONCE_LEN - 1] ^= 2;
        expected[NONCE_LEN - 2] ^= 1;
        assert_eq!(*key.next_nonce().unwrap().as_ref(), expected);
    }
}
