// Ed25519 signatures over `SignContent` (protocol.md, the first section).

import { createPrivateKey, createPublicKey, sign as ed25519, verify as check } from "node:crypto";
import { base64url, concat, fromBase64url, random, utf8 } from "./bytes.ts";
import { Writer } from "./tls.ts";

/** Something that is not signed as it must be. */
export class BadSignature extends Error {}

/** What comes before the seed in PKCS #8 (RFC 8410 §7). */
const PKCS8 = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20);

export class SigningKey {
  readonly seed: Uint8Array;
  readonly publicKey: Uint8Array;

  constructor(seed: Uint8Array = random(32)) {
    this.seed = seed;
    const jwk = createPublicKey(this.#private()).export({ format: "jwk" });
    this.publicKey = fromBase64url(jwk.x ?? "");
  }

  #private() {
    const key = Buffer.from(concat(PKCS8, this.seed));
    return createPrivateKey({ key, format: "der", type: "pkcs8" });
  }

  /** Over label and content, with the prefix of all labels here. */
  sign(label: string, content: Uint8Array): Uint8Array {
    return new Uint8Array(ed25519(null, signContent(label, content), this.#private()));
  }
}

function signContent(label: string, content: Uint8Array): Uint8Array {
  return new Writer()
    .opaque(utf8(`MIMIMI 1.0 ${label}`))
    .opaque(content)
    .end();
}

/** Throws unless `signature` is that of the key over label and content. */
export function verify(
  publicKey: Uint8Array,
  label: string,
  content: Uint8Array,
  signature: Uint8Array,
): void {
  const jwk = { kty: "OKP", crv: "Ed25519", x: base64url(publicKey) };
  const key = createPublicKey({ key: jwk, format: "jwk" });
  if (!check(null, signContent(label, content), key, signature)) {
    throw new BadSignature(`the signature of ${label} is wrong`);
  }
}
