// KeyPackages for contacts (protocol.md, *KeyPackages*): one pool for each contact, under a token
// that only the contact has.

import { equal, random } from "./bytes.ts";
import { ciphersuite } from "./ciphersuites.ts";
import { issue, pseudonym, type Person } from "./identities.ts";
import { derive } from "./kdf.ts";
import { encodeKeyPackage, keyPackageRef, newLeaf, week, type OwnLeaf } from "./mls.ts";
import { accepted, type Requests } from "./requests.ts";
import { seal } from "./sealing.ts";
import { SigningKey } from "./signing.ts";
import { Writer } from "./tls.ts";

/** Weeks from now in which a set is handed out: its leaf is good for one more. */
const WEEKS = 11;

/** A pool of one contact, and the private keys of what is in it. */
export class Pool {
  readonly token = random(32);
  readonly #owner = new SigningKey();
  readonly #published: { ref: Uint8Array; leaf: OwnLeaf; suite: number }[] = [];

  get id(): Uint8Array {
    return derive(this.token, "pool");
  }

  /** Publishes so many sets of each ciphersuite, for one token: one KeyPackage in each set. */
  async publish(
    requests: Requests,
    domain: string,
    person: Person,
    wanted: readonly { suite: number; sets: number }[],
  ): Promise<void> {
    const place = { table: "key_package_sets", row: this.id, part: "set" };
    const uploads: Uint8Array[] = [];
    for (const { suite: number, sets } of wanted) {
      const suite = await ciphersuite(number);
      for (let made = 0; made < sets; made++) {
        const signer = new SigningKey();
        // A user pseudonym is good for one group.
        const issued = issue(domain, person, signer.publicKey, pseudonym(domain), false);
        const leaf = await newLeaf(suite, signer, issued);
        const ref = await keyPackageRef(leaf.keyPackage, suite);
        this.#published.push({ ref, leaf, suite: number });
        const set = new Writer().vector([encodeKeyPackage(leaf.keyPackage)], (writer, encoded) => {
          writer.opaque(encoded);
        });
        const sealed = seal(derive(this.token, "key package sets"), place, set.end());
        uploads.push(
          new Writer()
            .u16(number)
            .u16(week() + WEEKS)
            .opaque(sealed)
            .end(),
        );
      }
    }
    const body = new Writer().bytes(this.id).vector(uploads, (writer, set) => {
      writer.bytes(set);
    });
    await requests.act("publishKeyPackages", { key: this.#owner }, body, accepted, 1);
  }

  /** How many sets are left. */
  async count(requests: Requests): Promise<number> {
    const body = new Writer().bytes(this.id);
    const counts = await requests.act("countKeyPackages", { key: this.#owner }, body, (reader) =>
      reader.vector((inner) => ({ suite: inner.u16(), expiry: inner.u16(), sets: inner.u32() })),
    );
    return counts.reduce((sum, { sets }) => sum + sets, 0);
  }

  /** The private keys of a KeyPackage of this pool. They open one Welcome. */
  find(ref: Uint8Array): { leaf: OwnLeaf; suite: number } | undefined {
    return this.#published.find((it) => equal(it.ref, ref));
  }
}
