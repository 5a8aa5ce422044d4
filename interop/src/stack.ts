// Where the services are: the file that `make stack` writes, and that operators hand out.

import { readFileSync } from "node:fs";

export interface Stack {
  relay: string;
  ds: string;
  issuer: string;
  issuer_name: string;
  token_origin: string;
  ohttp_keys: string;
  ohttp_key_mirrors: string[];
}

export function readStack(path: string): Stack & { account_tokens: string[] } {
  return JSON.parse(readFileSync(path, "utf8"));
}
