// The services as real processes on loopback, with a web page's origin allowed.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

/** As many ports as a stack may use. */
const PORTS = 16;
const READY_WITHIN_MS = 120_000;

const isFree = (port: number): Promise<boolean> =>
  new Promise((done) => {
    const server = createServer();
    server.once("error", () => done(false));
    server.listen(port, "127.0.0.1", () => server.close(() => done(true)));
  });

export async function freePorts(): Promise<number> {
  for (;;) {
    const first = 20_000 + Math.floor(Math.random() * 12_000);
    const ports = Array.from({ length: PORTS }, (_, at) => first + at);
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return first;
  }
}

export interface Stack {
  /** What a client reads, with the way to an account. */
  endpoints: string;
  tokens: string[];
  process: ChildProcess;
  stop(): Promise<void>;
}

/** `programs` is the directory of the built programs. */
export async function startStack(programs: string, directory: string, origin: string, port: number): Promise<Stack> {
  const xtask = join(programs, "xtask");
  const description = join(directory, "stack.json");
  mkdirSync(directory, { recursive: true });
  // Of an earlier run on the same data: it is written again when all is up.
  rmSync(description, { force: true });
  // Launched, it ends with this process even if that is killed.
  const words = ["launch", String(process.pid), xtask, "--", "stack", "--dir", directory];
  words.push("--port", String(port), "--log", "warn", "--accounts", "40", "--allow-origin", origin);
  const running = spawn(xtask, words, { stdio: ["ignore", "ignore", "inherit"] });
  let failure: Error | null = null;
  running.once("error", (error) => (failure = error));
  running.once("exit", (code) => (failure ??= new Error(`the stack has ended (${code})`)));
  const end = Date.now() + READY_WITHIN_MS;
  while (!existsSync(description)) {
    if (failure !== null) throw failure;
    if (Date.now() > end) throw new Error("the stack is not up after two minutes");
    await pause(100);
  }
  const { account_tokens: files, data: _data, pids: _pids, ...endpoints } = JSON.parse(readFileSync(description, "utf8"));
  return {
    endpoints: JSON.stringify({ ...endpoints, accounts: "/account" }),
    tokens: (files as string[]).map((file) => readFileSync(file, "utf8").trim()),
    process: running,
    stop: async () => {
      const ended = new Promise((done) => running.once("exit", done));
      running.kill("SIGTERM");
      if (running.exitCode === null) await ended;
    },
  };
}
