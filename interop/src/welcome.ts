// Coming in by a Welcome (journals.md, *Coming in*): it is found by a pointer, and its tree is in
// the join record, which opens under an exporter of the Welcome's own epoch.

import {
  decode as decodeMls,
  joinGroup,
  mlsMessageDecoder,
  wireformats,
  type CiphersuiteImpl,
  type Welcome,
} from "ts-mls";
import { concat, equal, fromUtf8, utf8 } from "./bytes.ts";
import { ciphersuite } from "./ciphersuites.ts";
import { type Pointer } from "./content.ts";
import { Group, groupKinds, writeGroupKey } from "./group.ts";
import { isSamePerson, type ClientCredential, type Person } from "./identities.ts";
import {
  firstChain,
  Lie,
  readJournalKeys,
  readPlace,
  type Segment,
  type Service,
} from "./journal.ts";
import { pushHandle, recoveryKey, recoveryRow } from "./joining.ts";
import { derive, expandWithLabel } from "./kdf.ts";
import { context, readTree, type OwnLeaf } from "./mls.ts";
import { accepted, VERSION, type Requests } from "./requests.ts";
import { open, unpad } from "./sealing.ts";
import { verify } from "./signing.ts";
import { decode, Malformed, Reader, Writer } from "./tls.ts";

/** `JoinInfo`, as it comes with the Welcome. */
interface JoinInfo {
  wrapperKey: Uint8Array;
  name: Uint8Array;
  by: Uint8Array;
  signature: Uint8Array;
}

function readJoinInfo(bytes: Uint8Array): JoinInfo {
  return decode(bytes, (reader) => {
    const [wrapperKey, name] = [reader.bytes(32), reader.opaque()];
    reader.u64();
    return { wrapperKey, name, by: reader.opaque(), signature: reader.opaque() };
  });
}

async function fetchWelcome(requests: Requests, id: Uint8Array, key: Uint8Array) {
  const body = new Writer().u16(VERSION).bytes(id);
  const sealed = await requests.read("fetchWelcome", body, (reader) => reader.opaque());
  const content = unpad(open(key, { table: "welcomes", row: id, part: "welcome" }, sealed));
  const { welcome, joinInfo } = decode(content, (reader) => ({
    welcome: reader.opaque(),
    joinInfo: reader.opaque(),
  }));
  const message = decodeMls(mlsMessageDecoder, welcome);
  if (message?.wireformat !== wireformats.mls_welcome) throw new Malformed("no Welcome");
  return { welcome: message.welcome, joinInfo: readJoinInfo(joinInfo) };
}

/**
 * What a Welcome says before its tree is known (RFC 9420 §12.4.3.1): group, epoch, and what opens
 * the join record. ts-mls wants the tree first.
 */
async function peek(welcome: Welcome, ref: Uint8Array, leaf: OwnLeaf, suite: CiphersuiteImpl) {
  const own = welcome.secrets.find((it) => equal(it.newMember, ref));
  if (own === undefined) throw new Malformed("a Welcome for somebody else");
  const { kemOutput, ciphertext } = own.encryptedGroupSecrets;
  const initKey = await suite.hpke.importPrivateKey(leaf.privateKeys.initPrivateKey);
  const label = new Writer().opaque(utf8("MLS 1.0 Welcome")).opaque(welcome.encryptedGroupInfo);
  const secrets = await suite.hpke.open(initKey, kemOutput, ciphertext, label.end());
  const joinerSecret = new Reader(secrets).opaque();
  const none = new Uint8Array();
  const member = await suite.kdf.extract(joinerSecret, new Uint8Array(suite.kdf.size));
  const secret = expandWithLabel(member, "welcome", none);
  const key = expandWithLabel(secret, "key", none, 16);
  const nonce = expandWithLabel(secret, "nonce", none, 12);
  const info = await suite.hpke.decryptAead(key, nonce, none, welcome.encryptedGroupInfo);
  const reader = new Reader(info);
  reader.bytes(4);
  const [groupId, epoch] = [reader.opaque(), reader.u64()];
  for (const _ of ["tree hash", "transcript hash", "extensions"]) reader.opaque();
  const groupContext = info.subarray(0, reader.at());
  const epochSecret = expandWithLabel(member, "epoch", groupContext);
  const exporterSecret = expandWithLabel(epochSecret, "exporter", none);
  const named = expandWithLabel(exporterSecret, "MIMIMI 1.0 join record", none);
  const joinKey = expandWithLabel(named, "exported", await suite.hash.digest(none));
  return { groupId, epoch, joinKey };
}

/** `JoinRecordContent`, all its pages. */
async function fetchJoinRecord(requests: Requests, joinKey: Uint8Array, groupId: Uint8Array) {
  const id = derive(joinKey, "join record", groupId);
  const pages: Uint8Array[] = [];
  for (let count = 1; pages.length < count;) {
    const page = pages.length;
    const body = new Writer().u16(VERSION).bytes(id).u16(page);
    const shown = await requests.read("joinRecord", body, (reader) => ({
      pages: reader.u16(),
      sealed: reader.opaque(),
    }));
    count = shown.pages;
    const row = concat(id, new Writer().u16(page).u16(count).end());
    pages.push(open(joinKey, { table: "join_records", row, part: "page" }, shown.sealed));
  }
  return decode(concat(...pages), (reader) => {
    const start = {
      tree: reader.opaque(),
      stateKey: reader.bytes(32),
      journal: readJournalKeys(reader),
    };
    return {
      ...start,
      segment: reader.bytes(32),
      place: readPlace(reader),
      chain: reader.bytes(32),
      leaves: reader.vector((inner) => ({
        leaf: inner.u32(),
        wrapper: inner.u64(),
        sealed: inner.opaque(),
      })),
      wrapperChain: reader.vector((inner) => ({
        under: inner.u64(),
        of: inner.u64(),
        sealed: inner.opaque(),
      })),
    };
  });
}

/** Joins the group that a contact's pointer leads to, and says there that this client has come. */
export async function joinByPointer(it: {
  service: Service;
  pointer: Pointer;
  own: { leaf: OwnLeaf; suite: number };
  device: { keyPackageRef: Uint8Array; id: Uint8Array; key: Uint8Array };
  person: Person;
  contact: ClientCredential;
  connectionKey: Uint8Array;
}): Promise<{ group: Group; name: string }> {
  const { service, pointer, device } = it;
  const suite = await ciphersuite(it.own.suite);
  const { welcome, joinInfo } = await fetchWelcome(service.requests, device.id, device.key);
  const peeked = await peek(welcome, device.keyPackageRef, it.own.leaf, suite);
  if (!equal(peeked.groupId, pointer.groupId)) throw new Lie("a pointer to another group");
  // Consent: a contact adds, and signs for it with the real key.
  const tbs = new Writer().bytes(pointer.groupId).u64(peeked.epoch).bytes(joinInfo.wrapperKey);
  verify(joinInfo.by, "AttributionTBS", tbs.opaque(joinInfo.name).end(), joinInfo.signature);
  if (!equal(joinInfo.by, it.contact.publicKey))
    throw new Lie("added by somebody who is no contact");
  const record = await fetchJoinRecord(service.requests, peeked.joinKey, pointer.groupId);
  const agrees =
    equal(pointer.segment, record.segment) &&
    pointer.place.rotation === record.place.rotation &&
    pointer.place.position === record.place.position &&
    (pointer.chain.every((byte) => byte === 0) || equal(pointer.chain, record.chain));
  if (!agrees) throw new Lie("pointer and join record do not agree");
  const state = await joinGroup({
    context: context(suite),
    welcome,
    keyPackage: it.own.leaf.keyPackage,
    privateKeys: it.own.leaf.privateKeys,
    ratchetTree: readTree(record.tree),
  });
  const isSame = record.place.rotation === record.journal.rotation;
  const segment: Segment = {
    id: record.segment,
    rotation: record.journal.rotation,
    step: Number(peeked.epoch - record.journal.rotation),
    stateKey: record.stateKey,
    entryKey: record.journal.entryKey,
    wrapperKey: joinInfo.wrapperKey,
    // A commit that rotates is the last entry of the segment before.
    next: isSame ? record.place.position + 1n : 0n,
    chain: isSame ? record.chain : firstChain(record.segment),
  };
  const group = new Group({
    id: pointer.groupId,
    kind: groupKinds.group,
    suite,
    leaf: it.own.leaf,
    self: it.person.credential,
    state,
    segment,
  });
  group.connectionKeys.push(it.connectionKey);
  for (const { leaf, wrapper, sealed } of record.leaves) {
    // Links of earlier segments are opened by the chain of wrapper keys, which this client leaves.
    if (wrapper === segment.rotation) group.learnLinkKey(leaf, sealed);
  }
  const adder = group
    .members()
    .find(({ person }) => person !== undefined && isSamePerson(person, it.contact));
  if (adder === undefined) throw new Lie("who added this client is no member");
  await haveCome(service, group);
  return { group, name: fromUtf8(joinInfo.name) };
}

/** A joiner's first act: `SetLeafExtras`. */
async function haveCome(service: Service, group: Group): Promise<void> {
  const recovery = await recoveryKey(group.suite, group.id, group.signer, group.recoverySeed);
  const row = await recoveryRow(group.suite, group.id, group.segment, recovery.publicKey);
  const body = writeGroupKey(new Writer(), group.id, group.segment.stateKey);
  body.bytes(recovery.encoded).opaque(pushHandle()).bytes(row);
  const signer = { leaf: group.ownLeaf, key: group.signer };
  await service.requests.act("setLeafExtras", signer, body, accepted);
}
