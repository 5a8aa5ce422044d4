// A group that this client is in: it follows the group's journal entry by entry, and sends.

import {
  contentTypes,
  createApplicationMessage,
  defaultProposalTypes,
  processMessage,
  wireformats,
  type CiphersuiteImpl,
  type ClientState,
  type MlsContext,
  type MlsFramedMessage,
  type PrivateMessage,
  type Proposal,
  type ProposalRemove,
} from "ts-mls";
import { createDecipheriv } from "node:crypto";
import { equal, hex, random } from "./bytes.ts";
import { decodeContent, encodeContent, messageId, type Content } from "./content.ts";
import {
  isSamePerson,
  linkKeyOf,
  openLink,
  unwrapLinkKey,
  type ClientCredential,
} from "./identities.ts";
import {
  beginning,
  Chains,
  entriesFrom,
  Lie,
  nextStep,
  openEntry,
  readOn,
  readPlace,
  type CommitEvent,
  type Event,
  type Seen,
  type Segment,
  type Service,
  type Stretch,
} from "./journal.ts";
import { follow, type Streamer } from "./following.ts";
import { expandWithLabel, sha256 } from "./kdf.ts";
import { context, decodeMessage, encodeMessage, leafAt, leavesOf, pseudonymousOf } from "./mls.ts";
import { takeProposal, type Removal } from "./proposals.ts";
import { SigningKey } from "./signing.ts";
import { decode, Malformed, Writer } from "./tls.ts";
import { readCommitAad } from "./joining.ts";

export const groupKinds = { group: 1, connection: 2, singleUser: 3 } as const;

/** Whose leaf it is: the person, if the identity link opens, and the pseudonym in any case. */
export interface Member {
  leaf: number;
  person: ClientCredential | undefined;
  userPseudonym: Uint8Array;
}

/** What a client learns from one entry. */
export type News =
  | { kind: "message"; from: Member; content: Content; id: Uint8Array | undefined }
  | { kind: "own"; digest: string }
  | {
      kind: "commit";
      epoch: bigint;
      response: Uint8Array;
      joined: Member[];
      own: Place | undefined;
    }
  | { kind: "proposal"; removal: Removal }
  /** This client is a member no more, or there is no group any more. */
  | { kind: "removed" }
  | { kind: "expired" };

/** Where a commit stands, and the chain behind it. */
export interface Place {
  segment: Uint8Array;
  rotation: bigint;
  position: bigint;
  chain: Uint8Array | undefined;
}

/** A group's id with the state key of its epoch. */
export function writeGroupKey(writer: Writer, id: Uint8Array, stateKey: Uint8Array): Writer {
  return writer.bytes(id).bytes(stateKey);
}

export class Group {
  readonly id: Uint8Array;
  readonly kind: number;
  readonly suite: CiphersuiteImpl;
  readonly signer: SigningKey;
  readonly self: ClientCredential;
  readonly ownLinkKey: Uint8Array;
  state: ClientState;
  segment: Segment;
  /** Seed of the key pair that the way back is sealed to. */
  recoverySeed = random(32);
  /**
   * Who came in from outside sends nothing before it has heard somebody: nobody is in the epoch of
   * an old GroupInfo (protocol.md, *Who came in from outside*).
   */
  mustHear = false;
  /** Connection keys of contacts: they open the links of contacts' leaves. */
  readonly connectionKeys: Uint8Array[] = [];
  readonly #context: MlsContext;
  readonly #linkKeys = new Map<number, Uint8Array>();
  readonly #sent = new Set<string>();
  #isOver = false;
  /** The journal as it was shown here, which others' messages are held against. */
  #chains: Chains;
  #seen: Seen | undefined;
  #expected:
    { commit: Uint8Array; state: ClientState; recoverySeed: Uint8Array | undefined } | undefined;

  constructor(it: {
    id: Uint8Array;
    kind: number;
    suite: CiphersuiteImpl;
    leaf: { signer: SigningKey; linkKey: Uint8Array };
    self: ClientCredential;
    state: ClientState;
    segment: Segment;
  }) {
    this.id = it.id;
    this.kind = it.kind;
    this.suite = it.suite;
    this.signer = it.leaf.signer;
    this.ownLinkKey = it.leaf.linkKey;
    this.self = it.self;
    this.state = it.state;
    this.segment = it.segment;
    this.#chains = new Chains(it.segment.id);
    this.#context = context(it.suite);
  }

  get epoch(): bigint {
    return this.state.groupContext.epoch;
  }

  get ownLeaf(): number {
    return this.state.privatePath.leafIndex;
  }

  /** A commit of this client is on its way: it takes effect if it is read in the journal. */
  expect(commit: Uint8Array, state: ClientState, recoverySeed: Uint8Array | undefined): void {
    this.#expected = { commit, state, recoverySeed };
  }

  /** A link key of the leaf with this index, sealed under the wrapper key in force. */
  learnLinkKey(leaf: number, sealed: Uint8Array): void {
    try {
      this.#linkKeys.set(leaf, unwrapLinkKey(this.segment.wrapperKey, sealed));
    } catch {
      // Its leaf stays without a name: the link key proves itself by opening the link.
      this.#linkKeys.delete(leaf);
    }
  }

  /** Everybody whose leaf is in the tree. */
  members(): Member[] {
    return leavesOf(this.state.ratchetTree).map(([leaf]) => this.member(leaf));
  }

  /** Whose leaf this is, or was in another tree of this group. */
  member(leaf: number, tree = this.state.ratchetTree): Member {
    const node = leafAt(tree, leaf);
    const it = node && pseudonymousOf(node.credential, node.signaturePublicKey);
    if (it === undefined) throw new Malformed("there is no such leaf");
    if (leaf === this.ownLeaf) return { leaf, person: this.self, userPseudonym: it.userPseudonym };
    const told = this.#linkKeys.get(leaf);
    const derived = this.connectionKeys.map((key) => linkKeyOf(key, it));
    for (const key of told === undefined ? derived : [told, ...derived]) {
      try {
        return { leaf, person: openLink(it, key), userPseudonym: it.userPseudonym };
      } catch {
        // Another one's key.
      }
    }
    return { leaf, person: undefined, userPseudonym: it.userPseudonym };
  }

  /** Reads the journal on to its end, through all segments, and tells what is new. */
  async read(service: Service, waitMs = 0): Promise<News[]> {
    const news: News[] = [];
    while (!this.#isOver) {
      const shown = await readOn(service, this.segment, news.length > 0 ? 0 : waitMs);
      const segment = this.segment.id;
      news.push(...(await this.#takeIn(service, shown)));
      if (segment === this.segment.id && this.segment.next === shown.head.next) break;
    }
    return news;
  }

  /** Follows the journal on a stream, and tells what is new, until the stream is over. */
  async *follow(streamer: Streamer, service: Service): AsyncGenerator<News> {
    const segment = this.segment.id;
    for await (const stretch of follow(streamer, service, this.segment)) {
      yield* await this.#takeIn(service, stretch);
      // It goes on in another segment, which a stream does not lead to, or without this client.
      if (segment !== this.segment.id || this.#isOver) return;
    }
  }

  /** Takes in what goes on from here, up to the end of the segment. */
  async #takeIn(service: Service, shown: Stretch): Promise<News[]> {
    const news: News[] = [];
    const segment = this.segment.id;
    for (const { position, entry, chain } of entriesFrom(this.segment, shown)) {
      const before = this.segment;
      const opened = openEntry(before, entry);
      if (chain !== undefined) this.#chains.keep(position + 1n, chain);
      this.segment = { ...before, next: position + 1n, chain };
      const place = { segment, rotation: before.rotation, position, chain };
      try {
        news.push(
          opened === undefined
            ? { kind: "expired" }
            : await this.#take(service, opened.event, place),
        );
      } catch (error) {
        // The position moves with the effect of the entry, never without it.
        this.segment = before;
        throw error;
      }
      if (this.#isOver) return news;
      if (segment !== this.segment.id) {
        this.#chains = new Chains(this.segment.id);
        return news;
      }
    }
    this.#seen = { segment, head: shown.head };
    return news;
  }

  async #take(service: Service, event: Event, place: Place): Promise<News> {
    if (event.kind === "commit") return this.#takeCommit(event, place);
    if (event.kind === "proposal") {
      const { state, removal } = await takeProposal(this.state, this.suite, event.mls);
      this.state = state;
      return { kind: "proposal", removal };
    }
    const digest = hex(sha256(event.mls));
    if (this.#sent.has(digest)) return { kind: "own", digest };
    const message = decodeMessage(event.mls);
    if (message.wireformat !== wireformats.mls_private_message) {
      throw new Malformed("messages are private messages");
    }
    const from = this.#sender(message.privateMessage);
    const processed = await this.#process(message);
    if (processed.kind !== "applicationMessage") throw new Malformed("no application message");
    this.state = processed.newState;
    const { content, seen } = decodeContent(processed.message);
    this.#chains.compare(service, seen);
    if (from.person !== undefined && from.leaf !== this.ownLeaf) this.mustHear = false;
    const id =
      content.kind === "message"
        ? messageId(from.userPseudonym, this.id, content.encoded, content.message.salt)
        : undefined;
    return { kind: "message", from, content, id };
  }

  /**
   * Has the MLS library process a message, and tells which leaves a commit removes when the commit
   * has been authenticated. One that removes this client goes no further: its path has nothing for
   * who is removed.
   */
  #process(message: MlsFramedMessage, removes?: (leaves: number[]) => void) {
    return processMessage({
      context: this.#context,
      state: this.state,
      message,
      callback: (incoming) => {
        const leaves = (incoming.kind === "commit" ? incoming.proposals : []).flatMap(
          ({ proposal }) => (isRemove(proposal) ? [proposal.remove.removed] : []),
        );
        removes?.(leaves);
        return leaves.includes(this.ownLeaf) ? "reject" : "accept";
      },
    });
  }

  async #takeCommit({ commit, linkKeys }: CommitEvent, place: Place): Promise<News> {
    const message = decodeMessage(commit);
    if (message.wireformat !== wireformats.mls_public_message) {
      throw new Malformed("handshakes are public messages");
    }
    const { authenticatedData } = message.publicMessage.content;
    const aad = readCommitAad(authenticatedData);
    const before = new Set(
      leavesOf(this.state.ratchetTree).map(([, leaf]) => hex(leaf.signaturePublicKey)),
    );
    const expected = this.#expected;
    const isOwn = expected !== undefined && equal(expected.commit, commit);
    if (isOwn) {
      this.state = expected.state;
      this.recoverySeed = expected.recoverySeed ?? this.recoverySeed;
    } else {
      let removed: number[] = [];
      const processed = await this.#process(message, (leaves) => (removed = leaves));
      if (removed.includes(this.ownLeaf)) {
        this.#isOver = true;
        return { kind: "removed" };
      }
      // protocol.md, *What members refuse*: who was removed would know the way into what follows.
      if (removed.length > 0 && !aad.rotates) {
        throw new Lie("a commit removes somebody and does not rotate");
      }
      this.state = processed.newState;
    }
    // The first commit of an epoch wins.
    this.#expected = undefined;
    this.segment = aad.rotates ? await beginning(this.state, this.suite) : nextStep(this.segment);
    for (const { leaf, sealed } of linkKeys) this.learnLinkKey(leaf, sealed);
    const joined = leavesOf(this.state.ratchetTree)
      .filter(([, leaf]) => !before.has(hex(leaf.signaturePublicKey)))
      .map(([index]) => this.member(index));
    const own = isOwn ? place : undefined;
    return { kind: "commit", epoch: this.epoch, response: aad.response, joined, own };
  }

  /** The sender of a message (RFC 9420 §6.3.2): ts-mls checks it and does not tell it. */
  #sender(message: PrivateMessage): Member {
    const then = this.state.historicalReceiverData.get(message.epoch);
    const secret = then?.senderDataSecret ?? this.state.keySchedule.senderDataSecret;
    const sample = message.ciphertext.subarray(0, 32);
    const key = expandWithLabel(secret, "key", sample, 16);
    const nonce = expandWithLabel(secret, "nonce", sample, 12);
    const aad = new Writer()
      .opaque(message.groupId)
      .u64(message.epoch)
      .u8(contentTypes.application);
    const sealed = message.encryptedSenderData;
    const decipher = createDecipheriv("aes-128-gcm", key, nonce, { authTagLength: 16 });
    decipher.setAAD(aad.end()).setAuthTag(sealed.subarray(-16));
    const opened = Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()]);
    const leaf = decode(new Uint8Array(opened), (reader) => {
      const index = reader.u32();
      // Generation and reuse guard.
      reader.bytes(8);
      return index;
    });
    return this.member(leaf, then?.ratchetTree);
  }

  /** Sends something into the group. It is done when it is read in the journal. */
  async send(service: Service, content: Content): Promise<string> {
    if (this.mustHear) throw new Error("nobody was heard in this epoch yet");
    const made = await createApplicationMessage({
      context: this.#context,
      state: this.state,
      message: encodeContent(content, this.#seen),
    });
    this.state = made.newState;
    const message = encodeMessage(made.message);
    const digest = hex(sha256(message));
    this.#sent.add(digest);
    const body = writeGroupKey(new Writer(), this.id, this.segment.stateKey).opaque(message);
    await service.requests.act(
      "sendMessage",
      { leaf: this.ownLeaf, key: this.signer },
      body,
      (reader) => {
        readPlace(reader);
        reader.u64();
      },
    );
    return digest;
  }

  /** Whether this person has a leaf here. */
  has(person: ClientCredential): boolean {
    return this.members().some((it) => it.person !== undefined && isSamePerson(it.person, person));
  }
}

function isRemove(proposal: Proposal): proposal is ProposalRemove {
  return proposal.proposalType === defaultProposalTypes.remove;
}
