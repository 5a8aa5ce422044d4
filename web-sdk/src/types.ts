/**
 * What the SDK takes and gives. The same calls, events and errors as in Rust (`client/`) and in the
 * other languages (`bindings/`). Bytes are `Uint8Array`, ids are texts, times are numbers.
 */

/** A group: the same on every device. */
export type GroupId = string;

/** A message: the same for everybody who reads it. */
export type MessageId = string;

/** A user, as this device has authenticated it: the same in all groups, and no service sees it. */
export type UserId = string;

/**
 * Something that comes with a message and lies elsewhere, encrypted. Files are not sent or fetched
 * in the browser yet; what a message says of one is shown, and another message can take it along.
 * What finds and opens it is in `sealed`: hand the whole object on as it came.
 */
export interface Attachment {
  /** Its media type. */
  mediaType: string;
  /** Its length in bytes; 0 if it is not said. */
  size: number;
  /** Until when it can be fetched: seconds since 1970; 0 for no end. */
  expires: number;
  /** What it is, in words. */
  description: string;
  /**
   * What the file is called: a name without directories that hides nothing. Null where whoever sent
   * it has given another one.
   */
  fileName: string | null;
  /** A small picture of it, in the message itself. */
  thumbnail: Thumbnail | null;
  /** Holds keys: do not show it. */
  sealed: string;
}

/** What opens a backup. */
export type BackupKey =
  /** Words that a person remembers; guessing them is made dear. */
  | { passphrase: string }
  /** A random key, as `Sdk.newRecoveryKey` makes it. */
  | { recoveryKey: string };

/** How many journals a slot reads. What is asked together is linked. */
export type Bundle =
  /** One. No time tells the service which journals one client reads. */
  | "separate"
  /**
   * Four, one after the other, or nobody's. The service can tell which journals one client reads.
   */
  | "bundled";

/**
 * One device of one user, kept in a home.
 *
 * All calls of one client are done one after the other, in the order in which they were made. A
 * call that fails rejects with a `ClientError`. A device is linked to a user by three calls:
 * `linkCode` on the new one, `approveLink` on the other, `completeLink` on the new one.
 *
 * A group is meant by its id or by its name. A text that is written like an id is one. Others can
 * rename groups: an application that acts on what it has shown hands in the id.
 */
export interface Client {
  /**
   * Accepts a request and returns the new contact's name.
   *
   * Fails with `unknown-request`, `request-expired`, `already-connected`, or `peer` when what came
   * is not the requester's.
   */
  acceptRequest(id: string): Promise<string>;
  /**
   * Goes on with the members of a group that cannot show who they are, and although nobody was
   * heard since this client came in: what is sent from now on reaches them.
   *
   * Fails with `unknown-group`.
   */
  acceptUnverified(group: string): Promise<void>;
  /**
   * Forgets events that have been shown, by their ids. Before this call they come again after a
   * crash. Messages that expire after reading do from now on. Ids that are not there any more are
   * passed over.
   */
  acknowledge(events: number[]): Promise<void>;
  /**
   * Adds contacts to a group, all in one commit.
   *
   * Fails with `unknown-contact`, `already-a-member`, `nobody-named` and the like; with
   * `lacks-post-quantum` when a contact has a client that takes no groups as this one, which
   * `upgradeGroup` would make a classical one; or refused with `no-key-packages` when a contact has
   * none left.
   */
  addToGroup(group: string, names: string[]): Promise<void>;
  /**
   * On a device of the user: links the new device that shows this code and this number. Returns the
   * number that the new device must be told.
   *
   * Fails with `invalid-link-code` or `numbers-differ`: nothing was sent then.
   */
  approveLink(code: string, shown: string): Promise<string>;
  /**
   * Asks one of them to add this user again, who decides.
   *
   * Fails with `already-a-member`, `not-in-group`.
   */
  askToReturn(group: string, contact: string): Promise<void>;
  /**
   * Says to the push sender that this device reads by itself for so many seconds, an hour at most;
   * with 0, that it sleeps again.
   *
   * Fails with `not-woken`.
   */
  awake(seconds: number): Promise<void>;
  /** An encrypted backup of this client as it is now. Groups joined later are not in it. */
  backup(key: BackupKey): Promise<Uint8Array>;
  /**
   * Bans a member: nothing is left to it, and it is removed. The person cannot come in again
   * without members being told and whoever may removing it.
   *
   * Fails with `not-in-group`, `not-permitted`.
   */
  ban(group: string, member: string): Promise<void>;
  /**
   * The names of those who are banned from a group.
   *
   * Fails with `unknown-group`.
   */
  banned(group: string): Promise<string[]>;
  /**
   * Has a group in front, as if it were on the screen: its journal is followed while somebody
   * follows events. So is the one that a call has sent a message to last.
   *
   * Fails with `unknown-group`.
   */
  bringToFront(group: string): Promise<void>;
  /**
   * Takes back a request of this user's that nobody has accepted.
   *
   * Fails with `unknown-request`, or `already-connected` if it was accepted meanwhile.
   */
  cancelRequest(handle: string): Promise<void>;
  /**
   * Looks for connection requests now. In the background this happens every few hours; whoever asks
   * for it tells the service when somebody looks.
   */
  checkInbox(): Promise<void>;
  /**
   * On the new device: becomes what the other device has sent, if it is what it showed the number
   * of. Waits up to `waitMs` for it. Returns the user's handle.
   *
   * Fails with `not-linking` without a code or a package, or `numbers-differ`.
   */
  completeLink(shown: string, waitMs: number): Promise<string>;
  /**
   * Asks the owner of a handle for a connection; again, if it was asked before. With up to 256
   * bytes of greeting, which the recipient can report: it travels with this user's certificate, and
   * without one there is no greeting.
   *
   * Fails with `already-connected`, `own-handle`, `invalid-greeting`, refused with
   * `unknown-handle`, or `peer` if the handle is another one's since it was asked.
   */
  connect(handle: string, greeting?: string | null): Promise<void>;
  /** All contacts by name. */
  contacts(): Promise<Contact[]>;
  /**
   * KeyPackages that others can still claim of this user, by ciphersuite. What is missing is
   * published by the next sync.
   */
  countKeyPackages(): Promise<KeyPackageCount[]>;
  /**
   * Creates a group with this user as its only member, in the ciphersuite of the MLS number that is
   * given, or in the usual one.
   *
   * Fails with `group-exists`, `invalid-group-name`, `no-handle`, `unknown-ciphersuite`.
   */
  createGroup(name: string, ciphersuite?: number | null): Promise<void>;
  /**
   * Declines a request: it is forgotten, and the requester is told nothing.
   *
   * Fails with `unknown-request`.
   */
  declineRequest(id: string): Promise<void>;
  /**
   * Leaves every group, takes back every connection and request, deletes handle, inbox and
   * KeyPackages, and forgets everything. The user's other devices are removed first. Where others
   * are left in a group, the last trace of this user goes with their next commit. If it fails it
   * can be called again.
   */
  deleteAccount(): Promise<void>;
  /**
   * Deletes a group: everybody else is removed, and nothing of it stays at the service.
   *
   * Fails with `not-permitted`.
   */
  deleteGroup(group: string): Promise<void>;
  /**
   * Gives the handle up. Contacts and groups stay; nobody can ask for a connection any more.
   *
   * Fails with `no-handle`.
   */
  deleteHandle(): Promise<void>;
  /** This user's devices: this one first. */
  devices(): Promise<Device[]>;
  /**
   * Why the views of relay, mirrors, gateway and service did not agree when they were last
   * compared. A disagreement that lasts is a reason to ask the operators.
   */
  disagreement(): Promise<Disagreement | null>;
  /**
   * Ends a connection: both sides forget each other. The groups that both are in stay.
   *
   * Fails with `unknown-contact`.
   */
  disconnect(contact: string): Promise<void>;
  /**
   * What two members can compare over another channel. It is the same for all who have the same
   * history of the group, and different after two different commits, whatever the service shows.
   *
   * Fails with `unknown-group`.
   */
  epochAuthenticator(group: string): Promise<EpochAuthenticator>;
  /**
   * Events as they come. Until what this returns is ended, this client reads as its profile says.
   */
  eventStream(): EventStream;
  /** The events that have not been acknowledged, oldest first. */
  events(): Promise<StoredEvent[]>;
  /**
   * What came in a group, or in the connection with a contact, that could not be carried out. It is
   * kept for good.
   *
   * Fails with `unknown-group`.
   */
  evidence(group: string): Promise<Evidence[]>;
  /**
   * Fills the wallet now: by whole batches until it is full, by one at least. This is for users to
   * decide: the issuer sees when they do, and that many tokens were spent before.
   */
  fillWallet(): Promise<void>;
  /**
   * Forgets a group that this client is not in any more, everything that was said there, and proofs
   * against the service. Where this client only does not follow the group any more, its leaf stays:
   * others go on seeing it, and it cannot come back by itself.
   *
   * Fails with `unknown-group`, `still-a-member`.
   */
  forgetGroup(group: string): Promise<void>;
  /**
   * One group.
   *
   * Fails with `unknown-group`.
   */
  group(group: string): Promise<GroupSummary>;
  /** Groups by name, without those of connections. */
  groups(): Promise<GroupSummary[]>;
  /** Requests that wait for an answer. */
  incomingRequests(): Promise<IncomingRequest[]>;
  /**
   * Makes a join code that is good for so many days, at most a year. It is a secret: whoever has it
   * can come in until then, or until it is revoked.
   *
   * Fails with `not-permitted`, or refused with `limit-exceeded` when there are too many codes.
   */
  invite(group: string, days: number): Promise<string>;
  /**
   * Comes into a group by a join code and returns the name that it has here.
   *
   * Fails with `invalid-join-code`, `join-code-expired`, `already-a-member`.
   */
  joinByCode(code: string): Promise<string>;
  /**
   * Leaves a group with all clients of this user. It is done when another member has committed it,
   * which happens as soon as one of them catches up. Whoever is alone deletes the group.
   *
   * Fails with `unknown-group`, `not-a-member`.
   */
  leaveGroup(group: string): Promise<void>;
  /**
   * On a new device, without a handle of its own: shows the code that links it to a user.
   *
   * Fails with `already-in-use` for a client that is somebody already.
   */
  linkCode(name: string): Promise<LinkCode>;
  /**
   * The user has read these messages: what expires after reading does from now on, and where read
   * receipts are switched on, their senders are told.
   *
   * Fails with `unknown-group`.
   */
  markRead(group: string, messages: MessageId[]): Promise<void>;
  /**
   * The members of a group, as far as this client has followed.
   *
   * Fails with `unknown-group`.
   */
  members(group: string): Promise<Member[]>;
  /**
   * What was said in a group, as it is now, in the order of its journal, the last first: at most
   * `limit` messages, those before one of them.
   *
   * Fails with `unknown-group`, `unknown-message`.
   */
  messages(group: string, before?: MessageId | null, limit?: number): Promise<Message[]>;
  /** This user's handle, if there is one. */
  ownHandle(): Promise<string | null>;
  /**
   * As `sendMessage`, but puts it into the outbox and returns at once: it is kept on disk, sent in
   * order, tried again as long as nobody answers, also after the next start, and ends with an
   * event: that it was sent, or that it failed.
   */
  queueMessage(group: string, message: Draft): Promise<MessageId>;
  /** What waits in the outbox, in the order in which it is sent. */
  queuedMessages(): Promise<QueuedMessage[]>;
  /**
   * What this client tells the others of a group about their messages.
   *
   * Fails with `unknown-group`.
   */
  receipts(group: string): Promise<Receipts>;
  /**
   * Catches up until there is an event or `waitMs` have passed, and returns the events that have
   * not been acknowledged. As `sync`, it reads all groups at once.
   */
  receive(waitMs: number): Promise<StoredEvent[]>;
  /**
   * Registers this user's handle, which is also the name that members see, and publishes
   * KeyPackages. Again with the same handle, it renews the record.
   *
   * Fails with `handle-registered`, `invalid-handle`, or refused with `handle-taken`.
   */
  registerHandle(handle: string): Promise<void>;
  /**
   * Has this device woken at an address when there is news, until `removePush`. Again: at another
   * address, which no group learns of. Groups that this client is in already bring handles at times
   * of their own, in the next hours. The push sender learns when the device is woken, and with whom
   * at about the same time.
   *
   * Fails with `no-push-sender`, `invalid-push-address`, or refused with `push-refused`.
   */
  registerPush(address: PushAddress, consent: PushConsent): Promise<void>;
  /** As `rejoinGroup`, for the group of this user's devices. */
  rejoinDevices(): Promise<void>;
  /**
   * Comes back into a group, or a connection with a contact, that this client does not follow any
   * more. What was said meanwhile is lost.
   *
   * Fails with `new-members` if somebody is in it whom this client does not know to be there: show
   * that to the user, who may go on by `rejoinGroupWithShown`. Fails with `unauthenticated-group`
   * if it is another group, `group-lost` if there is no way back, `not-a-member` after a removal.
   */
  rejoinGroup(group: string): Promise<void>;
  /** As `rejoinGroup`; the user has been shown the new members that it named, and goes on. */
  rejoinGroupWithShown(group: string): Promise<void>;
  /**
   * Removes users from a group, with all their clients. What the service keeps of it is sealed
   * under another key from then on.
   *
   * Fails with `not-in-group`, `not-permitted`.
   */
  removeFromGroup(group: string, names: string[]): Promise<void>;
  /**
   * Has this device woken no more.
   *
   * Fails with `not-woken`.
   */
  removePush(): Promise<void>;
  /**
   * Calls a contact something else on this user's devices; without a name, by its handle, which
   * finds it in any case.
   *
   * Fails with `unknown-contact`, `invalid-contact-name`, `already-connected` if another contact or
   * this user has that name.
   */
  renameContact(contact: string, name?: string | null): Promise<void>;
  /**
   * Has a contact whose clients are dead come in anew: the old ones are removed, and the present
   * ones are added, with the role and standing that the contact had.
   */
  replaceInGroup(group: string, name: string): Promise<void>;
  /**
   * Reports a contact, or the sender of a connection request (by name or by the request's id), to
   * the token issuer: with what they signed for this user, and nothing else.
   *
   * Fails with `unknown-contact`, or `not-reportable` for somebody who has shown no valid
   * certificate.
   */
  report(who: string, reason: ReportReason): Promise<void>;
  /**
   * Revokes a join code of a group that this client is in.
   *
   * Fails with `invalid-join-code`, `not-a-member`.
   */
  revokeInvitation(code: string): Promise<void>;
  /**
   * The safety number with a contact: the same on both sides if and only if neither service gave
   * them wrong keys. To be compared over another channel.
   *
   * Fails with `unknown-contact`.
   */
  safetyNumber(contact: string): Promise<string>;
  /**
   * Says something to all other members of a group, after what was queued before it. When this
   * returns, it stands in the group's journal.
   *
   * Fails with `unknown-group`, `not-a-member`, `empty-text`, `text-too-long`, `unknown-message`,
   * `not-own-message` and the like, or `gone-before-sent` if it has expired before it was sent.
   * After `unreachable` the message stays in the outbox, is sent when that is possible, and its end
   * is told as an event.
   */
  sendMessage(group: string, message: Draft): Promise<MessageId>;
  /**
   * Sets name, description and picture of a group, for all of its members.
   *
   * Fails with `invalid-group-name`, `invalid-group-profile`, `not-permitted`.
   */
  setGroupProfile(group: string, profile: GroupProfile): Promise<void>;
  /**
   * Mutes a member, or lets it speak again.
   *
   * Fails with `not-in-group`, `not-permitted`.
   */
  setMuted(group: string, member: string, muted: boolean): Promise<void>;
  /**
   * Reads in another way from now on, while somebody follows events: as an application does that
   * comes to the screen or goes from it.
   */
  setProfile(profile: Profile): Promise<void>;
  /**
   * Changes what this client tells the others of a group about their messages: nothing, before this
   * is called. When it is to tell less, what waits to be told is not.
   *
   * Fails with `unknown-group`.
   */
  setReceipts(group: string, told: Receipts): Promise<void>;
  /**
   * Gives a member a role, by its name: `admin` and `member` are there from the beginning.
   *
   * Fails with `not-in-group`, `unknown-role`, `not-permitted`, `policy`.
   */
  setRole(group: string, member: string, role: string): Promise<void>;
  /**
   * Ends this client when all calls that were made before have been done. What is called later
   * fails with `stopped`, and its streams of events end. Queued messages are sent after it is
   * opened the next time.
   */
  stop(): Promise<void>;
  /**
   * Why this client has stopped following a group or connection, if it has.
   *
   * Fails with `unknown-group`.
   */
  stopReason(group: string): Promise<StopReason | null>;
  /**
   * Catches up: finishes what was under way, reads the journals of all groups (waiting up to
   * `waitMs` for something if there is nothing, 4 seconds at most), and does what follows from it.
   * Whoever follows events need not call it. The relay sees how many groups are read in one go, the
   * service which ones, and both see when.
   */
  sync(waitMs: number): Promise<void>;
  /** Tokens that can be spent. */
  tokens(): Promise<number>;
  /**
   * Lets a banned person come in again.
   *
   * Fails with `not-banned`, `not-permitted`.
   */
  unban(group: string, name: string): Promise<void>;
  /**
   * Removes another device of this user from all groups, from the KeyPackage sets and from the
   * handle; contacts get a new connection token. What it had, it keeps: the identity key among it.
   * What is cut off is gone on with by the next sync.
   *
   * Fails with `unknown-device`.
   */
  unlinkDevice(name: string): Promise<void>;
  /**
   * As `unlinkDevice` for every other device, those too that have not said their names. Returns the
   * names of the others. If it fails it can be called again.
   */
  unlinkOtherDevices(): Promise<string[]>;
  /** Replaces the own leaf: new keys, under the same pseudonym. */
  updateOwnLeaf(group: string): Promise<void>;
  /**
   * Ends a group and makes another one under its name, in another ciphersuite, in which all of its
   * members are again, in the roles that they had.
   *
   * Fails with `not-permitted`, `unknown-ciphersuite`, or `would-leave-behind` when somebody cannot
   * come along: nothing has changed then.
   */
  upgradeGroup(group: string, ciphersuite: number): Promise<void>;
  /** As `upgradeGroup`, without the members who cannot be brought along: returns who they are. */
  upgradeGroupLeavingOthers(group: string, ciphersuite: number): Promise<string[]>;
  /**
   * Asks the service what it holds of a group and compares it with what this client has: returns
   * what both agree on.
   *
   * Fails with `peer` when they do not.
   */
  verifyGroup(group: string): Promise<VerifiedGroup>;
  /**
   * The contacts who were in a group when this client followed it last: each can add this user
   * again, if it is a member still. Nobody while this client is in the group.
   *
   * Fails with `unknown-group`.
   */
  whoCanBringBack(group: string): Promise<string[]>;
}

/** What an error says about its kind. */
export type ErrorKind =
  /** The call cannot be done as it was made: such as a name that is not there. */
  | "usage"
  /** What another user sent, or a service in their name, does not verify. */
  | "peer"
  /** The delivery service or the push sender refused the request. */
  | "refused"
  /** A service answered or announced something that is not taken. */
  | "service"
  /** No token could be had. */
  | "issuer"
  /** No usable answer within the time that was given. */
  | "network"
  /** This machine: its storage, another tab. */
  | "local";

/**
 * Why a call failed: what `ClientError` (an `Error`) carries. `code` is a stable name for programs,
 * `fault` says who has to act, `detail` is a sentence in English for whoever looks for the reason.
 * What users are told follows from `code` (docs/errors.md).
 */
export interface ClientErrorDetails {
  /** What kind of error. */
  kind: ErrorKind;
  /** Such as `unknown-group`; `busy` where another tab has the home open; `stopped`. */
  code: string;
  /** Who has to act. */
  fault: Fault;
  /** In words. */
  detail: string;
  /**
   * The contacts, members or groups that the error is about, as they are shown. Empty for other
   * errors. Members choose their names themselves.
   */
  names: string[];
  /** The problem type of the issuer or of the push sender, if it refused. */
  problem: string | null;
  /** When to come back, in seconds, if that is known. */
  retryAfterS: number | null;
}

/** Somebody whom this user is connected to. */
export interface Contact {
  /** Who. */
  user: UserId;
  /** What this user calls them: their handle, or another name. */
  name: string;
  /** The handle that they registered. */
  handle: string;
  /** Whether they can be reported to the token issuer. */
  reportable: boolean;
}

/** A device as its user sees it. */
export interface Device {
  /** As it was called when it was linked. */
  name: string;
  /** This one. */
  own: boolean;
}

/** Why the views of several operators did not agree. */
export interface Disagreement {
  /** A stable name, as that of an error. */
  code: string;
  /** In words. */
  detail: string;
}

/** Something to say. */
export type Draft =
  /** A text. */
  | {
      type: "text";
      /** What it says, at most 192,512 bytes. */
      text: string;
      /** How it is written. */
      format?: TextFormat | null;
      /** A message of the same group that it answers. */
      replyTo?: MessageId | null;
      /** When it is deleted. */
      expires?: Expiry | null;
      /** Something that another message came with; the text may be empty then. */
      attachment?: Attachment | null;
    }
  /** A reaction to a message. */
  | {
      type: "reaction";
      /** The message. */
      to: MessageId;
      /** Such as one emoji: up to 128 bytes. */
      reaction: string;
      /** When it is deleted. */
      expires?: Expiry | null;
    }
  /**
   * Another text in the place of a message of this user's own. It is shown once the edit is read in
   * the group's journal, here as everywhere.
   */
  | {
      type: "edit";
      /** The message. */
      message: MessageId;
      /** What it says from then on. */
      text: string;
      /** How that is written. */
      format?: TextFormat | null;
    }
  /**
   * Deletes a message of this user's own, or takes a reaction back. Of one that was never sent
   * nobody is told.
   */
  | {
      type: "deletion";
      /** The message, or the reaction's own id. */
      message: MessageId;
    };

/** What a group is at, for comparing. */
export interface EpochAuthenticator {
  /** The epoch that this client is in. */
  epoch: number;
  /** Its authenticator (RFC 9420 §8.7), in hex. */
  authenticator: string;
}

/** Something that happened in a group or among contacts. */
export type Event =
  /** A message of another member. */
  | {
      type: "message";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** Which message. */
      message: MessageId;
      /** The name of who sent it. */
      sender: string;
      /** Who sent it; nobody if that member cannot show who it is. */
      senderId: UserId | null;
      /** What it says. */
      text: string;
      /** What there is to it beside the text. */
      details: MessageDetails;
      /** When the service accepted it, as it says: milliseconds since 1970. */
      acceptedMs: number;
      /** Its place in the part of the group's journal that it is in. */
      position: number;
    }
  /**
   * A member says something else in a message of its own. Show that it has: who answered or reacted
   * may have meant what it said before.
   */
  | {
      type: "messageEdited";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** Which message: its first version. */
      message: MessageId;
      /** The name of who sent it. */
      sender: string;
      /** Who sent it; nobody if that member cannot show who it is. */
      senderId: UserId | null;
      /** What it says now. */
      text: string;
      /** What there is to it beside the text. */
      details: MessageDetails;
      /** When the service accepted the change, as it says: milliseconds since 1970. */
      acceptedMs: number;
    }
  /** A member has deleted a message of its own: nothing is left of it here. */
  | {
      type: "messageDeleted";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** Which message. */
      message: MessageId;
      /** The name of who sent it. */
      sender: string;
      /** Who sent it; nobody if that member cannot show who it is. */
      senderId: UserId | null;
    }
  /** A member reacts to a message, or reacts otherwise than before. */
  | {
      type: "reaction";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** The reaction's own id. */
      message: MessageId;
      /** What it is to. It may not be known here. */
      to: MessageId;
      /** The name of who sent it. */
      sender: string;
      /** Who sent it; nobody if that member cannot show who it is. */
      senderId: UserId | null;
      /** Such as one emoji. */
      reactions: string[];
    }
  /** A member has taken a reaction of its own back. */
  | {
      type: "reactionTakenBack";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** The reaction's own id. */
      message: MessageId;
      /** What it was to. */
      to: MessageId;
      /** The name of who sent it. */
      sender: string;
      /** Who sent it; nobody if that member cannot show who it is. */
      senderId: UserId | null;
    }
  /** A member wanted to edit or delete a message of somebody else's, and nothing has changed. */
  | {
      type: "changeRefused";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** Which message was to be changed. */
      message: MessageId;
      /** The name of who wanted to change it. */
      sender: string;
      /** Who wanted to; nobody if that member cannot show who it is. */
      senderId: UserId | null;
    }
  /** A member tells what became of messages of this user's there. */
  | {
      type: "receipt";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** Which messages. */
      messages: MessageId[];
      /** The member's name. */
      reader: string;
      /** Who. */
      readerId: UserId;
      /** They were read, and not only delivered. */
      read: boolean;
    }
  /** A message has expired: nothing is left of it here. */
  | {
      type: "messageExpired";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** Which message. */
      message: MessageId;
    }
  /** A message of this user's that waited in the outbox stands in the group's journal. */
  | {
      type: "messageSent";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** Which message. */
      message: MessageId;
    }
  /** A message of this user's that waited in the outbox was not sent and will not be. */
  | {
      type: "messageFailed";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** Which message. */
      message: MessageId;
      /** What it says. */
      text: string;
      /** Why: a stable name. */
      reason: string;
      /** Whether sending it again later may help. */
      retryable: boolean;
    }
  /** This user was added to a group. */
  | {
      type: "joined";
      /** Name of the group. */
      group: string;
      /** The contact who vouches for the invitation. */
      by: string;
    }
  /**
   * A group that this client has come into, or that it has put in the place of another one, is not
   * post-quantum: who records it now reads it with a quantum computer. Any other group is.
   */
  | {
      type: "notPostQuantum";
      /** Name of the group. */
      group: string;
    }
  /** This user was removed from a group. */
  | {
      type: "removed";
      /** Name of the group. */
      group: string;
    }
  /** Another user was added. */
  | {
      type: "memberAdded";
      /** Name of the group. */
      group: string;
      /** Who. */
      name: string;
      /** By whom. */
      by: string;
    }
  /** Another user was removed. */
  | {
      type: "memberRemoved";
      /** Name of the group. */
      group: string;
      /** Who. */
      name: string;
      /** By whom. */
      by: string;
    }
  /** The service had another user removed, or this one, and said why. */
  | {
      type: "removedByService";
      /**
       * Name of the group; empty for a connection that another one was removed from. Of a
       * connection, or of this user's devices, that this client was removed from: what it is.
       */
      group: string;
      /** Who. */
      name: string;
      /** What it said. */
      why: RemovalReason;
    }
  /** The service wants a member removed for a reason that contradicts what this client has seen. */
  | {
      type: "removalRefused";
      /** Name of the group. */
      group: string;
      /** What was seen. */
      why: string;
    }
  /** A member has come back after a loss of state. */
  | {
      type: "memberRejoined";
      /** Name of the group; empty for a connection. */
      group: string;
      /** Who. */
      name: string;
    }
  /**
   * One more client of somebody who is in a group, or in a connection, reads along: a further
   * device, as one that is there already says.
   */
  | {
      type: "clientAdded";
      /** Name of the group; empty for a connection. */
      group: string;
      /** Whose: a member, the contact, or this user. */
      name: string;
    }
  /** A device has come into the group of this user's devices, or has come back into it. */
  | { type: "deviceCameIn" }
  /** A member of a group that another one was put in the place of could not be brought along. */
  | {
      type: "leftBehind";
      /** Name of the new group. */
      group: string;
      /** Who. */
      name: string;
    }
  /** Somebody asks for a connection. */
  | {
      type: "connectionRequest";
      /** For accepting or declining it. */
      id: string;
      /** The handle that they claim. */
      name: string;
    }
  /** A connection request of ours was accepted. */
  | {
      type: "connected";
      /** The new contact. */
      name: string;
    }
  /** A contact has ended the connection. */
  | {
      type: "disconnected";
      /** The former contact. */
      name: string;
    }
  /** Another device of this user is linked. */
  | {
      type: "deviceLinked";
      /** What it is called. */
      name: string;
    }
  /** A device of this user was removed. */
  | {
      type: "deviceRemoved";
      /** What it was called. */
      name: string;
    }
  /** Another device of this user has removed this one. */
  | { type: "deviceUnlinked" }
  /**
   * Others have claimed so many KeyPackages of this user since they were counted last, and nobody
   * has added this user anywhere: a contact who wants nobody to be able to.
   */
  | {
      type: "keyPackagesTaken";
      /** How many. */
      taken: number;
    }
  /** Somebody who is no contact has tried to add this user to a group; it was not joined. */
  | {
      type: "invitationRefused";
      /** What they call the group. */
      group: string;
      /** The name that they go by, as far as it is known; else empty. */
      by: string;
    }
  /**
   * A contact has added this user to a group, and the service shows nothing by which it can be
   * joined: the invitation waits for that, up to a month.
   */
  | {
      type: "invitationWaits";
      /** What they call the group. */
      group: string;
      /** Who. */
      by: string;
    }
  /**
   * This client has come back into a group after a loss of state: what was said meanwhile is lost.
   */
  | {
      type: "rejoined";
      /** Name of the group. */
      group: string;
      /** Who was in it when this client was, and is not now. */
      absent: string[];
      /** Whose role or standing is not what it was. */
      changed: string[];
      /** Whether roles may do something else than they could. */
      rulesChanged: boolean;
    }
  /**
   * Another device of this user has told of a contact that this one cannot have: another user of
   * that name is one here, or it has no name at all.
   */
  | {
      type: "contactConflict";
      /** The name; empty if there is none. */
      name: string;
    }
  /** The service took a commit that the group's policy forbids; it was not applied. */
  | {
      type: "commitRefused";
      /** Name of the group. */
      group: string;
    }
  /** The policy of a group has changed. */
  | {
      type: "policyChanged";
      /** Name of the group. */
      group: string;
      /** By whom. */
      by: string;
    }
  /** The members of a group agree on another name, description or picture. */
  | {
      type: "groupProfileChanged";
      /** Name of the group from now on. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** By whom. */
      by: string;
      /** As it is now. */
      profile: GroupProfile;
    }
  /**
   * A group was re-initialised: it goes on under the same name, and this is what is left of the old
   * one.
   */
  | {
      type: "reInitialized";
      /** New name of the old group. */
      group: string;
      /** By whom. */
      by: string;
    }
  /** Messages of a group had expired at the service before this client read them. */
  | {
      type: "messagesDropped";
      /** Name of the group. */
      group: string;
      /** How many, one after the other. */
      count: number;
    }
  /** A contact that was in a group asks to be added to it again. */
  | {
      type: "returnWanted";
      /** Name of the group. */
      group: string;
      /** The contact. */
      name: string;
    }
  /**
   * Another client of this user came in this one's place: it was restored from a backup, or came
   * back.
   */
  | {
      type: "replaced";
      /** Name of the group. */
      group: string;
    }
  /**
   * Somebody is in the group again who is banned from it, or does not show who it is while others
   * are banned. Members who may remove it do so.
   */
  | {
      type: "bannedCameIn";
      /** Name of the group. */
      group: string;
      /** Who. */
      name: string;
      /** By whom; empty if it came by itself. */
      by: string;
    }
  /**
   * Messages that could not be read: what they said is lost, though their sender was told that they
   * were accepted.
   */
  | {
      type: "messageUnreadable";
      /** Name of the group. */
      group: string;
      /** The member who sent them; empty if that cannot be told. */
      sender: string;
      /** How many, one after the other. */
      count: number;
    }
  /** The service said that it has accepted a message of this user's, and shows it to nobody. */
  | {
      type: "messageWithheld";
      /** Name of the group. */
      group: string;
      /** Which group. */
      groupId: GroupId;
      /** Which message. */
      message: MessageId;
      /** What it says. */
      text: string;
    }
  /**
   * This home directory was copied, restored from a copy or rolled back: its keys are renewed
   * before anything is sent.
   */
  | { type: "homeCopied" }
  /**
   * The store of the service is not the one that this client knew: what was accepted since its
   * backup is lost there.
   */
  | {
      type: "serviceStoreChanged";
      /** In what way. */
      change: StoreChange;
    }
  /**
   * This client follows a group no further. It comes back by itself only from a loss of its own.
   */
  | {
      type: "groupLost";
      /** Name of the group. */
      group: string;
      /** Why. */
      why: StopReason;
    }
  /**
   * As the event of a lost group, for the connection with a contact. Where rejoining does not lead
   * back, `connect` asks the contact to connect anew.
   */
  | {
      type: "connectionLost";
      /** The contact. */
      name: string;
      /** Why. */
      why: StopReason;
    }
  /** As the event of a lost group, for what this user's devices tell each other. */
  | {
      type: "devicesLost";
      /** Why. */
      why: StopReason;
    }
  /**
   * Somebody came into a group from outside who cannot show who that is: nothing is sent there
   * until that leaf is gone or the user goes on all the same.
   */
  | {
      type: "unverifiedMember";
      /** Name of the group. */
      group: string;
    };

/**
 * Events as they come, those first that have not been acknowledged. Until it is ended, its client
 * reads as its profile says. A `for await` loop ends it when the loop is left. The loop ends when
 * the stream was ended, or its client by `stop` or `deleteAccount`. It throws `stopped` when the
 * client has ended by a failure of its own.
 */
export interface EventStream extends AsyncIterable<StoredEvent> {
  /** Ends the stream: its client reads for it no more. */
  end(): Promise<void>;
}

/** Something that a group's members could not carry out, or an answer that could not be right. */
export interface Evidence {
  /** The epoch that this client was in. */
  epoch: number;
  /** The entry that brought it (segment and position), in hex; empty for an answer. */
  entry: string;
  /** What is wrong with it. */
  why: string;
  /** SHA-256 of it, in hex: two members can compare what each was shown. */
  digest: string;
  /** When it came, milliseconds since 1970. */
  seenMs: number;
}

/** When a message is deleted, here and at everybody who keeps to it. */
export type Expiry =
  /** At this time: seconds since 1970. */
  | { at: number }
  /**
   * So many seconds after its reader has acknowledged its event or marked it as read; at its
   * sender, after it was sent.
   */
  | { afterReading: number };

/** Who has to act for the same call to succeed. */
export type Fault =
  /** Whoever called: a name that is not there, a group that one is no member of. */
  | "caller"
  /** Another user: what they sent does not verify. */
  | "peer"
  /** The delivery service, the gateway or the relay. */
  | "service"
  /** The token issuer, or the account with it. */
  | "issuer"
  /** Nobody that can be told apart: no answer came. */
  | "network"
  /** This machine: its disk, its files, another process. */
  | "local";

/** Why nothing is left of a message. */
export type Gone =
  /** Its sender has deleted it. */
  | "deleted"
  /** It has expired. */
  | "expired";

/** What a group says of itself. Its members agree on it, and the service cannot read it. */
export interface GroupProfile {
  /** Its name; empty if none was agreed on. */
  name?: string;
  /** What it is about, at most 1024 bytes; may have several lines. */
  description?: string;
  /** What it is shown by. */
  picture?: Picture | null;
}

/** A group. */
export interface GroupSummary {
  /** Which group. */
  id: GroupId;
  /**
   * Its name on this device: as given at its creation or agreed on since, or with a number behind
   * it where another group has that.
   */
  name: string;
  /** How many clients are in it. */
  members: number;
  /** Its epoch, as far as this client has followed. */
  epoch: number;
  /** IANA's number of its MLS ciphersuite; 0 if the group has no state here any more. */
  ciphersuite: number;
  /** Whether what is recorded of it now stays closed to a quantum computer. */
  postQuantum: boolean;
  /** Whether this client is still a member that can follow. */
  active: boolean;
  /** Why it does not follow any more, if it was not removed. */
  stopped: StopReason | null;
  /** What its members agree on; nothing before one of them has set it. */
  profile: GroupProfile;
}

/** Somebody who asks for a connection. */
export interface IncomingRequest {
  /** For accepting or declining it. */
  id: string;
  /** The handle that they claim. Compare safety numbers before trusting it. */
  name: string;
  /** What they say with it, if anything. */
  greeting: string | null;
  /** Whether they can be reported to the token issuer. */
  reportable: boolean;
}

/** KeyPackages that others can still claim of this user. */
export interface KeyPackageCount {
  /** IANA's number of the MLS ciphersuite. */
  ciphersuite: number;
  /** How many, as the service counts them. */
  count: number;
}

/** A link code and the number to compare. */
export interface LinkCode {
  /** For the other device. */
  code: string;
  /**
   * The other device must be told this number too: from this device's screen, not from where the
   * code came.
   */
  number: string;
}

/** A member of a group. */
export interface Member {
  /** Who; nobody if this member cannot show it. */
  user: UserId | null;
  /** Handle, or the name that they chose. */
  name: string;
  /** This client. */
  own: boolean;
  /** Name of the role; empty in groups without roles. */
  role: string;
  /** `active`, `inactive`, `muted` or `banned`. */
  standing: string;
  /** Names the client among all of the group's. */
  leafIndex: number;
}

/** A message as it is now. */
export interface Message {
  /** Which one. */
  message: MessageId;
  /** Who has sent it, as that member was called then. */
  sender: string;
  /** Who has sent it; nobody if that member cannot show who it is. */
  senderId: UserId | null;
  /** Of this user, perhaps from another device. */
  own: boolean;
  /** What it says; empty if it is gone. */
  text: string;
  /** What there is to it. */
  details: MessageDetails;
  /**
   * When the service has accepted it; while it waits, when it was said: milliseconds since 1970.
   */
  atMs: number;
  /** Where it stands. */
  state: MessageState;
  /** Its sender has changed it. */
  edited: boolean;
  /** Why nothing is left of it. */
  gone: Gone | null;
  /** Reactions to it. */
  reactions: Reaction[];
  /** Of an own message: what became of it at members who tell. */
  receipts: Receipt[];
}

/** What there is to a message beside its text. */
export interface MessageDetails {
  /** How the text is written. */
  format: TextFormat;
  /** The message that it answers. */
  replyTo: MessageId | null;
  /** Members whom it mentions. */
  mentions: UserId[];
  /** When it is deleted. */
  expires: Expiry | null;
  /** What comes with it. */
  attachment: Attachment | null;
  /** The media type of something that this release cannot show; the text is empty then. */
  unknown: string | null;
}

/** Where an own message stands. */
export type MessageState =
  /** In the group's journal. */
  | "sent"
  /** In the outbox. */
  | "waiting"
  /** Not sent, and it will not be. */
  | "failed";

/** How a client behaves. What is left out is as usual. */
export interface Options {
  /** How journals are read while somebody follows events. It can be changed later. */
  profile?: Profile | null;
  /** How many journals a slot of the profile reads. */
  bundle?: Bundle | null;
  /** Bytes that the activity feed may cost in a month; 0 for none of it. */
  feedBytes?: number | null;
  /** Which connection requests are shown. */
  requests?: RequestPolicy | null;
  /**
   * MLS ciphersuites that contacts may add this user to groups with, by IANA's numbers. Without one
   * that has X-Wing (78, 79), a group that this user is added to is not post-quantum.
   */
  ciphersuites?: number[] | null;
  /** One attempt of a request must be answered within so many milliseconds. */
  attemptMs?: number | null;
  /** So many milliseconds a call waits for answers that do not come. */
  callMs?: number | null;
  /** So many milliseconds a call waits for another tab to close the home. */
  lockMs?: number | null;
  /** Hears of calls that wait longer than usual. */
  progress?: WaitListener | null;
}

/** A small picture. */
export interface Picture {
  /** Its media type, `image/` and something. */
  mediaType: string;
  /** The image, at most 4096 bytes. Others choose it: decode it as what a stranger sends. */
  image: Uint8Array;
}

/** How a client reads while somebody follows its events. */
export type Profile =
  /**
   * The group in front on a stream, on which an entry comes within a fraction of a second; the
   * others in a slot every 30 seconds. By the times of what it passes on, the relay can see who is
   * in one conversation with the group in front, and who speaks in it.
   */
  | "live"
  /**
   * The group in front on a stream with a frame every second, whether there is an entry or not; the
   * others in a slot every 30 seconds. The relay sees that there is a stream.
   */
  | "even"
  /**
   * All groups in a slot every minute. The relay sees that the client is there. The default: who
   * chooses nothing shows nothing.
   */
  | "batched"
  /**
   * A group is read when the activity feed names it, once a minute at most, and every few hours.
   * Cheapest. The relay sees who has news, and after a few messages from whom.
   */
  | "lowData"
  /**
   * The client sleeps, wakes every half hour at a random time, takes eight slots within a minute
   * and sleeps again. Nobody is told when there is news.
   */
  | "periodic";

/** Where a device is woken: a Web Push subscription, as a browser gives it. */
export interface PushAddress {
  /** The push resource. */
  endpoint: string;
  /** The user agent's P-256 key, an uncompressed point. */
  p256dh: Uint8Array;
  /** The authentication secret, 16 bytes. */
  auth: Uint8Array;
}

/** How a device agrees to be woken. */
export interface PushConsent {
  /** Seldom: for platforms that allow a few wake-ups an hour. */
  batched?: boolean;
  /**
   * Also without news, at random times of the push sender. The platform behind it cannot tell which
   * wake-up is of news.
   */
  decoys?: boolean;
}

/** Something that this user says and that has not come to its end. */
export interface QueuedMessage {
  /** Which message. */
  message: MessageId;
  /** Where. */
  groupId: GroupId;
  /** What it says; empty for a deletion. */
  text: string;
  /** When the user said it, by this device's clock: milliseconds since 1970. */
  madeMs: number;
}

/** A reaction to a message. */
export interface Reaction {
  /** The reaction's own id: what takes it back. */
  message: MessageId;
  /** Whose. */
  sender: string;
  /** Whose; nobody if that member cannot show who it is. */
  senderId: UserId | null;
  /** Such as one emoji. */
  reactions: string[];
}

/** What became of a message at a member. */
export interface Receipt {
  /** The member's name. */
  reader: string;
  /** Who. */
  readerId: UserId;
  /** Read, and not only delivered. */
  read: boolean;
}

/**
 * What this client tells the others in a group. Every receipt is a message of its own: the delivery
 * service sees under which pseudonym somebody reads, and when.
 */
export type Receipts =
  /** Nothing. */
  | "off"
  /** That a message has arrived. */
  | "delivery"
  /** That a message has arrived, and that it was read. */
  | "read";

/** Why the service has removed somebody, as it says. */
export type RemovalReason =
  /**
   * The client has not made a commit since this week (since 1970), for longer than the service
   * waits.
   */
  | { inactive: number }
  /** The client was added, and had not been here when its invitation expired. */
  | "neverCame"
  /** The client has proposed it itself. */
  | "ownWish";

/** Why somebody is reported. */
export type ReportReason =
  /** Unasked-for advertising and the like. */
  | "spam"
  /** Threats, insults, worse. */
  | "abuse"
  /** Something else. */
  | "other";

/** Which connection requests are shown. */
export type RequestPolicy =
  /** As the issuer asks: all, or those with a certificate. */
  | "announced"
  /** All. */
  | "all"
  /** Those whose sender can be reported; others are forgotten unseen. */
  | "reportable";

/** Why this client has stopped following a group. */
export type StopReason =
  /** The service says that the group went on, and has no commit that leads there. */
  | "missing"
  /**
   * The service shows the group at an earlier epoch than this client was in: it has lost what it
   * accepted.
   */
  | "behind"
  /** The state of the MLS library is gone or unreadable. */
  | "state"
  /** The client was restored from a backup. */
  | "restored"
  /** A commit came that could not be carried out. */
  | "unprocessable"
  /** A commit came that the group's policy forbids. */
  | "forbidden"
  /** Somebody is in the group now whom this client does not know: the user is to look first. */
  | "newcomers"
  /** Another copy of this client's home directory is in use. */
  | "otherCopy"
  /**
   * The service says that this client's leaf is not in the group, though nobody has removed it as
   * far as is known.
   */
  | "leafGone"
  /** The backup that this client was restored from is too old: its leaf is there no more. */
  | "outdated"
  /**
   * The service has shown different journals of the group to different members, and has signed
   * both.
   */
  | "split"
  /** A commit led to where the service has nothing. */
  | "stranded"
  /** The service had this client removed from a connection or its user's devices. */
  | "removedByService"
  /**
   * This client was away for longer than the service keeps what would lead on from where it was.
   */
  | "expired";

/** What became of a service's store, as its directory says. */
export type StoreChange =
  /** Its operator says that it was restored from a backup. */
  | "restored"
  /** It is of an earlier generation than before: a backup from before a restoration. */
  | "rolledBack"
  /** It is another one. */
  | "replaced";

/** An event that is kept until it is acknowledged. */
export interface StoredEvent {
  /** Grows with each event of this client, and is never used again. */
  id: number;
  /** What happened. */
  event: Event;
}

/** How a text is written. */
export type TextFormat =
  /** As it stands. */
  | "plain"
  /**
   * GitHub Flavored Markdown without HTML: that is escaped before it is sent. Others may not do so:
   * render none. A link whose target is `user:` and a user's id mentions that member. Others' links
   * may lie about where they lead: show the target. Whom a text mentions stands in `mentions` and
   * nowhere else.
   */
  | "markdown";

/**
 * A small picture of something, made by its sender's application: PNG, JPEG, WebP or AVIF, of at
 * most 16,384 bytes. How many pixels it has is not looked at: look before you decode.
 */
export interface Thumbnail {
  /** The picture's media type. */
  mediaType: string;
  /** The picture. */
  content: Uint8Array;
}

/** What this client and the service agree on. */
export interface VerifiedGroup {
  /** How many clients are in the group. */
  members: number;
  /** The group's epoch. */
  epoch: number;
}

/**
 * Hears of calls that wait longer than usual, for so many milliseconds; `reason` is what the last
 * attempt met.
 */
export type WaitListener = (reason: string, soFarMs: number) => void;

/** The SDK, in a Worker of its own. `startSdk` makes one. */
export interface Sdk {
  /**
   * Makes a client in a home: keys and tokens. In a home that has one it changes the addresses and
   * the account token, and finishes what was cut off. A home is a name in this origin's own file
   * system. `endpoints` is the content of the operator's `stack.json`, and `accountToken` what the
   * operator's account system hands out.
   *
   * Fails with `invalid-stack`, `same-operator`, `invalid-account-token`, or what the token issuer
   * says; with `busy` while another tab has the home open.
   */
  createClient(
    home: string,
    endpoints: string,
    accountToken: string,
    options?: Options,
  ): Promise<Client>;
  /**
   * Opens the client in a home.
   *
   * Fails with `not-initialised` where there is none, `busy` while another tab has it open.
   */
  openClient(home: string, options?: Options): Promise<Client>;
  /**
   * Makes a client out of a backup, in an empty home: with a new inbox, new KeyPackages and a new
   * leaf in each group. The client that the backup was made of, if it is still there, cannot follow
   * its groups after that.
   *
   * Fails with `not-a-backup`, `wrong-backup-key`, `newer-backup`, or `already-in-use` for a home
   * that has a client. `partly-restored` names the groups that it could not come back into: the
   * client is there all the same, and can be opened.
   */
  restoreClient(
    home: string,
    backup: Uint8Array,
    key: BackupKey,
    options?: Options,
  ): Promise<Client>;
  /** A random key for a backup, to be written down. */
  newRecoveryKey(): Promise<string>;
  /** Ends the Worker where it stands; the next `openClient` goes on with what was under way. */
  terminate(): void;
}
