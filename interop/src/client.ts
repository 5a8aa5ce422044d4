// A client: what a user does, put together from the other modules. It lives in memory.

import { equal, fromUtf8, hex, random } from "./bytes.ts";
import { DEFAULT_SUITE, X25519_SUITE } from "./ciphersuites.ts";
import { addUser, claim, updateClient } from "./commits.ts";
import { enterConnectionGroup, makeCode, makeGroup } from "./connection-groups.ts";
import {
  deleteFromInbox,
  lookUp,
  openRequest,
  openResponse,
  readInbox,
  registerHandle,
  requestConnection,
  sealRequest,
  sealResponse,
  type ConnectionRequest,
  type Inbox,
} from "./connections.ts";
import { encodeMessage, text, type Message, type Pointer } from "./content.ts";
import { type Directory } from "./directory.ts";
import { groupKinds, type Group, type Member, type News, type Place } from "./group.ts";
import { HpkeKey, kems } from "./hpke.ts";
import { isSamePerson, Person, type ClientCredential } from "./identities.ts";
import { Wallet } from "./issuer.ts";
import { Lie, type Service } from "./journal.ts";
import { Pool } from "./key-packages.ts";
import { Requests, type Carrier } from "./requests.ts";
import { type Stack } from "./stack.ts";
import { Problem, Transport } from "./transport.ts";
import { joinByPointer } from "./welcome.ts";

/** Somebody whom this user has accepted, or who has accepted this user. */
export interface Contact {
  credential: ClientCredential;
  connectionKey: Uint8Array;
  group: Group;
  /** KeyPackages that this contact alone can claim. */
  pool: Pool;
  /** The contact's own token, as soon as it is told. */
  token: Uint8Array | undefined;
}

/** A request of this user's that nobody has answered yet. */
interface Outgoing {
  credential: ClientCredential;
  group: Group;
  response: HpkeKey;
}

/** What happened, for the user. */
export type Event =
  | { kind: "connected"; name: string }
  | { kind: "joined"; group: string; by: string }
  | { kind: "message"; group: string; from: string; message: Message; id: string }
  | { kind: "sent"; digest: string }
  /** This user is in the group no more: was removed, or it was deleted. */
  | { kind: "removed"; group: string }
  | { kind: "disconnected"; name: string };

export class Client {
  readonly person: Person;
  readonly handle: string;
  readonly directory: Directory;
  readonly service: Service;
  readonly contacts: Contact[] = [];
  /** Groups by their names. */
  readonly groups = new Map<string, Group>();
  readonly #wallet: Wallet;
  readonly #outgoing: Outgoing[] = [];
  readonly #held = new Map<Group, News[]>();
  #inbox: Inbox | undefined;

  private constructor(handle: string, carrier: Carrier, directory: Directory, wallet: Wallet) {
    this.handle = handle;
    this.person = new Person(handle);
    this.directory = directory;
    this.#wallet = wallet;
    this.service = {
      requests: new Requests(carrier, wallet),
      journalSigningKey: new Uint8Array(Buffer.from(directory.journal_signing_key, "base64url")),
      generation: BigInt(directory.store.generation),
    };
  }

  /** Meets the services and fills the wallet; nobody has heard of the handle yet. */
  static async open(
    stack: Stack,
    account: string,
    handle: string,
    behind: (carrier: Carrier) => Carrier = (carrier) => carrier,
  ): Promise<Client> {
    const transport = new Transport(stack);
    const directory = await transport.meet(DEFAULT_SUITE);
    const wallet = new Wallet();
    await wallet.fill(stack, account, directory);
    return new Client(handle, behind(transport), directory, wallet);
  }

  get tokens(): number {
    return this.#wallet.size;
  }

  async register(): Promise<void> {
    this.#inbox = await registerHandle(this.service.requests, kems.xWing, this.handle, this.person);
  }

  /** Asks the owner of a handle for a connection. */
  async connect(handle: string): Promise<void> {
    const { requests } = this.service;
    const record = await lookUp(requests, handle);
    const group = await this.#make(groupKinds.connection);
    const code = await makeCode(this.service, group);
    const response = await HpkeKey.derive(kems.xWing, random(32));
    const request: ConnectionRequest = {
      requester: this.person.credential,
      groupId: group.id,
      connectionKey: this.person.connectionKey,
      responseKey: response.publicKey,
      code: code.secret,
    };
    this.#outgoing.push({ credential: record.credential, group, response });
    const sealed = await sealRequest(kems.xWing, request, this.person, record.establishmentKey);
    await requestConnection(requests, handle, sealed, record.price);
  }

  /** The requests that have come; each is shown once. */
  async requests(): Promise<ConnectionRequest[]> {
    if (this.#inbox === undefined) throw new Error("there is no handle yet");
    const { requests } = this.service;
    const entries = await readInbox(requests, this.#inbox);
    const opened: ConnectionRequest[] = [];
    for (const { sealed } of entries) {
      opened.push(await openRequest(this.#inbox.establishment, sealed));
    }
    if (entries.length > 0) await deleteFromInbox(requests, this.#inbox, entries);
    return opened;
  }

  /** Accepts a request: from now on its sender can add this user to groups. */
  async accept(request: ConnectionRequest): Promise<void> {
    const pool = new Pool();
    const answer = { connectionKey: this.person.connectionKey, token: pool.token };
    const group = await enterConnectionGroup({
      service: this.service,
      directory: this.directory,
      person: this.person,
      groupId: request.groupId,
      requester: request.requester,
      requesterConnectionKey: request.connectionKey,
      code: request.code,
      response: await sealResponse(kems.xWing, answer, request.responseKey, request.groupId),
    });
    const { requester: credential, connectionKey } = request;
    this.contacts.push({ credential, connectionKey, group, pool, token: undefined });
    await this.#publish(pool);
  }

  async #publish(pool: Pool): Promise<void> {
    const wanted = [
      { suite: DEFAULT_SUITE, sets: 5 },
      { suite: X25519_SUITE, sets: 2 },
    ];
    await pool.publish(this.service.requests, this.directory.domain, this.person, wanted);
  }

  /** Reads every journal to its end, and does what follows. */
  async receive(): Promise<Event[]> {
    const events: Event[] = [];
    for (const outgoing of [...this.#outgoing]) {
      for (const news of await this.#newsOf(outgoing.group)) {
        events.push(...(await this.#answered(outgoing, news)));
      }
    }
    for (const contact of [...this.contacts]) {
      for (const news of await this.#newsOf(contact.group)) {
        events.push(...(await this.#ofContact(contact, news)));
      }
    }
    for (const [name, group] of [...this.groups]) {
      for (const news of await this.#newsOf(group)) {
        events.push(...said(name, news));
        if (news.kind !== "removed") continue;
        this.groups.delete(name);
        events.push({ kind: "removed", group: name });
      }
    }
    return events;
  }

  /** Somebody has come into the group of a request: it counts if it is whoever was asked. */
  async #answered(outgoing: Outgoing, news: News): Promise<Event[]> {
    const at = this.#outgoing.indexOf(outgoing);
    if (news.kind !== "commit" || at < 0) return [];
    const { group, credential } = outgoing;
    const answer = await openResponse(outgoing.response, group.id, news.response);
    group.connectionKeys.push(answer.connectionKey);
    const other = group.members().find(({ leaf }) => leaf !== group.ownLeaf);
    if (other?.person === undefined || !isSamePerson(other.person, credential)) {
      throw new Lie("somebody else has come than who was asked");
    }
    this.#outgoing.splice(at, 1);
    const { connectionKey, token } = answer;
    const contact = { credential, connectionKey, group, pool: new Pool(), token };
    this.contacts.push(contact);
    await this.#publish(contact.pool);
    // Now it is known who has accepted: that one alone is told this user's token.
    await group.send(this.service, { kind: "token", token: contact.pool.token });
    return [{ kind: "connected", name: nameOf(credential) }];
  }

  async #ofContact(contact: Contact, news: News): Promise<Event[]> {
    const name = nameOf(contact.credential);
    if (news.kind === "removed") {
      this.contacts.splice(this.contacts.indexOf(contact), 1);
      return [{ kind: "disconnected", name }];
    }
    if (news.kind !== "message" || !isFrom(news.from, contact)) return said(name, news);
    const { content } = news;
    switch (content.kind) {
      case "token": {
        const isFirst = contact.token === undefined;
        contact.token = content.token;
        return isFirst ? [{ kind: "connected", name }] : [];
      }
      case "pointer":
        return this.#follow(contact, content.pointer);
      default:
        return said(name, news);
    }
  }

  /** Joins the group that a contact has added this user to. */
  async #follow(contact: Contact, pointer: Pointer): Promise<Event[]> {
    for (const device of pointer.devices) {
      const own = contact.pool.find(device.keyPackageRef);
      if (own === undefined) continue;
      const { group, name } = await joinByPointer({
        service: this.service,
        pointer,
        own,
        device,
        person: this.person,
        contact: contact.credential,
        connectionKey: contact.connectionKey,
      });
      for (const { connectionKey } of this.contacts) group.connectionKeys.push(connectionKey);
      this.groups.set(name, group);
      return [{ kind: "joined", group: name, by: nameOf(contact.credential) }];
    }
    return [];
  }

  #make(kind: number): Promise<Group> {
    return makeGroup(this.service, this.directory, this.person, kind);
  }

  /** Makes a group with this user as its only member. */
  async createGroup(name: string): Promise<void> {
    this.groups.set(name, await this.#make(groupKinds.group));
  }

  /** Adds a contact to a group, and tells the contact where the Welcome is. */
  async add(name: string, contactName: string): Promise<void> {
    const [group, contact] = [this.group(name), this.contact(contactName)];
    const { token, connectionKey, credential } = contact;
    if (token === undefined) throw new Error(`${contactName} has told no token yet`);
    const suite = group.suite.id;
    const newcomers = await claim(this.service.requests, {
      token,
      connectionKey,
      credential,
      suite,
    });
    const devices = await addUser(this.service, group, newcomers, { person: this.person, name });
    group.connectionKeys.push(connectionKey);
    const place = await this.#ownCommit(group);
    const pointer = {
      groupId: group.id,
      epoch: group.epoch,
      segment: place.segment,
      place,
      chain: place.chain ?? new Uint8Array(32),
      devices,
    };
    await contact.group.send(this.service, { kind: "pointer", pointer });
  }

  /** Renews this client's leaf in a group; in a new segment where the service asks for one. */
  async update(group: Group): Promise<void> {
    await this.#hold(group);
    try {
      await updateClient(this.service, group, false);
    } catch (error) {
      if (!(error instanceof Problem && error.type === "rotation-required")) throw error;
      await updateClient(this.service, group, true);
    }
    await this.#ownCommit(group);
  }

  /** Reads a group until the own commit has taken effect there. */
  async #ownCommit(group: Group): Promise<Place> {
    const own = (await this.#hold(group)).find(
      (it) => it.kind === "commit" && it.own !== undefined,
    );
    if (own?.kind !== "commit" || own.own === undefined) {
      throw new Error("somebody else has committed first");
    }
    return own.own;
  }

  /** Reads a group, and keeps what is new for the next [`receive`]. */
  async #hold(group: Group): Promise<News[]> {
    const news = await group.read(this.service);
    this.#held.set(group, [...(this.#held.get(group) ?? []), ...news]);
    return news;
  }

  /** What was held of a group, and what is new. */
  async #newsOf(group: Group): Promise<News[]> {
    await this.#hold(group);
    const news = this.#held.get(group) ?? [];
    this.#held.delete(group);
    return news;
  }

  /** The contact with this name. */
  contact(name: string): Contact {
    const found = this.contacts.find(({ credential }) => nameOf(credential) === name);
    if (found === undefined) throw new Error(`${name} is no contact`);
    return found;
  }

  group(name: string): Group {
    const found = this.groups.get(name);
    if (found === undefined) throw new Error(`there is no group ${name}`);
    return found;
  }

  /** Sends a text, as a reply if the id of a message is given. Returns the digest of what went. */
  async send(group: Group, words: string, inReplyTo?: string): Promise<string> {
    const to = inReplyTo === undefined ? null : new Uint8Array(Buffer.from(inReplyTo, "hex"));
    const message = text(words, to);
    return group.send(this.service, { kind: "message", message, encoded: encodeMessage(message) });
  }
}

function nameOf(credential: ClientCredential): string {
  return fromUtf8(credential.name);
}

function isFrom(member: Member, contact: Contact): boolean {
  return (
    member.person !== undefined && equal(member.person.publicKey, contact.credential.publicKey)
  );
}

/** What a user is shown of an entry: nothing of somebody who cannot show who that is. */
function said(group: string, news: News): Event[] {
  if (news.kind === "own") return [{ kind: "sent", digest: news.digest }];
  if (news.kind !== "message" || news.content.kind !== "message") return [];
  const { person } = news.from;
  if (person === undefined || news.id === undefined) return [];
  const { message } = news.content;
  return [{ kind: "message", group, from: nameOf(person), message, id: hex(news.id) }];
}
