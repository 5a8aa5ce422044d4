// A Chromium, and the pages that tests look at.

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type Browser, type Page, chromium } from "playwright-core";
import type { World } from "../fake/world.ts";

declare global {
  interface Window {
    world: World;
  }
}

export const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export async function launch(): Promise<Browser> {
  const executablePath = execFileSync("sh", [here("../../../scripts/chromium.sh")], { encoding: "utf8" }).trim();
  // Chromium's own sandbox cannot be had as root; what it loads here is ours.
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

/** What must not happen on any page: errors, refused resources, requests to others. */
export function watch(page: Page, allowed: string[]): string[] {
  const wrong: string[] = [];
  page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
  page.on("console", (message) => {
    if (/Content Security Policy|TrustedScript|TrustedHTML/.test(message.text())) wrong.push(message.text());
  });
  page.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    if (protocol !== "blob:" && !allowed.includes(origin)) wrong.push(`asked ${request.url()}`);
  });
  return wrong;
}
