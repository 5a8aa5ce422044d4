import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { headers, origins } from "../../headers.ts";
import { readEndpoints } from "../../src/endpoints.ts";
import { groupOf, newsOf } from "../../src/model/news.ts";
import type { Contact, Event, Member } from "../../src/sdk.ts";
import { directName, partner } from "../../src/text/direct.ts";
import { WORDS, wordsFor, wordsForCode } from "../../src/text/errors.ts";
import { inline, parse, plain, preview, webAddress } from "../../src/text/markdown.ts";
import { safePicture } from "../../src/text/pixels.ts";
import { bytes, day } from "../../src/text/times.ts";

const repository = new URL("../../../", import.meta.url);

test("every error code has words, and no words are for a code that is not there", () => {
  const document = readFileSync(new URL("docs/errors.md", repository), "utf8");
  const codes = new Set([...document.matchAll(/^\| `([a-z0-9-]+)` \|/gm)].map((it) => it[1]));
  assert.ok(codes.size > 90);
  assert.deepEqual(new Set(Object.keys(WORDS)), codes);
});

test("an error that has no words is told all the same, and shows nothing of its inside", () => {
  assert.match(wordsFor(new Error("secret detail")), /unexpected/);
  assert.match(wordsForCode("toString"), /unexpected/);
  assert.equal(wordsFor(Object.assign(new Error("x"), { code: "busy" })), WORDS["busy"]);
});

test("markdown knows strong, emphasis, strike and code", () => {
  const kinds = inline("**a** *b* _c_ ~~d~~ `e`").filter((it) => it.type !== "text").map((it) => it.type);
  assert.deepEqual(kinds, ["strong", "emphasis", "emphasis", "strike", "code"]);
});

test("marks inside words and unclosed marks are text", () => {
  for (const text of ["snake_case_name", "2 * 3 * 4", "**open", "a*", "__"]) {
    assert.deepEqual(inline(text), [{ type: "text", text }]);
  }
});

test("marks nest", () => {
  assert.deepEqual(inline("**a *b***"), [
    { type: "strong", children: [{ type: "text", text: "a " }, { type: "emphasis", children: [{ type: "text", text: "b" }] }] },
  ]);
});

test("what looks like HTML is text", () => {
  const text = '<img src=x onerror="alert(1)"><script>alert(2)</script>';
  assert.deepEqual(inline(text), [{ type: "text", text }]);
});

test("what the SDK has escaped reads as it was written", () => {
  assert.equal(plain(inline("&lt;b&gt; \\<i\\> \\*x\\* &amp;")), "<b> <i> *x* &");
});

test("links lead to the web only", () => {
  for (const target of ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "vbscript:x", "//evil.example", "JaVaScRiPt:alert(1)"]) {
    assert.equal(webAddress(target), null, target);
    assert.ok(!inline(`[x](${target})`).some((it) => it.type === "link"), target);
  }
  assert.equal(webAddress("https://a.example/b"), "https://a.example/b");
});

test("an address that hides its host behind a name is no link", () => {
  assert.equal(webAddress("https://bank.example@evil.example/"), null);
});

test("bare addresses are links, without the full stop behind", () => {
  const [before, link, after] = inline("See https://a.example/x, now");
  assert.equal(before?.type, "text");
  assert.deepEqual(link, { type: "link", href: "https://a.example/x", children: [{ type: "text", text: "https://a.example/x" }] });
  assert.deepEqual(after, { type: "text", text: ", now" });
});

test("a mention is one, and no link", () => {
  assert.equal(inline("[ben](user:abc)")[0]?.type, "mention");
});

test("blocks: lists, quotes, code and headings", () => {
  const kinds = parse("# T\n\n- a\n- b\n\n1. c\n\n> q\n\n```\nx *y*\n```\nend").map((it) => it.type);
  assert.deepEqual(kinds, ["heading", "list", "list", "quote", "code", "paragraph"]);
});

test("code is left as it stands, also where it is not closed", () => {
  assert.deepEqual(parse("```js\n**a**\n<b>"), [{ type: "code", text: "**a**\n<b>" }]);
});

test("deep nesting and long texts end in time", () => {
  const begin = performance.now();
  parse(">".repeat(10_000) + "x");
  parse("[".repeat(10_000));
  parse("**a ".repeat(5_000));
  parse("`".repeat(10_000));
  assert.ok(performance.now() - begin < 5_000);
});

test("a preview is one line without marks", () => {
  assert.equal(preview("# Plan\n\n- **one**\n- two"), "Plan one two");
});

const header = (length: number, at: Record<number, number[]>): Uint8Array => {
  const made = new Uint8Array(length);
  for (const [offset, values] of Object.entries(at)) made.set(values, Number(offset));
  return made;
};
const png = (width: number, height: number): Uint8Array => {
  const made = header(33, { 0: [0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10], 12: [0x49, 0x48, 0x44, 0x52] });
  new DataView(made.buffer).setUint32(16, width);
  new DataView(made.buffer).setUint32(20, height);
  return made;
};

test("a picture is taken by its bytes", () => {
  assert.equal(safePicture(png(64, 64)), "image/png");
  const jpeg = header(20, { 0: [0xff, 0xd8, 0xff, 0xc0, 0, 11, 8, 0, 9, 0, 9] });
  assert.equal(safePicture(jpeg), "image/jpeg");
  const webp = header(30, { 0: [...Buffer.from("RIFF")], 8: [...Buffer.from("WEBPVP8L")], 21: [7, 0, 0, 0] });
  assert.equal(safePicture(webp), "image/webp");
});

test("a small file that unpacks into a huge picture is not shown", () => {
  assert.equal(safePicture(png(60_000, 60_000)), null);
  assert.equal(safePicture(png(0, 10)), null);
});

test("what is no picture is not shown, whatever its sender calls it", () => {
  for (const text of ["<svg onload=alert(1)>", "GIF89a", "", "\x89PNG"]) {
    assert.equal(safePicture(new TextEncoder().encode(text)), null);
  }
  assert.equal(safePicture(header(5, { 0: [0xff, 0xd8, 0xff, 0xc0] })), null);
});

const member = (user: string | null, own = false): Member => ({ user, name: "x", own, role: "member", standing: "active", leafIndex: 0 });
const ben: Contact = { user: "u-ben", name: "Benno", handle: "ben", reportable: true };

test("a chat of two is shown as its contact, whoever has made it", () => {
  assert.equal(directName("ben", "ann"), directName("ann", "ben"));
  assert.equal(partner("ann & ben", "ann", [member("u-ann", true), member("u-ben")], [ben]), ben);
  assert.equal(partner("ann & ben 2", "ann", [member("u-ann", true), member("u-ben")], [ben]), ben);
});

test("several devices of one user are one in a chat of two", () => {
  assert.equal(partner("ann & ben", "ann", [member("u-ann", true), member("u-ann"), member("u-ben"), member("u-ben")], [ben]), ben);
});

test("a group cannot pass for a chat with a contact by its name", () => {
  const name = "ann & ben";
  assert.equal(partner(name, "ann", [member("u-ann", true), member("u-eve")], [ben]), null);
  assert.equal(partner(name, "ann", [member("u-ann", true), member("u-ben"), member("u-eve")], [ben]), null);
  assert.equal(partner(name, "ann", [member("u-ann", true), member("u-ben"), member(null)], [ben]), null);
  assert.equal(partner("garden", "ann", [member("u-ann", true), member("u-ben")], [ben]), null);
});

test("days are named from today", () => {
  const now = new Date(2026, 4, 4, 12).getTime();
  assert.equal(day(now, now), "Today");
  assert.equal(day(now - 86_400_000, now), "Yesterday");
  assert.match(day(now - 86_400_000 * 9, now), /Saturday/);
});

test("lengths are short", () => {
  assert.deepEqual([12, 1500, 2_500_000].map(bytes), ["12 B", "2 kB", "2.5 MB"]);
});

test("endpoints are handed on as they came, and say where accounts are from", () => {
  const text = '{"relay":"x","accounts":"/account"}';
  assert.deepEqual(readEndpoints(text), { text, accounts: "/account" });
  assert.equal(readEndpoints('{"accounts":7}').accounts, null);
});

const addresses = { relay: "https://relay.example/a", ohttp_keys: "https://relay.example/k", ohttp_key_mirrors: ["https://issuer.example/k"], issuer: "https://issuer.example" };

test("the page may talk to the services of endpoints.json and to nobody else", () => {
  assert.deepEqual(origins(addresses), ["https://issuer.example", "https://relay.example"]);
  const policy = headers(addresses)["Content-Security-Policy"] ?? "";
  assert.match(policy, /connect-src 'self' https:\/\/issuer\.example https:\/\/relay\.example;/);
});

test("the policy has no inline style or script, no evaluation, and Trusted Types", () => {
  const policy = headers(addresses)["Content-Security-Policy"] ?? "";
  assert.match(policy, /default-src 'none'/);
  assert.match(policy, /require-trusted-types-for 'script'/);
  assert.doesNotMatch(policy, /unsafe-inline|'unsafe-eval'|\*|data:/);
});

test("the built page has no script or style of its own", () => {
  const page = readFileSync(new URL("web/index.html", repository), "utf8");
  assert.doesNotMatch(page, /<style|style=|onload=|<script>|https:\/\//);
});

test("an event that calls for the user is a notice, one of the chat's life a line", () => {
  const split: Event = { type: "groupLost", group: "g", why: "split" };
  assert.equal(newsOf(split)?.kind, "notice");
  assert.match(newsOf(split)?.text ?? "", /different histories/);
  assert.equal(newsOf({ type: "memberAdded", group: "g", name: "a", by: "b" })?.kind, "line");
  assert.equal(newsOf({ type: "deviceCameIn" }), null);
});

test("the group of an event is its id, or its name where it has none", () => {
  assert.deepEqual(groupOf({ type: "messageSent", group: "g", groupId: "i", message: "m" }), { id: "i", name: "g" });
  assert.deepEqual(groupOf({ type: "removed", group: "g" }), { id: null, name: "g" });
});
