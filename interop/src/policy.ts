// The policy of a group (protocol.md, *Policy*): roles as sets of capabilities.

import { utf8 } from "./bytes.ts";
import { VERSION } from "./requests.ts";
import { Writer } from "./tls.ts";

const capabilities = {
  add: 1,
  remove: 2,
  setRole: 4,
  send: 8,
  delete: 16,
  setProfile: 32,
} as const;
const ACTIVE = 1;
const [ADMIN, MEMBER] = [0, 1];

/** A group whose creator may do everything; others may add and send. */
export function policyOfCreator(userPseudonym: Uint8Array): Uint8Array {
  const all = Object.values(capabilities).reduce((sum, one) => sum | one, 0);
  const roles = [
    { number: ADMIN, name: "admin", may: all },
    { number: MEMBER, name: "member", may: capabilities.add | capabilities.send },
  ];
  const policy = new Writer().u16(VERSION).vector(roles, (writer, role) => {
    writer.u8(role.number).opaque(utf8(role.name)).u16(role.may);
  });
  const nobody = new Uint8Array();
  policy.u8(MEMBER).vector([userPseudonym], (writer, creator) => {
    writer.opaque(creator).u8(ADMIN).u8(ACTIVE).opaque(nobody);
  });
  const noProfile = new Uint8Array();
  return policy.opaque(noProfile).end();
}
