// The only file that imports the SDK: tests put a fake in its place.

import type * as sdk from "../../web-sdk/src/types.ts";

export { startSdk } from "mimimi-web-sdk";
export type {
  Attachment,
  Contact,
  Device,
  Draft,
  Event,
  EventStream,
  Expiry,
  GroupProfile,
  GroupSummary,
  IncomingRequest,
  LinkCode,
  Member,
  Message,
  MessageDetails,
  Options,
  Picture,
  Profile,
  Reaction,
  Receipts,
  StoredEvent,
  Thumbnail,
} from "../../web-sdk/src/types.ts";

/** The calls that the messenger makes: what a fake has to do. */
export type Client = Pick<
  sdk.Client,
  | "acceptRequest"
  | "acceptUnverified"
  | "acknowledge"
  | "addToGroup"
  | "approveLink"
  | "backup"
  | "bringToFront"
  | "checkInbox"
  | "completeLink"
  | "connect"
  | "contacts"
  | "createGroup"
  | "declineRequest"
  | "deleteAccount"
  | "devices"
  | "disconnect"
  | "eventStream"
  | "forgetGroup"
  | "groups"
  | "incomingRequests"
  | "invite"
  | "joinByCode"
  | "leaveGroup"
  | "linkCode"
  | "markRead"
  | "members"
  | "messages"
  | "ownHandle"
  | "queueMessage"
  | "receipts"
  | "registerHandle"
  | "rejoinGroup"
  | "removeFromGroup"
  | "renameContact"
  | "report"
  | "safetyNumber"
  | "setGroupProfile"
  | "setMuted"
  | "setProfile"
  | "setReceipts"
  | "setRole"
  | "stop"
  | "sync"
  | "unlinkDevice"
> &
  Partial<Files>;

/** Hears how far a transfer has come. */
export type Progress = (bytes: number, of: number) => void;

/** Calls that an SDK may lack: then the messenger offers no files. */
export interface Files {
  download(attachment: sdk.Attachment, progress?: Progress): Promise<File>;
  upload(
    content: Blob,
    options: { name: string; mediaType: string; thumbnail: sdk.Thumbnail | null },
    progress?: Progress,
  ): Promise<sdk.Attachment>;
}

/** What starts clients. */
export interface Sdk {
  createClient(home: string, endpoints: string, token: string, options?: sdk.Options): Promise<Client>;
  openClient(home: string, options?: sdk.Options): Promise<Client>;
  restoreClient(
    home: string,
    backup: Uint8Array,
    key: sdk.BackupKey,
    options?: sdk.Options,
  ): Promise<Client>;
  newRecoveryKey(): Promise<string>;
}
