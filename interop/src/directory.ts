// The service's public directory (protocol.md, *Transport*): how it is read, bounded, and compared.

import { equal, fromBase64url } from "./bytes.ts";
import { TokenChallenge } from "@cloudflare/privacypass-ts";

/** The members that this client uses. */
export interface Directory {
  domain: string;
  wire_versions: number[];
  ciphersuites: number[];
  external_sender_key: string;
  journal_signing_key: string;
  issuer: {
    name: string;
    challenge: string;
    token_key_ids: string[];
    token_keys_not_before_s: number[];
  };
  prices: Record<string, number>;
  store: { id: string; generation: number };
}

/** A view of keys or directory that is not that of the others, or that nobody may have. */
export class Mismatch extends Error {}

const HIGHEST_PRICE = 16;
const MOST_TOKEN_KEYS = 4;

/** One view, as far as it can be judged alone. */
export function checkDirectory(
  shown: Directory,
  configured: { issuerName: string; tokenOrigin: string; ciphersuite: number },
): void {
  const refuse = (why: string) => {
    throw new Mismatch(`the directory: ${why}`);
  };
  if (!shown.wire_versions.includes(1)) refuse("does not speak version 1");
  if (!shown.ciphersuites.includes(configured.ciphersuite)) refuse("lacks our ciphersuite");
  // How many sets a token buys is no price.
  const { key_package_sets_per_token: _, ...prices } = shown.prices;
  if (Object.values(prices).some((price) => price > HIGHEST_PRICE)) {
    refuse("has a price that nobody pays");
  }
  if (shown.issuer.token_key_ids.length > MOST_TOKEN_KEYS) refuse("has too many token keys");
  // With a redemption context of somebody else's making all tokens of a client would be known.
  const { issuerName, tokenOrigin } = configured;
  const challenge = new TokenChallenge(0x0002, issuerName, new Uint8Array(), [tokenOrigin]);
  if (!equal(challenge.serialize(), fromBase64url(shown.issuer.challenge))) {
    refuse("asks for tokens of another challenge");
  }
}

/**
 * What all views show. A member that is not the same in all is a lie of somebody; of the token keys
 * those count that are in all views.
 */
export function agreeOn(views: readonly [Directory, ...Directory[]]): Directory {
  const [first, ...others] = views;
  const members = [
    "domain",
    "external_sender_key",
    "journal_signing_key",
    "prices",
    "store",
  ] as const;
  for (const view of others) {
    for (const member of members) {
      if (JSON.stringify(view[member]) !== JSON.stringify(first[member])) {
        throw new Mismatch(`two views of the directory differ in ${member}`);
      }
    }
  }
  const inAll = (id: string) => views.every((view) => view.issuer.token_key_ids.includes(id));
  const kept = first.issuer.token_key_ids.map((id, at) => ({
    id,
    from: first.issuer.token_keys_not_before_s[at] ?? 0,
  }));
  const agreed = kept.filter(({ id }) => inAll(id));
  return {
    ...first,
    issuer: {
      ...first.issuer,
      token_key_ids: agreed.map(({ id }) => id),
      token_keys_not_before_s: agreed.map(({ from }) => from),
    },
  };
}
