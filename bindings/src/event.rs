//! Everything that can happen, as the SDK tells it.

use crate::groups::GroupProfile;
use crate::ids::{GroupId, MessageId, UserId};
use crate::messages::MessageDetails;
use crate::mirror::outcome;
use crate::outcomes::{RemovalReason, StopReason, StoreChange};

outcome! {
    /// Something that happened in a group or among contacts.
    Event {
        /// A message of another member.
        Message {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// Which message.
            message: MessageId,
            /// The name of who sent it.
            sender: String,
            /// Who sent it; nobody if that member cannot show who it is.
            sender_id: Option<UserId>,
            /// What it says.
            text: String,
            /// What there is to it beside the text.
            details: MessageDetails,
            /// When the service accepted it, as it says: milliseconds since 1970.
            accepted_ms: u64,
            /// Its place in the part of the group's journal that it is in.
            position: u64,
        },
        /// A member says something else in a message of its own. Show that it has: who answered or
        /// reacted may have meant what it said before.
        MessageEdited {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// Which message: its first version.
            message: MessageId,
            /// The name of who sent it.
            sender: String,
            /// Who sent it; nobody if that member cannot show who it is.
            sender_id: Option<UserId>,
            /// What it says now.
            text: String,
            /// What there is to it beside the text.
            details: MessageDetails,
            /// When the service accepted the change, as it says: milliseconds since 1970.
            accepted_ms: u64,
        },
        /// A member has deleted a message of its own: nothing is left of it here.
        MessageDeleted {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// Which message.
            message: MessageId,
            /// The name of who sent it.
            sender: String,
            /// Who sent it; nobody if that member cannot show who it is.
            sender_id: Option<UserId>,
        },
        /// A member reacts to a message, or reacts otherwise than before.
        Reaction {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// The reaction's own id.
            message: MessageId,
            /// What it is to. It may not be known here.
            to: MessageId,
            /// The name of who sent it.
            sender: String,
            /// Who sent it; nobody if that member cannot show who it is.
            sender_id: Option<UserId>,
            /// Such as one emoji.
            reactions: Vec<String>,
        },
        /// A member has taken a reaction of its own back.
        ReactionTakenBack {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// The reaction's own id.
            message: MessageId,
            /// What it was to.
            to: MessageId,
            /// The name of who sent it.
            sender: String,
            /// Who sent it; nobody if that member cannot show who it is.
            sender_id: Option<UserId>,
        },
        /// A member wanted to edit or delete a message of somebody else's, and nothing has changed.
        ChangeRefused {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// Which message was to be changed.
            message: MessageId,
            /// The name of who wanted to change it.
            sender: String,
            /// Who wanted to; nobody if that member cannot show who it is.
            sender_id: Option<UserId>,
        },
        /// A member tells what became of messages of this user's there.
        Receipt {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// Which messages.
            messages: Vec<MessageId>,
            /// The member's name.
            reader: String,
            /// Who.
            reader_id: UserId,
            /// They were read, and not only delivered.
            read: bool,
        },
        /// A message has expired: nothing is left of it here.
        MessageExpired {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// Which message.
            message: MessageId,
        },
        /// A message of this user's that waited in the outbox stands in the group's journal.
        MessageSent {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// Which message.
            message: MessageId,
        },
        /// A message of this user's that waited in the outbox was not sent and will not be.
        MessageFailed {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// Which message.
            message: MessageId,
            /// What it says.
            text: String,
            /// Why: a stable name.
            reason: String,
            /// Whether sending it again later may help.
            retryable: bool,
        },
        /// This user was added to a group.
        Joined {
            /// Name of the group.
            group: String,
            /// The contact who vouches for the invitation.
            by: String,
        },
        /// A group that this client has come into, or that it has put in the place of another one,
        /// is not post-quantum: who records it now reads it with a quantum computer. Any other
        /// group is.
        NotPostQuantum {
            /// Name of the group.
            group: String,
        },
        /// This user was removed from a group.
        Removed {
            /// Name of the group.
            group: String,
        },
        /// Another user was added.
        MemberAdded {
            /// Name of the group.
            group: String,
            /// Who.
            name: String,
            /// By whom.
            by: String,
        },
        /// Another user was removed.
        MemberRemoved {
            /// Name of the group.
            group: String,
            /// Who.
            name: String,
            /// By whom.
            by: String,
        },
        /// The service had another user removed, or this one, and said why.
        RemovedByService {
            /// Name of the group; empty for a connection that another one was removed from. Of a
            /// connection, or of this user's devices, that this client was removed from: what it
            /// is.
            group: String,
            /// Who.
            name: String,
            /// What it said.
            why: RemovalReason,
        },
        /// The service wants a member removed for a reason that contradicts what this client has
        /// seen.
        RemovalRefused {
            /// Name of the group.
            group: String,
            /// What was seen.
            why: String,
        },
        /// A member has come back after a loss of state.
        MemberRejoined {
            /// Name of the group; empty for a connection.
            group: String,
            /// Who.
            name: String,
        },
        /// One more client of somebody who is in a group, or in a connection, reads along: a
        /// further device, as one that is there already says.
        ClientAdded {
            /// Name of the group; empty for a connection.
            group: String,
            /// Whose: a member, the contact, or this user.
            name: String,
        },
        /// A device has come into the group of this user's devices, or has come back into it.
        DeviceCameIn,
        /// A member of a group that another one was put in the place of could not be brought along.
        LeftBehind {
            /// Name of the new group.
            group: String,
            /// Who.
            name: String,
        },
        /// Somebody asks for a connection.
        ConnectionRequest {
            /// For accepting or declining it.
            id: String,
            /// The handle that they claim.
            name: String,
        },
        /// A connection request of ours was accepted.
        Connected {
            /// The new contact.
            name: String,
        },
        /// A contact has ended the connection.
        Disconnected {
            /// The former contact.
            name: String,
        },
        /// Another device of this user is linked.
        DeviceLinked {
            /// What it is called.
            name: String,
        },
        /// A device of this user was removed.
        DeviceRemoved {
            /// What it was called.
            name: String,
        },
        /// Another device of this user has removed this one.
        DeviceUnlinked,
        /// Others have claimed so many KeyPackages of this user since they were counted last, and
        /// nobody has added this user anywhere: a contact who wants nobody to be able to.
        KeyPackagesTaken {
            /// How many.
            taken: u32,
        },
        /// Somebody who is no contact has tried to add this user to a group; it was not joined.
        InvitationRefused {
            /// What they call the group.
            group: String,
            /// The name that they go by, as far as it is known; else empty.
            by: String,
        },
        /// A contact has added this user to a group, and the service shows nothing by which it can
        /// be joined: the invitation waits for that, up to a month.
        InvitationWaits {
            /// What they call the group.
            group: String,
            /// Who.
            by: String,
        },
        /// This client has come back into a group after a loss of state: what was said meanwhile is
        /// lost.
        Rejoined {
            /// Name of the group.
            group: String,
            /// Who was in it when this client was, and is not now.
            absent: Vec<String>,
            /// Whose role or standing is not what it was.
            changed: Vec<String>,
            /// Whether roles may do something else than they could.
            rules_changed: bool,
        },
        /// Another device of this user has told of a contact that this one cannot have: another
        /// user of that name is one here, or it has no name at all.
        ContactConflict {
            /// The name; empty if there is none.
            name: String,
        },
        /// The service took a commit that the group's policy forbids; it was not applied.
        CommitRefused {
            /// Name of the group.
            group: String,
        },
        /// The policy of a group has changed.
        PolicyChanged {
            /// Name of the group.
            group: String,
            /// By whom.
            by: String,
        },
        /// The members of a group agree on another name, description or picture.
        GroupProfileChanged {
            /// Name of the group from now on.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// By whom.
            by: String,
            /// As it is now.
            profile: GroupProfile,
        },
        /// A group was re-initialised: it goes on under the same name, and this is what is left of
        /// the old one.
        ReInitialized {
            /// New name of the old group.
            group: String,
            /// By whom.
            by: String,
        },
        /// Messages of a group had expired at the service before this client read them.
        MessagesDropped {
            /// Name of the group.
            group: String,
            /// How many, one after the other.
            count: u32,
        },
        /// A contact that was in a group asks to be added to it again.
        ReturnWanted {
            /// Name of the group.
            group: String,
            /// The contact.
            name: String,
        },
        /// Another client of this user came in this one's place: it was restored from a backup, or
        /// came back.
        Replaced {
            /// Name of the group.
            group: String,
        },
        /// Somebody is in the group again who is banned from it, or does not show who it is while
        /// others are banned. Members who may remove it do so.
        BannedCameIn {
            /// Name of the group.
            group: String,
            /// Who.
            name: String,
            /// By whom; empty if it came by itself.
            by: String,
        },
        /// Messages that could not be read: what they said is lost, though their sender was told
        /// that they were accepted.
        MessageUnreadable {
            /// Name of the group.
            group: String,
            /// The member who sent them; empty if that cannot be told.
            sender: String,
            /// How many, one after the other.
            count: u32,
        },
        /// The service said that it has accepted a message of this user's, and shows it to nobody.
        MessageWithheld {
            /// Name of the group.
            group: String,
            /// Which group.
            group_id: GroupId,
            /// Which message.
            message: MessageId,
            /// What it says.
            text: String,
        },
        /// This home directory was copied, restored from a copy or rolled back: its keys are
        /// renewed before anything is sent.
        HomeCopied,
        /// The store of the service is not the one that this client knew: what was accepted since
        /// its backup is lost there.
        ServiceStoreChanged {
            /// In what way.
            change: StoreChange,
        },
        /// This client follows a group no further. It comes back by itself only from a loss of its
        /// own.
        GroupLost {
            /// Name of the group.
            group: String,
            /// Why.
            why: StopReason,
        },
        /// As the event of a lost group, for the connection with a contact. Where rejoining does
        /// not lead back, `connect` asks the contact to connect anew.
        ConnectionLost {
            /// The contact.
            name: String,
            /// Why.
            why: StopReason,
        },
        /// As the event of a lost group, for what this user's devices tell each other.
        DevicesLost {
            /// Why.
            why: StopReason,
        },
        /// Somebody came into a group from outside who cannot show who that is: nothing is sent
        /// there until that leaf is gone or the user goes on all the same.
        UnverifiedMember {
            /// Name of the group.
            group: String,
        },
    }
    else
    /// Something that has no name here.
    Other {
        /// As `mimimi receive --json` shows it.
        json
    }
}
