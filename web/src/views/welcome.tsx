import { useState } from "preact/hooks";
import type { Endpoints, Messenger } from "../model/messenger.ts";
import { wordsFor } from "../text/errors.ts";
import { Field, Icon, Secret } from "./parts.tsx";

type Way = "new" | "link" | "restore";

/** The token of the operator's account system: fetched where the operator's page gives one. */
async function accountToken(endpoints: Endpoints, typed: string): Promise<string> {
  if (endpoints.accounts === null) return typed.trim();
  const answer = await fetch(endpoints.accounts, { method: "POST", credentials: "same-origin" });
  if (!answer.ok) throw new Error("no account");
  return (await answer.text()).trim();
}

export function Welcome({ model, endpoints }: { model: Messenger; endpoints: Endpoints }) {
  const [way, setWay] = useState<Way>("new");
  const [name, setName] = useState("");
  const [token, setToken] = useState("");
  const [code, setCode] = useState<{ code: string; number: string } | null>(null);
  const [number, setNumber] = useState("");
  const [backup, setBackup] = useState<File | null>(null);
  const [busy, setBusy] = useState(false);
  const [wrong, setWrong] = useState<string | null>(null);
  const exists = model.phase.value === "naming";
  const run = async (what: () => Promise<void>): Promise<void> => {
    setBusy(true);
    setWrong(null);
    try {
      await what();
    } catch (error) {
      setWrong(wordsFor(error));
    } finally {
      setBusy(false);
    }
  };
  const begin = async (): Promise<void> => {
    if (way === "restore") {
      if (backup !== null) await model.restore(new Uint8Array(await backup.arrayBuffer()), name.trim());
    } else if (way === "new") {
      const handle = name.trim().toLowerCase();
      if (exists) await model.registerHandle(handle);
      else await model.create(handle, endpoints, await accountToken(endpoints, token));
    } else if (code === null) {
      const given = exists ? "" : await accountToken(endpoints, token);
      setCode(await model.linkCode(name.trim(), endpoints, given));
    } else {
      await model.completeLink(number.trim());
    }
  };
  const choose = (next: Way): void => {
    setWay(next);
    setName("");
    setWrong(null);
  };
  const asksToken = endpoints.accounts === null && !exists && way !== "restore" && code === null;
  const titles = { new: "Choose a name", link: "Link this browser", restore: "Restore a backup" };
  return (
    <main class="welcome">
      <div class="welcome-card">
        <div class="brand"><img src="./favicon.svg" alt="" width="44" height="44" /><span>mimimi</span></div>
        <h1>{titles[way]}</h1>
        {way === "new" && <p class="lead">Messages are encrypted in this browser. The service learns neither what you say nor whom you say it to.</p>}
        <form onSubmit={(event) => { event.preventDefault(); void run(begin); }}>
          {way === "new" && <Field label="Name" value={name} onInput={(it) => setName(it.currentTarget.value)} required autofocus maxLength={64} autocapitalize="none" hint="Others find you by it. Tell it only to those who may." />}
          {way === "link" && code === null && <Field label="What is this device called?" value={name} onInput={(it) => setName(it.currentTarget.value)} required maxLength={64} />}
          {asksToken && <Field label="Account token" value={token} onInput={(it) => setToken(it.currentTarget.value)} required hint="Your operator gave it to you with your account." />}
          {way === "link" && code !== null && (
            <>
              <p>On your other device open <b>Devices</b>, choose <b>Link a device</b>, and enter both:</p>
              <Secret label="Link code" text={code.code} />
              <Secret label="Number" text={code.number} />
              <Field label="Number that the other device shows then" value={number} onInput={(it) => setNumber(it.currentTarget.value)} required />
            </>
          )}
          {way === "restore" && (
            <>
              <label class="field"><span>Backup file</span><input type="file" required onChange={(it) => setBackup(it.currentTarget.files?.[0] ?? null)} /></label>
              <Field label="Recovery key" value={name} onInput={(it) => setName(it.currentTarget.value)} required />
            </>
          )}
          {wrong !== null && <p class="wrong" role="alert">{wrong}</p>}
          <button class="button primary wide" disabled={busy} aria-busy={busy}>
            {busy ? "One moment…" : way === "new" ? "Start" : way === "restore" ? "Restore" : code === null ? "Show the code" : "Link"}
          </button>
          {busy && <p class="hint" role="status">Keys and tokens are being made. This can take some seconds.</p>}
        </form>
        <nav class="other-ways" aria-label="Other ways to begin">
          {way !== "new" && <button type="button" class="link" onClick={() => choose("new")}>Begin with a new name</button>}
          {way !== "link" && <button type="button" class="link" onClick={() => choose("link")}>Link to a device that I have</button>}
          {way !== "restore" && !exists && <button type="button" class="link" onClick={() => choose("restore")}>Restore a backup</button>}
        </nav>
      </div>
      <p class="foot"><Icon name="lock" /> No phone number, no e-mail address, no trackers.</p>
    </main>
  );
}
