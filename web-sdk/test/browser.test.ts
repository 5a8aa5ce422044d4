// Two clients in two contexts of Chromium, which see nothing of each other's storage, talk through
// the services of `xtask stack`. WEB_SDK_BIN: where the programs are; CHROMIUM: the browser.

import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer as http, type Server } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { type Browser, type Page, chromium } from "playwright-core";
import type { Client, Sdk } from "../dist/index.js";

declare global {
  var sdk: Sdk;
  var client: Client;
}

const programs = process.env["WEB_SDK_BIN"] ?? "../target/tested";
const dist = new URL("../dist/", import.meta.url).pathname;
const TYPES: { [ending: string]: string } = {
  ".js": "text/javascript",
  ".wasm": "application/wasm",
  ".html": "text/html",
};
const PAGE = `<!doctype html><script type="module">
  import { startSdk } from "./index.js";
  globalThis.sdk = startSdk();
</script>`;

let directory: string;
let stack: ChildProcess;
let pages: Server;
let browser: Browser;
let origin: string;
let endpoints: string;
let accounts: string[];

function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const server = createServer();
    server.once("error", () => done(false));
    server.listen(port, "127.0.0.1", () => server.close(() => done(true)));
  });
}

async function freePorts(): Promise<number> {
  for (;;) {
    const first = 20_000 + Math.floor(Math.random() * 12_000);
    const ports = Array.from({ length: 16 }, (_, at) => first + at);
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return first;
  }
}

before(async () => {
  pages = http((request, response) => {
    const path = normalize(new URL(request.url ?? "/", "http://a").pathname);
    const file = join(dist, path);
    if (path !== "/" && !existsSync(file)) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "text/html" });
    response.end(path === "/" ? PAGE : readFileSync(file));
  });
  await new Promise<void>((done) => pages.listen(0, "127.0.0.1", done));
  const address = pages.address();
  assert(address !== null && typeof address === "object");
  origin = `http://127.0.0.1:${address.port}`;

  directory = mkdtempSync(join(tmpdir(), "web-sdk-"));
  const xtask = join(programs, "xtask");
  const port = String(await freePorts());
  const words = ["stack", "--dir", directory, "--port", port, "--log", "warn"];
  // Launched, it ends with this process even if that is killed.
  const launch = ["launch", String(process.pid), xtask, "--"];
  stack = spawn(xtask, [...launch, ...words, "--allow-origin", origin], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const description = join(directory, "stack.json");
  for (let tries = 0; !existsSync(description); tries += 1) {
    assert(tries < 1_200 && stack.exitCode === null, "the stack is not up after a minute");
    await pause(50);
  }
  endpoints = readFileSync(description, "utf8");
  accounts = (JSON.parse(endpoints) as { account_tokens: string[] }).account_tokens;
  browser = await chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
  });
});

after(async () => {
  await browser?.close();
  stack?.kill();
  pages?.close();
  rmSync(directory, { recursive: true, force: true });
});

/** Of a user who has none yet: the stack keeps each in a file of its own. */
function accountToken(): string {
  const file = accounts.pop();
  assert(file !== undefined, "there are no more accounts");
  return readFileSync(file, "utf8").trim();
}

/** A page of its own context. */
async function page(): Promise<Page> {
  const opened = await (await browser.newContext()).newPage();
  opened.on("console", (said) => process.stderr.write(`page: ${said.text()}\n`));
  opened.on("pageerror", (error) => process.stderr.write(`page: ${error.message}\n`));
  await opened.goto(origin);
  await opened.waitForFunction(() => globalThis.sdk !== undefined);
  return opened;
}

/** A page with a client that has this handle. */
async function user(handle: string): Promise<Page> {
  const opened = await page();
  const given = { handle, endpoints, account: accountToken() };
  await opened.evaluate(async ({ handle, endpoints, account }) => {
    const options = { profile: "live" } as const;
    globalThis.client = await sdk.createClient("home", endpoints, account, options);
    await client.registerHandle(handle);
  }, given);
  return opened;
}

test("two browsers connect, talk and keep their homes over a reload", { timeout: 300_000 }, async () => {
  const [anna, ben] = [await user("anna"), await user("ben")];
  await anna.evaluate(() => client.connect("ben"));
  await ben.evaluate(async () => {
    for (;;) {
      await client.checkInbox();
      const [request] = await client.incomingRequests();
      if (request !== undefined) {
        await client.acceptRequest(request.id);
        return;
      }
    }
  });
  // What the feed and the slots do by themselves takes minutes: reading at once does not.
  await anna.evaluate(async () => {
    while ((await client.contacts()).length === 0) await client.sync(1_000);
    await client.createGroup("climbing");
    await client.addToGroup("climbing", ["ben"]);
    await client.sendMessage("climbing", { type: "text", text: "Saturday?" });
  });
  const numbers = [
    await anna.evaluate(() => client.safetyNumber("ben")),
    await ben.evaluate(() => client.safetyNumber("anna")),
  ];
  assert.equal(numbers[0], numbers[1]);
  const heard = await ben.evaluate(async () => {
    const stream = client.eventStream();
    const syncing = client.sync(4_000);
    for await (const { id, event } of stream) {
      await client.acknowledge([id]);
      if (event.type === "message") {
        await syncing;
        return event.text;
      }
    }
    return null;
  });
  assert.equal(heard, "Saturday?");

  // The tab is gone and comes again: the home is there.
  await ben.reload();
  await ben.waitForFunction(() => globalThis.sdk !== undefined);
  const said = await ben.evaluate(async () => {
    globalThis.client = await sdk.openClient("home", { profile: "live", lockMs: 10_000 });
    await client.sendMessage("climbing", { type: "text", text: "Yes!" });
    return (await client.messages("climbing")).map(({ text }) => text);
  });
  assert.deepEqual([...said].sort(), ["Saturday?", "Yes!"]);
  const answered = await anna.evaluate(async () => {
    for (;;) {
      const events = await client.receive(4_000);
      const message = events.find(({ event }) => event.type === "message");
      if (message?.event.type === "message") return message.event.text;
    }
  });
  assert.equal(answered, "Yes!");

  // One tab at a time, and errors say what they are.
  const busy = await ben.context().newPage();
  await busy.goto(origin);
  await busy.waitForFunction(() => globalThis.sdk !== undefined);
  const open = (at: Page): Promise<string> =>
    at.evaluate(async () => {
      try {
        const opened = await sdk.openClient("home", { lockMs: 100 });
        await opened.stop();
        return "open";
      } catch (error) {
        return (error as { code: string }).code;
      }
    });
  assert.equal(await open(busy), "busy");
  await ben.evaluate(() => client.stop());
  assert.equal(await open(busy), "open");
  const missing = await busy.evaluate(async () => {
    try {
      await sdk.openClient("nothing");
      return "open";
    } catch (error) {
      return (error as { code: string; name: string }).code;
    }
  });
  assert.equal(missing, "not-initialised");
});
