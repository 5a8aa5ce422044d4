// Oblivious HTTP (RFC 9458) from the client's side, whole and in chunks, with binary HTTP (RFC
// 9292) inside. No package on npm has it with X-Wing; with an HPKE library it is short.

import { createDecipheriv, hkdfSync } from "node:crypto";
import { BHttpDecoder, BHttpEncoder } from "bhttp-js";
import { concat, toBuffer, utf8 } from "./bytes.ts";
import { kems, suiteOf, type Kem } from "./hpke.ts";
import { bucket, CannotOpen } from "./sealing.ts";
import { Incoming } from "./incoming.ts";
import { Reader, Writer } from "./tls.ts";

/** A key configuration of the gateway (RFC 9458 §3) that this client can use. */
export interface KeyConfig {
  keyId: number;
  kem: Kem;
  publicKey: Uint8Array;
  /** As it was shown: views are compared byte by byte. */
  encoded: Uint8Array;
}

const HKDF_SHA256 = 0x0001;
const AES_128_GCM = 0x0001;
/** protocol.md, *Keys of the gateway*: a longer list is refused whole. */
const MOST_CONFIGS = 6;

/** The configurations of a list (RFC 9458 §3.2), X-Wing before X25519. */
export function readKeyConfigs(list: Uint8Array): KeyConfig[] {
  const reader = new Reader(list);
  const configs: KeyConfig[] = [];
  let count = 0;
  while (reader.left() > 0) {
    const encoded = reader.bytes(reader.u16());
    const config = new Reader(encoded);
    const [keyId, kemId] = [config.u8(), config.u16()];
    const kem = Object.values(kems).find((one) => one.id === kemId);
    count += 1;
    if (kem === undefined) continue;
    const publicKey = config.bytes(kem.publicKey);
    const suites = new Reader(config.bytes(config.u16()));
    while (suites.left() > 0) {
      if (suites.u16() === HKDF_SHA256 && suites.u16() === AES_128_GCM) {
        configs.push({ keyId, kem, publicKey, encoded });
        break;
      }
    }
  }
  if (count > MOST_CONFIGS) throw new Error("more key configurations than a gateway has");
  return configs.sort((one, other) => other.publicKey.length - one.publicKey.length);
}

function headOf(config: KeyConfig): Uint8Array {
  const head = new Writer().u8(config.keyId).u16(config.kem.id).u16(HKDF_SHA256);
  return head.u16(AES_128_GCM).end();
}

/** What both kinds of encapsulation begin with: `head || enc`, and the context that seals. */
async function beginTo(config: KeyConfig, label: string) {
  const head = headOf(config);
  const suite = suiteOf(config.kem, "aes128");
  const sender = await suite.createSenderContext({
    recipientPublicKey: await suite.kem.deserializePublicKey(toBuffer(config.publicKey)),
    info: toBuffer(concat(utf8(`${label}\0`), head)),
  });
  return { head, enc: new Uint8Array(sender.enc), sender };
}

/** As long as the key of AES-128-GCM, which is longer than its nonce. */
const RESPONSE_NONCE = 16;

/** Key and nonce of an answer (RFC 9458 §4.4). */
function responseKeys(secret: Uint8Array, enc: Uint8Array, responseNonce: Uint8Array) {
  const expand = (label: string, length: number) =>
    new Uint8Array(hkdfSync("sha256", secret, concat(enc, responseNonce), utf8(label), length));
  return { key: expand("key", 16), nonce: expand("nonce", 12) };
}

/** An encapsulated request, and what opens its answer. */
export interface Encapsulated {
  request: Uint8Array;
  open(answer: Uint8Array): Uint8Array;
}

/** RFC 9458 §4.3 and §4.4. */
export async function encapsulate(config: KeyConfig, plain: Uint8Array): Promise<Encapsulated> {
  const { head, enc, sender } = await beginTo(config, "message/bhttp request");
  const sealed = new Uint8Array(await sender.seal(toBuffer(plain)));
  const label = toBuffer(utf8("message/bhttp response"));
  const secret = new Uint8Array(await sender.export(label, RESPONSE_NONCE));
  return {
    request: concat(head, enc, sealed),
    open(answer) {
      const { key, nonce } = responseKeys(secret, enc, answer.subarray(0, RESPONSE_NONCE));
      return openGcm(key, nonce, new Uint8Array(), answer.subarray(RESPONSE_NONCE));
    },
  };
}

/** A request of the chunked kind, and what opens the chunks of its answer as they come. */
export interface Chunked {
  request: Uint8Array;
  chunks(answer: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array>;
}

const FINAL = utf8("final");

/** A request in one chunk, and an answer that goes on (draft-ietf-ohai-chunked-ohttp-08 §5). */
export async function encapsulateChunked(config: KeyConfig, plain: Uint8Array): Promise<Chunked> {
  const { head, enc, sender } = await beginTo(config, "message/bhttp chunked request");
  const sealed = new Uint8Array(await sender.seal(toBuffer(plain), toBuffer(FINAL)));
  const label = toBuffer(utf8("message/bhttp chunked response"));
  const secret = new Uint8Array(await sender.export(label, RESPONSE_NONCE));
  return {
    request: concat(head, enc, Uint8Array.of(0), sealed),
    async *chunks(answer) {
      const bytes = new Incoming(answer);
      const { key, nonce } = responseKeys(secret, enc, await bytes.take(RESPONSE_NONCE));
      for (let counter = 0; ; counter++) {
        const length = await bytes.varint();
        const chunk = length === 0 ? await bytes.rest() : await bytes.take(length);
        const aad = length === 0 ? FINAL : new Uint8Array();
        yield openGcm(key, counted(nonce, counter), aad, chunk);
        if (length === 0) return;
      }
    },
  };
}

function counted(nonce: Uint8Array, counter: number): Uint8Array {
  const counters = new Writer().bytes(new Uint8Array(4)).u64(BigInt(counter)).end();
  return nonce.map((byte, at) => byte ^ (counters[at] ?? 0));
}

function openGcm(
  key: Uint8Array,
  nonce: Uint8Array,
  aad: Uint8Array,
  sealed: Uint8Array,
): Uint8Array {
  const end = sealed.length - 16;
  if (end < 0) throw new CannotOpen("an answer that is too short");
  const decipher = createDecipheriv("aes-128-gcm", key, nonce, { authTagLength: 16 });
  decipher.setAAD(aad).setAuthTag(sealed.subarray(end));
  try {
    return concat(decipher.update(sealed.subarray(0, end)), decipher.final());
  } catch {
    throw new CannotOpen("an answer that is not the gateway's");
  }
}

/** No request is shorter on the network (protocol.md, *Transport*). */
const SMALLEST_REQUEST = 2048;

/** A request in binary HTTP, padded to a size bucket. */
export async function encodeRequest(request: Request): Promise<Uint8Array> {
  const encoded = await new BHttpEncoder().encodeRequest(request);
  const padded = new Uint8Array(bucket(Math.max(encoded.length, SMALLEST_REQUEST)));
  padded.set(encoded);
  return padded;
}

export function decodeResponse(bytes: Uint8Array): Response {
  return new BHttpDecoder().decodeResponse(toBuffer(bytes));
}
