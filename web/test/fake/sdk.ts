// Stands in for the built SDK in `vite build --mode fake`. The world lives as long as the tab, so
// that a reload finds it. Tests reach it as `window.world`.

import { FakeError, FakeSdk, type Home, World } from "./world.ts";

export { FakeError as ClientError };

const KEY = "fake-world";

function bytesAsText(_: string, value: unknown): unknown {
  return value instanceof Uint8Array ? { bytes: [...value] } : value;
}
function textAsBytes(_: string, value: unknown): unknown {
  if (typeof value === "object" && value !== null && "bytes" in value && Array.isArray(value.bytes)) {
    return Uint8Array.from(value.bytes as number[]);
  }
  return value;
}

export async function startSdk(): Promise<FakeSdk> {
  const world = new World(Date.now() - 3_600_000);
  const homes: Record<string, Home> = {};
  const kept = sessionStorage.getItem(KEY);
  if (kept !== null) {
    const { homes: ofBefore, ...rest } = JSON.parse(kept, textAsBytes);
    Object.assign(world, rest);
    Object.assign(homes, ofBefore);
  }
  const keep = (): void => {
    const { wakers: _wakers, changed: _changed, files: _files, ...rest } = world;
    sessionStorage.setItem(KEY, JSON.stringify({ ...rest, homes }, bytesAsText));
  };
  world.changed = keep;
  Object.assign(globalThis, { world });
  return new FakeSdk(world, homes, keep);
}
