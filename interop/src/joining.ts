// What goes with a leaf that comes in, and with every commit (journals.md, *Leaves' extras*,
// *Recovery rows* and *Join codes*).

import { type CiphersuiteImpl } from "ts-mls";
import { concat, random, utf8 } from "./bytes.ts";
import { kemOf } from "./ciphersuites.ts";
import { HpkeKey, hpkeSeal, info } from "./hpke.ts";
import { wrapLinkKey } from "./identities.ts";
import { type Segment } from "./journal.ts";
import { derive, sha256 } from "./kdf.ts";
import { SigningKey } from "./signing.ts";
import { decode, Reader, Writer } from "./tls.ts";

/** Bytes of a push handle; random ones where there is none. */
const PUSH_HANDLE = 96;

/** `CommitAad`: the authenticated data of every commit. */
export function commitAad(rotates: boolean, response: Uint8Array = new Uint8Array()): Uint8Array {
  return new Writer()
    .u8(rotates ? 1 : 0)
    .u8(0)
    .opaque(response)
    .end();
}

export function readCommitAad(bytes: Uint8Array) {
  return decode(bytes, (reader) => {
    const rotates = reader.u8() === 1;
    const authorization = reader.optional((inner) => ({
      leaf: inner.u32(),
      notAfterMs: inner.u64(),
      signature: inner.opaque(),
    }));
    return { rotates, authorization, response: reader.opaque() };
  });
}

/** `RecoveryKey`: a public key that the leaf's own key vouches for. */
export async function recoveryKey(
  suite: CiphersuiteImpl,
  groupId: Uint8Array,
  signer: SigningKey,
  seed: Uint8Array,
): Promise<{ publicKey: Uint8Array; encoded: Uint8Array }> {
  const { publicKey } = await HpkeKey.derive(kemOf(suite.id), seed);
  const tbs = new Writer().bytes(groupId).opaque(signer.publicKey).opaque(publicKey).end();
  const encoded = new Writer().opaque(publicKey).opaque(signer.sign("RecoveryKeyTBS", tbs)).end();
  return { publicKey, encoded };
}

export const pushHandle = () => random(PUSH_HANDLE);

/** `LeafExtras`: always all of them, fresh for the leaf. */
export async function leafExtras(it: {
  suite: CiphersuiteImpl;
  groupId: Uint8Array;
  signer: SigningKey;
  linkKey: Uint8Array;
  wrapperKey: Uint8Array;
  recoverySeed: Uint8Array;
}): Promise<Uint8Array> {
  const recovery = await recoveryKey(it.suite, it.groupId, it.signer, it.recoverySeed);
  const writer = new Writer().opaque(wrapLinkKey(it.wrapperKey, it.linkKey));
  return writer.bytes(recovery.encoded).opaque(pushHandle()).end();
}

const ROW = info("recovery row");

export function rowId(groupId: Uint8Array, publicKey: Uint8Array): Uint8Array {
  return sha256(utf8("MIMIMI 1.0 recovery row\0"), groupId, publicKey);
}

const rowAad = (groupId: Uint8Array, rotation: bigint) =>
  concat(groupId, new Writer().u64(rotation).end());

/** `RecoveryRow`: the way into a segment, sealed to a leaf's key or a code's. */
export async function recoveryRow(
  suite: CiphersuiteImpl,
  groupId: Uint8Array,
  segment: Segment,
  publicKey: Uint8Array,
): Promise<Uint8Array> {
  const plain = new Writer().u32(segment.step).bytes(segment.stateKey).bytes(segment.wrapperKey);
  const kem = kemOf(suite.id);
  const aad = rowAad(groupId, segment.rotation);
  const sealed = await hpkeSeal(kem, publicKey, ROW, aad, plain.bytes(segment.id).end());
  return new Writer().bytes(rowId(groupId, publicKey)).opaque(sealed).end();
}

/** Opens a row as the service shows it: segment, step and keys, but for the journal's. */
export async function openRow(
  key: HpkeKey,
  groupId: Uint8Array,
  row: { rotation: bigint; sealed: Uint8Array },
): Promise<Segment> {
  const plain = await key.open(ROW, rowAad(groupId, row.rotation), row.sealed);
  return decode(plain, (reader: Reader) => ({
    rotation: row.rotation,
    step: reader.u32(),
    stateKey: reader.bytes(32),
    wrapperKey: reader.bytes(32),
    id: reader.bytes(32),
    entryKey: new Uint8Array(),
    next: 0n,
    chain: undefined,
  }));
}

/** A join code: its permit, and the key that its row is sealed to. */
export class JoinCode {
  readonly secret: Uint8Array;
  readonly permit: Uint8Array;
  readonly key: HpkeKey;

  private constructor(secret: Uint8Array, key: HpkeKey) {
    this.secret = secret;
    this.permit = derive(secret, "permit");
    this.key = key;
  }

  static async of(suite: CiphersuiteImpl, secret: Uint8Array): Promise<JoinCode> {
    return new JoinCode(secret, await HpkeKey.derive(kemOf(suite.id), derive(secret, "hpke")));
  }

  /** The public record, signed by its maker's leaf. */
  record(it: {
    groupId: Uint8Array;
    epoch: bigint;
    maker: number;
    signer: SigningKey;
    expiryWeek: number;
  }): Uint8Array {
    const record = new Writer().bytes(sha256(this.permit)).opaque(this.key.publicKey);
    record.u16(it.expiryWeek).u64(it.epoch).u32(it.maker);
    const tbs = concat(it.groupId, record.end());
    return record.opaque(it.signer.sign("JoinCodeTBS", tbs)).end();
  }
}
