// The messenger as it is built, in Chromium, on the fake SDK. The world is `window.world`.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, afterEach, before, beforeEach, test } from "node:test";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { type Site, serve } from "../../site.ts";
import { here, launch, watch } from "./browser.ts";

const PHONE = { width: 390, height: 800 };
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let site: Site;
let browser: Browser;
let context: BrowserContext;
let page: Page;
let wrong: string[];

before(async () => {
  site = await serve(here("../../dist-fake"));
  site.endpoints = JSON.stringify({ relay: "http://127.0.0.1:1/", ohttp_keys: "http://127.0.0.1:1/k", issuer: "http://127.0.0.1:2", accounts: "/account" });
  browser = await launch();
});
after(async () => {
  await browser.close();
  await site.close();
});
beforeEach(async () => {
  site.tokens = ["token"];
  context = await browser.newContext({ viewport: { width: 1200, height: 780 } });
  page = await context.newPage();
  page.setDefaultTimeout(10_000);
  wrong = watch(page, [site.url]);
  await page.goto(site.url);
  await page.getByLabel("Name").waitFor();
});
afterEach(async () => {
  await context.close();
  assert.deepEqual(wrong, []);
});

const button = (name: string | RegExp) => page.getByRole("button", typeof name === "string" ? { name, exact: true } : { name });
const composer = () => page.getByLabel("Message", { exact: true });

async function signUp(): Promise<void> {
  await page.getByLabel("Name").fill("ann");
  await button("Start").click();
  await button("New chat").waitFor();
}

/** Ann with the contacts ben and cleo, a chat with ben, and a group of three. */
async function populated(): Promise<void> {
  await signUp();
  await page.evaluate(() => {
    const { world } = window;
    for (const handle of ["ben", "cleo"]) {
      world.register(handle);
      world.befriend("ann", handle);
    }
    const pair = world.createGroup("ben", "ann & ben");
    world.add(pair, "ben", ["ann"]);
    const group = world.createGroup("ann", "Climbing");
    world.add(group, "ann", ["ben", "cleo"]);
    world.say("ben", pair, { type: "text", text: "Hello Ann" });
  });
  await page.getByText("Hello Ann").first().waitFor();
}

const say = (from: string, text: string, markdown = false): Promise<void> =>
  page.evaluate(({ from, text, markdown }) => {
    const { world } = window;
    const group = Object.values(world.groups).find((it) => it.name === "ann & ben");
    world.say(from, group?.id ?? "", { type: "text", text, format: markdown ? "markdown" : "plain" });
  }, { from, text, markdown });

const openBen = () => page.locator(".chat-row", { hasText: "ben" }).first().click();
const openGroup = async (): Promise<void> => {
  const row = page.locator(".chat-row", { hasText: "Climbing" });
  await page.evaluate(() => window.world.tell("ann", { type: "deviceCameIn" }));
  await row.click();
};
const bubbles = () => page.locator(".bubble .text");

test("a visitor chooses a name and is in", async () => {
  await signUp();
  await page.getByText("You have no chats yet").waitFor();
});

test("a name that is taken is said in words, and another one can be chosen", async () => {
  await page.evaluate(() => window.world.register("ann"));
  await page.getByLabel("Name").fill("ann");
  await button("Start").click();
  await page.getByText("This name is taken").waitFor();
  site.tokens = ["token"];
  await page.getByLabel("Name").fill("anna");
  await button("Start").click();
  await button("New chat").waitFor();
});

test("a contact is asked for by name, with a greeting", async () => {
  await signUp();
  await page.evaluate(() => window.world.register("ben"));
  await button("New chat").click();
  await page.getByLabel("Their name").fill("Ben");
  await page.getByLabel("Greeting (optional)").fill("It is me");
  await button("Send a request").click();
  await page.getByText("You can write as soon as they accept").waitFor();
  assert.equal(await page.evaluate(() => window.world.user("ben").requests[0]?.greeting), "It is me");
});

test("nobody of that name: it is said above the dialog", async () => {
  await signUp();
  await button("New chat").click();
  await page.getByLabel("Their name").fill("nobody");
  await button("Send a request").click();
  await page.getByText("Nobody has this name.").waitFor();
});

test("a request is shown, accepted, and leads to a chat", async () => {
  await signUp();
  await page.evaluate(() => {
    window.world.register("ben");
    window.world.request("ben", "ann", "We met");
  });
  await page.getByText("We met").waitFor();
  assert.equal(await page.title(), "(1) mimimi");
  await button("Accept").click();
  await page.getByText("Say hello").click();
  await composer().fill("Hi Ben");
  await page.keyboard.press("Enter");
  await bubbles().getByText("Hi Ben").waitFor();
  await page.getByLabel("Sent").waitFor();
});

test("a message counts as unread in list and title until it is opened", async () => {
  await populated();
  await page.getByLabel("1 unread").waitFor();
  assert.equal(await page.title(), "(1) mimimi");
  await openBen();
  await bubbles().getByText("Hello Ann").waitFor();
  await page.waitForFunction(() => document.title === "mimimi");
});

test("chats, drafts and what was said are there after a reload", async () => {
  await populated();
  await openBen();
  await composer().fill("not sent yet");
  await page.reload();
  await openBen();
  await bubbles().getByText("Hello Ann").waitFor();
  assert.equal(await composer().inputValue(), "not sent yet");
});

test("offline is said, what is written waits, and goes out when the network is back", async () => {
  await populated();
  await openBen();
  await context.setOffline(true);
  await page.evaluate(() => window.world.setOffline("ann", true));
  await page.getByText("You are offline").waitFor();
  await composer().fill("From the tunnel");
  await page.keyboard.press("Enter");
  await page.getByLabel("Waiting to be sent").waitFor();
  await context.setOffline(false);
  await page.evaluate(() => window.world.setOffline("ann", false));
  await page.getByLabel("Sent").waitFor();
  await page.getByText("You are offline").waitFor({ state: "detached" });
});

test("a message is edited, and says so", async () => {
  await populated();
  await openBen();
  await composer().fill("helo");
  await page.keyboard.press("Enter");
  await page.locator(".message.own").hover();
  await page.locator(".message.own").getByLabel("React, reply and more").click();
  await button("Edit").click();
  await composer().fill("hello");
  await page.keyboard.press("Enter");
  await page.getByText("edited").waitFor();
  await bubbles().getByText("hello", { exact: true }).waitFor();
});

test("a message is deleted", async () => {
  await populated();
  await openBen();
  await composer().fill("oops");
  await page.keyboard.press("Enter");
  await page.locator(".message.own").getByLabel("React, reply and more").click();
  await button("Delete").click();
  await page.getByText("This message was deleted").waitFor();
});

test("a message is answered, and the answer shows what it answers", async () => {
  await populated();
  await openBen();
  await page.locator(".message.other").getByLabel("React, reply and more").click();
  await button("Reply").click();
  await composer().fill("Hello to you");
  await page.keyboard.press("Enter");
  await page.locator(".message.own .answered").getByText("Hello Ann").waitFor();
});

test("a reaction is put and taken back", async () => {
  await populated();
  await openBen();
  await page.locator(".message.other").getByLabel("React, reply and more").click();
  await button("React 👍").click();
  await page.locator(".reactions button").click();
  await page.locator(".reactions").waitFor({ state: "detached" });
});

test("what others write is text: no element, no script, no address but of the web", async () => {
  await populated();
  await openBen();
  await say("ben", '<img src=x onerror="window.hacked=1"><b>x</b> [y](javascript:window.hacked=1)', true);
  await bubbles().getByText("<img src=x").waitFor();
  assert.equal(await page.locator(".bubble img, .bubble b, .bubble a").count(), 0);
  assert.equal(await page.evaluate(() => "hacked" in window), false);
});

test("a link shows where it leads, and takes nothing of this page along", async () => {
  await populated();
  await openBen();
  await say("ben", "[bank.example](https://evil.example/x)", true);
  const link = page.locator(".bubble a");
  await page.getByText("(evil.example)").waitFor();
  assert.match((await link.getAttribute("rel")) ?? "", /noopener noreferrer/);
});

test("right-to-left text and names stay in their place", async () => {
  await populated();
  await openBen();
  await say("ben", "שלום \u202Eabc");
  const text = bubbles().getByText("שלום").last();
  await text.waitFor();
  assert.equal(await text.evaluate((it) => getComputedStyle(it).direction), "rtl");
  assert.equal(await text.evaluate((it) => getComputedStyle(it).unicodeBidi), "isolate");
});

test("a word without end breaks, and nothing scrolls sideways", async () => {
  await populated();
  await page.setViewportSize(PHONE);
  await openBen();
  await say("ben", "x".repeat(600));
  await bubbles().getByText("xxxx").waitFor();
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  assert.ok(await page.locator(".messages").evaluate((it) => it.scrollWidth <= it.clientWidth));
});

test("a group is made, described, and one of its members removed", async () => {
  await populated();
  await button("New chat").click();
  await page.getByLabel("Name of the group").fill("Garden");
  await page.getByLabel("ben").check();
  await button("Create the group").click();
  await button(/^About Garden/).click();
  await page.getByLabel("Description").fill("Roses and more");
  await button("Save").click();
  await page.locator(".portrait").getByText("Roses and more").waitFor();
  await page.getByLabel("Change ben").click();
  await button("Remove").click();
  await page.getByLabel("Change ben").waitFor({ state: "detached" });
  assert.equal(await page.evaluate(() => Object.values(window.world.groups).find((it) => it.name === "Garden")?.members.length), 1);
});

test("a group is left, and can then be forgotten", async () => {
  await populated();
  await openGroup();
  await button("Chat settings").click();
  await button("Leave…").click();
  await button("Really leave").click();
  await button("What can I do?").click();
  await button("Forget this chat").click();
  await page.locator(".chat-row", { hasText: "Climbing" }).waitFor({ state: "detached" });
});

test("receipts are off until they are switched on, and then shown", async () => {
  await populated();
  await openBen();
  await button("Chat settings").click();
  const told = page.getByLabel("What the others are told");
  assert.equal(await told.inputValue(), "off");
  await told.selectOption("read");
  await button("Close").click();
  await composer().fill("Seen?");
  await page.keyboard.press("Enter");
  await page.getByLabel("Sent").waitFor();
  await page.evaluate(() => {
    const { world } = window;
    const group = Object.values(world.groups).find((it) => it.name === "ann & ben");
    world.user("ben").told[group?.id ?? ""] = "read";
    world.markRead("ben", group?.id ?? "", group?.messages.map((it) => it.message) ?? []);
  });
  await page.getByLabel("Read", { exact: true }).waitFor();
});

test("a safety number is compared, marked, and still marked after a reload", async () => {
  await populated();
  await openBen();
  await button(/^About ben/).click();
  const parts = page.getByRole("list", { name: "Safety number" }).locator("li");
  await parts.first().waitFor();
  assert.equal(await parts.count(), 12);
  await button("The numbers are the same").click();
  await button("Close").click();
  await page.locator(".chat .verified").waitFor();
  await page.reload();
  await openBen();
  await page.locator(".chat .verified").waitFor();
  await page.evaluate(() => localStorage.setItem("mimimi.verified.user-ben", "another number"));
  await page.reload();
  await openBen();
  await page.getByText("The safety number has changed").waitFor();
});

test("a picture is sent with a preview, and saved again", async () => {
  await populated();
  await openBen();
  const png = await page.evaluate(async () => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 400;
    canvas.getContext("2d")?.fillRect(50, 50, 300, 300);
    const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done));
    return [...new Uint8Array((await blob?.arrayBuffer()) ?? new ArrayBuffer())];
  });
  await page.getByLabel("File to send").setInputFiles({ name: "wall.png", mimeType: "image/png", buffer: Buffer.from(png) });
  await page.getByAltText("Preview of wall.png").waitFor();
  const [download] = await Promise.all([page.waitForEvent("download"), button("Save wall.png").click()]);
  assert.equal(download.suggestedFilename(), "wall.png");
});

test("a contact is called otherwise, here only", async () => {
  await populated();
  await openBen();
  await button(/^About ben/).click();
  await page.getByLabel("What you call them").fill("Benno");
  await button("Rename").click();
  await page.locator(".chat-row", { hasText: "Benno" }).waitFor();
});

test("a device is linked and removed", async () => {
  await populated();
  await page.evaluate(() => {
    window.world.links["the code"] = { user: null, name: "laptop" };
  });
  await button("Settings").click();
  await page.getByText("Link a device").click();
  await page.getByLabel("Link code").fill("the code");
  await page.getByLabel("Number on its screen").fill("999 999");
  await button("Link it").click();
  await page.getByText("The numbers differ").waitFor();
  await page.getByLabel("Number on its screen").fill("111 222");
  await button("Link it").click();
  await page.getByText("333 444").waitFor();
  await button("Remove laptop").click();
  await button("Really remove").click();
  await button("Remove laptop").waitFor({ state: "detached" });
});

test("a backup is saved, and its recovery key shown", async () => {
  await populated();
  await button("Settings").click();
  const [download] = await Promise.all([page.waitForEvent("download"), button("Save a backup").click()]);
  assert.equal(download.suggestedFilename(), "mimimi.backup");
  await page.getByText("abcd efgh").waitFor();
});

test("light and dark are the system's, or the user's choice", async () => {
  await populated();
  const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const light = await ground();
  await page.emulateMedia({ colorScheme: "dark" });
  assert.notEqual(await ground(), light);
  await button("Settings").click();
  await page.getByText("Light", { exact: true }).click();
  assert.equal(await ground(), light);
  await page.reload();
  await button("Settings").waitFor();
  assert.equal(await ground(), light);
});

test("the list of chats is searched by name and by last words", async () => {
  await populated();
  await page.getByLabel("Search chats").fill("hello ann");
  await page.locator(".chat-row").first().waitFor();
  assert.equal(await page.locator(".chat-row").count(), 1);
  await page.getByLabel("Search chats").fill("zzz");
  await page.getByText("Nothing is called like that").waitFor();
});

test("on a phone the chat takes the screen, and back leads to the list", async () => {
  await populated();
  await page.setViewportSize(PHONE);
  await openBen();
  assert.equal(await page.locator(".sidebar").isVisible(), false);
  await button("Back to the list").click();
  await page.locator(".sidebar").waitFor();
  assert.ok(!page.url().includes("group"));
});

test("everything can be done with the keyboard: from the list to a sent message", async () => {
  await populated();
  await page.locator(".chat-row", { hasText: "ben" }).first().focus();
  await page.keyboard.press("Enter");
  await composer().waitFor();
  await page.waitForFunction(() => document.activeElement?.tagName === "TEXTAREA");
  await page.keyboard.type("By hand");
  await page.keyboard.press("Enter");
  await bubbles().getByText("By hand").waitFor();
});

for (const scheme of ["light", "dark"] as const) {
  test(`axe finds nothing wrong with any view, ${scheme}`, async () => {
    await page.emulateMedia({ colorScheme: scheme });
    const look = async (view: string): Promise<void> => {
      // Animations that are under way mix colours.
      await page.evaluate(async () => {
        await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
        await Promise.all(document.getAnimations().map((it) => it.finished));
      });
      await page.evaluate(axe);
      const found = await page.evaluate(async () => {
        const { axe } = window as unknown as { axe: { run(): Promise<{ violations: { id: string; nodes: { html: string }[] }[] }> } };
        return (await axe.run()).violations.map((it) => `${it.id}: ${it.nodes.map((node) => node.html.slice(0, 120)).join(" ")}`);
      });
      assert.deepEqual(found, [], view);
    };
    await look("welcome");
    await populated();
    await look("list");
    await openBen();
    await bubbles().getByText("Hello Ann").waitFor();
    await look("chat");
    await button(/^About ben/).click();
    await button("The numbers are the same").waitFor();
    await look("contact");
    await button("Close").click();
    await button("Chat settings").click();
    await look("chat settings");
    await button("Close").click();
    await button("New chat").click();
    await look("new");
    await button("Close").click();
    await button("Settings").click();
    await look("settings");
  });
}
