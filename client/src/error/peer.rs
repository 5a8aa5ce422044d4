//! What others sent, and what a service announces, that is not taken.

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
