// Journals (journals.md, *Keys* to *Everybody sees the same journal*): the keys of a segment, how
// its entries are opened, and what of an answer is held against the chain and the signed end.

import { type CiphersuiteImpl, type ClientState } from "ts-mls";
import { concat, equal, utf8 } from "./bytes.ts";
import { derive, sha256 } from "./kdf.ts";
import { exporter } from "./mls.ts";
import { VERSION, type Requests } from "./requests.ts";
import { open, unpad } from "./sealing.ts";
import { verify } from "./signing.ts";
import { decode, Malformed, Writer, type Reader } from "./tls.ts";

/** What a service shows that it cannot have signed, stored or promised in honesty. */
export class Lie extends Error {}

/** A place in a group's journal, with the keys of that place. */
export interface Segment {
  id: Uint8Array;
  rotation: bigint;
  step: number;
  stateKey: Uint8Array;
  /** `k_t`: what opens the next entry. */
  entryKey: Uint8Array;
  wrapperKey: Uint8Array;
  next: bigint;
  /** The chain before `next`; nobody tells it to who comes in from outside. */
  chain: Uint8Array | undefined;
}

/** `{ uint64 rotation_epoch; uint64 position }`. */
export function readPlace(reader: Reader) {
  return { rotation: reader.u64(), position: reader.u64() };
}

/** `JournalKeys`: what a joiner is told of the epoch that it comes into. */
export function readJournalKeys(reader: Reader) {
  const keys = { rotation: reader.u64(), entryKey: reader.bytes(32), tagKey: reader.bytes(32) };
  return { ...keys, tagDay: reader.u32() };
}

const u64 = (value: bigint) => new Writer().u64(value).end();
const u32 = (value: number) => new Writer().u32(value).end();

export function segmentId(stateKey: Uint8Array, groupId: Uint8Array, rotation: bigint): Uint8Array {
  return derive(stateKey, "segment", concat(groupId, u64(rotation)));
}

export function firstChain(segment: Uint8Array): Uint8Array {
  return sha256(utf8("MIMIMI 1.0 journal chain\0"), segment);
}

/** The segment that begins with the epoch of this state. */
export async function beginning(state: ClientState, suite: CiphersuiteImpl): Promise<Segment> {
  const rotationSecret = await exporter(state, "rotation", suite);
  const stateKey = derive(rotationSecret, "state key");
  const { groupId, epoch } = state.groupContext;
  const id = segmentId(stateKey, groupId, epoch);
  return {
    id,
    rotation: epoch,
    step: 0,
    stateKey,
    entryKey: await exporter(state, "journal key", suite),
    wrapperKey: derive(rotationSecret, "link wrapper"),
    next: 0n,
    chain: firstChain(id),
  };
}

/** The keys after a commit that does not rotate. */
export function nextStep(segment: Segment): Segment {
  return {
    ...segment,
    step: segment.step + 1,
    stateKey: derive(segment.stateKey, "next"),
    entryKey: derive(segment.entryKey, "next"),
  };
}

const HANDSHAKE = 1;
const MESSAGE = 2;
const EXPIRED = 3;

/** An entry as it is shown: sealed, or the hash of what has expired. */
export interface Entry {
  type: number;
  bytes: Uint8Array;
}

export interface SignedHead {
  generation: bigint;
  next: bigint;
  chain: Uint8Array;
  signature: Uint8Array;
}

export function readHead(reader: Reader): SignedHead {
  const end = { generation: reader.u64(), next: reader.u64(), chain: reader.bytes(32) };
  return { ...end, signature: reader.bytes(64) };
}

export function writeHead(writer: Writer, head: SignedHead): void {
  writer.u64(head.generation).u64(head.next).bytes(head.chain).bytes(head.signature);
}

/** A signed end of a journal, as a sender has seen it (`SeenHead`). */
export interface Seen {
  segment: Uint8Array;
  head: SignedHead;
}

/** An answer whose end is signed. */
export interface Stretch {
  head: SignedHead;
  step: number;
  closed: boolean;
  first: bigint;
  entries: Entry[];
}

export function readEntry(reader: Reader): Entry {
  const type = reader.u8();
  if (type < HANDSHAKE || type > EXPIRED) throw new Malformed("an entry of no known type");
  return { type, bytes: type === EXPIRED ? reader.bytes(32) : reader.opaque() };
}

/** Asks for the last entries that fit. */
export const LAST = 2n ** 64n - 1n;
/** Reads begin at multiples of this: an exact position would tell readers apart. */
const GRANULE = 32n;
const ORDINARY = 1;

export interface Service {
  requests: Requests;
  journalSigningKey: Uint8Array;
  generation: bigint;
}

/** Throws unless the service has signed this end of this segment. */
export function checkHead(service: Service, segment: Uint8Array, head: SignedHead): void {
  const tbs = new Writer().u64(head.generation).bytes(segment).u64(head.next).bytes(head.chain);
  verify(service.journalSigningKey, "JournalHeadTBS", tbs.end(), head.signature);
  if (head.generation !== service.generation) throw new Lie("an end of another generation");
}

/** The chains of one segment that a reader has come by, each behind a position. */
export class Chains {
  readonly #segment: Uint8Array;
  readonly #known = new Map<bigint, Uint8Array>();

  constructor(segment: Uint8Array) {
    this.#segment = segment;
  }

  keep(next: bigint, chain: Uint8Array): void {
    this.#known.set(next, chain);
  }

  /**
   * Throws if the service has shown somebody else another journal: two ends at one position that it
   * has signed prove that. What is not known here says nothing.
   */
  compare(service: Service, { segment, head }: Seen): void {
    if (!equal(this.#segment, segment)) return;
    checkHead(service, segment, head);
    const own = this.#known.get(head.next);
    if (own !== undefined && !equal(own, head.chain)) {
      throw new Lie("somebody else was shown another journal");
    }
  }
}

/** Reads from a position, or the last entries; waits so long for news beyond `known`. */
export async function readJournal(
  service: Service,
  segment: Uint8Array,
  from: bigint,
  known: bigint,
  waitMs: number,
): Promise<Stretch> {
  const body = new Writer().u16(VERSION).bytes(segment).u64(from).u64(known).u32(waitMs);
  const wholeEntries = 0;
  const shown = await service.requests.read(
    "readJournal",
    body.u8(ORDINARY).u16(wholeEntries),
    (reader) => {
      const start = { head: readHead(reader), step: reader.u32(), closed: reader.u8() === 1 };
      const first = reader.u64();
      const entries = reader.vector(readEntry);
      // Entries come in pieces in slots only, and this client takes none.
      if (reader.u8() !== 0) throw new Lie("a piece of an entry that was asked for whole");
      if (reader.opaque().some((byte) => byte !== 0)) throw new Lie("padding that is not zero");
      return { ...start, first, entries };
    },
  );
  checkHead(service, segment, shown.head);
  if (endOf(shown) > shown.head.next) {
    throw new Lie("entries behind the end");
  }
  return shown;
}

/** What goes on from where a reader is, in order; nothing if there is nothing new. */
export async function readOn(service: Service, at: Segment, waitMs: number): Promise<Stretch> {
  const last = await readJournal(service, at.id, LAST, waitMs > 0 ? at.next : 0n, waitMs);
  if (last.head.next < at.next) throw new Lie("the journal has become shorter");
  if (last.first <= at.next) {
    if (endOf(last) < last.head.next) throw new Lie("the last entries are held back");
    return last;
  }
  // From a multiple of 32, then from the end of each answer: as everybody who begins there.
  let from = at.next - (at.next % GRANULE);
  for (;;) {
    const shown = await readJournal(service, at.id, from, 0n, 0);
    if (shown.first !== from || endOf(shown) === from) throw new Lie("entries are held back");
    from = endOf(shown);
    if (from > at.next) return shown;
  }
}

/** The position behind the last entry that an answer shows. */
function endOf(shown: Stretch): bigint {
  return shown.first + BigInt(shown.entries.length);
}

/** The chain behind one more entry. */
function chainAfter(chain: Uint8Array, position: bigint, entry: Entry): Uint8Array {
  const [entryClass, row] =
    entry.type === EXPIRED ? [MESSAGE, entry.bytes] : [entry.type, sha256(entry.bytes)];
  const place = concat(u64(position), Uint8Array.of(entryClass));
  return sha256(utf8("MIMIMI 1.0 journal entry\0"), chain, place, row);
}

/** An entry with its position, and the chain behind it as far as it is known. */
export interface Placed {
  position: bigint;
  entry: Entry;
  chain: Uint8Array | undefined;
}

/** The entries from `at` on, when the chain over all of them has been held against the end. */
export function entriesFrom(at: Segment, shown: Stretch): Placed[] {
  let { chain } = at;
  const entries: Placed[] = [];
  for (let position = at.next; position < endOf(shown); position++) {
    const entry = shown.entries[Number(position - shown.first)];
    if (entry === undefined) throw new Lie("a position is left out");
    chain = chain && chainAfter(chain, position, entry);
    if (position + 1n === shown.head.next) {
      if (chain !== undefined && !equal(chain, shown.head.chain)) {
        throw new Lie("these entries are not those of the signed end");
      }
      chain = shown.head.chain;
    }
    entries.push({ position, entry, chain });
  }
  return entries;
}

/** A commit with what travels beside it. */
export interface CommitEvent {
  kind: "commit";
  commit: Uint8Array;
  linkKeys: { leaf: number; sealed: Uint8Array }[];
}

export type Event = CommitEvent | { kind: "message" | "proposal"; mls: Uint8Array };

export function readLinkKey(reader: Reader) {
  return { leaf: reader.u32(), sealed: reader.opaque() };
}

/** Opens an entry at the step of `at`; nothing if it has expired. */
export function openEntry(
  at: Segment,
  entry: Entry,
): { acceptedMs: bigint; event: Event } | undefined {
  if (entry.type === EXPIRED) return undefined;
  const row = concat(at.id, u32(at.step), Uint8Array.of(entry.type));
  const padded = open(at.entryKey, { table: "journal", row, part: "entry" }, entry.bytes);
  return decode(unpad(padded), (reader) => ({
    acceptedMs: reader.u64(),
    event: readEvent(reader, entry.type),
  }));
}

function readEvent(reader: Reader, entryClass: number): Event {
  const type = reader.u8();
  if ((type === 1) !== (entryClass === MESSAGE)) throw new Lie("an entry of another class");
  switch (type) {
    case 1:
      return { kind: "message", mls: reader.opaque() };
    case 2:
      return { kind: "proposal", mls: reader.opaque() };
    case 3: {
      const event = { commit: reader.opaque(), linkKeys: reader.vector(readLinkKey) };
      // The former wrapper key, sealed under the new one: for who joins later.
      reader.optional((inner) => ({ of: inner.u64(), sealed: inner.opaque() }));
      return { kind: "commit", ...event };
    }
    default:
      throw new Malformed("an event of no known type");
  }
}
