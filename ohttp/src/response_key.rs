//! The keys of a response (RFC 9458 §4.4, §4 of the draft on chunks): the same for both kinds, of
//! which whole messages use the first nonce only.

use zeroize::Zeroizing;

use crate::engine::{AeadKey, Prk};
use crate::error::{OpenError, SealError};
use crate::suite::{Aead, NONCE_LEN, TAG_LEN};

/// The key of a response, its nonce and the number of the next message. Wiped on drop.
pub(crate) struct ResponseKey {
    key: AeadKey,
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
    let prk = Prk::extract(&salt, secret);
    let mut key = Zeroizing::new(vec![0; aead.key_len()]);
    let mut nonce = Zeroizing::new([0; NONCE_LEN]);
    prk.expand(&[b"key"], &mut key)?;
    prk.expand(&[b"nonce"], &mut *nonce)?;
    Some((key, nonce))
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
            key: AeadKey::new(aead, &key)?,
            nonce,
            counter: 0,
        })
    }

    /// The nonce of the next message, which is never given out again. `None`: there are no more.
    fn next_nonce(&mut self) -> Option<[u8; NONCE_LEN]> {
        let next = self.counter.checked_add(1)?;
        let mut nonce = *self.nonce;
        for (byte, count) in nonce.iter_mut().rev().zip(self.counter.to_le_bytes()) {
            *byte ^= count;
        }
        self.counter = next;
        Some(nonce)
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
        match self.key.seal(nonce, aad, content) {
            Some(tag) => out.extend_from_slice(&tag),
            None => {
                out.truncate(start);
                return Err(SealError::Backend);
            }
        }
        Ok(())
    }

    pub(crate) fn open(&mut self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let nonce = self.next_nonce().ok_or(OpenError::Exhausted)?;
        let mut opened = sealed.to_vec();
        let done = self.key.open(nonce, aad, &mut opened);
        done.ok_or(OpenError::CannotOpen)?;
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
        let mut expected = key.next_nonce().unwrap();
        key.counter = 0x0102;
        expected[NONCE_LEN - 1] ^= 2;
        expected[NONCE_LEN - 2] ^= 1;
        assert_eq!(key.next_nonce().unwrap(), expected);
    }
}
