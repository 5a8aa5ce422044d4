//! Files that are sent and fetched.

/// Why a file was not uploaded or fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachmentError {
    /// It is longer than the service takes, or not even a class of sizes has room for it.
    #[error("the file is longer than the service takes")]
    TooLong,
    /// It was written to while it was uploaded: what was sent of it is not gone on with.
    #[error("the file was changed while it was uploaded")]
    Changed,
    /// It has expired, was deleted, or was never there.
    #[error("the file is not at the service any more")]
    Gone,
    /// Whoever sends it has not finished.
    #[error("the file has not been uploaded to its end")]
    Incomplete,
    /// The service, its disk or whoever sent it has changed, cut or mixed up something.
    #[error("the file is damaged: it is not what the message says")]
    Damaged,
    /// There is a file of that name.
    #[error("there is a file of that name already")]
    Exists,
    /// Another call fetches it into the same directory.
    #[error("the file is being fetched into this directory already")]
    UnderWay,
    /// No regular file, a name that no directory should have or that hides something, a thumbnail
    /// that is no picture or too long, or bytes that are no attachment.
    #[error("this is nothing that can be attached")]
    Unusable,
    /// This device has no key that deletes it.
    #[error("the file was not uploaded by this device")]
    NotOwn,
}

impl AttachmentError {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::TooLong => "attachment-too-long",
            Self::Changed => "attachment-changed",
            Self::Gone => "attachment-gone",
            Self::Incomplete => "attachment-incomplete",
            Self::Damaged => "attachment-damaged",
            Self::Exists => "file-exists",
            Self::UnderWay => "attachment-under-way",
            Self::Unusable => "attachment-unusable",
            Self::NotOwn => "attachment-not-own",
        }
    }
}
