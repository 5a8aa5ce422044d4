// Connection groups: made by who asks, entered by who was asked (protocol.md, *Connections*;
// journals.md, *Coming in*).

import { createGroup, joinGroupExternal, protocolVersions, wireformats } from "ts-mls";
import { equal, fromBase64url, random } from "./bytes.ts";
import { ciphersuite, DEFAULT_SUITE } from "./ciphersuites.ts";
import { type Directory } from "./directory.ts";
import { Group, groupKinds, writeGroupKey } from "./group.ts";
import {
  issue,
  isSamePerson,
  pseudonym,
  type ClientCredential,
  type Person,
} from "./identities.ts";
import {
  beginning,
  LAST,
  Lie,
  readJournal,
  readJournalKeys,
  readPlace,
  type Segment,
  type Service,
} from "./journal.ts";
import { commitAad, JoinCode, leafExtras, openRow, recoveryRow, rowId } from "./joining.ts";
import { derive } from "./kdf.ts";
import {
  contextExtensions,
  context,
  decodeMessage,
  encodeMessage,
  groupInfo,
  groupInfoMessage,
  newLeaf,
  readTree,
  treeOfOne,
  week,
  writePartial,
} from "./mls.ts";
import { accepted, VERSION } from "./requests.ts";
import { policyOfCreator } from "./policy.ts";
import { SigningKey } from "./signing.ts";
import { Malformed, Writer, type Reader } from "./tls.ts";

const MESSAGE_DAYS = 30;
const CODE_WEEKS = 50;

function readCommitAccepted(reader: Reader) {
  return { epoch: reader.u64(), place: readPlace(reader), acceptedMs: reader.u64() };
}

/**
 * Makes a group with this user in it: a connection group, or one with a policy. Its id costs one
 * token.
 */
export async function makeGroup(
  service: Service,
  directory: Directory,
  person: Person,
  kind: number,
): Promise<Group> {
  const suite = await ciphersuite(DEFAULT_SUITE);
  const signer = new SigningKey();
  const { domain } = directory;
  const userPseudonym = pseudonym(domain);
  const leaf = await newLeaf(
    suite,
    signer,
    issue(domain, person, signer.publicKey, userPseudonym, false),
  );
  const groupId = random(16);
  const reserve = new Writer().bytes(groupId);
  const reserved = await service.requests.act(
    "reserveGroupId",
    { key: signer },
    reserve,
    (reader) => reader.bytes(16),
    1,
  );
  if (!equal(reserved, groupId)) throw new Lie("another group id was reserved");
  const state = await createGroup({
    context: context(suite),
    groupId,
    keyPackage: leaf.keyPackage,
    privateKeyPackage: leaf.privateKeys,
    extensions: contextExtensions(
      fromBase64url(directory.external_sender_key),
      // Two users need no roles.
      kind === groupKinds.group ? policyOfCreator(userPseudonym) : undefined,
    ),
  });
  const segment = await beginning(state, suite);
  const group = new Group({
    id: groupId,
    kind,
    suite,
    leaf,
    self: person.credential,
    state,
    segment,
  });
  const { wrapperKey } = segment;
  const { linkKey } = leaf;
  const body = new Writer().bytes(groupId).u8(kind).u16(MESSAGE_DAYS);
  // `NextSegment`: no former wrapper key, and no codes yet.
  body.bytes(segment.stateKey).bytes(segment.entryKey).u8(0).opaque(new Uint8Array());
  body.opaque(treeOfOne(leaf.keyPackage));
  body.opaque(encodeMessage(groupInfoMessage(await groupInfo(state, suite))));
  const { recoverySeed } = group;
  body.bytes(await leafExtras({ suite, groupId, signer, linkKey, wrapperKey, recoverySeed }));
  await service.requests.act("createGroup", { key: signer }, body, readCommitAccepted);
  return group;
}

/** Makes a code of a group that leads whoever has it in. */
export async function makeCode(service: Service, group: Group): Promise<JoinCode> {
  const code = await JoinCode.of(group.suite, random(32));
  const record = code.record({
    groupId: group.id,
    epoch: group.epoch,
    maker: group.ownLeaf,
    signer: group.signer,
    expiryWeek: week() + CODE_WEEKS,
  });
  const row = await recoveryRow(group.suite, group.id, group.segment, code.key.publicKey);
  const make = 1;
  const body = writeGroupKey(new Writer(), group.id, group.segment.stateKey);
  body.u8(make).bytes(record).bytes(row);
  const signer = { leaf: group.ownLeaf, key: group.signer };
  await service.requests.act("setJoinCode", signer, body, accepted);
  return code;
}

/** Where the code leads now: the row's segment, moved on to the journal's end. */
async function wayIn(service: Service, groupId: Uint8Array, code: JoinCode): Promise<Segment> {
  const body = new Writer().u16(VERSION).bytes(rowId(groupId, code.key.publicKey));
  const row = await service.requests.read("recoveryRow", body, (reader) => ({
    rotation: reader.u64(),
    sealed: reader.opaque(),
  }));
  const segment = await openRow(code.key, groupId, row);
  const end = await readJournal(service, segment.id, LAST, 0n, 0);
  if (end.closed) throw new Lie("the row leads into a segment that is closed");
  let stateKey = segment.stateKey;
  for (let step = segment.step; step < end.step; step++) stateKey = derive(stateKey, "next");
  return { ...segment, step: end.step, stateKey };
}

/** `ExternalCommitInfoResponse`. */
function readInfo(reader: Reader) {
  const epoch = reader.u64();
  const [info, tree] = [decodeMessage(reader.opaque()), reader.opaque()];
  if (info.wireformat !== wireformats.mls_group_info) throw new Malformed("no GroupInfo");
  const leaves = reader.vector((inner) => ({
    leaf: inner.u32(),
    wrapper: inner.u64(),
    sealed: inner.opaque(),
  }));
  reader.vector((inner) => ({ under: inner.u64(), of: inner.u64(), sealed: inner.opaque() }));
  reader.vector((inner) => {
    const code = { hash: inner.bytes(32), publicKey: inner.opaque(), expiry: inner.u16() };
    return { ...code, epoch: inner.u64(), maker: inner.u32(), signature: inner.opaque() };
  });
  return { epoch, groupInfo: info.groupInfo, tree, leaves };
}

const BY_CODE = 3;

/**
 * Comes into the connection group of somebody who has asked, with an answer for them. Nothing is
 * joined but a group that the requester's leaf has signed, as its identity link shows.
 */
export async function enterConnectionGroup(it: {
  service: Service;
  directory: Directory;
  person: Person;
  groupId: Uint8Array;
  requester: ClientCredential;
  requesterConnectionKey: Uint8Array;
  code: Uint8Array;
  response: Uint8Array;
}): Promise<Group> {
  const { service, groupId, person } = it;
  const suite = await ciphersuite(DEFAULT_SUITE);
  const code = await JoinCode.of(suite, it.code);
  const segment = await wayIn(service, groupId, code);
  const signer = new SigningKey();
  const ask = writeGroupKey(new Writer(), groupId, segment.stateKey);
  ask.u8(BY_CODE).bytes(code.permit).u8(0);
  const shown = await service.requests.act("externalCommitInfo", { key: signer }, ask, readInfo);
  const { domain } = it.directory;
  const issued = issue(domain, person, signer.publicKey, pseudonym(domain), true);
  const leaf = await newLeaf(suite, signer, issued);
  const { publicMessage, newState: state } = await joinGroupExternal({
    context: context(suite),
    groupInfo: shown.groupInfo,
    keyPackage: leaf.keyPackage,
    privateKeys: leaf.privateKeys,
    resync: false,
    tree: readTree(shown.tree),
    authenticatedData: commitAad(false, it.response),
  });
  const group = new Group({
    id: groupId,
    kind: groupKinds.connection,
    suite,
    leaf,
    self: person.credential,
    state,
    segment,
  });
  group.connectionKeys.push(it.requesterConnectionKey);
  for (const { leaf: index, sealed } of shown.leaves) group.learnLinkKey(index, sealed);
  const others = group.members().filter(({ leaf: index }) => index !== group.ownLeaf);
  const all = others.every(
    ({ person: who }) => who !== undefined && isSamePerson(who, it.requester),
  );
  const signed = others.some(({ leaf: index }) => index === shown.groupInfo.signer);
  if (!all || !signed || !equal(shown.groupInfo.groupContext.groupId, groupId)) {
    throw new Lie("the group is not that of the requester");
  }
  const commit = encodeMessage({
    version: protocolVersions.mls10,
    wireformat: wireformats.mls_public_message,
    publicMessage,
  });
  const body = writeGroupKey(new Writer(), groupId, segment.stateKey).opaque(commit);
  writePartial(body, await groupInfo(state, suite));
  const extras = {
    suite,
    groupId,
    signer,
    linkKey: issued.linkKey,
    wrapperKey: segment.wrapperKey,
  };
  body.u8(0).bytes(await leafExtras({ ...extras, recoverySeed: group.recoverySeed }));
  body.u8(BY_CODE).bytes(code.permit);
  const joined = await service.requests.act(
    "externalJoin",
    { key: signer },
    body,
    (reader) => ({
      accepted: readCommitAccepted(reader),
      journal: readJournalKeys(reader),
    }),
    1,
  );
  group.segment = {
    ...segment,
    step: segment.step + 1,
    stateKey: derive(segment.stateKey, "next"),
    entryKey: joined.journal.entryKey,
    next: joined.accepted.place.position + 1n,
  };
  group.mustHear = true;
  return group;
}
