// Requests (protocol.md, *Requests* and *Operations*): the signed envelope, and the few operations
// that are read without a signature.

import { random } from "./bytes.ts";
import { type Wallet } from "./issuer.ts";
import { SigningKey } from "./signing.ts";
import { decode, Writer, type Reader } from "./tls.ts";

/** Operations that this client uses: their numbers and paths. */
export const operations = {
  reserveGroupId: { number: 1, path: "/v1/groups/reserve" },
  createGroup: { number: 2, path: "/v1/groups/create" },
  addUsers: { number: 3, path: "/v1/groups/add-users" },
  updateClient: { number: 7, path: "/v1/groups/update-client" },
  externalJoin: { number: 11, path: "/v1/groups/external-join" },
  sendMessage: { number: 12, path: "/v1/groups/send-message" },
  externalCommitInfo: { number: 15, path: "/v1/groups/external-commit-info" },
  setLeafExtras: { number: 16, path: "/v1/groups/set-leaf-extras" },
  setJoinCode: { number: 18, path: "/v1/groups/set-join-code" },
  readJournal: { number: 30, path: "/v1/journals/read" },
  joinRecord: { number: 31, path: "/v1/records/join" },
  fetchWelcome: { number: 32, path: "/v1/records/welcome" },
  recoveryRow: { number: 33, path: "/v1/records/recovery" },
  followJournal: { number: 34, path: "/v1/journals/follow" },
  publishKeyPackages: { number: 40, path: "/v1/key-packages/publish" },
  claimKeyPackages: { number: 41, path: "/v1/key-packages/claim" },
  countKeyPackages: { number: 43, path: "/v1/key-packages/count" },
  registerHandle: { number: 50, path: "/v1/handles/register" },
  lookupHandle: { number: 51, path: "/v1/handles/lookup" },
  requestConnection: { number: 53, path: "/v1/handles/request-connection" },
  readInbox: { number: 54, path: "/v1/inboxes/read" },
  deleteFromInbox: { number: 55, path: "/v1/inboxes/delete" },
} as const;

export type Operation = keyof typeof operations;

export const VERSION = 1;

/** What carries requests: [`Transport`], or a service that lies, in tests. */
export interface Carrier {
  post(path: string, body: Uint8Array, tokens: readonly Uint8Array[]): Promise<Uint8Array>;
}

/** Whose key signs: that of a leaf of the group that the body names, or one that is shown. */
export type Signer = { leaf: number; key: SigningKey } | { key: SigningKey };

export class Requests {
  readonly #carrier: Carrier;
  readonly #wallet: Wallet;

  constructor(carrier: Carrier, wallet: Wallet) {
    this.#carrier = carrier;
    this.#wallet = wallet;
  }

  /** Sends a signed request with so many tokens, and reads its answer. */
  async act<T>(
    operation: Operation,
    signer: Signer,
    body: Writer,
    read: (reader: Reader) => T,
    tokens = 0,
  ): Promise<T> {
    const { number, path } = operations[operation];
    const request = new Writer()
      .u16(VERSION)
      .u16(number)
      .u32(Math.floor(Date.now() / 60_000));
    request.bytes(random(16));
    if ("leaf" in signer) request.u8(1).u32(signer.leaf);
    else request.u8(2).opaque(signer.key.publicKey);
    request.opaque(body.end());
    request.opaque(signer.key.sign("DeliveryServiceRequest", request.end()));
    return decode(await this.#carrier.post(path, request.end(), this.#wallet.take(tokens)), read);
  }

  /** Reads a row by capability: the same bytes for every reader. */
  async read<T>(operation: Operation, body: Writer, read: (reader: Reader) => T): Promise<T> {
    const { path } = operations[operation];
    return decode(await this.#carrier.post(path, body.end(), []), read);
  }
}

/** `struct {} Accepted`. */
export const accepted = (_: Reader): void => undefined;
