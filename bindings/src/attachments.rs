//! Files that are sent and fetched.

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use client::Transferred;

use crate::mirror::record;
use crate::{Answer, Client};

record! {
    /// A small picture of something, made by its sender's application: PNG, JPEG, WebP or AVIF, of
    /// at most 16,384 bytes. How many pixels it has is not looked at: look before you decode.
    Thumbnail {
        /// The picture's media type.
        media_type: String,
        /// The picture.
        content: Vec<u8>,
    }
}

/// Something that comes with a message and lies elsewhere, encrypted. What finds and opens it is
/// inside, and is not shown.
#[derive(Clone, PartialEq, Eq, uniffi::Object)]
#[uniffi::export(Eq)]
pub struct Attachment {
    sdk: client::Attachment,
}

impl Attachment {
    pub(crate) fn of(sdk: client::Attachment) -> Arc<Self> {
        Arc::new(Self { sdk })
    }

    pub(crate) fn for_sdk(&self) -> client::Attachment {
        self.sdk.clone()
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sdk.fmt(f)
    }
}

#[uniffi::export]
impl Attachment {
    /// Its media type.
    pub fn media_type(&self) -> String {
        self.sdk.media_type.clone()
    }

    /// What the file is called: a name without directories that hides nothing. None where whoever
    /// sent it has given another one.
    pub fn file_name(&self) -> Option<String> {
        self.sdk.file_name().map(str::to_owned)
    }

    /// What it is, in words.
    pub fn description(&self) -> String {
        self.sdk.description.clone()
    }

    /// Its length in bytes; 0 if it is not said.
    pub fn size(&self) -> u64 {
        self.sdk.size
    }

    /// Until when it can be fetched: seconds since 1970; 0 for no end.
    pub fn expires(&self) -> u32 {
        self.sdk.expires
    }

    /// A small picture of it, in the message itself.
    pub fn thumbnail(&self) -> Option<Thumbnail> {
        self.sdk.thumbnail.clone().map(Into::into)
    }
}

/// What an upload is, beside the file's content. What is left out is as usual.
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct UploadOptions {
    /// What it is called where it is saved; the file's name if there is none.
    #[uniffi(default = None)]
    pub name: Option<String>,
    /// Its media type; `application/octet-stream` if it is not said.
    #[uniffi(default = None)]
    pub media_type: Option<String>,
    /// What it is, in words.
    #[uniffi(default = None)]
    pub description: Option<String>,
    /// A small picture of it. It stands in the message itself, which is longer by it: the relay
    /// sees so that a transfer was an upload, and the service that a message may have a picture.
    #[uniffi(default = None)]
    pub thumbnail: Option<Thumbnail>,
    /// It can be fetched for so many days at least: of 1, 7, 30 and 90 the next one; 30 if it is
    /// not said.
    #[uniffi(default = None)]
    pub days: Option<u32>,
}

impl UploadOptions {
    fn for_sdk(self) -> client::UploadOptions {
        let usual = client::UploadOptions::default();
        client::UploadOptions {
            name: self.name,
            media_type: self.media_type.unwrap_or(usual.media_type),
            description: self.description.unwrap_or(usual.description),
            thumbnail: self.thumbnail.map(|it| client::Thumbnail {
                media_type: it.media_type,
                content: it.content,
            }),
            days: self.days.unwrap_or(usual.days),
        }
    }
}

/// Hears how far a transfer has come.
#[uniffi::export(with_foreign)]
pub trait TransferListener: Send + Sync {
    /// So many of all bytes are there. The transfer waits for it to return. An error in it changes
    /// nothing.
    fn transferred(&self, bytes: u64, of: u64) -> Answer<()>;
}

fn heard(by: Option<Arc<dyn TransferListener>>) -> Option<client::TransferProgress> {
    let by = by?;
    Some(Arc::new(move |Transferred { bytes, of }| {
        drop(by.transferred(bytes, of));
    }))
}

#[uniffi::export]
impl Client {
    /// Uploads a file, sealed, and returns what a message tells of it: see `Draft`. It costs a
    /// token.
    ///
    /// Other calls are done meanwhile, and messages sent. After an interruption, call it again with
    /// the same path: it goes on where it was. A file that has changed begins anew. In another
    /// process that holds until a message tells of the file: what was uploaded is not lost before.
    ///
    /// The relay sees that much was exchanged, in steps of an eighth, and not in which direction.
    /// The service sees it too, and how often the file is fetched; not by whom or in which group.
    ///
    /// Fails with `attachment-unusable`, `attachment-too-long`, `attachment-changed`,
    /// `wallet-empty`, `unreachable`, or with `storage-full`, which may pass.
    #[uniffi::method(default(progress = None))]
    pub async fn upload(
        &self,
        path: String,
        options: UploadOptions,
        progress: Option<Arc<dyn TransferListener>>,
    ) -> Answer<Arc<Attachment>> {
        let (options, progress) = (options.for_sdk(), heard(progress));
        let uploaded = self.sdk.upload(path.as_ref(), options, progress).await?;
        Ok(Attachment::of(uploaded))
    }

    /// As `upload`, of what is in memory. It must have a name: whoever calls this again with the
    /// same name and content goes on where it was.
    ///
    /// Fails as `upload`.
    #[uniffi::method(default(progress = None))]
    pub async fn upload_from(
        &self,
        content: Vec<u8>,
        options: UploadOptions,
        progress: Option<Arc<dyn TransferListener>>,
    ) -> Answer<Arc<Attachment>> {
        let (content, options) = (Cursor::new(content), options.for_sdk());
        let uploaded = self
            .sdk
            .upload_from(content, options, heard(progress))
            .await?;
        Ok(Attachment::of(uploaded))
    }

    /// Fetches a file into `path`, which must not exist. What has come stands beside it, in a file
    /// that has a name of its own and ends in `.part`: after an interruption, call it again, and it
    /// goes on from there. Other calls are done meanwhile.
    ///
    /// What the service shows is taken only if it is what the message says, to the last byte.
    ///
    /// Fails with `file-exists`, `attachment-under-way`, `attachment-gone`,
    /// `attachment-incomplete`, `attachment-damaged`, or `unreachable`.
    #[uniffi::method(default(progress = None))]
    pub async fn download(
        &self,
        attachment: Arc<Attachment>,
        path: String,
        progress: Option<Arc<dyn TransferListener>>,
    ) -> Answer<()> {
        let progress = heard(progress);
        let fetched = self.sdk.download(&attachment.sdk, path.as_ref(), progress);
        Ok(fetched.await?)
    }

    /// Deletes a file at the service that this device has uploaded: nobody can fetch it any more.
    ///
    /// Fails with `attachment-not-own`, or `unreachable`.
    pub async fn delete_upload(&self, attachment: Arc<Attachment>) -> Answer<()> {
        Ok(self.sdk.delete_upload(&attachment.sdk).await?)
    }
}
