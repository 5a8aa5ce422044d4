// Serves the built files, with the headers that they need.

import { createReadStream, statSync } from "node:fs";
import { type Server, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { headers } from "./headers.ts";

const TYPES: Readonly<Record<string, string>> = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

export interface Site {
  readonly url: string;
  /** The services' addresses, when they are known. */
  endpoints: string;
  /** Account tokens to hand out. */
  tokens: string[];
  close(): Promise<void>;
}

export async function serve(directory: string, port = 0): Promise<Site> {
  const known = { endpoints: "{}", tokens: [] as string[] };
  const server: Server = createServer((request, response) => {
    const path = normalize(new URL(request.url ?? "/", "http://localhost").pathname);
    const endpoints: unknown = JSON.parse(known.endpoints);
    const all = headers(endpoints as Parameters<typeof headers>[0]);
    for (const [name, value] of Object.entries(all)) response.setHeader(name, value);
    response.setHeader("Cache-Control", "no-cache");
    if (path === "/account" && request.method === "POST") {
      // A page of another origin gets nothing: browsers say whose page asks.
      const token = request.headers["sec-fetch-site"] === "same-origin" ? known.tokens.shift() : undefined;
      response.writeHead(token === undefined ? 404 : 200, { "Content-Type": "text/plain" }).end(token);
      return;
    }
    if (path === "/endpoints.json") {
      response.writeHead(200, { "Content-Type": "application/json" }).end(known.endpoints);
      return;
    }
    const file = join(directory, path === "/" ? "index.html" : path);
    const type = TYPES[extname(file)];
    if (type === undefined || !statSync(file, { throwIfNoEntry: false })?.isFile()) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { "Content-Type": type });
    createReadStream(file).pipe(response);
  });
  await new Promise<void>((done, failed) => {
    server.once("error", failed);
    server.listen(port, "127.0.0.1", done);
  });
  const { port: taken } = server.address() as AddressInfo;
  return Object.assign(known, {
    url: `http://127.0.0.1:${taken}`,
    close: () =>
      new Promise<void>((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  });
}
