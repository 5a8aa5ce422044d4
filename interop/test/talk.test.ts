// This client and `mimimi` find each other and talk, over real relay, gateway, service and issuer.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { base64url, fromUtf8 } from "../src/bytes.ts";
import { X25519_SUITE, X_WING_SUITE } from "../src/ciphersuites.ts";
import { Client, type Event } from "../src/client.ts";
import { entriesFrom, Lie, openEntry, readOn } from "../src/journal.ts";
import { takeProposal } from "../src/proposals.ts";
import { Transport } from "../src/transport.ts";
import { Mimimi, RunningStack } from "./stack.ts";

let running: RunningStack;
let alice: Mimimi;
let bob: Mimimi;
let tara: Client;

before(async () => {
  running = await RunningStack.start();
  [alice, bob, tara] = await Promise.all([
    Mimimi.register(running, "alice"),
    Mimimi.register(running, "bob"),
    Client.open(running.stack, running.account(), "tara"),
  ]);
});

after(() => running.stop());

/** What messages say, and who has sent them, where. */
function texts(events: Event[]): string[] {
  return events.flatMap((event) =>
    event.kind === "message"
      ? [`${event.group}/${event.from}: ${fromUtf8(event.message.body)}`]
      : [],
  );
}

/** The id under which a message was read, as `mimimi` writes it. */
function idOf(events: Event[], words: string): string {
  const found = events.find(
    (event) => event.kind === "message" && fromUtf8(event.message.body) === words,
  );
  assert.ok(found?.kind === "message");
  return base64url(new Uint8Array(Buffer.from(found.id, "hex")));
}

test("every view of keys and directory agrees, and a batch of tokens is good", async () => {
  assert.equal(tara.directory.domain, "ds.localhost");
  assert.equal(tara.tokens, 100);
  await tara.register();
  // The token was taken: a second one would not have been asked for.
  assert.equal(tara.tokens, 99);
});

test("mimimi accepts a request of this client", async () => {
  await tara.connect("alice");
  const [request] = await alice.list("requests");
  assert.equal(request?.["name"], "tara");
  await alice.run("requests", "--accept", String(request?.["id"]));
  const events = await tara.receive();
  assert.deepEqual(events[0], { kind: "connected", name: "alice" });
  const [contact] = await alice.list("contacts");
  assert.equal(contact?.["user"], base64url(tara.person.identity.publicKey));
});

test("this client accepts a request of mimimi", async () => {
  await bob.run("connect", "tara");
  const [request, ...others] = await tara.requests();
  assert.ok(request);
  assert.deepEqual(others, []);
  assert.equal(fromUtf8(request.requester.name), "bob");
  await tara.accept(request);
  const { group } = tara.contact("bob");
  // Whoever came in from outside waits until somebody was heard.
  await assert.rejects(tara.send(group, "too early"), /nobody was heard/);
  const accepted = await bob.list("receive");
  assert.ok(
    accepted.some((event) => event["type"] === "connected" && event["name"] === "tara"),
    JSON.stringify(accepted),
  );
  // Bob's token comes in the group, now that he knows who has accepted.
  assert.deepEqual(await tara.receive(), [{ kind: "connected", name: "bob" }]);
  await group.send(tara.service, { kind: "greeting" });
  // It is gone from the inbox.
  assert.deepEqual(await tara.requests(), []);
});

test("mimimi adds this client to a group, and each reads what the other writes", async () => {
  await alice.run("group", "create", "garden");
  await alice.run("group", "add", "garden", "tara");
  const sent = await alice.run("send", "garden", "the roses are out");
  const events = await tara.receive();
  assert.deepEqual(events[0], { kind: "joined", group: "garden", by: "alice" });
  assert.deepEqual(texts(events), ["garden/alice: the roses are out"]);
  // Both sides give a message the same id.
  assert.equal(idOf(events, "the roses are out"), sent["message"]);

  const digest = await tara.send(tara.group("garden"), "so are the lilies 🌷");
  const [read] = await alice.messages();
  assert.equal(read?.["text"], "so are the lilies 🌷");
  assert.equal(read?.["sender"], "tara");
  assert.equal(read?.["group"], "garden");
  // The own message is done when it is read in the journal.
  assert.deepEqual(await tara.receive(), [{ kind: "sent", digest }]);
});

test("a reply of this client names the message that mimimi has sent", async () => {
  const sent = await alice.run("send", "garden", "who has water?");
  const events = await tara.receive();
  const found = events.find((event) => event.kind === "message");
  assert.ok(found?.kind === "message");
  await tara.send(tara.group("garden"), "I have", found.id);
  const [read] = await alice.messages();
  assert.equal(read?.["text"], "I have");
  const details = read?.["details"] as { reply_to: unknown };
  assert.equal(JSON.stringify(details.reply_to).includes(String(sent["message"])), true);
});

test("a third member has a name, and a removal by mimimi leads into the next segment", async () => {
  await alice.run("connect", "bob");
  const [request] = await bob.list("requests");
  await bob.run("requests", "--accept", String(request?.["id"]));
  await alice.list("receive");
  await bob.list("receive");
  await alice.run("group", "add", "garden", "bob");
  await bob.list("receive");
  await bob.run("send", "garden", "hello from bob");
  assert.deepEqual(texts(await tara.receive()), ["garden/bob: hello from bob"]);
  assert.deepEqual(
    (await alice.messages()).map((it) => it["text"]),
    ["hello from bob"],
  );
  const garden = tara.group("garden");
  assert.equal(garden.members().length, 3);

  const { rotation } = garden.segment;
  await alice.run("group", "remove", "garden", "bob");
  await alice.run("send", "garden", "without bob");
  assert.deepEqual(texts(await tara.receive()), ["garden/alice: without bob"]);
  assert.equal(garden.members().length, 2);
  assert.ok(garden.segment.rotation > rotation);
  await tara.send(garden, "in the new segment");
  assert.deepEqual(
    (await alice.messages()).map((it) => it["text"]),
    ["in the new segment"],
  );
});

test("who leaves is gone when a member has committed it, and until then nobody sends", async () => {
  await alice.run("group", "create", "meadow");
  await alice.run("group", "add", "meadow", "tara", "bob");
  await tara.receive();
  await bob.list("receive");
  const meadow = tara.group("meadow");
  assert.equal(meadow.members().length, 3);
  const leaving = meadow.members().find(({ person }) => person && fromUtf8(person.name) === "bob");
  await bob.run("group", "leave", "meadow");
  const { epoch } = meadow;
  const [proposal] = entriesFrom(meadow.segment, await readOn(tara.service, meadow.segment, 0));
  const opened = proposal && openEntry(meadow.segment, proposal.entry);
  assert.ok(opened?.event.kind === "proposal");
  // It ends with its signature and its membership tag.
  const { mls } = opened.event;
  for (const at of [mls.length - 1, mls.length - 40]) {
    const forged = mls.with(at, (mls[at] ?? 0) ^ 1);
    await assert.rejects(takeProposal(meadow.state, meadow.suite, forged), Lie);
  }
  const [news] = await meadow.read(tara.service);
  assert.deepEqual(news, {
    kind: "proposal",
    removal: { by: { member: leaving?.leaf }, removed: leaving?.leaf },
  });
  await assert.rejects(tara.send(meadow, "too early"), /unapplied proposals/);
  await alice.list("receive");
  await tara.receive();
  assert.equal(meadow.epoch, epoch + 1n);
  assert.equal(meadow.members().length, 2);
  await tara.send(meadow, "we are two");
  assert.deepEqual(
    (await alice.messages()).map((it) => it["text"]),
    ["we are two"],
  );
});

test("a removal by the service is followed, and so is who comes in by a code", async () => {
  const dora = await Mimimi.register(running, "dora");
  await alice.run("group", "create", "field");
  await alice.run("group", "add", "field", "tara", "bob");
  const { code } = await alice.run("group", "invite", "field");
  await tara.receive();
  await bob.list("receive");
  await bob.run("group", "leave", "field");
  // Who comes in from outside cannot cover that proposal. So the service makes it again.
  await dora.run("group", "join", String(code));
  const field = tara.group("field");
  const news = await field.read(tara.service);
  const proposals = news.flatMap((it) => (it.kind === "proposal" ? [it.removal] : []));
  const [own, service] = proposals;
  assert.ok(own && "member" in own.by);
  assert.deepEqual(service, { by: { externalSender: 0 }, removed: own.removed });
  // It has no membership tag, and ends with its signature.
  const atLast = { ...field.segment, next: field.segment.next - 1n, chain: undefined };
  const [last] = entriesFrom(atLast, await readOn(tara.service, atLast, 0));
  const opened = last && openEntry(field.segment, last.entry);
  assert.ok(opened?.event.kind === "proposal");
  const { mls } = opened.event;
  const forged = mls.with(-1, (mls.at(-1) ?? 0) ^ 1);
  await takeProposal(field.state, field.suite, mls);
  await assert.rejects(takeProposal(field.state, field.suite, forged), Lie);
  assert.equal(field.members().length, 4);
  await alice.list("receive");
  await field.read(tara.service);
  const names = field.members().map(({ person }) => person && fromUtf8(person.name));
  assert.deepEqual(names.sort(), ["alice", "dora", "tara"]);
  await tara.send(field, "welcome, dora");
  for (const user of [alice, dora]) {
    assert.ok((await user.messages()).some((it) => it["text"] === "welcome, dora"));
  }
});

test("mimimi follows commits of this client, in a group and in a connection", async () => {
  const garden = tara.group("garden");
  const before = garden.epoch;
  await tara.update(garden);
  assert.equal(garden.epoch, before + 1n);
  await tara.send(garden, "with a new leaf");
  assert.deepEqual(
    (await alice.messages()).map((it) => it["text"]),
    ["with a new leaf"],
  );
  await alice.run("send", "garden", "I see");
  assert.deepEqual(texts(await tara.receive()), ["garden/alice: I see"]);
  // The code has ended with the second user: the next commit of a connection rotates.
  const { group } = tara.contact("alice");
  await tara.update(group);
  assert.equal(group.segment.rotation, group.epoch);
  await alice.list("receive");
});

test("this client makes a group and adds mimimi", async () => {
  await tara.createGroup("orchard");
  await tara.add("orchard", "alice");
  await tara.send(tara.group("orchard"), "apples");
  const events = await alice.list("receive");
  assert.ok(events.some((event) => event["type"] === "joined" && event["group"] === "orchard"));
  const said = events.filter((event) => event["type"] === "message");
  assert.deepEqual(
    said.map((it) => [it["group"], it["sender"], it["text"]]),
    [["orchard", "tara", "apples"]],
  );
  await alice.run("send", "orchard", "and pears");
  assert.deepEqual(texts(await tara.receive()), ["orchard/alice: and pears"]);
});

test("a classical group is joined by a KeyPackage of its ciphersuite", async () => {
  await alice.run("group", "create", "classical", "--suite", "1");
  await alice.run("group", "add", "classical", "tara");
  await alice.run("send", "classical", "in X25519");
  const events = await tara.receive();
  assert.deepEqual(texts(events), ["classical/alice: in X25519"]);
  assert.equal(tara.group("classical").suite.id, X25519_SUITE);
  assert.equal(tara.group("garden").suite.id, X_WING_SUITE);
});

test("what mimimi says comes on a stream while it is followed", async () => {
  const transport = new Transport(running.stack);
  await transport.meet(X_WING_SUITE);
  const garden = tara.group("garden");
  const news = garden.follow(transport, tara.service);
  const first = news.next();
  const [told] = await Promise.all([first, alice.run("send", "garden", "live")]);
  assert.ok(told.value?.kind === "message" && told.value.content.kind === "message");
  assert.equal(fromUtf8(told.value.content.message.body), "live");
  assert.equal(told.value.from.person && fromUtf8(told.value.from.person.name), "alice");
  await news.return(undefined);
});

test("a group that removes this client is gone, and so is a connection that ends", async () => {
  await alice.run("group", "remove", "garden", "tara");
  await alice.run("send", "garden", "now that we are alone");
  await alice.run("group", "delete", "classical");
  const events = await tara.receive();
  assert.deepEqual(texts(events), []);
  const gone = events.flatMap((event) => (event.kind === "removed" ? [event.group] : []));
  assert.deepEqual(gone.sort(), ["classical", "garden"]);
  assert.throws(() => tara.group("garden"), /no group garden/);

  await bob.run("disconnect", "tara");
  assert.deepEqual(await tara.receive(), [{ kind: "disconnected", name: "bob" }]);
  assert.throws(() => tara.contact("bob"), /no contact/);
});
