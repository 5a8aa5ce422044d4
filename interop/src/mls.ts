// What is said between this client and its MLS library, ts-mls: leaves, trees, GroupInfos,
// exporters, and the places where the library leaves RFC 9420.

import {
  decode as decodeMls,
  defaultExtensionTypes,
  defaultKeyPackageEqualityConfig,
  defaultLifetimeConfig,
  encode as encodeMls,
  generateKeyPackageWithKey,
  keyPackageEncoder,
  leafNodeSources,
  makeCustomExtension,
  makeKeyPackageRef,
  mlsExporter,
  mlsMessageDecoder,
  mlsMessageEncoder,
  nodeTypes,
  protocolVersions,
  wireformats,
  type Capabilities,
  type CiphersuiteImpl,
  type ClientState,
  type Credential,
  type Extension,
  type GroupInfo,
  type KeyPackage,
  type LeafNode,
  type MlsContext,
  type MlsMessage,
  type Node,
  type PrivateKeyPackage,
  type RatchetTree,
} from "ts-mls";
import { concat, equal, utf8 } from "./bytes.ts";
import { X25519_SUITE, X_WING_SUITE } from "./ciphersuites.ts";
import { CREDENTIAL_TYPE, readPseudonymous } from "./identities.ts";
import { SigningKey } from "./signing.ts";
import { decode, Malformed, Reader, Writer } from "./tls.ts";

// `external_senders` is a list (RFC 9420 §12.1.8.1). ts-mls takes it for one sender without a list
// and would not read any group here. Under another name its bytes stay as they are, and the type
// stays one that every leaf supports.
const EXTERNAL_SENDERS = 5;
Object.assign(defaultExtensionTypes, {
  external_senders: 0x10000 + EXTERNAL_SENDERS,
  external_senders_list: EXTERNAL_SENDERS,
});

/** The extension of a group's policy. */
export const POLICY_EXTENSION = 0xf0c3;
/** SelfRemove (draft-ietf-mls-extensions). */
export const SELF_REMOVE = 0x000a;
const BASIC = 0x0001;

export const capabilities: Capabilities = {
  versions: [protocolVersions.mls10],
  ciphersuites: [X25519_SUITE, X_WING_SUITE],
  extensions: [POLICY_EXTENSION],
  proposals: [SELF_REMOVE],
  credentials: [CREDENTIAL_TYPE, BASIC],
};

const WEEK_S = 7 * 24 * 60 * 60;
/** protocol.md, *Lifetimes*: no reader's clock finds the leaf bad; the service judges its end. */
const ALWAYS_S = 2n ** 40n;

export const week = () => Math.floor(Date.now() / 1000 / WEEK_S);

/** The credential in a leaf, if it is one for the leaf's own key. */
export function pseudonymousOf(credential: Credential, signatureKey: Uint8Array) {
  if (credential.credentialType !== CREDENTIAL_TYPE || !("data" in credential)) return undefined;
  try {
    const it = readPseudonymous(credential.data);
    return equal(it.publicKey, signatureKey) ? it : undefined;
  } catch {
    return undefined;
  }
}

export function context(cipherSuite: CiphersuiteImpl): MlsContext {
  return {
    cipherSuite,
    authService: {
      // Who it is follows from the identity link; here only the form is judged.
      validateCredential: async (credential, key) => pseudonymousOf(credential, key) !== undefined,
    },
    clientConfig: {
      keyRetentionConfig: {
        retainKeysForGenerations: 200,
        retainKeysForEpochs: 4,
        maximumForwardRatchetSteps: 5000,
      },
      lifetimeConfig: defaultLifetimeConfig,
      keyPackageEqualityConfig: defaultKeyPackageEqualityConfig,
      paddingConfig: { kind: "padUntilLength", padUntilLength: 256 },
    },
  };
}

/** A KeyPackage, or a leaf to be, with its private keys. */
export interface OwnLeaf {
  keyPackage: KeyPackage;
  privateKeys: PrivateKeyPackage;
  signer: SigningKey;
  linkKey: Uint8Array;
}

export async function newLeaf(
  suite: CiphersuiteImpl,
  signer: SigningKey,
  issued: { encoded: Uint8Array; linkKey: Uint8Array },
): Promise<OwnLeaf> {
  const end = BigInt((week() + 13) * WEEK_S);
  const { publicPackage, privatePackage } = await generateKeyPackageWithKey({
    credential: { credentialType: CREDENTIAL_TYPE, data: issued.encoded },
    capabilities,
    lifetime: { notBefore: 0n, notAfter: end + ALWAYS_S },
    signatureKeyPair: { signKey: signer.seed, publicKey: signer.publicKey },
    cipherSuite: suite,
    // Not the library's own choice, which is random: all leaves here look alike.
    extensions: [],
    leafNodeExtensions: [],
  });
  return {
    keyPackage: publicPackage,
    privateKeys: privatePackage,
    signer,
    linkKey: issued.linkKey,
  };
}

export function encodeKeyPackage(keyPackage: KeyPackage): Uint8Array {
  return encodeMls(keyPackageEncoder, keyPackage);
}

export function keyPackageRef(keyPackage: KeyPackage, suite: CiphersuiteImpl): Promise<Uint8Array> {
  return makeKeyPackageRef(keyPackage, suite.hash);
}

export function encodeMessage(message: MlsMessage): Uint8Array {
  return encodeMls(mlsMessageEncoder, message);
}

export function decodeMessage(bytes: Uint8Array): MlsMessage {
  const message = decodeMls(mlsMessageDecoder, bytes);
  if (message === undefined) throw new Malformed("no MLS message");
  return message;
}

/** MLS's exporter, with our labels. */
export function exporter(state: ClientState, name: string, suite: CiphersuiteImpl) {
  const { exporterSecret } = state.keySchedule;
  return mlsExporter(exporterSecret, `MIMIMI 1.0 ${name}`, new Uint8Array(), 32, suite);
}

/** The context extensions of a group: protocol.md, *Leaves and identities*. */
export function contextExtensions(externalSenderKey: Uint8Array, policy: Uint8Array | undefined) {
  const sender = new Writer().opaque(externalSenderKey).u16(BASIC).opaque(utf8("delivery service"));
  const senders = new Writer().opaque(sender.end()).end();
  return [
    {
      extensionType: defaultExtensionTypes.required_capabilities,
      extensionData: {
        extensionTypes: [POLICY_EXTENSION],
        proposalTypes: [SELF_REMOVE],
        credentialTypes: [CREDENTIAL_TYPE],
      },
    },
    {
      ...makeCustomExtension({ extensionType: 0xffff, extensionData: senders }),
      extensionType: EXTERNAL_SENDERS,
    },
    ...(policy === undefined
      ? []
      : [makeCustomExtension({ extensionType: POLICY_EXTENSION, extensionData: policy })]),
  ];
}

/** The signature keys in `external_senders`, in their order. */
export function externalSenders(extensions: readonly Extension[]): Uint8Array[] {
  const list = extensions.find((it) => it.extensionType === EXTERNAL_SENDERS)?.extensionData;
  if (!(list instanceof Uint8Array)) return [];
  return decode(list, (reader) =>
    reader.vector((inner) => {
      const key = inner.opaque();
      inner.u16();
      inner.opaque();
      return key;
    }),
  );
}

/** A tree with this one leaf, as it is encoded (RFC 9420 §12.4.3.3). */
export function treeOfOne(keyPackage: KeyPackage): Uint8Array {
  const reader = new Reader(encodeKeyPackage(keyPackage));
  reader.bytes(4);
  reader.opaque();
  // A KeyPackage ends with its extensions, of which there are none, and its signature.
  const tail = new Writer().opaque(new Uint8Array()).opaque(keyPackage.signature).end().length;
  const leaf = reader.bytes(reader.left() - tail);
  return new Writer().opaque(concat(Uint8Array.of(1, nodeTypes.leaf), leaf)).end();
}

function readLeaf(reader: Reader): LeafNode {
  const numbers = () => reader.vector((inner) => inner.u16());
  const start = {
    hpkePublicKey: reader.opaque(),
    signaturePublicKey: reader.opaque(),
    credential: readCredential(reader),
    capabilities: {
      versions: numbers().map(() => protocolVersions.mls10),
      ciphersuites: numbers(),
      extensions: numbers(),
      proposals: numbers(),
      credentials: numbers(),
    },
  };
  const source = readSource(reader);
  const extensions = reader.vector((inner) =>
    makeCustomExtension({ extensionType: inner.u16(), extensionData: inner.opaque() }),
  );
  return { ...start, ...source, extensions, signature: reader.opaque() };
}

function readCredential(reader: Reader): Credential {
  const credentialType = reader.u16();
  if (credentialType !== CREDENTIAL_TYPE) throw new Malformed("a leaf with another credential");
  return { credentialType, data: reader.opaque() };
}

function readSource(reader: Reader) {
  switch (reader.u8()) {
    case leafNodeSources.key_package: {
      const lifetime = { notBefore: reader.u64(), notAfter: reader.u64() };
      return { leafNodeSource: leafNodeSources.key_package, lifetime };
    }
    case leafNodeSources.update:
      return { leafNodeSource: leafNodeSources.update };
    case leafNodeSources.commit:
      return { leafNodeSource: leafNodeSources.commit, parentHash: reader.opaque() };
    default:
      throw new Malformed("a leaf of no known source");
  }
}

/** The tree of a join record or of an `ExternalCommitInfoResponse`: ts-mls reads none by itself. */
export function readTree(bytes: Uint8Array): RatchetTree {
  const nodes = decode(bytes, (whole) => whole.vector((reader) => reader.optional(readNode)));
  // Blank nodes at the end are left out, and stand there all the same (RFC 9420 §12.4.3.3).
  const width = 2 ** Math.ceil(Math.log2((nodes.length + 1) / 2));
  const blank = Array.from({ length: 2 * width - 1 - nodes.length }, () => undefined);
  return [...nodes, ...blank];
}

function readNode(reader: Reader): Node {
  switch (reader.u8()) {
    case nodeTypes.leaf:
      return { nodeType: nodeTypes.leaf, leaf: readLeaf(reader) };
    case nodeTypes.parent: {
      const keys = { hpkePublicKey: reader.opaque(), parentHash: reader.opaque() };
      const unmergedLeaves = reader.vector((inner) => inner.u32());
      return { nodeType: nodeTypes.parent, parent: { ...keys, unmergedLeaves } };
    }
    default:
      throw new Malformed("a node of no known type");
  }
}

/** The leaf at an index, if there is one. */
export function leafAt(tree: RatchetTree, index: number): LeafNode | undefined {
  const node = tree[2 * index];
  return node?.nodeType === nodeTypes.leaf ? node.leaf : undefined;
}

/** Index and leaf of every member. */
export function leavesOf(tree: RatchetTree): [number, LeafNode][] {
  return tree.flatMap((node, at) =>
    node?.nodeType === nodeTypes.leaf ? [[at / 2, node.leaf] satisfies [number, LeafNode]] : [],
  );
}

/**
 * The GroupInfo of a state, for others to come in from outside. ts-mls puts the bare key into
 * `external_pub`, and not the vector with the key (RFC 9420 §12.4.3.2): so it is signed here.
 */
export async function groupInfo(state: ClientState, suite: CiphersuiteImpl): Promise<GroupInfo> {
  const pair = await suite.hpke.deriveKeyPair(state.keySchedule.externalSecret);
  const key = await suite.hpke.exportPublicKey(pair.publicKey);
  const extensionData = new Writer().opaque(key).end();
  const unsigned: GroupInfo = {
    groupContext: state.groupContext,
    extensions: [{ extensionType: defaultExtensionTypes.external_pub, extensionData }],
    confirmationTag: state.confirmationTag,
    signer: state.privatePath.leafIndex,
    signature: new Uint8Array(),
  };
  // The message's version and format stand before what is signed, an empty signature behind it.
  const tbs = encodeMessage(groupInfoMessage(unsigned)).slice(4, -1);
  const content = new Writer().opaque(utf8("MLS 1.0 GroupInfoTBS")).opaque(tbs).end();
  return { ...unsigned, signature: await suite.signature.sign(state.signaturePrivateKey, content) };
}

export function groupInfoMessage(it: GroupInfo): MlsMessage {
  return { version: protocolVersions.mls10, wireformat: wireformats.mls_group_info, groupInfo: it };
}

/** `PartialGroupInfo`: what the service cannot make itself. */
export function writePartial(writer: Writer, it: GroupInfo): void {
  const extensions = new Writer().vector(it.extensions, (inner, extension) => {
    inner.u16(extension.extensionType).opaque(extension.extensionData);
  });
  writer.opaque(extensions.end()).opaque(it.signature);
}
