import init, {
  create,
  type Handle,
  newRecoveryKey,
  open,
  restore,
  type Stream,
} from "./wasm/mimimi_web_sdk.js";
import type { Answer, Json, Order, Request } from "./protocol.js";
import type { ClientErrorDetails } from "./types.js";

/**
 * The worker that the SDK runs in: files of the origin can be used without waiting only in one.
 */
const scope = self as unknown as {
  postMessage(answer: Answer): void;
  onmessage: ((event: MessageEvent<Request>) => void) | null;
};
const loaded = init();
const clients = new Map<number, Handle>();
const streams = new Map<number, Stream>();
let last = 0;

function say(answer: Answer): void {
  scope.postMessage(answer);
}

function parsed(text: string): Json {
  return JSON.parse(text) as Json;
}

function kept(client: Handle): Json {
  last += 1;
  clients.set(last, client);
  return last;
}

function client(number: number): Handle {
  const found = clients.get(number);
  if (found === undefined) {
    throw JSON.stringify(failed("this client has ended"));
  }
  return found;
}

function failed(detail: string): ClientErrorDetails {
  return {
    kind: "local",
    code: "stopped",
    fault: "local",
    detail,
    names: [],
    problem: null,
    retryAfterS: null,
  };
}

function details(thrown: unknown): ClientErrorDetails {
  if (typeof thrown === "string") {
    return JSON.parse(thrown) as ClientErrorDetails;
  }
  return failed(`the SDK has failed: ${String(thrown)}`);
}

async function carryOut(id: number, order: Order): Promise<Json | Uint8Array> {
  await loaded;
  const waits = (reason: string, soFarMs: number): void => say({ waits: id, reason, soFarMs });
  const text = JSON.stringify;
  switch (order.do) {
    case "create": {
      const { home, endpoints, accountToken, options } = order;
      return kept(await create(home, endpoints, accountToken, text(options), waits));
    }
    case "open":
      return kept(await open(order.home, text(order.options), waits));
    case "restore": {
      const { home, backup, key, options } = order;
      return kept(await restore(home, backup, text(key), text(options), waits));
    }
    case "newRecoveryKey":
      return newRecoveryKey();
    case "call":
      return parsed(await client(order.client).call(text(order.call)));
    case "backup":
      return await client(order.client).backup(text(order.key));
    case "stop": {
      const ended = clients.get(order.client);
      clients.delete(order.client);
      if (ended !== undefined) {
        await ended.stop();
        ended.free();
      }
      return null;
    }
    case "stream":
      streams.set(order.stream, client(order.client).eventStream());
      return null;
    case "next": {
      const event = await streams.get(order.stream)?.next(order.after);
      return event === undefined ? null : parsed(event);
    }
    case "endStream":
      streams.get(order.stream)?.end();
      streams.delete(order.stream);
      return null;
  }
}

scope.onmessage = ({ data }: MessageEvent<Request>): void => {
  carryOut(data.id, data.order).then(
    (ok) => say({ id: data.id, ok }),
    (thrown: unknown) => say({ id: data.id, error: details(thrown) }),
  );
};
