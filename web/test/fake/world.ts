// A service and its users in one page: deterministic, without network and without cryptography. It
// does what the SDK's types promise to an application, as far as the messenger calls it.

import type { Attachment, Client, Contact, Draft, Event, Member, Message, Sdk, StoredEvent } from "../../src/sdk.ts";

export class FakeError extends Error {
  readonly code: string;
  constructor(code: string) {
    super(code);
    this.code = code;
  }
}

interface User {
  handle: string;
  devices: string[];
  contacts: Record<string, string>;
  requests: { id: string; from: string; greeting: string | null }[];
  events: StoredEvent[];
  told: Record<string, "off" | "delivery" | "read">;
  outbox: { group: string; draft: Draft; id: string }[];
}

interface Group {
  id: string;
  name: string;
  members: { user: string; role: string; standing: string }[];
  profile: { name?: string; description?: string; picture?: { mediaType: string; image: Uint8Array } | null };
  messages: Message[];
  left: string[];
}

const MINUTE_MS = 60_000;

/** Everything that there is. */
export class World {
  users: Record<string, User> = {};
  groups: Record<string, Group> = {};
  files: Record<string, Blob> = {};
  codes: Record<string, string> = {};
  links: Record<string, { user: string | null; name: string }> = {};
  offline: Record<string, boolean> = {};
  /** The next call of a name fails with a code. */
  failing: Record<string, string> = {};
  backups: Record<string, { user: string; key: string }> = {};
  lastId = 0;
  nowMs: number;
  readonly wakers = new Map<string, () => void>();
  /** Is called after each change. */
  changed: () => void = () => undefined;

  constructor(nowMs = Date.UTC(2026, 4, 4, 9, 0)) {
    this.nowMs = nowMs;
  }

  id(kind: string): string {
    this.lastId += 1;
    return `${kind}-${this.lastId}`;
  }

  user(handle: string): User {
    const user = this.users[handle];
    if (user === undefined) throw new FakeError("unknown-handle");
    return user;
  }

  register(handle: string, device = ""): void {
    if (!/^[a-z0-9._-]{1,64}$/.test(handle)) throw new FakeError("invalid-handle");
    if (this.users[handle] !== undefined) throw new FakeError("handle-taken");
    this.users[handle] = { handle, devices: [device], contacts: {}, requests: [], events: [], told: {}, outbox: [] };
    this.changed();
  }

  tell(handle: string, event: Event): void {
    this.lastId += 1;
    this.user(handle).events.push({ id: this.lastId, event });
    this.changed();
    this.wakers.get(handle)?.();
  }

  request(from: string, to: string, greeting: string | null = null): void {
    if (from === to) throw new FakeError("own-handle");
    const other = this.user(to);
    if (other.contacts[from] !== undefined) throw new FakeError("already-connected");
    const id = this.id("request");
    other.requests.push({ id, from, greeting });
    this.tell(to, { type: "connectionRequest", id, name: from });
  }

  accept(handle: string, id: string): string {
    const user = this.user(handle);
    const request = user.requests.find((it) => it.id === id);
    if (request === undefined) throw new FakeError("unknown-request");
    user.requests = user.requests.filter((it) => it !== request);
    user.contacts[request.from] = request.from;
    this.user(request.from).contacts[handle] = handle;
    this.tell(request.from, { type: "connected", name: handle });
    return request.from;
  }

  befriend(one: string, other: string): void {
    this.user(one).contacts[other] = other;
    this.user(other).contacts[one] = one;
    this.changed();
  }

  group(id: string): Group {
    const group = this.groups[id];
    if (group === undefined) throw new FakeError("unknown-group");
    return group;
  }

  createGroup(owner: string, name: string): string {
    const taken = Object.values(this.groups).some((it) => it.name === name && it.members.some((member) => member.user === owner));
    if (taken) throw new FakeError("group-exists");
    const id = this.id("group");
    this.groups[id] = { id, name, members: [{ user: owner, role: "admin", standing: "active" }], profile: {}, messages: [], left: [] };
    this.changed();
    return id;
  }

  add(id: string, by: string, handles: string[]): void {
    const group = this.group(id);
    for (const handle of handles) {
      if (group.members.some((it) => it.user === handle)) throw new FakeError("already-a-member");
      this.others(id, by, { type: "memberAdded", group: group.name, name: handle, by });
      group.members.push({ user: handle, role: "member", standing: "active" });
      this.tell(handle, { type: "joined", group: group.name, by });
    }
  }

  others(id: string, but: string, event: Event): void {
    for (const member of this.group(id).members) if (member.user !== but) this.tell(member.user, event);
  }

  /** What a user says; while offline it waits in the outbox. */
  say(handle: string, id: string, draft: Draft, known?: string): string {
    const group = this.group(id);
    const message = known ?? this.id("message");
    if (draft.type === "text" && draft.text === "" && (draft.attachment ?? null) === null) throw new FakeError("empty-text");
    if (this.offline[handle] === true) {
      this.user(handle).outbox.push({ group: id, draft, id: message });
      this.changed();
      return message;
    }
    if (!group.members.some((it) => it.user === handle)) throw new FakeError("not-a-member");
    this.nowMs += MINUTE_MS;
    const who = { group: group.name, groupId: id, sender: handle, senderId: `user-${handle}` };
    const mine = (wanted: string): Message => {
      const found = group.messages.find((it) => it.message === wanted);
      if (found === undefined) throw new FakeError("unknown-message");
      if (found.sender !== handle) throw new FakeError("not-own-message");
      return found;
    };
    switch (draft.type) {
      case "text": {
        const details = { format: draft.format ?? "plain", replyTo: draft.replyTo ?? null, mentions: [], expires: draft.expires ?? null, attachment: draft.attachment ?? null, unknown: null };
        group.messages.push({ message, sender: handle, senderId: who.senderId, own: false, text: draft.text, details, atMs: this.nowMs, state: "sent", edited: false, gone: null, reactions: [], receipts: [] });
        this.others(id, handle, { type: "message", ...who, message, text: draft.text, details, acceptedMs: this.nowMs, position: this.lastId });
        break;
      }
      case "edit": {
        const edited = mine(draft.message);
        edited.text = draft.text;
        edited.edited = true;
        this.others(id, handle, { type: "messageEdited", ...who, message: draft.message, text: draft.text, details: edited.details, acceptedMs: this.nowMs });
        break;
      }
      case "reaction": {
        const to = group.messages.find((it) => it.message === draft.to);
        to?.reactions.push({ message, sender: handle, senderId: who.senderId, reactions: [draft.reaction] });
        this.others(id, handle, { type: "reaction", ...who, message, to: draft.to, reactions: [draft.reaction] });
        break;
      }
      case "deletion": {
        const reacted = group.messages.find((it) => it.reactions.some((reaction) => reaction.message === draft.message));
        if (reacted !== undefined) {
          reacted.reactions = reacted.reactions.filter((it) => it.message !== draft.message);
          this.others(id, handle, { type: "reactionTakenBack", ...who, message: draft.message, to: reacted.message });
          break;
        }
        const deleted = mine(draft.message);
        deleted.text = "";
        deleted.gone = "deleted";
        this.others(id, handle, { type: "messageDeleted", ...who, message: draft.message });
      }
    }
    this.changed();
    return message;
  }

  setOffline(handle: string, offline: boolean): void {
    this.offline[handle] = offline;
    if (offline) return this.changed();
    const waiting = this.user(handle).outbox;
    this.user(handle).outbox = [];
    for (const { group, draft, id } of waiting) {
      this.say(handle, group, draft, id);
      this.tell(handle, { type: "messageSent", group: this.group(group).name, groupId: group, message: id });
    }
    this.wakers.get(handle)?.();
  }

  markRead(handle: string, id: string, messages: string[]): void {
    const told = this.user(handle).told[id] ?? "off";
    if (told === "off") return;
    const group = this.group(id);
    for (const message of group.messages.filter((it) => messages.includes(it.message))) {
      const read = told === "read";
      message.receipts.push({ reader: handle, readerId: `user-${handle}`, read });
      this.tell(message.sender, { type: "receipt", group: group.name, groupId: id, messages: [message.message], reader: handle, readerId: `user-${handle}`, read });
    }
  }
}

const safetyNumber = (one: string, other: string): string => {
  const seed = [...[one, other].sort().join("|")].reduce((sum, it) => (sum * 33 + it.charCodeAt(0)) % 99_991, 7);
  return Array.from({ length: 12 }, (_, at) => String((seed * (at + 3) * 7_919) % 100_000).padStart(5, "0")).join(" ");
};

/** What is kept of a client between two loads of the page. */
export interface Home {
  handle: string | null;
  device: string;
}

export class FakeClient implements Client {
  readonly #world: World;
  readonly #home: Home;
  /** What a new device has shown. */
  #linking = "";
  #stopped = false;

  constructor(world: World, home: Home) {
    this.#world = world;
    this.#home = home;
  }

  #me(): User {
    if (this.#home.handle === null) throw new FakeError("no-handle");
    return this.#world.user(this.#home.handle);
  }

  async #call<T>(name: string, what: () => T): Promise<T> {
    const code = this.#world.failing[name];
    if (code !== undefined) {
      delete this.#world.failing[name];
      throw new FakeError(code);
    }
    return what();
  }

  #handleOf(name: string): string {
    const contacts = this.#me().contacts;
    const found = Object.entries(contacts).find(([handle, called]) => called === name || handle === name);
    if (found === undefined) throw new FakeError("unknown-contact");
    return found[0];
  }

  acceptRequest(id: string) {
    return this.#call("acceptRequest", () => this.#world.accept(this.#me().handle, id));
  }
  async acceptUnverified() {}
  async acknowledge(events: number[]) {
    const me = this.#me();
    me.events = me.events.filter((it) => !events.includes(it.id));
    this.#world.changed();
  }
  addToGroup(group: string, names: string[]) {
    return this.#call("addToGroup", () => this.#world.add(group, this.#me().handle, names.map((it) => this.#handleOf(it))));
  }
  approveLink(code: string, shown: string) {
    return this.#call("approveLink", () => {
      const link = this.#world.links[code];
      if (link === undefined) throw new FakeError("invalid-link-code");
      if (shown !== "111 222") throw new FakeError("numbers-differ");
      link.user = this.#me().handle;
      this.#me().devices.push(link.name);
      this.#world.tell(this.#me().handle, { type: "deviceLinked", name: link.name });
      return "333 444";
    });
  }
  backup(key: { passphrase: string } | { recoveryKey: string }) {
    return this.#call("backup", () => {
      const id = this.#world.id("backup");
      this.#world.backups[id] = { user: this.#me().handle, key: "recoveryKey" in key ? key.recoveryKey : key.passphrase };
      this.#world.changed();
      return new TextEncoder().encode(id);
    });
  }
  async bringToFront() {}
  async checkInbox() {}
  completeLink(shown: string) {
    return this.#call("completeLink", () => {
      const link = this.#world.links[this.#linking];
      if (link === undefined || link.user === null) throw new FakeError("not-linking");
      if (shown !== "333 444") throw new FakeError("numbers-differ");
      this.#home.handle = link.user;
      this.#home.device = link.name;
      this.#world.changed();
      return link.user;
    });
  }
  connect(handle: string, greeting?: string | null) {
    return this.#call("connect", () => this.#world.request(this.#me().handle, handle, greeting ?? null));
  }
  async contacts(): Promise<Contact[]> {
    return Object.entries(this.#me().contacts).map(([handle, name]) => ({ user: `user-${handle}`, name, handle, reportable: true }));
  }
  createGroup(name: string) {
    return this.#call("createGroup", () => void this.#world.createGroup(this.#me().handle, name));
  }
  declineRequest(id: string) {
    return this.#call("declineRequest", () => {
      this.#me().requests = this.#me().requests.filter((it) => it.id !== id);
      this.#world.changed();
    });
  }
  async deleteAccount() {
    delete this.#world.users[this.#me().handle];
    this.#home.handle = null;
    this.#world.changed();
  }
  async devices() {
    return this.#me().devices.map((name) => ({ name, own: name === this.#home.device }));
  }
  disconnect(contact: string) {
    return this.#call("disconnect", () => {
      const handle = this.#handleOf(contact);
      delete this.#me().contacts[handle];
      delete this.#world.user(handle).contacts[this.#me().handle];
      this.#world.tell(handle, { type: "disconnected", name: this.#me().handle });
    });
  }
  async download(attachment: Attachment, progress?: (bytes: number, of: number) => void): Promise<File> {
    return this.#call("download", () => {
      const content = this.#world.files[attachment.sealed];
      if (content === undefined) throw new FakeError("attachment-gone");
      progress?.(content.size, content.size);
      return new File([content], attachment.fileName ?? "file");
    });
  }
  eventStream() {
    const shown = new Set<number>();
    let ended = false;
    let wake: () => void = () => undefined;
    const world = this.#world;
    const me = (): User => this.#me();
    const isOffline = (): boolean => world.offline[me().handle] === true;
    world.wakers.set(me().handle, () => wake());
    return {
      end: async () => {
        ended = true;
        wake();
      },
      [Symbol.asyncIterator]: () => ({
        next: async (): Promise<IteratorResult<StoredEvent>> => {
          for (;;) {
            if (ended || this.#stopped || this.#home.handle === null) return { done: true, value: undefined };
            const event = isOffline() ? undefined : me().events.find((it) => !shown.has(it.id));
            if (event !== undefined) {
              shown.add(event.id);
              return { done: false, value: event };
            }
            await new Promise<void>((done) => {
              wake = done;
            });
          }
        },
      }),
    };
  }
  async forgetGroup(group: string) {
    const it = this.#world.group(group);
    if (it.members.some((member) => member.user === this.#me().handle)) throw new FakeError("still-a-member");
    it.left = it.left.filter((user) => user !== this.#me().handle);
    this.#world.changed();
  }
  async groups() {
    const me = this.#me().handle;
    const isIn = (group: Group): boolean => group.members.some((it) => it.user === me);
    return Object.values(this.#world.groups)
      .filter((group) => isIn(group) || group.left.includes(me))
      .map((group) => ({ id: group.id, name: group.name, members: group.members.length, epoch: 1, ciphersuite: 78, postQuantum: true, active: isIn(group), stopped: null, profile: group.profile }));
  }
  async incomingRequests() {
    return this.#me().requests.map(({ id, from, greeting }) => ({ id, name: from, greeting, reportable: true }));
  }
  invite(group: string) {
    return this.#call("invite", () => {
      const code = this.#world.id("join-code");
      this.#world.codes[code] = group;
      this.#world.changed();
      return code;
    });
  }
  joinByCode(code: string) {
    return this.#call("joinByCode", () => {
      const group = this.#world.codes[code];
      if (group === undefined) throw new FakeError("invalid-join-code");
      this.#world.add(group, this.#me().handle, [this.#me().handle]);
      return this.#world.group(group).name;
    });
  }
  leaveGroup(group: string) {
    return this.#call("leaveGroup", () => {
      const it = this.#world.group(group);
      const me = this.#me().handle;
      it.members = it.members.filter((member) => member.user !== me);
      it.left.push(me);
      this.#world.others(group, me, { type: "memberRemoved", group: it.name, name: me, by: me });
    });
  }
  async linkCode(name: string) {
    const code = this.#world.id("link-code");
    this.#world.links[code] = { user: null, name };
    this.#linking = code;
    return { code, number: "111 222" };
  }
  async markRead(group: string, messages: string[]) {
    this.#world.markRead(this.#me().handle, group, messages);
  }
  async members(group: string): Promise<Member[]> {
    return this.#world.group(group).members.map((it, leafIndex) => ({ user: `user-${it.user}`, name: this.#me().contacts[it.user] ?? it.user, own: it.user === this.#me().handle, role: it.role, standing: it.standing, leafIndex }));
  }
  async messages(group: string, before?: string | null, limit = 50): Promise<Message[]> {
    const me = this.#me();
    const waiting = me.outbox.filter((it) => it.group === group && it.draft.type === "text").map(({ draft, id }): Message => ({ message: id, sender: me.handle, senderId: `user-${me.handle}`, own: true, text: draft.type === "text" ? draft.text : "", details: { format: "markdown", replyTo: null, mentions: [], expires: null, attachment: null, unknown: null }, atMs: this.#world.nowMs, state: "waiting", edited: false, gone: null, reactions: [], receipts: [] }));
    const all = [...this.#world.group(group).messages, ...waiting];
    const end = before == null ? all.length : all.findIndex((it) => it.message === before);
    return all.slice(Math.max(0, end - limit), end).reverse().map((it) => ({ ...it, own: it.sender === me.handle, reactions: [...it.reactions], receipts: [...it.receipts] }));
  }
  async ownHandle() {
    return this.#home.handle;
  }
  queueMessage(group: string, draft: Draft) {
    return this.#call("queueMessage", () => this.#world.say(this.#me().handle, group, draft));
  }
  async receipts(group: string) {
    return this.#me().told[group] ?? "off";
  }
  registerHandle(handle: string) {
    return this.#call("registerHandle", () => {
      this.#world.register(handle);
      this.#home.handle = handle;
      this.#world.changed();
    });
  }
  async rejoinGroup() {}
  removeFromGroup(group: string, names: string[]) {
    return this.#call("removeFromGroup", () => {
      const it = this.#world.group(group);
      for (const name of names) {
        const handle = it.members.find((member) => (this.#me().contacts[member.user] ?? member.user) === name)?.user;
        if (handle === undefined) throw new FakeError("not-in-group");
        it.members = it.members.filter((member) => member.user !== handle);
        it.left.push(handle);
        this.#world.tell(handle, { type: "removed", group: it.name });
        this.#world.others(group, this.#me().handle, { type: "memberRemoved", group: it.name, name: handle, by: this.#me().handle });
      }
    });
  }
  renameContact(contact: string, name?: string | null) {
    return this.#call("renameContact", () => {
      const handle = this.#handleOf(contact);
      this.#me().contacts[handle] = name ?? handle;
      this.#world.changed();
    });
  }
  report() {
    return this.#call("report", () => undefined);
  }
  async safetyNumber(contact: string) {
    return safetyNumber(this.#me().handle, this.#handleOf(contact));
  }
  setGroupProfile(group: string, profile: Group["profile"]) {
    return this.#call("setGroupProfile", () => {
      const it = this.#world.group(group);
      it.profile = profile;
      if (profile.name) it.name = profile.name;
      this.#world.others(group, this.#me().handle, { type: "groupProfileChanged", group: it.name, groupId: group, by: this.#me().handle, profile });
      this.#world.changed();
    });
  }
  async setMuted(group: string, member: string, muted: boolean) {
    for (const it of this.#world.group(group).members) if (it.user === member) it.standing = muted ? "muted" : "active";
    this.#world.changed();
  }
  async setProfile() {}
  async setReceipts(group: string, told: "off" | "delivery" | "read") {
    this.#me().told[group] = told;
    this.#world.changed();
  }
  setRole(group: string, member: string, role: string) {
    return this.#call("setRole", () => {
      for (const it of this.#world.group(group).members) if (it.user === member) it.role = role;
      this.#world.changed();
    });
  }
  async stop() {
    this.#stopped = true;
  }
  async sync() {}
  async unlinkDevice(name: string) {
    this.#me().devices = this.#me().devices.filter((it) => it !== name);
    this.#world.changed();
  }
  upload(content: Blob, options: { name?: string | null; mediaType?: string | null; thumbnail?: Attachment["thumbnail"] }, progress?: (bytes: number, of: number) => void) {
    return this.#call("upload", (): Attachment => {
      const sealed = this.#world.id("file");
      this.#world.files[sealed] = content;
      progress?.(content.size, content.size);
      return { mediaType: options.mediaType ?? "application/octet-stream", size: content.size, expires: 0, description: "", fileName: options.name ?? null, thumbnail: options.thumbnail ?? null, sealed };
    });
  }
}

export class FakeSdk implements Sdk {
  readonly #world: World;
  readonly homes: Record<string, Home>;
  readonly #changed: () => void;

  constructor(world: World, homes: Record<string, Home> = {}, changed: () => void = () => undefined) {
    this.#world = world;
    this.homes = homes;
    this.#changed = changed;
  }

  #take(name: string): void {
    const code = this.#world.failing[name];
    delete this.#world.failing[name];
    if (code !== undefined) throw new FakeError(code);
  }

  async createClient(name: string, endpoints: string, token: string): Promise<Client> {
    this.#take("createClient");
    if (!endpoints.includes("relay")) throw new FakeError("invalid-stack");
    if (token === "") throw new FakeError("invalid-account-token");
    const home = (this.homes[name] ??= { handle: null, device: "" });
    this.#changed();
    return new FakeClient(this.#world, home);
  }
  async openClient(name: string): Promise<Client> {
    this.#take("openClient");
    const home = this.homes[name];
    if (home === undefined) throw new FakeError("not-initialised");
    return new FakeClient(this.#world, home);
  }
  async restoreClient(name: string, backup: Uint8Array, key: { passphrase: string } | { recoveryKey: string }): Promise<Client> {
    const kept = this.#world.backups[new TextDecoder().decode(backup)];
    if (kept === undefined) throw new FakeError("not-a-backup");
    if (!("recoveryKey" in key) || key.recoveryKey !== kept.key) throw new FakeError("wrong-backup-key");
    this.homes[name] = { handle: kept.user, device: "" };
    this.#changed();
    return new FakeClient(this.#world, this.homes[name]);
  }
  async newRecoveryKey(): Promise<string> {
    return "abcd efgh ijkl mnop";
  }
}
