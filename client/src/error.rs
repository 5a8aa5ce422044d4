//! What can go wrong, and whose fault it is.

mod attachment;
mod peer;
mod usage;

use protocol::problem::ProblemType;

use crate::key_view::KeyView;

pub use attachment::AttachmentError;
pub use peer::{DirectoryError, PeerError};
pub use usage::UsageError;

/// Who has to act for the same call to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Whoever called: a name that is not there, a group that one is no member of.
    Caller,
    /// Another user: what they sent does not verify.
    Peer,
    /// The delivery service, the gateway or the relay.
    Service,
    /// The token issuer, or the account with it.
    Issuer,
    /// Nobody that can be told apart: no answer came.
    Network,
    /// This machine: its disk, its files, another process.
    Local,
}

/// Why a call failed. [`Error::code`] is stable, the text is for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// See [`UsageError`].
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// See [`PeerError`].
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The delivery service refused the request.
    #[error("the delivery service refused: {}{}", .0.problem.title(), again(.0.retry_after_s))]
    Refused(Refusal),
    /// The delivery service, gateway or relay answered something that the protocol does not have.
    #[error("the answer of the service is not of this protocol: {0}")]
    Protocol(&'static str),
    /// The relay shows key configurations of which none is known to somebody else who must know
    /// them: whoever made them may be reading along. Nothing with a content was sent.
    #[error("the relay shows another OHTTP key than {0}: nothing was sent")]
    KeyConfigMismatch(KeyView),
    /// See [`DirectoryError`].
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// See [`IssuerError`].
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// See [`AttachmentError`].
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
    /// The push sender refused the request.
    #[error("the push sender refused: {}{}", .0.problem, again(.0.retry_after_s))]
    Push(PushRefusal),
    /// No usable answer within the time that was given. Whether the request had an effect is not
    /// known.
    #[error(transparent)]
    Unreachable(#[from] NoAnswer),
    /// See [`LocalError`].
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// A typed refusal of the push sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushRefusal {
    /// The last part of its problem type (docs/push.md).
    pub problem: String,
    /// With `stale-number`: the highest number that had an effect.
    pub last: Option<u64>,
    /// When to come back, in seconds.
    pub retry_after_s: Option<u64>,
}

/// Why there was no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no answer from the service: {reason}{}", again(*.retry_after_s))]
pub struct NoAnswer {
    /// What the last attempt met, and where.
    pub reason: String,
    /// When to come back, in seconds, if somebody on the way said so.
    pub retry_after_s: Option<u64>,
}

impl<T: Into<String>> From<T> for NoAnswer {
    fn from(reason: T) -> Self {
        Self {
            reason: reason.into(),
            retry_after_s: None,
        }
    }
}

/// When to come back, for the end of a sentence.
fn again(retry_after_s: Option<u64>) -> String {
    match retry_after_s {
        Some(seconds) => format!("; again in {}", span(seconds)),
        None => String::new(),
    }
}

/// A time span in words.
fn span(seconds: u64) -> String {
    match seconds {
        0..=90 => format!("{seconds} s"),
        91..=5_400 => format!("{} minutes", seconds.div_ceil(60)),
        _ => format!("{} hours", seconds.div_ceil(3600)),
    }
}

/// A typed refusal of the delivery service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Which one.
    pub problem: ProblemType,
    /// With [`ProblemType::WrongEpoch`] and [`ProblemType::ServiceBehind`]: the group's epoch.
    pub epoch: Option<u64>,
    /// With [`ProblemType::StaleTimestamp`]: the service's clock, milliseconds since 1970.
    pub now_ms: Option<u64>,
    /// With [`ProblemType::TooManyRequests`]: when to come back, in seconds.
    pub retry_after_s: Option<u64>,
    /// A token would have bought it, or another one.
    pub token_helps: bool,
}

impl Refusal {
    /// Whether it says nothing of what was asked for, and the same request may be answered later.
    pub(crate) fn is_for_now(&self) -> bool {
        matches!(
            self.problem,
            ProblemType::TooManyRequests
                | ProblemType::TokenRequired
                | ProblemType::TokenRejected
                | ProblemType::StaleTimestamp
        )
    }

    /// Whether the service has the group at another epoch than the request: an earlier or a later
    /// one.
    pub(crate) fn is_of_other_epoch(&self) -> bool {
        matches!(
            self.problem,
            ProblemType::WrongEpoch | ProblemType::ServiceBehind
        )
    }
}

/// No token could be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The issuer does not show this account the key that the delivery service announces to
    /// everybody for now: tokens might be traceable.
    #[error(
        "the issuer's keys are not those that the delivery service announces; no token was spent"
    )]
    KeyMismatch,
    /// More keys than a rotation needs could serve to sort users.
    #[error("the issuer shows more keys than a rotation needs; no token was spent")]
    TooManyKeys,
    /// No key that can be used now.
    #[error("the issuer has no token key for now")]
    NoKey,
    /// The issuer refused; the text names its problem type.
    #[error("the issuer refused: {0}")]
    Refused(String),
    /// The account has had what it may have for now.
    #[error("the issuer refused: {problem}{}", again(*.retry_after_s))]
    Limited {
        /// The problem type.
        problem: String,
        /// When to come back, in seconds.
        retry_after_s: Option<u64>,
    },
    /// The wallet has fewer tokens than this costs. Nothing was changed. It is filled when its time
    /// has come, by [`Client::sync`](crate::Client::sync); or at once, if the user wants it, by
    /// [`Client::fill_wallet`](crate::Client::fill_wallet).
    #[error("the wallet has too few tokens; it will be filled {}", filled(*.filled_in_s))]
    WalletEmpty {
        /// In so many seconds, or when the client is next used after that.
        filled_in_s: u64,
    },
    /// The answer is not of RFC 9578.
    #[error("the issuer's answer is not valid")]
    Answer,
}

fn filled(in_s: u64) -> String {
    match in_s {
        0 => "soon".to_owned(),
        seconds => format!("in {}", span(seconds)),
    }
}

/// This machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The home directory or a file in it.
    #[error("the home directory cannot be used: {0}")]
    Home(FileError),
    /// A file named by the caller.
    #[error(transparent)]
    File(FileError),
    /// What was to be told cannot be.
    #[error("standard output cannot be written")]
    Output(#[source] std::io::Error),
    /// What was to be read there cannot be.
    #[error("standard input cannot be read")]
    Input(#[source] std::io::Error),
    /// Another process works with this home directory.
    #[error("another process is using this home directory")]
    Busy,
    /// The client has ended: it was closed, its account was deleted, or its thread has failed.
    #[error("this client has ended")]
    Stopped,
    /// There is no thread or runtime to be had.
    #[error("no thread can be started")]
    Thread(#[source] std::io::Error),
    #[error("the database failed")]
    Database(#[source] DatabaseError),
    /// The database was written by a later release.
    #[error("the database is of a later release")]
    NewerDatabase,
    /// A stored row does not decode.
    #[error("the database is damaged")]
    Damaged,
    /// A cryptographic primitive.
    #[error("cryptography failed")]
    Crypto(#[from] crypto::CryptoError),
    /// The MLS library refused something of our own making.
    #[error("the MLS library failed: {0}")]
    Mls(String),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http,
    /// The authorities that the services' certificates are to be from.
    #[error("there are no authorities in {0}: certificates in PEM are needed")]
    Authorities(String),
}

/// What the database said.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DatabaseError(pub(crate) rusqlite::Error);

/// What was to be done with which file, and why it cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be {done}: {source}", path.display())]
pub struct FileError {
    /// Which.
    pub path: std::path::PathBuf,
    /// `read`, `written`, `opened`, `removed`.
    pub done: &'static str,
    /// Why not.
    pub source: std::io::Error,
}

impl FileError {
    /// For `map_err`.
    pub fn at(path: &std::path::Path, done: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self {
            path: path.to_owned(),
            done,
            source,
        }
    }
}

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Usage(_) => Fault::Caller,
            Self::Peer(_) => Fault::Peer,
            Self::Refused(refusal) => match refusal.problem {
                ProblemType::Internal | ProblemType::Unavailable => Fault::Service,
                _ => Fault::Caller,
            },
            Self::Protocol(_) | Self::KeyConfigMismatch(_) | Self::Directory(_) => Fault::Service,
            Self::Issuer(IssuerError::WalletEmpty { .. } | IssuerError::Limited { .. }) => {
                Fault::Caller
            }
            Self::Issuer(_) => Fault::Issuer,
            Self::Push(_) => Fault::Caller,
            Self::Attachment(AttachmentError::Damaged | AttachmentError::Incomplete) => Fault::Peer,
            Self::Attachment(_) => Fault::Caller,
            Self::Unreachable(_) => Fault::Network,
            Self::Local(_) => Fault::Local,
        }
    }

    /// A stable name of the error, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Usage(usage) => usage.code(),
            Self::Peer(PeerError::Unauthenticated(_)) => "unauthenticated-group",
            Self::Peer(_) => "peer",
            Self::Refused(refusal) => refusal.problem.slug(),
            Self::Protocol(_) => "protocol",
            Self::KeyConfigMismatch(_) => "key-config-mismatch",
            Self::Directory(DirectoryError::Differs(_)) => "directory-differs",
            Self::Directory(_) => "directory-refused",
            Self::Issuer(IssuerError::KeyMismatch | IssuerError::TooManyKeys) => {
                "issuer-key-mismatch"
            }
            Self::Issuer(IssuerError::WalletEmpty { .. }) => "wallet-empty",
            Self::Issuer(IssuerError::Limited { .. }) => "issuer-limit",
            Self::Issuer(_) => "issuer",
            Self::Push(_) => "push-refused",
            Self::Attachment(attachment) => attachment.code(),
            Self::Unreachable(_) => "unreachable",
            Self::Local(LocalError::Busy) => "busy",
            Self::Local(LocalError::Stopped) => "stopped",
            Self::Local(_) => "local",
        }
    }

    /// The problem type, if the delivery service refused.
    #[must_use]
    pub fn problem(&self) -> Option<ProblemType> {
        match self {
            Self::Refused(refusal) => Some(refusal.problem),
            _ => None,
        }
    }
}

impl Error {
    /// What is wrong with something that others sent, where carrying it out failed for nothing
    /// else. So it fails the next time too, and must hold up nothing beside it. What this machine
    /// or the way to the service has failed at stays as it is.
    ///
    /// # Errors
    /// The error itself.
    pub(crate) fn of_content(self) -> Result<PeerError, Self> {
        match self {
            Self::Peer(fault) => Ok(fault),
            Self::Usage(_)
            | Self::Protocol(_)
            | Self::Local(LocalError::Mls(_) | LocalError::Crypto(_) | LocalError::Damaged) => {
                Ok(PeerError::Unusable)
            }
            Self::Local(LocalError::Database(DatabaseError(
                rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error {
                        code: rusqlite::ErrorCode::ConstraintViolation,
                        ..
                    },
                    _,
                )
                | rusqlite::Error::ToSqlConversionFailure(_),
            ))) => Ok(PeerError::Unusable),
            other => Err(other),
        }
    }

    /// Whether the disk, or another process, kept the database from answering. Else what stands
    /// there cannot be used.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Local(LocalError::Database(DatabaseError(
                rusqlite::Error::SqliteFailure(error, _)
            ))) if error.code != rusqlite::ErrorCode::DatabaseCorrupt
        )
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Local(LocalError::Database(DatabaseError(error)))
    }
}

impl From<crypto::CryptoError> for Error {
    fn from(error: crypto::CryptoError) -> Self {
        Self::Local(LocalError::Crypto(error))
    }
}

/// The MLS library's errors are many types; what matters is that it refused our own doing.
pub(crate) fn mls(error: impl std::fmt::Display) -> Error {
    Error::Local(LocalError::Mls(error.to_string()))
}

/// What one group, or one of the things that a client sees to by itself, meets must not keep it
/// from the others: a refusal, and what others have sent or answered.
pub(crate) fn refusals_can_wait(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(
            Error::Refused(_)
            | Error::Usage(_)
            | Error::Issuer(_)
            | Error::Peer(_)
            | Error::Protocol(_),
        ) => Ok(()),
        other => other,
    }
}

/// As [`refusals_can_wait`], for what follows from something that is done: the next
/// [`Client::sync`] sees to it.
pub(crate) fn all_can_wait(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(Error::Unreachable(_)) => Ok(()),
        other => refusals_can_wait(other),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_its_problem_and_who_is_at_fault() {
        for problem in ProblemType::ALL {
            let error = Error::Refused(Refusal {
                problem: *problem,
                epoch: None,
                now_ms: None,
                retry_after_s: None,
                token_helps: false,
            });
            assert_eq!(error.code(), problem.slug());
            assert_eq!(error.problem(), Some(*problem));
            let service = matches!(problem, ProblemType::Internal | ProblemType::Unavailable);
            assert_eq!(error.fault() == Fault::Service, service);
        }
    }

    /// The rows of `docs/errors.md`: of what the caller did, from the sources, and of what the
    /// service refuses.
    fn documented_rows() -> Vec<String> {
        let source = include_str!("error/usage.rs");
        let between = |from: &str| {
            let (_, rest) = source.split_once(from).unwrap();
            rest.split_once("\n}\n").unwrap().0
        };
        let mut rows = Vec::new();
        let mut said = String::new();
        for line in between("pub enum UsageError {").lines().map(str::trim) {
            if let Some(more) = line.strip_prefix("/// ") {
                said = format!("{said} {more}").trim_start().to_owned();
            } else if line.starts_with(|first: char| first.is_ascii_uppercase()) {
                let name: String = line
                    .chars()
                    .take_while(char::is_ascii_alphanumeric)
                    .collect();
                let code = between("impl UsageError {").lines().find_map(|line| {
                    let rest = line.trim().strip_prefix(&format!("Self::{name}"))?;
                    let is_whole = !rest.starts_with(|next: char| next.is_ascii_alphanumeric());
                    is_whole.then(|| rest.split('"').nth(1))?
                });
                let text = std::mem::take(&mut said);
                rows.push(format!("| `{}` | {text} |", code.unwrap()));
            }
        }
        for problem in ProblemType::ALL {
            let (slug, title) = (problem.slug(), problem.title());
            rows.push(format!("| `{slug}` | {} | {title} |", problem.status()));
        }
        rows
    }

    #[test]
    fn every_error_code_is_documented() {
        let document = include_str!("../../docs/errors.md");
        let rows = documented_rows();
        for row in &rows {
            assert!(document.lines().any(|line| line == row), "{row}");
        }
        let codes = document.lines().filter(|line| line.starts_with("| `"));
        let by_hand = 24;
        assert_eq!(codes.count(), rows.len() + by_hand);
    }
}
