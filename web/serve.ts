// `make web`: the messenger on this machine, with services of its own, until Ctrl-C. With a file as
// its argument it prints the headers for an operator's server instead.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { headers } from "./headers.ts";
import { serve } from "./site.ts";
import { startStack } from "./stack.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
const [file] = process.argv.slice(2);
if (file !== undefined) {
  const all = headers(JSON.parse(readFileSync(file, "utf8")));
  for (const [name, value] of Object.entries(all)) console.log(`${name}: ${value}`);
} else {
  const target = process.env["CARGO_TARGET_DIR"] ?? join(here, "../target");
  const site = await serve(join(here, "dist"), Number(process.env["WEB_PORT"] ?? 4280));
  const programs = process.env["WEB_PROGRAMS"] ?? join(target, "release");
  const port = Number(process.env["STACK_PORT"] ?? 4300);
  const stack = await startStack(programs, join(target, "web-stack"), site.url, port);
  site.endpoints = stack.endpoints;
  site.tokens = stack.tokens;
  const end = async (): Promise<void> => {
    await site.close();
    await stack.stop();
    process.exit();
  };
  process.once("SIGINT", () => void end());
  process.once("SIGTERM", () => void end());
  console.log(`The messenger: ${site.url}`);
  console.log("Open it a second time in another browser or a private window, and talk. Ctrl-C ends it.");
}
