// What an event means to the user: a line in a chat, a notice, or only a reason to draw again.

import type { Event } from "../sdk.ts";
import { wordsForCode } from "../text/errors.ts";

/** `line`: stands in its chat. `notice`: stays until the user has put it away. */
export type News = { kind: "line" | "notice"; text: string };

const line = (text: string): News => ({ kind: "line", text });
const notice = (text: string): News => ({ kind: "notice", text });

const SPLIT = "The service has shown different histories of this group. Compare with its members.";

/** Names are others' choice: whoever shows the text isolates its direction. */
export function newsOf(event: Event): News | null {
  switch (event.type) {
    case "joined":
      return line(`${event.by} added you`);
    case "memberAdded":
      return line(`${event.by} added ${event.name}`);
    case "memberRemoved":
      return line(`${event.by} removed ${event.name}`);
    case "memberRejoined":
      return line(`${event.name} came back`);
    case "clientAdded":
      return line(`${event.name} reads along on one more device`);
    case "policyChanged":
      return line(`${event.by} changed the rules`);
    case "groupProfileChanged":
      return line(`${event.by} changed what the group says of itself`);
    case "changeRefused":
      return line(`${event.sender} tried to change somebody else's message`);
    case "messagesDropped":
      return line(`${event.count} messages had expired before this device read them`);
    case "messageUnreadable":
      return line(`${event.count} messages could not be read`);
    case "rejoined":
      return line("This device came back. What was said meanwhile is lost");
    case "notPostQuantum":
      return line("This group is not safe from later quantum computers");
    case "leftBehind":
      return line(`${event.name} could not come along`);
    case "removedByService":
      return line(`The service removed ${event.name}`);
    case "messageFailed":
      return notice(`Not sent: ${wordsForCode(event.reason)}`);
    case "messageWithheld":
      return notice(`The service took a message of yours in “${event.group}” and shows it to nobody.`);
    case "removed":
      return notice(`You were removed from “${event.group}”.`);
    case "removalRefused":
      return notice(`The service wanted somebody removed from “${event.group}” for a false reason.`);
    case "unverifiedMember":
      return notice(`Somebody in “${event.group}” cannot show who it is. Nothing is sent there.`);
    case "bannedCameIn":
      return notice(`${event.name}, who is banned, came into “${event.group}” again.`);
    case "groupLost":
      return notice(event.why === "split" ? SPLIT : `This device does not follow “${event.group}” any more.`);
    case "commitRefused":
      return notice(`Somebody broke the rules of “${event.group}”.`);
    case "returnWanted":
      return notice(`${event.name} asks to be added to “${event.group}” again.`);
    case "replaced":
      return notice(`Another device of yours took this one's place in “${event.group}”.`);
    case "reInitialized":
      return notice(`The group goes on anew; the old one is “${event.group}”.`);
    case "connected":
      return notice(`You and ${event.name} are connected. Compare the safety number.`);
    case "disconnected":
      return notice(`${event.name} ended the connection.`);
    case "connectionLost":
      return notice(`The connection with ${event.name} is broken. Send them a request again.`);
    case "devicesLost":
      return notice("This device lost sight of your other devices.");
    case "deviceLinked":
      return notice(`“${event.name}” was linked to your account. Was that you?`);
    case "deviceRemoved":
      return notice(`“${event.name}” was removed from your devices.`);
    case "deviceUnlinked":
      return notice("Another device of yours removed this one. It receives nothing any more.");
    case "keyPackagesTaken":
      return notice("A contact may be trying to keep others from adding you to groups.");
    case "invitationRefused":
      return notice(`Somebody who is no contact tried to add you to “${event.group}”.`);
    case "invitationWaits":
      return notice(`${event.by} added you to “${event.group}”. The service cannot show it yet.`);
    case "contactConflict":
      return notice(`Two of your contacts are called “${event.name}”. Rename one of them.`);
    case "homeCopied":
      return notice("This browser's data was copied or put back. Its keys are being renewed.");
    case "serviceStoreChanged":
      return notice("The service lost some of its data and was restored. Some messages may be gone.");
    default:
      return null;
  }
}

/** The id or, where the event has none, the name of the group that it is about. */
export function groupOf(event: Event): { id: string | null; name: string | null } {
  return {
    id: "groupId" in event ? event.groupId : null,
    name: "group" in event && event.group !== "" ? event.group : null,
  };
}
