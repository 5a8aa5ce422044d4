// A chat of two. The service knows groups only; a group whose name says who is in it, and in which
// nobody else is, is shown as a chat with that contact.

import type { Contact, Member } from "../sdk.ts";

/** What a chat of two is called by both: the same whoever begins it. */
export function directName(one: string, other: string): string {
  return [one, other].sort().join(" & ");
}

/** The contact that a group is the chat with. Its members decide, its name alone never does. */
export function partner(
  name: string,
  ownHandle: string,
  members: readonly Member[],
  contacts: readonly Contact[],
): Contact | null {
  const users = new Set(members.map((member) => member.user));
  const own = members.find((member) => member.own)?.user;
  // Who cannot show who it is has no id.
  if (users.size !== 2 || users.has(null) || own === undefined) return null;
  const contact = contacts.find((it) => it.user !== own && users.has(it.user));
  if (contact === undefined) return null;
  const expected = directName(ownHandle, contact.handle);
  return name === expected || /^ \(?\d+\)?$/.test(name.slice(expected.length)) && name.startsWith(expected)
    ? contact
    : null;
}
