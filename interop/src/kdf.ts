// Hashes and key derivation: protocol.md (the first section) and journals.md, *Keys*.

import { createHash, hkdfSync, createHmac } from "node:crypto";
import { concat, utf8 } from "./bytes.ts";
import { Writer } from "./tls.ts";

export function sha256(...parts: readonly Uint8Array[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return new Uint8Array(hash.digest());
}

/** `derive(secret, name, context)` of protocol.md. */
export function derive(
  secret: Uint8Array,
  name: string,
  context: Uint8Array = new Uint8Array(),
): Uint8Array {
  return deriveSalted(secret, new Uint8Array(), name, context, 32);
}

/** The same with a salt and another length. */
export function deriveSalted(
  secret: Uint8Array,
  salt: Uint8Array,
  name: string,
  context: Uint8Array,
  length: number,
): Uint8Array {
  const info = concat(utf8(`MIMIMI 1.0 ${name}\0`), context);
  return new Uint8Array(hkdfSync("sha256", secret, salt, info, length));
}

/** `ExpandWithLabel` of MLS (RFC 9420 §8), for up to 32 bytes: one block of HKDF-Expand. */
export function expandWithLabel(
  secret: Uint8Array,
  label: string,
  context: Uint8Array,
  length = 32,
): Uint8Array {
  const info = new Writer()
    .u16(length)
    .opaque(utf8(`MLS 1.0 ${label}`))
    .opaque(context)
    .end();
  const block = createHmac("sha256", secret).update(info).update(Uint8Array.of(1)).digest();
  return new Uint8Array(block.subarray(0, length));
}
