// Two browsers talk through the real services: relay, gateway, delivery service and issuer.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { type Site, serve } from "../../site.ts";
import { type Stack, freePorts, startStack } from "../../stack.ts";
import { here, launch, watch } from "./browser.ts";

/** What one step may take: the services, two browsers and other tests share the machine. */
const PATIENCE_MS = 90_000;

function programs(): string {
  const target = process.env["CARGO_TARGET_DIR"] ?? here("../../../target");
  const given = process.env["WEB_PROGRAMS"];
  const places = given !== undefined ? [given] : [join(target, "tested"), join(target, "release")];
  const built = places.filter((place) => existsSync(join(place, "ds")));
  const [latest] = built.sort((a, b) => statSync(join(b, "ds")).mtimeMs - statSync(join(a, "ds")).mtimeMs);
  if (latest === undefined) throw new Error("the services are not built: `make programs` builds them");
  return latest;
}

let directory: string;
let site: Site;
let stack: Stack;
let browser: Browser;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), "web-"));
  site = await serve(here("../../dist"));
  stack = await startStack(programs(), join(directory, "stack"), site.url, await freePorts());
  site.endpoints = stack.endpoints;
  site.tokens = stack.tokens;
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await stack?.stop();
  await site?.close();
  rmSync(directory, { recursive: true });
});

class Visitor {
  readonly context: BrowserContext;
  readonly page: Page;
  readonly wrong: string[];

  private constructor(context: BrowserContext, page: Page, wrong: string[]) {
    this.context = context;
    this.page = page;
    this.wrong = wrong;
  }

  static async come(handle: string): Promise<Visitor> {
    const context = await browser.newContext();
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    const { relay, ohttp_keys, ohttp_key_mirrors, issuer } = JSON.parse(site.endpoints);
    const services = [relay, ohttp_keys, issuer, ...ohttp_key_mirrors].map((url: string) => new URL(url).origin);
    const wrong = watch(page, [site.url, ...services]);
    const visitor = new Visitor(context, page, wrong);
    await page.goto(site.url);
    await page.getByLabel("Name").fill(handle);
    await visitor.press("Start");
    await page.getByRole("button", { name: "New chat" }).waitFor();
    return visitor;
  }

  press(name: string): Promise<void> {
    return this.page.getByRole("button", { name, exact: true }).click();
  }
  /** Other journals than the one in front come in slots, minutes apart: this looks at once. */
  async hears(text: string): Promise<void> {
    const there = this.page.getByText(text).first();
    for (const end = Date.now() + PATIENCE_MS; !(await there.isVisible()); ) {
      assert.ok(Date.now() < end, `${text} does not come`);
      await this.press("Look for news now");
      await this.page.waitForTimeout(1_000);
    }
  }
  async say(text: string): Promise<void> {
    await this.page.getByLabel("Message", { exact: true }).fill(text);
    await this.page.keyboard.press("Enter");
  }
  async sees(text: string): Promise<void> {
    await this.page.locator(".bubble").getByText(text).waitFor();
  }
  open(chat: string): Promise<void> {
    return this.page.locator(".chat-row", { hasText: chat }).first().click();
  }
}

test("two browsers talk, reload, go offline and come back", async () => {
  const ann = await Visitor.come("ann");
  const ben = await Visitor.come("ben");

  await ann.press("New chat");
  await ann.page.getByLabel("Their name").fill("ben");
  await ann.press("Send a request");
  await ann.page.getByText("You can write as soon as they accept").waitFor();
  await ann.press("Close");

  // A start looks into the inbox.
  await ben.page.reload();
  await ben.press("Accept");
  await ann.hears("You and ben are connected");
  await ann.open("ben");
  await ann.say("Hello **ben**");
  await ben.hears("Hello ben");
  await ben.open("ann");
  await ben.sees("Hello ben");
  await ben.say("Hello ann");
  await ann.sees("Hello ann");

  await ann.page.reload();
  await ann.open("ben");
  await ann.sees("Hello ann");

  await ben.context.setOffline(true);
  await ben.page.getByText("You are offline").waitFor();
  await ben.say("From the tunnel");
  await ben.page.getByLabel("Waiting to be sent").waitFor();
  await ann.say("Are you there?");
  await ben.context.setOffline(false);
  await ben.sees("Are you there?");
  await ann.sees("From the tunnel");

  assert.deepEqual([...ann.wrong, ...ben.wrong], []);
});

test("both see the same safety number", async () => {
  const cleo = await Visitor.come("cleo");
  const dora = await Visitor.come("dora");
  await cleo.press("New chat");
  await cleo.page.getByLabel("Their name").fill("dora");
  await cleo.press("Send a request");
  await cleo.page.getByText("You can write as soon as they accept").waitFor();
  await cleo.press("Close");
  await dora.page.reload();
  await dora.press("Accept");
  await cleo.hears("You and dora are connected");
  await cleo.open("dora");
  await cleo.say("Compare?");
  await dora.hears("Compare?");
  await dora.open("cleo");
  await dora.sees("Compare?");
  const numberOf = async (visitor: Visitor, other: string): Promise<string[]> => {
    await visitor.page.getByRole("button", { name: `About ${other}` }).click();
    const parts = visitor.page.getByRole("list", { name: "Safety number" }).locator("li");
    await parts.first().waitFor();
    return parts.allInnerTexts();
  };
  assert.deepEqual(await numberOf(cleo, "dora"), await numberOf(dora, "cleo"));
});
