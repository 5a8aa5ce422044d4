// HPKE (RFC 9180) in base mode: for Oblivious HTTP, for what is sealed to a public key outside of
// MLS (protocol.md, *Connections*), and for the ciphersuites of MLS.

import {
  Aes128Gcm,
  Aes256Gcm,
  CipherSuite,
  DhkemX25519HkdfSha256,
  HkdfSha256,
  type KemInterface,
} from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";
import { concat, toBuffer, utf8 } from "./bytes.ts";
import { CannotOpen } from "./sealing.ts";
import { Writer } from "./tls.ts";

/** The two KEMs that are spoken here: bytes of a public key and of an encapsulated key. */
export const kems = {
  x25519: {
    id: 0x0020,
    publicKey: 32,
    enc: 32,
    make: (): KemInterface => new DhkemX25519HkdfSha256(),
  },
  xWing: { id: 0x647a, publicKey: 1216, enc: 1120, make: (): KemInterface => new XWing() },
} as const;

export type Kem = (typeof kems)[keyof typeof kems];

export function suiteOf(kem: Kem, aead: "aes128" | "aes256"): CipherSuite {
  return new CipherSuite({
    kem: kem.make(),
    kdf: new HkdfSha256(),
    aead: aead === "aes128" ? new Aes128Gcm() : new Aes256Gcm(),
  });
}

/** A key pair that follows from its seed: `DeriveKeyPair` (RFC 9180 §7.1.3). */
export class HpkeKey {
  readonly kem: Kem;
  readonly publicKey: Uint8Array;
  readonly #pair: CryptoKeyPair;

  private constructor(kem: Kem, pair: CryptoKeyPair, publicKey: Uint8Array) {
    this.kem = kem;
    this.#pair = pair;
    this.publicKey = publicKey;
  }

  static async derive(kem: Kem, seed: Uint8Array): Promise<HpkeKey> {
    const suite = suiteOf(kem, "aes256");
    const ikm = kem === kems.xWing ? labeled(seed) : seed;
    const pair = await suite.kem.deriveKeyPair(toBuffer(ikm));
    const publicKey = new Uint8Array(await suite.kem.serializePublicKey(pair.publicKey));
    return new HpkeKey(kem, pair, publicKey);
  }

  /** Opens `enc || ciphertext`. */
  async open(info: Uint8Array, aad: Uint8Array, sealed: Uint8Array): Promise<Uint8Array> {
    const enc = sealed.subarray(0, this.kem.enc);
    const recipient = {
      recipientKey: this.#pair.privateKey,
      enc: toBuffer(enc),
      info: toBuffer(info),
    };
    const ciphertext = toBuffer(sealed.subarray(this.kem.enc));
    try {
      return new Uint8Array(
        await suiteOf(this.kem, "aes256").open(recipient, ciphertext, toBuffer(aad)),
      );
    } catch {
      throw new CannotOpen("not sealed to this key, or for something else");
    }
  }
}

/**
 * What is hashed to the seed of an X-Wing key: `LabeledDerive` of draft-ietf-hpke-pq. The library
 * hashes a seed without labels, as draft-connolly-cfrg-xwing-kem-06 §5.6 has it. So do MLS
 * libraries.
 */
function labeled(seed: Uint8Array): Uint8Array {
  const suiteId = new Writer().bytes(utf8("KEM")).u16(kems.xWing.id).end();
  const label = utf8("DeriveKeyPair");
  const input = new Writer().bytes(seed).bytes(utf8("HPKE-v1")).bytes(suiteId);
  return input.u16(label.length).bytes(label).u16(32).end();
}

/** Seals to a public key: `enc || ciphertext`. */
export async function hpkeSeal(
  kem: Kem,
  publicKey: Uint8Array,
  info: Uint8Array,
  aad: Uint8Array,
  plain: Uint8Array,
): Promise<Uint8Array> {
  if (publicKey.length !== kem.publicKey) throw new CannotOpen("no public key of this KEM");
  const suite = suiteOf(kem, "aes256");
  const recipientPublicKey = await suite.kem.deserializePublicKey(toBuffer(publicKey));
  const sender = { recipientPublicKey, info: toBuffer(info) };
  const { ct, enc } = await suite.seal(sender, toBuffer(plain), toBuffer(aad));
  return concat(new Uint8Array(enc), new Uint8Array(ct));
}

export const info = (name: string) => utf8(`MIMIMI 1.0 ${name}`);
