// What `vite.config.ts` puts under this name: the built SDK, or the fake of the tests.
declare module "mimimi-web-sdk" {
  import type { ClientErrorDetails, Sdk } from "../../web-sdk/src/types.ts";
  export function startSdk(): Promise<Sdk>;
  export class ClientError extends Error implements ClientErrorDetails {
    readonly kind: ClientErrorDetails["kind"];
    readonly code: string;
    readonly fault: ClientErrorDetails["fault"];
    readonly detail: string;
    readonly names: string[];
    readonly problem: string | null;
    readonly retryAfterS: number | null;
  }
}
