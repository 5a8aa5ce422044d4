import "./style.css";
import { render } from "preact";
import { fetchEndpoints } from "./endpoints.ts";
import { showTheme } from "./model/kept.ts";
import { Messenger } from "./model/messenger.ts";
import { startSdk } from "./sdk.ts";
import { allowOwnWorkers } from "./trusted.ts";
import { App } from "./views/app.tsx";

async function begin(place: HTMLElement): Promise<void> {
  showTheme();
  allowOwnWorkers();
  const endpoints = await fetchEndpoints();
  const model = new Messenger(await startSdk());
  const looked = (): void => void model.looked(document.visibilityState === "visible");
  const connected = (): void => {
    model.online.value = navigator.onLine;
  };
  document.addEventListener("visibilitychange", looked);
  addEventListener("online", connected);
  addEventListener("offline", connected);
  connected();
  render(<App model={model} endpoints={endpoints} />, place);
  await model.start();
  // Asked for late, so that nobody is asked who only looks.
  if (model.phase.value === "ready") await navigator.storage?.persist?.();
}

const place = document.getElementById("app");
if (place !== null) {
  begin(place).catch(() => {
    place.textContent = "The messenger cannot be started: the service's addresses are not there.";
  });
}
