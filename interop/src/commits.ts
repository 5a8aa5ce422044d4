// Commits of this client (protocol.md, *Rules of groups*; journals.md, *Segments* and *Coming in*).
// A commit is sent, and takes effect when it is read in the journal.

import {
  createCommit,
  decode as decodeMls,
  defaultProposalTypes,
  keyPackageDecoder,
  protocolVersions,
  wireformats,
  type ClientState,
  type KeyPackage,
  type Proposal,
  type Welcome,
} from "ts-mls";
import { concat, equal, random, utf8 } from "./bytes.ts";
import { type Pointer } from "./content.ts";
import { writeGroupKey, type Group } from "./group.ts";
import {
  isSamePerson,
  linkKeyOf,
  openLink,
  wrapLinkKey,
  type ClientCredential,
  type Person,
} from "./identities.ts";
import { beginning, readPlace, type Segment, type Service } from "./journal.ts";
import { commitAad, leafExtras } from "./joining.ts";
import { derive } from "./kdf.ts";
import {
  context,
  encodeMessage,
  exporter,
  groupInfo,
  keyPackageRef,
  leavesOf,
  pseudonymousOf,
  writePartial,
} from "./mls.ts";
import { type Operation, type Requests } from "./requests.ts";
import { bucket, open, padTo, seal } from "./sealing.ts";
import { SigningKey } from "./signing.ts";
import { decode, Malformed, Writer } from "./tls.ts";

/** A member to be: a KeyPackage of a contact, and the link key of its leaf. */
export interface Newcomer {
  keyPackage: KeyPackage;
  linkKey: Uint8Array;
}

/** Claims a set of a contact's KeyPackages, and judges it. Costs one token. */
export async function claim(
  requests: Requests,
  it: { token: Uint8Array; connectionKey: Uint8Array; credential: ClientCredential; suite: number },
): Promise<Newcomer[]> {
  const pool = derive(it.token, "pool");
  const body = new Writer().bytes(pool).u16(it.suite).u8(1);
  // By a fresh key: the claim has nothing of the claimer.
  const sealed = await requests.act(
    "claimKeyPackages",
    { key: new SigningKey() },
    body,
    (reader) => reader.vector((inner) => inner.opaque()),
    1,
  );
  const place = { table: "key_package_sets", row: pool, part: "set" };
  return sealed.flatMap((set) => {
    const packages = decode(open(derive(it.token, "key package sets"), place, set), (reader) =>
      reader.vector((inner) => inner.opaque()),
    );
    return packages.map((encoded) => {
      const keyPackage = decodeMls(keyPackageDecoder, encoded);
      const leaf = keyPackage?.leafNode;
      const pseudonymous = leaf && pseudonymousOf(leaf.credential, leaf.signaturePublicKey);
      if (keyPackage?.cipherSuite !== it.suite || pseudonymous === undefined) {
        throw new Malformed("no KeyPackage of a client here");
      }
      const linkKey = linkKeyOf(it.connectionKey, pseudonymous);
      if (!isSamePerson(openLink(pseudonymous, linkKey), it.credential)) {
        throw new Malformed("a KeyPackage of somebody else");
      }
      return { keyPackage, linkKey };
    });
  });
}

/** The former wrapper key under the new one, for who joins later: the chain of wrapper keys. */
function sealFormer(groupId: Uint8Array, former: Segment, wrapperKey: Uint8Array): Uint8Array {
  const of = new Writer().u64(former.rotation).end();
  const place = { table: "wrapper_keys", row: concat(groupId, of), part: "former" };
  return new Writer()
    .bytes(of)
    .opaque(seal(wrapperKey, place, former.wrapperKey))
    .end();
}

interface Plan {
  operation: Operation;
  proposals: Proposal[];
  rotates: boolean;
  newcomers?: Newcomer[];
  /** New extras of the committer's own leaf. */
  renews?: { linkKey: Uint8Array; recoverySeed: Uint8Array };
  /** What newcomers are told, and by whom. */
  invitation?: { person: Person; name: string };
}

/** Where the Welcomes of those are who were added: their pointers, but for place and chain. */
export type Devices = Pointer["devices"];

async function commit(service: Service, group: Group, plan: Plan): Promise<Devices> {
  const { suite } = group;
  const made = await createCommit({
    context: context(suite),
    state: group.state,
    wireAsPublicMessage: true,
    extraProposals: plan.proposals,
    authenticatedData: commitAad(plan.rotates),
  });
  const after = made.newState;
  const next = plan.rotates ? await beginning(after, suite) : undefined;
  const wrapperKey = (next ?? group.segment).wrapperKey;
  const message = encodeMessage(made.commit);
  const body = writeGroupKey(new Writer(), group.id, group.segment.stateKey).opaque(message);
  writePartial(body, await groupInfo(after, suite));
  body.optional(next, (writer, it) => {
    writer.bytes(it.stateKey).bytes(it.entryKey).u8(1);
    writer.bytes(sealFormer(group.id, group.segment, wrapperKey)).opaque(new Uint8Array());
  });
  const newcomers = plan.newcomers ?? [];
  body.vector(placed(after, newcomers), (writer, [index, linkKey]) => {
    writer.u32(index).opaque(wrapLinkKey(wrapperKey, linkKey));
  });
  const { renews, invitation } = plan;
  const extras =
    renews &&
    (await leafExtras({ ...renews, suite, groupId: group.id, signer: group.signer, wrapperKey }));
  body.optional(extras, (writer, it) => writer.bytes(it));
  const joiners =
    invitation &&
    made.welcome &&
    (await welcomes(group, after, made.welcome.welcome, newcomers, wrapperKey, invitation));
  body.optional(joiners, (writer, it) => writer.bytes(it.upload));
  group.expect(message, after, renews?.recoverySeed);
  await service.requests.act(
    plan.operation,
    { leaf: group.ownLeaf, key: group.signer },
    body,
    (reader) => {
      reader.u64();
      readPlace(reader);
      reader.u64();
    },
  );
  return joiners?.devices ?? [];
}

/** Newcomers' link keys with their leaves' indices, in the order of these. */
function placed(state: ClientState, newcomers: readonly Newcomer[]): [number, Uint8Array][] {
  return leavesOf(state.ratchetTree).flatMap(([index, leaf]) => {
    const key = leaf.signaturePublicKey;
    const found = newcomers.find((it) => equal(it.keyPackage.leafNode.signaturePublicKey, key));
    return found === undefined ? [] : [[index, found.linkKey] satisfies [number, Uint8Array]];
  });
}

/** `JoinersUpload`: for each newcomer one Welcome with its own secrets only, all of one size. */
async function welcomes(
  group: Group,
  state: ClientState,
  welcome: Welcome,
  newcomers: readonly Newcomer[],
  wrapperKey: Uint8Array,
  { person, name }: { person: Person; name: string },
) {
  const { suite } = group;
  const { epoch } = state.groupContext;
  const told = utf8(name);
  const tbs = new Writer().bytes(group.id).u64(epoch).bytes(wrapperKey).opaque(told).end();
  const noCodesEnded = 0n;
  const info = new Writer().bytes(wrapperKey).opaque(told).u64(noCodesEnded);
  info.opaque(person.identity.publicKey).opaque(person.identity.sign("AttributionTBS", tbs));
  const blobs = await Promise.all(
    newcomers.map(async ({ keyPackage }) => {
      const ref = await keyPackageRef(keyPackage, suite);
      const secrets = welcome.secrets.filter((it) => equal(it.newMember, ref));
      const alone = encodeMessage({
        version: protocolVersions.mls10,
        wireformat: wireformats.mls_welcome,
        welcome: { ...welcome, secrets },
      });
      return { ref, content: new Writer().opaque(alone).opaque(info.end()).end() };
    }),
  );
  const size = bucket(Math.max(...blobs.map(({ content }) => content.length)) + 4);
  const secret = await exporter(state, "welcome", suite);
  const devices = blobs.map(({ ref, content }) => {
    const own = derive(secret, "welcome of", ref);
    const [id, key] = [derive(own, "welcome id"), derive(own, "welcome key")];
    const place = { table: "welcomes", row: id, part: "welcome" };
    return { keyPackageRef: ref, id, key, sealed: seal(key, place, padTo(size, content)) };
  });
  const upload = new Writer().bytes(await exporter(state, "join record", suite));
  upload.vector(devices, (writer, it) => writer.bytes(it.id).opaque(it.sealed));
  return { upload: upload.end(), devices };
}

/** Renews this client's leaf: new keys for the whole path, a new recovery key and push handle. */
export async function updateClient(
  service: Service,
  group: Group,
  rotates: boolean,
): Promise<void> {
  const renews = { linkKey: group.ownLinkKey, recoverySeed: random(32) };
  await commit(service, group, { operation: "updateClient", proposals: [], rotates, renews });
}

/** Adds a contact. The devices that come in are told of it by pointers. */
export async function addUser(
  service: Service,
  group: Group,
  newcomers: Newcomer[],
  invitation: { person: Person; name: string },
): Promise<Devices> {
  const proposals = newcomers.map(({ keyPackage }): Proposal => ({
    proposalType: defaultProposalTypes.add,
    add: { keyPackage },
  }));
  return commit(service, group, {
    operation: "addUsers",
    proposals,
    rotates: false,
    newcomers,
    invitation,
  });
}
