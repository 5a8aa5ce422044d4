import { useEffect, useState } from "preact/hooks";
import * as kept from "../model/kept.ts";
import type { Chat, Messenger } from "../model/messenger.ts";
import type { Contact, Member, Receipts } from "../sdk.ts";
import { Action, Avatar, Dialog, Field, Icon, Secret } from "./parts.tsx";
import { groupPicture } from "./thumbnails.ts";

type Props = { model: Messenger; onClose: () => void };

/** A code that lets people in is good for so long. */
const CODE_DAYS = 7;

function save(name: string, content: BlobPart): void {
  const url = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function Pick({ contacts, chosen, onChange }: { contacts: Contact[]; chosen: Set<string>; onChange: (next: Set<string>) => void }) {
  return (
    <fieldset class="pick">
      <legend>Who is to be in it?</legend>
      {contacts.length === 0 && <p class="hint">You have no other contacts yet.</p>}
      {contacts.map((contact) => (
        <label key={contact.user} class="pick-row">
          <input type="checkbox" checked={chosen.has(contact.name)} onChange={(it) => {
            const next = new Set(chosen);
            if (it.currentTarget.checked) next.add(contact.name);
            else next.delete(contact.name);
            onChange(next);
          }} />
          <Avatar id={contact.user} name={contact.name} />
          <bdi>{contact.name}</bdi>
        </label>
      ))}
    </fieldset>
  );
}

export function NewDialog({ model, onClose }: Props) {
  const [handle, setHandle] = useState("");
  const [greeting, setGreeting] = useState("");
  const [asked, setAsked] = useState<string | null>(null);
  const [name, setName] = useState("");
  const [chosen, setChosen] = useState(new Set<string>());
  const [code, setCode] = useState("");
  const ask = async (): Promise<void> => {
    const wanted = handle.trim().toLowerCase();
    if (await model.attempt(() => model.act((it) => it.connect(wanted, greeting.trim() || null)))) {
      setAsked(wanted);
      setHandle("");
      setGreeting("");
    }
  };
  return (
    <Dialog title="New chat" onClose={onClose}>
      <section>
        <h3>Somebody new</h3>
        <Field label="Their name" value={handle} autocapitalize="none" maxLength={64} onInput={(it) => setHandle(it.currentTarget.value)} />
        <Field label="Greeting (optional)" value={greeting} maxLength={128} onInput={(it) => setGreeting(it.currentTarget.value)} />
        <Action class="primary" disabled={handle.trim() === ""} onAct={ask}>Send a request</Action>
        {asked !== null && <p class="good" role="status">Asked <bdi>{asked}</bdi>. You can write as soon as they accept.</p>}
      </section>
      <section>
        <h3>A group</h3>
        <Field label="Name of the group" value={name} maxLength={80} onInput={(it) => setName(it.currentTarget.value)} />
        <Pick contacts={model.contacts.value} chosen={chosen} onChange={setChosen} />
        <Action class="primary" disabled={name.trim() === ""} onAct={async () => { if (await model.attempt(() => model.newGroup(name.trim(), [...chosen]))) onClose(); }}>Create the group</Action>
      </section>
      <section>
        <h3>Join by a code</h3>
        <Field label="Join code" value={code} onInput={(it) => setCode(it.currentTarget.value)} />
        <Action class="quiet" disabled={code.trim() === ""} onAct={async () => { if (await model.attempt(() => model.act((it) => it.joinByCode(code.trim())))) onClose(); }}>Join</Action>
      </section>
    </Dialog>
  );
}

export function ContactDialog({ model, onClose, contact }: Props & { contact: Contact }) {
  const [name, setName] = useState(contact.name);
  const [sure, setSure] = useState(false);
  useEffect(() => void model.attempt(() => model.safetyNumber(contact)), [contact.user]);
  const number = model.numbers.value.get(contact.user);
  const verified = model.verified.value.has(contact.user);
  const changed = !verified && number !== undefined && kept.verifiedNumber(contact.user) !== null;
  return (
    <Dialog title={contact.name} onClose={onClose}>
      <div class="portrait"><Avatar id={contact.user} name={contact.name} large /><p class="hint">Registered as <bdi>{contact.handle}</bdi></p></div>
      <section>
        <h3>Safety number</h3>
        {number === undefined ? <p class="hint">One moment…</p> : (
          <ol class="safety" aria-label="Safety number" dir="ltr">{number.split(" ").map((part, at) => <li key={at}>{part}</li>)}</ol>
        )}
        {changed && <p class="wrong" role="alert">This number is not the one that you compared. Compare it again before you go on.</p>}
        <p class="hint">Compare it with <bdi>{contact.name}</bdi> when you meet, or in a call. If both of you see the same number, nobody reads along between you.</p>
        {number !== undefined && (verified
          ? <p class="good"><Icon name="shield" /> You have compared it. <button type="button" class="link" onClick={() => model.setVerified(contact, false)}>Take back</button></p>
          : <button type="button" class="button primary" onClick={() => model.setVerified(contact, true)}>The numbers are the same</button>)}
      </section>
      <section>
        <h3>Name</h3>
        <Field label="What you call them (on your devices only)" value={name} maxLength={64} onInput={(it) => setName(it.currentTarget.value)} />
        <Action class="quiet" onAct={() => model.attempt(() => model.act((it) => it.renameContact(contact.handle, name.trim() === "" || name.trim() === contact.handle ? null : name.trim())))}>Rename</Action>
      </section>
      <section class="row">
        {contact.reportable && <Action class="quiet danger" onAct={() => model.attempt(() => model.act((it) => it.report(contact.handle, "abuse")))}>Report</Action>}
        {!sure ? <button type="button" class="button quiet danger" onClick={() => setSure(true)}>End the connection…</button>
          : <Action class="danger-solid" onAct={async () => { if (await model.attempt(() => model.act((it) => it.disconnect(contact.handle)))) onClose(); }}>Really end it</Action>}
      </section>
    </Dialog>
  );
}

const LIVES: readonly [number, string][] = [[0, "Never"], [3_600, "An hour after reading"], [86_400, "A day after reading"], [604_800, "A week after reading"]];
const RECEIPTS: readonly [Receipts, string][] = [["off", "Nothing"], ["delivery", "That messages arrived"], ["read", "That I have read them"]];

export function GroupDialog({ model, onClose, chat }: Props & { chat: Chat }) {
  const { group } = chat;
  const [name, setName] = useState(group.profile.name || group.name);
  const [description, setDescription] = useState(group.profile.description ?? "");
  const [picture, setPicture] = useState(group.profile.picture ?? null);
  const [chosen, setChosen] = useState(new Set<string>());
  const [code, setCode] = useState<string | null>(null);
  const [life, setLife] = useState(kept.lifeOf(chat.id));
  const [sure, setSure] = useState(false);
  const own = chat.members.find((it) => it.own);
  const admin = own?.role === "admin" || own?.role === "";
  const here = new Set(chat.members.map((it) => it.user));
  const people = [...new Map(chat.members.map((it) => [it.user ?? `leaf ${it.leafIndex}`, it])).values()];
  const act = (what: Parameters<Messenger["act"]>[0]): Promise<boolean> => model.attempt(() => model.act(what));
  return (
    <Dialog title={chat.title} onClose={onClose}>
      {chat.contact === null && (
        <div class="portrait">
          <Avatar id={chat.id} name={chat.title} picture={picture?.image} large />
          {group.profile.description && <p dir="auto">{group.profile.description}</p>}
          <p class="hint">{group.postQuantum ? "Safe from later quantum computers" : "Not safe from later quantum computers"}</p>
        </div>
      )}
      {group.active && (
        <section>
          <h3>This chat</h3>
          <label class="field"><span>Your messages disappear</span>
            <select value={life} onChange={(it) => { const next = Number(it.currentTarget.value); setLife(next); kept.keepLife(chat.id, next); }}>
              {LIVES.map(([seconds, words]) => <option key={seconds} value={seconds}>{words}</option>)}
            </select></label>
          <label class="field"><span>What the others are told</span>
            <select value={model.receipts.value} onChange={(it) => void model.attempt(() => model.setReceipts(chat.id, it.currentTarget.value as Receipts))}>
              {RECEIPTS.map(([value, words]) => <option key={value} value={value}>{words}</option>)}
            </select>
            <small>Each receipt is a message. The service sees when a member of this chat reads.</small></label>
        </section>
      )}
      {chat.contact === null && (
        <section>
          <h3>Members</h3>
          <ul class="members">{people.map((member) => <MemberRow key={member.leafIndex} member={member} admin={admin && group.active} act={act} chat={chat} />)}</ul>
        </section>
      )}
      {group.active && (
        <section>
          <h3>Add</h3>
          <Pick contacts={model.contacts.value.filter((it) => !here.has(it.user))} chosen={chosen} onChange={setChosen} />
          <div class="row">
            <Action class="primary" disabled={chosen.size === 0} onAct={async () => { if (await act((it) => it.addToGroup(chat.id, [...chosen]))) setChosen(new Set()); }}>Add</Action>
            {admin && chat.contact === null && <Action class="quiet" onAct={() => model.attempt(async () => setCode(await model.client.invite(chat.id, CODE_DAYS)))}>Make a join code</Action>}
          </div>
          {code !== null && <><Secret label="Join code" text={code} /><p class="hint">Whoever has it can come in for {CODE_DAYS} days.</p></>}
        </section>
      )}
      {group.active && admin && chat.contact === null && (
        <section>
          <h3>What the group says of itself</h3>
          <Field label="Name" value={name} maxLength={80} onInput={(it) => setName(it.currentTarget.value)} />
          <label class="field"><span>Description</span><textarea rows={3} dir="auto" maxLength={400} value={description} onInput={(it) => setDescription(it.currentTarget.value)} /></label>
          <label class="field"><span>Picture</span><input type="file" accept="image/png,image/jpeg,image/webp" onChange={async (it) => {
            const file = it.currentTarget.files?.[0];
            const made = file === undefined ? null : await groupPicture(file);
            if (made === null) model.toast.value = "This picture cannot be used.";
            else setPicture(made);
          }} /></label>
          <div class="row">
            <Action class="primary" onAct={() => act((it) => it.setGroupProfile(chat.id, { name: name.trim(), description: description.trim(), picture }))}>Save</Action>
            {picture !== null && <button type="button" class="button quiet" onClick={() => setPicture(null)}>No picture</button>}
          </div>
        </section>
      )}
      <section class="row">
        {group.active && (!sure ? <button type="button" class="button quiet danger" onClick={() => setSure(true)}>Leave…</button>
          : <Action class="danger-solid" onAct={async () => { if (await act((it) => it.leaveGroup(chat.id))) onClose(); }}>Really leave</Action>)}
        {!group.active && (
          <>
            {group.stopped !== null && <Action class="primary" onAct={() => act((it) => it.rejoinGroup(chat.id))}>Come back</Action>}
            <Action class="quiet danger" onAct={async () => { if (await model.attempt(() => model.forgetGroup(chat.id))) onClose(); }}>Forget this chat</Action>
          </>
        )}
      </section>
    </Dialog>
  );
}

function MemberRow(props: { member: Member; admin: boolean; chat: Chat; act: (what: Parameters<Messenger["act"]>[0]) => Promise<boolean> }) {
  const { member, admin, chat, act } = props;
  const muted = member.standing === "muted";
  return (
    <li class="member">
      <Avatar id={member.user ?? String(member.leafIndex)} name={member.name} />
      <span class="member-name"><bdi>{member.name}</bdi>{member.own && " (you)"}<small>{member.user === null ? "cannot show who it is" : muted ? "muted" : member.role}</small></span>
      {admin && !member.own && (
        <details class="member-more">
          <summary aria-label={`Change ${member.name}`}><Icon name="more" /></summary>
          <div class="menu">
            <button type="button" onClick={() => void act((it) => it.setRole(chat.id, member.name, member.role === "admin" ? "member" : "admin"))}>{member.role === "admin" ? "Make a member" : "Make an admin"}</button>
            <button type="button" onClick={() => void act((it) => it.setMuted(chat.id, member.name, !muted))}>{muted ? "Let speak" : "Mute"}</button>
            <button type="button" class="danger" onClick={() => void act((it) => it.removeFromGroup(chat.id, [member.name]))}>Remove</button>
          </div>
        </details>
      )}
    </li>
  );
}

const THEMES: readonly [kept.Theme, string][] = [["system", "As the system"], ["light", "Light"], ["dark", "Dark"]];
const READINGS: readonly [kept.Reading, string, string][] = [
  ["even", "Within a second", "The relay sees that you have the messenger open, and nothing of when you are written to."],
  ["live", "At once", "The relay can see when the chat in front is busy, and with whom it is by comparing times."],
  ["batched", "Within a minute", "The relay sees that you are there. Cheapest in tokens."],
];

export function SettingsDialog({ model, onClose }: Props) {
  const [theme, setTheme] = useState(kept.theme());
  const [reading, setReading] = useState(kept.reading());
  const [code, setCode] = useState("");
  const [number, setNumber] = useState("");
  const [answer, setAnswer] = useState<string | null>(null);
  const [key, setKey] = useState<string | null>(null);
  const [removing, setRemoving] = useState<string | null>(null);
  const [typed, setTyped] = useState("");
  const backup = async (): Promise<void> => {
    const made = await model.newRecoveryKey();
    const content = await model.client.backup({ recoveryKey: made });
    save("mimimi.backup", content as Uint8Array<ArrayBuffer>);
    setKey(made);
  };
  return (
    <Dialog title="Settings" onClose={onClose}>
      <section>
        <h3>Look</h3>
        <div class="choices" role="radiogroup" aria-label="Look">
          {THEMES.map(([value, words]) => (
            <label key={value}><input type="radio" name="theme" checked={theme === value} onChange={() => { setTheme(value); kept.keepTheme(value); }} /><span>{words}</span></label>
          ))}
        </div>
      </section>
      <section>
        <h3>How soon messages come</h3>
        {READINGS.map(([value, words, why]) => (
          <label key={value} class="option"><input type="radio" name="reading" checked={reading === value} onChange={() => { setReading(value); void model.attempt(() => model.read(value)); }} /><span>{words}<small>{why}</small></span></label>
        ))}
      </section>
      <section>
        <h3>Devices</h3>
        <ul class="members">
          {model.devices.value.map((device) => (
            <li key={device.name} class="member">
              <span class="member-name"><bdi>{device.name || "This browser"}</bdi>{device.own && " (this one)"}</span>
              {!device.own && (removing === device.name
                ? <Action class="danger-solid" onAct={() => model.attempt(() => model.act((it) => it.unlinkDevice(device.name)))}>Really remove</Action>
                : <button type="button" class="button quiet danger" aria-label={`Remove ${device.name}`} onClick={() => setRemoving(device.name)}>Remove</button>)}
            </li>
          ))}
        </ul>
        <details>
          <summary>Link a device</summary>
          <p class="hint">Open the messenger on the other device, and choose “Link to a device that I have”. Read the number from its screen.</p>
          <Field label="Link code" value={code} onInput={(it) => setCode(it.currentTarget.value)} />
          <Field label="Number on its screen" value={number} onInput={(it) => setNumber(it.currentTarget.value)} />
          <Action class="primary" disabled={code.trim() === "" || number.trim() === ""} onAct={() => model.attempt(async () => setAnswer(await model.client.approveLink(code.trim(), number.trim())))}>Link it</Action>
          {answer !== null && <Secret label="Enter this number there" text={answer} />}
        </details>
      </section>
      <section>
        <h3>Backup</h3>
        <p class="hint">An encrypted file. Only the recovery key opens it: write it down, and keep it elsewhere.</p>
        <Action class="quiet" onAct={() => model.attempt(backup)}>Save a backup</Action>
        {key !== null && <Secret label="Recovery key" text={key} />}
      </section>
      <section>
        <h3>Account</h3>
        <details>
          <summary class="danger">Delete my account</summary>
          <p class="hint">You leave all groups, and everything here is forgotten. Enter your name to go on.</p>
          <Field label="Your name" value={typed} onInput={(it) => setTyped(it.currentTarget.value)} />
          <Action class="danger-solid" disabled={typed.trim() !== model.handle.value} onAct={() => model.attempt(() => model.deleteAccount())}>Delete for good</Action>
        </details>
      </section>
    </Dialog>
  );
}
