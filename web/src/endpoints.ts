// `endpoints.json`, beside this page: the addresses of the services, as all clients read them.

import type { Endpoints } from "./model/messenger.ts";

export function readEndpoints(text: string): Endpoints {
  const content: unknown = JSON.parse(text);
  const accounts =
    typeof content === "object" && content !== null && "accounts" in content ? content.accounts : null;
  return { text, accounts: typeof accounts === "string" ? accounts : null };
}

export async function fetchEndpoints(): Promise<Endpoints> {
  const answer = await fetch("./endpoints.json", { cache: "no-cache" });
  if (!answer.ok) throw new Error("endpoints.json is not there");
  return readEndpoints(await answer.text());
}
