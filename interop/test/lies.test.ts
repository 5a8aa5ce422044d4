// A service, a mirror and an issuer that lie, and a handle that leads to somebody else: what they
// show is held against what nobody but the right one can sign.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test, type TestContext } from "node:test";
import { random } from "../src/bytes.ts";
import { Client } from "../src/client.ts";
import { X_WING_SUITE } from "../src/ciphersuites.ts";
import { Mismatch } from "../src/directory.ts";
import { Wallet } from "../src/issuer.ts";
import { Chains, Lie, readEntry } from "../src/journal.ts";
import { operations, type Carrier } from "../src/requests.ts";
import { CannotOpen } from "../src/sealing.ts";
import { BadSignature, SigningKey } from "../src/signing.ts";
import { Reader, Writer } from "../src/tls.ts";
import { Transport } from "../src/transport.ts";
import { RunningStack } from "./stack.ts";

let running: RunningStack;
let anna: Client;
let tara: Client;

type Path = (typeof operations)[keyof typeof operations]["path"];
/** What the service says to Tara is changed on its way, if it is of this operation. */
let lie: { path: Path; change: (answer: Uint8Array) => Uint8Array } | undefined;

function liar(carrier: Carrier): Carrier {
  return {
    async post(path, body, tokens) {
      const answer = await carrier.post(path, body, tokens);
      return lie?.path === path ? lie.change(answer) : answer;
    },
  };
}

before(async () => {
  running = await RunningStack.start();
  [anna, tara] = await Promise.all([
    Client.open(running.stack, running.account(), "anna"),
    Client.open(running.stack, running.account(), "tara", liar),
  ]);
  await anna.register();
  await tara.register();
  await anna.connect("tara");
  const [request] = await tara.requests();
  assert.ok(request);
  await tara.accept(request);
  await anna.receive();
  await tara.receive();
});

after(() => running.stop());

/** Lies while something is tried, and is honest again. */
async function whileLying<T>(it: NonNullable<typeof lie>, attempt: () => Promise<T>): Promise<T> {
  lie = it;
  try {
    return await attempt();
  } finally {
    lie = undefined;
  }
}

const changed = (at: number) => (answer: Uint8Array) => answer.with(at, (answer[at] ?? 0) ^ 1);

const { readJournal, lookupHandle } = operations;
/** Of an answer to a read: the signed end, then step, closed and first, before the entries. */
const BEFORE_THE_ENTRIES = 8 + 8 + 32 + 64 + 4 + 1 + 8;
/** Where things stand in the end: generation, next, chain, signature. */
const [NEXT, CHAIN, SIGNATURE] = [15, 16, 48];

test("an end that the service has not signed is refused", async () => {
  const { group } = tara.contact("anna");
  for (const at of [NEXT, CHAIN, SIGNATURE]) {
    const read = () => group.read(tara.service);
    await assert.rejects(
      whileLying({ path: readJournal.path, change: changed(at) }, read),
      BadSignature,
    );
  }
  // Nothing has changed here: the journal goes on where it was.
  assert.deepEqual(await group.read(tara.service), []);
});

test("an entry that was changed or left out is refused, and the true one read later", async () => {
  const { group } = tara.contact("anna");
  await anna.send(anna.contact("tara").group, "true");
  const at = group.segment.next;
  const otherwise = (answer: Uint8Array) => {
    const reader = new Reader(answer);
    reader.bytes(BEFORE_THE_ENTRIES);
    reader.opaque();
    return changed(reader.at() - 1)(answer);
  };
  const read = () => group.read(tara.service);
  await assert.rejects(
    whileLying({ path: readJournal.path, change: otherwise }, read),
    (error) => error instanceof Lie || error instanceof CannotOpen,
  );
  const without = (answer: Uint8Array) => {
    // An empty vector in the place of the entries, no piece, and no padding.
    const start = answer.slice(0, BEFORE_THE_ENTRIES);
    return Uint8Array.of(...start, 0, 0, 0);
  };
  await assert.rejects(whileLying({ path: readJournal.path, change: without }, read), Lie);
  assert.equal(group.segment.next, at);
  const [news] = await read();
  assert.ok(news?.kind === "message" && news.content.kind === "message");
  assert.equal(Buffer.from(news.content.message.body).toString(), "true");
});

test("entries in another order are refused, although each of them is true", async () => {
  const { group } = tara.contact("anna");
  const there = anna.contact("tara").group;
  for (const words of ["first", "second"]) await anna.send(there, words);
  const swapped = (answer: Uint8Array) => {
    const reader = new Reader(answer);
    const start = reader.bytes(BEFORE_THE_ENTRIES);
    const entries = reader.vector(readEntry);
    const [one, other] = entries.splice(-2);
    assert.ok(one !== undefined && other !== undefined);
    const writer = new Writer().bytes(start);
    writer.vector([...entries, other, one], (inner, entry) => {
      inner.u8(entry.type).opaque(entry.bytes);
    });
    return writer.bytes(reader.bytes(reader.left())).end();
  };
  const read = () => group.read(tara.service);
  const at = group.segment.next;
  await assert.rejects(whileLying({ path: readJournal.path, change: swapped }, read), Lie);
  // Not one of them was taken in.
  assert.equal(group.segment.next, at);
});

test("a handle that leads to another key is refused", async () => {
  const name = "anna".length;
  const connect = () => tara.connect("anna");
  // The record is `<V>`, and in it name and key are.
  const inTheKey = 2 + 1 + name + 1 + 5;
  await assert.rejects(
    whileLying({ path: lookupHandle.path, change: changed(inTheKey) }, connect),
    BadSignature,
  );
});

/** Where a mirror is that changes what another one shows, as long as a test runs. */
async function mirror(
  t: TestContext,
  of: string,
  change: (path: string, body: string) => string,
): Promise<string> {
  const server = createServer(async (request, response) => {
    const path = request.url ?? "";
    const shown = await fetch(new URL(path, of));
    response.writeHead(shown.status, { "content-type": shown.headers.get("content-type") ?? "" });
    // Every byte is one letter.
    const body = Buffer.from(await shown.arrayBuffer()).toString("latin1");
    response.end(Buffer.from(change(path, body), "latin1"));
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  const address = server.address();
  assert.ok(address !== null && typeof address === "object");
  return `http://127.0.0.1:${address.port}`;
}

async function meetBehind(mirrorUrl: string): Promise<unknown> {
  const stack = { ...running.stack, ohttp_key_mirrors: [`${mirrorUrl}/ohttp-keys`] };
  return new Transport(stack).meet(X_WING_SUITE);
}

const flipped = (body: string, at: number) =>
  body.slice(0, at) + String.fromCharCode(body.charCodeAt(at) ^ 1) + body.slice(at + 1);

test("a mirror with another key or directory is noticed before anything is sent", async (t) => {
  const { issuer } = running.stack;
  const lies: [string, (body: string) => string][] = [
    // A byte of the key in each of the two configurations.
    ["/ohttp-keys", (body) => flipped(flipped(body, 100), body.length - 20)],
    ["/service-directory", (body) => body.replace('"generation":0', '"generation":1')],
    ["/service-directory", (body) => body.replace(/"external_sender_key":"./, "$&_")],
  ];
  await meetBehind(await mirror(t, issuer, (_, body) => body));
  for (const [where, change] of lies) {
    const url = await mirror(t, issuer, (path, body) => (path === where ? change(body) : body));
    await assert.rejects(meetBehind(url), Mismatch);
  }
});

test("an issuer that shows a key of its own for one client gets no request", async (t) => {
  let asked = 0;
  const url = await mirror(t, running.stack.issuer, (path, body) => {
    if (!path.endsWith("private-token-issuer-directory")) asked += 1;
    return body.replace(/"token-key":"(.{60})./, '"token-key":"$1_');
  });
  const stack = { ...running.stack, issuer: url };
  await assert.rejects(new Wallet().fill(stack, running.account(), tara.directory), Mismatch);
  assert.equal(asked, 0);
});

test("two signed ends at one position are noticed when a member tells of one", () => {
  const key = new SigningKey();
  const service = { ...tara.service, journalSigningKey: key.publicKey };
  const [segment, shown, other] = [random(32), random(32), random(32)];
  const seen = (chain: Uint8Array, signer: SigningKey) => {
    const end = { generation: service.generation, next: 3n, chain };
    const tbs = new Writer().u64(end.generation).bytes(segment).u64(end.next).bytes(chain).end();
    return { segment, head: { ...end, signature: signer.sign("JournalHeadTBS", tbs) } };
  };
  const chains = new Chains(segment);
  chains.keep(3n, shown);
  chains.compare(service, seen(shown, key));
  assert.throws(() => chains.compare(service, seen(other, key)), Lie);
  // A member alone accuses nobody.
  assert.throws(() => chains.compare(service, seen(other, new SigningKey())), BadSignature);
});
