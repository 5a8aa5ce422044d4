// Tokens from the issuer (protocol.md, *Tokens*): publicly verifiable Privacy Pass tokens (RFC
// 9578, type 0x0002), in batches (draft-ietf-privacypass-batched-tokens §6).

import { genericBatched, publicVerif, TokenChallenge } from "@cloudflare/privacypass-ts";
import { base64url, fromBase64url, toBuffer } from "./bytes.ts";
import { Mismatch, type Directory } from "./directory.ts";
import { sha256 } from "./kdf.ts";
import { type Stack } from "./stack.ts";

interface IssuerDirectory {
  "issuer-request-uri": string;
  "token-keys": { "token-type": number; "token-key": string; "not-before"?: number }[];
  "generic-batch-size"?: number;
}

const TOKEN_TYPE = 0x0002;
const MOST_KEYS = 4;

/** Tokens that are there before they are needed. No action causes a filling. */
export class Wallet {
  readonly #tokens: Uint8Array[] = [];

  get size(): number {
    return this.#tokens.length;
  }

  /** So many tokens; each is in one request. */
  take(count: number): Uint8Array[] {
    if (count > this.#tokens.length) throw new Error("the wallet is empty");
    return this.#tokens.splice(0, count);
  }

  /** One batch, under the account and the key that service and issuer show everybody. */
  async fill(stack: Stack, account: string, announced: Directory): Promise<void> {
    const shown = await issuerDirectory(stack);
    const key = keyInUse(shown, announced);
    const challenge = TokenChallenge.deserialize(fromBase64url(announced.issuer.challenge));
    const count = shown["generic-batch-size"] ?? 0;
    if (count < 2) throw new Error("this issuer has no batches");
    const clients = Array.from(
      { length: count },
      () => new publicVerif.Client(publicVerif.BlindRSAMode.PSS),
    );
    const requests = await Promise.all(
      clients.map(
        async (client) =>
          new genericBatched.TokenRequest(await client.createTokenRequest(challenge, key)),
      ),
    );
    const batch = new genericBatched.Client();
    const answer = await fetch(new URL(shown["issuer-request-uri"], stack.issuer), {
      method: "POST",
      headers: {
        "content-type": "application/private-token-generic-batch-request",
        accept: "application/private-token-generic-batch-response",
        authorization: `Bearer ${account}`,
      },
      body: toBuffer(batch.createTokenRequest(requests).serialize()),
    });
    const body = new Uint8Array(await answer.arrayBuffer());
    if (answer.status !== 200)
      throw new Error(`the issuer refuses: ${new TextDecoder().decode(body)}`);
    const responses = batch.deserializeTokenResponse(body).tokenResponses;
    if (responses.length !== count) throw new Error("a batch is answered as a whole");
    for (const [at, client] of clients.entries()) {
      const response = responses[at]?.tokenResponse;
      if (!(response instanceof publicVerif.TokenResponse)) throw new Error("a token is missing");
      // The library verifies the signature.
      this.#tokens.push((await client.finalize(response)).serialize());
    }
  }
}

async function issuerDirectory(stack: Stack): Promise<IssuerDirectory> {
  const url = new URL("/.well-known/private-token-issuer-directory", stack.issuer);
  const answer = await fetch(url, { redirect: "error" });
  return JSON.parse(await answer.text());
}

/** The newest key whose time has come, of those that the service announces; the issuer shows it. */
function keyInUse(shown: IssuerDirectory, announced: Directory): Uint8Array {
  const keys = shown["token-keys"].filter((key) => key["token-type"] === TOKEN_TYPE);
  if (keys.length > MOST_KEYS) throw new Mismatch("the issuer shows too many keys");
  const now = Date.now() / 1000;
  const { token_key_ids: ids, token_keys_not_before_s: times } = announced.issuer;
  const [newest] = ids
    .map((id, at) => ({ id, from: times[at] ?? 0 }))
    .filter(({ from }) => from <= now)
    .sort((one, other) => other.from - one.from);
  const key = keys
    .map((one) => fromBase64url(one["token-key"]))
    .find(
      (one) => newest !== undefined && base64url(sha256(one)) === newest.id.replaceAll("=", ""),
    );
  if (key === undefined) throw new Mismatch("the issuer does not show the key that is in use");
  return key;
}
