// The way to the delivery service: Oblivious HTTP through the relay, with keys and directory held
// against every other view of them (protocol.md, *Transport*).

import { base64url, equal, toBuffer } from "./bytes.ts";
import { agreeOn, checkDirectory, Mismatch, type Directory } from "./directory.ts";
import { kems } from "./hpke.ts";
import { Incoming } from "./incoming.ts";
import {
  decodeResponse,
  encapsulate,
  encapsulateChunked,
  encodeRequest,
  readKeyConfigs,
  type KeyConfig,
} from "./ohttp.ts";
import { type Stack } from "./stack.ts";

/** A problem document of the service (RFC 9457), by its name in protocol.md. */
export class Problem extends Error {
  readonly type: string;
  readonly status: number;

  constructor(type: string, status: number) {
    super(`the service says ${type} (${status})`);
    this.type = type;
    this.status = status;
  }
}

const PREFIX = "urn:mimi-ds:problem:";
const ATTEMPTS = 6;

export class Transport {
  readonly #stack: Stack;
  #config: KeyConfig | undefined;
  #directory: Directory | undefined;

  constructor(stack: Stack) {
    this.#stack = stack;
  }

  /** Compares what relay, mirrors, gateway and service show. Nothing else was sent before. */
  async meet(ciphersuite: number): Promise<Directory> {
    const urls = [this.#stack.ohttp_keys, ...this.#stack.ohttp_key_mirrors];
    const lists = await Promise.all(urls.map(async (url) => readKeyConfigs(await document(url))));
    this.#config = await this.#agreed(lists);
    const beside = urls.map((url) => url.replace(/\/ohttp-keys$/, "/service-directory"));
    const shown = await Promise.all(beside.map(async (url) => parse(await document(url))));
    const own = parse(await this.#ask("GET", "/v1/directory"));
    const configured = {
      issuerName: this.#stack.issuer_name,
      tokenOrigin: this.#stack.token_origin,
      ciphersuite,
    };
    for (const view of [own, ...shown]) checkDirectory(view, configured);
    this.#directory = agreeOn([own, ...shown]);
    return this.#directory;
  }

  /** What [`meet`] has agreed on. */
  get directory(): Directory {
    if (this.#directory === undefined) throw new Mismatch("nothing was agreed on yet");
    return this.#directory;
  }

  /** The first configuration that all mirrors and the relay show, if the gateway lists it too. */
  async #agreed(lists: KeyConfig[][]): Promise<KeyConfig> {
    const has = (list: KeyConfig[], config: KeyConfig) =>
      list.some((other) => equal(other.encoded, config.encoded));
    const [first = [], ...others] = lists;
    const config = first.find((one) => others.every((list) => has(list, one)));
    if (config === undefined) throw new Mismatch("relay and mirrors show no key in common");
    this.#config = config;
    const own = readKeyConfigs(await this.#ask("GET", "/.well-known/ohttp-gateway"));
    const hasXWing = own.some(({ kem }) => kem === kems.xWing);
    if (!has(own, config) || (hasXWing && config.kem !== kems.xWing)) {
      throw new Mismatch("the gateway lists other keys than it is said to have");
    }
    return config;
  }

  /** Posts a body to an operation's path, with tokens, and returns the body of the answer. */
  async post(path: string, body: Uint8Array, tokens: readonly Uint8Array[]): Promise<Uint8Array> {
    return this.#ask("POST", path, body, tokens);
  }

  /** The request that the gateway will open. */
  #inner(
    method: "GET" | "POST",
    path: string,
    body: Uint8Array | undefined,
    tokens: readonly Uint8Array[],
  ): Request {
    // In whole minutes, so that no clock marks its client.
    const minute = new Date(Math.floor(Date.now() / 60_000) * 60_000);
    const headers = new Headers({ date: minute.toUTCString() });
    if (body !== undefined) headers.set("content-type", "application/mimi-ds-request");
    for (const token of tokens) {
      headers.append("authorization", `PrivateToken token="${base64url(token)}"`);
    }
    const content = body === undefined ? {} : { body: toBuffer(body) };
    return new Request(new URL(path, this.#stack.ds), { method, headers, ...content });
  }

  async #ask(
    method: "GET" | "POST",
    path: string,
    body?: Uint8Array,
    tokens: readonly Uint8Array[] = [],
  ): Promise<Uint8Array> {
    // The same inner bytes at each attempt: the service answers them from its record.
    const inner = await encodeRequest(this.#inner(method, path, body, tokens));
    for (let attempt = 1; ; attempt++) {
      const answer = await this.#through(inner);
      if (answer.status === 200) return new Uint8Array(await answer.arrayBuffer());
      const problem = await problemOf(answer);
      const later = ["unavailable", "conflict", "internal"].includes(problem.type);
      if (!later || attempt === ATTEMPTS) throw problem;
      await new Promise((done) => setTimeout(done, 200 * 2 ** attempt));
    }
  }

  /** Posts a body whose answer goes on, and yields the answer's content as it comes. */
  async *stream(path: string, body: Uint8Array): AsyncGenerator<Uint8Array> {
    const { request, chunks } = await encapsulateChunked(
      this.#key(),
      await encodeRequest(this.#inner("POST", path, body, [])),
    );
    const answer = await fetch(this.#stack.relay, {
      method: "POST",
      headers: { "content-type": "message/ohttp-chunked-req", incremental: "?1" },
      body: toBuffer(request),
      redirect: "error",
    });
    const isStream = answer.headers.get("content-type") === "message/ohttp-chunked-res";
    if (answer.status !== 200 || !isStream || answer.body === null) throw await problemOf(answer);
    yield* contentOf(new Incoming(chunks(answer.body)));
  }

  #key(): KeyConfig {
    if (this.#config === undefined) throw new Mismatch("there is no key of the gateway yet");
    return this.#config;
  }

  /** One encapsulation. */
  async #through(inner: Uint8Array): Promise<Response> {
    const { request, open } = await encapsulate(this.#key(), inner);
    const answer = await fetch(this.#stack.relay, {
      method: "POST",
      headers: { "content-type": "message/ohttp-req" },
      body: toBuffer(request),
      redirect: "error",
    });
    if (answer.status !== 200) throw await problemOf(answer);
    return decodeResponse(open(new Uint8Array(await answer.arrayBuffer())));
  }
}

/** The content of an answer in binary HTTP of no known length (RFC 9292 §3.2), as it comes. */
async function* contentOf(bytes: Incoming): AsyncGenerator<Uint8Array> {
  const known = 1;
  const framing = await bytes.varint();
  const status = await bytes.varint();
  if (framing === known || status !== 200) throw new Problem("no stream", status);
  // Header fields: name and value each, and an empty name at the end.
  for (let name = await bytes.varint(); name > 0; name = await bytes.varint()) {
    await bytes.take(name);
    await bytes.take(await bytes.varint());
  }
  for (let piece = await bytes.varint(); piece > 0; piece = await bytes.varint()) {
    yield await bytes.take(piece);
  }
}

async function problemOf(answer: Response): Promise<Problem> {
  const text = await answer.text();
  let type = text;
  try {
    const shown: { type?: string } = JSON.parse(text);
    type = shown.type ?? "about:blank";
  } catch {
    // Not a problem document: its text says what it is.
  }
  return new Problem(type.startsWith(PREFIX) ? type.slice(PREFIX.length) : type, answer.status);
}

async function document(url: string): Promise<Uint8Array> {
  const answer = await fetch(url, { redirect: "error" });
  if (answer.status !== 200) throw new Mismatch(`${url} shows nothing (${answer.status})`);
  return new Uint8Array(await answer.arrayBuffer());
}

function parse(json: Uint8Array): Directory {
  return JSON.parse(new TextDecoder().decode(json));
}
