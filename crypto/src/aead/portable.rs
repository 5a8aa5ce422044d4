//! RustCrypto.

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Nonce, Tag};

use super::TAG_LEN;

pub(super) struct Key(Aes256Gcm);

impl Key {
    pub(super) fn new(key: &[u8; 32]) -> Option<Self> {
        Aes256Gcm::new_from_slice(key).ok().map(Self)
    }

    /// Seals in place and returns the tag.
    pub(super) fn seal(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        body: &mut [u8],
    ) -> Option<[u8; TAG_LEN]> {
        let nonce = Nonce::from(nonce);
        let tag = self.0.encrypt_inout_detached(&nonce, aad, body.into());
        tag.ok().map(Into::into)
    }

    /// Opens in place; how long the plaintext is, which lies in front.
    pub(super) fn open(&self, nonce: [u8; 12], aad: &[u8], sealed: &mut [u8]) -> Option<usize> {
        let length = sealed.len().checked_sub(TAG_LEN)?;
        let (body, tag) = sealed.split_at_mut_checked(length)?;
        let tag = Tag::try_from(&*tag).ok()?;
        let nonce = Nonce::from(nonce);
        let opened = self
            .0
            .decrypt_inout_detached(&nonce, aad, body.into(), &tag);
        opened.ok().map(|()| length)
    }
}
