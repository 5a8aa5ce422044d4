// Handles, inboxes, connection requests and responses (protocol.md, *Handles and inboxes* and
// *Connections*).

import { random, utf8 } from "./bytes.ts";
import { HpkeKey, hpkeSeal, info, type Kem } from "./hpke.ts";
import {
  readCredential,
  writeCredential,
  type ClientCredential,
  type Person,
} from "./identities.ts";
import { week } from "./mls.ts";
import { accepted, VERSION, type Requests } from "./requests.ts";
import { CannotOpen } from "./sealing.ts";
import { SigningKey, verify } from "./signing.ts";
import { decode, Reader, Writer } from "./tls.ts";

/** What somebody publishes under a handle. */
export interface HandleRecord {
  credential: ClientCredential;
  establishmentKey: Uint8Array;
}

const recordTbs = (handle: string, key: Uint8Array) =>
  new Writer().opaque(utf8(handle)).opaque(key).end();

/** The inbox that a handle leads to; nothing else refers to it. */
export interface Inbox {
  id: Uint8Array;
  owner: SigningKey;
  establishment: HpkeKey;
}

const HANDLE_WEEKS = 40;

/** Registers a handle for a person. Costs one token. */
export async function registerHandle(
  requests: Requests,
  kem: Kem,
  handle: string,
  person: Person,
): Promise<Inbox> {
  const inbox = {
    id: random(32),
    owner: new SigningKey(),
    establishment: await HpkeKey.derive(kem, random(32)),
  };
  const { publicKey } = inbox.establishment;
  const record = new Writer();
  writeCredential(record, person.credential);
  const signature = person.identity.sign("HandleRecordTBS", recordTbs(handle, publicKey));
  record.opaque(publicKey).opaque(signature);
  const body = new Writer().opaque(utf8(handle)).opaque(record.end()).bytes(inbox.id);
  body.bytes(inbox.owner.publicKey).u16(week() + HANDLE_WEEKS);
  // The handle's owner occurs nowhere else either.
  await requests.act("registerHandle", { key: new SigningKey() }, body, accepted, 1);
  return inbox;
}

/** The record of a handle, verified, and what a request to its inbox costs now. */
export async function lookUp(
  requests: Requests,
  handle: string,
): Promise<HandleRecord & { price: number }> {
  const body = new Writer().opaque(utf8(handle));
  const shown = await requests.act(
    "lookupHandle",
    { key: new SigningKey() },
    body,
    (reader) => ({ record: reader.opaque(), price: reader.u8() }),
    1,
  );
  const { signature, ...record } = decode(shown.record, (reader) => ({
    credential: readCredential(reader),
    establishmentKey: reader.opaque(),
    signature: reader.opaque(),
  }));
  const tbs = recordTbs(handle, record.establishmentKey);
  verify(record.credential.publicKey, "HandleRecordTBS", tbs, signature);
  return { ...record, price: shown.price };
}

/** A `ConnectionRequest`, without its signature. */
export interface ConnectionRequest {
  requester: ClientCredential;
  groupId: Uint8Array;
  connectionKey: Uint8Array;
  responseKey: Uint8Array;
  code: Uint8Array;
}

const REQUEST = info("connection request");
const REQUEST_SIZE = 4096;
const INTRODUCTION = 640;
const TAG = 16;

/** Signs a request for one recipient and seals it, in the one size that all have. */
export async function sealRequest(
  kem: Kem,
  it: ConnectionRequest,
  person: Person,
  recipientKey: Uint8Array,
): Promise<Uint8Array> {
  const request = new Writer();
  writeCredential(request, it.requester);
  request.bytes(it.groupId).bytes(it.connectionKey).opaque(it.responseKey);
  request.u16(VERSION).bytes(it.code).bytes(new Uint8Array(INTRODUCTION));
  // The recipient's key too: nobody can pass the request on as if it were for another.
  const tbs = new Writer().bytes(request.end()).opaque(recipientKey).end();
  request.opaque(person.identity.sign("ConnectionRequestTBS", tbs));
  const padded = new Uint8Array(REQUEST_SIZE - kem.enc - TAG);
  const content = request.end();
  padded.set(new Writer().u16(content.length).bytes(content).end());
  return hpkeSeal(kem, recipientKey, REQUEST, new Uint8Array(), padded);
}

/** Opens a request and verifies that its credential has signed it for this inbox. */
export async function openRequest(key: HpkeKey, sealed: Uint8Array): Promise<ConnectionRequest> {
  const padded = new Reader(await key.open(REQUEST, new Uint8Array(), sealed));
  const bytes = padded.bytes(padded.u16());
  return decode(bytes, (reader) => {
    const request = {
      requester: readCredential(reader),
      groupId: reader.bytes(16),
      connectionKey: reader.bytes(32),
      responseKey: reader.opaque(),
    };
    if (reader.u16() !== VERSION) throw new CannotOpen("a request of another version");
    const code = reader.bytes(32);
    reader.bytes(INTRODUCTION);
    const signed = bytes.subarray(0, reader.at());
    const tbs = new Writer().bytes(signed).opaque(key.publicKey).end();
    verify(request.requester.publicKey, "ConnectionRequestTBS", tbs, reader.opaque());
    return { ...request, code };
  });
}

/** Puts a sealed request into the inbox of a handle. */
export async function requestConnection(
  requests: Requests,
  handle: string,
  sealed: Uint8Array,
  price: number,
): Promise<void> {
  const body = new Writer().opaque(utf8(handle)).opaque(sealed);
  await requests.act("requestConnection", { key: new SigningKey() }, body, accepted, price);
}

const MOST_READ = 64;

/** What is in an inbox. Nothing is deleted: a client first stores requests. */
export async function readInbox(requests: Requests, inbox: Inbox) {
  const body = new Writer().bytes(inbox.id).u16(MOST_READ);
  return requests.act("readInbox", { key: inbox.owner }, body, (reader) => {
    const entries = reader.vector((inner) => ({
      day: inner.u32(),
      id: inner.bytes(16),
      sealed: inner.opaque(),
    }));
    reader.u8();
    return entries;
  });
}

export async function deleteFromInbox(
  requests: Requests,
  inbox: Inbox,
  entries: readonly { day: number; id: Uint8Array }[],
): Promise<void> {
  const body = new Writer().bytes(inbox.id).vector(entries, (writer, entry) => {
    writer.u32(entry.day).bytes(entry.id);
  });
  await requests.act("deleteFromInbox", { key: inbox.owner }, body, accepted);
}

/** `ConnectionResponse`: what who accepts tells the requester alone. */
export interface ConnectionResponse {
  connectionKey: Uint8Array;
  token: Uint8Array;
}

const RESPONSE = info("connection response");

export function sealResponse(
  kem: Kem,
  it: ConnectionResponse,
  responseKey: Uint8Array,
  groupId: Uint8Array,
): Promise<Uint8Array> {
  const plain = new Writer().bytes(it.connectionKey).u16(VERSION).bytes(it.token).end();
  return hpkeSeal(kem, responseKey, RESPONSE, groupId, plain);
}

export async function openResponse(
  key: HpkeKey,
  groupId: Uint8Array,
  sealed: Uint8Array,
): Promise<ConnectionResponse> {
  return decode(await key.open(RESPONSE, groupId, sealed), (reader) => {
    const connectionKey = reader.bytes(32);
    if (reader.u16() !== VERSION) throw new CannotOpen("a response of another version");
    return { connectionKey, token: reader.bytes(32) };
  });
}
