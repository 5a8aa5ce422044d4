import type { ClientErrorDetails, ErrorKind, Fault } from "./types.js";

/** Why a call failed: `code` is for programs, `message` a sentence in English. */
export class ClientError extends Error implements ClientErrorDetails {
  readonly kind: ErrorKind;
  readonly code: string;
  readonly fault: Fault;
  readonly detail: string;
  readonly names: string[];
  readonly problem: string | null;
  readonly retryAfterS: number | null;

  constructor(details: ClientErrorDetails) {
    super(details.detail);
    this.name = "ClientError";
    this.kind = details.kind;
    this.code = details.code;
    this.fault = details.fault;
    this.detail = details.detail;
    this.names = details.names;
    this.problem = details.problem;
    this.retryAfterS = details.retryAfterS;
  }

  /** The worker itself has failed. */
  static ofWorker(detail: string): ClientError {
    return new ClientError({
      kind: "local",
      code: "stopped",
      fault: "local",
      detail,
      names: [],
      problem: null,
      retryAfterS: null,
    });
  }
}
