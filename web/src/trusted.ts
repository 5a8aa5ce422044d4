// Trusted Types: the page makes no HTML and no script, and loads workers from its own place only.

interface Factory {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): unknown;
}

export function allowOwnWorkers(): void {
  const factory = (globalThis as { trustedTypes?: Factory }).trustedTypes;
  factory?.createPolicy("default", {
    createScriptURL(url) {
      const asked = new URL(url, document.baseURI);
      if (asked.origin === location.origin) return asked.href;
      throw new TypeError("a script from elsewhere");
    },
  });
}
