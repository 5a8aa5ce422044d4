import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import * as kept from "../../src/model/kept.ts";
import { Messenger } from "../../src/model/messenger.ts";
import { WORDS } from "../../src/text/errors.ts";
import { FakeSdk, World } from "../fake/world.ts";

const storage = new Map<string, string>();
Object.assign(globalThis, {
  localStorage: new Proxy(
    {
      getItem: (key: string) => storage.get(key) ?? null,
      setItem: (key: string, value: string) => void storage.set(key, value),
      removeItem: (key: string) => void storage.delete(key),
    },
    { ownKeys: () => [...storage.keys()], getOwnPropertyDescriptor: () => ({ enumerable: true, configurable: true }) },
  ),
});

const endpoints = { text: '{"relay":"r"}', accounts: null };

let world: World;
beforeEach(() => {
  storage.clear();
  world = new World();
  for (const handle of ["ben", "cleo"]) world.register(handle);
});

async function ann(sdk = new FakeSdk(world)): Promise<Messenger> {
  const model = new Messenger(sdk, () => world.nowMs);
  await model.start();
  if (model.phase.value === "welcome") await model.create("ann", endpoints, "token");
  return model;
}

async function until(holds: () => boolean): Promise<void> {
  for (let at = 0; at < 200 && !holds(); at += 1) await pause(2);
  assert.ok(holds());
}

const benChat = (): string => {
  world.befriend("ann", "ben");
  const id = world.createGroup("ben", "ann & ben");
  world.add(id, "ben", ["ann"]);
  return id;
};

test("a first start welcomes, a second one opens", async () => {
  const sdk = new FakeSdk(world);
  await ann(sdk);
  const again = new Messenger(sdk);
  await again.start();
  assert.equal(again.phase.value, "ready");
  assert.equal(again.handle.value, "ann");
});

test("a name that is taken can be chosen anew, also after a reload", async () => {
  const sdk = new FakeSdk(world);
  const model = new Messenger(sdk);
  await model.start();
  await assert.rejects(model.create("ben", endpoints, "token"), { code: "handle-taken" });
  const again = new Messenger(sdk);
  await again.start();
  assert.equal(again.phase.value, "naming");
  await again.registerHandle("ann");
  assert.equal(again.phase.value, "ready");
  await model.create("anna", endpoints, "token");
  assert.equal(model.phase.value, "ready");
});

test("another tab that has the messenger open is told apart from a failure", async () => {
  world.failing["openClient"] = "busy";
  assert.equal((await ann()).phase.value, "elsewhere");
  world.failing["openClient"] = "local";
  const broken = await ann();
  assert.equal(broken.phase.value, "ended");
  assert.equal(broken.failure.value, WORDS["local"]);
});

test("a message is unread until it is on the screen, also after a reload", async () => {
  const sdk = new FakeSdk(world);
  const model = await ann(sdk);
  const id = benChat();
  world.say("ben", id, { type: "text", text: "hello" });
  await until(() => model.unread.value === 1);
  const again = await ann(sdk);
  await until(() => again.unread.value === 1);
  await again.openChat(id);
  assert.equal(again.unread.value, 0);
  const third = await ann(sdk);
  await pause(10);
  assert.equal(third.unread.value, 0);
});

test("what comes while nobody looks is unread, and read when somebody looks", async () => {
  const model = await ann();
  const id = benChat();
  await until(() => model.chats.value.length === 1);
  await model.setReceipts(id, "read");
  await model.openChat(id);
  await model.looked(false);
  world.say("ben", id, { type: "text", text: "hello" });
  await until(() => model.unread.value === 1);
  assert.equal(world.group(id).messages[0]?.receipts.length, 0);
  await model.looked(true);
  assert.equal(model.unread.value, 0);
  assert.equal(world.group(id).messages[0]?.receipts[0]?.read, true);
});

test("a message that is written offline waits, and goes out later", async () => {
  const model = await ann();
  const id = benChat();
  await until(() => model.chats.value.length === 1);
  await model.openChat(id);
  world.setOffline("ann", true);
  await model.sayText("later", null);
  assert.equal(model.messages.value[0]?.state, "waiting");
  world.setOffline("ann", false);
  await until(() => model.messages.value[0]?.state === "sent");
});

test("a reaction that is made twice is taken back", async () => {
  const model = await ann();
  const id = benChat();
  world.say("ben", id, { type: "text", text: "hello" });
  await until(() => model.chats.value.length === 1);
  await model.openChat(id);
  for (const expected of [1, 0]) {
    const [message] = model.messages.value;
    assert.ok(message);
    await model.react(message, "👍");
    assert.equal(model.messages.value[0]?.reactions.length, expected);
  }
});

test("a notice stays until it is put away, also after a reload", async () => {
  const sdk = new FakeSdk(world);
  await ann(sdk);
  world.tell("ann", { type: "homeCopied" });
  const again = await ann(sdk);
  await until(() => again.notices.value.length === 1);
  await again.dismiss(again.notices.value[0]?.id ?? 0);
  const third = await ann(sdk);
  await pause(10);
  assert.deepEqual(third.notices.value, []);
});

test("a chat with a contact is made once", async () => {
  const model = await ann();
  world.befriend("ann", "ben");
  await model.refresh();
  const [contact] = model.contacts.value;
  assert.ok(contact);
  await model.chatWith(contact);
  const first = model.openId.value;
  assert.equal(model.open.value?.title, "ben");
  await model.openChat(null);
  await model.chatWith(contact);
  assert.equal(model.openId.value, first);
});

test("a safety number that changes is not verified any more", async () => {
  const model = await ann();
  world.befriend("ann", "ben");
  await model.refresh();
  const [contact] = model.contacts.value;
  assert.ok(contact);
  await model.safetyNumber(contact);
  model.setVerified(contact, true);
  assert.ok(model.verified.value.has(contact.user));
  kept.keepVerified(contact.user, "another number");
  await model.safetyNumber(contact);
  assert.ok(!model.verified.value.has(contact.user));
});

test("messages disappear as the chat says", async () => {
  const model = await ann();
  const id = benChat();
  await until(() => model.chats.value.length === 1);
  await model.openChat(id);
  kept.keepLife(id, 3600);
  await model.sayText("soon gone", null);
  assert.deepEqual(model.messages.value[0]?.details.expires, { afterReading: 3600 });
});

test("a long chat is read in pages", async () => {
  const model = await ann();
  const id = benChat();
  for (let at = 0; at < 60; at += 1) world.say("ben", id, { type: "text", text: `message ${at}` });
  await until(() => model.chats.value[0]?.unread === 60);
  await model.openChat(id);
  assert.equal(model.messages.value.length, 40);
  assert.equal(model.hasEarlier.value, true);
  await model.loadEarlier();
  assert.equal(model.messages.value.length, 60);
  assert.equal(model.hasEarlier.value, false);
});

test("what fails is said in words, and what was there stays", async () => {
  const model = await ann();
  world.failing["createGroup"] = "wallet-empty";
  assert.equal(await model.attempt(() => model.newGroup("garden", [])), false);
  assert.equal(model.toast.value, WORDS["wallet-empty"]);
});

test("who deletes the account leaves nothing in the browser", async () => {
  const model = await ann();
  kept.keepDraft("g", "secret");
  await model.deleteAccount();
  assert.equal(model.phase.value, "ended");
  assert.equal(storage.size, 0);
});
