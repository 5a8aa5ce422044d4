/** The SDK in the browser: `startSdk` starts it in a worker of its own. */

import { type Ask, RemoteClient, inJson } from "./client.js";
import { ClientError } from "./errors.js";
import type { Answer, Json, Order, Request } from "./protocol.js";
import type { BackupKey, Client, Options, Sdk, WaitListener } from "./types.js";

export * from "./types.js";
export { ClientError } from "./errors.js";

type Waiting = {
  done: (answer: Json | Uint8Array) => void;
  failed: (error: ClientError) => void;
};

class WorkerSdk implements Sdk {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Map<number, WaitListener>();
  #last = 0;

  constructor(worker: Worker) {
    this.#worker = worker;
    worker.onmessage = ({ data }: MessageEvent<Answer>): void => this.#hear(data);
    worker.onerror = (event): void => this.#end(event.message || "the worker cannot be loaded");
  }

  #hear(answer: Answer): void {
    if ("waits" in answer) {
      this.#listeners.get(answer.waits)?.(answer.reason, answer.soFarMs);
      return;
    }
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if ("ok" in answer) {
      waiting?.done(answer.ok);
    } else {
      waiting?.failed(new ClientError(answer.error));
    }
  }

  #end(why: string): void {
    for (const waiting of this.#waiting.values()) {
      waiting.failed(ClientError.ofWorker(why));
    }
    this.#waiting.clear();
  }

  readonly #ask: Ask = (order) => this.#order(order, null);

  #order(order: Order, listener: WaitListener | null): Promise<Json | Uint8Array> {
    this.#last += 1;
    const id = this.#last;
    if (listener !== null) {
      this.#listeners.set(id, listener);
    }
    return new Promise((done, failed) => {
      this.#waiting.set(id, { done, failed });
      this.#worker.postMessage({ id, order } satisfies Request);
    });
  }

  async #client(order: Order, options: Options): Promise<Client> {
    const client = await this.#order(order, options.progress ?? null);
    return new RemoteClient(this.#ask, client as number);
  }

  createClient(
    home: string,
    endpoints: string,
    accountToken: string,
    options: Options = {},
  ): Promise<Client> {
    const order: Order = { do: "create", home, endpoints, accountToken, options: inJson(options) };
    return this.#client(order, options);
  }

  openClient(home: string, options: Options = {}): Promise<Client> {
    return this.#client({ do: "open", home, options: inJson(options) }, options);
  }

  restoreClient(
    home: string,
    backup: Uint8Array,
    key: BackupKey,
    options: Options = {},
  ): Promise<Client> {
    const given = { key: inJson(key), options: inJson(options) };
    return this.#client({ do: "restore", home, backup, ...given }, options);
  }

  async newRecoveryKey(): Promise<string> {
    return (await this.#order({ do: "newRecoveryKey" }, null)) as string;
  }

  terminate(): void {
    this.#worker.terminate();
    this.#end("the worker was ended");
  }
}

/** Starts the SDK; of `worker`, if the application loads `worker.js` itself. */
export function startSdk(worker?: Worker): Sdk {
  const own = (): Worker => new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  return new WorkerSdk(worker ?? own());
}
