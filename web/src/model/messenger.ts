// What the messenger knows and does. Views read its signals and call its methods.

import { batch, computed, signal } from "@preact/signals";
import type {
  Attachment,
  Client,
  Contact,
  Device,
  Draft,
  GroupProfile,
  GroupSummary,
  IncomingRequest,
  Member,
  Message,
  Progress,
  Receipts,
  Sdk,
  StoredEvent,
} from "../sdk.ts";
import { directName, partner } from "../text/direct.ts";
import { codeOf, wordsFor } from "../text/errors.ts";
import { preview } from "../text/markdown.ts";
import * as kept from "./kept.ts";
import { groupOf, newsOf } from "./news.ts";

const HOME = "messenger";
const PAGE = 40;
const LINK_WAIT_MS = 20_000;

export type Phase = "starting" | "welcome" | "naming" | "ready" | "elsewhere" | "ended";

export interface Chat {
  id: string;
  /** As it is shown: a contact's name, or the group's. */
  title: string;
  group: GroupSummary;
  members: Member[];
  /** Of a chat of two. */
  contact: Contact | null;
  last: Message | null;
  lastWords: string;
  unread: number;
}

export interface Line {
  id: number;
  text: string;
  atMs: number;
}

export interface Endpoints {
  text: string;
  /** Where an account token comes from, if the operator's page gives one. */
  accounts: string | null;
}

export interface Transfer {
  name: string;
  done: number;
  of: number;
}

export class Messenger {
  readonly phase = signal<Phase>("starting");
  readonly failure = signal<string | null>(null);
  readonly handle = signal<string | null>(null);
  readonly contacts = signal<Contact[]>([]);
  readonly requests = signal<IncomingRequest[]>([]);
  readonly devices = signal<Device[]>([]);
  readonly chats = signal<Chat[]>([]);
  readonly openId = signal<string | null>(null);
  readonly messages = signal<Message[]>([]);
  readonly hasEarlier = signal(false);
  readonly lines = signal<ReadonlyMap<string, Line[]>>(new Map());
  readonly notices = signal<{ id: number; text: string }[]>([]);
  readonly receipts = signal<Receipts>("off");
  readonly toast = signal<string | null>(null);
  readonly online = signal(true);
  readonly unreachable = signal(false);
  readonly upload = signal<Transfer | null>(null);
  readonly numbers = signal<ReadonlyMap<string, string>>(new Map());
  readonly verified = signal<ReadonlySet<string>>(new Set());
  readonly open = computed(() => this.chats.value.find((it) => it.id === this.openId.value) ?? null);
  readonly unread = computed(
    () => this.chats.value.reduce((sum, it) => sum + it.unread, 0) + this.requests.value.length,
  );

  readonly #sdk: Sdk;
  readonly #now: () => number;
  #client: Client | null = null;
  /** Events of messages that were not on the screen yet: what is unread. */
  readonly #unseen = new Map<number, { group: string; message: string }>();
  #visible = true;
  #loaded = PAGE;
  #refreshing: Promise<void> | null = null;
  #again = false;

  constructor(sdk: Sdk, now: () => number = Date.now) {
    this.#sdk = sdk;
    this.#now = now;
  }

  /** For forms that show what the SDK says. */
  get client(): Client {
    if (this.#client === null) throw new Error("there is no client");
    return this.#client;
  }

  now(): number {
    return this.#now();
  }

  // ——— Beginning and end ———

  async start(): Promise<void> {
    try {
      await this.#begin(await this.#sdk.openClient(HOME, this.#options()));
    } catch (error) {
      const code = codeOf(error);
      if (code === "not-initialised") this.phase.value = "welcome";
      else if (code === "busy") this.phase.value = "elsewhere";
      else {
        this.failure.value = wordsFor(error);
        this.phase.value = "ended";
      }
    }
  }

  /** Makes the account's client, and registers the name. A failure can be tried again. */
  async create(handle: string, endpoints: Endpoints, token: string): Promise<void> {
    const client = await this.#make(endpoints, token);
    await client.registerHandle(handle);
    await this.#begin(client);
  }

  async #make(endpoints: Endpoints, token: string): Promise<Client> {
    this.#client ??= await this.#sdk.createClient(HOME, endpoints.text, token, this.#options());
    return this.#client;
  }

  async registerHandle(handle: string): Promise<void> {
    await this.client.registerHandle(handle);
    await this.#begin(this.client);
  }

  /** The code and the number that this new device shows. */
  async linkCode(name: string, endpoints: Endpoints, token: string): Promise<{ code: string; number: string }> {
    const client = await this.#make(endpoints, token);
    return client.linkCode(name);
  }

  async completeLink(number: string): Promise<void> {
    await this.client.completeLink(number, LINK_WAIT_MS);
    await this.#begin(this.client);
  }

  async restore(backup: Uint8Array, recoveryKey: string): Promise<void> {
    try {
      this.#client = await this.#sdk.restoreClient(HOME, backup, { recoveryKey }, this.#options());
    } catch (error) {
      // The client is there all the same.
      if (codeOf(error) !== "partly-restored") throw error;
      this.toast.value = wordsFor(error);
      this.#client = await this.#sdk.openClient(HOME, this.#options());
    }
    await this.#begin(this.#client);
  }

  newRecoveryKey(): Promise<string> {
    return this.#sdk.newRecoveryKey();
  }

  async deleteAccount(): Promise<void> {
    await this.client.deleteAccount();
    kept.forgetAll();
    this.#client = null;
    this.failure.value = "Your account was deleted.";
    this.phase.value = "ended";
  }

  #options() {
    const progress = (): void => {
      this.unreachable.value = true;
    };
    return { profile: kept.reading(), progress };
  }

  async #begin(client: Client): Promise<void> {
    this.#client = client;
    const handle = await client.ownHandle();
    if (handle === null) {
      this.phase.value = "naming";
      return;
    }
    this.handle.value = handle;
    await this.refresh();
    this.phase.value = "ready";
    void this.#follow(client);
    // Who opens the messenger wants to see who asks.
    client.checkInbox().then(() => this.refresh(), () => undefined);
  }

  async #follow(client: Client): Promise<void> {
    try {
      for await (const stored of client.eventStream()) await this.take(stored);
    } catch (error) {
      if (this.phase.value !== "ready") return;
      this.failure.value = wordsFor(error);
      this.phase.value = "ended";
    }
  }

  // ——— What happens ———

  /** Takes one event in: what was shown is acknowledged, what was not stays. */
  async take({ id, event }: StoredEvent): Promise<void> {
    this.unreachable.value = false;
    if (event.type === "message") {
      this.#unseen.set(id, { group: event.groupId, message: event.message });
      await this.refresh();
      await this.#see();
      return;
    }
    await this.refresh();
    const news = newsOf(event);
    if (news?.kind === "notice") {
      this.notices.value = [...this.notices.value, { id, text: news.text }];
      return;
    }
    if (news?.kind === "line") this.#addLine(id, news.text, groupOf(event));
    await this.client.acknowledge([id]);
  }

  #addLine(id: number, text: string, group: { id: string | null; name: string | null }): void {
    const chat = this.chats.value.find((it) => it.id === group.id || it.group.name === group.name);
    if (chat === undefined) return;
    const lines = new Map(this.lines.value);
    lines.set(chat.id, [...(lines.get(chat.id) ?? []), { id, text, atMs: this.#now() }]);
    this.lines.value = lines;
  }

  async dismiss(id: number): Promise<void> {
    this.notices.value = this.notices.value.filter((it) => it.id !== id);
    await this.client.acknowledge([id]);
  }

  /** Reads everything that is shown. Calls while one is under way lead to one more. */
  refresh(): Promise<void> {
    if (this.#refreshing !== null) {
      this.#again = true;
      return this.#refreshing;
    }
    const run = async (): Promise<void> => {
      try {
        do {
          this.#again = false;
          await this.#readAll();
        } while (this.#again);
      } finally {
        // In the same step as the last look at `#again`: who asks between them would not be heard.
        this.#refreshing = null;
      }
    };
    this.#refreshing = run();
    return this.#refreshing;
  }

  async #readAll(): Promise<void> {
    const client = this.client;
    const handle = this.handle.value ?? "";
    const [groups, contacts, requests, devices] = await Promise.all([
      client.groups(),
      client.contacts(),
      client.incomingRequests(),
      client.devices(),
    ]);
    const chats = await Promise.all(groups.map((group) => this.#chat(group, handle, contacts)));
    const open = this.openId.value;
    const isThere = chats.some((chat) => chat.id === open);
    const shown = open !== null && isThere ? await client.messages(open, null, this.#loaded + 1) : [];
    batch(() => {
      this.contacts.value = contacts;
      this.requests.value = requests;
      this.devices.value = devices;
      this.chats.value = chats.sort((a, b) => (b.last?.atMs ?? 0) - (a.last?.atMs ?? 0));
      // Another chat may have been opened meanwhile.
      if (open === this.openId.value) {
        this.hasEarlier.value = shown.length > this.#loaded;
        this.messages.value = shown.slice(0, this.#loaded).reverse();
        if (!isThere) this.openId.value = null;
      }
    });
  }

  async #chat(group: GroupSummary, handle: string, contacts: Contact[]): Promise<Chat> {
    const [members, latest] = await Promise.all([
      this.client.members(group.id),
      this.client.messages(group.id, null, 1),
    ]);
    const last = latest[0] ?? null;
    const contact = partner(group.name, handle, members, contacts);
    const unread = [...this.#unseen.values()].filter((it) => it.group === group.id).length;
    const title = contact?.name ?? group.name;
    return { id: group.id, title, group, members, contact, last, lastWords: words(last), unread };
  }

  // ——— Reading ———

  async openChat(id: string | null): Promise<void> {
    batch(() => {
      this.openId.value = id;
      this.messages.value = [];
    });
    this.#loaded = PAGE;
    if (id === null) return;
    this.receipts.value = "off";
    await this.refresh();
    await this.#see();
    const contact = this.open.value?.contact ?? null;
    // One that was compared is looked at each time: it may be another one by now.
    if (contact !== null && kept.verifiedNumber(contact.user) !== null) await this.safetyNumber(contact);
    const told = await this.client.receipts(id);
    if (this.openId.value === id) this.receipts.value = told;
    await this.client.bringToFront(id);
  }

  async loadEarlier(): Promise<void> {
    this.#loaded += PAGE;
    await this.refresh();
  }

  /** Has what is on the screen marked as read: nothing while nobody looks. */
  async #see(): Promise<void> {
    const group = this.openId.value;
    if (group === null || !this.#visible) return;
    const seen = [...this.#unseen].filter(([, it]) => it.group === group);
    if (seen.length === 0) return;
    for (const [id] of seen) this.#unseen.delete(id);
    this.chats.value = this.chats.value.map((it) => (it.id === group ? { ...it, unread: 0 } : it));
    await this.client.markRead(group, seen.map(([, it]) => it.message));
    await this.client.acknowledge(seen.map(([id]) => id));
  }

  async looked(visible: boolean): Promise<void> {
    this.#visible = visible;
    if (this.#client === null || this.phase.value !== "ready") return;
    await this.#client.setProfile(visible ? kept.reading() : "batched");
    await this.#see();
  }

  /** Reads everything at once, for a user who does not want to wait: that can be seen. */
  async lookNow(): Promise<void> {
    await this.client.sync(0);
    await this.client.checkInbox();
    await this.refresh();
  }

  async read(how: kept.Reading): Promise<void> {
    kept.keepReading(how);
    await this.client.setProfile(how);
  }

  // ——— Saying ———

  async say(group: string, draft: Draft): Promise<void> {
    await this.client.queueMessage(group, draft);
    await this.refresh();
  }

  async sayText(text: string, replyTo: string | null, attachment: Attachment | null = null): Promise<void> {
    const group = this.openId.value;
    if (group === null) return;
    const seconds = kept.lifeOf(group);
    const expires = seconds > 0 ? { afterReading: seconds } : null;
    await this.say(group, { type: "text", text, format: "markdown", replyTo, expires, attachment });
  }

  /** Reacts, or takes the same reaction back. */
  async react(message: Message, emoji: string): Promise<void> {
    const group = this.openId.value;
    const own = this.open.value?.members.find((it) => it.own)?.user;
    if (group === null) return;
    const mine = message.reactions.find((it) => it.senderId === own && it.reactions.includes(emoji));
    await this.say(
      group,
      mine !== undefined
        ? { type: "deletion", message: mine.message }
        : { type: "reaction", to: message.message, reaction: emoji },
    );
  }

  /** The one place that asks whether the SDK can send and fetch files. */
  get hasFiles(): boolean {
    return this.client.upload !== undefined && this.client.download !== undefined;
  }

  async fetchFile(attachment: Attachment, progress: Progress): Promise<Blob> {
    const { client } = this;
    if (client.download === undefined) throw new Error("files cannot be fetched");
    return client.download(attachment, progress);
  }

  async sendFile(file: File, thumbnail: { mediaType: string; content: Uint8Array } | null): Promise<void> {
    const { client } = this;
    if (client.upload === undefined) throw new Error("files cannot be sent");
    const name = file.name;
    this.upload.value = { name, done: 0, of: file.size };
    try {
      const attachment = await client.upload(
        file,
        { name, mediaType: file.type || "application/octet-stream", thumbnail },
        (done, of) => {
          this.upload.value = { name, done, of };
        },
      );
      await this.sayText("", null, attachment);
    } finally {
      this.upload.value = null;
    }
  }

  // ——— People and groups ———

  /** Opens the chat with a contact; makes it if there is none. */
  async chatWith(contact: Contact): Promise<void> {
    const known = this.chats.value.find((it) => it.contact?.user === contact.user && it.group.active);
    if (known !== undefined) return this.openChat(known.id);
    const name = directName(this.handle.value ?? "", contact.handle);
    return this.#newGroup(name, [contact.name]);
  }

  newGroup(name: string, names: string[]): Promise<void> {
    return this.#newGroup(name, names);
  }

  async #newGroup(name: string, names: string[]): Promise<void> {
    const before = new Set((await this.client.groups()).map((it) => it.id));
    await this.client.createGroup(name);
    const made = (await this.client.groups()).find((it) => !before.has(it.id));
    await this.refresh();
    if (made === undefined) return;
    if (names.length > 0) await this.client.addToGroup(made.id, names);
    await this.openChat(made.id);
  }

  /** Does something and draws again, also when it fails half-way. */
  async act(what: (client: Client) => Promise<unknown>): Promise<void> {
    try {
      await what(this.client);
    } finally {
      await this.refresh();
    }
  }

  setProfile(group: string, profile: GroupProfile): Promise<void> {
    return this.act((client) => client.setGroupProfile(group, profile));
  }

  async setReceipts(group: string, told: Receipts): Promise<void> {
    await this.client.setReceipts(group, told);
    this.receipts.value = told;
  }

  async forgetGroup(group: string): Promise<void> {
    await this.act((client) => client.forgetGroup(group));
    kept.forget(group);
  }

  async safetyNumber(contact: Contact): Promise<string> {
    const number = await this.client.safetyNumber(contact.handle);
    this.numbers.value = new Map(this.numbers.value).set(contact.user, number);
    this.#compare(contact.user, number);
    return number;
  }

  setVerified(contact: Contact, verified: boolean): void {
    const number = this.numbers.value.get(contact.user);
    if (number === undefined) return;
    kept.keepVerified(contact.user, verified ? number : null);
    this.#compare(contact.user, number);
  }

  #compare(user: string, number: string): void {
    const verified = new Set(this.verified.value);
    if (kept.verifiedNumber(user) === number) verified.add(user);
    else verified.delete(user);
    this.verified.value = verified;
  }

  /** Runs what a button does, and says in words why it failed. */
  async attempt(what: () => Promise<unknown>): Promise<boolean> {
    try {
      await what();
      return true;
    } catch (error) {
      this.toast.value = wordsFor(error);
      return false;
    }
  }
}

/** A message in the list of chats. */
function words(message: Message | null): string {
  if (message === null) return "";
  if (message.gone !== null) return message.gone === "deleted" ? "Deleted" : "Expired";
  const said = message.details.format === "markdown" ? preview(message.text) : message.text.slice(0, 140);
  if (said !== "") return said;
  const attachment = message.details.attachment;
  if (attachment !== null) return attachment.fileName ?? "A file";
  return message.details.unknown !== null ? "Something that cannot be shown here" : "";
}
