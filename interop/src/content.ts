// What stands in an application message (protocol.md, *Application messages*), and messages for
// people: draft-ietf-mimi-content-08 in deterministic CBOR.

import { decode as decodeCbor, encode as encodeCbor } from "cborg";
import { base64url, concat, equal, fromUtf8, random, utf8 } from "./bytes.ts";
import { readHead, readPlace, writeHead, type Seen } from "./journal.ts";
import { sha256 } from "./kdf.ts";
import { VERSION } from "./requests.ts";
import { decode, Writer } from "./tls.ts";

/** Where the reader's Welcomes into a group are (journals.md, *Coming in*). */
export interface Pointer {
  groupId: Uint8Array;
  epoch: bigint;
  segment: Uint8Array;
  place: { rotation: bigint; position: bigint };
  chain: Uint8Array;
  devices: { keyPackageRef: Uint8Array; id: Uint8Array; key: Uint8Array }[];
}

/** A message for people, as far as this client shows it. */
export interface Message {
  salt: Uint8Array;
  replaces: Uint8Array | null;
  inReplyTo: Uint8Array | null;
  disposition: number;
  mediaType: string;
  body: Uint8Array;
}

export type Content =
  | { kind: "message"; message: Message; encoded: Uint8Array }
  | { kind: "token"; token: Uint8Array }
  | { kind: "pointer"; pointer: Pointer }
  | { kind: "greeting" }
  | { kind: "unknown" };

const kinds = { text: 1, connection: 2, pointer: 4, greeting: 5, message: 7 } as const;

const TEXT = "text/plain;charset=utf-8";
const RENDER = 1;
const SINGLE_PART = 1;

export function text(words: string, inReplyTo: Uint8Array | null = null): Message {
  return {
    salt: random(16),
    replaces: null,
    inReplyTo,
    disposition: RENDER,
    mediaType: TEXT,
    body: utf8(words),
  };
}

/** The message in the MIMI content format. */
export function encodeMessage(it: Message): Uint8Array {
  const part = [it.disposition, "", SINGLE_PART, it.mediaType, it.body];
  return encodeCbor([it.salt, it.replaces, new Uint8Array(), null, it.inReplyTo, new Map(), part]);
}

/** A message with one part; others are of no kind that this client shows. */
export function decodeMessage(encoded: Uint8Array): Message | undefined {
  const it: unknown = decodeCbor(encoded, { useMaps: true, strict: true });
  if (!Array.isArray(it) || it.length !== 7) return undefined;
  const [salt, replaces, , , inReplyTo, , part]: unknown[] = it;
  if (!(salt instanceof Uint8Array) || !isId(replaces) || !isId(inReplyTo)) return undefined;
  if (!Array.isArray(part)) return undefined;
  const [disposition, , cardinality, mediaType, body]: unknown[] = part;
  if (cardinality !== SINGLE_PART || typeof disposition !== "number") return undefined;
  if (typeof mediaType !== "string" || !(body instanceof Uint8Array)) return undefined;
  return { salt, replaces, inReplyTo, disposition, mediaType, body };
}

const isId = (it: unknown): it is Uint8Array | null => it === null || it instanceof Uint8Array;

/** The id of a message (the draft's §3.3), by what its reader knows itself. */
export function messageId(
  senderUri: Uint8Array,
  groupId: Uint8Array,
  encoded: Uint8Array,
  salt: Uint8Array,
): Uint8Array {
  const domain = new URL(fromUtf8(senderUri)).host;
  const room = utf8(`mimi://${domain}/r/${base64url(groupId)}`);
  const head = new Writer().u16(senderUri.length).bytes(senderUri).u16(room.length).bytes(room);
  return concat(Uint8Array.of(1), sha256(head.end(), encoded, salt).subarray(0, 31));
}

/** What stands for no end. */
const NOTHING_SEEN: Seen = {
  segment: new Uint8Array(32),
  head: { generation: 0n, next: 0n, chain: new Uint8Array(32), signature: new Uint8Array(64) },
};

function write(kind: number, content: Uint8Array, seen: Seen = NOTHING_SEEN): Uint8Array {
  const writer = new Writer().u8(kind).opaque(content).bytes(seen.segment);
  writeHead(writer, seen.head);
  return writer.end();
}

export function encodeContent(it: Content, seen?: Seen): Uint8Array {
  switch (it.kind) {
    case "message": {
      const { salt, body } = it.message;
      // A plain text and nothing else goes as salt and text, which is shorter.
      const plain = encodeMessage({ ...text(""), salt, body });
      if (equal(plain, it.encoded)) return write(kinds.text, concat(salt, body), seen);
      return write(kinds.message, it.encoded, seen);
    }
    case "token":
      return write(kinds.connection, new Writer().u16(VERSION).bytes(it.token).end(), seen);
    case "greeting":
      return write(kinds.greeting, new Uint8Array(), seen);
    case "pointer":
      return write(kinds.pointer, encodePointer(it.pointer), seen);
    case "unknown":
      throw new Error("nobody sends what nobody knows");
  }
}

export function decodeContent(bytes: Uint8Array): { content: Content; seen: Seen } {
  return decode(bytes, (reader) => {
    const [kind, content] = [reader.u8(), reader.opaque()];
    const seen = { segment: reader.bytes(32), head: readHead(reader) };
    return { content: readContent(kind, content), seen };
  });
}

function readContent(kind: number, content: Uint8Array): Content {
  switch (kind) {
    case kinds.text: {
      const message = { ...text(fromUtf8(content.slice(16))), salt: content.slice(0, 16) };
      return { kind: "message", message, encoded: encodeMessage(message) };
    }
    case kinds.message: {
      const message = decodeMessage(content);
      return message ? { kind: "message", message, encoded: content } : { kind: "unknown" };
    }
    case kinds.connection:
      return decode(content, (reader) => {
        if (reader.u16() !== VERSION) return { kind: "unknown" };
        return { kind: "token", token: reader.bytes(32) };
      });
    case kinds.pointer:
      return { kind: "pointer", pointer: decodePointer(content) };
    case kinds.greeting:
      return { kind: "greeting" };
    default:
      return { kind: "unknown" };
  }
}

function encodePointer(it: Pointer): Uint8Array {
  const writer = new Writer().bytes(it.groupId).u64(it.epoch).bytes(it.segment);
  writer.u64(it.place.rotation).u64(it.place.position).bytes(it.chain);
  writer.vector(it.devices, (inner, device) => {
    inner.opaque(device.keyPackageRef).bytes(device.id).bytes(device.key);
  });
  return writer.end();
}

function decodePointer(bytes: Uint8Array): Pointer {
  return decode(bytes, (reader) => ({
    groupId: reader.bytes(16),
    epoch: reader.u64(),
    segment: reader.bytes(32),
    place: readPlace(reader),
    chain: reader.bytes(32),
    devices: reader.vector((inner) => ({
      keyPackageRef: inner.opaque(),
      id: inner.bytes(32),
      key: inner.bytes(32),
    })),
  }));
}
