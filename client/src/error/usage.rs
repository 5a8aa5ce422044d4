//! Calls that cannot be done as they were made.

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
    /// The empty name, one of more than 256 bytes, written like an id, or with characters that
    /// cannot be seen.
    #[error(
        "a group name has 1 to 256 bytes, is not written like an id, and has no characters that cannot be seen"
    )]
    InvalidGroupName,
    /// The empty name, one of more than 64 bytes, or with characters that cannot be seen.
    #[error("the name of a contact has 1 to 64 bytes and no characters that cannot be seen")]
    InvalidContactName,
    /// Too long, with characters that act on a screen, or a picture that is none.
    #[error(
        "a description has up to 1024 bytes and no control characters, and a picture up to 4096 bytes and a media type of images"
    )]
    InvalidGroupProfile,
    /// This client is no member of the group any more.
    #[error("you are no longer a member of {0}")]
    NotAMember(String),
    /// Only a group that this client is not in any more can be forgotten.
    #[error("you are in {0}: leave it first")]
    StillAMember(String),
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
    /// A client of this contact takes no groups with X-Wing, as it says itself. Nothing was
    /// changed: `Client::upgrade_group` would put a classical group in the place of this one, for
    /// everybody.
    #[error("{0} has a client that takes no post-quantum groups; nothing was changed")]
    LacksPostQuantum(String),
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
    #[error("that was made by a later release")]
    NewerBackup,
    /// The passphrase or recovery key does not open it.
    #[error("that does not open with this passphrase or recovery key")]
    WrongBackupKey,
    /// Not a history, or not all of one.
    #[error("that is no history, or not all of one")]
    NotAHistory,
    /// The history of another user.
    #[error("that is the history of another user")]
    HistoryOfAnother,
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
    /// A message that is not known here, or of which nothing is left.
    #[error("there is no message {0} in this group")]
    UnknownMessage(String),
    /// Only who has sent a message can edit or delete it.
    #[error("message {0} is somebody else's")]
    NotOwnMessage(String),
    /// Over, or more than a year away.
    #[error("a message expires in the future, and within a year")]
    InvalidExpiry,
    /// The message has expired, or what it is about is gone, before it could be sent: nobody has
    /// it.
    #[error("it was gone before it could be sent")]
    GoneBeforeSent,
    /// An answer, a format or an expiry that what is done with the message does not have.
    #[error("a reaction, an edit or a deletion is not asked for with this")]
    DraftDoesNotFit,
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

impl UsageError {
    pub(super) fn code(&self) -> &'static str {
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
            Self::InvalidContactName => "invalid-contact-name",
            Self::InvalidGroupProfile => "invalid-group-profile",
            Self::NotAMember(_) => "not-a-member",
            Self::StillAMember(_) => "still-a-member",
            Self::AlreadyAMember(_) => "already-a-member",
            Self::NotInGroup(_) => "not-in-group",
            Self::WouldLeaveBehind(_) => "would-leave-behind",
            Self::LacksPostQuantum(_) => "lacks-post-quantum",
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
            Self::NotAHistory => "not-a-history",
            Self::HistoryOfAnother => "history-of-another",
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
            Self::UnknownMessage(_) => "unknown-message",
            Self::NotOwnMessage(_) => "not-own-message",
            Self::InvalidExpiry => "invalid-expiry",
            Self::GoneBeforeSent => "gone-before-sent",
            Self::DraftDoesNotFit => "draft-does-not-fit",
            Self::Contention => "contention",
        }
    }
}
