// Real credentials, pseudonymous ones, and the identity links between them (protocol.md, *Leaves
// and identities* and *Connections*; draft-kohbrok-mimi-metadata-minimalization-02 §4).

import { randomUUID } from "node:crypto";
import { equal, random, utf8 } from "./bytes.ts";
import { expandWithLabel } from "./kdf.ts";
import { CannotOpen, gcmOpen, gcmSeal } from "./sealing.ts";
import { SigningKey, verify } from "./signing.ts";
import { decode, Reader, Writer } from "./tls.ts";

/** The MLS credential type of a pseudonymous credential. */
export const CREDENTIAL_TYPE = 0xf0c1;

/** The name that somebody chose, and the key that contacts compare. */
export interface ClientCredential {
  name: Uint8Array;
  publicKey: Uint8Array;
}

export function writeCredential(writer: Writer, credential: ClientCredential): void {
  writer.opaque(credential.name).opaque(credential.publicKey);
}

export function readCredential(reader: Reader): ClientCredential {
  return { name: reader.opaque(), publicKey: reader.opaque() };
}

/** The keys of a user that are the same in all groups, and are shown in none. */
export class Person {
  readonly identity = new SigningKey();
  /** Contacts derive the link keys of this user's leaves from it. */
  readonly connectionKey = random(32);
  readonly credential: ClientCredential;

  constructor(handle: string) {
    this.credential = { name: utf8(handle), publicKey: this.identity.publicKey };
  }
}

/** `PseudonymousCredential`: what stands in a leaf. */
export interface Pseudonymous {
  clientPseudonym: Uint8Array;
  userPseudonym: Uint8Array;
  publicKey: Uint8Array;
  identityLink: Uint8Array;
}

export function readPseudonymous(bytes: Uint8Array): Pseudonymous {
  return decode(bytes, (reader) => ({
    clientPseudonym: reader.opaque(),
    userPseudonym: reader.opaque(),
    publicKey: reader.opaque(),
    identityLink: reader.opaque(),
  }));
}

export function pseudonym(domain: string): Uint8Array {
  return utf8(`mimi://${domain}/p/${randomUUID()}`);
}

function linkTbs(it: Omit<Pseudonymous, "identityLink">): Uint8Array {
  return new Writer()
    .opaque(it.clientPseudonym)
    .opaque(it.userPseudonym)
    .opaque(it.publicKey)
    .end();
}

const LINK_LABEL = "PseudonymousCredentialTBS";
/** Both kinds of links have one size, whoever they are of. */
const LINK_SIZE = 192;
const INTRODUCTION_SIZE = 384;
/** The link key is good for this one link. */
const LINK_NONCE = new Uint8Array(12);

/**
 * A credential for one leaf, and its link key. In the leaf that answers a connection request the
 * link has room for an introduction; this client has none.
 */
export function issue(
  domain: string,
  person: Person,
  leafKey: Uint8Array,
  userPseudonym: Uint8Array,
  introducing: boolean,
): { encoded: Uint8Array; linkKey: Uint8Array } {
  const named = { clientPseudonym: pseudonym(domain), userPseudonym, publicKey: leafKey };
  const tbs = linkTbs(named);
  const linkKey = linkKeyOf(person.connectionKey, named);
  const link = new Writer().opaque(person.identity.sign(LINK_LABEL, tbs));
  writeCredential(link, person.credential);
  const padded = new Uint8Array(LINK_SIZE + (introducing ? INTRODUCTION_SIZE : 0));
  padded.set(link.end());
  const encoded = new Writer()
    .bytes(tbs)
    .opaque(gcmSeal(linkKey, LINK_NONCE, tbs, padded))
    .end();
  return { encoded, linkKey };
}

/** The link key of a credential, for whoever has its owner's connection key. */
export function linkKeyOf(
  connectionKey: Uint8Array,
  it: Omit<Pseudonymous, "identityLink">,
): Uint8Array {
  return expandWithLabel(connectionKey, "IdentityLinkKey", linkTbs(it));
}

/** Whose credential it is, verified. */
export function openLink(it: Pseudonymous, linkKey: Uint8Array): ClientCredential {
  const tbs = linkTbs(it);
  const link = gcmOpen(linkKey, LINK_NONCE, tbs, it.identityLink);
  const reader = new Reader(link);
  const signature = reader.opaque();
  const credential = readCredential(reader);
  const rest = reader.bytes(reader.left());
  if (link.length === LINK_SIZE && rest.some((byte) => byte !== 0)) {
    throw new CannotOpen("an identity link that is not what it must be");
  }
  verify(credential.publicKey, LINK_LABEL, tbs, signature);
  return credential;
}

const WRAPPED = utf8("identity link key");

/** A link key under the wrapper key of a segment: `nonce(12) || AES-256-GCM`. */
export function wrapLinkKey(wrapper: Uint8Array, linkKey: Uint8Array): Uint8Array {
  const nonce = random(12);
  return new Writer()
    .bytes(nonce)
    .bytes(gcmSeal(wrapper, nonce, WRAPPED, linkKey))
    .end();
}

export function unwrapLinkKey(wrapper: Uint8Array, wrapped: Uint8Array): Uint8Array {
  return gcmOpen(wrapper, wrapped.subarray(0, 12), WRAPPED, wrapped.subarray(12));
}

/** Whether two credentials are one person's. */
export function isSamePerson(one: ClientCredential, other: ClientCredential): boolean {
  return equal(one.publicKey, other.publicKey);
}
