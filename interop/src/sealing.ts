// How everything at rest is sealed (journals.md, *Sealing*), and plain AES-256-GCM.

import { createCipheriv, createDecipheriv } from "node:crypto";
import { concat, equal, random, utf8 } from "./bytes.ts";
import { deriveSalted } from "./kdf.ts";
import { Reader, Writer } from "./tls.ts";

/** What does not open under the key and for the place that it should be for. */
export class CannotOpen extends Error {}

const TAG = 16;
const ZERO_NONCE = new Uint8Array(12);

/** AES-256-GCM: ciphertext and tag. */
export function gcmSeal(
  key: Uint8Array,
  nonce: Uint8Array,
  aad: Uint8Array,
  plain: Uint8Array,
): Uint8Array {
  const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(aad);
  return concat(cipher.update(plain), cipher.final(), cipher.getAuthTag());
}

export function gcmOpen(
  key: Uint8Array,
  nonce: Uint8Array,
  aad: Uint8Array,
  sealed: Uint8Array,
): Uint8Array {
  const end = sealed.length - TAG;
  if (end < 0) throw new CannotOpen("too short to be sealed");
  const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: TAG })
    .setAAD(aad)
    .setAuthTag(sealed.subarray(end));
  try {
    return concat(decipher.update(sealed.subarray(0, end)), decipher.final());
  } catch {
    throw new CannotOpen("sealed under another key, or for another place");
  }
}

/** Where something sealed stands: no two places share a ciphertext. */
export interface Place {
  table: string;
  row: Uint8Array;
  part: string;
}

const VERSION = 1;

function placeAad(place: Place): Uint8Array {
  const writer = new Writer().opaque(utf8(place.table)).opaque(place.row);
  return writer.opaque(utf8(place.part)).u8(VERSION).end();
}

/** The Padmé size (Nikitin et al., PETS 2019): at most 12 % more. */
export function padme(length: number): number {
  if (length < 2) return length;
  const exponent = Math.floor(Math.log2(length));
  const kept = Math.floor(Math.log2(exponent)) + 1;
  const unit = 2 ** Math.max(exponent - kept, 0);
  return Math.ceil(length / unit) * unit;
}

/** Powers of two from 512 to 64 KiB, then multiples of that: sizes on the network. */
export function bucket(length: number): number {
  const most = 64 * 1024;
  if (length > most) return Math.ceil(length / most) * most;
  return Math.max(512, 2 ** Math.ceil(Math.log2(Math.max(length, 1))));
}

/** `uint32 length || content || zeros`, `size` bytes in all. */
export function padTo(size: number, content: Uint8Array): Uint8Array {
  const padded = new Uint8Array(size);
  padded.set(new Writer().u32(content.length).bytes(content).end());
  return padded;
}

/** The content of `uint32 length || content || zeros`. */
export function unpad(padded: Uint8Array): Uint8Array {
  const reader = new Reader(padded);
  return reader.bytes(reader.u32());
}

function writeKeys(secret: Uint8Array, salt: Uint8Array, aad: Uint8Array) {
  const both = deriveSalted(secret, salt, "sealed part", aad, 64);
  return { key: both.subarray(0, 32), commitment: both.subarray(32) };
}

export function seal(secret: Uint8Array, place: Place, plain: Uint8Array): Uint8Array {
  const [salt, aad] = [random(32), placeAad(place)];
  const { key, commitment } = writeKeys(secret, salt, aad);
  const body = gcmSeal(key, ZERO_NONCE, aad, padTo(padme(plain.length + 4), plain));
  return concat(Uint8Array.of(VERSION), salt, commitment, body);
}

export function open(secret: Uint8Array, place: Place, sealed: Uint8Array): Uint8Array {
  const reader = new Reader(sealed);
  if (reader.u8() !== VERSION) throw new CannotOpen("a format of another version");
  const [salt, shown] = [reader.bytes(32), reader.bytes(32)];
  const aad = placeAad(place);
  const { key, commitment } = writeKeys(secret, salt, aad);
  // No ciphertext opens under two keys.
  if (!equal(commitment, shown)) throw new CannotOpen("sealed under another key");
  return unpad(gcmOpen(key, ZERO_NONCE, aad, reader.bytes(reader.left())));
}
