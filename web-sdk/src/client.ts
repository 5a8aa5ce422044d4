import { fromText, toText } from "./bytes.js";
import type { Json, Order } from "./protocol.js";
import type {
  BackupKey,
  Client,
  Contact,
  Device,
  Disagreement,
  Draft,
  EpochAuthenticator,
  EventStream,
  Evidence,
  GroupProfile,
  GroupSummary,
  IncomingRequest,
  KeyPackageCount,
  LinkCode,
  Member,
  Message,
  MessageId,
  Profile,
  PushAddress,
  PushConsent,
  QueuedMessage,
  Receipts,
  ReportReason,
  StopReason,
  StoredEvent,
  VerifiedGroup,
} from "./types.js";

/** Hands an order to the worker and waits for its answer. */
export type Ask = (order: Order) => Promise<Json | Uint8Array>;

/** What is handed in, as JSON: bytes as text; what is left out is left out. */
export function inJson(value: unknown): Json {
  if (value instanceof Uint8Array) {
    return toText(value);
  }
  if (Array.isArray(value)) {
    return value.map(inJson);
  }
  if (typeof value === "object" && value !== null) {
    const members: { [key: string]: Json } = {};
    for (const [key, member] of Object.entries(value)) {
      if (member !== undefined && typeof member !== "function") {
        members[key] = inJson(member);
      }
    }
    return members;
  }
  return value as Json;
}

/** What is answered: pictures are bytes again. */
function shown(value: Json): unknown {
  if (Array.isArray(value)) {
    return value.map(shown);
  }
  if (typeof value === "object" && value !== null) {
    const isPicture = typeof value["mediaType"] === "string";
    const members: { [key: string]: unknown } = {};
    for (const [key, member] of Object.entries(value)) {
      const isBytes = isPicture && (key === "image" || key === "content");
      members[key] = isBytes && typeof member === "string" ? fromText(member) : shown(member);
    }
    return members;
  }
  return value;
}

let streams = 0;

/** A client in the worker. */
export class RemoteClient implements Client {
  readonly #ask: Ask;
  readonly #client: number;

  constructor(ask: Ask, client: number) {
    this.#ask = ask;
    this.#client = client;
  }

  async #call<T>(call: { call: string; [argument: string]: unknown }): Promise<T> {
    const members = inJson(call) as { [key: string]: Json };
    const answer = await this.#ask({ do: "call", client: this.#client, call: members });
    // What the worker says is what the SDK is documented to say: a void is null there.
    return (answer === null ? (call.call in NOTHING ? null : undefined) : shown(answer as Json)) as T;
  }

  async backup(key: BackupKey): Promise<Uint8Array> {
    return (await this.#ask({ do: "backup", client: this.#client, key: inJson(key) })) as Uint8Array;
  }

  async stop(): Promise<void> {
    await this.#ask({ do: "stop", client: this.#client });
  }

  eventStream(): EventStream {
    streams += 1;
    return new RemoteStream(this.#ask, this.#client, streams);
  }

  acceptRequest(id: string): Promise<string> {
    return this.#call({ call: "acceptRequest", id });
  }

  acceptUnverified(group: string): Promise<void> {
    return this.#call({ call: "acceptUnverified", group });
  }

  acknowledge(events: number[]): Promise<void> {
    return this.#call({ call: "acknowledge", events });
  }

  addToGroup(group: string, names: string[]): Promise<void> {
    return this.#call({ call: "addToGroup", group, names });
  }

  approveLink(code: string, shown: string): Promise<string> {
    return this.#call({ call: "approveLink", code, shown });
  }

  askToReturn(group: string, contact: string): Promise<void> {
    return this.#call({ call: "askToReturn", group, contact });
  }

  awake(seconds: number): Promise<void> {
    return this.#call({ call: "awake", seconds });
  }

  ban(group: string, member: string): Promise<void> {
    return this.#call({ call: "ban", group, member });
  }

  banned(group: string): Promise<string[]> {
    return this.#call({ call: "banned", group });
  }

  bringToFront(group: string): Promise<void> {
    return this.#call({ call: "bringToFront", group });
  }

  cancelRequest(handle: string): Promise<void> {
    return this.#call({ call: "cancelRequest", handle });
  }

  checkInbox(): Promise<void> {
    return this.#call({ call: "checkInbox" });
  }

  completeLink(shown: string, waitMs: number): Promise<string> {
    return this.#call({ call: "completeLink", shown, waitMs });
  }

  connect(handle: string, greeting?: string | null): Promise<void> {
    return this.#call({ call: "connect", handle, greeting });
  }

  contacts(): Promise<Contact[]> {
    return this.#call({ call: "contacts" });
  }

  countKeyPackages(): Promise<KeyPackageCount[]> {
    return this.#call({ call: "countKeyPackages" });
  }

  createGroup(name: string, ciphersuite?: number | null): Promise<void> {
    return this.#call({ call: "createGroup", name, ciphersuite });
  }

  declineRequest(id: string): Promise<void> {
    return this.#call({ call: "declineRequest", id });
  }

  deleteAccount(): Promise<void> {
    return this.#call({ call: "deleteAccount" });
  }

  deleteGroup(group: string): Promise<void> {
    return this.#call({ call: "deleteGroup", group });
  }

  deleteHandle(): Promise<void> {
    return this.#call({ call: "deleteHandle" });
  }

  devices(): Promise<Device[]> {
    return this.#call({ call: "devices" });
  }

  disagreement(): Promise<Disagreement | null> {
    return this.#call({ call: "disagreement" });
  }

  disconnect(contact: string): Promise<void> {
    return this.#call({ call: "disconnect", contact });
  }

  epochAuthenticator(group: string): Promise<EpochAuthenticator> {
    return this.#call({ call: "epochAuthenticator", group });
  }

  events(): Promise<StoredEvent[]> {
    return this.#call({ call: "events" });
  }

  evidence(group: string): Promise<Evidence[]> {
    return this.#call({ call: "evidence", group });
  }

  fillWallet(): Promise<void> {
    return this.#call({ call: "fillWallet" });
  }

  forgetGroup(group: string): Promise<void> {
    return this.#call({ call: "forgetGroup", group });
  }

  group(group: string): Promise<GroupSummary> {
    return this.#call({ call: "group", group });
  }

  groups(): Promise<GroupSummary[]> {
    return this.#call({ call: "groups" });
  }

  incomingRequests(): Promise<IncomingRequest[]> {
    return this.#call({ call: "incomingRequests" });
  }

  invite(group: string, days: number): Promise<string> {
    return this.#call({ call: "invite", group, days });
  }

  joinByCode(code: string): Promise<string> {
    return this.#call({ call: "joinByCode", code });
  }

  leaveGroup(group: string): Promise<void> {
    return this.#call({ call: "leaveGroup", group });
  }

  linkCode(name: string): Promise<LinkCode> {
    return this.#call({ call: "linkCode", name });
  }

  markRead(group: string, messages: MessageId[]): Promise<void> {
    return this.#call({ call: "markRead", group, messages });
  }

  members(group: string): Promise<Member[]> {
    return this.#call({ call: "members", group });
  }

  messages(group: string, before?: MessageId | null, limit?: number): Promise<Message[]> {
    return this.#call({ call: "messages", group, before, limit });
  }

  ownHandle(): Promise<string | null> {
    return this.#call({ call: "ownHandle" });
  }

  queueMessage(group: string, message: Draft): Promise<MessageId> {
    return this.#call({ call: "queueMessage", group, message });
  }

  queuedMessages(): Promise<QueuedMessage[]> {
    return this.#call({ call: "queuedMessages" });
  }

  receipts(group: string): Promise<Receipts> {
    return this.#call({ call: "receipts", group });
  }

  receive(waitMs: number): Promise<StoredEvent[]> {
    return this.#call({ call: "receive", waitMs });
  }

  registerHandle(handle: string): Promise<void> {
    return this.#call({ call: "registerHandle", handle });
  }

  registerPush(address: PushAddress, consent: PushConsent): Promise<void> {
    return this.#call({ call: "registerPush", address, consent });
  }

  rejoinDevices(): Promise<void> {
    return this.#call({ call: "rejoinDevices" });
  }

  rejoinGroup(group: string): Promise<void> {
    return this.#call({ call: "rejoinGroup", group });
  }

  rejoinGroupWithShown(group: string): Promise<void> {
    return this.#call({ call: "rejoinGroupWithShown", group });
  }

  removeFromGroup(group: string, names: string[]): Promise<void> {
    return this.#call({ call: "removeFromGroup", group, names });
  }

  removePush(): Promise<void> {
    return this.#call({ call: "removePush" });
  }

  renameContact(contact: string, name?: string | null): Promise<void> {
    return this.#call({ call: "renameContact", contact, name });
  }

  replaceInGroup(group: string, name: string): Promise<void> {
    return this.#call({ call: "replaceInGroup", group, name });
  }

  report(who: string, reason: ReportReason): Promise<void> {
    return this.#call({ call: "report", who, reason });
  }

  revokeInvitation(code: string): Promise<void> {
    return this.#call({ call: "revokeInvitation", code });
  }

  safetyNumber(contact: string): Promise<string> {
    return this.#call({ call: "safetyNumber", contact });
  }

  sendMessage(group: string, message: Draft): Promise<MessageId> {
    return this.#call({ call: "sendMessage", group, message });
  }

  setGroupProfile(group: string, profile: GroupProfile): Promise<void> {
    return this.#call({ call: "setGroupProfile", group, profile });
  }

  setMuted(group: string, member: string, muted: boolean): Promise<void> {
    return this.#call({ call: "setMuted", group, member, muted });
  }

  setProfile(profile: Profile): Promise<void> {
    return this.#call({ call: "setProfile", profile });
  }

  setReceipts(group: string, told: Receipts): Promise<void> {
    return this.#call({ call: "setReceipts", group, told });
  }

  setRole(group: string, member: string, role: string): Promise<void> {
    return this.#call({ call: "setRole", group, member, role });
  }

  stopReason(group: string): Promise<StopReason | null> {
    return this.#call({ call: "stopReason", group });
  }

  sync(waitMs: number): Promise<void> {
    return this.#call({ call: "sync", waitMs });
  }

  tokens(): Promise<number> {
    return this.#call({ call: "tokens" });
  }

  unban(group: string, name: string): Promise<void> {
    return this.#call({ call: "unban", group, name });
  }

  unlinkDevice(name: string): Promise<void> {
    return this.#call({ call: "unlinkDevice", name });
  }

  unlinkOtherDevices(): Promise<string[]> {
    return this.#call({ call: "unlinkOtherDevices" });
  }

  updateOwnLeaf(group: string): Promise<void> {
    return this.#call({ call: "updateOwnLeaf", group });
  }

  upgradeGroup(group: string, ciphersuite: number): Promise<void> {
    return this.#call({ call: "upgradeGroup", group, ciphersuite });
  }

  upgradeGroupLeavingOthers(group: string, ciphersuite: number): Promise<string[]> {
    return this.#call({ call: "upgradeGroupLeavingOthers", group, ciphersuite });
  }

  verifyGroup(group: string): Promise<VerifiedGroup> {
    return this.#call({ call: "verifyGroup", group });
  }

  whoCanBringBack(group: string): Promise<string[]> {
    return this.#call({ call: "whoCanBringBack", group });
  }
}

/** Calls whose answer may be nothing at all. */
const NOTHING: { readonly [call: string]: true } = {
  disagreement: true,
  ownHandle: true,
  stopReason: true,
};

class RemoteStream implements EventStream {
  readonly #ask: Ask;
  readonly #stream: number;
  readonly #begun: Promise<Json | Uint8Array>;

  constructor(ask: Ask, client: number, stream: number) {
    this.#ask = ask;
    this.#stream = stream;
    this.#begun = ask({ do: "stream", client, stream });
    // Whoever iterates is told.
    this.#begun.catch(() => undefined);
  }

  async end(): Promise<void> {
    await this.#ask({ do: "endStream", stream: this.#stream });
  }

  async *[Symbol.asyncIterator](): AsyncIterator<StoredEvent> {
    await this.#begun;
    let after = 0;
    try {
      for (;;) {
        const event = await this.#ask({ do: "next", stream: this.#stream, after });
        if (event === null) {
          return;
        }
        const stored = shown(event as Json) as StoredEvent;
        after = stored.id;
        yield stored;
      }
    } finally {
      await this.end();
    }
  }
}
