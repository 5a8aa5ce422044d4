// Pending proposals (protocol.md, *Rules of groups*): somebody leaves, or the service proposes a
// removal. They are read here, since ts-mls reads neither: to it a SelfRemove
// (draft-ietf-mls-extensions) has a content, and `external_senders` one sender. Both remove a leaf.

import {
  contentTypes,
  defaultProposalTypes,
  protocolVersions,
  senderTypes,
  wireformats,
  type CiphersuiteImpl,
  type ClientState,
} from "ts-mls";
import { concat, equal, utf8 } from "./bytes.ts";
import { Lie } from "./journal.ts";
import { encodeMessage, externalSenders, groupInfoMessage, leafAt, SELF_REMOVE } from "./mls.ts";
import { decode, Malformed, Writer, type Reader } from "./tls.ts";

/** Who proposes, and which leaf goes. */
export interface Removal {
  by: { member: number } | { externalSender: number };
  removed: number;
}

interface Read extends Removal {
  epoch: bigint;
  groupId: Uint8Array;
  content: Uint8Array;
  signature: Uint8Array;
  membershipTag: Uint8Array | undefined;
}

/** A PublicMessage with a proposal that removes (RFC 9420 §6.2). */
function readProposal(message: Uint8Array): Read {
  return decode(message, (reader) => {
    const isPublic =
      reader.u16() === protocolVersions.mls10 && reader.u16() === wireformats.mls_public_message;
    const head = { groupId: reader.opaque(), epoch: reader.u64() };
    const by = readSender(reader);
    // Of the service, it says why.
    reader.opaque();
    if (!isPublic || reader.u8() !== contentTypes.proposal) throw new Malformed("no proposal");
    const removed = readRemoval(reader, by);
    const content = message.slice(4, reader.at());
    const signature = reader.opaque();
    const membershipTag = "member" in by ? reader.opaque() : undefined;
    return { ...head, by, removed, content, signature, membershipTag };
  });
}

function readSender(reader: Reader): Removal["by"] {
  switch (reader.u8()) {
    case senderTypes.member:
      return { member: reader.u32() };
    case senderTypes.external:
      return { externalSender: reader.u32() };
    default:
      throw new Malformed("a proposal of a stranger");
  }
}

function readRemoval(reader: Reader, by: Removal["by"]): number {
  const type = reader.u16();
  if (type === SELF_REMOVE && "member" in by) return by.member;
  if (type !== defaultProposalTypes.remove) throw new Malformed("a proposal of another kind");
  const removed = reader.u32();
  if ("member" in by && by.member !== removed) throw new Lie("a proposal to remove somebody else");
  return removed;
}

/** The GroupContext as it is encoded: it stands in a GroupInfo, before seven bytes for nothing. */
function encodedContext(state: ClientState): Uint8Array {
  const nothing = new Uint8Array();
  const { groupContext } = state;
  const rest = { extensions: [], confirmationTag: nothing, signer: 0, signature: nothing };
  return encodeMessage(groupInfoMessage({ groupContext, ...rest })).slice(4, -7);
}

/** Verifies a proposal and keeps it until a commit covers it (RFC 9420 §6.1, §6.2 and §5.2). */
export async function takeProposal(
  state: ClientState,
  suite: CiphersuiteImpl,
  message: Uint8Array,
): Promise<{ state: ClientState; removal: Removal }> {
  const it = readProposal(message);
  const { groupId, epoch, extensions } = state.groupContext;
  if (!equal(it.groupId, groupId) || it.epoch !== epoch) throw new Lie("of another epoch");
  const { by, removed } = it;
  const isMember = "member" in by;
  const key = isMember
    ? leafAt(state.ratchetTree, by.member)?.signaturePublicKey
    : externalSenders(extensions)[by.externalSender];
  if (key === undefined || leafAt(state.ratchetTree, removed) === undefined) {
    throw new Lie("a proposal of nobody, or about nobody");
  }
  const framed = new Writer().u16(protocolVersions.mls10).u16(wireformats.mls_public_message);
  framed.bytes(it.content);
  if (isMember) framed.bytes(encodedContext(state));
  const signed = new Writer().opaque(utf8("MLS 1.0 FramedContentTBS")).opaque(framed.end()).end();
  if (!(await suite.signature.verify(key, signed, it.signature))) {
    throw new Lie("a proposal with a wrong signature");
  }
  const auth = new Writer().opaque(it.signature).end();
  const tbm = concat(framed.end(), auth);
  const { membershipKey } = state.keySchedule;
  if (it.membershipTag && !(await suite.hash.verifyMac(membershipKey, it.membershipTag, tbm))) {
    throw new Lie("a proposal with a wrong membership tag");
  }
  const value = new Writer().u16(wireformats.mls_public_message).bytes(it.content).bytes(auth);
  const input = new Writer().opaque(utf8("MLS 1.0 Proposal Reference")).opaque(value.end()).end();
  const ref = Buffer.from(await suite.hash.digest(input)).toString("base64");
  const proposal = { proposalType: defaultProposalTypes.remove, remove: { removed } };
  const senderLeafIndex = isMember ? by.member : undefined;
  const unappliedProposals = { ...state.unappliedProposals, [ref]: { proposal, senderLeafIndex } };
  return { state: { ...state, unappliedProposals }, removal: { by, removed } };
}
