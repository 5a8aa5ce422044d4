// The headers that this messenger is served with: of `web/serve.ts`, and for operators to copy.

interface Addresses {
  relay: string;
  ohttp_keys: string;
  ohttp_key_mirrors?: string[];
  issuer: string;
  push?: { relay: string; ohttp_keys: string; ohttp_key_mirrors?: string[] };
}

/** Whom the page may talk to: the services that `endpoints.json` names, and nobody else. */
export function origins(endpoints: Addresses): string[] {
  const { relay, ohttp_keys, ohttp_key_mirrors = [], issuer, push } = endpoints;
  const ofPush = push === undefined ? [] : [push.relay, push.ohttp_keys, ...(push.ohttp_key_mirrors ?? [])];
  const all = [relay, ohttp_keys, ...ohttp_key_mirrors, issuer, ...ofPush];
  return [...new Set(all.map((url) => new URL(url).origin))].sort();
}

export function headers(endpoints: Addresses): Record<string, string> {
  const policy = [
    "default-src 'none'",
    "script-src 'self' 'wasm-unsafe-eval'",
    "worker-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob:",
    ["connect-src 'self'", ...origins(endpoints)].join(" "),
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types default",
  ];
  return {
    "Content-Security-Policy": policy.join("; "),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
  };
}
