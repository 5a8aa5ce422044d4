// The services and `mimimi` as real processes, from the programs in INTEROP_BIN.

import { execFile, spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import { readStack, type Stack } from "../src/stack.ts";

const programs = process.env["INTEROP_BIN"] ?? "../target/tested";

/** As many as a stack has ports: services, then their admin listeners. */
const PORTS = 16;

async function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const server = createServer();
    server.once("error", () => done(false));
    server.listen(port, "127.0.0.1", () => server.close(() => done(true)));
  });
}

async function freePorts(): Promise<number> {
  for (;;) {
    const first = 20_000 + Math.floor(Math.random() * 12_000);
    const ports = Array.from({ length: PORTS }, (_, at) => first + at);
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return first;
  }
}

/** A stack that runs until it is stopped. */
export class RunningStack {
  readonly stack: Stack;
  readonly directory: string;
  readonly #accounts: string[];
  readonly #process: ChildProcess;

  private constructor(directory: string, process: ChildProcess) {
    this.directory = directory;
    this.#process = process;
    const { account_tokens: accounts, ...stack } = readStack(join(directory, "stack.json"));
    this.stack = stack;
    this.#accounts = accounts;
  }

  static async start(): Promise<RunningStack> {
    const directory = mkdtempSync(join(tmpdir(), "interop-"));
    const port = String(await freePorts());
    const xtask = join(programs, "xtask");
    // Launched, it ends with this process even if that is killed.
    const launch = ["launch", String(process.pid), xtask, "--"];
    const words = ["stack", "--dir", directory, "--port", port, "--log", "warn"];
    const running = spawn(xtask, [...launch, ...words], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    const failed = new Promise<never>((_, fail) => {
      running.once("error", fail);
      running.once("exit", (code) => fail(new Error(`the stack has ended (${code})`)));
    });
    // The stack writes it when everything is up.
    const ready = async () => {
      while (!existsSync(join(directory, "stack.json"))) await pause(50);
    };
    const late = pause(60_000, undefined, { ref: false }).then(() => {
      throw new Error("the stack is not up after a minute");
    });
    late.catch(() => undefined);
    await Promise.race([ready(), failed, late]);
    failed.catch(() => undefined);
    return new RunningStack(directory, running);
  }

  /** The file with an account token that nobody else in this test has. */
  accountFile(): string {
    const file = this.#accounts.pop();
    if (file === undefined) throw new Error("there are no more accounts");
    return file;
  }

  account(): string {
    return readFileSync(this.accountFile(), "utf8").trim();
  }

  async stop(): Promise<void> {
    const ended = new Promise((done) => this.#process.once("exit", done));
    this.#process.kill("SIGTERM");
    await ended;
    rmSync(this.directory, { recursive: true });
  }
}

/** A line of what `mimimi --json` prints: docs/cli.md. */
export type Json = { [member: string]: unknown };

/** A user on the command line. */
export class Mimimi {
  readonly #home: string;

  private constructor(home: string) {
    this.#home = home;
  }

  static async register(running: RunningStack, handle: string): Promise<Mimimi> {
    const user = new Mimimi(join(running.directory, `home-${handle}`));
    const stack = join(running.directory, "stack.json");
    await user.run("init", "--stack", stack, "--account-token", running.accountFile());
    await user.run("handle", "register", handle);
    return user;
  }

  /** The document that a command prints; a command that fails throws. */
  async #print(words: string[]): Promise<unknown> {
    const all = ["--home", this.#home, "--json", ...words];
    const { stdout } = await promisify(execFile)(join(programs, "mimimi"), all);
    return JSON.parse(stdout);
  }

  async run(...words: string[]): Promise<Json> {
    return (await this.#print(words)) as Json;
  }

  async list(...words: string[]): Promise<Json[]> {
    return (await this.#print(words)) as Json[];
  }

  /** The messages that have come. */
  async messages(): Promise<Json[]> {
    return (await this.list("receive")).filter((event) => event["type"] === "message");
  }
}
