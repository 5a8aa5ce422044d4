/** What page and worker say to each other. */

import type { ClientErrorDetails } from "./types.js";

/** A value as JSON has it. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** What the page asks for. */
export type Order =
  | { do: "create"; home: string; endpoints: string; accountToken: string; options: Json }
  | { do: "open"; home: string; options: Json }
  | { do: "restore"; home: string; backup: Uint8Array; key: Json; options: Json }
  | { do: "newRecoveryKey" }
  | { do: "call"; client: number; call: { [key: string]: Json } }
  | { do: "backup"; client: number; key: Json }
  | { do: "stop"; client: number }
  | { do: "stream"; client: number; stream: number }
  | { do: "next"; stream: number; after: number }
  | { do: "endStream"; stream: number };

/** An order with the number that its answer has. */
export type Request = { id: number; order: Order };

/** What the worker says. */
export type Answer =
  | { id: number; ok: Json | Uint8Array }
  | { id: number; error: ClientErrorDetails }
  /** The order with this number waits longer than usual. */
  | { waits: number; reason: string; soFarMs: number };
