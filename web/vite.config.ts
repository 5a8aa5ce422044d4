import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** `vite build --mode fake` puts the SDK of `test/fake/` in the place of the real one. */
export default defineConfig(({ mode }) => ({
  base: "./",
  root: here("."),
  resolve: {
    alias: {
      "mimimi-web-sdk": here(mode === "fake" ? "test/fake/sdk.ts" : "../web-sdk/dist/index.js"),
    },
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  worker: { format: "es" },
  build: {
    target: "es2023",
    outDir: here(mode === "fake" ? "dist-fake" : "dist"),
    emptyOutDir: true,
    // A policy without `data:` would refuse what is inlined.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
}));
