//! What a message tells of something that lies elsewhere, and a small picture of it.

use content::ExternalPart;
use serde::{Deserialize, Serialize};

use crate::encoding::base64url;

/// Something that lies elsewhere, encrypted.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attachment {
    /// Its media type.
    pub media_type: String,
    /// Where it can be fetched.
    pub url: String,
    /// Until when: seconds since 1970; 0 for no end.
    pub expires: u32,
    /// Its length in bytes; 0 if it is not said.
    pub size: u64,
    /// IANA's number of the AEAD algorithm; 0 for none.
    pub encryption: u16,
    /// Key of the AEAD algorithm.
    #[serde(with = "base64url")]
    pub key: Vec<u8>,
    /// Nonce of the AEAD algorithm.
    #[serde(with = "base64url")]
    pub nonce: Vec<u8>,
    /// Additional authenticated data.
    #[serde(with = "base64url")]
    pub aad: Vec<u8>,
    /// Number of the hash algorithm (named information); 0 for none.
    pub hash_algorithm: u8,
    /// Hash of what lies at the URL.
    #[serde(with = "base64url")]
    pub content_hash: Vec<u8>,
    /// What it is, in words.
    pub description: String,
    /// How a file of it may be called, as its sender says: [`Attachment::file_name`] judges that.
    pub filename: String,
    /// A small picture of it, in the message itself.
    pub thumbnail: Option<Thumbnail>,
}

/// Longest thumbnail, bytes. A longer one is not shown.
pub const MAX_THUMBNAIL: usize = 16 * 1024;

/// A small picture of something, made by its sender's application: PNG, JPEG, WebP or AVIF, of at
/// most [`MAX_THUMBNAIL`] bytes. Nothing else is sent or shown. How many pixels it has is not
/// looked at: a few bytes can say millions. Look before you decode.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Thumbnail {
    /// The picture's media type.
    pub media_type: String,
    /// The picture.
    #[serde(with = "base64url")]
    pub content: Vec<u8>,
}

impl Thumbnail {
    /// Whether it is a picture that refers to nothing elsewhere, by its type and its beginning.
    pub(crate) fn is_picture(&self) -> bool {
        let content = self.content.as_slice();
        let has = |at: usize, part: &[u8]| content.get(at..).is_some_and(|it| it.starts_with(part));
        let is_one = match self.media_type.as_str() {
            "image/png" => has(0, b"\x89PNG\r\n\x1a\n"),
            "image/jpeg" => has(0, b"\xff\xd8\xff"),
            "image/webp" => has(0, b"RIFF") && has(8, b"WEBP"),
            "image/avif" => has(4, b"ftypavif") || has(4, b"ftypavis"),
            _ => false,
        };
        is_one && content.len() <= MAX_THUMBNAIL
    }
}

impl std::fmt::Debug for Thumbnail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Thumbnail")
            .field("media_type", &self.media_type)
            .finish_non_exhaustive()
    }
}

/// Its key opens what it points to: neither is shown.
impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment")
            .field("media_type", &self.media_type)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl From<ExternalPart> for Attachment {
    fn from(part: ExternalPart) -> Self {
        Self {
            media_type: part.content_type,
            url: part.url,
            expires: part.expires,
            size: part.size,
            encryption: part.encryption,
            key: part.key,
            nonce: part.nonce,
            aad: part.aad,
            hash_algorithm: part.hash_algorithm,
            content_hash: part.content_hash,
            description: part.description,
            filename: part.filename,
            thumbnail: None,
        }
    }
}

impl From<Attachment> for ExternalPart {
    fn from(attachment: Attachment) -> Self {
        Self {
            content_type: attachment.media_type,
            url: attachment.url,
            expires: attachment.expires,
            size: attachment.size,
            encryption: attachment.encryption,
            key: attachment.key,
            nonce: attachment.nonce,
            aad: attachment.aad,
            hash_algorithm: attachment.hash_algorithm,
            content_hash: attachment.content_hash,
            description: attachment.description,
            filename: attachment.filename,
        }
    }
}
