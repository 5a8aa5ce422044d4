//! Files.

use std::future::Future;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::Arc;

use crate::api::{Beside, Client, call};
use crate::attachment::Attachment;
use crate::error::{AttachmentError, Error, LocalError};
use crate::flows::attachments::{Payer, TransferProgress, Uploading, scan, scan_source};
use crate::remote_file::UploadOptions;

impl Client {
    /// Uploads a file, sealed, and returns what a message tells of it
    /// ([`Draft::attachment`](crate::Draft::attachment)). It costs a token.
    ///
    /// Other calls are done meanwhile, and messages sent. Whoever drops the future, or whose
    /// process ends, calls it again with the same path. It goes on where it was; a file that has
    /// changed begins anew. In another process that holds until a message tells of the file: what
    /// was uploaded is not lost before. Nothing holds more than a few chunks in memory.
    ///
    /// The relay sees that much was exchanged, in steps of an eighth, and not in which direction.
    /// The service sees it too, and how often the file is fetched; not by whom or in which group.
    ///
    /// # Errors
    /// Of [`AttachmentError`]: `Unusable`, `TooLong`, `Changed`;
    /// [`IssuerError::WalletEmpty`](crate::IssuerError::WalletEmpty);
    /// [`Error::Refused`] with [`StorageFull`](crate::ProblemType::StorageFull), which may pass;
    /// [`Error::Unreachable`].
    pub async fn upload(
        &self,
        path: &Path,
        options: UploadOptions,
        progress: Option<TransferProgress>,
    ) -> Result<Attachment, Error> {
        self.upload_scanned(scan(path.to_owned()), options, progress)
            .await
    }

    /// As [`Client::upload`], of what is no file here. It is read to its end before anything is
    /// sent, and once more piece by piece, on threads that may wait. It must have a name
    /// ([`UploadOptions::name`]): whoever calls this again with the same name and content goes on
    /// where it was.
    ///
    /// # Errors
    /// As [`Client::upload`].
    pub async fn upload_from(
        &self,
        source: impl Read + Seek + Send + 'static,
        options: UploadOptions,
        progress: Option<TransferProgress>,
    ) -> Result<Attachment, Error> {
        let name = options.name.clone().ok_or(AttachmentError::Unusable)?;
        self.upload_scanned(scan_source(source, name), options, progress)
            .await
    }

    async fn upload_scanned(
        &self,
        scan: impl Future<Output = Result<Uploading, Error>> + Send + 'static,
        options: UploadOptions,
        progress: Option<TransferProgress>,
    ) -> Result<Attachment, Error> {
        let file = call!(self, |engine| {
            let _ = &engine;
            Ok(Beside(crate::runtime::spawn(scan)))
        })?;
        let file = Arc::new(file.end().await?);
        let (mut options, mut again) = (options, true);
        loop {
            let (of, how) = (Arc::clone(&file), options);
            let payer = self.payer();
            let begun = call!(self, |engine| engine.begin_upload(&of, how, payer).await)?;
            let (of, progress) = (Arc::clone(&file), progress.clone());
            let sending = call!(self, |engine| {
                let _ = &engine;
                Ok(Beside(crate::runtime::spawn(async move {
                    let sent = of.send(&begun, progress).await;
                    Ok((begun, sent))
                })))
            })?;
            let (begun, sent) = sending.end().await?;
            match sent {
                // It was begun too long ago.
                Err(Error::Attachment(AttachmentError::Gone)) if again => {
                    again = false;
                    options = call!(self, |engine| engine.forget_upload(begun).await)?;
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(begun.end(&file)),
            }
        }
    }

    /// Fetches a file into `path`, which must not exist. What has come stands beside it, in a file
    /// that has a name of its own and ends in `.part`; whoever calls it again goes on from there.
    /// Other calls are done meanwhile.
    ///
    /// What the service shows is taken only if it is what the message says, to the last byte.
    ///
    /// # Errors
    /// Of [`AttachmentError`]: `Exists`, `UnderWay`, `Gone`, `Incomplete`, `Damaged`;
    /// [`Error::Unreachable`].
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn download(
        &self,
        attachment: &Attachment,
        path: &Path,
        progress: Option<TransferProgress>,
    ) -> Result<(), Error> {
        let (of, path, payer) = (attachment.clone(), path.to_owned(), self.payer());
        let fetching = call!(self, |engine| {
            let download = engine.begin_download(&of, payer).await?;
            Ok(Beside(crate::runtime::spawn(async move {
                download.fetch(path, progress).await
            })))
        })?;
        fetching.end().await
    }

    /// Pays for transfers, as long as there is a handle.
    fn payer(&self) -> Payer {
        let shared = Arc::downgrade(&self.shared);
        Arc::new(move || {
            let shared = shared.upgrade();
            Box::pin(async move {
                let client = Self {
                    shared: shared.ok_or(LocalError::Stopped)?,
                };
                call!(client, |engine| engine.pay_for_transfer())
            })
        })
    }

    /// Deletes a file at the service that this device has uploaded: nobody can fetch it any more.
    ///
    /// # Errors
    /// [`AttachmentError::NotOwn`]; [`Error::Unreachable`].
    pub async fn delete_upload(&self, attachment: &Attachment) -> Result<(), Error> {
        let of = attachment.clone();
        call!(self, |engine| engine.delete_upload(&of).await)
    }
}
