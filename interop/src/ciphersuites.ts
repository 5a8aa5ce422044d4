// The ciphersuites of MLS, for the MLS library.
//
// ts-mls has X-Wing under private numbers and with other hashes. The service's suites with X-Wing
// (protocol.md, *Leaves and identities*) are put together here from the library's parts.

import {
  getCiphersuiteImpl,
  type CiphersuiteImpl,
  type Hpke,
  type PrivateKey,
  type PublicKey,
} from "ts-mls";
import { toBuffer } from "./bytes.ts";
import { kems, suiteOf, type Kem } from "./hpke.ts";
import { decode } from "./tls.ts";

export const X25519_SUITE = 0x0001;
export const X_WING_SUITE = 0x004f;

/** The suite of connections, and of other groups unless their creator chooses another one. */
export const DEFAULT_SUITE = X_WING_SUITE;

export function kemOf(suite: number): Kem {
  return suite === X_WING_SUITE ? kems.xWing : kems.x25519;
}

/** Both suites have AES-128-GCM, SHA-256 and Ed25519. */
export async function ciphersuite(number: number): Promise<CiphersuiteImpl> {
  const base = await getCiphersuiteImpl("MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519");
  return { ...base, id: number, hpke: hpkeOf(kemOf(number), base.hpke) };
}

/** HPKE with HKDF-SHA256 and AES-128-GCM as the library wants it. */
function hpkeOf(kem: Kem, base: Hpke): Hpke {
  const suite = suiteOf(kem, "aes128");
  const bytes = (buffer: ArrayBuffer) => new Uint8Array(buffer);
  const recipient = (recipientKey: CryptoKey, enc: Uint8Array, info: Uint8Array) => ({
    recipientKey,
    enc: toBuffer(enc),
    info: toBuffer(info),
  });
  const pair = async (made: Promise<CryptoKeyPair>) => {
    const { privateKey, publicKey } = await made;
    return { privateKey: privateKey as PrivateKey, publicKey: publicKey as PublicKey };
  };
  return {
    ...base,
    async open(privateKey, enc, ciphertext, info, aad) {
      const opened = suite.open(
        recipient(privateKey, enc, info),
        toBuffer(ciphertext),
        toBuffer(aad ?? new Uint8Array()),
      );
      return bytes(await opened);
    },
    async seal(publicKey, plaintext, info, aad) {
      const sealed = await suite.seal(
        { recipientPublicKey: publicKey, info: toBuffer(info) },
        toBuffer(plaintext),
        toBuffer(aad ?? new Uint8Array()),
      );
      return { ct: bytes(sealed.ct), enc: bytes(sealed.enc) };
    },
    async exportSecret(publicKey, context, length, info) {
      const sender = await suite.createSenderContext({
        recipientPublicKey: publicKey,
        info: toBuffer(info),
      });
      return {
        enc: bytes(sender.enc),
        secret: bytes(await sender.export(toBuffer(context), length)),
      };
    },
    async importSecret(privateKey, context, enc, length, info) {
      const received = await suite.createRecipientContext(recipient(privateKey, enc, info));
      return bytes(await received.export(toBuffer(context), length));
    },
    async importPrivateKey(key) {
      return (await suite.kem.deserializePrivateKey(toBuffer(key))) as PrivateKey;
    },
    async importPublicKey(key) {
      // ts-mls takes the content of the extension `external_pub` for a key. It is a vector with the
      // key (RFC 9420 §12.4.3.2).
      const raw = key.length > kem.publicKey ? decode(key, (reader) => reader.opaque()) : key;
      return (await suite.kem.deserializePublicKey(toBuffer(raw))) as PublicKey;
    },
    async exportPublicKey(key) {
      return bytes(await suite.kem.serializePublicKey(key));
    },
    async exportPrivateKey(key) {
      return bytes(await suite.kem.serializePrivateKey(key));
    },
    deriveKeyPair: (ikm) => pair(suite.kem.deriveKeyPair(toBuffer(ikm))),
    generateKeyPair: () => pair(suite.kem.generateKeyPair()),
  };
}
