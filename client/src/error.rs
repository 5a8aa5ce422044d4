//! What can go wrong, and whose fault it is.

use protocol::problem::ProblemType;

use crate::key_view::KeyView;

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

/// The call cannot be done as it was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The home directory has no profile yet.
    #[error("this home directory has not been initialised: run `init` first")]
    NotInitialised,
    /// A handle must be registered before.
    #[error("register a handle first: contacts know each other by their handles")]
    NoHandle,
    /// There is one handle a user.
    #[error("the handle {0} is registered already")]
    HandleRegistered(String),
    /// Not a possible handle.
    #[error("a handle has 1 to 64 of the characters a-z 0-9 . _ -")]
    InvalidHandle,
    /// A text was given as an id and is none.
    #[error("this is no id")]
    InvalidId,
    /// A connection with oneself.
    #[error("that is your own handle")]
    OwnHandle,
    /// Who is asked is a contact.
    #[error("{0} is a contact already")]
    AlreadyConnected(String),
    /// No contact has that name.
    #[error("there is no contact {0}")]
    UnknownContact(String),
    /// No request of that id or name waits.
    #[error("there is no connection request {0}")]
    UnknownRequest(String),
    /// No group has that name or id.
    #[error("there is no group {0}")]
    UnknownGroup(String),
    /// Another group has that name.
    #[error("there is a group {0} already")]
    GroupExists(String),
    /// The empty name, one of more than 256 bytes, or with characters that cannot be seen.
    #[error("a group name has 1 to 256 bytes and no characters that cannot be seen")]
    InvalidGroupName,
    /// This client is no member of the group any more.
    #[error("you are no longer a member of {0}")]
    NotAMember(String),
    /// Who is to be added is a member.
    #[error("{0} is a member already")]
    AlreadyAMember(String),
    /// Who is named is no member.
    #[error("{0} is no member of the group")]
    NotInGroup(String),
    /// They would not be in the group that is put in the place of another one.
    #[error(
        "{} would not come along: only contacts with KeyPackages of that ciphersuite do; nothing was changed",
        .0.join(", ")
    )]
    WouldLeaveBehind(Vec<String>),
    /// No name was given.
    #[error("no contact was named")]
    NobodyNamed,
    /// More than one request can hold.
    #[error("at most {0} contacts at a time")]
    TooMany(usize),
    /// The connection request is too old: its group is gone or its state key has changed.
    #[error("the connection request has expired; ask for a new one")]
    RequestExpired,
    /// The file with the addresses of the services is not readable as such.
    #[error("the stack file is not valid: {0}")]
    InvalidStack(&'static str),
    /// One operator would run both: together they know who asks for what.
    #[error("{0} and {1} have the same operator: together they would know who asks for what")]
    SameOperator(&'static str, &'static str),
    /// The account token file is empty or no token.
    #[error("the account token file holds no token")]
    InvalidAccountToken,
    /// The service took a commit that the group's policy forbids; this client does not follow it.
    #[error("this client has left off following {0}: somebody did what the group's policy forbids")]
    GroupRefused(String),
    /// This client is about to leave: nothing can be changed before it has.
    #[error("you are leaving {0}")]
    Leaving(String),
    /// The group's policy does not allow it to this user.
    #[error("the group's policy does not allow you to do this")]
    NotPermitted,
    /// The client was restored and is there, but not in these groups.
    #[error("restored, but not into {}", .0.join("; "))]
    PartlyRestored(Vec<String>),
    /// Kept out of the group by a decision of its admins.
    #[error("{0} is banned from the group: an admin can lift that (unban)")]
    Banned(String),
    /// This user is kept out of the group.
    #[error("you are banned from {0}")]
    BannedYourself(String),
    /// Nobody of that name is kept out.
    #[error("{0} is not banned from the group")]
    NotBanned(String),
    /// The change of the policy is not possible.
    #[error("the policy cannot be changed so: {0}")]
    Policy(protocol::policy::PolicyError),
    /// There is no such role.
    #[error("there is no role {0} in the group")]
    UnknownRole(String),
    /// Not a join code that this release reads.
    #[error("that is no join code")]
    InvalidJoinCode,
    /// The code was revoked, has expired, or its group is gone.
    #[error("the join code is not good any more")]
    JoinCodeExpired,
    /// This client cannot follow the group any more and must be added again.
    #[error(
        "this client does not follow {0} any more: `verify {0}` says why, `group rejoin {0}` comes back"
    )]
    GroupLost(String),
    /// The group has members whom this client does not know to be there. Nothing was sent.
    #[error("{group} has members whom you have not seen there: {}", .names.join(", "))]
    NewMembers {
        /// Name of the group.
        group: String,
        /// How they are shown.
        names: Vec<String>,
    },
    /// A member cannot show who it is. Nothing was sent.
    #[error("a member of {0} cannot show who it is: remove it, or `group accept-unverified {0}`")]
    UnverifiedMember(String),
    /// This client came in from outside, and nobody has been heard since.
    #[error(
        "nobody in {0} but the one who let you in has been heard since: wait, or `group accept-unverified {0}`"
    )]
    NobodyHeard(String),
    /// Not a link code of this version.
    #[error("that is no link code")]
    InvalidLinkCode,
    /// The numbers that were to be compared are not the same.
    #[error("the numbers are not the same: do not go on with this code")]
    NumbersDiffer,
    /// There is no link code here, or nothing has come to it.
    #[error("no device has answered the link code")]
    NotLinking,
    /// The client is somebody already.
    #[error("this home directory belongs to a user already")]
    AlreadyInUse,
    /// The empty name, one of more than 64 bytes, or with characters that cannot be seen.
    #[error("a device name has 1 to 64 bytes and no characters that cannot be seen")]
    InvalidDeviceName,
    /// No other device of that name.
    #[error("there is no other device {0}")]
    UnknownDevice(String),
    /// Not a backup.
    #[error("that is no backup")]
    NotABackup,
    /// Made by a later release.
    #[error("the backup is of a later release")]
    NewerBackup,
    /// The passphrase or recovery key does not open it.
    #[error("the backup does not open with this passphrase or recovery key")]
    WrongBackupKey,
    /// Not one of the ciphersuites that groups may have.
    #[error("{0:#06x} is not a ciphersuite of groups here")]
    UnknownCiphersuite(u16),
    /// They have shown no certificate, or it has expired.
    #[error("{0} has signed nothing that could be reported, or too long ago")]
    NotReportable(String),
    /// Too long.
    #[error("a greeting has at most 256 bytes")]
    InvalidGreeting,
    /// Nothing to say.
    #[error("a message has a text")]
    EmptyText,
    /// More than one message can hold.
    #[error("a text has at most {} bytes", crate::text::MAX_TEXT)]
    TextTooLong,
    /// Not a text.
    #[error("the text is not in UTF-8")]
    TextNotUtf8,
    /// The addresses of the services name no push sender.
    #[error("no push sender is known here: this device reads by its own clock")]
    NoPushSender,
    /// Not a subscription, token or secret of the form that is needed.
    #[error("that is no address at which a device can be woken")]
    InvalidPushAddress,
    /// This device has not been registered to be woken.
    #[error("this device is not registered to be woken")]
    NotWoken,
    /// Others were faster every time.
    #[error("the group changed too often meanwhile; try again")]
    Contention,
}

/// What another user (or a service in their name) sent does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The record behind a handle is not signed by its credential.
    #[error("the record of the handle is not its owner's")]
    HandleRecord,
    /// A KeyPackage is not valid or not of the contact it was claimed for.
    #[error("a KeyPackage of a contact does not verify")]
    KeyPackage,
    /// A leaf's identity link does not open or is not of whom it should be.
    #[error("an identity link does not verify")]
    IdentityLink,
    /// What the service keeps for those who are invited is not there or not right.
    #[error("the service shows nothing by which an invitation can be followed")]
    JoinRecord,
    /// Who points to an invitation says something else of the group's journal than the service: one
    /// of them is wrong.
    #[error("an invitation points to another journal than the service")]
    Pointer,
    /// An invitation is not attributed to a contact.
    #[error("an invitation is not from a contact")]
    Attribution,
    /// A connection group is not as its request says.
    #[error("a connection group does not match its request")]
    ConnectionGroup,
    /// A message does not decrypt or decode.
    #[error("a message of the group is not valid")]
    Message,
    /// A message uses a key that was used before, or one that is out of reach.
    #[error("a message of the group is under a key that cannot be used")]
    MessageKey,
    /// A commit by the own leaf that this client has not made.
    #[error("another copy of this client is in use")]
    OtherCopy,
    /// A commit that this client has made, and given up since the service refused it.
    #[error("the service plays a commit of this client that it has refused")]
    GivenUp,
    /// A commit is not valid.
    #[error("a commit of the group is not valid")]
    Commit,
    /// An entry of a journal does not open under the keys of its step.
    #[error("an entry of the group's journal does not open")]
    Entry,
    /// What this client came in by is not where the service says.
    #[error("the group's journal has something else where this client came in")]
    Place,
    /// The end of a journal is not signed by the service, or a member says of it what is not.
    #[error("the end of the group's journal is not signed")]
    Head,
    /// The service has shown two journals.
    #[error("the service has shown different journals of the group")]
    Split,
    /// A commit of a member begins a segment that the service does not know.
    #[error("a commit leads to where the service has nothing")]
    Stranded,
    /// The former wrapper key is not sealed as it must be: who comes later cannot see who is who.
    #[error("a commit hides from newcomers who the members are")]
    Wrapper,
    /// It asks for something that cannot be done here.
    #[error("what somebody sent cannot be carried out")]
    Unusable,
    /// A group is said to be at an epoch that no group comes to.
    #[error("a group is said to be at an epoch that no group comes to")]
    Epoch,
    /// A message that the service said to have accepted is not in the journal.
    #[error("the service has accepted a message and does not show it")]
    Withheld,
    /// A proposal is not valid.
    #[error("a proposal in the group is not valid")]
    Proposal,
    /// The policy of a group is malformed.
    #[error("the policy of a group is malformed")]
    Policy,
    /// A message or commit of somebody whom the group's policy does not allow it.
    #[error("a member did what the group's policy forbids")]
    NotPermitted,
    /// The service's view of the group is not this client's.
    #[error("the service and this client disagree about the group: {0}")]
    Disagreement(&'static str),
    /// A commit removes members and keeps the state key, so that they could go on reading the
    /// state.
    #[error("a commit removes members without changing the state key")]
    RemovalWithoutRotation,
    /// The group that the service shows to somebody outside is not the one that this client knows
    /// of.
    #[error("the group that the service shows cannot be authenticated: {0}")]
    Unauthenticated(&'static str),
    /// The service has a member removed for a reason that is not true.
    #[error("the service removes a member for a reason that contradicts what was seen: {0}")]
    FalseRemoval(&'static str),
    /// A commit changes the external senders otherwise than the service has announced, or has
    /// members removed on the word of one who is not the service.
    #[error("a commit relies on an external sender that is not the service")]
    ExternalSenders,
}

/// What the service announces is not taken: it could mark this client. What was taken before stays
/// in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Tokens are asked for under a challenge of configured names and an empty redemption context,
    /// and no other.
    #[error("the service's token challenge is not the configured one: {0} differs")]
    Challenge(&'static str),
    /// Operators show different values of it.
    #[error("the service's directory is not the same everywhere: {0} differs")]
    Differs(String),
    /// No operation costs so much.
    #[error("the service's directory asks too high a price: {0}")]
    Price(&'static str),
    /// More keys than a rotation needs could serve to sort users.
    #[error("the service's directory has more keys than a rotation needs: {0}")]
    TooManyKeys(&'static str),
    /// A member that is not as it must be.
    #[error("the service's directory is not valid: {0}")]
    Member(&'static str),
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
    /// The database.
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

impl UsageError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotInitialised => "not-initialised",
            Self::NoHandle => "no-handle",
            Self::HandleRegistered(_) => "handle-registered",
            Self::InvalidHandle => "invalid-handle",
            Self::InvalidId => "invalid-id",
            Self::OwnHandle => "own-handle",
            Self::AlreadyConnected(_) => "already-connected",
            Self::UnknownContact(_) => "unknown-contact",
            Self::UnknownRequest(_) => "unknown-request",
            Self::UnknownGroup(_) => "unknown-group",
            Self::GroupExists(_) => "group-exists",
            Self::InvalidGroupName => "invalid-group-name",
            Self::NotAMember(_) => "not-a-member",
            Self::AlreadyAMember(_) => "already-a-member",
            Self::NotInGroup(_) => "not-in-group",
            Self::WouldLeaveBehind(_) => "would-leave-behind",
            Self::NobodyNamed => "nobody-named",
            Self::TooMany(_) => "too-many",
            Self::RequestExpired => "request-expired",
            Self::InvalidStack(_) => "invalid-stack",
            Self::SameOperator(..) => "same-operator",
            Self::InvalidAccountToken => "invalid-account-token",
            Self::GroupLost(_) => "group-lost",
            Self::NewMembers { .. } => "new-members",
            Self::UnverifiedMember(_) => "unverified-member",
            Self::InvalidLinkCode => "invalid-link-code",
            Self::NoPushSender => "no-push-sender",
            Self::InvalidPushAddress => "invalid-push-address",
            Self::NotWoken => "not-woken",
            Self::NobodyHeard(_) => "nobody-heard",
            Self::NumbersDiffer => "numbers-differ",
            Self::NotLinking => "not-linking",
            Self::AlreadyInUse => "already-in-use",
            Self::InvalidDeviceName => "invalid-device-name",
            Self::UnknownDevice(_) => "unknown-device",
            Self::NotABackup => "not-a-backup",
            Self::NewerBackup => "newer-backup",
            Self::WrongBackupKey => "wrong-backup-key",
            Self::GroupRefused(_) => "group-refused",
            Self::Leaving(_) => "leaving",
            Self::NotPermitted => "not-permitted",
            Self::PartlyRestored(_) => "partly-restored",
            Self::Banned(_) => "banned",
            Self::BannedYourself(_) => "banned-yourself",
            Self::NotBanned(_) => "not-banned",
            Self::Policy(_) => "policy",
            Self::UnknownRole(_) => "unknown-role",
            Self::InvalidJoinCode => "invalid-join-code",
            Self::JoinCodeExpired => "join-code-expired",
            Self::UnknownCiphersuite(_) => "unknown-ciphersuite",
            Self::NotReportable(_) => "not-reportable",
            Self::InvalidGreeting => "invalid-greeting",
            Self::EmptyText => "empty-text",
            Self::TextTooLong => "text-too-long",
            Self::TextNotUtf8 => "text-not-utf8",
            Self::Contention => "contention",
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
        let source = include_str!("error.rs");
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
        let by_hand = 15;
        assert_eq!(codes.count(), rows.len() + by_hand);
    }
}
